//! Requests that end workers: which they may be, and for how long they are refused.
//!
//! A *fingerprint* is method and path, without the query. Whatever had started in a worker that died by itself, and had
//! not come to the head of its answer, is a fingerprint: an answer that goes on for hours is there at every death, and has
//! nothing to do with most. The head of an answer below 500 to the same fingerprint clears it, so that only what does
//! not work at all is ever accused twice. A second death within [`WINDOW`] shuts it out for [`SENTENCE`]; after that one request of it is let
//! through as a *trial*. If its worker dies, the fingerprint is shut out again at once; if it is answered well, it is
//! cleared; if it comes to nothing (a 500, a client that has gone), the next one is the trial.
//!
//! The dispatcher asks [`Quarantine::is_empty`] first: while nobody is suspected, nothing is compared.

use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

/// Two deaths within this time are no accident.
const CRASH_WINDOW: Duration = Duration::from_mins(1);

/// How long it is refused.
const BLOCK_TIME: Duration = Duration::from_mins(1);

/// What has not been asked for all this time after that is forgotten.
const RETENTION_TIME: Duration = Duration::from_mins(10);

/// A refusal while a trial runs says: come back so soon.
const TRIAL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How many suspects are remembered. Of a worker that died with a thousand coroutines the newest should be accused:
/// what kills mostly does so at once.
pub(crate) const MAX_FINGERPRINTS: usize = 64;

/// All suspects.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    fingerprints: Vec<Fingerprint>,
}

#[derive(Debug)]
struct Fingerprint {
    method: Box<[u8]>,
    path: Box<[u8]>,
    /// Of the last worker that died of it.
    last_crash: Instant,
    /// It has been shut out, until then.
    blocked_until: Option<Instant>,
    /// The request that is allowed to show that it is well again.
    trial: Option<ExchangeId>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Nothing is held against it.
    Allowed,
    /// It is let in as a trial: [`Quarantine::begin_trial`] is to follow.
    Trial,
    /// It is refused; worth another attempt after that time.
    Blocked(Duration),
}

impl Fingerprint {
    fn matches(&self, method: &[u8], path: &[u8]) -> bool {
        *self.method == *method && *self.path == *path
    }

    /// How long it is still refused whatever happens.
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

    /// May such a request be served? `is_under_way` says whether a trial still is.
    pub(crate) fn admission(
        &self,
        method: &[u8],
        path: &[u8],
        now: Instant,
        is_under_way: impl Fn(ExchangeId) -> bool,
    ) -> Admission {
        let Some(fingerprint) =
            self.fingerprints.iter().find(|fingerprint| fingerprint.matches(method, path))
        else {
            return Admission::Allowed;
        };
        match (fingerprint.blocked_until, fingerprint.remaining_block(now), fingerprint.trial) {
            (None, ..) => Admission::Allowed,
            (_, Some(left), _) => Admission::Blocked(left),
            (_, None, Some(trial)) if is_under_way(trial) => Admission::Blocked(TRIAL_RETRY_AFTER),
            (_, None, _) => Admission::Trial,
        }
    }

    /// This request is the trial of its fingerprint.
    pub(crate) fn start_trial(&mut self, method: &[u8], path: &[u8], id: ExchangeId) {
        if let Some(fingerprint) = self.find(method, path) {
            fingerprint.trial = Some(id);
        }
    }

    /// A worker died that had started such a request. For how long it is shut out, if that begins now.
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
        // A straggler of those that were running when it was shut out lengthens that, and is no news.
        let is_news = fingerprint.remaining_block(now).is_none();
        fingerprint.blocked_until = Some(now + BLOCK_TIME);
        is_news.then_some(BLOCK_TIME)
    }

    /// Such a request was answered well.
    pub(crate) fn record_success(&mut self, method: &[u8], path: &[u8]) {
        self.fingerprints.retain(|fingerprint| !fingerprint.matches(method, path));
    }

    /// Forgets what was long ago.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.fingerprints.retain(|fingerprint| !fingerprint.is_expired(now));
    }

    /// Who is merely suspected goes before who is shut out, and the longest ago first.
    fn evict_if_full(&mut self) {
        if self.fingerprints.len() < MAX_FINGERPRINTS {
            return;
        }
        let least = self.fingerprints.iter().enumerate();
        let least = least
            .min_by_key(|(_, fingerprint)| (fingerprint.blocked_until.is_some(), fingerprint.last_crash));
        if let Some((at, _)) = least {
            self.fingerprints.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NONE: fn(ExchangeId) -> bool = |_| false;

    fn entrance(quarantine: &Quarantine, path: &str, now: Instant) -> Admission {
        quarantine.admission(b"GET", path.as_bytes(), now, NONE)
    }

    #[test]
    fn two_crashes_in_a_minute_block_for_a_minute() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        assert_eq!(quarantine.record_crash(b"GET", b"/kill", start), None);
        assert_eq!(entrance(&quarantine, "/kill", start), Admission::Allowed);
        let second = start + 59 * SECOND;
        assert_eq!(quarantine.record_crash(b"GET", b"/kill", second), Some(60 * SECOND));
        assert_eq!(entrance(&quarantine, "/kill", second + 20 * SECOND), Admission::Blocked(40 * SECOND));
        assert_eq!(entrance(&quarantine, "/killer", second), Admission::Allowed);
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
        assert_eq!(entrance(&quarantine, "/", after), Admission::Trial);
        quarantine.start_trial(b"GET", b"/", ExchangeId(7));
        let running = |id| id == ExchangeId(7);
        assert_eq!(quarantine.admission(b"GET", b"/", after, running), Admission::Blocked(TRIAL_RETRY_AFTER));
        // It came to nothing: the next one.
        assert_eq!(entrance(&quarantine, "/", after), Admission::Trial);
        let much_later = after + 300 * SECOND;
        assert_eq!(quarantine.record_crash(b"GET", b"/", much_later), Some(BLOCK_TIME));
        assert_eq!(entrance(&quarantine, "/", much_later), Admission::Blocked(BLOCK_TIME));
    }

    #[test]
    fn later_crash_extends_the_block_without_a_report() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.record_crash(b"GET", b"/", start);
        quarantine.record_crash(b"GET", b"/", start);
        let later = start + 30 * SECOND;
        assert_eq!(quarantine.record_crash(b"GET", b"/", later), None);
        assert_eq!(entrance(&quarantine, "/", later), Admission::Blocked(60 * SECOND));
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
        assert!(matches!(entrance(&quarantine, "/shut", start + SECOND), Admission::Blocked(_)));
    }
}
