//! One queue for all workers, and the exchanges that are under way.
//!
//! `http` submits a request and awaits its [`Ticket`]; `edge` calls [`Dispatcher::before_park`] at the
//! end of every turn of the reactor; `pool` makes a worker's [`Link`]; `run` attaches and detaches workers, sets the
//! [`Policy`], measures, and is told by [`Notice`].
//!
//! # Invariants
//! - A request is bound to a worker only when it can start: it is pushed into a worker's ring when a slot
//!   is idle, or a little ahead of time (*prefetch*) when the application answers within a millisecond; a
//!   prefetched record is *revoked* when it would have to wait (`revoke_stalled`, `steal`).
//! - Every exchange is answered exactly once: by the application, or by a [`Fault`].
//! - An exchange stays in the table until both sides are through with it: the client has everything (or is
//!   gone) and the worker has said DONE (or is gone). An id that is not in the table is therefore a breach
//!   of contract, never a late answer.
//! - An exchange with a [permit](rules) keeps it until its worker is done with it; who waits for one is in no queue.
//! - Doorbells ring at the end of the reactor's turn, never per push.
//!
//! The state is behind one mutex that only the reactor's thread takes in the ordinary course (an
//! uncontended lock is two atomic operations; a `RefCell` would tie every connection task to a `LocalSet`,
//! whose wake-ups do not keep the reactor from parking).
//!
//! What belongs to what: this file is a request's way in and its answer's way out; `placing` chooses its worker,
//! `workers` has them come and go, `housekeeping` looks at the clock, `slow` takes answers off their workers whose clients
//! are slow; `queue`, `wait_estimate`, `rules`, `quarantine` and `measure` keep what their names say.

mod body;
mod buffer;
mod data;
mod delivery;
mod exchange;
mod exchanges;
mod fault;
mod half_close;
mod housekeeping;
mod later;
mod link;
mod measure;
mod notice;
mod outbox;
mod parts;
mod placing;
mod policy;
mod quarantine;
mod queue;
mod reactor;
mod received;
mod reports;
mod rules;
mod running;
mod service_time;
mod slow;
mod socket;
#[cfg(test)]
mod tests;
mod ticket;
mod turn;
mod upload;
mod wait_estimate;
mod websocket;
mod worker;
mod workers;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rgun_channel::frame::{ExchangeId, Request, TooLong};
use rgun_channel::layout::Geometry;
use tokio::sync::Notify;

use crate::id::WorkerId;

use self::body::Carriage;
pub use self::body::PART;
use self::data::Buffers;
pub use self::data::Data;
use self::exchange::{Exchange, Place};
use self::exchanges::Exchanges;
pub use self::fault::{Fault, UploadFault};
use self::housekeeping::Keeper;
pub use self::link::{Link, Slots};
use self::measure::Gauge;
pub use self::notice::{Asked, Had, Notice, NoticeSink};
pub use self::parts::{Declared, FilePart, Head, Payload, RequestBody};
pub use self::policy::Policy;
use self::quarantine::Quarantine;
use self::queue::Queue;
pub use self::reactor::Reactor;
pub use self::rules::Rule;
use self::rules::Rules;
use self::slow::Relief;
pub use self::socket::Outgoing;
use self::socket::Socket;
pub use self::ticket::{Answer, BodyStream, StreamPiece, Ticket};
pub use self::upload::Upload;
pub use self::websocket::WebSocket;
use self::worker::Worker;

/// The queue, the exchanges and the workers' channels.
pub struct Dispatcher {
    reactor: Reactor,
    notice: NoticeSink,
    /// Wakes the housekeeper when there is something to watch again.
    work: Notify,
    /// Of the worker that was admitted last: [`UNKNOWN`], [`WSGI`] or [`ASGI`].
    interface: AtomicU8,
    /// It is known, or for now there is nothing to wait for.
    known: Notify,
    buffers: &'static Buffers,
    state: Mutex<State>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

struct State {
    policy: Policy,
    workers: Vec<Option<Worker>>,
    exchanges: Exchanges,
    queue: Queue,
    /// The policy's, with who has a permit and who waits for one.
    rules: Rules,
    quarantine: Quarantine,
    gauge: Gauge,
    /// Why nobody will serve soon; requests are then refused instead of queued.
    unavailable: Option<Arc<str>>,
    /// [`Notice::Wanted`] has been told, and nobody admitted since.
    wanted: bool,
    /// Frames popped from a completion ring land here.
    scratch: Vec<u8>,
    /// The longest frame that fits every worker's ring.
    max_frame: usize,
    /// Submissions since the last end of a turn, to bound how long a doorbell can be deferred.
    deferred: u32,
    keeper: Keeper,
    relief: Relief,
}

/// No worker has been admitted yet.
const UNKNOWN: u8 = 0;
const WSGI: u8 = 1;
const ASGI: u8 = 2;

/// What is going on, for STATUS= and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests waiting, for a worker or by a rule of their path.
    pub queued: usize,
    /// Requests given to a worker.
    pub running: usize,
    /// Workers that take requests.
    pub workers: usize,
}

