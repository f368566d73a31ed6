//! One WebSocket, from the accept to its end: the only place that reads from the client and writes to it.
//!
//! It has no task, timer or buffer of its own while it lies idle: it goes on in the connection's task, has its times
//! looked at by [`Connections::sweep`](crate::net::Connections::sweep), and works in room that belongs to all.
//!
//! ```text
//! Open ──▶ Closing ──client's close frame, or its time is up──▶ Last ──▶ end of the connection
//!  │       ours is on its way: the application, a restart        ▲
//!  └──client's close frame, violation, silence───────────────────┘
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::dispatch::{Fault, Outgoing, PART, WebSocket};
use crate::id::WorkerId;
use crate::journal::requests::{FailureEntry, LoggedRequest, Traffic, WebSocketEntry};
use crate::net::{ClientStream, Connection, Phase};

use super::extension::DeflateParams;
use super::frame::{MAX_CLOSE_REASON, WebSocketError, code, is_sendable_code};
use super::receive::{ClientEvent, Receiver};
use super::send::Sender;
use super::{Scratch, WebSocketResources, WebSocketSettings};

/// How long a client has to answer a close frame; uvicorn's.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of messages, both ways, before others have their turn: a fraction of a millisecond.
const YIELD_AFTER_BYTES: usize = 256 * 1024;

/// Read at a time, if the client has not announced more: what of it the application does not take is kept.
const READ_BYTES: usize = 16 * 1024;

/// A handshake that the application has accepted.
#[derive(Debug)]
pub struct AcceptedHandshake {
    /// The application's end.
    pub websocket: WebSocket,
    /// Compression, if there is to be any.
    pub deflate: Option<DeflateParams>,
    /// As they were at the handshake.
    pub settings: WebSocketSettings,
    /// For all of them.
    pub shared: Arc<WebSocketResources>,
    /// For the journal: what was asked for, by whom, and when.
    pub request: LoggedRequest,
    /// The worker.
    pub worker: Option<WorkerId>,
    /// When the handshake was complete.
    pub accepted_at: Instant,
    /// Whether a good end is told as well.
    pub log_access: bool,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseState {
    /// Messages go both ways.
    Open,
    /// Our close frame is on its way; the client's is awaited, and its messages are dropped.
    Closing,
    /// What is to be written is the last, and nothing more is read.
    Flushing,
}

/// A WebSocket.
#[derive(Debug)]
pub struct WebSocketConn {
    stream: ClientStream,
    /// The application's end, until it is over or has been told.
    app: Option<WebSocket>,
    settings: WebSocketSettings,
    shared: Arc<WebSocketResources>,
    receiver: Receiver,
    sender: Sender,
    stage: CloseState,
    /// Has been read, and waits for the application. With the handshake more may have come than one part.
    buffered: Vec<u8>,
    /// Has been read and looked at, and waits for room in the worker's ring.
    pending_part: Option<Box<PendingPart>>,
    /// The last ping, unanswered, while there is no room for answers (RFC 6455 §5.5.3: only the last needs one).
    pending_pong: Option<Box<[u8]>>,
    /// The close frame to be sent.
    close_frame: Option<Box<CloseFrame>>,
    /// When something was heard from the client, or when it was listened to again. Times are the connection's.
    last_input: u32,
    /// When it was asked whether it is there.
    ping_sent: Option<u32>,
    /// The application takes messages, so that the client is listened to.
    is_reading: bool,
    close_at: Option<u32>,
    /// When patience ends.
    close_deadline: Option<u32>,
    account: CloseLog,
}

/// A part of a message.
#[derive(Debug)]
struct PendingPart {
    bytes: Vec<u8>,
    text: bool,
    more: bool,
}

#[derive(Debug)]
enum CloseFrame {
    Empty,
    WithCode(u16, Vec<u8>),
}

/// The connection is over.
struct Disconnected;

/// What is told of it at its end.
#[derive(Debug)]
struct CloseLog {
    shared: Arc<WebSocketResources>,
    entry: Option<WebSocketEntry>,
    begun: Instant,
    log_access: bool,
}

/// Serves it until its end. `ahead` are bytes that came with its handshake.
pub fn serve(stream: ClientStream, ahead: &[u8], accepted: AcceptedHandshake) -> Box<WebSocketConn> {
    let AcceptedHandshake {
        websocket,
        deflate: agreed,
        settings,
        shared,
        request,
        worker,
        accepted_at: begun,
        log_access,
    } = accepted;
    stream.connection().set_phase(Phase::WebSocket);
    let now = stream.connection().coarse_now();
    let (received, sent) = (Traffic::default(), Traffic::default());
    let closed = WebSocketEntry {
        request,
        worker,
        code: code::ABNORMAL,
        duration: Duration::ZERO,
        received,
        sent,
        log_access,
    };
    Box::new(WebSocketConn {
        // Who comes while the daemon stops is not among those that it is told to say farewell to.
        close_at: stream.connection().is_draining().then_some(now),
        stream,
        app: Some(websocket),
        settings,
        receiver: Receiver::new(settings.max_message, agreed.is_some()),
        sender: Sender::new(agreed),
        stage: CloseState::Open,
        buffered: ahead.to_vec(),
        pending_part: None,
        pending_pong: None,
        close_frame: None,
        last_input: now,
        ping_sent: None,
        is_reading: true,
        close_deadline: None,
        account: CloseLog { shared: Arc::clone(&shared), entry: Some(closed), begun, log_access },
        shared,
    })
}

impl Future for WebSocketConn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.connection().register_waker(cx.waker());
        let mut scratch = this.shared.take_scratch();
        this.sender.borrow_buffer(&mut scratch.output);
        let outcome = this.drive(cx, &mut scratch);
        this.sender.return_buffer(&mut scratch.output);
        this.shared.return_scratch(scratch);
        match outcome {
            Ok(Poll::Pending) => {
                this.set_alarm();
                Poll::Pending
            }
            Ok(Poll::Ready(())) => Poll::Ready(()),
            Err(Disconnected) => {
                this.disconnect_app(code::ABNORMAL, b"");
                Poll::Ready(())
            }
        }
    }
}

