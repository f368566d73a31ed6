//! One entry per request: the access log, every answer that the daemon gave in the application's place, and every
//! request that ended without one. What was refused before the application had it is counted together
//! ([`refusals`](super::refusals)).
//!
//! Entries are formatted by a thread of their own behind a bounded queue, so that the reactor need not; it waits
//! for room in the log while the log moves. When the queue is full entries are dropped, and counted with what the log
//! has lost otherwise.

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

pub use super::refusals::RefusalRecord;

/// Entries that may wait for the writer.
const MAX_QUEUED: usize = 4096;

/// The request an entry is about.
#[derive(Debug)]
pub struct LoggedRequest {
    /// Its id.
    pub id: String,
    /// Its method.
    pub method: String,
    /// Its path, as sent, without the query (which may hold secrets).
    pub path: RequestPath,
    /// The client's address; empty on a unix socket.
    pub client: String,
    /// The `X-Request-ID` that the client sent, if the request did not get it as its id. Printable.
    pub client_request_id: Option<String>,
}

/// A request that was answered by the application.
#[derive(Debug)]
pub struct AccessEntry {
    /// The request.
    pub request: LoggedRequest,
    /// Status code.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
    /// From the complete head to the end of the body.
    pub duration: Duration,
    /// Of that, waiting for a worker.
    pub queued: Duration,
    /// Who answered.
    pub worker: Option<WorkerId>,
}

/// A request that was answered by the daemon, and why.
#[derive(Debug)]
pub struct FailureEntry {
    /// The request.
    pub request: LoggedRequest,
    /// Status code.
    pub status: u16,
    /// From the complete head to the answer.
    pub duration: Duration,
    /// Who had it.
    pub worker: Option<WorkerId>,
    /// One line.
    pub summary: String,
    /// The application's traceback; may be empty.
    pub traceback: String,
    /// Every request is noted, the client's faults too.
    pub log_access: bool,
}

/// A request that got no answer, or not all of it, and why.
#[derive(Debug)]
pub struct UnansweredEntry {
    /// The request.
    pub request: LoggedRequest,
    /// What of an answer was sent.
    pub sent: Option<PartialResponse>,
    /// From the complete head to the end.
    pub duration: Duration,
    /// Who had it.
    pub worker: Option<WorkerId>,
    /// Why.
    pub cause: UnansweredCause,
    /// Every request is noted, those that nobody waits for too.
    pub log_access: bool,
}

/// The beginning of an answer.
#[derive(Debug, Clone, Copy)]
pub struct PartialResponse {
    /// Status code.
    pub status: u16,
    /// Bytes of the body.
    pub bytes: u64,
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnansweredCause {
    /// The client has left.
    ClientClosed,
    /// The client took nothing of what it was sent for `timeouts.body`, or less than `limits.response_rate`.
    WriteTimeout,
    /// The daemon stops.
    Shutdown,
}

/// A WebSocket that is over. That it was opened is told by the [`AccessEntry`] of its handshake, with status 101.
#[derive(Debug)]
pub struct WebSocketEntry {
    /// The handshake.
    pub request: LoggedRequest,
    /// Close code (RFC 6455 §7.4) of whoever closed it first; 1006 if nobody did.
    pub code: u16,
    /// From the complete handshake to the end.
    pub duration: Duration,
    /// From the client.
    pub received: Traffic,
    /// To the client.
    pub sent: Traffic,
    /// Who had it.
    pub worker: Option<WorkerId>,
    /// Every request is noted.
    pub log_access: bool,
}

/// Messages of one direction.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Whole ones.
    pub messages: u64,
    /// Bytes of them, before and after compression.
    pub bytes: u64,
}

impl Traffic {
    /// A part of a message: the last, or `more` follows.
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

/// The queue to the writer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    entries: SyncSender<JournalEntry>,
    dropped: Arc<AtomicU64>,
    refusals: Arc<Refusals>,
}

impl Journal {
    /// Starts the writer. It ends, having written everything, when the last clone is dropped; join the handle
    /// to wait for that.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> io::Result<(Self, LogThread)> {
        let (entries, waiting) = sync_channel(MAX_QUEUED);
        let dropped = Arc::new(AtomicU64::new(0));
        let refusals = Arc::new(Refusals::default());
        let (counter, pending) = (Arc::clone(&dropped), Arc::clone(&refusals));
        let writer = LogThread::spawn("journal", move || run_writer(&waiting, &counter, &pending))?;
        Ok((Self { entries, dropped, refusals }, writer))
    }

    /// Notes a request that the daemon refused before it was one, or at least before anything else knows of it: at most
    /// one entry a second for a kind and a client.
    pub fn refused(&self, refused: RefusalRecord) {
        self.refuse(refused, None);
    }

    /// Notes a request that the daemon refused. As [`Journal::refused`], with method and path.
    pub fn refused_request(&self, kind: RefusalKind, status: u16, detail: String, request: LoggedRequest) {
        let LoggedRequest { id, method, path, client, client_request_id } = request;
        let request = RefusedRequest { method, path, client_request_id };
        self.refuse(RefusalRecord { id, client, kind, status, detail }, Some(request));
    }

    fn refuse(&self, refused: RefusalRecord, request: Option<RefusedRequest>) {
        if let Some(entry) = self.refusals.admit(RefusalEntry::new(refused, request), Instant::now()) {
            self.send(JournalEntry::Refusal(entry));
        }
    }

    /// Notes a request that the application answered.
    pub fn access(&self, access: AccessEntry) {
        self.send(JournalEntry::Access(access));
    }

    /// Notes a request that the daemon answered.
    pub fn failure(&self, failure: FailureEntry) {
        self.send(JournalEntry::Failure(failure));
    }

    /// Notes a request that nobody answered.
    pub fn unanswered(&self, unanswered: UnansweredEntry) {
        self.send(JournalEntry::Unanswered(unanswered));
    }

    /// Notes the end of a WebSocket.
    pub fn websocket_closed(&self, closed: WebSocketEntry) {
        self.send(JournalEntry::Closed(closed));
    }

    fn send(&self, entry: JournalEntry) {
        match self.entries.try_send(entry) {
            Ok(()) => {}
            // The writer lives as long as there is a sender; its end can only be a panic of its own.
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

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn write_access(access: &AccessEntry) {
    let AccessEntry { request, status, bytes, duration, queued, worker } = access;
    let LoggedRequest { id, method, path, client, client_request_id } = request;
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
        },
        "{method} {path} {status}"
    );
}

