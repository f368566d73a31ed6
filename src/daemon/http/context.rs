//! The state that requests share: the server with its limits and settings, and their connection.
//!
//! `run` creates the [`Server`] and replaces it at a reload.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::header::HeaderName;

use crate::dispatch::Dispatcher;
use crate::journal::requests::{AccessLine, Journal};
use crate::negotiation::ErrorFormat;
use crate::net::Connection;
use crate::tls::TlsSession;
use crate::websocket;

use super::body::rate::MinDataRate;
use super::body::spool::SpoolBudgets;
use super::compression::policy::CompressionPolicy;
use super::error_page::ErrorPages;
use super::failure_page::FailurePage;
use super::file_server::{FileServer, FileSettings};
use super::forwarded::ForwardingSettings;
use super::h1::framing::Violation;
use super::h2::signals::StreamSignals;
use super::health::HealthPaths;
use super::https::HttpsPolicy;
use super::request_id::RequestIds;

/// Number of bytes after which a body yields to other tasks, a fraction of a millisecond of work.
pub(super) const YIELD_AFTER_BYTES: usize = 256 * 1024;

/// Limits of a request. Units are bytes unless the type or the doc says otherwise.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// `limits.body`: bytes of a body; `None`: no limit.
    pub body: Option<u64>,
    /// `limits.header`: bytes of all fields together.
    pub header: usize,
    /// `limits.headers`: number of fields.
    pub headers: usize,
    /// `limits.request_line`: bytes of the request line.
    pub request_line: usize,
    /// `timeouts.body`: longest pause between two pieces of a body.
    pub body_timeout: Duration,
    /// `limits.body_rate`: minimum average rate of a body in bytes per second; `None`: no minimum.
    pub body_rate: Option<u64>,
    /// `limits.spool_memory`: bytes of all bodies that are spooled in memory.
    pub spool_memory: u64,
    /// `limits.spool_disk`: bytes of all bodies that are spooled in files.
    pub spool_disk: u64,
    /// False if a connection serves one request only (`timeouts.keepalive` is 0).
    pub keepalive: bool,
}

/// `http.underscores`: the treatment of fields with an underscore in their name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnderscorePolicy {
    /// The fields are removed.
    #[default]
    Drop,
    /// The request is answered 400.
    Refuse,
    /// The fields are passed to the application.
    Allow,
}

/// The HTTP/2 settings (`http.http2`).
#[derive(Debug, Clone, Copy)]
pub struct Http2Settings {
    /// `limits.streams`: requests that one connection may have open.
    pub max_streams: u32,
}

/// The settings that a reload replaces.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Limits of each request.
    pub limits: RequestLimits,
    /// `http.underscores`.
    pub underscores: UnderscorePolicy,
    /// The HTTP/2 settings; `None` if HTTP/2 is off.
    pub http2: Option<Http2Settings>,
    /// `[proxy]`.
    pub forwarding: ForwardingSettings,
    /// The WebSocket settings.
    pub websocket: websocket::WebSocketSettings,
    /// `[health]`; `None` if both paths are off.
    pub health: Option<Box<HealthPaths>>,
    /// `[errors]`; `None` if there are no pages.
    pub error_pages: Option<Arc<ErrorPages>>,
    /// `[compression]`; `None` if it is off.
    pub compression: Option<Box<CompressionPolicy>>,
    /// Shows a developer why changed code does not load (`reload.on_change`); `None`: off.
    pub failure_page: Option<Arc<FailurePage>>,
    /// `timeouts.boot_page`.
    pub boot_page: Option<Duration>,
    /// `http.redirect_to_https` and `http.hsts`; `None`: both are off.
    pub https: Option<Box<HttpsPolicy>>,
    /// The access log; `None`: only failures are logged.
    pub access_log: Option<AccessSettings>,
    /// The directories from which files are sent.
    pub files: FileSettings,
}

/// The settings of the access log (`[log]`).
#[derive(Debug, Clone)]
pub struct AccessSettings {
    /// `log.query`: whether the query is logged.
    pub query: bool,
    /// `log.access_format`; `None`: rgun's own line.
    pub line: Option<Arc<AccessLine>>,
}

/// The state shared by all connections that were opened under the same settings.
#[derive(Debug)]
pub struct Server {
    pub(super) dispatcher: &'static Dispatcher,
    pub(super) limits: RequestLimits,
    pub(super) underscores: UnderscorePolicy,
    pub(super) http2: Option<Http2Settings>,
    pub(super) forwarding: ForwardingSettings,
    pub(super) websocket: websocket::WebSocketSettings,
    pub(super) websockets: Arc<websocket::WebSocketResources>,
    /// Directory for spooled files, on a disk.
    pub(super) spool_dir: PathBuf,
    pub(super) spool_budgets: &'static SpoolBudgets,
    pub(super) ids: Arc<RequestIds>,
    pub(super) clock: Clock,
    pub(super) journal: Journal,
    pub(super) access_log: Option<Box<AccessSettings>>,
    /// `None`: no directory is configured.
    pub(super) files: Option<Arc<FileServer>>,
    pub(super) health: Option<Box<HealthPaths>>,
    pub(super) https: Option<Box<HttpsPolicy>>,
    pub(super) error_pages: Option<Arc<ErrorPages>>,
    pub(super) compression: Option<Box<CompressionPolicy>>,
    pub(super) failure_page: Option<Arc<FailurePage>>,
    pub(super) boot_page: Option<Duration>,
}

