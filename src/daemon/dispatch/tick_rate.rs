//! The interval at which the dispatcher's timers run. Code that starts something to watch raises
//! the rate, and `timers` sleeps accordingly.

/// The time that `timers` sleeps between two ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TickRate {
    /// Until it is woken.
    Idle,
    /// For a second, or until it is woken.
    Parked,
    /// For 50 milliseconds, or until it is woken.
    Slow,
    /// For a millisecond.
    Fast,
}
