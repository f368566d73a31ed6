//! Serves the requests of one connection.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Method, Request, Response, StatusCode, request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Parts};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use rgun_channel::frame;
use rgun_channel::frame::ExchangeId;

use crate::dispatch::{Answer, Dispatcher, Fault, Ticket};
use crate::journal::requests::{Access, Failure, Journal, Unanswered};
use crate::net::{Connection, Ending, Phase, Stream};
use crate::websocket;

use super::body::{self, Body, BodyLimits};
use super::fault::{Refusal, Told};
use super::handshake::{self, Handshake, Place};
use super::head;
use super::request_id::{RequestId, RequestIds};
use super::response::{Account, FileReader, ResponseBody, Source, cause};
use super::upload::{self, Bounds, Bringer};

/// What bounds a request. Units: bytes, except where a type says otherwise.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `limits.body`.
    pub body: Option<u64>,
    /// `limits.header`: all fields together.
    pub header: usize,
    /// `limits.headers`: number of fields.
    pub headers: usize,
    /// `limits.request_line`.
    pub request_line: usize,
    /// `timeouts.body`: the longest pause between two pieces of a body.
    pub body_pause: Duration,
    /// Whether a connection serves more than one request (`timeouts.keepalive` is not 0).
    pub keepalive: bool,
}

/// What a reload can change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is too much.
    pub limits: Limits,
    /// How WebSockets are served.
    pub websocket: websocket::Settings,
    /// Whether every request is noted.
    pub log_access: bool,
}

/// What all connections share that began under the same settings.
#[derive(Debug)]
pub struct Server {
    dispatcher: Arc<Dispatcher>,
    limits: Limits,
    websocket: websocket::Settings,
    websockets: Arc<websocket::Shared>,
    /// Where bodies over 16 MiB wait: a file system on disk.
    spool: PathBuf,
    ids: Arc<RequestIds>,
    clock: Clock,
    journal: Journal,
    log_access: bool,
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// hyper's own default, for which it keeps the fields on the stack.
const STACK_HEADERS: usize = 100;

impl Server {
    /// Shared by all connections.
    pub fn new(
        dispatcher: Arc<Dispatcher>,
        settings: Settings,
        spool: PathBuf,
        journal: Journal,
    ) -> Arc<Self> {
        let Settings { limits, websocket, log_access } = settings;
        Arc::new(Self {
            websockets: websocket::Shared::new(Arc::clone(&dispatcher), journal.clone()),
            dispatcher,
            limits,
            websocket,
            spool,
            ids: Arc::new(RequestIds::new()),
            clock: Clock::new(),
            journal,
            log_access,
        })
    }

    /// The same for connections that begin from now on; those that are open keep what they began with.
    pub fn with(&self, settings: Settings) -> Arc<Self> {
        let Settings { limits, websocket, log_access } = settings;
        Arc::new(Self {
            dispatcher: Arc::clone(&self.dispatcher),
            limits,
            websocket,
            websockets: Arc::clone(&self.websockets),
            spool: self.spool.clone(),
            ids: Arc::clone(&self.ids),
            clock: self.clock,
            journal: self.journal.clone(),
            log_access,
        })
    }
}

/// Serves a connection until it ends.
pub async fn serve(server: Arc<Server>, stream: Stream) {
    let connection = Arc::clone(stream.connection());
    // Boxed, because a WebSocket has no use for it, and would have to keep it: this future does not become smaller.
    let mut serving = Box::new(speak(server, stream));
    // Dropped before `serving`, and so before what is under way in it, whatever ends this.
    let mut through = Through { connection: Arc::clone(&connection), by_itself: false };
    match (&mut *serving).await {
        Ok(()) => {
            if let Some(socket) = upgraded(*serving) {
                socket.await;
            }
        }
        Err(error) => {
            tracing::debug!(client = %connection.peer.address, error = %crate::report::Chain(&error),
                "a connection ended early");
        }
    }
    through.by_itself = true;
}

type Speaking = http1::Connection<TokioIo<Stream>, Requests>;

fn speak(server: Arc<Server>, stream: Stream) -> Speaking {
    let connection = Arc::clone(stream.connection());
    let limits = &server.limits;
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None) // `Connections::sweep` does that, without a timer per request
        // Not `pipeline_flush`: it buffers without bound for a client that does not read, and keeps back what
        // hyper answers to a head it refuses. Nor `keep_alive`: it says `close` in a 101, too.
        .max_header_size(limits.header + limits.request_line);
    if limits.headers != STACK_HEADERS {
        builder.max_headers(limits.headers);
    }
    builder.serve_connection(TokioIo::new(stream), Requests { server, connection, place: OnceLock::new() })
}

