//! ASGI workers as the daemon sees them: disconnects, cancellation, blocked event loops, trailers
//! and early hints.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::asgi_uploads::post;
use crate::support::{Client, DEADLINE, Rgun, assert_same_bytes, pattern, wait_until};

const MIB: u64 = 1024 * 1024;

#[test]
fn application_gets_a_disconnect_for_a_closed_client() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut waiting = daemon.connect();
    waiting.send_get("/wait");
    let mut uploading = daemon.connect();
    uploading.send(post("/receive", 1_000_000)).send(pattern(1000));
    let mut pausing = daemon.connect();
    pausing.send(post("/wait-receiving", 1_000_000)).send(pattern(1000));
    daemon.wait_for_disconnects(0, 0);
    for (number, client) in [(1, waiting), (2, uploading), (3, pausing)] {
        drop(client);
        daemon.wait_for_disconnects(number, 0);
    }
    // There is no disconnect after a complete response.
    drop({
        let mut client = daemon.connect();
        client.get("/hello");
        client
    });
    daemon.wait_for_disconnects(3, 0);
    assert!(daemon.log.count("ERROR") == 0, "{}", daemon.log.text());
}

#[test]
fn client_closed_within_a_stream_is_a_disconnect() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    assert_eq!(client.send_get("/stream/100000000").response_head().status, 200);
    drop(client);
    daemon.wait_for_disconnects(1, 0);
}

#[test]
fn task_over_its_deadline_is_cancelled() {
    let daemon = Rgun::fake_asgi().flags(["--timeout", "400ms"]).start_ready();
    let worker = daemon.worker();
    let begun = Instant::now();
    let response = daemon.get("/wait");
    response.assert_error(504);
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    daemon.wait_for_disconnects(0, 1);
    assert!(daemon.log.wait_for("GET /wait 504").contains("ERROR"));
    // The same for a request whose body has stalled.
    let mut client = daemon.connect();
    client.send(post("/wait-receiving", 100_000)).send(pattern(1000));
    client.response().assert_error(504);
    daemon.wait_for_disconnects(0, 2);
    // Wait longer than the grace period of a task that ignores its cancellation.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.worker(), worker);
    daemon.log.wait_for_count(2, " 504");
    assert_eq!(daemon.log.count(" 504"), 2, "{}", daemon.log.text());
    // Each 504 entry contains the stack of its task; the stack has no entry of its own.
    assert_eq!(daemon.log.count("in worker 0; its task was at:"), 2, "{}", daemon.log.text());
    assert_eq!(daemon.log.count("in wait"), 2, "{}", daemon.log.text());
    assert_eq!(daemon.log.count("is cancelled"), 0, "{}", daemon.log.text());
}

#[test]
fn worker_whose_task_ignores_a_cancel_is_replaced() {
    let daemon = Rgun::fake_asgi().flags(["--timeout", "400ms"]).start_ready();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    client.send_get("/ignore-cancel/60000").response().assert_error(504);
    let answered_at = Instant::now();
    daemon.log.wait_for("worker 0 has a request over its deadline; it is being replaced");
    assert!(answered_at.elapsed() > Duration::from_millis(900), "{:?}", answered_at.elapsed());
    wait_until("another worker serves", || (daemon.worker() != worker).then_some(()));
    daemon.log.wait_for_count(1, " 504");
    assert_eq!(daemon.log.count(" 504"), 1, "{}", daemon.log.text());
}

#[test]
fn blocked_event_loop_is_logged_then_replaced() {
    let daemon = Rgun::fake_asgi().set("timeouts.stall", "500ms").start_ready();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    assert_eq!(client.get("/block/200").status, 200);
    // No other request arrives, so the daemon detects the blocked loop by a ping.
    assert_eq!(client.get("/block/1100").status, 200);
    daemon.log.wait_for("event loop of worker 0 has been blocked");
    assert_eq!(daemon.worker(), worker);
    client.send_get("/block/60000");
    let begun = Instant::now();
    let mut other = daemon.connect();
    other.send_get("/hello");
    daemon.log.wait_for_count(2, "event loop of worker 0 has been blocked");
    daemon.log.wait_for("it is being replaced");
    assert!(begun.elapsed() > Duration::from_millis(950), "{:?}", begun.elapsed());
    assert_eq!(other.response().text(), "Hello, world!", "unclaimed requests are reassigned");
    assert_ne!(daemon.worker(), worker);
}

#[test]
fn idle_event_loop_is_not_blocked() {
    let daemon = Rgun::fake_asgi().set("timeouts.stall", "200ms").start_ready();
    let mut client = daemon.connect();
    assert_eq!(client.get("/slow/1500").text(), "slow");
    assert_eq!(daemon.log.count("has been blocked"), 0, "{}", daemon.log.text());
}

