//! One entry per request: the access log, responses that the daemon gave in place of the application, and requests that
//! ended without a response. Refused requests are counted ([`refusals`](super::refusals)).
//!
//! The thread "journal" formats the entries behind a bounded queue, to keep that off the reactor. The thread waits for
//! room in the log while the log makes progress. When the queue is full, entries are dropped and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::escape::RequestPath;
use crate::id::WorkerId;

use super::daemon_log;
use super::refusal_kind::RefusalKind;
use super::refusals::{RefusalEntry, Refusals, RefusedRequest};
use super::thread::LogThread;
use super::trace_ids::TraceIds;

pub use super::refusals::{RefusalAnswer, RefusalRecord};

/// Entries in the queue to the writer.
const MAX_QUEUED: usize = 4096;

/// The request in an entry.
#[derive(Debug)]
pub struct LoggedRequest {
    /// The request id.
    pub id: String,
    /// The request method, as sent.
    pub method: String,
    /// The path as sent, without the query, which may hold secrets.
    pub path: RequestPath,
    /// The client's address. Empty on a unix socket.
    pub client: String,
    /// The client's `X-Request-ID`, if it was not taken as the request id. Printable.
    pub client_request_id: Option<String>,
    /// The ids of the request's trace, if it has one.
    pub trace: Option<Box<TraceIds>>,
}

/// A response of the application.
#[derive(Debug)]
pub struct AccessEntry {
    /// The request that was answered.
    pub request: LoggedRequest,
    /// Status code.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
    /// Time from the complete head to the end of the response's body.
    pub duration: Duration,
    /// The part of this time spent waiting for a worker.
    pub queued: Duration,
    /// The worker that ran the request; `None` if there was none.
    pub worker: Option<WorkerId>,
}

/// A response of the daemon in place of the application.
#[derive(Debug)]
pub struct FailureEntry {
    /// The request that was answered.
    pub request: LoggedRequest,
    /// Status code.
    pub status: u16,
    /// Time from the complete head to the response.
    pub duration: Duration,
    /// The worker. `None` if the request was not assigned.
    pub worker: Option<WorkerId>,
    /// The reason, in one line.
    pub summary: String,
    /// The application's traceback. May be empty.
    pub traceback: String,
    /// `log.access`: entries about the client's errors are at level info.
    pub log_access: bool,
}

/// A request that got no response, or only a part of it.
#[derive(Debug)]
pub struct UnansweredEntry {
    /// The request that failed.
    pub request: LoggedRequest,
    /// The part of the response that was sent. `None`: nothing.
    pub sent: Option<PartialResponse>,
    /// Time from the complete head to the end.
    pub duration: Duration,
    /// The worker. `None` if the request was not assigned.
    pub worker: Option<WorkerId>,
    /// The reason for the end.
    pub cause: UnansweredCause,
    /// `log.access`: entries about clients that left are at level info.
    pub log_access: bool,
}

/// The part of a response that was sent.
#[derive(Debug, Clone, Copy)]
pub struct PartialResponse {
    /// Status code.
    pub status: u16,
    /// Bytes of the body.
    pub bytes: u64,
}

/// The reason for an incomplete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnansweredCause {
    /// The client closed the connection.
    ClientClosed,
    /// The client read nothing for `timeouts.body`, or less than `limits.response_rate`.
    WriteTimeout,
    /// The daemon is stopping.
    Shutdown,
}

/// The end of a WebSocket. Its handshake had an [`AccessEntry`] with status 101.
#[derive(Debug)]
pub struct WebSocketEntry {
    /// The handshake's request.
    pub request: LoggedRequest,
    /// The first close code of either side (RFC 6455 §7.4). 1006 without a close frame.
    pub code: u16,
    /// Time from the complete handshake to the end.
    pub duration: Duration,
    /// Messages from the client.
    pub received: Traffic,
    /// Messages to the client.
    pub sent: Traffic,
    /// The worker that served the WebSocket; `None` if there was none.
    pub worker: Option<WorkerId>,
    /// `log.access`: the entry is at level info.
    pub log_access: bool,
}

/// Messages of one direction.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Complete messages.
    pub messages: u64,
    /// Bytes of their payloads, uncompressed.
    pub bytes: u64,
}

impl Traffic {
    /// Counts a part of a message. `more`: it is not the last one.
    pub fn count(&mut self, len: usize, more: bool) {
        self.bytes += len as u64;
        self.messages += u64::from(!more);
    }
}

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
    refusals: Arc<Refusals>,
}

