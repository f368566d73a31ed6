//! The `STATUS=` line (sd_notify(3)): the supervisor's text, a rejected reload, the current load.

use std::time::{Duration, Instant};

use crate::dispatch::LoadSummary;
use crate::systemd::notify;

/// Interval of updates while requests are running or queued.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// The line and its parts.
#[derive(Debug, Default)]
pub(super) struct StatusLine {
    /// The supervisor's part.
    text: String,
    /// A note with the wrong key, if the last reload was rejected; `None` after a reload that was
    /// accepted.
    rejected_reload: Option<String>,
    /// The line last sent.
    sent: String,
    /// When to send the line again. `None` while idle, so that an idle daemon does not wake up.
    due: Option<Instant>,
}

impl StatusLine {
    /// Sets the supervisor's part.
    pub(super) fn set_text(&mut self, text: String) {
        self.text = text;
    }

    /// Sets or clears the note about a rejected reload.
    pub(super) fn set_rejected_reload(&mut self, note: Option<String>) {
        self.rejected_reload = note;
    }

    /// Returns when [`StatusLine::send`] must be called again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sends the line if it changed.
    pub(super) fn send(&mut self, load: LoadSummary, now: Instant) {
        let is_busy = load.running + load.queued > 0;
        self.due = is_busy.then(|| now + STATUS_INTERVAL);
        let mut line = self.text.clone();
        if let Some(note) = &self.rejected_reload {
            line = format!("{line}; {note}");
        }
        if is_busy {
            line = format!("{line}; requests: {} running, {} queued", load.running, load.queued);
        }
        if line != self.sent {
            notify::status(&line);
            self.sent = line;
        }
    }
}
