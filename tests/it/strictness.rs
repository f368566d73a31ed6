//! HTTP/1.1 messages that are refused, byte by byte: tables of messages, each with the section of
//! the RFC that decides.
//!
//! Two parsers in a row, a proxy's and rgun's, must agree where each message ends. So a message
//! that they could read differently is refused, the connection is closed, and nothing of what
//! follows is served. Each refused request asks for `/die`, which ends the worker: if the worker is
//! alive, it has not received the request. HTTP/2 has its own tables, in
//! `tests/compat/clients/test_http2_heads.py` and `test_http2_conformance.py`.

use crate::support::{Daemon, Rgun};

/// Sent after a refused message. If it were taken for a request, the worker would exit.
const SMUGGLED: &[u8] = b"GET /die HTTP/1.1\r\nHost: test\r\n\r\n";

/// A message that is refused: what is wrong with it, the section that says so, its bytes, and the
/// status.
type Refused = (&'static str, &'static str, Vec<u8>, u16);

/// A message that is served although it is unusual: what is unusual, the section that allows it,
/// its bytes, and a part of the response's body.
type Served = (&'static str, &'static str, Vec<u8>, &'static str);

fn daemon() -> Daemon {
    Rgun::fake()
        .set("limits.request_line", "1KiB")
        .set("limits.header", "2KiB")
        .set("limits.headers", "20")
        .start_ready()
}

fn assert_refused(rows: Vec<Refused>) {
    let daemon = daemon();
    let worker = daemon.worker();
    for (what, section, message, status) in rows {
        let mut client = daemon.connect();
        client.send(&message);
        // The daemon may have responded and stopped reading.
        drop(client.try_send(SMUGGLED));
        let response = client.response();
        assert_eq!(response.status, status, "{what} ({section}): {}", response.text());
        response.assert_error(status);
        assert_eq!(response.field("connection"), "close", "{what} ({section})");
        client.assert_closed();
        assert_eq!(daemon.worker(), worker, "{what} ({section}): a refused request was served");
    }
}

fn assert_served(rows: Vec<Served>) {
    let daemon = daemon();
    for (what, section, message, body) in rows {
        let mut client = daemon.connect();
        let response = client.send(&message).response();
        assert!(
            response.text().contains(body),
            "{what} ({section}): {} {}",
            response.status,
            response.text()
        );
        // The daemon finds the end of the message: the next request is served.
        assert_eq!(client.get("/hello").status, 200, "{what} ({section})");
    }
}

/// A request with this line and a Host.
fn line(line: impl AsRef<[u8]>) -> Vec<u8> {
    [line.as_ref(), b"\r\nHost: test\r\n\r\n"].concat()
}

/// A GET with a Host and these lines of fields, each with its line end.
fn fields(lines: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /die HTTP/1.1\r\nHost: test\r\n", lines.as_ref(), b"\r\n"].concat()
}

/// A POST with a Host, these lines of fields, and a body.
fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /die HTTP/1.1\r\nHost: test\r\n{lines}\r\n{body}").into_bytes()
}

fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    [b"POST /die HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n", body.as_ref()].concat()
}

