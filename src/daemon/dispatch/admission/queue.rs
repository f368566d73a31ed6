//! The queue of requests that can start as soon as a worker has room. The dispatcher decides which
//! requests enter it.
//!
//! The queue is ordered by age: a request that is revoked from a worker, or was held by its path's
//! concurrency limit, gets the position that it would have if it had waited here all the time.
//!
//! The oldest request is served first. Once it has waited for half of `timeouts.queue`, the newest
//! is served first, until the oldest wait is below a quarter of the timeout. So during an overload
//! some requests are served in time; the others, whose clients have mostly given up, time out. With
//! the oldest always first, every request would be late for as long as the overload lasts
//! ("Controlled Delay", ACM Queue 10/5; Facebook's "Fail at Scale", ACM Queue 13/8). Without a
//! timeout the oldest is always first.
//!
//! A non-empty queue alone does not mean overload: behind a busy proxy each request waits a little,
//! and all are served in time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use crate::dispatch::admission::wait_estimate::WaitEstimate;

/// The queued exchanges.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Sorted by id, which is by age.
    entries: VecDeque<QueueEntry>,
    /// `timeouts.queue`.
    timeout: Option<Duration>,
    /// The newest request is served first.
    newest_first: bool,
    /// End of the last period in which no worker could serve the queue. `None` if there was no such
    /// period since the queue was last empty.
    served_since: Option<Instant>,
    estimate: WaitEstimate,
}

#[derive(Debug, Clone, Copy)]
struct QueueEntry {
    id: ExchangeId,
    /// When the request became able to start.
    ready_at: Instant,
}

