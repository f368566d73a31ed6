//! One queue for all workers, and the exchanges that are under way.
//!
//! `http` submits a request and awaits its [`Ticket`]; `edge` calls [`Dispatcher::before_park`] at the
//! end of every turn of the reactor; `pool` attaches and detaches workers; `run` is told by [`Notice`].
//!
//! # Invariants
//! - A request is bound to a worker only when it can start: it is pushed into a worker's ring when a slot
//!   is idle, or a little ahead of time (*prefetch*) when the application answers within a millisecond; a
//!   prefetched record is *revoked* when it would have to wait (`revoke_stalled`, `steal`).
//! - Every exchange is answered exactly once: by the application, or by a [`Fault`].
//! - An exchange stays in the table until both sides are through with it: the client has everything (or is
//!   gone) and the worker has said DONE (or is gone). An id that is not in the table is therefore a breach
//!   of contract, never a late answer.
//! - Doorbells ring at the end of the reactor's turn, never per push.
//!
//! The state is behind one mutex that only the reactor's thread takes in the ordinary course (an
//! uncontended lock is two atomic operations; a `RefCell` would tie every connection task to a `LocalSet`,
//! whose wake-ups do not keep the reactor from parking).

mod exchange;
mod reactor;
#[cfg(test)]
mod tests;
mod ticket;
mod worker;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use rgun_channel::control::{Command, Report};
use rgun_channel::frame::{CompletionKind, ExchangeId, Request, TooLong};
use rgun_channel::layout::Geometry;
use tokio::sync::Notify;

use crate::supervise::WorkerId;

use self::exchange::{Exchange, Exchanges, Place};
pub use self::exchange::{Fault, FilePart, Head, Payload};
pub use self::reactor::Reactor;
pub use self::ticket::{Answer, BodyStream, StreamPiece, Ticket};
pub use self::worker::Link;
use self::worker::Worker;

/// What the dispatcher must know of the configuration.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `limits.queue`: requests that may wait.
    pub queue: usize,
    /// `timeouts.queue`: how long one may wait; `None` is for ever.
    pub queue_timeout: Option<Duration>,
    /// `timeouts.request`: how long one may run; `None` is for ever.
    pub request_timeout: Option<Duration>,
}

/// What the dispatcher tells the supervisor, through `run`.
#[derive(Debug)]
pub enum Notice {
    /// The worker said something on its control socket.
    Report(WorkerId, Report),
    /// The worker broke the channel's contract.
    Misbehaved(WorkerId, String),
    /// The worker closed its control socket, which is how every exit begins. Nothing of it is used any more.
    HungUp(WorkerId),
    /// A request in this worker ran over `timeouts.request`; its client has been answered.
    DeadlineExceeded(WorkerId, ExchangeId),
    /// A retiring worker has no exchange left but those over their deadline.
    Drained(WorkerId),
    /// The application raised when its answer was complete already (in `close()`, for one).
    RaisedAfterEnd {
        /// In which worker.
        worker: WorkerId,
        /// Type and message.
        summary: String,
        /// The formatted traceback, perhaps empty.
        traceback: String,
    },
}

/// How the dispatcher reaches the supervisor.
pub type NoticeSink = Box<dyn Fn(Notice) + Send + Sync>;

/// The queue, the exchanges and the workers' channels.
pub struct Dispatcher {
    policy: Policy,
    reactor: Reactor,
    notice: NoticeSink,
    /// Wakes the housekeeper when there is something to watch again.
    work: Notify,
    state: Mutex<State>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("policy", &self.policy).finish_non_exhaustive()
    }
}

struct State {
    workers: Vec<Option<Worker>>,
    exchanges: Exchanges,
    /// Ids of queued exchanges, oldest first. Abandoned ones are removed at once.
    queue: VecDeque<ExchangeId>,
    /// Why nobody will serve soon; requests are then refused instead of queued.
    unavailable: Option<Arc<str>>,
    /// Frames popped from a completion ring land here.
    scratch: Vec<u8>,
    /// The longest frame that fits every worker's ring.
    max_frame: usize,
    /// Submissions since the last end of a turn, to bound how long a doorbell can be deferred.
    deferred: u32,
    keeper: Keeper,
}