/// What the connection is after its last answer, if that was a 101: hyper leaves the socket open then, and what it has
/// read too much in its buffer.
fn upgraded(spoken: Speaking) -> Option<Box<websocket::Socket>> {
    let Parts { io, read_buf, service, .. } = spoken.into_parts();
    let accepted = service.accepted()?;
    Some(websocket::serve(io.into_inner(), &read_buf, *accepted))
}

/// The requests of one connection.
struct Requests {
    server: Arc<Server>,
    connection: Arc<Connection>,
    /// Made for a handshake.
    place: OnceLock<Place>,
}

impl Requests {
    /// What its last request has made of the connection.
    fn accepted(&self) -> Option<Box<websocket::Accepted>> {
        self.place.get()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        // Before the future exists, because hyper looks for more bytes before it polls it; see `Asked`.
        let (asked, started, handshake) = start(self, request);
        let about = Some((Arc::clone(&self.connection), asked));
        Answering { server: Arc::clone(&self.server), about, started, handshake }
    }
}

/// Notes that a connection is over before what is under way on it is dropped.
struct Through {
    connection: Arc<Connection>,
    /// Its task came to its end. If not, the reactor has dropped it, as it does when the daemon stops.
    by_itself: bool,
}

impl Drop for Through {
    fn drop(&mut self) {
        if self.by_itself {
            self.connection.is_through();
        } else {
            self.connection.is_left_by_the_daemon();
        }
    }
}

/// How far a request has come before its future is polled.
enum Started {
    /// To the dispatcher, or to a refusal.
    Submitted(Result<Ticket, Refusal>),
    /// Its body must be received first. Boxed: it is large, rare, and would be moved about with every future.
    Receiving(Pin<Box<dyn Future<Output = Result<Ticket, Refusal>> + Send>>),
}

fn start(requests: &Requests, request: Request<Incoming>) -> (Asked, Started, Option<Box<Handshake>>) {
    let Requests { server, connection, place } = requests;
    connection.enter(Phase::Busy);
    let begun = Instant::now();
    let (mut parts, incoming) = request.into_parts();
    let asked = Asked {
        id: server.ids.for_request(parts.headers.get(X_REQUEST_ID)),
        method: parts.method.clone(),
        path: Path::new(path(&parts)),
        knows_interim: parts.version == http::Version::HTTP_11,
        begun,
    };
    let checked = head::check(&parts, &server.limits).and_then(|()| head::set_host(&mut parts));
    let mut handshake = None;
    let started = match checked {
        Err(refusal) => Started::Submitted(Err(refusal)),
        Ok(())
            if server.dispatcher.takes_handshakes()
                && incoming.is_end_stream()
                && handshake::is_asked_for(&parts) =>
        {
            let place = Arc::clone(place.get_or_init(Place::default));
            let checked = Handshake::new(&parts, server.websocket.compression, place);
            Started::Submitted(checked.and_then(|checked| {
                handshake = Some(Box::new(checked));
                submit_handshake(server, connection, &parts, &asked.id, begun)
            }))
        }
        Ok(()) if incoming.is_end_stream() => {
            let nothing = Body::Inline(bytes::Bytes::new());
            Started::Submitted(submit(server, connection, &parts, nothing, &asked.id, (begun, begun)))
        }
        Ok(()) if server.dispatcher.is_asgi() && upload::comes_in_parts(&incoming, &parts.headers) => {
            Started::Submitted(submit_in_parts(server, connection, &parts, incoming, &asked.id, begun))
        }
        Ok(()) => {
            let (server, connection) = (Arc::clone(server), Arc::clone(connection));
            let id = asked.id.clone();
            Started::Receiving(Box::pin(async move {
                if upload::comes_in_parts(&incoming, &parts.headers) {
                    // How it is to be received depends on who it is for.
                    server.dispatcher.knows_interface().await;
                    if server.dispatcher.is_asgi() {
                        return submit_in_parts(&server, &connection, &parts, incoming, &id, begun);
                    }
                }
                let body = receive(&server, &mut parts, incoming).await?;
                submit(&server, &connection, &parts, body, &id, (begun, Instant::now()))
            }))
        }
    };
    (asked, started, handshake)
}

