//! Counts the bytes and responses of all connections, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of classes of statuses: 1xx to 5xx.
const N_CLASSES: usize = 5;

/// The bytes and responses of all connections since the daemon started.
#[derive(Debug, Default)]
pub(super) struct TrafficCounts {
    received: AtomicU64,
    sent: AtomicU64,
    responses: [AtomicU64; N_CLASSES],
    unanswered: AtomicU64,
}

/// The numbers of responses that began since the daemon started, and of requests without a response,
/// except health checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseTotals {
    /// Responses by the first digit of their status, from 1 (101 Switching Protocols) to 5. Responses
    /// with another digit are not counted.
    pub by_class: [u64; N_CLASSES],
    /// Requests whose connection was closed before their response began.
    pub unanswered: u64,
}

impl TrafficCounts {
    pub(super) fn add_received(&self, bytes: usize) {
        add(&self.received, bytes as u64);
    }

    pub(super) fn add_sent(&self, bytes: usize) {
        add(&self.sent, bytes as u64);
    }

    /// Counts a response, when it begins.
    pub(super) fn add_response(&self, status: u16) {
        let class = usize::from(status / 100);
        // An application may send any number of three digits.
        if let Some(counter) = class.checked_sub(1).and_then(|index| self.responses.get(index)) {
            add(counter, 1);
        }
    }

    /// Counts a request without a response.
    pub(super) fn add_unanswered(&self) {
        add(&self.unanswered, 1);
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn responses(&self) -> ResponseTotals {
        ResponseTotals {
            by_class: std::array::from_fn(|index| self.responses[index].load(Ordering::Relaxed)),
            unanswered: self.unanswered.load(Ordering::Relaxed),
        }
    }
}

/// Adds without the cost of an atomic addition: only the edge thread counts, others only read.
fn add(counter: &AtomicU64, addend: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(addend), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_counted_by_the_first_digit() {
        let counts = TrafficCounts::default();
        for status in [101, 200, 204, 302, 404, 500, 599, 999, 99] {
            counts.add_response(status);
        }
        counts.add_unanswered();
        assert_eq!(counts.responses(), ResponseTotals { by_class: [1, 2, 1, 1, 2], unanswered: 1 });
    }
}
