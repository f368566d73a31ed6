//! Writes the entries about requests: level, text and fields of each.

use std::borrow::Cow;
use std::time::Duration;

use chrono::Local;

use crate::escape::RequestPath;

use super::access_line;
use super::catalog::OperatorEvent;
use super::refusal_kind::RefusalKind;
use super::refusals::{RefusalEntry, RefusalRecord};
use super::request_entries::{
    AccessDetails, AccessEntry, BoundedText, FailureEntry, LoggedRequest, UnansweredCause, UnansweredEntry,
    WebSocketEntry,
};

/// Returns a duration as the journal's fields give it: in microseconds, at most `u64::MAX`.
pub fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Logs an entry about a request, with the fields that all such entries have and the given fields.
macro_rules! log_request {
    (target: $target:literal, $level:ident, $request:expr, { $($field:tt)+ }, $($message:tt)+) => {{
        let LoggedRequest { id, method, path, client, client_request_id, trace, details } = $request;
        let shown = ShownDetails::of(details.as_deref());
        tracing::$level!(
            target: $target,
            {
            rgun.request_id = %id,
            rgun.method = %method,
            rgun.path = %path,
            rgun.path_raw = path.raw(),
            rgun.query = shown.query.as_deref(),
            $($field)+
            rgun.client = %client,
            rgun.peer = shown.peer,
            rgun.user_agent = shown.user_agent.as_deref(),
            rgun.referer = shown.referrer.as_deref(),
            rgun.protocol = shown.protocol,
            rgun.scheme = shown.scheme,
            rgun.client_request_id = client_request_id.as_deref(),
            rgun.trace_id = trace.as_ref().map(|ids| &*ids.trace_id),
            rgun.parent_id = trace.as_ref().map(|ids| &*ids.parent_id),
            },
            $($message)+
        )
    }};
}

/// The details of a request, escaped; all are `None` if they were not copied.
#[derive(Default)]
struct ShownDetails<'d> {
    query: Option<Cow<'d, str>>,
    user_agent: Option<Cow<'d, str>>,
    referrer: Option<Cow<'d, str>>,
    protocol: Option<&'d str>,
    scheme: Option<&'d str>,
    peer: Option<&'d str>,
}

impl<'d> ShownDetails<'d> {
    fn of(details: Option<&'d AccessDetails>) -> Self {
        let Some(details) = details else { return Self::default() };
        let AccessDetails { query, user_agent, referrer, protocol, scheme, peer, .. } = details;
        let shown = |text: &'d Option<BoundedText>| text.as_ref().map(BoundedText::shown);
        Self {
            query: shown(query),
            user_agent: shown(user_agent),
            referrer: shown(referrer),
            protocol: Some(protocol),
            scheme: Some(scheme),
            peer: peer.as_deref(),
        }
    }
}

/// Returns the path, with the query if queries are logged.
fn target_of(request: &LoggedRequest) -> String {
    let query = request.details.as_ref().and_then(|details| details.query.as_ref());
    match query {
        Some(query) => format!("{}?{}", request.path, query.shown()),
        None => request.path.to_string(),
    }
}

pub(super) fn write_access(access: &AccessEntry) {
    let AccessEntry { request, status, bytes, duration, queued, worker, .. } = access;
    let details = request.details.as_deref();
    let line = details.and_then(|details| {
        details.line.as_ref().map(|line| access_line::render(line, access, details, Local::now()))
    });
    let is_line = line.is_some().then_some(true);
    let text = line.unwrap_or_else(|| format!("{} {} {status}", request.method, target_of(request)));
    // An error response of the daemon, which no worker has given, has an entry of its own besides its
    // line.
    let is_server_error = *status >= 500 && worker.is_some();
    let event = is_server_error.then_some(OperatorEvent::ServerError);
    macro_rules! entry {
        ($level:ident) => {
            log_request!(
                target: "rgun::access", $level, request,
                {
                message_id = event.map(OperatorEvent::id),
                rgun.status = status,
                rgun.bytes = bytes,
                rgun.duration_us = microseconds(*duration),
                rgun.queue_us = microseconds(*queued),
                rgun.worker = worker.map(|worker| worker.number.0),
                whole_line = is_line,
                },
                "{text}"
            )
        };
    }
    // An operator looks for failed requests by priority.
    match status {
        503 if is_server_error => entry!(warn),
        _ if is_server_error => entry!(error),
        _ => entry!(info),
    }
}

