//! Clients that have closed their sending half: running requests are answered, queued ones may
//! start within a second. A closed connection is a disconnect.

use crate::support::{Client, Daemon, ReadError, Rgun, pattern};

/// Returns a client whose request is running: its response has this many parts, 400 ms apart.
fn running(daemon: &Daemon, parts: u32) -> Client {
    let mut client = daemon.connect();
    assert_eq!(client.send_get(&format!("/stream/{parts}/400")).response_head().status, 200);
    client
}

/// Sends a request, then closes the sending half.
fn send_and_half_close(daemon: &Daemon, path: &str) -> Client {
    let mut client = daemon.connect();
    client.send_get(path).shutdown_write();
    client
}

#[test]
fn half_closed_request_is_answered_if_it_has_started() {
    for (rgun, interface) in
        [(Rgun::fake(), "wsgi"), (Rgun::fake().over_tcp(), "wsgi"), (Rgun::fake_asgi(), "asgi")]
    {
        let daemon = rgun.start_ready();
        for (path, body) in [
            ("/hello", "Hello, world!"),
            ("/slow/300", "slow"),
            ("/stream/3/100", "part 0\npart 1\npart 2\n"),
        ] {
            let mut client = send_and_half_close(&daemon, path);
            assert_eq!(client.response().text(), body, "{interface}");
            client.assert_closed();
        }
        for len in [3, 200_000] {
            let mut client = daemon.connect();
            client.send(format!("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n"));
            client.send(pattern(len)).shutdown_write();
            assert!(client.response().body == pattern(len), "{interface}: {len}");
            client.assert_closed();
        }
    }
}

#[test]
fn pipelined_requests_before_a_half_close_are_answered() {
    let daemon = Rgun::fake().over_tcp().start_ready();
    let mut client = daemon.connect();
    client.send_get("/slow/100").send_get("/hello").send_get("/slow/100").shutdown_write();
    for body in ["slow", "Hello, world!", "slow"] {
        assert_eq!(client.response().text(), body);
    }
    client.assert_closed();
}

#[test]
fn half_closed_request_may_wait_a_second() {
    for rgun in [Rgun::fake(), Rgun::fake().over_tcp()] {
        let daemon = rgun.start_ready();
        let mut slow = running(&daemon, 2);
        let mut waiting: Vec<_> = (0..3).map(|_| send_and_half_close(&daemon, "/hello")).collect();
        for client in &mut waiting {
            assert_eq!(client.response().text(), "Hello, world!");
        }
        assert_eq!(slow.chunked_text(), "part 0\npart 1\n");
    }
}

#[test]
fn half_closed_request_is_dropped_after_a_longer_wait() {
    let mut daemon = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]).over_tcp().start_ready();
    let worker = daemon.worker();
    let mut slow = running(&daemon, 6);
    let mut waiting: Vec<_> = (0..3).map(|_| send_and_half_close(&daemon, "/die")).collect();
    for client in &mut waiting {
        assert!(matches!(client.try_response("GET"), Err(ReadError::Closed)));
    }
    // Read the bytes that have arrived so far.
    slow.receives_nothing();
    assert!(
        !String::from_utf8_lossy(slow.received()).contains("part 4"),
        "the requests were dropped only when a worker was free"
    );
    assert_eq!(slow.chunked_text().lines().count(), 6);
    assert_eq!(daemon.worker(), worker, "an abandoned request has reached the worker");
    daemon.log.wait_for_count(3, "GET /die: the client left after 1");
    daemon.stop();
}

/// A proxy closes its connection when its client gives up. Over TCP this looks like a half-close.
#[test]
fn requests_of_closed_clients_never_run_under_overload() {
    for rgun in [Rgun::fake(), Rgun::fake().over_tcp()] {
        let daemon = rgun.start_ready();
        let worker = daemon.worker();
        let mut slow = running(&daemon, 5);
        let leaving: Vec<_> = (0..5)
            .map(|_| {
                let mut client = daemon.connect();
                client.send_get("/die");
                client
            })
            .collect();
        // The first four parts take 1.6 s.
        slow.read_exact("7\r\npart 0\n\r\n".len() * 4).unwrap();
        drop(leaving);
        drop(slow);
        assert_eq!(daemon.get("/hello").status, 200);
        assert_eq!(daemon.worker(), worker, "an abandoned request has reached the worker");
    }
}

