//! How far a client has taken what is sent to it: what waits to be written, and whether it reads fast enough.
//!
//! The connection's task counts, without a lock; `Connections::sweep` looks at the rate.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::limits::ConnectionLimits;

/// What was written to a connection, and what waits to be.
#[derive(Debug)]
pub struct OutputProgress {
    /// Bytes that the client's socket has taken. The connection's task alone counts.
    written: AtomicU64,
    /// The same plus the bytes of a body that wait to be written.
    queued: AtomicU64,
    /// The task is to be woken when bytes have been written.
    wake_on_write: AtomicBool,
    /// Coarse milliseconds since when, and bytes from which on, the rate is measured.
    window_start: AtomicU32,
    window_start_written: AtomicU64,
}

impl OutputProgress {
    pub(super) fn new(now: u32) -> Self {
        Self {
            written: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            wake_on_write: AtomicBool::new(false),
            window_start: AtomicU32::new(now),
            window_start_written: AtomicU64::new(0),
        }
    }

    /// The client has taken so many bytes. Returns whether the task waits for that.
    pub(super) fn count_written(&self, bytes: usize) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        self.written.store(written.wrapping_add(bytes as u64), Ordering::Relaxed);
        let awaits = self.wake_on_write.load(Ordering::Relaxed);
        if awaits {
            self.wake_on_write.store(false, Ordering::Relaxed);
        }
        awaits
    }

    /// The body of an answer begins, of which [`OutputProgress::unsent`] says how much waits to be written.
    pub fn begin_body(&self) {
        self.queued.store(self.written.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// So many bytes of it wait to be written from now on.
    pub fn add_queued(&self, bytes: usize) {
        let handed = self.queued.load(Ordering::Relaxed);
        self.queued.store(handed.wrapping_add(bytes as u64), Ordering::Relaxed);
    }

    /// Bytes of the body that wait to be written. The head and what frames the body count as the body's, so that it may
    /// be less, never more.
    pub fn unsent(&self) -> u64 {
        self.queued.load(Ordering::Relaxed).saturating_sub(self.written.load(Ordering::Relaxed))
    }

    /// Has the connection's task woken when bytes have been written.
    pub fn request_wake(&self) {
        self.wake_on_write.store(true, Ordering::Relaxed);
    }

    /// Returns whether the client takes what is sent to it slower than allowed. Measured over `limits.write` as long as
    /// something waits for it (`is_blocked`); to be asked at short intervals. `now`: coarse milliseconds.
    pub(super) fn sample_rate(&self, is_blocked: bool, limits: &ConnectionLimits, now: u32) -> bool {
        let elapsed = now.wrapping_sub(self.window_start.load(Ordering::Relaxed));
        let is_full = u128::from(elapsed) >= limits.write.as_millis();
        if is_blocked && !is_full {
            return false;
        }
        self.window_start.store(now, Ordering::Relaxed);
        let written = self.written.load(Ordering::Relaxed);
        let taken = written.wrapping_sub(self.window_start_written.swap(written, Ordering::Relaxed));
        let least = |rate: u64| u128::from(rate) * u128::from(elapsed) / 1000;
        is_blocked && limits.response_rate.is_some_and(|rate| u128::from(taken) < least(rate))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        per_client: None,
        header: Duration::ZERO,
        keepalive: Duration::ZERO,
        write: Duration::from_mins(1),
        response_rate: Some(256),
        connections: 1,
    };

    /// Looked at twice a second, for two minutes; so many bytes are written each time. When it was too slow.
    fn too_slow(begun: u32, bytes: usize, is_blocked: bool, limits: &ConnectionLimits) -> Option<u32> {
        let output = OutputProgress::new(begun);
        (1..240).map(|look| look * 500).find(|since| {
            output.count_written(bytes);
            output.sample_rate(is_blocked, limits, begun.wrapping_add(*since))
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
        assert_eq!(too_slow(0, 0, true, &ConnectionLimits { response_rate: None, ..LIMITS }), None);
    }

    #[test]
    fn what_was_read_before_it_was_blocked_does_not_count() {
        let output = OutputProgress::new(0);
        output.count_written(1 << 20);
        assert!(!output.sample_rate(false, &LIMITS, 500));
        assert!(!output.sample_rate(true, &LIMITS, 60_000));
        assert!(output.sample_rate(true, &LIMITS, 60_500));
    }

    #[test]
    fn what_waits_is_what_was_handed_over_and_not_written() {
        let output = OutputProgress::new(0);
        output.count_written(500);
        output.begin_body();
        output.add_queued(100);
        assert_eq!(output.unsent(), 100);
        assert!(!output.count_written(30));
        output.request_wake();
        assert!(output.count_written(50) && !output.count_written(40));
        assert_eq!(output.unsent(), 0);
    }
}
