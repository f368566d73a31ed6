//! How long a seat stays empty after lives that were too short: doubling, bounded, without jitter.
//!
//! No jitter, because the seats of one daemon do not compete with each other for a boot: while nobody serves, only
//! one of them tries at a time.

use std::time::Duration;

/// The first wait and the longest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLimits {
    /// After the first failure.
    pub initial: Duration,
    /// Never longer than this.
    pub max: Duration,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    streak: u32,
    /// An early death was overlooked.
    used_free_retry: bool,
}

impl Backoff {
    /// One more failure: exit long to wait now.
    pub(super) fn failure_wait(&mut self, limits: BackoffLimits) -> Duration {
        let doublings = self.streak.min(31);
        self.streak = self.streak.saturating_add(1);
        limits.initial.saturating_mul(1 << doublings).min(limits.max)
    }

    /// A life that served was short. The first one in a row may have had bad luck, and is replaced without a wait: who
    /// kills a worker by hand, or the kernel when memory is short, does not ask exit old it is.
    pub(super) fn early_death_wait(&mut self, limits: BackoffLimits) -> Duration {
        let had_free_retry = std::mem::replace(&mut self.used_free_retry, true);
        if had_free_retry { self.failure_wait(limits) } else { Duration::ZERO }
    }

    /// A life was long enough to forget the failures before it.
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
    fn waits_double_from_the_first_to_the_longest_and_stay_there() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.failure_wait(LIMITS).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::default();
        for _ in 0..1000 {
            assert!(backoff.failure_wait(LIMITS) <= LIMITS.max);
        }
        let huge = BackoffLimits { initial: Duration::MAX, max: Duration::MAX };
        assert_eq!(backoff.failure_wait(huge), Duration::MAX);
    }

    #[test]
    fn the_first_early_death_is_overlooked_and_only_that() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..4).map(|_| backoff.early_death_wait(LIMITS).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400]);
        backoff.reset();
        assert_eq!(backoff.early_death_wait(LIMITS), Duration::ZERO);
        assert_eq!(backoff.failure_wait(LIMITS), LIMITS.initial, "a failed boot is not a death");
    }

    #[test]
    fn a_reset_begins_again_with_the_first_wait() {
        let mut backoff = Backoff::default();
        backoff.failure_wait(LIMITS);
        backoff.failure_wait(LIMITS);
        backoff.reset();
        assert_eq!(backoff.failure_wait(LIMITS), LIMITS.initial);
    }
}
