//! Spinning for some microseconds before a sleep.
//!
//! A wake-up on an idle core takes 5 to 50 µs, more in a virtual machine. While a single client sends
//! its next request after each response, daemon and worker would sleep and wake each other for every
//! request. A thread that expects work within that time looks for it until [`MAX_SPIN`] has passed,
//! before it announces its sleep, so that spinning does not change the protocols of [`crate::wake`].
//!
//! Between its checks a spinning thread yields its core to any other thread that waits for it: the
//! kernel often places the client on the core of the spinning worker, where it would wait for the end
//! of the spin, which would then fail. On two cores, one connection gets 2.0 times bjoern's requests/s
//! with this yield and 0.8 times without.
//!
//! A spin succeeds only if the other side runs meanwhile. So the success of earlier spins tells whether
//! a core is idle and whether work follows soon: after each of several failed spins in a row, a [`Spin`]
//! skips more chances: 1, 3, 7 and finally 1023. A successful spin skips none, and lowers the number
//! that the next failure continues from by a sixteenth.
//! - A spin that takes longer than [`USEFUL_SPIN`] costs more than the sleep that it replaces, but
//!   threads that begin to spin speed each other up: only one after 64 such spins in a row has failed.
//! - A thread that yields to a busy one gets its core back after milliseconds, although its work may
//!   have come meanwhile. So such a spin skips far more chances: 255, 1275 and finally 16384.
//!
//! An idle process has no chances, so it does not spin.
//!
//! The daemon decides whether there are chances at all (its module `dispatch::spin`), and announces
//! that to its workers in the reactor's page ([`crate::layout::REACTOR_SPIN`]).

use std::time::{Duration, Instant};

/// Maximum time of one spin: longer than a request takes for which three threads must be woken, because
/// otherwise the first spin would not succeed.
pub const MAX_SPIN: Duration = Duration::from_micros(100);

/// Maximum time of a spin that is worth its CPU time.
const USEFUL_SPIN: Duration = Duration::from_micros(50);

/// Maximum number of consecutive spins longer than [`USEFUL_SPIN`] that count as successful.
const MAX_SLOW: u32 = 64;

/// Maximum number of chances that are skipped after a failed spin that kept its core.
const MAX_SKIPPED: u32 = 1023;

/// Time after which a spin has lost its core to a busy thread, which uses it for milliseconds.
const LOST_CORE: Duration = Duration::from_micros(500);

/// Maximum number of chances that are skipped after a spin that has lost its core.
const MAX_SKIPPED_AFTER_LOSS: u32 = 16 * 1024;

/// Number of checks between two yields of the core, after each of which the clock is read.
const CHECKS_PER_YIELD: u32 = 16;

/// The end of a spin, with the time that it has taken.
#[derive(Debug, Clone, Copy)]
enum SpinOutcome {
    /// There is work.
    Found(Duration),
    /// There was none until [`MAX_SPIN`] had passed, or until another thread returned the core.
    Failed(Duration),
}

/// One thread's spins.
#[derive(Debug, Default)]
pub struct Spin {
    /// Number of chances to skip.
    to_skip: u32,
    /// Number of chances skipped after the last failed spin, less a sixteenth for each successful spin
    /// since. The next failure raises it.
    penalty: u32,
    /// Number of consecutive spins that found work after [`USEFUL_SPIN`].
    n_slow: u32,
}

impl Spin {
    /// Uses a chance: spins until `is_ready` returns true, [`MAX_SPIN`] at most if no other thread needs
    /// the core meanwhile. Returns whether `is_ready` has returned true; false at once if the chance is
    /// skipped.
    pub fn run(&mut self, mut is_ready: impl FnMut() -> bool) -> bool {
        if !self.take_chance() {
            return false;
        }
        let begun = Instant::now();
        let outcome = loop {
            if (0..CHECKS_PER_YIELD).any(|_| {
                std::hint::spin_loop();
                is_ready()
            }) {
                break SpinOutcome::Found(begun.elapsed());
            }
            rustix::thread::sched_yield();
            let elapsed = begun.elapsed();
            if elapsed >= MAX_SPIN {
                break SpinOutcome::Failed(elapsed);
            }
        };
        self.record(outcome);
        matches!(outcome, SpinOutcome::Found(_))
    }

    /// Returns whether to spin now.
    fn take_chance(&mut self) -> bool {
        if self.to_skip == 0 {
            return true;
        }
        self.to_skip -= 1;
        false
    }

