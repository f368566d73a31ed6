//! WebSockets: handshake, backpressure, pings, close, reload and stop, as seen by client,
//! application and log. Tests of RFC 6455 are in `websocket_protocol.rs`.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::websocket::{BINARY, CLOSE, FIN, PING, PONG, TEXT, WebSocket, frame, handshake};
use crate::support::{Rgun, pattern, wait_until};

// The handshake.

#[test]
fn handshake_reaches_the_application_unchanged() {
    let daemon = Rgun::fake_asgi().start_ready();
    let fields = "Sec-WebSocket-Protocol: chat, superchat\r\nX-Own: yes\r\nOrigin: http://test\r\n";
    let mut socket = WebSocket::open_with(&daemon, "/scope/a%20b?room=1", fields);
    let (opcode, scope) = socket.read_message();
    let scope = String::from_utf8(scope).expect("text");
    assert_eq!(opcode, TEXT);
    for line in [
        "websocket: true",
        "GET /scope/a%20b 11",
        "query: room=1",
        "https: false",
        "body: 0",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: chat, superchat",
        "x-own: yes",
        "origin: http://test",
    ] {
        assert!(scope.lines().any(|other| other == line), "{line}: {scope}");
    }
    assert!(scope.contains(socket.response.field("x-request-id")), "{scope}");
    assert!(socket.response.has("date"));
}

#[test]
fn application_chooses_subprotocol_and_fields() {
    let daemon = Rgun::fake_asgi().start_ready();
    let offer = "Sec-WebSocket-Protocol: chat\r\n";
    // As in uvicorn, the application may choose a subprotocol that the client did not offer.
    for chosen in ["chat", "other"] {
        let mut socket = WebSocket::open_with(&daemon, &format!("/subprotocol/{chosen}"), offer);
        assert_eq!(socket.response.field("sec-websocket-protocol"), chosen);
        assert_eq!(socket.response.field("x-own"), "yes");
        socket.send_text("on").assert_text("on");
    }
}

#[test]
fn malformed_handshake_is_refused() {
    let daemon = Rgun::fake_asgi().set("log.access", "true").start_ready();
    let without = |name: &str| {
        let lines = handshake("/echo", "");
        let kept: Vec<_> = lines.split("\r\n").filter(|line| !line.starts_with(name)).collect();
        daemon.connect().send(kept.join("\r\n")).response()
    };
    without("Sec-WebSocket-Key").assert_error(400);
    let response = without("Sec-WebSocket-Version");
    assert_eq!(response.assert_error(426).field("sec-websocket-version"), "13");
    assert_eq!(response.field("upgrade"), "websocket");
    let old = handshake("/echo", "").replace("Version: 13", "Version: 8");
    assert_eq!(daemon.connect().send(old).response().assert_error(426).field("sec-websocket-version"), "13");
    let bad = handshake("/echo", "").replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=");
    daemon.connect().send(bad).response().assert_error(400);
    daemon.log.wait_for("GET /echo 426");
    daemon.log.wait_for("GET /echo 400");
}

#[test]
fn requests_that_are_not_handshakes_are_plain_http() {
    let daemon = Rgun::fake_asgi().start_ready();
    for change in
        [("Upgrade: websocket\r\n", ""), ("Connection: Upgrade\r\n", ""), ("GET", "POST"), ("1.1", "1.0")]
    {
        let request = handshake("/hello", "").replace(change.0, change.1);
        assert_eq!(daemon.connect().send(request).response().text(), "Hello, world!", "{change:?}");
    }
    // A WSGI application responds to a handshake as to any request.
    let daemon = Rgun::fake().start_ready();
    assert_eq!(daemon.connect().send(handshake("/hello", "")).response().text(), "Hello, world!");
}

#[test]
fn denied_handshake_keeps_the_connection() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    let response = client.send(handshake("/deny", "")).response();
    assert_eq!((response.status, response.text().as_str()), (401, "not you"));
    let response = client.send(handshake("/refuse", "")).response();
    assert_eq!((response.status, response.body.len()), (403, 0));
    client.send(handshake("/raise-first", "")).response().assert_error(500);
    daemon.log.wait_for("Fake: boom");
    assert_eq!(client.get("/hello").text(), "Hello, world!");
}

#[test]
fn frames_sent_with_the_handshake_are_kept() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    let early =
        [handshake("/echo", "").into_bytes(), frame(FIN | TEXT, b"early"), frame(TEXT, b"ha")].concat();
    let response = client.send(early).response_head();
    assert_eq!(response.status, 101);
    let mut socket = WebSocket { client, response };
    socket.assert_text("early");
    socket.send(FIN, "lf");
    assert_eq!(socket.read_message(), (TEXT, b"half".to_vec()));
}

