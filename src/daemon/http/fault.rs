//! Refusals and failures of a request, and the status code of each.
//!
//! No other file that serves requests chooses a status code (`tests/guards`, `status_codes`), with
//! one exception: `files/response.rs` chooses the status of a file's response. Other files only
//! compare status codes, and send interim responses.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use crate::dispatch::{Fault, Readiness, UploadFault};
use crate::files::FileFault;
use crate::id::WorkerId;
use crate::journal::refusal_kind::RefusalKind;

use super::h1::framing::Violation;
use super::load_failure::LoadFailure;

/// The reason why the daemon answers a request itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The client sent a request that cannot be served.
    Client(RequestFault),
    /// The message is malformed, or its head exceeded a limit or its timeout.
    Framing(Violation),
    /// The client used no TLS, and `http.redirect_to_https` is set; with the URL of the redirect.
    HttpsRedirect(HeaderValue),
    /// The exchange failed.
    Exchange(Fault),
    /// The `Content-Length` of the application's response is not the length of its body. The
    /// response is text: the request's fields, `Accept` among them, have been released with the
    /// exchange.
    WrongLength(Option<WorkerId>),
    /// A WSGI application wrote bytes that are not a valid HTTP response to its socket; the text
    /// describes the defect.
    Takeover(Option<WorkerId>, &'static str),
    /// The request is a browser's navigation, and the first worker takes longer than
    /// `timeouts.boot_page` to boot.
    FirstBoot,
    /// The request opens a page in a browser on this machine, and changed code does not load
    /// (`reload.on_change`).
    LoadFailed(Arc<LoadFailure>),
    /// The body could not be stored in memory or on disk; with the error's text.
    Spool(String),
    /// The file cannot be sent.
    File(FileFault),
    /// The application named a file that is outside of `app.sendfile_roots`.
    OutsideFile {
        /// The worker whose application answered the request.
        worker: Option<WorkerId>,
        /// The value of `X-Sendfile` or `X-Accel-Redirect`, escaped.
        value: String,
    },
}

/// A defect of a request.
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
    /// The Host field differs from the `:authority` of an HTTP/2 request.
    HostConflict,
    /// A CONNECT is for another protocol than "websocket", or the application does not serve
    /// WebSockets (RFC 8441 §4).
    Protocol,
    /// A field's name has an underscore, and `http.underscores` is "refuse".
    Underscore,
    /// A handshake is for a version of the WebSocket protocol other than 13.
    WebSocketVersion,
    /// A handshake has no valid `Sec-WebSocket-Key`.
    WebSocketKey,
    /// A health check has a body, or a method other than GET and HEAD.
    HealthMethod,
    /// The body is larger than `limits.body`.
    BodyTooLarge,
    /// The body did not arrive within `timeouts.body`, or arrived more slowly than
    /// `limits.body_rate`.
    BodyTooSlow,
    /// The body is incomplete.
    BodyBroken,
}

impl RequestFault {
    fn kind(self) -> RefusalKind {
        match self {
            Self::Connect | Self::Protocol | Self::HealthMethod => RefusalKind::BadMethod,
            Self::Target | Self::TargetHost => RefusalKind::BadTarget,
            Self::NoHost | Self::ManyHosts | Self::HostConflict => RefusalKind::BadHost,
            Self::Underscore => RefusalKind::BadField,
            Self::WebSocketVersion | Self::WebSocketKey => RefusalKind::BadHandshake,
            Self::BodyTooLarge => RefusalKind::BodyTooLong,
            Self::BodyTooSlow => RefusalKind::SlowBody,
            Self::BodyBroken => RefusalKind::BodyTruncated,
        }
    }

    fn status_and_reason(self) -> (StatusCode, &'static str) {
        match self {
            // RFC 9110 §9.3.6: most origin servers do not implement CONNECT.
            Self::Connect => (StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here"),
            Self::Target => (StatusCode::BAD_REQUEST, "the request's target is not a path"),
            Self::TargetHost => (StatusCode::BAD_REQUEST, "the host in the request's target is not valid"),
            // RFC 9112 §3.2.
            Self::NoHost => (StatusCode::BAD_REQUEST, "the Host field is missing"),
            Self::ManyHosts => (StatusCode::BAD_REQUEST, "there is more than one Host field"),
            // RFC 9113 §8.3.1.
            Self::HostConflict => {
                (StatusCode::BAD_REQUEST, "the Host field differs from the request's :authority")
            }
            // RFC 9220 §3.
            Self::Protocol => (StatusCode::NOT_IMPLEMENTED, "the protocol of the CONNECT is not served here"),
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
            Self::HealthMethod => {
                (StatusCode::METHOD_NOT_ALLOWED, "a health check is a GET or HEAD request without a body")
            }
            Self::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "the request's body is larger than limits.body")
            }
            Self::BodyTooSlow => (StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time"),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, "the request's body is incomplete"),
        }
    }
}

