//! A request's body on its way to an ASGI application, which takes it in parts, when it likes.
//!
//! The worker says how far the application has room (*takes*), counted from the body's beginning; the daemon sends
//! parts as far as that and reads no more from the client meanwhile. So a slow application slows its client down, and
//! what waits is never more than the worker's window and one read of the connection.
//!
//! `http` brings the body: it holds an [`Upload`] beside the exchange's ticket, and stops when that says that the
//! application is through with the request.

use std::task::{Context, Poll};
use std::time::Instant;

use rgun_channel::frame::{ExchangeId, StreamFrame};

use crate::dispatch::exchange::ExchangeState;
use crate::dispatch::exchange::body::MAX_PART;
use crate::dispatch::fault::Fault;
use crate::dispatch::tick_rate::TickRate;
use crate::dispatch::{Dispatcher, State};

/// The way of a request's body to the application.
#[derive(Debug)]
pub struct Upload {
    dispatcher: &'static Dispatcher,
    id: ExchangeId,
}

impl Upload {
    pub(crate) fn new(dispatcher: &'static Dispatcher, id: ExchangeId) -> Self {
        Self { dispatcher, id }
    }

    /// Where it goes.
    pub fn dispatcher(&self) -> &'static Dispatcher {
        self.dispatcher
    }

    /// For how many bytes more the application has room, when it has; `None` when it wants no more of the body. In any
    /// case the task is woken when that changes.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        self.dispatcher.poll_room(self.id, cx)
    }

    /// Gives a part of at most [`PART`] bytes, and no more than there is room for. `end`: it is the last. False when
    /// the application wants no more.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8], end: bool) -> Poll<bool> {
        let part = StreamFrame::Part { exchange: self.id, bytes, end, text: false, more: false };
        self.dispatcher.poll_part(cx, &part, bytes.len() as u64)
    }

    /// The body does not come to its end: the application is told that its client is gone, and the client, if it has
    /// nothing of an answer yet, what was wrong.
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
    /// For how many bytes more an application has room, when it has; `None` when it wants no more. The task is woken
    /// when that changes.
    pub(crate) fn poll_room(&self, id: ExchangeId, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        let mut state = self.lock();
        let exchange = state.exchanges.get_mut(id).filter(|exchange| exchange.accepts_body());
        let Some(uptake) = exchange.and_then(|exchange| exchange.upload.as_mut()) else {
            return Poll::Ready(None);
        };
        uptake.store_waker(cx);
        match uptake.granted.saturating_sub(uptake.sent) {
            0 => Poll::Pending,
            room => Poll::Ready(Some(room)),
        }
    }

    /// Gives an application a part of what it takes, which counts as so many bytes. False when it wants no more.
    pub(crate) fn poll_part(&self, cx: &mut Context<'_>, part: &StreamFrame<'_>, cost: u64) -> Poll<bool> {
        let &StreamFrame::Part { exchange: id, bytes, end, .. } = part else { return Poll::Ready(false) };
        let mut state = self.lock();
        let state = &mut *state;
        if bytes.len() > MAX_PART {
            // Nobody gives such a one. It would never fit into the ring, and to say so is better than to lose it.
            if let Some(waker) = state.exchanges.get_mut(id).and_then(|it| it.fail(Fault::TooLong("part"))) {
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
        let (Some(uptake), Some(Some(worker))) = (&mut exchange.upload, workers.get_mut(index)) else {
            return Poll::Ready(false);
        };
        match worker.send_part(part, cx.waker()) {
            Ok(true) => {
                uptake.sent += cost;
                uptake.is_complete = end;
                Poll::Ready(true)
            }
            Ok(false) => {
                uptake.store_waker(cx);
                // Nobody tells when the worker has taken something out of its ring.
                if state.tick_rate != TickRate::Fast {
                    state.tick_rate = TickRate::Fast;
                    self.timer_wakeup.notify_one();
                }
                Poll::Pending
            }
            Err(why) => {
                self.fail_worker(state, index, &why);
                Poll::Ready(false)
            }
        }
    }
}

impl State {
    /// Tells an ASGI worker that nobody waits for this exchange any more, once.
    pub(crate) fn send_disconnect(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let ExchangeState::Assigned { worker, .. } = exchange.state else { return };
        if let Some(worker) = self.workers.get_mut(worker).and_then(Option::as_mut) {
            worker.send_disconnect(exchange);
        }
    }
}
