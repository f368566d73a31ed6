//! How long requests waited for a worker: for the percentile in STATUS=, and for the metrics.

use std::time::Duration;

/// Number of buckets. The last one has all waits of 2^22 µs (4.2 s) or more.
const N_BUCKETS: usize = 24;

/// Counts waits by their order of magnitude: bucket 0 has waits below 1 µs, bucket n waits of
/// at least 2^(n-1) µs and less than 2^n µs.
#[derive(Debug, Default)]
pub(super) struct WaitHistogram {
    /// Counts since the daemon started.
    buckets: [u64; N_BUCKETS],
    /// `buckets` at the last call of [`WaitHistogram::take_p95`].
    reported: [u64; N_BUCKETS],
    /// Sum of all waits since the daemon started, in microseconds.
    sum: u64,
}

/// The waits of all requests that workers got since the daemon started.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitTotals {
    /// For each range of waits its upper end in seconds, infinity for the last, and the number of
    /// requests in the range.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of the waits in seconds.
    pub sum: f64,
}

/// The finite upper ends in [`WaitTotals`] after the first, which is that of requests that did not
/// wait: powers of two in µs, from 1 ms to 4.2 s.
const REPORTED_POWERS: std::ops::RangeInclusive<usize> = 10..=N_BUCKETS - 2;

impl WaitHistogram {
    /// Counts a request that was assigned without waiting.
    pub(super) fn record_none(&mut self) {
        self.buckets[0] += 1;
    }

    /// Counts a request that waited.
    pub(super) fn record(&mut self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bucket.min(N_BUCKETS - 1)] += 1;
        self.sum = self.sum.saturating_add(micros);
    }

    /// Returns the counts since the daemon started.
    pub(super) fn totals(&self) -> WaitTotals {
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let (first, last) = (*REPORTED_POWERS.start(), *REPORTED_POWERS.end());
        let mut buckets = vec![(seconds(1), self.buckets[0])];
        buckets.push((seconds(1 << first), self.buckets[1..=first].iter().sum()));
        buckets.extend((first + 1..=last).map(|power| (seconds(1 << power), self.buckets[power])));
        buckets.push((f64::INFINITY, self.buckets[last + 1..].iter().sum()));
        WaitTotals { buckets, sum: seconds(self.sum) }
    }

    /// Returns the wait that 95 % of the requests counted since the last call did not exceed.
    /// The result is the upper end of a bucket, at most twice the exact value, and at most 2^23 µs
    /// (8.4 s). It is zero if no request waited.
    pub(super) fn take_p95(&mut self) -> Duration {
        let buckets: [u64; N_BUCKETS] =
            std::array::from_fn(|bucket| self.buckets[bucket] - self.reported[bucket]);
        self.reported = self.buckets;
        let total: u64 = buckets.iter().sum();
        let rank = (total * 95).div_ceil(100);
        let mut n_shorter = 0;
        let bucket = buckets.iter().position(|count| {
            n_shorter += count;
            n_shorter >= rank
        });
        match bucket {
            None | Some(0) => Duration::ZERO,
            Some(bucket) => Duration::from_micros(1 << bucket),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p95_is_the_upper_end_of_its_bucket() {
        let mut waits = WaitHistogram::default();
        for _ in 0..95 {
            waits.record_none();
        }
        for _ in 0..5 {
            waits.record(Duration::from_millis(40));
        }
        assert_eq!(waits.take_p95(), Duration::ZERO);
        for millis in 1..=100 {
            waits.record(Duration::from_millis(millis));
        }
        assert_eq!(waits.take_p95(), Duration::from_micros(1 << 17));
    }

    #[test]
    fn totals_are_not_affected_by_p95() {
        let mut waits = WaitHistogram::default();
        waits.record_none();
        waits.record(Duration::from_micros(3));
        waits.take_p95();
        for millis in [1, 2, 2, 5000] {
            waits.record(Duration::from_millis(millis));
        }
        let WaitTotals { buckets, sum } = waits.totals();
        let counted: Vec<_> = buckets.iter().copied().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0.000_001, 1), (0.001_024, 2), (0.002_048, 2), (f64::INFINITY, 1)]);
        assert_eq!(buckets.len(), 15);
        assert!((sum - 5.005_003).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn p95_without_requests_is_zero() {
        assert_eq!(WaitHistogram::default().take_p95(), Duration::ZERO);
    }

    #[test]
    fn longest_wait_is_in_the_last_bucket() {
        let mut waits = WaitHistogram::default();
        waits.record(Duration::MAX);
        assert_eq!(waits.take_p95(), Duration::from_micros(1 << 23));
    }
}
