//! Deadlines of WSGI requests: a stuck request gets a 504, its worker is replaced, other requests
//! are served.

use std::time::{Duration, Instant};

use crate::support::{Rgun, wait_until};

#[test]
fn request_over_its_deadline_is_504() {
    let daemon = Rgun::fake().flags(["--timeout", "400ms"]).start_ready();
    let worker = daemon.worker();
    let begun = Instant::now();
    let response = daemon.get("/hang");
    let took = begun.elapsed();
    response.assert_error(504);
    assert!(took >= Duration::from_millis(400), "{took:?} is early");
    assert!(took < Duration::from_secs(3), "{took:?} is late");
    // One entry: a summary, the stacks, then the fields.
    assert!(daemon.log.wait_for("GET /hang 504").contains("ERROR"));
    let fields = daemon.log.wait_for(response.field("x-request-id"));
    assert!(fields.contains("fake stack") && fields.contains("rgun.worker=0"), "{fields}");
    daemon.log.wait_for("worker 0 has a request over its deadline; it is being replaced");
    assert_ne!(daemon.worker(), worker);
    daemon.log.wait_for("worker 0 has been replaced");
    wait_until("the stuck process exits", || (!daemon.descendants().contains(&worker)).then_some(()));
}

#[test]
fn other_requests_are_served_beside_a_stuck_one() {
    let daemon = Rgun::fake().flags(["--timeout", "700ms", "--workers", "2"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    let mut stuck = daemon.connect();
    stuck.send_get("/hang");
    let mut client = daemon.connect();
    let mut served = 0;
    while stuck.receives_nothing() {
        assert_eq!(client.get("/slow/20").text(), "slow");
        served += 1;
    }
    stuck.response().assert_error(504);
    assert!(served > 5, "{served} requests in the 700 ms");
}

/// The successor starts before the stuck worker is killed, so that the stuck worker's other
/// requests can finish.
#[test]
fn other_threads_of_a_stuck_worker_finish() {
    let daemon = Rgun::fake().flags(["--timeout", "600ms", "--threads", "2"]).start_ready();
    let mut stuck = daemon.connect();
    stuck.send_get("/hang");
    let mut client = daemon.connect();
    // Consecutive requests of 200 ms: one of them runs when the deadline passes.
    while stuck.receives_nothing() {
        assert_eq!(client.get("/slow/200").text(), "slow");
    }
    stuck.response().assert_error(504);
    for _ in 0..3 {
        assert_eq!(client.get("/slow/200").text(), "slow");
    }
}

#[test]
fn requests_behind_a_stuck_one_reach_the_successor() {
    let daemon = Rgun::fake().flags(["--timeout", "500ms"]).start_ready();
    let mut warm = daemon.connect();
    for _ in 0..300 {
        assert_eq!(warm.get("/hello").status, 200);
    }
    let worker = daemon.worker();
    let mut stuck = daemon.connect();
    stuck.send_get("/hang");
    let mut waiting: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for client in &mut waiting {
        client.send_get("/pid");
    }
    for client in &mut waiting {
        let response = client.response();
        assert_eq!(response.status, 200);
        // The old worker can serve only requests that it had claimed before the stuck one.
        if response.value("pid") == worker.to_string() {
            assert!(stuck.receives_nothing());
        }
    }
    stuck.response().assert_error(504);
}

#[test]
fn stalled_response_body_is_left_incomplete() {
    let daemon = Rgun::fake().flags(["--timeout", "300ms"]).start_ready();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    let error = client.send_get("/hang-mid-body").try_response("GET");
    assert!(error.is_err(), "{error:?}");
    // One entry: a summary, the stacks, then the fields.
    assert!(daemon.log.wait_for("GET /hang-mid-body aborted within the body").contains("ERROR"));
    assert!(daemon.log.wait_for("rgun.path=/hang-mid-body").contains("rgun.status=200"));
    assert_ne!(daemon.worker(), worker);
}

#[test]
fn time_in_the_queue_does_not_count_towards_the_deadline() {
    let daemon = Rgun::fake().flags(["--timeout", "900ms"]).start_ready();
    let mut clients: Vec<_> = (0..4).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/slow/400");
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "slow", "1600 ms in all, but none ran for 900 ms");
    }
}

#[test]
fn zero_timeout_disables_the_deadline() {
    let daemon = Rgun::fake().flags(["--timeout", "0"]).start_ready();
    assert_eq!(daemon.get("/slow/500").text(), "slow");
}

/// The time that a client needs to read does not count towards the deadline.
#[test]
fn slow_reader_does_not_exceed_the_deadline() {
    let daemon = Rgun::fake().flags(["--timeout", "300ms"]).start_ready();
    let mut client = daemon.connect();
    // Small enough to be buffered in the daemon.
    client.send_get("/large/400000").response_head();
    let other = daemon.get("/slow/200");
    assert_eq!(other.text(), "slow");
    let other = daemon.get("/slow/200");
    assert_eq!(other.text(), "slow");
    assert!(client.read_exact(400_000).is_ok());
}
