//! What is said to a client outside of its responses' window: it is bounded, so that one that does not read does not make
//! the daemon grow.

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
    let mut most = before;
    wait_until("80 MB of hints are said", || {
        most = most.max(daemon.rss());
        (daemon.get("/floods").text() == "floods=1").then_some(())
    });
    most = most.max(daemon.rss());
    assert!(most.saturating_sub(before) < 4 * MIB, "{} KiB more", (most - before) / 1024);
    // What it gets is whole.
    let hint = client.read_exact(4000).unwrap();
    assert!(hint.starts_with(b"HTTP/1.1 103 Early Hints\r\nlink: </xxx"), "{:?}", &hint[..40]);
}

/// Sends requests one behind the other until the daemon takes no more of them, and says by how much it has grown.
fn flood(daemon: &Daemon, client: &mut Client, requests: &[u8]) -> u64 {
    let before = daemon.rss();
    let begun = Instant::now();
    client.write_timeout(Duration::from_millis(500));
    let mut most = before;
    while client.try_send(requests).is_ok() {
        most = most.max(daemon.rss());
        assert!(
            begun.elapsed() < DEADLINE,
            "it takes all that it is sent: {} KiB more",
            (most - before) / 1024
        );
    }
    most.max(daemon.rss()).saturating_sub(before)
}

#[test]
fn a_client_that_never_reads_is_no_longer_read() {
    let body = pattern(1000);
    let expects = "POST /body HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n";
    let kinds: [(&str, Vec<u8>); 4] = [
        ("answers", b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
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
        assert_eq!(daemon.get("/hello").status, 200, "others go on");
    }
}

#[test]
fn pings_of_a_client_that_does_not_read_are_dropped() {
    let daemon = Rgun::fake_asgi().set("websocket.ping_interval", "off").start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    let ping = frame(FIN | PING, &[b'p'; 125]);
    // More than the kernel holds of the responses.
    let many = ping.repeat(1000);
    for _ in 0..200 {
        socket.send_raw(&many);
    }
    daemon.get("/hello");
    let before = daemon.rss();
    // One at a time, so that each finds the connection's task idle.
    let mut other = daemon.connect();
    for _ in 0..20_000 {
        socket.send_raw(&ping);
        other.get("/hello");
    }
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < MIB, "{} KiB more", grown / 1024);
    // When it reads again, it goes on; the last ping is one of those that were answered.
    let last = frame(FIN | PING, b"last");
    socket.send_raw(&last);
    let is_last = |frame: &Frame| frame.first == FIN | PONG && frame.payload == b"last";
    assert!((0..400_000).any(|_| is_last(&socket.read_frame())), "the last ping has an answer");
    socket.send(FIN | BINARY, b"message");
    assert_eq!(socket.read_message(), (BINARY, b"message".to_vec()));
}
