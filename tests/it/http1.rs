//! HTTP/1.0 and HTTP/1.1: framing (RFC 9112), limits and their status codes, timeouts.

use crate::support::{Client, Daemon, Rgun};

fn daemon() -> Daemon {
    Rgun::fake().start_ready()
}

#[test]
fn connection_serves_many_requests() {
    let daemon = daemon();
    let mut client = daemon.connect();
    for _ in 0..50 {
        let response = client.get("/hello");
        assert_eq!((response.status, response.text().as_str()), (200, "Hello, world!"));
        assert_eq!(response.field("content-length"), "13");
        assert!(response.has("date"), "RFC 9110 §6.6.1");
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let daemon = Rgun::fake().flags(["--workers", "2"]).start_ready();
    let mut client = daemon.connect();
    let paths =
        ["/slow/150", "/hello", "/status/204", "/slow/50", "/nothing-here", "/large/100000", "/hello"];
    for path in paths {
        client.send_get(path);
    }
    let responses: Vec<_> = paths.iter().map(|_| client.response()).collect();
    let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [200, 200, 204, 200, 404, 200, 200]);
    assert_eq!(responses[0].text(), "slow");
    assert_eq!(responses[5].body.len(), 100_000);
}

#[test]
fn request_in_single_bytes_is_served() {
    let daemon = daemon();
    let mut client = daemon.connect();
    for byte in b"POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc" {
        client.send([*byte]);
    }
    assert_eq!(client.response().text(), "abc");
}

#[test]
fn http_1_0_needs_no_host_and_closes() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let response = client.send("GET /hello HTTP/1.0\r\n\r\n").response();
    assert_eq!((response.status, response.text().as_str()), (200, "Hello, world!"));
    client.assert_closed();
}

#[test]
fn http_1_0_may_ask_for_keep_alive() {
    let daemon = daemon();
    let mut client = daemon.connect();
    for _ in 0..2 {
        let response = client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response();
        assert_eq!(response.field("connection"), "keep-alive");
    }
}

#[test]
fn http_1_0_gets_a_stream_without_chunks() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let response = client.send("GET /stream/3 HTTP/1.0\r\n\r\n").response();
    assert!(!response.has("transfer-encoding"), "RFC 9112 §6.1: {:?}", response.fields);
    assert_eq!(response.text(), "part 0\npart 1\npart 2\n");
}

/// A body without length or chunks ends with the connection, so the response must not offer
/// keep-alive (RFC 9112 §9.3).
#[test]
fn http_1_0_keep_alive_ends_after_a_body_without_length() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let response = client.send("GET /stream/3/30 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response();
    assert!(!response.has("content-length") && !response.has("transfer-encoding"));
    assert_eq!(response.field("connection"), "close");
    client.assert_closed();
}

#[test]
fn http_1_1_gets_a_stream_in_chunks() {
    let daemon = daemon();
    let response = daemon.get("/stream/3/30");
    assert_eq!(response.field("transfer-encoding"), "chunked");
    assert_eq!(response.text(), "part 0\npart 1\npart 2\n");
}

#[test]
fn reason_phrase_is_the_applications_or_standard() {
    let daemon = daemon();
    for (path, line) in [
        ("/reason", "299 Odd Reason"),
        ("/status/200", "200 OK"),
        ("/status/299", "299 "),
        ("/status/499", "499 "),
        ("/status/599", "599 "),
        ("/status/404", "404 Not Found"),
    ] {
        for version in ["1.1", "1.0"] {
            let mut client = daemon.connect();
            client.send(format!("GET {path} HTTP/{version}\r\nHost: test\r\nConnection: close\r\n\r\n"));
            while client.read().is_ok() {}
            let response = String::from_utf8_lossy(client.received()).into_owned();
            assert_eq!(response.lines().next(), Some(format!("HTTP/{version} {line}").as_str()), "{path}");
        }
    }
}

#[test]
fn connect_is_405() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let response = client.send("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").response();
    response.assert_error(405);
    assert!(response.field("allow").contains("GET"), "RFC 9110 §15.5.6");
}

#[test]
fn targets_arrive_unchanged() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let echo = |client: &mut Client, line: &str| {
        client.send(format!("{line}\r\nHost: test\r\n\r\n")).response().text()
    };
    let text = echo(&mut client, "GET /echo/%2F/../a//b;c=%20?x=1&y=%26?z HTTP/1.1");
    assert!(text.starts_with("GET /echo/%2F/../a//b;c=%20 11\nquery: x=1&y=%26?z\n"), "{text}");
    let text = echo(&mut client, "GET http://test/echo?a HTTP/1.1");
    assert!(text.starts_with("GET /echo 11\nquery: a\n"), "the absolute form, RFC 9112 §3.2.2: {text}");
    let text = echo(&mut client, "PROPFIND /echo HTTP/1.1");
    assert!(text.starts_with("PROPFIND /echo 11\n"), "{text}");
    let response = client.send("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n").response();
    assert_eq!(response.status, 404, "the application responds to it");
}

#[test]
fn too_many_fields_are_431() {
    let daemon = Rgun::fake().set("limits.headers", "20").start_ready();
    let fields = |count: usize| "X: y\r\n".repeat(count);
    let mut client = daemon.connect();
    let response = client.send(format!("GET /hello HTTP/1.1\r\nHost: test\r\n{}\r\n", fields(20))).response();
    assert_eq!(response.status, 431);
    let mut client = daemon.connect();
    let response = client.send(format!("GET /hello HTTP/1.1\r\nHost: test\r\n{}\r\n", fields(19))).response();
    assert_eq!(response.status, 200);
}