fn write_failure(failure: &FailureEntry) {
    let FailureEntry { request, status, duration, worker, summary, traceback, log_access } = failure;
    let LoggedRequest { id, method, path, client, client_request_id } = request;
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
                },
                "{method} {path} {status}: {summary}{separator}{traceback}"
            )
        };
    }
    // The client's faults are not the operator's business, unless every request is; a full queue is a warning; the
    // rest is an error.
    match status {
        // Who was given up for being slow is named.
        408 => entry!(info),
        400..=499 | 501 if *log_access => entry!(info),
        400..=499 | 501 => entry!(debug),
        503 => entry!(warn),
        _ => entry!(error),
    }
}

fn write_refusal(entry: &RefusalEntry) {
    let RefusalRecord { id, client, kind, status, detail } = &entry.refused;
    let request = entry.request.as_ref();
    let path = request.map(|request| &request.path);
    let what = match request {
        Some(RefusedRequest { method, path, .. }) => format!("{method} {path} {status}"),
        None => format!("refused with {status}"),
    };
    let others = entry.count_suffix();
    let ids = (!entry.ids.is_empty()).then(|| entry.ids.join(" "));
    macro_rules! entry {
        ($level:ident) => {
            tracing::$level!(
                target: "rgun::request",
                {
                rgun.request_id = %id,
                rgun.method = request.map(|request| tracing::field::display(&request.method)),
                rgun.path = path.map(tracing::field::display),
                rgun.path_raw = path.and_then(RequestPath::raw),
                rgun.status = status,
                rgun.kind = %kind,
                rgun.more = entry.n_more,
                rgun.request_ids = ids.as_ref().map(tracing::field::display),
                rgun.client = %client,
                rgun.client_request_id = request.and_then(|request| request.client_request_id.as_deref()),
                },
                "{what}: {detail}{others}"
            )
        };
    }
    match status {
        400..=499 | 501 | 505 => entry!(info),
        503 => entry!(warn),
        _ => entry!(error),
    }
}

fn write_unanswered(unanswered: &UnansweredEntry) {
    let UnansweredEntry { request, sent, duration, worker, cause, log_access } = unanswered;
    let LoggedRequest { id, method, path, client, client_request_id } = request;
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
                },
                "{method} {path}{end}"
            )
        };
    }
    // Who does not wait for an answer needs none; who does is owed one; and who was given up is named.
    match cause {
        UnansweredCause::Shutdown => entry!(warn),
        UnansweredCause::WriteTimeout => entry!(info),
        UnansweredCause::ClientClosed if *log_access => entry!(info),
        UnansweredCause::ClientClosed => entry!(debug),
    }
}

fn write_websocket(closed: &WebSocketEntry) {
    let WebSocketEntry { request, code, duration, received, sent, worker, log_access } = closed;
    let LoggedRequest { id, method, path, client, client_request_id } = request;
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
                },
                "{method} {path} 101 closed with {code} after {duration:.1?}: {} messages ({} bytes) in, {} ({} bytes) out",
                received.messages, received.bytes, sent.messages, sent.bytes
            )
        };
    }
    if *log_access { entry!(info) } else { entry!(debug) }
}

impl UnansweredEntry {
    /// What follows the path: ` 200: broken off in mid-body: the client left after 1.2s`.
    fn end(&self) -> String {
        let begun = match self.sent {
            Some(PartialResponse { status, .. }) => format!(" {status}: broken off in mid-body"),
            None => String::new(),
        };
        let duration = self.duration;
        match self.cause {
            UnansweredCause::ClientClosed => format!("{begun}: the client left after {duration:.1?}"),
            UnansweredCause::WriteTimeout => {
                format!("{begun}: cut off after {duration:.1?}, the client did not take its answer")
            }
            UnansweredCause::Shutdown => format!("{begun}: cut off after {duration:.1?}, the daemon stops"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_a_request_without_an_answer_is_one_sentence() {
        let request = || LoggedRequest {
            id: "id".to_owned(),
            method: "GET".to_owned(),
            path: RequestPath::new(b"/x"),
            client: String::new(),
            client_request_id: None,
        };
        let sent = Some(PartialResponse { status: 200, bytes: 10 });
        for (cause, sent, expected) in [
            (UnansweredCause::ClientClosed, None, ": the client left after 1.2s"),
            (UnansweredCause::ClientClosed, sent, " 200: broken off in mid-body: the client left after 1.2s"),
            (
                UnansweredCause::WriteTimeout,
                sent,
                " 200: broken off in mid-body: cut off after 1.2s, the client did not take its answer",
            ),
            (UnansweredCause::Shutdown, None, ": cut off after 1.2s, the daemon stops"),
            (
                UnansweredCause::Shutdown,
                sent,
                " 200: broken off in mid-body: cut off after 1.2s, the daemon stops",
            ),
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
