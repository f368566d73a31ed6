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
use crate::journal::requests::{Closed, Failure, Request, Traffic};
use crate::net::{Connection, Phase, Stream};

use super::extension::Agreed;
use super::frame::{REASON, Violation, code, is_code};
use super::receive::{Event, Receiver};
use super::send::Sender;
use super::{Scratch, Settings, Shared};

/// How long a client has to answer a close frame; uvicorn's.
const CLOSE_TIME: Duration = Duration::from_secs(10);

/// Bytes of messages, both ways, before others have their turn: a fraction of a millisecond.
const TURN: usize = 256 * 1024;

/// Read at a time, if the client has not announced more: what of it the application does not take is kept.
const READ: usize = 16 * 1024;

/// A handshake that the application has accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The application's end.
    pub websocket: WebSocket,
    /// Compression, if there is to be any.
    pub agreed: Option<Agreed>,
    /// As they were at the handshake.
    pub settings: Settings,
    /// For all of them.
    pub shared: Arc<Shared>,
    /// For the journal: what was asked for, by whom, and when.
    pub request: Request,
    /// The worker.
    pub worker: Option<WorkerId>,
    /// When the handshake was complete.
    pub begun: Instant,
    /// Whether a good end is told as well.
    pub log_access: bool,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Messages go both ways.
    Open,
    /// Our close frame is on its way; the client's is awaited, and its messages are dropped.
    Closing,
    /// What is to be written is the last, and nothing more is read.
    Last,
}

/// A WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    /// The application's end, until it is over or has been told.
    app: Option<WebSocket>,
    settings: Settings,
    shared: Arc<Shared>,
    receiver: Receiver,
    sender: Sender,
    stage: Stage,
    /// Has been read, and waits for the application. With the handshake more may have come than one part.
    ahead: Vec<u8>,
    /// Has been read and looked at, and waits for room in the worker's ring.
    held: Option<Box<Held>>,
    /// The last ping, unanswered, while there is no room for answers (RFC 6455 §5.5.3: only the last needs one).
    pong: Option<Box<[u8]>>,
    /// The close frame to be sent.
    parting: Option<Box<Parting>>,
    /// When something was heard from the client, or when it was listened to again. Times are the connection's.
    heard: u32,
    /// When it was asked whether it is there.
    asked: Option<u32>,
    /// The application takes messages, so that the client is listened to.
    listens: bool,
    farewell: Option<u32>,
    /// When patience ends.
    deadline: Option<u32>,
    account: Account,
}

/// A part of a message.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    text: bool,
    more: bool,
}

#[derive(Debug)]
enum Parting {
    Bare,
    With(u16, Vec<u8>),
}

/// The connection is over.
struct Gone;

/// What is told of it at its end.
#[derive(Debug)]
struct Account {
    shared: Arc<Shared>,
    closed: Option<Closed>,
    begun: Instant,
    log_access: bool,
}

/// Serves it until its end. `ahead` are bytes that came with its handshake.
pub fn serve(stream: Stream, ahead: &[u8], accepted: Accepted) -> Box<Socket> {
    let Accepted { websocket, agreed, settings, shared, request, worker, begun, log_access } = accepted;
    stream.connection().enter(Phase::WebSocket);
    let now = stream.connection().clock();
    let (received, sent) = (Traffic::default(), Traffic::default());
    let closed = Closed {
        request,
        worker,
        code: code::ABNORMAL,
        duration: Duration::ZERO,
        received,
        sent,
        log_access,
    };
    Box::new(Socket {
        // Who comes while the daemon stops is not among those that it is told to say farewell to.
        farewell: stream.connection().is_closing().then_some(now),
        stream,
        app: Some(websocket),
        settings,
        receiver: Receiver::new(settings.max_message, agreed.is_some()),
        sender: Sender::new(agreed),
        stage: Stage::Open,
        ahead: ahead.to_vec(),
        held: None,
        pong: None,
        parting: None,
        heard: now,
        asked: None,
        listens: true,
        deadline: None,
        account: Account { shared: Arc::clone(&shared), closed: Some(closed), begun, log_access },
        shared,
    })
}

impl Future for Socket {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.connection().remember(cx.waker());
        let mut scratch = this.shared.take_scratch();
        this.sender.borrow(&mut scratch.output);
        let outcome = this.turn(cx, &mut scratch);
        this.sender.give_back(&mut scratch.output);
        this.shared.give_scratch(scratch);
        match outcome {
            Ok(Poll::Pending) => {
                this.set_alarm();
                Poll::Pending
            }
            Ok(Poll::Ready(())) => Poll::Ready(()),
            Err(Gone) => {
                this.leave(code::ABNORMAL, b"");
                Poll::Ready(())
            }
        }
    }
}

