//! The worker's side of an exchange: applies completions to it. The caller is `completions`.
//!
//! A completion that is malformed or out of order is a [`ContractBreach`].

use std::task::Waker;
use std::time::Instant;

use http::HeaderMap;
use rgun_channel::frame::{Completion, CompletionKind, Request};
use rgun_channel::layout::RESPONSE_WINDOW;

use crate::dispatch::exchange::Exchange;
use crate::dispatch::exchange::response::ClientState;
use crate::dispatch::exchange::response_parts::{Payload, ResponseHead};
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
        let is_head = || Request::decode(frame).is_ok_and(|request| request.method == b"HEAD");
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
