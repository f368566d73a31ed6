//! What is known of a connection besides its bytes: who the client is, what it is doing, and since when.
//!
//! Timeouts are kept without a timer per request: a connection notes its phase and the (coarse) time, which
//! costs two relaxed stores, and [`Connections::sweep`] looks at all of them twice a second. A timeout is
//! therefore up to half a second late, never early.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::crowd::{ClientLimit, Evictable, EvictionCandidates};
use super::limits::ConnectionLimits;
use super::output::OutputProgress;
use super::peer::Peer;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Accepted; not a byte has come.
    New = 0,
    /// Part of a head has come: `timeouts.header` runs.
    Head = 1,
    /// A request is being read, served or answered; other clocks run for that.
    Busy = 2,
    /// Between requests: `timeouts.keepalive` runs.
    Idle = 3,
    /// The last answer is out; what the client still sends is read and dropped, for [`LINGER`].
    Lingering = 4,
    /// A WebSocket, which has its own times: see [`Connection::set_alarm`].
    WebSocket = 5,
}

impl Phase {
    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::New,
            1 => Self::Head,
            2 => Self::Busy,
            3 => Self::Idle,
            4 => Self::Lingering,
            _ => Self::WebSocket,
        }
    }
}

/// What the sweep (or the drain) wants of a connection; its stream obeys when it is next polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Directive {
    /// Nothing.
    None = 0,
    /// End of input, if it is between requests.
    CloseIdle = 1,
    /// The head took too long: it is answered 408.
    HeadTimeout = 2,
    /// The client does not read its answer: break the connection.
    Abort = 3,
}

