//! Attaches, admits, retires and removes workers. Requeues, retries or fails the exchanges of a
//! removed worker.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use rgun_channel::control::Command;
use rgun_channel::frame::{ExchangeId, Request};

use crate::escape::RequestPath;
use crate::id::WorkerId;

use super::admission::quarantine::{self, Admission};
use super::exchange::body::BodyTransport;
use super::exchange::table::ExchangeTable;
use super::exchange::{Exchange, ExchangeState};
use super::fault::Fault;
use super::state::{ASGI, WSGI};
use super::worker::Worker;
use super::worker::contract::ContractBreach;
use super::{Dispatcher, Notice, State};
use crate::link::Link;

impl Dispatcher {
    /// Attaches a booting worker: its channel is served, but it gets no exchange yet. A zygote
    /// never gets one.
    pub fn attach(&self, link: Link) {
        let mut state = self.lock();
        let mut worker = Worker::new(link, self.buffers);
        if !state.prefetches {
            worker.load.set_prefetching(false);
        }
        worker.load.set_prefetch_time(state.coalescing.prefetch_time());
        match state.workers.iter().position(Option::is_none) {
            Some(free) => state.workers[free] = Some(worker),
            None => state.workers.push(Some(worker)),
        }
    }

    /// Admits a worker: it gets exchanges from now on. The worker may have been retired before.
    pub fn admit(&self, id: WorkerId) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(index) = state.worker_index(id) else { return };
        let now = Instant::now();
        if !state.has_open_worker() {
            state.queue.mark_served_again(now);
        }
        state.worker_requested = false;
        if let Some(worker) = &mut state.workers[index] {
            worker.is_admitted = true;
            worker.is_retiring = false;
            worker.drained_reported = false;
            let interface = if worker.is_asgi() { ASGI } else { WSGI };
            if self.interface.swap(interface, Relaxed) != interface {
                state.reject_incompatible(interface == ASGI, now);
                self.interface_known.notify_waiters();
            }
        }
        self.refill(state, index, now);
        state.ring_doorbells();
    }

    /// Retires a worker: it gets no more exchanges, its unclaimed exchanges return to the queue,
    /// and its WebSockets begin to close.
    pub fn retire(&self, id: WorkerId) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(index) = state.worker_index(id) else { return };
        let now = Instant::now();
        if let Some(worker) = &mut state.workers[index] {
            worker.is_retiring = true;
        }
        state.requeue(index, usize::MAX);
        state.close_websockets_of(index);
        self.refill_all(state, now);
        state.ring_doorbells();
        state.reject_unservable(now);
        self.request_worker(state);
        let is_drained =
            state.workers[index].as_ref().is_some_and(|worker| worker.is_drained(&state.exchanges));
        if is_drained {
            self.report_drained(state, index, id);
        }
    }

    /// Sends [`Notice::Drained`], once for each retirement.
    pub(super) fn report_drained(&self, state: &mut State, index: usize, id: WorkerId) {
        if let Some(worker) = &mut state.workers[index]
            && !std::mem::replace(&mut worker.drained_reported, true)
        {
            (self.notice)(Notice::Drained(id));
        }
    }

    /// Notes that the daemon is about to kill the worker, or to ask it to exit. Its exchanges fail with
    /// [`Fault::WorkerKilled`] and not with [`Fault::WorkerDied`], and are no causes of its end.
    pub fn mark_stopped(&self, id: WorkerId) {
        let mut state = self.lock();
        if let Some(worker) = state.worker_index(id).and_then(|index| state.workers[index].as_mut()) {
            worker.is_stopped = true;
        }
    }

    /// Fails the requests of an ASGI worker with [`Fault::WorkerKilled`] and cancels their tasks, so
    /// that the worker can exit. A thread of a WSGI worker cannot be cancelled safely.
    pub fn cancel_requests(&self, id: WorkerId) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(index) = state.worker_index(id) else { return };
        let Some(worker) = state.workers[index].as_mut().filter(|worker| worker.is_asgi()) else { return };
        for exchange in state.exchanges.iter_mut() {
            if !exchange.is_assigned_to(index) || exchange.has_ended() {
                continue;
            }
            let waker = exchange.fail(Fault::WorkerKilled(id));
            worker.cancel_task(exchange);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        // The caller is another thread; the reactor's turn may be over.
        state.ring_doorbells();
    }

    /// Detaches a worker whose process has ended.
    pub fn detach(&self, id: WorkerId) {
        let mut state = self.lock();
        let Some(index) = state.worker_index(id) else { return };
        let now = Instant::now();
        // The worker may have completed exchanges before it died.
        self.collect_completions(&mut state, now);
        // The reactor's turn may be over; the next one wakes workers that wait for room.
        self.reactor.ring();
        self.remove_worker(&mut state, index, now);
    }

    /// Sends a command over the worker socket.
    ///
    /// # Errors
    /// `sendmsg(2)` failed. A command to a worker that is not attached any more is dropped.
    pub fn command(&self, id: WorkerId, command: &Command) -> io::Result<()> {
        let state = self.lock();
        match state.worker_index(id).and_then(|index| state.workers[index].as_ref()) {
            Some(worker) => worker.channel.send_command(command, &[]),
            None => Ok(()),
        }
    }

    /// Expects one more report of the worker's stacks, which does not count towards its limit. The
    /// caller must call this before it requests the stacks, because the report may come at once.
    pub fn expect_stacks(&self, id: WorkerId) {
        let mut state = self.lock();
        if let Some(index) = state.worker_index(id)
            && let Some(worker) = &mut state.workers[index]
        {
            worker.expect_stacks();
        }
    }

    /// Reads the worker socket until it is empty, and passes the reports to the supervisor.
    /// Returns false when the worker has closed it; the worker is then removed.
    pub fn read_reports(&self, id: WorkerId) -> bool {
        let mut state = self.lock();
        let Some(index) = state.worker_index(id) else { return false };
        let Some(worker) = &mut state.workers[index] else { return false };
        match worker.read_reports(&self.notice) {
            Ok(true) => true,
            Ok(false) => {
                let now = Instant::now();
                // The worker may have completed exchanges before it closed the socket.
                self.collect_completions(&mut state, now);
                self.reactor.ring();
                // A completion that breaks the contract has removed the worker already.
                if state.worker_index(id).is_some() {
                    (self.notice)(Notice::WorkerSocketClosed(id));
                    self.remove_worker(&mut state, index, now);
                }
                false
            }
            Err(breach) => {
                self.fail_worker(&mut state, index, &breach);
                false
            }
        }
    }

    /// Removes a worker that broke the contract, and reports it to the supervisor.
    pub(super) fn fail_worker(&self, state: &mut State, index: usize, breach: &ContractBreach) {
        if let Some(worker) = &state.workers[index] {
            (self.notice)(Notice::ContractBreached(worker.id, breach.to_string()));
        }
        self.remove_worker(state, index, Instant::now());
    }

    /// Removes a worker. Its unclaimed exchanges return to the queue. Each claimed one may have
    /// caused a crash; it is retried in another worker, or answered with [`Fault::WorkerDied`] or
    /// [`Fault::WorkerKilled`].
    fn remove_worker(&self, state: &mut State, index: usize, now: Instant) {
        let Some(mut worker) = state.workers[index].take() else { return };
        let mut started = Vec::new();
        for id in worker.load.drain() {
            let Some(exchange) = state.exchanges.get_mut(id) else { continue };
            let ExchangeState::Assigned { position, .. } = exchange.state else { continue };
            if !worker.channel.submissions.revoke(position) {
                started.push(id);
                if !exchange.attempt.deadline_exceeded {
                    worker.count_response(true);
                }
            } else if exchange.is_client_done() || exchange.is_pinned {
                state.fail(id, Fault::WorkerDied(worker.id), now);
            } else {
                exchange.state = ExchangeState::Queued;
                state.queue.reinsert(id, exchange.ready_at);
            }
        }
        state.load_stats.retain_stats(worker.generation, worker.responses);
        // A retiring worker ends by itself or is killed. A worker that was never admitted had only
        // probes.
        let is_crash = worker.is_admitted && !worker.is_retiring && !worker.is_stopped;
        self.report_lost(state, &worker, &started, now);
        let has_blocked = is_crash && self.record_crashes(state, &started, now);
        for id in started {
            let is_retried = is_crash && state.requeue_for_retry(id, now);
            if !is_retried {
                let fault = if worker.is_stopped { Fault::WorkerKilled } else { Fault::WorkerDied };
                state.fail(id, fault(worker.id), now);
            } else if let Some(exchange) = state.exchanges.get(id) {
                (self.notice)(Notice::Retried(
                    worker.id,
                    exchange.request_info(worker.channel.thread_of(exchange.id), now),
                ));
            }
        }
        if has_blocked {
            state.reject_quarantined(now);
        }
        self.refill_all(state, now);
        state.reject_unservable(now);
        self.request_worker(state);
        state.ring_doorbells();
    }

    /// Reports the claimed exchanges of a removed worker, for the log.
    fn report_lost(&self, state: &State, worker: &Worker, started: &[ExchangeId], now: Instant) {
        let exchanges = started.iter().filter_map(|id| state.exchanges.get(*id));
        let requests: Vec<_> = exchanges
            .filter(|exchange| !exchange.attempt.deadline_exceeded)
            .map(|exchange| exchange.request_info(worker.channel.thread_of(exchange.id), now))
            .collect();
        if !requests.is_empty() {
            (self.notice)(Notice::WorkerDied { worker: worker.id, requests });
        }
    }

    /// Records the exchanges that a crashed worker had claimed as possible causes of the crash.
    /// Leaves out probes, exchanges past their deadline, and those with a response head. Returns
    /// whether a request is quarantined as a result.
    fn record_crashes(&self, state: &mut State, started: &[ExchangeId], now: Instant) -> bool {
        let State { exchanges, quarantine, .. } = state;
        let mut seen = HashSet::new();
        let mut has_blocked = false;
        let candidates = started.iter().rev().filter_map(|id| exchanges.get(*id));
        let candidates = candidates.filter(|exchange| {
            !exchange.attempt.deadline_exceeded && !exchange.is_pinned && !exchange.has_head()
        });
        let candidates = candidates.filter_map(Exchange::request);
        let candidates = candidates.filter(|request| seen.insert((request.method, request.path)));
        for Request { method, path, .. } in candidates.take(quarantine::MAX_FINGERPRINTS) {
            if let Some(duration) = quarantine.record_crash(method, path, now) {
                has_blocked = true;
                let method = String::from_utf8_lossy(method).into_owned();
                (self.notice)(Notice::Quarantined { method, path: RequestPath::new(path), duration });
            }
        }
        has_blocked
    }
}

