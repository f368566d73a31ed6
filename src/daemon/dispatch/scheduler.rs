//! Chooses the worker for each request, and revokes requests that another worker can start sooner.

use std::cmp::Reverse;
use std::os::fd::AsFd;
use std::time::Instant;

use rgun_channel::frame::ExchangeId;

use super::exchange::body::BodyTransport;
use super::exchange::response_parts::RequestBody;
use super::exchange::table::ExchangeTable;
use super::exchange::{Exchange, ExchangeState};
use super::worker::{RequestRecord, Worker};
use super::{Dispatcher, State};

/// Maximum number of times that a request is moved from a worker that does not claim it. If one
/// worker is slow to wake and another never wakes, 16 moves give the slow one enough chances.
const MAX_MOVES: u8 = 16;

impl Dispatcher {
    /// Pushes an exchange into a worker's ring. Returns false if the ring has no room or the worker
    /// has failed. The exchange then keeps its state, unless the worker's failure has requeued or
    /// ended it.
    pub(super) fn assign(&self, state: &mut State, worker: usize, id: ExchangeId, now: Instant) -> bool {
        let Some((exchange, worker_state)) = state.exchange_and_worker(id, worker) else { return false };
        if !worker_state.load.accepts(exchange.transport()) {
            return false;
        }
        let socket = match exchange.open_socket() {
            Ok(socket) => socket,
            Err(error) => {
                // No descriptor is free. The request waits, as it does when the ring is full.
                tracing::debug!(%error, "cannot create a socket pair, the request waits");
                return false;
            }
        };
        let (inline, body_fd) = match &exchange.body {
            Some(RequestBody::Inline(bytes)) => (&bytes[..], None),
            Some(RequestBody::Spooled(body)) => (&[][..], Some(body.fd.as_fd())),
            None => (&[][..], socket.as_ref().map(AsFd::as_fd)),
        };
        let record = RequestRecord { frame: &exchange.frame, body: inline, fd: body_fd };
        let pushed = worker_state.push(id, record, exchange.timeout, now);
        match pushed {
            Ok(Some(position)) => {
                exchange.state = ExchangeState::Assigned { worker, position };
                exchange.attempt.assigned_at = Some(now);
                exchange.attempt.worker = Some(worker_state.id);
                if exchange.half_closed {
                    worker_state.send_half_close(exchange);
                }
                if socket.is_some()
                    && let Some(waker) = &exchange.waker
                {
                    // The connection's task takes the other end of the socket pair.
                    waker.wake_by_ref();
                }
                let ready_at = exchange.ready_at;
                // Most requests do not wait.
                let wait = now.saturating_duration_since(ready_at);
                if wait.is_zero() {
                    state.load_stats.waits.record_none();
                } else {
                    state.load_stats.record_wait(wait);
                    state.load_stats.waits.record(wait);
                }
                state.coalescing.record_wait(wait, now);
                state.unrung_submissions += 1;
                true
            }
            Ok(None) => false,
            Err(breach) => {
                self.fail_worker(state, worker, &breach);
                false
            }
        }
    }

    /// Assigns queued exchanges to a worker that has room, then steals for its idle slots.
    pub(super) fn refill(&self, state: &mut State, index: usize, now: Instant) {
        while let Some(id) = state.queue.peek(now) {
            let transport = state.transport(id);
            let has_room = state.workers[index].as_ref().is_some_and(|worker| worker.has_room(transport));
            if !has_room || !self.assign(state, index, id, now) {
                return;
            }
            state.queue.remove_assigned(id, now);
        }
        self.steal(state, index, now);
    }

    /// Moves prefetched exchanges from other workers to this worker's idle slots, if their wait at
    /// the other worker would be long enough to be worth a wake-up.
    fn steal(&self, state: &mut State, index: usize, now: Instant) {
        while state.workers[index].as_ref().is_some_and(|worker| worker.idle_slots() > 0) {
            let victim = state
                .workers
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .filter_map(|(other, worker)| Some((other, worker.as_ref()?.load.prefetch_wait(now)?)))
                .max_by_key(|(_, wait)| *wait);
            let Some((victim, _)) = victim else { return };
            let Some(id) = state.revoke_oldest(victim) else { return };
            if !self.assign(state, index, id, now) {
                state.return_to_queue(id);
                return;
            }
        }
    }

    /// Assigns queued requests after the end of an exchange. `freed`: the worker that had it.
    pub(super) fn refill_freed(&self, state: &mut State, freed: Option<usize>, now: Instant) {
        if let Some(freed) = freed {
            self.refill(state, freed, now);
        }
        // The exchange may have released a permit, or may have held up requests behind it in the
        // queue.
        if !state.queue.is_empty() {
            self.refill_all(state, now);
        }
    }

    /// Assigns queued exchanges to the workers that have room.
    pub(super) fn refill_all(&self, state: &mut State, now: Instant) {
        while let Some(id) = state.queue.peek(now) {
            let transport = state.transport(id);
            let Some(index) = state.choose_worker(transport) else { return };
            if !self.assign(state, index, id, now) {
                return;
            }
            state.queue.remove_assigned(id, now);
        }
    }
}

/// Orders the workers for a request; the lowest is chosen. The pairs are ranks (`WorkerLoad::rank`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// The worker is awake, and will start the request before another worker would be awake. The
    /// worker with the most requests is preferred: fewer workers then share the processors' caches.
    Warm(Reverse<u32>),
    /// The worker has an idle slot.
    Idle((u32, u32)),
    /// The request is prefetched.
    Ahead((u32, u32)),
}

