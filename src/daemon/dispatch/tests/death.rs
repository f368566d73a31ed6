//! Requests whose worker dies: they are named, requeued, retried or quarantined.

use std::io::{Read, Seek, SeekFrom, Write};

use super::*;

const BLOCK_TIME: Duration = Duration::from_mins(1);

fn retry_policy() -> Policy {
    Policy { retry_idempotent: true, ..base_policy() }
}

fn names(requests: &[RequestInfo]) -> Vec<String> {
    requests.iter().map(|info| format!("{} {}", info.method, info.path)).collect()
}

fn crashed_requests(notices: &[Notice]) -> Vec<Vec<String>> {
    let names = notices.iter().filter_map(|notice| match notice {
        Notice::WorkerDied { requests, .. } => Some(names(requests)),
        _ => None,
    });
    names.collect()
}

fn quarantined(notices: &[Notice]) -> Vec<String> {
    let paths = notices.iter().filter_map(|notice| match notice {
        Notice::Quarantined { method, path, duration } => {
            assert_eq!(*duration, BLOCK_TIME);
            Some(format!("{method} {path}"))
        }
        _ => None,
    });
    paths.collect()
}

fn is_blocked(rig: &Rig, path: &[u8], now: Instant) -> bool {
    // The ticket is dropped, so that an admitted request does not stay as the trial.
    matches!(rig.submit_at("GET", path, now), Err(Fault::Quarantined(_)))
}

#[test]
fn crash_names_started_requests_and_requeues_the_others() {
    let mut rig = Rig::with(base_policy(), 0);
    rig.attach(Generation(1), 2, None);
    rig.dispatcher.admit(WORKER);
    let (mut first, mut second) = (rig.submit(b"/kill"), rig.submit(b"/innocent"));
    rig.crash_on(0, b"/kill");
    let notices = rig.take_notices();
    assert_eq!(crashed_requests(&notices), [["GET /kill"]]);
    let Some(Notice::WorkerDied { worker, requests }) =
        notices.iter().find(|notice| matches!(notice, Notice::WorkerDied { .. }))
    else {
        panic!("{notices:?}")
    };
    assert_eq!((*worker, requests[0].request_id.as_str()), (WORKER, "the-id"));
    assert!(matches!(peek(&mut first), Poll::Ready(Err(Fault::WorkerDied(WORKER)))));
    assert!(peek(&mut second).is_pending());
    rig.admit_new();
    assert_eq!(rig.answer_by(1, 200), b"/innocent");
    assert_eq!(status(second), 200);
}

#[test]
fn crash_without_started_requests_blames_none() {
    let mut rig = Rig::with(base_policy(), 1);
    let _ticket = rig.submit(b"/");
    rig.close_control(0);
    assert_eq!(crashed_requests(&rig.take_notices()).len(), 0);
    assert!(rig.dispatcher.lock().quarantine.is_empty());
}

#[test]
fn idempotent_request_is_retried_once_and_then_fails() {
    let mut rig = Rig::with(retry_policy(), 2);
    let mut ticket = rig.submit(b"/kill");
    rig.crash_on(0, b"/kill");
    assert!(peek(&mut ticket).is_pending());
    let notices = rig.take_notices();
    assert!(
        notices.iter().any(
            |notice| matches!(notice, Notice::Retried(WORKER, info) if info.path.to_string() == "/kill")
        )
    );
    rig.admit_new();
    rig.crash_on(1, b"/kill");
    assert_eq!(fault(ticket), Fault::WorkerDied(rig.workers[1].id));
    assert_eq!(rig.workers[2].claim(), None);
    assert!(!rig.take_notices().iter().any(|notice| matches!(notice, Notice::Retried(..))));
}

#[test]
fn retried_request_gets_no_third_attempt_despite_successes() {
    let mut rig = Rig::with(retry_policy(), 3);
    let ticket = rig.submit(b"/");
    rig.crash_on(0, b"/");
    rig.workers[1].claim().unwrap();
    let _successful = rig.submit(b"/");
    assert_eq!(rig.answer_by(2, 200), b"/");
    assert!(rig.dispatcher.lock().quarantine.is_empty());
    rig.close_control(1);
    assert_eq!(fault(ticket), Fault::WorkerDied(rig.workers[1].id));
    assert_eq!(rig.workers[2].claim(), None);
}

#[test]
fn retried_request_is_answered_normally() {
    let mut rig = Rig::with(retry_policy(), 2);
    let ticket = rig.submit(b"/");
    rig.crash_on(0, b"/");
    rig.answer_by(1, 204);
    assert_eq!(status(ticket), 204);
}

