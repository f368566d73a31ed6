//! The registry of open connections: their keys and number, and the state that all of them read.
//!
//! The registry is generic over the connection type. A connection refers to the registry, and
//! removes itself when it is dropped.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::client_limit::ClientLimit;
use super::coarse_clock::coarse_ms;
use super::detached::DetachedConnection;
use super::peer::Peer;
use super::traffic::TrafficCounts;

/// Open connections, the coarse clock and the drain flag.
#[derive(Debug)]
pub(super) struct Registry<C> {
    /// The coarse clock in milliseconds, updated each time the reactor wakes.
    now: AtomicU32,
    /// Coarse time of the last [`Registry::mark_use`].
    last_use: AtomicU32,
    /// The daemon drains.
    draining: AtomicBool,
    /// Requests that have not started leave the daemon, too.
    moves_requests: AtomicBool,
    /// The bytes and responses of all connections.
    pub(super) traffic: TrafficCounts,
    slots: Mutex<RegistrySlots<C>>,
    /// Notified when a connection is closed: `accept` may be waiting for capacity, or `drain` for
    /// the last connection to close.
    closed: Notify,
    /// The sweep rests until [`Registry::wake_sweep`].
    sweep_rests: AtomicBool,
    sweep_work: Notify,
    /// The connections that the drain has taken out of HTTP, for the next daemon.
    detached: Mutex<Vec<DetachedConnection>>,
}

#[derive(Debug)]
struct RegistrySlots<C> {
    /// Indexed by a connection's key.
    connections: Vec<Option<Weak<C>>>,
    /// Keys that are not in use.
    free: Vec<usize>,
    count: usize,
    /// Connections that were registered since the daemon started.
    total: u64,
    clients: ClientLimit,
}

