//! Requests that are taken back before they start.

use std::num::NonZeroU32;

use super::*;

/// Withdraws the ticket's request. Returns its path.
fn withdraw(ticket: &mut Ticket) -> Option<Vec<u8>> {
    ticket.withdraw(|request, _| Some(request.path.to_vec()))
}

#[test]
fn queued_request_is_withdrawn_and_never_starts() {
    let mut rig = Rig::with(base_policy(), 1);
    let mut running = rig.submit(b"/1");
    let (mut second, _third) = (rig.submit(b"/2"), rig.submit(b"/3"));
    assert_eq!(withdraw(&mut second), Some(b"/2".to_vec()));
    drop(second);
    rig.check();
    assert_eq!(withdraw(&mut running), None, "the worker has it");
    for path in [b"/1", b"/3"] {
        assert_eq!(rig.answer(), path);
    }
    assert_eq!(withdraw(&mut running), None, "it is answered");
    assert_eq!(status(running), 200);
}

#[test]
fn request_that_must_stay_is_served() {
    let mut rig = Rig::with(base_policy(), 1);
    let _running = rig.submit(b"/1");
    let mut second = rig.submit(b"/2");
    assert_eq!(second.withdraw(|_, _| None::<()>), None);
    for path in [b"/1", b"/2"] {
        assert_eq!(rig.answer(), path);
    }
    assert_eq!(status(second), 200);
}

#[test]
fn withdrawn_body_is_passed_on() {
    let rig = Rig::with(base_policy(), 1);
    let _running = rig.submit(b"/1");
    let mut upload = rig.upload(b"/2");
    let has_body = upload.withdraw(|_, body| Some(matches!(body, Some(RequestBody::Spooled(_)))));
    assert_eq!(has_body, Some(true));
}

#[test]
fn body_in_parts_stays() {
    let rig = Rig::with(base_policy(), 0);
    let request = Request { path: b"/", body_streams: true, body_len: 9, ..Request::new(ExchangeId(0)) };
    let mut ticket = rig.dispatcher.submit(&request, iter::empty(), None, Instant::now()).unwrap();
    assert_eq!(withdraw(&mut ticket), None);
}

#[test]
fn request_of_a_crashed_worker_stays() {
    let mut rig = Rig::with(Policy { retry_idempotent: true, ..base_policy() }, 1);
    let mut ticket = rig.submit(b"/1");
    rig.crash_on(0, b"/1");
    assert!(peek(&mut ticket).is_pending(), "the request is tried again");
    assert_eq!(withdraw(&mut ticket), None, "the next daemon would not know about the crash");
}

#[test]
fn held_request_is_withdrawn_and_permit_goes_to_the_next() {
    let rule = Rule { pattern: "/slow*".to_owned(), request: None, concurrency: NonZeroU32::new(1) };
    let mut rig = Rig::with(Policy { rules: vec![rule], ..base_policy() }, 2);
    let _running = rig.submit(b"/slow/1");
    let (mut second, _third) = (rig.submit(b"/slow/2"), rig.submit(b"/slow/3"));
    assert_eq!(withdraw(&mut second), Some(b"/slow/2".to_vec()));
    assert_eq!(rig.answer(), b"/slow/1");
    assert_eq!(rig.answer(), b"/slow/3");
}

#[test]
fn withdrawn_request_gives_its_permit_back() {
    let rule = Rule { pattern: "/slow*".to_owned(), request: None, concurrency: NonZeroU32::new(1) };
    let mut rig = Rig::with(Policy { rules: vec![rule], ..base_policy() }, 1);
    let _running = rig.submit(b"/other");
    // Queued with the permit; the third waits for it.
    let (mut second, _third) = (rig.submit(b"/slow/2"), rig.submit(b"/slow/3"));
    assert_eq!(withdraw(&mut second), Some(b"/slow/2".to_vec()));
    rig.check();
    for path in [&b"/other"[..], b"/slow/3"] {
        assert_eq!(rig.answer(), path);
    }
}
