//! Workers come, are admitted, retire, and are lost; and what becomes of what they had.

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
use super::link::Link;
use super::state::{ASGI, WSGI};
use super::worker::Worker;
use super::{Dispatcher, Notice, State};

impl Dispatcher {
    /// Adds a worker that is booting: its channel is served, it gets no exchange yet. A zygote never will.
    pub fn attach(&self, link: Link) {
        let mut state = self.lock();
        let worker = Worker::new(link, self.buffers);
        match state.workers.iter().position(Option::is_none) {
            Some(free) => state.workers[free] = Some(worker),
            None => state.workers.push(Some(worker)),
        }
    }

    /// The worker may be given exchanges, also if it had retired.
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
            worker.admitted = true;
            worker.retiring = false;
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

    /// The worker gets nothing new; what it has not started goes to others.
    pub fn retire(&self, id: WorkerId) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(index) = state.worker_index(id) else { return };
        let now = Instant::now();
        if let Some(worker) = &mut state.workers[index] {
            worker.retiring = true;
        }
        state.requeue(index, usize::MAX);
        state.close_websockets_of(index);
        self.refill_all(state, now);
        state.ring_doorbells();
        state.reject_unservable(now);
        self.request_worker(state);
        let drained = state.workers[index].as_ref().is_some_and(|worker| worker.is_drained(&state.exchanges));
        if drained {
            self.report_drained(state, index, id);
        }
    }

    pub(super) fn report_drained(&self, state: &mut State, index: usize, id: WorkerId) {
        if let Some(worker) = &mut state.workers[index]
            && !std::mem::replace(&mut worker.drained_reported, true)
        {
            (self.notice)(Notice::Drained(id));
        }
    }

    /// The worker is about to be killed because its time is over: what it has is not its fault.
    pub fn mark_killed(&self, id: WorkerId) {
        let mut state = self.lock();
        if let Some(worker) = state.worker_index(id).and_then(|index| state.workers[index].as_mut()) {
            worker.is_killed = true;
        }
    }

    /// The worker's process is gone.
    pub fn detach(&self, id: WorkerId) {
        let mut state = self.lock();
        let Some(index) = state.worker_index(id) else { return };
        let now = Instant::now();
        // What it completed before it died counts.
        self.collect_completions(&mut state, now);
        self.remove_worker(&mut state, index, now);
    }

    /// Sends a command over a worker's control socket.
    ///
    /// # Errors
    /// What `sendmsg(2)` says; nothing happens when the worker is not attached any more.
    pub fn command(&self, id: WorkerId, command: &Command) -> io::Result<()> {
        let state = self.lock();
        match state.worker_index(id).and_then(|index| state.workers[index].as_ref()) {
            Some(worker) => worker.send_command(command, &[]),
            None => Ok(()),
        }
    }

    /// The worker is about to be asked for its stacks: one more answer to that is expected, and not held against it. To
    /// be called before each question, because the answer may be there before the asker looks again.
    pub fn expect_stacks(&self, id: WorkerId) {
        let mut state = self.lock();
        if let Some(index) = state.worker_index(id)
            && let Some(worker) = &mut state.workers[index]
        {
            worker.expect_stacks();
        }
    }

    /// Reads everything on a worker's control socket; what is said there goes to the supervisor. False
    /// when the worker has closed it (it is then lost).
    pub fn pump_control(&self, id: WorkerId) -> bool {
        let mut state = self.lock();
        let Some(index) = state.worker_index(id) else { return false };
        let Some(worker) = &mut state.workers[index] else { return false };
        match worker.pump_control(&self.notice) {
            Ok(true) => true,
            Ok(false) => {
                let now = Instant::now();
                // What it completed before it closed counts.
                self.collect_completions(&mut state, now);
                // Unless that found a breach of contract.
                if state.worker_index(id).is_some() {
                    (self.notice)(Notice::ControlSocketClosed(id));
                    self.remove_worker(&mut state, index, now);
                }
                false
            }
            Err(why) => {
                self.fail_worker(&mut state, index, &why);
                false
            }
        }
    }

    /// The worker broke the contract: nothing of it is used any more, and the supervisor is told.
    pub(super) fn fail_worker(&self, state: &mut State, index: usize, why: &str) {
        if let Some(worker) = &state.workers[index] {
            (self.notice)(Notice::ContractBreached(worker.id, why.to_owned()));
        }
        self.remove_worker(state, index, Instant::now());
    }

    /// The worker is gone: what it had not started goes back to the queue; what it had is tried once more elsewhere or
    /// answered with [`Fault::WorkerDied`], and is suspected of having killed it.
    fn remove_worker(&self, state: &mut State, index: usize, now: Instant) {
        let Some(mut worker) = state.workers[index].take() else { return };
        let mut started = Vec::new();
        for id in worker.drain_running() {
            let Some(exchange) = state.exchanges.get_mut(id) else { continue };
            let ExchangeState::Assigned { position, .. } = exchange.state else { continue };
            if !worker.submissions.revoke(position) {
                started.push(id);
                if !exchange.deadline_exceeded {
                    worker.count_answer(true);
                }
            } else if exchange.is_client_done() || exchange.pinned {
                state.fail(id, Fault::WorkerDied(worker.id), now);
            } else {
                exchange.state = ExchangeState::Queued;
                state.queue.reinsert(id, exchange.ready_at);
            }
        }
        state.load_stats.retain_stats(worker.generation, worker.responses);
        // One that retires leaves because it was told to, in the end by force; one that was never admitted had probes.
        let by_itself = worker.admitted && !worker.retiring;
        self.report_lost(state, &worker, &started, now);
        let shut_out = by_itself && self.record_crashes(state, &started, now);
        for id in started {
            let is_retried = by_itself && state.requeue_for_retry(id, now);
            if !is_retried {
                let fault = if worker.is_killed { Fault::WorkerKilled } else { Fault::WorkerDied };
                state.fail(id, fault(worker.id), now);
            } else if let Some(exchange) = state.exchanges.get(id) {
                (self.notice)(Notice::Retried(
                    worker.id,
                    exchange.request_info(worker.thread_of(exchange.id), now),
                ));
            }
        }
        if shut_out {
            state.reject_quarantined(now);
        }
        self.refill_all(state, now);
        state.reject_unservable(now);
        self.request_worker(state);
        state.ring_doorbells();
    }

    fn report_lost(&self, state: &State, worker: &Worker, started: &[ExchangeId], now: Instant) {
        let exchanges = started.iter().filter_map(|id| state.exchanges.get(*id));
        let asked: Vec<_> = exchanges
            .filter(|exchange| !exchange.deadline_exceeded)
            .map(|exchange| exchange.request_info(worker.thread_of(exchange.id), now))
            .collect();
        if !asked.is_empty() {
            (self.notice)(Notice::WorkerDied { worker: worker.id, requests: asked });
        }
    }

    /// Suspects what had started in a worker that died by itself, but for what had an answer's head. True if something is shut out because of it.
    fn record_crashes(&self, state: &mut State, started: &[ExchangeId], now: Instant) -> bool {
        let State { exchanges, quarantine, .. } = state;
        let mut seen = HashSet::new();
        let mut shut_out = false;
        let candidates = started.iter().rev().filter_map(|id| exchanges.get(*id));
        let candidates = candidates
            .filter(|exchange| !exchange.deadline_exceeded && !exchange.pinned && !exchange.has_head());
        let candidates = candidates.filter_map(Exchange::request);
        let candidates = candidates.filter(|request| seen.insert((request.method, request.path)));
        for Request { method, path, .. } in candidates.take(quarantine::MAX_FINGERPRINTS) {
            if let Some(for_) = quarantine.record_crash(method, path, now) {
                shut_out = true;
                let method = String::from_utf8_lossy(method).into_owned();
                (self.notice)(Notice::Quarantined { method, path: RequestPath::new(path), duration: for_ });
            }
        }
        shut_out
    }
}

