//! The state of one connection that its stream, its requests and the tracker share.
//!
//! Timeouts need no timer per request: a connection stores its phase and the coarse time, which
//! costs two relaxed stores, and the tracker's sweep checks all connections twice a second. A
//! timeout is therefore up to half a second late; it is early by at most one tick of the kernel's
//! coarse clock, 10 ms.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use super::alarm::Alarm;
use super::directive::Directive;
use super::eviction::Evictable;
use super::interim::InterimSlot;
use super::limits::IDLE_GRACE;
use super::output::OutputProgress;
use super::peer::{Client, Peer};
use super::phase::Phase;
use super::registry::Registry;
use super::streams::StreamTable;

/// The reason why a connection was closed with a request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed or reset the connection.
    ClientClosed,
    /// The client did not read its response in time.
    WriteTimeout,
    /// The daemon's drain deadline passed.
    Shutdown,
}

/// The protocol of a connection, as far as it matters between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Protocol {
    /// HTTP/2, a WebSocket, or none yet.
    Other = 0,
    /// HTTP/1 over TLS: the connection may be parked.
    Http1OverTls = 1,
    /// HTTP/1 without TLS: the next daemon may also continue it.
    PlainHttp1 = 2,
}

/// The carrier of a connection's bytes.
#[derive(Debug)]
enum Role {
    /// A socket, with its key in the registry. `streams` is set once the socket is multiplexed.
    Socket { key: usize, streams: OnceLock<Box<StreamTable<Connection>>> },
    /// A stream of the multiplexed connection `socket`, with its key in that connection's table.
    Stream { key: usize, socket: Arc<Connection> },
}

/// The shared state of one connection, or of one stream of a multiplexed connection.
#[derive(Debug)]
pub struct Connection {
    /// The client's address.
    pub peer: Peer,
    /// Whether the client used TLS on its connection to the proxy, as the PROXY header says.
    pub https: bool,
    /// Index of the listener that accepted the connection.
    pub listener: u16,
    pub(super) registry: Arc<Registry<Self>>,
    role: Role,
    phase: AtomicU8,
    /// Coarse time at which the phase began, or at which a write first blocked.
    phase_since: AtomicU32,
    /// The last write would have blocked.
    write_blocked: AtomicBool,
    /// Bytes written and bytes queued.
    pub output: OutputProgress,
    /// An interim response to be sent.
    pub interim: InterimSlot,
    directive: AtomicU8,
    /// A request was answered before all of it was read.
    has_unread_input: AtomicBool,
    /// A response was aborted: close with a reset.
    reset: AtomicBool,
    /// The client shut down its sending half while a request was in flight.
    half_closed: AtomicBool,
    /// The client is treated as gone, although it may still read.
    abandoned: AtomicBool,
    /// Nothing is read from the connection or written to it any more.
    closed: AtomicBool,
    /// The daemon's shutdown closed the connection.
    shut_down: AtomicBool,
    /// A [`Protocol`].
    protocol: AtomicU8,
    /// Set by a WebSocket.
    alarm: Alarm,
    /// The connection task's waker, stored once: it does not change.
    waker: OnceLock<Waker>,
}

/// A connection and its two reference counts fit into 256 bytes, a size class of the allocator. An idle connection keeps
/// little else, so with 257 bytes it would cost a sixth more memory.
const _: () = assert!(size_of::<Connection>() + 2 * size_of::<usize>() <= 256);

impl Connection {
    /// Creates the state of a connection that has just been accepted.
    pub(super) fn new(client: Client, listener: u16, key: usize, registry: Arc<Registry<Self>>) -> Self {
        Self::with_role(client, listener, Role::Socket { key, streams: OnceLock::new() }, registry)
    }

