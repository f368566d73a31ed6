//! Chooses the idle connection to close when a new one finds no room.
//!
//! One scan of all connections collects many candidates. With a scan per new connection, a flood of
//! connections would keep the daemon busy.

use std::sync::{Arc, Weak};

/// A connection that can be closed to make room for a new one.
pub(super) trait Evictable {
    /// Returns the coarse time since which the connection has been idle; `None` if it must not be
    /// closed now.
    fn idle_since(&self, now: u32) -> Option<u32>;

    /// True if the connection is in the same idle period as when [`Evictable::idle_since`] returned
    /// `since`.
    fn is_idle_since(&self, since: u32) -> bool;
}

/// The connections that were idle longest at the last scan.
#[derive(Debug)]
pub(super) struct EvictionCandidates<C> {
    /// Each with the coarse time since which it has been idle, sorted: the longest idle is last.
    candidates: Vec<(u32, Weak<C>)>,
    /// Coarse time of the last scan; `None` before the first.
    scanned_at: Option<u32>,
}

/// Maximum number of candidates from one scan.
const MAX_CANDIDATES: usize = 1024;

/// Minimum interval between two scans, in milliseconds.
const SCAN_INTERVAL_MS: u32 = 100;

impl<C> Default for EvictionCandidates<C> {
    fn default() -> Self {
        Self { candidates: Vec::new(), scanned_at: None }
    }
}

impl<C: Evictable> EvictionCandidates<C> {
    /// Returns the connection that has been idle longest. `all` returns every connection; `now` is
    /// the coarse time.
    pub(super) fn take_longest_idle(
        &mut self,
        now: u32,
        all: impl FnOnce() -> Vec<Arc<C>>,
    ) -> Option<Arc<C>> {
        if let Some(connection) = self.take_candidate() {
            return Some(connection);
        }
        if self.scanned_at.is_some_and(|scanned_at| now.wrapping_sub(scanned_at) < SCAN_INTERVAL_MS) {
            return None;
        }
        self.scanned_at = Some(now);
        let mut idle: Vec<_> = all()
            .into_iter()
            .filter_map(|connection| Some((connection.idle_since(now)?, connection)))
            .map(|(since, connection)| (since, Arc::downgrade(&connection)))
            .collect();
        let age = |(since, _): &(u32, Weak<C>)| now.wrapping_sub(*since);
        if idle.len() > MAX_CANDIDATES {
            idle.select_nth_unstable_by_key(MAX_CANDIDATES, |entry| std::cmp::Reverse(age(entry)));
            idle.truncate(MAX_CANDIDATES);
        }
        idle.sort_unstable_by_key(age);
        self.candidates = idle;
        self.take_candidate()
    }

    fn take_candidate(&mut self) -> Option<Arc<C>> {
        while let Some((since, connection)) = self.candidates.pop() {
            // The connection may have served a request since the scan.
            if let Some(connection) = connection.upgrade()
                && connection.is_idle_since(since)
            {
                return Some(connection);
            }
        }
        None
    }
}
