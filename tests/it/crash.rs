//! Death of a worker: the requests it had started get a 502, all others are served by its
//! successor.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{ReadError, Rgun, wait_until};

#[test]
fn worker_death_is_502_and_logged_with_its_request() {
    let daemon = Rgun::fake().start_ready();
    let worker = daemon.worker();
    let response = daemon.get("/die");
    response.assert_error(502);
    let line = daemon.log.wait_for("GET /die 502");
    let id = response.field("x-request-id");
    assert!(line.contains("ERROR") && line.contains(id) && line.contains("rgun.worker=0"), "{line}");
    let line = daemon.log.wait_for("worker 0 exited");
    assert!(line.contains("WARN") && line.contains('3') && line.contains("replaced"), "{line}");
    assert_ne!(daemon.worker(), worker);
}

#[test]
fn aborted_worker_is_logged_with_its_signal() {
    let daemon = Rgun::fake().start_ready();
    daemon.get("/abort").assert_error(502);
    daemon.log.wait_for("SIGABRT");
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn worker_killed_while_idle_is_replaced() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    let worker: i32 = client.get("/pid").value("pid").parse().unwrap();
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    daemon.log.wait_for("SIGKILL");
    let response = client.get("/pid");
    assert_eq!(response.status, 200);
    assert_ne!(response.value("pid"), worker.to_string());
}

#[test]
fn worker_death_within_a_body_truncates_the_body() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    match client.send_get("/die-mid-body").try_response("GET") {
        Err(ReadError::Truncated(status)) => assert_eq!(status, Some(200)),
        // If the worker dies before the head is sent, the response is a 502. If it dies while the
        // head is being sent, hyper drops head and body.
        Err(ReadError::Closed) => {}
        Ok(response) => drop(response.assert_error(502)),
        other => panic!("{other:?}"),
    }
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn worker_death_within_a_stream_omits_the_last_chunk() {
    let daemon = Rgun::fake().start_ready();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    client.send_get("/stream/100/100").response_head();
    kill(Pid::from_raw(i32::try_from(worker).unwrap()), Signal::SIGKILL).unwrap();
    let error = loop {
        if let Err(error) = client.read() {
            break error;
        }
    };
    assert!(matches!(error, ReadError::Closed), "{error:?}");
    assert!(!client.received().ends_with(b"0\r\n\r\n"), "the response looks complete");
}

#[test]
fn each_request_started_by_a_dead_worker_is_502() {
    let daemon = Rgun::fake().flags(["--threads", "3"]).start_ready();
    let mut clients: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for (client, path) in clients.iter_mut().zip(["/slow/9000", "/slow/9000", "/die-after-claim-many/3"]) {
        client.send_get(path);
    }
    for client in &mut clients {
        client.response().assert_error(502);
    }
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn unstarted_requests_are_served_by_the_successor() {
    let daemon = Rgun::fake().start_ready();
    let mut warm = daemon.connect();
    for _ in 0..300 {
        assert_eq!(warm.get("/hello").status, 200);
    }
    let mut slow = daemon.connect();
    slow.send_get("/stream/2/150").response_head();
    let mut dying = daemon.connect();
    dying.send_get("/die");
    let mut clients: Vec<_> = (0..10).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/hello");
    }
    assert_eq!(slow.chunked_text(), "part 0\npart 1\n");
    dying.response().assert_error(502);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn unstarted_upload_reaches_the_successor_whole() {
    let daemon = Rgun::fake().start_ready();
    let mut dying = daemon.connect();
    dying.send_get("/slow/100");
    let mut last = daemon.connect();
    last.send_get("/die");
    let body = crate::support::pattern(300_000);
    let mut client = daemon.connect();
    client.send(format!("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(dying.response().status, 200);
    last.response().assert_error(502);
    let response = client.response();
    assert_eq!(response.status, 200);
    assert!(response.body == body, "the body was changed");
}

#[test]
fn requests_are_served_between_repeated_crashes() {
    let daemon = Rgun::fake().flags(["--workers", "2"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    let mut client = daemon.connect();
    // Three paths, because a path that kills workers repeatedly is quarantined.
    for path in ["/die", "/abort", "/die-after-claim-many/1"] {
        client.get(path).assert_error(502);
        assert_eq!(client.get("/hello").status, 200);
    }
}

#[test]
fn failed_boots_are_retried_until_one_succeeds() {
    let rgun = Rgun::fake();
    let how = rgun.scratch().write("how", "");
    let what = format!("@{}", how.display());
    let daemon = rgun.fake_behaviour(&what).start_ready();
    daemon.scratch().write("how", "failed");
    daemon.get("/die").assert_error(502);
    let line = daemon.log.wait_for("did not boot: the fake application does not load");
    assert!(line.contains("ERROR") && line.contains("next attempt in"), "{line}");
    let response = daemon.get("/hello");
    response.assert_error(503);
    assert!(
        daemon.log.wait_for(response.field("x-request-id")).contains("the fake application does not load")
    );
    assert!(response.has("retry-after"));
    daemon.log.wait_for_count(2, "did not boot");
    daemon.scratch().write("how", "");
    wait_until("a worker serves again", || (daemon.get("/hello").status == 200).then_some(()));
    daemon.log.wait_for_count(1, "Traceback");
    assert_eq!(daemon.log.count("Traceback"), 1, "the same traceback is logged once");
}

#[test]
fn workers_die_with_a_killed_daemon() {
    let mut daemon = Rgun::fake().flags(["--workers", "3"]).start();
    daemon.log.wait_for_count(3, "is ready after");
    assert_eq!(daemon.descendants().len(), 3);
    daemon.signal(Signal::SIGKILL);
    daemon.wait_exit();
}
