//! The end of an exchange: with a fault, or because its client is gone. The exchange is removed
//! from the queue, its path rule and its worker.

use std::time::Instant;

use rgun_channel::frame::ExchangeId;

use super::State;
use super::exchange::ExchangeState;
use super::fault::Fault;

impl State {
    /// Ends an exchange with a fault, which answers its client. No worker may have the exchange.
    pub(super) fn fail(&mut self, id: ExchangeId, fault: Fault, now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let waker = exchange.fail(fault);
        self.finish(id, now);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Finishes an exchange: removes it from its queue and frees its permit. No worker may have the
    /// exchange.
    pub(super) fn finish(&mut self, id: ExchangeId, now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let (state, permit) = (exchange.state, exchange.permit.take());
        exchange.mark_worker_done();
        match state {
            ExchangeState::Queued => self.queue.remove(id),
            ExchangeState::Held(rule) => self.rules.remove_held(rule, id),
            ExchangeState::Assigned { .. } | ExchangeState::Finished => {}
        }
        self.exchanges.remove_if_finished(id);
        if let Some(rule) = permit {
            self.free_permit(rule, now);
        }
    }

    /// Drops the buffered part of a response whose client got a fault instead, and gives the worker
    /// credit for it.
    pub(super) fn release(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if let ExchangeState::Assigned { worker, .. } = exchange.state
            && let Some(worker) = self.workers.get_mut(worker).and_then(Option::as_mut)
        {
            exchange.release_response(worker);
        }
    }

    /// Ends an exchange whose client is gone. If the request was assigned and has not started,
    /// revokes it and returns the index of its worker, which has room again.
    pub(super) fn abandon(&mut self, id: ExchangeId, now: Instant) -> Option<usize> {
        let exchange = self.exchanges.get_mut(id)?;
        exchange.mark_client_gone();
        let (index, position) = match exchange.state {
            ExchangeState::Assigned { worker, position } => (worker, position),
            ExchangeState::Queued | ExchangeState::Held(_) => {
                self.finish(id, now);
                return None;
            }
            ExchangeState::Finished => {
                self.exchanges.remove_if_finished(id);
                return None;
            }
        };
        let worker = self.workers.get_mut(index)?.as_mut()?;
        if worker.revoke(id, position) {
            self.finish(id, now);
            return Some(index);
        }
        exchange.release_response(worker);
        if worker.is_asgi() {
            worker.send_disconnect(exchange);
        } else if exchange.is_cancellable() {
            worker.channel.send_cancel(id);
        }
        None
    }
}
