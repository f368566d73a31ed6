//! Spinning for a few microseconds before a sleep.
//!
//! A wake-up on an idle core takes 5 to 50 µs, more in a virtual machine. While a single client sends
//! its next request after each response, daemon and worker would sleep and wake each other for every
//! request. A thread that expects work within that time looks for it until [`MAX_SPIN`] has passed,
//! before it announces its sleep, so that spinning does not change the protocols of [`crate::wake`].
//!
//! A spin succeeds only if the other side runs meanwhile, on another core. So the success of earlier
//! spins tells whether a core is idle and whether work follows soon: after each of several failed spins
//! in a row, a [`Spin`] skips more chances: 1, 3, 7 and finally 1023. A successful spin skips none, and
//! halves the number that the next failure continues from. An idle process has no chances, so it does not
//! spin.
//!
//! The daemon decides whether there are chances at all (its module `dispatch::spin`), and announces
//! that to its workers in the reactor's page ([`crate::layout::REACTOR_SPIN`]).

use std::time::{Duration, Instant};

/// Maximum time of one spin.
pub const MAX_SPIN: Duration = Duration::from_micros(25);

/// Maximum number of chances that are skipped after a failed spin.
const MAX_SKIPPED: u32 = 1023;

/// Number of checks between two readings of the clock.
const CHECKS_PER_READING: u32 = 16;

/// One thread's spins.
#[derive(Debug, Default)]
pub struct Spin {
    /// Number of chances to skip.
    to_skip: u32,
    /// Number of chances skipped after the last failed spin, halved by each successful spin since. The
    /// next failed spin doubles it and adds one.
    penalty: u32,
}

impl Spin {
    /// Uses a chance: spins until `is_ready` returns true, [`MAX_SPIN`] at most. Returns whether
    /// `is_ready` has returned true; false at once if the chance is skipped.
    pub fn run(&mut self, mut is_ready: impl FnMut() -> bool) -> bool {
        if !self.take_chance() {
            return false;
        }
        let begun = Instant::now();
        let found = loop {
            if (0..CHECKS_PER_READING).any(|_| {
                std::hint::spin_loop();
                is_ready()
            }) {
                break true;
            }
            if begun.elapsed() >= MAX_SPIN {
                break false;
            }
        };
        self.record(found);
        found
    }

    /// Returns whether to spin now.
    fn take_chance(&mut self) -> bool {
        if self.to_skip == 0 {
            return true;
        }
        self.to_skip -= 1;
        false
    }

    /// Notes whether a spin was successful.
    fn record(&mut self, found: bool) {
        if found {
            self.penalty /= 2;
        } else {
            self.penalty = (self.penalty * 2 + 1).min(MAX_SKIPPED);
            self.to_skip = self.penalty;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many of `chances` chances are used if `found` is the outcome of each spin.
    fn count_spins(spin: &mut Spin, chances: u32, found: bool) -> u32 {
        let mut count = 0;
        for _ in 0..chances {
            if spin.take_chance() {
                count += 1;
                spin.record(found);
            }
        }
        count
    }

    #[test]
    fn spins_that_fail_become_rare() {
        let mut spin = Spin::default();
        assert_eq!(count_spins(&mut spin, 1024, false), 10);
        assert_eq!(count_spins(&mut spin, 100 * 1024, false), 100);
    }

    #[test]
    fn spins_that_succeed_use_every_chance() {
        let mut spin = Spin::default();
        assert_eq!(count_spins(&mut spin, 1000, true), 1000);
        count_spins(&mut spin, 5000, false);
        count_spins(&mut spin, 1024, true);
        assert_eq!(count_spins(&mut spin, 1000, true), 1000, "after the last failure was skipped");
        assert_eq!((spin.to_skip, spin.penalty), (0, 0));
    }

    #[test]
    fn spin_ends_without_work_and_with_it() {
        let mut spin = Spin::default();
        assert!(!spin.run(|| false));
        assert!(!spin.run(|| true), "this chance is skipped");
        let mut checks = 0;
        assert!(spin.run(|| {
            checks += 1;
            checks == 3
        }));
        assert_eq!(checks, 3);
    }
}
