//! Answers that take their time: the head does not wait for the body, and the deadline is one for each part.

use std::time::{Duration, Instant};

use crate::support::{Rgun, until};

fn asgi() -> Rgun {
    Rgun::fake().fake_does("asgi").set("workers.concurrency", "10")
}

#[test]
fn a_head_is_sent_before_the_body_starts() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    let head = client.ask("/events").head();
    assert_eq!((head.status, head.field("transfer-encoding")), (200, "chunked"));
    assert!(client.is_silent());
    assert_eq!(daemon.get("/release").status, 200);
    assert_eq!(client.rest_in_chunks(), "event");
    assert_eq!(client.get("/hello").status, 200, "the connection goes on");
}

#[test]
fn a_head_request_to_a_stream_ends_with_a_disconnect() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    client.send("HEAD /silent-events HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.answer_to("HEAD").status, 200);
    until("it is told", || (daemon.get("/gone").text() == "gone=1 cancelled=0").then_some(()));
    assert_eq!(client.get("/hello").status, 200, "the connection goes on");
}

#[test]
fn a_silent_stream_over_its_deadline_is_cut_off() {
    let daemon = asgi().flags(["--timeout", "400ms"]).serving();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    let begun = Instant::now();
    assert_eq!(client.ask("/silent-events").head().status, 200);
    // Nothing comes but the end.
    client.is_closed();
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    assert!(daemon.log.wait("GET /silent-events broke off in mid-body").contains("ERROR"));
    until("it is cancelled", || (daemon.get("/gone").text() == "gone=0 cancelled=1").then_some(()));
    assert_eq!(daemon.log.count("events 504"), 0, "{}", daemon.log.text());
    assert_eq!(daemon.worker(), worker);
}

#[test]
fn each_part_of_a_stream_restarts_the_deadline() {
    for rgun in [Rgun::fake(), asgi()] {
        let daemon = rgun.flags(["--timeout", "1s"]).serving();
        let worker = daemon.worker();
        let mut client = daemon.connect();
        let begun = Instant::now();
        client.ask("/stream/8/200").head();
        let answer = client.rest_in_chunks();
        assert!((0..8).map(|nr| format!("part {nr}")).eq(answer.lines()), "{answer}");
        assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(daemon.worker(), worker);
        assert_eq!(daemon.log.count("deadline"), 0, "{}", daemon.log.text());
    }
}

#[test]
fn the_head_of_a_stream_restarts_the_deadline() {
    let daemon = asgi().flags(["--timeout", "1s"]).serving();
    let mut client = daemon.connect();
    let begun = Instant::now();
    assert_eq!(client.ask("/events/600").head().status, 200);
    daemon.get("/release");
    assert_eq!(client.rest_in_chunks(), "event");
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_stream_paused_over_its_deadline_is_cut_off() {
    for rgun in [Rgun::fake(), asgi()] {
        let daemon = rgun.flags(["--timeout", "400ms"]).serving();
        let mut client = daemon.connect();
        let broken = client.ask("/stream/2/60000").try_answer("GET");
        assert!(broken.is_err(), "{broken:?}");
        daemon.log.wait("GET /stream/2/60000 broke off in mid-body");
        assert_eq!(daemon.log.count("60000 504"), 0, "{}", daemon.log.text());
    }
}
