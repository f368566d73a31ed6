//! Requests without a complete response: each has one entry with the reason.

use nix::sys::signal::Signal;

use crate::support::{Client, Daemon, Rgun};

/// Sends a request with this id.
fn send_with_id(daemon: &Daemon, path: &str, id: &str) -> Client {
    let mut client = daemon.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\nX-Request-Id: {id}\r\n\r\n"));
    client
}

/// Waits for the end of the log, and returns the only entry with this id.
fn entry(daemon: &Daemon, id: &str) -> String {
    daemon.log.wait_for_end();
    let text = daemon.log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains(id)).collect();
    assert_eq!(lines.len(), 1, "{id}: {lines:#?}");
    lines[0].to_owned()
}

fn assert_has(entry: &str, facts: &[&str]) {
    for fact in facts {
        assert!(entry.contains(fact), "{fact}: {entry}");
    }
}

fn with_access_log() -> Rgun {
    Rgun::fake().flags(["--access-logfile", "/dev/stderr"])
}

#[test]
fn client_that_leaves_a_running_request_is_logged() {
    let mut daemon = with_access_log().start_ready();
    drop(send_with_id(&daemon, "/slow/300?a=1", "left-running"));
    daemon.log.wait_for("GET /slow/300?a=1: the client left after ");
    daemon.stop();
    let entry = entry(&daemon, "left-running");
    assert_has(&entry, &["INFO", "GET /slow/300?a=1: the client left", "rgun.worker=0", "rgun.duration_us="]);
    assert!(!entry.contains("rgun.status"), "{entry}");
}

#[test]
fn client_that_leaves_the_queue_is_logged() {
    let mut daemon = with_access_log().start_ready();
    let mut running = send_with_id(&daemon, "/slow/500", "runs");
    drop(send_with_id(&daemon, "/hello", "left-queued"));
    daemon.log.wait_for("GET /hello: the client left after ");
    assert_eq!(running.response().text(), "slow");
    daemon.stop();
    let left = entry(&daemon, "left-queued");
    assert_has(&left, &["INFO"]);
    assert!(!left.contains("rgun.status") && !left.contains("rgun.worker"), "{left}");
    assert_has(&entry(&daemon, "runs"), &["GET /slow/500 200"]);
}

#[test]
fn client_that_leaves_within_a_body_is_logged() {
    let mut daemon = with_access_log().start_ready();
    let mut client = send_with_id(&daemon, "/hang-mid-body", "left-mid-body");
    client.response_head();
    client.read_exact(10).unwrap();
    drop(client);
    daemon.log.wait_for("GET /hang-mid-body 200: aborted within the body: the client left after ");
    // The worker hangs, so a graceful stop would wait.
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_exit();
    assert_has(
        &entry(&daemon, "left-mid-body"),
        &["INFO", "rgun.status=200", "rgun.bytes=10", "rgun.worker=0"],
    );
}

#[test]
fn abandoned_request_is_a_debug_line_by_default() {
    for (level, count) in [("info", 0), ("debug", 1)] {
        let mut daemon = Rgun::fake().flags(["--log-level", level]).start_ready();
        drop(send_with_id(&daemon, "/slow/100", "left"));
        // This request is served after the abandoned one, whose entry exists by then.
        assert_eq!(daemon.get("/hello").status, 200);
        daemon.stop();
        daemon.log.wait_for_end();
        assert_eq!(daemon.log.count("GET /slow/100: the client left after "), count, "{level}");
    }
}

#[test]
fn requests_aborted_by_a_drain_timeout_are_warnings() {
    let mut daemon = Rgun::fake().flags(["--graceful-timeout", "400ms"]).start_ready();
    let mut running = send_with_id(&daemon, "/hang", "cut-running");
    let mut waiting = send_with_id(&daemon, "/hello", "cut-queued");
    let mut sending = daemon.connect();
    sending.send("POST /body HTTP/1.1\r\nHost: test\r\nX-Request-Id: cut-upload\r\n");
    sending.send("Content-Length: 6\r\nExpect: 100-continue\r\n\r\n");
    sending.read_exact("HTTP/1.1 100 Continue\r\n\r\n".len()).unwrap();
    daemon.signal(Signal::SIGTERM);
    daemon.wait_exit();
    running.assert_closed();
    // No response has been started, so a 503 can be sent.
    waiting.response().assert_error(503);
    sending.response().assert_error(503);
    let running = entry(&daemon, "cut-running");
    assert_has(&running, &["WARN", "GET /hang: the daemon stopped after ", "rgun.worker=0"]);
    assert!(!running.contains("rgun.status"), "{running}");
    for (id, request) in [("cut-queued", "GET /hello 503: "), ("cut-upload", "POST /body 503: ")] {
        assert_has(&entry(&daemon, id), &["WARN", request, "the daemon stops", "rgun.status=503"]);
    }
}