impl State {
    /// Frees chunks that slow clients hold, and wakes workers that wait for room. Called on the
    /// reactor's thread, when the tasks of all connections have run.
    pub(super) fn end_turn(&mut self) {
        for worker in self.workers.iter_mut().flatten() {
            worker.channel.end_turn();
        }
    }

    /// Queues a request again after its worker died, if retries are enabled, the request is not
    /// quarantined, and a retry is safe: the method is idempotent (RFC 9110 §9.2.2) and the client
    /// has received no part of a response. Returns whether the request was queued.
    fn requeue_for_retry(&mut self, id: ExchangeId, now: Instant) -> bool {
        let State { policy, exchanges, quarantine, queue, unavailable, .. } = self;
        if !policy.retry_idempotent || unavailable.is_some() {
            return false;
        }
        let Some(exchange) = exchanges.get_mut(id) else { return false };
        let can_retry = exchange.request().is_some_and(|Request { method, path, .. }| {
            let is_idempotent =
                matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE" | b"TRACE");
            is_idempotent && quarantine.admission(method, path, now, |_| false) == Admission::Allowed
        });
        if !can_retry || !exchange.reset_for_retry(now) {
            return false;
        }
        queue.insert(id, now);
        true
    }

    /// Rejects waiting requests that have just been quarantined, because they would crash more
    /// workers. Revokes unclaimed requests from the workers' rings first, because they are waiting,
    /// too.
    fn reject_quarantined(&mut self, now: Instant) {
        for index in 0..self.workers.len() {
            self.requeue(index, usize::MAX);
        }
        let waiting: Vec<_> = self.queue.iter().chain(self.rules.held()).collect();
        for id in waiting {
            let Some(Request { method, path, .. }) = self.exchanges.get(id).and_then(Exchange::request)
            else {
                continue;
            };
            if let Admission::Blocked(remaining) = self.quarantine.admission(method, path, now, |_| false) {
                self.fail(id, Fault::Quarantined(remaining), now);
            }
        }
    }

