//! A client that does not read makes the daemon grow as far as it may, then its application wait, and disturbs nobody
//! else. What the daemon keeps for it is in `slow_readers`.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{DEADLINE, Daemon, Rgun, pattern};

const MIB: u64 = 1024 * 1024;

/// Waits until the daemon takes no more memory, and says how much it has then.
fn settled(daemon: &Daemon) -> u64 {
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
        assert!(begun.elapsed() < DEADLINE, "it goes on growing: {last:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Nothing is kept for a client that is slow.
fn without_room() -> Rgun {
    Rgun::fake().set("limits.response_memory", "0").set("limits.response_disk", "0")
}

fn held_back(path: &str, bound: u64) -> (Daemon, crate::support::Client) {
    let daemon = without_room().flags(["--threads", "2"]).start_ready();
    assert_eq!(daemon.get("/large/3000000").body.len(), 3_000_000);
    let before = daemon.rss();
    let mut client = daemon.connect();
    assert_eq!(client.send_get(path).response_head().status, 200);
    let grown = settled(&daemon).saturating_sub(before);
    assert!(grown < bound, "{path}: {} KiB more", grown / 1024);
    assert_eq!(daemon.get("/hello").status, 200, "others go on");
    (daemon, client)
}

#[test]
fn a_huge_response_body_waits_in_the_worker() {
    let (daemon, mut client) = held_back("/large/64000000", 8 * MIB);
    let before = daemon.rss();
    let mut most = 0;
    let expected = pattern(64_000_000);
    for block in expected.chunks(1_000_000) {
        assert!(client.read_exact(block.len()).unwrap() == block, "it came changed");
        most = most.max(daemon.rss());
    }
    assert!(most.saturating_sub(before) < 8 * MIB, "{} KiB more while it was read", (most - before) / 1024);
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn a_huge_file_waits_on_disk() {
    let (_daemon, mut client) = held_back("/file/64000000", 8 * MIB);
    assert!(client.read_exact(64_000_000).unwrap() == pattern(64_000_000), "it came changed");
}

#[test]
fn an_endless_stream_waits_in_the_worker() {
    // Each part of seven bytes costs the daemon some fifty more, and the window counts the seven.
    let (daemon, mut client) = held_back("/stream/4000000000", 16 * MIB);
    for _ in 0..20 {
        client.read_exact(1_000_000).unwrap();
    }
    drop(client);
    // What the worker still sends goes nowhere; the daemon neither keeps it nor waits for it.
    let before = settled(&daemon);
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
        assert!(client.get("/large/200000").body == pattern(200_000), "it came changed");
    }
    for client in &mut slow {
        assert!(client.read_exact(8_000_000).unwrap() == pattern(8_000_000), "it came changed");
    }
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let daemon = without_room().set("timeouts.body", "300ms").start_ready();
    let mut client = daemon.connect();
    client.send_get("/large/64000000").response_head();
    // Its only slot becomes free again: that is how it shows.
    assert_eq!(daemon.get("/hello").status, 200);
    assert!(client.read_exact(64_000_000).is_err(), "it was not cut off");
}

#[test]
fn waiting_for_a_slow_client_is_not_service_time() {
    let daemon = without_room().set("timeouts.request", "3s").start_ready();
    let pid = daemon.get("/pid").body;
    let mut client = daemon.connect();
    client.send_get("/large/12000000").response_head();
    let expected = pattern(12_000_000);
    let (slowly, rest) = expected.split_at(8_000_000);
    for block in slowly.chunks(1_000_000) {
        // A fifth of a second at least.
        settled(&daemon);
        assert!(client.read_exact(block.len()).unwrap() == block, "it came changed");
    }
    assert!(client.read_exact(rest.len()).unwrap() == rest, "it came changed");
    assert_eq!(client.get("/pid").body, pid, "the worker was replaced");
}
