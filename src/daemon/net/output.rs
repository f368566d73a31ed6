//! Progress of a connection's output: bytes written, bytes queued, and whether the client reads
//! fast enough.
//!
//! The connection's task counts without a lock; the tracker's sweep samples the rate.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::file_output::FileOutput;
use super::limits::ConnectionLimits;

/// Bytes written to a connection, and bytes queued for it.
#[derive(Debug)]
pub struct OutputProgress {
    /// Bytes that the socket accepted since the connection began. The connection's task adds to it.
    written: AtomicU64,
    /// `written` at the start of the current body, plus that body's bytes queued for writing since.
    queued: AtomicU64,
    /// The next write wakes the connection's task.
    wake_on_write: AtomicBool,
    /// Coarse time at which the current rate window began.
    window_start: AtomicU32,
    /// `written` when the rate window began.
    window_start_written: AtomicU64,
    /// Parts of files that the kernel sends.
    pub files: FileOutput,
}

impl OutputProgress {
    pub(super) fn new(now: u32) -> Self {
        Self {
            written: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            wake_on_write: AtomicBool::new(false),
            window_start: AtomicU32::new(now),
            window_start_written: AtomicU64::new(0),
            files: FileOutput::default(),
        }
    }

    /// Counts bytes that the socket accepted. Returns true if the task asked to be woken at this
    /// write.
    pub(super) fn count_written(&self, bytes: usize) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        self.written.store(written.wrapping_add(bytes as u64), Ordering::Relaxed);
        let wake = self.wake_on_write.load(Ordering::Relaxed);
        if wake {
            self.wake_on_write.store(false, Ordering::Relaxed);
        }
        wake
    }

    /// Returns the bytes that the socket accepted since the connection began.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Begins a response's body: [`OutputProgress::unsent`] counts from here.
    pub fn begin_body(&self) {
        self.queued.store(self.written.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Counts bytes of the body that were queued for writing.
    pub fn add_queued(&self, bytes: usize) {
        let queued = self.queued.load(Ordering::Relaxed);
        self.queued.store(queued.wrapping_add(bytes as u64), Ordering::Relaxed);
    }

    /// Returns how many bytes of the body are queued and not written. May be too low, never too
    /// high: the head and the framing are counted when written, not when queued.
    pub fn unsent(&self) -> u64 {
        self.queued.load(Ordering::Relaxed).saturating_sub(self.written.load(Ordering::Relaxed))
    }

    /// Makes the next write wake the connection's task.
    pub fn request_wake(&self) {
        self.wake_on_write.store(true, Ordering::Relaxed);
    }

    /// Returns true if the client read more slowly than `limits.response_rate` over a window of
    /// `timeouts.body`. A window lasts only while writes block (`is_blocked`). `now` is the coarse
    /// time. The caller samples at intervals much shorter than the window.
    pub(super) fn sample_rate(&self, is_blocked: bool, limits: &ConnectionLimits, now: u32) -> bool {
        let elapsed = now.wrapping_sub(self.window_start.load(Ordering::Relaxed));
        let is_window_full = u128::from(elapsed) >= limits.write.as_millis();
        if is_blocked && !is_window_full {
            return false;
        }
        self.window_start.store(now, Ordering::Relaxed);
        let written = self.written.load(Ordering::Relaxed);
        let read = written.wrapping_sub(self.window_start_written.swap(written, Ordering::Relaxed));
        let minimum = |rate: u64| u128::from(rate) * u128::from(elapsed) / 1000;
        is_blocked && limits.response_rate.is_some_and(|rate| u128::from(read) < minimum(rate))
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

    /// Samples twice a second for two minutes, with `bytes` written before each sample. Returns the
    /// milliseconds until the client was too slow.
    fn time_until_too_slow(
        begun: u32,
        bytes: usize,
        is_blocked: bool,
        limits: &ConnectionLimits,
    ) -> Option<u32> {
        let output = OutputProgress::new(begun);
        (1..240).map(|sample| sample * 500).find(|since| {
            output.count_written(bytes);
            output.sample_rate(is_blocked, limits, begun.wrapping_add(*since))
        })
    }

    #[test]
    fn a_client_is_too_slow_only_below_the_rate() {
        // The second start lets the clock wrap.
        for begun in [0, u32::MAX - 1000] {
            assert_eq!(time_until_too_slow(begun, 127, true, &LIMITS), Some(60_000));
            assert_eq!(time_until_too_slow(begun, 128, true, &LIMITS), None);
        }
    }

    #[test]
    fn a_client_with_no_blocked_write_is_never_too_slow() {
        assert_eq!(time_until_too_slow(0, 0, false, &LIMITS), None);
        assert_eq!(
            time_until_too_slow(0, 0, true, &ConnectionLimits { response_rate: None, ..LIMITS }),
            None
        );
    }

    #[test]
    fn bytes_read_before_a_blocked_write_do_not_count() {
        let output = OutputProgress::new(0);
        output.count_written(1 << 20);
        assert!(!output.sample_rate(false, &LIMITS, 500));
        assert!(!output.sample_rate(true, &LIMITS, 60_000));
        assert!(output.sample_rate(true, &LIMITS, 60_500));
    }

    #[test]
    fn unsent_bytes_are_queued_and_not_written() {
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
