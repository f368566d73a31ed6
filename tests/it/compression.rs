//! `[compression]`: raw responses, decoded with the library that rgun uses.

use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::{BrotliDecoder, DecodeV2, GzipDecoder, ZstdDecoder};
use nix::sys::signal::Signal;

use crate::support::{Daemon, Response, Rgun, assert_same_bytes, pattern};

fn compressing() -> Rgun {
    Rgun::fake().set("compression.algorithms", "zstd,br,gzip")
}

fn get(daemon: &Daemon, path: &str, accept: &str) -> Response {
    let mut client = daemon.connect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\n\r\n");
    client.send(request).response()
}

/// Decodes `encoded`, which may be truncated. `coding` is the value of `Content-Encoding`.
fn decode(coding: &str, encoded: &[u8]) -> Vec<u8> {
    let mut decoder: Box<dyn DecodeV2> = match coding {
        "zstd" => Box::new(ZstdDecoder::new()),
        "br" => Box::new(BrotliDecoder::new()),
        "gzip" => Box::new(GzipDecoder::new()),
        other => panic!("an unexpected coding: {other}"),
    };
    let mut decoded = vec![0; 8 << 20];
    let mut input = PartialBuffer::new(encoded);
    let mut output = WriteBuffer::new_initialized(&mut decoded);
    while !input.unwritten().is_empty() && !decoder.decode(&mut input, &mut output).expect("a valid stream") {
    }
    let len = output.written_len();
    decoded.truncate(len);
    decoded
}

/// Returns the first `count` parts of the application's stream.
fn parts(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        text.extend(["part ", &n.to_string(), "\n"]);
    }
    text
}

#[test]
fn compression_is_off_by_default() {
    let daemon = Rgun::fake().start_ready();
    let response = get(&daemon, "/large/4000", "gzip, br, zstd");
    assert!(!response.has("content-encoding") && !response.has("vary"));
    assert_same_bytes(&response.body, &pattern(4000));
}

#[test]
fn each_coding_is_decoded_at_each_size() {
    let daemon = compressing().start_ready();
    for coding in ["zstd", "br", "gzip"] {
        for path in ["large", "file"] {
            for len in [1024, 30_000, 200_000, 3_000_000] {
                let response = get(&daemon, &format!("/{path}/{len}"), coding);
                assert_eq!(
                    (response.status, response.field("content-encoding")),
                    (200, coding),
                    "{path} {len}"
                );
                assert_eq!(response.field("vary"), "accept-encoding");
                assert!(response.body.len() < len / 2, "{coding} {path} {len}: {}", response.body.len());
                assert_same_bytes(&decode(coding, &response.body), &pattern(len));
            }
        }
    }
}

#[test]
fn coding_follows_the_weights_then_the_setting() {
    let daemon = compressing().start_ready();
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip, deflate, br", Some("br")),
        ("gzip;q=1, br;q=0.5", Some("gzip")),
        ("*", Some("zstd")),
        ("identity", None),
        ("zstd;q=0, *;q=0", None),
        ("", None),
    ] {
        let response = get(&daemon, "/with/x-a/b", accept);
        let found = response.has("content-encoding").then(|| response.field("content-encoding"));
        assert_eq!(found, coding, "{accept}");
        assert_eq!(response.field("vary"), "accept-encoding", "{accept}");
        assert!(response.has("content-length"), "{accept}: a small body has a length");
    }
}

#[test]
fn responses_that_must_not_change_are_not_compressed() {
    let daemon = compressing().start_ready();
    for path in [
        "/hello",
        "/with/content-encoding/gzip",
        "/with/content-range/bytes 0-3999%2F4000",
        "/with/cache-control/no-transform",
        "/with/content-digest/x",
        "/status/204",
        "/status/304",
    ] {
        let response = get(&daemon, &path.replace(' ', "%20"), "gzip");
        assert!(!response.has("vary"), "{path}");
        assert!(!response.has("content-encoding") || path.contains("content-encoding"), "{path}");
        if path.starts_with("/with") {
            assert_same_bytes(&response.body, &pattern(4000));
        }
    }
    let old = "GET /large/4000 HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n";
    let response = daemon.connect().send(old).response();
    assert!(!response.has("content-encoding"));
    assert_same_bytes(&response.body, &pattern(4000));
}

