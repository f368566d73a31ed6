//! WebSockets, as far as they are exchanges: what goes between the connection that has one and the application.
//!
//! A handshake is a request like any other until the application answers it. If it accepts (status 101), the exchange
//! becomes messages, both ways, and its worker *parks* it: it takes no slot of those that requests wait for, has no
//! deadline, and of its request no more is kept than its name. If the worker is to go, the connection is told when to
//! say farewell (1012, RFC 6455 §7.4.1), each at another time, so that not all clients come back at once.
//!
//! `http` holds a [`WebSocket`] from the accept to the end, and does all that RFC 6455 asks for between it and the
//! client.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use rgun_channel::frame::{Completion, CompletionKind, ExchangeId, MESSAGE_COST, Request, StreamFrame};
use rgun_channel::layout::RESPONSE_WINDOW;
use rgun_channel::slab::Chunk;

use crate::dispatch::exchange::response_parts::{Credit, Payload, Progress};
use crate::dispatch::exchange::socket::{ABNORMAL_CLOSURE, Outgoing};
use crate::dispatch::exchange::table::ExchangeTable;
use crate::dispatch::exchange::{Exchange, ExchangeState};
use crate::dispatch::fault::Fault;
use crate::dispatch::handles::ticket::BodyStream;
use crate::dispatch::worker::Worker;
use crate::dispatch::{Dispatcher, State};

/// Sockets of a worker that goes are not closed faster one after the other than this needs: a few are through at once,
/// many take the whole window.
const MAX_CLOSE_GAP: Duration = Duration::from_millis(20);

/// For so many messages room is kept while there are none.
const MAX_SPARE_MESSAGES: usize = 16;

impl Exchange {
    /// Has the application accepted it as a WebSocket?
    pub(crate) fn is_accepted_websocket(&self) -> bool {
        self.websocket.as_ref().is_some_and(|socket| socket.is_accepted)
    }

    /// The application accepts the handshake.
    pub(crate) fn accept(&mut self, fixed: &Completion) -> Result<(), String> {
        let Some(socket) = &mut self.websocket else {
            return Err(format!("accepted exchange {}, which is no WebSocket's", self.id.0));
        };
        if fixed.end || fixed.done {
            return Err(format!("ended exchange {} with its accept", self.id.0));
        }
        socket.is_accepted = true;
        // No slow log, no second attempt.
        self.slow_reported = true;
        self.trim_request();
        Ok(())
    }

    /// It asks an application that knows no WebSockets, and so for nothing but an answer (RFC 9110 §7.8).
    pub(crate) fn downgrade_to_http(&mut self) {
        if self.websocket.take().is_none() {
            return;
        }
        self.upload = None;
        let mut frame = Vec::new();
        let Some(request) = self.request() else { return };
        let fields = request.fields().map(|(name, value)| (name.as_bytes(), value));
        // What was encoded once can be encoded again.
        if (Request { websocket: false, ..request }).encode(fields, &mut frame).is_ok() {
            self.frame = frame;
        }
    }

    /// Of the request, only what it is called is of use from now on.
    fn trim_request(&mut self) {
        let mut frame = Vec::new();
        let Some(Request { method, path, request_id, .. }) = self.request() else { return };
        let name = Request { method, path, request_id, websocket: true, ..Request::new(self.id) };
        if name.encode(std::iter::empty(), &mut frame).is_ok() {
            frame.shrink_to_fit();
            self.frame = frame;
        }
    }

