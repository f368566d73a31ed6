//! Moves a response through its exchange: `completions` adds what the worker has sent; a
//! [`Ticket`](crate::dispatch::Ticket) and a [`BodyStream`](crate::dispatch::BodyStream) take it
//! out for the client.
//!
//! A completion that is malformed or out of order is a [`ContractBreach`].

use std::task::{Poll, Waker};
use std::time::Instant;

use http::HeaderMap;
use rgun_channel::frame::{Completion, CompletionKind, Request};
use rgun_channel::layout::RESPONSE_WINDOW;

use crate::dispatch::exchange::response::ClientState;
use crate::dispatch::exchange::response_buffer::Popped;
use crate::dispatch::exchange::response_parts::{
    BodyPiece, Credit, CreditedPiece, Payload, ResponseHead, ResponseStart,
};
use crate::dispatch::exchange::{Exchange, ExchangeState};
use crate::dispatch::fault::Fault;
use crate::dispatch::worker::Worker;
use crate::dispatch::worker::contract::ContractBreach;
use crate::dispatch::worker::decode::ReceivedCompletion;
use crate::dispatch::{Notice, NoticeSink};

/// Status with which an application accepts a WebSocket: 101, Switching Protocols.
const STATUS_WEBSOCKET_ACCEPTED: u16 = 101;

/// Maximum number of exceptions that the worker may report for one exchange: one for the response,
/// one for its `close()`.
const MAX_RAISED: u8 = 2;

/// The worker's side: applies completions.
impl Exchange {
    /// Applies a completion. Returns the waker of the task that waits for it.
    pub(crate) fn receive(
        &mut self,
        completion: ReceivedCompletion,
        worker: &mut Worker,
        notice: &NoticeSink,
    ) -> Result<Option<Waker>, ContractBreach> {
        self.attempt.slot = completion.header.slot;
        if self.is_taken_over() {
            return self.receive_after_takeover(completion, worker, notice);
        }
        let ReceivedCompletion { header, head, payload, error, granted, fields } = completion;
        if self.response.ended && header.kind == CompletionKind::Respond {
            return Err(format!("sent a second response for exchange {}", self.id.0).into());
        }
        if self.is_accepted_websocket()
            && !matches!(header.kind, CompletionKind::AppRaised | CompletionKind::WindowUpdate)
        {
            return self.receive_message(&header, payload, worker);
        }
        match header.kind {
            CompletionKind::Respond => self.on_head(&header, head)?,
            CompletionKind::Body => self.check_body_order(&header, &payload)?,
            CompletionKind::AppRaised => {
                let Some(error) = error else { return Ok(None) };
                return self.on_exception(*error, header.ends_takeover, worker, notice);
            }
            CompletionKind::WindowUpdate => return self.grant_upload(granted),
            CompletionKind::EarlyHints => return Ok(self.add_hints(fields)),
            CompletionKind::Trailers => self.on_trailers(fields)?,
            CompletionKind::Close => {
                return Err(format!("sent Close for exchange {}, which is not a WebSocket", self.id.0).into());
            }
        }
        self.on_payload(&header, payload, worker)?;
        Ok(self.waker.take())
    }

    fn on_head(
        &mut self,
        header: &Completion,
        head: Option<Box<ResponseHead>>,
    ) -> Result<(), ContractBreach> {
        if self.response.head_received {
            return Err(format!("sent a second head for exchange {}", self.id.0).into());
        }
        self.response.head_received = true;
        if header.status == STATUS_WEBSOCKET_ACCEPTED {
            self.accept_websocket(header)?;
        }
        self.response.app_failed = head.as_ref().is_some_and(|head| head.status.is_server_error());
        if let Some(head) = &head {
            self.response.length.expect(head);
        }
        self.response.head = head;
        Ok(())
    }

    fn check_body_order(&self, header: &Completion, payload: &Payload) -> Result<(), ContractBreach> {
        let is_empty = payload.len() == Some(0);
        // After END only DONE may follow; empty parts could otherwise be sent forever.
        let is_due = if self.response.ended { is_empty && header.done } else { !is_empty || header.end };
        // After Disconnect, a worker may end the exchange without sending a head.
        let is_early_end = self.attempt.disconnect_sent && is_empty && header.end && header.done;
        if is_due && (self.response.head_received || is_early_end) {
            return Ok(());
        }
        Err(format!(
            "sent an empty body part of exchange {}, or one before the head or after the end",
            self.id.0
        )
        .into())
    }