#[test]
fn responses_aborted_by_a_drain_timeout_are_warnings() {
    for arguments in [&[][..], &["--access-logfile", "/dev/stderr"]] {
        let mut daemon = Rgun::fake()
            .flags(["--graceful-timeout", "300ms"])
            .flags(arguments.iter().copied())
            .start_ready();
        let mut client = send_with_id(&daemon, "/hang-mid-body", "cut-mid-body");
        client.response_head();
        daemon.signal(Signal::SIGTERM);
        daemon.wait_exit();
        let entry = entry(&daemon, "cut-mid-body");
        assert_has(
            &entry,
            &["WARN", "GET /hang-mid-body 200: aborted within the body: the daemon stopped after "],
        );
    }
}

#[test]
fn requests_aborted_by_sigquit_are_logged() {
    let mut daemon = Rgun::fake().start_ready();
    let mut running = send_with_id(&daemon, "/hang-mid-body", "stopped-running");
    // An unclaimed request would be answered by a 503.
    running.response_head();
    let _waiting = send_with_id(&daemon, "/hello", "stopped-queued");
    let mut sending = daemon.connect();
    sending.send("POST /body HTTP/1.1\r\nHost: test\r\nX-Request-Id: stopped-upload\r\n");
    sending.send("Content-Length: 6\r\nExpect: 100-continue\r\n\r\n");
    sending.read_exact("HTTP/1.1 100 Continue\r\n\r\n".len()).unwrap();
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_exit();
    // The worker is killed at the same time: the entry names its death or the stop.
    let running = entry(&daemon, "stopped-running");
    assert_has(&running, &["GET /hang-mid-body 200: aborted within the body: "]);
    assert!(
        ["the daemon stopped", "the worker was stopped"].iter().any(|why| running.contains(why)),
        "{running}"
    );
    // A 503 whose text is "the daemon stops" may have been sent in time.
    assert_has(&entry(&daemon, "stopped-queued"), &["WARN", "GET /hello", "the daemon stop"]);
    assert_has(&entry(&daemon, "stopped-upload"), &["WARN", "POST /body", "the daemon stop"]);
}

#[test]
fn response_that_is_not_read_is_logged_as_aborted() {
    let mut daemon = with_access_log().set("timeouts.body", "1s").start_ready();
    let mut client = send_with_id(&daemon, "/large/50000000", "not-taken");
    client.response_head();
    daemon.log.wait_for("the client did not read");
    daemon.stop();
    assert_has(
        &entry(&daemon, "not-taken"),
        &["INFO", "GET /large/50000000 200: aborted within the body: connection closed after "],
    );
}

#[test]
fn complete_responses_have_one_entry_each() {
    let mut daemon = with_access_log().start_ready();
    let mut client = daemon.connect();
    let exchanges = [
        ("GET", "/hello"),
        ("GET", "/stream/3"),
        ("GET", "/file/100000"),
        ("GET", "/large/300000"),
        ("HEAD", "/large/300000"),
        ("GET", "/status/204"),
        ("GET", "/status/304"),
    ];
    for (number, (method, path)) in exchanges.iter().enumerate() {
        let id = format!("answered-{number}");
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\nX-Request-Id: {id}\r\n\r\n"));
        client.response_to(method);
    }
    drop(client);
    daemon.stop();
    for (number, (method, path)) in exchanges.iter().enumerate() {
        let entry = entry(&daemon, &format!("answered-{number}"));
        assert_has(&entry, &["INFO", &format!("{method} {path} "), "rgun.status=", "rgun.queue_us="]);
    }
}
