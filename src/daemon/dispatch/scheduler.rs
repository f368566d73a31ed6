//! Which worker gets which request, and when one is taken back again.

use std::os::fd::AsFd;
use std::time::Instant;

use rgun_channel::frame::ExchangeId;

use super::exchange::body::BodyTransport;
use super::exchange::table::ExchangeTable;
use super::exchange::{Exchange, ExchangeState};
use super::worker::Worker;
use super::{Dispatcher, State};

/// How often a request may be passed on by workers that do not claim it. Between a healthy worker that is slow to
/// wake and one that never does, it meets the healthy one often enough.
const MAX_MOVES: u8 = 16;

impl Dispatcher {
    /// Pushes an exchange into a worker's ring. False when the ring has no room, or the worker is broken; it is then
    /// still where it was, unless it has been given to another or ended with the broken one.
    pub(super) fn assign(&self, state: &mut State, worker: usize, id: ExchangeId, now: Instant) -> bool {
        let Some((exchange, worker_state)) = state.exchange_and_worker(id, worker) else { return false };
        if !worker_state.takes(exchange.transport()) {
            return false;
        }
        let body = exchange.body.as_ref().map(|body| body.fd.as_fd());
        let pushed = worker_state.push(id, &exchange.frame, body, exchange.timeout, now);
        match pushed {
            Ok(Some(position)) => {
                exchange.state = ExchangeState::Assigned { worker, position };
                exchange.assigned_at = Some(now);
                exchange.worker = Some(worker_state.id);
                if exchange.half_closed {
                    worker_state.send_half_close(exchange);
                }
                let wait = now.saturating_duration_since(exchange.ready_at);
                state.load_stats.record_wait(wait);
                state.unrung_submissions += 1;
                true
            }
            Ok(None) => false,
            Err(why) => {
                self.fail_worker(state, worker, why.as_str());
                false
            }
        }
    }

    /// Gives queued exchanges to a worker that has room, and to nobody else's disadvantage.
    pub(super) fn refill(&self, state: &mut State, index: usize, now: Instant) {
        while let Some(id) = state.queue.peek(now) {
            let carriage = state.transport(id);
            let has_room = state.workers[index].as_ref().is_some_and(|worker| worker.has_room(carriage));
            if !has_room || !self.assign(state, index, id, now) {
                return;
            }
            state.queue.remove_assigned(id, now);
        }
        self.steal(state, index, now);
    }

    /// A worker has an idle slot and the queue is empty: takes over what another worker has prefetched but
    /// not started, if it would have to wait there for longer than a wake-up costs.
    fn steal(&self, state: &mut State, index: usize, now: Instant) {
        while state.workers[index].as_ref().is_some_and(|worker| worker.idle_slots() > 0) {
            let victim = state
                .workers
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .filter_map(|(other, worker)| Some((other, worker.as_ref()?.prefetch_wait(now)?)))
                .max_by_key(|(_, wait)| *wait);
            let Some((victim, _)) = victim else { return };
            let Some(id) = state.revoke_oldest(victim) else { return };
            if !self.assign(state, index, id, now) {
                state.return_to_queue(id);
                return;
            }
        }
    }

    /// Gives what is queued to whoever has room.
    pub(super) fn refill_all(&self, state: &mut State, now: Instant) {
        while let Some(id) = state.queue.peek(now) {
            let carriage = state.transport(id);
            let Some(index) = state.choose_worker(carriage) else { return };
            if !self.assign(state, index, id, now) {
                return;
            }
            state.queue.remove_assigned(id, now);
        }
    }
}

/// How bad a choice a worker is: it has let things lie, it has no idle slot, it is busy.
type Rank = (bool, bool, (u32, u32));

impl State {
    fn transport(&self, id: ExchangeId) -> BodyTransport {
        self.exchanges.get(id).map_or(BodyTransport::Inline, Exchange::transport)
    }

    fn exchange_and_worker(&mut self, id: ExchangeId, worker: usize) -> Option<(&mut Exchange, &mut Worker)> {
        Some((self.exchanges.get_mut(id)?, self.workers.get_mut(worker)?.as_mut()?))
    }