#[test]
fn retried_request_has_a_new_timeout_and_delays_no_other() {
    let policy = Policy { queue_timeout: Some(5 * SECOND), request_timeout: None, ..retry_policy() };
    let mut rig = Rig::with(policy, 1);
    let long_ago = ago(4 * SECOND);
    let mut tried = rig.submit_at("GET", b"/tried", long_ago).unwrap();
    rig.claim().unwrap();
    let mut waiting = rig.submit_at("GET", b"/waiting", long_ago).unwrap();
    rig.close_control(0);
    rig.dispatcher.tick(long_ago + 6 * SECOND);
    assert!(peek(&mut tried).is_pending());
    assert!(matches!(peek(&mut waiting), Poll::Ready(Err(Fault::QueueTimeout))));
}

#[test]
fn only_idempotent_methods_are_retried() {
    for (method, is_retried) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("PUT", true),
        ("DELETE", true),
        ("TRACE", true),
        ("POST", false),
        ("PATCH", false),
        ("PROPFIND", false),
        ("put", false),
    ] {
        let mut rig = Rig::with(retry_policy(), 2);
        let mut ticket = rig.submit_at(method, b"/", Instant::now()).unwrap();
        rig.crash_on(0, b"/");
        assert_eq!(peek(&mut ticket).is_pending(), is_retried, "{method}");
        assert_eq!(rig.workers[1].claim().is_some(), is_retried, "{method}");
    }
}

#[test]
fn retried_request_sends_its_body_from_the_start() {
    let mut rig = Rig::with(retry_policy(), 2);
    let mut body: File = rustix::fs::memfd_create("body", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into();
    body.write_all(b"all of it").unwrap();
    body.seek(SeekFrom::Start(0)).unwrap();
    let request = Request { method: b"PUT", body_is_fd: true, body_len: 9, ..Request::new(ExchangeId(0)) };
    let now = Instant::now();
    let _ticket = rig.dispatcher.submit(&request, iter::empty(), Some(body.into()), now).unwrap();
    for index in [0, 1] {
        let mut buffer = vec![0; control::MAX_MESSAGE_BYTES];
        let socket = rig.workers[index].control.as_ref().unwrap();
        let mut received = control::receive(socket, &mut buffer).unwrap();
        let mut text = String::new();
        File::from(received.fds.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "all of it");
        rig.crash_on(index, b"/");
    }
}

#[test]
fn nothing_is_retried_without_the_setting() {
    let mut rig = Rig::with(base_policy(), 2);
    let ticket = rig.submit(b"/");
    rig.crash_on(0, b"/");
    assert_eq!(fault(ticket), Fault::WorkerDied(WORKER));
    assert_eq!(rig.workers[1].claim(), None);
}

#[test]
fn request_is_not_retried_once_client_has_the_head() {
    let mut rig = Rig::with(retry_policy(), 2);
    let mut ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    rig.complete(exchange, CompletionKind::Respond, b"begun", false, false);
    rig.dispatcher.before_park();
    let Poll::Ready(Ok(answer)) = peek(&mut ticket) else { panic!("no head") };
    rig.close_control(0);
    assert_eq!(rig.workers[1].claim(), None);
    let mut stream = answer.body.into_stream().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(stream.poll_piece(&mut context), Poll::Ready(Some(Ok(BodyPiece::Bytes(_))))));
    let end = stream.poll_piece(&mut context);
    assert!(matches!(end, Poll::Ready(Some(Err(Fault::WorkerDied(WORKER))))), "{end:?}");
}

#[test]
fn retry_discards_the_undelivered_response() {
    let mut rig = Rig::with(retry_policy(), 2);
    let mut ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    rig.complete(exchange, CompletionKind::Respond, b"the first ", false, false);
    rig.complete(exchange, CompletionKind::Body, b"attempt", false, false);
    rig.close_control(0);
    let (exchange, _) = rig.workers[1].claim().unwrap();
    rig.workers[1].complete(exchange, CompletionKind::Respond, b"the second", true, true);
    rig.dispatcher.before_park();
    let Poll::Ready(Ok(answer)) = peek(&mut ticket) else { panic!("no answer") };
    assert!(matches!(&answer.body, AppBody::Bytes(data) if **data == *b"the second"), "{:?}", answer.body);
    assert_eq!(answer.worker, Some(rig.workers[1].id));
}

#[test]
fn complete_response_is_delivered_despite_the_crash() {
    let mut rig = Rig::with(retry_policy(), 2);
    let ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    // Without DONE: the worker is still closing the application's iterable.
    rig.complete(exchange, CompletionKind::Respond, b"all", true, false);
    rig.close_control(0);
    assert_eq!(status(ticket), 200);
    assert_eq!(rig.workers[1].claim(), None);
}

