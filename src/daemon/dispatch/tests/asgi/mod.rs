//! ASGI workers: uploads, disconnects, half-closes, wake-ups.

mod event_loop;

use std::sync::Arc;
use std::task::Wake;

use rgun_channel::control::Interface;
use rgun_channel::frame::{AppError, MAX_FIELDS, StreamFrame, Submission, UNKNOWN_LENGTH, encode_field};
use rgun_channel::layout::Word;
use rgun_channel::wake::{Sleepers, WaitFlag};

use super::one_worker::*;

/// Counts how often a task was woken.
#[derive(Default)]
struct WakeCounter(std::sync::atomic::AtomicU32);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl WakeCounter {
    fn take(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// A frame that the worker receives.
#[derive(Debug, PartialEq, Eq)]
enum WorkerFrame {
    Request(ExchangeId, Vec<u8>),
    Part(ExchangeId, Vec<u8>, bool),
    Disconnect(ExchangeId),
    Cancel(ExchangeId),
    HalfClose(ExchangeId),
}

impl WorkerRig {
    fn asgi(slots: u32) -> Self {
        let rig = Self::booting(slots);
        rig.report_ready(Interface::Asgi);
        rig.dispatcher.admit(WORKER);
        rig
    }

    fn report_ready(&self, interface: Interface) {
        control::send(&self.control, &Report::Ready { interface }.encode(), &[]).unwrap();
        assert!(self.dispatcher.read_reports(WORKER));
        let last = self.notices.try_iter().last();
        assert!(matches!(last, Some(Notice::Report(WORKER, Report::Ready { .. }))), "{last:?}");
    }

    fn submit_streaming(&self, method: &[u8]) -> Ticket {
        let request = Request {
            method,
            path: b"/up",
            body_streams: true,
            body_len: UNKNOWN_LENGTH,
            ..Request::new(ExchangeId(0))
        };
        self.dispatcher.submit(&request, iter::empty(), None, Instant::now()).unwrap()
    }

    /// Submits a request with a streamed body and has the worker claim it.
    fn claim_streaming(&mut self) -> (Ticket, ExchangeId) {
        let ticket = self.submit_streaming(b"POST");
        let Some(WorkerFrame::Request(id, _)) = self.next_frame() else { panic!("no request arrived") };
        (ticket, id)
    }

    fn next_frame(&mut self) -> Option<WorkerFrame> {
        let mut frame = Vec::new();
        self.submissions.claim(&mut frame).unwrap().then(|| match Submission::decode(&frame).unwrap() {
            Submission::Request(request) => WorkerFrame::Request(request.exchange, request.path.to_vec()),
            Submission::Stream(StreamFrame::Part { exchange, bytes, end, .. }) => {
                WorkerFrame::Part(exchange, bytes.to_vec(), end)
            }
            Submission::Stream(StreamFrame::Disconnect { exchange, cancel: false, .. }) => {
                WorkerFrame::Disconnect(exchange)
            }
            Submission::Stream(StreamFrame::Disconnect { exchange, .. }) => WorkerFrame::Cancel(exchange),
            Submission::Stream(StreamFrame::HalfClose { exchange }) => WorkerFrame::HalfClose(exchange),
        })
    }

    /// Has the application grant credit for `granted` bytes from the body's beginning.
    fn update_window(&mut self, exchange: ExchangeId, granted: u64) {
        self.complete(exchange, CompletionKind::WindowUpdate, &granted.to_le_bytes(), false, false);
        self.dispatcher.before_park();
    }

    fn end(&mut self, exchange: ExchangeId) {
        self.complete(exchange, CompletionKind::Respond, b"", true, true);
        self.dispatcher.before_park();
    }

    /// Returns how often the worker was woken since the last call.
    fn take_wakeups(&self) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(&*self.eventfd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    fn sleepers(&self) -> Sleepers<'_> {
        Sleepers {
            asleep: self.map.u32(Geometry::word(Word::Asleep)),
            tokens: self.map.u32(Geometry::word(Word::Tokens)),
        }
    }

    fn set_policy(&self, change: impl FnOnce(&mut Policy)) {
        let mut policy =
            Policy { queue: 10, request_timeout: Some(Duration::from_secs(10)), ..Policy::default() };
        change(&mut policy);
        self.dispatcher.set_policy(policy);
    }
}

fn poll_room(upload: &Upload, task: &Arc<WakeCounter>) -> Poll<Option<u64>> {
    upload.poll_room(&mut Context::from_waker(&Waker::from(Arc::clone(task))))
}

fn send(upload: &Upload, task: &Arc<WakeCounter>, bytes: &[u8], end: bool) -> Poll<bool> {
    upload.poll_send(&mut Context::from_waker(&Waker::from(Arc::clone(task))), bytes, end)
}

#[test]
fn worker_gets_as_many_requests_as_its_interface_has_slots() {
    for (interface, n_slots) in [(Interface::Asgi, 3), (Interface::Wsgi, 1)] {
        let mut rig = WorkerRig::booting(3);
        rig.report_ready(interface);
        rig.dispatcher.admit(WORKER);
        let tickets: Vec<_> = (0..5).map(|_| rig.submit(b"/")).collect();
        let n_assigned = iter::from_fn(|| rig.next_frame()).count();
        assert_eq!(n_assigned, n_slots, "{interface:?}");
        drop(tickets);
    }
}

#[test]
fn only_a_sleeping_event_loop_is_woken() {
    let mut rig = WorkerRig::asgi(2);
    let first = rig.submit(b"/");
    rig.dispatcher.before_park();
    assert_eq!(rig.take_wakeups(), 0, "the loop is awake");
    assert!(rig.next_frame().is_some());
    rig.sleepers().announce_loop_sleep();
    let _second = rig.submit(b"/");
    assert_eq!(rig.take_wakeups(), 0, "only at the end of the turn");
    rig.dispatcher.before_park();
    assert_eq!(rig.take_wakeups(), 1);
    drop(first);
    rig.dispatcher.before_park();
    assert_eq!(rig.take_wakeups(), 0, "once");
    rig.sleepers().announce_loop_sleep();
    rig.sleepers().announce_loop_awake();
    drop(rig.submit(b"/"));
    rig.dispatcher.before_park();
    assert_eq!(rig.take_wakeups(), 0);
}

#[test]
fn credit_and_ring_room_wake_the_same_event_loop() {
    let mut rig = WorkerRig::asgi(1);
    let mut ticket = rig.submit(b"/");
    let (id, _) = rig.claim().unwrap();
    rig.complete(id, CompletionKind::Respond, &[b'x'; 1000], false, false);
    rig.dispatcher.before_park();
    assert_eq!(rig.take_wakeups(), 0);
    let words = [Geometry::word(Word::SpaceWait), Geometry::slot(0, rgun_channel::layout::SLOT_CREDIT_WAIT)];
    for word in words {
        WaitFlag(rig.map.u32(word)).announce_wait();
    }
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(answer)) = Pin::new(&mut ticket).poll(&mut context) else { panic!("no head") };
    let mut stream = answer.body.into_stream().unwrap();
    assert!(stream.poll_piece(&mut context).is_ready());
    assert_eq!((rig.acked(), rig.take_wakeups()), (1000, 1));
    rig.complete(id, CompletionKind::Body, b"more", false, false);
    rig.dispatcher.before_park();
    assert_eq!(rig.take_wakeups(), 1);
}

#[test]
fn body_is_sent_only_as_credit_allows() {
    let mut rig = WorkerRig::asgi(1);
    let task = Arc::new(WakeCounter::default());
    let (ticket, id) = rig.claim_streaming();
    let upload = ticket.upload();
    assert_eq!(poll_room(&upload, &task), Poll::Pending);
    rig.update_window(id, 5);
    assert_eq!(task.take(), 1);
    assert_eq!(poll_room(&upload, &task), Poll::Ready(Some(5)));
    assert_eq!(send(&upload, &task, b"abc", false), Poll::Ready(true));
    assert_eq!(poll_room(&upload, &task), Poll::Ready(Some(2)));
    assert_eq!(send(&upload, &task, b"de", false), Poll::Ready(true));
    assert_eq!(poll_room(&upload, &task), Poll::Pending);
    rig.update_window(id, 100);
    assert_eq!(send(&upload, &task, b"f", true), Poll::Ready(true));
    for (bytes, end) in [(&b"abc"[..], false), (b"de", false), (b"f", true)] {
        assert_eq!(rig.next_frame(), Some(WorkerFrame::Part(id, bytes.to_vec(), end)));
    }
    assert!(poll_room(&upload, &task).is_ready());
    task.take();
    rig.end(id);
    assert_eq!(task.take(), 1);
    assert_eq!(poll_room(&upload, &task), Poll::Ready(None));
    assert!(poll(ticket).is_ready());
}

#[test]
fn frames_for_a_full_ring_are_sent_later_in_order() {
    let mut rig = WorkerRig::asgi(2);
    let task = Arc::new(WakeCounter::default());
    let (ticket, id) = rig.claim_streaming();
    let abandoned = rig.submit(b"/abandoned");
    let Some(WorkerFrame::Request(abandoned_id, _)) = rig.next_frame() else { panic!("no request arrived") };
    let upload = ticket.upload();
    rig.update_window(id, 1 << 30);
    let part = vec![b'x'; MAX_PART];
    let mut sent = 0;
    while send(&upload, &task, &part, false) == Poll::Ready(true) {
        sent += 1;
        assert!(sent < 10, "the ring has 512 KiB");
    }
    // Even a short frame is not sent before an earlier one that found the ring full.
    let filler = vec![0; 60_000];
    let request = Request { path: &filler, ..Request::new(ExchangeId(0)) };
    while let Ok(ticket) = rig.dispatcher.submit(&request, iter::empty(), None, Instant::now()) {
        let queued = rig.dispatcher.load().queued;
        drop(ticket);
        if queued > 0 {
            break;
        }
    }
    task.take();
    rig.dispatcher.before_park();
    assert_eq!(task.take(), 0, "there is no room yet");
    drop(abandoned);
    let mut frames = Vec::new();
    loop {
        rig.dispatcher.before_park();
        let Some(next) = rig.next_frame() else { break };
        frames.push(next);
    }
    assert!(task.take() > 0);
    assert_eq!(frames.iter().filter(|frame| matches!(frame, WorkerFrame::Part(..))).count(), sent);
    assert_eq!(frames.iter().filter(|frame| **frame == WorkerFrame::Disconnect(abandoned_id)).count(), 1);
    assert_eq!(send(&upload, &task, b"rest", true), Poll::Ready(true));
    assert_eq!(rig.next_frame(), Some(WorkerFrame::Part(id, b"rest".to_vec(), true)));
}

#[test]
fn upload_waiting_for_ring_space_is_woken_at_worker_death() {
    let mut rig = WorkerRig::asgi(1);
    let task = Arc::new(WakeCounter::default());
    let (ticket, id) = rig.claim_streaming();
    let upload = ticket.upload();
    rig.update_window(id, 1 << 30);
    let part = vec![0; MAX_PART];
    while send(&upload, &task, &part, false) == Poll::Ready(true) {}
    task.take();
    rig.dispatcher.detach(WORKER);
    assert!(task.take() > 0);
    assert_eq!(send(&upload, &task, b"", false), Poll::Ready(false));
}

#[test]
fn disconnect_is_sent_once_and_not_after_the_end() {
    let mut rig = WorkerRig::asgi(3);
    let (ticket, id) = rig.claim_streaming();
    let upload = ticket.upload();
    upload.fail(Fault::Upload(UploadFault::TooLarge));
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Upload(UploadFault::TooLarge)))));
    assert_eq!(rig.next_frame(), Some(WorkerFrame::Disconnect(id)));
    let dropped = rig.submit(b"/dropped");
    let Some(WorkerFrame::Request(id, _)) = rig.next_frame() else { panic!("no request arrived") };
    drop(dropped);
    assert_eq!(rig.next_frame(), Some(WorkerFrame::Disconnect(id)));
    // Completions after the disconnect are ignored; they are not a breach.
    rig.complete(id, CompletionKind::Respond, b"part", false, false);
    rig.complete(id, CompletionKind::Body, b"", true, true);
    let ended = rig.submit(b"/ended");
    let Some(WorkerFrame::Request(id, _)) = rig.next_frame() else { panic!("no request arrived") };
    rig.complete(id, CompletionKind::Respond, b"", true, false);
    rig.dispatcher.before_park();
    drop(ended);
    assert_eq!((rig.next_frame(), rig.commands()), (None, vec![]));
    assert!(rig.notices.try_recv().is_err());
}

