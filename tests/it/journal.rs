//! Log entries of requests: one for each, with the id that the client has received.

use crate::support::systemd::{Journald, may_replace_journald};
use crate::support::{Daemon, Response, Rgun, report_skipped, wait_until};

#[test]
fn access_log_has_each_request_once_under_its_id() {
    let daemon = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]).start_ready();
    let response = daemon.get("/large/100000?secret=1");
    assert_eq!(response.body.len(), 100_000);
    let id = response.field("x-request-id");
    let line = daemon.log.wait_for(id);
    for fact in [
        "GET /large/100000?secret=1 200",
        "rgun.path=/large/100000 ",
        "rgun.query=\"secret=1\"",
        "rgun.protocol=\"HTTP/1.1\"",
        "rgun.scheme=\"http\"",
        "rgun.client=unix ",
        "rgun.status=200",
        "rgun.bytes=100000",
        "rgun.worker=0",
        "rgun.duration_us=",
    ] {
        assert!(line.contains(fact), "{fact}: {line}");
    }
    daemon.log.wait_for_count(1, id);
    assert_eq!(daemon.log.count(id), 1);
}

#[test]
fn access_log_is_off_by_default() {
    let mut daemon = Rgun::fake().start_ready();
    let response = daemon.get("/hello");
    daemon.stop();
    daemon.log.wait_for_end();
    assert_eq!(daemon.log.count(response.field("x-request-id")), 0);
}

#[test]
fn exception_is_one_entry_with_its_traceback() {
    let daemon = Rgun::fake().start_ready();
    let response = daemon.get("/raise");
    response.assert_error(500);
    let line = daemon.log.wait_for("GET /raise 500: Fake: boom");
    assert!(line.contains("ERROR"), "{line}");
    daemon.log.wait_for("File \"fake.py\", line 2, in app");
    // On stderr the fields follow the traceback.
    daemon.log.wait_for(response.field("x-request-id"));
    daemon.log.wait_for_count(1, "Traceback");
    assert_eq!(daemon.log.count("Traceback"), 1);
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn exception_within_a_body_is_logged() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    let error = client.send_get("/raise-mid-body/100").try_response("GET");
    assert!(error.is_err(), "{error:?}");
    let line = daemon.log.wait_for("GET /raise-mid-body/100 200: aborted within the body: Fake: boom");
    assert!(line.contains("ERROR"), "{line}");
    daemon.log.wait_for("File \"fake.py\", line 2, in app");
    daemon.log.wait_for_count(1, "Traceback");
    assert_eq!(daemon.log.count("Traceback"), 1);
}

#[test]
fn exception_after_the_response_names_its_request() {
    let daemon = Rgun::fake().start_ready();
    let response = daemon.get("/raise-late");
    assert_eq!((response.status, response.text().as_str()), (200, "Hello, world!"));
    let entry = daemon.log.wait_for("raised after its response was complete: Fake: boom");
    assert!(entry.contains("GET /raise-late"), "{entry}");
    let fields = daemon.log.wait_for("rgun.request_id");
    assert!(fields.contains(response.field("x-request-id")), "{fields}");
    assert!(fields.contains("rgun.path=/raise-late") && fields.contains("rgun.method=GET"), "{fields}");
}

#[test]
fn line_break_in_a_path_stays_escaped_in_the_log() {
    let daemon = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]).start_ready();
    let response = daemon.get("/hello%0aERROR%20all%20lost");
    let line = daemon.log.wait_for(response.field("x-request-id"));
    assert!(line.contains("/hello%0aERROR"), "{line}");
}

/// Sends a body over `limits.body`, and returns the response.
fn too_large(daemon: &Daemon) -> Response {
    let head = "POST /hello HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\n";
    daemon.connect().send(head).response()
}

/// Returns the number of requests in the entries with `what`: one each, and N for `(and N more`.
fn counted(log: &str, what: &str) -> u64 {
    let more = |line: &str| {
        let (_, more) = line.split_once("(and ")?;
        more.split(' ').next()?.parse::<u64>().ok()
    };
    log.lines().filter(|line| line.contains(what)).map(|line| 1 + more(line).unwrap_or(0)).sum()
}

#[test]
fn refused_request_is_logged_at_the_default_level() {
    let daemon = Rgun::fake().set("limits.body", "10").start_ready();
    let response = too_large(&daemon);
    response.assert_error(413);
    let line = daemon.log.wait_for(response.field("x-request-id"));
    for fact in ["INFO", "POST /hello 413: the request's body is larger than limits.body", "rgun.status=413"]
    {
        assert!(line.contains(fact), "{fact}: {line}");
    }
}

#[test]
fn equal_refusals_are_counted_in_few_entries() {
    let daemon = Rgun::fake().set("limits.body", "10").start_ready();
    for _ in 0..100 {
        too_large(&daemon).assert_error(413);
    }
    wait_until("all are counted", || (counted(&daemon.log.text(), "POST /hello 413") == 100).then_some(()));
    let entries = daemon.log.count("POST /hello 413");
    assert!(entries < 50, "{entries} entries of 100 requests");
}

#[test]
fn with_an_access_log_each_refused_request_has_its_entry() {
    let daemon =
        Rgun::fake().flags(["--access-logfile", "/dev/stderr"]).set("limits.body", "10").start_ready();
    for _ in 0..10 {
        let response = too_large(&daemon);
        daemon.log.wait_for(response.assert_error(413).field("x-request-id"));
    }
}

