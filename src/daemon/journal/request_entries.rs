//! The entries about requests, as the edge thread hands them to the thread "journal".

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{AccessFormat, Atom, FormatPiece};
use crate::escape::{LineFeeds, RequestPath, escape_bytes};
use crate::id::WorkerId;

use super::trace_ids::TraceIds;

/// The request in an entry.
#[derive(Debug, Clone)]
pub struct LoggedRequest {
    /// The request id.
    pub id: String,
    /// The request method, as sent.
    pub method: String,
    /// The path as sent, without the query.
    pub path: RequestPath,
    /// The client's address; `unix` for a client on a unix socket.
    pub client: String,
    /// The client's `X-Request-ID`, if it was not taken as the request id. Printable.
    pub client_request_id: Option<String>,
    /// The ids of the request's trace, if it has one.
    pub trace: Option<Box<TraceIds>>,
    /// Further facts. `None` without `log.access`, and if the head was not valid.
    pub details: Option<Arc<AccessDetails>>,
}

impl LoggedRequest {
    /// Returns whether the request's line has the operator's own form (`log.access_format`).
    pub fn has_own_line(&self) -> bool {
        self.details.as_ref().is_some_and(|details| details.line.is_some())
    }
}

/// Facts about a request that are only copied if each request is logged.
#[derive(Debug, Default)]
pub struct AccessDetails {
    /// The query as sent, without the question mark; `None` also with `log.query = false`.
    pub query: Option<BoundedText>,
    /// The field `User-Agent`.
    pub user_agent: Option<BoundedText>,
    /// The field `Referer`.
    pub referrer: Option<BoundedText>,
    /// `HTTP/1.1`, for example.
    pub protocol: &'static str,
    /// `http` or `https`, as the application gets it.
    pub scheme: &'static str,
    /// The peer's process if it is known; else the peer's address if the peer is a proxy that names
    /// the client.
    pub peer: Option<String>,
    /// The user of HTTP Basic authentication, if the line contains the user.
    pub user: Option<BoundedText>,
    /// The values of the line's [`AccessLine::request_fields`].
    pub fields: Vec<Option<BoundedText>>,
    /// The operator's own form of the line. `None` for rgun's.
    pub line: Option<Arc<AccessLine>>,
}

/// The line of a request in the operator's own form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLine(pub(super) AccessFormat);

impl AccessLine {
    /// Makes lines of this format.
    pub fn new(format: AccessFormat) -> Self {
        Self(format)
    }

    /// Returns the names of the request's fields that the line contains.
    pub fn request_fields(&self) -> &[String] {
        &self.0.request_fields
    }

    /// Returns the names of the response's fields that the line contains.
    pub fn response_fields(&self) -> &[String] {
        &self.0.response_fields
    }

    /// Returns whether the line contains the user of HTTP Basic authentication.
    pub fn has_user(&self) -> bool {
        self.0.pieces.contains(&FormatPiece::Atom(Atom::User))
    }
}

/// The beginning of a text that a client has sent, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundedText(Box<[u8]>);

impl BoundedText {
    /// Maximum number of bytes that are copied from a text.
    pub const MAX_BYTES: usize = 2048;

    /// Copies at most [`BoundedText::MAX_BYTES`] of the text, and appends `...` if it is longer.
    pub fn new(text: &[u8]) -> Self {
        match text.get(..Self::MAX_BYTES) {
            Some(beginning) if beginning.len() < text.len() => Self([beginning, b"..."].concat().into()),
            _ => Self(text.into()),
        }
    }

    /// Returns the text, escaped.
    pub fn shown(&self) -> Cow<'_, str> {
        escape_bytes(&self.0, LineFeeds::Escape)
    }
}

/// A response of the application.
#[derive(Debug, Clone)]
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
    /// The values of the line's [`AccessLine::response_fields`].
    pub fields: Vec<Option<BoundedText>>,
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
    /// Counts a part of a message. `more`: further parts of the message follow.
    pub fn count(&mut self, len: usize, more: bool) {
        self.bytes += len as u64;
        self.messages += u64::from(!more);
    }
}

impl UnansweredEntry {
    /// Returns the text after the path, such as `: the client left after 1.2s` or
    /// ` 200: aborted within the body: the daemon stopped after 1.2s`.
    pub(super) fn end(&self) -> String {
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
            details: None,
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
