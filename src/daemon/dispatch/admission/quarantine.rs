//! Blocks requests that crash workers.
//!
//! A *fingerprint* is method and path, without the query. A crash is recorded for each request that
//! the worker had started and whose response head it had not sent: a response that streams for
//! hours is present at many crashes and causes few. A response head with a status below 500 clears
//! its fingerprint, so only requests that never succeed are recorded twice.
//!
//! A second crash within [`CRASH_WINDOW`] blocks the fingerprint for [`BLOCK_TIME`]. After that,
//! one request is admitted as a *trial*. If its worker crashes, the fingerprint is blocked again.
//! If the trial succeeds, the fingerprint is cleared. Otherwise (a status of 500 or above, or the
//! client disconnects), the next request is the trial.
//!
//! The dispatcher calls [`Quarantine::is_empty`] first, so that requests cost nothing while no
//! crash is recorded.

use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

/// A second crash within this time blocks the fingerprint.
const CRASH_WINDOW: Duration = Duration::from_mins(1);

/// Duration of a block.
const BLOCK_TIME: Duration = Duration::from_mins(1);

/// Time from the end of its block after which a fingerprint is dropped.
const RETENTION_TIME: Duration = Duration::from_mins(10);

/// `Retry-After` of requests that arrive during a trial.
const TRIAL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Maximum number of fingerprints in the table. When a worker with a thousand running requests
/// crashes, only the newest are recorded, since most crashes follow soon after the start of the
/// request that causes them.
pub(crate) const MAX_FINGERPRINTS: usize = 64;

/// The fingerprints with a recorded crash.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    fingerprints: Vec<Fingerprint>,
}

#[derive(Debug)]
struct Fingerprint {
    method: Box<[u8]>,
    path: Box<[u8]>,
    /// When a worker last crashed while it ran such a request.
    last_crash: Instant,
    /// End of the last block; None if the fingerprint was never blocked.
    blocked_until: Option<Instant>,
    /// The last request that was admitted as a trial.
    trial: Option<ExchangeId>,
}

/// Decision about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The fingerprint is not blocked.
    Allowed,
    /// The request is admitted as a trial: the caller calls [`Quarantine::start_trial`].
    Trial,
    /// The request is rejected, with this `Retry-After`.
    Blocked(Duration),
}

impl Fingerprint {
    fn matches(&self, method: &[u8], path: &[u8]) -> bool {
        *self.method == *method && *self.path == *path
    }

    /// Returns the rest of the block; None if the block has ended.
    fn remaining_block(&self, now: Instant) -> Option<Duration> {
        let left = self.blocked_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn is_expired(&self, now: Instant) -> bool {
        match self.blocked_until {
            Some(until) => now.saturating_duration_since(until) > RETENTION_TIME,
            None => now.saturating_duration_since(self.last_crash) > CRASH_WINDOW,
        }
    }
}

impl Quarantine {
    pub(crate) fn is_empty(&self) -> bool {
        self.fingerprints.is_empty()
    }

    fn find(&mut self, method: &[u8], path: &[u8]) -> Option<&mut Fingerprint> {
        self.fingerprints.iter_mut().find(|fingerprint| fingerprint.matches(method, path))
    }

    /// Decides about a request. `is_running` returns whether a trial is still running.
    pub(crate) fn admission(
        &self,
        method: &[u8],
        path: &[u8],
        now: Instant,
        is_running: impl Fn(ExchangeId) -> bool,
    ) -> Admission {
        let Some(fingerprint) =
            self.fingerprints.iter().find(|fingerprint| fingerprint.matches(method, path))
        else {
            return Admission::Allowed;
        };
        match (fingerprint.blocked_until, fingerprint.remaining_block(now), fingerprint.trial) {
            (None, ..) => Admission::Allowed,
            (_, Some(left), _) => Admission::Blocked(left),
            (_, None, Some(trial)) if is_running(trial) => Admission::Blocked(TRIAL_RETRY_AFTER),
            (_, None, _) => Admission::Trial,
        }
    }

    /// Notes that this request is the trial of its fingerprint.
    pub(crate) fn start_trial(&mut self, method: &[u8], path: &[u8], id: ExchangeId) {
        if let Some(fingerprint) = self.find(method, path) {
            fingerprint.trial = Some(id);
        }
    }

    /// Records a crash of a worker that had started this request. Returns the block time if this
    /// starts a block.
    pub(crate) fn record_crash(&mut self, method: &[u8], path: &[u8], now: Instant) -> Option<Duration> {
        self.expire(now);
        let Some(fingerprint) = self.find(method, path) else {
            self.evict_if_full();
            let (method, path) = (method.into(), path.into());
            self.fingerprints.push(Fingerprint {
                method,
                path,
                last_crash: now,
                blocked_until: None,
                trial: None,
            });
            return None;
        };
        fingerprint.last_crash = now;
        fingerprint.trial = None;
        // A request that ran when the block started may crash its worker later: that extends the
        // block silently.
        let starts_block = fingerprint.remaining_block(now).is_none();
        fingerprint.blocked_until = Some(now + BLOCK_TIME);
        starts_block.then_some(BLOCK_TIME)
    }