#[test]
fn requests_behind_a_blocked_loop_go_to_other_workers() {
    let daemon = Rgun::fake_asgi().flags(["--workers", "2"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    let mut blocked = daemon.connect();
    blocked.send_get("/block/1500");
    let begun = Instant::now();
    let mut client = daemon.connect();
    for _ in 0..50 {
        assert_eq!(client.get("/hello").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(blocked.receives_nothing());
    assert_eq!(blocked.response().text(), "Hello, world!");
}

#[test]
fn one_worker_holds_a_thousand_exchanges() {
    let daemon =
        Rgun::fake_asgi().set("workers.concurrency", "1001").set("limits.connections", "2000").start_ready();
    let mut clients: Vec<Client> = (0..1000).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/wait");
    }
    daemon.wait_for_disconnects(0, 0);
    let begun = Instant::now();
    let mut one = daemon.connect();
    for _ in 0..200 {
        assert_eq!(one.get("/hello").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?} for 200 requests", begun.elapsed());
    drop(clients);
    daemon.wait_for_disconnects(1000, 0);
    assert!(daemon.log.count("ERROR") == 0, "{}", daemon.log.text());
}

#[test]
fn worker_gets_no_more_requests_than_it_has_slots() {
    let daemon = Rgun::fake_asgi().set("workers.concurrency", "2").flags(["--threads", "8"]).start_ready();
    let mut clients = [daemon.connect(), daemon.connect(), daemon.connect()];
    for client in &mut clients {
        client.send_get("/slow/700");
    }
    let [first, second, third] = &mut clients;
    first.response();
    second.response();
    assert!(third.receives_nothing());
    third.response();
}

#[test]
fn client_that_does_not_read_delays_no_other() {
    let unbuffered = Rgun::fake_asgi().set("limits.response_disk", "0").set("limits.response_memory", "0");
    let daemon = unbuffered.start_ready();
    assert_eq!(daemon.get("/large/3000000").body.len(), 3_000_000);
    let before = daemon.rss();
    let mut client = daemon.connect();
    assert_eq!(client.send_get("/large/64000000").response_head().status, 200);
    for _ in 0..200 {
        assert_eq!(daemon.get("/hello").status, 200, "other clients are served");
    }
    let expected = pattern(64_000_000);
    let mut max_rss = 0;
    for block in expected.chunks(1_000_000) {
        assert_same_bytes(&client.read_exact(block.len()).unwrap(), block);
        max_rss = max_rss.max(daemon.rss());
    }
    assert!(max_rss.saturating_sub(before) < 8 * MIB, "{} KiB more", (max_rss - before) / 1024);
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn file_is_sent_by_its_descriptor() {
    let daemon = Rgun::fake_asgi().start_ready();
    assert!(daemon.get("/file/3000000").body == pattern(3_000_000));
}

#[test]
fn trailers_are_sent_to_clients_that_accept_them() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    client.send("GET /trailers HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: close\r\n\r\n");
    assert!(client.response_head().has("transfer-encoding"));
    let begun = Instant::now();
    while client.read().is_ok() {
        assert!(begun.elapsed() < DEADLINE);
    }
    let text = String::from_utf8_lossy(client.received());
    assert_eq!(text, "D\r\nHello, world!\r\n0\r\nx-sum: 13\r\n\r\n");
    // A client without `TE: trailers` gets none.
    assert_eq!(daemon.get("/trailers").text(), "Hello, world!");
}

#[test]
fn trailers_follow_a_file() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    client.send("GET /file-trailers/10 HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: close\r\n\r\n");
    assert!(client.response_head().has("transfer-encoding"));
    while client.read().is_ok() {}
    let expected = b"A\r\n\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\r\n0\r\nx-sum: 13\r\n\r\n";
    assert_eq!(client.received(), expected);
}

#[test]
fn endless_streams_may_clean_up_after_a_reload() {
    const APP: &str = "
import asyncio
import sys
async def application(scope, receive, send):
    while scope['type'] == 'lifespan':
        message = (await receive())['type']
        await send({'type': message + '.complete'})
        if message == 'lifespan.shutdown':
            print('lifespan has ended', file=sys.stderr, flush=True)
            return
    await send({'type': 'http.response.start', 'status': 200})
    try:
        while True:
            await send({'type': 'http.response.body', 'body': b'part', 'more_body': True})
            await asyncio.sleep(0.05)
    finally:
        print('stream has ended', file=sys.stderr, flush=True)
";
    let daemon = Rgun::python(APP).set("timeouts.drain", "1s").start_ready();
    let clients: Vec<Client> = (0..N_CLIENTS)
        .map(|_| {
            let mut client = daemon.connect();
            assert_eq!(client.send_get("/").response_head().status, 200);
            client
        })
        .collect();
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for_count(clients.len(), "stream has ended");
    daemon.log.wait_for("lifespan has ended");
    assert!(daemon.log.text().contains("has been retiring for"), "{}", daemon.log.text());
    assert_eq!(daemon.log.count("is cancelled"), 0, "{}", daemon.log.text());
}

/// More than the warnings that a worker may send at once.
const N_CLIENTS: usize = 100;

#[test]
fn worker_with_many_tasks_over_their_deadline_stays() {
    let daemon = Rgun::fake_asgi().flags(["--timeout", "500ms"]).start_ready();
    let worker = daemon.worker();
    let mut clients: Vec<Client> = (0..N_CLIENTS).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/wait");
    }
    for client in &mut clients {
        client.response().assert_error(504);
    }
    daemon.wait_for_disconnects(0, u32::try_from(N_CLIENTS).expect("a small number"));
    assert_eq!(daemon.worker(), worker, "{}", daemon.log.text());
}

#[test]
fn early_hints_are_sent_to_http_1_1_clients() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut client = daemon.connect();
    for _ in 0..2 {
        client.send_get("/hints/300");
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
        assert_eq!(client.read_exact(hints.len()).unwrap(), hints.as_bytes());
        assert!(client.receives_nothing(), "the response comes later");
        let response = client.response();
        assert_eq!((response.text(), response.interim.len()), ("Hello, world!".to_owned(), 0));
    }
    // Hints that are sent together with the response may be dropped. They never follow it.
    for _ in 0..50 {
        let response = client.get("/hints/0");
        assert_eq!(response.text(), "Hello, world!");
        assert!(response.interim.is_empty() || response.interim == [103]);
    }
    assert_eq!(client.get("/hello").interim, [0_u16; 0]);
    let mut old = daemon.connect();
    let response = old.send("GET /hints/100 HTTP/1.0\r\nHost: test\r\n\r\n").response();
    assert_eq!((response.text(), response.interim.len()), ("Hello, world!".to_owned(), 0));
}
