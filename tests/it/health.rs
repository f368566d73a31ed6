//! `[health]`: the daemon's health checks, also during the delay before a drain
//! (`timeouts.drain_delay`).

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::systemd::NotifySocket;
use crate::support::{Daemon, Response, Rgun, wait_until};

/// Configures a daemon with both health paths.
fn checked() -> Rgun {
    Rgun::fake().set("health.path", "/-/healthz").set("health.live_path", "/-/livez")
}

fn health(daemon: &Daemon) -> (u16, String) {
    let response = daemon.get("/-/healthz");
    assert_eq!(response.field("cache-control"), "no-store");
    assert!(response.has("x-request-id"));
    (response.status, response.text())
}

/// Waits until a health check gets this response: an event is in the log before the thread that
/// responds to requests learns of it.
fn wait_for_health(daemon: &Daemon, status: u16, text: &str) {
    let expected = (status, text.to_owned());
    wait_until(text, || (health(daemon) == expected).then_some(()));
}

fn ready() -> (u16, String) {
    (200, "ready\n".to_owned())
}

#[test]
fn health_paths_belong_to_the_application_by_default() {
    let daemon = Rgun::fake().start_ready();
    for path in ["/-/healthz", "/-/livez"] {
        assert_eq!(daemon.get(path).text(), "unknown path");
    }
}

#[test]
fn health_is_503_until_the_first_worker_is_ready() {
    let (rgun, gate) = checked().gated();
    let daemon = rgun.start();
    daemon.log.wait_for("listening on");
    assert_eq!(health(&daemon), (503, "the application is starting\n".to_owned()));
    let live = daemon.get("/-/livez");
    assert_eq!((live.status, live.text().as_str()), (200, "alive\n"));
    gate.open("");
    daemon.log.wait_for("is ready after");
    assert_eq!(health(&daemon), ready());
}

#[test]
fn health_is_answered_while_all_workers_are_busy() {
    let daemon = checked().start_ready();
    let mut busy: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for client in &mut busy {
        client.send_get("/hang");
    }
    let mut client = daemon.connect();
    for _ in 0..3 {
        let response = client.get("/-/healthz?verbose=1");
        assert_eq!((response.status, response.text()), ready(), "on one connection, with a query");
    }
}

#[test]
fn health_of_a_failing_application_has_no_traceback() {
    let daemon = checked().variable("NOTIFY_SOCKET", "/dev/null").fake_behaviour("failed").start();
    daemon.log.wait_for("did not boot");
    wait_for_health(&daemon, 503, "the application fails to start; the log has the reason\n");
}

#[test]
fn health_of_a_sleeping_application_is_200() {
    let daemon = checked().set("workers.idle_exit", "100ms").start_ready();
    daemon.log.wait_for("no request for");
    wait_for_health(&daemon, 200, "asleep: the next request starts a worker\n");
    assert_eq!(daemon.get("/hello").status, 200, "a request starts a worker, a health check does not");
}

#[test]
fn health_checks_allow_only_get_and_head() {
    let daemon = checked().start_ready();
    let mut client = daemon.connect();
    let head = client.send("HEAD /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n").response_to("HEAD");
    assert_eq!((head.status, head.field("content-length")), (200, "6"));
    let old = client.send("GET /-/healthz HTTP/1.0\r\n\r\n").response();
    assert_eq!((old.status, old.text()), ready());
    for request in [
        "POST /-/healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "GET /-/healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "OPTIONS /-/livez HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let response = daemon.connect().send(request).response();
        assert_eq!(response.assert_error(405).field("allow"), "GET, HEAD", "{request}");
    }
    for path in ["/-/healthz/", "/-//healthz", "/-/Healthz", "/-/%68ealthz"] {
        assert_eq!(daemon.get(path).text(), "unknown path", "{path}");
    }
    let refused = daemon.connect().send("GET /-/healthz HTTP/1.1\r\n\r\n").response();
    refused.assert_error(400);
}

#[test]
fn health_checks_are_not_in_the_access_log() {
    let daemon = checked().set("log.access", "true").start_ready();
    assert_eq!(health(&daemon), ready());
    daemon.get("/hello");
    daemon.log.wait_for("/hello");
    assert_eq!(daemon.log.count("/-/healthz"), 0);
}

#[test]
fn drain_delay_serves_requests_while_health_is_503() {
    let rgun = checked().set("timeouts.drain_delay", "60s").over_tcp();
    let mut systemd = NotifySocket::at(rgun.scratch());
    let mut daemon = rgun.variable("NOTIFY_SOCKET", &systemd.name).start_ready();
    assert_eq!(health(&daemon), ready());
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("stopping: serving for another 60s");
    let stopping = systemd.wait("STOPPING=1");
    systemd.wait_from(stopping, "EXTEND_TIMEOUT_USEC=");
    wait_for_health(&daemon, 503, "the server is stopping\n");
    assert_eq!(daemon.get("/-/livez").status, 200);
    let response: Response = daemon.get("/hello");
    assert_eq!(response.status, 200, "a new connection is served");
    assert!(!response.has("connection"), "the connection stays open");

    // A second signal within 300 ms would count as the same request.
    std::thread::sleep(Duration::from_millis(350));
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("asked to stop again: finishing running requests");
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn drain_begins_after_the_drain_delay() {
    let mut daemon = checked().set("timeouts.drain_delay", "300ms").start_ready();
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("timeouts.drain_delay has passed");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn reload_changes_the_health_path() {
    let rgun = Rgun::fake();
    let path = rgun.scratch().write("rgun.toml", "[health]\npath = \"/up\"\n");
    let daemon = rgun.flags(["--config", path.to_str().expect("ASCII")]).start_ready();
    assert_eq!(daemon.get("/up").text(), "ready\n");
    std::fs::write(&path, "[health]\npath = \"up\"\n").expect("a writable file");
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reload refused");
    assert_eq!(daemon.get("/up").text(), "ready\n", "a wrong setting changes nothing");
    std::fs::write(&path, "[health]\npath = \"/ready\"\n").expect("a writable file");
    let mut open = daemon.connect();
    assert_eq!(open.get("/up").status, 200);
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reloaded: generation 2");
    assert_eq!(daemon.get("/ready").text(), "ready\n");
    assert_eq!(daemon.get("/up").text(), "unknown path");
    assert_eq!(open.get("/up").text(), "ready\n", "an open connection keeps its settings");
}
