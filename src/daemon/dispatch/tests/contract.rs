//! What a worker may say and when, and what it is told.

use std::iter;

use rgun_channel::frame::{AppError, Body, Completion, encode_known_field};

use super::*;

#[test]
fn an_answer_that_broke_off_gives_its_window_back() {
    let mut rig = Rig::new();
    let ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    rig.say(exchange, CompletionKind::Respond, &[b'x'; 1000], false, false);
    rig.dispatcher.before_park();
    assert_eq!(rig.acked(), 0);
    let mut error = Vec::new();
    AppError { summary: "E", traceback: "" }.encode(&mut error);
    rig.say(exchange, CompletionKind::AppRaised, &error, true, true);
    rig.dispatcher.before_park();
    assert_eq!(rig.acked(), 1000);
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Raised { .. }))));
}

#[test]
fn more_fields_than_a_header_map_holds_are_a_breach_and_no_panic() {
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
    assert!(rig.misbehaved().contains("40000 header fields"));
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::WorkerDied(WORKER)))));
}

#[test]
fn parts_that_say_nothing_are_a_breach() {
    let mut rig = Rig::new();
    let _ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    rig.say(exchange, CompletionKind::Respond, b"", false, false);
    rig.say(exchange, CompletionKind::Body, b"", false, false);
    rig.dispatcher.before_park();
    assert!(rig.misbehaved().contains("out of turn"));
}

#[test]
fn reports_without_end_are_a_breach() {
    let rig = Rig::new();
    let report = Report::Booting { python: "any".to_owned() }.encode();
    for _ in 0..17 {
        control::send(rig.workers[0].control.as_ref().unwrap(), &report, &[]).unwrap();
    }
    assert!(!rig.dispatcher.pump_control(WORKER));
    let last = rig.notices.try_iter().last();
    assert!(matches!(last, Some(Notice::ContractBreached(WORKER, _))), "{last:?}");
}

#[test]
fn the_time_of_a_request_begins_when_the_one_before_it_is_taken_back() {
    let mut rig = Rig::quick();
    let abandoned = rig.submit(b"/abandoned");
    let ticket = rig.submit(b"/hangs");
    drop(abandoned);
    assert_eq!(rig.claim().unwrap().1, b"/hangs");
    let long_after = Instant::now() + Duration::from_secs(11);
    rig.dispatcher.tick(long_after);
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Deadline(WORKER)))));
}

#[test]
fn who_needs_an_idle_slot_is_not_overtaken_by_who_does_not() {
    let mut rig = Rig::quick();
    let (_running, _upload) = (rig.submit(b"/running"), rig.upload(b"/upload"));
    let _later = rig.submit(b"/later");
    for path in [&b"/running"[..], b"/upload", b"/later"] {
        assert_eq!(rig.answer(), path);
    }
}

#[test]
fn who_waits_behind_somebody_who_gives_up_has_its_turn_at_once() {
    let mut rig = Rig::quick();
    let (_running, upload) = (rig.submit(b"/running"), rig.upload(b"/upload"));
    let _later = rig.submit(b"/later");
    drop(upload);
    assert_eq!(rig.claim().unwrap().1, b"/running");
    assert_eq!(rig.claim().unwrap().1, b"/later");
}

#[test]
fn a_worker_is_not_told_to_forget_a_request_whose_body_it_may_be_taking() {
    let mut rig = Rig::new();
    let ticket = rig.upload(b"/");
    let (exchange, _) = rig.claim().unwrap();
    assert_eq!(rig.commands(), [Command::Body(exchange)]);
    drop(ticket);
    assert_eq!(rig.commands(), []);
    rig.say(exchange, CompletionKind::Respond, b"part", false, false);
    rig.dispatcher.before_park();
    assert_eq!(rig.commands(), [Command::Cancel(exchange)]);
    assert_eq!(rig.acked(), 4);
}

#[test]
fn a_request_that_no_ring_can_hold_is_refused() {
    let rig = Rig::new();
    let long = vec![b'x'; 60_000];
    let body = vec![b'x'; 64 * 1024];
    let request = Request {
        path: &long,
        query: &long,
        body: &body,
        body_len: body.len() as u64,
        ..Request::new(ExchangeId(0))
    };
    let refused = rig.dispatcher.submit(&request, iter::empty(), None, Instant::now());
    assert!(matches!(refused, Err(Fault::TooLong(_))), "{refused:?}");
}

#[test]
fn the_housekeeper_hurries_once_a_quick_worker_has_two_requests() {
    let rig = Rig::quick();
    let _first = rig.submit(b"/");
    rig.dispatcher.lock().tick_rate = TickRate::Slow;
    let _second = rig.submit(b"/");
    assert_eq!(rig.dispatcher.lock().tick_rate, TickRate::Fast);
}
