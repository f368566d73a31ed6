//! Forwards the bytes of a WebSocket between the client's connection and the socket of a WSGI
//! application, from the accepted handshake to the end.
//!
//! ```text
//! client ──bytes──▶ ClientStream ──▶ UnixStream ──▶ application
//!        ◀──bytes── ClientStream ◀── UnixStream ◀── application
//! ```
//! Bytes are read from one side only after the other side has accepted all earlier ones, so a slow
//! receiver slows down its sender. Frames are parsed only to count messages, and to find a place
//! for the one frame that the daemon adds: the close frame with code 1012, when the worker or the
//! daemon stops.
//!
//! ```text
//! Open ──the application's output ends───────────────────────────────▶ Flushing ──all is written──▶ end
//!  └──close frame──▶ Closing ──the client or the application ends──────▲
//! ```
//! The application's output ends when its socket is closed. Once the application has returned, its
//! output also ends after its close frame, or a second after the return. The close timeout ends
//! Closing and Flushing.

mod frames;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::dispatch::{Fault, TakeoverEvent, TakeoverHandle};
use crate::net::{ClientStream, Connection, Phase};

use self::frames::FrameScanner;
use super::close_log::CloseLog;
use super::conn::{Disconnected, RESTART_REASON, YIELD_AFTER_BYTES};
use super::context::{AcceptedRequest, Scratch, WebSocketResources, WebSocketSettings};
use super::frame::{Control, OpCode, close_code, write_head};
use super::timers::{ConnTimers, Due};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// A connection that a WSGI application has taken over.
#[derive(Debug)]
pub struct TakenConnection {
    /// The daemon's end of the socket pair.
    pub socket: UnixStream,
    /// Bytes that the application has written after its 101.
    pub early_output: Vec<u8>,
    /// The exchange; `None` if the application has returned.
    pub handle: Option<TakeoverHandle>,
    /// The fault with which the application has ended, if any.
    pub fault: Option<Fault>,
}

/// The progress of closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RelayState {
    /// Bytes pass in both directions.
    Open,
    /// The daemon's close frame is queued or sent; further bytes of the application are dropped.
    Closing,
    /// The rest of the output is written, and nothing more is read.
    Flushing,
}

/// A connection whose bytes are forwarded. The future completes when the connection has ended.
#[derive(Debug)]
pub struct RelayConn {
    stream: ClientStream,
    socket: UnixStream,
    /// The exchange; `None` once the application has returned or its worker is gone.
    app: Option<TakeoverHandle>,
    settings: WebSocketSettings,
    resources: Arc<WebSocketResources>,
    state: RelayState,
    to_client: Direction,
    to_app: Direction,
    /// The worker or the daemon stops: a close frame is sent after the application's current frame.
    close_is_due: bool,
    /// The application has sent a close frame.
    has_app_closed: bool,
    /// The application returned a second ago: its output ends with the bytes that it has written by
    /// now.
    is_app_overdue: bool,
    /// The client has answered our close frame: the connection ends once the application has the
    /// answer.
    is_close_answered: bool,
    timers: ConnTimers,
    log: CloseLog,
}

/// The bytes of one direction that were read and could not be written yet.
#[derive(Debug, Default)]
struct Direction {
    /// Bytes that the receiver has not taken.
    pending: Vec<u8>,
    /// Number of bytes of `pending` that have been written.
    n_written: usize,
    frames: FrameScanner,
    /// Nothing more is read from the sender.
    has_ended: bool,
}

/// Forwards bytes until the connection ends. `early_input` holds the client's bytes that were read
/// with the handshake.
pub(super) fn serve(
    stream: ClientStream,
    early_input: &[u8],
    taken: TakenConnection,
    accepted: AcceptedRequest,
) -> Box<RelayConn> {
    let TakenConnection { socket, early_output, handle, fault } = taken;
    stream.connection().set_phase(Phase::WebSocket);
    let is_stopping = stream.connection().is_draining();
    // Pings are up to the application.
    let settings = WebSocketSettings { ping_interval: None, ping_timeout: None, ..accepted.settings };
    let mut conn = Box::new(RelayConn {
        timers: ConnTimers::new(stream.connection().coarse_now(), is_stopping),
        stream,
        socket,
        app: handle,
        settings,
        resources: Arc::clone(&accepted.resources),
        state: RelayState::Open,
        to_client: Direction::default(),
        to_app: Direction::default(),
        close_is_due: false,
        has_app_closed: false,
        is_app_overdue: false,
        is_close_answered: false,
        log: CloseLog::new(accepted),
    });
    conn.pass_to_app(early_input);
    conn.pass_to_client(&early_output);
    if let Some(fault) = fault {
        conn.log.log_failure(&fault);
    }
    if conn.app.is_none() {
        conn.start_end_timeout();
    }
    conn
}

