//! How long requests waited for a worker, from which the percentile in STATUS= is computed.

use std::time::Duration;

/// Number of buckets. The last one has all waits of 2^22 µs (4.2 s) or more.
const N_BUCKETS: usize = 24;

/// Counts waits by their order of magnitude: bucket 0 has waits below 1 µs, bucket n waits of
/// at least 2^(n-1) µs and less than 2^n µs.
#[derive(Debug, Default)]
pub(super) struct WaitHistogram {
    buckets: [u64; N_BUCKETS],
}

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
    }

    /// Returns the wait that 95 % of the counted requests did not exceed, and clears the counts.
    /// The result is the upper end of a bucket, at most twice the exact value, and at most 2^23 µs
    /// (8.4 s). It is zero if no request waited.
    pub(super) fn take_p95(&mut self) -> Duration {
        let buckets = std::mem::take(&mut self.buckets);
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