    /// Rejects waiting requests whose body travels in a way that the application's new interface
    /// does not accept. A WebSocket handshake becomes a takeover for WSGI.
    fn reject_incompatible(&mut self, is_asgi: bool, now: Instant) {
        let is_incompatible = |transport| match transport {
            BodyTransport::Inline | BodyTransport::WebSocket => false,
            BodyTransport::Descriptor => is_asgi,
            BodyTransport::Parts => !is_asgi,
        };
        let waiting: Vec<_> = self.queue.iter().chain(self.rules.held()).collect();
        for id in waiting {
            let Some(exchange) = self.exchanges.get_mut(id) else { continue };
            if !is_asgi {
                exchange.offer_takeover();
            }
            if is_incompatible(exchange.transport()) {
                let reason = "its interface has just changed";
                self.fail(id, Fault::Unavailable(Arc::from(reason)), now);
            }
        }
    }

    /// Returns whether this request is a trial: the first after a block, which decides whether the
    /// block ends.
    ///
    /// # Errors
    /// Requests like this one are blocked.
    pub(super) fn check_quarantine(&self, request: &Request<'_>, now: Instant) -> Result<bool, Fault> {
        let is_under_way = |id| self.exchanges.get(id).is_some();
        match self.quarantine.admission(request.method, request.path, now, is_under_way) {
            Admission::Allowed => Ok(false),
            Admission::Trial => Ok(true),
            Admission::Blocked(remaining) => Err(Fault::Quarantined(remaining)),
        }
    }

    /// Ends the quarantine of requests like this one, which has succeeded.
    pub(super) fn clear_quarantine(&mut self, id: ExchangeId) {
        if let Some(request) = self.exchanges.get(id).and_then(Exchange::request) {
            self.quarantine.record_success(request.method, request.path);
        }
    }
}

impl Worker {
    /// Returns whether the worker has no exchange left, except those past their deadline.
    pub(super) fn is_drained(&self, exchanges: &ExchangeTable) -> bool {
        self.load.n_websockets() == 0
            && self
                .load
                .assigned_ids()
                .all(|id| exchanges.get(id).is_none_or(|exchange| exchange.attempt.deadline_exceeded))
    }
}
