//! How long a seat stays empty after lives that were too short: doubling, bounded, without jitter.
//!
//! No jitter, because the seats of one daemon do not compete with each other for a boot: while nobody serves, only
//! one of them tries at a time.

use std::time::Duration;

/// The first wait and the longest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLimits {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub longest: Duration,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    streak: u32,
    /// An early death was overlooked.
    spared: bool,
}

impl Backoff {
    /// One more failure: how long to wait now.
    pub(super) fn fail(&mut self, limits: BackoffLimits) -> Duration {
        let doublings = self.streak.min(31);
        self.streak = self.streak.saturating_add(1);
        limits.first.saturating_mul(1 << doublings).min(limits.longest)
    }

    /// A life that served was short. The first one in a row may have had bad luck, and is replaced without a wait: who
    /// kills a worker by hand, or the kernel when memory is short, does not ask how old it is.
    pub(super) fn die_early(&mut self, limits: BackoffLimits) -> Duration {
        let was_spared = std::mem::replace(&mut self.spared, true);
        if was_spared { self.fail(limits) } else { Duration::ZERO }
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
        BackoffLimits { first: Duration::from_millis(100), longest: Duration::from_secs(30) };

    #[test]
    fn waits_double_from_the_first_to_the_longest_and_stay_there() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.fail(LIMITS).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::default();
        for _ in 0..1000 {
            assert!(backoff.fail(LIMITS) <= LIMITS.longest);
        }
        let huge = BackoffLimits { first: Duration::MAX, longest: Duration::MAX };
        assert_eq!(backoff.fail(huge), Duration::MAX);
    }

    #[test]
    fn the_first_early_death_is_overlooked_and_only_that() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..4).map(|_| backoff.die_early(LIMITS).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400]);
        backoff.reset();
        assert_eq!(backoff.die_early(LIMITS), Duration::ZERO);
        assert_eq!(backoff.fail(LIMITS), LIMITS.first, "a failed boot is not a death");
    }

    #[test]
    fn a_reset_begins_again_with_the_first_wait() {
        let mut backoff = Backoff::default();
        backoff.fail(LIMITS);
        backoff.fail(LIMITS);
        backoff.reset();
        assert_eq!(backoff.fail(LIMITS), LIMITS.first);
    }
}