#[test]
fn head_describes_the_compressed_body() {
    let daemon = compressing().start_ready();
    for (sent, received) in [("%22a%22", "W/\"a\""), ("W%2F%22a%22", "W/\"a\"")] {
        let response = get(&daemon, &format!("/with/etag/{sent}"), "gzip");
        assert_eq!(response.field("etag"), received);
        assert_eq!(response.field("content-length"), response.body.len().to_string());
        assert_same_bytes(&decode("gzip", &response.body), &pattern(4000));
    }
    let mut client = daemon.connect();
    let head = "HEAD /with/etag/%22a%22 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
    for _ in 0..2 {
        let response = client.send(head).response_to("HEAD");
        let fields = ["content-encoding", "etag", "vary"].map(|name| response.field(name));
        assert_eq!((response.status, fields), (200, ["gzip", "W/\"a\"", "accept-encoding"]));
        assert!(!response.has("content-length"), "{:?}", response.fields);
    }
    let response = get(&daemon, "/with/accept-ranges/bytes", "br");
    assert!(!response.has("accept-ranges"));
    let response = get(&daemon, "/with/vary/Cookie", "br");
    let vary: Vec<_> =
        response.fields.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value).collect();
    assert_eq!(vary, ["Cookie", "accept-encoding"]);
    // All requests share one connection, so each response must be framed correctly.
    let mut client = daemon.connect();
    for path in ["/large/300000", "/hello", "/stream/3", "/large/4000", "/hello"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"));
        assert_eq!(client.response().status, 200, "{path}");
    }
}

#[test]
fn each_part_of_a_stream_is_flushed() {
    for coding in ["zstd", "br", "gzip"] {
        let daemon = compressing().start_ready();
        let mut client = daemon.connect();
        client.send(format!("GET /stream/3/400 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n"));
        let head = client.response_head();
        assert_eq!(head.field("content-encoding"), coding);
        let mut encoded = Vec::new();
        for n in 0..3 {
            let expected = parts(n + 1);
            while decode(coding, &encoded) != expected.as_bytes() {
                encoded.extend(read_chunk(&mut client));
            }
        }
        encoded.extend(read_rest(&mut client));
        assert_eq!(decode(coding, &encoded), b"part 0\npart 1\npart 2\n");
    }
}

/// Reads one chunk of a chunked body. Returns an empty chunk at the end of the body.
fn read_chunk(client: &mut crate::support::Client) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(client.read_exact(1).expect("a chunk's size"));
    }
    let digits = str::from_utf8(&line).expect("ASCII").trim_end();
    let len = usize::from_str_radix(digits, 16).expect("a size");
    let mut chunk = client.read_exact(len + 2).expect("a chunk");
    chunk.truncate(len);
    chunk
}

/// Reads the chunks up to the end of the body.
fn read_rest(client: &mut crate::support::Client) -> Vec<u8> {
    let mut rest = Vec::new();
    loop {
        match read_chunk(client) {
            chunk if chunk.is_empty() => return rest,
            chunk => rest.extend(chunk),
        }
    }
}

#[test]
fn stream_that_fails_has_no_final_chunk() {
    let daemon = compressing().start_ready();
    for path in ["/raise-mid-body/50", "/die-mid-body"] {
        let mut client = daemon.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"));
        let failed = client.try_response("GET");
        assert!(matches!(failed, Err(crate::support::ReadError::Truncated(Some(200)))), "{path}: {failed:?}");
        daemon.log.wait_for(path);
    }
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn client_that_leaves_frees_the_worker() {
    let daemon = compressing().start_ready();
    for path in ["/stream/1000/1", "/large/8000000"] {
        let mut client = daemon.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"));
        client.response_head();
        drop(client);
    }
    assert_eq!(daemon.get("/hello").status, 200, "the only worker is free again");
}

#[test]
fn large_body_does_not_block_other_requests() {
    let daemon = compressing().set("compression.level", "9").start_ready();
    let mut slow = daemon.connect();
    slow.send("GET /file/7000000 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br\r\n\r\n");
    assert_eq!(slow.response_head().field("content-encoding"), "br");
    let mut client = daemon.connect();
    for _ in 0..20 {
        assert_eq!(client.get("/hello").status, 200);
    }
    drop(slow);
}

#[test]
fn without_memory_for_the_encoder_nothing_is_compressed() {
    let daemon = compressing().set("limits.response_memory", "1MiB").start_ready();
    let response = get(&daemon, "/large/500000", "br");
    assert!(!response.has("content-encoding"));
    assert_eq!(response.field("vary"), "accept-encoding");
    assert_same_bytes(&response.body, &pattern(500_000));
}

#[test]
fn reload_turns_compression_on_for_new_connections() {
    let rgun = Rgun::fake();
    let path = rgun.scratch().write("rgun.toml", "[compression]\nalgorithms = \"off\"\n");
    let daemon = rgun.flags(["--config", path.to_str().expect("ASCII")]).start_ready();
    let mut open = daemon.connect();
    let request = "GET /large/4000 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
    assert!(!open.send(request).response().has("content-encoding"));
    std::fs::write(&path, "[compression]\nalgorithms = [\"gzip\"]\n").expect("a writable file");
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reloaded: generation 2");
    assert_eq!(get(&daemon, "/large/4000", "gzip").field("content-encoding"), "gzip");
    assert!(!open.send(request).response().has("content-encoding"), "an open connection keeps its settings");
}

#[test]
fn stream_of_many_parts_is_decoded() {
    let daemon = compressing().start_ready();
    let mut client = daemon.connect();
    client.send("GET /stream/200/2 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\n\r\n");
    client.response_head();
    let encoded = read_rest(&mut client);
    let expected = parts(200);
    assert_same_bytes(&decode("zstd", &encoded), expected.as_bytes());
}