impl Journal {
    /// Starts the thread. It writes everything and ends when the last clone is dropped; join the handle to wait for
    /// that.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start() -> io::Result<(Self, LogThread)> {
        let (entries, waiting) = sync_channel(MAX_QUEUED);
        let dropped = Arc::new(AtomicU64::new(0));
        let refusals = Arc::new(Refusals::default());
        let (counter, pending) = (Arc::clone(&dropped), Arc::clone(&refusals));
        let writer = LogThread::spawn("journal", move || run_writer(&waiting, &counter, &pending))?;
        Ok((Self { entries, dropped, refusals }, writer))
    }

    /// Logs a refused request without a valid head, or a failed TLS handshake, at most once a second for each kind and
    /// client.
    pub fn refused(&self, refused: RefusalRecord) {
        self.refuse(refused, None);
    }

    /// Logs a refused request with method and path, as [`Journal::refused`].
    pub fn refused_request(&self, kind: RefusalKind, status: u16, detail: String, request: LoggedRequest) {
        let LoggedRequest { id, method, path, client, client_request_id, trace } = request;
        let request = RefusedRequest { method, path, client_request_id, trace };
        let answer = RefusalAnswer { id, status };
        self.refuse(RefusalRecord { answer: Some(answer), client, kind, detail }, Some(request));
    }

    fn refuse(&self, refused: RefusalRecord, request: Option<RefusedRequest>) {
        if let Some(entry) = self.refusals.admit(RefusalEntry::new(refused, request), Instant::now()) {
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

fn run_writer(entries: &Receiver<JournalEntry>, dropped: &AtomicU64, refusals: &Refusals) {
    daemon_log::wait_when_full();
    loop {
        let entry = match refusals.next_due() {
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
        let now = Instant::now();
        if refusals.next_due().is_some_and(|due| due <= now) {
            refusals.take_due(now).iter().for_each(write_refusal);
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            daemon_log::count_dropped(lost);
        }
    }
    refusals.take_all(Instant::now()).iter().for_each(write_refusal);
}

/// Returns a duration as the journal's fields give it: in microseconds, at most `u64::MAX`.
pub fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn write_access(access: &AccessEntry) {
    let AccessEntry { request, status, bytes, duration, queued, worker } = access;
    let LoggedRequest { id, method, path, client, client_request_id, trace } = request;
    tracing::info!(
        target: "rgun::access",
        {
        rgun.request_id = %id,
        rgun.method = %method,
        rgun.path = %path,
        rgun.path_raw = path.raw(),
        rgun.status = status,
        rgun.bytes = bytes,
        rgun.duration_us = microseconds(*duration),
        rgun.queue_us = microseconds(*queued),
        rgun.worker = worker.map(|worker| worker.number.0),
        rgun.client = %client,
        rgun.client_request_id = client_request_id.as_deref(),
        rgun.trace_id = trace.as_ref().map(|ids| &*ids.trace_id),
        rgun.parent_id = trace.as_ref().map(|ids| &*ids.parent_id),
        },
        "{method} {path} {status}"
    );
}

fn write_failure(failure: &FailureEntry) {
    let FailureEntry { request, status, duration, worker, summary, traceback, log_access } = failure;
    let LoggedRequest { id, method, path, client, client_request_id, trace } = request;
    let separator = if traceback.is_empty() { "" } else { "\n" };
    let traceback = traceback.trim_end();
    macro_rules! entry {
        ($level:ident) => {
            tracing::$level!(
                target: "rgun::request",
                {
                rgun.request_id = %id,
                rgun.method = %method,
                rgun.path = %path,
                rgun.path_raw = path.raw(),
                rgun.status = status,
                rgun.duration_us = microseconds(*duration),
                rgun.worker = worker.map(|worker| worker.number.0),
                rgun.client = %client,
                rgun.client_request_id = client_request_id.as_deref(),
                rgun.trace_id = trace.as_ref().map(|ids| &*ids.trace_id),
                rgun.parent_id = trace.as_ref().map(|ids| &*ids.parent_id),
                },
                "{method} {path} {status}: {summary}{separator}{traceback}"
            )
        };
    }
    // 4xx and 501 are the client's errors, which concern the operator only with log.access; 503 is a warning.
    match status {
        // 408: the daemon gave up on the client, so the entry is visible by default.
        408 => entry!(info),
        400..=499 | 501 if *log_access => entry!(info),
        400..=499 | 501 => entry!(debug),
        503 => entry!(warn),
        _ => entry!(error),
    }
}

fn write_refusal(entry: &RefusalEntry) {
    let RefusalRecord { answer, client, kind, detail } = &entry.refused;
    let (id, status) = answer.as_ref().map(|answer| (&*answer.id, answer.status)).unzip();
    let request = entry.request.as_ref();
    let path = request.map(|request| &request.path);
    let what = entry.subject();
    let trace = request.and_then(|request| request.trace.as_ref());
    let others = entry.count_suffix();
    let ids = (!entry.ids.is_empty()).then(|| entry.ids.join(" "));
    macro_rules! entry {
        ($level:ident) => {
            tracing::$level!(
                target: "rgun::request",
                {
                rgun.request_id = id,
                rgun.method = request.map(|request| tracing::field::display(&request.method)),
                rgun.path = path.map(tracing::field::display),
                rgun.path_raw = path.and_then(RequestPath::raw),
                rgun.status = status,
                rgun.kind = %kind,
                rgun.more = entry.n_more,
                rgun.request_ids = ids.as_ref().map(tracing::field::display),
                rgun.client = %client,
                rgun.client_request_id = request.and_then(|request| request.client_request_id.as_deref()),
                rgun.trace_id = trace.map(|ids| &*ids.trace_id),
                rgun.parent_id = trace.map(|ids| &*ids.parent_id),
                },
                "{what}: {detail}{others}"
            )
        };
    }
    match status {
        Some(400..=499 | 501 | 505) => entry!(info),
        Some(503) | None => entry!(warn),
        Some(_) => entry!(error),
    }
}

fn write_unanswered(unanswered: &UnansweredEntry) {
    let UnansweredEntry { request, sent, duration, worker, cause, log_access } = unanswered;
    let LoggedRequest { id, method, path, client, client_request_id, trace } = request;
    let end = unanswered.end();
    macro_rules! entry {
        ($level:ident) => {
            tracing::$level!(
                target: "rgun::request",
                {
                rgun.request_id = %id,
                rgun.method = %method,
                rgun.path = %path,
                rgun.path_raw = path.raw(),
                rgun.status = sent.map(|sent| sent.status),
                rgun.bytes = sent.map(|sent| sent.bytes),
                rgun.duration_us = microseconds(*duration),
                rgun.worker = worker.map(|worker| worker.number.0),
                rgun.client = %client,
                rgun.client_request_id = client_request_id.as_deref(),
                rgun.trace_id = trace.as_ref().map(|ids| &*ids.trace_id),
                rgun.parent_id = trace.as_ref().map(|ids| &*ids.parent_id),
                },
                "{method} {path}{end}"
            )
        };
    }
    // A client that left concerns the operator only with log.access; after the other causes a client lacks its response.
    match cause {
        UnansweredCause::Shutdown => entry!(warn),
        UnansweredCause::WriteTimeout => entry!(info),
        UnansweredCause::ClientClosed if *log_access => entry!(info),
        UnansweredCause::ClientClosed => entry!(debug),
    }
}

fn write_websocket(closed: &WebSocketEntry) {
    let WebSocketEntry { request, code, duration, received, sent, worker, log_access } = closed;
    let LoggedRequest { id, method, path, client, client_request_id, trace } = request;
    macro_rules! entry {
        ($level:ident) => {
            tracing::$level!(
                target: "rgun::access",
                {
                rgun.request_id = %id,
                rgun.method = %method,
                rgun.path = %path,
                rgun.path_raw = path.raw(),
                rgun.status = 101,
                rgun.close_code = code,
                rgun.duration_us = microseconds(*duration),
                rgun.messages_in = received.messages,
                rgun.bytes_in = received.bytes,
                rgun.messages = sent.messages,
                rgun.bytes = sent.bytes,
                rgun.worker = worker.map(|worker| worker.number.0),
                rgun.client = %client,
                rgun.client_request_id = client_request_id.as_deref(),
                rgun.trace_id = trace.as_ref().map(|ids| &*ids.trace_id),
                rgun.parent_id = trace.as_ref().map(|ids| &*ids.parent_id),
                },
                "{method} {path} 101 closed with {code} after {duration:.1?}: {} messages ({} bytes) in, {} ({} bytes) out",
                received.messages, received.bytes, sent.messages, sent.bytes
            )
        };
    }
    if *log_access { entry!(info) } else { entry!(debug) }
}

impl UnansweredEntry {
    /// Returns the text after the path: ` 200: aborted within the body: the client left after 1.2s`.
    fn end(&self) -> String {
        let begun = match self.sent {
            Some(PartialResponse { status, .. }) => format!(" {status}: aborted within the body"),
            None => String::new(),
        };
        let duration = self.duration;
        match self.cause {
            UnansweredCause::ClientClosed => format!("{begun}: the client left after {duration:.1?}"),
            UnansweredCause::WriteTimeout => {
                format!("{begun}: connection closed after {duration:.1?}, the client did not read")
            }
            UnansweredCause::Shutdown => format!("{begun}: the daemon stopped after {duration:.1?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_of_a_missing_response_is_one_sentence() {
        let request = || LoggedRequest {
            id: "id".to_owned(),
            method: "GET".to_owned(),
            path: RequestPath::new(b"/x"),
            client: String::new(),
            client_request_id: None,
            trace: None,
        };
        let sent = Some(PartialResponse { status: 200, bytes: 10 });
        for (cause, sent, expected) in [
            (UnansweredCause::ClientClosed, None, ": the client left after 1.2s"),
            (
                UnansweredCause::ClientClosed,
                sent,
                " 200: aborted within the body: the client left after 1.2s",
            ),
            (
                UnansweredCause::WriteTimeout,
                sent,
                " 200: aborted within the body: connection closed after 1.2s, the client did not read",
            ),
            (UnansweredCause::Shutdown, None, ": the daemon stopped after 1.2s"),
            (UnansweredCause::Shutdown, sent, " 200: aborted within the body: the daemon stopped after 1.2s"),
        ] {
            let duration = Duration::from_millis(1234);
            let unanswered = UnansweredEntry {
                request: request(),
                sent,
                duration,
                worker: None,
                cause,
                log_access: false,
            };
            assert_eq!(unanswered.end(), expected);
        }
    }
}