/// Deferred doorbells are rung after this many submissions even if the reactor has not come to the end of
/// its turn: tokio polls up to `event_interval` tasks before it parks.
const MAX_DEFERRED: u32 = 64;

impl Dispatcher {
    /// A dispatcher without workers. Leaked: a daemon has one for as long as it lives, and each request refers to it.
    pub fn new(policy: Policy, reactor: Reactor, notice: NoticeSink) -> &'static Self {
        let now = Instant::now();
        let buffers: &'static Buffers = Box::leak(Box::default());
        buffers.set_limits(&policy);
        Box::leak(Box::new(Self {
            buffers,
            reactor,
            notice,
            work: Notify::new(),
            interface: AtomicU8::new(UNKNOWN),
            known: Notify::new(),
            state: Mutex::new(State {
                workers: Vec::new(),
                exchanges: Exchanges::default(),
                queue: Queue::new(policy.queue_timeout),
                rules: Rules::new(&policy.rules),
                policy,
                quarantine: Quarantine::default(),
                gauge: Gauge::new(now),
                unavailable: None,
                wanted: false,
                scratch: Vec::with_capacity(64 * 1024),
                max_frame: Geometry::standard(1).max_submission_frame(),
                deferred: 0,
                keeper: Keeper::Idle,
                relief: Relief::new(now),
            }),
        }))
    }

    /// The reactor's page and doorbell, for a new worker.
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// Are requests to be submitted as ASGI workers take them: with a large body that comes in parts?
    pub fn is_asgi(&self) -> bool {
        self.interface.load(Ordering::Relaxed) == ASGI
    }

    /// Waits until a worker has been admitted for the first time, so that [`Dispatcher::is_asgi`] is true or false; but
    /// not for longer than a request may wait, nor when it is known that nobody will serve soon.
    pub async fn knows_interface(&self) {
        let patience = self.lock().policy.queue_timeout;
        let known = async {
            loop {
                let known = self.known.notified();
                let is_hopeless = || self.lock().unavailable.is_some();
                if self.interface.load(Ordering::Relaxed) != UNKNOWN || is_hopeless() {
                    return;
                }
                known.await;
            }
        };
        match patience {
            // Who submits then is told.
            Some(patience) => drop(tokio::time::timeout(patience, known).await),
            None => known.await,
        }
    }

    /// Is the handshake of a WebSocket to be submitted as one? Also while no worker has been admitted: if the
    /// application turns out to be WSGI, it is made an ordinary request.
    pub fn takes_handshakes(&self) -> bool {
        self.interface.load(Ordering::Relaxed) != WSGI
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock is a bug of ours; the state's invariants are re-established by every
        // method before it can panic, and a daemon that goes on beats one that refuses everybody.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a request to a worker, or queues it.
    ///
    /// `request.exchange` is ignored: the id is chosen here. `body` is the spooled body when it does not
    /// travel in the frame. `now` is when the request was complete: its waiting time counts from there.
    ///
    /// # Errors
    /// The queue is full or moves too slowly, nobody will serve soon, a part of the head is too long for a frame, or requests like this
    /// one have ended workers.
    pub fn submit<'f>(
        &'static self,
        request: &Request<'_>,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        body: Option<RequestBody>,
        now: Instant,
    ) -> Result<Ticket, Fault> {
        let mut state = self.lock();
        let state = &mut *state;
        state.gauge.active = now;
        let is_trial = !state.quarantine.is_empty() && state.is_trial(request, now)?;
        let (limit, rule) = state.classify(request.path);
        let (id, frame) = state.encode(request, fields)?;
        // Who waits for others of its path waits for no worker.
        let held = rule.filter(|rule| state.rules.is_full(*rule));
        // Who waits already goes first, even if what is at the front needs an idle slot and this one does not.
        let can_start = held.is_none() && state.queue.is_empty();
        let carriage = match &body {
            _ if request.websocket => Carriage::Messages,
            _ if request.body_streams => Carriage::Parts,
            Some(_) => Carriage::Descriptor,
            None => Carriage::Frame,
        };
        let chosen = if can_start { state.choose(carriage) } else { None };
        if chosen.is_none()
            && let Some(fault) = state.refusal(held.is_some(), now)
        {
            state.exchanges.recycle(frame);
            return Err(fault);
        }
        let mut exchange = Exchange::new(id, frame, body, limit, now);
        if request.body_streams || request.websocket {
            exchange.uptake = Some(Box::default());
        }
        if request.websocket {
            exchange.websocket = Some(Box::<Socket>::default());
        }
        match (held, rule) {
            (Some(rule), _) => {
                exchange.place = Place::Waiting(rule);
                state.rules.wait(rule, id);
            }
            (None, Some(rule)) => {
                exchange.permit = Some(rule);
                state.rules.take_permit(rule);
            }
            (None, None) => {}
        }
        state.exchanges.insert(exchange);
        if is_trial {
            state.quarantine.begin_trial(request.method, request.path, id);
        }
        let given = chosen.is_some_and(|worker| self.give(state, worker, id, now));
        if !given && held.is_none() {
            state.queue.insert(id, now);
            self.want(state);
        }
        // A worker that is given a second request may keep back what it has to say of the first.
        let must_watch = match state.keeper {
            Keeper::Idle | Keeper::Parked => true,
            Keeper::Slow => {
                given && chosen.and_then(|index| state.workers[index].as_ref()).is_some_and(Worker::may_defer)
            }
            Keeper::Fast => false,
        };
        if must_watch {
            state.keeper = Keeper::Fast;
            self.work.notify_one();
        }
        if state.deferred >= MAX_DEFERRED {
            state.ring_doorbells();
        }
        Ok(Ticket::new(self, id))
    }

    /// Gives a request to this worker and to no other, admitted or not: to try whether it answers. It passes by the
    /// queue and all bounds but its deadline.
    ///
    /// # Errors
    /// The worker is gone or has no room, or a part of the head is too long for a frame.
    pub fn submit_to<'f>(
        &'static self,
        worker: WorkerId,
        request: &Request<'_>,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        now: Instant,
    ) -> Result<Ticket, Fault> {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(index) = state.find(worker) else { return Err(Fault::WorkerDied(worker)) };
        let (limit, _) = state.classify(request.path);
        let (id, frame) = state.encode(request, fields)?;
        let mut exchange = Exchange::new(id, frame, None, limit, now);
        exchange.pinned = true;
        state.exchanges.insert(exchange);
        if !self.give(state, index, id, now) {
            let is_there = state.find(worker).is_some();
            state.fail(id, Fault::QueueFull, now);
            state.abandon(id, now);
            return Err(if is_there { Fault::QueueFull } else { Fault::WorkerDied(worker) });
        }
        state.keeper = Keeper::Fast;
        self.work.notify_one();
        // Whoever asks is not the reactor, whose turn may be over.
        state.ring_doorbells();
        Ok(Ticket::new(self, id))
    }

    /// A request waits: is there anybody it could wait for?
    fn want(&self, state: &mut State) {
        if !state.wanted && !state.queue.is_empty() && !state.is_open() {
            state.wanted = true;
            (self.notice)(Notice::Wanted);
        }
    }

    /// Requests are refused with this reason instead of queued while no worker takes them; `None` takes
    /// it back. What is queued already is refused too.
    pub fn set_unavailable(&self, reason: Option<&str>) {
        let mut state = self.lock();
        state.unavailable = reason.map(Arc::from);
        self.known.notify_waiters();
        state.refuse_stranded(Instant::now());
    }

    /// What is going on.
    pub fn load(&self) -> Load {
        let state = self.lock();
        Load {
            queued: state.n_waiting(),
            running: state.workers.iter().flatten().map(Worker::n_running).sum(),
            workers: state.workers.iter().flatten().filter(|worker| worker.is_open()).count(),
        }
    }

    /// What has started in this worker, in the order in which it was given.
    pub fn running(&self, worker: WorkerId) -> Vec<Asked> {
        let state = self.lock();
        let Some(worker) = state.find(worker).and_then(|index| state.workers[index].as_ref()) else {
            return Vec::new();
        };
        let now = Instant::now();
        let exchanges = worker.claimed().filter_map(|id| state.exchanges.get(id));
        exchanges.map(|exchange| exchange.asked(worker.thread_of(exchange.id), now)).collect()
    }
}

