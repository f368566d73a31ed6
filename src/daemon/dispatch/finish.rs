//! The end of an exchange: with a fault, or because its client is gone. It leaves the queue, its rule and its worker.

use std::time::Instant;

use rgun_channel::frame::ExchangeId;

use super::State;
use super::exchange::ExchangeState;
use super::fault::Fault;

impl State {
    /// Answers an exchange that no worker has.
    pub(super) fn fail(&mut self, id: ExchangeId, fault: Fault, now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let waker = exchange.fail(fault);
        self.end(id, now);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// No worker has, or ever will have, anything to do with it: it leaves the list in which it stands, and its permit
    /// is another's.
    pub(super) fn end(&mut self, id: ExchangeId, now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let (place, permit) = (exchange.state, exchange.permit.take());
        exchange.mark_worker_done();
        match place {
            ExchangeState::Queued => self.queue.remove(id),
            ExchangeState::Held(rule) => self.rules.remove_held(rule, id),
            ExchangeState::Assigned { .. } | ExchangeState::Finished => {}
        }
        self.exchanges.remove_if_finished(id);
        if let Some(rule) = permit {
            self.free_permit(rule, now);
        }
    }

    /// The client has been told of a fault: nothing of the body leaves any more, and the worker need not wait for it.
    pub(super) fn release(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if let ExchangeState::Assigned { worker, .. } = exchange.state
            && let Some(worker) = self.workers.get_mut(worker).and_then(Option::as_mut)
        {
            exchange.release_response(worker);
        }
    }

    /// The client is gone, or has everything. What has not started never will. The worker that has room again.
    pub(super) fn abandon(&mut self, id: ExchangeId, now: Instant) -> Option<usize> {
        let exchange = self.exchanges.get_mut(id)?;
        exchange.mark_client_gone();
        let mut freed = None;
        match exchange.state {
            ExchangeState::Queued | ExchangeState::Held(_) => self.end(id, now),
            ExchangeState::Assigned { worker, position } => {
                if let Some(worker_state) = self.workers.get_mut(worker).and_then(Option::as_mut) {
                    if worker_state.revoke(id, position) {
                        self.end(id, now);
                        freed = Some(worker);
                    } else {
                        exchange.release_response(worker_state);
                        if worker_state.is_asgi() {
                            worker_state.send_disconnect(exchange);
                        } else if exchange.is_cancellable() {
                            worker_state.send_cancel(id);
                        }
                    }
                }
            }
            ExchangeState::Finished => self.exchanges.remove_if_finished(id),
        }
        freed
    }
}
