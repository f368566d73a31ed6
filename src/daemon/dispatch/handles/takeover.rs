//! The handle by which `http` and `websocket` use an exchange whose connection the WSGI application
//! may take over, or has taken over.
//!
//! A connection that was taken over occupies a thread of the worker until the application returns,
//! and has no deadline. When the worker stops, the connection is asked to close, like the
//! WebSockets of ASGI applications.

use std::task::{Context, Poll};

use rgun_channel::frame::ExchangeId;

use crate::dispatch::exchange::ExchangeState;
use crate::dispatch::exchange::takeover::TakeoverEvent;
use crate::dispatch::fault::Fault;
use crate::dispatch::handles::ticket::Ticket;
use crate::dispatch::{Dispatcher, State};

/// The connection's end of a takeover. One task uses it.
#[derive(Debug)]
pub struct TakeoverHandle {
    dispatcher: &'static Dispatcher,
    id: ExchangeId,
    is_settled: bool,
}

impl Ticket {
    /// Notes that the application has taken over the connection. Returns `None` if the exchange has
    /// ended already.
    pub fn take_over(mut self) -> Option<TakeoverHandle> {
        if std::mem::replace(&mut self.is_settled, true) {
            return None;
        }
        let mut state = self.dispatcher.lock();
        let State { exchanges, workers, .. } = &mut *state;
        if let Some(exchange) = exchanges.get_mut(self.id)
            && let ExchangeState::Assigned { worker, .. } = exchange.state
            && let Some(Some(worker)) = workers.get_mut(worker)
        {
            exchange.take_over(worker);
        }
        Some(TakeoverHandle { dispatcher: self.dispatcher, id: self.id, is_settled: false })
    }
}

impl TakeoverHandle {
    /// Returns the next event. Nothing follows [`TakeoverEvent::Ended`] or an error.
    ///
    /// # Errors
    /// The fault that has ended the exchange: the application raised, or its worker died.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<TakeoverEvent, Fault>> {
        if self.is_settled {
            return Poll::Pending;
        }
        let mut state = self.dispatcher.lock();
        let Some(exchange) = state.exchanges.get_mut(self.id) else {
            unreachable!("an exchange stays until its takeover is settled")
        };
        let polled = exchange.poll_takeover(cx.waker());
        if matches!(polled, Poll::Ready(Ok(TakeoverEvent::Ended) | Err(_))) {
            self.is_settled = true;
            state.exchanges.remove_if_finished(self.id);
        }
        polled
    }
}

impl Drop for TakeoverHandle {
    fn drop(&mut self) {
        if !self.is_settled {
            self.dispatcher.abandon(self.id);
        }
    }
}