#[test]
fn incomplete_head_is_408() {
    let daemon = Rgun::fake().set("timeouts.header", "200ms").start_ready();
    let mut client = daemon.connect();
    client.send("GET /hello HTTP/1.1\r\nHo");
    let response = client.response();
    assert_eq!(response.status, 408);
    assert_eq!(response.field("connection"), "close");
    client.assert_closed();
}

#[test]
fn head_that_drips_is_408() {
    let daemon = Rgun::fake().set("timeouts.header", "200ms").start_ready();
    let mut client = daemon.connect();
    client.send("GET /hello HTTP/1.1\r\nX: ");
    // Each byte arrives in time, but not the whole head. Sending fails once the daemon has closed
    // the connection.
    while client.receives_nothing() {
        if client.try_send("x").is_err() {
            break;
        }
    }
    assert_eq!(client.response().status, 408);
}

#[test]
fn silent_connection_is_closed() {
    let daemon = Rgun::fake().set("timeouts.header", "200ms").start_ready();
    daemon.connect().assert_closed();
}

#[test]
fn idle_connection_is_closed_after_keepalive() {
    let daemon = Rgun::fake().set("timeouts.keepalive", "200ms").start_ready();
    let mut client = daemon.connect();
    assert_eq!(client.get("/hello").status, 200);
    client.assert_closed();
}

#[test]
fn slow_application_keeps_its_connection() {
    let daemon =
        Rgun::fake().set("timeouts.keepalive", "100ms").set("timeouts.header", "100ms").start_ready();
    assert_eq!(daemon.get("/slow/1300").text(), "slow");
}

#[test]
fn without_keep_alive_each_response_closes() {
    let daemon = Rgun::fake().set("timeouts.keepalive", "0s").start_ready();
    let mut client = daemon.connect();
    let response = client.get("/hello");
    assert_eq!(response.field("connection"), "close");
    client.assert_closed();
}

#[test]
fn connection_close_closes_after_the_response() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let response = client.send("GET /hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").response();
    assert_eq!(response.field("connection"), "close", "RFC 9112 §9.6");
    client.assert_closed();
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let daemon = daemon();
    let mut client = daemon.connect();
    client.send("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    let interim = client.read_exact("HTTP/1.1 100 Continue\r\n\r\n".len()).unwrap();
    assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(client.receives_nothing());
    assert_eq!(client.send("body").response().text(), "body");
}

#[test]
fn expect_100_continue_over_the_limit_is_413() {
    let daemon = Rgun::fake().set("limits.body", "1KiB").start_ready();
    let mut client = daemon.connect();
    client.send("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 4096\r\nExpect: 100-continue\r\n\r\n");
    let response = client.response();
    response.assert_error(413);
    assert!(response.interim.is_empty(), "RFC 9110 §10.1.1: {:?}", response.interim);
    client.assert_closed();
}

#[test]
fn head_is_answered_without_a_body() {
    let daemon = daemon();
    let mut client = daemon.connect();
    for (path, length) in [("/hello", "13"), ("/large/100000", "100000"), ("/file/5000", "5000")] {
        let response = client.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n")).response_to("HEAD");
        assert_eq!((response.status, response.field("content-length")), (200, length), "{path}");
    }
    // The next bytes on the connection are a response, not a body.
    assert_eq!(client.get("/hello").text(), "Hello, world!");
}

#[test]
fn responses_204_and_304_have_no_body() {
    let daemon = daemon();
    let mut client = daemon.connect();
    for status in [204, 304] {
        let response = client.get(&format!("/status/{status}"));
        assert_eq!(response.status, status);
        assert!(!response.has("transfer-encoding"), "RFC 9112 §6.1: {:?}", response.fields);
    }
    assert_eq!(client.get("/hello").text(), "Hello, world!");
}

#[test]
fn chunked_upload_arrives_with_its_length() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let head = "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let text = client.send(head).send("5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n").response().text();
    assert!(text.contains("body: 11\n") && text.contains("content-length: 11\n"), "{text}");
    assert!(!text.contains("transfer-encoding"), "the body has been decoded: {text}");
    let head = head.replace("/echo", "/body");
    let response = client.send(head).send("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n").response();
    assert_eq!(response.text(), "hello world");
}

#[test]
fn request_trailers_are_not_fields() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let head = "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
    let text = client.send(head).send("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n").response().text();
    assert!(text.contains("body: 3\n"), "{text}");
    assert!(!text.to_lowercase().contains("x-sum: 1"), "RFC 9110 §6.5.1: {text}");
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn each_response_has_its_own_request_id() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let mut ids = Vec::new();
    for path in ["/hello", "/hello", "/nothing", "/raise", "/stream/2", "/status/204"] {
        ids.push(client.get(path).field("x-request-id").to_owned());
    }
    let last = daemon.connect().send("GET /hello HTTP/1.1\r\n\r\n").response();
    ids.push(last.assert_error(400).field("x-request-id").to_owned());
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "{ids:?}");
}

#[test]
fn proxys_request_id_is_kept_if_it_is_safe() {
    let daemon = daemon();
    let mut client = daemon.connect();
    let mut with_id = |id: &str| {
        let head = format!("GET /echo HTTP/1.1\r\nHost: test\r\nX-Request-ID: {id}\r\n\r\n");
        let response = client.send(head).response();
        // The application gets the same id as the client, whatever the field was.
        assert_eq!(response.value("request id"), response.field("x-request-id"));
        response.field("x-request-id").to_owned()
    };
    assert_eq!(with_id("7f3a.b_C-9"), "7f3a.b_C-9");
    for unsafe_id in ["a b", "a\"b", "<script>", "\u{e9}", &"x".repeat(129)] {
        let answered = with_id(unsafe_id);
        assert!(answered.len() == 22 && answered.bytes().all(|byte| byte.is_ascii_hexdigit()), "{answered}");
    }
}
