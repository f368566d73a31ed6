//! A client that does not read makes its application wait; the daemon's memory stays bounded and
//! other clients are served. Tests of the buffers for slow clients are in `slow_readers`.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{DEADLINE, Daemon, Rgun, assert_same_bytes, pattern};

const MIB: u64 = 1024 * 1024;

/// Waits until the daemon's memory no longer grows. Returns the resident memory in bytes.
fn wait_for_stable_rss(daemon: &Daemon) -> u64 {
    let begun = Instant::now();
    let mut last: VecDeque<u64> = VecDeque::new();
    loop {
        last.push_back(daemon.rss());
        if last.len() > 10 {
            last.pop_front();
            if last.iter().all(|rss| *rss == last[0]) {
                return last[0];
            }
        }
        assert!(begun.elapsed() < DEADLINE, "memory keeps growing: {last:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Configures a daemon that buffers nothing for slow clients.
fn without_buffers() -> Rgun {
    Rgun::fake().set("limits.response_memory", "0").set("limits.response_disk", "0")
}

/// Requests `path` and reads only the head of the response. Asserts that the daemon's memory grows
/// by less than `bound` bytes, and that other clients are served.
fn start_unread_response(path: &str, bound: u64) -> (Daemon, crate::support::Client) {
    let daemon = without_buffers().flags(["--threads", "2"]).start_ready();
    assert_eq!(daemon.get("/large/3000000").body.len(), 3_000_000);
    let before = daemon.rss();
    let mut client = daemon.connect();
    assert_eq!(client.send_get(path).response_head().status, 200);
    let grown = wait_for_stable_rss(&daemon).saturating_sub(before);
    assert!(grown < bound, "{path}: {} KiB more", grown / 1024);
    assert_eq!(daemon.get("/hello").status, 200, "other clients are served");
    (daemon, client)
}

#[test]
fn huge_response_body_waits_in_the_worker() {
    let (daemon, mut client) = start_unread_response("/large/64000000", 8 * MIB);
    let before = daemon.rss();
    let mut max_rss = 0;
    let expected = pattern(64_000_000);
    for block in expected.chunks(1_000_000) {
        assert_same_bytes(&client.read_exact(block.len()).unwrap(), block);
        max_rss = max_rss.max(daemon.rss());
    }
    assert!(
        max_rss.saturating_sub(before) < 8 * MIB,
        "{} KiB more while it was read",
        (max_rss - before) / 1024
    );
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn huge_file_waits_on_disk() {
    let (_daemon, mut client) = start_unread_response("/file/64000000", 8 * MIB);
    assert_same_bytes(&client.read_exact(64_000_000).unwrap(), &pattern(64_000_000));
}

#[test]
fn endless_stream_waits_in_the_worker() {
    // Each part of 7 bytes costs the daemon some 50 bytes more, which the window does not count.
    let (daemon, mut client) = start_unread_response("/stream/4000000000", 16 * MIB);
    for _ in 0..20 {
        client.read_exact(1_000_000).unwrap();
    }
    drop(client);
    // The daemon discards the rest of the response.
    let before = wait_for_stable_rss(&daemon);
    assert_eq!(daemon.get("/hello").status, 200);
    assert!(daemon.rss().saturating_sub(before) < 8 * MIB);
}

#[test]
fn many_slow_readers_do_not_delay_others() {
    let daemon = Rgun::fake().flags(["--threads", "9"]).start_ready();
    let mut slow: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for client in &mut slow {
        client.send_get("/large/8000000").response_head();
    }
    let mut client = daemon.connect();
    for _ in 0..20 {
        assert!(client.get("/large/200000").body == pattern(200_000), "the body was changed");
    }
    for client in &mut slow {
        assert_same_bytes(&client.read_exact(8_000_000).unwrap(), &pattern(8_000_000));
    }
}

#[test]
fn client_that_never_reads_is_disconnected() {
    let daemon = without_buffers().set("timeouts.body", "300ms").start_ready();
    let mut client = daemon.connect();
    client.send_get("/large/64000000").response_head();
    // The only slot becomes free, so the response was aborted.
    assert_eq!(daemon.get("/hello").status, 200);
    assert!(client.read_exact(64_000_000).is_err(), "the connection was not closed");
}

#[test]
fn waiting_for_a_slow_client_is_not_service_time() {
    let daemon = without_buffers().set("timeouts.request", "3s").start_ready();
    let pid = daemon.get("/pid").body;
    let mut client = daemon.connect();
    client.send_get("/large/12000000").response_head();
    let expected = pattern(12_000_000);
    let (slowly, rest) = expected.split_at(8_000_000);
    for block in slowly.chunks(1_000_000) {
        // Together longer than timeouts.request.
        thread::sleep(Duration::from_millis(400));
        assert_same_bytes(&client.read_exact(block.len()).unwrap(), block);
    }
    assert_same_bytes(&client.read_exact(rest.len()).unwrap(), rest);
    assert_eq!(client.get("/pid").body, pid, "the worker was replaced");
}
