//! Whether daemon and worker spin before they sleep ([`rgun_channel::spin`]).
//!
//! Both spin while requests come one at a time: each of the last [`SERIAL_TURNS`] turns that ended with
//! assigned requests had a single one, which a thread was expected to finish within
//! [`MAX_SERVICE_TIME`]. More requests leave neither side idle for long, and a wake-up then serves
//! several of them. With one core, neither spins.

use std::time::Duration;

use rgun_channel::spin::Spin;

/// Number of turns with a single quick request before the first spin.
const SERIAL_TURNS: u32 = 64;

/// Maximum service time of a quick request, so that its completion comes while the daemon spins.
pub(super) const MAX_SERVICE_TIME: Duration = Duration::from_micros(20);

/// The daemon's spins, and the number of serial turns.
#[derive(Debug)]
pub(super) struct Spinner {
    /// Whether the process may use two cores or more.
    has_cores: bool,
    /// Number of consecutive turns with a single quick request. Turns without requests do not count.
    n_serial: u32,
    spin: Spin,
}

impl Spinner {
    /// Creates a spinner for a process that may use `cores` cores.
    pub(super) fn new(cores: usize) -> Self {
        Self { has_cores: cores > 1, n_serial: 0, spin: Spin::default() }
    }

    /// Notes a turn that ends with `n_assigned` requests. `is_quick`: a worker is expected to finish one
    /// of them within [`MAX_SERVICE_TIME`].
    pub(super) fn note_turn(&mut self, n_assigned: u32, is_quick: bool) {
        match n_assigned {
            0 => {}
            1 if is_quick => self.n_serial = self.n_serial.saturating_add(1),
            _ => self.n_serial = 0,
        }
    }

    /// Returns whether daemon and workers may spin.
    pub(super) fn is_active(&self) -> bool {
        self.has_cores && self.n_serial >= SERIAL_TURNS
    }

    /// Spins until `is_ready` returns true, or not at all ([`Spin::run`]). Returns whether `is_ready` has
    /// returned true.
    pub(super) fn run(&mut self, is_ready: impl FnMut() -> bool) -> bool {
        self.spin.run(is_ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_active_after(cores: usize, turns: &[(u32, bool)]) -> bool {
        let mut spinner = Spinner::new(cores);
        for (n_assigned, is_quick) in turns {
            spinner.note_turn(*n_assigned, *is_quick);
        }
        spinner.is_active()
    }

    #[test]
    fn quick_requests_one_at_a_time_are_spun_for() {
        let serial = [(1, true); SERIAL_TURNS as usize];
        assert!(is_active_after(2, &serial));
        assert!(is_active_after(2, &[&serial[..], &[(0, false); 9]].concat()), "idle turns do not count");
        assert!(!is_active_after(2, &serial[1..]));
    }

    #[test]
    fn concurrent_and_slow_requests_are_not_spun_for() {
        let serial = [(1, true); 2 * SERIAL_TURNS as usize];
        for other in [(2, true), (1, false)] {
            assert!(!is_active_after(2, &[&serial[..], &[other]].concat()));
        }
    }

    #[test]
    fn one_core_is_not_enough() {
        assert!(!is_active_after(1, &[(1, true); 1000]));
    }
}
