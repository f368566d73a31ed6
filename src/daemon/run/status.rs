//! The `STATUS=` line (sd_notify(3)): the supervisor's text, a rejected reload, the current load.

use std::time::{Duration, Instant};

use crate::dispatch::Dispatcher;
use crate::id::Generation;
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
    /// A note for each address at which metrics are not served.
    no_metrics: Vec<String>,
    /// The line last sent.
    sent: String,
    /// When to send the line again. `None` while idle, so that an idle daemon does not wake up.
    due: Option<Instant>,
    load: Load,
}

/// The load's part of the line. It changes at most once per [`STATUS_INTERVAL`], even if the
/// supervisor's part changes more often.
#[derive(Debug, Default)]
struct Load {
    text: String,
    is_busy: bool,
    /// The wait for a worker that 95 % of the requests assigned between the last two readings did
    /// not exceed.
    wait_p95: Duration,
    /// When the load was last read.
    read_at: Option<Instant>,
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

    /// Adds a note about an address at which metrics are not served.
    pub(super) fn add_no_metrics(&mut self, note: String) {
        self.no_metrics.push(note);
    }

    /// Returns when [`StatusLine::send`] must be called again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns the line that was sent last.
    pub(super) fn line(&self) -> &str {
        &self.sent
    }

    /// Returns the wait for a worker that 95 % of the latest requests did not exceed, as it was
    /// when the load was last read.
    pub(super) fn wait_p95(&self) -> Duration {
        self.load.wait_p95
    }

    /// Sends the line if it changed. `generation`: the live one.
    pub(super) fn send(&mut self, dispatcher: &Dispatcher, generation: Generation, now: Instant) {
        self.load.read(dispatcher, generation, now);
        self.due = self.load.is_busy.then(|| now + STATUS_INTERVAL);
        let mut line = self.text.clone();
        for note in self.rejected_reload.iter().chain(&self.no_metrics) {
            line = format!("{line}; {note}");
        }
        if self.load.is_busy {
            line = format!("{line}; {}", self.load.text);
        }
        if line != self.sent {
            notify::status(&line);
            self.sent = line;
        }
    }
}

impl Load {
    /// Reads the load, unless it was read within the last [`STATUS_INTERVAL`].
    fn read(&mut self, dispatcher: &Dispatcher, generation: Generation, now: Instant) {
        if self.read_at.is_some_and(|read_at| now < read_at + STATUS_INTERVAL) {
            return;
        }
        self.read_at = Some(now);
        let load = dispatcher.load();
        self.is_busy = load.assigned + load.queued > 0;
        // An ASGI worker has slots for thousands of requests.
        let running = if dispatcher.is_asgi() {
            format!("{} running", load.assigned)
        } else {
            format!("{}/{} busy", load.assigned.min(load.slots), load.slots)
        };
        self.wait_p95 = dispatcher.take_wait_p95();
        self.text = format!(
            "{running}, queue {}, wait p95 {} ms, generation {generation}",
            load.queued,
            self.wait_p95.as_millis()
        );
    }
}
