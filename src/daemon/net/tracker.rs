//! Tracks the open connections: limits their number, checks their timeouts, and drains them.
//!
//! `accept` waits here for capacity and registers connections; `edge` runs
//! [`ConnectionTracker::sweep`], updates the coarse clock and drains.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::detached::DetachedConnection;
use super::directive::Directive;
use super::eviction::EvictionCandidates;
use super::limits::ConnectionLimits;
use super::peer::{Client, Peer};
use super::phase::Phase;
use super::registry::Registry;
use super::traffic::ResponseTotals;
use crate::heap;

/// Tracks all connections of the daemon.
#[derive(Debug)]
pub struct ConnectionTracker {
    limits: Mutex<ConnectionLimits>,
    registry: Arc<Registry<Connection>>,
    candidates: Mutex<EvictionCandidates<Connection>>,
    /// The warning about `limits.connections` was logged and still applies.
    limit_reported: AtomicBool,
    /// Connections that a drain may still choose for the next daemon.
    hand_over_left: AtomicUsize,
}

/// The limit warning is logged again after the limit divided by this was free.
const REARM_DIVISOR: usize = 8;

/// Interval at which an idle connection is evicted while a new one waits for capacity.
const EVICT_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which a draining daemon checks its connections.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Resolution of the coarse clock.
const COARSE_TICK: Duration = Duration::from_millis(10);

/// Interval at which all timeouts are checked.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// The numbers of connections, and of their bytes and responses. Except `open`, all count from the
/// daemon's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionTotals {
    /// Connections that are open.
    pub open: usize,
    /// Connections that were opened or taken over.
    pub opened: u64,
    /// Bytes that sockets returned: with TLS, the records.
    pub received: u64,
    /// Bytes that sockets accepted: with TLS, the records.
    pub sent: u64,
    /// Responses that began, and requests without a response.
    pub responses: ResponseTotals,
}

/// Counts a connection towards `limits.connections` until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionReservation(Arc<Registry<Connection>>);

impl Drop for ConnectionReservation {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// The result of one sweep: how soon the next is needed.
#[derive(Debug, PartialEq, Eq)]
struct SweepResult {
    /// Number of connections that are not parked.
    active: usize,
    /// Time after which `timeouts.keepalive` closes the first of the parked connections; without any, the maximum.
    next_close: Duration,
}

impl ConnectionTracker {
    /// Creates a tracker without connections.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        let registry = Registry::new();
        registry.set_client_limit(limits.per_client, std::iter::empty());
        Arc::new(Self {
            limits: Mutex::new(limits),
            registry: Arc::new(registry),
            candidates: Mutex::default(),
            limit_reported: AtomicBool::new(false),
            hand_over_left: AtomicUsize::new(0),
        })
    }

