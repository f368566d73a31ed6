//! The interval at which the dispatcher's timers run. Files that add something to watch raise the rate; `timers` sleeps by it.

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
