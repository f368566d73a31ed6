use super::bytes::find_control;
use super::*;
use crate::rng::Rng;

const LIMITS: HeadLimits = HeadLimits { request_line: 100, fields: 1000, n_fields: 10 };

/// Returns the bytes that hyper gets, and the violation that ends them.
fn pass(bytes: &[u8]) -> (Vec<u8>, Option<Violation>) {
    pass_in_pieces(bytes, bytes.len().max(1), LIMITS)
}

/// Like [`pass`], for bytes that arrive in pieces of `len` bytes.
fn pass_in_pieces(bytes: &[u8], len: usize, limits: HeadLimits) -> (Vec<u8>, Option<Violation>) {
    let mut framing = Framing::new(limits);
    let (mut held, mut passed) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(len) {
        held.extend_from_slice(piece);
        loop {
            if !framing.is_mid_body() {
                held.drain(..empty_lines(&held));
            }
            if held.is_empty() {
                break;
            }
            match framing.accept(&mut held) {
                Ok(0) => break,
                Ok(len) => passed.extend(held.drain(..len)),
                Err(violation) => return (passed, Some(violation)),
            }
        }
    }
    (passed, None)
}

fn violation(head: &str) -> Violation {
    let whole = pass(head.as_bytes());
    // The violation does not depend on how the bytes arrive.
    assert_eq!(pass_in_pieces(head.as_bytes(), 1, LIMITS).1, whole.1, "{head:?}");
    whole.1.unwrap_or_else(|| panic!("this passes: {head:?}"))
}

fn assert_passes(bytes: &str) {
    for len in [1, 2, 7, bytes.len()] {
        assert_eq!(
            pass_in_pieces(bytes.as_bytes(), len, LIMITS),
            (bytes.as_bytes().to_vec(), None),
            "{bytes:?}"
        );
    }
}