    /// Replaces the limits, for open connections too.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        let open = self.registry.connections();
        self.registry.set_client_limit(limits.per_client, open.iter().map(|connection| &connection.peer));
        // The new limit may leave room for a connection that waits.
        self.registry.notify_closed();
        // Parked connections may be due earlier.
        self.registry.wake_sweep();
    }

    fn limits(&self) -> ConnectionLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the coarse clock.
    pub fn tick(&self) {
        self.registry.tick();
    }

    /// Returns false if this client has `limits.connections_per_client` connections.
    pub(super) fn admit(&self, peer: &Peer) -> bool {
        self.registry.admit(peer)
    }

    /// Evicts the connection that has been idle longest, if any may be evicted. Returns when a
    /// connection was closed, or after [`EVICT_INTERVAL`]: the chosen connection may have received
    /// a request instead of closing.
    pub(super) async fn evict_idle(&self) {
        let closed = self.registry.closed();
        self.close_longest_idle();
        drop(tokio::time::timeout(EVICT_INTERVAL, closed).await);
    }

    fn close_longest_idle(&self) {
        self.tick();
        let mut candidates = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) =
            candidates.take_longest_idle(self.registry.now(), || self.registry.connections())
        {
            connection.set_directive(Directive::Evict);
        }
    }

    /// Waits until there is room for one more connection, which was accepted and is not registered
    /// yet. Evicts the connection that has been idle longest; if none is idle, waits until a
    /// connection closes.
    pub(super) async fn wait_for_capacity(&self) {
        loop {
            let (count, max) = (self.count(), self.limits().connections);
            if count < max {
                // While the number stays near the limit, the warning is not repeated.
                if self.limit_reported.load(Ordering::Relaxed) && count + max.div_ceil(REARM_DIVISOR) <= max {
                    self.limit_reported.store(false, Ordering::Relaxed);
                }
                return;
            }
            if !self.limit_reported.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "{max} connections are open, the limit: each further client replaces the connection that has been \
                     idle longest, or waits if none is idle; raise limits.connections, or LimitNOFILE= if \
                     limits.connections is \"auto\""
                );
            }
            self.evict_idle().await;
        }
    }

    /// Returns the number of open connections.
    pub fn count(&self) -> usize {
        self.registry.count()
    }

    /// Returns the numbers of connections, and of their bytes and responses.
    pub fn totals(&self) -> ConnectionTotals {
        ConnectionTotals {
            open: self.registry.count(),
            opened: self.registry.total(),
            received: self.registry.traffic.received(),
            sent: self.registry.traffic.sent(),
            responses: self.registry.traffic.responses(),
        }
    }

    /// Counts an accepted connection whose client is not known yet, until the reservation is
    /// dropped.
    pub(super) fn reserve(&self) -> ConnectionReservation {
        self.registry.reserve();
        ConnectionReservation(Arc::clone(&self.registry))
    }

    /// Returns `timeouts.header`.
    pub(super) fn header_timeout(&self) -> Duration {
        self.limits().header
    }

    /// Adds a connection that was accepted; dropping the last reference to it removes it.
    pub(super) fn register(&self, client: Client, listener: u16) -> Arc<Connection> {
        self.tick();
        let registry = Arc::clone(&self.registry);
        self.registry.register(|key| Connection::new(client, listener, key, registry))
    }

    /// Returns the time since a client last used the daemon without a worker: it received a file,
    /// or had a WebSocket open. Returns `None` while a request is received or answered.
    pub fn unused_for(&self) -> Option<Duration> {
        self.tick();
        let mut is_busy = false;
        for connection in self.registry.connections() {
            match connection.phase() {
                Phase::WebSocket => self.registry.mark_use(),
                Phase::New | Phase::Idle | Phase::Lingering => is_busy |= connection.is_responding(),
                Phase::Head | Phase::Busy => is_busy = true,
            }
        }
        (!is_busy).then(|| self.registry.unused_for())
    }

    /// Checks the timeouts of all connections, forever, and returns to the kernel the memory that they and
    /// their requests have freed. Rests while all connections are parked.
    pub async fn sweep(self: Arc<Self>) {
        // All memory that was free has returned to the kernel.
        let mut is_purged = false;
        loop {
            self.registry.announce_rest();
            self.tick();
            let swept = self.check_timeouts();
            if swept.active > 0 || self.registry.has_unreported_rejection() {
                heap::decay();
                is_purged = false;
                tokio::time::sleep(SWEEP_INTERVAL).await;
                continue;
            }
            let limit = if is_purged { Duration::MAX } else { heap::DECAY_TIME };
            is_purged = !self.rest(swept.next_close.min(limit)).await;
            if is_purged {
                tokio::task::spawn_blocking(heap::purge);
            }
        }
    }

    /// Waits for work, at most for `limit`, and then for [`SWEEP_INTERVAL`]. Returns false, without the
    /// second wait, if no work came.
    async fn rest(&self, limit: Duration) -> bool {
        let has_work = tokio::time::timeout(limit, self.registry.sweep_work()).await.is_ok();
        if has_work {
            tokio::time::sleep(SWEEP_INTERVAL).await;
        }
        has_work
    }

    /// Checks the timeouts of all connections.
    fn check_timeouts(&self) -> SweepResult {
        let limits = self.limits();
        if let Some(report) = self.registry.rejection_report() {
            tracing::warn!("{report}");
        }
        let mut swept = SweepResult { active: 0, next_close: Duration::MAX };
        for connection in self.registry.connections() {
            connection.check_timeouts(&limits);
            if connection.is_parked() {
                let left = limits.keepalive.saturating_sub(connection.age());
                swept.next_close = swept.next_close.min(left.saturating_add(COARSE_TICK));
            } else {
                swept.active += 1;
            }
        }
        swept
    }

    /// Chooses up to `hand_over` connections for the next daemon. From now on, responses on all
    /// others carry `Connection: close`.
    pub fn begin_drain(&self, hand_over: usize) {
        self.hand_over_left.store(hand_over, Ordering::Relaxed);
        for connection in self.registry.connections() {
            self.choose_for_hand_over(&connection);
        }
        self.registry.begin_drain();
    }

    /// Returns true if the next daemon continues the connection. Called repeatedly while the daemon
    /// drains.
    fn choose_for_hand_over(&self, connection: &Connection) -> bool {
        if !connection.is_movable() || connection.directive() == Directive::Abort {
            return false;
        }
        if connection.is_chosen() {
            // A busy connection may have a request that can be moved.
            if connection.should_hand_over() || connection.movable_body_len().is_some() {
                connection.wake();
            }
            return true;
        }
        let take = |left: usize| left.checked_sub(1);
        let has_room = self.hand_over_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if has_room {
            connection.set_directive(Directive::HandOver);
        }
        has_room
    }

    /// Takes the connections that are for the next daemon.
    pub fn take_detached(&self) -> Vec<DetachedConnection> {
        self.registry.take_detached()
    }

    /// Detaches the connections that are for the next daemon, closes idle ones, lets busy ones
    /// finish, and aborts the rest at the deadline. Returns when none is left. `moves_requests` says
    /// whether requests that have not started go to the next daemon, too; it is asked repeatedly.
    ///
    /// A connection that was busy a moment ago is closed only after a grace of one second: its
    /// client may be sending the next request, and would see a reset. That request's response
    /// carries `Connection: close`.
    pub async fn drain(&self, deadline: Instant, mut moves_requests: impl FnMut() -> bool) {
        let mut aborted = false;
        loop {
            let closed = self.registry.closed();
            if self.count() == 0 {
                return;
            }
            self.tick();
            if !self.registry.moves_requests() && moves_requests() {
                self.registry.begin_moving_requests();
            }
            for connection in self.registry.connections() {
                if !self.choose_for_hand_over(&connection) {
                    connection.close_if_idle();
                }
            }
            if !aborted && Instant::now() >= deadline {
                aborted = true;
                for connection in self.registry.connections() {
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn limits(per_client: Option<NonZeroU32>) -> ConnectionLimits {
        ConnectionLimits {
            header: Duration::from_secs(10),
            keepalive: Duration::from_secs(75),
            write: Duration::from_mins(1),
            response_rate: None,
            connections: 10,
            per_client,
        }
    }

    fn peer() -> Peer {
        std::net::SocketAddr::from(([192, 0, 2, 1], 1)).into()
    }

    #[test]
    fn sweep_may_rest_until_a_parked_connection_is_due() {
        let tracker = ConnectionTracker::new(limits(None));
        assert_eq!(tracker.check_timeouts(), SweepResult { active: 0, next_close: Duration::MAX });
        let connection = tracker.register(peer().into(), 0);
        connection.set_phase(Phase::Idle);
        assert_eq!(tracker.check_timeouts(), SweepResult { active: 1, next_close: Duration::MAX });
        connection.set_directive(Directive::Park);
        let SweepResult { active, next_close } = tracker.check_timeouts();
        assert_eq!(active, 0);
        let keepalive = limits(None).keepalive;
        assert!(next_close > keepalive / 2 && next_close <= keepalive + COARSE_TICK, "{next_close:?}");
    }

    #[tokio::test]
    async fn resting_sweep_is_woken_by_each_kind_of_work() {
        let tracker = ConnectionTracker::new(limits(NonZeroU32::new(1)));
        let parked = tracker.register(peer().into(), 0);
        parked.set_phase(Phase::Idle);
        parked.set_directive(Directive::Park);
        let kinds: [(&str, &dyn Fn()); 6] = [
            ("an opened connection", &|| drop(tracker.register(Peer::unix().into(), 0))),
            ("an unparked connection", &|| parked.unpark()),
            ("a connection that has ended its parking itself", &|| {
                parked.set_directive(Directive::Park);
                parked.set_phase(Phase::Busy);
            }),
            ("a parked connection that is closed", &|| {
                parked.set_directive(Directive::Park);
                parked.set_directive(Directive::Evict);
            }),
            ("a rejected client", &|| assert!(!tracker.admit(&peer()))),
            ("changed limits", &|| tracker.set_limits(limits(NonZeroU32::new(1)))),
        ];
        let is_woken = || async {
            tokio::time::timeout(Duration::from_millis(1), tracker.registry.sweep_work()).await.is_ok()
        };
        for (kind, begin) in kinds {
            tracker.registry.announce_rest();
            assert!(!is_woken().await, "before {kind}");
            begin();
            assert!(is_woken().await, "{kind}");
        }
    }

    #[test]
    fn websocket_counts_as_use_and_idle_connection_does_not() {
        let tracker = ConnectionTracker::new(limits(None));
        let connection = tracker.register(Peer::unix().into(), 0);
        let waited = Duration::from_millis(30);
        std::thread::sleep(waited);
        for phase in [Phase::New, Phase::Idle, Phase::Lingering] {
            connection.set_phase(phase);
            assert!(tracker.unused_for().is_some_and(|time| time >= waited / 2), "{phase:?}");
        }
        for phase in [Phase::Head, Phase::Busy] {
            connection.set_phase(phase);
            assert_eq!(tracker.unused_for(), None, "{phase:?}");
        }
        connection.set_phase(Phase::Idle);
        assert!(
            tracker.unused_for().is_some_and(|time| time >= waited / 2),
            "a request is not use by itself"
        );
        connection.set_phase(Phase::WebSocket);
        assert_eq!(tracker.unused_for(), Some(Duration::ZERO));
    }
}