    /// Notes the end of a spin: decides how many chances are skipped next.
    fn record(&mut self, outcome: SpinOutcome) {
        match outcome {
            SpinOutcome::Found(time) if time <= USEFUL_SPIN => {
                self.n_slow = 0;
                self.penalty -= self.penalty.div_ceil(16);
                return;
            }
            SpinOutcome::Found(_) if self.n_slow < MAX_SLOW => {
                self.n_slow += 1;
                return;
            }
            SpinOutcome::Failed(time) if time >= LOST_CORE => {
                self.penalty = (self.penalty * 4 + 255).min(MAX_SKIPPED_AFTER_LOSS);
            }
            SpinOutcome::Found(_) | SpinOutcome::Failed(_) => {
                // A lost core may have raised it further.
                let limit = MAX_SKIPPED.max(self.penalty);
                self.penalty = (self.penalty * 2 + 1).min(limit);
            }
        }
        self.n_slow = 0;
        self.to_skip = self.penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: SpinOutcome = SpinOutcome::Found(USEFUL_SPIN);
    const SLOW: SpinOutcome = SpinOutcome::Found(MAX_SPIN);
    const FAILED: SpinOutcome = SpinOutcome::Failed(MAX_SPIN);
    const LOST: SpinOutcome = SpinOutcome::Failed(LOST_CORE);

    /// Returns how many of `chances` chances are used if each spin ends like this.
    fn count_spins(spin: &mut Spin, chances: u32, outcome: SpinOutcome) -> u32 {
        let mut count = 0;
        for _ in 0..chances {
            if spin.take_chance() {
                count += 1;
                spin.record(outcome);
            }
        }
        count
    }

    #[test]
    fn spins_that_fail_become_rare() {
        let mut spin = Spin::default();
        assert_eq!(count_spins(&mut spin, 1024, FAILED), 10);
        assert_eq!(count_spins(&mut spin, 100 * 1024, FAILED), 100);
    }

    #[test]
    fn spins_that_succeed_use_every_chance() {
        let mut spin = Spin::default();
        assert_eq!(count_spins(&mut spin, 1000, QUICK), 1000);
        count_spins(&mut spin, 5000, FAILED);
        count_spins(&mut spin, 1024, QUICK);
        assert_eq!(count_spins(&mut spin, 1000, QUICK), 1000, "after the last failure was skipped");
        assert_eq!((spin.to_skip, spin.penalty), (0, 0));
    }

    #[test]
    fn slow_spins_fail_unless_they_become_quick() {
        let mut spin = Spin::default();
        for _ in 0..100 {
            assert_eq!(count_spins(&mut spin, MAX_SLOW, SLOW), MAX_SLOW);
            assert_eq!(count_spins(&mut spin, 1, QUICK), 1);
        }
        assert_eq!(count_spins(&mut spin, MAX_SLOW + 1, SLOW), MAX_SLOW + 1);
        assert_eq!((spin.to_skip, spin.n_slow), (1, 0), "the last one has failed");
        let used = count_spins(&mut spin, 100 * 1024, SLOW);
        assert!(used < 110 * (MAX_SLOW + 1), "{used} of 102,400");
    }

    #[test]
    fn spins_that_lose_their_core_become_rarest() {
        let mut spin = Spin::default();
        assert_eq!(count_spins(&mut spin, 1, LOST), 1);
        assert_eq!(count_spins(&mut spin, 255, QUICK), 0, "these are skipped");
        count_spins(&mut spin, 64 * 1024, LOST);
        assert_eq!(count_spins(&mut spin, 160 * (MAX_SKIPPED_AFTER_LOSS + 1), LOST), 160);
        spin.to_skip = 0;
        assert_eq!(count_spins(&mut spin, 1, FAILED), 1);
        assert_eq!(spin.to_skip, MAX_SKIPPED_AFTER_LOSS, "one failure does not make spins more frequent");
    }

    #[test]
    fn spin_ends_without_work_and_with_it() {
        let mut spin = Spin::default();
        assert!(!spin.run(|| false));
        spin.to_skip = 1;
        assert!(!spin.run(|| true), "this chance is skipped");
        let mut checks = 0;
        assert!(spin.run(|| {
            checks += 1;
            checks == 3
        }));
        assert_eq!(checks, 3);
    }
}