impl State {
    /// Puts a request whose worker died into the queue again, if it may be tried twice. Then nothing has been said of
    /// it to its client, and nothing that two attempts do is worse than one (RFC 9110 §9.2.2).
    fn requeue_for_retry(&mut self, id: ExchangeId, now: Instant) -> bool {
        let State { policy, exchanges, quarantine, queue, unavailable, .. } = self;
        if !policy.retry_idempotent || unavailable.is_some() {
            return false;
        }
        let Some(exchange) = exchanges.get_mut(id) else { return false };
        let is_innocent = exchange.request().is_some_and(|Request { method, path, .. }| {
            let is_idempotent =
                matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE" | b"TRACE");
            is_idempotent && quarantine.admission(method, path, now, |_| false) == Admission::Allowed
        });
        if !is_innocent || !exchange.reset_for_retry(now) {
            return false;
        }
        queue.insert(id, now);
        true
    }

    /// Requests that wait and are like those that have just been shut out would only end further workers: also those
    /// that wait in a worker's ring.
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
            if let Admission::Blocked(pause) = self.quarantine.admission(method, path, now, |_| false) {
                self.fail(id, Fault::Quarantined(pause), now);
            }
        }
    }

    /// The application is called in another way from now on: requests that wait with a body that only the former kind
    /// of workers takes would wait for ever. To WSGI a handshake is a request like any other.
    fn reject_incompatible(&mut self, asgi: bool, now: Instant) {
        let is_unfit = |carriage| match carriage {
            BodyTransport::Inline | BodyTransport::WebSocket => false,
            BodyTransport::Descriptor => asgi,
            BodyTransport::Parts => !asgi,
        };
        let waiting: Vec<_> = self.queue.iter().chain(self.rules.held()).collect();
        for id in waiting {
            let Some(exchange) = self.exchanges.get_mut(id) else { continue };
            if !asgi {
                exchange.downgrade_to_http();
            }
            if is_unfit(exchange.transport()) {
                let reason = "its interface has just changed";
                self.fail(id, Fault::Unavailable(Arc::from(reason)), now);
            }
        }
    }

    /// Is this request to show that requests like it do not end workers any more?
    pub(super) fn check_quarantine(&self, request: &Request<'_>, now: Instant) -> Result<bool, Fault> {
        let is_under_way = |id| self.exchanges.get(id).is_some();
        match self.quarantine.admission(request.method, request.path, now, is_under_way) {
            Admission::Allowed => Ok(false),
            Admission::Trial => Ok(true),
            Admission::Blocked(pause) => Err(Fault::Quarantined(pause)),
        }
    }

    /// It is being answered well: requests like it do not end workers.
    pub(super) fn clear_quarantine(&mut self, id: ExchangeId) {
        if let Some(request) = self.exchanges.get(id).and_then(Exchange::request) {
            self.quarantine.record_success(request.method, request.path);
        }
    }
}

impl Worker {
    /// Has it nothing left that anybody waits for?
    pub(super) fn is_drained(&self, exchanges: &ExchangeTable) -> bool {
        self.n_websockets() == 0
            && self
                .assigned_ids()
                .all(|id| exchanges.get(id).is_none_or(|exchange| exchange.deadline_exceeded))
    }
}
