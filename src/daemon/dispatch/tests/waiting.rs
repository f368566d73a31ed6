//! The queue: order, timeouts, shedding, and the notice that requests a worker.

use super::*;

fn timeout_policy() -> Policy {
    Policy { queue_timeout: Some(8 * SECOND), ..base_policy() }
}

fn count_worker_requests(notices: &[Notice]) -> usize {
    notices.iter().filter(|notice| matches!(notice, Notice::WorkerRequested)).count()
}

#[test]
fn requests_are_served_oldest_first() {
    let mut rig = Rig::with(timeout_policy(), 1);
    let _tickets = [&b"/1"[..], b"/2", b"/3"].map(|path| rig.submit(path));
    for path in [b"/1", b"/2", b"/3"] {
        assert_eq!(rig.answer(), path);
    }
}

#[test]
fn overloaded_queue_serves_newest_and_times_out_oldest() {
    let mut rig = Rig::with(timeout_policy(), 1);
    let _running = rig.submit(b"/0");
    let long_ago = ago(5 * SECOND);
    let mut oldest = rig.submit_at("GET", b"/1", long_ago).unwrap();
    let _later = rig.submit(b"/2");
    let _newest = rig.submit(b"/3");
    assert_eq!(rig.answer(), b"/0");
    assert_eq!(rig.answer(), b"/3");
    rig.dispatcher.tick(long_ago + 9 * SECOND);
    assert!(matches!(peek(&mut oldest), Poll::Ready(Err(Fault::QueueTimeout))));
    assert_eq!(rig.answer(), b"/2");
}

#[test]
fn drained_queue_is_served_oldest_first_again() {
    let mut rig = Rig::with(timeout_policy(), 1);
    let _running = rig.submit(b"/0");
    let long_ago = ago(5 * SECOND);
    let _first = [b"/1", b"/2"].map(|path| rig.submit_at("GET", path, long_ago).unwrap());
    for path in [b"/0", b"/2"] {
        assert_eq!(rig.answer(), path);
    }
    let _second = [b"/3", b"/4"].map(|path| rig.submit(path));
    for path in [b"/1", b"/3", b"/4"] {
        assert_eq!(rig.answer(), path);
    }
}

/// Four clients send a new request after each response, and three of them always wait: that is not
/// an overload.
#[test]
fn busy_queue_that_moves_is_served_oldest_first() {
    let mut rig = Rig::with(timeout_policy(), 1);
    let mut waiting: Vec<_> = (0..4).map(|number| rig.submit(format!("/{number}").as_bytes())).collect();
    for number in 4..100 {
        assert_eq!(rig.answer(), format!("/{}", number - 4).as_bytes());
        assert_eq!(status(waiting.remove(0)), 200);
        waiting.push(rig.submit(format!("/{number}").as_bytes()));
    }
}

#[test]
fn queue_without_timeout_is_always_served_oldest_first() {
    let mut rig = Rig::with(base_policy(), 1);
    let _running = rig.submit(b"/0");
    let _old = [b"/1", b"/2", b"/3"].map(|path| rig.submit_at("GET", path, ago(3600 * SECOND)).unwrap());
    for path in [b"/0", b"/1", b"/2", b"/3"] {
        assert_eq!(rig.answer(), path);
    }
}

#[test]
fn revoked_request_keeps_its_age_when_newest_are_served() {
    let mut rig = Rig::with(timeout_policy(), 2);
    let _running = [b"/a", b"/b"].map(|path| rig.submit(path));
    let long_ago = ago(5 * SECOND);
    let _old = [b"/1", b"/2", b"/3"].map(|path| rig.submit_at("GET", path, long_ago).unwrap());
    assert_eq!(rig.answer(), b"/a");
    // The first worker retires before it has started /3.
    let _new = rig.submit(b"/4");
    rig.dispatcher.retire(WORKER);
    rig.check();
    for path in [b"/b", b"/4", b"/3", b"/2", b"/1"] {
        assert_eq!(rig.answer_by(1, 200), path);
    }
}

#[test]
fn queue_that_waited_for_a_worker_is_served_oldest_first() {
    let mut rig = Rig::with(timeout_policy(), 0);
    let long_ago = ago(5 * SECOND);
    let _tickets = [b"/1", b"/2"].map(|path| rig.submit_at("GET", path, long_ago).unwrap());
    rig.admit_new();
    assert_eq!(rig.answer(), b"/1");
    assert_eq!(rig.answer(), b"/2");
}

#[test]
fn missing_worker_is_requested_once() {
    let mut rig = Rig::with(base_policy(), 0);
    let _tickets = [rig.submit(b"/1"), rig.submit(b"/2")];
    assert_eq!(count_worker_requests(&rig.take_notices()), 1);
    // A booting worker does not serve.
    rig.attach(Generation(1), 1, None);
    let _third = rig.submit(b"/3");
    assert_eq!(count_worker_requests(&rig.take_notices()), 0);
    rig.dispatcher.admit(WORKER);
    let _fourth = rig.submit(b"/4");
    for path in [b"/1", b"/2", b"/3", b"/4"] {
        assert_eq!(rig.answer(), path);
    }
    assert_eq!(count_worker_requests(&rig.take_notices()), 0);
    rig.dispatcher.retire(WORKER);
    let _fifth = rig.submit(b"/5");
    assert_eq!(count_worker_requests(&rig.take_notices()), 1);
}

#[test]
fn queued_request_behind_a_busy_worker_requests_no_worker() {
    let rig = Rig::with(base_policy(), 1);
    let _tickets = [rig.submit(b"/1"), rig.submit(b"/2")];
    assert_eq!(count_worker_requests(&rig.take_notices()), 0);
}