    /// The worker that can start a request soonest, if one can take it now: one with an idle slot before
    /// one that is merely fast, the least busy first; at last one that has lately let lie what it was given.
    pub(super) fn choose_worker(&self, carriage: BodyTransport) -> Option<usize> {
        let mut best: Option<(usize, Rank)> = None;
        for (index, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            if !worker.has_room(carriage) {
                continue;
            }
            let rank = (worker.stalled, worker.idle_slots() == 0, worker.load(carriage));
            if best.is_none_or(|(_, other)| rank < other) {
                best = Some((index, rank));
            }
        }
        best.map(|(index, _)| index)
    }

    /// Another worker with an idle slot, if possible one that has not been found stalled itself.
    pub(super) fn other_idle_worker(&self, index: usize) -> Option<usize> {
        let others = self.workers.iter().enumerate().filter(|(other, _)| *other != index);
        let idle = others.filter_map(|(other, worker)| Some((other, worker.as_ref()?)));
        let idle = idle.filter(|(_, worker)| worker.can_help());
        idle.min_by_key(|(_, worker)| (worker.stalled, worker.load(BodyTransport::Inline)))
            .map(|(other, _)| other)
    }

    /// Has every worker that takes requests more than it can start?
    pub(super) fn is_saturated(&self) -> bool {
        let mut open = self.workers.iter().flatten().filter(|worker| worker.is_open()).peekable();
        open.peek().is_some() && open.all(Worker::is_saturated)
    }

    pub(super) fn revoke_movable(&mut self, index: usize) -> Option<ExchangeId> {
        let worker = self.workers[index].as_mut()?;
        let id = worker.revoke_movable(&self.exchanges)?;
        self.exchanges.get_mut(id)?.moves += 1;
        self.mark_queued(id)
    }

    fn revoke_oldest(&mut self, index: usize) -> Option<ExchangeId> {
        let worker = self.workers[index].as_mut()?;
        let id = worker.revoke_oldest(&self.exchanges)?;
        self.mark_queued(id)
    }

    /// Takes up to `most` unclaimed exchanges back from a worker, newest first, to their places in the queue.
    pub(super) fn requeue(&mut self, index: usize, most: usize) {
        for _ in 0..most {
            let Some(worker) = self.workers[index].as_mut() else { return };
            let newest = worker.revoke_newest(&self.exchanges);
            let Some(id) = newest.and_then(|id| self.mark_queued(id)) else { return };
            self.return_to_queue(id);
        }
    }

    /// It has waited for as long as if it had never been given to anybody.
    pub(super) fn return_to_queue(&mut self, id: ExchangeId) {
        if let Some(exchange) = self.exchanges.get(id) {
            self.queue.reinsert(id, exchange.ready_at);
        }
    }

    fn mark_queued(&mut self, id: ExchangeId) -> Option<ExchangeId> {
        let exchange = self.exchanges.get_mut(id)?;
        exchange.state = ExchangeState::Queued;
        Some(id)
    }
}

impl Worker {
    fn revoke_oldest(&mut self, exchanges: &ExchangeTable) -> Option<ExchangeId> {
        let candidates: Vec<_> = self.assigned_ids().collect();
        self.revoke_first(candidates.into_iter(), exchanges)
    }

    fn revoke_newest(&mut self, exchanges: &ExchangeTable) -> Option<ExchangeId> {
        let candidates: Vec<_> = self.assigned_ids().rev().collect();
        self.revoke_first(candidates.into_iter(), exchanges)
    }

    /// The newest that has not been passed on too often.
    fn revoke_movable(&mut self, exchanges: &ExchangeTable) -> Option<ExchangeId> {
        let is_movable =
            |id: &ExchangeId| exchanges.get(*id).is_some_and(|exchange| exchange.moves < MAX_MOVES);
        let candidates: Vec<_> = self.assigned_ids().rev().filter(is_movable).collect();
        self.revoke_first(candidates.into_iter(), exchanges)
    }

    fn revoke_first(
        &mut self,
        candidates: impl Iterator<Item = ExchangeId>,
        exchanges: &ExchangeTable,
    ) -> Option<ExchangeId> {
        for id in candidates {
            let exchange = exchanges.get(id)?;
            let ExchangeState::Assigned { position, .. } = exchange.state else { continue };
            // A request that only this worker may answer stays here.
            let is_movable = !exchange.is_client_done() && !exchange.pinned;
            if is_movable && self.take_back(position) {
                if exchange.has_body_fd() {
                    self.send_cancel(id);
                }
                return Some(id);
            }
        }
        None
    }
}