/// The result of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthResult {
    /// The result for `health.live_path`: the daemon runs.
    Alive,
    /// The result for `health.path`.
    Readiness(Readiness),
}

/// The daemon's own response to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The status of the response.
    pub status: StatusCode,
    /// One sentence for the client. It must not quote the application's exceptions: anyone may read
    /// it.
    pub reason: String,
    /// `Retry-After` (RFC 9110 §10.2.3).
    pub retry_after: Option<Duration>,
    /// Whether the HTML page reloads itself after `retry_after`.
    pub refresh: bool,
    /// A traceback to show. Only for a developer on this machine.
    pub traceback: Option<String>,
}

impl ErrorResponse {
    fn new((status, reason): (StatusCode, &str)) -> Self {
        Self { status, reason: reason.to_owned(), retry_after: None, refresh: false, traceback: None }
    }

    /// Creates a 503 with `Retry-After`.
    fn unavailable(reason: &str, retry_after: Duration) -> Self {
        let response = Self::new((StatusCode::SERVICE_UNAVAILABLE, reason));
        Self { retry_after: Some(retry_after), ..response }
    }

    /// True if the rest of the request may still arrive, so the connection cannot serve another
    /// request.
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

/// `Retry-After` when capacity is missing: long enough for a queue to move, short enough for a
/// person to wait.
const RETRY_SHORT: Duration = Duration::from_secs(1);

/// `Retry-After` while the application boots for the first time. Short, because a person is
/// waiting.
const RETRY_BOOT: Duration = Duration::from_secs(2);

/// `Retry-After` when no worker or no disk space is available.
const RETRY_LONG: Duration = Duration::from_secs(5);

/// Maximum `Retry-After` when the queue is too slow. After this time the queue may be shorter.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

impl Refusal {
    /// Returns the kind under which the journal counts this refusal; `None` if each one is logged.
    /// Refusals of requests that never ran are counted, because a scanner or an overload causes
    /// thousands of them. Failures of the application are logged.
    pub fn kind(&self) -> Option<RefusalKind> {
        Some(match self {
            Self::Client(fault) => fault.kind(),
            Self::Framing(violation) => violation.kind(),
            Self::Spool(_) => RefusalKind::NoRoomForBody,
            Self::FirstBoot => RefusalKind::FirstBoot,
            Self::WrongLength(_)
            | Self::Takeover(..)
            | Self::File(_)
            | Self::OutsideFile { .. }
            | Self::LoadFailed(_)
            | Self::HttpsRedirect(_) => return None,
            Self::Exchange(fault) => match fault {
                Fault::TooLong(_) => RefusalKind::HeadTooLong,
                Fault::QueueFull => RefusalKind::QueueFull,
                Fault::ClientQueueFull => RefusalKind::ClientQueueFull,
                Fault::QueueTooSlow(_) => RefusalKind::QueueTooSlow,
                Fault::QueueTimeout => RefusalKind::QueueTimeout,
                Fault::Unavailable(_) => RefusalKind::ApplicationUnavailable,
                Fault::Quarantined(_) => RefusalKind::Quarantined,
                Fault::Upload(UploadFault::TooLarge) => RefusalKind::BodyTooLong,
                Fault::Upload(UploadFault::TooSlow) => RefusalKind::SlowBody,
                Fault::Upload(UploadFault::Truncated) => RefusalKind::BodyTruncated,
                Fault::Upload(UploadFault::Malformed(_)) => RefusalKind::BadChunk,
                Fault::Deadline(_)
                | Fault::WorkerDied(_)
                | Fault::WorkerKilled(_)
                | Fault::Raised { .. }
                | Fault::ClientTooSlow
                | Fault::ClientHalfClosed => return None,
            },
        })
    }