#[test]
fn handshake_may_follow_another_request() {
    for keepalive in ["0s", "75s"] {
        let daemon = Rgun::fake_asgi().set("timeouts.keepalive", keepalive).start_ready();
        let mut client = daemon.connect();
        if keepalive != "0s" {
            assert_eq!(client.get("/hello").status, 200);
        }
        let response = client.send(handshake("/echo", "")).response_head();
        assert_eq!((response.status, response.field("connection")), (101, "Upgrade"), "{keepalive}");
        let mut socket = WebSocket { client, response };
        socket.send_text("on").assert_text("on");
    }
}

#[test]
fn open_websockets_take_no_request_slots() {
    let daemon = Rgun::fake_asgi().set("workers.concurrency", "2").start_ready();
    let mut sockets: Vec<_> = (0..20).map(|_| WebSocket::open(&daemon, "/echo")).collect();
    for _ in 0..5 {
        assert_eq!(daemon.get("/hello").status, 200);
    }
    for (n, socket) in sockets.iter_mut().enumerate() {
        socket.send_text(&format!("socket {n}")).assert_text(&format!("socket {n}"));
    }
}

#[test]
fn websockets_have_no_deadline() {
    let daemon = Rgun::fake_asgi().set("timeouts.request", "300ms").start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    let mut other = daemon.connect();
    // An HTTP request exceeds the deadline meanwhile.
    other.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n").response().assert_error(504);
    assert_eq!(daemon.get("/slow/200").status, 200);
    socket.send_text("on").assert_text("on");
}

// Backpressure.

#[test]
fn daemon_reads_no_faster_than_the_application_receives() {
    let daemon = Rgun::fake_asgi().start_ready();
    let before = daemon.rss();
    let mut socket = WebSocket::open(&daemon, "/slow/1");
    let (count, len) = (1500, 20_000);
    let sender = thread::spawn(move || {
        for _ in 0..count {
            socket.send(FIN | BINARY, pattern(len));
        }
        socket.send_text("end");
        socket
    });
    let mut max_rss = before;
    while !sender.is_finished() {
        max_rss = max_rss.max(daemon.rss());
        thread::sleep(Duration::from_millis(5));
    }
    sender
        .join()
        .expect("the upload is sent")
        .assert_text(&format!("messages={count} bytes={}", count * len));
    let grown = max_rss.saturating_sub(before);
    assert!(grown < 4 << 20, "{} KiB more", grown >> 10);
}

#[test]
fn client_that_does_not_read_holds_its_application_back() {
    let daemon = Rgun::fake_asgi().start_ready();
    let before = daemon.rss();
    let mut slow = WebSocket::open(&daemon, "/send/2000/50000");
    let mut other = WebSocket::open(&daemon, "/echo");
    for n in 0..500 {
        other.send_text(&format!("{n}")).assert_text(&format!("{n}"));
    }
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 4 << 20, "{} KiB more", grown >> 10);
    let expected = pattern(50_000);
    for _ in 0..2000 {
        assert!(slow.read_message() == (BINARY, expected.clone()));
    }
    assert_eq!(slow.read_close().0, 1000);
}

#[test]
fn client_that_only_sends_is_disconnected() {
    let daemon = Rgun::fake_asgi().set("timeouts.body", "1s").start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    let begun = Instant::now();
    let bytes = frame(FIN | BINARY, &pattern(60_000));
    // The client sends until its unread echoes block the connection, and the daemon aborts it.
    wait_until("the daemon closes the connection", || socket.client.try_send(&bytes).is_err().then_some(()));
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    daemon.wait_for_close("/echo 1006");
}

#[test]
fn small_and_empty_messages_are_bounded_both_ways() {
    let daemon = Rgun::fake_asgi().start_ready();
    let before = daemon.rss();
    let mut socket = WebSocket::open(&daemon, "/send/100000/0");
    assert_eq!(daemon.get("/hello").status, 200);
    for _ in 0..100_000 {
        assert_eq!(socket.read_message(), (BINARY, Vec::new()));
    }
    let mut socket = WebSocket::open(&daemon, "/slow/0");
    let empty: Vec<u8> = frame(FIN | BINARY, b"").repeat(100_000);
    socket.send_raw(empty).send_text("end").assert_text("messages=100000 bytes=0");
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 4 << 20, "{} KiB more", grown >> 10);
}