impl WebSocketConn {
    fn connection(&self) -> &Arc<Connection> {
        self.stream.connection()
    }

    /// All that can be done now, within bounds.
    fn drive(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<Poll<()>, Disconnected> {
        if self.connection().should_abort() {
            return Err(self.abort(cx));
        }
        self.check_timers()?;
        let mut moved = 0;
        loop {
            let before = moved;
            let mut is_blocked = !self.flush(cx)?;
            if !is_blocked && self.stage == CloseState::Open {
                moved += self.send_outgoing(cx, scratch);
                if moved > before {
                    is_blocked = !self.flush(cx)?;
                }
            }
            if self.stage == CloseState::Flushing {
                if is_blocked || self.has_output() {
                    return Ok(Poll::Pending);
                }
                // An error here is the same end.
                return Ok(Pin::new(&mut self.stream).poll_shutdown(cx).map(drop));
            }
            moved += self.read(cx, scratch)?;
            if moved == before {
                return Ok(Poll::Pending);
            }
            if moved >= YIELD_AFTER_BYTES {
                // Two sides that are as fast as this would keep the reactor, and its turn from ending.
                self.shared.dispatcher.look();
                cx.waker().wake_by_ref();
                return Ok(Poll::Pending);
            }
        }
    }

    /// There is no more time for it.
    fn abort(&mut self, cx: &mut Context<'_>) -> Disconnected {
        if self.stage == CloseState::Open && self.connection().is_draining() {
            // The client is to know why, if it takes that at once.
            self.close(code::RESTART, RESTART_REASON);
            if matches!(self.flush(cx), Ok(true)) {
                return Disconnected;
            }
        }
        // One that is closing has everything already, and would perhaps lose it by a reset.
        if self.connection().phase() == Phase::WebSocket {
            self.connection().mark_reset();
        }
        Disconnected
    }

    fn has_output(&self) -> bool {
        !self.sender.is_empty() || self.close_frame.is_some()
    }

    /// Writes what there is. False: the client does not take it.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Disconnected> {
        loop {
            // A client that does not read, and goes on asking, has no more answers gathered for it than there is room for.
            if self.sender.can_send_message()
                && let Some(payload) = self.pending_pong.take()
            {
                self.sender.push_pong(&payload);
            }
            if self.sender.can_send_control()
                && let Some(parting) = self.close_frame.take()
            {
                // Nothing may follow.
                self.pending_pong = None;
                match *parting {
                    CloseFrame::Empty => self.sender.push_close(None),
                    CloseFrame::WithCode(code, reason) => self.sender.push_close(Some((code, &reason))),
                }
            }
            if self.sender.is_empty() {
                return Ok(true);
            }
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &self.sender.unwritten()) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(len)) if len > 0 => self.sender.advance(len),
                Poll::Ready(_) => return Err(Disconnected),
            }
        }
    }

    /// Takes what the application says, as far as there is room for it.
    fn send_outgoing(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> usize {
        let mut taken = 0;
        while self.stage == CloseState::Open && self.sender.can_send_message() {
            let Some(app) = &mut self.app else { break };
            let Poll::Ready(outgoing) = app.poll_outgoing(cx) else { break };
            // So that something has moved.
            taken += 1;
            match outgoing {
                Ok(Outgoing::Message { bytes, text, more }) => {
                    taken += bytes.len();
                    self.account.sent(bytes.len(), more);
                    self.sender.push_message(bytes, text, more, &mut scratch.deflated, &self.shared.pool);
                }
                Ok(Outgoing::Close { code, reason }) => {
                    // The worker has checked both.
                    let is_honest = is_sendable_code(code)
                        && reason.len() <= MAX_CLOSE_REASON
                        && std::str::from_utf8(&reason).is_ok();
                    let (code, reason) =
                        if is_honest { (code, reason) } else { (code::INTERNAL, Bytes::new()) };
                    self.close(code, &reason);
                }
                Ok(Outgoing::Farewell { after }) => {
                    self.close_at = Some(add(self.connection().coarse_now(), after));
                    self.close_if_due();
                }
                Err(fault) => {
                    let is_restart = self.close_at.is_some() && !matches!(fault, Fault::Raised { .. });
                    self.account.failed(&fault);
                    if is_restart {
                        self.close(code::RESTART, RESTART_REASON);
                    } else {
                        self.close(code::INTERNAL, b"");
                    }
                }
            }
        }
        taken
    }

    /// Has our close frame sent, and waits for the client's. The application is told, if it does not know.
    fn close(&mut self, code: u16, reason: &[u8]) {
        self.disconnect_app(code, reason);
        self.close_frame = Some(Box::new(CloseFrame::WithCode(code, reason.to_vec())));
        self.enter(CloseState::Closing);
    }

    /// Has our close frame sent, and does not listen any more (RFC 6455 §7.1.7).
    fn fail(&mut self, violation: WebSocketError) {
        let WebSocketError { code, reason } = violation;
        self.disconnect_app(code, reason.as_bytes());
        self.close_frame = Some(Box::new(CloseFrame::WithCode(code, reason.as_bytes().to_vec())));
        // What the client has sent after that is read before the connection ends: it would be reset.
        self.connection().mark_unread_input();
        self.enter(CloseState::Flushing);
    }

    fn enter(&mut self, stage: CloseState) {
        self.stage = stage;
        self.pending_part = None;
        self.close_deadline = Some(add(self.connection().coarse_now(), CLOSE_TIMEOUT));
    }

    /// The application has nothing to do with it any more; why. Only the first time counts.
    fn disconnect_app(&mut self, code: u16, reason: &[u8]) {
        if let Some(app) = self.app.take() {
            app.disconnect(code, reason);
            self.account.code(code);
        }
    }

    /// Reads at most once, and passes on what the application takes. Returns how much has moved.
    fn read(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<usize, Disconnected> {
        let mut moved = 0;
        if self.stage == CloseState::Open {
            if let (Some(held), Some(app)) = (&self.pending_part, &self.app) {
                match app.poll_send(cx, &held.bytes, held.text, held.more) {
                    Poll::Pending => return Ok(0),
                    Poll::Ready(_) => {
                        moved += 1;
                        self.pending_part = None;
                    }
                }
            }
            if !self.update_reading(cx) {
                return Ok(moved);
            }
        }
        let ahead = std::mem::take(&mut self.buffered);
        let mut ahead = ahead.as_slice();
        let (mut start, mut end) = (0, copy_into(&mut scratch.input, &mut ahead));
        let mut has_read = false;
        loop {
            moved += self.process_input(cx, scratch, &mut start, end);
            let wants_more = match self.stage {
                CloseState::Open => self.is_reading && self.pending_part.is_none(),
                CloseState::Closing => true,
                CloseState::Flushing => false,
            };
            if !wants_more || has_read {
                break;
            }
            scratch.input.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            let most = if self.receiver.frame_remaining() > READ_BYTES as u64 { PART } else { READ_BYTES };
            let Some(room) = scratch.input.get_mut(end..most.max(end + 1)) else { break };
            if !ahead.is_empty() {
                end += copy_into(room, &mut ahead);
                continue;
            }
            let mut buffer = ReadBuf::new(room);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    has_read = true;
                    end += buffer.filled().len();
                    // Also of what is nobody's, so that who sends only that has no longer turns.
                    moved += buffer.filled().len();
                    self.last_input = self.connection().coarse_now();
                    self.ping_sent = None;
                }
                Poll::Ready(_) => return Err(Disconnected),
            }
        }
        if self.stage != CloseState::Flushing {
            self.buffered = [scratch.input.get(start..end).unwrap_or_default(), ahead].concat();
        }
        Ok(moved)
    }

    /// Is there room for a message? The client is listened to only then.
    fn update_reading(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(app) = &self.app else { return false };
        let listens = matches!(app.poll_room(cx), Poll::Ready(true));
        if listens && !self.is_reading {
            // Its silence was ours.
            self.last_input = self.connection().coarse_now();
            self.ping_sent = None;
        }
        if !listens {
            self.ping_sent = None;
        }
        self.is_reading = listens;
        listens
    }

    /// Passes on what is in `scratch.input` between `start` and `end`. Returns how much has moved.
    fn process_input(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        start: &mut usize,
        end: usize,
    ) -> usize {
        let mut moved = 0;
        while *start < end || self.receiver.has_pending() {
            let input = scratch.input.get_mut(*start..end).unwrap_or_default();
            let (used, event) = match self.receiver.next(input, &mut scratch.inflated, &self.shared.pool) {
                Ok(next) => next,
                Err(violation) => {
                    // Of what comes after our close frame only the client's counts.
                    match self.stage {
                        CloseState::Open => self.fail(violation),
                        CloseState::Closing | CloseState::Flushing => self.stage = CloseState::Flushing,
                    }
                    return moved + 1;
                }
            };
            *start += used;
            let Some(event) = event else { break };
            moved += 1;
            match event {
                ClientEvent::Part { bytes, text, more } => {
                    // What was read has been counted.
                    moved += bytes.len().saturating_sub(used);
                    let (CloseState::Open, Some(app)) = (self.stage, &self.app) else { continue };
                    self.account.received(bytes.len(), more);
                    if app.poll_send(cx, bytes, text, more).is_pending() {
                        self.pending_part = Some(Box::new(PendingPart { bytes: bytes.to_vec(), text, more }));
                        break;
                    }
                    if !self.update_reading(cx) {
                        break;
                    }
                }
                ClientEvent::Ping(payload) => {
                    if self.stage == CloseState::Open {
                        if self.pending_pong.is_none() && self.sender.can_send_message() {
                            self.sender.push_pong(payload);
                        } else {
                            self.pending_pong = Some(payload.into());
                        }
                    }
                }
                ClientEvent::Pong => {}
                ClientEvent::Close(close) => {
                    let (code, reason) = close.unwrap_or((code::NONE, ""));
                    if self.stage == CloseState::Open {
                        self.disconnect_app(code, reason.as_bytes());
                        let answer = close.map_or(CloseFrame::Empty, |(code, reason)| {
                            CloseFrame::WithCode(code, reason.into())
                        });
                        self.close_frame = Some(Box::new(answer));
                    }
                    self.enter(CloseState::Flushing);
                    break;
                }
            }
        }
        moved
    }

    fn check_timers(&mut self) -> Result<(), Disconnected> {
        let now = self.connection().coarse_now();
        if self.close_deadline.is_some_and(|deadline| is_due(deadline, now)) {
            return Err(Disconnected);
        }
        self.close_if_due();
        let (CloseState::Open, Some(interval)) = (self.stage, self.settings.ping_interval) else {
            return Ok(());
        };
        match (self.ping_sent, self.settings.ping_timeout) {
            // Who does not take what is sent to it is watched for that.
            (None, _) if is_due(add(self.last_input, interval), now) && self.sender.is_empty() => {
                self.sender.push_ping();
                match self.settings.ping_timeout {
                    Some(_) if self.is_reading => self.ping_sent = Some(now),
                    // Its answer would not be read; but if it is gone, its machine says so to this.
                    _ => self.last_input = now,
                }
            }
            (Some(asked), Some(timeout)) if self.is_reading && is_due(add(asked, timeout), now) => {
                // As uvicorn has it: the application is told that there was no close frame.
                self.disconnect_app(code::ABNORMAL, b"");
                self.account.code(code::INTERNAL);
                self.fail(WebSocketError { code: code::INTERNAL, reason: "keepalive ping timeout" });
            }
            _ => {}
        }
        Ok(())
    }

    fn close_if_due(&mut self) {
        let is_time = self.close_at.is_some_and(|farewell| is_due(farewell, self.connection().coarse_now()));
        if is_time && self.stage == CloseState::Open {
            self.close(code::RESTART, RESTART_REASON);
        }
    }

    /// Has itself woken when there is something to be done at a time.
    fn set_alarm(&self) {
        let is_open = self.stage == CloseState::Open;
        let interval = self.settings.ping_interval.filter(|_| is_open && self.sender.is_empty());
        let ping = interval.and_then(|interval| match self.ping_sent.filter(|_| self.is_reading) {
            None => Some(add(self.last_input, interval)),
            Some(asked) => self.settings.ping_timeout.map(|timeout| add(asked, timeout)),
        });
        let farewell = self.close_at.filter(|_| is_open);
        let now = self.connection().coarse_now();
        let times = [ping, farewell, self.close_deadline].into_iter().flatten();
        self.connection().set_alarm(times.min_by_key(|time| time.wrapping_sub(now).cast_signed()));
    }
}

