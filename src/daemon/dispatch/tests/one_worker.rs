//! A rig with one worker, for tests that send and receive single frames.

pub(super) use std::fs::File;
pub(super) use std::iter;
pub(super) use std::os::fd::{AsFd, OwnedFd};
pub(super) use std::pin::Pin;
pub(super) use std::sync::Arc;
pub(super) use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
pub(super) use std::task::{Context, Poll, Waker};
pub(super) use std::time::{Duration, Instant};

pub(super) use rgun_channel::control::{self, Command, Report};
pub(super) use rgun_channel::frame::{Body, Completion, CompletionKind, ExchangeId, Request};
pub(super) use rgun_channel::layout::{Geometry, SLOT_ACKED};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, SubmissionReceiver};
use rustix::event::{EventfdFlags, eventfd};

pub(super) use crate::id::WorkerId;
use crate::id::{Generation, Incarnation, WorkerNr};
use crate::link::{Link, Reactor, Slots};

pub(super) use super::super::tick_rate::TickRate;
pub(super) use super::super::*;

pub(super) const WORKER: WorkerId = WorkerId { number: WorkerNr(0), incarnation: Incarnation(1) };

/// A dispatcher with one worker, and the worker's end of the channel.
pub(super) struct WorkerRig {
    pub(super) dispatcher: &'static Dispatcher,
    pub(super) notices: Receiver<Notice>,
    /// The eventfd that the worker's event loop watches.
    pub(super) eventfd: Arc<OwnedFd>,
    pub(super) map: Arc<Map>,
    pub(super) control: OwnedFd,
    pub(super) submissions: SubmissionReceiver,
    pub(super) completions: CompletionSender,
}

impl WorkerRig {
    pub(super) fn new() -> Self {
        let rig = Self::booting(1);
        rig.dispatcher.admit(WORKER);
        rig
    }

    /// Creates a rig whose worker has not reported Ready. As an ASGI worker it has `concurrency`
    /// slots.
    pub(super) fn booting(concurrency: u32) -> Self {
        Self::with_slots(Slots { threads: 1, concurrency, websockets: 0 })
    }

    pub(super) fn with_slots(slots: Slots) -> Self {
        let policy =
            Policy { queue: 10, request_timeout: Some(Duration::from_secs(10)), ..Policy::default() };
        let (sender, notices) = mpsc::channel();
        let sink = Box::new(move |notice| sender.send(notice).unwrap());
        let dispatcher = Dispatcher::new(policy, 2, Reactor::new().unwrap(), sink);
        let geometry = Geometry::standard(slots.max());
        let (map, fd) = Map::create("test", geometry.total_bytes()).unwrap();
        let theirs = Arc::new(Map::attach(fd.as_fd(), geometry.total_bytes(), true).unwrap());
        let (ours, control) = control::pair().unwrap();
        rustix::io::ioctl_fionbio(&control, true).unwrap();
        let (map, control_end) = (Arc::new(map), Arc::new(ours));
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        dispatcher.attach(Link {
            worker: WORKER,
            generation: Generation(1),
            map,
            geometry,
            control: control_end,
            wake: Arc::clone(&wake),
            slots,
            max_requests: None,
        });
        Self {
            dispatcher,
            notices,
            eventfd: wake,
            control,
            submissions: SubmissionReceiver::new(Arc::clone(&theirs), &geometry),
            completions: CompletionSender::new(Arc::clone(&theirs), &geometry),
            map: theirs,
        }
    }

    pub(super) fn submit(&self, path: &[u8]) -> Ticket {
        let request = Request { path, ..Request::new(ExchangeId(0)) };
        self.dispatcher.submit(&request, iter::empty(), None, Instant::now()).unwrap()
    }

    pub(super) fn upload(&self, path: &[u8]) -> Ticket {
        let request = Request { path, body_is_fd: true, body_len: 1, ..Request::new(ExchangeId(0)) };
        let body = File::open("/dev/null").unwrap().into();
        self.dispatcher.submit(&request, iter::empty(), Some(body), Instant::now()).unwrap()
    }

    /// Claims the next request. Returns its id and path.
    pub(super) fn claim(&mut self) -> Option<(ExchangeId, Vec<u8>)> {
        let mut frame = Vec::new();
        self.submissions.claim(&mut frame).unwrap().then(|| {
            let request = Request::decode(&frame).unwrap();
            (request.exchange, request.path.to_vec())
        })
    }

    pub(super) fn complete(
        &mut self,
        exchange: ExchangeId,
        kind: CompletionKind,
        body: &[u8],
        end: bool,
        done: bool,
    ) {
        let status = if kind == CompletionKind::Respond { 200 } else { 0 };
        let head = Completion {
            exchange,
            kind,
            end,
            done,
            text: false,
            more: false,
            ends_takeover: false,
            status,
            service: 1000,
            slot: 0,
        };
        let (mut frame, body) = (Vec::new(), Body::Inline(body));
        head.encode(0, &body, &mut frame);
        body.encode(&mut frame);
        assert!(self.completions.push(&frame).unwrap());
    }

    /// Returns the commands sent on the worker socket.
    pub(super) fn commands(&self) -> Vec<Command> {
        let mut buffer = vec![0; control::MAX_MESSAGE_BYTES];
        let next = || {
            control::receive(&self.control, &mut buffer).ok().map(|message| buffer[..message.len].to_vec())
        };
        iter::from_fn(next).map(|message| Command::decode(&message).unwrap()).collect()
    }

    pub(super) fn take_breach(&self) -> String {
        match self.notices.try_recv() {
            Ok(Notice::ContractBreached(WORKER, why)) => why,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn acked(&self) -> u64 {
        self.map.u64(Geometry::slot(0, SLOT_ACKED)).load(Ordering::Acquire)
    }
}

pub(super) fn poll(mut ticket: Ticket) -> Poll<Result<AppResponse, Fault>> {
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(&mut ticket).poll(&mut context)
}
