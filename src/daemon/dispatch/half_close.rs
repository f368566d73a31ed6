//! Clients that have closed their sending half. A FIN alone does not tell one that waits for its answer from one that
//! has left: what has started is finished, and what waits may start, but not for as long as for others.

use std::time::{Duration, Instant};

use rgun_channel::frame::{ExchangeId, StreamFrame};

use super::exchange::{Exchange, ExchangeState};
use super::worker::Worker;
use super::{Dispatcher, State};

/// How long a request whose client is half closed may wait before it starts, all in all. A client that still waits has
/// closed at once; under overload, where waiting takes longer, most of those that close have left.
const MAX_WAIT: Duration = Duration::from_secs(1);

impl Dispatcher {
    /// The client of this exchange sends nothing more; an ASGI application is told so, once. Until when the request may
    /// start, if it has not.
    pub(super) fn half_close(&self, id: ExchangeId) -> Option<Instant> {
        let mut state = self.lock();
        let State { exchanges, workers, .. } = &mut *state;
        let exchange = exchanges.get_mut(id)?;
        let is_new = !std::mem::replace(&mut exchange.half_closed, true);
        let until = exchange.submitted_at + MAX_WAIT;
        match exchange.state {
            ExchangeState::Queued | ExchangeState::Held(_) => Some(until),
            ExchangeState::Assigned { worker, position } => {
                let worker = workers.get_mut(worker)?.as_mut()?;
                if is_new {
                    worker.send_half_close(exchange);
                }
                (!worker.submissions.is_claimed(position)).then_some(until)
            }
            ExchangeState::Finished => None,
        }
    }

    /// Takes the exchange back if it has not started, so that it never will; false if it has.
    pub(super) fn revoke(&self, id: ExchangeId) -> bool {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(exchange) = state.exchanges.get_mut(id) else { return false };
        match exchange.state {
            ExchangeState::Queued | ExchangeState::Held(_) => true,
            ExchangeState::Finished => false,
            ExchangeState::Assigned { worker, position } => {
                let Some(Some(worker_state)) = state.workers.get_mut(worker) else { return false };
                if !worker_state.revoke(id, position) {
                    return false;
                }
                // Of no queue: whoever holds the ticket drops it.
                exchange.state = ExchangeState::Queued;
                self.refill(state, worker, Instant::now());
                true
            }
        }
    }
}

impl Worker {
    /// Tells an ASGI application that its client sends nothing more, unless it has said everything.
    pub(super) fn send_half_close(&mut self, exchange: &Exchange) {
        if self.is_asgi() && !exchange.has_ended() {
            self.send(&StreamFrame::HalfClose { exchange: exchange.id });
        }
    }
}