    fn on_exception(
        &mut self,
        (summary, traceback): (String, String),
        ends_takeover: bool,
        worker: &mut Worker,
        notice: &NoticeSink,
    ) -> Result<Option<Waker>, ContractBreach> {
        self.count_exception()?;
        // Bytes that the client has not taken are buffered in the daemon. They must not use up the
        // window of the slot's next exchange.
        self.acknowledge_all(worker);
        let waker = if self.response.ended {
            // For the journal only: the client has its response.
            let request = self.request_info(worker.channel.thread_of(self.id), Instant::now());
            notice(Notice::RaisedAfterEnd { worker: worker.id, request, summary, traceback });
            return Ok(None);
        } else if self.half_closed && summary.is_empty() {
            self.fail(Fault::ClientHalfClosed)
        } else if self.fault.is_none() {
            // An exception is not a failure of the application if the client has left before, or if
            // the exception may be the end of a takeover that the connection has not noticed yet.
            let ends_takeover = ends_takeover && self.may_take_over();
            self.response.app_failed |= !self.is_client_done() && !ends_takeover;
            self.fail(Fault::Raised { worker: worker.id, summary, traceback, ends_takeover })
        } else {
            return Ok(None);
        };
        self.response.ended = true;
        self.close_upload();
        Ok(waker)
    }

    pub(super) fn count_exception(&mut self) -> Result<(), ContractBreach> {
        self.response.n_raised += 1;
        if self.response.n_raised > MAX_RAISED {
            return Err(format!("raised {} times in exchange {}", self.response.n_raised, self.id.0).into());
        }
        Ok(())
    }

    fn on_trailers(&mut self, fields: Option<Box<HeaderMap>>) -> Result<(), ContractBreach> {
        let response = &mut self.response;
        if !response.head_received || response.ended || response.trailers.is_some() {
            return Err(format!(
                "sent trailers of exchange {} before the head, after the end or twice",
                self.id.0
            )
            .into());
        }
        if response.client != ClientState::Done {
            response.trailers = fields;
        }
        Ok(())
    }

    /// Checks and buffers the part of the body that came with a completion, and ends the response
    /// if it was the last.
    fn on_payload(
        &mut self,
        header: &Completion,
        payload: Payload,
        worker: &mut Worker,
    ) -> Result<(), ContractBreach> {
        self.check_length(&payload, header.end)?;
        let len = match payload {
            Payload::File(_) => 0,
            Payload::Bytes(_) | Payload::Chunks(_) => payload.len().unwrap_or(0),
        };
        // After a fault the client gets no more parts: earlier ones may have been dropped.
        let is_discarded = self.is_client_done() || self.fault.is_some();
        if !is_discarded {
            let is_whole = header.kind == CompletionKind::Respond && header.end;
            self.response.store_payload(payload, is_whole, &worker.buffers.memory);
        }
        if self.response.unacked > RESPONSE_WINDOW && len > 0 {
            return Err(format!("sent more body of exchange {} than its window allows", self.id.0).into());
        }
        self.response.unacked += len;
        if header.end && !std::mem::replace(&mut self.response.ended, true) {
            self.close_upload();
        }
        if self.response.ended || is_discarded {
            // Nothing follows that would need the window.
            self.acknowledge_all(worker);
        } else {
            self.absorb(worker, len);
        }
        if header.done && !self.response.ended {
            return Err(format!("finished exchange {} without ending its response", self.id.0).into());
        }
        Ok(())
    }

    /// Compares the body so far with the declared length.
    fn check_length(&mut self, part: &Payload, is_end: bool) -> Result<(), ContractBreach> {
        // A worker may omit the rest of a response that no client will get.
        let is_cut_short = self.attempt.disconnect_sent || self.is_client_done() || self.fault.is_some();
        let frame = &self.frame;
        let is_head = || Request::decode_head(frame).is_ok_and(|request| request.method == b"HEAD");
        self.response
            .length
            .count(part, is_end && !is_cut_short, is_head)
            .map_err(|error| format!("sent {error} in exchange {}", self.id.0).into())
    }

    /// Adds early hints, which are of use only before the head.
    fn add_hints(&mut self, fields: Option<Box<HeaderMap>>) -> Option<Waker> {
        if self.response.head_received || self.response.client != ClientState::AwaitingHead {
            return None;
        }
        self.response.add_hints(fields);
        self.waker.take()
    }

    /// Raises the credit of the request's body to `granted` bytes from its beginning. Returns the
    /// waker of the task that sends the body.
    fn grant_upload(&mut self, granted: u64) -> Result<Option<Waker>, ContractBreach> {
        match &mut self.upload {
            Some(upload) if granted > upload.granted => {
                upload.granted = granted;
                Ok(upload.waker.take())
            }
            Some(_) => {
                Err(format!("did not increase the credit for the request body of exchange {}", self.id.0)
                    .into())
            }
            None => Err(format!(
                "gave credit for the request body of exchange {}, which it has received completely",
                self.id.0
            )
            .into()),
        }
    }
}

/// The client's side: returns the parts of the response.
impl Exchange {
    /// Returns the early hints that have arrived since the last call.
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
