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

use crate::dispatch::admission::rules::RuleId;
use crate::dispatch::data::Data;
use crate::dispatch::exchange::body::{BodyTransport, UploadProgress};
use crate::dispatch::exchange::delivery::LengthCheck;
use crate::dispatch::exchange::response_buffer::{Popped, ResponseBuffer};
use crate::dispatch::exchange::response_parts::{
    Credit, FilePart, Payload, Piece, Progress, RequestBody, ResponseHead, ResponseStart,
};
use crate::dispatch::exchange::socket::WebSocketState;
use crate::dispatch::fault::Fault;
use crate::dispatch::worker::Worker;
use crate::dispatch::worker::decode::ReceivedCompletion;
use crate::dispatch::{Notice, NoticeSink, RequestInfo, ResponseProgress};

/// Where the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeState {
    /// In the queue: it lacks nothing but a worker.
    Queued,
    /// It lacks a permit of this rule.
    Held(RuleId),
    /// In a worker's ring, started or not.
    Assigned {
        /// Index in `State::workers`.
        worker: usize,
        /// Its record.
        position: Position,
    },
    /// No worker has anything to do with it any more.
    Finished,
}

/// What the client has had of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientState {
    /// It waits for the head.
    AwaitingHead,
    /// It has the head, with this status, and waits for more.
    Streaming(u16),
    /// It has everything, or is gone.
    Done,
}

