//! The minimum rate of a request's body: measures what arrived and limits how long its receiver
//! waits for more.

use std::time::{Duration, Instant};

/// The minimum rate that a client must keep.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct MinDataRate {
    /// `timeouts.body`: the longest wait for one piece, and the total waiting time that a client
    /// has without earning more.
    pub(in crate::http) timeout: Duration,
    /// `limits.body_rate`: each time this many bytes arrive, the client earns one second of waiting
    /// beyond `timeout`; `None`: the client has `timeout` for every piece.
    pub(in crate::http) bytes_per_second: Option<u64>,
}

/// The progress of one body.
#[derive(Debug, Default)]
pub(in crate::http) struct DataRate {
    bytes: u64,
    /// Total time spent waiting for the client.
    waited: Duration,
    /// Start of the current wait for the client; `None` while nothing waits.
    waiting_since: Option<Instant>,
}

impl DataRate {
    /// Counts received bytes.
    pub(in crate::http) fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Begins a wait for the client. Returns its longest duration, after which the client is too
    /// slow.
    pub(in crate::http) fn begin_wait(&mut self, min: MinDataRate, now: Instant) -> Duration {
        self.end_wait(now);
        self.waiting_since = Some(now);
        let Some(rate) = min.bytes_per_second else { return min.timeout };
        let nanoseconds = u128::from(self.bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let earned = u64::try_from(nanoseconds).map_or(Duration::MAX, Duration::from_nanos);
        earned.saturating_add(min.timeout).saturating_sub(self.waited).min(min.timeout)
    }

    /// Ends the wait, if one has begun.
    pub(in crate::http) fn end_wait(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_duration_since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MIN_RATE: MinDataRate =
        MinDataRate { timeout: Duration::from_mins(1), bytes_per_second: Some(256) };

    /// Receives `pieces` pieces of this size, one per interval. Returns the time until the client
    /// was too slow, if ever.
    fn time_until_too_slow(
        min: MinDataRate,
        piece: usize,
        interval: Duration,
        pieces: u32,
    ) -> Option<Duration> {
        let start = Instant::now();
        let (mut rate, mut now) = (DataRate::default(), start);
        for _ in 0..pieces {
            let wait = rate.begin_wait(min, now);
            if wait < interval {
                return Some(now + wait - start);
            }
            now += interval;
            rate.end_wait(now);
            rate.add(piece);
        }
        None
    }

    #[test]
    fn a_pause_over_the_timeout_is_too_slow_at_any_rate() {
        assert_eq!(time_until_too_slow(MIN_RATE, 1 << 20, 61 * SECOND, 2), Some(60 * SECOND));
        assert_eq!(time_until_too_slow(MIN_RATE, 1 << 20, 59 * SECOND, 100), None);
    }

    #[test]
    fn a_slow_body_is_too_slow_after_the_timeout() {
        let after = time_until_too_slow(MIN_RATE, 1, SECOND, 1000).unwrap();
        assert!((60 * SECOND..61 * SECOND).contains(&after), "{after:?}");
        let after = time_until_too_slow(MIN_RATE, 128, SECOND, 1000).unwrap();
        assert!((119 * SECOND..121 * SECOND).contains(&after), "{after:?}");
        assert!(time_until_too_slow(MIN_RATE, 255, SECOND, 100_000).is_some());
    }

    #[test]
    fn a_body_at_the_minimum_rate_is_never_too_slow() {
        assert_eq!(time_until_too_slow(MIN_RATE, 256, SECOND, 100_000), None);
        assert_eq!(
            time_until_too_slow(MinDataRate { bytes_per_second: None, ..MIN_RATE }, 1, 59 * SECOND, 1000),
            None
        );
    }

    #[test]
    fn a_fast_start_earns_waiting_time_for_the_rest() {
        let now = Instant::now();
        let mut rate = DataRate::default();
        rate.add(256 * 100);
        rate.begin_wait(MIN_RATE, now);
        rate.end_wait(now + 120 * SECOND);
        assert_eq!(rate.begin_wait(MIN_RATE, now + 120 * SECOND), 40 * SECOND);
        // Time outside of a wait does not count.
        rate.end_wait(now + 130 * SECOND);
        assert_eq!(rate.begin_wait(MIN_RATE, now + 1000 * SECOND), 30 * SECOND);
        rate.add(usize::MAX);
        assert_eq!(
            rate.begin_wait(MinDataRate { bytes_per_second: Some(1), ..MIN_RATE }, now + 1000 * SECOND),
            60 * SECOND
        );
    }
}