/// Answers one request, always; if it is dropped before, nobody will, and the journal says so. By hand, because hyper moves it into its place: an `async` block would be larger by
/// what it was given, which it keeps beside where that went.
struct Answering {
    server: Arc<Server>,
    /// Taken with the answer, of which the journal is told then.
    about: Option<(Arc<Connection>, Asked)>,
    started: Started,
    /// It is that of a WebSocket.
    handshake: Option<Box<Handshake>>,
}

impl Answering {
    fn is_cut_off(&self) -> bool {
        self.about.as_ref().is_some_and(|(connection, _)| connection.ending() == Ending::Stopped)
    }
}

impl Future for Answering {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Started::Receiving(receiving) = &mut this.started {
            let mut received = ready!(receiving.as_mut().poll(cx));
            if matches!(received, Err(Refusal::Client(..))) && this.is_cut_off() {
                // Of its body no more could be read because the daemon would not.
                received = Err(Refusal::Exchange(Fault::Unavailable("the daemon stops".into())));
            }
            this.started = Started::Submitted(received);
        }
        let outcome = match &mut this.started {
            Started::Submitted(Ok(ticket)) => match Pin::new(&mut *ticket).poll(cx) {
                Poll::Ready(outcome) => outcome.map_err(Refusal::Exchange),
                Poll::Pending => {
                    if let (Some(hints), Some((connection, asked))) = (ticket.hints(), &this.about)
                        && asked.knows_interim
                    {
                        connection.hint(&head::early_hints(&hints));
                    }
                    return Poll::Pending;
                }
            },
            Started::Submitted(Err(refusal)) => Err(refusal.clone()),
            Started::Receiving(_) => unreachable!("it has been received just now"),
        };
        let Some((connection, asked)) = this.about.take() else {
            unreachable!("a future is not polled again when it was ready")
        };
        // What has not left by now would come after the answer.
        drop(connection.take_hint());
        let outcome = outcome.and_then(|answer| check_length(&asked.method, &answer).map(|()| answer));
        let mut response = match outcome {
            Ok(answer) => match &this.handshake {
                Some(handshake) if answer.head.status == StatusCode::SWITCHING_PROTOCOLS => {
                    accepted(&this.server, connection, &asked, answer, handshake)
                }
                _ => answered(&this.server, connection, &asked, answer),
            },
            Err(refusal) => refused(&this.server, connection, &asked, &refusal),
        };
        response.headers_mut().entry(X_REQUEST_ID).or_insert_with(|| asked.id.into_value());
        Poll::Ready(Ok(response))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let Some((connection, asked)) = self.about.take() else { return };
        let worker = match &self.started {
            Started::Submitted(Ok(ticket)) => ticket.worker(),
            Started::Submitted(Err(_)) | Started::Receiving(_) => None,
        };
        self.server.journal.unanswered(Unanswered {
            request: described(&connection, &asked),
            sent: None,
            duration: asked.begun.elapsed(),
            worker,
            cause: cause(&connection),
            log_access: self.server.log_access,
        });
    }
}