#[test]
fn half_close_is_reported_once_and_response_is_delivered() {
    let mut rig = WorkerRig::asgi(1);
    let (ticket, id) = rig.claim_streaming();
    assert_eq!((ticket.half_close(), ticket.half_close()), (None, None), "the request has started");
    assert_eq!((rig.next_frame(), rig.next_frame()), (Some(WorkerFrame::HalfClose(id)), None));
    assert!(!ticket.revoke());
    // The next request waits. Its half-close follows its request frame, and the wait is limited.
    let waiting = rig.submit(b"/waits");
    let until = waiting.half_close().expect("the request has not started");
    assert!(until <= Instant::now() + Duration::from_secs(1));
    assert_eq!(rig.next_frame(), None);
    rig.end(id);
    assert!(matches!(poll(ticket), Poll::Ready(Ok(_))));
    let Some(WorkerFrame::Request(id, _)) = rig.next_frame() else { panic!("no request arrived") };
    assert_eq!(rig.next_frame(), Some(WorkerFrame::HalfClose(id)));
    assert_eq!((waiting.half_close(), waiting.revoke()), (None, false));
}

#[test]
fn unstarted_request_is_revoked_and_frees_its_slot() {
    let mut rig = WorkerRig::asgi(1);
    let assigned = rig.submit(b"/assigned");
    let next = rig.submit(b"/next");
    assert!(assigned.half_close().is_some() && assigned.revoke());
    drop(assigned);
    // The worker gets a half-close for an exchange that it does not know.
    assert!(matches!(rig.next_frame(), Some(WorkerFrame::HalfClose(_))));
    let Some(WorkerFrame::Request(id, path)) = rig.next_frame() else { panic!("no request arrived") };
    assert_eq!(path, b"/next");
    drop(next);
    assert_eq!((rig.next_frame(), rig.next_frame()), (Some(WorkerFrame::Disconnect(id)), None));
}

