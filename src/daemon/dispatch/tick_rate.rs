//! How soon the housekeeper looks again. Files that give it something to watch set it; `housekeeping` sleeps by it.

/// What the housekeeper is doing between its looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TickRate {
    /// It sleeps until `work` is notified.
    Idle,
    /// It looks again after a second, or when `work` is notified.
    Parked,
    /// It looks again after 50 milliseconds, or when `work` is notified.
    Slow,
    /// It looks again after a millisecond.
    Fast,
}