pub(super) fn write_failure(failure: &FailureEntry) {
    let FailureEntry { request, status, duration, worker, summary, traceback, log_access } = failure;
    let (method, target) = (&request.method, target_of(request));
    let separator = if traceback.is_empty() { "" } else { "\n" };
    let traceback = traceback.trim_end();
    let event = (*status >= 500).then_some(OperatorEvent::Exception);
    macro_rules! entry {
        ($level:ident) => {
            log_request!(
                target: "rgun::request", $level, request,
                {
                message_id = event.map(OperatorEvent::id),
                rgun.status = status,
                rgun.duration_us = microseconds(*duration),
                rgun.worker = worker.map(|worker| worker.number.0),
                },
                "{method} {target} {status}: {summary}{separator}{traceback}"
            )
        };
    }
    // 4xx and 501 are the client's errors, which concern the operator only with log.access; 503 is
    // a warning.
    match status {
        // 408: the daemon gave up on the client, so the entry is visible by default.
        408 => entry!(info),
        400..=499 | 501 if *log_access => entry!(info),
        400..=499 | 501 => entry!(debug),
        503 => entry!(warn),
        _ => entry!(error),
    }
}

pub(super) fn write_refusal(entry: &RefusalEntry) {
    let RefusalRecord { response, client, kind, detail } = &entry.refused;
    let (id, status) = response.as_ref().map(|response| (&*response.id, response.status)).unzip();
    let request = entry.request.as_ref();
    let path = request.map(|request| &request.path);
    let what = entry.subject();
    let trace = request.and_then(|request| request.trace.as_ref());
    let others = entry.count_suffix();
    let ids = (!entry.ids.is_empty()).then(|| entry.ids.join(" "));
    let is_answer = *kind == RefusalKind::ApplicationError;
    let event = if is_answer { OperatorEvent::ServerError } else { OperatorEvent::Refused };
    let worker = request.and_then(|request| request.worker);
    macro_rules! entry {
        ($level:ident) => {
            tracing::$level!(
                target: "rgun::request",
                {
                message_id = event.id(),
                rgun.request_id = id.map(tracing::field::display),
                rgun.method = request.map(|request| tracing::field::display(&request.method)),
                rgun.path = path.map(tracing::field::display),
                rgun.path_raw = path.and_then(RequestPath::raw),
                rgun.status = status,
                rgun.worker = worker.map(|worker| worker.number.0),
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
        Some(400..=499 | 501 | 505) if !is_answer => entry!(info),
        Some(503) | None => entry!(warn),
        Some(_) => entry!(error),
    }
}

pub(super) fn write_unanswered(unanswered: &UnansweredEntry) {
    let UnansweredEntry { request, sent, duration, worker, cause, log_access } = unanswered;
    let (method, target, end) = (&request.method, target_of(request), unanswered.end());
    macro_rules! entry {
        ($level:ident) => {
            log_request!(
                target: "rgun::request", $level, request,
                {
                rgun.status = sent.map(|sent| sent.status),
                rgun.bytes = sent.map(|sent| sent.bytes),
                rgun.duration_us = microseconds(*duration),
                rgun.worker = worker.map(|worker| worker.number.0),
                },
                "{method} {target}{end}"
            )
        };
    }
    // A client that left concerns the operator only with log.access. With the other causes, a
    // client that waited got no complete response.
    match cause {
        UnansweredCause::Shutdown => entry!(warn),
        UnansweredCause::WriteTimeout => entry!(info),
        UnansweredCause::ClientClosed if *log_access => entry!(info),
        UnansweredCause::ClientClosed => entry!(debug),
    }
}

pub(super) fn write_websocket(closed: &WebSocketEntry) {
    let WebSocketEntry { request, code, duration, received, sent, worker, log_access } = closed;
    let (method, target) = (&request.method, target_of(request));
    macro_rules! entry {
        ($level:ident) => {
            log_request!(
                target: "rgun::access", $level, request,
                {
                rgun.status = 101,
                rgun.close_code = code,
                rgun.duration_us = microseconds(*duration),
                rgun.messages_in = received.messages,
                rgun.bytes_in = received.bytes,
                rgun.messages = sent.messages,
                rgun.bytes = sent.bytes,
                rgun.worker = worker.map(|worker| worker.number.0),
                },
                "{method} {target} 101 closed with {code} after {duration:.1?}: {} messages ({} bytes) in, {} ({} bytes) out",
                received.messages, received.bytes, sent.messages, sent.bytes
            )
        };
    }
    // The operator's own form has no atoms for messages, and the handshake had its line already.
    if *log_access && !request.has_own_line() { entry!(info) } else { entry!(debug) }
}