    fn with_role(client: Client, listener: u16, role: Role, registry: Arc<Registry<Self>>) -> Self {
        let now = registry.now();
        let Client { peer, https } = client;
        Self {
            peer,
            https,
            listener,
            registry,
            role,
            phase: AtomicU8::new(Phase::New as u8),
            phase_since: AtomicU32::new(now),
            write_blocked: AtomicBool::new(false),
            output: OutputProgress::new(now),
            interim: InterimSlot::default(),
            directive: AtomicU8::new(Directive::None as u8),
            has_unread_input: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            half_closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            shut_down: AtomicBool::new(false),
            protocol: AtomicU8::new(Protocol::Other as u8),
            alarm: Alarm::default(),
            waker: OnceLock::new(),
        }
    }

    /// Opens a stream of this multiplexed connection, which is busy until its last stream ends.
    pub fn open_stream(self: &Arc<Self>) -> Arc<Self> {
        let Role::Socket { streams, .. } = &self.role else {
            unreachable!("a stream has no streams of its own")
        };
        let stream = streams.get_or_init(Box::default).add(|key| {
            let role = Role::Stream { key, socket: Arc::clone(self) };
            let client = Client { peer: self.peer.clone(), https: self.https };
            Self::with_role(client, self.listener, role, Arc::clone(&self.registry))
        });
        self.set_phase(Phase::Busy);
        stream
    }

    /// Returns the streams, if the connection is multiplexed.
    pub(super) fn streams(&self) -> Option<&StreamTable<Self>> {
        match &self.role {
            Role::Socket { streams, .. } => streams.get().map(|streams| &**streams),
            Role::Stream { .. } => None,
        }
    }

    /// Returns the number of open streams.
    pub fn stream_count(&self) -> usize {
        self.streams().map_or(0, StreamTable::count)
    }

    /// Makes all streams end now, even within a response.
    pub fn abort_streams(&self) {
        if let Some(streams) = self.streams() {
            streams.for_each(|stream| stream.set_directive(Directive::Abort));
        }
    }

    /// True if the connection speaks HTTP/1 without TLS.
    pub(super) fn is_plain_http1(&self) -> bool {
        self.protocol.load(Ordering::Relaxed) == Protocol::PlainHttp1 as u8
    }

    /// Returns the coarse time at which the phase began, or at which a write first blocked.
    pub(super) fn phase_since(&self) -> u32 {
        self.phase_since.load(Ordering::Relaxed)
    }

    /// Returns the current phase.
    pub fn phase(&self) -> Phase {
        Phase::from_byte(self.phase.load(Ordering::Relaxed))
    }