/// The request's body, and its length in the fields if only now it is known.
async fn receive(server: &Server, parts: &mut request::Parts, incoming: Incoming) -> Result<Body, Refusal> {
    let chunked = incoming.size_hint().exact().is_none();
    if chunked {
        head::check_coding(&parts.headers)?;
    }
    let limits = BodyLimits {
        most: server.limits.body,
        pause: server.limits.body_pause,
        spool: &server.spool,
        dispatcher: &server.dispatcher,
    };
    let body = body::receive(incoming, &limits).await?;
    if chunked {
        head::set_length(&mut parts.headers, body.len());
    }
    Ok(body)
}

/// Gives a whole request to the dispatcher. `begun` is when its head was complete, `complete` when all of it was.
fn submit(
    server: &Server,
    connection: &Connection,
    parts: &request::Parts,
    body: Body,
    id: &RequestId,
    (begun, complete): (Instant, Instant),
) -> Result<Ticket, Refusal> {
    let body_len = body.len();
    let (inline, spooled) = match body {
        Body::Inline(bytes) => (bytes, None),
        Body::Spooled(fd, _) => (bytes::Bytes::new(), Some(fd)),
    };
    let frame = frame::Request {
        body_len,
        body_is_fd: spooled.is_some(),
        body: &inline,
        ..frame_of(server, connection, parts, id, begun)
    };
    let fields = head::fields(&parts.headers, false);
    server.dispatcher.submit(&frame, fields, spooled, complete).map_err(Refusal::Exchange)
}

/// All of a request's frame but its body.
fn frame_of<'p>(
    server: &Server,
    connection: &'p Connection,
    parts: &'p request::Parts,
    id: &'p RequestId,
    begun: Instant,
) -> frame::Request<'p> {
    frame::Request {
        received: server.clock.nanoseconds(begun),
        method: parts.method.as_str().as_bytes(),
        version: head::version(parts.version),
        listener: connection.listener,
        path: path(parts),
        query: parts.uri.query().unwrap_or_default().as_bytes(),
        peer: connection.peer.address.as_bytes(),
        peer_port: connection.peer.port,
        request_id: id.as_bytes(),
        ..frame::Request::new(ExchangeId(0))
    }
}

/// Gives the dispatcher a request whose body follows as the application takes it.
fn submit_in_parts(
    server: &Server,
    connection: &Arc<Connection>,
    parts: &request::Parts,
    incoming: Incoming,
    id: &RequestId,
    begun: Instant,
) -> Result<Ticket, Refusal> {
    let announced = upload::announced(&incoming, server.limits.body)?;
    if announced.is_none() {
        head::check_coding(&parts.headers)?;
    }
    let frame = frame::Request {
        body_len: announced.unwrap_or(frame::UNKNOWN_LENGTH),
        body_streams: true,
        ..frame_of(server, connection, parts, id, begun)
    };
    let fields = head::fields(&parts.headers, true);
    let submitted = server.dispatcher.submit(&frame, fields, None, begun);
    let (connection, dispatcher) = (Arc::clone(connection), Arc::clone(&server.dispatcher));
    let bringer = Bringer::new(incoming, &parts.headers, connection, dispatcher);
    match &submitted {
        Ok(ticket) => {
            let bounds = Bounds { most: server.limits.body, pause: server.limits.body_pause };
            tokio::spawn(bringer.bring(ticket.upload(), bounds));
        }
        Err(_) => drop(tokio::spawn(bringer.clear_away())),
    }
    submitted.map_err(Refusal::Exchange)
}

/// Gives the dispatcher the handshake of a WebSocket.
fn submit_handshake(
    server: &Server,
    connection: &Connection,
    parts: &request::Parts,
    id: &RequestId,
    begun: Instant,
) -> Result<Ticket, Refusal> {
    let frame = frame::Request { websocket: true, ..frame_of(server, connection, parts, id, begun) };
    let fields = head::fields(&parts.headers, true);
    server.dispatcher.submit(&frame, fields, None, begun).map_err(Refusal::Exchange)
}

