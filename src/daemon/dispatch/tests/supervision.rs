//! Notices and measurements for the supervisor: deadlines, slow requests, load, probes, workers due
//! for recycling.

use rgun_channel::layout::{SLOT_EXCHANGE, SLOT_THREAD};

use crate::escape::RequestPath;
use crate::supervise::ResponseStats;

use super::*;

fn slow_paths(notices: &[Notice]) -> Vec<String> {
    let paths = notices.iter().filter_map(|notice| match notice {
        Notice::SlowRequest(_, info) => Some(info.path.to_string()),
        _ => None,
    });
    paths.collect()
}

fn stats(answered: u64, failed: u64) -> ResponseStats {
    ResponseStats { answered, failed }
}

#[test]
fn deadline_notice_names_request_and_thread() {
    let mut rig = Rig::with(base_policy(), 0);
    rig.attach(Generation(1), 4, None);
    rig.dispatcher.admit(WORKER);
    let start = Instant::now();
    let _ticket = rig.submit_at("PUT", b"/stuck", start).unwrap();
    let (exchange, _) = rig.claim().unwrap();
    let map = &rig.workers[0].map;
    map.u64(Geometry::slot(2, SLOT_EXCHANGE)).store(exchange.0, Ordering::Relaxed);
    map.u64(Geometry::slot(2, SLOT_THREAD)).store(u64::MAX, Ordering::Relaxed);
    rig.dispatcher.tick(start + 11 * SECOND);
    let notices = rig.take_notices();
    let [Notice::DeadlineExceeded(WORKER, info)] = &notices[..] else { panic!("{notices:?}") };
    let elapsed = info.elapsed;
    assert!(elapsed > 10 * SECOND && elapsed <= 11 * SECOND, "{elapsed:?}");
    assert_eq!(
        *info,
        RequestInfo {
            exchange,
            request_id: "the-id".into(),
            method: "PUT".into(),
            path: RequestPath::new(b"/stuck"),
            thread: Some(u64::MAX),
            elapsed,
            response: ResponseProgress::NotStarted,
        }
    );
    // The deadline is reported once.
    rig.dispatcher.tick(start + 12 * SECOND);
    assert_eq!(rig.take_notices().len(), 0);
}

#[test]
fn running_requests_are_listed_without_unclaimed_ones() {
    let mut rig = Rig::with(base_policy(), 0);
    rig.attach(Generation(1), 2, None);
    rig.dispatcher.admit(WORKER);
    let _tickets = [rig.submit(b"/running"), rig.submit(b"/unclaimed")];
    rig.claim().unwrap();
    let running = rig.dispatcher.running_requests(WORKER);
    assert_eq!(running.iter().map(|info| info.path.to_string()).collect::<Vec<_>>(), ["/running"]);
    assert_eq!(running[0].thread, None);
    let gone = WorkerId { number: WorkerNr(0), incarnation: Incarnation(7) };
    assert_eq!(rig.dispatcher.running_requests(gone), []);
}

#[test]
fn slow_request_is_reported_once() {
    let mut rig = Rig::with(Policy { slow: Some(SECOND), ..base_policy() }, 2);
    let start = Instant::now();
    let _tickets = [rig.submit(b"/slow"), rig.submit(b"/unclaimed")];
    let (exchange, _) = rig.claim().unwrap();
    rig.dispatcher.tick(start + SECOND / 2);
    assert_eq!(slow_paths(&rig.take_notices()).len(), 0);
    rig.dispatcher.tick(start + 2 * SECOND);
    assert_eq!(slow_paths(&rig.take_notices()), ["/slow"]);
    rig.dispatcher.tick(start + 3 * SECOND);
    rig.finish(0, exchange, 200);
    assert_eq!(slow_paths(&rig.take_notices()).len(), 0);
}

#[test]
fn retried_slow_request_is_reported_again() {
    let policy =
        Policy { slow: Some(SECOND), request_timeout: None, retry_idempotent: true, ..base_policy() };
    let mut rig = Rig::with(policy, 2);
    let start = Instant::now();
    let _ticket = rig.submit(b"/slow");
    rig.claim().unwrap();
    rig.dispatcher.tick(start + 2 * SECOND);
    assert_eq!(slow_paths(&rig.take_notices()), ["/slow"]);
    rig.close_control(0);
    rig.workers[1].claim().unwrap();
    rig.dispatcher.tick(Instant::now());
    assert_eq!(slow_paths(&rig.take_notices()).len(), 0);
    rig.dispatcher.tick(Instant::now() + 2 * SECOND);
    assert_eq!(slow_paths(&rig.take_notices()), ["/slow"]);
}