#[test]
fn shed_requests_are_counted_in_few_warnings() {
    let daemon = Rgun::fake().set("limits.queue", "1").start_ready();
    let mut running = daemon.connect();
    running.send_get("/hang");
    let mut queued = daemon.connect();
    wait_until("one request runs and one waits", || {
        queued.send_get("/hello");
        (daemon.get("/shed").status == 503).then_some(())
    });
    for _ in 0..50 {
        daemon.get("/shed").assert_error(503);
    }
    wait_until("all are counted", || (counted(&daemon.log.text(), "GET /shed 503") >= 51).then_some(()));
    assert!(daemon.log.wait_for("GET /shed 503").contains("WARN"));
    assert!(daemon.log.count("GET /shed 503") < 40);
    daemon.signal(nix::sys::signal::Signal::SIGQUIT);
}

#[test]
fn control_characters_in_a_path_are_escaped_on_stderr() {
    let daemon = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]).start_ready();
    let response = daemon.connect().send_get("/a\u{9b}2J\u{202e}b").response();
    let line = daemon.log.wait_for(response.field("x-request-id"));
    assert!(line.contains("GET /a\\u{9b}2J\\u{202e}b 404 "), "{line}");
    assert!(line.contains("rgun.path=/a\\u{9b}2J\\u{202e}b "), "{line}");
    assert!(!line.contains(['\u{9b}', '\u{202e}']), "{line:?}");
}

#[test]
fn control_characters_in_a_path_have_a_raw_journal_field() {
    if !may_replace_journald() {
        return report_skipped(
            "a path with control characters in the journal: needs root to replace journald",
        );
    }
    let rgun = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]);
    let journald = Journald::at(rgun.scratch());
    let daemon = rgun.journald(&journald.directory).start();
    daemon.get("/plain");
    let plain = journald.wait(&[b"RGUN_PATH=/plain\n"]);
    assert!(
        !plain.windows(13).any(|part| part == b"RGUN_PATH_RAW"),
        "RGUN_PATH_RAW is only for escaped paths"
    );
    daemon.get("/a\u{9b}2Jb");
    let entry = journald.wait(&[b"RGUN_PATH=/a\\u{9b}2Jb\n", b"MESSAGE=GET /a\\u{9b}2Jb 404\n"]);
    let raw = b"RGUN_PATH_RAW=/a\xc2\x9b2Jb\n";
    assert!(entry.windows(raw.len()).any(|part| part == raw), "{}", entry.escape_ascii());
}

#[test]
fn start_without_a_configuration_is_an_error_with_its_id() {
    if !may_replace_journald() {
        return report_skipped("a wrong configuration in the journal: needs root to replace journald");
    }
    for (rgun, status, text) in [
        (
            Rgun::fake().set("workers.threads", "many"),
            78,
            &b"RGUN_WORKERS_THREADS: workers.threads = \"many\""[..],
        ),
        (Rgun::fake().flags(["--no-such-flag"]), 64, b"--no-such-flag"),
    ] {
        let journald = Journald::at(rgun.scratch());
        let (code, stderr, _) = rgun.journald(&journald.directory).run();
        assert_eq!((code, stderr.as_str()), (status, ""), "only the entry");
        journald.wait(&[text, b"PRIORITY=3\n", b"MESSAGE_ID=c1b1de68c54042a4a4eaad12df34e232\n"]);
    }
}

#[test]
fn error_of_the_application_is_logged_without_access_log() {
    for (status, level) in [(500, "ERROR"), (503, "WARN"), (501, "ERROR")] {
        let daemon = Rgun::fake().start_ready();
        let path = format!("/status/{status}");
        let response = daemon.get(&path);
        assert_eq!(response.status, status);
        let line =
            daemon.log.wait_for(&format!("GET {path} {status}: the application answered with an error"));
        let status = format!("rgun.status={status}");
        for part in
            [level, response.field("x-request-id"), "rgun.worker=0", "rgun.kind=application_error", &status]
        {
            assert!(line.contains(part), "{part}: {line}");
        }
        let id = daemon.get("/status/404").field("x-request-id").to_owned();
        daemon.get("/hello");
        assert_eq!(daemon.log.count(&id), 0, "404 is no error of the application");
    }
}

#[test]
fn error_of_the_application_is_once_in_the_access_log() {
    let mut daemon = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]).start_ready();
    let id = daemon.get("/status/500").field("x-request-id").to_owned();
    let line = daemon.log.wait_for(&id);
    assert!(line.contains("ERROR") && line.contains("rgun.status=500"), "{line}");
    for (path, level) in [("/status/503", "WARN"), ("/status/404", "INFO"), ("/hello", "INFO")] {
        let id = daemon.get(path).field("x-request-id").to_owned();
        let line = daemon.log.wait_for(&id);
        assert!(line.contains(level), "{path}: {line}");
    }
    daemon.stop();
    assert_eq!(daemon.log.count(&id), 1);
}

#[test]
fn error_in_the_access_log_is_found_by_priority() {
    let rgun = Rgun::fake().set("log.access", "true");
    let journald = Journald::at(rgun.scratch());
    let daemon = rgun.journald(&journald.directory).start();
    daemon.get("/status/500");
    let id: &[u8] = b"MESSAGE_ID=498a07ee777e4c209fceee4d8f57efd2\n";
    journald.wait(&[id, b"MESSAGE=GET /status/500 500\n", b"PRIORITY=3\n", b"TARGET=rgun::access\n"]);
}

#[test]
fn errors_of_the_application_are_counted_in_few_entries() {
    let mut daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    let ids: Vec<String> =
        (0..20).map(|_| client.get("/status/500").field("x-request-id").to_owned()).collect();
    daemon.stop();
    daemon.log.wait_for_end();
    let log = daemon.log.text();
    assert_eq!(counted(&log, "GET /status/500 500"), 20);
    assert!(daemon.log.count("GET /status/500 500") < 10, "{log}");
    assert!(ids.iter().all(|id| log.contains(id.as_str())), "{log}");
}
