//! Tests of the dispatcher against the worker's end of a real channel, driven step by step: each
//! event happens in a chosen order. This file contains the [`Rig`]: a dispatcher and its workers,
//! which the test plays.

mod asgi;
mod contract;
mod death;
mod one_worker;
mod random;
mod rules;
mod scheduling;
mod slow;
mod supervision;
mod takeover;
mod waiting;
mod websocket;
mod withdraw;

use std::fs::File;
use std::iter;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};
use rgun_channel::control::{self, Command, Report};
use rgun_channel::frame::{Body, Completion, CompletionKind, ExchangeId, Request};
use rgun_channel::layout::{Geometry, SLOT_ACKED, Word};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, SubmissionReceiver};
use rustix::event::{EventfdFlags, eventfd};

use crate::id::{Generation, Incarnation, WorkerId, WorkerNr};
use crate::link::{Link, Reactor, Slots};

use super::exchange::ExchangeState;
use super::tick_rate::TickRate;
use super::*;

const WORKER: WorkerId = WorkerId { number: WorkerNr(0), incarnation: Incarnation(1) };
const SECOND: Duration = Duration::from_secs(1);

/// Service times in nanoseconds. A worker gets prefetched requests if it reports the fast one, and
/// none if it reports the slow one.
const FAST_SERVICE_NANOS: u64 = 1000;
const SLOW_SERVICE_NANOS: u64 = 50_000_000;

/// A worker's end of its channel.
struct FakeWorker {
    id: WorkerId,
    map: Arc<Map>,
    /// None once the worker has closed its socket.
    control: Option<OwnedFd>,
    submissions: SubmissionReceiver,
    completions: CompletionSender,
    /// The service time that the worker reports, in nanoseconds.
    service: u64,
}

/// A dispatcher and its workers.
struct Rig {
    dispatcher: &'static Dispatcher,
    notices: Receiver<Notice>,
    workers: Vec<FakeWorker>,
}

fn base_policy() -> Policy {
    Policy { queue: 10, request_timeout: Some(10 * SECOND), ..Policy::default() }
}

impl FakeWorker {
    /// Claims the next request. Returns its id and path.
    fn claim(&mut self) -> Option<(ExchangeId, Vec<u8>)> {
        let mut frame = Vec::new();
        self.submissions.claim(&mut frame).unwrap().then(|| {
            let request = Request::decode(&frame).unwrap();
            (request.exchange, request.path.to_vec())
        })
    }

    fn complete(&mut self, exchange: ExchangeId, kind: CompletionKind, body: &[u8], end: bool, done: bool) {
        let status = if kind == CompletionKind::Respond { 200 } else { 0 };
        self.complete_with_status(exchange, kind, status, body, end, done);
    }

    fn complete_with_status(
        &mut self,
        exchange: ExchangeId,
        kind: CompletionKind,
        status: u16,
        body: &[u8],
        end: bool,
        done: bool,
    ) {
        let head = Completion {
            exchange,
            kind,
            end,
            done,
            text: false,
            more: false,
            ends_takeover: false,
            status,
            service: self.service,
            slot: 0,
        };
        let (mut frame, body) = (Vec::new(), Body::Inline(body));
        head.encode(0, &body, &mut frame);
        body.encode(&mut frame);
        assert!(self.completions.push(&frame).unwrap());
    }

    /// Returns whether the ring has a record that the worker has not claimed.
    fn has_unclaimed(&self) -> bool {
        let read = |word| self.map.u64(Geometry::word(word)).load(Ordering::Acquire);
        read(Word::SubmissionHead) > read(Word::SubmissionTail)
    }

    fn report(&self, report: &Report) {
        control::send(self.control.as_ref().unwrap(), &report.encode(), &[]).unwrap();
    }
}

impl Rig {
    /// Creates a rig with one worker of one slot, which reports fast service times.
    fn new() -> Self {
        let mut rig = Self::with(base_policy(), 1);
        rig.workers[0].service = FAST_SERVICE_NANOS;
        rig
    }

    /// Creates a rig with workers of one slot each, which report slow service times.
    fn with(policy: Policy, n_workers: usize) -> Self {
        let (sender, notices) = mpsc::channel();
        let sink = Box::new(move |notice| sender.send(notice).unwrap());
        let dispatcher = Dispatcher::new(policy, 2, Reactor::new().unwrap(), sink);
        let mut rig = Self { dispatcher, notices, workers: Vec::new() };
        for _ in 0..n_workers {
            rig.admit_new();
        }
        rig
    }

