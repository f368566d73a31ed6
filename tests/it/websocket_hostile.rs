//! WebSocket clients that flood, violate the protocol or leave at the wrong moment, and stops of
//! the daemon at such moments.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::websocket::{BINARY, CLOSE, FIN, PING, RSV1, TEXT, WebSocket, frame, handshake};
use crate::support::{Rgun, pattern, wait_until};

#[test]
fn large_messages_sent_with_the_handshake_are_kept() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    // After a large body hyper reads large blocks.
    let body = pattern(16 << 20);
    client.send(format!("POST /receive HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    assert_eq!(client.send(body).response().status, 200);
    // Handshake and frames all arrive before the daemon reads.
    daemon.signal(Signal::SIGSTOP);
    let message = pattern(50_000);
    let mut early = handshake("/echo", "").into_bytes();
    for _ in 0..3 {
        early.extend(frame(FIN | BINARY, &message));
    }
    client.send(early);
    daemon.signal(Signal::SIGCONT);
    let response = client.response_head();
    assert_eq!(response.status, 101);
    let mut socket = WebSocket { client, response };
    for _ in 0..3 {
        assert!(socket.read_message() == (BINARY, message.clone()));
    }
}

#[test]
fn stop_closes_all_websockets_within_timeouts_drain() {
    let mut daemon =
        Rgun::fake_asgi().set("timeouts.drain", "1s").set("websocket.close_window", "10s").start_ready();
    let mut sockets: Vec<_> = (0..60).map(|_| WebSocket::open(&daemon, "/echo")).collect();
    daemon.signal(Signal::SIGTERM);
    for socket in &mut sockets {
        assert_eq!(socket.read_close(), (1012, "Service Restart".to_owned()));
        socket.send_close(1012, "");
    }
    for socket in &mut sockets {
        socket.assert_disconnected();
    }
    assert!(daemon.wait_exit().success());
}

#[test]
fn handshake_waits_for_the_first_worker_to_boot() {
    for interface in ["asgi", ""] {
        let (rgun, gate) = Rgun::fake().gated();
        let daemon = rgun.start();
        let mut client = daemon.connect();
        client.send(handshake("/echo", ""));
        // The daemon reads connections in order: once a later client is answered, the daemon has
        // read from this client too.
        assert_eq!(daemon.connect().send("nonsense\r\n\r\n").response().status, 400);
        gate.open(interface);
        if interface == "asgi" {
            let response = client.response_head();
            assert_eq!(response.status, 101);
            WebSocket { client, response }.send_text("on").assert_text("on");
        } else {
            // A WSGI application responds as to any request.
            let response = client.response();
            assert_eq!((response.status, response.value("upgrade").as_str()), (200, "websocket"));
        }
    }
}

#[test]
fn client_that_floods_pings_is_disconnected() {
    let daemon = Rgun::fake_asgi().set("timeouts.body", "1s").start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    let before = daemon.rss();
    let pings = frame(FIN | PING, &[b'p'; 125]).repeat(100);
    let (begun, mut max_rss) = (Instant::now(), before);
    wait_until("the daemon closes the connection", || {
        let is_closed = socket.client.try_send(&pings).is_err();
        max_rss = max_rss.max(daemon.rss());
        is_closed.then_some(())
    });
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    let grown = max_rss.saturating_sub(before);
    assert!(grown < 2 << 20, "{} KiB more", grown >> 10);
    daemon.wait_for_close("/echo 1006");
}

#[test]
fn endless_empty_fragments_delay_no_other_client() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo?whole");
    let before = daemon.rss();
    let nothing = frame(0, b"").repeat(1000);
    socket.send(TEXT, "a");
    for _ in 0..500 {
        socket.send_raw(&nothing);
    }
    assert_eq!(daemon.get("/hello").status, 200);
    socket.send(FIN, "b").assert_text("ab");
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 2 << 20, "{} KiB more", grown >> 10);
}

#[test]
fn client_that_leaves_before_the_accept_frees_its_slot() {
    let daemon = Rgun::fake_asgi().set("workers.concurrency", "2").start_ready();
    for path in ["/undecided", "/late"] {
        // More clients than slots.
        let mut clients: Vec<_> = (0..5).map(|_| daemon.connect()).collect();
        for client in &mut clients {
            client.send(handshake(path, ""));
        }
        wait_until("no slot is free", || {
            let mut client = daemon.connect();
            client.send_get("/hello").receives_nothing_for(Duration::from_millis(100)).then_some(())
        });
        drop(clients);
        daemon.wait_for_close(&format!("{path} 1006"));
        assert_eq!(daemon.get("/hello").status, 200);
    }
    WebSocket::open(&daemon, "/echo").send_text("on").assert_text("on");
}

#[test]
fn violating_client_is_closed_without_a_reset() {
    let daemon = Rgun::fake_asgi().over_tcp().start_ready();
    let before = daemon.descriptors().len();
    let mut socket = WebSocket::open(&daemon, "/echo");
    socket.send(FIN | 3, "");
    wait_until("the connection is closed", || (daemon.descriptors().len() <= before).then_some(()));
    // After a reset, sending would fail, and the client could lose the close frame.
    assert!(socket.client.try_send("x").is_ok());
    assert_eq!(socket.read_close().0, 1002);
}

