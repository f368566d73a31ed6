//! A request's body on its way to an ASGI application, which reads it in parts.
//!
//! The worker grants *credit*: the number of bytes, counted from the body's beginning, for which
//! the application has room. The daemon sends parts within the credit and reads no further from the
//! client. So a slow application slows its client down, and at most the worker's window and one
//! read of the connection are buffered.
//!
//! `http` runs a task that holds an [`Upload`], in addition to the exchange's ticket; the task ends
//! when a poll returns that the application accepts no more.

use std::task::{Context, Poll};
use std::time::Instant;

use rgun_channel::frame::{ExchangeId, StreamFrame};

use crate::dispatch::exchange::ExchangeState;
use crate::dispatch::exchange::body::MAX_PART;
use crate::dispatch::fault::Fault;
use crate::dispatch::{Dispatcher, State};

/// The sending end of a request's body.
#[derive(Debug)]
pub struct Upload {
    dispatcher: &'static Dispatcher,
    id: ExchangeId,
}

impl Upload {
    pub(super) fn new(dispatcher: &'static Dispatcher, id: ExchangeId) -> Self {
        Self { dispatcher, id }
    }

    /// Returns the exchange's dispatcher.
    pub fn dispatcher(&self) -> &'static Dispatcher {
        self.dispatcher
    }

    /// Returns the credit in bytes as soon as there is some. The task is woken when the credit
    /// changes. Returns `None`, for good, when the application accepts no more of the body.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        self.dispatcher.poll_room(self.id, cx)
    }

    /// Sends a part of at most [`MAX_PART`] bytes, within the credit. `end`: the part is the last.
    /// Returns false when the application accepts no more.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8], end: bool) -> Poll<bool> {
        let part = StreamFrame::Part { exchange: self.id, bytes, end, text: false, more: false };
        self.dispatcher.poll_part(cx, &part, bytes.len() as u64)
    }

    /// Aborts the body. The application gets `http.disconnect`. The client gets the fault's status,
    /// unless it has a response already.
    pub fn fail(&self, fault: Fault) {
        let mut state = self.dispatcher.lock();
        let now = Instant::now();
        let Some(exchange) = state.exchanges.get_mut(self.id) else { return };
        if !matches!(exchange.state, ExchangeState::Assigned { .. }) {
            return state.fail(self.id, fault, now);
        }
        let waker = exchange.fail(fault);
        state.send_disconnect(self.id);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Dispatcher {
    /// Returns the application's credit in bytes as soon as there is some; see
    /// [`Upload::poll_room`].
    pub(super) fn poll_room(&self, id: ExchangeId, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        let mut state = self.lock();
        let exchange = state.exchanges.get_mut(id).filter(|exchange| exchange.accepts_body());
        let Some(upload) = exchange.and_then(|exchange| exchange.upload.as_mut()) else {
            return Poll::Ready(None);
        };
        upload.store_waker(cx);
        match upload.granted.saturating_sub(upload.sent) {
            0 => Poll::Pending,
            room => Poll::Ready(Some(room)),
        }
    }

    /// Sends a part to an application. `cost` is its cost in credit. Returns false when the
    /// application accepts no more.
    pub(super) fn poll_part(&self, cx: &mut Context<'_>, part: &StreamFrame<'_>, cost: u64) -> Poll<bool> {
        let &StreamFrame::Part { exchange: id, bytes, end, .. } = part else { return Poll::Ready(false) };
        let mut state = self.lock();
        let state = &mut *state;
        if bytes.len() > MAX_PART {
            // A bug of the caller. The part would never fit into the ring; the exchange fails, so
            // that no bytes are lost silently.
            let exchange = state.exchanges.get_mut(id);
            if let Some(waker) = exchange.and_then(|exchange| exchange.fail(Fault::TooLong("part"))) {
                waker.wake();
            }
            state.send_disconnect(id);
            return Poll::Ready(false);
        }
        let State { exchanges, workers, .. } = state;
        let Some(exchange) = exchanges.get_mut(id).filter(|exchange| exchange.accepts_body()) else {
            return Poll::Ready(false);
        };
        let ExchangeState::Assigned { worker: index, .. } = exchange.state else { return Poll::Ready(false) };
        let (Some(upload), Some(Some(worker))) = (&mut exchange.upload, workers.get_mut(index)) else {
            return Poll::Ready(false);
        };
        match worker.send_part(part, cx.waker()) {
            Ok(true) => {
                upload.sent += cost;
                upload.is_complete = end;
                Poll::Ready(true)
            }
            Ok(false) => {
                upload.store_waker(cx);
                // The worker does not signal that it has consumed records, so the fast tick looks
                // for room.
                self.tick_fast(&mut state.tick_rate);
                Poll::Pending
            }
            Err(breach) => {
                self.fail_worker(state, index, &breach);
                Poll::Ready(false)
            }
        }
    }
}

impl State {
    /// Notifies an ASGI worker, once, that the exchange's client is gone.
    pub(crate) fn send_disconnect(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let ExchangeState::Assigned { worker, .. } = exchange.state else { return };
        if let Some(worker) = self.workers.get_mut(worker).and_then(Option::as_mut) {
            worker.send_disconnect(exchange);
        }
    }
}
