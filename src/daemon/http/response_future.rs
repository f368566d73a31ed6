//! A request's way out: what the application has answered, or the daemon in its place, and the journal's word on it.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{Method, Response, StatusCode};
use hyper::ext::ReasonPhrase;
use tokio::time::{Sleep, sleep_until};

use crate::dispatch::{AppResponse, ContentLength, Data, Fault};
use crate::escape::RequestPath;
use crate::journal::requests::{AccessEntry, FailureEntry, LoggedRequest, RefusalRecord, UnansweredEntry};
use crate::net::{CloseReason, Connection};
use crate::websocket;

use super::body::response::{AccessRecord, BodySource, FileReader, ResponseBody, incomplete_cause};
use super::context::{ConnContext, X_REQUEST_ID};
use super::fault::{ErrorResponse, Refusal, RequestFault};
use super::handshake::Handshake;
use super::head;
use super::request::RequestProgress;
use super::request_meta::RequestMeta;

/// Answers one request, always; if it is dropped before, nobody will, and the journal says so. By hand, because hyper
/// moves it into its place: an `async` block would be larger by what it was given, which it keeps beside where that went.
pub(super) struct ResponseFuture {
    /// Taken with the answer, of which the journal is told then.
    pub(super) request: Option<(Arc<ConnContext>, RequestMeta)>,
    pub(super) progress: RequestProgress,
    /// It is that of a WebSocket.
    pub(super) handshake: Option<Box<Handshake>>,
    /// How long the request may still wait, if its client has closed its sending half.
    pub(super) half_close_timer: Option<Pin<Box<Sleep>>>,
}

impl ResponseFuture {
    fn is_shut_down(&self) -> bool {
        self.request
            .as_ref()
            .is_some_and(|(served, _)| served.connection.close_reason() == CloseReason::Shutdown)
    }

    /// A client that has closed its sending half may still wait for its answer; not one that does so for long before
    /// its request starts, nor one that has asked for a WebSocket.
    fn poll_half_close(&mut self, cx: &mut Context<'_>) {
        let (RequestProgress::Submitted(Ok(ticket)), Some((served, _))) = (&self.progress, &self.request)
        else {
            return;
        };
        if !served.connection.is_half_closed() {
            return;
        }
        if self.handshake.is_some() {
            return self.abandon();
        }
        let Some(until) = ticket.half_close() else {
            self.half_close_timer = None;
            return;
        };
        let patience = self.half_close_timer.get_or_insert_with(|| Box::pin(sleep_until(until.into())));
        if patience.as_mut().poll(cx).is_ready() && ticket.revoke() {
            self.abandon();
        }
    }