#[test]
fn end_without_head_after_half_close_is_not_a_failure() {
    let mut rig = WorkerRig::asgi(2);
    let (ticket, id) = rig.claim_streaming();
    ticket.half_close();
    assert_eq!(rig.next_frame(), Some(WorkerFrame::HalfClose(id)));
    let mut nothing = Vec::new();
    AppError { summary: "", traceback: "" }.encode(&mut nothing);
    rig.complete(id, CompletionKind::AppRaised, &nothing, true, true);
    rig.dispatcher.before_park();
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::ClientHalfClosed))));
    assert!(rig.notices.try_recv().is_err());
}

#[test]
fn end_without_head_is_allowed_only_after_disconnect() {
    let mut rig = WorkerRig::asgi(1);
    let (ticket, _) = rig.claim_streaming();
    drop(ticket);
    let Some(WorkerFrame::Disconnect(id)) = rig.next_frame() else { panic!("no disconnect arrived") };
    rig.complete(id, CompletionKind::Body, b"", true, true);
    rig.dispatcher.before_park();
    assert!(rig.notices.try_recv().is_err());
    assert_eq!(rig.dispatcher.load().assigned, 0);
    let (_ticket, id) = rig.claim_streaming();
    rig.complete(id, CompletionKind::Body, b"", true, true);
    rig.dispatcher.before_park();
    assert!(rig.take_breach().contains("before the head"));
}

