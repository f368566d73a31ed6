//! The contract with a worker: which frames and reports it may send, and which commands it gets.

use std::iter;

use rgun_channel::frame::{AppError, Body, Completion, encode_known_field};

use super::*;

#[test]
fn aborted_response_returns_its_window() {
    let mut rig = Rig::new();
    let ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    rig.complete(exchange, CompletionKind::Respond, &[b'x'; 1000], false, false);
    rig.dispatcher.before_park();
    assert_eq!(rig.acked(), 0);
    let mut error = Vec::new();
    AppError { summary: "E", traceback: "" }.encode(&mut error);
    rig.complete(exchange, CompletionKind::AppRaised, &error, true, true);
    rig.dispatcher.before_park();
    assert_eq!(rig.acked(), 1000);
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Raised { .. }))));
}

#[test]
fn too_many_fields_are_a_breach_and_no_panic() {
    let mut rig = Rig::new();
    let ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    let (kind, status) = (CompletionKind::Respond, 200);
    let head = Completion {
        exchange,
        kind,
        end: true,
        done: true,
        text: false,
        more: false,
        ends_takeover: false,
        status,
        service: 0,
        slot: 0,
    };
    let mut frame = Vec::new();
    head.encode(40_000, &Body::Inline(b""), &mut frame);
    for _ in 0..40_000 {
        encode_known_field(1, b"", &mut frame).unwrap();
    }
    assert!(rig.workers[0].completions.push(&frame).unwrap());
    rig.dispatcher.before_park();
    assert!(rig.take_breach().contains("40000 header fields"));
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::WorkerDied(WORKER)))));
}

#[test]
fn empty_parts_are_a_breach() {
    let mut rig = Rig::new();
    let _ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    rig.complete(exchange, CompletionKind::Respond, b"", false, false);
    rig.complete(exchange, CompletionKind::Body, b"", false, false);
    rig.dispatcher.before_park();
    assert!(rig.take_breach().contains("before the head"));
}

#[test]
fn too_many_lifecycle_reports_are_a_breach() {
    let rig = Rig::new();
    let report = Report::Booting { python: "any".to_owned() }.encode();
    for _ in 0..17 {
        control::send(rig.workers[0].control.as_ref().unwrap(), &report, &[]).unwrap();
    }
    assert!(!rig.dispatcher.read_reports(WORKER));
    let last = rig.notices.try_iter().last();
    assert!(matches!(last, Some(Notice::ContractBreached(WORKER, _))), "{last:?}");
}

#[test]
fn deadline_starts_when_the_request_ahead_is_revoked() {
    let mut rig = Rig::fast();
    let abandoned = rig.submit(b"/abandoned");
    let ticket = rig.submit(b"/hangs");
    drop(abandoned);
    assert_eq!(rig.claim().unwrap().1, b"/hangs");
    let long_after = Instant::now() + Duration::from_secs(11);
    rig.dispatcher.tick(long_after);
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Deadline(WORKER)))));
}

#[test]
fn request_needing_an_idle_slot_is_not_overtaken() {
    let mut rig = Rig::fast();
    let (_running, _upload) = (rig.submit(b"/running"), rig.upload(b"/upload"));
    let _later = rig.submit(b"/later");
    for path in [&b"/running"[..], b"/upload", b"/later"] {
        assert_eq!(rig.answer(), path);
    }
}

#[test]
fn abandoned_queued_request_lets_the_next_one_start() {
    let mut rig = Rig::fast();
    let (_running, upload) = (rig.submit(b"/running"), rig.upload(b"/upload"));
    let _later = rig.submit(b"/later");
    drop(upload);
    assert_eq!(rig.claim().unwrap().1, b"/running");
    assert_eq!(rig.claim().unwrap().1, b"/later");
}

#[test]
fn request_whose_body_may_be_in_use_is_not_cancelled() {
    let mut rig = Rig::new();
    let ticket = rig.upload(b"/");
    let (exchange, _) = rig.claim().unwrap();
    assert_eq!(rig.commands(), [Command::Body(exchange)]);
    drop(ticket);
    assert_eq!(rig.commands(), []);
    rig.complete(exchange, CompletionKind::Respond, b"part", false, false);
    rig.dispatcher.before_park();
    assert_eq!(rig.commands(), [Command::Cancel(exchange)]);
    assert_eq!(rig.acked(), 4);
}

#[test]
fn request_larger_than_any_ring_is_rejected() {
    let rig = Rig::new();
    let long = vec![b'x'; 60_000];
    let body = vec![b'x'; 192 * 1024];
    let request = Request {
        path: &long,
        query: &long,
        body: &body,
        body_len: body.len() as u64,
        ..Request::new(ExchangeId(0))
    };
    let rejected = rig.dispatcher.submit(&request, iter::empty(), None, Instant::now());
    assert!(matches!(rejected, Err(Fault::TooLong(_))), "{rejected:?}");
}

#[test]
fn prefetching_to_a_fast_worker_needs_fast_ticks() {
    let rig = Rig::fast();
    let _first = rig.submit(b"/");
    rig.dispatcher.lock().tick_rate = TickRate::Slow;
    let _second = rig.submit(b"/");
    assert_eq!(rig.dispatcher.lock().tick_rate, TickRate::Fast);
}

#[test]
fn worker_attached_while_memory_is_short_does_not_prefetch() {
    let mut rig = Rig::with(base_policy(), 0);
    rig.dispatcher.set_prefetching(false);
    let late = rig.admit_new();
    rig.workers[late].report(&Report::Ready { interface: control::Interface::Wsgi });
    assert!(rig.dispatcher.read_reports(rig.workers[late].id));
    rig.workers[late].service = FAST_SERVICE_NANOS;
    let first = rig.submit(b"/");
    rig.answer();
    assert!(poll(first).is_ready());
    let _second = [rig.submit(b"/"), rig.submit(b"/")];
    assert_eq!(rig.dispatcher.load().queued, 1);
}

#[test]
fn only_serving_workers_are_asked_to_return_memory() {
    let mut rig = Rig::new();
    let booting = rig.attach(Generation(1), 1, None);
    rig.dispatcher.trim_memory();
    let mut buffer = [0; 64];
    let mut next = |worker: usize| {
        let socket = rig.workers[worker].control.as_ref().unwrap();
        control::receive(socket, &mut buffer)
            .map(|received| Command::decode(&buffer[..received.len]).unwrap())
    };
    assert_eq!(next(0).unwrap(), Command::TrimMemory);
    assert_eq!(next(booting).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn nothing_is_prefetched_while_prefetching_is_off() {
    let mut rig = Rig::fast();
    rig.dispatcher.set_prefetching(false);
    let first = [rig.submit(b"/"), rig.submit(b"/")];
    assert_eq!(rig.dispatcher.load().queued, 1);
    rig.answer();
    assert_eq!(rig.dispatcher.load().queued, 0);
    rig.answer();
    rig.dispatcher.set_prefetching(true);
    let warm = rig.submit(b"/");
    rig.answer();
    drop((first, warm));
    let _second = [rig.submit(b"/"), rig.submit(b"/")];
    assert_eq!(rig.dispatcher.load().queued, 0, "the service time is known again");
}
