//! Streamed responses: the head does not wait for the body, and each part restarts the deadline.

use std::time::{Duration, Instant};

use crate::support::{Rgun, wait_until};

#[test]
fn head_is_sent_before_the_body_starts() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    let head = client.send_get("/events").response_head();
    assert_eq!((head.status, head.field("transfer-encoding")), (200, "chunked"));
    assert!(client.receives_nothing());
    assert_eq!(daemon.get("/release").status, 200);
    assert_eq!(client.chunked_text(), "event");
    assert_eq!(client.get("/hello").status, 200, "the connection stays open");
}

#[test]
fn head_request_to_a_stream_ends_with_a_disconnect() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    client.send("HEAD /silent-events HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response_to("HEAD").status, 200);
    daemon.wait_for_disconnects(1, 0);
    assert_eq!(client.get("/hello").status, 200, "the connection stays open");
}

#[test]
fn silent_stream_over_its_deadline_is_aborted() {
    let daemon = Rgun::fake_asgi().flags(["--timeout", "400ms"]).start_ready();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    let begun = Instant::now();
    assert_eq!(client.send_get("/silent-events").response_head().status, 200);
    // The connection ends without a body.
    client.assert_closed();
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    assert!(daemon.log.wait_for("GET /silent-events aborted within the body").contains("ERROR"));
    daemon.wait_for_disconnects(0, 1);
    assert_eq!(daemon.log.count("events 504"), 0, "{}", daemon.log.text());
    assert_eq!(daemon.worker(), worker);
}

#[test]
fn each_part_of_a_stream_restarts_the_deadline() {
    for rgun in [Rgun::fake(), Rgun::fake_asgi()] {
        let daemon = rgun.flags(["--timeout", "1s"]).start_ready();
        let worker = daemon.worker();
        let mut client = daemon.connect();
        let begun = Instant::now();
        client.send_get("/stream/8/200").response_head();
        let response = client.chunked_text();
        assert!((0..8).map(|n| format!("part {n}")).eq(response.lines()), "{response}");
        assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(daemon.worker(), worker);
        assert_eq!(daemon.log.count("deadline"), 0, "{}", daemon.log.text());
    }
}

#[test]
fn head_of_a_stream_restarts_the_deadline() {
    let daemon = Rgun::fake_asgi().flags(["--timeout", "1s"]).start_ready();
    let mut client = daemon.connect();
    let begun = Instant::now();
    assert_eq!(client.send_get("/events/600").response_head().status, 200);
    daemon.get("/release");
    assert_eq!(client.chunked_text(), "event");
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn stream_paused_over_its_deadline_is_aborted() {
    for rgun in [Rgun::fake(), Rgun::fake_asgi()] {
        let daemon = rgun.flags(["--timeout", "400ms"]).start_ready();
        let mut client = daemon.connect();
        let error = client.send_get("/stream/2/60000").try_response("GET");
        assert!(error.is_err(), "{error:?}");
        daemon.log.wait_for("GET /stream/2/60000 aborted within the body");
        assert_eq!(daemon.log.count("60000 504"), 0, "{}", daemon.log.text());
    }
}

/// `/endless` sends parts until it is closed, which other paths report.
const ENDLESS: &str = r#"
import os, time
closed = []

class Endless:
    def __iter__(self):
        while True:
            time.sleep(0.01)
            yield b"part"

    def close(self):
        closed.append("closed")

def application(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/endless":
        return Endless()
    return [f"pid={os.getpid()} {closed}".encode()]
"#;

#[test]
fn departed_client_allocates_no_shared_memory() {
    let rgun = Rgun::python(ENDLESS).flags(["--workers", "1", "--threads", "2"]);
    // As by default. The map has a slot for each of these.
    let rgun = rgun.set("workers.concurrency", "1000").set("websocket.max_connections", "10000");
    let daemon = rgun.start_ready();
    let mut client = daemon.connect();
    client.send_get("/endless").response_head();
    let before = shared_memory(daemon.worker());
    drop(client);
    wait_until("the stream is closed", || daemon.get("/").text().contains("closed").then_some(()));
    let grown = shared_memory(daemon.worker()) - before;
    assert!(grown < 1024, "{grown} KiB more");
}

/// Returns the KiB of a worker's channel that are allocated.
fn shared_memory(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the worker runs");
    let map = &maps[maps.find("rgun-channel").expect("the worker has a channel")..];
    let rss = map.lines().find_map(|line| line.strip_prefix("Rss:")).expect("smaps(5)");
    rss.trim().trim_end_matches(" kB").parse().expect("a number")
}
