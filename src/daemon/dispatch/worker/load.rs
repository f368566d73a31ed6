//! The load of one worker: its slots, their exchanges, its service time.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;
use rgun_channel::ring::{Position, SubmissionSender};

use crate::dispatch::exchange::body::BodyTransport;
use crate::dispatch::worker::running::Running;
use crate::dispatch::worker::service_time::{MAX_PREFETCH_DEPTH, PREFETCH_TIME, ServiceTime};
use crate::link::Slots;

/// Time after a worker's last progress for which it may publish completions without a wake-up.
const ACTIVE_TIME: Duration = Duration::from_millis(50);

/// A record is stalled if a thread has not claimed it for this time, or for twice the service time
/// if that is longer. The time counts from when the record became the next to start.
const THREAD_STALL_TIMEOUT: Duration = Duration::from_millis(1);

/// The corresponding time for an event loop. One iteration of the loop takes long if there are many
/// tasks, and another busy loop would not be faster.
const LOOP_STALL_TIMEOUT: Duration = Duration::from_millis(10);

/// Minimum wait in a worker's ring that is worth the wake-up of another worker.
const MIN_STEAL_WAIT: Duration = Duration::from_micros(50);

/// The slots of a worker and their use.
#[derive(Debug)]
pub(crate) struct WorkerLoad {
    /// Number of slots for each interface; the worker's Ready reports the interface.
    offered: Slots,
    /// Slots for requests. Not zero.
    slots: u32,
    /// The application is ASGI. False until the worker's Ready; nothing is assigned before that.
    is_asgi: bool,
    /// Exchanges assigned and not done, without parked WebSockets.
    running: Running,
    /// Parked WebSockets: accepted, and without a slot.
    websockets: HashSet<ExchangeId>,
    service_time: ServiceTime,
    /// When the worker last finished something, or was given work while idle.
    last_progress: Instant,
    /// The next record to start, and when it was first found to be the next.
    next_unclaimed: Option<(ExchangeId, Instant)>,
    /// The worker left prefetched records unclaimed: nothing is prefetched until it finishes a
    /// request.
    pub(crate) is_stalled: bool,
    /// Whether requests are prefetched while the service time is short. If false, the service time
    /// is not recorded.
    prefetches: bool,
    /// Maximum sum of the service times of the requests prefetched for one slot.
    prefetch_time: Duration,
}

impl WorkerLoad {
    pub(super) fn new(offered: Slots, now: Instant) -> Self {
        Self {
            offered,
            slots: offered.threads,
            is_asgi: false,
            running: Running::with_capacity(
                (offered.threads.max(offered.concurrency) + MAX_PREFETCH_DEPTH) as usize,
            ),
            websockets: HashSet::new(),
            service_time: ServiceTime::new(),
            last_progress: now,
            next_unclaimed: None,
            is_stalled: false,
            prefetches: true,
            prefetch_time: PREFETCH_TIME,
        }
    }

    pub(super) fn set_interface(&mut self, is_asgi: bool) {
        self.is_asgi = is_asgi;
        // The time of an ASGI task does not predict when the next task can start.
        self.prefetches &= !is_asgi;
        self.slots = if is_asgi { self.offered.concurrency } else { self.offered.threads };
    }

    pub(super) fn is_asgi(&self) -> bool {
        self.is_asgi
    }

    /// Returns when the worker last finished something, or was given work while idle.
    pub(super) fn last_progress(&self) -> Instant {
        self.last_progress
    }

