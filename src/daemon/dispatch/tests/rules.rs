//! Deadlines and concurrency by path.

use std::num::NonZeroU32;

use super::*;

fn concurrency_rule(pattern: &str, limit: u32) -> Rule {
    Rule { pattern: pattern.to_owned(), request: None, concurrency: NonZeroU32::new(limit) }
}

fn timeout_rule(pattern: &str, request: Option<Duration>) -> Rule {
    Rule { pattern: pattern.to_owned(), request: Some(request), concurrency: None }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy { rules, ..base_policy() }
}

#[test]
fn path_at_its_limit_does_not_delay_other_paths() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 2);
    let _tickets = [rig.submit(b"/export/1"), rig.submit(b"/export/2"), rig.submit(b"/export/3")];
    let _other = rig.submit(b"/other");
    assert_eq!(rig.claim_all(), ["/export/1", "/other"]);
    assert_eq!(rig.dispatcher.load().queued, 2);
}

#[test]
fn permit_is_released_by_done_and_not_by_disconnect() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 2);
    let (first, mut second) = (rig.submit(b"/export/1"), rig.submit(b"/export/2"));
    let (exchange, _) = rig.claim().unwrap();
    drop(first);
    rig.dispatcher.before_park();
    assert_eq!(rig.claim_all(), [""; 0]);
    rig.finish(0, exchange, 200);
    assert_eq!(rig.claim_all(), ["/export/2"]);
    assert!(peek(&mut second).is_pending());
}

#[test]
fn held_request_keeps_its_age_in_the_queue() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 1);
    let _tickets = [&b"/export/1"[..], b"/export/2", b"/a", b"/export/3", b"/b"].map(|path| rig.submit(path));
    let order: Vec<_> = (0..5).map(|_| String::from_utf8(rig.answer()).unwrap()).collect();
    assert_eq!(order, ["/export/1", "/export/2", "/a", "/export/3", "/b"]);
}

#[test]
fn abandoned_held_request_is_removed_at_once() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 2);
    let _first = rig.submit(b"/export/1");
    let (second, _third) = (rig.submit(b"/export/2"), rig.submit(b"/export/3"));
    drop(second);
    assert_eq!(rig.dispatcher.load().queued, 1);
    rig.answer();
    assert_eq!(rig.claim_all(), ["/export/3"]);
}

#[test]
fn abandoned_queued_request_releases_its_permit() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 1);
    let _running = rig.submit(b"/");
    let (first, _second) = (rig.submit(b"/export/1"), rig.submit(b"/export/2"));
    drop(first);
    rig.check();
    assert_eq!(rig.answer(), b"/");
    assert_eq!(rig.answer(), b"/export/2");
}

#[test]
fn abandoned_unclaimed_request_releases_its_permit() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 2);
    let (first, _second) = (rig.submit(b"/export/1"), rig.submit(b"/export/2"));
    drop(first);
    assert_eq!(rig.claim_all(), ["/export/2"]);
}

#[test]
fn held_requests_count_towards_the_queue_limit() {
    let mut rig = Rig::with(Policy { queue: 2, ..policy(vec![concurrency_rule("/export*", 1)]) }, 2);
    let _tickets = [rig.submit(b"/export/1"), rig.submit(b"/export/2"), rig.submit(b"/export/3")];
    assert_eq!(rig.submit_at("GET", b"/export/4", Instant::now()).unwrap_err(), Fault::QueueFull);
    // A request that can start at once is not queued.
    let _other = rig.submit(b"/other");
    assert_eq!(rig.submit_at("GET", b"/another", Instant::now()).unwrap_err(), Fault::QueueFull);
    assert_eq!(rig.claim_all(), ["/export/1", "/other"]);
}

#[test]
fn held_requests_time_out() {
    let timeout = Policy { queue_timeout: Some(5 * SECOND), request_timeout: None, ..base_policy() };
    let rig = Rig::with(Policy { rules: vec![concurrency_rule("/export*", 1)], ..timeout }, 2);
    let start = Instant::now();
    let mut first = rig.submit_at("GET", b"/export/1", start).unwrap();
    let mut second = rig.submit_at("GET", b"/export/2", start).unwrap();
    let mut third = rig.submit_at("GET", b"/export/3", start + 3 * SECOND).unwrap();
    rig.dispatcher.tick(start + 6 * SECOND);
    assert!(matches!(peek(&mut second), Poll::Ready(Err(Fault::QueueTimeout))));
    assert!(peek(&mut first).is_pending() && peek(&mut third).is_pending());
    assert_eq!(rig.dispatcher.load().queued, 1);
}

