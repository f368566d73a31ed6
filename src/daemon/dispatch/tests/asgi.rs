//! ASGI workers: parts, takes, disconnects, bells, cancellations and pulses, driven by hand.

use std::sync::Arc;
use std::task::Wake;

use rgun_channel::control::Interface;
use rgun_channel::frame::{AppError, MAX_FIELDS, StreamFrame, Submission, UNKNOWN_LENGTH, encode_field};
use rgun_channel::layout::Word;
use rgun_channel::wake::{Sleepers, WaitFlag};

use super::one_worker::*;

/// Counts how often a task was woken.
#[derive(Default)]
struct Task(std::sync::atomic::AtomicU32);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Task {
    fn woken(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// What is heard of an exchange.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Asked(ExchangeId, Vec<u8>),
    Part(ExchangeId, Vec<u8>, bool),
    Gone(ExchangeId),
    Cancelled(ExchangeId),
    HalfClosed(ExchangeId),
}

impl Rig {
    fn asgi(slots: u32) -> Self {
        let rig = Self::booting(slots);
        rig.is_ready(Interface::Asgi);
        rig.dispatcher.admit(WORKER);
        rig
    }

    fn is_ready(&self, interface: Interface) {
        control::send(&self.control, &Report::Ready { interface }.encode(), &[]).unwrap();
        assert!(self.dispatcher.pump_control(WORKER));
        let last = self.notices.try_iter().last();
        assert!(matches!(last, Some(Notice::Report(WORKER, Report::Ready { .. }))), "{last:?}");
    }

    fn stream(&self, method: &[u8]) -> Ticket {
        let request = Request {
            method,
            path: b"/up",
            body_streams: true,
            body_len: UNKNOWN_LENGTH,
            ..Request::new(ExchangeId(0))
        };
        self.dispatcher.submit(&request, iter::empty(), None, Instant::now()).unwrap()
    }

    /// One that the worker has claimed.
    fn streaming(&mut self) -> (Ticket, ExchangeId) {
        let ticket = self.stream(b"POST");
        let Some(Heard::Asked(id, _)) = self.hear() else { panic!("it was not given") };
        (ticket, id)
    }

    fn hear(&mut self) -> Option<Heard> {
        let mut frame = Vec::new();
        self.submissions.claim(&mut frame).unwrap().then(|| match Submission::decode(&frame).unwrap() {
            Submission::Request(request) => Heard::Asked(request.exchange, request.path.to_vec()),
            Submission::Stream(StreamFrame::Part { exchange, bytes, end, .. }) => {
                Heard::Part(exchange, bytes.to_vec(), end)
            }
            Submission::Stream(StreamFrame::Disconnect { exchange, cancel: false, .. }) => {
                Heard::Gone(exchange)
            }
            Submission::Stream(StreamFrame::Disconnect { exchange, .. }) => Heard::Cancelled(exchange),
            Submission::Stream(StreamFrame::HalfClose { exchange }) => Heard::HalfClosed(exchange),
        })
    }

    fn take(&mut self, exchange: ExchangeId, taken: u64) {
        self.say(exchange, CompletionKind::WindowUpdate, &taken.to_le_bytes(), false, false);
        self.dispatcher.before_park();
    }

    fn end(&mut self, exchange: ExchangeId) {
        self.say(exchange, CompletionKind::Respond, b"", true, true);
        self.dispatcher.before_park();
    }

