//! Clients that have closed their sending half. A FIN alone does not distinguish a client that
//! waits for its response from one that has left. So a request that has started continues, and a
//! waiting request may start only within a second.

use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use super::exchange::ExchangeState;
use super::{Dispatcher, State};

/// Time after submission within which a request of a half-closed client may start. A client that
/// still wants the response closes its half right after the request. A client that closes its half
/// later, while the request waits, has usually left.
const MAX_WAIT: Duration = Duration::from_secs(1);

impl Dispatcher {
    /// Notes that the exchange's client has closed its sending half, and notifies an ASGI
    /// application once. Returns the time until which the request may start; `None` if it has
    /// started.
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
                (!worker.channel.submissions.is_claimed(position)).then_some(until)
            }
            ExchangeState::Finished => None,
        }
    }

    /// Revokes and ends the exchange. Returns false if it has started.
    pub(super) fn revoke(&self, id: ExchangeId) -> bool {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(exchange) = state.exchanges.get_mut(id) else { return false };
        let freed = match exchange.state {
            ExchangeState::Queued | ExchangeState::Held(_) => None,
            ExchangeState::Finished => return false,
            ExchangeState::Assigned { worker, position } => {
                let Some(Some(worker_state)) = state.workers.get_mut(worker) else { return false };
                if !worker_state.revoke(id, position) {
                    return false;
                }
                Some(worker)
            }
        };
        // Ended before the lock is released: otherwise another thread could assign it.
        exchange.mark_client_gone();
        let now = Instant::now();
        state.finish(id, now);
        self.refill_freed(state, freed, now);
        true
    }
}