#[test]
fn well_formed_messages_pass_unchanged_one_after_the_other() {
    assert_passes(
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /x?y=%20 HTTP/1.1\r\nhost:a:80\r\nContent-Length:  3 \r\n\r\nabc\
         POST http://a/ HTTP/1.0\r\nX: \t\u{fc}\r\nempty:\r\n\r\n\
         POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n00A;a=\"b;\\\"c\" ; d = e;f\r\n0123456789\r\n\
         0\r\nX-Sum: 1\r\nY:\r\n\r\nOPTIONS * HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    );
}

#[test]
fn nothing_beyond_the_end_of_a_message_passes() {
    let mut framing = Framing::new(LIMITS);
    let mut bytes = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabGET / HTTP/1.1\r\n\r\n".to_vec();
    let message = framing.accept(&mut bytes).unwrap();
    assert!(bytes[..message].ends_with(b"\r\n\r\nab") && !framing.is_mid_body());
}

#[test]
fn head_passes_with_what_has_arrived_of_a_known_body() {
    let mut framing = Framing::new(LIMITS);
    let mut bytes = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc".to_vec();
    assert_eq!(framing.accept(&mut bytes), Ok(bytes.len()));
    assert!(framing.is_mid_body());
    assert_eq!(framing.accept(&mut b"deGET".to_vec()), Ok(2));
    assert!(!framing.is_mid_body());
}

#[test]
fn head_passes_without_a_chunked_body() {
    let mut framing = Framing::new(LIMITS);
    let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(framing.accept(&mut [&head[..], b"0\r\n\r\n"].concat()), Ok(head.len()));
    assert!(framing.is_mid_body());
}

#[test]
fn empty_lines_before_a_request_are_ignored() {
    let (passed, violation) = pass(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\n");
    assert_eq!((passed.as_slice(), violation), (&b"GET / HTTP/1.1\r\n\r\n"[..], None));
    assert_eq!(pass_in_pieces(b"\r\nGET / HTTP/1.1\r\n\r\n", 1, LIMITS).0, b"GET / HTTP/1.1\r\n\r\n");
}

/// A bare LF before a request is refused, as anywhere else in a head.
#[test]
fn a_bare_lf_before_a_request_is_refused() {
    for bytes in ["\nGET / HTTP/1.1\r\n\r\n", "\r\n\nGET / HTTP/1.1\r\n\r\n", "\n"] {
        assert!(matches!(violation(bytes), Violation::RequestLine(_)), "{bytes:?}");
    }
}

#[test]
fn a_later_minor_version_becomes_1_1() {
    assert_eq!(pass(b"GET / HTTP/1.2\r\n\r\n"), (b"GET / HTTP/1.1\r\n\r\n".to_vec(), None));
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/9.9"] {
        assert_eq!(violation(&format!("GET / {version}\r\n\r\n")), Violation::Version);
    }
}

#[test]
fn a_malformed_request_line_is_refused() {
    for line in [
        "GET / HTTP/1.10",
        "GET / http/1.1",
        "GET / HTTP/1",
        "GET /",
        "GET",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "G(T / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET /\t HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET / HTTP/1.1\rX",
        "GET / HTTP/1.1\nX:y",
        "GET http:// HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET http://a/#b HTTP/1.1",
        "\u{16}\u{3}\u{1}",
        "{}",
        "GET a\\b: HTTP/1.1",
    ] {
        let violation = violation(&format!("{line}\r\n\r\n"));
        assert!(matches!(violation, Violation::RequestLine(_)), "{line:?}: {violation:?}");
    }
}

#[test]
fn another_protocol_is_refused_at_its_first_byte() {
    assert!(matches!(violation("\u{16}"), Violation::RequestLine(_)));
}

#[test]
fn a_malformed_field_is_refused() {
    for field in [
        "X : y",
        "X\t: y",
        ": y",
        "X",
        "X: a\r\n b",
        "X: a\nY: b",
        "X: a\rb",
        "X: \0",
        "X: \u{7f}",
        "X: \u{1b}[m",
        "X(: y",
        "\u{fc}: y",
        " X: y",
    ] {
        let violation = violation(&format!("GET / HTTP/1.1\r\n{field}\r\n\r\n"));
        assert!(matches!(violation, Violation::Field(_)), "{field:?}: {violation:?}");
    }
}

#[test]
fn an_invalid_host_is_refused_in_any_host_field() {
    assert_eq!(violation("GET / HTTP/1.1\r\nHost: a\r\nHOST: a b\r\n\r\n"), Violation::Host);
}

#[test]
fn a_malformed_or_repeated_body_length_is_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1, 1",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length:",
        "Content-Length: 0x1",
        "Content-Length: 1 1",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
        "Transfer-Encoding: xchunked",
    ] {
        let violation = violation(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n"));
        assert!(matches!(violation, Violation::Length(_)), "{fields:?}: {violation:?}");
    }
    let old = violation("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(matches!(old, Violation::Length(_)));
    for coding in ["gzip, chunked", "chunked, chunked", "chunked\r\nTransfer-Encoding: chunked"] {
        assert_eq!(
            violation(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: {coding}\r\n\r\n")),
            Violation::Coding
        );
    }
}

#[test]
fn a_content_length_beyond_the_maximum_of_hyper_is_refused() {
    for length in ["18446744073709551615", "18446744073709551614", "99999999999999999999999"] {
        assert_eq!(
            violation(&format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n")),
            Violation::BodyTooLong
        );
    }
    assert_passes("POST / HTTP/1.1\r\nContent-Length: 18446744073709551613\r\n\r\nabc");
    assert_passes(
        "POST / HTTP/1.1\r\nContent-Length: 0000000000000000000000003\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
    );
}

#[test]
fn a_request_line_over_the_limit_is_refused_before_its_end() {
    let fits = format!("GET /{} HTTP/1.1", "x".repeat(100 - "GET / HTTP/1.1".len()));
    assert_passes(&format!("{fits}\r\n\r\n"));
    assert_eq!(violation(&format!("{fits}x\r\n\r\n")), Violation::RequestLineTooLong);
    assert_eq!(violation(&"M".repeat(101)), Violation::RequestLineTooLong);
}

#[test]
fn fields_over_the_limits_are_refused_before_their_end() {
    let head = "GET / HTTP/1.1\r\n";
    let fits = format!("X: {}\r\n", "x".repeat(1000 - "X: \r\n".len()));
    assert_passes(&format!("{head}{fits}\r\n"));
    assert_eq!(violation(&format!("{head}x{fits}\r\n")), Violation::FieldsTooLong);
    assert_eq!(violation(&format!("{head}X: {}", "x".repeat(998))), Violation::FieldsTooLong);
    assert_passes(&format!("{head}{}\r\n", "X: y\r\n".repeat(10)));
    assert_eq!(violation(&format!("{head}{}", "X: y\r\n".repeat(11))), Violation::TooManyFields);
}

#[test]
fn malformed_chunks_are_refused_at_their_first_wrong_byte() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (before, from) in [
        ("", "\r\n"),
        ("", " 1\r\n"),
        ("", "x"),
        ("", "-1"),
        ("", "+1"),
        ("0", "x1\r\n"),
        ("1", " \r\n"),
        ("1", "\t;a\r\n"),
        ("1", "\n"),
        ("1\r", "a"),
        ("0000000000000000", "1\r\n"),
        ("1\r\na", "b"),
        ("1\r\na\r", "b"),
        ("1\r\na", "\n"),
        ("1;", "\r\n"),
        ("1;a", "\0"),
        ("1;a", "\n"),
        ("1;a ", "\r\n"),
        ("1;a=", "\r\n"),
        ("1;a=\"", "\0"),
        ("1;a=\"\\", "\u{1}"),
        ("1;a=\"b\"", "c"),
        ("1;a b", ""),
        ("1;a=\"b", "\r\n"),
        ("1;", "=b"),
        ("1;", ";"),
        ("0\r\n", "\n"),
        ("0\r\nX: a", "\n"),
        ("0\r\nX: a\r", "X"),
        ("0\r\nX: a", "\0"),
        ("0\r\nX", " : a"),
        ("0\r\n", " folded"),
        ("0\r\n", ": a"),
        ("0\r\nX", "\r\n"),
        ("0\r\nHost", ": a"),
        ("0\r\nX: a\r\nContent-Length", ":1"),
        ("0\r\nTRANSFER-ENCODING", ": chunked"),
        ("0\r\nX: a\r\n\r", "X"),
    ] {
        // An empty second part: the last byte of the first part is the malformed one.
        let (before, from) = if from.is_empty() { before.split_at(before.len() - 1) } else { (before, from) };
        for len in [1, 3, 1000] {
            let bytes = format!("{head}{before}{from}GET / HTTP/1.1\r\n\r\n");
            let (passed, violation) = pass_in_pieces(bytes.as_bytes(), len, LIMITS);
            assert!(matches!(violation, Some(Violation::Chunk(_))), "{before:?}{from:?}: {violation:?}");
            assert_eq!(String::from_utf8_lossy(&passed), format!("{head}{before}"), "{before:?}{from:?}");
        }
    }
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let assert_refused = |body: String| {
        let (_, violation) = pass(format!("{head}{body}").as_bytes());
        assert!(matches!(violation, Some(Violation::Chunk(_))), "{}: {violation:?}", body.len());
    };
    assert_refused(format!("1;{}", "x".repeat(16 * 1024)));
    assert_refused("1;x=1234567890\r\na\r\n".repeat(1500));
    assert_refused(format!("0\r\nX: {}", "x".repeat(1000)));
    assert_refused(format!("0\r\n{}", "X: y\r\n".repeat(11)));
    assert_passes(&format!("{head}0\r\n{}\r\n", "X: y\r\n".repeat(10)));
    assert_passes(&format!("{head}0\r\nHosts: a\r\nX-Transfer-Encoding: b\r\nHos: c\r\n\r\n"));
}

#[test]
fn the_first_control_byte_is_found_at_any_position() {
    for len in 0..40 {
        let plain: Vec<u8> = (0x20..0x7f).chain(0x80..=0xff).cycle().skip(len * 7).take(len).collect();
        assert_eq!(find_control(&plain), len);
        for at in 0..len {
            for control in (0..0x20).chain([0x7f]) {
                let mut bytes = plain.clone();
                bytes[at] = control;
                // Later control bytes do not matter.
                bytes[at + 1..].iter_mut().step_by(2).for_each(|byte| *byte = 0x7f);
                assert_eq!(find_control(&bytes), at, "{control} at {at} of {len}");
            }
        }
    }
}

/// Returns random fragments of messages, well formed and malformed, in random order.
fn fragments(rng: &mut Rng) -> Vec<u8> {
    const FRAGMENTS: [&[u8]; 40] = [
        b"GET",
        b"POST",
        b" ",
        b"/",
        b"/a?b=c",
        b"http://a.b/c",
        b"*",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b" HTTP/1.2",
        b"\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"Host: a\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"abc",
        b"Transfer-Encoding: chunked\r\n",
        b"X: y\r\n",
        b":",
        b"\t",
        b"\0",
        b"\x7f",
        b"\x80\xff",
        b"\"<>\\^`{|}",
        b"#f",
        b"[::1]",
        b"%",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b";a=b",
        b"0\r\nX: y\r\n\r\n",
        b"Connection: close\r\n",
        b"POST / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: x\r\n",
        b"GET /\xc3\xbc HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let starts: [&[u8]; 3] =
        [b"", b"POST / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"];
    let mut bytes = rng.pick(&starts).to_vec();
    for _ in 0..rng.index(12) {
        bytes.extend_from_slice(rng.pick(&FRAGMENTS));
    }
    if rng.index(4) == 0 && !bytes.is_empty() {
        let at = rng.index(bytes.len());
        bytes[at] = u8::try_from(rng.index(256)).unwrap();
    }
    bytes
}

#[test]
fn framing_does_not_depend_on_how_bytes_arrive() {
    let mut rng = Rng::new(1);
    for _ in 0..20_000 {
        let bytes = fragments(&mut rng);
        let whole = pass(&bytes);
        for len in [1, 2, 5] {
            assert_eq!(pass_in_pieces(&bytes, len, LIMITS), whole, "{}", bytes.escape_ascii());
        }
    }
}

/// hyper finds the same end of each message as the framing, and accepts every message that the
/// framing accepts. `Wire` relies on both: a response of hyper's own would have no request id.
#[test]
fn hyper_reads_accepted_messages_as_framed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut rng = Rng::new(2);
    let mut n_served = 0;
    for _ in 0..20_000 {
        let bytes = fragments(&mut rng);
        let mut framing = Framing::new(LIMITS);
        let mut held = bytes.clone();
        held.drain(..empty_lines(&held));
        let mut message = Vec::new();
        while let Ok(len @ 1..) = framing.accept(&mut held) {
            message.extend(held.drain(..len));
            if !framing.is_mid_body() {
                // hyper must find exactly one request in this message.
                let served = runtime.block_on(hyper_serves(&message));
                assert_eq!(served, (1, true), "{}", message.escape_ascii());
                n_served += 1;
                break;
            }
        }
    }
    assert!(n_served > 500, "too few to mean anything: {n_served}");
}

/// Returns the number of requests that hyper served, and whether the connection ended without an
/// error.
async fn hyper_serves(bytes: &[u8]) -> (u32, bool) {
    use tokio::io::AsyncWriteExt;
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let served = std::sync::atomic::AtomicU32::new(0);
    let service = hyper::service::service_fn(async |request: http::Request<hyper::body::Incoming>| {
        let mut body = request.into_body();
        while let Some(frame) =
            std::future::poll_fn(|cx| http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)).await
        {
            frame?;
        }
        served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, hyper::Error>(http::Response::new(String::new()))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .max_headers(LIMITS.n_fields)
        .max_header_size(LIMITS.request_line + LIMITS.fields + 4)
        .serve_connection(hyper_util::rt::TokioIo::new(server), service);
    let outcome = connection.await;
    drop(client);
    (served.into_inner(), outcome.is_ok())
}
