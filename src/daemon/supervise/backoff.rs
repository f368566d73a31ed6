//! The backoff of a seat whose processes die early: doubling, bounded, without jitter.
//!
//! Jitter is not needed: while no worker is ready, the seats boot one at a time.

use std::time::Duration;

/// The bounds of the backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLimits {
    /// The wait after the first failure.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
}

/// The failures in a seat since its last stable process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    /// Failures in a row that caused a wait.
    streak: u32,
    /// Whether an early death was already replaced without a wait.
    used_free_retry: bool,
}

impl Backoff {
    /// Counts a failure and returns the wait before the next attempt.
    pub(super) fn record_failure(&mut self, limits: BackoffLimits) -> Duration {
        let doublings = self.streak.min(31);
        self.streak = self.streak.saturating_add(1);
        limits.initial.saturating_mul(1 << doublings).min(limits.max)
    }

    /// Counts the early death of a worker that served, and returns the wait before the next
    /// attempt. The first early death in a row costs no wait: an operator's kill or the OOM killer
    /// also hits young workers.
    pub(super) fn record_early_death(&mut self, limits: BackoffLimits) -> Duration {
        let had_free_retry = std::mem::replace(&mut self.used_free_retry, true);
        if had_free_retry { self.record_failure(limits) } else { Duration::ZERO }
    }

    /// Forgets all failures, after a stable process.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BackoffLimits =
        BackoffLimits { initial: Duration::from_millis(100), max: Duration::from_secs(30) };

    #[test]
    fn waits_double_up_to_the_maximum() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.record_failure(LIMITS).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff::default();
        for _ in 0..1000 {
            assert!(backoff.record_failure(LIMITS) <= LIMITS.max);
        }
        let huge = BackoffLimits { initial: Duration::MAX, max: Duration::MAX };
        assert_eq!(backoff.record_failure(huge), Duration::MAX);
    }

    #[test]
    fn only_the_first_early_death_costs_no_wait() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..4).map(|_| backoff.record_early_death(LIMITS).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400]);
        backoff.reset();
        assert_eq!(backoff.record_early_death(LIMITS), Duration::ZERO);
        assert_eq!(backoff.record_failure(LIMITS), LIMITS.initial, "a failed boot always costs a wait");
    }

    #[test]
    fn reset_restarts_with_the_initial_wait() {
        let mut backoff = Backoff::default();
        backoff.record_failure(LIMITS);
        backoff.record_failure(LIMITS);
        backoff.reset();
        assert_eq!(backoff.record_failure(LIMITS), LIMITS.initial);
    }
}