impl Socket {
    fn connection(&self) -> &Arc<Connection> {
        self.stream.connection()
    }

    /// All that can be done now, within bounds.
    fn turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<Poll<()>, Gone> {
        if self.connection().is_to_break() {
            return Err(self.break_off(cx));
        }
        self.look_at_clock()?;
        let mut moved = 0;
        loop {
            let before = moved;
            let mut is_blocked = !self.write(cx)?;
            if !is_blocked && self.stage == Stage::Open {
                moved += self.take_outgoing(cx, scratch);
                if moved > before {
                    is_blocked = !self.write(cx)?;
                }
            }
            if self.stage == Stage::Last {
                if is_blocked || self.has_more_to_write() {
                    return Ok(Poll::Pending);
                }
                // An error here is the same end.
                return Ok(Pin::new(&mut self.stream).poll_shutdown(cx).map(drop));
            }
            moved += self.read(cx, scratch)?;
            if moved == before {
                return Ok(Poll::Pending);
            }
            if moved >= TURN {
                // Two sides that are as fast as this would keep the reactor, and its turn from ending.
                self.shared.dispatcher.look();
                cx.waker().wake_by_ref();
                return Ok(Poll::Pending);
            }
        }
    }

    /// There is no more time for it.
    fn break_off(&mut self, cx: &mut Context<'_>) -> Gone {
        if self.stage == Stage::Open && self.connection().is_closing() {
            // The client is to know why, if it takes that at once.
            self.close(code::RESTART, RESTARTS);
            if matches!(self.write(cx), Ok(true)) {
                return Gone;
            }
        }
        // One that is closing has everything already, and would perhaps lose it by a reset.
        if self.connection().phase() == Phase::WebSocket {
            self.connection().mark_reset();
        }
        Gone
    }

    fn has_more_to_write(&self) -> bool {
        !self.sender.is_empty() || self.parting.is_some()
    }

