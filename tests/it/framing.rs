//! Malformed heads and bodies: each is refused with an id and an entry in the log, and limits apply
//! however the bytes are split.

use crate::support::{Client, Daemon, ReadError, Response, Rgun};

/// Sent after a refused message. If it were taken for a request, the worker would exit.
const SMUGGLED: &str = "GET /die HTTP/1.1\r\nHost: test\r\n\r\n";

const CHUNKED: &str = "POST /body HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Sends a request that must be refused with `status`. Asserts that the connection ends and that no
/// later request is served.
fn assert_refused(daemon: &Daemon, request: impl AsRef<[u8]>, status: u16) -> Response {
    let worker = daemon.worker();
    let mut client = daemon.connect();
    client.send(request).send(SMUGGLED);
    let response = client.response();
    response.assert_error(status);
    assert_eq!(response.field("connection"), "close");
    client.assert_closed();
    assert_eq!(daemon.worker(), worker, "the smuggled request was served");
    response
}

/// Returns the only log entry with the response's id.
fn entry(daemon: &Daemon, response: &Response) -> String {
    let id = response.field("x-request-id");
    let entry = daemon.log.wait_for(id);
    daemon.log.wait_for_count(1, id);
    assert_eq!(daemon.log.count(id), 1, "{}", daemon.log.text());
    entry
}

#[test]
fn malformed_request_has_an_id_and_an_entry() {
    let daemon = Rgun::fake()
        .set("limits.header", "1KiB")
        .set("limits.headers", "5")
        .set("limits.request_line", "200")
        .set("timeouts.header", "200ms")
        .start_ready();
    let long = "x".repeat(1100);
    let cases = [
        ("bad_request_line", 400, "GET /s3cret path HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("bad_request_line", 400, "\x16\x03\x01\x02".to_owned()),
        ("bad_version", 505, "GET / HTTP/2.0\r\n\r\n".to_owned()),
        ("request_line_too_long", 414, format!("GET /{long}")),
        ("bad_field", 400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned()),
        ("bad_field", 400, "GET / HTTP/1.1\r\nHost: a\r\nX: \u{1b}[31m\r\n\r\n".to_owned()),
        ("bad_host", 400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned()),
        ("bad_length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned()),
        ("body_too_long", 413, format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", u64::MAX)),
        (
            "bad_coding",
            501,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(),
        ),
        ("head_too_long", 431, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}")),
        ("too_many_fields", 431, format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(6))),
    ];
    for (kind, status, request) in cases {
        let response = assert_refused(&daemon, &request, status);
        assert!(response.has("date"), "RFC 9110 §6.6.1");
        let entry = entry(&daemon, &response);
        for fact in ["INFO", kind, &format!("refused with {status}: ")] {
            assert!(entry.contains(fact), "{fact}: {entry}");
        }
        assert!(!entry.contains(char::is_control), "{entry:?}");
    }
    let mut client = daemon.connect();
    let response = client.send("GET /hello?s3cret HTTP/1.1\r\nHo").response();
    response.assert_error(408);
    let entry = entry(&daemon, &response);
    assert!(entry.contains("slow_head") && entry.contains("GET /hello\""), "{entry}");
    assert!(!entry.contains("s3cret"), "a query may hold secrets: {entry}");
    client.assert_closed();
}

#[test]
fn refused_request_is_answered_in_order() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    client
        .send_get("/slow/100")
        .send_get("/hello")
        .send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        .send_get("/die");
    assert_eq!(client.response().text(), "slow");
    assert_eq!(client.response().text(), "Hello, world!");
    client.response().assert_error(400);
    client.assert_closed();
}

#[test]
fn incomplete_second_head_is_408() {
    let daemon = Rgun::fake().set("timeouts.header", "200ms").set("timeouts.keepalive", "1h").start_ready();
    let mut client = daemon.connect();
    client.send("GET /hello HTTP/1.1\r\nHost: test\r\n\r\nGET /hello HTTP/1.1\r\nHo");
    assert_eq!(client.response().status, 200);
    client.response().assert_error(408);
    client.assert_closed();
    // A split head that is completed in time is served.
    let mut client = daemon.connect();
    client.send("GET /hello HTTP/1.1\r\nHost: test\r\n\r\nGET /hello HTTP/1.1\r\nHo");
    assert_eq!(client.response().status, 200);
    assert_eq!(client.send("st: test\r\n\r\n").response().status, 200);
}

#[test]
fn header_timeout_pauses_during_a_request() {
    let daemon = Rgun::fake().set("timeouts.header", "200ms").start_ready();
    let mut client = daemon.connect();
    client.send("GET /slow/1500 HTTP/1.1\r\nHost: test\r\n\r\nGET /hello HTTP/1.1\r\nHo");
    assert_eq!(client.response().text(), "slow");
    assert_eq!(client.send("st: test\r\n\r\n").response().status, 200);
}

#[test]
fn malformed_chunk_is_400_and_smuggles_nothing() {
    let asgi = || Rgun::fake().fake_behaviour("asgi").set("workers.concurrency", "10");
    // Both respond after the whole body.
    for (daemon, path) in [(Rgun::fake().start_ready(), "/body"), (asgi().start_ready(), "/receive")] {
        let head = CHUNKED.replacen("/body", path, 1);
        let zeros = "0".repeat(300);
        for body in [
            "5\x00\r\nhello\r\n0\r\n\r\n",
            "5;a\x00b\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5 ;a\r\nhello\r\n0\r\n\r\n",
            &format!("{zeros}5\r\nhello\r\n0\r\n\r\n"),
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\n",
            "5\r\nhello\r\n0\r\nX: y\n\r\n",
            "5\r\nhello\r\n0\r\nX: y\r\n\n",
            "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        ] {
            let response = assert_refused(&daemon, format!("{head}{body}"), 400);
            let entry = entry(&daemon, &response);
            assert!(entry.contains("bad_chunk") && entry.contains(path), "{body:?}: {entry}");
        }
    }
}

#[test]
fn truncated_head_at_the_end_of_input_is_not_a_request() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    client.send("GET /die HTTP/1.1\r\nHost: te").shutdown_write();
    assert!(matches!(client.try_response("GET"), Err(ReadError::Closed)));
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn many_requests_in_one_write_are_all_served() {
    let daemon = Rgun::fake().start_ready();
    let mut client: Client = daemon.connect();
    let one =
        "POST /body HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\r\n";
    client.send(one.repeat(400));
    for _ in 0..400 {
        assert_eq!(client.response().text(), "abc");
    }
    assert_eq!(client.get("/hello").status, 200);
}