/// What the housekeeper is doing between its looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// It sleeps until `work` is notified.
    Idle,
    /// It looks again after [`SLOW_TICK`], or when `work` is notified.
    Slow,
    /// It looks again after [`FAST_TICK`].
    Fast,
}

/// What is going on, for STATUS= and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests waiting for a worker.
    pub queued: usize,
    /// Requests given to a worker.
    pub running: usize,
    /// Workers that take requests.
    pub workers: usize,
}

/// Deferred doorbells are rung after this many submissions even if the reactor has not come to the end of
/// its turn: tokio polls up to `event_interval` tasks before it parks.
const MAX_DEFERRED: u32 = 64;

/// While every worker has more than it can start, the reactor waits this long for completions alone before it
/// looks at its sockets: what arrives could not start anyway, and each look interrupts a worker that shares
/// the core. (A network card moderates its interrupts for the same reason.)
const MODERATION: Duration = Duration::from_micros(500);

/// Frames that are taken from one worker at a time: more than its ring holds of the shortest, so that only one which
/// goes on while it is read is cut off. And looks at all rings before the sockets have their turn again.
const MOST_FRAMES: u32 = 16 * 1024;
const MOST_LOOKS: u32 = 16;

/// How often the housekeeper looks while records may be stalled, and while there is only something to time out.
const FAST_TICK: Duration = Duration::from_millis(1);
const SLOW_TICK: Duration = Duration::from_millis(50);

impl Dispatcher {
    /// A dispatcher without workers.
    pub fn new(policy: Policy, reactor: Reactor, notice: NoticeSink) -> Arc<Self> {
        Arc::new(Self {
            policy,
            reactor,
            notice,
            work: Notify::new(),
            state: Mutex::new(State {
                workers: Vec::new(),
                exchanges: Exchanges::default(),
                queue: VecDeque::new(),
                unavailable: None,
                scratch: Vec::with_capacity(64 * 1024),
                max_frame: Geometry::standard(1).max_submission_frame(),
                deferred: 0,
                keeper: Keeper::Idle,
            }),
        })
    }