impl<C> Registry<C> {
    pub(super) fn new() -> Self {
        let clients = ClientLimit::default();
        Self {
            now: AtomicU32::new(coarse_ms()),
            last_use: AtomicU32::new(coarse_ms()),
            draining: AtomicBool::new(false),
            moves_requests: AtomicBool::new(false),
            traffic: TrafficCounts::default(),
            slots: Mutex::new(RegistrySlots {
                connections: Vec::new(),
                free: Vec::new(),
                count: 0,
                total: 0,
                clients,
            }),
            closed: Notify::new(),
            sweep_rests: AtomicBool::new(false),
            sweep_work: Notify::new(),
            detached: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RegistrySlots<C>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the coarse time.
    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Updates the coarse clock.
    pub(super) fn tick(&self) {
        self.now.store(coarse_ms(), Ordering::Relaxed);
    }

    /// Notes a use of the daemon that `dispatch` does not see.
    pub(super) fn mark_use(&self) {
        self.last_use.store(self.now(), Ordering::Relaxed);
    }

    /// Returns the time since the last [`Registry::mark_use`], or since the start; modulo 2^32 ms.
    pub(super) fn unused_for(&self) -> Duration {
        Duration::from_millis(u64::from(self.now().wrapping_sub(self.last_use.load(Ordering::Relaxed))))
    }

    pub(super) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// True once [`Registry::begin_drain`] was called.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn begin_moving_requests(&self) {
        self.moves_requests.store(true, Ordering::Relaxed);
    }

    /// True once [`Registry::begin_moving_requests`] was called.
    pub(super) fn moves_requests(&self) -> bool {
        self.moves_requests.load(Ordering::Relaxed)
    }

    /// Adds the connection that `create` returns for its key.
    pub(super) fn register(&self, create: impl FnOnce(usize) -> C) -> Arc<C>
    where
        C: AsRef<Peer>,
    {
        let mut slots = self.lock();
        let key = slots.free.pop().unwrap_or(slots.connections.len());
        let connection = Arc::new(create(key));
        let weak = Some(Arc::downgrade(&connection));
        match slots.connections.get_mut(key) {
            Some(slot) => *slot = weak,
            None => slots.connections.push(weak),
        }
        slots.clients.add(C::as_ref(&connection));
        slots.count += 1;
        slots.total += 1;
        drop(slots);
        self.wake_sweep();
        connection
    }

    /// Counts a connection whose client is not known yet.
    pub(super) fn reserve(&self) {
        self.lock().count += 1;
    }

    /// Undoes [`Registry::reserve`].
    pub(super) fn release(&self) {
        self.lock().count -= 1;
        self.closed.notify_waiters();
    }

    /// Removes a connection. Called when it is dropped.
    pub(super) fn unregister(&self, key: usize, peer: &Peer) {
        let mut slots = self.lock();
        if let Some(slot) = slots.connections.get_mut(key)
            && slot.take().is_some()
        {
            slots.free.push(key);
            slots.count -= 1;
            slots.clients.remove(peer);
        }
        drop(slots);
        self.closed.notify_waiters();
    }

    /// Keeps a connection for the next daemon.
    pub(super) fn detach(&self, connection: DetachedConnection) {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    /// Returns the length in bytes of the input that the connections for the next daemon take along.
    pub(super) fn detached_len(&self) -> usize {
        let detached = self.detached.lock().unwrap_or_else(PoisonError::into_inner);
        detached.iter().map(|connection| connection.unread.len()).sum()
    }

    /// Takes the connections that are for the next daemon.
    pub(super) fn take_detached(&self) -> Vec<DetachedConnection> {
        std::mem::take(&mut *self.detached.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the number of open connections.
    pub(super) fn count(&self) -> usize {
        self.lock().count
    }

    /// Returns the number of connections that were registered since the daemon started.
    pub(super) fn total(&self) -> u64 {
        self.lock().total
    }

    /// Returns all open connections.
    pub(super) fn connections(&self) -> Vec<Arc<C>> {
        self.lock().connections.iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// Returns false if this client has reached `limits.connections_per_client`.
    pub(super) fn admit(&self, peer: &Peer) -> bool {
        let is_admitted = self.lock().clients.admit(peer);
        if !is_admitted {
            // The sweep reports it.
            self.wake_sweep();
        }
        is_admitted
    }

    /// Replaces `limits.connections_per_client`. `open` are the clients of all open connections.
    pub(super) fn set_client_limit<'p>(
        &self,
        limit: Option<NonZeroU32>,
        open: impl Iterator<Item = &'p Peer>,
    ) {
        self.lock().clients.set_limit(limit, open);
    }

    /// Returns the next log line about rejected clients, if one is due.
    pub(super) fn rejection_report(&self) -> Option<String> {
        self.lock().clients.report(Instant::now())
    }

    /// Completes when a connection is closed after this call, or the limits change.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + '_ {
        self.closed.notified()
    }

    /// Wakes the tasks that wait for [`Registry::closed`].
    pub(super) fn notify_closed(&self) {
        self.closed.notify_waiters();
    }

    /// True if a rejection of a client is still to be logged.
    pub(super) fn has_unreported_rejection(&self) -> bool {
        self.lock().clients.has_unreported_rejection()
    }

    /// Announces that the sweep may rest. From now on, [`Registry::wake_sweep`] wakes it, even if called
    /// before [`Registry::sweep_work`] is awaited.
    pub(super) fn announce_rest(&self) {
        self.sweep_rests.store(true, Ordering::Relaxed);
    }

    /// Wakes the sweep if it rests: a connection was opened, or is no longer parked,
    /// a client was rejected, or the limits have changed.
    pub(super) fn wake_sweep(&self) {
        if self.sweep_rests.load(Ordering::Relaxed) {
            self.sweep_rests.store(false, Ordering::Relaxed);
            self.sweep_work.notify_one();
        }
    }

    /// Completes when the sweep was woken after [`Registry::announce_rest`].
    pub(super) fn sweep_work(&self) -> impl Future<Output = ()> + '_ {
        self.sweep_work.notified()
    }
}