impl State {
    fn find(&self, id: WorkerId) -> Option<usize> {
        self.workers.iter().position(|worker| worker.as_ref().is_some_and(|worker| worker.id == id))
    }

    /// Does anybody take requests?
    fn is_open(&self) -> bool {
        self.workers.iter().flatten().any(Worker::is_open)
    }

    fn n_waiting(&self) -> usize {
        self.queue.len() + self.rules.n_waiting()
    }

    /// Why a request that cannot start now may not wait either. `held`: it would wait for others of its path, not for a
    /// worker, and nobody knows how long.
    fn refusal(&mut self, held: bool, now: Instant) -> Option<Fault> {
        if let Some(reason) = &self.unavailable {
            return Some(Fault::Unavailable(Arc::clone(reason)));
        }
        if self.n_waiting() >= self.policy.queue {
            return Some(Fault::QueueFull);
        }
        let Self { queue, workers, .. } = self;
        let open = || workers.iter().flatten().filter(|worker| worker.is_open());
        let slots = || open().map(Worker::n_slots).sum::<usize>();
        let excess = if held { None } else { queue.excess_wait(slots, now) };
        excess.map(Fault::QueueTooSlow)
    }

    /// Refuses what waits when there is nobody to wait for.
    fn refuse_stranded(&mut self, now: Instant) {
        let Some(reason) = self.unavailable.clone() else { return };
        if self.is_open() {
            return;
        }
        // Those without a permit first: none of them is to get one from another that is refused.
        let waiting: Vec<_> = self.rules.waiting().chain(self.queue.iter()).collect();
        for id in waiting {
            self.fail(id, Fault::Unavailable(Arc::clone(&reason)), now);
        }
    }

