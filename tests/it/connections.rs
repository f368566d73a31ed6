//! Limits on the number of connections, and the eviction of idle ones.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Client, Daemon, Rgun, wait_until};

/// Sends half a head, so that the connection does not count as idle until `timeouts.header`.
fn send_half_a_head(client: &mut Client) {
    client.send("GET /hello HTTP/1.1\r\nHost: te");
}

#[test]
fn clients_over_the_limit_wait_and_are_logged_once() {
    let daemon = Rgun::fake().set("limits.connections", "16").start_ready();
    let warning = "16 connections are open, the limit";
    for n in 1..=2 {
        let mut open: Vec<_> = (0..16).map(|_| daemon.connect()).collect();
        for client in &mut open {
            assert_eq!(client.get("/hello").status, 200);
            send_half_a_head(client);
        }
        // Each waiting client is accepted when an open connection ends.
        for round in 0..10 {
            let mut waiting = daemon.connect();
            waiting.send_get("/hello");
            if round == 0 {
                daemon.log.wait_for_count(n, warning);
            }
            assert!(waiting.receives_nothing());
            drop(open.remove(0));
            assert_eq!(waiting.response().status, 200);
            send_half_a_head(&mut waiting);
            open.push(waiting);
        }
        daemon.log.wait_for_count(n, warning);
        assert_eq!(daemon.log.count(warning), n, "{}", daemon.log.text());
        drop(open);
        // Wait until all have ended before the next round.
        wait_until("connections are closed", || {
            (daemon.descriptors().iter().filter(|to| to.starts_with("socket")).count() < 12).then_some(())
        });
    }
    assert!(daemon.log.text().contains("raise limits.connections, or LimitNOFILE="));
}

/// Returns idle clients that have received a response, the longest idle first.
fn idle_clients(daemon: &Daemon, count: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..count).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/slow/20").status, 200);
    }
    clients
}

#[test]
fn longest_idle_connection_is_evicted() {
    let daemon = Rgun::fake().set("limits.connections", "4").start_ready();
    let mut clients = idle_clients(&daemon, 4);
    // The first client's connection is now the last one to be evicted.
    assert_eq!(clients[0].get("/slow/20").status, 200);
    let begun = Instant::now();
    let mut new = daemon.connect();
    assert_eq!(new.get("/hello").status, 200);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}: it waited for timeouts.keepalive",
        begun.elapsed()
    );
    clients[1].assert_closed();
    for kept in [0, 2, 3] {
        assert_eq!(clients[kept].get("/hello").status, 200, "client {kept}");
    }
}

#[test]
fn connection_without_a_request_is_evicted() {
    let daemon = Rgun::fake().set("limits.connections", "4").set("timeouts.header", "60s").start_ready();
    let mut silent: Vec<_> = (0..4).map(|_| daemon.connect()).collect();
    let begun = Instant::now();
    assert_eq!(daemon.get("/hello").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // All clients connected within a millisecond, the resolution of idle times, so any of them may
    // be evicted.
    let closed = silent.iter_mut().filter_map(|client| (!client.receives_nothing()).then_some(client));
    let closed: Vec<_> = closed.map(Client::assert_closed).collect();
    assert_eq!(closed.len(), 1);
}

#[test]
fn busy_connections_are_not_evicted() {
    let daemon = Rgun::fake().flags(["--threads", "2"]).set("limits.connections", "3").start_ready();
    let mut clients = idle_clients(&daemon, 3);
    clients[0].send_get("/stream/4/800").response_head();
    send_half_a_head(&mut clients[1]);
    let mut new = daemon.connect();
    assert_eq!(new.get("/hello").status, 200, "the third connection is evicted");
    clients[2].assert_closed();
    send_half_a_head(&mut new);
    let mut waiting = daemon.connect();
    waiting.send_get("/hello");
    assert_eq!(clients[0].chunked_text(), "part 0\npart 1\npart 2\npart 3\n");
    assert!(waiting.receives_nothing(), "the connection has just become idle");
    for client in [&mut clients[1], &mut new] {
        assert_eq!(client.send("st\r\n\r\n").response().status, 200);
    }
    assert_eq!(waiting.response().status, 200);
    clients[0].assert_closed();
}

#[test]
fn idle_connection_is_evicted_when_no_descriptor_is_free() {
    let daemon = Rgun::fake().set("limits.connections", "1000").start_ready();
    let mut clients = idle_clients(&daemon, 4);
    // Allow no descriptor above those in use. Unused numbers below are taken first, hence the loop
    // that follows.
    let limit = 1 + daemon.highest_descriptor();
    let set = Command::new("prlimit")
        .args([format!("--pid={}", daemon.pid()), format!("--nofile={limit}:{limit}")])
        .status();
    assert!(set.is_ok_and(|status| status.success()), "util-linux has prlimit");
    let accept_one_more = || {
        let mut new = daemon.connect();
        assert_eq!(new.get("/hello").status, 200);
        new
    };
    let mut new = Vec::new();
    while daemon.log.count("cannot accept for now") == 0 {
        new.push(accept_one_more());
    }
    clients[0].assert_closed();
    new.push(accept_one_more());
    clients[1].assert_closed();
    assert_eq!(daemon.log.count("cannot accept for now"), 1, "{}", daemon.log.text());
}

#[test]
fn connections_per_client_over_the_limit_are_closed() {
    let daemon = Rgun::fake().over_tcp().set("limits.connections_per_client", "2").start_ready();
    let mut clients = idle_clients(&daemon, 2);
    for _ in 0..3 {
        daemon.connect().assert_closed();
    }
    let line = daemon.log.wait_for("limits.connections_per_client");
    assert!(line.contains("WARN") && line.contains("most recently one from 127.0.0.1"), "{line}");
    drop(clients.remove(0));
    wait_until("one more connection is accepted", || {
        let mut client = daemon.connect();
        client.try_send("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n").ok()?;
        client.try_response("GET").ok().map(|response| assert_eq!(response.status, 200))
    });
    assert_eq!(clients[0].get("/hello").status, 200, "the other connections stay");
}

#[test]
fn unix_clients_are_not_limited_per_address() {
    let daemon = Rgun::fake().set("limits.connections_per_client", "1").start_ready();
    let mut clients = idle_clients(&daemon, 5);
    for client in &mut clients {
        assert_eq!(client.get("/hello").status, 200);
    }
}
