//! Writes the journal's entries about responses, refusals, unanswered requests, failed TLS handshakes
//! and other connections without a response.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use crate::dispatch::Fault;
use crate::error_chain::Chain;
use crate::escape::RequestPath;
use crate::files::FileFault;
use crate::id::WorkerId;
use crate::journal::refusal_kind::RefusalKind;
use crate::journal::requests::{
    AccessEntry, FailureEntry, LoggedRequest, PartialResponse, RefusalRecord, RefusalResponse,
    UnansweredCause, UnansweredEntry,
};
use crate::net::{CloseReason, Connection, HeaderFault, RejectedHeader};

use super::access_details::client_name;
use super::body::error::BodyError;
use super::context::{ConnContext, Server};
use super::fault::{ErrorResponse, Refusal};
use super::request_meta::RequestMeta;

/// The pending entry of a request whose response has begun. Every method that logs consumes the
/// record, so a request is logged once.
#[derive(Debug)]
pub(super) struct AccessRecord {
    /// The entry; its `bytes` grow while the body is written.
    pub(super) entry: AccessEntry,
    /// Time at which the request's head was complete.
    pub(super) received_at: Instant,
    pub(super) context: Arc<ConnContext>,
    /// False: only aborted responses and the application's own errors are logged.
    pub(super) log_access: bool,
}

impl AccessRecord {
    /// Logs the response as complete, or as aborted if the connection is closed or the file that it
    /// sent was truncated.
    pub(super) fn finish(self) {
        if self.context.connection.output.files.is_truncated() {
            self.log_failure(&BodyError::File(io::ErrorKind::UnexpectedEof.into()));
        } else if self.context.connection.is_closed() {
            let cause = unanswered_cause(&self.context.connection);
            self.log_incomplete(cause);
        } else {
            self.log_complete();
        }
    }

    fn log_complete(mut self) {
        if self.log_access {
            self.entry.duration = self.received_at.elapsed();
            let Self { entry, context, .. } = self;
            context.server.journal.access(entry);
        } else if self.entry.status >= 500 && self.entry.worker.is_some() {
            let AccessEntry { request, status, worker, .. } = self.entry;
            self.context.server.journal.application_error(status, request, worker);
        }
    }

    fn log_incomplete(self, cause: UnansweredCause) {
        let unsent = self.context.connection.output.unsent();
        let bytes = self.entry.bytes.saturating_sub(unsent);
        self.log_own_line(bytes);
        let AccessEntry { request, status, worker, .. } = self.entry;
        self.context.server.journal.unanswered(UnansweredEntry {
            request,
            sent: Some(PartialResponse { status, bytes }),
            duration: self.received_at.elapsed(),
            worker,
            cause,
            log_access: self.log_access,
        });
    }

    /// Logs the line in the operator's own form (`log.access_format`). Every response has this
    /// line, in addition to the entry about its failure.
    fn log_own_line(&self, bytes: u64) {
        if self.entry.request.has_own_line() {
            let duration = self.received_at.elapsed();
            self.context.server.journal.access(AccessEntry { bytes, duration, ..self.entry.clone() });
        }
    }

    /// Logs an error within the body. The head was already sent, so the client cannot get an error
    /// response.
    pub(super) fn log_failure(self, error: &BodyError) {
        let (summary, traceback) = match error {
            BodyError::Fault(Fault::ClientHalfClosed) => {
                return self.log_incomplete(UnansweredCause::ClientClosed);
            }
            // The supervisor logs an exceeded deadline, once it has the worker's stacks.
            BodyError::Fault(Fault::Deadline(_)) => return,
            BodyError::Fault(Fault::Raised { summary, traceback, .. }) => {
                (summary.clone(), traceback.clone())
            }
            BodyError::Fault(fault) => (Refusal::Exchange(fault.clone()).to_response().reason, String::new()),
            BodyError::File(_) | BodyError::Compression(_) => (Chain(error).to_string(), String::new()),
        };
        self.log_own_line(self.entry.bytes);
        let AccessEntry { request, status, worker, .. } = self.entry;
        self.context.server.journal.failure(FailureEntry {
            request,
            status,
            duration: self.received_at.elapsed(),
            worker,
            summary: format!("aborted within the body: {summary}"),
            traceback,
            log_access: self.log_access,
        });
    }
}

/// Logs a refusal, either counted with others of its kind or as a separate entry.
pub(super) fn log_refusal(
    context: &ConnContext,
    meta: &RequestMeta,
    refusal: &Refusal,
    response: &ErrorResponse,
) {
    let ConnContext { server, connection, .. } = context;
    let ErrorResponse { status, reason, .. } = response;
    if let Refusal::HttpsRedirect(_) = refusal {
        return log_redirect(context, meta, status.as_u16());
    }
    let (worker, summary, traceback) = match refusal {
        Refusal::Exchange(Fault::Raised { worker, summary, traceback, .. }) => {
            (Some(*worker), summary.clone(), traceback.clone())
        }
        Refusal::Exchange(
            Fault::Deadline(worker) | Fault::WorkerDied(worker) | Fault::WorkerKilled(worker),
        ) => (Some(*worker), reason.clone(), String::new()),
        Refusal::Exchange(Fault::Unavailable(why)) => (None, format!("{reason}: {why}"), String::new()),
        Refusal::WrongLength(worker) | Refusal::Takeover(worker, _) => {
            (*worker, reason.clone(), String::new())
        }
        Refusal::Spool(error) | Refusal::File(FileFault::Exhausted(error) | FileFault::Failed(error)) => {
            (None, format!("{reason}: {error}"), String::new())
        }
        Refusal::OutsideFile { worker, value } => (
            *worker,
            format!("{reason}: \"{value}\" is in none of the directories of app.sendfile_roots"),
            String::new(),
        ),
        Refusal::Client(..)
        | Refusal::Framing(_)
        | Refusal::FirstBoot
        | Refusal::LoadFailed(_)
        | Refusal::HttpsRedirect(_)
        | Refusal::Exchange(_)
        | Refusal::File(_) => (None, reason.clone(), String::new()),
    };
    let request = logged_request(connection, meta);
    if let (Some(head), Some(kind)) = (context.refused_head.get(), refusal.kind()) {
        // The head was not parsed, so there is no method and no path to log.
        let detail = head.describe(summary);
        let LoggedRequest { id, client, .. } = request;
        let response = Some(RefusalResponse { id, status: status.as_u16() });
        server.journal.refused(RefusalRecord { response, client, kind, detail });
    } else if let Some(kind) = refusal.kind().filter(|_| server.access_log.is_none()) {
        server.journal.refused_request(kind, status.as_u16(), summary, request);
    } else if !matches!(refusal, Refusal::Exchange(Fault::Deadline(_))) {
        // The supervisor logs an exceeded deadline, once it has the worker's stacks.
        server.journal.failure(FailureEntry {
            request,
            status: status.as_u16(),
            duration: meta.received_at.elapsed(),
            worker,
            summary,
            traceback,
            log_access: server.access_log.is_some(),
        });
    }
}

