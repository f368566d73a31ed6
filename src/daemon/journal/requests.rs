//! One entry per request: the access log, responses that the daemon gave in place of the
//! application, and requests that ended without a response. Refused requests are counted
//! ([`refusals`](super::refusals)).
//!
//! The thread "journal" takes the entries from a bounded queue and formats them, so that the
//! reactor does not spend time on that. The thread waits for room in the log while the log makes
//! progress. When the queue is full, entries are dropped and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use crate::id::WorkerId;

use super::daemon_log;
use super::refusal_kind::RefusalKind;
use super::refusals::{RefusalEntry, Refusals, RefusedRequest};
use super::request_writer::{write_access, write_failure, write_refusal, write_unanswered, write_websocket};
use super::thread::LogThread;

pub use super::refusals::{RefusalRecord, RefusalResponse};
pub use super::request_entries::{
    AccessDetails, AccessEntry, AccessLine, BoundedText, FailureEntry, LoggedRequest, PartialResponse,
    Traffic, UnansweredCause, UnansweredEntry, WebSocketEntry,
};
pub use super::request_writer::microseconds;

/// Maximum number of entries in the queue to the writer.
const MAX_QUEUED: usize = 4096;

#[derive(Debug)]
enum JournalEntry {
    Access(AccessEntry),
    Failure(FailureEntry),
    Unanswered(UnansweredEntry),
    Closed(WebSocketEntry),
    Refusal(RefusalEntry),
}

/// The queue to the journal thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    entries: SyncSender<JournalEntry>,
    dropped: Arc<AtomicU64>,
    limits: Arc<EntryLimits>,
}

/// The limits of counted entries. Each group of requests has its own.
#[derive(Debug, Default)]
struct EntryLimits {
    refusals: Refusals,
    /// Error responses of the application.
    errors: Refusals,
}

impl EntryLimits {
    /// Returns the limits for entries of this kind.
    fn of(&self, kind: RefusalKind) -> &Refusals {
        if kind == RefusalKind::ApplicationError { &self.errors } else { &self.refusals }
    }

    fn all(&self) -> [&Refusals; 2] {
        [&self.refusals, &self.errors]
    }

    /// Returns when [`EntryLimits::write_due`] must be called next.
    fn next_due(&self) -> Option<Instant> {
        self.all().into_iter().filter_map(Refusals::next_due).min()
    }

    /// Writes the entries about requests that were counted for long enough.
    fn write_due(&self, now: Instant) {
        for limits in self.all() {
            if limits.next_due().is_some_and(|due| due <= now) {
                limits.take_due(now).iter().for_each(write_refusal);
            }
        }
    }
}

impl Journal {
    /// Starts the thread. It writes everything and ends when the last clone is dropped; join the
    /// handle to wait for that.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start() -> io::Result<(Self, LogThread)> {
        let (entries, waiting) = sync_channel(MAX_QUEUED);
        let dropped = Arc::new(AtomicU64::new(0));
        let limits = Arc::new(EntryLimits::default());
        let (counter, pending) = (Arc::clone(&dropped), Arc::clone(&limits));
        let writer = LogThread::spawn("journal", move || run_writer(&waiting, &counter, &pending))?;
        Ok((Self { entries, dropped, limits }, writer))
    }

    /// Logs a refused request without a valid head, or a failed TLS handshake, at most once a
    /// second for each kind and client.
    pub fn refused(&self, refused: RefusalRecord) {
        self.refuse(refused, None);
    }

    /// Logs a refused request with method and path; limited as in [`Journal::refused`].
    pub fn refused_request(&self, kind: RefusalKind, status: u16, detail: String, request: LoggedRequest) {
        self.count_request(kind, status, detail, request, None);
    }

    /// Logs a response of the application with a status of 500 or above; limited as in
    /// [`Journal::refused`]. Called instead of [`Journal::access`] if there is no access log.
    pub fn application_error(&self, status: u16, request: LoggedRequest, worker: Option<WorkerId>) {
        let detail = "the application answered with an error".to_owned();
        self.count_request(RefusalKind::ApplicationError, status, detail, request, worker);
    }

    fn count_request(
        &self,
        kind: RefusalKind,
        status: u16,
        detail: String,
        request: LoggedRequest,
        worker: Option<WorkerId>,
    ) {
        let LoggedRequest { id, method, path, client, client_request_id, trace, details: _ } = request;
        let request = RefusedRequest { method, path, client_request_id, trace, worker };
        let response = RefusalResponse { id, status };
        self.refuse(RefusalRecord { response: Some(response), client, kind, detail }, Some(request));
    }

    fn refuse(&self, refused: RefusalRecord, request: Option<RefusedRequest>) {
        let limits = self.limits.of(refused.kind);
        if let Some(entry) = limits.admit(RefusalEntry::new(refused, request), Instant::now()) {
            self.send(JournalEntry::Refusal(entry));
        }
    }

    /// Logs a response of the application.
    pub fn access(&self, access: AccessEntry) {
        self.send(JournalEntry::Access(access));
    }

    /// Logs a response of the daemon.
    pub fn failure(&self, failure: FailureEntry) {
        self.send(JournalEntry::Failure(failure));
    }

    /// Logs an incomplete or missing response.
    pub fn unanswered(&self, unanswered: UnansweredEntry) {
        self.send(JournalEntry::Unanswered(unanswered));
    }

    /// Logs the end of a WebSocket.
    pub fn websocket_closed(&self, closed: WebSocketEntry) {
        self.send(JournalEntry::Closed(closed));
    }

    fn send(&self, entry: JournalEntry) {
        match self.entries.try_send(entry) {
            Ok(()) => {}
            // Disconnected: the thread panicked.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn run_writer(entries: &Receiver<JournalEntry>, dropped: &AtomicU64, limits: &EntryLimits) {
    daemon_log::wait_when_full();
    loop {
        let entry = match limits.next_due() {
            None => entries.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => entries.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match entry {
            Ok(JournalEntry::Access(access)) => write_access(&access),
            Ok(JournalEntry::Failure(failure)) => write_failure(&failure),
            Ok(JournalEntry::Unanswered(unanswered)) => write_unanswered(&unanswered),
            Ok(JournalEntry::Closed(closed)) => write_websocket(&closed),
            Ok(JournalEntry::Refusal(refusal)) => write_refusal(&refusal),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        limits.write_due(Instant::now());
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            daemon_log::count_dropped(lost);
        }
    }
    let now = Instant::now();
    limits.all().iter().flat_map(|limits| limits.take_all(now)).for_each(|entry| write_refusal(&entry));
}