    /// Ends the connection without an answer, as if the client had closed both halves.
    fn abandon(&mut self) {
        self.progress = RequestProgress::Abandoned;
        if let Some((served, _)) = &self.request {
            served.connection.abandon();
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let RequestProgress::Receiving(receiving) = &mut this.progress {
            let mut received = ready!(receiving.as_mut().poll(cx));
            if matches!(received, Err(Refusal::Client(..))) && this.is_shut_down() {
                // Of its body no more could be read because the daemon would not.
                received = Err(Refusal::Exchange(Fault::Unavailable("the daemon stops".into())));
            }
            this.progress = RequestProgress::Submitted(received);
        }
        let outcome = match &mut this.progress {
            RequestProgress::Submitted(Ok(ticket)) => match Pin::new(&mut *ticket).poll(cx) {
                Poll::Ready(Err(Fault::ClientHalfClosed)) => {
                    this.abandon();
                    return Poll::Pending;
                }
                Poll::Ready(outcome) => outcome.map_err(Refusal::Exchange),
                Poll::Pending => {
                    if let (Some(hints), Some((served, asked))) = (ticket.take_hints(), &this.request)
                        && asked.accepts_interim
                    {
                        served.connection.interim.push(head::early_hints(&hints));
                    }
                    this.poll_half_close(cx);
                    return Poll::Pending;
                }
            },
            RequestProgress::Submitted(Err(refusal)) => Err(refusal.clone()),
            RequestProgress::Abandoned => return Poll::Pending,
            RequestProgress::Receiving(_) => unreachable!("it has been received just now"),
        };
        let Some((served, asked)) = this.request.take() else {
            unreachable!("a future is not polled again when it was ready")
        };
        // What has not left by now would come after the answer.
        drop(served.connection.interim.take());
        let outcome =
            outcome.and_then(|answer| check_content_length(&asked.method, &answer).map(|()| answer));
        let mut response = match outcome {
            Ok(answer) => match &this.handshake {
                Some(handshake) if answer.head.status == StatusCode::SWITCHING_PROTOCOLS => {
                    switching_protocols(served, &asked, answer, handshake)
                }
                _ => application_response(served, &asked, answer),
            },
            Err(refusal) => refusal_response(served, &asked, &refusal),
        };
        // In place of the application's own: what the client has must be what the journal keeps.
        response.headers_mut().insert(X_REQUEST_ID, asked.id.into_value());
        Poll::Ready(Ok(response))
    }
}

impl Drop for ResponseFuture {
    fn drop(&mut self) {
        let Some((served, asked)) = self.request.take() else { return };
        let ConnContext { server, connection, .. } = &*served;
        let worker = match &self.progress {
            RequestProgress::Submitted(Ok(ticket)) => ticket.worker(),
            RequestProgress::Submitted(Err(_))
            | RequestProgress::Receiving(_)
            | RequestProgress::Abandoned => None,
        };
        server.journal.unanswered(UnansweredEntry {
            request: journal_request(connection, &asked),
            sent: None,
            duration: asked.received_at.elapsed(),
            worker,
            cause: incomplete_cause(connection),
            log_access: server.log_access,
        });
    }
}

/// A body of one piece up to this many bytes is taken by a client's socket at once, or is no loss.
const MAX_UNTRACKED_BODY: usize = 16 * 1024;

/// hyper trusts that a length in the fields is the body's (`encode_headers` says so): if it were not, the rest of the
/// body would be read as the next answer on the connection. A HEAD's answer and a 304 announce what they do not have
/// (RFC 9110 §8.6); of a stream hyper counts the bytes.
fn check_content_length(method: &Method, answer: &AppResponse) -> Result<(), Refusal> {
    let AppResponse { head, body: first, file, stream, worker, .. } = answer;
    if *method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED {
        return Ok(());
    }
    // Of a stream and of a file it may not be known.
    let len = match (stream, file) {
        (Some(stream), _) => match stream.body_len() {
            None => return Ok(()),
            total => total,
        },
        (None, Some(file)) => {
            let before = first.as_ref().map_or(0, |first| first.len() as u64);
            file.len.and_then(|len| len.checked_add(before))
        }
        (None, None) => Some(first.as_ref().map_or(0, |first| first.len() as u64)),
    };
    if head.length.matches(len) { Ok(()) } else { Err(Refusal::WrongLength(*worker)) }
}

fn application_response(
    served: Arc<ConnContext>,
    asked: &RequestMeta,
    answer: AppResponse,
) -> Response<ResponseBody> {
    let ConnContext { server, connection, .. } = &*served;
    let AppResponse { head, body: first, file, stream, worker, waited: queued } = answer;
    let source = match (stream, file) {
        (Some(stream), _) => BodySource::Stream(stream),
        (None, Some(file)) => BodySource::File(FileReader::new(file, server.dispatcher)),
        (None, None) => first.map_or(BodySource::Empty, BodySource::Bytes),
    };
    // What comes or goes piece by piece may break off; one small piece is not worth an allocation.
    let may_break = match &source {
        BodySource::Stream(_) | BodySource::FileInStream(..) | BodySource::File(_) => true,
        BodySource::Bytes(data) => data.len() > MAX_UNTRACKED_BODY,
        BodySource::Empty => false,
    };
    let account = (server.log_access || may_break).then(|| {
        let entry = AccessEntry {
            request: journal_request(connection, asked),
            status: head.status.as_u16(),
            bytes: 0,
            duration: Duration::ZERO,
            queued,
            worker,
        };
        let (begun, log_access) = (asked.received_at, server.log_access);
        Box::new(AccessRecord { entry, received_at: begun, context: Arc::clone(&served), log_access })
    });
    let closing = connection.is_draining() || !server.limits.keepalive;
    // A HEAD's answer and a 304 have no body, whatever the length says; hyper knows the request.
    let declared = match head.length {
        ContentLength::Bytes(len) => Some(len),
        ContentLength::Absent | ContentLength::Invalid => None,
    };
    let mut response = Response::new(ResponseBody::new(source, served, account, declared));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.fields;
    set_reason(&mut response, head.reason);
    if closing {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The reason phrase, if it is not what hyper writes for the status code. For a code that has none hyper would write
/// `<none>`; RFC 9112 §4 allows an empty one.
fn set_reason(response: &mut Response<ResponseBody>, reason: Option<Box<[u8]>>) {
    if reason.is_none() && response.status().canonical_reason().is_some() {
        return;
    }
    // The dispatcher takes none with control bytes, which is all that hyper refuses.
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.into_vec()).ok());
    response.extensions_mut().insert(reason.unwrap_or(ReasonPhrase::from_static(b"")));
}

/// The application has accepted a WebSocket: 101, and the connection is that from now on.
fn switching_protocols(
    served: Arc<ConnContext>,
    asked: &RequestMeta,
    answer: AppResponse,
    handshake: &Handshake,
) -> Response<ResponseBody> {
    let ConnContext { server, connection, .. } = &*served;
    let AppResponse { mut head, stream, worker, waited: queued, .. } = answer;
    handshake.set_response_fields(&mut head.fields);
    if let Some(stream) = stream {
        handshake.fill_slot(websocket::AcceptedHandshake {
            websocket: stream.into_websocket(),
            deflate: handshake.agreed,
            settings: server.websocket,
            resources: Arc::clone(&server.websockets),
            request: journal_request(connection, asked),
            worker,
            handshake_at: asked.received_at,
            log_access: server.log_access,
        });
    }
    if server.log_access {
        server.journal.access(AccessEntry {
            request: journal_request(connection, asked),
            status: head.status.as_u16(),
            bytes: 0,
            duration: asked.received_at.elapsed(),
            queued,
            worker,
        });
    }
    let mut response = Response::new(ResponseBody::new(BodySource::Empty, served, None, None));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.fields;
    response
}

/// The journal's entry for a refusal.
fn log_refusal(served: &ConnContext, asked: &RequestMeta, refusal: &Refusal, told: &ErrorResponse) {
    let ConnContext { server, connection, .. } = served;
    let ErrorResponse { status, reason, .. } = told;
    let (worker, summary, traceback) = match refusal {
        Refusal::Exchange(Fault::Raised { worker, summary, traceback }) => {
            (Some(*worker), summary.clone(), traceback.clone())
        }
        Refusal::Exchange(
            Fault::Deadline(worker) | Fault::WorkerDied(worker) | Fault::WorkerKilled(worker),
        ) => (Some(*worker), reason.clone(), String::new()),
        Refusal::Exchange(Fault::Unavailable(why)) => (None, format!("{reason}: {why}"), String::new()),
        Refusal::WrongLength(worker) => (*worker, reason.clone(), String::new()),
        Refusal::Spool(error) => (None, format!("{reason}: {error}"), String::new()),
        Refusal::Client(..) | Refusal::Framing(_) | Refusal::Exchange(_) => {
            (None, reason.clone(), String::new())
        }
    };
    let request = journal_request(connection, asked);
    if let (Some(head), Some(kind)) = (served.refused_head.get(), refusal.kind()) {
        // Nothing in it is known to be what it should be: no method, no path.
        let detail = format!("{summary}: \"{}\"", head.excerpt);
        let LoggedRequest { id, client, .. } = request;
        server.journal.refused(RefusalRecord { id, client, kind, status: status.as_u16(), detail });
    } else if let Some(kind) = refusal.kind().filter(|_| !server.log_access) {
        // When every request is noted, so is this one.
        server.journal.refused_request(kind, status.as_u16(), summary, request);
    } else if !matches!(refusal, Refusal::Exchange(Fault::Deadline(_))) {
        // Of a request over its deadline the supervising side writes the one entry, when it has the stacks.
        server.journal.failure(FailureEntry {
            request,
            status: status.as_u16(),
            duration: asked.received_at.elapsed(),
            worker,
            summary,
            traceback,
            log_access: server.log_access,
        });
    }
}

fn refusal_response(
    served: Arc<ConnContext>,
    asked: &RequestMeta,
    refusal: &Refusal,
) -> Response<ResponseBody> {
    let ConnContext { server, connection, .. } = &*served;
    let told = refusal.to_response();
    log_refusal(&served, asked, refusal, &told);
    let unread = told.leaves_input_unread();
    let ErrorResponse { status, reason, retry_after } = told;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write!(
        text,
        "{} {}\n{reason}\nrequest id: {}\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        asked.id.as_str()
    );
    if unread {
        connection.mark_unread_input();
    }
    let closing = connection.is_draining() || unread || !server.limits.keepalive;
    let text = BodySource::Bytes(Data::with_reservation(text.into(), None));
    let mut response = Response::new(ResponseBody::new(text, served, None, None));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(pause) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs()));
    }
    if *refusal == Refusal::Client(RequestFault::Connect) {
        headers.insert(
            http::header::ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"),
        );
    }
    if closing {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if *refusal == Refusal::Client(RequestFault::WebSocketVersion) {
        // RFC 9110 §15.5.22, RFC 6455 §4.2.2.
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.append(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

fn journal_request(connection: &Connection, asked: &RequestMeta) -> LoggedRequest {
    let origin = asked.origin.as_deref();
    let client = origin.and_then(|origin| origin.client.as_ref()).unwrap_or(&connection.peer);
    LoggedRequest {
        id: asked.id.as_str().to_owned(),
        method: asked.method.as_str().to_owned(),
        path: RequestPath::new(asked.path.as_bytes()),
        client: client.address.clone(),
        client_request_id: origin.and_then(|origin| origin.client_id.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a worker leaves out, hyper writes.
    #[test]
    fn the_channels_reason_phrases_are_those_that_hyper_writes() {
        for code in 100..=999 {
            let ours = StatusCode::from_u16(code).unwrap().canonical_reason().unwrap_or_default();
            assert_eq!(rgun_channel::status::canonical_reason(code), ours, "{code}");
        }
    }
}