/// What is remembered of a request while it is served. Its head is not: the fields and the target share hyper's read
/// buffer, and while they live every look for the next request's bytes would allocate another.
struct Asked {
    id: RequestId,
    method: Method,
    path: Path,
    /// The client understands interim answers: it speaks HTTP/1.1 (RFC 9110 §15.2).
    knows_interim: bool,
    /// When its head was complete.
    begun: Instant,
}

/// A request's path, as sent. Usual ones are short enough to need no allocation.
enum Path {
    Short([u8; SHORT_PATH], u8),
    Long(Box<[u8]>),
}

const SHORT_PATH: usize = 62;

impl Path {
    fn new(path: &[u8]) -> Self {
        let mut short = [0; SHORT_PATH];
        match (short.get_mut(..path.len()), u8::try_from(path.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(path);
                Self::Short(short, len)
            }
            _ => Self::Long(path.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes, len) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// hyper trusts that a length in the fields is the body's (`encode_headers` says so): if it were not, the rest of the
/// body would be read as the next answer on the connection. A HEAD's answer and a 304 announce what they do not have
/// (RFC 9110 §8.6); of a stream hyper counts the bytes.
fn check_length(method: &Method, answer: &Answer) -> Result<(), Refusal> {
    let Answer { head, first, rest, file, stream, worker, .. } = answer;
    if stream.is_some() || *method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED {
        return Ok(());
    }
    let bytes: u64 = first.iter().chain(rest).map(|piece| piece.len() as u64).sum();
    let len = bytes + file.as_ref().map_or(0, |file| file.len);
    let agrees = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.parse() == Ok(len));
    if head.fields.get_all(CONTENT_LENGTH).iter().all(agrees) {
        return Ok(());
    }
    Err(Refusal::WrongLength(*worker))
}

/// The path as sent; `OPTIONS *` has `*` (RFC 9112 §3.2.4).
fn path(parts: &request::Parts) -> &[u8] {
    parts.uri.path().as_bytes()
}

/// Turns an `Instant` into `CLOCK_MONOTONIC` nanoseconds, the time that daemon and workers share. (`Instant` is
/// that clock on Linux, but does not say its number.)
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Instant,
    nanoseconds: u64,
}

impl Clock {
    fn new() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let rest = u64::try_from(now.tv_nsec).unwrap_or_default();
        Self { start: Instant::now(), nanoseconds: seconds * 1_000_000_000 + rest }
    }

    fn nanoseconds(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.start).as_nanos();
        self.nanoseconds + u64::try_from(since).unwrap_or_default()
    }
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Spooled(_, len) => *len,
        }
    }
}