// Pings.

#[test]
fn client_that_answers_pings_stays_open() {
    let daemon = Rgun::fake_asgi()
        .set("websocket.ping_interval", "300ms")
        .set("websocket.ping_timeout", "2s")
        .start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    for _ in 0..3 {
        let ping = socket.read_frame();
        assert_eq!(ping.first, FIN | PING);
        socket.send(FIN | PONG, ping.payload);
    }
    socket.send_text("on").assert_text("on");
}

#[test]
fn client_that_ignores_pings_is_closed() {
    let daemon = Rgun::fake_asgi()
        .set("websocket.ping_interval", "300ms")
        .set("websocket.ping_timeout", "500ms")
        .start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    assert_eq!(socket.read_frame().first, FIN | PING);
    assert_eq!(socket.read_close(), (1011, "keepalive ping timeout".to_owned()));
    daemon.wait_for_close("/echo 1006");
}

#[test]
fn client_whose_pongs_wait_unread_is_not_closed() {
    let daemon = Rgun::fake_asgi()
        .set("websocket.ping_interval", "200ms")
        .set("websocket.ping_timeout", "200ms")
        .start_ready();
    let mut socket = WebSocket::open(&daemon, "/slow/1500");
    // More than the window, so that the client's pongs wait behind the messages.
    for _ in 0..20 {
        socket.send(FIN | BINARY, pattern(20_000));
    }
    // Twice the time that the application needs for a message.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let frame = socket.read_frame();
        assert_eq!(frame.first, FIN | PING, "{frame:?}");
        socket.send(FIN | PONG, "");
    }
}

#[test]
fn closed_client_is_noticed_while_it_is_not_read() {
    let daemon = Rgun::fake_asgi().over_tcp().set("websocket.ping_interval", "200ms").start_ready();
    WebSocket::open(&daemon, "/never-reads").send(FIN | BINARY, "unread");
    daemon.wait_for_close("/never-reads 1006");
}

#[test]
fn without_a_ping_interval_no_pings_are_sent() {
    let daemon = Rgun::fake_asgi().flags(["--ws-ping-interval", "0"]).start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    assert_eq!(daemon.get("/slow/1200").status, 200);
    assert!(socket.client.receives_nothing());
}

// Close.

#[test]
fn application_closes_with_code_and_reason() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/close/4321/enough");
    assert_eq!(socket.read_close(), (4321, "enough".to_owned()));
    socket.send_close(4321, "").assert_disconnected();
    let mut socket = WebSocket::open(&daemon, "/return");
    assert_eq!(socket.read_close().0, 1000);
    socket.send_close(1000, "").assert_disconnected();
    let mut socket = WebSocket::open(&daemon, "/close-within/1000");
    assert_eq!(socket.read_frame().first, TEXT);
    assert_eq!(socket.read_close().0, 1000);
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn messages_after_the_servers_close_are_dropped() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/return");
    assert_eq!(socket.read_close().0, 1000);
    for _ in 0..100 {
        socket.send(FIN | BINARY, pattern(30_000));
    }
    socket.send(FIN | PING, "").send_close(1000, "").assert_disconnected();
}

#[test]
fn unanswered_close_times_out_after_ten_seconds() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/return");
    assert_eq!(socket.read_close().0, 1000);
    let begun = Instant::now();
    socket.assert_disconnected();
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(9500) && waited < Duration::from_secs(12), "{waited:?}");
}

#[test]
fn invalid_close_code_becomes_1011() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/breach-code");
    assert_eq!(socket.read_close().0, 1011);
}

#[test]
fn application_gets_the_clients_close_code() {
    let daemon = Rgun::fake_asgi().start_ready();
    let open = || WebSocket::open(&daemon, "/echo");
    open().send_close(1001, "going away").read_close();
    daemon.wait_for_close("/echo 1001 going away");
    open().send(FIN | CLOSE, "").read_close();
    daemon.wait_for_close("/echo 1005");
    drop(open());
    daemon.wait_for_close("/echo 1006");
    // The same while the application does not receive.
    drop(WebSocket::open(&daemon, "/stops-reading"));
    daemon.wait_for_close("/stops-reading 1006");
    open().send(FIN | TEXT, b"\xff").assert_failed(1007);
    daemon.wait_for_close("/echo 1007 text that is not UTF-8");
    open().send(FIN | 3, "").assert_failed(1002);
    daemon.wait_for_close("/echo 1002 unknown opcode");
}

