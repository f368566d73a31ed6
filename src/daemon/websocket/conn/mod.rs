//! One WebSocket connection, from the accepted handshake to its end: reads from the client and
//! writes to it.
//!
//! The future runs in the task of the network connection.
//! [`ConnectionTracker::sweep`](crate::net::ConnectionTracker::sweep) wakes the task when one of
//! the [`ConnTimers`] is due. The buffers are borrowed for each poll. So an idle WebSocket needs no
//! further task, no timer of the runtime and no buffer.
//!
//! ```text
//! Open ──our close frame──▶ Closing ──client's close frame──▶ Flushing ──all output written──▶ end
//!  └──client's close frame, violation, ping timeout───────────────▲
//! ```
//! The close timeout ends Closing and Flushing.

mod input;

use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::dispatch::{Fault, Outgoing, WebSocketHandle};
use crate::net::{Connection, Phase, Transport};

use super::close_log::CloseLog;
use super::context::{AcceptedRequest, Scratch, WebSocketResources, WebSocketSettings};
use super::extension::DeflateParams;
use super::frame::{MAX_CLOSE_REASON, WebSocketError, close_code, is_sendable_code};
use super::receive::Receiver;
use super::send::Sender;
use super::timers::{ConnTimers, Due};

/// Bytes of messages, in both directions together, after which a connection lets others run. They
/// take a fraction of a millisecond.
pub(super) const YIELD_AFTER_BYTES: usize = 256 * 1024;

/// Reason of a close with [`close_code::RESTART`].
pub(super) const RESTART_REASON: &[u8] = b"Service Restart";

/// A handshake that the application has accepted.
#[derive(Debug)]
pub struct AcceptedHandshake {
    /// The exchange with the application.
    pub websocket: WebSocketHandle,
    /// Parameters of permessage-deflate; `None` if messages are not compressed.
    pub deflate: Option<DeflateParams>,
    /// Facts from the handshake.
    pub accepted: AcceptedRequest,
}

/// Progress of the closing handshake (RFC 6455 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseState {
    /// Messages pass both ways.
    Open,
    /// Our close frame is queued or sent. The client's close frame is awaited, and its messages are
    /// dropped.
    Closing,
    /// The rest of the output is written, and nothing more is read.
    Flushing,
}

/// A WebSocket connection. The future completes when it has ended.
#[derive(Debug)]
pub struct WebSocketConn<T> {
    /// A socket, or an HTTP/2 stream (RFC 8441).
    stream: T,
    /// The exchange with the application. None once either side has ended it.
    app: Option<WebSocketHandle>,
    settings: WebSocketSettings,
    resources: Arc<WebSocketResources>,
    receiver: Receiver,
    sender: Sender,
    state: CloseState,
    /// Input that was read but is not parsed yet, because the application had no room. Input that
    /// came with the handshake may be longer than one part.
    unparsed: Vec<u8>,
    /// A parsed part that waits for room in the worker's ring. Nothing is parsed while it waits.
    pending_part: Option<Box<PendingPart>>,
    /// Payload of the last unanswered ping, if the output had no room for its pong (RFC 6455
    /// §5.5.3: only the last ping needs an answer).
    pending_pong: Option<Box<[u8]>>,
    /// The close frame to be sent.
    close_frame: Option<Box<CloseFrame>>,
    timers: ConnTimers,
    log: CloseLog,
}

/// A part of a message from the client.
#[derive(Debug)]
struct PendingPart {
    bytes: Vec<u8>,
    text: bool,
    /// The message continues in the next part.
    more: bool,
}

#[derive(Debug)]
enum CloseFrame {
    Empty,
    WithCode(u16, Vec<u8>),
}

/// The error for a connection that has ended without a closing handshake.
pub(super) struct Disconnected;

/// Serves a WebSocket until its end. `early_input` holds the client's bytes that were read with the
/// handshake.
pub fn serve<T: Transport>(
    stream: T,
    early_input: &[u8],
    accepted: AcceptedHandshake,
) -> Box<WebSocketConn<T>> {
    let AcceptedHandshake { websocket, deflate, accepted } = accepted;
    let (settings, resources) = (accepted.settings, Arc::clone(&accepted.resources));
    stream.connection().set_phase(Phase::WebSocket);
    // The daemon announces its stop once, to the WebSockets that are open at that moment.
    let is_stopping = stream.connection().is_draining();
    Box::new(WebSocketConn {
        timers: ConnTimers::new(stream.connection().coarse_now(), is_stopping),
        stream,
        app: Some(websocket),
        settings,
        receiver: Receiver::new(settings.max_message, deflate.is_some()),
        sender: Sender::new(deflate),
        state: CloseState::Open,
        unparsed: early_input.to_vec(),
        pending_part: None,
        pending_pong: None,
        close_frame: None,
        log: CloseLog::new(accepted),
        resources,
    })
}