    /// What is said on an accepted one. Returns the waker of whoever waits for it.
    pub(crate) fn receive_message(
        &mut self,
        fixed: &Completion,
        payload: Payload,
        worker: &mut Worker,
    ) -> Result<Option<Waker>, String> {
        if self.ended {
            let says_nothing = matches!(&payload, Payload::Bytes(bytes) if bytes.is_empty());
            if fixed.kind == CompletionKind::Body && fixed.done && says_nothing {
                return Ok(None);
            }
            return Err(format!("went on with exchange {}, which it had closed", self.id.0));
        }
        match (fixed.kind, payload) {
            // Who was told that the client is gone has nothing to close.
            (CompletionKind::Body, Payload::Bytes(bytes))
                if fixed.end && bytes.is_empty() && self.disconnect_sent =>
            {
                self.ended = true;
            }
            (CompletionKind::Body, _) if fixed.end || fixed.done => {
                return Err(format!("ended the message of exchange {} as if it were a body", self.id.0));
            }
            (CompletionKind::Body, Payload::Bytes(bytes)) => {
                self.queue_message(vec![bytes], fixed)?;
            }
            (CompletionKind::Body, Payload::Chunks(chunks)) => {
                // Copied, so that the slab is the worker's again: sockets may be many, and slow.
                let copy = |chunk: &Arc<Chunk>| Bytes::copy_from_slice(chunk.bytes());
                self.queue_message(chunks.iter().map(copy).collect(), fixed)?;
            }
            (CompletionKind::Close, Payload::Bytes(reason)) if fixed.end => {
                self.ended = true;
                if !self.is_client_done()
                    && let Some(socket) = &mut self.websocket
                {
                    socket.messages.push_back(Outgoing::Close { code: fixed.status, reason });
                }
            }
            (kind, _) => {
                return Err(format!("said {kind:?} out of place of exchange {}, a WebSocket", self.id.0));
            }
        }
        if self.ended || self.is_client_done() {
            self.acknowledge_all(worker);
        }
        if self.ended {
            self.close_upload();
        }
        Ok(self.waker.take())
    }

    /// One frame's worth of a message.
    fn queue_message(&mut self, chunks: Vec<Bytes>, fixed: &Completion) -> Result<(), String> {
        if self.unacked > RESPONSE_WINDOW {
            return Err(format!("sent messages of exchange {} beyond its window", self.id.0));
        }
        let len: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.unacked += len + MESSAGE_COST;
        if self.is_client_done() {
            return Ok(());
        }
        let Some(socket) = &mut self.websocket else { return Ok(()) };
        let last = chunks.len().saturating_sub(1);
        for (at, bytes) in chunks.into_iter().enumerate() {
            let more = fixed.more || at < last;
            socket.messages.push_back(Outgoing::Message { bytes, text: fixed.text, more });
        }
        Ok(())
    }

    /// What the connection is to do next; and what leaves with it.
    fn poll_outgoing(&mut self, waker: &Waker) -> Progress<(Outgoing, Option<Credit>)> {
        let Some(socket) = &mut self.websocket else { return Progress::Pending };
        if let Some(after) = socket.close_after.take() {
            return Progress::Ready((Outgoing::GoingAway { after }, None));
        }
        if let Some(outgoing) = socket.messages.pop_front() {
            if socket.messages.is_empty() && socket.messages.capacity() > MAX_SPARE_MESSAGES {
                // There may be ten thousand that were busy once.
                socket.drop_messages();
            }
            let leaving = match &outgoing {
                Outgoing::Message { bytes, .. } => {
                    // With the last of what has come, all that is still to be acknowledged.
                    let cost = bytes.len() as u64 + MESSAGE_COST;
                    let leaving =
                        if socket.messages.is_empty() { self.unacked } else { cost.min(self.unacked) };
                    self.unacked -= leaving;
                    self.credit(leaving)
                }
                Outgoing::Close { .. } | Outgoing::GoingAway { .. } => None,
            };
            return Progress::Ready((outgoing, leaving));
        }
        if self.fault.is_some() {
            return self.take_fault();
        }
        self.store_waker(waker);
        Progress::Pending
    }

    /// For how many messages there is room without asking for more.
    #[cfg(test)]
    pub(crate) fn message_capacity(&self) -> usize {
        self.websocket.as_ref().map_or(0, |socket| socket.messages.capacity())
    }