    /// How often the bell has rung since the last time.
    fn rung(&self) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(&*self.bell, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
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

fn room(upload: &Upload, task: &Arc<Task>) -> Poll<Option<u64>> {
    upload.poll_room(&mut Context::from_waker(&Waker::from(Arc::clone(task))))
}

fn send(upload: &Upload, task: &Arc<Task>, bytes: &[u8], end: bool) -> Poll<bool> {
    upload.poll_send(&mut Context::from_waker(&Waker::from(Arc::clone(task))), bytes, end)
}

#[test]
fn worker_gets_as_many_requests_as_its_interface_has_slots() {
    for (interface, most) in [(Interface::Asgi, 3), (Interface::Wsgi, 1)] {
        let mut rig = Rig::booting(3);
        rig.is_ready(interface);
        rig.dispatcher.admit(WORKER);
        let tickets: Vec<_> = (0..5).map(|_| rig.submit(b"/")).collect();
        let given = iter::from_fn(|| rig.hear()).count();
        assert_eq!(given, most, "{interface:?}");
        drop(tickets);
    }
}

#[test]
fn only_a_sleeping_event_loop_is_woken() {
    let mut rig = Rig::asgi(2);
    let first = rig.submit(b"/");
    rig.dispatcher.before_park();
    assert_eq!(rig.rung(), 0, "it looks by itself");
    assert!(rig.hear().is_some());
    rig.sleepers().announce_loop_sleep();
    let _second = rig.submit(b"/");
    assert_eq!(rig.rung(), 0, "at the end of the turn");
    rig.dispatcher.before_park();
    assert_eq!(rig.rung(), 1);
    drop(first);
    rig.dispatcher.before_park();
    assert_eq!(rig.rung(), 0, "once");
    rig.sleepers().announce_loop_sleep();
    rig.sleepers().announce_loop_awake();
    drop(rig.submit(b"/"));
    rig.dispatcher.before_park();
    assert_eq!(rig.rung(), 0);
}

#[test]
fn credit_and_ring_room_wake_the_same_event_loop() {
    let mut rig = Rig::asgi(1);
    let mut ticket = rig.submit(b"/");
    let (id, _) = rig.claim().unwrap();
    rig.say(id, CompletionKind::Respond, &[b'x'; 1000], false, false);
    rig.dispatcher.before_park();
    assert_eq!(rig.rung(), 0);
    let words = [Geometry::word(Word::SpaceWait), Geometry::slot(0, rgun_channel::layout::SLOT_CREDIT_WAIT)];
    for word in words {
        WaitFlag(rig.map.u32(word)).announce_wait();
    }
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(answer)) = Pin::new(&mut ticket).poll(&mut context) else { panic!("no head") };
    let mut stream = answer.stream.unwrap();
    assert!(stream.poll_piece(&mut context).is_ready());
    assert_eq!((rig.acked(), rig.rung()), (1000, 1));
    rig.say(id, CompletionKind::Body, b"more", false, false);
    rig.dispatcher.before_park();
    assert_eq!(rig.rung(), 1);
}

#[test]
fn body_is_sent_only_as_credit_allows() {
    let mut rig = Rig::asgi(1);
    let task = Arc::new(Task::default());
    let (ticket, id) = rig.streaming();
    let upload = ticket.upload();
    assert_eq!(room(&upload, &task), Poll::Pending);
    rig.take(id, 5);
    assert_eq!(task.woken(), 1);
    assert_eq!(room(&upload, &task), Poll::Ready(Some(5)));
    assert_eq!(send(&upload, &task, b"abc", false), Poll::Ready(true));
    assert_eq!(room(&upload, &task), Poll::Ready(Some(2)));
    assert_eq!(send(&upload, &task, b"de", false), Poll::Ready(true));
    assert_eq!(room(&upload, &task), Poll::Pending);
    rig.take(id, 100);
    assert_eq!(send(&upload, &task, b"f", true), Poll::Ready(true));
    for (bytes, end) in [(&b"abc"[..], false), (b"de", false), (b"f", true)] {
        assert_eq!(rig.hear(), Some(Heard::Part(id, bytes.to_vec(), end)));
    }
    assert!(room(&upload, &task).is_ready());
    task.woken();
    rig.end(id);
    assert_eq!(task.woken(), 1);
    assert_eq!(room(&upload, &task), Poll::Ready(None));
    assert!(poll(ticket).is_ready());
}

#[test]
fn frames_for_a_full_ring_are_sent_later_in_order() {
    let mut rig = Rig::asgi(2);
    let task = Arc::new(Task::default());
    let (ticket, id) = rig.streaming();
    let leaves = rig.submit(b"/leaves");
    let Some(Heard::Asked(left, _)) = rig.hear() else { panic!("it was not given") };
    let upload = ticket.upload();
    rig.take(id, 1 << 30);
    let part = vec![b'x'; MAX_PART];
    let mut sent = 0;
    while send(&upload, &task, &part, false) == Poll::Ready(true) {
        sent += 1;
        assert!(sent < 10, "the ring has 256 KiB");
    }
    // Even what is short waits behind what found no room.
    let filler = vec![0; 60_000];
    let request = Request { path: &filler, ..Request::new(ExchangeId(0)) };
    while let Ok(ticket) = rig.dispatcher.submit(&request, iter::empty(), None, Instant::now()) {
        let queued = rig.dispatcher.load().queued;
        drop(ticket);
        if queued > 0 {
            break;
        }
    }
    task.woken();
    rig.dispatcher.before_park();
    assert_eq!(task.woken(), 0, "there is no room yet");
    drop(leaves);
    let mut heard = Vec::new();
    loop {
        rig.dispatcher.before_park();
        let Some(next) = rig.hear() else { break };
        heard.push(next);
    }
    assert!(task.woken() > 0);
    assert_eq!(heard.iter().filter(|heard| matches!(heard, Heard::Part(..))).count(), sent);
    assert_eq!(heard.iter().filter(|heard| **heard == Heard::Gone(left)).count(), 1);
    assert_eq!(send(&upload, &task, b"rest", true), Poll::Ready(true));
    assert_eq!(rig.hear(), Some(Heard::Part(id, b"rest".to_vec(), true)));
}

#[test]
fn upload_waiting_for_credit_is_woken_when_worker_dies() {
    let mut rig = Rig::asgi(1);
    let task = Arc::new(Task::default());
    let (ticket, id) = rig.streaming();
    let upload = ticket.upload();
    rig.take(id, 1 << 30);
    let part = vec![0; MAX_PART];
    while send(&upload, &task, &part, false) == Poll::Ready(true) {}
    task.woken();
    rig.dispatcher.detach(WORKER);
    assert!(task.woken() > 0);
    assert_eq!(send(&upload, &task, b"", false), Poll::Ready(false));
}

#[test]
fn disconnect_is_sent_once_and_not_after_the_end() {
    let mut rig = Rig::asgi(3);
    let (ticket, id) = rig.streaming();
    let upload = ticket.upload();
    upload.fail(Fault::Upload(UploadFault::TooLarge));
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Upload(UploadFault::TooLarge)))));
    assert_eq!(rig.hear(), Some(Heard::Gone(id)));
    let dropped = rig.submit(b"/dropped");
    let Some(Heard::Asked(id, _)) = rig.hear() else { panic!("it was not given") };
    drop(dropped);
    assert_eq!(rig.hear(), Some(Heard::Gone(id)));
    // Whatever it still says of it is of no interest, and no breach.
    rig.say(id, CompletionKind::Respond, b"part", false, false);
    rig.say(id, CompletionKind::Body, b"", true, true);
    let ended = rig.submit(b"/ended");
    let Some(Heard::Asked(id, _)) = rig.hear() else { panic!("it was not given") };
    rig.say(id, CompletionKind::Respond, b"", true, false);
    rig.dispatcher.before_park();
    drop(ended);
    assert_eq!((rig.hear(), rig.commands()), (None, vec![]));
    assert!(rig.notices.try_recv().is_err());
}

