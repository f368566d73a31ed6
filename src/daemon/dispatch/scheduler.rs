//! Which worker gets which request, and when one is taken back again.

use std::os::fd::AsFd;
use std::time::Instant;

use rgun_channel::frame::ExchangeId;

use super::exchange::body::Carriage;
use super::exchange::table::Exchanges;
use super::exchange::{Exchange, Place};
use super::worker::Worker;
use super::{Dispatcher, State};

/// How often a request may be passed on by workers that do not claim it. Between a healthy worker that is slow to
/// wake and one that never does, it meets the healthy one often enough.
const MOST_MOVES: u8 = 16;

impl Dispatcher {
    /// Pushes an exchange into a worker's ring. False when the ring has no room, or the worker is broken; it is then
    /// still where it was, unless it has been given to another or ended with the broken one.
    pub(super) fn give(&self, state: &mut State, worker: usize, id: ExchangeId, now: Instant) -> bool {
        let Some((exchange, worker_state)) = state.pair(id, worker) else { return false };
        if !worker_state.takes(exchange.carriage()) {
            return false;
        }
        let body = exchange.body.as_ref().map(|body| body.fd.as_fd());
        let pushed = worker_state.push(id, &exchange.frame, body, exchange.limit, now);
        match pushed {
            Ok(Some(position)) => {
                exchange.place = Place::Given { worker, position };
                exchange.given = Some(now);
                exchange.worker = Some(worker_state.id);
                if exchange.half_closed {
                    worker_state.say_half_closed(exchange);
                }
                let wait = now.saturating_duration_since(exchange.ready);
                state.gauge.note_wait(wait);
                state.deferred += 1;
                true
            }
            Ok(None) => false,
            Err(why) => {
                self.condemn(state, worker, why.as_str());
                false
            }
        }
    }

    /// Gives queued exchanges to a worker that has room, and to nobody else's disadvantage.
    pub(super) fn refill(&self, state: &mut State, index: usize, now: Instant) {
        while let Some(id) = state.queue.next(now) {
            let carriage = state.carriage(id);
            let has_room = state.workers[index].as_ref().is_some_and(|worker| worker.has_room(carriage));
            if !has_room || !self.give(state, index, id, now) {
                return;
            }
            state.queue.depart(id, now);
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
                .filter_map(|(other, worker)| Some((other, worker.as_ref()?.backlog(now)?)))
                .max_by_key(|(_, wait)| *wait);
            let Some((victim, _)) = victim else { return };
            let Some(id) = state.revoke_oldest(victim) else { return };
            if !self.give(state, index, id, now) {
                state.queue_again(id);
                return;
            }
        }
    }

    /// Gives what is queued to whoever has room.
    pub(super) fn refill_all(&self, state: &mut State, now: Instant) {
        while let Some(id) = state.queue.next(now) {
            let carriage = state.carriage(id);
            let Some(index) = state.choose(carriage) else { return };
            if !self.give(state, index, id, now) {
                return;
            }
            state.queue.depart(id, now);
        }
    }
}

/// How bad a choice a worker is: it has let things lie, it has no idle slot, it is busy.
type Rank = (bool, bool, (u32, u32));

impl State {
    fn carriage(&self, id: ExchangeId) -> Carriage {
        self.exchanges.get(id).map_or(Carriage::Frame, Exchange::carriage)
    }

    fn pair(&mut self, id: ExchangeId, worker: usize) -> Option<(&mut Exchange, &mut Worker)> {
        Some((self.exchanges.get_mut(id)?, self.workers.get_mut(worker)?.as_mut()?))
    }

    /// The worker that can start a request soonest, if one can take it now: one with an idle slot before
    /// one that is merely fast, the least busy first; at last one that has lately let lie what it was given.
    pub(super) fn choose(&self, carriage: Carriage) -> Option<usize> {
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
    pub(super) fn idle_beside(&self, index: usize) -> Option<usize> {
        let others = self.workers.iter().enumerate().filter(|(other, _)| *other != index);
        let idle = others.filter_map(|(other, worker)| Some((other, worker.as_ref()?)));
        let idle = idle.filter(|(_, worker)| worker.can_help());
        idle.min_by_key(|(_, worker)| (worker.stalled, worker.load(Carriage::Frame))).map(|(other, _)| other)
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
        self.take_back(id)
    }

    fn revoke_oldest(&mut self, index: usize) -> Option<ExchangeId> {
        let worker = self.workers[index].as_mut()?;
        let id = worker.revoke_oldest(&self.exchanges)?;
        self.take_back(id)
    }

    /// Takes up to `most` unclaimed exchanges back from a worker, newest first, to their places in the queue.
    pub(super) fn requeue(&mut self, index: usize, most: usize) {
        for _ in 0..most {
            let Some(worker) = self.workers[index].as_mut() else { return };
            let newest = worker.revoke_newest(&self.exchanges);
            let Some(id) = newest.and_then(|id| self.take_back(id)) else { return };
            self.queue_again(id);
        }
    }

    /// It has waited for as long as if it had never been given to anybody.
    pub(super) fn queue_again(&mut self, id: ExchangeId) {
        if let Some(exchange) = self.exchanges.get(id) {
            self.queue.put_back(id, exchange.ready);
        }
    }

    fn take_back(&mut self, id: ExchangeId) -> Option<ExchangeId> {
        let exchange = self.exchanges.get_mut(id)?;
        exchange.place = Place::Queued;
        Some(id)
    }
}

impl Worker {
    fn revoke_oldest(&mut self, exchanges: &Exchanges) -> Option<ExchangeId> {
        let candidates: Vec<_> = self.given_ids().collect();
        self.revoke_first(candidates.into_iter(), exchanges)
    }

    fn revoke_newest(&mut self, exchanges: &Exchanges) -> Option<ExchangeId> {
        let candidates: Vec<_> = self.given_ids().rev().collect();
        self.revoke_first(candidates.into_iter(), exchanges)
    }

    /// The newest that has not been passed on too often.
    fn revoke_movable(&mut self, exchanges: &Exchanges) -> Option<ExchangeId> {
        let is_movable =
            |id: &ExchangeId| exchanges.get(*id).is_some_and(|exchange| exchange.moves < MOST_MOVES);
        let candidates: Vec<_> = self.given_ids().rev().filter(is_movable).collect();
        self.revoke_first(candidates.into_iter(), exchanges)
    }

    fn revoke_first(
        &mut self,
        candidates: impl Iterator<Item = ExchangeId>,
        exchanges: &Exchanges,
    ) -> Option<ExchangeId> {
        for id in candidates {
            let exchange = exchanges.get(id)?;
            let Place::Given { position, .. } = exchange.place else { continue };
            // A request that only this worker may answer stays here.
            let is_movable = !exchange.client_is_through() && !exchange.pinned;
            if is_movable && self.take_back(position) {
                if exchange.has_body_fd() {
                    self.forget(id);
                }
                return Some(id);
            }
        }
        None
    }
}
