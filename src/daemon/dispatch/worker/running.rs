//! The exchanges that are assigned to one worker and not done, and their clocks. Parked WebSockets
//! are not among them: they have no clock.
//!
//! [`WorkerLoad`](crate::dispatch::worker::load::WorkerLoad) decides how many may run; `timers`
//! acts on deadlines.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;
use rgun_channel::ring::{Position, SubmissionSender};

/// Interval at which exchanges past their deadline are returned again.
const RECHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Exchanges in the order of assignment, which is also the order of their positions. An event loop
/// may have thousands, so frequent operations search by position.
#[derive(Debug)]
pub(crate) struct Running {
    entries: VecDeque<RunningEntry>,
    /// Earliest possible deadline; may be too early. `None` if no exchange has one.
    next_overdue: Option<Instant>,
    /// Earliest time at which an exchange may become slow; may be too early.
    next_slow: Option<Instant>,
    /// The last `slow` passed to [`Running::slower_than`].
    slow: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct RunningEntry {
    id: ExchangeId,
    position: Position,
    /// When the exchange got its slot; `None` if it is prefetched.
    started: Option<Instant>,
    /// Time that the exchange may run; `None` is no limit.
    timeout: Option<Duration>,
    /// [`Running::slower_than`] has returned it.
    slow_reported: bool,
}

impl Running {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { entries: VecDeque::with_capacity(capacity), next_overdue: None, next_slow: None, slow: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the ids, oldest first.
    pub(crate) fn ids(&self) -> impl DoubleEndedIterator<Item = ExchangeId> {
        self.entries.iter().map(|entry| entry.id)
    }

    pub(crate) fn contains(&self, id: ExchangeId) -> bool {
        self.ids().any(|other| other == id)
    }

    /// Adds an exchange. Its position comes after all others. `started` is `None` if it is
    /// prefetched.
    pub(crate) fn push(
        &mut self,
        id: ExchangeId,
        timeout: Option<Duration>,
        position: Position,
        started: Option<Instant>,
    ) {
        self.entries.push_back(RunningEntry { id, position, started, timeout, slow_reported: false });
        if let Some(started) = started {
            self.note_deadlines(started, timeout);
        }
    }

    pub(crate) fn remove(&mut self, position: Option<Position>) {
        if let Some(at) = self.find(position) {
            self.entries.remove(at);
        }
    }

    /// Removes and returns all exchanges.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = ExchangeId> + use<> {
        std::mem::take(&mut self.entries).into_iter().map(|entry| entry.id)
    }

    /// Starts the clocks of prefetched exchanges among the oldest `slots`.
    pub(crate) fn start(&mut self, slots: usize, now: Instant) {
        for at in 0..slots.min(self.entries.len()) {
            let entry = &mut self.entries[at];
            if entry.started.is_none() {
                entry.started = Some(now);
                let timeout = entry.timeout;
                self.note_deadlines(now, timeout);
            }
        }
    }

    /// Removes the exchange's deadline.
    pub(crate) fn remove_deadline(&mut self, position: Option<Position>) {
        if let Some(at) = self.find(position) {
            self.entries[at].timeout = None;
        }
    }

    /// Restarts the exchange's clock.
    pub(crate) fn restart_clock(&mut self, position: Option<Position>, now: Instant) {
        if let Some(at) = self.find(position) {
            self.entries[at].started = Some(now);
            let timeout = self.entries[at].timeout;
            // Usually another exchange's deadline is earlier, so `next_overdue` does not change.
            self.note_deadlines(now, timeout);
        }
    }

    /// Extends the exchange's deadline.
    pub(crate) fn extend_clock(&mut self, position: Option<Position>, by: Duration) {
        if let Some(at) = self.find(position)
            && let Some(started) = &mut self.entries[at].started
        {
            *started += by;
            let (started, timeout) = (*started, self.entries[at].timeout);
            self.note_deadlines(started, timeout);
        }
    }

    /// Returns the exchanges past their deadline. Searches only when there may be one; as long as
    /// there are some, at most every [`RECHECK_INTERVAL`].
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<ExchangeId> {
        if self.next_overdue.is_none_or(|next| now <= next) {
            return Vec::new();
        }
        let (mut next, mut found) = (None, Vec::new());
        for entry in &self.entries {
            let (Some(started), Some(timeout)) = (entry.started, entry.timeout) else { continue };
            let is_over = now > started + timeout;
            if is_over {
                found.push(entry.id);
            }
            next = earlier(next, Some(if is_over { now + RECHECK_INTERVAL } else { started + timeout }));
        }
        self.next_overdue = next;
        found
    }

    /// Returns the claimed exchanges that have had a slot for longer than `slow`, each once.
    pub(crate) fn slower_than(
        &mut self,
        slow: Duration,
        now: Instant,
        submissions: &SubmissionSender,
    ) -> Vec<ExchangeId> {
        let is_known = self.slow.replace(slow) == Some(slow);
        if is_known && self.next_slow.is_none_or(|next| now <= next) {
            return Vec::new();
        }
        let (mut next, mut found) = (None, Vec::new());
        for entry in self.entries.iter_mut().filter(|entry| !entry.slow_reported) {
            let Some(started) = entry.started else { continue };
            let is_over = now > started + slow;
            if is_over && submissions.is_claimed(entry.position) {
                entry.slow_reported = true;
                found.push(entry.id);
            } else {
                next = earlier(next, Some(if is_over { now + RECHECK_INTERVAL } else { started + slow }));
            }
        }
        self.next_slow = next;
        found
    }

    /// Returns the oldest exchange that the worker has not claimed.
    pub(crate) fn first_unclaimed(&self, submissions: &SubmissionSender) -> Option<ExchangeId> {
        let unclaimed = |entry: &&RunningEntry| !submissions.is_claimed(entry.position);
        // The worker claims records in order, so a search from the end visits only unclaimed ones.
        self.entries.iter().rev().take_while(unclaimed).last().map(|entry| entry.id)
    }

    /// Returns whether the worker has not claimed its newest `count` exchanges.
    pub(crate) fn has_unclaimed(&self, count: usize, submissions: &SubmissionSender) -> bool {
        // The worker claims records in order.
        let oldest = self.entries.len().checked_sub(count).and_then(|at| self.entries.get(at));
        oldest.is_some_and(|entry| !submissions.is_claimed(entry.position))
    }

    /// Returns the exchanges that the worker has claimed.
    pub(crate) fn claimed(&self, submissions: &SubmissionSender) -> impl Iterator<Item = ExchangeId> {
        let claimed = self.entries.iter().filter(|entry| submissions.is_claimed(entry.position));
        claimed.map(|entry| entry.id)
    }

    fn find(&self, position: Option<Position>) -> Option<usize> {
        self.entries.binary_search_by_key(&position?, |entry| entry.position).ok()
    }

    /// Notes when an exchange whose clock starts now may pass its deadline or become slow.
    fn note_deadlines(&mut self, now: Instant, timeout: Option<Duration>) {
        self.next_overdue = earlier(self.next_overdue, timeout.map(|timeout| now + timeout));
        self.next_slow = earlier(self.next_slow, self.slow.map(|slow| now + slow));
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