#[test]
fn unrequested_stack_reports_are_limited() {
    let mut rig = Rig::with(base_policy(), 1);
    let report = |rig: &mut Rig| {
        rig.workers[0].report(&Report::StacksDumped(true));
        rig.dispatcher.read_reports(WORKER)
    };
    for _ in 0..5000 {
        rig.dispatcher.expect_stacks(WORKER);
        assert!(report(&mut rig));
    }
    rig.take_notices();
    assert!((0..5000).any(|_| !report(&mut rig)));
    let notices = rig.take_notices();
    assert!(matches!(notices.last(), Some(Notice::ContractBreached(WORKER, _))), "{:?}", notices.last());
    // Without the worker this has no effect.
    rig.dispatcher.expect_stacks(WORKER);
}

#[test]
fn overdue_request_is_not_reported_as_slow() {
    let mut rig = Rig::with(Policy { slow: Some(15 * SECOND), ..base_policy() }, 1);
    let start = Instant::now();
    let _ticket = rig.submit(b"/");
    rig.claim().unwrap();
    rig.dispatcher.tick(start + 11 * SECOND);
    rig.dispatcher.tick(start + 16 * SECOND);
    assert_eq!(slow_paths(&rig.take_notices()).len(), 0);
}

#[test]
fn request_with_a_slow_client_is_not_reported_as_slow() {
    let mut rig = Rig::with(Policy { slow: Some(SECOND), ..base_policy() }, 1);
    let start = Instant::now();
    let mut ticket = rig.submit(b"/download");
    let (exchange, _) = rig.claim().unwrap();
    rig.complete(exchange, CompletionKind::Respond, b"", false, false);
    rig.dispatcher.before_park();
    let Poll::Ready(Ok(_stream)) = peek(&mut ticket) else { panic!("no head") };
    for _ in 0..9 {
        rig.complete(exchange, CompletionKind::Body, &vec![b'x'; 64 * 1024], false, false);
        rig.dispatcher.before_park();
    }
    rig.dispatcher.tick(start + 2 * SECOND);
    assert_eq!(slow_paths(&rig.take_notices()).len(), 0);
}

