//! The one place where the daemon chooses a status code of its own. `tests/guards` keeps that: elsewhere in `http`,
//! `net`, `websocket` and `edge` a status is at most compared with the application's.

use std::time::Duration;

use http::StatusCode;

use crate::dispatch::{Fault, UploadFault};
use crate::id::WorkerId;

use super::h1::framing::Violation;

/// Why a request gets an answer that is not the application's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The request itself cannot be served; the client's fault.
    Client(RequestFault),
    /// The request's message is malformed, or its head over a limit or too slow.
    Framing(Violation),
    /// The exchange failed.
    Exchange(Fault),
    /// The answer's `Content-Length` is not the length of its body.
    WrongLength(Option<WorkerId>),
    /// The body could not be kept: no memory, no disk.
    Spool(String),
}

/// The defect of a request for which it cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFault {
    /// The method is CONNECT.
    Connect,
    /// The target is not a path.
    Target,
    /// The target is a URI whose host cannot be a field's value.
    TargetHost,
    /// An HTTP/1.1 request has no Host field.
    NoHost,
    /// There is more than one Host field.
    ManyHosts,
    /// A field's name has an underscore, and `http.underscores` is "refuse".
    Underscore,
    /// A handshake is for another version of the WebSocket protocol than 13.
    WebSocketVersion,
    /// A handshake has no valid `Sec-WebSocket-Key`.
    WebSocketKey,
    /// The body is larger than `limits.body`.
    BodyTooLarge,
    /// The body did not arrive within `timeouts.body`, or slower than `limits.body_rate`.
    BodyTooSlow,
    /// The body breaks off.
    BodyBroken,
}

impl RequestFault {
    fn status_and_reason(self) -> (StatusCode, &'static str) {
        match self {
            // RFC 9110 §9.3.6: an origin server that is no tunnel.
            Self::Connect => (StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here"),
            Self::Target => (StatusCode::BAD_REQUEST, "the request's target is not a path"),
            Self::TargetHost => (StatusCode::BAD_REQUEST, "the request's target names an impossible host"),
            // RFC 9112 §3.2.
            Self::NoHost => (StatusCode::BAD_REQUEST, "the Host field is missing"),
            Self::ManyHosts => (StatusCode::BAD_REQUEST, "there is more than one Host field"),
            Self::Underscore => {
                (StatusCode::BAD_REQUEST, "the name of a field has an underscore, which is refused here")
            }
            // RFC 6455 §4.2.2.
            Self::WebSocketVersion => {
                (StatusCode::UPGRADE_REQUIRED, "only version 13 of the WebSocket protocol is served here")
            }
            Self::WebSocketKey => {
                (StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key is missing, or not 16 bytes in base64")
            }
            Self::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "the request's body is larger than limits.body")
            }
            Self::BodyTooSlow => (StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time"),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, "the request's body breaks off"),
        }
    }
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The status.
    pub status: StatusCode,
    /// One sentence for a person who may be anybody: nothing of what the application's exceptions say.
    pub reason: String,
    /// `Retry-After` (RFC 9110 §10.2.3).
    pub retry_after: Option<Duration>,
}

impl ErrorResponse {
    /// Returns whether the rest of such a request may still be on its way: the connection cannot be used for another.
    pub(super) fn leaves_input_unread(&self) -> bool {
        matches!(
            self.status,
            StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::BAD_REQUEST
                | StatusCode::INSUFFICIENT_STORAGE
                | StatusCode::NOT_IMPLEMENTED
                | StatusCode::HTTP_VERSION_NOT_SUPPORTED
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::URI_TOO_LONG
                | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        )
    }
}

/// A short while: long enough for a queue to move, short enough for a person to wait.
const RETRY_SHORT: Duration = Duration::from_secs(1);
/// While nobody can serve.
const RETRY_LONG: Duration = Duration::from_secs(5);
/// The longest that a client is asked to stay away because others wait: by then it may be different.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

impl Refusal {
    /// For requests that never ran: what the journal counts together, because a scanner or an overload makes
    /// thousands of them. `None` for faults of the application, each of which has its entry.
    pub fn kind(&self) -> Option<&'static str> {
        Some(match self {
            Self::Client(fault) => fault.status_and_reason().1,
            Self::Framing(violation) => violation.kind(),
            Self::Spool(_) => "no room for a body",
            Self::WrongLength(_) => return None,
            Self::Exchange(fault) => match fault {
                Fault::TooLong(_) => "too long a head",
                Fault::QueueFull => "queue full",
                Fault::QueueTooSlow(_) => "queue too slow",
                Fault::QueueTimeout => "waited too long",
                Fault::Unavailable(_) => "application unavailable",
                Fault::Quarantined(_) => "quarantined",
                Fault::Upload(UploadFault::TooLarge) => "too large a body",
                Fault::Upload(UploadFault::TooSlow) => "too slow a body",
                Fault::Upload(UploadFault::Truncated) => "malformed body",
                Fault::Upload(UploadFault::Malformed(_)) => BAD_CHUNK,
                Fault::Deadline(_)
                | Fault::WorkerDied(_)
                | Fault::WorkerKilled(_)
                | Fault::Raised { .. }
                | Fault::ClientTooSlow
                | Fault::ClientHalfClosed => return None,
            },
        })
    }

