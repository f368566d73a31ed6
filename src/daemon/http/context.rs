//! Serves the requests of one connection, and the WebSocket that one of them may become.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use http::header::HeaderName;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Parts};
use hyper::service::Service;
use hyper_util::rt::TokioIo;

use crate::dispatch::Dispatcher;
use crate::journal::requests::Journal;
use crate::net::{Connection, Stream};
use crate::websocket;

use super::answer::Answering;
use super::forwarded::TrustedPeers;
use super::handshake::Place;
use super::pace::MinPace;
use super::request_id::RequestIds;
use super::response::ResponseBody;
use super::spool::Spools;
use super::submit::{Clock, start};
use super::wire::{RefusedHead, Wire};

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
    /// `limits.body_rate`: bytes per second that a body comes at least.
    pub body_rate: Option<u64>,
    /// `limits.spool_memory`: bytes of bodies that wait in memory, all together.
    pub spool_memory: u64,
    /// `limits.spool_disk`: the same in files.
    pub spool_disk: u64,
    /// Whether a connection serves more than one request (`timeouts.keepalive` is not 0).
    pub keepalive: bool,
}

/// `http.underscores`: what becomes of fields with an underscore in their name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Underscores {
    /// The application does not get them.
    #[default]
    Drop,
    /// A request that has one is answered 400.
    Refuse,
    /// The application gets them.
    Allow,
}

/// What a reload can change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is too much.
    pub limits: Limits,
    /// `http.underscores`.
    pub underscores: Underscores,
    /// `proxy.trusted`.
    pub trusted: TrustedPeers,
    /// How WebSockets are served.
    pub websocket: websocket::Settings,
    /// Whether every request is noted.
    pub log_access: bool,
}

/// What all connections share that began under the same settings.
#[derive(Debug)]
pub struct Server {
    pub(super) dispatcher: &'static Dispatcher,
    pub(super) limits: Limits,
    pub(super) underscores: Underscores,
    pub(super) trusted: TrustedPeers,
    pub(super) websocket: websocket::Settings,
    pub(super) websockets: Arc<websocket::Shared>,
    /// Where bodies over 16 MiB wait: a file system on disk.
    pub(super) spool: PathBuf,
    pub(super) spools: &'static Spools,
    pub(super) ids: Arc<RequestIds>,
    pub(super) clock: Clock,
    pub(super) journal: Journal,
    pub(super) log_access: bool,
}

impl Limits {
    /// How fast a body has to come.
    pub(super) fn pace(&self) -> MinPace {
        MinPace { pause: self.body_pause, rate: self.body_rate }
    }
}

impl Spools {
    fn set_limits(&self, limits: &Limits) {
        self.memory.set_limit(limits.spool_memory);
        self.disk.set_limit(limits.spool_disk);
    }
}

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of a head that belong to neither the request line nor a field.
const LINE_ENDS: usize = 4;

/// hyper's own default, for which it keeps the fields on the stack.
const STACK_HEADERS: usize = 100;

impl Server {
    /// Shared by all connections.
    pub fn new(
        dispatcher: &'static Dispatcher,
        settings: Settings,
        spool: PathBuf,
        journal: Journal,
    ) -> Arc<Self> {
        let Settings { limits, underscores, trusted, websocket, log_access } = settings;
        // A daemon has one for as long as it lives.
        let spools: &'static Spools = Box::leak(Box::default());
        spools.set_limits(&limits);
        Arc::new(Self {
            spools,
            websockets: websocket::Shared::new(dispatcher, journal.clone()),
            dispatcher,
            limits,
            underscores,
            trusted,
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
        let Settings { limits, underscores, trusted, websocket, log_access } = settings;
        self.spools.set_limits(&limits);
        Arc::new(Self {
            spools: self.spools,
            dispatcher: self.dispatcher,
            limits,
            underscores,
            trusted,
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

type Speaking = http1::Connection<TokioIo<Wire>, Requests>;

fn speak(server: Arc<Server>, stream: Stream) -> Speaking {
    let connection = Arc::clone(stream.connection());
    let limits = &server.limits;
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None) // `Connections::sweep` does that, without a timer per request
        // The wire looks at the client while a request is served.
        .half_close(true)
        // Not `pipeline_flush`: it buffers without bound for a client that does not read. Nor `keep_alive`: it says
        // `close` in a 101, too. The framing has bounded a head already, but for its line ends.
        .max_header_size(limits.header + limits.request_line + LINE_ENDS);
    if limits.headers != STACK_HEADERS {
        builder.max_headers(limits.headers);
    }
    let trusts_peer = server.trusted.trusts(connection.peer.ip);
    let served = Arc::new(Served { server, connection, trusts_peer, refused_head: OnceLock::new() });
    let wire = Wire::new(stream, Arc::clone(&served));
    builder.serve_connection(TokioIo::new(wire), Requests { served, place: OnceLock::new() })
}

/// What the connection is after its last answer, if that was a 101: hyper leaves the socket open then, and what it has
/// read too much in its buffer.
fn upgraded(spoken: Speaking) -> Option<Box<websocket::Socket>> {
    let Parts { io, read_buf, service, .. } = spoken.into_parts();
    let accepted = service.accepted()?;
    let (stream, held) = io.into_inner().into_parts();
    Some(websocket::serve(stream, &[&*read_buf, &*held].concat(), *accepted))
}

/// A connection, and the server that it began with. One, so that a request counts one reference to both.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) server: Arc<Server>,
    pub(super) connection: Arc<Connection>,
    /// Whether what the peer says of a request's origin is believed.
    pub(super) trusts_peer: bool,
    /// Why the connection's last request, whose place a stand-in has taken, is refused.
    pub(super) refused_head: OnceLock<RefusedHead>,
}

/// The requests of one connection.
pub(super) struct Requests {
    pub(super) served: Arc<Served>,
    /// Made for a handshake.
    pub(super) place: OnceLock<Place>,
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
        Answering { about: Some((Arc::clone(&self.served), asked)), started, handshake, patience: None }
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
            self.connection.mark_closed();
        } else {
            self.connection.mark_shutdown();
        }
    }
}