    /// An id and the frame for a request.
    fn encode<'f>(
        &mut self,
        request: &Request<'_>,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Result<(ExchangeId, Vec<u8>), Fault> {
        let mut frame = self.exchanges.spare_frame();
        let id = self.exchanges.next_id();
        let encoded = Request { exchange: id, ..*request }.encode(fields, &mut frame);
        let refused = match encoded {
            Err(TooLong(what)) => what,
            Ok(()) if frame.len() > self.max_frame => "head, with its body,",
            Ok(()) => return Ok((id, frame)),
        };
        self.exchanges.recycle(frame);
        Err(Fault::TooLong(refused))
    }

    /// Answers an exchange that no worker has.
    fn fail(&mut self, id: ExchangeId, fault: Fault, now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let waker = exchange.fail(fault);
        self.end(id, now);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// No worker has, or ever will have, anything to do with it: it leaves the list in which it stands, and its permit
    /// is another's.
    fn end(&mut self, id: ExchangeId, now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let (place, permit) = (exchange.place, exchange.permit.take());
        exchange.worker_is_done();
        match place {
            Place::Queued => self.queue.remove(id),
            Place::Waiting(rule) => self.rules.leave(rule, id),
            Place::Given { .. } | Place::Over => {}
        }
        self.exchanges.remove_if_over(id);
        if let Some(rule) = permit {
            self.free_permit(rule, now);
        }
    }

    /// The client has been told of a fault: nothing of the body leaves any more, and the worker need not wait for it.
    fn release(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if let Place::Given { worker, .. } = exchange.place
            && let Some(worker) = self.workers.get_mut(worker).and_then(Option::as_mut)
        {
            exchange.release_parts(worker);
        }
    }

    /// The client is gone, or has everything. What has not started never will. The worker that has room again.
    fn abandon(&mut self, id: ExchangeId, now: Instant) -> Option<usize> {
        let exchange = self.exchanges.get_mut(id)?;
        exchange.client_is_gone();
        let mut freed = None;
        match exchange.place {
            Place::Queued | Place::Waiting(_) => self.end(id, now),
            Place::Given { worker, position } => {
                if let Some(worker_state) = self.workers.get_mut(worker).and_then(Option::as_mut) {
                    if worker_state.revoke(id, position) {
                        self.end(id, now);
                        freed = Some(worker);
                    } else {
                        exchange.release_parts(worker_state);
                        if worker_state.is_asgi() {
                            worker_state.tell_gone(exchange);
                        } else if exchange.can_be_cut_short() {
                            worker_state.forget(id);
                        }
                    }
                }
            }
            Place::Over => self.exchanges.remove_if_over(id),
        }
        freed
    }
}