#[test]
fn message_over_the_limit_closes_with_1009() {
    let daemon = Rgun::fake_asgi().flags(["--ws-max-size", "1000"]).start_ready();
    WebSocket::open(&daemon, "/echo").send(FIN | TEXT, "x".repeat(1001)).assert_failed(1009);
    daemon.wait_for_close("/echo 1009 message too big");
}

#[test]
fn exception_closes_with_1011_and_is_logged_once() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/raise");
    socket.send_text("go").assert_failed(1011);
    let id = socket.response.field("x-request-id").to_owned();
    let entry = daemon.log.wait_for("Fake: boom");
    assert!(entry.contains("/raise 101"), "{entry} {id}");
    assert_eq!(daemon.get("/hello").status, 200);
    daemon.log.wait_for_count(1, "/raise 101");
    assert_eq!(daemon.log.count("/raise 101"), 1, "{}", daemon.log.text());
}

#[test]
fn dead_worker_closes_its_websockets_with_1011() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut other = WebSocket::open(&daemon, "/echo");
    let mut socket = WebSocket::open(&daemon, "/die");
    socket.send_text("go").assert_failed(1011);
    other.assert_failed(1011);
    daemon.log.wait_for("/die 101: WebSocket aborted: the worker died");
    wait_until("another worker serves", || (daemon.get("/hello").status == 200).then_some(()));
}

#[test]
fn handshake_and_close_are_in_the_journal() {
    let daemon = Rgun::fake_asgi().set("log.access", "true").start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    daemon.log.wait_for("GET /echo 101");
    socket.send_text("four").assert_text("four");
    socket.send(TEXT, "two").send(FIN, " parts").read_message();
    socket.send_close(1001, "").read_close();
    let entry = daemon.log.wait_for("closed with 1001");
    assert!(entry.contains("2 messages (13 bytes) in, 2 (13 bytes) out"), "{entry}");
    daemon.log.wait_for_count(2, "GET /echo 101");
    assert_eq!(daemon.log.count("GET /echo 101"), 2, "{}", daemon.log.text());
}

// Stop and reload.

#[test]
fn stop_closes_with_1012_and_awaits_the_replies() {
    let mut daemon = Rgun::fake_asgi().start_ready();
    let mut sockets: Vec<_> = (0..5).map(|_| WebSocket::open(&daemon, "/echo")).collect();
    sockets[0].send_text("on").assert_text("on");
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    for socket in &mut sockets {
        assert_eq!(socket.read_close(), (1012, "Service Restart".to_owned()));
        socket.send_close(1012, "").assert_disconnected();
    }
    assert!(daemon.wait_exit().success());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn stop_spreads_the_closes_of_many_websockets_over_time() {
    let mut daemon = Rgun::fake_asgi().start_ready();
    let sockets: Vec<_> = (0..60).map(|_| WebSocket::open(&daemon, "/echo")).collect();
    let begun = Instant::now();
    let readers: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            thread::spawn(move || {
                assert_eq!(socket.read_close().0, 1012);
                let after = begun.elapsed();
                socket.send_close(1012, "").assert_disconnected();
                after
            })
        })
        .collect();
    daemon.signal(Signal::SIGTERM);
    let mut times: Vec<_> =
        readers.into_iter().map(|reader| reader.join().expect("the thread does not panic")).collect();
    times.sort();
    // The WebSockets are closed a few at a time, every 50 ms: on average one in 20 ms.
    let (first, last) = (times[0], times[59]);
    assert!(first < Duration::from_millis(500) && last > Duration::from_secs(1), "{times:?}");
    let mut steps: Vec<_> = times.iter().map(|time| time.as_millis() / 100).collect();
    steps.dedup();
    assert!(steps.len() > 8, "{times:?}");
    assert!(daemon.wait_exit().success());
}

#[test]
fn stop_does_not_wait_for_unanswered_closes() {
    let mut daemon = Rgun::fake_asgi().set("timeouts.drain", "2s").start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(socket.read_close().0, 1012);
    assert!(daemon.wait_exit().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    socket.assert_disconnected();
}

#[test]
fn reload_closes_the_old_generations_websockets() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut old = WebSocket::open(&daemon, "/echo");
    old.send_text("on").assert_text("on");
    let worker = daemon.worker();
    daemon.signal(Signal::SIGHUP);
    assert_eq!(old.read_close(), (1012, "Service Restart".to_owned()));
    old.send_close(1012, "").assert_disconnected();
    assert_ne!(daemon.worker(), worker);
    let mut new = WebSocket::open(&daemon, "/echo");
    new.send_text("on").assert_text("on");
}