/// One exchange.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) id: ExchangeId,
    /// The encoded request, kept until the worker is done with it so that it can be given to another.
    pub(crate) frame: Vec<u8>,
    pub(crate) body: Option<RequestBody>,
    pub(crate) state: ExchangeState,
    /// When it was submitted, or began again: its patience counts from here.
    pub(crate) submitted_at: Instant,
    /// Since when it lacks nothing but a worker.
    pub(crate) ready_at: Instant,
    /// When it was given to the worker that has it.
    pub(crate) assigned_at: Option<Instant>,
    /// How long it may run; `None` is for ever.
    pub(crate) timeout: Option<Duration>,
    /// Of which rule it has a permit.
    pub(crate) permit: Option<RuleId>,
    /// Only the worker that it was submitted to may have it.
    pub(crate) pinned: bool,
    /// It had started in another worker, which died.
    pub(crate) retried: bool,
    /// [`Notice::Slow`] has been told of the attempt that runs.
    pub(crate) slow_reported: bool,
    /// Its deadline has passed and its client been told.
    pub(crate) deadline_exceeded: bool,
    pub(crate) worker: Option<WorkerId>,
    /// How often it was taken from a worker that did not claim it and given to another.
    pub(crate) moves: u8,
    /// Its body, if that is given to the application as it takes it.
    pub(crate) upload: Option<Box<UploadProgress>>,
    /// It began as the handshake of a WebSocket.
    pub(crate) websocket: Option<Box<WebSocketState>>,
    /// The worker knows that nobody waits for it any more. ASGI only.
    pub(crate) disconnect_sent: bool,
    /// Its client has closed its sending half.
    pub(crate) half_closed: bool,
    /// It was cancelled, and until when its worker may take to let go of it. ASGI only.
    pub(crate) cancel_deadline: Option<Instant>,
    slot: u16,
    client: ClientState,
    pub(crate) waker: Option<Waker>,
    head: Option<ResponseHead>,
    /// What its client is to take.
    pub(crate) buffer: ResponseBuffer,
    /// `State::slow_clients` has it.
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
    head_received: bool,
    delivery: LengthCheck,
    pub(crate) ended: bool,
    /// Times the worker said that the application raised: once for the answer, once for closing it.
    n_raised: u8,
    /// The application's answer says that it failed (a status of 500 or above), or broke off.
    app_failed: bool,
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
            state: ExchangeState::Queued,
            submitted_at: received,
            ready_at: received,
            assigned_at: None,
            timeout: limit,
            permit: None,
            pinned: false,
            retried: false,
            slow_reported: false,
            deadline_exceeded: false,
            worker: None,
            moves: 0,
            upload: None,
            websocket: None,
            disconnect_sent: false,
            half_closed: false,
            cancel_deadline: None,
            slot: 0,
            client: ClientState::AwaitingHead,
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
            head_received: false,
            delivery: LengthCheck::new(),
            ended: false,
            n_raised: 0,
            app_failed: false,
            fault: None,
        }
    }

    /// The request, as it was encoded here.
    pub(crate) fn request(&self) -> Option<Request<'_>> {
        Request::decode(&self.frame).ok()
    }

    /// Names the request to people. `thread` is [`Asked::thread`].
    pub(crate) fn request_info(&self, thread: Option<u64>, now: Instant) -> RequestInfo {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // The frame is the daemon's own copy: what was encoded once can be decoded.
        let request = self.request().unwrap_or(Request::new(self.id));
        RequestInfo {
            exchange: self.id,
            request_id: text(request.request_id),
            method: text(request.method),
            path: RequestPath::new(request.path),
            thread,
            elapsed: self.assigned_at.map_or(Duration::ZERO, |given| now.saturating_duration_since(given)),
            response: self.response_progress(),
        }
    }

    pub(crate) fn has_body_fd(&self) -> bool {
        self.body.is_some()
    }

    /// How its body travels.
    pub(crate) fn transport(&self) -> BodyTransport {
        if self.websocket.is_some() {
            return BodyTransport::WebSocket;
        }
        match (&self.upload, &self.body) {
            (Some(_), _) => BodyTransport::Parts,
            (None, Some(_)) => BodyTransport::Descriptor,
            (None, None) => BodyTransport::Inline,
        }
    }

    /// May the application still want something of its body?
    pub(crate) fn accepts_body(&self) -> bool {
        self.state != ExchangeState::Finished && self.fault.is_none() && !self.ended && !self.is_client_done()
    }

    /// Whoever brings its body finds out that nobody takes it any more.
    pub(crate) fn close_upload(&mut self) {
        if let Some(waker) = self.upload.as_mut().and_then(|uptake| uptake.waker.take()) {
            waker.wake();
        }
    }

    /// Has all of its answer been made?
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Where its record is in its worker's ring.
    pub(crate) fn position(&self) -> Option<Position> {
        match self.state {
            ExchangeState::Assigned { position, .. } => Some(position),
            ExchangeState::Queued | ExchangeState::Held(_) | ExchangeState::Finished => None,
        }
    }

    pub(crate) fn is_assigned_to(&self, index: usize) -> bool {
        matches!(self.state, ExchangeState::Assigned { worker, .. } if worker == index)
    }

    /// Is it of use to tell the worker that nobody waits any more? Not before the head: a worker heeds it only after
    /// that, and a request's body that its slot is about to take would be dropped under its hands.
    pub(crate) fn is_cancellable(&self) -> bool {
        self.head_received && !self.ended
    }

    /// Does the worker wait for the client to take more of the answer? It does when the next part would not fit into
    /// the window; parts are smaller than half of it.
    ///
    /// Or for more of the request than the client has sent?
    pub(crate) fn waits_for_client(&self) -> bool {
        self.waits_for_credit() || self.upload.as_ref().is_some_and(|uptake| uptake.awaits_client())
    }

    pub(crate) fn waits_for_credit(&self) -> bool {
        self.unacked > RESPONSE_WINDOW / 2 && !self.ended && !self.is_client_done()
    }

    pub(crate) fn is_client_done(&self) -> bool {
        self.client == ClientState::Done
    }

    pub(crate) fn response_progress(&self) -> ResponseProgress {
        match self.client {
            ClientState::AwaitingHead if !(self.head_received && self.ended) => ResponseProgress::NotStarted,
            ClientState::Streaming(status) if !self.ended => ResponseProgress::HeadSent(status),
            // What has ended without a fault is complete, although its client has not taken all of it yet.
            ClientState::AwaitingHead | ClientState::Streaming(_) | ClientState::Done => {
                ResponseProgress::Complete
            }
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state == ExchangeState::Finished && self.is_client_done()
    }

    /// Has the application failed, by its own account?
    pub(crate) fn has_app_failed(&self) -> bool {
        self.app_failed
    }

    /// Has the application come to the head of its answer?
    pub(crate) fn has_head(&self) -> bool {
        self.head_received
    }

    /// Its worker died: makes it what it was when it was submitted. False if it has been tried twice, or its client
    /// has something of an answer or needs none.
    pub(crate) fn reset_for_retry(&mut self, now: Instant) -> bool {
        let has_nothing = self.client == ClientState::AwaitingHead && !self.ended && self.fault.is_none();
        let has_taken = self.upload.as_ref().is_some_and(|uptake| uptake.granted > 0);
        if has_taken || self.retried || self.pinned || !has_nothing || self.is_accepted_websocket() {
            return false;
        }
        // The first worker may have moved the offset, which is the file's, not the descriptor's.
        if let Some(body) = &self.body
            && rustix::fs::seek(&body.fd, rustix::fs::SeekFrom::Start(0)).is_err()
        {
            return false;
        }
        self.retried = true;
        self.slow_reported = false;
        self.state = ExchangeState::Queued;
        (self.submitted_at, self.ready_at, self.assigned_at) = (now, now, None);
        self.head = None;
        self.buffer = ResponseBuffer::default();
        (self.held_since, self.held_for) = (None, Duration::ZERO);
        self.file = None;
        (self.hints, self.trailers) = (None, None);
        self.unacked = 0;
        (self.head_received, self.app_failed) = (false, false);
        self.delivery = LengthCheck::new();
        self.n_raised = 0;
        true
    }

    pub(crate) fn mark_worker_done(&mut self) {
        self.state = ExchangeState::Finished;
        self.body = None;
        self.close_upload();
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
        completion: ReceivedCompletion,
        worker: &mut Worker,
        notice: &NoticeSink,
    ) -> Result<Option<Waker>, String> {
        let ReceivedCompletion { header: fixed, head: response, payload, error, granted: taken, fields } =
            completion;
        self.slot = fixed.slot;
        if self.ended && fixed.kind == CompletionKind::Respond {
            return Err(format!("answered exchange {} twice", self.id.0));
        }
        if self.is_accepted_websocket()
            && !matches!(fixed.kind, CompletionKind::AppRaised | CompletionKind::WindowUpdate)
        {
            return self.receive_message(&fixed, payload, worker);
        }
        match fixed.kind {
            CompletionKind::Respond => {
                if self.head_received {
                    return Err(format!("sent the head of exchange {} twice", self.id.0));
                }
                self.head_received = true;
                if fixed.status == STATUS_WEBSOCKET_ACCEPTED {
                    self.accept(&fixed)?;
                }
                self.app_failed = response.as_ref().is_some_and(|head| head.status.is_server_error());
                if let Some(head) = &response {
                    self.delivery.expect(head);
                }
                self.head = response;
            }
            CompletionKind::Body => {
                let empty = payload.len() == Some(0);
                // After END only DONE is left to say, and a part that says nothing could be said for ever.
                let is_due = if self.ended { empty && fixed.done } else { !empty || fixed.end };
                // Who was told that nobody waits need not begin.
                let is_forsaken = self.disconnect_sent && empty && fixed.end && fixed.done;
                if !is_due || !self.head_received && !is_forsaken {
                    return Err(format!("sent body of exchange {} out of turn", self.id.0));
                }
            }
            CompletionKind::AppRaised => {
                let Some((summary, traceback)) = error else { return Ok(None) };
                self.n_raised += 1;
                if self.n_raised > MAX_RAISED {
                    return Err(format!("raised {} times in exchange {}", self.n_raised, self.id.0));
                }
                // What of its body has not left is the daemon's now, and must not take the slot's next exchange its
                // window.
                self.acknowledge_all(worker);
                if self.ended {
                    // For the journal only: the client has its answer.
                    let asked = self.request_info(worker.thread_of(self.id), Instant::now());
                    notice(Notice::RaisedAfterEnd { worker: worker.id, request: asked, summary, traceback });
                } else if self.half_closed && summary.is_empty() {
                    let waker = self.fail(Fault::ClientHalfClosed);
                    self.ended = true;
                    self.close_upload();
                    return Ok(waker);
                } else if self.fault.is_none() {
                    // Not the application's fault if it could not go on because nobody listened.
                    self.app_failed |= !self.is_client_done();
                    let waker = self.fail(Fault::Raised { worker: worker.id, summary, traceback });
                    self.ended = true;
                    self.close_upload();
                    return Ok(waker);
                }
                return Ok(None);
            }
            CompletionKind::WindowUpdate => return self.grant_upload(taken),
            CompletionKind::EarlyHints => return Ok(self.add_hints(fields)),
            CompletionKind::Trailers => {
                if !self.head_received || self.ended || self.trailers.is_some() {
                    return Err(format!("sent trailers of exchange {} out of turn", self.id.0));
                }
                if !self.is_client_done() {
                    self.trailers = fields;
                }
            }
            CompletionKind::Close => {
                return Err(format!("closed exchange {}, which is no WebSocket", self.id.0));
            }
        }
        self.count_part(&payload, fixed.end)?;
        let is_all = fixed.kind == CompletionKind::Respond && fixed.end;
        let len = self.store_payload(payload, is_all, worker);
        if self.unacked > RESPONSE_WINDOW && len > 0 {
            return Err(format!("sent body of exchange {} beyond its window", self.id.0));
        }
        self.unacked += len;
        if fixed.end && !std::mem::replace(&mut self.ended, true) {
            self.close_upload();
        }
        if self.ended || self.is_client_done() {
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

    fn count_part(&mut self, part: &Payload, is_end: bool) -> Result<(), String> {
        // A worker that knows that nobody waits leaves out the rest.
        let is_cut_short = self.disconnect_sent || self.is_client_done() || self.fault.is_some();
        let frame = &self.frame;
        let is_head = || Request::decode(frame).is_ok_and(|request| request.method == b"HEAD");
        self.delivery
            .count(part, is_end && !is_cut_short, is_head)
            .map_err(|what| format!("sent {what} in exchange {}", self.id.0))
    }

    /// Keeps a part of the body for the client, if that waits for it. The bytes that are to be acknowledged. `is_all`:
    /// the answer has no other part.
    fn store_payload(&mut self, payload: Payload, is_all: bool, worker: &Worker) -> u64 {
        let len = match payload {
            Payload::File(_) => 0,
            Payload::Bytes(_) | Payload::Chunks(_) => payload.len().unwrap_or(0),
        };
        let memory = &worker.buffers.memory;
        match payload {
            _ if self.is_client_done() => {}
            Payload::File(file) => self.file = Some(file),
            Payload::Bytes(bytes) if bytes.is_empty() => {}
            Payload::Bytes(bytes) => {
                let is_small = is_all && bytes.len() <= MAX_UNCOUNTED_BODY;
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
    fn add_hints(&mut self, fields: Option<Box<HeaderMap>>) -> Option<Waker> {
        if self.head_received || self.client != ClientState::AwaitingHead {
            return None;
        }
        match (&mut self.hints, fields) {
            (Some(hints), Some(fields)) => {
                let len = hints.len() + fields.len();
                let bytes = encoded_len(hints) + encoded_len(&fields);
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
    pub(crate) fn take_hints(&mut self) -> Option<Box<HeaderMap>> {
        self.hints.take()
    }

    /// The application has room for its body as far as this.
    fn grant_upload(&mut self, taken: u64) -> Result<Option<Waker>, String> {
        match &mut self.upload {
            Some(uptake) if taken > uptake.granted => {
                uptake.granted = taken;
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
        if self.fault.is_some() || (self.ended && self.head_received) {
            return None;
        }
        self.fault = Some(fault);
        self.close_upload();
        self.waker.take()
    }

    pub(crate) fn mark_client_gone(&mut self) {
        self.client = ClientState::Done;
        self.waker = None;
        self.close_upload();
    }

    /// Drops what waits for a client that is gone, and lets the worker go on.
    pub(crate) fn release_response(&mut self, worker: &mut Worker) {
        self.drop_response();
        self.acknowledge_all(worker);
    }

    /// Drops what waits for a client that is to have no more.
    pub(crate) fn drop_response(&mut self) {
        self.buffer = ResponseBuffer::default();
        self.file = None;
        self.trailers = None;
        if let Some(socket) = &mut self.websocket {
            socket.drop_messages();
        }
    }

    /// The head, once it is there. With it goes everything of the body that has arrived; when that is the
    /// whole answer the client is through.
    pub(crate) fn poll_head(&mut self, waker: &Waker) -> Progress<ResponseStart> {
        // An accept, and the messages after it, were meant for the client before the application raised.
        let is_accepted = self.is_accepted_websocket() && matches!(self.fault, Some(Fault::Raised { .. }));
        if self.fault.is_some() && !(is_accepted && self.head.is_some()) {
            // Nothing has been sent yet, so the client gets the fault's status even if a head was there.
            return self.take_fault();
        }
        if let Some(head) = self.head.take() {
            // Trailers follow a body piece by piece only, and messages are no body.
            let is_whole = self.ended && self.trailers.is_none() && !self.is_accepted_websocket();
            // More than one piece is better off here, where it can go to a file if its client is slow.
            if is_whole && self.buffer.is_single() {
                self.client = ClientState::Done;
                let first = match self.buffer.pop() {
                    Popped::Data(data) => Some(data),
                    Popped::Empty | Popped::Spilled(_) | Popped::Writing => None,
                };
                let file = self.file.take();
                return Progress::Ready(ResponseStart {
                    head,
                    body: first,
                    file,
                    is_complete: true,
                    body_len: None,
                });
            }
            self.client = ClientState::Streaming(head.status.as_u16());
            let total = (is_whole && self.file.is_none()).then(|| self.buffer.len());
            return Progress::Ready(ResponseStart {
                head,
                body: None,
                file: None,
                is_complete: false,
                body_len: total,
            });
        }
        self.store_waker(waker);
        Progress::Pending
    }

    /// The next piece of a streamed body. `acknowledge` is called with the bytes that leave.
    pub(crate) fn poll_piece(&mut self, waker: &Waker) -> Progress<(Piece, Option<Credit>)> {
        match self.buffer.pop() {
            Popped::Data(data) => {
                let leaving = (data.len() as u64).min(self.unacked);
                self.unacked -= leaving;
                return Progress::Ready((Piece::Bytes(data), self.credit(leaving)));
            }
            Popped::Spilled(file) => return Progress::Ready((Piece::Spilled(file), None)),
            Popped::Writing => {
                self.store_waker(waker);
                return Progress::Pending;
            }
            Popped::Empty => self.buffer.is_client_slow = false,
        }
        if let Some(file) = self.file.take() {
            return Progress::Ready((Piece::File(file), None));
        }
        if self.fault.is_some() {
            return self.take_fault();
        }
        if self.ended
            && let Some(trailers) = self.trailers.take()
        {
            return Progress::Ready((Piece::Trailers(trailers), None));
        }
        if self.ended {
            self.client = ClientState::Done;
            return Progress::Ready((Piece::End, None));
        }
        self.store_waker(waker);
        Progress::Pending
    }

    /// Has its client taken the last of it, although it has not asked for more?
    pub(crate) fn mark_done_if_taken(&mut self) -> bool {
        let is_all = self.ended && self.buffer.is_empty() && self.file.is_none() && self.trailers.is_none();
        let is_taken = is_all && self.fault.is_none();
        if is_taken {
            self.client = ClientState::Done;
        }
        is_taken
    }

    /// So many bytes of it leave.
    pub(crate) fn credit(&self, bytes: u64) -> Option<Credit> {
        match self.state {
            ExchangeState::Assigned { worker, .. } if bytes > 0 => {
                Some(Credit { worker, slot: self.slot, bytes })
            }
            _ => None,
        }
    }

    pub(crate) fn take_fault<T>(&mut self) -> Progress<T> {
        self.client = ClientState::Done;
        match self.fault.clone() {
            Some(fault) => Progress::Failed(fault),
            None => Progress::Pending,
        }
    }

    pub(crate) fn store_waker(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(stored) => stored.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

/// Bytes of fields as they are written.
fn encoded_len(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Bytes of early hints that are put together into one interim answer.
const MAX_HINT_BYTES: usize = 64 * 1024;

/// With this status (101, Switching Protocols) a WebSocket is accepted.
const STATUS_WEBSOCKET_ACCEPTED: u16 = 101;

/// Bytes of a body that is not counted.
const MAX_UNCOUNTED_BODY: usize = 16 * 1024;

/// The application's answer may fail, and then closing it.
const MAX_RAISED: u8 = 2;
