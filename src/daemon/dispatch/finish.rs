//! The end of an exchange: with a fault, or because its client is gone. It leaves the queue, its rule and its worker.

use std::time::Instant;

use rgun_channel::frame::ExchangeId;

use super::State;
use super::exchange::Place;
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
        let (place, permit) = (exchange.place, exchange.permit.take());
        exchange.worker_is_done();
        match place {
            Place::Queued => self.queue.remove(id),
            Place::Waiting(rule) => self.rules.leave(rule, id),
            Place::Given { .. } | Place::Over => {}
        }
        self.exchanges.remove_if_over(id);
        if let Some(rule) = permit {
            self.free_permit(rule, now);
        }
    }

    /// The client has been told of a fault: nothing of the body leaves any more, and the worker need not wait for it.
    pub(super) fn release(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if let Place::Given { worker, .. } = exchange.place
            && let Some(worker) = self.workers.get_mut(worker).and_then(Option::as_mut)
        {
            exchange.release_parts(worker);
        }
    }

    /// The client is gone, or has everything. What has not started never will. The worker that has room again.
    pub(super) fn abandon(&mut self, id: ExchangeId, now: Instant) -> Option<usize> {
        let exchange = self.exchanges.get_mut(id)?;
        exchange.client_is_gone();
        let mut freed = None;
        match exchange.place {
            Place::Queued | Place::Waiting(_) => self.end(id, now),
            Place::Given { worker, position } => {
                if let Some(worker_state) = self.workers.get_mut(worker).and_then(Option::as_mut) {
                    if worker_state.revoke(id, position) {
                        self.end(id, now);
                        freed = Some(worker);
                    } else {
                        exchange.release_parts(worker_state);
                        if worker_state.is_asgi() {
                            worker_state.tell_gone(exchange);
                        } else if exchange.can_be_cut_short() {
                            worker_state.forget(id);
                        }
                    }
                }
            }
            Place::Over => self.exchanges.remove_if_over(id),
        }
        freed
    }
}