    /// Total: every refusal has its status.
    pub fn to_response(&self) -> ErrorResponse {
        let (status, reason, retry_after) = match self {
            Self::Client(fault) => {
                let (status, reason) = fault.status_and_reason();
                (status, reason.to_owned(), None)
            }
            Self::Framing(violation) => {
                let (status, reason) = violation.status_and_reason();
                (status, reason.to_owned(), None)
            }
            Self::WrongLength(_) => (
                StatusCode::BAD_GATEWAY,
                "the application's answer is not as long as its Content-Length says".to_owned(),
                None,
            ),
            Self::Spool(_) => (
                StatusCode::INSUFFICIENT_STORAGE,
                "the server has no room for the request's body".to_owned(),
                Some(RETRY_LONG),
            ),
            Self::Exchange(fault) => match fault {
                Fault::TooLong(what) => (
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    format!("the request's {what} is too long"),
                    None,
                ),
                Fault::QueueFull => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many requests are waiting".to_owned(),
                    Some(RETRY_SHORT),
                ),
                Fault::QueueTooSlow(wait) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many requests are waiting".to_owned(),
                    // By then half of those that wait are served.
                    Some(whole_seconds(*wait / 2).clamp(RETRY_SHORT, MAX_RETRY_AFTER)),
                ),
                Fault::QueueTimeout => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "no worker became free in time".to_owned(),
                    Some(RETRY_SHORT),
                ),
                // The reason may be what the application's exception says: a connection string, a key.
                Fault::Unavailable(_) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the application is not available at the moment".to_owned(),
                    Some(RETRY_LONG),
                ),
                Fault::Quarantined(pause) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "requests like this one have ended workers; they are refused for a while".to_owned(),
                    Some(whole_seconds(*pause)),
                ),
                Fault::Upload(UploadFault::TooLarge) => (
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the request's body is larger than limits.body".to_owned(),
                    None,
                ),
                Fault::Upload(UploadFault::TooSlow) => (
                    StatusCode::REQUEST_TIMEOUT,
                    "the request's body did not arrive in time".to_owned(),
                    None,
                ),
                Fault::Upload(UploadFault::Truncated) => {
                    (StatusCode::BAD_REQUEST, "the request's body breaks off".to_owned(), None)
                }
                Fault::Upload(UploadFault::Malformed(reason)) => {
                    (StatusCode::BAD_REQUEST, (*reason).to_owned(), None)
                }
                Fault::Deadline(_) => {
                    (StatusCode::GATEWAY_TIMEOUT, "the application took too long".to_owned(), None)
                }
                Fault::ClientTooSlow => (
                    StatusCode::REQUEST_TIMEOUT,
                    "the client took its answer too slowly, and there was no room to keep it".to_owned(),
                    None,
                ),
                Fault::WorkerDied(_) => {
                    (StatusCode::BAD_GATEWAY, "the worker died while it had this request".to_owned(), None)
                }
                Fault::WorkerKilled(_) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the worker had to go before it had finished this request".to_owned(),
                    Some(RETRY_SHORT),
                ),
                // Nobody waits for it, as far as the application knows.
                Fault::ClientHalfClosed => (StatusCode::BAD_REQUEST, "the client has left".to_owned(), None),
                Fault::Raised { .. } => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "the application raised an error".to_owned(), None)
                }
            },
        };
        ErrorResponse { status, reason, retry_after }
    }
}