    /// Clears the fingerprint of a request that succeeded.
    pub(crate) fn record_success(&mut self, method: &[u8], path: &[u8]) {
        self.fingerprints.retain(|fingerprint| !fingerprint.matches(method, path));
    }

    /// Drops old fingerprints.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.fingerprints.retain(|fingerprint| !fingerprint.is_expired(now));
    }

    /// Drops one fingerprint if the table is full: the oldest of those that were never blocked, or
    /// else the oldest.
    fn evict_if_full(&mut self) {
        if self.fingerprints.len() < MAX_FINGERPRINTS {
            return;
        }
        let least_useful = self
            .fingerprints
            .iter()
            .enumerate()
            .min_by_key(|(_, fingerprint)| (fingerprint.blocked_until.is_some(), fingerprint.last_crash));
        if let Some((at, _)) = least_useful {
            self.fingerprints.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NONE: fn(ExchangeId) -> bool = |_| false;

    fn admission(quarantine: &Quarantine, path: &str, now: Instant) -> Admission {
        quarantine.admission(b"GET", path.as_bytes(), now, NONE)
    }

    #[test]
    fn two_crashes_in_a_minute_block_for_a_minute() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        assert_eq!(quarantine.record_crash(b"GET", b"/kill", start), None);
        assert_eq!(admission(&quarantine, "/kill", start), Admission::Allowed);
        let second = start + 59 * SECOND;
        assert_eq!(quarantine.record_crash(b"GET", b"/kill", second), Some(60 * SECOND));
        assert_eq!(admission(&quarantine, "/kill", second + 20 * SECOND), Admission::Blocked(40 * SECOND));
        assert_eq!(admission(&quarantine, "/killer", second), Admission::Allowed);
        assert_eq!(quarantine.admission(b"POST", b"/kill", second, NONE), Admission::Allowed);
    }

    #[test]
    fn crashes_more_than_a_minute_apart_do_not_block() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        for minute in 0..5 {
            assert_eq!(quarantine.record_crash(b"GET", b"/", start + minute * 61 * SECOND), None);
        }
    }

    #[test]
    fn success_clears_the_fingerprint() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.record_crash(b"GET", b"/", start);
        quarantine.record_success(b"GET", b"/");
        assert!(quarantine.is_empty());
        assert_eq!(quarantine.record_crash(b"GET", b"/", start + SECOND), None);
    }

    #[test]
    fn trials_run_one_at_a_time_and_a_crash_blocks_again() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.record_crash(b"GET", b"/", start);
        quarantine.record_crash(b"GET", b"/", start);
        let after = start + 60 * SECOND;
        assert_eq!(admission(&quarantine, "/", after), Admission::Trial);
        quarantine.start_trial(b"GET", b"/", ExchangeId(7));
        let running = |id| id == ExchangeId(7);
        assert_eq!(quarantine.admission(b"GET", b"/", after, running), Admission::Blocked(TRIAL_RETRY_AFTER));
        // The trial ended without a result: the next request is the trial.
        assert_eq!(admission(&quarantine, "/", after), Admission::Trial);
        let much_later = after + 300 * SECOND;
        assert_eq!(quarantine.record_crash(b"GET", b"/", much_later), Some(BLOCK_TIME));
        assert_eq!(admission(&quarantine, "/", much_later), Admission::Blocked(BLOCK_TIME));
    }

    #[test]
    fn later_crash_extends_the_block_without_a_report() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.record_crash(b"GET", b"/", start);
        quarantine.record_crash(b"GET", b"/", start);
        let later = start + 30 * SECOND;
        assert_eq!(quarantine.record_crash(b"GET", b"/", later), None);
        assert_eq!(admission(&quarantine, "/", later), Admission::Blocked(60 * SECOND));
    }

    #[test]
    fn unused_fingerprints_expire() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.record_crash(b"GET", b"/once", start);
        quarantine.record_crash(b"GET", b"/twice", start);
        quarantine.record_crash(b"GET", b"/twice", start);
        quarantine.expire(start + 61 * SECOND);
        assert_eq!(quarantine.fingerprints.len(), 1);
        quarantine.expire(start + 60 * SECOND + RETENTION_TIME + SECOND);
        assert!(quarantine.is_empty());
    }

    #[test]
    fn full_table_evicts_unblocked_fingerprints_first() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.record_crash(b"GET", b"/shut", start);
        quarantine.record_crash(b"GET", b"/shut", start);
        for number in 0..200_u32 {
            let path = format!("/{number}");
            quarantine.record_crash(
                b"GET",
                path.as_bytes(),
                start + Duration::from_millis(u64::from(number)),
            );
        }
        assert_eq!(quarantine.fingerprints.len(), MAX_FINGERPRINTS);
        assert!(matches!(admission(&quarantine, "/shut", start + SECOND), Admission::Blocked(_)));
    }
}
