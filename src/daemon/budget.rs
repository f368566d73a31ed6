//! A limit on the bytes of memory or disk that all requests use together.
//!
//! `dispatch` uses it for responses, `http` for request bodies. [`Budget::reserve`] fails beyond
//! the limit. [`Budget::charge`] does not: it counts bytes that have already arrived, and the
//! caller then makes room elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};

/// A limit and the bytes in use.
#[derive(Debug, Default)]
pub struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

impl Budget {
    /// Makes an unused budget with a limit in bytes.
    pub const fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), used: AtomicU64::new(0) }
    }

    /// Changes the limit. Existing reservations stay, even beyond it.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns the bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the bytes left.
    pub fn free(&self) -> u64 {
        self.limit.load(Ordering::Relaxed).saturating_sub(self.used())
    }

    /// Returns whether at most a quarter of the limit is left; callers then buffer less.
    pub fn is_tight(&self) -> bool {
        self.free() <= self.limit.load(Ordering::Relaxed) / 4
    }

    /// Counts bytes, also beyond the limit.
    pub fn charge(&'static self, bytes: u64) -> Reservation {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Reservation { budget: self, bytes }
    }

    /// Counts bytes. Returns `None` beyond the limit.
    pub fn reserve(&'static self, bytes: u64) -> Option<Reservation> {
        let limit = self.limit.load(Ordering::Relaxed);
        let within = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).ok()?;
        Some(Reservation { budget: self, bytes })
    }
}

/// Bytes of a [`Budget`], given back on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: &'static Budget,
    bytes: u64,
}

impl Reservation {
    /// Returns the bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds bytes. Returns false, and adds nothing, beyond the limit.
    pub fn grow(&mut self, bytes: u64) -> bool {
        let Some(more) = self.budget.reserve(bytes) else { return false };
        self.merge(more);
        true
    }

    /// Takes over the bytes of another reservation of the same budget.
    pub fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: u64) -> &'static Budget {
        Box::leak(Box::new(Budget::new(limit)))
    }

    #[test]
    fn reservation_is_bounded_and_given_back() {
        let budget = budget(100);
        let mut first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none() && budget.reserve(u64::MAX).is_none());
        assert!(first.grow(40) && !first.grow(1));
        assert_eq!((budget.used(), budget.free(), first.bytes()), (100, 0, 100));
        drop(first);
        assert_eq!((budget.used(), budget.free()), (0, 100));
    }

    #[test]
    fn charge_beyond_the_limit_leaves_no_reservations() {
        let budget = budget(100);
        let reservation = budget.charge(150);
        assert_eq!((budget.free(), budget.is_tight()), (0, true));
        assert!(budget.reserve(1).is_none());
        drop(reservation);
        assert!(budget.reserve(100).is_some() && !budget.is_tight());
    }

    #[test]
    fn lower_limit_keeps_existing_reservations() {
        let budget = budget(100);
        let reservation = budget.reserve(80).unwrap();
        budget.set_limit(50);
        assert_eq!((budget.free(), reservation.bytes()), (0, 80));
        drop(reservation);
        assert_eq!(budget.free(), 50);
    }
}
