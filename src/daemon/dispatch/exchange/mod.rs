//! An exchange: one request on its way to a worker, and the response on its way back to the client.
//!
//! `transfer` stores the worker's completions and hands the response to the client;
//! `websocket_messages` does both for an accepted WebSocket. The dispatcher's other files move an
//! exchange from one [`ExchangeState`] to the next.

pub(super) mod body;
mod length_check;
pub(super) mod response;
pub(super) mod response_buffer;
pub(super) mod response_parts;
pub(super) mod table;
pub(super) mod takeover;
mod transfer;
pub(super) mod websocket;
mod websocket_messages;

use std::task::Waker;
use std::time::{Duration, Instant};

use rgun_channel::frame::{ExchangeId, Request};
use rgun_channel::layout::RESPONSE_WINDOW;
use rgun_channel::ring::Position;

use crate::escape::RequestPath;
use crate::id::WorkerId;
use crate::negotiation::ErrorFormat;

use crate::dispatch::admission::rules::RuleId;
use crate::dispatch::exchange::body::{BodyTransport, UploadProgress};
use crate::dispatch::exchange::response::{ClientState, ResponseState};
use crate::dispatch::exchange::response_parts::RequestBody;
use crate::dispatch::exchange::websocket::WebSocketState;
use crate::dispatch::fault::Fault;
use crate::dispatch::worker::Worker;
use crate::dispatch::{RequestInfo, ResponseProgress};

/// The stages of an exchange before, in and after a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeState {
    /// In the queue for a worker.
    Queued,
    /// Waiting for a permit of this path rule, outside the queue.
    Held(RuleId),
    /// In a worker's ring, claimed or not.
    Assigned {
        /// Index in `State::workers`.
        worker: usize,
        /// Position of the record in the submission ring.
        position: Position,
    },
    /// Done with workers; the client may still be reading the response.
    Finished,
}

/// The current or last assignment to a worker.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// The worker that has the exchange or had it last; `None` before the first assignment.
    pub(crate) worker: Option<WorkerId>,
    /// When the exchange was assigned; `None` while it waits.
    pub(crate) assigned_at: Option<Instant>,
    /// Time by which a cancelled ASGI task must have ended; `None` if its task was not cancelled.
    pub(crate) cancel_deadline: Option<Instant>,
    /// The worker's slot, as its last completion named it.
    slot: u16,
    /// Number of times the record was revoked unclaimed and assigned to another worker.
    pub(crate) n_moves: u8,
    /// [`Notice::SlowRequest`](crate::dispatch::Notice::SlowRequest) was sent.
    pub(crate) slow_reported: bool,
    /// The deadline has passed and the client has been answered.
    pub(crate) deadline_exceeded: bool,
    /// The ASGI worker was sent a Disconnect.
    pub(crate) disconnect_sent: bool,
}

/// Time during which the worker waited for credit, that is, for the client to read.
#[derive(Debug, Default)]
pub(crate) struct ClientWait {
    /// Start of the current wait; `None` while the worker has credit.
    pub(crate) since: Option<Instant>,
    /// Total time waited, up to `since`.
    pub(crate) total: Duration,
}

/// One request with its response, from admission to its end.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) id: ExchangeId,
    /// The encoded request, kept so that the exchange can be assigned to another worker.
    pub(crate) frame: Vec<u8>,
    /// The whole body, if it is not in the frame. Kept as long as the frame is of use.
    pub(crate) body: Option<RequestBody>,
    /// The body's progress, if it travels in parts.
    pub(crate) upload: Option<Box<UploadProgress>>,
    /// The state of the WebSocket, if the request is a handshake.
    pub(crate) websocket: Option<Box<WebSocketState>>,
    /// Time that the request may run; `None` is no limit.
    pub(crate) timeout: Option<Duration>,
    /// The path rule whose permit the exchange holds.
    pub(crate) permit: Option<RuleId>,
    /// The exchange is a probe for one worker and must not go to another.
    pub(crate) is_pinned: bool,
    /// The exchange had started in another worker, which died.
    pub(crate) is_retry: bool,
    pub(crate) state: ExchangeState,
    /// When the exchange was submitted or reset for a retry; `timeouts.queue` counts from here.
    pub(crate) submitted_at: Instant,
    /// When the exchange last entered the queue with its permit.
    pub(crate) ready_at: Instant,
    pub(crate) attempt: Attempt,
    /// The client has closed its sending half.
    pub(crate) half_closed: bool,
    /// The task that waits for the response.
    pub(crate) waker: Option<Waker>,
    /// The exchange is in the list of slow clients.
    pub(crate) is_watched: bool,
    pub(crate) response: ResponseState,
    pub(crate) client_wait: ClientWait,
    /// The fault that ended the exchange instead of a complete response.
    pub(crate) fault: Option<Box<Fault>>,
}

