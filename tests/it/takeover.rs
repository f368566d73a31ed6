//! Handshakes that a WSGI application answers by itself, on a socket: the bytes that client and
//! application see, and every way in which the connection may end. Real frameworks are in
//! `tests/compat/clients`.

use nix::sys::signal::Signal;

use crate::support::websocket::{CLOSE, FIN, TEXT, WebSocket, frame, handshake};
use crate::support::{Rgun, assert_same_bytes, pattern, wait_until};

#[test]
fn response_101_has_fields_of_application_and_daemon() {
    let daemon = Rgun::fake().set("log.access", "true").start_ready();
    let mut socket = WebSocket::open(&daemon, "/takeover/echo");
    assert_eq!(socket.response.field("x-own"), "yes");
    assert!(socket.response.has("x-request-id") && socket.response.has("date"));
    // The bytes pass unchanged, so the client's mask is still on them.
    let message = frame(FIN | TEXT, b"hello");
    socket.send_raw(&message);
    assert_eq!(socket.client.read_exact(message.len()).unwrap(), message);
    socket.send_close(1001, "bye");
    drop(socket);
    daemon.log.wait_for("GET /takeover/echo 101 closed with 1001");
}

#[test]
fn bytes_sent_with_the_handshake_are_kept() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    let early = pattern(100_000);
    client.send([handshake("/takeover/echo", "").into_bytes(), early.clone()].concat());
    assert_eq!(client.response_head().status, 101);
    assert_eq!(client.read_exact(early.len()).unwrap(), early);
}

#[test]
fn close_right_after_the_101_loses_no_bytes() {
    let daemon = Rgun::fake().start_ready();
    for path in ["/takeover/together", "/takeover/drip"] {
        for _ in 0..20 {
            let mut socket = WebSocket::open(&daemon, path);
            socket.assert_text("hi");
            socket.client.assert_closed();
        }
    }
}

#[test]
fn megabytes_pass_both_ways_at_once() {
    let daemon = Rgun::fake().start_ready();
    let mut socket = WebSocket::open(&daemon, "/takeover/echo");
    // More than all buffers on the way hold, so the client must read while it sends.
    let block = pattern(64 * 1024);
    for _ in 0..128 {
        socket.send_raw(&block);
        assert_same_bytes(&socket.client.read_exact(block.len()).unwrap(), &block);
    }
}

#[test]
fn other_response_on_the_socket_keeps_the_connection() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    let response = client.send(handshake("/takeover/refuse", "")).response();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
    assert_eq!(response.field("x-own"), "yes");
    assert_eq!(client.get("/hello").text(), "Hello, world!");
    let response = client.send(handshake("/takeover/silent", "")).response();
    assert_eq!((response.status, response.text().as_str()), (200, "Hello, world!"));
    assert_eq!(client.get("/hello").text(), "Hello, world!");
}

#[test]
fn invalid_response_on_the_socket_is_a_502() {
    let daemon = Rgun::fake().start_ready();
    for path in ["/takeover/noise", "/takeover/endless"] {
        let mut client = daemon.connect();
        client.send(handshake(path, "")).response().assert_error(502);
        assert_eq!(client.get("/hello").text(), "Hello, world!", "{path}");
        daemon.log.wait_for(&format!("GET {path} 502"));
    }
}

#[test]
fn handshake_while_the_worker_boots_is_a_takeover() {
    let daemon = Rgun::fake().fake_behaviour("slow-app:500").start();
    daemon.log.wait_for("listening on");
    let mut socket = WebSocket::open(&daemon, "/takeover/together");
    socket.assert_text("hi");
}

/// A handshake that a worker does not start is moved to another worker, with another socket.
#[test]
fn handshake_moved_to_another_worker_is_a_takeover() {
    let daemon = Rgun::fake().flags(["--workers", "2"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    daemon.pause_worker();
    // Two at once, so that both workers get one.
    for _ in 0..5 {
        let mut clients = [daemon.connect(), daemon.connect()];
        for client in &mut clients {
            client.send(handshake("/takeover/together", ""));
        }
        for client in &mut clients {
            assert_eq!(client.response_head().status, 101);
            assert_eq!(client.read_exact(4).unwrap(), b"\x81\x02hi");
        }
    }
}

#[test]
fn death_of_the_worker_closes_the_client() {
    let daemon = Rgun::fake().start_ready();
    let mut socket = WebSocket::open(&daemon, "/takeover/die");
    socket.send_text("now");
    socket.client.assert_closed();
    daemon.log.wait_for("GET /takeover/die");
}

#[test]
fn connection_of_a_client_that_does_not_read_is_closed() {
    let daemon = Rgun::fake().set("timeouts.body", "1s").start_ready();
    let note = daemon.scratch().join("note");
    let socket = WebSocket::open(&daemon, &format!("/takeover/flood?{}", note.display()));
    wait_until("the application gets the end", || note.exists().then_some(()));
    drop(socket);
    assert_eq!(daemon.connect().get("/hello").status, 200);
}

#[test]
fn reload_closes_with_1012_between_frames() {
    let daemon = Rgun::fake().set("workers.threads", "3").start_ready();
    let mut idle = WebSocket::open(&daemon, "/takeover/echo");
    let mut busy = WebSocket::open(&daemon, "/takeover/mid-frame");
    busy.assert_text("hi");
    daemon.signal(Signal::SIGHUP);
    let (first, payload) = {
        let frame = idle.try_read_frame().unwrap();
        (frame.first, frame.payload)
    };
    assert_eq!((first, &payload[..2]), (FIN | CLOSE, &1012_u16.to_be_bytes()[..]));
    // The application gets the client's reply. The daemon drops the application's echo of it.
    idle.send_close(1012, "");
    idle.client.assert_closed();
    // A close frame must not be sent within another frame, so the connection stays open until the
    // client closes it.
    assert_eq!(busy.client.read_exact(9).unwrap(), b"\x82\x7e\xff\xffbegun");
    drop(busy);
    daemon.log.wait_for("reloaded");
}

#[test]
fn stop_waits_for_the_close_of_a_takeover() {
    let mut daemon = Rgun::fake().start_ready();
    let mut socket = WebSocket::open(&daemon, "/takeover/echo");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(socket.try_read_frame().unwrap().first, FIN | CLOSE);
    socket.send_close(1012, "");
    drop(socket);
    assert!(daemon.wait_exit().success());
}