    /// It is to close after this time. Whoever holds it is woken.
    pub(crate) fn begin_close(&mut self, after: Duration) {
        let Some(socket) = self.websocket.as_mut().filter(|socket| !socket.is_closing) else { return };
        socket.is_closing = true;
        socket.close_after = Some(after);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The connection's end of an accepted WebSocket. One task uses it.
#[derive(Debug)]
pub struct WebSocketHandle {
    dispatcher: &'static Dispatcher,
    id: ExchangeId,
    is_settled: bool,
}

impl BodyStream {
    /// What there is after an answer with status 101.
    pub fn into_websocket(mut self) -> WebSocketHandle {
        self.settled = true;
        WebSocketHandle { dispatcher: self.dispatcher, id: self.id, is_settled: false }
    }
}

impl WebSocketHandle {
    /// What the application says next. Nothing follows [`Outgoing::Close`] and an error.
    ///
    /// # Errors
    /// The fault that has ended it: the application has raised, its worker has died.
    pub fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outgoing, Fault>> {
        let mut state = self.dispatcher.lock();
        let State { exchanges, workers, .. } = &mut *state;
        let Some(exchange) = exchanges.get_mut(self.id) else {
            unreachable!("an exchange stays until its WebSocket is settled")
        };
        match exchange.poll_outgoing(cx.waker()) {
            Progress::Pending => Poll::Pending,
            Progress::Failed(fault) => {
                self.is_settled = true;
                exchanges.remove_if_finished(self.id);
                Poll::Ready(Err(fault))
            }
            Progress::Ready((outgoing, leaving)) => {
                if let Some(Credit { worker, slot, bytes }) = leaving
                    && let Some(Some(worker)) = workers.get_mut(worker)
                {
                    worker.acknowledge(slot, bytes);
                }
                Poll::Ready(Ok(outgoing))
            }
        }
    }

    /// Has the application room for (a part of) a message? False: it wants none any more. In any case the task is woken
    /// when that changes.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.dispatcher.poll_room(self.id, cx).map(|room| room.is_some())
    }

    /// Gives it (a part of) a message of at most [`PART`](crate::dispatch::PART) bytes, after [`WebSocket::poll_room`] said that
    /// there is room. Text is UTF-8 as a whole. False: it wants none any more.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8], text: bool, more: bool) -> Poll<bool> {
        let part = StreamFrame::Part { exchange: self.id, bytes, end: false, text, more };
        self.dispatcher.poll_part(cx, &part, bytes.len() as u64 + MESSAGE_COST)
    }

    /// The client is gone, or is to go: the application is told so (`websocket.disconnect`), if it has not ended it.
    pub fn disconnect(mut self, code: u16, reason: &[u8]) {
        self.settle(code, reason);
    }

    fn settle(&mut self, code: u16, reason: &[u8]) {
        if !std::mem::replace(&mut self.is_settled, true) {
            self.dispatcher.disconnect(self.id, code, reason);
        }
    }
}

impl Drop for WebSocketHandle {
    fn drop(&mut self) {
        self.settle(ABNORMAL_CLOSURE, b"");
    }
}

impl Dispatcher {
    /// Has every WebSocket close, spread over the policy's window: the daemon stops.
    pub fn close_websockets(&self) {
        let mut state = self.lock();
        for index in 0..state.workers.len() {
            state.close_websockets_of(index);
        }
    }

    fn disconnect(&self, id: ExchangeId, code: u16, reason: &[u8]) {
        let mut state = self.lock();
        let State { exchanges, workers, .. } = &mut *state;
        let Some(exchange) = exchanges.get_mut(id) else { return };
        exchange.mark_client_gone();
        if let ExchangeState::Assigned { worker, .. } = exchange.state
            && let Some(Some(worker)) = workers.get_mut(worker)
        {
            exchange.release_response(worker);
            worker.send_disconnect_with(exchange, code, reason);
        }
        exchanges.remove_if_finished(id);
    }
}

impl State {
    /// Has the sockets of one worker close.
    pub(crate) fn close_websockets_of(&mut self, index: usize) {
        let Some(worker) = self.workers.get(index).and_then(Option::as_ref) else { return };
        let sockets: Vec<_> = worker.websockets(&self.exchanges).collect();
        let count = u32::try_from(sockets.len()).unwrap_or(u32::MAX).max(1);
        let gap = MAX_CLOSE_GAP.min(self.policy.close_window / count);
        for (nr, id) in (0..).zip(sockets) {
            if let Some(exchange) = self.exchanges.get_mut(id) {
                exchange.begin_close(gap * nr);
            }
        }
    }
}

impl Worker {
    /// The WebSockets that it has accepted, wherever they are.
    fn websockets(&self, exchanges: &ExchangeTable) -> impl Iterator<Item = ExchangeId> {
        let others =
            self.assigned_ids().filter(|id| exchanges.get(*id).is_some_and(Exchange::is_accepted_websocket));
        self.parked().chain(others)
    }
}
