//! How far a client has taken what is sent to it: what waits to be written, and whether it reads fast enough.
//!
//! The connection's task counts, without a lock; `Connections::sweep` looks at the rate.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::limits::Limits;

/// What was written to a connection, and what waits to be.
#[derive(Debug)]
pub struct OutputProgress {
    /// Bytes that the client's socket has taken. The connection's task alone counts.
    written: AtomicU64,
    /// The same plus the bytes of a body that wait to be written.
    handed: AtomicU64,
    /// The task is to be woken when bytes have been written.
    awaits_write: AtomicBool,
    /// Coarse milliseconds since when, and bytes from which on, the rate is measured.
    rate_since: AtomicU32,
    rate_from: AtomicU64,
}

impl OutputProgress {
    pub(super) fn new(now: u32) -> Self {
        Self {
            written: AtomicU64::new(0),
            handed: AtomicU64::new(0),
            awaits_write: AtomicBool::new(false),
            rate_since: AtomicU32::new(now),
            rate_from: AtomicU64::new(0),
        }
    }

    /// The client has taken so many bytes. Returns whether the task waits for that.
    pub(super) fn count_written(&self, bytes: usize) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        self.written.store(written.wrapping_add(bytes as u64), Ordering::Relaxed);
        let awaits = self.awaits_write.load(Ordering::Relaxed);
        if awaits {
            self.awaits_write.store(false, Ordering::Relaxed);
        }
        awaits
    }

    /// The body of an answer begins, of which [`OutputProgress::unsent`] says how much waits to be written.
    pub fn begin_body(&self) {
        self.handed.store(self.written.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// So many bytes of it wait to be written from now on.
    pub fn hand(&self, bytes: usize) {
        let handed = self.handed.load(Ordering::Relaxed);
        self.handed.store(handed.wrapping_add(bytes as u64), Ordering::Relaxed);
    }

    /// Bytes of the body that wait to be written. The head and what frames the body count as the body's, so that it may
    /// be less, never more.
    pub fn unsent(&self) -> u64 {
        self.handed.load(Ordering::Relaxed).saturating_sub(self.written.load(Ordering::Relaxed))
    }

    /// Has the connection's task woken when bytes have been written.
    pub fn await_write(&self) {
        self.awaits_write.store(true, Ordering::Relaxed);
    }

    /// Returns whether the client takes what is sent to it slower than allowed. Measured over `limits.write` as long as
    /// something waits for it (`is_blocked`); to be asked at short intervals. `now`: coarse milliseconds.
    pub(super) fn note_rate(&self, is_blocked: bool, limits: &Limits, now: u32) -> bool {
        let elapsed = now.wrapping_sub(self.rate_since.load(Ordering::Relaxed));
        let is_full = u128::from(elapsed) >= limits.write.as_millis();
        if is_blocked && !is_full {
            return false;
        }
        self.rate_since.store(now, Ordering::Relaxed);
        let written = self.written.load(Ordering::Relaxed);
        let taken = written.wrapping_sub(self.rate_from.swap(written, Ordering::Relaxed));
        let least = |rate: u64| u128::from(rate) * u128::from(elapsed) / 1000;
        is_blocked && limits.response_rate.is_some_and(|rate| u128::from(taken) < least(rate))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits = Limits {
        per_client: None,
        header: Duration::ZERO,
        keepalive: Duration::ZERO,
        write: Duration::from_mins(1),
        response_rate: Some(256),
        connections: 1,
    };

    /// Looked at twice a second, for two minutes; so many bytes are written each time. When it was too slow.
    fn too_slow(begun: u32, bytes: usize, is_blocked: bool, limits: &Limits) -> Option<u32> {
        let output = OutputProgress::new(begun);
        (1..240).map(|look| look * 500).find(|since| {
            output.count_written(bytes);
            output.note_rate(is_blocked, limits, begun.wrapping_add(*since))
        })
    }

    #[test]
    fn a_client_below_the_rate_is_too_slow_after_the_window_and_one_above_it_never() {
        // The clock may wrap meanwhile.
        for begun in [0, u32::MAX - 1000] {
            assert_eq!(too_slow(begun, 127, true, &LIMITS), Some(60_000));
            assert_eq!(too_slow(begun, 128, true, &LIMITS), None);
        }
    }

    #[test]
    fn a_client_for_which_nothing_waits_is_never_too_slow() {
        assert_eq!(too_slow(0, 0, false, &LIMITS), None);
        assert_eq!(too_slow(0, 0, true, &Limits { response_rate: None, ..LIMITS }), None);
    }

    #[test]
    fn what_was_read_before_it_was_blocked_does_not_count() {
        let output = OutputProgress::new(0);
        output.count_written(1 << 20);
        assert!(!output.note_rate(false, &LIMITS, 500));
        assert!(!output.note_rate(true, &LIMITS, 60_000));
        assert!(output.note_rate(true, &LIMITS, 60_500));
    }

    #[test]
    fn what_waits_is_what_was_handed_over_and_not_written() {
        let output = OutputProgress::new(0);
        output.count_written(500);
        output.begin_body();
        output.hand(100);
        assert_eq!(output.unsent(), 100);
        assert!(!output.count_written(30));
        output.await_write();
        assert!(output.count_written(50) && !output.count_written(40));
        assert_eq!(output.unsent(), 0);
    }
}