#[test]
fn held_requests_are_rejected_when_no_worker_will_serve() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 1);
    let mut first = rig.submit(b"/export/1");
    let mut second = rig.submit(b"/export/2");
    rig.claim().unwrap();
    rig.dispatcher.retire(WORKER);
    rig.dispatcher.set_unavailable(Some("it does not boot"));
    assert!(matches!(peek(&mut second), Poll::Ready(Err(Fault::Unavailable(_)))));
    assert!(peek(&mut first).is_pending());
}

#[test]
fn permit_is_released_when_worker_dies() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 2);
    let (first, _second) = (rig.submit(b"/export/1"), rig.submit(b"/export/2"));
    rig.crash_on(0, b"/export/1");
    assert_eq!(fault(first), Fault::WorkerDied(WORKER));
    assert_eq!(rig.claim_all(), ["/export/2"]);
}

#[test]
fn overdue_request_keeps_its_permit_until_worker_exits() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 2);
    let (first, _second) = (rig.submit(b"/export/1"), rig.submit(b"/export/2"));
    rig.claim().unwrap();
    rig.dispatcher.tick(Instant::now() + 11 * SECOND);
    assert_eq!(fault(first), Fault::Deadline(WORKER));
    assert_eq!(rig.claim_all(), [""; 0]);
    rig.close_control(0);
    assert_eq!(rig.claim_all(), ["/export/2"]);
}

#[test]
fn path_rule_sets_its_own_deadline() {
    let rules = vec![
        timeout_rule("/slow/*", Some(600 * SECOND)),
        timeout_rule("/stream", None),
        timeout_rule("/slow*", None),
    ];
    let mut rig = Rig::with(policy(rules), 3);
    let start = Instant::now();
    let mut slow = rig.submit(b"/slow/report");
    let mut stream = rig.submit(b"/stream");
    let usual = rig.submit(b"/");
    rig.claim_all();
    rig.dispatcher.tick(start + 9 * SECOND);
    assert_eq!(rig.take_notices().len(), 0);
    rig.dispatcher.tick(start + 11 * SECOND);
    assert_eq!(fault(usual), Fault::Deadline(rig.workers[2].id));
    assert!(peek(&mut slow).is_pending());
    rig.dispatcher.tick(start + 601 * SECOND);
    assert_eq!(fault(slow), Fault::Deadline(WORKER));
    rig.dispatcher.tick(start + 100_000 * SECOND);
    assert!(peek(&mut stream).is_pending());
}

#[test]
fn new_policy_applies_to_waiting_requests_only() {
    let mut rig = Rig::with(policy(vec![concurrency_rule("/export*", 1)]), 3);
    let start = Instant::now();
    let mut running = rig.submit(b"/export/1");
    let mut tickets = [rig.submit(b"/export/2"), rig.submit(b"/export/3"), rig.submit(b"/export/4")];
    assert_eq!(rig.claim_all(), ["/export/1"]);
    let two = Rule { request: Some(Some(60 * SECOND)), ..concurrency_rule("/*", 2) };
    rig.dispatcher.set_policy(Policy { rules: vec![two], ..base_policy() });
    rig.check();
    assert_eq!(rig.claim_all(), ["/export/2"]);
    rig.dispatcher.tick(start + 11 * SECOND);
    assert!(matches!(peek(&mut running), Poll::Ready(Err(Fault::Deadline(_)))));
    assert!(peek(&mut tickets[0]).is_pending());
    // There are fewer permits than running requests. The running requests continue, and the others
    // wait for a permit.
    rig.dispatcher.set_policy(policy(vec![concurrency_rule("/export*", 1)]));
    rig.check();
    assert_eq!(rig.dispatcher.load().queued, 2);
    rig.dispatcher.set_policy(base_policy());
    rig.check();
    assert_eq!(rig.claim_all(), ["/export/3"]);
}

#[test]
fn rejected_request_takes_no_permit() {
    let rig = Rig::with(Policy { queue: 0, ..policy(vec![concurrency_rule("/export*", 1)]) }, 0);
    assert_eq!(rig.submit_at("GET", b"/export/1", Instant::now()).unwrap_err(), Fault::QueueFull);
    assert_eq!(rig.dispatcher.lock().rules.n_permits(), 0);
}

#[test]
fn held_requests_count_for_their_client_until_they_start() {
    let rule = concurrency_rule("/export*", 1);
    let policy = Policy { queue_per_client: NonZeroU32::new(1), rules: vec![rule], ..base_policy() };
    let mut rig = Rig::with(policy, 1);
    let _running = rig.submit_from(b"192.0.2.1", b"/export/1").unwrap();
    let _held = rig.submit_from(b"192.0.2.1", b"/export/2").unwrap();
    assert_eq!(rig.submit_from(b"192.0.2.1", b"/export/3").unwrap_err(), Fault::ClientQueueFull);
    assert_eq!(rig.answer(), b"/export/1");
    let _next = rig.submit_from(b"192.0.2.1", b"/export/4").unwrap();
}
