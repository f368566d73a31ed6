//! Requests that end workers: which they may be, and for how long they are refused.
//!
//! A *fingerprint* is method and path, without the query. Whatever had started in a worker that died by itself, and had
//! not come to the head of its answer, is a suspect: an answer that goes on for hours is there at every death, and has
//! nothing to do with most. The head of an answer below 500 to the same fingerprint clears it, so that only what does
//! not work at all is ever accused twice. A second death within [`WINDOW`] shuts it out for [`SENTENCE`]; after that one request of it is let
//! through as a *trial*. If its worker dies, the fingerprint is shut out again at once; if it is answered well, it is
//! cleared; if it comes to nothing (a 500, a client that has gone), the next one is the trial.
//!
//! The dispatcher asks [`Quarantine::is_empty`] first: while nobody is suspected, nothing is compared.

use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

/// Two deaths within this time are no accident.
const WINDOW: Duration = Duration::from_mins(1);

/// How long it is refused.
const SENTENCE: Duration = Duration::from_mins(1);

/// What has not been asked for all this time after that is forgotten.
const MEMORY: Duration = Duration::from_mins(10);

/// A refusal while a trial runs says: come back so soon.
const TRIAL: Duration = Duration::from_secs(1);

/// How many suspects are remembered. Of a worker that died with a thousand coroutines the newest should be accused:
/// what kills mostly does so at once.
pub(crate) const MOST: usize = 64;

/// All suspects.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    suspects: Vec<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    method: Box<[u8]>,
    path: Box<[u8]>,
    /// Of the last worker that died of it.
    death: Instant,
    /// It has been shut out, until then.
    until: Option<Instant>,
    /// The request that is allowed to show that it is well again.
    trial: Option<ExchangeId>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// Nothing is held against it.
    Open,
    /// It is let in as a trial: [`Quarantine::begin_trial`] is to follow.
    Trial,
    /// It is refused; worth another attempt after that time.
    Shut(Duration),
}

impl Suspect {
    fn is(&self, method: &[u8], path: &[u8]) -> bool {
        *self.method == *method && *self.path == *path
    }

    /// How long it is still refused whatever happens.
    fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        match self.until {
            Some(until) => now.saturating_duration_since(until) > MEMORY,
            None => now.saturating_duration_since(self.death) > WINDOW,
        }
    }
}

impl Quarantine {
    pub(crate) fn is_empty(&self) -> bool {
        self.suspects.is_empty()
    }

    fn find(&mut self, method: &[u8], path: &[u8]) -> Option<&mut Suspect> {
        self.suspects.iter_mut().find(|suspect| suspect.is(method, path))
    }

    /// May such a request be served? `is_under_way` says whether a trial still is.
    pub(crate) fn entrance(
        &self,
        method: &[u8],
        path: &[u8],
        now: Instant,
        is_under_way: impl Fn(ExchangeId) -> bool,
    ) -> Entrance {
        let Some(suspect) = self.suspects.iter().find(|suspect| suspect.is(method, path)) else {
            return Entrance::Open;
        };
        match (suspect.until, suspect.left(now), suspect.trial) {
            (None, ..) => Entrance::Open,
            (_, Some(left), _) => Entrance::Shut(left),
            (_, None, Some(trial)) if is_under_way(trial) => Entrance::Shut(TRIAL),
            (_, None, _) => Entrance::Trial,
        }
    }

    /// This request is the trial of its fingerprint.
    pub(crate) fn begin_trial(&mut self, method: &[u8], path: &[u8], id: ExchangeId) {
        if let Some(suspect) = self.find(method, path) {
            suspect.trial = Some(id);
        }
    }

    /// A worker died that had started such a request. For how long it is shut out, if that begins now.
    pub(crate) fn accuse(&mut self, method: &[u8], path: &[u8], now: Instant) -> Option<Duration> {
        self.expire(now);
        let Some(suspect) = self.find(method, path) else {
            self.make_room();
            let (method, path) = (method.into(), path.into());
            self.suspects.push(Suspect { method, path, death: now, until: None, trial: None });
            return None;
        };
        suspect.death = now;
        suspect.trial = None;
        // A straggler of those that were running when it was shut out lengthens that, and is no news.
        let is_news = suspect.left(now).is_none();
        suspect.until = Some(now + SENTENCE);
        is_news.then_some(SENTENCE)
    }