fn answered(
    server: &Server,
    connection: Arc<Connection>,
    asked: &Asked,
    answer: Answer,
) -> Response<ResponseBody> {
    let Answer { head, first, mut rest, file, stream, worker, queued } = answer;
    let source = match (stream, file) {
        (Some(stream), _) => Source::Stream(stream),
        (None, Some(file)) => Source::File(FileReader::new(file, Arc::clone(&server.dispatcher))),
        (None, None) => match first {
            None => Source::Empty,
            Some(first) if rest.is_empty() => Source::Bytes(first),
            Some(first) => {
                rest.push_front(first);
                Source::Parts(rest)
            }
        },
    };
    // What comes or goes piece by piece may break off; one piece is not worth an allocation.
    let may_break = matches!(source, Source::Parts(_) | Source::Stream(_) | Source::File(_));
    let account = (server.log_access || may_break).then(|| {
        let entry = Access {
            request: described(&connection, asked),
            status: head.status.as_u16(),
            bytes: 0,
            duration: Duration::ZERO,
            queued,
            worker,
        };
        let (journal, log_access) = (server.journal.clone(), server.log_access);
        Box::new(Account { entry, begun: asked.begun, journal, log_access })
    });
    let closing = connection.is_closing() || !server.limits.keepalive;
    // A HEAD's answer and a 304 have no body, whatever the length says; hyper knows the request.
    let mut response = Response::new(ResponseBody::new(source, connection, account));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.fields;
    if closing {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The application has accepted a WebSocket: 101, and the connection is that from now on.
fn accepted(
    server: &Server,
    connection: Arc<Connection>,
    asked: &Asked,
    answer: Answer,
    handshake: &Handshake,
) -> Response<ResponseBody> {
    let Answer { mut head, stream, worker, queued, .. } = answer;
    handshake.answer(&mut head.fields);
    if let Some(stream) = stream {
        handshake.put(websocket::Accepted {
            websocket: stream.into_websocket(),
            agreed: handshake.agreed,
            settings: server.websocket,
            shared: Arc::clone(&server.websockets),
            request: described(&connection, asked),
            worker,
            begun: asked.begun,
            log_access: server.log_access,
        });
    }
    if server.log_access {
        server.journal.access(Access {
            request: described(&connection, asked),
            status: head.status.as_u16(),
            bytes: 0,
            duration: asked.begun.elapsed(),
            queued,
            worker,
        });
    }
    let mut response = Response::new(ResponseBody::new(Source::Empty, connection, None));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.fields;
    response
}

fn refused(
    server: &Server,
    connection: Arc<Connection>,
    asked: &Asked,
    refusal: &Refusal,
) -> Response<ResponseBody> {
    let Told { status, reason, retry_after } = refusal.told();
    let (worker, summary, traceback) = match refusal {
        Refusal::Exchange(Fault::Raised { worker, summary, traceback }) => {
            (Some(*worker), summary.clone(), traceback.clone())
        }
        Refusal::Exchange(Fault::Deadline(worker) | Fault::WorkerDied(worker) | Fault::CutOff(worker)) => {
            (Some(*worker), reason.clone(), String::new())
        }
        Refusal::WrongLength(worker) => (*worker, reason.clone(), String::new()),
        Refusal::Spool(error) => (None, format!("{reason}: {error}"), String::new()),
        Refusal::Client(..) | Refusal::Exchange(_) => (None, reason.clone(), String::new()),
    };
    // Of a request over its deadline the supervising side writes the one entry, when it has the stacks.
    if !matches!(refusal, Refusal::Exchange(Fault::Deadline(_))) {
        server.journal.failure(Failure {
            request: described(&connection, asked),
            status: status.as_u16(),
            duration: asked.begun.elapsed(),
            worker,
            summary,
            traceback,
            log_access: server.log_access,
        });
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write!(
        text,
        "{} {}\n{reason}\nrequest id: {}\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        asked.id.as_str()
    );
    let unread = wants_close(status);
    if unread {
        connection.leaves_unread();
    }
    let closing = connection.is_closing() || unread || !server.limits.keepalive;
    let mut response = Response::new(ResponseBody::new(Source::Bytes(text.into()), connection, None));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(pause) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs()));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(
            http::header::ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"),
        );
    }
    if closing {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if status == StatusCode::UPGRADE_REQUIRED {
        // RFC 9110 §15.5.22, RFC 6455 §4.2.2.
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.append(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// The rest of such a request may still be on its way: the connection cannot be used for another.
fn wants_close(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::BAD_REQUEST
            | StatusCode::INSUFFICIENT_STORAGE
            | StatusCode::NOT_IMPLEMENTED
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::URI_TOO_LONG
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    )
}

fn described(connection: &Connection, asked: &Asked) -> crate::journal::requests::Request {
    crate::journal::requests::Request {
        id: asked.id.as_str().to_owned(),
        method: asked.method.as_str().to_owned(),
        path: String::from_utf8_lossy(asked.path.as_bytes()).into_owned(),
        client: connection.peer.address.clone(),
    }
}
