//! Slow uploads: memory and disk used by all bodies together are bounded, and a client that is too
//! slow gets a 408.

use std::fs;
use std::time::Duration;

use crate::support::{Client, Daemon, Rgun, pattern, wait_until};

const MIB: usize = 1024 * 1024;

fn bounded(memory: &str, disk: &str) -> Rgun {
    let rgun = Rgun::fake();
    let spool = rgun.scratch().join("spool");
    fs::create_dir(&spool).expect("a new directory");
    rgun.set("limits.spool_memory", memory)
        .set("limits.spool_disk", disk)
        .variable("CACHE_DIRECTORY", &spool.display().to_string())
}

/// Declares a body of `declared` bytes and sends `sent` of them.
fn start_upload(daemon: &Daemon, declared: usize, sent: usize) -> Client {
    let mut client = daemon.connect();
    client.send(format!("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: {declared}\r\n\r\n"));
    client.try_send(pattern(sent)).ok();
    client
}

fn count_open(daemon: &Daemon, what: &str) -> usize {
    daemon.descriptors().iter().filter(|to| to.contains(what)).count()
}

#[test]
fn bodies_spill_to_disk_and_then_are_507() {
    let daemon = bounded("4MiB", "8MiB").start_ready();
    // Memory has room for one upload, the disk for two.
    let mut uploads = Vec::new();
    for (n, (in_memory, on_disk)) in [(1, 0), (1, 1), (1, 2)].into_iter().enumerate() {
        uploads.push(start_upload(&daemon, 900 * MIB, 3 * MIB));
        wait_until(&format!("upload {n} waits"), || {
            let open = (count_open(&daemon, "memfd:rgun-body"), count_open(&daemon, "/spool/"));
            (open == (in_memory, on_disk)).then_some(())
        });
    }
    let mut refused = start_upload(&daemon, 3 * MIB, 3 * MIB);
    let response = refused.response();
    response.assert_error(507);
    assert!(daemon.log.wait_for(response.field("x-request-id")).contains("limits.spool_disk"));
    refused.assert_closed();
    // A refused upload and an abandoned one free their room at once.
    uploads.pop();
    wait_until("disk is free again", || (count_open(&daemon, "/spool/") == 1).then_some(()));
    let body = pattern(3 * MIB);
    let mut client = start_upload(&daemon, body.len(), body.len());
    assert!(client.response().body == body);
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn body_counts_towards_limits_until_its_exchange_is_done() {
    let daemon = bounded("2MiB", "0").flags(["--threads", "2"]).start_ready();
    let mut slow = daemon.connect();
    slow.send(format!("POST /slow/1500 HTTP/1.1\r\nHost: test\r\nContent-Length: {MIB}\r\n\r\n"));
    slow.send(pattern(MIB));
    wait_until("the worker has the body", || (count_open(&daemon, "memfd:rgun-body") == 1).then_some(()));
    let mut refused = start_upload(&daemon, 2 * MIB, 2 * MIB);
    refused.response().assert_error(507);
    assert_eq!(slow.response().status, 200);
    let body = pattern(2 * MIB);
    assert!(start_upload(&daemon, body.len(), body.len()).response().body == body);
}

#[test]
fn many_small_stalled_bodies_are_bounded() {
    let daemon = bounded("256KiB", "64MiB").start_ready();
    let mut uploads: Vec<_> = (0..50).map(|_| start_upload(&daemon, 60_000, 50_000)).collect();
    // Only four bodies fit into memory.
    wait_until("the bodies are on disk", || (count_open(&daemon, "/spool/") >= 40).then_some(()));
    for client in &mut uploads {
        client.send(&pattern(60_000)[50_000..]);
        assert!(client.response().body == pattern(60_000));
    }
}

/// Sends a byte every 50 ms. Asserts that the response is a 408, and logged.
fn assert_408_for_slow_upload(daemon: &Daemon, path: &str) {
    let mut client = daemon.connect();
    client.send(format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\n"));
    client.send(pattern(1000));
    let mut n_sent = 0;
    wait_until("the daemon responds", || {
        n_sent += 1;
        client.try_send(b"x").ok();
        (!client.receives_nothing_for(Duration::from_millis(50))).then_some(())
    });
    assert!(n_sent > 5, "{n_sent} bytes: refused within the grace period");
    let response = client.response();
    response.assert_error(408);
    client.assert_closed();
    let entry = daemon.log.wait_for(response.field("x-request-id"));
    assert!(entry.contains("INFO") && entry.contains("408"), "{entry}");
}

#[test]
fn body_below_the_rate_is_408() {
    let slow = |rgun: Rgun| rgun.set("limits.body_rate", "10KiB").set("timeouts.body", "600ms").start_ready();
    assert_408_for_slow_upload(&slow(Rgun::fake()), "/body");
    assert_408_for_slow_upload(&slow(Rgun::fake().fake_behaviour("asgi")), "/receive");
}

#[test]
fn slow_body_above_the_rate_is_accepted() {
    for (rgun, path) in [(Rgun::fake(), "/body"), (Rgun::fake().fake_behaviour("asgi"), "/receive")] {
        let daemon = rgun.set("limits.body_rate", "1KiB").set("timeouts.body", "400ms").start_ready();
        let mut client = daemon.connect();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n"));
        for block in pattern(100_000).chunks(10_000) {
            assert!(client.receives_nothing_for(Duration::from_millis(100)));
            client.send(block);
        }
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn without_a_rate_a_body_may_be_slow() {
    let daemon = Rgun::fake().set("limits.body_rate", "off").set("timeouts.body", "300ms").start_ready();
    let mut client = daemon.connect();
    client.send("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 20\r\n\r\n");
    for _ in 0..20 {
        assert!(client.receives_nothing_for(Duration::from_millis(50)));
        client.send(b"x");
    }
    assert_eq!(client.response().body.len(), 20);
}
