//! Request bodies to WSGI workers: small ones in the frame, larger ones spooled to memory and then
//! to disk, within limits. Response bodies as files.

use std::fs;
use std::time::Instant;

use crate::support::{Client, DEADLINE, Daemon, ReadError, Rgun, pattern, wait_until};

const INLINE: usize = 64 * 1024;
const IN_MEMORY: usize = 16 * 1024 * 1024;

fn post(client: &mut Client, len: usize) {
    let head = format!("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n");
    client.send(head);
}

/// Sends a body to `/body`, whole or in chunks of this size. Returns how the worker received it,
/// and the echo.
fn echoed(daemon: &Daemon, body: &[u8], chunk: Option<usize>) -> (String, Vec<u8>) {
    let mut client = daemon.connect();
    match chunk {
        None => {
            post(&mut client, body.len());
            client.send(body);
        }
        Some(size) => {
            client.send("POST /body HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(size) {
                client.send(format!("{:x}\r\n", chunk.len())).send(chunk).send("\r\n");
            }
            client.send("0\r\n\r\n");
        }
    }
    let response = client.response();
    assert_eq!(response.status, 200, "{}", response.text());
    (response.field("x-body").to_owned(), response.body)
}

#[test]
fn bodies_over_64_kib_are_passed_as_a_descriptor() {
    let daemon = Rgun::fake().start_ready();
    for (len, how) in [(1, "inline"), (INLINE - 1, "inline"), (INLINE, "inline"), (INLINE + 1, "file")] {
        for chunk in [None, Some(1000), Some(INLINE * 2)] {
            let body = pattern(len);
            let (by, echo) = echoed(&daemon, &body, chunk);
            assert_eq!(by, how, "{len} bytes in chunks of {chunk:?}");
            assert!(echo == body, "{len} bytes in chunks of {chunk:?} were changed");
        }
    }
}

#[test]
fn body_on_either_side_of_16_mib_arrives_whole() {
    let rgun = Rgun::fake();
    let spool = rgun.scratch().path().display().to_string();
    let daemon = rgun.variable("CACHE_DIRECTORY", &spool).start_ready();
    for len in [IN_MEMORY, IN_MEMORY + 1, IN_MEMORY + 3_000_000] {
        let body = pattern(len);
        let (by, echo) = echoed(&daemon, &body, None);
        assert_eq!(by, "file");
        assert!(echo == body, "{len} bytes were changed");
    }
    let body = pattern(IN_MEMORY + 100_000);
    assert!(echoed(&daemon, &body, Some(300_000)).1 == body);
}

#[test]
fn large_upload_waits_on_disk_in_a_file_without_a_name() {
    let rgun = Rgun::fake();
    let spool = rgun.scratch().join("spool");
    fs::create_dir(&spool).unwrap();
    let daemon = rgun.variable("CACHE_DIRECTORY", &spool.display().to_string()).start_ready();
    let before = daemon.rss();
    let len = IN_MEMORY * 3;
    let mut client = daemon.connect();
    post(&mut client, len);
    client.send(pattern(len - 1));
    let prefix = format!("{}/#", spool.display());
    wait_until("the spool file is there", || {
        daemon
            .descriptors()
            .iter()
            .any(|link| link.starts_with(&prefix) && link.ends_with("(deleted)"))
            .then_some(())
    });
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < IN_MEMORY as u64, "{grown} bytes more in RAM for an upload of {len}");
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);
    // The file is closed when the client breaks off the upload.
    drop(client);
    wait_until("the spool file is closed", || {
        (!daemon.descriptors().iter().any(|link| link.starts_with(&prefix))).then_some(())
    });
}

#[test]
fn one_byte_chunks_are_spooled_in_larger_writes() {
    let daemon = Rgun::fake().start_ready();
    let writes = || -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("syscw: "));
        count.expect("it is counted").parse().unwrap()
    };
    let body = pattern(INLINE * 3 + 1);
    let before = writes();
    let mut client = daemon.connect();
    let mut chunks = b"POST /body HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for byte in &body {
        chunks.extend_from_slice(&[b'1', b'\r', b'\n', *byte, b'\r', b'\n']);
    }
    client.send(chunks).send("0\r\n\r\n");
    let response = client.response();
    assert_eq!((response.field("x-body"), response.body == body), ("file", true));
    let writes = writes() - before;
    assert!(writes < 1000, "{writes} writes for {} chunks", body.len());
}