impl Queue {
    /// Creates an empty queue. `timeout` is `timeouts.queue`.
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        Self {
            entries: VecDeque::new(),
            timeout,
            newest_first: false,
            served_since: None,
            estimate: WaitEstimate::new(timeout),
        }
    }

    pub(crate) fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
        self.estimate.set_timeout(timeout);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the queued exchanges from the oldest to the newest.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ExchangeId> {
        self.entries.iter().map(|entry| entry.id)
    }

    /// Inserts an exchange by its age. `ready_at` is the time at which it became able to start.
    pub(crate) fn insert(&mut self, id: ExchangeId, ready_at: Instant) {
        let entry = QueueEntry { id, ready_at };
        if self.entries.back().is_none_or(|newest| newest.id < id) {
            self.entries.push_back(entry);
        } else {
            let at = self.entries.partition_point(|other| other.id < id);
            self.entries.insert(at, entry);
        }
    }

    /// Inserts an exchange that was revoked from a worker before it started.
    pub(crate) fn reinsert(&mut self, id: ExchangeId, ready_at: Instant) {
        self.insert(id, ready_at);
        self.estimate.undo_departure();
    }

    /// Returns how long one more request would wait, if that exceeds the timeout; see
    /// [`WaitEstimate::wait_over_timeout`].
    pub(crate) fn wait_over_timeout(
        &mut self,
        slots: impl FnOnce() -> usize,
        now: Instant,
    ) -> Option<Duration> {
        self.estimate.wait_over_timeout(self.entries.len(), slots, now)
    }

    /// Returns the exchange to be served next, and leaves it in the queue.
    pub(crate) fn peek(&mut self, now: Instant) -> Option<ExchangeId> {
        // The wait of the oldest entry alone decides whether the newest is served first. If the
        // oldest was retried or held, those behind it may have waited longer: it is served first,
        // and the next call decides by the entry behind it.
        let oldest = self.entries.front()?;
        let Some(timeout) = self.timeout else { return Some(oldest.id) };
        let since = self.served_since.map_or(oldest.ready_at, |served| served.max(oldest.ready_at));
        let wait = now.saturating_duration_since(since);
        self.newest_first = wait >= if self.newest_first { timeout / 4 } else { timeout / 2 };
        let next = if self.newest_first { self.entries.back() } else { self.entries.front() };
        next.map(|entry| entry.id)
    }

    /// Removes an exchange that was assigned to a worker.
    pub(crate) fn remove_assigned(&mut self, id: ExchangeId, now: Instant) {
        self.estimate.record_departure(now);
        self.remove(id);
    }

    /// Removes an exchange that needs no worker any more.
    pub(crate) fn remove(&mut self, id: ExchangeId) {
        let is_match = |entry: Option<&QueueEntry>| entry.is_some_and(|entry| entry.id == id);
        if is_match(self.entries.front()) {
            self.entries.pop_front();
        } else if is_match(self.entries.back()) {
            self.entries.pop_back();
        } else if let Ok(at) = self.entries.binary_search_by_key(&id, |entry| entry.id) {
            self.entries.remove(at);
        }
        if self.entries.is_empty() {
            (self.newest_first, self.served_since) = (false, None);
            self.estimate.stop();
        }
    }

    /// Notes that a worker can serve again after a time without one. The waits in that time are no
    /// sign of an overload.
    pub(crate) fn mark_served_again(&mut self, now: Instant) {
        if !self.entries.is_empty() {
            (self.newest_first, self.served_since) = (false, Some(now));
            self.estimate.restart(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn queue(ids: &[u64], now: Instant) -> Queue {
        let mut queue = Queue::new(Some(8 * SECOND));
        for id in ids {
            queue.insert(ExchangeId(*id), now);
        }
        queue
    }

    fn next(queue: &mut Queue, now: Instant) -> Option<u64> {
        queue.peek(now).map(|id| id.0)
    }

    #[test]
    fn queue_is_ordered_by_age_for_any_insertion_order() {
        let queue = queue(&[5, 9, 7, 1, 8], Instant::now());
        assert!(queue.iter().map(|id| id.0).eq([1, 5, 7, 8, 9]));
    }

    #[test]
    fn newest_is_first_once_oldest_waited_half_the_timeout() {
        let start = Instant::now();
        let mut queue = queue(&[1, 2, 3], start);
        assert_eq!(next(&mut queue, start + Duration::from_millis(3999)), Some(1));
        assert_eq!(next(&mut queue, start + 4 * SECOND), Some(3));
    }

    #[test]
    fn oldest_is_first_again_below_a_quarter_of_the_timeout() {
        let start = Instant::now();
        let mut queue = queue(&[1], start);
        queue.insert(ExchangeId(2), start + 2 * SECOND);
        queue.insert(ExchangeId(3), start + 3 * SECOND);
        queue.insert(ExchangeId(4), start + 3 * SECOND);
        assert_eq!(next(&mut queue, start + 4 * SECOND), Some(4));
        queue.remove(ExchangeId(1));
        assert_eq!(next(&mut queue, start + 4 * SECOND), Some(4));
        queue.remove(ExchangeId(2));
        assert_eq!(next(&mut queue, start + 4 * SECOND), Some(3));
        // The newest is first again only once the oldest has waited for half of the timeout.
        assert_eq!(next(&mut queue, start + 6 * SECOND), Some(3));
        assert_eq!(next(&mut queue, start + 7 * SECOND), Some(4));
    }

    /// The load of a benchmark, or of a proxy's pool of connections: each response is followed by a
    /// new request.
    #[test]
    fn busy_queue_that_keeps_up_is_served_oldest_first() {
        let mut now = Instant::now();
        let mut queue = queue(&[1, 2, 3], now);
        for id in 4..100 {
            now += SECOND;
            let oldest = queue.peek(now).expect("the queue is never empty");
            assert_eq!(oldest, ExchangeId(id - 3));
            queue.remove(oldest);
            queue.insert(ExchangeId(id), now);
        }
    }

    #[test]
    fn newest_is_never_first_without_a_timeout() {
        let start = Instant::now();
        let mut queue = queue(&[1, 2], start);
        queue.set_timeout(None);
        assert_eq!(next(&mut queue, start + Duration::from_hours(1)), Some(1));
    }

    #[test]
    fn emptied_queue_starts_with_the_oldest() {
        let start = Instant::now();
        let mut queue = queue(&[1], start);
        assert_eq!(next(&mut queue, start + 5 * SECOND), Some(1));
        queue.remove(ExchangeId(1));
        queue.insert(ExchangeId(2), start + 3 * SECOND);
        queue.insert(ExchangeId(3), start + 3 * SECOND);
        assert_eq!(next(&mut queue, start + 6 * SECOND), Some(2));
    }

    #[test]
    fn time_without_a_worker_does_not_count() {
        let start = Instant::now();
        let mut queue = queue(&[1, 2], start);
        queue.mark_served_again(start + 7 * SECOND);
        assert_eq!(next(&mut queue, start + 7 * SECOND), Some(1));
        assert_eq!(next(&mut queue, start + 11 * SECOND), Some(2));
    }

    #[test]
    fn entry_inserted_at_the_front_goes_first() {
        let start = Instant::now();
        let mut queue = queue(&[2, 3], start);
        let now = start + 4 * SECOND;
        assert_eq!(next(&mut queue, now), Some(3));
        queue.insert(ExchangeId(1), now);
        assert_eq!(next(&mut queue, now), Some(1));
        queue.remove(ExchangeId(1));
        assert_eq!(next(&mut queue, now), Some(3));
    }

    #[test]
    fn any_entry_can_be_removed() {
        let mut queue = queue(&[1, 2, 3, 4], Instant::now());
        for id in [3, 1, 4, 4, 2] {
            queue.remove(ExchangeId(id));
        }
        assert!(queue.is_empty());
        assert_eq!(queue.peek(Instant::now()), None);
    }
}