impl State {
    /// Returns how the body of a queued exchange travels.
    fn transport(&self, id: ExchangeId) -> BodyTransport {
        self.exchanges.get(id).map_or(BodyTransport::Inline, Exchange::transport)
    }

    fn exchange_and_worker(&mut self, id: ExchangeId, worker: usize) -> Option<(&mut Exchange, &mut Worker)> {
        Some((self.exchanges.get_mut(id)?, self.workers.get_mut(worker)?.as_mut()?))
    }

    /// Returns the worker for a request, if one has room. Prefers workers that are not stalled, then
    /// those that are awake and have only quick requests, then those with an idle slot, then the
    /// least busy.
    pub(super) fn choose_worker(&self, transport: BodyTransport) -> Option<usize> {
        let mut best: Option<(usize, (bool, Fit))> = None;
        for (index, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            if !worker.has_room(transport) {
                continue;
            }
            let fit = (worker.load.is_stalled, worker.fit(transport));
            if best.is_none_or(|(_, other)| fit < other) {
                best = Some((index, fit));
            }
        }
        best.map(|(index, _)| index)
    }

    /// Returns a worker other than `index` that has an idle slot, preferably one that is not
    /// stalled.
    pub(super) fn other_idle_worker(&self, index: usize) -> Option<usize> {
        let others = self.workers.iter().enumerate().filter(|(other, _)| *other != index);
        let others = others.filter_map(|(other, worker)| Some((other, worker.as_ref()?)));
        let idle = others.filter(|(_, worker)| worker.can_help());
        idle.min_by_key(|(_, worker)| (worker.load.is_stalled, worker.load.rank(BodyTransport::Inline)))
            .map(|(other, _)| other)
    }

    /// Returns whether every open worker has a backlog. False if no worker is open.
    pub(super) fn is_saturated(&self) -> bool {
        let mut open = self.workers.iter().flatten().filter(|worker| worker.is_open()).peekable();
        open.peek().is_some() && open.all(Worker::is_saturated)
    }

    /// Revokes the worker's newest exchange that may be moved.
    pub(super) fn revoke_movable(&mut self, index: usize) -> Option<ExchangeId> {
        let worker = self.workers[index].as_mut()?;
        let id = worker.revoke_movable(&self.exchanges)?;
        self.exchanges.get_mut(id)?.attempt.n_moves += 1;
        self.mark_queued(id)
    }

    fn revoke_oldest(&mut self, index: usize) -> Option<ExchangeId> {
        let worker = self.workers[index].as_mut()?;
        let id = worker.revoke_oldest(&self.exchanges)?;
        self.mark_queued(id)
    }

    /// Revokes up to `max` unclaimed exchanges of a worker, newest first, and returns them to the
    /// queue.
    pub(super) fn requeue(&mut self, index: usize, max: usize) {
        for _ in 0..max {
            let Some(worker) = self.workers[index].as_mut() else { return };
            let newest = worker.revoke_newest(&self.exchanges);
            let Some(id) = newest.and_then(|id| self.mark_queued(id)) else { return };
            self.return_to_queue(id);
        }
    }

    /// Returns a revoked exchange to the queue, with the time it has waited.
    pub(super) fn return_to_queue(&mut self, id: ExchangeId) {
        if let Some(exchange) = self.exchanges.get(id) {
            self.queue.reinsert(id, exchange.ready_at);
        }
    }

    /// Marks a revoked exchange as queued.
    fn mark_queued(&mut self, id: ExchangeId) -> Option<ExchangeId> {
        let exchange = self.exchanges.get_mut(id)?;
        exchange.state = ExchangeState::Queued;
        Some(id)
    }
}

impl Worker {
    /// Returns how well the worker, which has room, suits a request.
    fn fit(&self, transport: BodyTransport) -> Fit {
        if self.load.starts_next_soon() {
            Fit::Warm(Reverse(self.load.n_assigned()))
        } else if self.idle_slots() > 0 {
            Fit::Idle(self.load.rank(transport))
        } else {
            Fit::Ahead(self.load.rank(transport))
        }
    }

    fn revoke_oldest(&mut self, exchanges: &ExchangeTable) -> Option<ExchangeId> {
        let candidates: Vec<_> = self.load.assigned_ids().collect();
        self.revoke_first(candidates.into_iter(), exchanges)
    }

    fn revoke_newest(&mut self, exchanges: &ExchangeTable) -> Option<ExchangeId> {
        let candidates: Vec<_> = self.load.assigned_ids().rev().collect();
        self.revoke_first(candidates.into_iter(), exchanges)
    }

    /// Revokes the newest exchange that has not been moved too often.
    fn revoke_movable(&mut self, exchanges: &ExchangeTable) -> Option<ExchangeId> {
        let is_movable =
            |id: &ExchangeId| exchanges.get(*id).is_some_and(|exchange| exchange.attempt.n_moves < MAX_MOVES);
        let candidates: Vec<_> = self.load.assigned_ids().rev().filter(is_movable).collect();
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
            // A probe stays with its worker.
            let is_movable = !exchange.is_client_done() && !exchange.is_pinned;
            if is_movable && self.revoke_silently(position) {
                if exchange.has_body_fd() {
                    self.channel.send_cancel(id);
                }
                return Some(id);
            }
        }
        None
    }
}