    /// Creates a rig with one worker that has reported a fast service time, so that requests are
    /// prefetched to it.
    fn fast() -> Self {
        let mut rig = Self::new();
        let ticket = rig.submit(b"first");
        rig.answer();
        assert!(poll(ticket).is_ready());
        rig
    }

    fn admit_new(&mut self) -> usize {
        let index = self.attach(Generation(1), 1, None);
        self.dispatcher.admit(self.workers[index].id);
        index
    }

    /// Attaches a worker without admitting it. Returns its index in `workers`.
    fn attach(&mut self, generation: Generation, slots: u32, max_requests: Option<u64>) -> usize {
        let index = self.workers.len();
        let (number, incarnation) = (u16::try_from(index).unwrap(), index as u64 + 1);
        let id = WorkerId { number: WorkerNr(number), incarnation: Incarnation(incarnation) };
        let geometry = Geometry::standard(slots);
        let (map, fd) = Map::create("test", geometry.total_bytes()).unwrap();
        let theirs = Arc::new(Map::attach(fd.as_fd(), geometry.total_bytes(), true).unwrap());
        let (ours, control) = control::pair().unwrap();
        rustix::io::ioctl_fionbio(&control, true).unwrap();
        self.dispatcher.attach(Link {
            worker: id,
            generation,
            map: Arc::new(map),
            geometry,
            control: Arc::new(ours),
            wake: Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap()),
            slots: Slots { threads: slots, concurrency: 1, websockets: 0 },
            max_requests: max_requests.and_then(NonZeroU64::new),
        });
        self.workers.push(FakeWorker {
            id,
            control: Some(control),
            submissions: SubmissionReceiver::new(Arc::clone(&theirs), &geometry),
            completions: CompletionSender::new(Arc::clone(&theirs), &geometry),
            map: theirs,
            service: SLOW_SERVICE_NANOS,
        });
        index
    }

    fn submit(&self, path: &[u8]) -> Ticket {
        self.submit_at("GET", path, Instant::now()).unwrap()
    }

    fn submit_at(&self, method: &str, path: &[u8], now: Instant) -> Result<Ticket, Fault> {
        let method = method.as_bytes();
        let request = Request { method, path, request_id: b"the-id", ..Request::new(ExchangeId(0)) };
        self.dispatcher.submit(&request, iter::empty(), None, now)
    }

    fn submit_from(&self, peer: &[u8], path: &[u8]) -> Result<Ticket, Fault> {
        let request = Request { peer, path, ..Request::new(ExchangeId(0)) };
        self.dispatcher.submit(&request, iter::empty(), None, Instant::now())
    }

    fn upload(&self, path: &[u8]) -> Ticket {
        let request = Request { path, body_is_fd: true, body_len: 1, ..Request::new(ExchangeId(0)) };
        let body = File::open("/dev/null").unwrap().into();
        self.dispatcher.submit(&request, iter::empty(), Some(body), Instant::now()).unwrap()
    }

    fn probe(&self, index: usize, path: &[u8]) -> Result<Ticket, Fault> {
        let request = Request { path, ..Request::new(ExchangeId(0)) };
        let worker = self.workers[index].id;
        self.dispatcher.submit_to(worker, &request, iter::empty(), Instant::now())
    }

    /// Claims the next request of the first worker. Returns its id and path.
    fn claim(&mut self) -> Option<(ExchangeId, Vec<u8>)> {
        self.workers[0].claim()
    }

    fn complete(&mut self, exchange: ExchangeId, kind: CompletionKind, body: &[u8], end: bool, done: bool) {
        self.workers[0].complete(exchange, kind, body, end, done);
    }

    /// Has the first worker claim and answer a request. Returns its path.
    fn answer(&mut self) -> Vec<u8> {
        self.answer_by(0, 200)
    }

    fn answer_by(&mut self, index: usize, status: u16) -> Vec<u8> {
        let (exchange, path) = self.workers[index].claim().expect("the ring is not empty");
        self.finish(index, exchange, status);
        path
    }

    fn finish(&mut self, index: usize, exchange: ExchangeId, status: u16) {
        self.workers[index].complete_with_status(exchange, CompletionKind::Respond, status, b"", true, true);
        self.dispatcher.before_park();
    }

    /// Has each worker claim a request. Returns the requests' paths.
    fn claim_all(&mut self) -> Vec<String> {
        let claimed = self.workers.iter_mut().filter_map(FakeWorker::claim);
        claimed.map(|(_, path)| String::from_utf8(path).unwrap()).collect()
    }

    /// Closes the worker socket, as its exit does.
    fn close_control(&mut self, index: usize) {
        let control = self.workers[index].control.take().expect("the socket is open");
        // Dropping the descriptor is not enough: a process that another test has forked keeps a
        // copy until it calls exec.
        shutdown(control.as_raw_fd(), Shutdown::Both).unwrap();
        assert!(!self.dispatcher.read_reports(self.workers[index].id));
    }

    /// Has a worker claim the request to `path`, and exit.
    fn crash_on(&mut self, index: usize, path: &[u8]) {
        let (_, claimed) = self.workers[index].claim().expect("the ring is not empty");
        assert_eq!(String::from_utf8(claimed).unwrap(), String::from_utf8(path.to_vec()).unwrap());
        self.close_control(index);
    }

    /// Returns the commands sent to the first worker.
    fn commands(&self) -> Vec<Command> {
        let mut buffer = vec![0; control::MAX_MESSAGE_BYTES];
        let socket = self.workers[0].control.as_ref().unwrap();
        let next =
            || control::receive(socket, &mut buffer).ok().map(|message| buffer[..message.len].to_vec());
        iter::from_fn(next).map(|message| Command::decode(&message).unwrap()).collect()
    }

    fn take_breach(&self) -> String {
        match self.notices.try_recv() {
            Ok(Notice::ContractBreached(WORKER, why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn acked(&self) -> u64 {
        self.workers[0].map.u64(Geometry::slot(0, SLOT_ACKED)).load(Ordering::Acquire)
    }

    /// Returns the notices sent since the last call.
    fn take_notices(&self) -> Vec<Notice> {
        self.notices.try_iter().collect()
    }

    /// Checks that exchanges, queue, rules and workers agree about the state of each exchange.
    fn check(&self) {
        let mut state = self.dispatcher.lock();
        let state = &mut *state;
        let queued: Vec<_> = state.queue.iter().collect();
        assert!(queued.is_sorted(), "{queued:?}");
        let waiting: Vec<_> = state.rules.held().collect();
        assert_eq!(waiting.len(), state.rules.n_held());
        let mut n_running = 0;
        let mut permits = 0;
        let (mut n_queued, mut n_waiting) = (0, 0);
        for exchange in state.exchanges.iter_mut() {
            let id = exchange.id;
            permits += usize::from(exchange.permit.is_some());
            n_queued += usize::from(exchange.state == ExchangeState::Queued);
            n_waiting += usize::from(matches!(exchange.state, ExchangeState::Held(_)));
            match exchange.state {
                ExchangeState::Queued => assert!(queued.contains(&id), "{exchange:?}"),
                ExchangeState::Held(_) => assert!(waiting.contains(&id) && exchange.permit.is_none()),
                ExchangeState::Assigned { worker, .. } => {
                    let worker = state.workers[worker].as_ref().expect("the worker is attached");
                    assert!(worker.has(id), "{exchange:?}");
                    n_running += 1;
                }
                ExchangeState::Finished => assert!(exchange.permit.is_none(), "{exchange:?}"),
            }
        }
        assert_eq!((n_queued, n_waiting), (queued.len(), waiting.len()));
        assert_eq!(
            n_running,
            state.workers.iter().flatten().map(|worker| worker.load.n_assigned() as usize).sum::<usize>()
        );
        assert_eq!(permits, state.rules.n_permits());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}

fn ago(duration: Duration) -> Instant {
    Instant::now().checked_sub(duration).unwrap()
}

fn poll(mut ticket: Ticket) -> Poll<Result<AppResponse, Fault>> {
    peek(&mut ticket)
}

/// Polls a ticket without dropping it.
fn peek(ticket: &mut Ticket) -> Poll<Result<AppResponse, Fault>> {
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(ticket).poll(&mut context)
}

fn status(ticket: Ticket) -> u16 {
    match poll(ticket) {
        Poll::Ready(Ok(answer)) => answer.head.status.as_u16(),
        other => panic!("{other:?}"),
    }
}

fn fault(ticket: Ticket) -> Fault {
    match poll(ticket) {
        Poll::Ready(Err(fault)) => fault,
        other => panic!("{other:?}"),
    }
}