#[test]
fn unclaimed_request_is_revoked_without_disconnect() {
    let mut rig = WorkerRig::asgi(1);
    drop(rig.submit_streaming(b"POST"));
    assert_eq!((rig.next_frame(), rig.commands()), (None, vec![]));
    let ticket = rig.submit_streaming(b"POST");
    let upload = ticket.upload();
    drop(ticket);
    assert_eq!(poll_room(&upload, &Arc::default()), Poll::Ready(None));
    assert_eq!(send(&upload, &Arc::default(), b"x", false), Poll::Ready(false));
}

#[test]
fn invalid_window_updates_are_contract_breaches() {
    for grants in [[5_u64, 5], [5, 4]] {
        let mut rig = WorkerRig::asgi(1);
        let (_ticket, id) = rig.claim_streaming();
        for granted in grants {
            rig.update_window(id, granted);
        }
        assert!(rig.take_breach().contains("did not increase"));
    }
    let mut rig = WorkerRig::asgi(1);
    let _ticket = rig.submit(b"/");
    let (id, _) = rig.claim().unwrap();
    rig.update_window(id, 5);
    assert!(rig.take_breach().contains("which it has received completely"));
    for (kind, body) in [(CompletionKind::WindowUpdate, &b"number"[..]), (CompletionKind::Close, b"")] {
        let mut rig = WorkerRig::asgi(1);
        let (_ticket, id) = rig.claim_streaming();
        rig.complete(id, kind, body, false, false);
        rig.dispatcher.before_park();
        assert!(!rig.take_breach().is_empty(), "{kind:?}");
    }
}

