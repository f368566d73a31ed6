//! An exchange: a request on its way through a worker, and the answer on its way back.

pub(super) mod body;
pub(super) mod delivery;
pub(super) mod response_buffer;
pub(super) mod response_parts;
pub(super) mod socket;
pub(super) mod table;

use std::task::Waker;
use std::time::{Duration, Instant};

use http::HeaderMap;
use rgun_channel::frame::{CompletionKind, ExchangeId, MAX_FIELDS, Request};
use rgun_channel::layout::RESPONSE_WINDOW;
use rgun_channel::ring::Position;

use crate::escape::RequestPath;
use crate::id::WorkerId;

use crate::dispatch::admission::rules::RuleNr;
use crate::dispatch::data::Data;
use crate::dispatch::exchange::body::{Carriage, Uptake};
use crate::dispatch::exchange::delivery::Delivery;
use crate::dispatch::exchange::response_buffer::{Next, ResponseBuffer};
use crate::dispatch::exchange::response_parts::{
    Beginning, FilePart, Head, Leaving, Payload, Piece, Progress, RequestBody,
};
use crate::dispatch::exchange::socket::Socket;
use crate::dispatch::fault::Fault;
use crate::dispatch::worker::Worker;
use crate::dispatch::worker::decode::Received;
use crate::dispatch::{Asked, Had, Notice, NoticeSink};

/// Where the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the queue: it lacks nothing but a worker.
    Queued,
    /// It lacks a permit of this rule.
    Waiting(RuleNr),
    /// In a worker's ring, started or not.
    Given {
        /// Index in `State::workers`.
        worker: usize,
        /// Its record.
        position: Position,
    },
    /// No worker has anything to do with it any more.
    Over,
}

/// What the client has had of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// It waits for the head.
    Waiting,
    /// It has the head, with this status, and waits for more.
    Streaming(u16),
    /// It has everything, or is gone.
    Through,
}

/// One exchange.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) id: ExchangeId,
    /// The encoded request, kept until the worker is done with it so that it can be given to another.
    pub(crate) frame: Vec<u8>,
    pub(crate) body: Option<RequestBody>,
    pub(crate) place: Place,
    /// When it was submitted, or began again: its patience counts from here.
    pub(crate) received: Instant,
    /// Since when it lacks nothing but a worker.
    pub(crate) ready: Instant,
    /// When it was given to the worker that has it.
    pub(crate) given: Option<Instant>,
    /// How long it may run; `None` is for ever.
    pub(crate) limit: Option<Duration>,
    /// Of which rule it has a permit.
    pub(crate) permit: Option<RuleNr>,
    /// Only the worker that it was submitted to may have it.
    pub(crate) pinned: bool,
    /// It had started in another worker, which died.
    pub(crate) retried: bool,
    /// [`Notice::Slow`] has been told of the attempt that runs.
    pub(crate) told_slow: bool,
    /// Its deadline has passed and its client been told.
    pub(crate) overdue: bool,
    pub(crate) worker: Option<WorkerId>,
    /// How often it was taken from a worker that did not claim it and given to another.
    pub(crate) moves: u8,
    /// Its body, if that is given to the application as it takes it.
    pub(crate) uptake: Option<Box<Uptake>>,
    /// It began as the handshake of a WebSocket.
    pub(crate) websocket: Option<Box<Socket>>,
    /// The worker knows that nobody waits for it any more. ASGI only.
    pub(crate) told_gone: bool,
    /// Its client has closed its sending half.
    pub(crate) half_closed: bool,
    /// It was cancelled, and until when its worker may take to let go of it. ASGI only.
    pub(crate) grace: Option<Instant>,
    slot: u16,
    client: Client,
    pub(crate) waker: Option<Waker>,
    head: Option<Head>,
    /// What its client is to take.
    pub(crate) buffer: ResponseBuffer,
    /// `State::relief` has it.
    pub(crate) is_watched: bool,
    /// Since when its worker waits for its client, because there is no room for more of the answer.
    pub(crate) held_since: Option<Instant>,
    /// How long it has waited so before.
    pub(crate) held_for: Duration,
    file: Option<FilePart>,
    /// The fields of the early hints that have not been sent.
    hints: Option<Box<HeaderMap>>,
    /// The fields after the body.
    trailers: Option<Box<HeaderMap>>,
    /// Body bytes that have not been acknowledged.
    pub(crate) unacked: u64,
    responded: bool,
    delivery: Delivery,
    pub(crate) ended: bool,
    /// Times the worker said that the application raised: once for the answer, once for closing it.
    raised: u8,
    /// The application's answer says that it failed (a status of 500 or above), or broke off.
    failed: bool,
    pub(crate) fault: Option<Fault>,
}

