//! The queue: requests that lack nothing but a worker.
//!
//! It is in order of age, whatever happened to them meanwhile: what is taken back from a worker, or waited for
//! others of its path first, finds the place that it would have had. The oldest has its turn; once the queue has
//! been standing for long (has not been empty: more comes than goes), the newest. Then those that are answered are
//! answered in time, and the others' clients, most of whom have given up, time out; served in order of age everybody
//! would be late, for as long as the overload lasts ("Controlled Delay", ACM Queue 10/5; Facebook's "Fail at Scale",
//! ACM Queue 13/8).
//!
//! Who is in it, and why, is the dispatcher's business.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

/// A queue that has stood for this long is standing, whatever `timeouts.queue` is.
const LONG: Duration = Duration::from_secs(5);

/// Ids of queued exchanges. Abandoned ones are removed at once.
#[derive(Debug)]
pub(super) struct Queue {
    /// Ids count up, so that their order is that of age.
    ids: VecDeque<ExchangeId>,
    /// Since when it has not been empty.
    since: Option<Instant>,
    /// For how long it may stand before the newest have their turn.
    standing: Duration,
}

impl Queue {
    /// An empty one. `timeout` is `timeouts.queue`.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        let mut queue = Self { ids: VecDeque::new(), since: None, standing: LONG };
        queue.set_timeout(timeout);
        queue
    }

    pub(super) fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.standing = timeout.map_or(LONG, |timeout| (timeout / 4).min(LONG));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// From the oldest to the newest.
    pub(super) fn iter(&self) -> impl Iterator<Item = ExchangeId> {
        self.ids.iter().copied()
    }

    pub(super) fn insert(&mut self, id: ExchangeId, now: Instant) {
        if self.ids.is_empty() {
            self.since = Some(now);
        }
        if self.ids.back().is_none_or(|newest| *newest < id) {
            self.ids.push_back(id);
        } else {
            let at = self.ids.partition_point(|other| *other < id);
            self.ids.insert(at, id);
        }
    }

    /// Whose turn it is. It stays until it is removed.
    pub(super) fn next(&self, now: Instant) -> Option<ExchangeId> {
        let is_standing =
            self.since.is_some_and(|since| now.saturating_duration_since(since) >= self.standing);
        if is_standing { self.ids.back().copied() } else { self.ids.front().copied() }
    }

    pub(super) fn remove(&mut self, id: ExchangeId) {
        if self.ids.front() == Some(&id) {
            self.ids.pop_front();
        } else if self.ids.back() == Some(&id) {
            self.ids.pop_back();
        } else if let Ok(at) = self.ids.binary_search(&id) {
            self.ids.remove(at);
        }
        if self.ids.is_empty() {
            self.since = None;
        }
    }

    /// Up to now nobody could serve at all: that it has stood says nothing about an overload.
    pub(super) fn restart(&mut self, now: Instant) {
        if self.since.is_some() {
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(ids: &[u64], now: Instant) -> Queue {
        let mut queue = Queue::new(Some(Duration::from_secs(8)));
        for id in ids {
            queue.insert(ExchangeId(*id), now);
        }
        queue
    }

    #[test]
    fn it_is_in_order_of_age_however_they_come() {
        let queue = queue(&[5, 9, 7, 1, 8], Instant::now());
        assert!(queue.iter().map(|id| id.0).eq([1, 5, 7, 8, 9]));
    }

    #[test]
    fn the_newest_has_its_turn_once_it_has_stood_for_a_quarter_of_its_patience() {
        let start = Instant::now();
        let queue = queue(&[1, 2, 3], start);
        assert_eq!(queue.next(start + Duration::from_millis(1999)), Some(ExchangeId(1)));
        assert_eq!(queue.next(start + Duration::from_secs(2)), Some(ExchangeId(3)));
    }

    #[test]
    fn a_queue_that_was_empty_in_between_does_not_stand() {
        let start = Instant::now();
        let mut queue = queue(&[1], start);
        queue.remove(ExchangeId(1));
        let later = start + Duration::from_secs(1);
        queue.insert(ExchangeId(2), later);
        queue.insert(ExchangeId(3), later);
        assert_eq!(queue.next(start + Duration::from_secs(2)), Some(ExchangeId(2)));
    }

    #[test]
    fn without_a_timeout_it_may_stand_for_five_seconds() {
        let start = Instant::now();
        let mut queue = queue(&[1, 2], start);
        queue.set_timeout(None);
        assert_eq!(queue.next(start + Duration::from_millis(4999)), Some(ExchangeId(1)));
        assert_eq!(queue.next(start + Duration::from_secs(5)), Some(ExchangeId(2)));
    }

    #[test]
    fn any_of_them_can_be_removed() {
        let mut queue = queue(&[1, 2, 3, 4], Instant::now());
        for id in [3, 1, 4, 4, 2] {
            queue.remove(ExchangeId(id));
        }
        assert!(queue.is_empty());
        assert_eq!(queue.next(Instant::now() + LONG), None);
    }
}
