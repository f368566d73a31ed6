//! What requests share: the server with its limits and settings, and the connection that they come on.
//!
//! Types alone, below everything that serves a request; `edge` makes the [`Server`] and replaces it at a reload.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::header::HeaderName;

use crate::dispatch::Dispatcher;
use crate::journal::requests::Journal;
use crate::net::Connection;
use crate::websocket;

use super::body::rate::MinDataRate;
use super::body::spool::SpoolBudgets;
use super::forwarded::TrustedPeers;
use super::h1::framing::Violation;
use super::request_id::RequestIds;

/// Bytes of one body, either way, before others have their turn: a fraction of a millisecond.
pub(super) const YIELD_AFTER_BYTES: usize = 256 * 1024;

/// What bounds a request. Units: bytes, except where a type says otherwise.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// `limits.body`.
    pub body: Option<u64>,
    /// `limits.header`: all fields together.
    pub header: usize,
    /// `limits.headers`: number of fields.
    pub headers: usize,
    /// `limits.request_line`.
    pub request_line: usize,
    /// `timeouts.body`: the longest pause between two pieces of a body.
    pub body_timeout: Duration,
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
pub enum UnderscorePolicy {
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
    pub limits: RequestLimits,
    /// `http.underscores`.
    pub underscores: UnderscorePolicy,
    /// `proxy.trusted`.
    pub trusted: TrustedPeers,
    /// How WebSockets are served.
    pub websocket: websocket::WebSocketSettings,
    /// Whether every request is noted.
    pub log_access: bool,
}

/// What all connections share that began under the same settings.
#[derive(Debug)]
pub struct Server {
    pub(super) dispatcher: &'static Dispatcher,
    pub(super) limits: RequestLimits,
    pub(super) underscores: UnderscorePolicy,
    pub(super) trusted: TrustedPeers,
    pub(super) websocket: websocket::WebSocketSettings,
    pub(super) websockets: Arc<websocket::WebSocketResources>,
    /// Where bodies over 16 MiB wait: a file system on disk.
    pub(super) spool_dir: PathBuf,
    pub(super) spool_budgets: &'static SpoolBudgets,
    pub(super) ids: Arc<RequestIds>,
    pub(super) clock: Clock,
    pub(super) journal: Journal,
    pub(super) log_access: bool,
}

impl RequestLimits {
    /// How fast a body has to come.
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
    /// Shared by all connections.
    pub fn new(
        dispatcher: &'static Dispatcher,
        settings: Settings,
        spool: PathBuf,
        journal: Journal,
    ) -> Arc<Self> {
        let Settings { limits, underscores, trusted, websocket, log_access } = settings;
        // A daemon has one for as long as it lives.
        let spools: &'static SpoolBudgets = Box::leak(Box::default());
        spools.set_limits(&limits);
        Arc::new(Self {
            spool_budgets: spools,
            websockets: websocket::WebSocketResources::new(dispatcher, journal.clone()),
            dispatcher,
            limits,
            underscores,
            trusted,
            websocket,
            spool_dir: spool,
            ids: Arc::new(RequestIds::new()),
            clock: Clock::new(),
            journal,
            log_access,
        })
    }

    /// The same for connections that begin from now on; those that are open keep what they began with.
    pub fn with_settings(&self, settings: Settings) -> Arc<Self> {
        let Settings { limits, underscores, trusted, websocket, log_access } = settings;
        self.spool_budgets.set_limits(&limits);
        Arc::new(Self {
            spool_budgets: self.spool_budgets,
            dispatcher: self.dispatcher,
            limits,
            underscores,
            trusted,
            websocket,
            websockets: Arc::clone(&self.websockets),
            spool_dir: self.spool_dir.clone(),
            ids: Arc::clone(&self.ids),
            clock: self.clock,
            journal: self.journal.clone(),
            log_access,
        })
    }
}

/// A connection, and the server that it began with. One, so that a request counts one reference to both.
#[derive(Debug)]
pub(super) struct ConnContext {
    pub(super) server: Arc<Server>,
    pub(super) connection: Arc<Connection>,
    /// Whether what the peer says of a request's origin is believed.
    pub(super) trusts_peer: bool,
    /// Why the connection's last request, whose place a stand-in has taken, is refused.
    pub(super) refused_head: OnceLock<RefusedHead>,
}

/// Why the last head on a connection was refused.
#[derive(Debug)]
pub(super) struct RefusedHead {
    pub(super) violation: Violation,
    /// How the head begins, printable and bounded.
    pub(super) excerpt: String,
}

/// Turns an `Instant` into `CLOCK_MONOTONIC` nanoseconds, the time that daemon and workers share. (`Instant` is
/// that clock on Linux, but does not say its number.)
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
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

    pub(super) fn monotonic_ns(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.start).as_nanos();
        self.nanoseconds + u64::try_from(since).unwrap_or_default()
    }
}