#[test]
fn loss_of_the_last_worker_requests_another_one() {
    let rig = Rig::with(base_policy(), 1);
    let _tickets = [rig.submit(b"/1"), rig.submit(b"/2")];
    rig.dispatcher.retire(WORKER);
    assert_eq!(count_worker_requests(&rig.take_notices()), 1);

    let mut rig = Rig::with(base_policy(), 1);
    let _tickets = [rig.submit(b"/1"), rig.submit(b"/2")];
    rig.crash_on(0, b"/1");
    assert_eq!(count_worker_requests(&rig.take_notices()), 1);
}

#[test]
fn requests_of_the_last_worker_fail_if_no_other_will_serve() {
    let mut rig = Rig::with(base_policy(), 1);
    let (running, waiting) = (rig.submit(b"/1"), rig.submit(b"/2"));
    rig.dispatcher.set_unavailable(Some("it does not boot"));
    rig.crash_on(0, b"/1");
    assert_eq!(fault(running), Fault::WorkerDied(WORKER));
    assert_eq!(fault(waiting), Fault::Unavailable("it does not boot".into()));
    assert_eq!(count_worker_requests(&rig.take_notices()), 0);
}

#[test]
fn rejected_request_asks_for_no_worker() {
    let rig = Rig::with(base_policy(), 0);
    rig.dispatcher.set_unavailable(Some("it does not boot"));
    assert!(matches!(rig.submit_at("GET", b"/", Instant::now()), Err(Fault::Unavailable(_))));
    assert_eq!(rig.take_notices().len(), 0);
}

/// Returns an overloaded rig, its tickets and the current time. The rig has one slot and
/// `n_waiting` queued requests; so far, one request has left the queue each second.
fn overloaded(n_waiting: usize) -> (Rig, Vec<Ticket>, Instant) {
    let mut rig = Rig::with(Policy { queue: 1000, ..timeout_policy() }, 1);
    let mut tickets = vec![rig.submit(b"/running")];
    let mut now = Instant::now();
    tickets.extend([0, 1].map(|_| rig.submit_at("GET", b"/waiting", now).unwrap()));
    for _ in 0..4 {
        now += SECOND;
        tickets.push(rig.submit_at("GET", b"/waiting", now).unwrap());
        let (exchange, _) = rig.claim().expect("the ring is not empty");
        rig.workers[0].complete_with_status(exchange, CompletionKind::Respond, 200, b"", true, true);
        rig.dispatcher.tick(now);
    }
    while rig.dispatcher.load().queued < n_waiting {
        tickets.push(rig.submit_at("GET", b"/waiting", now).unwrap());
    }
    (rig, tickets, now)
}

#[test]
fn request_with_too_long_a_wait_is_shed_with_the_estimate() {
    let (rig, _tickets, now) = overloaded(9);
    assert_eq!(rig.submit_at("GET", b"/", now).unwrap_err(), Fault::QueueTooSlow(9 * SECOND));
}

#[test]
fn requests_are_queued_again_once_the_queue_is_faster() {
    let (mut rig, _tickets, mut now) = overloaded(9);
    assert!(rig.submit_at("GET", b"/", now).is_err());
    let mut later = Vec::new();
    for _ in 0..9 {
        now += SECOND / 10;
        let (exchange, _) = rig.claim().expect("the ring is not empty");
        rig.workers[0].complete_with_status(exchange, CompletionKind::Respond, 200, b"", true, true);
        rig.dispatcher.tick(now);
        later.push(rig.submit_at("GET", b"/", now).expect("there is room again"));
    }
}

#[test]
fn held_request_is_not_shed_when_the_queue_is_slow() {
    let (rig, _tickets, now) = overloaded(9);
    let concurrency = std::num::NonZeroU32::new(1);
    let rule = Rule { pattern: "/waiting".to_owned(), request: None, concurrency };
    rig.dispatcher.set_policy(Policy { queue: 1000, rules: vec![rule], ..timeout_policy() });
    let _held = rig.submit_at("GET", b"/waiting", now).expect("a held request is not queued");
    assert_eq!(rig.submit_at("GET", b"/another", now).unwrap_err(), Fault::QueueTooSlow(9 * SECOND));
}

#[test]
fn requests_waiting_for_the_first_worker_are_not_shed() {
    let rig = Rig::with(Policy { queue: 1000, ..timeout_policy() }, 0);
    let start = Instant::now();
    let tickets = (0..500_u32).map(|number| rig.submit_at("GET", b"/", start + SECOND * number / 100));
    let tickets: Result<Vec<_>, _> = tickets.collect();
    assert_eq!(tickets.expect("nothing is shed").len(), 500);
}

#[test]
fn only_a_client_with_too_many_queued_requests_is_rejected() {
    let policy = Policy { queue_per_client: std::num::NonZeroU32::new(1), ..base_policy() };
    let rig = Rig::with(policy, 0);
    let first = rig.submit_from(b"192.0.2.1", b"/1").unwrap();
    assert_eq!(rig.submit_from(b"192.0.2.1", b"/2").unwrap_err(), Fault::ClientQueueFull);
    let _others = [b"192.0.2.2", b"192.0.2.3"].map(|peer| rig.submit_from(peer, b"/").unwrap());
    let _unix = [rig.submit_from(b"", b"/").unwrap(), rig.submit_from(b"", b"/").unwrap()];
    // A request that is abandoned makes room for another one of its client.
    drop(first);
    let _again = rig.submit_from(b"192.0.2.1", b"/3").unwrap();
    assert_eq!(rig.submit_from(b"192.0.2.1", b"/4").unwrap_err(), Fault::ClientQueueFull);
    rig.dispatcher.set_policy(base_policy());
    let _more = [b"/5", b"/6"].map(|path| rig.submit_from(b"192.0.2.1", path).unwrap());
}