impl Exchange {
    pub(crate) fn new(
        id: ExchangeId,
        frame: Vec<u8>,
        body: Option<RequestBody>,
        timeout: Option<Duration>,
        submitted_at: Instant,
    ) -> Self {
        Self {
            id,
            frame,
            body,
            upload: None,
            websocket: None,
            timeout,
            permit: None,
            is_pinned: false,
            is_retry: false,
            state: ExchangeState::Queued,
            submitted_at,
            ready_at: submitted_at,
            attempt: Attempt::default(),
            half_closed: false,
            waker: None,
            is_watched: false,
            response: ResponseState::default(),
            client_wait: ClientWait::default(),
            fault: None,
        }
    }

    /// Decodes the request from the daemon's own copy of the frame.
    pub(crate) fn request(&self) -> Option<Request<'_>> {
        Request::decode_head(&self.frame).ok()
    }

    /// Describes the request for notices. `thread` is [`RequestInfo::thread`].
    pub(crate) fn request_info(&self, thread: Option<u64>, now: Instant) -> RequestInfo {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // The daemon encoded this frame, so it decodes.
        let request = self.request().unwrap_or(Request::new(self.id));
        let assigned_at = self.attempt.assigned_at;
        RequestInfo {
            exchange: self.id,
            request_id: text(request.request_id),
            method: text(request.method),
            path: RequestPath::new(request.path),
            thread,
            elapsed: assigned_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
            response: self.response_progress(),
        }
    }

    /// Returns the format in which the client wants an error response.
    pub(crate) fn error_format(&self) -> ErrorFormat {
        let Some(request) = self.request() else { return ErrorFormat::Text };
        let accept = request.fields().filter(|(name, _)| name.as_bytes() == b"accept");
        ErrorFormat::of_accept(accept.map(|(_, value)| value))
    }

    /// Returns whether a descriptor goes to the worker ahead of the exchange's record.
    pub(crate) fn has_body_fd(&self) -> bool {
        self.transport() == BodyTransport::Descriptor
    }

    /// Returns how the request's body travels.
    pub(crate) fn transport(&self) -> BodyTransport {
        if let Some(socket) = &self.websocket {
            let is_takeover = socket.takeover.is_some();
            return if is_takeover { BodyTransport::Descriptor } else { BodyTransport::WebSocket };
        }
        match (&self.upload, &self.body) {
            (Some(_), _) => BodyTransport::Parts,
            (None, Some(RequestBody::Spooled(_))) => BodyTransport::Descriptor,
            (None, Some(RequestBody::Inline(_)) | None) => BodyTransport::Inline,
        }
    }

    /// Returns whether the application may still read the request's body.
    pub(crate) fn accepts_body(&self) -> bool {
        self.state != ExchangeState::Finished
            && self.fault.is_none()
            && !self.response.ended
            && !self.is_client_done()
    }

    /// Wakes the task that sends the request's body, which then finds [`Exchange::accepts_body`]
    /// false.
    pub(crate) fn close_upload(&mut self) {
        if let Some(waker) = self.upload.as_mut().and_then(|upload| upload.waker.take()) {
            waker.wake();
        }
    }

    /// Returns whether the worker has sent the end of the response.
    pub(crate) fn has_ended(&self) -> bool {
        self.response.ended
    }

    /// Returns the position of the exchange's record in its worker's ring.
    pub(crate) fn position(&self) -> Option<Position> {
        match self.state {
            ExchangeState::Assigned { position, .. } => Some(position),
            ExchangeState::Queued | ExchangeState::Held(_) | ExchangeState::Finished => None,
        }
    }

    pub(crate) fn is_assigned_to(&self, index: usize) -> bool {
        matches!(self.state, ExchangeState::Assigned { worker, .. } if worker == index)
    }

    /// Returns whether Cancel may be sent to a WSGI worker: only between the head and the end of
    /// the response. Before the head, the worker would close a request body that one of its threads
    /// is about to take.
    pub(crate) fn is_cancellable(&self) -> bool {
        self.response.head_received && !self.response.ended
    }

    /// Returns whether the application waits for the client to read, or to send more of the
    /// request.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.waits_for_credit() || self.upload.as_ref().is_some_and(|upload| upload.awaits_client())
    }

    /// Returns whether the worker may be waiting for credit: the next part might not fit into the
    /// window. (Parts are smaller than half of it.)
    pub(crate) fn waits_for_credit(&self) -> bool {
        self.response.unacked > RESPONSE_WINDOW / 2 && !self.response.ended && !self.is_client_done()
    }

    pub(crate) fn is_client_done(&self) -> bool {
        self.response.client == ClientState::Done
    }

    /// Returns how much of the response the client has, or will have.
    pub(crate) fn response_progress(&self) -> ResponseProgress {
        let ResponseState { client, head_received, ended, .. } = self.response;
        match client {
            ClientState::AwaitingHead if !(head_received && ended) => ResponseProgress::NotStarted,
            ClientState::Streaming(status) if !ended => ResponseProgress::HeadSent(status),
            // A response that has ended without a fault is complete, even if the client has not
            // read all of it.
            ClientState::AwaitingHead | ClientState::Streaming(_) | ClientState::Done => {
                ResponseProgress::Complete
            }
        }
    }

    /// Returns whether neither the worker nor the client needs the exchange any more.
    pub(crate) fn is_finished(&self) -> bool {
        self.state == ExchangeState::Finished && self.is_client_done()
    }

    /// Returns whether the application raised, or answered with a status of 500 or above.
    pub(crate) fn has_app_failed(&self) -> bool {
        self.response.app_failed
    }

    /// Returns whether the worker has sent the response's head.
    pub(crate) fn has_head(&self) -> bool {
        self.response.head_received
    }

    /// Resets the exchange after its worker died, so that another worker can have it. Returns false
    /// for a probe, a WebSocket, a possible takeover and a second retry. Also returns false if the
    /// exchange has a fault, its response has ended, the client has the head, the application has
    /// read parts of the body, or the body's file cannot be rewound.
    pub(crate) fn reset_for_retry(&mut self, now: Instant) -> bool {
        let is_unseen =
            self.response.client == ClientState::AwaitingHead && !self.response.ended && self.fault.is_none();
        let has_read_body = self.upload.as_ref().is_some_and(|upload| upload.granted > 0);
        if has_read_body || self.is_retry || self.is_pinned || !is_unseen || self.is_accepted_websocket() {
            return false;
        }
        // The application may have written to its socket.
        if self.may_take_over() {
            return false;
        }
        // The dead worker may have moved the file's offset, which its descriptor shares with this
        // one.
        if let Some(RequestBody::Spooled(body)) = &self.body
            && rustix::fs::seek(&body.fd, rustix::fs::SeekFrom::Start(0)).is_err()
        {
            return false;
        }
        self.is_retry = true;
        self.attempt.slow_reported = false;
        self.attempt.assigned_at = None;
        self.state = ExchangeState::Queued;
        (self.submitted_at, self.ready_at) = (now, now);
        self.response = ResponseState::default();
        self.client_wait = ClientWait::default();
        true
    }

    /// Marks the exchange as finished by its worker.
    pub(crate) fn mark_worker_done(&mut self) {
        self.state = ExchangeState::Finished;
        self.body = None;
        self.close_upload();
        if !self.response.ended
            && self.fault.is_none()
            && let Some(worker) = self.attempt.worker
        {
            // DONE without END, which `receive` already refuses: the client must not wait forever.
            self.fault = Some(Box::new(Fault::WorkerDied(worker)));
        }
    }

    /// Returns the waker if the exchange has ended, with or without a fault.
    pub(crate) fn take_waker_if_settled(&mut self) -> Option<Waker> {
        if self.fault.is_some() || self.response.ended { self.waker.take() } else { None }
    }

    /// Gives the worker credit for everything that has not been acknowledged.
    pub(crate) fn acknowledge_all(&mut self, worker: &mut Worker) {
        worker.channel.acknowledge(self.attempt.slot, std::mem::take(&mut self.response.unacked));
    }

    /// Ends the exchange with a fault, unless its response is complete. Returns the waker of the
    /// task that waits.
    pub(crate) fn fail(&mut self, fault: Fault) -> Option<Waker> {
        if self.fault.is_some() || (self.response.ended && self.response.head_received) {
            return None;
        }
        self.fault = Some(Box::new(fault));
        self.close_upload();
        self.waker.take()
    }

    pub(crate) fn mark_client_gone(&mut self) {
        self.response.client = ClientState::Done;
        self.waker = None;
        self.close_upload();
    }

    /// Drops the response's buffered parts and gives the worker credit for them.
    pub(crate) fn release_response(&mut self, worker: &mut Worker) {
        self.drop_response();
        self.acknowledge_all(worker);
    }

    /// Drops the response's buffered parts. The client gets no more of the response.
    pub(crate) fn drop_response(&mut self) {
        self.response.drop_parts();
        if let Some(socket) = &mut self.websocket {
            socket.drop_messages();
        }
    }

    /// Stores the waker of the task that waits for the response.
    fn store_waker(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(stored) => stored.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchange_is_at_most_eight_cache_lines() {
        // Thousands of exchanges may be in the table at a time.
        assert!(size_of::<Exchange>() <= 512, "{} bytes", size_of::<Exchange>());
    }
}