    /// Writes what there is. False: the client does not take it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        loop {
            // A client that does not read, and goes on asking, has no more answers gathered for it than there is room for.
            if self.sender.has_room()
                && let Some(payload) = self.pong.take()
            {
                self.sender.pong(&payload);
            }
            if self.sender.can_add()
                && let Some(parting) = self.parting.take()
            {
                // Nothing may follow.
                self.pong = None;
                match *parting {
                    Parting::Bare => self.sender.close(None),
                    Parting::With(code, reason) => self.sender.close(Some((code, &reason))),
                }
            }
            if self.sender.is_empty() {
                return Ok(true);
            }
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &self.sender.slices()) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(len)) if len > 0 => self.sender.advance(len),
                Poll::Ready(_) => return Err(Gone),
            }
        }
    }

    /// Takes what the application says, as far as there is room for it.
    fn take_outgoing(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> usize {
        let mut taken = 0;
        while self.stage == Stage::Open && self.sender.has_room() {
            let Some(app) = &mut self.app else { break };
            let Poll::Ready(outgoing) = app.poll_outgoing(cx) else { break };
            // So that something has moved.
            taken += 1;
            match outgoing {
                Ok(Outgoing::Message { bytes, text, more }) => {
                    taken += bytes.len();
                    self.account.sent(bytes.len(), more);
                    self.sender.message(bytes, text, more, &mut scratch.deflated, &self.shared.pool);
                }
                Ok(Outgoing::Close { code, reason }) => {
                    // The worker has checked both.
                    let is_honest =
                        is_code(code) && reason.len() <= REASON && std::str::from_utf8(&reason).is_ok();
                    let (code, reason) =
                        if is_honest { (code, reason) } else { (code::INTERNAL, Bytes::new()) };
                    self.close(code, &reason);
                }
                Ok(Outgoing::Farewell { after }) => {
                    self.farewell = Some(later(self.connection().clock(), after));
                    self.say_farewell();
                }
                Err(fault) => {
                    let is_restart = self.farewell.is_some() && !matches!(fault, Fault::Raised { .. });
                    self.account.failed(&fault);
                    if is_restart {
                        self.close(code::RESTART, RESTARTS);
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
        self.leave(code, reason);
        self.parting = Some(Box::new(Parting::With(code, reason.to_vec())));
        self.wait_for(Stage::Closing);
    }

    /// Has our close frame sent, and does not listen any more (RFC 6455 §7.1.7).
    fn fail(&mut self, violation: Violation) {
        let Violation { code, reason } = violation;
        self.leave(code, reason.as_bytes());
        self.parting = Some(Box::new(Parting::With(code, reason.as_bytes().to_vec())));
        // What the client has sent after that is read before the connection ends: it would be reset.
        self.connection().mark_unread_input();
        self.wait_for(Stage::Last);
    }

    fn wait_for(&mut self, stage: Stage) {
        self.stage = stage;
        self.held = None;
        self.deadline = Some(later(self.connection().clock(), CLOSE_TIME));
    }

    /// The application has nothing to do with it any more; why. Only the first time counts.
    fn leave(&mut self, code: u16, reason: &[u8]) {
        if let Some(app) = self.app.take() {
            app.disconnect(code, reason);
            self.account.code(code);
        }
    }

    /// Reads at most once, and passes on what the application takes. Returns how much has moved.
    fn read(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<usize, Gone> {
        let mut moved = 0;
        if self.stage == Stage::Open {
            if let (Some(held), Some(app)) = (&self.held, &self.app) {
                match app.poll_send(cx, &held.bytes, held.text, held.more) {
                    Poll::Pending => return Ok(0),
                    Poll::Ready(_) => {
                        moved += 1;
                        self.held = None;
                    }
                }
            }
            if !self.listen(cx) {
                return Ok(moved);
            }
        }
        let ahead = std::mem::take(&mut self.ahead);
        let mut ahead = ahead.as_slice();
        let (mut start, mut end) = (0, move_into(&mut scratch.input, &mut ahead));
        let mut has_read = false;
        loop {
            moved += self.pass_on(cx, scratch, &mut start, end);
            let wants_more = match self.stage {
                Stage::Open => self.listens && self.held.is_none(),
                Stage::Closing => true,
                Stage::Last => false,
            };
            if !wants_more || has_read {
                break;
            }
            scratch.input.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            let most = if self.receiver.announced() > READ as u64 { PART } else { READ };
            let Some(room) = scratch.input.get_mut(end..most.max(end + 1)) else { break };
            if !ahead.is_empty() {
                end += move_into(room, &mut ahead);
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
                    self.heard = self.connection().clock();
                    self.asked = None;
                }
                Poll::Ready(_) => return Err(Gone),
            }
        }
        if self.stage != Stage::Last {
            self.ahead = [scratch.input.get(start..end).unwrap_or_default(), ahead].concat();
        }
        Ok(moved)
    }

    /// Is there room for a message? The client is listened to only then.
    fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(app) = &self.app else { return false };
        let listens = matches!(app.poll_room(cx), Poll::Ready(true));
        if listens && !self.listens {
            // Its silence was ours.
            self.heard = self.connection().clock();
            self.asked = None;
        }
        if !listens {
            self.asked = None;
        }
        self.listens = listens;
        listens
    }

    /// Passes on what is in `scratch.input` between `start` and `end`. Returns how much has moved.
    fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        start: &mut usize,
        end: usize,
    ) -> usize {
        let mut moved = 0;
        while *start < end || self.receiver.is_behind() {
            let input = scratch.input.get_mut(*start..end).unwrap_or_default();
            let (used, event) = match self.receiver.next(input, &mut scratch.inflated, &self.shared.pool) {
                Ok(next) => next,
                Err(violation) => {
                    // Of what comes after our close frame only the client's counts.
                    match self.stage {
                        Stage::Open => self.fail(violation),
                        Stage::Closing | Stage::Last => self.stage = Stage::Last,
                    }
                    return moved + 1;
                }
            };
            *start += used;
            let Some(event) = event else { break };
            moved += 1;
            match event {
                Event::Part { bytes, text, more } => {
                    // What was read has been counted.
                    moved += bytes.len().saturating_sub(used);
                    let (Stage::Open, Some(app)) = (self.stage, &self.app) else { continue };
                    self.account.received(bytes.len(), more);
                    if app.poll_send(cx, bytes, text, more).is_pending() {
                        self.held = Some(Box::new(Held { bytes: bytes.to_vec(), text, more }));
                        break;
                    }
                    if !self.listen(cx) {
                        break;
                    }
                }
                Event::Ping(payload) => {
                    if self.stage == Stage::Open {
                        if self.pong.is_none() && self.sender.has_room() {
                            self.sender.pong(payload);
                        } else {
                            self.pong = Some(payload.into());
                        }
                    }
                }
                Event::Pong => {}
                Event::Close(close) => {
                    let (code, reason) = close.unwrap_or((code::NONE, ""));
                    if self.stage == Stage::Open {
                        self.leave(code, reason.as_bytes());
                        let answer =
                            close.map_or(Parting::Bare, |(code, reason)| Parting::With(code, reason.into()));
                        self.parting = Some(Box::new(answer));
                    }
                    self.wait_for(Stage::Last);
                    break;
                }
            }
        }
        moved
    }

    fn look_at_clock(&mut self) -> Result<(), Gone> {
        let now = self.connection().clock();
        if self.deadline.is_some_and(|deadline| is_due(deadline, now)) {
            return Err(Gone);
        }
        self.say_farewell();
        let (Stage::Open, Some(interval)) = (self.stage, self.settings.ping_interval) else {
            return Ok(());
        };
        match (self.asked, self.settings.ping_timeout) {
            // Who does not take what is sent to it is watched for that.
            (None, _) if is_due(later(self.heard, interval), now) && self.sender.is_empty() => {
                self.sender.ping();
                match self.settings.ping_timeout {
                    Some(_) if self.listens => self.asked = Some(now),
                    // Its answer would not be read; but if it is gone, its machine says so to this.
                    _ => self.heard = now,
                }
            }
            (Some(asked), Some(timeout)) if self.listens && is_due(later(asked, timeout), now) => {
                // As uvicorn has it: the application is told that there was no close frame.
                self.leave(code::ABNORMAL, b"");
                self.account.code(code::INTERNAL);
                self.fail(Violation { code: code::INTERNAL, reason: "keepalive ping timeout" });
            }
            _ => {}
        }
        Ok(())
    }

    fn say_farewell(&mut self) {
        let is_time = self.farewell.is_some_and(|farewell| is_due(farewell, self.connection().clock()));
        if is_time && self.stage == Stage::Open {
            self.close(code::RESTART, RESTARTS);
        }
    }

    /// Has itself woken when there is something to be done at a time.
    fn set_alarm(&self) {
        let is_open = self.stage == Stage::Open;
        let interval = self.settings.ping_interval.filter(|_| is_open && self.sender.is_empty());
        let ping = interval.and_then(|interval| match self.asked.filter(|_| self.listens) {
            None => Some(later(self.heard, interval)),
            Some(asked) => self.settings.ping_timeout.map(|timeout| later(asked, timeout)),
        });
        let farewell = self.farewell.filter(|_| is_open);
        let now = self.connection().clock();
        let times = [ping, farewell, self.deadline].into_iter().flatten();
        self.connection().set_alarm(times.min_by_key(|time| time.wrapping_sub(now).cast_signed()));
    }
}

const RESTARTS: &[u8] = b"Service Restart";

/// Moves as much as there is room for. Returns how much.
fn move_into(room: &mut [u8], bytes: &mut &[u8]) -> usize {
    let (now, later) = bytes.split_at(bytes.len().min(room.len()));
    if let Some(room) = room.get_mut(..now.len()) {
        room.copy_from_slice(now);
    }
    *bytes = later;
    now.len()
}

/// A time of the connection's clock, which wraps.
fn later(time: u32, by: Duration) -> u32 {
    time.wrapping_add(u32::try_from(by.as_millis()).unwrap_or(u32::MAX).min(i32::MAX as u32))
}

fn is_due(time: u32, now: u32) -> bool {
    now.wrapping_sub(time).cast_signed() >= 0
}

impl Account {
    fn received(&mut self, len: usize, more: bool) {
        if let Some(closed) = &mut self.closed {
            closed.received.count(len, more);
        }
    }

    fn sent(&mut self, len: usize, more: bool) {
        if let Some(closed) = &mut self.closed {
            closed.sent.count(len, more);
        }
    }

    fn code(&mut self, code: u16) {
        if let Some(closed) = &mut self.closed {
            closed.code = code;
        }
    }

    /// The application did not close it. Its one entry is this.
    fn failed(&mut self, fault: &Fault) {
        let Some(closed) = self.closed.take() else { return };
        let (summary, traceback) = match fault {
            Fault::Raised { summary, traceback, .. } => (summary.clone(), traceback.clone()),
            Fault::WorkerDied(_) => ("the worker died".to_owned(), String::new()),
            Fault::CutOff(_) => ("the worker had to go".to_owned(), String::new()),
            fault => (format!("{fault:?}"), String::new()),
        };
        self.shared.journal.failure(Failure {
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

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(mut closed) = self.closed.take() {
            closed.duration = self.begun.elapsed();
            self.shared.journal.closed(closed);
        }
    }
}
