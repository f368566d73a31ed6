//! Collects changes until no more follow for a while. Pure: has no clock of its own.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time after the first change at which a reload starts although files still change.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The changes since the last reload.
#[derive(Debug)]
pub(super) struct PendingChanges {
    /// Time without a change after which a reload starts (`reload.delay`).
    delay: Duration,
    /// `None` without a change.
    burst: Option<Burst>,
}

/// Changes that follow each other closely.
#[derive(Debug)]
struct Burst {
    /// The files in the order of their first change.
    order: Vec<PathBuf>,
    /// The same files.
    paths: HashSet<PathBuf>,
    begun_at: Instant,
    last_at: Instant,
}

/// The changes that cause a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The file that changed first.
    pub first: PathBuf,
    /// The number of other files.
    pub others: usize,
}

impl PendingChanges {
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, burst: None }
    }

    pub(super) fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    /// Adds a change.
    pub(super) fn add(&mut self, path: PathBuf, now: Instant) {
        let burst = self.burst.get_or_insert_with(|| Burst {
            order: Vec::new(),
            paths: HashSet::new(),
            begun_at: now,
            last_at: now,
        });
        burst.last_at = now;
        if burst.paths.insert(path.clone()) {
            burst.order.push(path);
        }
    }

    /// Returns when [`PendingChanges::take`] has to be called; `None` without a change.
    pub(super) fn due(&self) -> Option<Instant> {
        self.burst.as_ref().map(|burst| (burst.last_at + self.delay).min(burst.begun_at + MAX_WAIT))
    }

    /// Returns the changes if no more have followed for the delay, or if the first is [`MAX_WAIT`]
    /// old. `is_busy`: another program is still writing files, which prolongs the wait by another
    /// delay. `counts` returns false for a file that is named only if no other file has changed: a
    /// temporary file, which an editor has renamed.
    pub(super) fn take(
        &mut self,
        is_busy: bool,
        now: Instant,
        counts: impl Fn(&Path) -> bool,
    ) -> Option<Changes> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        let burst = self.burst.as_mut()?;
        if is_busy && now < burst.begun_at + MAX_WAIT {
            burst.last_at = now;
            return None;
        }
        let Burst { order, .. } = self.burst.take()?;
        let mut counted: Vec<&PathBuf> = order.iter().filter(|path| counts(path)).collect();
        if counted.is_empty() {
            counted = order.iter().collect();
        }
        let (first, others) = counted.split_first()?;
        Some(Changes { first: (*first).clone(), others: others.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(50);

    fn all(_: &Path) -> bool {
        true
    }

    fn changes(first: &str, others: usize) -> Changes {
        Changes { first: first.into(), others }
    }

    #[test]
    fn changes_are_returned_after_the_delay() {
        let (mut pending, start) = (PendingChanges::new(DELAY), Instant::now());
        assert_eq!((pending.due(), pending.take(false, start, all)), (None, None));
        pending.add("/b.py".into(), start);
        pending.add("/a.py".into(), start + DELAY / 2);
        pending.add("/b.py".into(), start + DELAY / 2);
        assert_eq!(pending.due(), Some(start + DELAY / 2 + DELAY));
        assert_eq!(pending.take(false, start + DELAY, all), None);
        assert_eq!(pending.take(false, start + 2 * DELAY, all), Some(changes("/b.py", 1)));
        assert_eq!((pending.due(), pending.take(false, start + 3 * DELAY, all)), (None, None));
    }

    #[test]
    fn renamed_temporary_file_is_not_named() {
        let (mut pending, start) = (PendingChanges::new(DELAY), Instant::now());
        let exists = |path: &Path| path != Path::new("/.a-tmp.py");
        for path in ["/.a-tmp.py", "/a.py", "/b.py"] {
            pending.add(path.into(), start);
        }
        assert_eq!(pending.take(false, start + DELAY, exists), Some(changes("/a.py", 1)));
        pending.add("/.a-tmp.py".into(), start);
        assert_eq!(pending.take(false, start + DELAY, exists), Some(changes("/.a-tmp.py", 0)));
    }

    #[test]
    fn busy_program_prolongs_the_wait() {
        let (mut pending, start) = (PendingChanges::new(DELAY), Instant::now());
        pending.add("/a.py".into(), start);
        assert_eq!(pending.take(true, start + DELAY, all), None);
        assert_eq!(pending.take(false, start + DELAY, all), None);
        assert_eq!(pending.take(false, start + 2 * DELAY, all), Some(changes("/a.py", 0)));
    }

    #[test]
    fn endless_changes_are_returned_after_the_maximum_wait() {
        let (mut pending, start) = (PendingChanges::new(DELAY), Instant::now());
        let mut now = start;
        while now < start + MAX_WAIT {
            pending.add("/a.py".into(), now);
            assert_eq!(pending.take(true, now, all), None);
            now += DELAY / 2;
        }
        assert_eq!(pending.take(true, start + MAX_WAIT, all), Some(changes("/a.py", 0)));
    }
}
