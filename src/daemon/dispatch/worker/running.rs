//! The exchanges that one worker has been given and is not done with, and their clocks.
//!
//! [`Worker`](crate::dispatch::worker::Worker) has one and alone calls it. How many may run at a time, it decides; what follows
//! from a deadline, `housekeeping` does. WebSockets that have a place of their own are not here: they have no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;
use rgun_channel::ring::{Position, SubmissionSender};

/// How often one is looked at again that is over its time.
const RECHECK_INTERVAL: Duration = Duration::from_millis(50);

/// In the order given, which is that of their positions: an event loop may have thousands, so that what happens often
/// looks for one by its position.
#[derive(Debug)]
pub(crate) struct Running {
    entries: VecDeque<RunningEntry>,
    /// Before this none of them is over its deadline; and before that none is slow. It may be said too early.
    next_overdue: Option<Instant>,
    next_slow: Option<Instant>,
    /// How long is slow.
    slow: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct RunningEntry {
    id: ExchangeId,
    position: Position,
    /// When a slot became free for it. `None`: it is prefetched.
    started: Option<Instant>,
    /// How long it may run.
    timeout: Option<Duration>,
    /// [`Running::slower_than`] has told it.
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

    /// The oldest first.
    pub(crate) fn ids(&self) -> impl DoubleEndedIterator<Item = ExchangeId> {
        self.entries.iter().map(|entry| entry.id)
    }

    pub(crate) fn contains(&self, id: ExchangeId) -> bool {
        self.ids().any(|other| other == id)
    }

    /// One more, whose record is at this position, after that of every other. Without a `started` it is prefetched.
    pub(crate) fn push(
        &mut self,
        id: ExchangeId,
        limit: Option<Duration>,
        position: Position,
        started: Option<Instant>,
    ) {
        self.entries.push_back(RunningEntry { id, position, started, timeout: limit, slow_reported: false });
        if let Some(started) = started {
            self.note_deadlines(started, limit);
        }
    }

    pub(crate) fn remove(&mut self, position: Option<Position>) {
        if let Some(at) = self.find(position) {
            self.entries.remove(at);
        }
    }

    /// All of them; none is left.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = ExchangeId> + use<> {
        std::mem::take(&mut self.entries).into_iter().map(|entry| entry.id)
    }

    /// The oldest ones have these slots: the time of those begins that were prefetched.
    pub(crate) fn start(&mut self, slots: usize, now: Instant) {
        for at in 0..slots.min(self.entries.len()) {
            let entry = &mut self.entries[at];
            if entry.started.is_none() {
                entry.started = Some(now);
                let limit = entry.timeout;
                self.note_deadlines(now, limit);
            }
        }
    }

    /// It may run for ever.
    pub(crate) fn lift_limit(&mut self, position: Option<Position>) {
        if let Some(at) = self.find(position) {
            self.entries[at].timeout = None;
        }
    }

    /// It gets its whole time again.
    pub(crate) fn restart_clock(&mut self, position: Option<Position>, now: Instant) {
        if let Some(at) = self.find(position) {
            self.entries[at].started = Some(now);
            let limit = self.entries[at].timeout;
            // Mostly it is later than what is known.
            self.note_deadlines(now, limit);
        }
    }

    /// It gets so much more time.
    pub(crate) fn extend_clock(&mut self, position: Option<Position>, by: Duration) {
        if let Some(at) = self.find(position)
            && let Some(started) = &mut self.entries[at].started
        {
            *started += by;
            let (started, limit) = (*started, self.entries[at].timeout);
            self.note_deadlines(started, limit);
        }
    }

    /// Those that have had a slot for longer than they may. They are looked through only when there may be one, and
    /// at each [`RECHECK`] as long as there is.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<ExchangeId> {
        if self.next_overdue.is_none_or(|next| now <= next) {
            return Vec::new();
        }
        let (mut next, mut found) = (None, Vec::new());
        for entry in &self.entries {
            let (Some(started), Some(limit)) = (entry.started, entry.timeout) else { continue };
            let is_over = now > started + limit;
            if is_over {
                found.push(entry.id);
            }
            next = earlier(next, Some(if is_over { now + RECHECK_INTERVAL } else { started + limit }));
        }
        self.next_overdue = next;
        found
    }

    /// Those that have had a slot for longer than `slow`, and really run. Each is told once.
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

    /// The next to start.
    pub(crate) fn first_unclaimed(&self, submissions: &SubmissionSender) -> Option<ExchangeId> {
        let unclaimed = |entry: &&RunningEntry| !submissions.is_claimed(entry.position);
        // The worker claims them in their order: who looks from the end sees no more than those that lie there.
        self.entries.iter().rev().take_while(unclaimed).last().map(|entry| entry.id)
    }

    /// Those that the worker has begun to answer.
    pub(crate) fn claimed(&self, submissions: &SubmissionSender) -> impl Iterator<Item = ExchangeId> {
        let claimed = self.entries.iter().filter(|entry| submissions.is_claimed(entry.position));
        claimed.map(|entry| entry.id)
    }

    fn find(&self, position: Option<Position>) -> Option<usize> {
        self.entries.binary_search_by_key(&position?, |entry| entry.position).ok()
    }

    /// The time of one that runs begins.
    fn note_deadlines(&mut self, now: Instant, limit: Option<Duration>) {
        self.next_overdue = earlier(self.next_overdue, limit.map(|limit| now + limit));
        self.next_slow = earlier(self.next_slow, self.slow.map(|slow| now + slow));
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