    /// The reactor's page and doorbell, for a new worker.
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
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
    /// The queue is full, nobody will serve soon, or a part of the head is too long for a frame.
    pub fn submit<'f>(
        self: &Arc<Self>,
        request: &Request<'_>,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        body: Option<OwnedFd>,
        now: Instant,
    ) -> Result<Ticket, Fault> {
        let mut state = self.lock();
        let state = &mut *state;
        let mut frame = state.exchanges.spare_frame();
        let id = state.exchanges.next_id();
        let encoded = Request { exchange: id, ..*request }.encode(fields, &mut frame);
        if let Err(TooLong(what)) = encoded {
            state.exchanges.recycle(frame);
            return Err(Fault::TooLong(what));
        }
        if frame.len() > state.max_frame {
            state.exchanges.recycle(frame);
            return Err(Fault::TooLong("head, with its body,"));
        }
        // Who waits already goes first, even if what is at the front needs an idle slot and this one does not.
        let chosen = if state.queue.is_empty() { state.choose(body.is_some()) } else { None };
        if chosen.is_none() {
            if let Some(reason) = &state.unavailable {
                let reason = Arc::clone(reason);
                state.exchanges.recycle(frame);
                return Err(Fault::Unavailable(reason));
            }
            if state.queue.len() >= self.policy.queue {
                state.exchanges.recycle(frame);
                return Err(Fault::QueueFull);
            }
        }
        state.exchanges.insert(Exchange::new(id, frame, body, now));
        let given = chosen.is_some_and(|worker| self.give(state, worker, id, now));
        if !given {
            state.queue.push_back(id);
        }
        // A worker that is given a second request may keep back what it has to say of the first.
        let must_watch = match state.keeper {
            Keeper::Idle => true,
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
        Ok(Ticket::new(Arc::clone(self), id))
    }

    /// Pushes an exchange into a worker's ring. False when the ring has no room, or the worker is broken.
    fn give(&self, state: &mut State, worker: usize, id: ExchangeId, now: Instant) -> bool {
        let Some((exchange, worker_state)) = state.pair(id, worker) else { return false };
        let pushed = worker_state.push(exchange, now);
        match pushed {
            Ok(Some(position)) => {
                exchange.place = Place::Given { worker, position };
                state.deferred += 1;
                true
            }
            Ok(None) => false,
            Err(why) => {
                self.condemn(state, worker, why.as_str());
                false
            }
        }
    }

    /// The end of the reactor's turn: collects what the workers have completed, gives out what was queued,
    /// rings the doorbells, and announces sleep. Called by tokio's `on_thread_park`, so it must not block, but for
    /// [`MODERATION`]; a task it wakes keeps the reactor from sleeping.
    pub fn before_park(&self) {
        let mut state = self.lock();
        let mut moderated = false;
        for _ in 0..MOST_LOOKS {
            let woken = self.collect(&mut state, Instant::now());
            state.ring_doorbells();
            if woken {
                return;
            }
            self.reactor.epoch().doze();
            if state.workers.iter().flatten().all(Worker::is_quiet) {
                if moderated || !state.is_saturated() {
                    return;
                }
                moderated = true;
                // Other threads (a worker's death, a reload) must not wait for the lock meanwhile.
                drop(state);
                self.reactor.wait_for_doorbell(MODERATION);
                state = self.lock();
            }
            self.reactor.epoch().rise();
        }
        // A worker that talks without end must not keep the reactor from its sockets: the next turn goes on here.
        self.reactor.ring();
    }

    /// Collects, gives out and rings before the turn has ended: for whoever keeps it from ending.
    pub fn look(&self) {
        let mut state = self.lock();
        self.collect(&mut state, Instant::now());
        state.ring_doorbells();
    }

    /// The reactor is awake again.
    pub fn after_park(&self) {
        self.reactor.epoch().rise();
    }

    /// Pops everything the workers have completed. True if a task was woken.
    fn collect(&self, state: &mut State, now: Instant) -> bool {
        let mut woken = false;
        for index in 0..state.workers.len() {
            let (mut popped_any, mut freed) = (false, false);
            for _ in 0..MOST_FRAMES {
                let mut scratch = std::mem::take(&mut state.scratch);
                scratch.clear();
                let popped = match &mut state.workers[index] {
                    Some(worker) => worker.completions.pop(&mut scratch),
                    None => Ok(None),
                };
                let outcome = match popped {
                    Ok(None) => None,
                    Ok(Some(_)) => Some(self.complete(state, index, &scratch, now, &mut freed)),
                    Err(broken) => Some(Err(broken.to_string())),
                };
                state.scratch = scratch;
                match outcome {
                    None => break,
                    Some(Ok(waker)) => {
                        if let Some(waker) = waker {
                            waker.wake();
                            woken = true;
                        }
                    }
                    Some(Err(why)) => {
                        self.condemn(state, index, &why);
                        break;
                    }
                }
                popped_any = true;
            }
            if popped_any && let Some(worker) = &state.workers[index] {
                worker.made_room();
            }
            if freed {
                self.refill(state, index, now);
            }
        }
        woken
    }

    /// One completion frame. Returns the waker of the task that waits for it.
    fn complete(
        &self,
        state: &mut State,
        index: usize,
        frame: &[u8],
        now: Instant,
        freed: &mut bool,
    ) -> Result<Option<Waker>, String> {
        let Some(worker) = &mut state.workers[index] else { return Ok(None) };
        let completion = worker::decode(worker, frame, &self.notice)?;
        let id = completion.head.exchange;
        let exchange = match state.exchanges.get_mut(id) {
            Some(exchange) if exchange.is_given_to(index) => exchange,
            _ => return Err(format!("answered exchange {}, which is not its own", id.0)),
        };
        let (done, kind) = (completion.head.done, completion.head.kind);
        let mut waker = exchange.receive(completion, worker, &self.notice)?;
        if kind == CompletionKind::Respond && exchange.client_is_through() && exchange.can_be_cut_short() {
            worker.forget(id);
        }
        if done {
            worker.finished(id, now);
            *freed = true;
            exchange.worker_is_done();
            // The worker had its say; an answer that is still missing will not come any more.
            waker = exchange.take_waker_if_settled().or(waker);
        }
        let drained = done && worker.retiring && worker.is_drained(&state.exchanges);
        let worker_id = worker.id;
        state.exchanges.remove_if_over(id);
        if drained {
            self.tell_drained(state, index, worker_id);
        }
        Ok(waker)
    }

    fn tell_drained(&self, state: &mut State, index: usize, id: WorkerId) {
        if let Some(worker) = &mut state.workers[index]
            && !std::mem::replace(&mut worker.told_drained, true)
        {
            (self.notice)(Notice::Drained(id));
        }
    }

    /// Gives queued exchanges to a worker that has room, and to nobody else's disadvantage.
    fn refill(&self, state: &mut State, index: usize, now: Instant) {
        while let Some(&id) = state.queue.front() {
            let with_fd = state.exchanges.get(id).is_some_and(Exchange::has_body_fd);
            let has_room = state.workers[index].as_ref().is_some_and(|worker| worker.has_room(with_fd));
            if !has_room {
                return;
            }
            state.queue.pop_front();
            if !self.give(state, index, id, now) {
                state.queue.push_front(id);
                return;
            }
        }
        self.steal(state, index, now);
    }

    /// A worker has an idle slot and the queue is empty: takes over what another worker has prefetched but
    /// not started, if it would have to wait there for longer than a wake-up costs.
    fn steal(&self, state: &mut State, index: usize, now: Instant) {
        while state.workers[index].as_ref().is_some_and(|worker| worker.idle_slots() > 0) {
            let victim = state
                .workers
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .filter_map(|(other, worker)| Some((other, worker.as_ref()?.backlog(now)?)))
                .max_by_key(|(_, wait)| *wait);
            let Some((victim, _)) = victim else { return };
            let Some(id) = state.revoke_oldest(victim) else { return };
            if !self.give(state, index, id, now) {
                state.queue.push_front(id);
                return;
            }
        }
    }

    /// Gives what is queued to whoever has room.
    fn refill_all(&self, state: &mut State, now: Instant) {
        while let Some(&id) = state.queue.front() {
            let with_fd = state.exchanges.get(id).is_some_and(Exchange::has_body_fd);
            let Some(index) = state.choose(with_fd) else { return };
            state.queue.pop_front();
            if !self.give(state, index, id, now) {
                state.queue.push_front(id);
                return;
            }
        }
    }

    /// The worker broke the contract: nothing of it is used any more, and the supervisor is told.
    fn condemn(&self, state: &mut State, index: usize, why: &str) {
        if let Some(worker) = &state.workers[index] {
            (self.notice)(Notice::Misbehaved(worker.id, why.to_owned()));
        }
        self.lose(state, index);
    }

    /// The worker is gone: what it had started is answered with [`Fault::WorkerDied`], what it had not goes
    /// back to the front of the queue.
    fn lose(&self, state: &mut State, index: usize) {
        let Some(mut worker) = state.workers[index].take() else { return };
        let mut requeue = Vec::new();
        for id in worker.take_running() {
            let Some(exchange) = state.exchanges.get_mut(id) else { continue };
            let Place::Given { position, .. } = exchange.place else { continue };
            if worker.submissions.revoke(position) && !exchange.client_is_through() {
                exchange.place = Place::Queued;
                requeue.push(id);
                continue;
            }
            let waker = exchange.fail(Fault::WorkerDied(worker.id));
            exchange.worker_is_done();
            state.exchanges.remove_if_over(id);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        for id in requeue.into_iter().rev() {
            state.queue.push_front(id);
        }
        self.refill_all(state, Instant::now());
        state.ring_doorbells();
    }

    /// Adds a worker that is booting: its channel is served, it gets no exchange yet.
    pub fn attach(&self, link: Link) {
        let mut state = self.lock();
        let worker = Worker::new(link);
        match state.workers.iter().position(Option::is_none) {
            Some(free) => state.workers[free] = Some(worker),
            None => state.workers.push(Some(worker)),
        }
    }

    /// The worker may be given exchanges.
    pub fn admit(&self, id: WorkerId) {
        let mut state = self.lock();
        let Some(index) = state.find(id) else { return };
        if let Some(worker) = &mut state.workers[index] {
            worker.admitted = true;
        }
        self.refill(&mut state, index, Instant::now());
        state.ring_doorbells();
    }

    /// The worker gets nothing new; what it has not started goes to others.
    pub fn retire(&self, id: WorkerId) {
        let mut state = self.lock();
        let Some(index) = state.find(id) else { return };
        if let Some(worker) = &mut state.workers[index] {
            worker.retiring = true;
        }
        state.requeue(index, usize::MAX);
        self.refill_all(&mut state, Instant::now());
        state.ring_doorbells();
        let drained = state.workers[index].as_ref().is_some_and(|worker| worker.is_drained(&state.exchanges));
        if drained {
            self.tell_drained(&mut state, index, id);
        }
    }

    /// The worker's process is gone.
    pub fn detach(&self, id: WorkerId) {
        let mut state = self.lock();
        let Some(index) = state.find(id) else { return };
        // What it completed before it died counts.
        self.collect(&mut state, Instant::now());
        self.lose(&mut state, index);
    }

    /// Sends a command over a worker's control socket.
    ///
    /// # Errors
    /// What `sendmsg(2)` says; nothing happens when the worker is not attached any more.
    pub fn command(&self, id: WorkerId, command: &Command) -> io::Result<()> {
        let state = self.lock();
        match state.find(id).and_then(|index| state.workers[index].as_ref()) {
            Some(worker) => worker.send(command, &[]),
            None => Ok(()),
        }
    }

    /// Reads everything on a worker's control socket; what is said there goes to the supervisor. False
    /// when the worker has closed it (it is then lost).
    pub fn pump_control(&self, id: WorkerId) -> bool {
        let mut state = self.lock();
        let Some(index) = state.find(id) else { return false };
        let Some(worker) = &mut state.workers[index] else { return false };
        match worker.pump_control(&self.notice) {
            Ok(true) => true,
            Ok(false) => {
                // What it completed before it closed counts.
                self.collect(&mut state, Instant::now());
                // Unless that found a breach of contract.
                if state.find(id).is_some() {
                    (self.notice)(Notice::HungUp(id));
                    self.lose(&mut state, index);
                }
                false
            }
            Err(why) => {
                self.condemn(&mut state, index, &why);
                false
            }
        }
    }

    /// Requests are refused with this reason instead of queued while no worker takes them; `None` takes
    /// it back. What is queued already is refused too.
    pub fn set_unavailable(&self, reason: Option<&str>) {
        let mut state = self.lock();
        state.unavailable = reason.map(Arc::from);
        let Some(reason) = state.unavailable.clone() else { return };
        if state.workers.iter().flatten().any(Worker::is_open) {
            return;
        }
        while let Some(id) = state.queue.pop_front() {
            state.fail(id, Fault::Unavailable(Arc::clone(&reason)));
        }
    }

    /// What is going on.
    pub fn load(&self) -> Load {
        let state = self.lock();
        Load {
            queued: state.queue.len(),
            running: state.workers.iter().flatten().map(Worker::n_running).sum(),
            workers: state.workers.iter().flatten().filter(|worker| worker.is_open()).count(),
        }
    }

    /// Watches time: deadlines, the queue's patience, stalled records. Never returns. Sleeps while there is
    /// nothing to watch, so that an idle daemon costs nothing.
    pub async fn keep_house(self: Arc<Self>) {
        loop {
            match self.housekeeping(Instant::now()) {
                Keeper::Fast => tokio::time::sleep(FAST_TICK).await,
                // Earlier if it is notified.
                Keeper::Slow => drop(tokio::time::timeout(SLOW_TICK, self.work.notified()).await),
                Keeper::Idle => self.work.notified().await,
            }
        }
    }

    /// One look at the clock; returns when to look again.
    fn housekeeping(&self, now: Instant) -> Keeper {
        let mut state = self.lock();
        let state = &mut *state;
        if state.exchanges.is_empty() {
            state.keeper = Keeper::Idle;
            return Keeper::Idle;
        }
        self.collect(state, now);
        self.refuse_overdue_queue(state, now);
        self.revoke_stalled(state, now);
        self.enforce_deadlines(state, now);
        state.ring_doorbells();
        let fast = state.workers.iter().flatten().any(|worker| worker.may_stall(now));
        state.keeper = if fast { Keeper::Fast } else { Keeper::Slow };
        state.keeper
    }

    fn refuse_overdue_queue(&self, state: &mut State, now: Instant) {
        let Some(patience) = self.policy.queue_timeout else { return };
        while let Some(&id) = state.queue.front() {
            let overdue = state.exchanges.get(id).is_none_or(|exchange| now - exchange.received > patience);
            if !overdue {
                break;
            }
            state.queue.pop_front();
            state.fail(id, Fault::QueueTimeout);
        }
    }

    /// A worker that has not claimed what it was given ahead of time turned out to be slow: the records go
    /// back to the queue's front, where the next idle slot takes them.
    fn revoke_stalled(&self, state: &mut State, now: Instant) {
        for index in 0..state.workers.len() {
            let Some(worker) = &mut state.workers[index] else { continue };
            if !worker.is_stalled(now) {
                continue;
            }
            // Threads that sleep although there is work: wake them before taking anything away.
            if worker.wake_more() {
                continue;
            }
            worker.stalled = true;
            let ahead = worker.n_running().saturating_sub(worker.n_slots());
            state.requeue(index, ahead);
            // What has a slot there stays unless another worker can start it now, and is passed on a few times only:
            // its time begins anew each time, and a worker that never claims (stopped, or a lock held in C code)
            // would otherwise never be found out by the deadline.
            while let Some(other) = state.idle_beside(index)
                && let Some(id) = state.revoke_movable(index)
            {
                if !self.give(state, other, id, now) {
                    state.queue.push_front(id);
                    break;
                }
            }
        }
        self.refill_all(state, now);
    }

    fn enforce_deadlines(&self, state: &mut State, now: Instant) {
        let Some(timeout) = self.policy.request_timeout else { return };
        for index in 0..state.workers.len() {
            let Some(worker) = &state.workers[index] else { continue };
            let worker_id = worker.id;
            let overdue: Vec<ExchangeId> = worker.running_longer_than(timeout, now).collect();
            for id in overdue {
                let Some(exchange) = state.exchanges.get_mut(id) else { continue };
                if exchange.is_held_back() {
                    // A slow client's time is not the application's; one that takes nothing at all is cut off after
                    // timeouts.body.
                    if let Some(worker) = &mut state.workers[index] {
                        worker.restart_clock(id, now);
                    }
                    continue;
                }
                if std::mem::replace(&mut exchange.overdue, true) {
                    continue;
                }
                if let Some(waker) = exchange.fail(Fault::Deadline(worker_id)) {
                    waker.wake();
                }
                if exchange.can_be_cut_short()
                    && let Some(worker) = &state.workers[index]
                {
                    worker.forget(id);
                }
                (self.notice)(Notice::DeadlineExceeded(worker_id, id));
            }
            let drained = state.workers[index]
                .as_ref()
                .is_some_and(|worker| worker.retiring && worker.is_drained(&state.exchanges));
            if drained {
                self.tell_drained(state, index, worker_id);
            }
        }
    }
}

impl State {
    fn find(&self, id: WorkerId) -> Option<usize> {
        self.workers.iter().position(|worker| worker.as_ref().is_some_and(|worker| worker.id == id))
    }

    fn pair(&mut self, id: ExchangeId, worker: usize) -> Option<(&mut Exchange, &mut Worker)> {
        Some((self.exchanges.get_mut(id)?, self.workers.get_mut(worker)?.as_mut()?))
    }

    /// The worker that can start a request soonest, if one can take it now: one with an idle slot before
    /// one that is merely fast, the least busy first; at last one that has lately let lie what it was given.
    fn choose(&self, with_fd: bool) -> Option<usize> {
        let mut best: Option<(usize, (bool, bool, u32))> = None;
        for (index, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            if !worker.has_room(with_fd) {
                continue;
            }
            let rank = (worker.stalled, worker.idle_slots() == 0, worker.load());
            if best.is_none_or(|(_, other)| rank < other) {
                best = Some((index, rank));
            }
        }
        best.map(|(index, _)| index)
    }

    /// Another worker with an idle slot, if possible one that has not been found stalled itself.
    fn idle_beside(&self, index: usize) -> Option<usize> {
        let others = self.workers.iter().enumerate().filter(|(other, _)| *other != index);
        let idle = others.filter_map(|(other, worker)| Some((other, worker.as_ref()?)));
        let idle = idle.filter(|(_, worker)| worker.idle_slots() > 0);
        idle.min_by_key(|(_, worker)| (worker.stalled, worker.load())).map(|(other, _)| other)
    }

    fn revoke_movable(&mut self, index: usize) -> Option<ExchangeId> {
        let worker = self.workers[index].as_mut()?;
        let id = worker.revoke_movable(&self.exchanges)?;
        self.exchanges.get_mut(id)?.moves += 1;
        self.take_back(id)
    }

    /// Has every worker that takes requests more than it can start?
    fn is_saturated(&self) -> bool {
        let mut open = self.workers.iter().flatten().filter(|worker| worker.is_open()).peekable();
        open.peek().is_some() && open.all(Worker::is_saturated)
    }

    fn ring_doorbells(&mut self) {
        self.deferred = 0;
        for worker in self.workers.iter_mut().flatten() {
            worker.ring();
        }
    }

    fn revoke_oldest(&mut self, index: usize) -> Option<ExchangeId> {
        let worker = self.workers[index].as_mut()?;
        let id = worker.revoke_oldest(&self.exchanges)?;
        self.take_back(id)
    }

    /// Takes up to `most` unclaimed exchanges back from a worker, newest first, to the front of the queue, so that
    /// they stand there in their order.
    fn requeue(&mut self, index: usize, most: usize) {
        for _ in 0..most {
            let Some(worker) = self.workers[index].as_mut() else { return };
            let newest = worker.revoke_newest(&self.exchanges);
            let Some(id) = newest.and_then(|id| self.take_back(id)) else { return };
            self.queue.push_front(id);
        }
    }

    fn take_back(&mut self, id: ExchangeId) -> Option<ExchangeId> {
        let exchange = self.exchanges.get_mut(id)?;
        exchange.place = Place::Queued;
        Some(id)
    }

    /// Answers an exchange that no worker has.
    fn fail(&mut self, id: ExchangeId, fault: Fault) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let waker = exchange.fail(fault);
        exchange.worker_is_done();
        self.exchanges.remove_if_over(id);
        if let Some(waker) = waker {
            waker.wake();
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

    /// The client is gone, or has everything. What has not started never will.
    fn abandon(&mut self, id: ExchangeId) -> Option<usize> {
        let exchange = self.exchanges.get_mut(id)?;
        exchange.client_is_gone();
        let mut freed = None;
        match exchange.place {
            Place::Queued => {
                self.queue.retain(|queued| *queued != id);
                exchange.worker_is_done();
            }
            Place::Given { worker, position } => {
                if let Some(worker_state) = self.workers.get_mut(worker).and_then(Option::as_mut) {
                    if worker_state.revoke(id, position) {
                        exchange.worker_is_done();
                        freed = Some(worker);
                    } else {
                        exchange.release_parts(worker_state);
                        if exchange.can_be_cut_short() {
                            worker_state.forget(id);
                        }
                    }
                }
            }
            Place::Over => {}
        }
        self.exchanges.remove_if_over(id);
        freed
    }
}
