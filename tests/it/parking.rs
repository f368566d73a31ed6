//! Idle connections that are parked, without the state of HTTP.

use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::systemd::{self, NotifySocket};
use crate::support::{Client, Daemon, Rgun, wait_until};
use crate::tls;

/// The log line of a connection that is parked.
const PARKING: &str = "parking an idle connection";

fn rgun() -> Rgun {
    Rgun::fake().flags(["--log-level", "debug"])
}

/// Returns a connection that has been served and is parked.
fn parked(daemon: &Daemon) -> Client {
    let before = daemon.log.count(PARKING);
    let mut client = daemon.connect();
    assert_eq!(client.get("/hello").status, 200);
    daemon.log.wait_for_count(before + 1, PARKING);
    client
}

#[test]
fn parked_connection_serves_further_requests() {
    for rgun in [rgun(), rgun().over_tcp()] {
        let daemon = rgun.start_ready();
        let mut client = parked(&daemon);
        for _ in 0..2 {
            assert_eq!(client.get("/hello").status, 200);
        }
        // The same connection is parked again.
        daemon.log.wait_for_count(2, PARKING);
        client.send("GET /hello HTTP/1.1\r\nHost: te");
        assert!(client.receives_nothing());
        assert_eq!(client.send("st\r\n\r\n").response().status, 200);
        assert_eq!(client.send("?\r\n\r\n").response().status, 400);
        client.assert_closed();
    }
}

#[test]
fn pipelined_requests_end_the_parking() {
    let daemon = rgun().start_ready();
    let mut client = parked(&daemon);
    client.send("GET /hello HTTP/1.1\r\nHost: test\r\n\r\nGET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn parked_connection_over_tls_serves_further_requests() {
    let cert = tls::self_signed(&["site.test"]);
    let daemon = tls::tls_rgun(&[&cert], "").flags(["--log-level", "debug"]).start_ready();
    let mut client = tls::connect(&daemon, &Arc::new(tls::client(&[&cert], None)), "site.test");
    for parkings in 1..=2 {
        assert_eq!(tls::get(&mut client, "/hello").expect("a response").0, 200);
        daemon.log.wait_for_count(parkings, PARKING);
    }
}

#[test]
fn client_and_keepalive_close_a_parked_connection() {
    let daemon = rgun().set("timeouts.keepalive", "4s").start_ready();
    drop(parked(&daemon));
    parked(&daemon).assert_closed();
}

#[test]
fn parked_connection_is_evicted() {
    let daemon = rgun().set("limits.connections", "1").start_ready();
    let mut client = parked(&daemon);
    assert_eq!(daemon.get("/hello").status, 200);
    client.assert_closed();
}

#[test]
fn parked_connection_is_continued_by_the_next_daemon() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let rgun = rgun();
    let mut notified = NotifySocket::at(rgun.scratch());
    let rgun = rgun.variable("NOTIFY_SOCKET", &notified.name).variable("FDSTORE", "10");
    let mut daemon = rgun.socket("web", socket).at(address).start_ready();
    let _client = parked(&daemon);
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.log.wait_for("stopping: ");
    while daemon.try_wait().is_none() {
        notified.received();
    }
    let is_connection = |(name, _): &&(String, _)| name == "rgun-connection";
    assert_eq!(notified.stored.iter().filter(is_connection).count(), 1);
}

#[test]
fn memory_of_a_burst_of_connections_is_returned() {
    const CONNECTIONS: usize = 1000;
    // Both ends of this test's connections and of those of other tests need descriptors.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(8192)), hard).unwrap();
    let daemon = Rgun::fake().start_ready();
    let before = daemon.rss();
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/hello").status, 200);
    }
    let burst = daemon.rss() - before;
    wait_until("most of the memory is returned", || (daemon.rss() < before + burst / 2).then_some(()));
    for client in clients.iter_mut().step_by(100) {
        assert_eq!(client.get("/hello").status, 200);
    }
}
