//! A worker that dies takes down what it had started and nothing else, by name.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Broken, Rgun, until};

#[test]
fn a_dead_worker_is_a_502_logged_with_its_request() {
    let daemon = Rgun::fake().serving();
    let worker = daemon.worker();
    let answer = daemon.get("/die");
    answer.is_a_refusal(502);
    let line = daemon.log.wait("GET /die 502");
    let id = answer.field("x-request-id");
    assert!(line.contains("ERROR") && line.contains(id) && line.contains("rgun.worker=0"), "{line}");
    let line = daemon.log.wait("worker 0 exited");
    assert!(line.contains("WARN") && line.contains('3') && line.contains("replaced"), "{line}");
    assert_ne!(daemon.worker(), worker);
}

#[test]
fn an_aborted_worker_is_logged_with_its_signal() {
    let daemon = Rgun::fake().serving();
    daemon.get("/abort").is_a_refusal(502);
    daemon.log.wait("SIGABRT");
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn a_worker_killed_while_idle_is_replaced() {
    let daemon = Rgun::fake().serving();
    let mut client = daemon.connect();
    let worker: i32 = client.get("/pid").said("pid").parse().unwrap();
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    daemon.log.wait("SIGKILL");
    let answer = client.get("/pid");
    assert_eq!(answer.status, 200);
    assert_ne!(answer.said("pid"), worker.to_string());
}

#[test]
fn a_death_in_mid_body_leaves_the_response_incomplete() {
    let daemon = Rgun::fake().serving();
    let mut client = daemon.connect();
    match client.ask("/die-mid-body").try_answer("GET") {
        Err(Broken::Truncated(status)) => assert_eq!(status, Some(200)),
        // Before the head is on its way the daemon says so; while it is, hyper drops it with the body.
        Err(Broken::Nothing) => {}
        Ok(answer) => drop(answer.is_a_refusal(502)),
        other => panic!("{other:?}"),
    }
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn a_death_in_mid_stream_omits_the_last_chunk() {
    let daemon = Rgun::fake().serving();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    client.ask("/stream/100/100").head();
    kill(Pid::from_raw(i32::try_from(worker).unwrap()), Signal::SIGKILL).unwrap();
    let broken = loop {
        if let Err(broken) = client.read() {
            break broken;
        }
    };
    assert!(matches!(broken, Broken::Nothing), "{broken:?}");
    assert!(!client.received().ends_with(b"0\r\n\r\n"), "a complete-looking end");
}

#[test]
fn each_request_started_by_a_dead_worker_is_502() {
    let daemon = Rgun::fake().flags(["--threads", "3"]).serving();
    let mut clients: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for (client, path) in clients.iter_mut().zip(["/slow/9000", "/slow/9000", "/die-after-claim-many/3"]) {
        client.ask(path);
    }
    for client in &mut clients {
        client.answer().is_a_refusal(502);
    }
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn unstarted_requests_are_served_by_the_successor() {
    let daemon = Rgun::fake().serving();
    let mut warm = daemon.connect();
    for _ in 0..300 {
        assert_eq!(warm.get("/hello").status, 200);
    }
    let mut slow = daemon.connect();
    slow.ask("/stream/2/150").head();
    let mut dying = daemon.connect();
    dying.ask("/die");
    let mut clients: Vec<_> = (0..10).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.ask("/hello");
    }
    assert_eq!(slow.rest_in_chunks(), "part 0\npart 1\n");
    dying.answer().is_a_refusal(502);
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn an_unstarted_upload_reaches_the_successor_whole() {
    let daemon = Rgun::fake().serving();
    let mut dying = daemon.connect();
    dying.ask("/slow/100");
    let mut last = daemon.connect();
    last.ask("/die");
    let body = crate::bodies::pattern(300_000);
    let mut client = daemon.connect();
    client.send(format!("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(dying.answer().status, 200);
    last.answer().is_a_refusal(502);
    let answer = client.answer();
    assert_eq!(answer.status, 200);
    assert!(answer.body == body, "it came back changed");
}

#[test]
fn requests_are_served_between_repeated_crashes() {
    let daemon = Rgun::fake().flags(["--workers", "2"]).start();
    daemon.log.wait_for(2, "is ready after");
    let mut client = daemon.connect();
    // Three paths: one that kills again and again is kept away (see `supervision`).
    for path in ["/die", "/abort", "/die-after-claim-many/1"] {
        client.get(path).is_a_refusal(502);
        assert_eq!(client.get("/hello").status, 200);
    }
}

#[test]
fn failed_boots_are_retried_until_one_succeeds() {
    let rgun = Rgun::fake();
    let how = rgun.scratch().write("how", "");
    let what = format!("@{}", how.display());
    let daemon = rgun.fake_does(&what).serving();
    daemon.scratch().write("how", "failed");
    daemon.get("/die").is_a_refusal(502);
    let line = daemon.log.wait("did not boot: the fake application does not load");
    assert!(line.contains("ERROR") && line.contains("next attempt in"), "{line}");
    let answer = daemon.get("/hello");
    answer.is_a_refusal(503);
    assert!(daemon.log.wait(answer.field("x-request-id")).contains("the fake application does not load"));
    assert!(answer.has("retry-after"));
    daemon.log.wait_for(2, "did not boot");
    daemon.scratch().write("how", "");
    until("it heals", || (daemon.get("/hello").status == 200).then_some(()));
    daemon.log.wait_for(1, "Traceback");
    assert_eq!(daemon.log.count("Traceback"), 1, "the same traceback is not told again");
}

#[test]
fn workers_die_with_a_killed_daemon() {
    let mut daemon = Rgun::fake().flags(["--workers", "3"]).start();
    daemon.log.wait_for(3, "is ready after");
    assert_eq!(daemon.descendants().len(), 3);
    daemon.signal(Signal::SIGKILL);
    daemon.exit();
}