#[test]
fn half_close_is_reported_once_and_response_is_delivered() {
    let mut rig = Rig::asgi(1);
    let (ticket, id) = rig.streaming();
    assert_eq!((ticket.half_close(), ticket.half_close()), (None, None), "it has started");
    assert_eq!((rig.hear(), rig.hear()), (Some(Heard::HalfClosed(id)), None));
    assert!(!ticket.revoke());
    // The next one has to wait, but not for ever; it is told of behind its request.
    let waiting = rig.submit(b"/waits");
    let until = waiting.half_close().expect("it has not started");
    assert!(until <= Instant::now() + Duration::from_secs(1));
    assert_eq!(rig.hear(), None);
    rig.end(id);
    assert!(matches!(poll(ticket), Poll::Ready(Ok(_))));
    let Some(Heard::Asked(id, _)) = rig.hear() else { panic!("it was not given") };
    assert_eq!(rig.hear(), Some(Heard::HalfClosed(id)));
    assert_eq!((waiting.half_close(), waiting.revoke()), (None, false));
}

#[test]
fn unstarted_request_is_revoked_and_frees_its_slot() {
    let mut rig = Rig::asgi(1);
    let given = rig.submit(b"/given");
    let next = rig.submit(b"/next");
    assert!(given.half_close().is_some() && given.revoke());
    drop(given);
    // What was said of it is of nobody's, as the worker sees it.
    assert!(matches!(rig.hear(), Some(Heard::HalfClosed(_))));
    let Some(Heard::Asked(id, path)) = rig.hear() else { panic!("it was not given") };
    assert_eq!(path, b"/next");
    drop(next);
    assert_eq!((rig.hear(), rig.hear()), (Some(Heard::Gone(id)), None));
}