#[test]
fn asgi_frames_from_a_wsgi_worker_are_breaches() {
    for kind in [CompletionKind::WindowUpdate, CompletionKind::Trailers] {
        let mut rig = WorkerRig::new();
        let _ticket = rig.submit(b"/");
        let (id, _) = rig.claim().unwrap();
        rig.complete(id, kind, &5_u64.to_le_bytes(), false, false);
        rig.dispatcher.before_park();
        assert!(rig.take_breach().contains("does not allow"), "{kind:?}");
    }
}

#[test]
fn trailers_before_the_head_are_a_breach() {
    let mut rig = WorkerRig::asgi(1);
    let _ticket = rig.submit(b"/");
    let (id, _) = rig.claim().unwrap();
    rig.complete(id, CompletionKind::Trailers, b"", false, false);
    rig.dispatcher.before_park();
    assert!(rig.take_breach().contains("before the head"));
}

#[test]
fn request_with_a_started_upload_is_not_reassigned() {
    for (granted, is_retried) in [(0, true), (1, false)] {
        let mut rig = WorkerRig::asgi(1);
        rig.set_policy(|policy| policy.retry_idempotent = true);
        let ticket = rig.submit_streaming(b"PUT");
        let Some(WorkerFrame::Request(id, _)) = rig.next_frame() else { panic!("no request arrived") };
        if granted > 0 {
            rig.update_window(id, granted);
        }
        let upload = ticket.upload();
        rig.dispatcher.detach(WORKER);
        assert_eq!(rig.dispatcher.load().queued, usize::from(is_retried), "{granted}");
        assert_eq!(poll_room(&upload, &Arc::default()).is_pending(), is_retried);
        assert_eq!(poll(ticket).is_pending(), is_retried);
    }
}

#[test]
fn queued_body_for_the_wrong_interface_is_rejected() {
    let rig = WorkerRig::booting(2);
    let (descriptor, parts, frame) = (rig.upload(b"/"), rig.submit_streaming(b"POST"), rig.submit(b"/"));
    rig.report_ready(Interface::Asgi);
    assert!(!rig.dispatcher.is_asgi());
    rig.dispatcher.admit(WORKER);
    assert!(rig.dispatcher.is_asgi());
    assert!(matches!(poll(descriptor), Poll::Ready(Err(Fault::Unavailable(_)))));
    let load = rig.dispatcher.load();
    assert_eq!((load.queued, load.assigned, load.workers), (0, 2, 1));
    assert!(poll(parts).is_pending() && poll(frame).is_pending());
}

impl WorkerRig {
    fn hint(&mut self, exchange: ExchangeId, fields: &[(String, Vec<u8>)]) {
        let kind = CompletionKind::EarlyHints;
        let (end, done, text, more) = (false, false, false, false);
        let head = Completion {
            exchange,
            kind,
            end,
            done,
            text,
            more,
            ends_takeover: false,
            status: 0,
            service: 0,
            slot: 0,
        };
        let (mut frame, body) = (Vec::new(), Body::Inline(b""));
        head.encode(u16::try_from(fields.len()).unwrap(), &body, &mut frame);
        for (name, value) in fields {
            encode_field(name.as_bytes(), value, &mut frame).unwrap();
        }
        body.encode(&mut frame);
        assert!(self.completions.push(&frame).unwrap());
        self.dispatcher.before_park();
    }
}

#[test]
fn unread_early_hints_are_bounded_in_number_and_size() {
    for (n_fields, len) in [(1024, 1), (1, 10_000)] {
        let mut rig = WorkerRig::asgi(1);
        let mut ticket = rig.submit(b"/");
        let Some(WorkerFrame::Request(exchange, _)) = rig.next_frame() else { panic!("no request arrived") };
        for round in 0..90 {
            let fields: Vec<_> = (0..n_fields).map(|n| (format!("x-{round}-{n}"), vec![b'v'; len])).collect();
            rig.hint(exchange, &fields);
        }
        assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let hints = ticket.take_hints().unwrap();
        let bytes: usize = hints.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(hints.len() <= usize::from(MAX_FIELDS) && bytes <= 64 * 1024, "{} {bytes}", hints.len());
        assert!(hints.len() >= 4 * n_fields, "hints are merged: {}", hints.len());
        // Once the hints are taken, there is room for more.
        rig.hint(exchange, &[("x-next".to_owned(), b"1".to_vec())]);
        assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(ticket.take_hints().unwrap().contains_key("x-next"));
        rig.end(exchange);
        assert!(poll(ticket).is_ready());
    }
}
