//! Clients that have closed their sending half: what has started is answered, what waits may start for a second, and a
//! client that is gone altogether is no client at all.

use crate::bodies::pattern;
use crate::support::{Broken, Client, Daemon, Rgun, until};

fn asgi() -> Rgun {
    Rgun::fake().fake_does("asgi").set("workers.concurrency", "10")
}

/// A client whose request runs and answers so many parts, one every 400 ms.
fn running(daemon: &Daemon, parts: u32) -> Client {
    let mut client = daemon.connect();
    assert_eq!(client.ask(&format!("/stream/{parts}/400")).head().status, 200);
    client
}

/// Sends a request and nothing more.
fn ask_last(daemon: &Daemon, path: &str) -> Client {
    let mut client = daemon.connect();
    client.ask(path).finish();
    client
}

/// Waits until the worker has heard of so many clients that are gone.
fn told_gone(daemon: &Daemon, count: u32) {
    let expected = format!("gone={count} cancelled=0");
    until(&expected, || (daemon.get("/gone").text() == expected).then_some(()));
}

#[test]
fn a_half_closed_request_is_answered_if_it_has_started() {
    for (rgun, interface) in [(Rgun::fake(), "wsgi"), (Rgun::fake().over_tcp(), "wsgi"), (asgi(), "asgi")] {
        let daemon = rgun.serving();
        for (path, body) in [
            ("/hello", "Hello, world!"),
            ("/slow/300", "slow"),
            ("/stream/3/100", "part 0\npart 1\npart 2\n"),
        ] {
            let mut client = ask_last(&daemon, path);
            assert_eq!(client.answer().text(), body, "{interface}");
            client.is_closed();
        }
        for len in [3, 200_000] {
            let mut client = daemon.connect();
            client.send(format!("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n"));
            client.send(pattern(len)).finish();
            assert!(client.answer().body == pattern(len), "{interface}: {len}");
            client.is_closed();
        }
    }
}

#[test]
fn pipelined_requests_before_a_half_close_are_answered() {
    let daemon = Rgun::fake().over_tcp().serving();
    let mut client = daemon.connect();
    client.ask("/slow/100").ask("/hello").ask("/slow/100").finish();
    for body in ["slow", "Hello, world!", "slow"] {
        assert_eq!(client.answer().text(), body);
    }
    client.is_closed();
}

#[test]
fn a_half_closed_request_may_wait_a_second() {
    for rgun in [Rgun::fake(), Rgun::fake().over_tcp()] {
        let daemon = rgun.serving();
        let mut slow = running(&daemon, 2);
        let mut waiting: Vec<_> = (0..3).map(|_| ask_last(&daemon, "/hello")).collect();
        for client in &mut waiting {
            assert_eq!(client.answer().text(), "Hello, world!");
        }
        assert_eq!(slow.rest_in_chunks(), "part 0\npart 1\n");
    }
}

#[test]
fn a_half_closed_request_is_dropped_after_a_longer_wait() {
    let mut daemon = Rgun::fake().flags(["--access-logfile", "-"]).over_tcp().serving();
    let worker = daemon.worker();
    let mut slow = running(&daemon, 6);
    let mut waiting: Vec<_> = (0..3).map(|_| ask_last(&daemon, "/die")).collect();
    for client in &mut waiting {
        assert!(matches!(client.try_answer("GET"), Err(Broken::Nothing)));
    }
    // What has come by now is read, if it has not been yet.
    slow.is_silent();
    assert!(!String::from_utf8_lossy(slow.received()).contains("part 4"), "they went when a worker was free");
    assert_eq!(slow.rest_in_chunks().lines().count(), 6);
    assert_eq!(daemon.worker(), worker, "nobody died of a request that nobody waited for");
    daemon.log.wait_for(3, "GET /die: the client left after 1");
    daemon.stops();
}