#[test]
fn max_requests_is_reported_once() {
    let mut rig = Rig::with(base_policy(), 0);
    rig.attach(Generation(1), 1, Some(3));
    rig.dispatcher.admit(WORKER);
    for served in 1..=5 {
        let _ticket = rig.submit(b"/");
        rig.answer();
        let notices = rig.take_notices();
        match &notices[..] {
            [Notice::MaxRequestsReached(WORKER, 3)] => assert_eq!(served, 3),
            [] => assert_ne!(served, 3),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn load_sample_has_maxima_since_the_last_sample() {
    let mut rig = Rig::with(base_policy(), 2);
    let start = Instant::now();
    let _tickets = [&b"/1"[..], b"/2", b"/3"].map(|path| rig.submit_at("GET", path, start).unwrap());
    let load = rig.dispatcher.measure_at(start + 2 * SECOND);
    assert_eq!((load.queued, load.running, load.max_running), (1, 2, 2));
    assert_eq!((load.longest_wait, load.idle_for), (2 * SECOND, Duration::ZERO));
    for index in [0, 0, 1] {
        rig.answer_by(index, 200);
    }
    let load = rig.dispatcher.measure_at(Instant::now());
    assert_eq!((load.queued, load.running, load.max_running), (0, 0, 2));
    let load = rig.dispatcher.measure_at(Instant::now());
    assert_eq!((load.max_running, load.longest_wait), (0, Duration::ZERO));
}

#[test]
fn held_requests_are_not_in_the_load_sample() {
    let rule = Rule { pattern: "*".into(), request: None, concurrency: std::num::NonZeroU32::new(1) };
    let mut rig = Rig::with(Policy { rules: vec![rule], ..base_policy() }, 2);
    let _tickets = [b"/1", b"/2", b"/3"].map(|path| rig.submit_at("GET", path, ago(5 * SECOND)).unwrap());
    let load = rig.dispatcher.measure();
    assert_eq!((load.queued, load.longest_wait), (0, Duration::ZERO));
    assert_eq!(rig.dispatcher.load().queued, 2);
    // The wait for a permit does not count after the requests are assigned, either.
    assert_eq!(rig.answer(), b"/1");
    rig.dispatcher.set_policy(base_policy());
    assert_eq!(rig.claim_all(), ["/2", "/3"]);
    assert!(rig.dispatcher.measure().longest_wait < SECOND);
}

#[test]
fn idle_time_counts_from_the_last_response() {
    let mut rig = Rig::with(base_policy(), 1);
    let ticket = rig.submit_at("GET", b"/", ago(100 * SECOND)).unwrap();
    rig.answer();
    assert_eq!(status(ticket), 200);
    let idle = rig.dispatcher.measure_at(Instant::now() + 7 * SECOND).idle_for;
    assert!((7 * SECOND..17 * SECOND).contains(&idle), "{idle:?}");
    let _ticket = rig.submit(b"/");
    assert_eq!(rig.dispatcher.measure_at(Instant::now() + 5 * SECOND).idle_for, Duration::ZERO);
}

#[test]
fn response_counts_survive_their_worker() {
    let mut rig = Rig::with(base_policy(), 0);
    let old = rig.attach(Generation(1), 1, None);
    rig.dispatcher.admit(rig.workers[old].id);
    for code in [200, 404, 500] {
        let _ticket = rig.submit(b"/");
        rig.answer_by(old, code);
    }
    let new = rig.attach(Generation(2), 1, None);
    assert_eq!(rig.dispatcher.measure().responses, [(Generation(1), stats(3, 1))]);
    rig.dispatcher.admit(rig.workers[new].id);
    rig.dispatcher.retire(rig.workers[old].id);
    rig.close_control(old);
    // Failures: a worker that dies, a deadline, an application that raises.
    let _ticket = rig.submit(b"/");
    rig.crash_on(new, b"/");
    let next = rig.attach(Generation(2), 1, None);
    rig.dispatcher.admit(rig.workers[next].id);
    let _ticket = rig.submit(b"/");
    let (exchange, _) = rig.workers[next].claim().unwrap();
    rig.dispatcher.tick(Instant::now() + 11 * SECOND);
    rig.finish(next, exchange, 200);
    let _ticket = rig.submit(b"/");
    let (exchange, _) = rig.workers[next].claim().unwrap();
    let mut error = Vec::new();
    rgun_channel::frame::AppError { summary: "E", traceback: "" }.encode(&mut error);
    rig.workers[next].complete(exchange, CompletionKind::AppRaised, &error, true, true);
    rig.dispatcher.before_park();
    let _ticket = rig.submit(b"/");
    rig.answer_by(next, 200);
    let both = [(Generation(1), stats(3, 1)), (Generation(2), stats(4, 3))];
    assert_eq!(rig.dispatcher.measure().responses, both);
    // The counts are not reset by a sample.
    assert_eq!(rig.dispatcher.measure().responses, both);
}

#[test]
fn response_counts_of_old_generations_are_dropped() {
    let mut rig = Rig::with(base_policy(), 0);
    for generation in 1..=50 {
        let index = rig.attach(Generation(generation), 1, None);
        rig.dispatcher.admit(rig.workers[index].id);
        let _ticket = rig.submit(b"/");
        rig.answer_by(index, 200);
        rig.dispatcher.retire(rig.workers[index].id);
        rig.close_control(index);
    }
    let responses = rig.dispatcher.measure().responses;
    assert_eq!(responses.last().unwrap().0, Generation(50));
    assert!(responses.len() <= 8, "{responses:?}");
}

#[test]
fn probe_reaches_unadmitted_worker_despite_full_queue() {
    let mut rig = Rig::with(Policy { queue: 1, ..base_policy() }, 1);
    let _tickets = [rig.submit(b"/1"), rig.submit(b"/2")];
    assert_eq!(rig.submit_at("GET", b"/3", Instant::now()).unwrap_err(), Fault::QueueFull);
    let canary = rig.attach(Generation(2), 1, None);
    let probe = rig.probe(canary, b"/healthz").unwrap();
    assert_eq!(rig.answer_by(canary, 204), b"/healthz");
    assert_eq!(status(probe), 204);
    // The worker gets no other request, and the probe is not counted.
    assert_eq!(rig.workers[canary].claim(), None);
    assert_eq!(rig.dispatcher.measure().responses, []);
}

#[test]
fn probe_is_answered_by_its_worker_or_fails() {
    let mut rig = Rig::with(Policy { retry_idempotent: true, ..base_policy() }, 1);
    let canary = rig.attach(Generation(2), 1, None);
    let mut probe = rig.probe(canary, b"/healthz").unwrap();
    // The probe is not moved: not to an idle worker, nor by a stall or retirement.
    rig.dispatcher.tick(Instant::now() + SECOND);
    rig.dispatcher.tick(Instant::now() + 2 * SECOND);
    rig.dispatcher.retire(rig.workers[canary].id);
    assert_eq!(rig.workers[0].claim(), None);
    assert!(peek(&mut probe).is_pending());
    rig.crash_on(canary, b"/healthz");
    assert_eq!(fault(probe), Fault::WorkerDied(rig.workers[canary].id));
    assert!(rig.dispatcher.lock().quarantine.is_empty());
    assert_eq!(rig.workers[0].claim(), None);
    assert_eq!(rig.probe(canary, b"/healthz").unwrap_err(), Fault::WorkerDied(rig.workers[canary].id));
}

#[test]
fn unclaimed_probe_fails_when_its_worker_dies() {
    let mut rig = Rig::with(base_policy(), 1);
    let canary = rig.attach(Generation(2), 1, None);
    let probe = rig.probe(canary, b"/healthz").unwrap();
    rig.close_control(canary);
    assert_eq!(fault(probe), Fault::WorkerDied(rig.workers[canary].id));
    assert_eq!(rig.workers[0].claim(), None);
}

#[test]
fn probe_has_a_deadline() {
    let mut rig = Rig::with(base_policy(), 0);
    let canary = rig.attach(Generation(2), 1, None);
    let probe = rig.probe(canary, b"/healthz").unwrap();
    rig.workers[canary].claim().unwrap();
    rig.dispatcher.tick(Instant::now() + 11 * SECOND);
    assert_eq!(fault(probe), Fault::Deadline(WORKER));
}

#[test]
fn readmitted_worker_serves_and_drains_again() {
    let mut rig = Rig::with(base_policy(), 1);
    rig.dispatcher.retire(WORKER);
    assert!(matches!(rig.take_notices()[..], [Notice::Drained(WORKER)]));
    let ticket = rig.submit(b"/");
    assert_eq!(rig.claim(), None);
    rig.dispatcher.admit(WORKER);
    rig.answer();
    assert_eq!(status(ticket), 200);
    rig.take_notices();
    rig.dispatcher.retire(WORKER);
    assert!(matches!(rig.take_notices()[..], [Notice::Drained(WORKER)]));
}

#[test]
fn zygote_reports_and_gets_no_requests() {
    let mut rig = Rig::with(base_policy(), 0);
    let zygote = rig.attach(Generation(1), 1, None);
    let _ticket = rig.submit(b"/");
    for incarnation in 0..500 {
        rig.workers[zygote].report(&Report::Forked { incarnation, pid: 1 });
        assert!(rig.dispatcher.read_reports(rig.workers[zygote].id));
    }
    let forked = rig
        .take_notices()
        .iter()
        .filter(|notice| matches!(notice, Notice::Report(_, Report::Forked { .. })))
        .count();
    assert_eq!(forked, 500);
    assert_eq!(rig.workers[zygote].claim(), None);
}

#[test]
fn too_many_fork_reports_are_a_breach() {
    let mut rig = Rig::with(base_policy(), 0);
    let zygote = rig.attach(Generation(1), 1, None);
    let id = rig.workers[zygote].id;
    let excess = (0..100_000).find(|incarnation| {
        rig.workers[zygote].report(&Report::Forked { incarnation: *incarnation, pid: 1 });
        !rig.dispatcher.read_reports(id)
    });
    assert!(excess.is_some_and(|incarnation| incarnation >= 1024), "{excess:?}");
    let last = rig.take_notices().pop();
    assert!(matches!(last, Some(Notice::ContractBreached(..))), "{last:?}");
}

#[test]
fn ticket_names_the_assigned_worker() {
    let rig = Rig::with(base_policy(), 2);
    let (first, second) = (rig.submit(b"/1"), rig.submit(b"/2"));
    let waiting = rig.submit(b"/3");
    let (one, other) = (rig.workers[0].id, rig.workers[1].id);
    assert_eq!([first.worker(), second.worker(), waiting.worker()], [Some(one), Some(other), None]);
    rig.dispatcher.retire(one);
    assert_eq!(first.worker(), None);
}
