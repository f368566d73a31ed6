//! Uploads to ASGI workers: bodies in parts, sent only as far as the application receives them.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Daemon, Rgun, pattern, wait_until};

const MIB: u64 = 1024 * 1024;

/// Returns the head of an upload of known length.
pub(crate) fn post(path: &str, len: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n")
}

fn chunked(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
}

#[test]
fn small_body_travels_in_the_frame_and_others_in_parts() {
    let daemon = Rgun::fake_asgi().start_ready();
    for (len, how) in [(1, "inline"), (65_536, "inline"), (65_537, "parts"), (200_000, "parts")] {
        let mut client = daemon.connect();
        let body = pattern(len);
        let response = client.send(post("/body", len)).send(&body).response();
        assert_eq!((response.field("x-body"), response.body == body), (how, true), "{len}");
        // The same with unknown length, on the same connection.
        client.send(chunked("/body"));
        for chunk in body.chunks(50_000) {
            client.send(format!("{:x}\r\n", chunk.len())).send(chunk).send("\r\n");
        }
        let response = client.send("0\r\n\r\n").response();
        assert_eq!((response.field("x-body"), response.body == body), ("parts", true), "{len}");
    }
}

#[test]
fn upload_waits_for_the_first_worker_to_boot() {
    for (interface, len) in [("asgi", 200_000), ("", 200_000)] {
        let (rgun, gate) = Rgun::fake().gated();
        let daemon = rgun.start();
        let mut client = daemon.connect();
        let body = pattern(len);
        let sender = thread::spawn(move || {
            client.send(post("/body", len)).send(&body);
            (client, body)
        });
        // The daemon reads connections in order: once a later client is answered, the daemon has
        // read from this client too.
        assert_eq!(daemon.connect().send("nonsense\r\n\r\n").response().status, 400);
        gate.open(interface);
        let (mut client, body) = sender.join().expect("the upload is sent");
        let response = client.response();
        assert_eq!(response.status, 200, "{interface}: {}", response.text());
        if interface == "asgi" {
            assert_eq!((response.field("x-body"), response.body == body), ("parts", true));
        }
    }
}

#[test]
fn boot_does_not_count_towards_the_deadline_of_an_upload() {
    let (rgun, gate) = Rgun::fake().set("timeouts.request", "1500ms").gated();
    let daemon = rgun.start();
    let mut client = daemon.connect();
    client.send(post("/slow/900", 200_000)).send(pattern(200_000));
    assert_eq!(daemon.connect().send("nonsense\r\n\r\n").response().status, 400);
    // Together longer than timeouts.request.
    thread::sleep(Duration::from_secs(1));
    gate.open("asgi");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "slow"));
}

#[test]
fn upload_without_a_worker_is_refused_by_the_queue_timeout() {
    let (rgun, gate) = Rgun::fake().set("timeouts.queue", "500ms").gated();
    let daemon = rgun.start();
    let mut client = daemon.connect();
    let begun = Instant::now();
    let response = client.send(post("/body", 200_000)).send(pattern(200_000)).response();
    assert_eq!(response.status, 503, "{}", response.text());
    assert!(begun.elapsed() >= Duration::from_millis(500));
    // The body was read, so the connection serves the next request.
    gate.open("asgi");
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn header_fields_of_a_body_in_parts_are_unchanged() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    let response = client.send(chunked("/echo")).send("3\r\nabc\r\n0\r\n\r\n").response();
    assert_eq!(response.value("transfer-encoding"), "chunked");
    assert_eq!(response.value("body"), u64::MAX.to_string(), "unknown length");
    assert!(!response.text().contains("content-length"), "{}", response.text());
}

/// Sends a body from another thread. Returns the text of the response, and the growth of the
/// daemon's memory in bytes.
fn upload_and_measure(daemon: &Daemon, path: &str, len: usize) -> (String, u64) {
    let before = daemon.rss();
    let mut client = daemon.connect();
    client.send(post(path, len));
    let sender = thread::spawn(move || {
        for block in pattern(len).chunks(251 * 100) {
            client.send(block);
        }
        client
    });
    let mut max_rss = before;
    while !sender.is_finished() {
        max_rss = max_rss.max(daemon.rss());
        thread::sleep(Duration::from_millis(5));
    }
    let mut client = sender.join().expect("the upload is sent");
    let response = client.response();
    max_rss = max_rss.max(daemon.rss());
    assert_eq!(client.get("/hello").status, 200, "the connection stays open");
    (response.text(), max_rss.saturating_sub(before))
}

#[test]
fn slow_application_holds_back_its_upload() {
    let daemon = Rgun::fake_asgi().start_ready();
    let (report, grown) = upload_and_measure(&daemon, "/receive/5", 20_000_000);
    assert_eq!(report, "length=20000000 right=true over=false");
    assert!(grown < 4 * MIB, "{} KiB more", grown / 1024);
}

#[test]
fn many_uploads_at_once_arrive_whole() {
    let daemon = Rgun::fake_asgi().start_ready();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let (report, _) = upload_and_measure(&daemon, "/receive", 3_000_000);
                assert_eq!(report, "length=3000000 right=true over=false");
            });
        }
    });
    assert!(daemon.log.count("ERROR") == 0, "{}", daemon.log.text());
}

