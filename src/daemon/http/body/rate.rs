//! How fast a request's body comes, and for how long more its receiver should wait.

use std::time::{Duration, Instant};

/// What is asked of a client that sends a body.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct MinDataRate {
    /// `timeouts.body`: the longest pause between two pieces; and the time that a body may take in any case.
    pub(in crate::http) timeout: Duration,
    /// `limits.body_rate`: bytes per second on average, of the time beyond that which was spent waiting for the client.
    pub(in crate::http) bytes_per_second: Option<u64>,
}

/// What has come of one body.
#[derive(Debug, Default)]
pub(in crate::http) struct DataRate {
    bytes: u64,
    waited: Duration,
    /// Since when somebody waits.
    waiting_since: Option<Instant>,
}

impl DataRate {
    /// So many bytes have come.
    pub(in crate::http) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Somebody waits for the client from now on. Returns for how long: after that it is too slow, if nothing comes.
    pub(in crate::http) fn begin_wait(&mut self, least: MinDataRate, now: Instant) -> Duration {
        self.end_wait(now);
        self.waiting_since = Some(now);
        let Some(rate) = least.bytes_per_second else { return least.timeout };
        let nanoseconds = u128::from(self.bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let earned = u64::try_from(nanoseconds).map_or(Duration::MAX, Duration::from_nanos);
        earned.saturating_add(least.timeout).saturating_sub(self.waited).min(least.timeout)
    }

    /// Nobody does any more.
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
    const LEAST: MinDataRate = MinDataRate { timeout: Duration::from_mins(1), bytes_per_second: Some(256) };

    /// Waits for pieces of this size, one each interval. When it was given up, if it was.
    fn given_up(least: MinDataRate, piece: usize, interval: Duration, pieces: u32) -> Option<Duration> {
        let begun = Instant::now();
        let (mut pace, mut now) = (DataRate::default(), begun);
        for _ in 0..pieces {
            let patience = pace.begin_wait(least, now);
            if patience < interval {
                return Some(now + patience - begun);
            }
            now += interval;
            pace.end_wait(now);
            pace.add(piece);
        }
        None
    }

    #[test]
    fn who_pauses_for_too_long_is_too_slow_at_any_rate() {
        assert_eq!(given_up(LEAST, 1 << 20, 61 * SECOND, 2), Some(60 * SECOND));
        assert_eq!(given_up(LEAST, 1 << 20, 59 * SECOND, 100), None);
    }

    #[test]
    fn who_dribbles_is_too_slow_when_the_grace_is_over() {
        let after = given_up(LEAST, 1, SECOND, 1000).unwrap();
        assert!((60 * SECOND..61 * SECOND).contains(&after), "{after:?}");
        let after = given_up(LEAST, 128, SECOND, 1000).unwrap();
        assert!((119 * SECOND..121 * SECOND).contains(&after), "{after:?}");
        assert!(given_up(LEAST, 255, SECOND, 100_000).is_some());
    }

    #[test]
    fn who_keeps_the_rate_is_never_too_slow() {
        assert_eq!(given_up(LEAST, 256, SECOND, 100_000), None);
        assert_eq!(given_up(MinDataRate { bytes_per_second: None, ..LEAST }, 1, 59 * SECOND, 1000), None);
    }

    #[test]
    fn what_came_quickly_may_be_followed_by_what_comes_slowly_for_as_long_as_it_earned() {
        let now = Instant::now();
        let mut pace = DataRate::default();
        pace.add(256 * 100);
        pace.begin_wait(LEAST, now);
        pace.end_wait(now + 120 * SECOND);
        assert_eq!(pace.begin_wait(LEAST, now + 120 * SECOND), 40 * SECOND);
        // What is done meanwhile is not the client's time.
        pace.end_wait(now + 130 * SECOND);
        assert_eq!(pace.begin_wait(LEAST, now + 1000 * SECOND), 30 * SECOND);
        pace.add(usize::MAX);
        assert_eq!(
            pace.begin_wait(MinDataRate { bytes_per_second: Some(1), ..LEAST }, now + 1000 * SECOND),
            60 * SECOND
        );
    }
}
