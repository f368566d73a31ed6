//! Every open connection: how many there may be, their timeouts, and the drain.
//!
//! `accept` waits here for capacity and registers connections; `edge` runs [`ConnectionTracker::sweep`], moves the
//! coarse clock and drains.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::client_limit::ClientLimit;
use super::connection::{Connection, Directive, Phase};
use super::eviction::EvictionCandidates;
use super::limits::ConnectionLimits;
use super::peer::Peer;

/// Tracks all connections of the daemon.
#[derive(Debug)]
pub struct ConnectionTracker {
    limits: Mutex<ConnectionLimits>,
    start: Instant,
    /// The coarse clock: milliseconds since `start`, updated by the reactor's turns.
    now: AtomicU32,
    draining: AtomicBool,
    /// The warning about `limits.connections` was logged and still applies.
    limit_reported: AtomicBool,
    registry: Mutex<Registry>,
    idle: Mutex<EvictionCandidates<Connection>>,
    /// A connection was closed: `accept` may be waiting for capacity, or `drain` for the last one.
    closed: Notify,
    /// The first connection was opened: the sweep has work again.
    opened: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    /// Indexed by a connection's key.
    connections: Vec<Option<Weak<Connection>>>,
    /// Keys that are not in use.
    free: Vec<usize>,
    count: usize,
    clients: ClientLimit,
}

/// The limit warning is logged again only after this fraction of the limit, one eighth, was free.
const REARM_FRACTION: usize = 8;

/// Interval at which an idle connection is evicted while a new one waits for capacity.
const EVICT_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which a draining daemon checks its connections.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Interval at which all timeouts are checked.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

impl ConnectionTracker {
    /// Creates a tracker without connections.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        let mut registry = Registry::default();
        registry.clients.set_limit(limits.per_client, std::iter::empty());
        Arc::new(Self {
            limits: Mutex::new(limits),
            start: Instant::now(),
            now: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            limit_reported: AtomicBool::new(false),
            registry: Mutex::new(registry),
            idle: Mutex::default(),
            closed: Notify::new(),
            opened: Notify::new(),
        })
    }

    /// Replaces the limits, for open connections too.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        // Collected outside of the lock, which dropping the last reference to a connection takes.
        let open = self.open_connections();
        self.lock().clients.set_limit(limits.per_client, open.iter().map(|connection| &connection.peer));
        // The new limit may leave room for a connection that waits.
        self.closed.notify_waiters();
    }

    fn limits(&self) -> ConnectionLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the coarse time.
    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Updates the coarse clock.
    pub fn tick(&self) {
        let elapsed = self.start.elapsed().as_millis();
        // Wraps after 49 days; differences are taken modulo 2^32.
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32 is meant")]
        self.now.store(elapsed as u32, Ordering::Relaxed);
    }

    /// Returns false if this client has `limits.connections_per_client` connections.
    pub(super) fn admit(&self, peer: &Peer) -> bool {
        self.lock().clients.admit(peer)
    }

    /// Evicts the connection that has been idle longest, if any may be evicted. Returns when a connection was closed,
    /// or after [`EVICT_INTERVAL`]: the evicted one may have received a request instead of closing.
    pub(super) async fn evict_idle(&self) {
        let closed = self.closed.notified();
        self.close_longest_idle();
        drop(tokio::time::timeout(EVICT_INTERVAL, closed).await);
    }

    fn close_longest_idle(&self) {
        self.tick();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = idle.take_longest_idle(self.now(), || self.open_connections()) {
            connection.set_directive(Directive::CloseIdle);
        }
    }

    /// Returns when there is room for one more connection, which is accepted but not registered. Evicts the connection
    /// that has been idle longest; if none is idle, waits for the next that is closed.
    pub(super) async fn wait_for_capacity(&self) {
        loop {
            let (count, max) = (self.count(), self.limits().connections);
            if count < max {
                // A single closed connection is not the end of the shortage.
                if self.limit_reported.load(Ordering::Relaxed) && count + max.div_ceil(REARM_FRACTION) <= max
                {
                    self.limit_reported.store(false, Ordering::Relaxed);
                }
                return;
            }
            if !self.limit_reported.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "{max} connections are open, as many as may be: for each further client the one that has been \
                     idle for longest is closed, and while none is, it waits; raise limits.connections, or \
                     LimitNOFILE= where that is \"auto\""
                );
            }
            self.evict_idle().await;
        }
    }

    /// Returns the number of open connections.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    /// Adds a connection; dropping it removes it.
    pub(super) fn register(&self, connection: Connection) -> Arc<Connection> {
        self.tick();
        connection.set_phase(Phase::New);
        let connection = Arc::new(connection);
        let weak = Arc::downgrade(&connection);
        let mut registry = self.lock();
        let key = if let Some(key) = registry.free.pop() {
            registry.connections[key] = Some(weak);
            key
        } else {
            registry.connections.push(Some(weak));
            registry.connections.len() - 1
        };
        connection.set_key(key);
        registry.clients.add(&connection.peer);
        registry.count += 1;
        let is_first = registry.count == 1;
        drop(registry);
        if is_first {
            self.opened.notify_one();
        }
        connection
    }

    /// Removes a connection; does nothing if it was never registered.
    pub(super) fn unregister(&self, key: usize, peer: &Peer) {
        let mut registry = self.lock();
        if let Some(entry) = registry.connections.get_mut(key)
            && entry.take().is_some()
        {
            registry.free.push(key);
            registry.count -= 1;
            registry.clients.remove(peer);
        }
        drop(registry);
        self.closed.notify_waiters();
    }

    /// Checks the timeouts of all connections, forever; sleeps while there is none.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            let opened = self.opened.notified();
            if self.count() == 0 {
                opened.await;
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.tick();
            self.check_timeouts();
        }
    }

    fn open_connections(&self) -> Vec<Arc<Connection>> {
        self.lock().connections.iter().flatten().filter_map(Weak::upgrade).collect()
    }

    fn check_timeouts(&self) {
        let limits = self.limits();
        let rejected = self.lock().clients.report(Instant::now());
        if let Some(rejected) = rejected {
            tracing::warn!("{rejected}");
        }
        for connection in self.open_connections() {
            connection.check_timeouts(&limits);
        }
    }

    /// Makes responses carry `Connection: close` from now on.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// True once [`ConnectionTracker::begin_drain`] was called.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Closes idle connections, lets busy ones finish, and aborts the rest at the deadline. Returns when none is left.
    ///
    /// A connection that was busy a moment ago is closed only after a grace of one second: its client may be sending
    /// the next request, and would see a reset. That request's response carries `Connection: close`.
    pub async fn drain(&self, deadline: Instant) {
        self.begin_drain();
        let mut aborted = false;
        loop {
            let closed = self.closed.notified();
            if self.count() == 0 {
                return;
            }
            self.tick();
            for connection in self.open_connections() {
                connection.close_if_idle();
            }
            if !aborted && Instant::now() >= deadline {
                aborted = true;
                for connection in self.open_connections() {
                    connection.set_directive(Directive::Abort);
                }
            }
            tokio::select! {
                () = closed => {}
                () = tokio::time::sleep(DRAIN_CHECK_INTERVAL) => {}
            }
        }
    }
}