const RESTART_REASON: &[u8] = b"Service Restart";

/// Moves as much as there is room for. Returns how much.
fn copy_into(room: &mut [u8], bytes: &mut &[u8]) -> usize {
    let (now, later) = bytes.split_at(bytes.len().min(room.len()));
    if let Some(room) = room.get_mut(..now.len()) {
        room.copy_from_slice(now);
    }
    *bytes = later;
    now.len()
}

/// A time of the connection's clock, which wraps.
fn add(time: u32, by: Duration) -> u32 {
    time.wrapping_add(u32::try_from(by.as_millis()).unwrap_or(u32::MAX).min(i32::MAX as u32))
}

fn is_due(time: u32, now: u32) -> bool {
    now.wrapping_sub(time).cast_signed() >= 0
}

impl CloseLog {
    fn received(&mut self, len: usize, more: bool) {
        if let Some(closed) = &mut self.entry {
            closed.received.count(len, more);
        }
    }

    fn sent(&mut self, len: usize, more: bool) {
        if let Some(closed) = &mut self.entry {
            closed.sent.count(len, more);
        }
    }

    fn code(&mut self, code: u16) {
        if let Some(closed) = &mut self.entry {
            closed.code = code;
        }
    }

    /// The application did not close it. Its one entry is this.
    fn failed(&mut self, fault: &Fault) {
        let Some(closed) = self.entry.take() else { return };
        let (summary, traceback) = match fault {
            Fault::Raised { summary, traceback, .. } => (summary.clone(), traceback.clone()),
            Fault::WorkerDied(_) => ("the worker died".to_owned(), String::new()),
            Fault::CutOff(_) => ("the worker had to go".to_owned(), String::new()),
            fault => (format!("{fault:?}"), String::new()),
        };
        self.shared.journal.failure(FailureEntry {
            request: closed.request,
            status: 101,
            duration: self.begun.elapsed(),
            worker: closed.worker,
            summary: format!("broken off as a WebSocket: {summary}"),
            traceback,
            log_access: self.log_access,
        });
    }
}

impl Drop for CloseLog {
    fn drop(&mut self) {
        if let Some(mut closed) = self.entry.take() {
            closed.duration = self.begun.elapsed();
            self.shared.journal.websocket_closed(closed);
        }
    }
}