#[test]
fn end_without_head_after_half_close_is_no_failure() {
    let mut rig = Rig::asgi(2);
    let (ticket, id) = rig.streaming();
    ticket.half_close();
    assert_eq!(rig.hear(), Some(Heard::HalfClosed(id)));
    let mut nothing = Vec::new();
    AppError { summary: "", traceback: "" }.encode(&mut nothing);
    rig.say(id, CompletionKind::AppRaised, &nothing, true, true);
    rig.dispatcher.before_park();
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::ClientHalfClosed))));
    assert!(rig.notices.try_recv().is_err());
}

#[test]
fn end_without_head_is_allowed_only_after_disconnect() {
    let mut rig = Rig::asgi(1);
    drop({
        let (ticket, _) = rig.streaming();
        ticket
    });
    let Some(Heard::Gone(id)) = rig.hear() else { panic!("it was not told") };
    rig.say(id, CompletionKind::Body, b"", true, true);
    rig.dispatcher.before_park();
    assert!(rig.notices.try_recv().is_err());
    assert_eq!(rig.dispatcher.load().running, 0);
    let (_ticket, id) = rig.streaming();
    rig.say(id, CompletionKind::Body, b"", true, true);
    rig.dispatcher.before_park();
    assert!(rig.misbehaved().contains("out of turn"));
}

#[test]
fn unclaimed_request_is_revoked_without_disconnect() {
    let mut rig = Rig::asgi(1);
    drop(rig.stream(b"POST"));
    assert_eq!((rig.hear(), rig.commands()), (None, vec![]));
    let ticket = rig.stream(b"POST");
    let upload = ticket.upload();
    drop(ticket);
    assert_eq!(room(&upload, &Arc::default()), Poll::Ready(None));
    assert_eq!(send(&upload, &Arc::default(), b"x", false), Poll::Ready(false));
}

#[test]
fn invalid_window_updates_are_contract_breaches() {
    for (taken, what) in [(&[5_u64, 5][..], "took back"), (&[5, 4], "took back")] {
        let mut rig = Rig::asgi(1);
        let (_ticket, id) = rig.streaming();
        for taken in taken {
            rig.take(id, *taken);
        }
        assert!(rig.misbehaved().contains(what));
    }
    let mut rig = Rig::asgi(1);
    let _ticket = rig.submit(b"/");
    let (id, _) = rig.claim().unwrap();
    rig.take(id, 5);
    assert!(rig.misbehaved().contains("which it has already"));
    for (kind, body) in [(CompletionKind::WindowUpdate, &b"number"[..]), (CompletionKind::Close, b"")] {
        let mut rig = Rig::asgi(1);
        let (_ticket, id) = rig.streaming();
        rig.say(id, kind, body, false, false);
        rig.dispatcher.before_park();
        assert!(!rig.misbehaved().is_empty(), "{kind:?}");
    }
}

#[test]
fn asgi_frames_from_a_wsgi_worker_are_breaches() {
    for kind in [CompletionKind::WindowUpdate, CompletionKind::EarlyHints, CompletionKind::Trailers] {
        let mut rig = Rig::new();
        let _ticket = rig.submit(b"/");
        let (id, _) = rig.claim().unwrap();
        rig.say(id, kind, &5_u64.to_le_bytes(), false, false);
        rig.dispatcher.before_park();
        assert!(rig.misbehaved().contains("out of place"), "{kind:?}");
    }
}

#[test]
fn trailers_are_accepted_once_and_after_the_head() {
    let mut rig = Rig::asgi(1);
    let _ticket = rig.submit(b"/");
    let (id, _) = rig.claim().unwrap();
    rig.say(id, CompletionKind::Trailers, b"", false, false);
    rig.dispatcher.before_park();
    assert!(rig.misbehaved().contains("out of turn"));
}

#[test]
fn request_with_a_started_upload_is_not_reassigned() {
    for (taken, is_retried) in [(0, true), (1, false)] {
        let mut rig = Rig::asgi(1);
        rig.set_policy(|policy| policy.retry_idempotent = true);
        let ticket = rig.stream(b"PUT");
        let Some(Heard::Asked(id, _)) = rig.hear() else { panic!("it was not given") };
        if taken > 0 {
            rig.take(id, taken);
        }
        let upload = ticket.upload();
        rig.dispatcher.detach(WORKER);
        assert_eq!(rig.dispatcher.load().queued, usize::from(is_retried), "{taken}");
        assert_eq!(room(&upload, &Arc::default()).is_pending(), is_retried);
        assert_eq!(poll(ticket).is_pending(), is_retried);
    }
}

