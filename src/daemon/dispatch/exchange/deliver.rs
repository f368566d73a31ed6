//! The client's side of an exchange: hands the response to its [`Ticket`](crate::dispatch::Ticket)
//! and [`BodyStream`](crate::dispatch::BodyStream).

use std::task::{Poll, Waker};

use http::HeaderMap;

use crate::dispatch::exchange::response::ClientState;
use crate::dispatch::exchange::response_buffer::Popped;
use crate::dispatch::exchange::response_parts::{BodyPiece, Credit, CreditedPiece, ResponseStart};
use crate::dispatch::exchange::{Exchange, ExchangeState};
use crate::dispatch::fault::Fault;

impl Exchange {
    /// Returns the early hints that have come since the last call.
    pub(crate) fn take_hints(&mut self) -> Option<Box<HeaderMap>> {
        self.response.hints.take()
    }

    /// Returns the head once the worker has sent it. If the body is complete and in one piece, the
    /// result contains it, and the client is done.
    pub(crate) fn poll_head(&mut self, waker: &Waker) -> Poll<Result<ResponseStart, Fault>> {
        // If the application accepted the WebSocket and then raised, the client still gets the
        // messages that were sent before.
        let is_accepted =
            self.is_accepted_websocket() && matches!(self.fault.as_deref(), Some(Fault::Raised { .. }));
        if self.fault.is_some() && !(is_accepted && self.response.head.is_some()) {
            // Nothing has been sent to the client, so the fault replaces a head that may already be
            // in `self.response`.
            return self.poll_fault();
        }
        let Some(head) = self.response.head.take() else {
            self.store_waker(waker);
            return Poll::Pending;
        };
        // Trailers and WebSocket messages are delivered piece by piece only.
        let is_whole =
            self.response.ended && self.response.trailers.is_none() && !self.is_accepted_websocket();
        // A body of several pieces stays here, where it can be spilled to a file if the client is
        // slow.
        if is_whole && self.response.buffer.is_single() {
            self.response.client = ClientState::Done;
            let body = match self.response.buffer.pop() {
                Popped::Data(data) => Some(data),
                Popped::Empty | Popped::Spilled(_) | Popped::Writing => None,
            };
            let file = self.response.file.take();
            return Poll::Ready(Ok(ResponseStart { head, body, file, is_complete: true, body_len: None }));
        }
        self.response.client = ClientState::Streaming(head.status.as_u16());
        let body_len = (is_whole && self.response.file.is_none()).then(|| self.response.buffer.len());
        Poll::Ready(Ok(ResponseStart { head, body: None, file: None, is_complete: false, body_len }))
    }

    /// Returns the next piece of a streamed body; `None` at the end.
    pub(crate) fn poll_piece(&mut self, waker: &Waker) -> Poll<Result<Option<CreditedPiece>, Fault>> {
        match self.response.buffer.pop() {
            Popped::Data(data) => {
                let bytes = (data.len() as u64).min(self.response.unacked);
                self.response.unacked -= bytes;
                return Poll::Ready(Ok(Some((BodyPiece::Bytes(data), self.credit(bytes)))));
            }
            Popped::Spilled(file) => return Poll::Ready(Ok(Some((BodyPiece::Spilled(file), None)))),
            Popped::Writing => {
                self.store_waker(waker);
                return Poll::Pending;
            }
            Popped::Empty => self.response.buffer.is_client_slow = false,
        }
        if let Some(file) = self.response.file.take() {
            return Poll::Ready(Ok(Some((BodyPiece::File(file), None))));
        }
        if self.fault.is_some() {
            return self.poll_fault();
        }
        if self.response.ended {
            if let Some(trailers) = self.response.trailers.take() {
                return Poll::Ready(Ok(Some((BodyPiece::Trailers(trailers), None))));
            }
            self.response.client = ClientState::Done;
            return Poll::Ready(Ok(None));
        }
        self.store_waker(waker);
        Poll::Pending
    }

    /// Marks the client as done if it has taken all of a complete response. Returns whether it has.
    pub(crate) fn mark_done_if_taken(&mut self) -> bool {
        let is_taken = self.response.is_drained() && self.fault.is_none();
        if is_taken {
            self.response.client = ClientState::Done;
        }
        is_taken
    }

    /// Returns the credit that the worker gets for these bytes; `None` if no worker needs it.
    pub(crate) fn credit(&self, bytes: u64) -> Option<Credit> {
        match self.state {
            ExchangeState::Assigned { worker, .. } if bytes > 0 => {
                Some(Credit { worker, slot: self.attempt.slot, bytes })
            }
            _ => None,
        }
    }

    /// Returns the fault to the client, which is then done.
    pub(super) fn poll_fault<T>(&mut self) -> Poll<Result<T, Fault>> {
        self.response.client = ClientState::Done;
        match &self.fault {
            Some(fault) => Poll::Ready(Err(Fault::clone(fault))),
            None => Poll::Pending,
        }
    }
}