#[test]
fn second_crash_blocks_started_and_queued_fingerprints() {
    let mut rig = Rig::with(base_policy(), 2);
    let first = rig.submit(b"/kill");
    rig.crash_on(0, b"/kill");
    assert_eq!(fault(first), Fault::WorkerDied(WORKER));
    assert_eq!(quarantined(&rig.take_notices()).len(), 0);
    let second = rig.submit(b"/kill");
    let (queued, other) = (rig.submit(b"/kill"), rig.submit(b"/other"));
    rig.crash_on(1, b"/kill");
    assert_eq!(fault(second), Fault::WorkerDied(rig.workers[1].id));
    assert_eq!(quarantined(&rig.take_notices()), ["GET /kill"]);
    assert!(matches!(fault(queued), Fault::Quarantined(pause) if pause <= BLOCK_TIME));
    assert!(is_blocked(&rig, b"/kill", Instant::now()));
    rig.admit_new();
    assert_eq!(rig.answer_by(2, 200), b"/other");
    assert_eq!(status(other), 200);
    // Other methods and paths are not blocked.
    assert!(rig.submit_at("POST", b"/kill", Instant::now()).is_ok());
    assert!(rig.submit_at("GET", b"/kill/not", Instant::now()).is_ok());
}

#[test]
fn stopped_worker_blames_and_retries_none() {
    let mut rig = Rig::with(retry_policy(), 3);
    for index in 0..2 {
        let ticket = rig.submit(b"/");
        let worker = rig.workers[index].id;
        rig.dispatcher.mark_stopped(worker);
        rig.crash_on(index, b"/");
        assert_eq!(fault(ticket), Fault::WorkerKilled(worker));
    }
    assert_eq!(quarantined(&rig.take_notices()).len(), 0);
    assert!(rig.dispatcher.lock().quarantine.is_empty());
    assert_eq!(rig.workers[2].claim(), None);
}

#[test]
fn blocked_request_is_revoked_from_its_worker() {
    let mut rig = Rig::fast();
    let second = rig.admit_new();
    rig.workers[second].service = FAST_SERVICE_NANOS;
    let warm = [rig.submit(b"/"), rig.submit(b"/")];
    rig.answer();
    rig.answer_by(second, 200);
    drop(warm);
    // Both workers are fast: the third and fourth request are prefetched behind the running ones.
    rig.dispatcher.lock().quarantine.record_crash(b"GET", b"/kill", Instant::now());
    let [_first, _second, mut other, kill] =
        [&b"/kill"[..], b"/busy", b"/other", b"/kill"].map(|path| rig.submit(path));
    assert_eq!(rig.workers[second].claim().unwrap().1, b"/busy");
    rig.crash_on(0, b"/kill");
    assert!(matches!(fault(kill), Fault::Quarantined(_)));
    assert!(peek(&mut other).is_pending());
    assert_eq!(rig.workers[second].claim().unwrap().1, b"/other");
}

#[test]
fn success_clears_a_fingerprint_and_failure_does_not() {
    for (code, cleared) in [(200, true), (404, true), (500, false), (503, false)] {
        let mut rig = Rig::with(base_policy(), 3);
        let _first = rig.submit(b"/");
        rig.crash_on(0, b"/");
        let ticket = rig.submit(b"/");
        rig.answer_by(1, code);
        assert_eq!(status(ticket), code);
        let _second = rig.submit(b"/");
        let index = if rig.workers[1].has_unclaimed() { 1 } else { 2 };
        rig.crash_on(index, b"/");
        assert_eq!(quarantined(&rig.take_notices()).is_empty(), cleared, "{code}");
    }
}

#[test]
fn long_response_is_not_blamed_for_crashes() {
    let mut rig = Rig::with(base_policy(), 0);
    for index in 0..4 {
        rig.attach(Generation(1), 2, None);
        rig.dispatcher.admit(rig.workers[index].id);
        let (_events, _kill) = (rig.submit(b"/events"), rig.submit(format!("/kill/{index}").as_bytes()));
        let (events, _) = rig.workers[index].claim().unwrap();
        rig.workers[index].complete(events, CompletionKind::Respond, b"data: 1", false, false);
        rig.crash_on(index, format!("/kill/{index}").as_bytes());
    }
    assert_eq!(quarantined(&rig.take_notices()).len(), 0);
    assert!(!is_blocked(&rig, b"/events", Instant::now()));
}

#[test]
fn response_head_clears_a_fingerprint_before_the_end() {
    for (code, cleared) in [(200, true), (499, true), (500, false)] {
        let mut rig = Rig::with(base_policy(), 3);
        let _first = rig.submit(b"/events");
        rig.crash_on(0, b"/events");
        let _unfinished = rig.submit(b"/events");
        let (exchange, _) = rig.workers[1].claim().unwrap();
        rig.workers[1].complete_with_status(exchange, CompletionKind::Respond, code, b"", false, false);
        rig.dispatcher.before_park();
        assert_eq!(rig.dispatcher.lock().quarantine.is_empty(), cleared, "{code}");
    }
}

