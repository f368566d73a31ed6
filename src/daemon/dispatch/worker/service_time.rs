//! How long a worker's requests take, and what follows from that for how many it is given ahead of time.
//!
//! [`Worker`](crate::dispatch::worker::Worker) has one, which learns from what each completion says: hostile, any number.

use std::time::Duration;

/// Requests of up to this service time are given ahead of time: as many as fit into it and one more, but at most
/// [`MAX_DEPTH`] with the running one. Only a worker without an idle slot is given work ahead of time, and only when
/// no other has one; what turns out slow is revoked.
///
/// Measured on one core, daemon and worker sharing it: a hello application costs 4 % less CPU per request 64 deep
/// than 16 deep, and a Django view of 200 µs a fifth less 5 deep than 1 deep, because daemon and worker change
/// places less often. Above a millisecond that gain is too small to measure.
pub(crate) const PREFETCH_TIME: Duration = Duration::from_millis(1);
pub(crate) const MAX_PREFETCH_DEPTH: u32 = 64;

/// A worker whose requests take less wakes one thread, not one for each: that one gets through all of it before a
/// second one is awake, and would only fight it for the GIL.
const SINGLE_THREAD_TIME: Duration = Duration::from_micros(100);

/// No request takes longer, whatever the worker says; so that sums and products of service times do not overflow.
const MAX_SERVICE_NANOS: u64 = 1 << 48;

/// Smoothed, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceTime(u64);

impl ServiceTime {
    /// It starts high, so that a new worker is not given work ahead of time.
    pub(crate) fn new() -> Self {
        Self(nanoseconds(PREFETCH_TIME) + 1)
    }

    /// So many nanoseconds has one request taken.
    pub(crate) fn record(&mut self, service: u64) {
        let service = service.min(MAX_SERVICE_NANOS);
        // One eighth of the new value, as TCP smooths its round-trip time (RFC 6298 §2), but up at once: a
        // worker that turns slow must not be given work ahead of time.
        self.0 = if service > self.0 * 8 { service } else { (self.0 * 7 + service) / 8 };
    }

    /// Is it short enough for work ahead of time?
    pub(crate) fn is_short(self) -> bool {
        self.0 <= nanoseconds(PREFETCH_TIME)
    }

    /// Is one thread enough for whatever lies there?
    pub(crate) fn needs_one_thread(self) -> bool {
        self.0 < nanoseconds(SINGLE_THREAD_TIME)
    }

    /// How many requests a slot may have, the running one included; see [`PREFETCH_TIME`].
    pub(crate) fn depth(self) -> u32 {
        if !self.is_short() {
            return 1;
        }
        let fitting = nanoseconds(PREFETCH_TIME) / self.0.max(1);
        u32::try_from(fitting).unwrap_or(MAX_PREFETCH_DEPTH).saturating_add(1).min(MAX_PREFETCH_DEPTH)
    }

    /// What so many requests take, one after the other.
    pub(crate) fn total(self, requests: u32) -> Duration {
        Duration::from_nanos(self.0.saturating_mul(u64::from(requests)))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