#[test]
fn queued_body_for_the_wrong_interface_is_rejected() {
    let rig = Rig::booting(2);
    let (descriptor, parts, frame) = (rig.upload(b"/"), rig.stream(b"POST"), rig.submit(b"/"));
    rig.is_ready(Interface::Asgi);
    assert!(!rig.dispatcher.is_asgi());
    rig.dispatcher.admit(WORKER);
    assert!(rig.dispatcher.is_asgi());
    assert!(matches!(poll(descriptor), Poll::Ready(Err(Fault::Unavailable(_)))));
    assert_eq!(rig.dispatcher.load(), LoadSummary { queued: 0, running: 2, workers: 1 });
    assert!(poll(parts).is_pending() && poll(frame).is_pending());
}

#[test]
fn overdue_task_is_cancelled_then_reported_as_ignoring_it() {
    let mut rig = Rig::asgi(2);
    let tickets = [rig.submit(b"/yields"), rig.submit(b"/stubborn")];
    let ids: Vec<_> = (0..2)
        .map(|_| match rig.hear() {
            Some(Heard::Asked(id, _)) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    let over = Instant::now() + Duration::from_secs(11);
    rig.dispatcher.tick(over);
    for ticket in tickets {
        assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Deadline(WORKER)))));
    }
    for id in &ids {
        assert_eq!(rig.hear(), Some(Heard::Cancelled(*id)));
        assert!(
            matches!(rig.notices.try_recv(), Ok(Notice::TaskDeadlineExceeded(WORKER, asked)) if asked.exchange == *id)
        );
    }
    rig.dispatcher.tick(over + Duration::from_millis(900));
    rig.end(ids[0]);
    rig.dispatcher.tick(over + Duration::from_millis(1100));
    rig.dispatcher.tick(over + Duration::from_millis(2200));
    let told: Vec<_> = rig.notices.try_iter().collect();
    let [Notice::CancelIgnored(WORKER, asked)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(asked.exchange, ids[1]);
    assert_eq!(rig.hear(), None, "told once");
}

#[test]
fn deadline_pauses_while_application_waits_for_client() {
    let mut rig = Rig::asgi(1);
    let (ticket, id) = rig.streaming();
    let upload = ticket.upload();
    let begun = Instant::now();
    rig.take(id, 5);
    rig.dispatcher.tick(begun + Duration::from_secs(11));
    assert_eq!(send(&upload, &Arc::default(), b"abcde", false), Poll::Ready(true));
    rig.dispatcher.tick(begun + Duration::from_secs(20));
    assert!(rig.notices.try_recv().is_err());
    rig.dispatcher.tick(begun + Duration::from_secs(22));
    assert!(matches!(rig.notices.try_recv(), Ok(Notice::TaskDeadlineExceeded(..))));
}

#[test]
fn event_loop_with_unclaimed_record_stalls_then_is_stuck() {
    let mut rig = Rig::asgi(2);
    rig.set_policy(|policy| {
        policy.stall = Some(Duration::from_secs(4));
        policy.request_timeout = None;
    });
    let _ticket = rig.submit(b"/");
    let begun = Instant::now();
    let told = |rig: &Rig, seconds| {
        rig.dispatcher.tick(begun + Duration::from_secs(seconds));
        rig.notices.try_iter().collect::<Vec<_>>()
    };
    assert!(told(&rig, 0).is_empty());
    assert!(told(&rig, 3).is_empty());
    assert!(matches!(told(&rig, 5)[..], [Notice::LoopStalled(WORKER, _)]));
    assert!(told(&rig, 7).is_empty(), "told once");
    assert!(matches!(told(&rig, 9)[..], [Notice::LoopStuck(WORKER, _)]));
    assert!(rig.hear().is_some());
    assert!(told(&rig, 10).is_empty());
}

#[test]
fn event_loop_with_empty_ring_is_pinged() {
    let mut rig = Rig::asgi(2);
    rig.set_policy(|policy| {
        policy.stall = Some(Duration::from_secs(4));
        policy.request_timeout = None;
    });
    let (_ticket, _) = rig.streaming();
    let begun = Instant::now();
    for seconds in 0..40 {
        rig.dispatcher.tick(begun + Duration::from_secs(seconds));
        if let Some(heard) = rig.hear() {
            assert_eq!(heard, Heard::Gone(ExchangeId(0)), "nobody's");
        }
    }
    assert!(rig.notices.try_recv().is_err(), "it lives");
    for seconds in 40..50 {
        rig.dispatcher.tick(begun + Duration::from_secs(seconds));
    }
    assert!(matches!(rig.notices.try_recv(), Ok(Notice::LoopStalled(WORKER, _))));
}