    /// Such a request was answered well.
    pub(crate) fn clear(&mut self, method: &[u8], path: &[u8]) {
        self.suspects.retain(|suspect| !suspect.is(method, path));
    }

    /// Forgets what was long ago.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.suspects.retain(|suspect| !suspect.is_forgotten(now));
    }

    /// Who is merely suspected goes before who is shut out, and the longest ago first.
    fn make_room(&mut self) {
        if self.suspects.len() < MOST {
            return;
        }
        let least = self.suspects.iter().enumerate();
        let least = least.min_by_key(|(_, suspect)| (suspect.until.is_some(), suspect.death));
        if let Some((at, _)) = least {
            self.suspects.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NONE: fn(ExchangeId) -> bool = |_| false;

    fn entrance(quarantine: &Quarantine, path: &str, now: Instant) -> Entrance {
        quarantine.entrance(b"GET", path.as_bytes(), now, NONE)
    }

    #[test]
    fn two_crashes_in_a_minute_block_for_a_minute() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        assert_eq!(quarantine.accuse(b"GET", b"/kill", start), None);
        assert_eq!(entrance(&quarantine, "/kill", start), Entrance::Open);
        let second = start + 59 * SECOND;
        assert_eq!(quarantine.accuse(b"GET", b"/kill", second), Some(60 * SECOND));
        assert_eq!(entrance(&quarantine, "/kill", second + 20 * SECOND), Entrance::Shut(40 * SECOND));
        assert_eq!(entrance(&quarantine, "/killer", second), Entrance::Open);
        assert_eq!(quarantine.entrance(b"POST", b"/kill", second, NONE), Entrance::Open);
    }

    #[test]
    fn crashes_more_than_a_minute_apart_do_not_block() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        for minute in 0..5 {
            assert_eq!(quarantine.accuse(b"GET", b"/", start + minute * 61 * SECOND), None);
        }
    }

    #[test]
    fn success_clears_the_fingerprint() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.accuse(b"GET", b"/", start);
        quarantine.clear(b"GET", b"/");
        assert!(quarantine.is_empty());
        assert_eq!(quarantine.accuse(b"GET", b"/", start + SECOND), None);
    }

    #[test]
    fn trials_run_one_at_a_time_and_a_crash_blocks_again() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.accuse(b"GET", b"/", start);
        quarantine.accuse(b"GET", b"/", start);
        let after = start + 60 * SECOND;
        assert_eq!(entrance(&quarantine, "/", after), Entrance::Trial);
        quarantine.begin_trial(b"GET", b"/", ExchangeId(7));
        let running = |id| id == ExchangeId(7);
        assert_eq!(quarantine.entrance(b"GET", b"/", after, running), Entrance::Shut(TRIAL));
        // It came to nothing: the next one.
        assert_eq!(entrance(&quarantine, "/", after), Entrance::Trial);
        let much_later = after + 300 * SECOND;
        assert_eq!(quarantine.accuse(b"GET", b"/", much_later), Some(SENTENCE));
        assert_eq!(entrance(&quarantine, "/", much_later), Entrance::Shut(SENTENCE));
    }

    #[test]
    fn later_crash_extends_the_block_without_a_report() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.accuse(b"GET", b"/", start);
        quarantine.accuse(b"GET", b"/", start);
        let later = start + 30 * SECOND;
        assert_eq!(quarantine.accuse(b"GET", b"/", later), None);
        assert_eq!(entrance(&quarantine, "/", later), Entrance::Shut(60 * SECOND));
    }

    #[test]
    fn unused_fingerprints_expire() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.accuse(b"GET", b"/once", start);
        quarantine.accuse(b"GET", b"/twice", start);
        quarantine.accuse(b"GET", b"/twice", start);
        quarantine.expire(start + 61 * SECOND);
        assert_eq!(quarantine.suspects.len(), 1);
        quarantine.expire(start + 60 * SECOND + MEMORY + SECOND);
        assert!(quarantine.is_empty());
    }

    #[test]
    fn full_table_evicts_unblocked_fingerprints_first() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.accuse(b"GET", b"/shut", start);
        quarantine.accuse(b"GET", b"/shut", start);
        for number in 0..200_u32 {
            let path = format!("/{number}");
            quarantine.accuse(b"GET", path.as_bytes(), start + Duration::from_millis(u64::from(number)));
        }
        assert_eq!(quarantine.suspects.len(), MOST);
        assert!(matches!(entrance(&quarantine, "/shut", start + SECOND), Entrance::Shut(_)));
    }
}