#[test]
fn stop_does_not_wait_for_an_undecided_handshake() {
    let mut daemon = Rgun::fake_asgi().set("timeouts.drain", "1s").start_ready();
    let mut client = daemon.connect();
    client.send(handshake("/undecided", ""));
    assert_eq!(daemon.get("/hello").status, 200);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait_exit().success());
    assert!(client.try_response("GET").is_err());
}

#[test]
fn late_accept_does_not_delay_a_stop() {
    let mut daemon =
        Rgun::fake_asgi().set("timeouts.drain", "5s").set("timeouts.request", "1s").start_ready();
    let mut client = daemon.connect();
    // The application accepts when it is cancelled at its deadline, after the 504.
    client.send(handshake("/late", ""));
    assert_eq!(daemon.get("/hello").status, 200);
    daemon.signal(Signal::SIGTERM);
    client.response().assert_error(504);
    assert!(daemon.wait_exit().success());
}

#[test]
fn blocked_event_loop_closes_its_websockets_with_1012() {
    let daemon = Rgun::fake_asgi().set("timeouts.drain", "2s").start_ready();
    let mut sockets: Vec<_> = (0..20).map(|_| WebSocket::open(&daemon, "/echo")).collect();
    let worker = daemon.worker();
    let mut blocked = daemon.connect();
    blocked.send_get("/block/60000");
    // Frames wait for the blocked loop.
    wait_until("the event loop is blocked", || {
        let mut client = daemon.connect();
        client.send_get("/hello");
        client.receives_nothing_for(Duration::from_millis(100)).then_some(())
    });
    daemon.signal(Signal::SIGHUP);
    for socket in &mut sockets {
        assert_eq!(socket.read_close(), (1012, "Service Restart".to_owned()));
        socket.send_close(1012, "").assert_disconnected();
    }
    let mut new = WebSocket::open(&daemon, "/echo");
    new.send_text("on").assert_text("on");
    assert_ne!(daemon.worker(), worker);
}

/// Hundreds of WebSockets end in random ways; no connection and no slot stays occupied.
#[test]
fn random_endings_free_all_connections_and_slots() {
    let mut daemon = Rgun::fake_asgi()
        .set("workers.concurrency", "2")
        .set("websocket.max_connections", "50")
        .over_tcp()
        .start_ready();
    daemon.get("/hello");
    WebSocket::open(&daemon, "/echo").send_text("on").assert_text("on");
    let before = daemon.descriptors().len();
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut open = Vec::new();
    for _ in 0..600 {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let paths = ["/echo", "/return", "/close/4000/x", "/raise", "/deny", "/send/20/20000", "/once"];
        // Bytes sent before the response would hide the end of the connection.
        let path = if dice.is_multiple_of(11) { "/late" } else { paths[(dice >> 8) as usize % paths.len()] };
        let mut client = daemon.connect();
        client.send(handshake(path, "Sec-WebSocket-Extensions: permessage-deflate\r\n"));
        let last: &[u8] = match dice % 11 {
            0 => &[],
            1 => &frame(FIN | CLOSE, b"\x03\xe8"),
            2 => &frame(FIN | CLOSE, b"\x03"),
            3 => &frame(FIN | TEXT, b"\xff"),
            4 => &frame(TEXT, b"half"),
            5 => &frame(FIN | RSV1 | TEXT, b"\xff\xff\xff\xff"),
            6 => &frame(FIN | BINARY, &pattern(50_000)),
            7 => &frame(FIN | TEXT, b"hi")[..3],
            8 => &[frame(FIN | TEXT, b"hi"), frame(FIN | CLOSE, b"")].concat(),
            9 => &frame(FIN | PING, b"hi"),
            _ => b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n",
        };
        // Some connections have ended by now.
        drop(client.try_send(last));
        match dice >> 32 & 3 {
            0 => drop(client),
            1 => {
                client.shutdown_write();
                open.push(client);
            }
            _ if path == "/late" => drop(client),
            _ => open.push(client),
        }
        if open.len() > 40 {
            open.swap_remove((dice >> 40) as usize % 40);
        }
    }
    drop(open);
    wait_until("no connection is left", || (daemon.descriptors().len() <= before).then_some(()));
    // Both slots are free.
    let mut clients: Vec<_> = (0..2).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/slow/300");
    }
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    let mut sockets: Vec<_> = (0..50).map(|_| WebSocket::open(&daemon, "/echo")).collect();
    assert_eq!(daemon.get("/hello").status, 200, "WebSockets take no slots");
    for socket in &mut sockets {
        socket.send_text("on").assert_text("on");
    }
    drop(sockets);
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let text = daemon.log.text();
    assert!(!text.contains("panicked") && !text.contains("contract"), "{text}");
}