/// What a proxy does whose own clients give up: it closes the whole connection, which over TCP looks the same.
#[test]
fn requests_of_closed_clients_never_run_under_overload() {
    for rgun in [Rgun::fake(), Rgun::fake().over_tcp()] {
        let daemon = rgun.serving();
        let worker = daemon.worker();
        let mut slow = running(&daemon, 5);
        let leaving: Vec<_> = (0..5)
            .map(|_| {
                let mut client = daemon.connect();
                client.ask("/die");
                client
            })
            .collect();
        // Three parts, in chunks, take 1.2 s.
        slow.take("7\r\npart 0\n\r\n".len() * 4).unwrap();
        drop(leaving);
        drop(slow);
        assert_eq!(daemon.get("/hello").status, 200);
        assert_eq!(daemon.worker(), worker, "nobody died of a request that nobody waited for");
    }
}

#[test]
fn a_half_close_is_a_disconnect_and_the_response_is_sent() {
    for rgun in [asgi(), asgi().over_tcp()] {
        let daemon = rgun.serving();
        let mut client = ask_last(&daemon, "/half-close");
        assert_eq!(client.answer().text(), "answered all the same");
        client.is_closed();
        let mut client = daemon.connect();
        client.ask("/half-close");
        assert!(client.is_silent_for(std::time::Duration::from_millis(100)), "it was told too early");
        assert_eq!(client.finish().answer().text(), "answered all the same");
    }
}

/// Starts no answer, or half of one, and takes the disconnect for the end.
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
fn returning_after_a_half_close_is_no_error() {
    let mut daemon =
        Rgun::python(LEAVES).target("app:app").flags(["--access-logfile", "-"]).over_tcp().serving();
    let mut client = ask_last(&daemon, "/nothing");
    assert!(matches!(client.try_answer("GET"), Err(Broken::Nothing)));
    let mut client = daemon.connect();
    assert_eq!(client.ask("/begins").head().status, 200);
    assert_eq!(client.take("4\r\nhalf\r\n".len()).unwrap(), b"4\r\nhalf\r\n");
    // Without a last chunk.
    client.finish().is_closed();
    daemon.log.wait("GET /nothing: the client left after ");
    daemon.log.wait("GET /begins 200: broken off in mid-body: the client left after ");
    daemon.stops();
    assert_eq!(daemon.log.count("ERROR"), 0, "{}", daemon.log.text());
}

#[test]
fn an_application_started_after_a_half_close_gets_it() {
    let daemon = Rgun::fake().fake_does("asgi").set("workers.concurrency", "1").serving();
    let slow = running(&daemon, 2);
    let mut waiting = ask_last(&daemon, "/half-close");
    assert_eq!(waiting.answer().text(), "answered all the same");
    drop(slow);
}

#[test]
fn a_reset_after_a_half_close_is_a_disconnect() {
    let daemon = asgi().over_tcp().serving();
    let mut resets = daemon.connect();
    resets.ask("/wait");
    told_gone(&daemon, 0);
    resets.reset();
    told_gone(&daemon, 1);
    let mut resets = ask_last(&daemon, "/wait");
    assert!(resets.is_silent_for(std::time::Duration::from_millis(100)));
    told_gone(&daemon, 1);
    resets.reset();
    told_gone(&daemon, 2);
    let daemon = asgi().serving();
    let closes = ask_last(&daemon, "/wait");
    told_gone(&daemon, 0);
    drop(closes);
    told_gone(&daemon, 1);
}

#[test]
fn a_reset_behind_a_pipelined_request_is_a_disconnect() {
    let daemon = asgi().over_tcp().serving();
    let mut resets = daemon.connect();
    resets.ask("/wait").ask("/hello");
    told_gone(&daemon, 0);
    resets.reset();
    told_gone(&daemon, 1);
}

#[test]
fn a_half_close_ends_an_idle_connection() {
    let daemon = Rgun::fake().set("timeouts.keepalive", "1h").over_tcp().serving();
    let mut client = daemon.connect();
    assert_eq!(client.get("/hello").status, 200);
    client.finish().is_closed();
    daemon.connect().finish().is_closed();
}

#[test]
fn a_half_close_in_mid_body_is_400() {
    for rgun in [Rgun::fake(), Rgun::fake().over_tcp()] {
        let daemon = rgun.serving();
        let worker = daemon.worker();
        for head in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
            let mut client = daemon.connect();
            client.send(format!("POST /die HTTP/1.1\r\nHost: test\r\n{head}")).finish();
            client.answer().is_a_refusal(400);
            client.is_closed();
        }
        assert_eq!(daemon.worker(), worker);
    }
}
