//! An exchange whose WebSocket the application has accepted: messages from the application to the
//! connection.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use rgun_channel::frame::{Completion, CompletionKind, MESSAGE_COST, Request};
use rgun_channel::layout::RESPONSE_WINDOW;
use rgun_channel::slab::Chunk;

use crate::dispatch::exchange::Exchange;
use crate::dispatch::exchange::response_parts::{Credit, Payload};
use crate::dispatch::exchange::websocket::Outgoing;
use crate::dispatch::fault::Fault;
use crate::dispatch::worker::Worker;
use crate::dispatch::worker::contract::ContractBreach;

/// Maximum capacity, in messages, that an empty queue of messages keeps.
const MAX_SPARE_MESSAGES: usize = 16;

impl Exchange {
    /// Returns whether the application has accepted the exchange as a WebSocket.
    pub(crate) fn is_accepted_websocket(&self) -> bool {
        self.websocket.as_ref().is_some_and(|socket| socket.is_accepted && socket.takeover.is_none())
    }

    /// Turns the exchange into a WebSocket: the application has accepted the handshake.
    pub(super) fn accept_websocket(&mut self, header: &Completion) -> Result<(), ContractBreach> {
        let Some(socket) = self.websocket.as_mut().filter(|socket| socket.takeover.is_none()) else {
            return Err(format!(
                "sent status 101 for exchange {}, which is not a WebSocket handshake",
                self.id.0
            )
            .into());
        };
        if header.end || header.done {
            return Err(
                format!("ended exchange {} in the frame that accepts its WebSocket", self.id.0).into()
            );
        }
        socket.is_accepted = true;
        // A WebSocket is never reported as slow.
        self.attempt.slow_reported = true;
        self.trim_request();
        Ok(())
    }

    /// Drops all of the request except method, path and id, which identify it in the log.
    pub(super) fn trim_request(&mut self) {
        let mut frame = Vec::new();
        let Some(Request { method, path, request_id, .. }) = self.request() else { return };
        let name = Request { method, path, request_id, websocket: true, ..Request::new(self.id) };
        if name.encode(std::iter::empty(), &mut frame).is_ok() {
            frame.shrink_to_fit();
            self.frame = frame;
        }
    }

    /// Applies a completion of an accepted WebSocket. Returns the waker of the connection's task.
    pub(super) fn receive_message(
        &mut self,
        header: &Completion,
        payload: Payload,
        worker: &mut Worker,
    ) -> Result<Option<Waker>, ContractBreach> {
        if self.response.ended {
            let is_empty = matches!(&payload, Payload::Bytes(bytes) if bytes.is_empty());
            if header.kind == CompletionKind::Body && header.done && is_empty {
                return Ok(None);
            }
            return Err(
                format!("sent a frame for the WebSocket of exchange {} after its close", self.id.0).into()
            );
        }
        match (header.kind, payload) {
            // After Disconnect, the worker ends the exchange without a close.
            (CompletionKind::Body, Payload::Bytes(bytes))
                if header.end && bytes.is_empty() && self.attempt.disconnect_sent =>
            {
                self.response.ended = true;
            }
            (CompletionKind::Body, _) if header.end || header.done => {
                return Err(format!("ended the WebSocket of exchange {} without a close", self.id.0).into());
            }
            (CompletionKind::Body, Payload::Bytes(bytes)) => {
                self.queue_message(vec![bytes], header)?;
            }
            (CompletionKind::Body, Payload::Chunks(chunks)) => {
                // Copied, to return the chunks to the worker's slab: there may be many slow
                // WebSockets.
                let copy = |chunk: &Arc<Chunk>| Bytes::copy_from_slice(chunk.bytes());
                self.queue_message(chunks.iter().map(copy).collect(), header)?;
            }
            (CompletionKind::Close, Payload::Bytes(reason)) if header.end => {
                self.response.ended = true;
                if !self.is_client_done()
                    && let Some(socket) = &mut self.websocket
                {
                    socket.messages.push_back(Outgoing::Close { code: header.status, reason });
                }
            }
            (kind, _) => {
                let id = self.id.0;
                return Err(format!("sent {kind:?} for exchange {id}, which is a WebSocket").into());
            }
        }
        if self.response.ended || self.is_client_done() {
            self.acknowledge_all(worker);
        }
        if self.response.ended {
            self.close_upload();
        }
        Ok(self.waker.take())
    }

    /// Queues the part of a message that came with one completion.
    fn queue_message(&mut self, chunks: Vec<Bytes>, header: &Completion) -> Result<(), ContractBreach> {
        if self.response.unacked > RESPONSE_WINDOW {
            return Err(format!("sent more messages of exchange {} than its window allows", self.id.0).into());
        }
        let len: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.response.unacked += len + MESSAGE_COST;
        if self.is_client_done() {
            return Ok(());
        }
        let Some(socket) = &mut self.websocket else { return Ok(()) };
        let last = chunks.len().saturating_sub(1);
        for (at, bytes) in chunks.into_iter().enumerate() {
            let more = header.more || at < last;
            socket.messages.push_back(Outgoing::Message { bytes, text: header.text, more });
        }
        Ok(())
    }

    /// Returns the next event for the connection, with the credit that the worker gets for it.
    pub(crate) fn poll_outgoing(&mut self, waker: &Waker) -> Poll<Result<(Outgoing, Option<Credit>), Fault>> {
        let Some(socket) = &mut self.websocket else { return Poll::Pending };
        if let Some(after) = socket.close_after.take() {
            return Poll::Ready(Ok((Outgoing::GoingAway { after }, None)));
        }
        if let Some(outgoing) = socket.messages.pop_front() {
            if socket.messages.is_empty() && socket.messages.capacity() > MAX_SPARE_MESSAGES {
                // Ten thousand idle WebSockets must not keep the memory of their busiest moment.
                socket.drop_messages();
            }
            let credit = match &outgoing {
                Outgoing::Message { bytes, .. } => {
                    // The last buffered message releases everything that is not acknowledged.
                    let cost = bytes.len() as u64 + MESSAGE_COST;
                    let unacked = self.response.unacked;
                    let released = if socket.messages.is_empty() { unacked } else { cost.min(unacked) };
                    self.response.unacked -= released;
                    self.credit(released)
                }
                Outgoing::Close { .. } | Outgoing::GoingAway { .. } => None,
            };
            return Poll::Ready(Ok((outgoing, credit)));
        }
        if self.fault.is_some() {
            return self.poll_fault();
        }
        self.store_waker(waker);
        Poll::Pending
    }

    /// Returns the capacity of the queue of messages.
    #[cfg(test)]
    pub(crate) fn message_capacity(&self) -> usize {
        self.websocket.as_ref().map_or(0, |socket| socket.messages.capacity())
    }

    /// Asks the connection, once, to close after this time.
    pub(crate) fn begin_close(&mut self, after: Duration) {
        let Some(socket) = self.websocket.as_mut().filter(|socket| !socket.is_closing) else { return };
        socket.is_closing = true;
        socket.close_after = Some(after);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
