//! The handle by which `websocket` uses an exchange whose handshake the application has accepted.
//!
//! A handshake is an ordinary request until the application answers it. Once the application has
//! accepted it (status 101), the exchange carries messages both ways and is *parked*: it takes none
//! of the worker's slots for requests, has no deadline, and keeps only the request's method, path
//! and id. When the worker stops, the connection is asked to close with code 1012 ("service
//! restart", IANA's registry of close codes). The closes are spread over time, so that not all
//! clients reconnect at once.

use std::task::{Context, Poll};
use std::time::Duration;

use rgun_channel::frame::{ExchangeId, MESSAGE_COST, StreamFrame};

use crate::dispatch::exchange::ExchangeState;
use crate::dispatch::exchange::table::ExchangeTable;
use crate::dispatch::exchange::websocket::{ABNORMAL_CLOSURE, Outgoing};
use crate::dispatch::fault::Fault;
use crate::dispatch::handles::ticket::BodyStream;
use crate::dispatch::worker::Worker;
use crate::dispatch::{Dispatcher, State};

/// Maximum time between the closes of two WebSockets of a stopping worker. A worker with few
/// WebSockets does not need the whole window.
const MAX_CLOSE_GAP: Duration = Duration::from_millis(20);

/// The connection's end of an accepted WebSocket. One task uses it.
#[derive(Debug)]
pub struct WebSocketHandle {
    dispatcher: &'static Dispatcher,
    id: ExchangeId,
    /// The application needs no `websocket.disconnect` any more: it was sent one, or has closed the
    /// WebSocket.
    is_settled: bool,
}

impl BodyStream {
    /// Turns the stream of a response with status 101 into its WebSocket.
    pub fn into_websocket(mut self) -> WebSocketHandle {
        self.is_settled = true;
        WebSocketHandle { dispatcher: self.dispatcher, id: self.id, is_settled: false }
    }
}

impl WebSocketHandle {
    /// Returns the application's next event. Nothing follows [`Outgoing::Close`] or an error.
    ///
    /// # Errors
    /// The fault that has ended the exchange: the application raised, or its worker died.
    pub fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outgoing, Fault>> {
        let mut state = self.dispatcher.lock();
        let State { exchanges, workers, .. } = &mut *state;
        let Some(exchange) = exchanges.get_mut(self.id) else {
            unreachable!("an exchange stays until its WebSocket is settled")
        };
        match exchange.poll_outgoing(cx.waker()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(fault)) => {
                self.is_settled = true;
                exchanges.remove_if_finished(self.id);
                Poll::Ready(Err(fault))
            }
            Poll::Ready(Ok((outgoing, credit))) => {
                if let Some(credit) = credit
                    && let Some(Some(worker)) = workers.get_mut(credit.worker)
                {
                    worker.channel.acknowledge(credit.slot, credit.bytes);
                }
                Poll::Ready(Ok(outgoing))
            }
        }
    }

    /// Returns true as soon as the application has room for a part of a message. The task is woken
    /// when the room changes. Returns false, for good, when the application accepts no more.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.dispatcher.poll_room(self.id, cx).map(|room| room.is_some())
    }

    /// Sends a part of a message of at most [`MAX_PART`](crate::dispatch::MAX_PART) bytes to the
    /// application, after [`WebSocketHandle::poll_room`] returned true. A text message is UTF-8 as
    /// a whole. Returns false when the application accepts no more.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8], text: bool, more: bool) -> Poll<bool> {
        let part = StreamFrame::Part { exchange: self.id, bytes, end: false, text, more };
        self.dispatcher.poll_part(cx, &part, bytes.len() as u64 + MESSAGE_COST)
    }

    /// Sends `websocket.disconnect` to the application, unless the application has ended the
    /// exchange.
    pub fn disconnect(mut self, code: u16, reason: &[u8]) {
        self.send_disconnect(code, reason);
    }

    fn send_disconnect(&mut self, code: u16, reason: &[u8]) {
        if !std::mem::replace(&mut self.is_settled, true) {
            self.dispatcher.disconnect(self.id, code, reason);
        }
    }
}

impl Drop for WebSocketHandle {
    fn drop(&mut self) {
        self.send_disconnect(ABNORMAL_CLOSURE, b"");
    }
}

impl Dispatcher {
    /// Asks every WebSocket to close, because the daemon stops. The closes are spread over
    /// `websocket.close_window`.
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
    /// Asks the WebSockets of one worker to close. The closes are spread over
    /// `websocket.close_window`.
    pub(crate) fn close_websockets_of(&mut self, index: usize) {
        let Some(worker) = self.workers.get(index).and_then(Option::as_ref) else { return };
        let ids: Vec<_> = worker.accepted_websockets(&self.exchanges).collect();
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX).max(1);
        let gap = MAX_CLOSE_GAP.min(self.policy.close_window / count);
        for (index, id) in (0..).zip(ids) {
            if let Some(exchange) = self.exchanges.get_mut(id) {
                exchange.begin_close(gap * index);
            }
        }
    }
}

impl Worker {
    /// Returns the WebSockets that the worker has accepted, parked or not, and the connections that
    /// its application has taken over.
    fn accepted_websockets(&self, exchanges: &ExchangeTable) -> impl Iterator<Item = ExchangeId> {
        let is_accepted = |id: &ExchangeId| {
            let exchange = exchanges.get(*id);
            exchange.is_some_and(|exchange| exchange.is_accepted_websocket() || exchange.is_taken_over())
        };
        self.load.parked().chain(self.load.assigned_ids().filter(is_accepted))
    }
}