impl Exchange {
    pub(crate) fn new(
        id: ExchangeId,
        frame: Vec<u8>,
        body: Option<RequestBody>,
        limit: Option<Duration>,
        received: Instant,
    ) -> Self {
        Self {
            id,
            frame,
            body,
            place: Place::Queued,
            received,
            ready: received,
            given: None,
            limit,
            permit: None,
            pinned: false,
            retried: false,
            told_slow: false,
            overdue: false,
            worker: None,
            moves: 0,
            uptake: None,
            websocket: None,
            told_gone: false,
            half_closed: false,
            grace: None,
            slot: 0,
            client: Client::Waiting,
            waker: None,
            head: None,
            buffer: ResponseBuffer::default(),
            is_watched: false,
            held_since: None,
            held_for: Duration::ZERO,
            file: None,
            hints: None,
            trailers: None,
            unacked: 0,
            responded: false,
            delivery: Delivery::new(),
            ended: false,
            raised: 0,
            failed: false,
            fault: None,
        }
    }

    /// The request, as it was encoded here.
    pub(crate) fn request(&self) -> Option<Request<'_>> {
        Request::decode(&self.frame).ok()
    }

    /// Names the request to people. `thread` is [`Asked::thread`].
    pub(crate) fn asked(&self, thread: Option<u64>, now: Instant) -> Asked {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // The frame is the daemon's own copy: what was encoded once can be decoded.
        let request = self.request().unwrap_or(Request::new(self.id));
        Asked {
            exchange: self.id,
            request_id: text(request.request_id),
            method: text(request.method),
            path: RequestPath::new(request.path),
            thread,
            elapsed: self.given.map_or(Duration::ZERO, |given| now.saturating_duration_since(given)),
            client: self.client_has(),
        }
    }

    pub(crate) fn has_body_fd(&self) -> bool {
        self.body.is_some()
    }

    /// How its body travels.
    pub(crate) fn carriage(&self) -> Carriage {
        if self.websocket.is_some() {
            return Carriage::Messages;
        }
        match (&self.uptake, &self.body) {
            (Some(_), _) => Carriage::Parts,
            (None, Some(_)) => Carriage::Descriptor,
            (None, None) => Carriage::Frame,
        }
    }

    /// May the application still want something of its body?
    pub(crate) fn takes_body(&self) -> bool {
        self.place != Place::Over && self.fault.is_none() && !self.ended && !self.client_is_through()
    }

    /// Whoever brings its body finds out that nobody takes it any more.
    pub(crate) fn end_uptake(&mut self) {
        if let Some(waker) = self.uptake.as_mut().and_then(|uptake| uptake.waker.take()) {
            waker.wake();
        }
    }

    /// Has all of its answer been made?
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Where its record is in its worker's ring.
    pub(crate) fn position(&self) -> Option<Position> {
        match self.place {
            Place::Given { position, .. } => Some(position),
            Place::Queued | Place::Waiting(_) | Place::Over => None,
        }
    }

    pub(crate) fn is_given_to(&self, index: usize) -> bool {
        matches!(self.place, Place::Given { worker, .. } if worker == index)
    }

    /// Is it of use to tell the worker that nobody waits any more? Not before the head: a worker heeds it only after
    /// that, and a request's body that its slot is about to take would be dropped under its hands.
    pub(crate) fn can_be_cut_short(&self) -> bool {
        self.responded && !self.ended
    }

    /// Does the worker wait for the client to take more of the answer? It does when the next part would not fit into
    /// the window; parts are smaller than half of it.
    ///
    /// Or for more of the request than the client has sent?
    pub(crate) fn is_held_back(&self) -> bool {
        self.waits_for_answer_to_leave() || self.uptake.as_ref().is_some_and(|uptake| uptake.is_hungry())
    }

    pub(crate) fn waits_for_answer_to_leave(&self) -> bool {
        self.unacked > RESPONSE_WINDOW / 2 && !self.ended && !self.client_is_through()
    }

    pub(crate) fn client_is_through(&self) -> bool {
        self.client == Client::Through
    }

    pub(crate) fn client_has(&self) -> Had {
        match self.client {
            Client::Waiting if !(self.responded && self.ended) => Had::Nothing,
            Client::Streaming(status) if !self.ended => Had::Head(status),
            // What has ended without a fault is complete, although its client has not taken all of it yet.
            Client::Waiting | Client::Streaming(_) | Client::Through => Had::Everything,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.place == Place::Over && self.client_is_through()
    }

    /// Has the application failed, by its own account?
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Has the application come to the head of its answer?
    pub(crate) fn has_responded(&self) -> bool {
        self.responded
    }

    /// Its worker died: makes it what it was when it was submitted. False if it has been tried twice, or its client
    /// has something of an answer or needs none.
    pub(crate) fn begin_again(&mut self, now: Instant) -> bool {
        let has_nothing = self.client == Client::Waiting && !self.ended && self.fault.is_none();
        let has_taken = self.uptake.as_ref().is_some_and(|uptake| uptake.taken > 0);
        if has_taken || self.retried || self.pinned || !has_nothing || self.is_open_socket() {
            return false;
        }
        // The first worker may have moved the offset, which is the file's, not the descriptor's.
        if let Some(body) = &self.body
            && rustix::fs::seek(&body.fd, rustix::fs::SeekFrom::Start(0)).is_err()
        {
            return false;
        }
        self.retried = true;
        self.told_slow = false;
        self.place = Place::Queued;
        (self.received, self.ready, self.given) = (now, now, None);
        self.head = None;
        self.buffer = ResponseBuffer::default();
        (self.held_since, self.held_for) = (None, Duration::ZERO);
        self.file = None;
        (self.hints, self.trailers) = (None, None);
        self.unacked = 0;
        (self.responded, self.failed) = (false, false);
        self.delivery = Delivery::new();
        self.raised = 0;
        true
    }

    pub(crate) fn worker_is_done(&mut self) {
        self.place = Place::Over;
        self.body = None;
        self.end_uptake();
        if !self.ended && self.fault.is_none() {
            // DONE without END: the worker forgot to answer, which the decoder already refuses; this keeps
            // the client from waiting for ever if it ever slips through.
            if let Some(worker) = self.worker {
                self.fault = Some(Fault::WorkerDied(worker));
            }
        }
    }

    pub(crate) fn take_waker_if_settled(&mut self) -> Option<Waker> {
        if self.fault.is_some() || self.ended { self.waker.take() } else { None }
    }

    /// Takes in what a completion says. Returns the waker of whoever waits for it.
    pub(crate) fn receive(
        &mut self,
        completion: Received,
        worker: &mut Worker,
        notice: &NoticeSink,
    ) -> Result<Option<Waker>, String> {
        let Received { head: fixed, response, payload, error, taken, fields } = completion;
        self.slot = fixed.slot;
        if self.ended && fixed.kind == CompletionKind::Respond {
            return Err(format!("answered exchange {} twice", self.id.0));
        }
        if self.is_open_socket()
            && !matches!(fixed.kind, CompletionKind::AppRaised | CompletionKind::WindowUpdate)
        {
            return self.receive_message(&fixed, payload, worker);
        }
        match fixed.kind {
            CompletionKind::Respond => {
                if self.responded {
                    return Err(format!("sent the head of exchange {} twice", self.id.0));
                }
                self.responded = true;
                if fixed.status == ACCEPT {
                    self.accept(&fixed)?;
                }
                self.failed = response.as_ref().is_some_and(|head| head.status.is_server_error());
                if let Some(head) = &response {
                    self.delivery.announce(head);
                }
                self.head = response;
            }
            CompletionKind::Body => {
                let empty = payload.len() == Some(0);
                // After END only DONE is left to say, and a part that says nothing could be said for ever.
                let is_due = if self.ended { empty && fixed.done } else { !empty || fixed.end };
                // Who was told that nobody waits need not begin.
                let is_forsaken = self.told_gone && empty && fixed.end && fixed.done;
                if !is_due || !self.responded && !is_forsaken {
                    return Err(format!("sent body of exchange {} out of turn", self.id.0));
                }
            }
            CompletionKind::AppRaised => {
                let Some((summary, traceback)) = error else { return Ok(None) };
                self.raised += 1;
                if self.raised > MOST_RAISED {
                    return Err(format!("raised {} times in exchange {}", self.raised, self.id.0));
                }
                // What of its body has not left is the daemon's now, and must not take the slot's next exchange its
                // window.
                self.acknowledge_all(worker);
                if self.ended {
                    // For the journal only: the client has its answer.
                    let asked = self.asked(worker.thread_of(self.id), Instant::now());
                    notice(Notice::RaisedAfterEnd { worker: worker.id, asked, summary, traceback });
                } else if self.half_closed && summary.is_empty() {
                    let waker = self.fail(Fault::Left);
                    self.ended = true;
                    self.end_uptake();
                    return Ok(waker);
                } else if self.fault.is_none() {
                    // Not the application's fault if it could not go on because nobody listened.
                    self.failed |= !self.client_is_through();
                    let waker = self.fail(Fault::Raised { worker: worker.id, summary, traceback });
                    self.ended = true;
                    self.end_uptake();
                    return Ok(waker);
                }
                return Ok(None);
            }
            CompletionKind::WindowUpdate => return self.take_more(taken),
            CompletionKind::EarlyHints => return Ok(self.take_hints(fields)),
            CompletionKind::Trailers => {
                if !self.responded || self.ended || self.trailers.is_some() {
                    return Err(format!("sent trailers of exchange {} out of turn", self.id.0));
                }
                if !self.client_is_through() {
                    self.trailers = fields;
                }
            }
            CompletionKind::Close => {
                return Err(format!("closed exchange {}, which is no WebSocket", self.id.0));
            }
        }
        self.count(&payload, fixed.end)?;
        let is_all = fixed.kind == CompletionKind::Respond && fixed.end;
        let len = self.keep(payload, is_all, worker);
        if self.unacked > RESPONSE_WINDOW && len > 0 {
            return Err(format!("sent body of exchange {} beyond its window", self.id.0));
        }
        self.unacked += len;
        if fixed.end && !std::mem::replace(&mut self.ended, true) {
            self.end_uptake();
        }
        if self.ended || self.client_is_through() {
            // Nothing follows that could be held back, so there is nobody to slow down.
            self.acknowledge_all(worker);
        } else {
            self.absorb(worker, len);
        }
        if fixed.done && !self.ended {
            return Err(format!("was done with exchange {} without ending its answer", self.id.0));
        }
        Ok(self.waker.take())
    }

    fn count(&mut self, part: &Payload, is_end: bool) -> Result<(), String> {
        // A worker that knows that nobody waits leaves out the rest.
        let is_cut_short = self.told_gone || self.client_is_through() || self.fault.is_some();
        let frame = &self.frame;
        let is_head = || Request::decode(frame).is_ok_and(|request| request.method == b"HEAD");
        self.delivery
            .count(part, is_end && !is_cut_short, is_head)
            .map_err(|what| format!("sent {what} in exchange {}", self.id.0))
    }

    /// Keeps a part of the body for the client, if that waits for it. The bytes that are to be acknowledged. `is_all`:
    /// the answer has no other part.
    fn keep(&mut self, payload: Payload, is_all: bool, worker: &Worker) -> u64 {
        let len = match payload {
            Payload::File(_) => 0,
            Payload::Bytes(_) | Payload::Chunks(_) => payload.len().unwrap_or(0),
        };
        let memory = &worker.buffers.memory;
        match payload {
            _ if self.client_is_through() => {}
            Payload::File(file) => self.file = Some(file),
            Payload::Bytes(bytes) if bytes.is_empty() => {}
            Payload::Bytes(bytes) => {
                let is_small = is_all && bytes.len() <= SMALL_BODY;
                let data = if is_small { Data::small(bytes) } else { Data::new(bytes, memory) };
                self.buffer.push(data, memory);
            }
            Payload::Chunks(chunks) => {
                // Those without a byte cost nothing of the window, and could be piled up.
                for chunk in chunks.into_iter().filter(|chunk| !chunk.bytes().is_empty()) {
                    self.buffer.push(Data::lent(chunk, memory), memory);
                }
            }
        }
        len
    }

    /// Hints are of use before the head only. What waits of them is bounded, by number and by size; beyond that they are
    /// dropped.
    fn take_hints(&mut self, fields: Option<Box<HeaderMap>>) -> Option<Waker> {
        if self.responded || self.client != Client::Waiting {
            return None;
        }
        match (&mut self.hints, fields) {
            (Some(hints), Some(fields)) => {
                let len = hints.len() + fields.len();
                let bytes = size(hints) + size(&fields);
                if len <= usize::from(MAX_FIELDS) && bytes <= MAX_HINT_BYTES {
                    for (name, value) in fields.iter() {
                        hints.append(name, value.clone());
                    }
                }
            }
            (hints, fields) => *hints = fields,
        }
        self.waker.take()
    }

    /// The fields of early hints that have come since the last time.
    pub(crate) fn hints(&mut self) -> Option<Box<HeaderMap>> {
        self.hints.take()
    }

    /// The application has room for its body as far as this.
    fn take_more(&mut self, taken: u64) -> Result<Option<Waker>, String> {
        match &mut self.uptake {
            Some(uptake) if taken > uptake.taken => {
                uptake.taken = taken;
                Ok(uptake.waker.take())
            }
            Some(_) => Err(format!("took back what it had taken of the body of exchange {}", self.id.0)),
            None => Err(format!("took the body of exchange {}, which it has already", self.id.0)),
        }
    }

    pub(crate) fn acknowledge_all(&mut self, worker: &mut Worker) {
        worker.acknowledge(self.slot, std::mem::take(&mut self.unacked));
    }

    /// Ends the exchange with a fault, unless its answer is complete. Returns the waker of whoever waits.
    pub(crate) fn fail(&mut self, fault: Fault) -> Option<Waker> {
        if self.fault.is_some() || (self.ended && self.responded) {
            return None;
        }
        self.fault = Some(fault);
        self.end_uptake();
        self.waker.take()
    }

    pub(crate) fn client_is_gone(&mut self) {
        self.client = Client::Through;
        self.waker = None;
        self.end_uptake();
    }

    /// Drops what waits for a client that is gone, and lets the worker go on.
    pub(crate) fn release_parts(&mut self, worker: &mut Worker) {
        self.drop_parts();
        self.acknowledge_all(worker);
    }

    /// Drops what waits for a client that is to have no more.
    pub(crate) fn drop_parts(&mut self) {
        self.buffer = ResponseBuffer::default();
        self.file = None;
        self.trailers = None;
        if let Some(socket) = &mut self.websocket {
            socket.drop_messages();
        }
    }

    /// The head, once it is there. With it goes everything of the body that has arrived; when that is the
    /// whole answer the client is through.
    pub(crate) fn poll_head(&mut self, waker: &Waker) -> Progress<Beginning> {
        // An accept, and the messages after it, were meant for the client before the application raised.
        let is_accepted = self.is_open_socket() && matches!(self.fault, Some(Fault::Raised { .. }));
        if self.fault.is_some() && !(is_accepted && self.head.is_some()) {
            // Nothing has been sent yet, so the client gets the fault's status even if a head was there.
            return self.failed();
        }
        if let Some(head) = self.head.take() {
            // Trailers follow a body piece by piece only, and messages are no body.
            let is_whole = self.ended && self.trailers.is_none() && !self.is_open_socket();
            // More than one piece is better off here, where it can go to a file if its client is slow.
            if is_whole && self.buffer.is_single() {
                self.client = Client::Through;
                let first = match self.buffer.pop() {
                    Next::Data(data) => Some(data),
                    Next::Nothing | Next::Spilled(_) | Next::Writing => None,
                };
                let file = self.file.take();
                return Progress::Ready(Beginning { head, first, file, complete: true, total: None });
            }
            self.client = Client::Streaming(head.status.as_u16());
            let total = (is_whole && self.file.is_none()).then(|| self.buffer.len());
            return Progress::Ready(Beginning { head, first: None, file: None, complete: false, total });
        }
        self.store(waker);
        Progress::Pending
    }

    /// The next piece of a streamed body. `acknowledge` is called with the bytes that leave.
    pub(crate) fn poll_piece(&mut self, waker: &Waker) -> Progress<(Piece, Option<Leaving>)> {
        match self.buffer.pop() {
            Next::Data(data) => {
                let leaving = (data.len() as u64).min(self.unacked);
                self.unacked -= leaving;
                return Progress::Ready((Piece::Bytes(data), self.leaving(leaving)));
            }
            Next::Spilled(file) => return Progress::Ready((Piece::Spilled(file), None)),
            Next::Writing => {
                self.store(waker);
                return Progress::Pending;
            }
            Next::Nothing => self.buffer.is_slow = false,
        }
        if let Some(file) = self.file.take() {
            return Progress::Ready((Piece::File(file), None));
        }
        if self.fault.is_some() {
            return self.failed();
        }
        if self.ended
            && let Some(trailers) = self.trailers.take()
        {
            return Progress::Ready((Piece::Trailers(trailers), None));
        }
        if self.ended {
            self.client = Client::Through;
            return Progress::Ready((Piece::End, None));
        }
        self.store(waker);
        Progress::Pending
    }

    /// Has its client taken the last of it, although it has not asked for more?
    pub(crate) fn finish_if_taken(&mut self) -> bool {
        let is_all = self.ended && self.buffer.is_empty() && self.file.is_none() && self.trailers.is_none();
        let is_taken = is_all && self.fault.is_none();
        if is_taken {
            self.client = Client::Through;
        }
        is_taken
    }

    /// So many bytes of it leave.
    pub(crate) fn leaving(&self, bytes: u64) -> Option<Leaving> {
        match self.place {
            Place::Given { worker, .. } if bytes > 0 => Some(Leaving { worker, slot: self.slot, bytes }),
            _ => None,
        }
    }

    pub(crate) fn failed<T>(&mut self) -> Progress<T> {
        self.client = Client::Through;
        match self.fault.clone() {
            Some(fault) => Progress::Failed(fault),
            None => Progress::Pending,
        }
    }

    pub(crate) fn store(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(stored) => stored.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

/// Bytes of fields as they are written.
fn size(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Bytes of early hints that are put together into one interim answer.
const MAX_HINT_BYTES: usize = 64 * 1024;

/// With this status (101, Switching Protocols) a WebSocket is accepted.
const ACCEPT: u16 = 101;

/// Bytes of a body that is not counted.
const SMALL_BODY: usize = 16 * 1024;

/// The application's answer may fail, and then closing it.
const MOST_RAISED: u8 = 2;