    /// Returns the number of assigned requests, prefetched ones included.
    pub(crate) fn n_assigned(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    /// Returns the number of requests per slot that may be assigned, the running one included.
    fn depth(&self) -> u32 {
        if self.is_stalled { 1 } else { self.service_time.depth(self.prefetch_time) }
    }

    /// Returns whether a request can be assigned now. A request whose body is a descriptor is never
    /// prefetched, because its descriptor would stay with the worker if the record were revoked.
    pub(super) fn has_room(&self, transport: BodyTransport) -> bool {
        let ahead = if transport == BodyTransport::Inline { self.depth() - 1 } else { 0 };
        self.accepts(transport) && self.n_assigned() < self.slots + ahead
    }

    /// Returns whether the worker's interface accepts requests whose body travels like this.
    pub(crate) fn accepts(&self, transport: BodyTransport) -> bool {
        match transport {
            BodyTransport::Inline => true,
            BodyTransport::Descriptor => !self.is_asgi,
            BodyTransport::Parts | BodyTransport::WebSocket => self.is_asgi,
        }
    }

    pub(super) fn idle_slots(&self) -> u32 {
        self.slots.saturating_sub(self.n_assigned())
    }

    /// Returns the rank by which to choose among workers that are otherwise equal; the lowest is
    /// best. The rank compares requests per slot (in 256ths), then WebSockets; for a handshake,
    /// WebSockets first.
    pub(crate) fn rank(&self, transport: BodyTransport) -> (u32, u32) {
        let per_slot = self.n_assigned().saturating_mul(256) / self.slots;
        let n_websockets = u32::try_from(self.websockets.len()).unwrap_or(u32::MAX);
        if transport == BodyTransport::WebSocket {
            (n_websockets + self.n_assigned(), per_slot)
        } else {
            (per_slot, n_websockets)
        }
    }

    pub(crate) fn n_slots(&self) -> usize {
        self.slots as usize
    }

    /// Returns the number of slots in use.
    pub(crate) fn n_busy(&self) -> usize {
        self.running.len().min(self.n_slots())
    }

    /// Returns the number of parked WebSockets.
    pub(crate) fn n_websockets(&self) -> usize {
        self.websockets.len()
    }

    /// Returns whether more requests are assigned than there are slots: a new one could not start.
    pub(super) fn is_saturated(&self) -> bool {
        self.n_assigned() > self.slots
    }

    /// Returns whether the worker has a request, and is expected to finish one within `time`. False
    /// for an event loop.
    pub(crate) fn is_quick(&self, time: Duration) -> bool {
        !self.running.is_empty() && self.service_time.total(1) < time
    }

    /// Returns whether the worker has not claimed its newest `count` requests.
    pub(super) fn has_unclaimed(&self, count: usize, submissions: &SubmissionSender) -> bool {
        self.running.has_unclaimed(count, submissions)
    }

    /// Returns whether this exchange is assigned to the worker and not parked.
    pub(super) fn is_running(&self, id: ExchangeId) -> bool {
        self.running.contains(id)
    }

    /// Parks an accepted WebSocket, which frees its slot, unless the maximum number is parked
    /// already. The WebSocket has no deadline from then on. Returns whether a slot was freed.
    pub(crate) fn park(&mut self, id: ExchangeId, position: Option<Position>, now: Instant) -> bool {
        let has_room = self.websockets.len() < self.offered.websockets as usize;
        if has_room {
            self.remove(position, now);
            self.websockets.insert(id);
        } else {
            self.running.remove_deadline(position);
        }
        has_room
    }

    /// Removes the deadline of an exchange: its application has taken over the connection.
    pub(crate) fn remove_deadline(&mut self, position: Option<Position>) {
        self.running.remove_deadline(position);
    }

    /// Returns the parked WebSockets.
    pub(crate) fn parked(&self) -> impl Iterator<Item = ExchangeId> {
        self.websockets.iter().copied()
    }

    /// Returns the exchanges that are assigned and not done, oldest first, without
    /// [`WorkerLoad::parked`].
    pub(crate) fn assigned_ids(&self) -> impl DoubleEndedIterator<Item = ExchangeId> {
        self.running.ids()
    }

    /// Returns the exchanges that the worker has claimed.
    pub(super) fn claimed(&self, submissions: &SubmissionSender) -> impl Iterator<Item = ExchangeId> {
        self.running.claimed(submissions)
    }

    /// Adds an exchange whose record was pushed. It starts if a slot is idle; else it is
    /// prefetched.
    pub(super) fn add(
        &mut self,
        id: ExchangeId,
        timeout: Option<Duration>,
        position: Position,
        now: Instant,
    ) {
        let started = (self.n_assigned() < self.slots).then_some(now);
        if self.running.is_empty() {
            self.last_progress = now;
        }
        self.running.push(id, timeout, position, started);
    }

    /// Removes an exchange that the worker is done with.
    pub(super) fn finish(&mut self, id: ExchangeId, position: Option<Position>, now: Instant) {
        // Usually no WebSocket is parked; the id need not be hashed to find out.
        if self.websockets.is_empty() || !self.websockets.remove(&id) {
            self.remove(position, now);
        }
        self.is_stalled = false;
        self.last_progress = now;
    }

    /// Removes an exchange. The oldest prefetched exchange gets the free slot, and its time starts
    /// to count.
    pub(super) fn remove(&mut self, position: Option<Position>, now: Instant) {
        self.running.remove(position);
        // Nothing is prefetched for an event loop.
        if !self.is_asgi {
            self.running.start(self.n_slots(), now);
        }
    }

    /// Removes and returns all exchanges, parked WebSockets last.
    pub(crate) fn drain(&mut self) -> Vec<ExchangeId> {
        self.running.drain().chain(self.websockets.drain()).collect()
    }

    /// Notes the service time that a completion reports, in nanoseconds as the worker measured it.
    pub(crate) fn record_service_time(&mut self, service: u64) {
        if self.prefetches {
            self.service_time.record(service);
        }
    }

    /// Turns prefetching on or off. While prefetching is off, the service time counts as too long.
    /// ASGI workers never prefetch.
    pub(crate) fn set_prefetching(&mut self, prefetches: bool) {
        self.prefetches = prefetches && !self.is_asgi;
        if !prefetches {
            self.service_time = ServiceTime::new();
        }
    }

    /// Replaces the maximum sum of the service times of the requests prefetched for one slot, which is
    /// [`PREFETCH_TIME`] at first.
    pub(crate) fn set_prefetch_time(&mut self, time: Duration) {
        self.prefetch_time = time;
    }

    /// Returns how many threads to wake for `n_published` new records.
    pub(super) fn threads_to_wake(&self, n_published: u32) -> u32 {
        // If one thread is not enough, `check_stall` notices it within a tick.
        if self.service_time.needs_one_thread() { 1 } else { n_published }
    }

    /// Returns whether the worker is busy and will start another request within
    /// [`MIN_STEAL_WAIT`]: waking another worker for it is not worth its cost.
    pub(crate) fn starts_next_soon(&self) -> bool {
        self.prefetches
            && !self.running.is_empty()
            && self.service_time.total(self.n_assigned()) <= MIN_STEAL_WAIT
    }

    /// Returns how long prefetched records would have to wait, if that is worth another worker's
    /// wake-up.
    pub(crate) fn prefetch_wait(&self, now: Instant) -> Option<Duration> {
        let ahead = self.n_assigned().checked_sub(self.slots).filter(|ahead| *ahead > 0)?;
        let expected = self.service_time.total(ahead);
        let wait = expected.max(now.saturating_duration_since(self.last_progress));
        (wait > MIN_STEAL_WAIT).then_some(wait)
    }

    /// Returns whether the ring may have unclaimed records, or completions that no wake-up
    /// announced. A worker that has claimed all records and made no progress lately runs a slow
    /// request, which needs no attention.
    pub(super) fn needs_fast_tick(&self, submissions: &SubmissionSender, now: Instant) -> bool {
        let is_quick = self.n_assigned() > self.slots || self.service_time.is_short(self.prefetch_time);
        let is_active = now.saturating_duration_since(self.last_progress) < ACTIVE_TIME;
        !self.running.is_empty()
            && (is_quick && is_active || self.running.first_unclaimed(submissions).is_some())
    }

    /// Returns whether the worker may delay the wake-up for a completion because it has another
    /// request. Only workers with short requests do.
    pub(crate) fn may_defer(&self) -> bool {
        self.running.len() > 1 && self.service_time.is_short(self.prefetch_time)
    }

    /// Returns whether the worker has left its next record unclaimed for too long. The caller
    /// repeats this at each tick.
    pub(super) fn check_stall(&mut self, submissions: &SubmissionSender, now: Instant) -> bool {
        let Some(next) = self.running.first_unclaimed(submissions) else {
            self.next_unclaimed = None;
            return false;
        };
        match self.next_unclaimed {
            Some((id, since)) if id == next => {
                let usual = self.service_time.total(2);
                let timeout = if self.is_asgi {
                    LOOP_STALL_TIMEOUT
                } else {
                    usual.clamp(THREAD_STALL_TIMEOUT, self.prefetch_time * 2)
                };
                now.saturating_duration_since(since) > timeout
            }
            _ => {
                self.next_unclaimed = Some((next, now));
                false
            }
        }
    }

    /// Returns how long the next record has waited for a busy event loop; `None` for threads.
    pub(crate) fn unclaimed_wait(&self, now: Instant) -> Option<Duration> {
        let (_, since) = self.next_unclaimed.filter(|_| self.is_asgi)?;
        Some(now.saturating_duration_since(since))
    }

    /// Restarts the clock of an exchange's deadline.
    pub(crate) fn restart_clock(&mut self, position: Option<Position>, now: Instant) {
        self.running.restart_clock(position, now);
    }

    /// Extends the deadline of an exchange by a time that the application did not cause.
    pub(crate) fn extend_clock(&mut self, position: Option<Position>, by: Duration) {
        self.running.extend_clock(position, by);
    }

    /// Returns the exchanges that are past their deadline.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<ExchangeId> {
        self.running.overdue(now)
    }

    /// Returns the claimed exchanges that have run for longer than `slow`, each once.
    pub(super) fn slower_than(
        &mut self,
        slow: Duration,
        now: Instant,
        submissions: &SubmissionSender,
    ) -> Vec<ExchangeId> {
        self.running.slower_than(slow, now, submissions)
    }
}