impl Direction {
    fn unwritten(&self) -> &[u8] {
        self.pending.get(self.n_written..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn advance(&mut self, len: usize) {
        self.n_written += len;
        if self.n_written >= self.pending.len() {
            // Frees the memory, because most connections are idle most of the time.
            self.pending = Vec::new();
            self.n_written = 0;
        }
    }
}

impl Future for RelayConn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.connection().register_waker(cx.waker());
        let mut scratch = this.resources.take_scratch();
        let outcome = this.drive(cx, &mut scratch);
        this.resources.return_scratch(scratch);
        match outcome {
            Ok(Poll::Pending) => {
                let now = this.connection().coarse_now();
                let is_open = this.state == RelayState::Open && !this.close_is_due;
                this.connection().set_alarm(this.timers.next(now, &this.settings, is_open, true));
                Poll::Pending
            }
            Ok(Poll::Ready(())) | Err(Disconnected) => Poll::Ready(()),
        }
    }
}

impl RelayConn {
    fn connection(&self) -> &Arc<Connection> {
        self.stream.connection()
    }

    /// Forwards bytes in both directions until both block or [`YIELD_AFTER_BYTES`] have passed.
    fn drive(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<Poll<()>, Disconnected> {
        if self.connection().should_abort() {
            return Err(self.abort(cx));
        }
        self.run_timers()?;
        self.poll_app(cx);
        let mut progress = 0;
        loop {
            let before = progress;
            self.queue_close();
            let is_blocked = !self.flush_to_client(cx)?;
            if self.state == RelayState::Flushing {
                if is_blocked {
                    return Ok(Poll::Pending);
                }
                // Reads and drops further bytes of the client: with unread bytes the kernel would
                // reset the connection, and the client could lose the last output.
                self.connection().mark_unread_input();
                return Ok(Pin::new(&mut self.stream).poll_shutdown(cx).map(drop));
            }
            if !is_blocked {
                progress += self.read_from_app(cx, scratch);
            }
            if self.flush_to_app(cx) {
                if self.is_close_answered {
                    // The client now waits for the connection's end (RFC 6455 §7.1.1).
                    self.end_input(cx);
                    continue;
                }
                progress += self.read_from_client(cx, scratch)?;
            }
            if progress == before {
                return Ok(Poll::Pending);
            }
            if progress >= YIELD_AFTER_BYTES {
                // A client and an application that are both fast must not keep the reactor from its
                // other work.
                self.resources.poll_dispatcher();
                cx.waker().wake_by_ref();
                return Ok(Poll::Pending);
            }
        }
    }

    /// Ends the connection at once, because the daemon aborts it.
    fn abort(&mut self, cx: &mut Context<'_>) -> Disconnected {
        self.close_is_due = true;
        self.queue_close();
        let is_written = self.state != RelayState::Open && matches!(self.flush_to_client(cx), Ok(true));
        if !is_written && self.connection().phase() == Phase::WebSocket {
            self.connection().mark_reset();
        }
        Disconnected
    }

    fn run_timers(&mut self) -> Result<(), Disconnected> {
        let now = self.connection().coarse_now();
        let is_open = self.state == RelayState::Open && !self.close_is_due;
        match self.timers.due(now, &self.settings, is_open, true) {
            Some(Due::CloseTimeout)
                if self.state == RelayState::Open && self.app.is_none() && !self.is_app_overdue =>
            {
                self.is_app_overdue = true;
                self.timers.start_close_timeout(now);
                Ok(())
            }
            Some(Due::CloseTimeout) => Err(Disconnected),
            Some(Due::Restart) => {
                self.begin_close(now);
                Ok(())
            }
            // Without a ping interval there is no ping.
            Some(Due::Ping | Due::PingTimeout) | None => Ok(()),
        }
    }

    fn begin_close(&mut self, now: u32) {
        self.close_is_due = true;
        self.timers.start_close_timeout(now);
    }

    /// Acts on events of the exchange.
    fn poll_app(&mut self, cx: &mut Context<'_>) {
        let Some(app) = &mut self.app else { return };
        let Poll::Ready(event) = app.poll_event(cx) else { return };
        let now = self.connection().coarse_now();
        match event {
            Ok(TakeoverEvent::GoingAway { after }) => {
                self.timers.schedule_restart(now, after);
                if self.timers.is_restart_due(now) {
                    self.begin_close(now);
                }
                // Polls again, because only a pending poll stores the waker.
                return self.poll_app(cx);
            }
            Ok(TakeoverEvent::Ended) => {}
            Err(fault) => self.log.log_failure(&fault),
        }
        self.app = None;
        self.start_end_timeout();
    }

    /// Limits the time between the application's return and the end of its output. The worker closes
    /// the socket, or the kernel does when the worker dies; but a thread or a child process of the
    /// application might keep it open.
    fn start_end_timeout(&mut self) {
        // In the other states a timeout runs already.
        if self.state == RelayState::Open {
            self.timers.start_app_end_timeout(self.connection().coarse_now());
        }
    }

    /// Returns whether the application's output ends with the bytes that it has written by now.
    fn is_output_complete(&self) -> bool {
        self.app.is_none() && (self.has_app_closed || self.is_app_overdue)
    }

    /// Queues the close frame if it is due and the application is not within a frame.
    fn queue_close(&mut self) {
        if !self.close_is_due || self.state != RelayState::Open {
            return;
        }
        if self.to_client.frames.is_lost() {
            return self.enter_flushing();
        }
        if self.to_client.frames.is_between_frames() {
            self.state = RelayState::Closing;
            self.log.set_code(close_code::RESTART);
            let out = &mut self.to_client.pending;
            let payload = [&close_code::RESTART.to_be_bytes(), RESTART_REASON].concat();
            write_head(OpCode::Control(Control::Close), true, false, payload.len(), out);
            out.extend_from_slice(&payload);
        }
    }

    fn enter_flushing(&mut self) {
        if self.state != RelayState::Flushing {
            self.state = RelayState::Flushing;
            self.timers.start_close_timeout(self.connection().coarse_now());
        }
    }

    /// Writes the pending bytes to the client. Returns false if some are left.
    fn flush_to_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Disconnected> {
        while !self.to_client.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, self.to_client.unwritten()) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(len)) if len > 0 => self.to_client.advance(len),
                Poll::Ready(_) => return Err(Disconnected),
            }
        }
        // TLS may hold back a record until the stream is flushed.
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(Disconnected),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Pending => Ok(false),
        }
    }

    /// Writes the pending bytes to the application. Returns false if some are left.
    fn flush_to_app(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.to_app.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, self.to_app.unwritten()) {
                Poll::Pending => return false,
                Poll::Ready(Ok(len)) if len > 0 => self.to_app.advance(len),
                // The application has closed its end. The bytes that it wrote before must still be
                // read.
                Poll::Ready(_) => self.to_app = Direction { has_ended: true, ..Direction::default() },
            }
        }
        true
    }

    /// Reads once from the application. Returns the number of bytes, or 1 when the application ends
    /// its output.
    fn read_from_app(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> usize {
        if self.to_client.has_ended {
            return 0;
        }
        let mut buffer = ReadBuf::new(scratch.input.get_mut(..READ_BYTES).unwrap_or_default());
        match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
            Poll::Pending if !self.is_output_complete() => 0,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                self.pass_to_client(buffer.filled());
                buffer.filled().len()
            }
            Poll::Pending | Poll::Ready(_) => {
                self.to_client.has_ended = true;
                self.enter_flushing();
                1
            }
        }
    }

    /// Queues bytes of the application; after the daemon's close frame they are dropped.
    fn pass_to_client(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.state == RelayState::Open {
            let passed = self.to_client.frames.scan(bytes, self.close_is_due);
            let (frames, rest) = bytes.split_at(passed.len.min(bytes.len()));
            self.to_client.pending.extend_from_slice(frames);
            self.log.count_sent_frames(frames.len(), passed.messages);
            self.has_app_closed |= passed.close_code.is_some();
            self.log_close(passed.close_code);
            bytes = rest;
            self.queue_close();
        }
    }

    /// Reads once from the client. Returns the number of bytes, or 1 when the client ends its
    /// input.
    fn read_from_client(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Result<usize, Disconnected> {
        if self.to_app.has_ended {
            return Ok(0);
        }
        let mut buffer = ReadBuf::new(scratch.input.get_mut(..READ_BYTES).unwrap_or_default());
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(0),
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                self.pass_to_app(buffer.filled());
                Ok(buffer.filled().len())
            }
            Poll::Ready(Ok(())) => {
                self.end_input(cx);
                Ok(1)
            }
            Poll::Ready(Err(_)) => Err(Disconnected),
        }
    }

    /// Ends the application's input. The application may still write, unless our close frame is
    /// sent.
    fn end_input(&mut self, cx: &mut Context<'_>) {
        self.to_app.has_ended = true;
        if self.state == RelayState::Closing {
            self.enter_flushing();
        }
        // Shutting down a socket pair does not block, and fails only if the application has closed
        // its end.
        drop(Pin::new(&mut self.socket).poll_shutdown(cx));
    }

    /// Queues bytes of the client.
    fn pass_to_app(&mut self, bytes: &[u8]) {
        let passed = self.to_app.frames.scan(bytes, false);
        self.to_app.pending.extend_from_slice(bytes);
        self.log.count_received_frames(bytes.len(), passed.messages);
        self.is_close_answered |= passed.close_code.is_some() && self.state == RelayState::Closing;
        self.log_close(passed.close_code);
    }

    /// Logs the first close code of either side.
    fn log_close(&mut self, code: Option<u16>) {
        if let Some(code) = code {
            self.log.set_first_code(code);
        }
    }
}
