//! Estimates how long a newly queued request would wait, from the rate at which requests have left
//! the queue.
//!
//! The rate is the number of requests assigned to a worker within the last `timeouts.queue`, while
//! the queue was not empty. The [service time] that a worker reports is not a substitute: it is
//! wrong for event loops, follows each slow request at once, and can be forged.
//!
//! Without an estimate no request is shed. There is no estimate until the queue has been in use for
//! a while, or while no worker is open. A slot that was busy for all of the observed time may
//! become free at any moment, so one request per slot is always expected to be served in time.
//!
//! [service time]: crate::dispatch::worker::service_time::ServiceTime

use std::time::{Duration, Instant};

/// There is no estimate until the queue has been in use for `timeouts.queue` divided by this. The
/// first requests to a worker are slow, because they import modules and fill caches.
const MIN_OBSERVED_DIVISOR: u32 = 4;

/// Counts the requests that have left the queue since it was last empty.
#[derive(Debug)]
pub(crate) struct WaitEstimate {
    /// `timeouts.queue`; None: no request is shed.
    timeout: Option<Duration>,
    /// The current count, which becomes `previous` after half of the timeout. None while the queue
    /// is empty.
    current: Option<Departures>,
    /// Duration and count of the period before `current`.
    previous: (Duration, u32),
}

#[derive(Debug, Clone, Copy)]
struct Departures {
    since: Instant,
    count: u32,
}

impl WaitEstimate {
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, current: None, previous: (Duration::ZERO, 0) }
    }

    pub(crate) fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Starts counting, when the queue comes into use or is served again. Drops earlier counts.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.current = Some(Departures { since: now, count: 0 });
        self.previous = (Duration::ZERO, 0);
    }

    /// Stops counting, when the queue is empty.
    pub(crate) fn stop(&mut self) {
        self.current = None;
    }

    /// Counts a request that was assigned to a worker.
    pub(crate) fn record_departure(&mut self, now: Instant) {
        if let Some(current) = &mut self.current {
            current.count = current.count.saturating_add(1);
        }
        self.rotate(now);
    }

    /// Takes back the count of a request that was revoked before it started.
    pub(crate) fn undo_departure(&mut self) {
        match &mut self.current {
            Some(current) if current.count > 0 => current.count -= 1,
            _ => self.previous.1 = self.previous.1.saturating_sub(1),
        }
    }

    /// Returns how long one more request would wait, if that exceeds the timeout. `waiting` is the
    /// length of the queue, `slots` the number of slots of all open workers.
    pub(crate) fn wait_over_timeout(
        &mut self,
        waiting: usize,
        slots: impl FnOnce() -> usize,
        now: Instant,
    ) -> Option<Duration> {
        let timeout = self.timeout?;
        self.rotate(now);
        let Some(current) = self.current else {
            if waiting > 0 {
                self.restart(now);
            }
            return None;
        };
        let departed = current.count.saturating_add(self.previous.1);
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        // This decides most cases: at least as many requests left within the timeout as are
        // waiting.
        if waiting <= departed {
            return None;
        }
        let observed = (self.previous.0 + now.saturating_duration_since(current.since)).min(timeout);
        let slots = u32::try_from(slots()).unwrap_or(u32::MAX);
        if observed < timeout / MIN_OBSERVED_DIVISOR || slots == 0 {
            return None;
        }
        let expected = observed.saturating_mul(waiting) / departed.max(slots);
        (expected > timeout).then_some(expected)
    }

    /// Starts a new period after half of the timeout.
    fn rotate(&mut self, now: Instant) {
        let (Some(current), Some(timeout)) = (&mut self.current, self.timeout) else { return };
        let age = now.saturating_duration_since(current.since);
        if age >= timeout / 2 {
            self.previous = (age, current.count);
            *current = Departures { since: now, count: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns an estimate after `departures`, one every `interval`, and the time of the last.
    fn observed(timeout: Duration, departures: u32, interval: Duration) -> (WaitEstimate, Instant) {
        let mut estimate = WaitEstimate::new(Some(timeout));
        let mut now = Instant::now();
        estimate.restart(now);
        for _ in 0..departures {
            now += interval;
            estimate.record_departure(now);
        }
        (estimate, now)
    }

    #[test]
    fn nothing_is_shed_before_the_queue_was_observed() {
        let (begun, mut estimate) = (Instant::now(), WaitEstimate::new(Some(8 * SECOND)));
        assert_eq!(estimate.wait_over_timeout(0, || 1, begun), None);
        let start = begun + SECOND;
        assert_eq!(estimate.wait_over_timeout(100_000, || 1, start), None, "the count starts here");
        assert_eq!(estimate.wait_over_timeout(100_000, || 1, start + Duration::from_millis(1999)), None);
        assert!(estimate.wait_over_timeout(100_000, || 1, start + 2 * SECOND).is_some());
    }

    #[test]
    fn expected_wait_is_queue_length_times_interval() {
        let (mut estimate, now) = observed(8 * SECOND, 20, SECOND / 4);
        assert_eq!(estimate.wait_over_timeout(32, || 1, now), None, "8 s");
        assert_eq!(estimate.wait_over_timeout(40, || 1, now), Some(10 * SECOND));
    }

    #[test]
    fn long_queue_that_moves_fast_sheds_nothing() {
        let (mut estimate, now) = observed(30 * SECOND, 20_000, SECOND / 1000);
        assert_eq!(estimate.wait_over_timeout(29_000, || 1, now), None);
    }

    #[test]
    fn up_to_one_request_per_slot_is_never_shed() {
        let (mut estimate, now) = observed(30 * SECOND, 0, SECOND);
        for waited in [8, 20, 30, 300] {
            let now = now + waited * SECOND;
            assert_eq!(
                estimate.wait_over_timeout(16, || 16, now),
                None,
                "after {waited} s without a departure"
            );
            assert!(estimate.wait_over_timeout(70, || 16, now).is_some());
        }
    }

    #[test]
    fn slow_request_among_fast_ones_counts_by_its_share() {
        let mut estimate = WaitEstimate::new(Some(30 * SECOND));
        let mut now = Instant::now();
        estimate.restart(now);
        for round in 0..4000 {
            now += if round % 1000 == 999 { 5 * SECOND } else { SECOND / 1000 };
            estimate.record_departure(now);
            assert_eq!(estimate.wait_over_timeout(300, || 1, now), None, "round {round}");
        }
    }

    #[test]
    fn old_departures_are_forgotten() {
        let (mut estimate, mut now) = observed(8 * SECOND, 20, SECOND);
        assert!(estimate.wait_over_timeout(20, || 1, now).is_some());
        for _ in 0..8000 {
            now += SECOND / 1000;
            estimate.record_departure(now);
        }
        assert_eq!(estimate.wait_over_timeout(20, || 1, now), None);
        estimate.stop();
        assert_eq!(estimate.wait_over_timeout(100_000, || 1, now), None, "an emptied queue is observed anew");
    }

    #[test]
    fn returned_request_does_not_count_as_departed() {
        let (mut estimate, now) = observed(8 * SECOND, 16, SECOND / 4);
        for _ in 0..15 {
            estimate.undo_departure();
        }
        assert_eq!(estimate.wait_over_timeout(8, || 1, now), Some(32 * SECOND));
    }

    #[test]
    fn nothing_is_shed_without_workers_or_without_a_timeout() {
        let (mut estimate, now) = observed(8 * SECOND, 10, SECOND);
        assert_eq!(estimate.wait_over_timeout(1000, || 0, now), None);
        estimate.set_timeout(None);
        assert_eq!(estimate.wait_over_timeout(1000, || 1, now), None);
    }
}
