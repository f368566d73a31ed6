//! A futex that runs signal handlers while it waits, and the monotonic clock.
//!
//! The futex is generic over [`SignalHandlers`], so that this module does not depend on the worker.

use std::sync::atomic::AtomicU32;

use rgun_channel::wake::{Futex, SystemFutex};
use rustix::io::Errno;
use rustix::thread::{Timespec, futex};

/// Maximum delay of a signal handler. A signal between the last check for signals and the system
/// call does not interrupt the call. Futexes have no call that closes this gap, as `ppoll(2)` does.
const MAX_SIGNAL_DELAY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A futex for waits on Python's main thread: signal handlers run while it waits.
#[derive(Debug)]
pub(crate) struct InterruptibleFutex<'a, S>(pub(crate) &'a S);

/// Runs the application's signal handlers when a wait is interrupted.
pub(crate) trait SignalHandlers: Sync {
    /// Runs the handlers of pending signals.
    fn run_signal_handlers(&self);
}

impl<S: SignalHandlers> Futex for InterruptibleFutex<'_, S> {
    fn wait(&self, word: &AtomicU32, expected: u32) -> bool {
        let ended = futex::wait(word, futex::Flags::empty(), expected, Some(&MAX_SIGNAL_DELAY));
        let check_signals = matches!(ended, Err(Errno::INTR | Errno::TIMEDOUT));
        if check_signals {
            self.0.run_signal_handlers();
        }
        check_signals
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        SystemFutex.wake(word, count);
    }
}

/// Returns `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
