//! The daemon's log, read from stderr by a thread.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::DEADLINE;

/// The lines that the daemon has written to stderr.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The lines so far, and whether stderr was closed.
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
    /// True while the thread that reads stderr has to pause.
    held: Mutex<bool>,
    released: Condvar,
}

impl Log {
    /// Stops reading stderr. One more line may still be read.
    pub(crate) fn pause_reading(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Continues reading stderr.
    pub(crate) fn resume_reading(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.released.notify_all();
    }

    pub(super) fn wait_while_held(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.released.wait_while(held, |held| *held).unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn push(&self, line: Option<String>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match line {
            Some(line) => lines.0.push(line),
            None => lines.1 = true,
        }
        self.more.notify_all();
    }

    fn wait_until<T>(&self, what: &str, found: impl Fn(&[String], bool) -> Option<T>) -> T {
        let begun = Instant::now();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = found(&lines.0, lines.1) {
                return found;
            }
            let left = DEADLINE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero() && !lines.1, "{what} is not in the log:\n{}", lines.0.join("\n"));
            (lines, _) = self.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a line that contains `what`, and returns it.
    pub(crate) fn wait_for(&self, what: &str) -> String {
        self.wait_until(what, |lines, _| lines.iter().find(|line| line.contains(what)).cloned())
    }

    /// Waits until `count` lines contain `what`.
    pub(crate) fn wait_for_count(&self, count: usize, what: &str) {
        self.wait_until(&format!("{what} {count} times"), |lines, _| {
            (lines.iter().filter(|line| line.contains(what)).count() >= count).then_some(())
        });
    }

    /// Waits until all processes have closed stderr.
    pub(crate) fn wait_for_end(&self) {
        self.wait_until("its last line", |_, ended| ended.then_some(()));
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.0.iter().flat_map(|line| [line, "\n"]).collect()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.text().matches(what).count()
    }
}