#[test]
fn application_may_respond_while_it_reads_the_body() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    assert_eq!(client.send(post("/answer-first", 200_000)).response_head().status, 200);
    client.send(pattern(200_000));
    assert_eq!(client.chunked_text(), "first length=200000 right=true over=false");
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn unread_body_does_not_delay_the_next_request() {
    let daemon = Rgun::fake_asgi().start_ready();
    for len in [66_000, 500_000] {
        let mut client = daemon.connect();
        client.send(post("/hello", len)).send(pattern(len)).send_get("/status/204");
        assert_eq!(client.response().text(), "Hello, world!", "{len}");
        assert_eq!(client.response().status, 204, "{len}");
        // The rest of the body follows the response.
        client.send(post("/receive-some/10", len)).send(pattern(100));
        assert!(client.response().text().starts_with("took="), "{len}");
        client.send(&pattern(len)[100..]);
        assert_eq!(client.get("/status/204").status, 204, "{len}");
    }
}

#[test]
fn unread_body_without_end_closes_the_connection() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    client.send(post("/hello", 100_000_000)).send(pattern(100_000));
    assert_eq!(client.response().text(), "Hello, world!");
    let begun = Instant::now();
    client.assert_closed();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // A fast upload is not read to its end either.
    let mut client = daemon.connect();
    client.send(post("/hello", 1_000_000_000));
    let block = pattern(100_000);
    wait_until("the upload is aborted", || client.try_send(&block).err().map(|_| ()));
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn continue_is_sent_when_the_application_reads_the_body() {
    let daemon = Rgun::fake_asgi().start_ready();
    let expecting = |path: &str, len: usize| {
        let head = post(path, len);
        format!("{}Expect: 100-continue\r\n\r\n", &head[..head.len() - 2])
    };
    for len in [1000, 100_000] {
        let mut client = daemon.connect();
        client.send(expecting("/receive", len));
        assert_eq!(client.read_exact(25).unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
        let response = client.send(pattern(len)).response();
        assert_eq!(response.text(), format!("length={len} right=true over=false"));
        assert_eq!(client.get("/hello").status, 200);
        // Without a read there is no 100 Continue.
        let response = client.send(expecting("/status/403", len)).response();
        assert_eq!((response.status, response.interim.len()), (403, 0));
        client.assert_closed();
    }
}

#[test]
fn body_over_the_limit_is_413_at_its_head_or_within() {
    let daemon = Rgun::fake_asgi().set("limits.body", "1MiB").start_ready();
    let mut client = daemon.connect();
    client.send(post("/receive", 2_000_000)).response().assert_error(413);
    client.assert_closed();
    daemon.wait_for_disconnects(0, 0);
    let mut client = daemon.connect();
    client.send(chunked("/receive"));
    let block = pattern(50_000);
    let response = loop {
        let sent = client.try_send("c350\r\n").and_then(|()| client.try_send(&block));
        if sent.and_then(|()| client.try_send("\r\n")).is_err() || !client.receives_nothing() {
            break client.response();
        }
    };
    response.assert_error(413);
    daemon.wait_for_disconnects(1, 0);
}

#[test]
fn stalled_body_is_408_only_while_it_is_awaited() {
    let daemon = Rgun::fake_asgi().set("timeouts.body", "1s").start_ready();
    let mut client = daemon.connect();
    client.send(post("/receive", 100_000)).send(pattern(1000)).response().assert_error(408);
    daemon.wait_for_disconnects(1, 0);
    // A pause of the application is not a pause of the client.
    let mut client = daemon.connect();
    let response = client.send(post("/receive/1500", 66_000)).send(pattern(66_000)).response();
    assert_eq!(response.text(), "length=66000 right=true over=false");
}

#[test]
fn slow_upload_does_not_count_towards_the_deadline() {
    let daemon = Rgun::fake_asgi().flags(["--timeout", "600ms"]).start_ready();
    let mut client = daemon.connect();
    client.send(post("/receive", 100_000));
    for block in pattern(100_000).chunks(12_550) {
        thread::sleep(Duration::from_millis(200));
        client.send(block);
    }
    assert_eq!(client.response().text(), "length=100000 right=true over=false");
}

#[test]
fn bytes_after_a_body_are_the_next_request() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    let mut bytes = post("/receive", 70_000).into_bytes();
    bytes.extend(pattern(70_000));
    bytes.extend(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
    bytes.extend(b"more than was announced\r\n\r\n");
    client.send(bytes);
    assert_eq!(client.response().text(), "length=70000 right=true over=false");
    assert_eq!(client.response().text(), "Hello, world!");
    assert_eq!(client.response().status, 400);
}

#[test]
fn malformed_body_is_400_and_a_disconnect() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    client.send(chunked("/receive")).send("5\r\nhello\r\nno number\r\n").response().assert_error(400);
    daemon.wait_for_disconnects(1, 0);
    daemon.connect().send(chunked("/body").replace("chunked", "gzip, chunked")).response().assert_error(501);
}

#[test]
fn worker_death_within_an_upload_is_502() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    client.send(post("/wait-receiving", 1_000_000)).send(pattern(1000));
    daemon.wait_for_disconnects(0, 0);
    assert!(
        daemon.connect().send_get("/die").try_response("GET").is_ok_and(|response| response.status == 502)
    );
    client.response().assert_error(502);
    wait_until("another worker serves", || (daemon.get("/hello").status == 200).then_some(()));
}

#[test]
fn decreasing_window_breaches_the_contract() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    client.send(post("/breach-window", 100_000)).response().assert_error(502);
    daemon.log.wait_for("did not increase the credit");
    wait_until("another worker serves", || (daemon.get("/hello").status == 200).then_some(()));
}

#[test]
fn stopping_daemon_waits_for_an_upload() {
    let mut daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    client.send(post("/receive", 100_000)).send(pattern(50_200));
    daemon.wait_for_disconnects(0, 0);
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.log.wait_for("stopping");
    client.send(&pattern(100_000)[50_200..]);
    assert_eq!(client.response().text(), "length=100000 right=true over=false");
    daemon.stop();
}
