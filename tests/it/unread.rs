//! Output that the window of response bodies does not count (interim responses, heads, trailers,
//! pongs) stays bounded while a client does not read.

use std::time::{Duration, Instant};

use crate::support::websocket::{BINARY, FIN, Frame, PING, PONG, WebSocket, frame};
use crate::support::{Client, DEADLINE, Daemon, Rgun, pattern, wait_until};

const MIB: u64 = 1024 * 1024;

#[test]
fn early_hints_are_dropped_while_a_client_does_not_read() {
    let daemon = Rgun::fake_asgi().start_ready();
    daemon.get("/hints/0");
    let before = daemon.rss();
    let mut client = daemon.connect();
    client.send_get("/hint-flood/20000");
    let mut max_rss = before;
    wait_until("80 MB of hints are sent", || {
        max_rss = max_rss.max(daemon.rss());
        (daemon.get("/floods").text() == "floods=1").then_some(())
    });
    max_rss = max_rss.max(daemon.rss());
    assert!(max_rss.saturating_sub(before) < 4 * MIB, "{} KiB more", (max_rss - before) / 1024);
    // The hints that were sent are complete.
    let hint = client.read_exact(4000).unwrap();
    assert!(hint.starts_with(b"HTTP/1.1 103 Early Hints\r\nlink: </xxx"), "{:?}", &hint[..40]);
}

/// Sends requests until the daemon no longer reads. Returns the growth of the daemon's memory in
/// bytes.
fn flood(daemon: &Daemon, client: &mut Client, requests: &[u8]) -> u64 {
    let before = daemon.rss();
    let begun = Instant::now();
    client.write_timeout(Duration::from_millis(500));
    let mut max_rss = before;
    while client.try_send(requests).is_ok() {
        max_rss = max_rss.max(daemon.rss());
        assert!(
            begun.elapsed() < DEADLINE,
            "the daemon reads without end: {} KiB more",
            (max_rss - before) / 1024
        );
    }
    max_rss.max(daemon.rss()).saturating_sub(before)
}

#[test]
fn daemon_stops_reading_from_a_client_that_never_reads() {
    let body = pattern(1000);
    let expects = "POST /body HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n";
    let kinds: [(&str, Vec<u8>); 4] = [
        ("responses", b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        ("100 Continue", [expects.as_bytes(), &body].concat()),
        ("trailers", b"GET /trailers HTTP/1.1\r\nHost: test\r\nTE: trailers\r\n\r\n".to_vec()),
        ("hints", b"GET /hints/0 HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
    ];
    for (name, request) in kinds {
        let daemon = Rgun::fake_asgi().start_ready();
        let mut client = daemon.connect();
        assert_eq!(client.send(&request).response_head().status, 200, "{name}");
        drop(client);
        let mut client = daemon.connect();
        let grown = flood(&daemon, &mut client, &request.repeat(100));
        assert!(grown < 4 * MIB, "{name}: {} KiB more", grown / 1024);
        assert_eq!(daemon.get("/hello").status, 200, "other clients are served");
    }
}

#[test]
fn pings_of_a_client_that_does_not_read_are_dropped() {
    let daemon = Rgun::fake_asgi().set("websocket.ping_interval", "off").start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    let ping = frame(FIN | PING, &[b'p'; 125]);
    // More pongs than the socket's buffers hold.
    let many = ping.repeat(1000);
    for _ in 0..200 {
        socket.send_raw(&many);
    }
    daemon.get("/hello");
    let before = daemon.rss();
    // One ping at a time, so that each wakes the connection's idle task.
    let mut other = daemon.connect();
    for _ in 0..20_000 {
        socket.send_raw(&ping);
        other.get("/hello");
    }
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < MIB, "{} KiB more", grown / 1024);
    // Once the client reads again, the connection continues; the last ping is always answered.
    let last = frame(FIN | PING, b"last");
    socket.send_raw(&last);
    let is_last = |frame: &Frame| frame.first == FIN | PONG && frame.payload == b"last";
    assert!((0..400_000).any(|_| is_last(&socket.read_frame())), "the last ping has an answer");
    socket.send(FIN | BINARY, b"message");
    assert_eq!(socket.read_message(), (BINARY, b"message".to_vec()));
}