impl<T: Transport> Future for WebSocketConn<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.connection().register_waker(cx.waker());
        let mut scratch = this.resources.take_scratch();
        this.sender.borrow_buffer(&mut scratch.output);
        let outcome = this.drive(cx, &mut scratch);
        this.sender.return_buffer(&mut scratch.output);
        this.resources.return_scratch(scratch);
        match outcome {
            Ok(Poll::Pending) => {
                this.set_alarm();
                Poll::Pending
            }
            Ok(Poll::Ready(())) => Poll::Ready(()),
            Err(Disconnected) => {
                this.disconnect_app(close_code::ABNORMAL, b"");
                Poll::Ready(())
            }
        }
    }
}

impl<T: Transport> WebSocketConn<T> {
    fn connection(&self) -> &Arc<Connection> {
        self.stream.connection()
    }

    fn is_open(&self) -> bool {
        self.state == CloseState::Open
    }

    /// Reads and writes until both sides block or [`YIELD_AFTER_BYTES`] have passed.
    fn drive(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<Poll<()>, Disconnected> {
        if self.connection().should_abort() {
            return Err(self.abort(cx));
        }
        self.run_timers()?;
        let mut progress = 0;
        loop {
            let before = progress;
            let mut is_blocked = !self.flush(cx)?;
            if !is_blocked && self.is_open() {
                progress += self.send_outgoing(cx, scratch);
                if progress > before {
                    is_blocked = !self.flush(cx)?;
                }
            }
            if self.state == CloseState::Flushing {
                if is_blocked || self.has_output() {
                    return Ok(Poll::Pending);
                }
                // The connection ends even if the shutdown fails.
                return Ok(Pin::new(&mut self.stream).poll_shutdown(cx).map(drop));
            }
            progress += self.read(cx, scratch)?;
            if progress == before {
                return Ok(Poll::Pending);
            }
            if progress >= YIELD_AFTER_BYTES {
                // A client and an application that are both fast must not keep the reactor from its
                // other work.
                self.resources.dispatcher.poll_now();
                cx.waker().wake_by_ref();
                return Ok(Poll::Pending);
            }
        }
    }

    /// Ends the connection at once, because the daemon aborts it.
    fn abort(&mut self, cx: &mut Context<'_>) -> Disconnected {
        if self.is_open() && self.connection().is_draining() {
            self.close(close_code::RESTART, RESTART_REASON);
            if matches!(self.flush(cx), Ok(true)) {
                return Disconnected;
            }
        }
        // Once the connection shuts down, all output is written. No reset then: it could discard
        // output that the client has not received.
        if self.connection().phase() == Phase::WebSocket {
            self.connection().mark_reset();
        }
        Disconnected
    }

    fn has_output(&self) -> bool {
        !self.sender.is_empty() || self.close_frame.is_some()
    }

    /// Writes the output. Returns false if the client does not take all of it.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Disconnected> {
        loop {
            // While the output is full only the last ping is stored, so that pongs do not pile up
            // for a client that does not read.
            if self.sender.can_send_message()
                && let Some(payload) = self.pending_pong.take()
            {
                self.sender.push_pong(&payload);
            }
            if self.sender.can_send_control()
                && let Some(close_frame) = self.close_frame.take()
            {
                // No frame may follow a close frame (RFC 6455 §5.5.1).
                self.pending_pong = None;
                match *close_frame {
                    CloseFrame::Empty => self.sender.push_close(None),
                    CloseFrame::WithCode(code, reason) => self.sender.push_close(Some((code, &reason))),
                }
            }
            if self.sender.is_empty() {
                // Over TLS, the last records may still be in the stream's buffer.
                return match Pin::new(&mut self.stream).poll_flush(cx) {
                    Poll::Pending => Ok(false),
                    Poll::Ready(Ok(())) => Ok(true),
                    Poll::Ready(Err(_)) => Err(Disconnected),
                };
            }
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &self.sender.unwritten()) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(len)) if len > 0 => self.sender.advance(len),
                Poll::Ready(_) => return Err(Disconnected),
            }
        }
    }

    /// Encodes the application's messages while the output has room. Returns the progress: the
    /// number of bytes plus the number of messages.
    fn send_outgoing(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> usize {
        let mut progress = 0;
        while self.is_open() && self.sender.can_send_message() {
            let Some(app) = &mut self.app else { break };
            let Poll::Ready(outgoing) = app.poll_outgoing(cx) else { break };
            // An empty message is progress, too.
            progress += 1;
            match outgoing {
                Ok(Outgoing::Message { bytes, text, more }) => {
                    progress += bytes.len();
                    self.log.count_sent(bytes.len(), more);
                    self.sender.push_message(bytes, text, more, &mut scratch.deflated, &self.resources.pool);
                }
                Ok(Outgoing::Close { code, reason }) => {
                    // The worker has checked both, but a forged frame must not reach the client.
                    let is_valid = is_sendable_code(code)
                        && reason.len() <= MAX_CLOSE_REASON
                        && std::str::from_utf8(&reason).is_ok();
                    let (code, reason) =
                        if is_valid { (code, reason) } else { (close_code::INTERNAL, Bytes::new()) };
                    self.close(code, &reason);
                }
                Ok(Outgoing::GoingAway { after }) => {
                    let now = self.connection().coarse_now();
                    self.timers.schedule_restart(now, after);
                    if self.timers.is_restart_due(now) {
                        self.close(close_code::RESTART, RESTART_REASON);
                    }
                }
                Err(fault) => {
                    let is_restart = self.timers.is_restarting() && !matches!(fault, Fault::Raised { .. });
                    self.log.log_failure(&fault);
                    if is_restart {
                        self.close(close_code::RESTART, RESTART_REASON);
                    } else {
                        self.close(close_code::INTERNAL, b"");
                    }
                }
            }
        }
        progress
    }

    /// Starts the closing handshake: queues our close frame and ends the exchange with the
    /// application.
    fn close(&mut self, code: u16, reason: &[u8]) {
        self.disconnect_app(code, reason);
        self.close_frame = Some(Box::new(CloseFrame::WithCode(code, reason.to_vec())));
        self.enter(CloseState::Closing);
    }

    /// Fails the connection (RFC 6455 §7.1.7): queues our close frame and reads no more.
    fn fail(&mut self, error: WebSocketError) {
        let WebSocketError { code, reason } = error;
        self.disconnect_app(code, reason.as_bytes());
        self.close_frame = Some(Box::new(CloseFrame::WithCode(code, reason.as_bytes().to_vec())));
        // Unread input would make the kernel reset the connection, and the client might lose the
        // close frame.
        self.connection().mark_unread_input();
        self.enter(CloseState::Flushing);
    }

    fn enter(&mut self, state: CloseState) {
        self.state = state;
        self.pending_part = None;
        self.timers.start_close_timeout(self.connection().coarse_now());
    }

    /// Ends the exchange with the application by `websocket.disconnect`, unless it has ended
    /// already.
    fn disconnect_app(&mut self, code: u16, reason: &[u8]) {
        if let Some(app) = self.app.take() {
            app.disconnect(code, reason);
            self.log.set_code(code);
        }
    }

    fn run_timers(&mut self) -> Result<(), Disconnected> {
        let now = self.connection().coarse_now();
        match self.timers.due(now, &self.settings, self.is_open(), self.sender.is_empty()) {
            None => {}
            Some(Due::CloseTimeout) => return Err(Disconnected),
            Some(Due::Restart) => self.close(close_code::RESTART, RESTART_REASON),
            Some(Due::Ping) => {
                self.sender.push_ping();
                self.timers.on_ping(now, &self.settings);
            }
            Some(Due::PingTimeout) => {
                // As in uvicorn: the application gets 1006, since there was no close frame; the
                // client gets 1011.
                self.disconnect_app(close_code::ABNORMAL, b"");
                self.log.set_code(close_code::INTERNAL);
                self.fail(WebSocketError { code: close_code::INTERNAL, reason: "keepalive ping timeout" });
            }
        }
        Ok(())
    }

    /// Sets the alarm that wakes the task when the next timer is due.
    fn set_alarm(&self) {
        let now = self.connection().coarse_now();
        let next = self.timers.next(now, &self.settings, self.is_open(), self.sender.is_empty());
        self.connection().set_alarm(next);
    }
}