    /// Returns the response to send.
    pub fn to_response(&self) -> ErrorResponse {
        match self {
            Self::Client(fault) => ErrorResponse::new(fault.status_and_reason()),
            Self::Framing(violation) => ErrorResponse::new(violation.status_and_reason()),
            Self::HttpsRedirect(_) => {
                ErrorResponse::new((StatusCode::PERMANENT_REDIRECT, "this site is served over https://"))
            }
            Self::Takeover(_, reason) => ErrorResponse::new((StatusCode::BAD_GATEWAY, *reason)),
            Self::WrongLength(_) => ErrorResponse::new((
                StatusCode::BAD_GATEWAY,
                "the application's response is not as long as its Content-Length",
            )),
            Self::File(fault) => file_response(fault),
            Self::OutsideFile { .. } => ErrorResponse::new((
                StatusCode::BAD_GATEWAY,
                "the application's response names a file that may not be sent",
            )),
            Self::FirstBoot => ErrorResponse {
                refresh: true,
                ..ErrorResponse::unavailable(
                    "the application is starting; this page reloads itself",
                    RETRY_BOOT,
                )
            },
            Self::LoadFailed(failure) => load_failure_response(failure),
            Self::Spool(_) => ErrorResponse {
                retry_after: Some(RETRY_LONG),
                ..ErrorResponse::new((
                    StatusCode::INSUFFICIENT_STORAGE,
                    "the server has no room for the request's body",
                ))
            },
            Self::Exchange(fault) => exchange_response(fault),
        }
    }
}

/// Returns the page about changed code that does not load.
fn load_failure_response(failure: &LoadFailure) -> ErrorResponse {
    let LoadFailure { summary, traceback, old_code_serves } = failure;
    let traceback = Some(traceback.clone());
    if *old_code_serves {
        let reason = format!("{summary}. The old code keeps serving: load this page again to see it.");
        return ErrorResponse { traceback, ..ErrorResponse::new((StatusCode::SERVICE_UNAVAILABLE, &reason)) };
    }
    let reason = format!("{summary}. A changed file is loaded at once, and this page reloads itself.");
    ErrorResponse { refresh: true, traceback, ..ErrorResponse::unavailable(&reason, RETRY_BOOT) }
}

/// Returns the status of the response to a health check, and its text.
pub(super) fn health_status_and_text(health: HealthResult) -> (StatusCode, &'static str) {
    match health {
        HealthResult::Alive => (StatusCode::OK, "alive\n"),
        HealthResult::Readiness(Readiness::Ready) => (StatusCode::OK, "ready\n"),
        // 200, because only a request starts a worker again: a load balancer must continue to send
        // requests.
        HealthResult::Readiness(Readiness::Asleep) => {
            (StatusCode::OK, "asleep: the next request starts a worker\n")
        }
        HealthResult::Readiness(not_ready) => (StatusCode::SERVICE_UNAVAILABLE, unready_text(not_ready)),
    }
}

/// Returns the text of a health check with the status 503.
fn unready_text(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Ready | Readiness::Asleep => "",
        Readiness::Draining => "the server is drained\n",
        Readiness::Leaving => "the server is stopping\n",
        Readiness::FirstBoot => "the application is starting\n",
        Readiness::BootFailed => "the application fails to start; the log has the reason\n",
        Readiness::NoWorker => "no worker is ready\n",
    }
}

fn upload_status_and_reason(fault: UploadFault) -> (StatusCode, &'static str) {
    match fault {
        UploadFault::TooLarge => RequestFault::BodyTooLarge.status_and_reason(),
        UploadFault::TooSlow => RequestFault::BodyTooSlow.status_and_reason(),
        UploadFault::Truncated => RequestFault::BodyBroken.status_and_reason(),
        UploadFault::Malformed(reason) => (StatusCode::BAD_REQUEST, reason),
    }
}