/// Logs a TLS handshake that failed. `reason` is `None` if the client sent nothing: a load
/// balancer's health check may only open a connection.
pub fn log_failed_handshake(server: &Server, client: String, reason: Option<String>) {
    let Some(detail) = reason else {
        return tracing::debug!(client, "a client left before its TLS handshake");
    };
    let kind = RefusalKind::TlsHandshake;
    server.journal.refused(RefusalRecord { response: None, client, kind, detail });
}

/// Logs an HTTP/2 connection that is closed because of its frames.
pub(super) fn log_flood(server: &Server, connection: &Connection, detail: String) {
    let client = connection.peer.address.clone();
    server.journal.refused(RefusalRecord { response: None, client, kind: RefusalKind::FrameFlood, detail });
}

/// Logs a connection that was closed because of its PROXY header.
pub fn log_rejected_header(server: &Server, rejected: RejectedHeader) {
    let RejectedHeader { peer, listener, fault } = rejected;
    let kind = match fault {
        HeaderFault::Untrusted => RefusalKind::UntrustedProxy,
        HeaderFault::Late | HeaderFault::Stopped => RefusalKind::SlowProxyHeader,
        HeaderFault::Invalid(_) => RefusalKind::BadProxyHeader,
    };
    let detail = format!("{fault} (listener {listener})");
    server.journal.refused(RefusalRecord { response: None, client: peer, kind, detail });
}

/// Logs a redirect if every request is logged; a redirect is not a failure.
fn log_redirect(context: &ConnContext, meta: &RequestMeta, status: u16) {
    let ConnContext { server, connection, .. } = context;
    if server.access_log.is_some() {
        server.journal.access(AccessEntry {
            request: logged_request(connection, meta),
            status,
            bytes: 0,
            duration: meta.received_at.elapsed(),
            queued: Duration::ZERO,
            worker: None,
            fields: Vec::new(),
        });
    }
}

/// Logs the line of an error response in the operator's own form (`log.access_format`). Every
/// response has this line, in addition to the entry about its failure. `bytes` is the length of the
/// response's body.
pub(super) fn log_error_line(
    context: &ConnContext,
    meta: &RequestMeta,
    refusal: &Refusal,
    status: u16,
    bytes: usize,
) {
    let has_own_line = context.server.access_log.as_ref().is_some_and(|settings| settings.line.is_some());
    // A redirect is logged like the response of an application.
    if !has_own_line || matches!(refusal, Refusal::HttpsRedirect(_)) {
        return;
    }
    let request = logged_request(&context.connection, meta);
    if request.has_own_line() {
        context.server.journal.access(AccessEntry {
            request,
            status,
            bytes: if meta.method == Method::HEAD { 0 } else { bytes as u64 },
            duration: meta.received_at.elapsed(),
            queued: Duration::ZERO,
            worker: None,
            fields: Vec::new(),
        });
    }
}

/// Logs a request whose connection was closed before its response began.
pub(super) fn log_unanswered(context: &ConnContext, meta: &RequestMeta, worker: Option<WorkerId>) {
    let ConnContext { server, connection, .. } = context;
    server.journal.unanswered(UnansweredEntry {
        request: logged_request(connection, meta),
        sent: None,
        duration: meta.received_at.elapsed(),
        worker,
        cause: unanswered_cause(connection),
        log_access: server.access_log.is_some(),
    });
}

/// Returns the request as the journal writes it.
pub(super) fn logged_request(connection: &Connection, meta: &RequestMeta) -> LoggedRequest {
    let origin = meta.origin.as_deref();
    let client = origin.and_then(|origin| origin.client.as_ref()).unwrap_or(&connection.peer);
    LoggedRequest {
        id: meta.id.as_str().to_owned(),
        method: meta.method.as_str().to_owned(),
        path: RequestPath::new(meta.path.as_bytes()),
        client: client_name(client),
        client_request_id: origin.and_then(|origin| origin.client_id.clone()),
        trace: origin.and_then(|origin| origin.trace.clone()),
        details: origin.and_then(|origin| origin.details.clone()),
    }
}

/// Returns why a request on this closed connection has no response, or only a part of one.
fn unanswered_cause(connection: &Connection) -> UnansweredCause {
    match connection.close_reason() {
        CloseReason::ClientClosed => UnansweredCause::ClientClosed,
        CloseReason::WriteTimeout => UnansweredCause::WriteTimeout,
        CloseReason::Shutdown => UnansweredCause::Shutdown,
    }
}