    /// Enters a phase and cancels a directive that was meant for the previous one.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.phase_since.store(self.registry.now(), Ordering::Relaxed);
        if self.directive().is_for_phase() {
            self.unpark();
            self.directive.store(Directive::None as u8, Ordering::Relaxed);
        }
    }

    /// Notes a use of the daemon that the dispatcher does not see, such as a static file, for
    /// `daemon.idle_exit`.
    pub fn mark_use(&self) {
        self.registry.mark_use();
    }

    /// Continues a connection of the previous daemon in its phase.
    pub(super) fn resume(&self, phase: Phase, since: u32) {
        self.set_phase(phase);
        self.phase_since.store(since, Ordering::Relaxed);
    }

    /// Notes whether the connection speaks HTTP/1, so that it can be parked, and whether it also has
    /// no TLS, so that the next daemon can continue it.
    pub fn set_http1(&self, is_http1: bool, is_plain: bool) {
        let protocol = match (is_http1, is_plain) {
            (false, _) => Protocol::Other,
            (true, false) => Protocol::Http1OverTls,
            (true, true) => Protocol::PlainHttp1,
        };
        self.protocol.store(protocol as u8, Ordering::Relaxed);
        if protocol != Protocol::PlainHttp1 && self.directive() == Directive::HandOver {
            self.directive.store(Directive::None as u8, Ordering::Relaxed);
        }
    }

    /// True if the connection must leave HTTP now, without being closed: for the next daemon, or to
    /// be parked.
    pub fn should_leave_http(&self) -> bool {
        self.should_hand_over() || (self.directive() == Directive::Park && self.phase() == Phase::Idle)
    }

    /// True if the connection is parked, or is about to be.
    pub(super) fn is_parked(&self) -> bool {
        self.directive() == Directive::Park
    }

    /// True if the connection may be parked.
    pub(super) fn is_parkable(&self) -> bool {
        self.protocol.load(Ordering::Relaxed) != Protocol::Other as u8 && self.directive() == Directive::None
    }

    /// Ends the parking, if the connection is parked, so that the sweep checks it again.
    pub(super) fn unpark(&self) {
        let (park, none) = (Directive::Park as u8, Directive::None as u8);
        // Fails if another directive has replaced it, which is kept.
        if self.directive.compare_exchange(park, none, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.registry.wake_sweep();
        }
    }

    /// True if the last write would have blocked.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Ordering::Relaxed)
    }

    /// Makes the connection end with a reset, because the response was aborted. After a plain
    /// close, an HTTP/1.0 client would take a body without a length for complete (RFC 9112 §6.3).
    pub fn mark_reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// True once [`Connection::mark_reset`] was called.
    pub fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    /// Marks the connection as closed: nothing is read from it or written to it any more.
    /// [`Connection::close_reason`] then returns the reason. Also marks the streams.
    pub fn mark_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(streams) = self.streams() {
            streams.for_each(|stream| {
                for (flag, of_socket) in [(&stream.reset, &self.reset), (&stream.shut_down, &self.shut_down)]
                {
                    flag.fetch_or(of_socket.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                stream.mark_closed();
            });
        }
    }

    /// Marks the connection as closed by the daemon's shutdown, with a request still in flight.
    pub fn mark_shutdown(&self) {
        self.shut_down.store(true, Ordering::Relaxed);
        self.mark_closed();
    }

    /// True once [`Connection::mark_closed`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Returns why the connection was closed, for a request that was in flight.
    pub fn close_reason(&self) -> CloseReason {
        let is_shut_down = self.shut_down.load(Ordering::Relaxed);
        match (is_shut_down, self.is_reset()) {
            (false, false) => CloseReason::ClientClosed,
            (false, true) if !self.is_draining() => CloseReason::WriteTimeout,
            (true, _) | (_, true) => CloseReason::Shutdown,
        }
    }

    /// True while a response is in flight, so closing the connection would truncate it.
    pub(super) fn is_responding(&self) -> bool {
        matches!(self.phase(), Phase::Busy | Phase::WebSocket) || self.write_blocked.load(Ordering::Relaxed)
    }

    /// Notes that the last response is sent before its request was read to the end.
    pub fn mark_unread_input(&self) {
        self.has_unread_input.store(true, Ordering::Relaxed);
    }

    /// True if the client may still be sending: the rest of a body, or of a refused head.
    pub(super) fn has_unread_input(&self) -> bool {
        self.has_unread_input.load(Ordering::Relaxed) || self.phase() == Phase::Head
    }

    /// Starts `timeouts.header`: part of a head was received.
    pub fn begin_head(&self) {
        if matches!(self.phase(), Phase::New | Phase::Idle) {
            self.set_phase(Phase::Head);
        }
    }

    /// True once `timeouts.header` has expired for the head being read.
    pub fn is_head_overdue(&self) -> bool {
        self.directive() == Directive::HeadTimeout && self.phase() == Phase::Head
    }

    /// Notes that the client sends nothing more, and may still read.
    pub fn mark_half_closed(&self) {
        self.half_closed.store(true, Ordering::Relaxed);
    }

    /// True once [`Connection::mark_half_closed`] was called.
    pub fn is_half_closed(&self) -> bool {
        self.half_closed.load(Ordering::Relaxed)
    }

    /// Closes the connection as if the client had closed it.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// True once [`Connection::abandon`] was called.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Counts bytes that the socket accepted, or that were sent within a stream's window.
    pub fn on_written(&self, bytes: usize) {
        if self.write_blocked.load(Ordering::Relaxed) {
            self.write_blocked.store(false, Ordering::Relaxed);
        }
        if self.output.count_written(bytes) {
            self.wake();
        }
        // The bytes of a stream are counted again when the socket accepts them.
        if let Role::Socket { .. } = self.role {
            self.registry.traffic.add_sent(bytes);
        }
    }

    /// Counts a response by its status, when it begins.
    pub fn count_response(&self, status: u16) {
        self.registry.traffic.add_response(status);
    }

    /// Counts a request whose connection was closed before its response began.
    pub fn count_unanswered(&self) {
        self.registry.traffic.add_unanswered();
    }

    /// Counts bytes that the socket returned.
    pub(super) fn on_received(&self, bytes: usize) {
        self.registry.traffic.add_received(bytes);
    }

    /// Starts the write timeout, unless it runs already: a write would have blocked.
    pub fn on_write_blocked(&self) {
        if !self.write_blocked.swap(true, Ordering::Relaxed) {
            self.phase_since.store(self.registry.now(), Ordering::Relaxed);
        }
    }

    /// Returns the coarse time in milliseconds, from an arbitrary start; wraps at 2^32.
    pub fn coarse_now(&self) -> u32 {
        self.registry.now()
    }

    /// Wakes the connection's task at this coarse time or up to half a second later. Replaces the
    /// previous alarm; `None` cancels it.
    pub fn set_alarm(&self, time: Option<u32>) {
        self.alarm.set(time);
    }

    /// Wakes the task if its alarm is due.
    pub(super) fn check_alarm(&self) {
        if self.alarm.take_due(self.registry.now()) {
            self.wake();
        }
    }

    /// True if a timeout, the drain or an eviction closes this connection between its requests.
    /// Checked by tasks that close the connection with a message of its protocol; for other tasks,
    /// [`ClientStream`](super::ClientStream) reports the end of input.
    pub fn should_close_idle(&self) -> bool {
        matches!(self.directive(), Directive::CloseIdle | Directive::Evict)
            && matches!(self.phase(), Phase::New | Phase::Idle)
    }

    /// True if the connection must end now, even within a response. Checked by tasks that do not
    /// read from their stream: a read would return an error.
    pub fn should_abort(&self) -> bool {
        self.directive() == Directive::Abort
    }

    pub(super) fn directive(&self) -> Directive {
        Directive::from_byte(self.directive.load(Ordering::Relaxed))
    }

    /// Stores the waker of the connection's task. Later calls do nothing: the waker is the same.
    pub fn register_waker(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            // Fails only if the same waker was stored meanwhile.
            drop(self.waker.set(waker.clone()));
        }
    }

    /// Stores a directive and wakes the task to follow it.
    pub(super) fn set_directive(&self, directive: Directive) {
        self.unpark();
        self.directive.store(directive as u8, Ordering::Relaxed);
        self.wake();
    }

    /// Wakes the connection's task.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Returns the time since the phase began, or since a write blocked.
    pub(super) fn age(&self) -> Duration {
        let since = self.phase_since.load(Ordering::Relaxed);
        Duration::from_millis(u64::from(self.registry.now().wrapping_sub(since)))
    }

    /// True while the daemon drains.
    pub fn is_draining(&self) -> bool {
        self.registry.is_draining()
    }
}

impl Evictable for Connection {
    /// Returns `None` unless the connection has been idle for at least [`IDLE_GRACE`].
    fn idle_since(&self, now: u32) -> Option<u32> {
        let since = self.phase_since.load(Ordering::Relaxed);
        let is_idle = matches!(self.phase(), Phase::New | Phase::Idle);
        let age = Duration::from_millis(u64::from(now.wrapping_sub(since)));
        (is_idle && age >= IDLE_GRACE).then_some(since)
    }

    fn is_idle_since(&self, since: u32) -> bool {
        matches!(self.phase(), Phase::New | Phase::Idle) && self.phase_since.load(Ordering::Relaxed) == since
    }
}

impl AsRef<Peer> for Connection {
    fn as_ref(&self) -> &Peer {
        &self.peer
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        match &self.role {
            Role::Socket { key, .. } => self.registry.unregister(*key, &self.peer),
            Role::Stream { key, socket } => {
                if socket.streams().is_some_and(|streams| streams.remove(*key))
                    && socket.phase() == Phase::Busy
                {
                    socket.set_phase(Phase::Idle);
                }
            }
        }
    }
}