/// Rounded up: whole seconds are all that `Retry-After` can say.
fn whole_seconds(pause: Duration) -> Duration {
    Duration::from_secs(pause.as_secs() + u64::from(pause.subsec_nanos() > 0))
}

impl Violation {
    fn status_and_reason(self) -> (StatusCode, &'static str) {
        match self {
            Self::RequestLine(reason) | Self::Field(reason) | Self::Length(reason) | Self::Chunk(reason) => {
                (StatusCode::BAD_REQUEST, reason)
            }
            Self::Version => {
                (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.0 and HTTP/1.1 are served here")
            }
            Self::RequestLineTooLong => {
                (StatusCode::URI_TOO_LONG, "the request line is longer than limits.request_line")
            }
            Self::FieldsTooLong => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's fields are longer than limits.header",
            ),
            Self::TooManyFields => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request has more fields than limits.headers",
            ),
            Self::Host => (StatusCode::BAD_REQUEST, "the Host field names no host"),
            Self::BodyTooLong => {
                (StatusCode::PAYLOAD_TOO_LARGE, "the request's body is longer than any that could be served")
            }
            Self::Coding => (
                StatusCode::NOT_IMPLEMENTED,
                "the request's body is in a transfer coding that is not served here",
            ),
            Self::SlowHead => {
                (StatusCode::REQUEST_TIMEOUT, "the request's head took longer than timeouts.header")
            }
        }
    }

    /// What was wrong, as one word for the journal.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::RequestLine(_) => "bad_request_line",
            Self::Version => "bad_version",
            Self::RequestLineTooLong => "request_line_too_long",
            Self::Field(_) => "bad_field",
            Self::FieldsTooLong => "head_too_long",
            Self::TooManyFields => "too_many_fields",
            Self::Host => "bad_host",
            Self::Length(_) => "bad_length",
            Self::BodyTooLong => "body_too_long",
            Self::Coding => "bad_coding",
            Self::Chunk(_) => BAD_CHUNK,
            Self::SlowHead => "slow_head",
        }
    }
}

/// The kind of a body whose chunks are malformed.
pub(super) const BAD_CHUNK: &str = "bad_chunk";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_shut_out_is_told_whole_seconds_and_never_too_few() {
        for (milliseconds, seconds) in [(1, 1), (1000, 1), (59_001, 60), (60_000, 60)] {
            let fault = Fault::Quarantined(Duration::from_millis(milliseconds));
            let told = Refusal::Exchange(fault).to_response();
            assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(told.retry_after, Some(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn a_client_that_is_shed_is_asked_back_when_half_of_the_queue_is_served() {
        for (wait, seconds) in [(100, 1), (31_000, 16), (600_000, 30)] {
            let fault = Fault::QueueTooSlow(Duration::from_millis(wait));
            let told = Refusal::Exchange(fault).to_response();
            assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(told.retry_after, Some(Duration::from_secs(seconds)));
        }
    }
}