impl RequestLimits {
    /// Returns the minimum rate of a request's body.
    pub(super) fn min_body_rate(&self) -> MinDataRate {
        MinDataRate { timeout: self.body_timeout, bytes_per_second: self.body_rate }
    }
}

impl SpoolBudgets {
    fn set_limits(&self, limits: &RequestLimits) {
        self.memory.set_limit(limits.spool_memory);
        self.disk.set_limit(limits.spool_disk);
    }
}

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Server {
    /// Creates the server at start; [`Server::with_settings`] replaces it at a reload.
    pub fn new(
        dispatcher: &'static Dispatcher,
        settings: Settings,
        spool_dir: PathBuf,
        journal: Journal,
    ) -> Arc<Self> {
        let process = ProcessState {
            websockets: websocket::WebSocketResources::new(dispatcher, journal.clone()),
            dispatcher,
            spool_dir,
            // Leaked, because there is one per process, and bodies refer to it.
            spool_budgets: Box::leak(Box::default()),
            ids: Arc::new(RequestIds::new()),
            clock: Clock::new(),
            journal,
        };
        Self::build(process, settings)
    }

    /// Returns a server with other settings, for connections opened from now on; open connections
    /// keep their settings.
    pub fn with_settings(&self, settings: Settings) -> Arc<Self> {
        let process = ProcessState {
            websockets: Arc::clone(&self.websockets),
            dispatcher: self.dispatcher,
            spool_dir: self.spool_dir.clone(),
            spool_budgets: self.spool_budgets,
            ids: Arc::clone(&self.ids),
            clock: self.clock,
            journal: self.journal.clone(),
        };
        Self::build(process, settings)
    }

    fn build(process: ProcessState, settings: Settings) -> Arc<Self> {
        let ProcessState { websockets, dispatcher, spool_dir, spool_budgets, ids, clock, journal } = process;
        spool_budgets.set_limits(&settings.limits);
        Arc::new(Self {
            dispatcher,
            limits: settings.limits,
            underscores: settings.underscores,
            http2: settings.http2,
            forwarding: settings.forwarding,
            websocket: settings.websocket,
            websockets,
            spool_dir,
            spool_budgets,
            ids,
            clock,
            journal,
            access_log: settings.access_log.map(Box::new),
            files: FileServer::new(settings.files),
            health: settings.health,
            https: settings.https,
            error_pages: settings.error_pages,
            compression: settings.compression,
            failure_page: settings.failure_page,
            boot_page: settings.boot_page,
        })
    }
}

/// The part of a [`Server`] that every reload keeps.
struct ProcessState {
    websockets: Arc<websocket::WebSocketResources>,
    dispatcher: &'static Dispatcher,
    spool_dir: PathBuf,
    spool_budgets: &'static SpoolBudgets,
    ids: Arc<RequestIds>,
    clock: Clock,
    journal: Journal,
}

/// A connection and the server that it was opened with, in one allocation: a request holds one
/// reference to both.
#[derive(Debug)]
pub(super) struct ConnContext {
    pub(super) server: Arc<Server>,
    pub(super) connection: Arc<Connection>,
    /// Whether the peer is in `proxy.trusted`, so that its `X-Request-ID` is used.
    pub(super) trusts_peer: bool,
    /// Whether the peer's forwarding fields are used: it is in `proxy.trusted`, and `proxy.headers`
    /// is not off.
    pub(super) reads_forwarded: bool,
    /// The TLS session of the connection; `None` without TLS.
    pub(super) tls: Option<Arc<TlsSession>>,
    /// Set when a head was refused (HTTP/1): hyper received a stand-in request instead, the last
    /// request of the connection.
    pub(super) refused_head: OnceLock<RefusedHead>,
    /// The connection's request, written as HTTP/1, if it was taken back from the dispatcher for the
    /// next daemon. The connection serves nothing more.
    pub(super) withdrawn: OnceLock<Vec<u8>>,
    /// Set if `connection` is an HTTP/2 stream.
    pub(super) stream_signals: Option<StreamSignals>,
    /// The process at the other end of a unix socket, for the access log: `unix, pid 4711, uid 33`.
    /// `None` on TCP, and unless requests are logged.
    pub(super) peer_process: Option<Arc<str>>,
}

impl ConnContext {
    /// True if the client used TLS, to this daemon or, by the PROXY header, to a proxy.
    pub(super) fn is_https(&self) -> bool {
        self.tls.is_some() || self.connection.https
    }
}

/// A head that was refused.
#[derive(Debug)]
pub(super) struct RefusedHead {
    pub(super) violation: Violation,
    /// The beginning of the head for the journal, escaped and bounded.
    pub(super) excerpt: String,
    /// The format of the response, by the `Accept` fields among the lines that have arrived.
    pub(super) error_format: ErrorFormat,
}

impl RefusedHead {
    /// Adds the beginning of the head to the reason for its refusal.
    pub(super) fn describe(&self, reason: String) -> String {
        if self.excerpt.is_empty() { reason } else { format!("{reason}: \"{}\"", self.excerpt) }
    }
}

/// Converts an `Instant` into `CLOCK_MONOTONIC` nanoseconds, the time that daemon and workers
/// share. (`Instant` is that clock on Linux, but hides its value.)
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    nanoseconds: u64,
}

impl Clock {
    fn new() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let subsec = u64::try_from(now.tv_nsec).unwrap_or_default();
        Self { start: Instant::now(), nanoseconds: seconds * 1_000_000_000 + subsec }
    }

    pub(super) fn monotonic_ns(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.start).as_nanos();
        self.nanoseconds + u64::try_from(since).unwrap_or_default()
    }
}
