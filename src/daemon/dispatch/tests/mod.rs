//! The dispatcher against the worker's end of a real channel, driven by hand: what would take two processes and
//! luck to happen, in the order that matters.

use std::fs::File;
use std::iter;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rgun_channel::control::{self, Command, Report};
use rgun_channel::frame::{AppError, Body, Completion, CompletionKind, encode_known_field};
use rgun_channel::layout::SLOT_ACKED;
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, SubmissionReceiver};
use rustix::event::{EventfdFlags, eventfd};

use crate::supervise::{Generation, Life, WorkerNr};

use super::*;

const WORKER: WorkerId = WorkerId { number: WorkerNr(0), life: Life(1) };

mod asgi;

/// A dispatcher with one worker of one slot, and that worker's end.
struct Rig {
    dispatcher: Arc<Dispatcher>,
    notices: Receiver<Notice>,
    bell: Arc<OwnedFd>,
    map: Arc<Map>,
    control: OwnedFd,
    submissions: SubmissionReceiver,
    completions: CompletionSender,
}

impl Rig {
    fn new() -> Self {
        let rig = Self::booting(1);
        rig.dispatcher.admit(WORKER);
        rig
    }

    /// The worker has not said that it is ready. As an ASGI worker it will have so many slots.
    fn booting(concurrency: u32) -> Self {
        let policy =
            Policy { queue: 10, request_timeout: Some(Duration::from_secs(10)), ..Policy::default() };
        let (tell, notices) = mpsc::channel();
        let sink = Box::new(move |notice| tell.send(notice).unwrap());
        let dispatcher = Dispatcher::new(policy, Reactor::new().unwrap(), sink);
        let geometry = Geometry::standard(concurrency);
        let (map, fd) = Map::create("test", geometry.total()).unwrap();
        let theirs = Arc::new(Map::attach(fd.as_fd(), geometry.total(), true).unwrap());
        let (ours, control) = control::pair().unwrap();
        rustix::io::ioctl_fionbio(&control, true).unwrap();
        let (map, control_end) = (Arc::new(map), Arc::new(ours));
        let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        dispatcher.attach(Link {
            worker: WORKER,
            generation: Generation(1),
            map,
            geometry,
            control: control_end,
            wake: Arc::clone(&bell),
            slots: Slots { threads: 1, concurrency },
            max_requests: None,
        });
        Self {
            dispatcher,
            notices,
            bell,
            control,
            submissions: SubmissionReceiver::new(Arc::clone(&theirs), &geometry),
            completions: CompletionSender::new(Arc::clone(&theirs), &geometry),
            map: theirs,
        }
    }

    /// With a worker that answers in microseconds, so that it is given work ahead of time.
    fn quick() -> Self {
        let mut rig = Self::new();
        let ticket = rig.submit(b"first");
        rig.answer();
        assert!(poll(ticket).is_ready());
        rig
    }

    fn submit(&self, path: &[u8]) -> Ticket {
        let request = Request { path, ..Request::new(ExchangeId(0)) };
        self.dispatcher.submit(&request, iter::empty(), None, Instant::now()).unwrap()
    }

    fn upload(&self, path: &[u8]) -> Ticket {
        let request = Request { path, body_is_fd: true, body_len: 1, ..Request::new(ExchangeId(0)) };
        let body = File::open("/dev/null").unwrap().into();
        self.dispatcher.submit(&request, iter::empty(), Some(body), Instant::now()).unwrap()
    }

    /// The next request, by its path.
    fn claim(&mut self) -> Option<(ExchangeId, Vec<u8>)> {
        let mut frame = Vec::new();
        self.submissions.claim(&mut frame).unwrap().then(|| {
            let request = Request::decode(&frame).unwrap();
            (request.exchange, request.path.to_vec())
        })
    }

    fn say(&mut self, exchange: ExchangeId, kind: CompletionKind, body: &[u8], end: bool, done: bool) {
        let status = if kind == CompletionKind::Respond { 200 } else { 0 };
        let head = Completion {
            exchange,
            kind,
            end,
            done,
            text: false,
            more: false,
            status,
            service: 1000,
            slot: 0,
        };
        let (mut frame, body) = (Vec::new(), Body::Inline(body));
        head.encode(0, &body, &mut frame);
        body.encode(&mut frame);
        assert!(self.completions.push(&frame).unwrap());
    }

    /// Claims a request and answers it; returns its path.
    fn answer(&mut self) -> Vec<u8> {
        let (exchange, path) = self.claim().unwrap();
        self.say(exchange, CompletionKind::Respond, b"", true, true);
        self.dispatcher.before_park();
        path
    }

    /// What the daemon has sent on the control socket.
    fn commands(&self) -> Vec<Command> {
        let mut buffer = vec![0; control::MAX_MESSAGE];
        let next = || control::receive(&self.control, &mut buffer).ok().map(|got| buffer[..got.len].to_vec());
        iter::from_fn(next).map(|message| Command::decode(&message).unwrap()).collect()
    }

    fn misbehaved(&self) -> String {
        match self.notices.try_recv() {
            Ok(Notice::Misbehaved(WORKER, why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn acked(&self) -> u64 {
        self.map.u64(Geometry::slot(0, SLOT_ACKED)).load(Ordering::Acquire)
    }
}

fn poll(mut ticket: Ticket) -> Poll<Result<Answer, Fault>> {
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(&mut ticket).poll(&mut context)
}

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
    rig.say(exchange, CompletionKind::Raised, &error, true, true);
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
    assert!(rig.completions.push(&frame).unwrap());
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
        control::send(&rig.control, &report, &[]).unwrap();
    }
    assert!(!rig.dispatcher.pump_control(WORKER));
    let last = rig.notices.try_iter().last();
    assert!(matches!(last, Some(Notice::Misbehaved(WORKER, _))), "{last:?}");
}

#[test]
fn the_time_of_a_request_begins_when_the_one_before_it_is_taken_back() {
    let mut rig = Rig::quick();
    let abandoned = rig.submit(b"/abandoned");
    let ticket = rig.submit(b"/hangs");
    drop(abandoned);
    assert_eq!(rig.claim().unwrap().1, b"/hangs");
    let long_after = Instant::now() + Duration::from_secs(11);
    rig.dispatcher.housekeeping(long_after);
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
fn a_worker_is_not_told_to_forget_a_request_whose_body_it_may_be_taking() {
    let mut rig = Rig::new();
    let ticket = rig.upload(b"/");
    let (exchange, _) = rig.claim().unwrap();
    assert_eq!(rig.commands(), [Command::Body(exchange)]);
    drop(ticket);
    assert_eq!(rig.commands(), []);
    rig.say(exchange, CompletionKind::Respond, b"part", false, false);
    rig.dispatcher.before_park();
    assert_eq!(rig.commands(), [Command::Forget(exchange)]);
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
    rig.dispatcher.lock().keeper = Keeper::Slow;
    let _second = rig.submit(b"/");
    assert_eq!(rig.dispatcher.lock().keeper, Keeper::Fast);
}