#[test]
fn half_close_is_a_disconnect_and_the_response_is_sent() {
    for rgun in [Rgun::fake_asgi(), Rgun::fake_asgi().over_tcp()] {
        let daemon = rgun.start_ready();
        let mut client = send_and_half_close(&daemon, "/half-close");
        assert_eq!(client.response().text(), "answered all the same");
        client.assert_closed();
        let mut client = daemon.connect();
        client.send_get("/half-close");
        assert!(
            client.receives_nothing_for(std::time::Duration::from_millis(100)),
            "the disconnect came too early"
        );
        assert_eq!(client.shutdown_write().response().text(), "answered all the same");
    }
}

/// An application that sends no response, or half of one, and returns after the disconnect.
const LEAVES: &str = r#"
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/begins":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
"#;

#[test]
fn returning_after_a_half_close_is_not_an_error() {
    let mut daemon = Rgun::python(LEAVES)
        .target("app:app")
        .flags(["--access-logfile", "/dev/stderr"])
        .over_tcp()
        .start_ready();
    let mut client = send_and_half_close(&daemon, "/nothing");
    assert!(matches!(client.try_response("GET"), Err(ReadError::Closed)));
    let mut client = daemon.connect();
    assert_eq!(client.send_get("/begins").response_head().status, 200);
    assert_eq!(client.read_exact("4\r\nhalf\r\n".len()).unwrap(), b"4\r\nhalf\r\n");
    // The connection ends without a last chunk.
    client.shutdown_write().assert_closed();
    daemon.log.wait_for("GET /nothing: the client left after ");
    daemon.log.wait_for("GET /begins 200: aborted within the body: the client left after ");
    daemon.stop();
    assert_eq!(daemon.log.count("ERROR"), 0, "{}", daemon.log.text());
}

#[test]
fn application_started_late_receives_the_half_close() {
    let daemon = Rgun::fake().fake_behaviour("asgi").set("workers.concurrency", "1").start_ready();
    let slow = running(&daemon, 2);
    let mut waiting = send_and_half_close(&daemon, "/half-close");
    assert_eq!(waiting.response().text(), "answered all the same");
    drop(slow);
}

#[test]
fn reset_after_a_half_close_is_a_disconnect() {
    let daemon = Rgun::fake_asgi().over_tcp().start_ready();
    let mut resetting = daemon.connect();
    resetting.send_get("/wait");
    daemon.wait_for_disconnects(0, 0);
    resetting.reset();
    daemon.wait_for_disconnects(1, 0);
    let mut resetting = send_and_half_close(&daemon, "/wait");
    assert!(resetting.receives_nothing_for(std::time::Duration::from_millis(100)));
    daemon.wait_for_disconnects(1, 0);
    resetting.reset();
    daemon.wait_for_disconnects(2, 0);
    let daemon = Rgun::fake_asgi().start_ready();
    let closing = send_and_half_close(&daemon, "/wait");
    daemon.wait_for_disconnects(0, 0);
    drop(closing);
    daemon.wait_for_disconnects(1, 0);
}

#[test]
fn reset_behind_a_pipelined_request_is_a_disconnect() {
    let daemon = Rgun::fake_asgi().over_tcp().start_ready();
    let mut resetting = daemon.connect();
    resetting.send_get("/wait").send_get("/hello");
    daemon.wait_for_disconnects(0, 0);
    resetting.reset();
    daemon.wait_for_disconnects(1, 0);
}

#[test]
fn half_close_ends_an_idle_connection() {
    let daemon = Rgun::fake().set("timeouts.keepalive", "1h").over_tcp().start_ready();
    let mut client = daemon.connect();
    assert_eq!(client.get("/hello").status, 200);
    client.shutdown_write().assert_closed();
    daemon.connect().shutdown_write().assert_closed();
}

#[test]
fn half_close_within_a_body_is_400() {
    for rgun in [Rgun::fake(), Rgun::fake().over_tcp()] {
        let daemon = rgun.start_ready();
        let worker = daemon.worker();
        for head in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
            let mut client = daemon.connect();
            client.send(format!("POST /die HTTP/1.1\r\nHost: test\r\n{head}")).shutdown_write();
            client.response().assert_error(400);
            client.assert_closed();
        }
        assert_eq!(daemon.worker(), worker);
    }
}