#[test]
fn trial_ends_with_the_head_of_a_successful_response() {
    let mut rig = Rig::with(base_policy(), 1);
    {
        let mut state = rig.dispatcher.lock();
        state.quarantine.record_crash(b"GET", b"/events", ago(2 * BLOCK_TIME));
        state.quarantine.record_crash(b"GET", b"/events", ago(2 * BLOCK_TIME));
    }
    let _trial = rig.submit(b"/events");
    assert!(is_blocked(&rig, b"/events", Instant::now()));
    let (exchange, _) = rig.claim().unwrap();
    rig.complete(exchange, CompletionKind::Respond, b"", false, false);
    rig.dispatcher.before_park();
    assert!(!is_blocked(&rig, b"/events", Instant::now()));
}

#[test]
fn successful_trial_after_the_block_time_unblocks() {
    let mut rig = Rig::with(base_policy(), 3);
    let start = Instant::now();
    for index in [0, 1] {
        let _ticket = rig.submit(b"/kill");
        rig.crash_on(index, b"/kill");
    }
    let after = Instant::now() + BLOCK_TIME;
    assert!(is_blocked(&rig, b"/kill", start + BLOCK_TIME / 2));
    let trial = rig.submit_at("GET", b"/kill", after).unwrap();
    assert_eq!(rig.submit_at("GET", b"/kill", after).unwrap_err(), Fault::Quarantined(SECOND));
    assert_eq!(rig.answer_by(2, 200), b"/kill");
    assert_eq!(status(trial), 200);
    let _open = [rig.submit(b"/kill"), rig.submit(b"/kill")];
    assert!(rig.dispatcher.lock().quarantine.is_empty());
}

#[test]
fn crashed_trial_blocks_again_and_is_not_retried() {
    let mut rig = Rig::with(retry_policy(), 1);
    {
        let mut state = rig.dispatcher.lock();
        state.quarantine.record_crash(b"GET", b"/kill", ago(2 * BLOCK_TIME));
        state.quarantine.record_crash(b"GET", b"/kill", ago(2 * BLOCK_TIME));
    }
    let trial = rig.submit(b"/kill");
    rig.crash_on(0, b"/kill");
    assert_eq!(fault(trial), Fault::WorkerDied(WORKER));
    assert_eq!(quarantined(&rig.take_notices()), ["GET /kill"]);
    assert!(is_blocked(&rig, b"/kill", Instant::now()));
}

#[test]
fn abandoned_trial_lets_the_next_request_try() {
    let rig = Rig::with(base_policy(), 0);
    {
        let mut state = rig.dispatcher.lock();
        state.quarantine.record_crash(b"GET", b"/kill", ago(2 * BLOCK_TIME));
        state.quarantine.record_crash(b"GET", b"/kill", ago(2 * BLOCK_TIME));
    }
    let trial = rig.submit(b"/kill");
    assert!(is_blocked(&rig, b"/kill", Instant::now()));
    drop(trial);
    assert!(!is_blocked(&rig, b"/kill", Instant::now()));
}

#[test]
fn stopped_workers_and_overdue_requests_are_not_blamed() {
    let mut rig = Rig::with(base_policy(), 2);
    let _retired = rig.submit(b"/retired");
    rig.claim().unwrap();
    rig.dispatcher.retire(WORKER);
    rig.close_control(0);
    let _stuck = rig.submit(b"/stuck");
    rig.workers[1].claim().unwrap();
    rig.dispatcher.tick(Instant::now() + 11 * SECOND);
    rig.take_notices();
    rig.close_control(1);
    // The overdue request was reported when its deadline passed.
    assert_eq!(crashed_requests(&rig.take_notices()).len(), 0);
    assert!(rig.dispatcher.lock().quarantine.is_empty());
}

#[test]
fn crash_with_a_thousand_requests_blames_the_newest() {
    let mut rig = Rig::with(Policy { queue: 0, ..base_policy() }, 0);
    rig.attach(Generation(1), 200, None);
    rig.dispatcher.admit(WORKER);
    let _tickets: Vec<_> = (0..200).map(|number| rig.submit(format!("/{number}").as_bytes())).collect();
    while rig.claim().is_some() {}
    rig.close_control(0);
    assert_eq!(crashed_requests(&rig.take_notices())[0].len(), 200);
    let now = Instant::now();
    let mut state = rig.dispatcher.lock();
    assert_eq!(state.quarantine.record_crash(b"GET", b"/199", now), Some(BLOCK_TIME));
    assert_eq!(state.quarantine.record_crash(b"GET", b"/0", now), None);
}