fn file_response(fault: &FileFault) -> ErrorResponse {
    match fault {
        FileFault::NotFound => ErrorResponse::new((StatusCode::NOT_FOUND, "there is no such file")),
        FileFault::Method => {
            ErrorResponse::new((StatusCode::METHOD_NOT_ALLOWED, "a file can only be read: GET or HEAD"))
        }
        FileFault::Denied => ErrorResponse::new((StatusCode::FORBIDDEN, "the file may not be read")),
        FileFault::PreconditionFailed => ErrorResponse::new((
            StatusCode::PRECONDITION_FAILED,
            "the file does not match the request's precondition",
        )),
        FileFault::Unsatisfiable(_) => ErrorResponse::new((
            StatusCode::RANGE_NOT_SATISFIABLE,
            "the file has none of the requested bytes",
        )),
        FileFault::Exhausted(_) => ErrorResponse::unavailable("the file cannot be read now", RETRY_LONG),
        FileFault::Failed(_) => {
            ErrorResponse::new((StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read"))
        }
    }
}

fn exchange_response(fault: &Fault) -> ErrorResponse {
    match fault {
        Fault::Upload(fault) => ErrorResponse::new(upload_status_and_reason(*fault)),
        Fault::TooLong(part) => ErrorResponse::new((
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            &format!("the request's {part} is too long"),
        )),
        // RFC 6585 §4.
        Fault::ClientQueueFull => ErrorResponse {
            retry_after: Some(RETRY_SHORT),
            ..ErrorResponse::new((StatusCode::TOO_MANY_REQUESTS, "too many of your requests are waiting"))
        },
        Fault::QueueFull => ErrorResponse::unavailable("too many requests are waiting", RETRY_SHORT),
        // After half of the wait, half of the queue is served.
        Fault::QueueTooSlow(wait) => ErrorResponse::unavailable(
            "too many requests are waiting",
            whole_seconds(*wait / 2).clamp(RETRY_SHORT, MAX_RETRY_AFTER),
        ),
        Fault::QueueTimeout => ErrorResponse::unavailable("no worker became free in time", RETRY_SHORT),
        // The fault's text may quote the application's exception, with a connection string or a key
        // in it.
        Fault::Unavailable(_) => {
            ErrorResponse::unavailable("the application is not available at the moment", RETRY_LONG)
        }
        Fault::Quarantined(pause) => ErrorResponse::unavailable(
            "requests like this one have crashed workers; they are refused for a while",
            whole_seconds(*pause),
        ),
        Fault::WorkerKilled(_) => ErrorResponse::unavailable(
            "the worker was stopped before it had finished this request",
            RETRY_SHORT,
        ),
        Fault::Deadline(_) => {
            ErrorResponse::new((StatusCode::GATEWAY_TIMEOUT, "the application took too long"))
        }
        Fault::ClientTooSlow => ErrorResponse::new((
            StatusCode::REQUEST_TIMEOUT,
            "the client read its response too slowly, and there was no room to buffer it",
        )),
        Fault::WorkerDied(_) => {
            ErrorResponse::new((StatusCode::BAD_GATEWAY, "the worker died while serving this request"))
        }
        // This response is not sent: the connection ends without one.
        Fault::ClientHalfClosed => ErrorResponse::new((StatusCode::BAD_REQUEST, "the client has left")),
        Fault::Raised { .. } => {
            ErrorResponse::new((StatusCode::INTERNAL_SERVER_ERROR, "the application raised an error"))
        }
    }
}

/// Rounds up to whole seconds, the resolution of `Retry-After`.
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
            Self::Http2Off => (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "HTTP/2 is switched off here (http.http2); use HTTP/1.1",
            ),
            Self::RequestLineTooLong => {
                (StatusCode::URI_TOO_LONG, "the request line is longer than limits.request_line")
            }
            Self::FieldsTooLong => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's header fields are longer than limits.header",
            ),
            Self::TooManyFields => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request has more header fields than limits.headers",
            ),
            Self::Host => (StatusCode::BAD_REQUEST, "the Host field is not a valid host"),
            Self::BodyTooLong => {
                (StatusCode::PAYLOAD_TOO_LARGE, "the request's body is longer than this server can receive")
            }
            Self::Coding => (
                StatusCode::NOT_IMPLEMENTED,
                "the request's body is in a transfer coding that is not served here",
            ),
            Self::PlainHttp => (
                StatusCode::BAD_REQUEST,
                "this port speaks TLS, and the request came without it: use https://",
            ),
            Self::LostInRestart => (StatusCode::SERVICE_UNAVAILABLE, "the server has restarted; try again"),
            Self::SlowHead => {
                (StatusCode::REQUEST_TIMEOUT, "the request's head took longer than timeouts.header")
            }
        }
    }

    /// Returns the kind under which the journal counts the violation.
    fn kind(self) -> RefusalKind {
        match self {
            Self::RequestLine(_) => RefusalKind::BadRequestLine,
            Self::Version | Self::Http2Off => RefusalKind::BadVersion,
            Self::RequestLineTooLong => RefusalKind::RequestLineTooLong,
            Self::Field(_) => RefusalKind::BadField,
            Self::FieldsTooLong => RefusalKind::HeadTooLong,
            Self::TooManyFields => RefusalKind::TooManyFields,
            Self::Host => RefusalKind::BadHost,
            Self::Length(_) => RefusalKind::BadLength,
            Self::BodyTooLong => RefusalKind::BodyTooLong,
            Self::Coding => RefusalKind::BadCoding,
            Self::Chunk(_) => RefusalKind::BadChunk,
            Self::SlowHead => RefusalKind::SlowHead,
            Self::PlainHttp => RefusalKind::PlainHttp,
            Self::LostInRestart => RefusalKind::LostInRestart,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_retry_after(fault: Fault, seconds: u64) {
        let ErrorResponse { status, retry_after, .. } = Refusal::Exchange(fault).to_response();
        assert_eq!((status.as_u16(), retry_after), (503, Some(Duration::from_secs(seconds))));
    }

    #[test]
    fn quarantine_retry_after_is_rounded_up_to_seconds() {
        for (milliseconds, seconds) in [(1, 1), (1000, 1), (59_001, 60), (60_000, 60)] {
            assert_retry_after(Fault::Quarantined(Duration::from_millis(milliseconds)), seconds);
        }
    }

    #[test]
    fn slow_queue_retry_after_is_half_of_the_wait() {
        for (wait, seconds) in [(100, 1), (31_000, 16), (600_000, 30)] {
            assert_retry_after(Fault::QueueTooSlow(Duration::from_millis(wait)), seconds);
        }
    }
}