/// Why a connection ended with a request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client has left.
    ClientClosed,
    /// The client did not take what it was sent.
    WriteTimeout,
    /// The daemon stops, and could not wait for it any longer.
    Shutdown,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub peer: Peer,
    /// Number of the listener it came through.
    pub listener: u16,
    connections: Arc<ConnectionTracker>,
    key: AtomicUsize,
    phase: AtomicU8,
    /// Coarse milliseconds when the phase began, or when the last answer byte was taken.
    phase_since: AtomicU32,
    /// The client has not taken what was written.
    write_blocked: AtomicBool,
    /// What was written to it, and what waits to be.
    pub output: OutputProgress,
    directive: AtomicU8,
    /// A request was answered before all of it was read.
    has_unread_input: AtomicBool,
    /// Its answer has been broken off.
    reset: AtomicBool,
    /// There is something in `hint`.
    has_interim: AtomicBool,
    /// An interim answer (RFC 9110 §15.2), to be written as soon as nothing else is under way.
    interim: Mutex<Vec<u8>>,
    /// One has begun to be written, and the client has not taken all of it.
    interim_in_flight: AtomicBool,
    /// The client has closed its sending half, in an orderly way, while a request was under way.
    half_closed: AtomicBool,
    /// The client counts as gone, although it may still read.
    abandoned: AtomicBool,
    /// Nothing will be read from it or written to it any more.
    closed: AtomicBool,
    /// That was the daemon's end, and not the connection's.
    shut_down: AtomicBool,
    /// When a WebSocket is to be woken, if `has_alarm`.
    alarm: AtomicU32,
    has_alarm: AtomicBool,
    /// The connection task's waker: constant for a task, so it is stored once.
    waker: OnceLock<Waker>,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(peer: Peer, listener: u16, connections: &Arc<ConnectionTracker>) -> Self {
        Self {
            peer,
            listener,
            connections: Arc::clone(connections),
            key: AtomicUsize::new(usize::MAX),
            phase: AtomicU8::new(Phase::New as u8),
            phase_since: AtomicU32::new(connections.now()),
            write_blocked: AtomicBool::new(false),
            output: OutputProgress::new(connections.now()),
            directive: AtomicU8::new(Directive::None as u8),
            has_unread_input: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            has_interim: AtomicBool::new(false),
            interim: Mutex::default(),
            interim_in_flight: AtomicBool::new(false),
            half_closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            shut_down: AtomicBool::new(false),
            alarm: AtomicU32::new(0),
            has_alarm: AtomicBool::new(false),
            waker: OnceLock::new(),
        }
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        Phase::from_byte(self.phase.load(Ordering::Relaxed))
    }

    /// It does something else now. What was wanted of it in the phase before is not wanted any more.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.phase_since.store(self.connections.now(), Ordering::Relaxed);
        if matches!(self.directive(), Directive::CloseIdle | Directive::HeadTimeout) {
            self.directive.store(Directive::None as u8, Ordering::Relaxed);
        }
    }

    /// Makes the connection end with a reset, because the response was cut off: to HTTP/1.0 a plain close ends a body
    /// without a length (RFC 9112 §6.3).
    pub fn mark_reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    /// Marks the connection as closed: nothing is read from it or written to it any more. [`Connection::ending`] says
    /// why.
    pub fn mark_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Marks the connection as closed by a shutdown that did not wait for its request.
    pub fn mark_shutdown(&self) {
        self.shut_down.store(true, Ordering::Relaxed);
        self.mark_closed();
    }

    /// True once [`Connection::mark_closed`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Who ended it, if there was something under way.
    pub fn close_reason(&self) -> CloseReason {
        let is_stopped = self.shut_down.load(Ordering::Relaxed);
        match (is_stopped, self.is_reset()) {
            (false, false) => CloseReason::ClientClosed,
            (false, true) if !self.is_draining() => CloseReason::WriteTimeout,
            (true, _) | (_, true) => CloseReason::Shutdown,
        }
    }

    /// Is an answer under way, so that the end of the connection is not the end of the answer?
    pub(super) fn is_responding(&self) -> bool {
        matches!(self.phase(), Phase::Busy | Phase::WebSocket) || self.write_blocked.load(Ordering::Relaxed)
    }

    /// Notes that the last response is sent before its request was read to the end.
    pub fn mark_unread_input(&self) {
        self.has_unread_input.store(true, Ordering::Relaxed);
    }

    /// Whether the client may still be sending when everything is said: a head that was refused, or a body.
    pub(super) fn has_unread_input(&self) -> bool {
        self.has_unread_input.load(Ordering::Relaxed) || self.phase() == Phase::Head
    }

    /// Has an interim answer written, if it can be before [`Connection::take_hint`] takes it back. It is dropped while
    /// another one is unwritten: they are hints, and whoever does not read them must not have them pile up.
    pub fn push_interim(&self, bytes: Vec<u8>) {
        if self.interim_in_flight.load(Ordering::Relaxed) || self.has_interim.load(Ordering::Relaxed) {
            return;
        }
        *self.interim.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        self.has_interim.store(true, Ordering::Relaxed);
    }

    /// The interim answer that has not begun to be written.
    pub fn take_interim(&self) -> Vec<u8> {
        if !self.has_interim.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.has_interim.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.interim.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An interim answer has begun to be written, or all of it is out.
    pub(super) fn set_interim_in_flight(&self, is_hinting: bool) {
        self.interim_in_flight.store(is_hinting, Ordering::Relaxed);
    }

    /// Notes that part of a head has come, from which on `timeouts.header` counts.
    pub fn begin_head(&self) {
        if matches!(self.phase(), Phase::New | Phase::Idle) {
            self.set_phase(Phase::Head);
        }
    }

    /// True once `timeouts.header` has passed over the head that is being read.
    pub fn is_head_overdue(&self) -> bool {
        self.directive() == Directive::HeadTimeout && self.phase() == Phase::Head
    }

    /// Notes that the client sends nothing more, and may still read.
    pub fn mark_half_closed(&self) {
        self.half_closed.store(true, Ordering::Relaxed);
    }

    /// True once [`Connection::half_close`] was called.
    pub fn is_half_closed(&self) -> bool {
        self.half_closed.load(Ordering::Relaxed)
    }

    /// Has the connection closed as if its client had gone.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// True once [`Connection::abandon`] was called.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// The client has taken so many bytes.
    pub(super) fn on_written(&self, bytes: usize) {
        if self.write_blocked.load(Ordering::Relaxed) {
            self.write_blocked.store(false, Ordering::Relaxed);
        }
        if self.output.count_written(bytes) {
            self.wake();
        }
    }

    /// The client takes no more now.
    pub(super) fn on_write_blocked(&self) {
        if !self.write_blocked.swap(true, Ordering::Relaxed) {
            // Asked again, it has still not taken anything.
            self.phase_since.store(self.connections.now(), Ordering::Relaxed);
        }
    }

    /// The coarse clock, in milliseconds since whenever; it wraps.
    pub fn coarse_now(&self) -> u32 {
        self.connections.now()
    }

    /// Has the connection's task woken at this time of its clock, or up to half a second later; only the last one
    /// counts.
    pub fn set_alarm(&self, time: Option<u32>) {
        self.alarm.store(time.unwrap_or_default(), Ordering::Relaxed);
        self.has_alarm.store(time.is_some(), Ordering::Relaxed);
    }

    fn check_alarm(&self) {
        let is_due =
            || self.connections.now().wrapping_sub(self.alarm.load(Ordering::Relaxed)).cast_signed() >= 0;
        if self.has_alarm.load(Ordering::Relaxed) && is_due() {
            self.has_alarm.store(false, Ordering::Relaxed);
            self.wake();
        }
    }

    /// Is it to end now, whatever is under way? For who does not read from its stream, which would say so.
    pub fn should_abort(&self) -> bool {
        self.directive() == Directive::Abort
    }

    pub(super) fn directive(&self) -> Directive {
        match self.directive.load(Ordering::Relaxed) {
            0 => Directive::None,
            1 => Directive::CloseIdle,
            2 => Directive::HeadTimeout,
            _ => Directive::Abort,
        }
    }

    /// The task that is to be woken for it, for ever.
    pub fn register_waker(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            // Losing a race against ourselves is impossible, and would store the same waker.
            drop(self.waker.set(waker.clone()));
        }
    }

    fn set_directive(&self, order: Directive) {
        self.directive.store(order as u8, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// How long it has been in its phase.
    fn age(&self) -> Duration {
        let since = self.phase_since.load(Ordering::Relaxed);
        Duration::from_millis(u64::from(self.connections.now().wrapping_sub(since)))
    }

    /// Is the daemon stopping? The answer should then say `Connection: close`.
    pub fn is_draining(&self) -> bool {
        self.connections.draining.load(Ordering::Relaxed)
    }
}

impl Evictable for Connection {
    /// Since when it could be closed without harm to anybody, if that is for [`LINGER`] already: between requests, or
    /// before the first byte. Later its client is not likely to be sending a request this very moment.
    fn idle_since(&self, now: u32) -> Option<u32> {
        let since = self.phase_since.load(Ordering::Relaxed);
        let is_idle = matches!(self.phase(), Phase::New | Phase::Idle);
        let age = Duration::from_millis(u64::from(now.wrapping_sub(since)));
        (is_idle && age >= LINGER_TIMEOUT).then_some(since)
    }

    /// Whether it is in the same pause as when [`Idle::idle_since`] said this.
    fn is_idle_since(&self, since: u32) -> bool {
        matches!(self.phase(), Phase::New | Phase::Idle) && self.phase_since.load(Ordering::Relaxed) == since
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.unregister(self.key.load(Ordering::Relaxed), &self.peer);
    }
}

/// All connections.
#[derive(Debug)]
pub struct ConnectionTracker {
    limits: Mutex<ConnectionLimits>,
    start: Instant,
    /// Milliseconds since `start`, moved by the reactor's turns: the coarse clock.
    now: AtomicU32,
    draining: AtomicBool,
    /// That there are as many as may be has been told, and not ended since.
    limit_reported: AtomicBool,
    registry: Mutex<Registry>,
    idle: Mutex<EvictionCandidates<Connection>>,
    /// One connection has ended: somebody may be waiting for its place, or for the last one to go.
    closed: Notify,
    /// One has come: the sweep has something to do.
    opened: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    connections: Vec<Option<std::sync::Weak<Connection>>>,
    free: Vec<usize>,
    count: usize,
    clients: ClientLimit,
}

/// How long a connection is kept for what may be under way on it: the next request when the daemon stops or needs the
/// connection's place, the rest of a request that was refused.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// With one part in so many free there is room again: who waits next is worth another word.
const REARM_FRACTION: usize = 8;

/// How often another connection is closed for one that has no place yet.
const EVICT_INTERVAL: Duration = Duration::from_millis(100);

/// How often a stopping daemon looks.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How often all connections are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

impl ConnectionTracker {
    /// None yet.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        let mut all = Registry::default();
        all.clients.set_limit(limits.per_client, std::iter::empty());
        Arc::new(Self {
            limits: Mutex::new(limits),
            start: Instant::now(),
            now: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            limit_reported: AtomicBool::new(false),
            registry: Mutex::new(all),
            idle: Mutex::default(),
            closed: Notify::new(),
            opened: Notify::new(),
        })
    }

    /// From now on these count, for open connections too.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        // Outside of the lock, which the end of a connection takes.
        let open = self.open_connections();
        self.lock().clients.set_limit(limits.per_client, open.iter().map(|connection| &connection.peer));
        // Perhaps there is room for one more now.
        self.closed.notify_waiters();
    }

    fn limits(&self) -> ConnectionLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Moves the coarse clock.
    pub fn tick(&self) {
        let elapsed = self.start.elapsed().as_millis();
        // Wraps after 49 days; differences are taken modulo 2^32.
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32 is meant")]
        self.now.store(elapsed as u32, Ordering::Relaxed);
    }

    /// False when this client has as many connections as one may have.
    pub(super) fn admit(&self, peer: &Peer) -> bool {
        self.lock().clients.admit(peer)
    }

    /// Asks the connection that has been idle for longest to end, if one has been so for [`LINGER`]. Returns when one has
    /// ended, or may be asked again: one that was asked may have got a request instead.
    pub(super) async fn evict_idle(&self) {
        let ended = self.closed.notified();
        self.close_longest_idle();
        drop(tokio::time::timeout(EVICT_INTERVAL, ended).await);
    }

    fn close_longest_idle(&self) {
        self.tick();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = idle.take_longest_idle(self.now(), || self.open_connections()) {
            connection.set_directive(Directive::CloseIdle);
        }
    }

    /// Returns when there is a place for one more connection, which has been accepted already. The connection that has
    /// been idle for longest makes place; if none is idle, the next that ends.
    pub(super) async fn wait_for_capacity(&self) {
        loop {
            let (count, most) = (self.count(), self.limits().connections);
            if count < most {
                // One that ends makes place for one that waits: that is not the end of it.
                if self.limit_reported.load(Ordering::Relaxed)
                    && count + most.div_ceil(REARM_FRACTION) <= most
                {
                    self.limit_reported.store(false, Ordering::Relaxed);
                }
                return;
            }
            if !self.limit_reported.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "{most} connections are open, as many as may be: for each further client the one that has been \
                     idle for longest is closed, and while none is, it waits; raise limits.connections, or \
                     LimitNOFILE= where that is \"auto\""
                );
            }
            self.evict_idle().await;
        }
    }

    /// Number of connections.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    pub(super) fn register(&self, connection: Connection) -> Arc<Connection> {
        self.tick();
        connection.set_phase(Phase::New);
        let connection = Arc::new(connection);
        let weak = Arc::downgrade(&connection);
        let mut all = self.lock();
        let key = if let Some(key) = all.free.pop() {
            all.connections[key] = Some(weak);
            key
        } else {
            all.connections.push(Some(weak));
            all.connections.len() - 1
        };
        connection.key.store(key, Ordering::Relaxed);
        all.clients.add(&connection.peer);
        all.count += 1;
        let first = all.count == 1;
        drop(all);
        if first {
            self.opened.notify_one();
        }
        connection
    }

    fn unregister(&self, key: usize, peer: &Peer) {
        let mut all = self.lock();
        if let Some(entry) = all.connections.get_mut(key)
            && entry.take().is_some()
        {
            all.free.push(key);
            all.count -= 1;
            all.clients.remove(peer);
        }
        drop(all);
        self.closed.notify_waiters();
    }

    /// Looks at the clock for all connections, for ever; sleeps while there is none.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            let come = self.opened.notified();
            if self.count() == 0 {
                come.await;
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.tick();
            self.check_timeouts();
        }
    }

    fn open_connections(&self) -> Vec<Arc<Connection>> {
        self.lock().connections.iter().flatten().filter_map(std::sync::Weak::upgrade).collect()
    }

    fn check_timeouts(&self) {
        let limits = self.limits();
        let refused = self.lock().clients.report(Instant::now());
        if let Some(refused) = refused {
            tracing::warn!("{refused}");
        }
        for connection in self.open_connections() {
            connection.check_alarm();
            let age = connection.age();
            let is_blocked = connection.write_blocked.load(Ordering::Relaxed);
            let is_too_slow = connection.output.sample_rate(is_blocked, &limits, self.now());
            if is_blocked {
                if age > limits.write || is_too_slow {
                    connection.set_directive(Directive::Abort);
                }
                continue;
            }
            match connection.phase() {
                // Behind an orderly end a reset makes no new event that the stream could wait for: it looks itself.
                Phase::Busy if connection.is_half_closed() => connection.wake(),
                Phase::New if age > limits.header => connection.set_directive(Directive::CloseIdle),
                Phase::Head if age > limits.header => connection.set_directive(Directive::HeadTimeout),
                Phase::Idle if age > limits.keepalive => connection.set_directive(Directive::CloseIdle),
                Phase::Lingering if age > LINGER_TIMEOUT => connection.set_directive(Directive::Abort),
                _ => {}
            }
        }
    }

    /// From now on answers say `Connection: close`.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The daemon stops: connections between requests end, the others may finish. Returns when none is left; at the deadline what is left is broken off.
    ///
    /// A connection that was busy a moment ago is not closed at once: its client may be sending the next request
    /// this very moment, and would see a reset. It gets [`LINGER`] to do so, and is told to close then.
    pub async fn drain(&self, deadline: Instant) {
        self.begin_drain();
        let mut broken = false;
        loop {
            let ended = self.closed.notified();
            if self.count() == 0 {
                return;
            }
            self.tick();
            for connection in self.open_connections() {
                connection.check_alarm();
                if connection.age() > LINGER_TIMEOUT {
                    match connection.phase() {
                        Phase::New | Phase::Idle => connection.set_directive(Directive::CloseIdle),
                        Phase::Lingering => connection.set_directive(Directive::Abort),
                        Phase::Head | Phase::Busy | Phase::WebSocket => {}
                    }
                }
            }
            if !broken && Instant::now() >= deadline {
                broken = true;
                for connection in self.open_connections() {
                    connection.set_directive(Directive::Abort);
                }
            }
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep(DRAIN_CHECK_INTERVAL) => {}
            }
        }
    }
}
