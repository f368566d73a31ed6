//! The access log: the facts in an entry, the format of a line, and where the log goes.

use std::process;

use crate::support::{Daemon, Rgun, wait_until};

/// The default of gunicorn's setting `access_log_format`.
const COMBINED: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

const HEAD: &str = "GET /hello?a=1 HTTP/1.1\r\nHost: test\r\nUser-Agent: it/\u{9b}1\r\nReferer: https://x.test/\\\"y\r\n\
                    Authorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n";

/// Sends [`HEAD`] and returns the id of its response.
fn send_head(daemon: &Daemon) -> String {
    let mut client = daemon.connect();
    let response = client.send(HEAD).response();
    assert_eq!(response.status, 200);
    response.field("x-request-id").to_owned()
}

#[test]
fn access_entry_has_the_facts_of_a_unix_client() {
    let daemon = Rgun::fake().set("log.access", "true").start_ready();
    let line = daemon.log.wait_for(&send_head(&daemon));
    let peer = format!("rgun.peer=\"unix, pid {}, uid {}\"", process::id(), nix::unistd::geteuid());
    for fact in [
        "GET /hello?a=1 200 ",
        "rgun.query=\"a=1\"",
        "rgun.user_agent=\"it/\\u{9b}1\"",
        "rgun.referer=\"https://x.test/\\\"y\"",
        "rgun.client=unix ",
        &peer,
    ] {
        assert!(line.contains(fact), "{fact}: {line}");
    }
    assert!(!line.contains("alice") && !line.contains("YWxp"), "credentials are not logged: {line}");
}

#[test]
fn query_is_not_logged_when_log_query_is_false() {
    let daemon = Rgun::fake().set("log.access", "true").set("log.query", "false").start_ready();
    let line = daemon.log.wait_for(&send_head(&daemon));
    assert!(line.contains("GET /hello 200 ") && !line.contains("a=1"), "{line}");
}

#[test]
fn failed_request_has_the_details_only_with_an_access_log() {
    for (access, has_details) in [("true", true), ("false", false)] {
        let daemon = Rgun::fake().set("log.access", access).start_ready();
        daemon.get("/raise?a=1").assert_error(500);
        daemon.log.wait_for("GET /raise");
        let text = daemon.log.wait_for("rgun.client=unix");
        assert_eq!(text.contains("rgun.query=\"a=1\""), has_details, "{text}");
    }
}

#[test]
fn gunicorn_format_line_is_escaped_and_has_no_fields() {
    let daemon =
        Rgun::fake().over_tcp().set("log.access", "true").set("log.access_format", COMBINED).start_ready();
    send_head(&daemon);
    let line = daemon.log.wait_for("GET /hello");
    let (before, rest) = line.split_once('[').expect("a time");
    let (_, after) = rest.split_once(']').expect("a time");
    assert_eq!(before, "127.0.0.1 - alice ");
    assert_eq!(after, r#" "GET /hello?a=1 HTTP/1.1" 200 13 "https://x.test/\\"y" "it/\u{9b}1""#);
}

#[test]
fn failed_request_has_a_line_too() {
    let daemon =
        Rgun::fake().set("log.access", "true").set("log.access_format", "row %(U)s %(s)s").start_ready();
    daemon.get("/raise").assert_error(500);
    daemon.log.wait_for("GET /raise 500: Fake: boom");
    daemon.log.wait_for("row /raise 500");
    daemon.connect().send("BROKEN\r\n\r\n").response().assert_error(400);
    daemon.log.wait_for("refused with 400");
    assert_eq!(daemon.get("/hello").status, 200);
    daemon.log.wait_for("row /hello 200");
    assert_eq!(daemon.log.count("row "), 2);
}

#[test]
fn line_has_fields_of_request_and_response() {
    let format = "row %({User-Agent}i)s %({x-none}i)s %({content-length}o)s %({X-Request-Id}o)s %({x}e)s";
    let daemon = Rgun::fake().set("log.access", "true").set("log.access_format", format).start_ready();
    daemon.log.wait_for("RGUN_LOG_ACCESS_FORMAT: %({x}e)s is logged as \"-\"");
    let id = send_head(&daemon);
    assert_eq!(daemon.log.wait_for("row "), format!("row it/\\u{{9b}}1 - 13 {id} -"));
}

#[test]
fn access_logfile_flag_with_a_dash_logs_to_stdout() {
    let mut daemon =
        Rgun::fake().flags(["--access-logfile", "-", "--access-logformat", "%(m)s %(U)s"]).start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    daemon.get("/raise").assert_error(500);
    daemon.log.wait_for("GET /raise 500: Fake: boom");
    daemon.stop();
    assert_eq!(daemon.stdout(), "GET /hello\nGET /raise\n");
    assert_eq!(daemon.log.count("GET /hello"), 0);
}

#[test]
fn line_is_a_message_with_fields_in_json() {
    let daemon = Rgun::fake()
        .set("log.access", "true")
        .set("log.access_format", "row %(s)s")
        .set("log.format", "json")
        .start_ready();
    let id = send_head(&daemon);
    let line = daemon.log.wait_for(&id);
    for part in ["\"message\":\"row 200\"", "\"rgun.status\":200", "\"rgun.query\":\"a=1\""] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("whole_line"), "{line}");
}

#[test]
fn reload_changes_the_access_format() {
    let rgun = Rgun::fake().set("log.access", "true");
    let file = rgun.scratch().write("rgun.toml", "[log]\naccess_format = \"first %(s)s\"\n");
    let daemon = rgun.flags(["--config", file.to_str().expect("ASCII")]).start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    daemon.log.wait_for("first 200");
    daemon.scratch().write("rgun.toml", "[log]\naccess_format = \"second %(s)s\"\n");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.log.wait_for("reloaded: ");
    wait_until("the new format is used", || {
        daemon.get("/hello");
        (daemon.log.count("second 200") > 0).then_some(())
    });
}
