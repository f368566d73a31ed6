//! The alarm of a connection.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A point of coarse time at which the connection's task is woken.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    time: AtomicU32,
    is_set: AtomicBool,
}

impl Alarm {
    /// Replaces the point of time; `None` cancels the alarm.
    pub(super) fn set(&self, time: Option<u32>) {
        self.time.store(time.unwrap_or_default(), Ordering::Relaxed);
        self.is_set.store(time.is_some(), Ordering::Relaxed);
    }

    /// Returns true once when the alarm is due.
    pub(super) fn take_due(&self, now: u32) -> bool {
        let is_due = || now.wrapping_sub(self.time.load(Ordering::Relaxed)).cast_signed() >= 0;
        if !self.is_set.load(Ordering::Relaxed) || !is_due() {
            return false;
        }
        self.is_set.store(false, Ordering::Relaxed);
        true
    }
}