#[test]
fn missing_spool_directory_is_507_and_logged() {
    let rgun = Rgun::fake();
    let missing = rgun.scratch().join("missing").display().to_string();
    let daemon = rgun.variable("CACHE_DIRECTORY", &missing).start_ready();
    let mut client = daemon.connect();
    post(&mut client, IN_MEMORY + 1);
    // The daemon may close the connection before it has read the whole body.
    drop(client.try_send(pattern(IN_MEMORY + 1)));
    let response = client.response();
    response.assert_error(507);
    assert!(daemon.log.wait_for(response.field("x-request-id")).contains("ERROR"));
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn declared_length_over_the_limit_is_413() {
    let daemon = Rgun::fake().set("limits.body", "100KiB").start_ready();
    let mut client = daemon.connect();
    post(&mut client, 100 * 1024 + 1);
    client.response().assert_error(413);
    client.assert_closed();
    let body = pattern(100 * 1024);
    assert!(echoed(&daemon, &body, None).1 == body, "the limit itself is allowed");
}

#[test]
fn chunked_body_over_the_limit_is_413() {
    for limit in [1024, 100 * 1024] {
        let daemon = Rgun::fake().set("limits.body", &limit.to_string()).start_ready();
        let body = pattern(limit);
        assert!(echoed(&daemon, &body, Some(700)).1 == body, "the limit itself is allowed");
        let mut client = daemon.connect();
        client.send("POST /body HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("{:x}\r\n", limit + 1)).send(pattern(limit + 1));
        client.response().assert_error(413);
        client.assert_closed();
    }
}

/// If the daemon closed the connection with unread input, TCP would reset it, and the client would
/// lose the response (RFC 9112 §9.6).
#[test]
fn client_refused_within_an_upload_can_read_its_response() {
    let daemon = Rgun::fake().set("limits.body", "1KiB").over_tcp().start_ready();
    for _ in 0..10 {
        let mut client = daemon.connect();
        post(&mut client, 2_000_000);
        client.send(pattern(2_000_000));
        client.response().assert_error(413);
        client.assert_closed();
    }
    let mut client = daemon.connect();
    client.send("POST /body HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(format!("{:x}\r\n", 2_000_000)).send(pattern(2_000_000));
    client.response().assert_error(413);
    client.assert_closed();
    let mut client = daemon.connect();
    client.send("GET /hello HTTP/1.1\r\nHost: test\r\nX: ").send(pattern(500_000).escape_ascii().to_string());
    assert!(matches!(client.response().status, 400 | 431));
    client.assert_closed();
}

#[test]
fn client_that_keeps_sending_after_413_is_disconnected() {
    let daemon = Rgun::fake().set("limits.body", "1KiB").over_tcp().start_ready();
    let mut client = daemon.connect();
    post(&mut client, 2_000_000_000);
    let begun = Instant::now();
    while client.try_send(pattern(100_000)).is_ok() {
        assert!(begun.elapsed() < DEADLINE, "the daemon still reads");
    }
}

#[test]
fn body_that_stalls_is_408() {
    let daemon = Rgun::fake().set("timeouts.body", "200ms").start_ready();
    let mut client = daemon.connect();
    post(&mut client, 10);
    client.send("abc");
    client.response().assert_error(408);
    client.assert_closed();
}

#[test]
fn truncated_upload_never_reaches_a_worker() {
    let daemon = Rgun::fake().start_ready();
    let worker = daemon.worker();
    for sent in [0, 10, INLINE + 10, INLINE * 20] {
        let mut client = daemon.connect();
        // A worker that got the truncated request would exit.
        client.send(format!("POST /die HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", sent + 1));
        client.send(pattern(sent));
        drop(client);
        let mut client = daemon.connect();
        client.send("POST /die HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("{:x}\r\n", sent + 1)).send(pattern(sent)).shutdown_write();
        if let Ok(response) = client.try_response("POST") {
            response.assert_error(400);
        }
    }
    assert_eq!(daemon.worker(), worker);
}

#[test]
fn spool_files_are_closed_after_the_request() {
    let daemon = Rgun::fake().start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    let open =
        |daemon: &Daemon| daemon.descriptors().iter().filter(|link| link.contains("rgun-body")).count();
    for _ in 0..5 {
        let body = pattern(INLINE * 3);
        assert!(echoed(&daemon, &body, None).1 == body);
    }
    wait_until("the bodies are closed", || (open(&daemon) == 0).then_some(()));
}

#[test]
fn application_may_leave_a_body_unread() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    for len in [10, INLINE * 4] {
        client.send(format!("POST /hello HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n"));
        client.send(pattern(len));
        assert_eq!(client.response().text(), "Hello, world!");
    }
}

#[test]
fn file_is_sent_by_its_descriptor() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    for len in [1, 1000, 256 * 1024 + 1, 5_000_000] {
        let response = client.get(&format!("/file/{len}"));
        assert_eq!(response.field("content-length"), len.to_string());
        assert!(response.body == pattern(len), "{len} bytes were changed");
    }
}

#[test]
fn short_file_leaves_the_response_incomplete() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    let error = client.send_get("/file-short/1000000").try_response("GET");
    assert!(error.is_err(), "{error:?}");
    assert_eq!(daemon.get("/hello").status, 200);
}

/// An exception that is raised after a file was sent is logged too.
#[test]
fn exception_after_a_file_truncates_the_response() {
    let daemon = Rgun::fake().start_ready();
    for count in 1..=10 {
        // If the fault arrives before the head is sent, the response is a 500.
        match daemon.connect().send_get("/file-raise/100000").try_response("GET") {
            Ok(response) => drop(response.assert_error(500)),
            Err(error) => assert!(matches!(error, ReadError::Truncated(_)), "{error:?}"),
        }
        daemon.log.wait_for_count(count, "Fake: boom rgun.request_id");
    }
}

#[test]
fn response_bodies_of_all_sizes_arrive_unchanged() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    for len in [0, 1, 16 * 1024, 16 * 1024 + 1, INLINE, INLINE + 1, 3_000_000] {
        let response = client.get(&format!("/large/{len}"));
        assert!(response.body == pattern(len), "{len} bytes were changed");
    }
}