#[test]
fn malformed_request_lines_are_refused() {
    let raw = |message: &str| message.as_bytes().to_vec();
    assert_refused(vec![
        ("bare LF", "9112 2.2", raw("GET /die HTTP/1.1\nHost: test\r\n\r\n"), 400),
        ("bare LF before it", "9112 2.2", raw("\nGET /die HTTP/1.1\r\nHost: test\r\n\r\n"), 400),
        ("bare CR before it", "9112 2.2", raw("\rGET /die HTTP/1.1\r\nHost: test\r\n\r\n"), 400),
        ("bare CR", "9112 2.2", line("GET /die HTTP/1.1\rX: y"), 400),
        ("bare CR as a separator", "9112 3", line("GET\r/die HTTP/1.1"), 400),
        ("space before it", "9112 2.2", line(" GET /die HTTP/1.1"), 400),
        ("tab before it", "9112 2.2", line("\tGET /die HTTP/1.1"), 400),
        ("space before the fields", "9112 2.2", raw("GET /die HTTP/1.1\r\n X: y\r\nHost: test\r\n\r\n"), 400),
        ("two spaces", "9112 3", line("GET  /die HTTP/1.1"), 400),
        ("two spaces before the version", "9112 3", line("GET /die  HTTP/1.1"), 400),
        ("tab as a separator", "9112 3", line("GET\t/die\tHTTP/1.1"), 400),
        ("form feed as a separator", "9112 3", line("GET /die\x0cHTTP/1.1"), 400),
        ("space at its end", "9112 3", line("GET /die HTTP/1.1 "), 400),
        ("NUL", "9112 3", line("GET /die\0 HTTP/1.1"), 400),
        ("no target", "9112 3.2", line("GET HTTP/1.1"), 400),
        ("no version", "9112 2.3", line("GET /die"), 400),
        ("only a method", "9112 3", line("GET"), 400),
        ("version 0.9", "9110 15.6.6", line("GET /die HTTP/0.9"), 505),
        ("version 2.0", "9110 15.6.6", line("GET /die HTTP/2.0"), 505),
        ("version 3.0", "9110 15.6.6", line("GET /die HTTP/3.0"), 505),
        ("version in lower case", "9112 2.3", line("GET /die http/1.1"), 400),
        ("version without a minor number", "9112 2.3", line("GET /die HTTP/1"), 400),
        ("version with two digits", "9112 2.3", line("GET /die HTTP/1.10"), 400),
        ("version with a space", "9112 2.3", line("GET /die HTTP/ 1.1"), 400),
        ("version with a sign", "9112 2.3", line("GET /die HTTP/+1.1"), 400),
        ("other protocol", "9112 2.3", line("GET /die ICY/1.1"), 400),
        ("delimiter in the method", "9110 9.1", line("G(T /die HTTP/1.1"), 400),
        ("NUL in the method", "9110 9.1", line("G\0T /die HTTP/1.1"), 400),
        ("byte above ASCII in the method", "9110 9.1", line(b"G\xc9T /die HTTP/1.1"), 400),
        ("long method", "9112 3", line(format!("{} /die HTTP/1.1", "M".repeat(1024))), 414),
        ("long target", "9112 3", line(format!("GET /die?{} HTTP/1.1", "x".repeat(1024))), 414),
        ("long line without an end", "9112 3", format!("GET /die?{}", "x".repeat(1100)).into_bytes(), 414),
        ("TLS", "9112 3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(), 400),
    ]);
}

#[test]
fn malformed_targets_are_refused() {
    assert_refused(vec![
        ("fragment", "9112 3.2", line("GET /die#top HTTP/1.1"), 400),
        ("fragment in a URI", "9112 3.2", line("GET http://test/die#top HTTP/1.1"), 400),
        ("space", "9112 3.2", line("GET /die now HTTP/1.1"), 400),
        ("tab", "9112 3.2", line("GET /die\tnow HTTP/1.1"), 400),
        ("control byte", "9112 3.2", line("GET /die\x01 HTTP/1.1"), 400),
        ("DEL", "9112 3.2", line("GET /die\x7f HTTP/1.1"), 400),
        ("bytes that are not UTF-8", "9112 3.2", line(b"GET /die\xfc HTTP/1.1"), 400),
        ("relative path", "9112 3.2.1", line("GET die HTTP/1.1"), 400),
        ("dots", "9112 3.2.1", line("GET ../die HTTP/1.1"), 400),
        ("query alone", "9112 3.2.1", line("GET ?/die HTTP/1.1"), 400),
        ("authority without CONNECT", "9112 3.2.3", line("GET test:80 HTTP/1.1"), 400),
        ("asterisk without OPTIONS", "9112 3.2.4", line("GET * HTTP/1.1"), 400),
        ("asterisk and more", "9112 3.2.4", line("OPTIONS */die HTTP/1.1"), 400),
        ("URI without a host", "9110 4.2.1", line("GET http:///die HTTP/1.1"), 400),
        ("URI with user information", "9110 4.2.4", line("GET http://me@test/die HTTP/1.1"), 400),
        ("URI with an invalid port", "9110 4.2.1", line("GET http://test:x/die HTTP/1.1"), 400),
        ("CONNECT", "9110 9.3.6", line("CONNECT test:443 HTTP/1.1"), 405),
        ("CONNECT with a path", "9112 3.2.3", line("CONNECT /die HTTP/1.1"), 405),
    ]);
}

#[test]
fn malformed_fields_are_refused() {
    let many = "X: y\r\n".repeat(20);
    let long = format!("X: {}\r\n", "y".repeat(2048));
    let long_in_all = format!("X: {}\r\n", "y".repeat(500)).repeat(5);
    let unfinished = [b"GET /die HTTP/1.1\r\nHost: test\r\nX: ", &*vec![b'y'; 3000]].concat();
    assert_refused(vec![
        ("bare LF", "9112 2.2", fields("X: y\nZ: z\r\n"), 400),
        ("bare LF at the end of the head", "9112 2.2", fields("X: y\r\n\n"), 400),
        ("bare CR in a value", "9110 5.5", fields("X: y\rZ: z\r\n"), 400),
        ("bare CR in a name", "9110 5.1", fields("X\rY: z\r\n"), 400),
        ("folded with a space", "9112 5.2", fields("X: y\r\n z\r\n"), 400),
        ("folded with a tab", "9112 5.2", fields("X: y\r\n\tz\r\n"), 400),
        ("folded length", "9112 5.2", fields("X: y\r\n Content-Length: 5\r\n"), 400),
        ("line of spaces", "9112 5.2", fields("X: y\r\n  \r\n"), 400),
        ("space before the colon", "9112 5.1", fields("X : y\r\n"), 400),
        ("tab before the colon", "9112 5.1", fields("X\t: y\r\n"), 400),
        ("space before the colon of a length", "9112 5.1", fields("Content-Length : 5\r\n"), 400),
        ("no name", "9110 5.1", fields(": y\r\n"), 400),
        ("no colon", "9112 5", fields("X\r\n"), 400),
        ("space in a name", "9110 5.1", fields("X Y: z\r\n"), 400),
        ("delimiter in a name", "9110 5.1", fields("X(Y): z\r\n"), 400),
        ("NUL in a name", "9110 5.1", fields("X\0Y: z\r\n"), 400),
        ("byte above ASCII in a name", "9110 5.1", fields(b"X\xe9: z\r\n"), 400),
        ("NUL in a value", "9110 5.5", fields("X: y\0z\r\n"), 400),
        ("escape in a value", "9110 5.5", fields("X: \x1b[31m\r\n"), 400),
        ("vertical tab in a value", "9110 5.5", fields("X: y\x0bz\r\n"), 400),
        ("DEL in a value", "9110 5.5", fields("X: y\x7f\r\n"), 400),
        ("too many", "6585 5", fields(many), 431),
        ("too long", "6585 5", fields(long), 431),
        ("too long together", "6585 5", fields(long_in_all), 431),
        ("too long before its end", "6585 5", unfinished, 431),
    ]);
}

#[test]
fn missing_and_ambiguous_hosts_are_refused() {
    let hosts = |lines: &[u8]| [b"GET /die HTTP/1.1\r\n", lines, b"\r\n"].concat();
    let mut rows = vec![
        ("missing", "9112 3.2", hosts(b""), 400),
        ("missing with a URI", "9112 3.2", b"GET http://test/die HTTP/1.1\r\n\r\n".to_vec(), 400),
        ("two", "9112 3.2", hosts(b"Host: a\r\nHost: b\r\n"), 400),
        ("the same twice", "9112 3.2", hosts(b"Host: a\r\nhost: a\r\n"), 400),
        ("one valid, one not", "9112 3.2", hosts(b"Host: a\r\nHost: a b\r\n"), 400),
        ("two in HTTP/1.0", "9112 3.2", b"GET /die HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".to_vec(), 400),
    ];
    for host in
        [&b"a b"[..], b"a/b", b"me@a", b"a:b", b"a:1:2", b":80", b"[::1", b"a\"b", b"b\xfccher", b"%zz"]
    {
        rows.push(("invalid", "9110 7.2", hosts(&[b"Host: ", host, b"\r\n"].concat()), 400));
    }
    assert_refused(rows);
}

/// RFC 9112 §6.3, §11.2.
#[test]
fn ambiguous_lengths_are_refused() {
    let te = "Transfer-Encoding: chunked\r\n";
    let end = "0\r\n\r\n";
    let mut rows = vec![
        ("TE and CL", "9112 6.3", post(&format!("{te}Content-Length: 5\r\n"), end), 400),
        ("CL and TE", "9112 6.3", post(&format!("Content-Length: 5\r\n{te}"), end), 400),
        ("two lengths", "9112 6.3", post("Content-Length: 0\r\nContent-Length: 5\r\n", ""), 400),
        ("the same length twice", "9112 6.3", post("Content-Length: 0\r\nContent-Length: 0\r\n", ""), 400),
        ("gzip, chunked", "9112 6.1", post("Transfer-Encoding: gzip, chunked\r\n", end), 501),
        ("chunked twice", "9112 6.1", post("Transfer-Encoding: chunked, chunked\r\n", end), 501),
        ("two fields of chunked", "9112 6.1", post(&te.repeat(2), end), 501),
        ("chunked, but not last", "9112 6.3", post("Transfer-Encoding: chunked, gzip\r\n", end), 400),
        ("identity", "9112 6.3", post("Transfer-Encoding: identity\r\n", end), 400),
        ("chunked, identity", "9112 6.3", post("Transfer-Encoding: chunked, identity\r\n", end), 400),
        ("no coding", "9112 6.3", post("Transfer-Encoding:\r\n", end), 400),
        ("unknown coding", "9112 6.3", post("Transfer-Encoding: xchunked\r\n", end), 400),
        ("chunked in quotes", "9112 6.1", post("Transfer-Encoding: \"chunked\"\r\n", end), 400),
        ("chunked with a parameter", "9112 7.1", post("Transfer-Encoding: chunked;q=1\r\n", end), 400),
        ("chunked after a control byte", "9110 5.5", post("Transfer-Encoding: \x0bchunked\r\n", end), 400),
        (
            "chunked in HTTP/1.0",
            "9112 6.1",
            format!("POST /die HTTP/1.0\r\nConnection: keep-alive\r\n{te}\r\n{end}").into_bytes(),
            400,
        ),
    ];
    for length in ["", "+0", "-1", "0x0", "0, 5", "5, 5", "0 0", "0;", "1e3", "\u{b2}"] {
        rows.push(("no number", "9110 8.6", post(&format!("Content-Length: {length}\r\n"), ""), 400));
    }
    for length in [u128::from(u64::MAX), u128::from(u64::MAX) - 1, u128::MAX] {
        rows.push(("too large", "9110 8.6", post(&format!("Content-Length: {length}\r\n"), ""), 413));
    }
    assert_refused(rows);
}

/// RFC 9112 §7.1.
#[test]
fn malformed_chunks_and_trailers_are_refused() {
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(17 * 1024));
    let zeros = format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(300));
    let long_trailer = format!("0\r\nX: {}\r\n\r\n", "y".repeat(2048));
    let many_trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(21));
    let rows: Vec<(&'static str, &'static str, &str)> = vec![
        ("no size", "7.1", "\r\nhello\r\n0\r\n\r\n"),
        ("size with a plus", "7.1", "+5\r\nhello\r\n0\r\n\r\n"),
        ("size with a minus", "7.1", "-5\r\nhello\r\n0\r\n\r\n"),
        ("space before the size", "7.1", " 5\r\nhello\r\n0\r\n\r\n"),
        ("space after the size", "7.1", "5 \r\nhello\r\n0\r\n\r\n"),
        ("size with 0x", "7.1", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("size with an underscore", "7.1", "1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
        ("size that is not a number", "7.1", "g\r\nhello\r\n0\r\n\r\n"),
        ("size that overflows", "7.1", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("size with many leading zeros", "7.1", &zeros),
        ("NUL after the size", "7.1", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("bare LF after the size", "7.1", "5\nhello\r\n0\r\n\r\n"),
        ("bare CR after the size", "7.1", "5\rhello\r\n0\r\n\r\n"),
        ("bare LF after the data", "7.1", "5\r\nhello\n0\r\n\r\n"),
        ("no line end after the data", "7.1", "5\r\nhello0\r\n\r\n"),
        ("data longer than its size", "7.1", "4\r\nhello\r\n0\r\n\r\n"),
        ("data shorter than its size", "7.1", "6\r\nhello\r\n0\r\n\r\n"),
        ("bare LF at the end", "7.1", "5\r\nhello\r\n0\r\n\n"),
        ("bare LF after the last size", "7.1", "5\r\nhello\r\n0\n\r\n"),
        ("NUL in an extension", "7.1.1", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("bare LF in an extension", "7.1.1", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("bare CR in an extension", "7.1.1", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("extension without a name", "7.1.1", "5;\r\nhello\r\n0\r\n\r\n"),
        ("space before an extension", "7.1.1", "5 ;a\r\nhello\r\n0\r\n\r\n"),
        ("unfinished quotes in an extension", "7.1.1", "5;a=\"b\r\nhello\r\n0\r\n\r\n"),
        ("long extension", "7.1.1", &long_extension),
        ("space before a trailer's colon", "7.1.2", "0\r\nX : y\r\n\r\n"),
        ("folded trailer", "7.1.2", "0\r\nX: y\r\n z\r\n\r\n"),
        ("space before the trailers", "7.1.2", "0\r\n X: y\r\n\r\n"),
        ("trailer without a name", "7.1.2", "0\r\n: y\r\n\r\n"),
        ("trailer without a colon", "7.1.2", "0\r\nX\r\n\r\n"),
        ("NUL in a trailer", "7.1.2", "0\r\nX: y\0\r\n\r\n"),
        ("bare LF after a trailer", "7.1.2", "0\r\nX: y\n\r\n"),
        ("bare LF after the trailers", "7.1.2", "0\r\nX: y\r\n\n"),
        ("long trailer", "7.1.2", &long_trailer),
        ("too many trailers", "7.1.2", &many_trailers),
        ("length in the trailers", "7.1.2", "0\r\nContent-Length: 5\r\n\r\n"),
        ("coding in the trailers", "7.1.2", "0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("host in the trailers", "7.1.2", "0\r\nHost: other\r\n\r\n"),
    ];
    assert_refused(
        rows.into_iter().map(|(what, section, body)| (what, section, chunked(body), 400)).collect(),
    );
}

#[test]
fn unusual_but_valid_messages_are_served() {
    let chunks = |body: &str| {
        let head = "POST /body HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: Chunked\r\n\r\n";
        format!("{head}{body}").into_bytes()
    };
    let echo = |line: &str, fields: &str| format!("{line}\r\n{fields}\r\n").into_bytes();
    let host = "Host: test\r\n";
    assert_served(vec![
        ("empty lines before it", "9112 2.2", echo("\r\n\r\nGET /echo HTTP/1.1", host), "GET /echo 11\n"),
        ("later minor version", "9110 2.5", echo("GET /echo HTTP/1.2", host), "GET /echo 11\n"),
        ("method in lower case", "9110 9.1", echo("get /echo HTTP/1.1", host), "get /echo 11\n"),
        (
            "long unknown method",
            "9110 9.1",
            echo(&format!("{} /echo HTTP/1.1", "M".repeat(200)), host),
            "MMM",
        ),
        (
            "URI with another host",
            "9112 3.2.2",
            echo("GET http://other/echo HTTP/1.1", host),
            "host: other\n",
        ),
        ("asterisk with OPTIONS", "9112 3.2.4", echo("OPTIONS * HTTP/1.1", host), ""),
        ("UTF-8 in the path", "3986 2.5", echo("GET /echo/\u{fc} HTTP/1.1", host), "GET /echo/"),
        ("empty host", "9112 3.2", echo("GET /echo HTTP/1.1", "Host:\r\n"), "GET /echo 11\n"),
        (
            "host with an address",
            "9110 7.2",
            echo("GET /echo HTTP/1.1", "Host: [::1]:80\r\n"),
            "host: [::1]:80\n",
        ),
        ("empty value", "9110 5.5", echo("GET /echo HTTP/1.1", "Host: test\r\nX:\r\n"), "x: \n"),
        (
            "spaces around a value",
            "9110 5.5",
            echo("GET /echo HTTP/1.1", "Host: test\r\nX: \ty \r\n"),
            "x: y\n",
        ),
        (
            "length with leading zeros",
            "9110 8.6",
            b"POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 003\r\n\r\nabc".to_vec(),
            "abc",
        ),
        ("size in capitals with zeros", "9112 7.1", chunks("00A\r\n0123456789\r\n0\r\n\r\n"), "0123456789"),
        ("extensions", "9112 7.1.1", chunks("3;a=b;c=\"d;\\\"e\"\r\nabc\r\n0;f\r\n\r\n"), "abc"),
        ("trailer", "9110 6.5.1", chunks("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"), "abc"),
    ]);
}