#[test]
fn requests_unclaimed_by_a_stalled_loop_count_as_queued() {
    let mut rig = Rig::asgi(10);
    let now = Instant::now();
    let _ticket = rig.submit(b"/");
    rig.dispatcher.tick(now);
    rig.dispatcher.tick(now + Duration::from_millis(300));
    assert!(rig.dispatcher.measure_at(now).longest_wait >= Duration::from_millis(300));
    assert!(rig.hear().is_some());
    rig.dispatcher.tick(now + Duration::from_millis(600));
    assert!(rig.dispatcher.measure_at(now).longest_wait < Duration::from_millis(100));
}

#[test]
fn each_request_keeps_its_own_deadline() {
    let mut rig = Rig::asgi(3);
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    let policy = |slow| Policy {
        queue: 10,
        request_timeout: Some(Duration::from_secs(10)),
        slow,
        ..Policy::default()
    };
    rig.dispatcher.set_policy(policy(Some(Duration::from_secs(3))));
    let mut tickets = Vec::new();
    let mut ids = Vec::new();
    for (path, now) in [(&b"/a"[..], at(0)), (b"/b", at(5)), (b"/c", at(6))] {
        let request = Request { path, ..Request::new(ExchangeId(0)) };
        tickets.push(rig.dispatcher.submit(&request, iter::empty(), None, now).unwrap());
        ids.push(rig.claim().unwrap().0);
    }
    let told_at = |rig: &mut Rig, seconds| {
        rig.dispatcher.tick(at(seconds));
        let mut told: Vec<_> = rig
            .notices
            .try_iter()
            .filter_map(|notice| match notice {
                Notice::TaskDeadlineExceeded(_, asked) => Some(format!("overdue {}", asked.path)),
                Notice::CancelIgnored(_, asked) => Some(format!("stubborn {}", asked.path)),
                Notice::SlowRequest(_, asked) => Some(format!("slow {}", asked.path)),
                _ => None,
            })
            .collect();
        told.sort();
        told.join(", ")
    };
    for (seconds, expected) in [
        (2, ""),
        (4, "slow /a"),
        (5, ""),
        (9, "slow /b"),
        (10, "slow /c"),
        (11, "overdue /a"),
        (13, "stubborn /a"),
        (14, ""),
        (16, "overdue /b"),
    ] {
        assert_eq!(told_at(&mut rig, seconds), expected, "after {seconds} s");
    }
    // It says something: its time begins anew.
    rig.say(ids[2], CompletionKind::Respond, b"part", false, false);
    rig.say(ids[2], CompletionKind::Body, b"part", false, false);
    rig.dispatcher.before_park();
    assert_eq!(told_at(&mut rig, 9), "");
    assert_eq!(told_at(&mut rig, 25), "overdue /c, stubborn /b");
}

impl Rig {
    fn hint(&mut self, exchange: ExchangeId, fields: &[(String, Vec<u8>)]) {
        let kind = CompletionKind::EarlyHints;
        let (end, done, text, more) = (false, false, false, false);
        let head = Completion { exchange, kind, end, done, text, more, status: 0, service: 0, slot: 0 };
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
        let mut rig = Rig::asgi(1);
        let mut ticket = rig.submit(b"/");
        let Some(Heard::Asked(exchange, _)) = rig.hear() else { panic!("it was not given") };
        for round in 0..90 {
            let fields: Vec<_> =
                (0..n_fields).map(|nr| (format!("x-{round}-{nr}"), vec![b'v'; len])).collect();
            rig.hint(exchange, &fields);
        }
        assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let hints = ticket.take_hints().unwrap();
        let bytes: usize = hints.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(hints.len() <= usize::from(MAX_FIELDS) && bytes <= 64 * 1024, "{} {bytes}", hints.len());
        assert!(hints.len() >= 4 * n_fields, "several are put together: {}", hints.len());
        // When they are taken there is room for more.
        rig.hint(exchange, &[("x-next".to_owned(), b"1".to_vec())]);
        assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(ticket.take_hints().unwrap().contains_key("x-next"));
        rig.end(exchange);
        assert!(poll(ticket).is_ready());
    }
}
