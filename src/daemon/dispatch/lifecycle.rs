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

use super::admission::quarantine::{self, Entrance};
use super::exchange::body::Carriage;
use super::exchange::table::Exchanges;
use super::exchange::{Exchange, Place};
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
        let Some(index) = state.find(id) else { return };
        let now = Instant::now();
        if !state.is_open() {
            state.queue.restart(now);
        }
        state.wanted = false;
        if let Some(worker) = &mut state.workers[index] {
            worker.admitted = true;
            worker.retiring = false;
            worker.told_drained = false;
            let interface = if worker.is_asgi() { ASGI } else { WSGI };
            if self.interface.swap(interface, Relaxed) != interface {
                state.refuse_unfit(interface == ASGI, now);
                self.known.notify_waiters();
            }
        }
        self.refill(state, index, now);
        state.ring_doorbells();
    }

    /// The worker gets nothing new; what it has not started goes to others.
    pub fn retire(&self, id: WorkerId) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(index) = state.find(id) else { return };
        let now = Instant::now();
        if let Some(worker) = &mut state.workers[index] {
            worker.retiring = true;
        }
        state.requeue(index, usize::MAX);
        state.say_farewell(index);
        self.refill_all(state, now);
        state.ring_doorbells();
        state.refuse_stranded(now);
        self.want(state);
        let drained = state.workers[index].as_ref().is_some_and(|worker| worker.is_drained(&state.exchanges));
        if drained {
            self.tell_drained(state, index, id);
        }
    }

    pub(super) fn tell_drained(&self, state: &mut State, index: usize, id: WorkerId) {
        if let Some(worker) = &mut state.workers[index]
            && !std::mem::replace(&mut worker.told_drained, true)
        {
            (self.notice)(Notice::Drained(id));
        }
    }

    /// The worker is about to be killed because its time is over: what it has is not its fault.
    pub fn cut(&self, id: WorkerId) {
        let mut state = self.lock();
        if let Some(worker) = state.find(id).and_then(|index| state.workers[index].as_mut()) {
            worker.is_cut = true;
        }
    }

    /// The worker's process is gone.
    pub fn detach(&self, id: WorkerId) {
        let mut state = self.lock();
        let Some(index) = state.find(id) else { return };
        let now = Instant::now();
        // What it completed before it died counts.
        self.collect(&mut state, now);
        self.lose(&mut state, index, now);
    }

    /// Sends a command over a worker's control socket.
    ///
    /// # Errors
    /// What `sendmsg(2)` says; nothing happens when the worker is not attached any more.
    pub fn command(&self, id: WorkerId, command: &Command) -> io::Result<()> {
        let state = self.lock();
        match state.find(id).and_then(|index| state.workers[index].as_ref()) {
            Some(worker) => worker.send(command, &[]),
            None => Ok(()),
        }
    }

    /// The worker is about to be asked for its stacks: one more answer to that is expected, and not held against it. To
    /// be called before each question, because the answer may be there before the asker looks again.
    pub fn asked_for_stacks(&self, id: WorkerId) {
        let mut state = self.lock();
        if let Some(index) = state.find(id)
            && let Some(worker) = &mut state.workers[index]
        {
            worker.ask_for_stacks();
        }
    }

    /// Reads everything on a worker's control socket; what is said there goes to the supervisor. False
    /// when the worker has closed it (it is then lost).
    pub fn pump_control(&self, id: WorkerId) -> bool {
        let mut state = self.lock();
        let Some(index) = state.find(id) else { return false };
        let Some(worker) = &mut state.workers[index] else { return false };
        match worker.pump_control(&self.notice) {
            Ok(true) => true,
            Ok(false) => {
                let now = Instant::now();
                // What it completed before it closed counts.
                self.collect(&mut state, now);
                // Unless that found a breach of contract.
                if state.find(id).is_some() {
                    (self.notice)(Notice::HungUp(id));
                    self.lose(&mut state, index, now);
                }
                false
            }
            Err(why) => {
                self.condemn(&mut state, index, &why);
                false
            }
        }
    }

    /// The worker broke the contract: nothing of it is used any more, and the supervisor is told.
    pub(super) fn condemn(&self, state: &mut State, index: usize, why: &str) {
        if let Some(worker) = &state.workers[index] {
            (self.notice)(Notice::Misbehaved(worker.id, why.to_owned()));
        }
        self.lose(state, index, Instant::now());
    }

    /// The worker is gone: what it had not started goes back to the queue; what it had is tried once more elsewhere or
    /// answered with [`Fault::WorkerDied`], and is suspected of having killed it.
    fn lose(&self, state: &mut State, index: usize, now: Instant) {
        let Some(mut worker) = state.workers[index].take() else { return };
        let mut started = Vec::new();
        for id in worker.take_running() {
            let Some(exchange) = state.exchanges.get_mut(id) else { continue };
            let Place::Given { position, .. } = exchange.place else { continue };
            if !worker.submissions.revoke(position) {
                started.push(id);
                if !exchange.overdue {
                    worker.count_answer(true);
                }
            } else if exchange.client_is_through() || exchange.pinned {
                state.fail(id, Fault::WorkerDied(worker.id), now);
            } else {
                exchange.place = Place::Queued;
                state.queue.put_back(id, exchange.ready);
            }
        }
        state.gauge.bury(worker.generation, worker.tally);
        // One that retires leaves because it was told to, in the end by force; one that was never admitted had probes.
        let by_itself = worker.admitted && !worker.retiring;
        self.tell_died(state, &worker, &started, now);
        let shut_out = by_itself && self.accuse(state, &started, now);
        for id in started {
            let is_retried = by_itself && state.begin_again(id, now);
            if !is_retried {
                let fault = if worker.is_cut { Fault::CutOff } else { Fault::WorkerDied };
                state.fail(id, fault(worker.id), now);
            } else if let Some(exchange) = state.exchanges.get(id) {
                (self.notice)(Notice::Retried(worker.id, exchange.asked(worker.thread_of(exchange.id), now)));
            }
        }
        if shut_out {
            state.refuse_shut_out(now);
        }
        self.refill_all(state, now);
        state.refuse_stranded(now);
        self.want(state);
        state.ring_doorbells();
    }

    fn tell_died(&self, state: &State, worker: &Worker, started: &[ExchangeId], now: Instant) {
        let exchanges = started.iter().filter_map(|id| state.exchanges.get(*id));
        let asked: Vec<_> = exchanges
            .filter(|exchange| !exchange.overdue)
            .map(|exchange| exchange.asked(worker.thread_of(exchange.id), now))
            .collect();
        if !asked.is_empty() {
            (self.notice)(Notice::Died { worker: worker.id, asked });
        }
    }

    /// Suspects what had started in a worker that died by itself, but for what had an answer's head. True if something is shut out because of it.
    fn accuse(&self, state: &mut State, started: &[ExchangeId], now: Instant) -> bool {
        let State { exchanges, quarantine, .. } = state;
        let mut seen = HashSet::new();
        let mut shut_out = false;
        let suspects = started.iter().rev().filter_map(|id| exchanges.get(*id));
        let suspects =
            suspects.filter(|exchange| !exchange.overdue && !exchange.pinned && !exchange.has_responded());
        let suspects = suspects.filter_map(Exchange::request);
        let suspects = suspects.filter(|request| seen.insert((request.method, request.path)));
        for Request { method, path, .. } in suspects.take(quarantine::MOST) {
            if let Some(for_) = quarantine.accuse(method, path, now) {
                shut_out = true;
                let method = String::from_utf8_lossy(method).into_owned();
                (self.notice)(Notice::Quarantined { method, path: RequestPath::new(path), for_ });
            }
        }
        shut_out
    }
}

impl State {
    /// Puts a request whose worker died into the queue again, if it may be tried twice. Then nothing has been said of
    /// it to its client, and nothing that two attempts do is worse than one (RFC 9110 §9.2.2).
    fn begin_again(&mut self, id: ExchangeId, now: Instant) -> bool {
        let State { policy, exchanges, quarantine, queue, unavailable, .. } = self;
        if !policy.retry_idempotent || unavailable.is_some() {
            return false;
        }
        let Some(exchange) = exchanges.get_mut(id) else { return false };
        let is_innocent = exchange.request().is_some_and(|Request { method, path, .. }| {
            let is_idempotent =
                matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE" | b"TRACE");
            is_idempotent && quarantine.entrance(method, path, now, |_| false) == Entrance::Open
        });
        if !is_innocent || !exchange.begin_again(now) {
            return false;
        }
        queue.insert(id, now);
        true
    }

    /// Requests that wait and are like those that have just been shut out would only end further workers: also those
    /// that wait in a worker's ring.
    fn refuse_shut_out(&mut self, now: Instant) {
        for index in 0..self.workers.len() {
            self.requeue(index, usize::MAX);
        }
        let waiting: Vec<_> = self.queue.iter().chain(self.rules.waiting()).collect();
        for id in waiting {
            let Some(Request { method, path, .. }) = self.exchanges.get(id).and_then(Exchange::request)
            else {
                continue;
            };
            if let Entrance::Shut(pause) = self.quarantine.entrance(method, path, now, |_| false) {
                self.fail(id, Fault::Quarantined(pause), now);
            }
        }
    }

    /// The application is called in another way from now on: requests that wait with a body that only the former kind
    /// of workers takes would wait for ever. To WSGI a handshake is a request like any other.
    fn refuse_unfit(&mut self, asgi: bool, now: Instant) {
        let is_unfit = |carriage| match carriage {
            Carriage::Frame | Carriage::Messages => false,
            Carriage::Descriptor => asgi,
            Carriage::Parts => !asgi,
        };
        let waiting: Vec<_> = self.queue.iter().chain(self.rules.waiting()).collect();
        for id in waiting {
            let Some(exchange) = self.exchanges.get_mut(id) else { continue };
            if !asgi {
                exchange.forget_handshake();
            }
            if is_unfit(exchange.carriage()) {
                let reason = "its interface has just changed";
                self.fail(id, Fault::Unavailable(Arc::from(reason)), now);
            }
        }
    }

    /// Is this request to show that requests like it do not end workers any more?
    pub(super) fn is_trial(&self, request: &Request<'_>, now: Instant) -> Result<bool, Fault> {
        let is_under_way = |id| self.exchanges.get(id).is_some();
        match self.quarantine.entrance(request.method, request.path, now, is_under_way) {
            Entrance::Open => Ok(false),
            Entrance::Trial => Ok(true),
            Entrance::Shut(pause) => Err(Fault::Quarantined(pause)),
        }
    }

    /// It is being answered well: requests like it do not end workers.
    pub(super) fn clear_suspicion(&mut self, id: ExchangeId) {
        if let Some(request) = self.exchanges.get(id).and_then(Exchange::request) {
            self.quarantine.clear(request.method, request.path);
        }
    }
}

impl Worker {
    /// Has it nothing left that anybody waits for?
    pub(super) fn is_drained(&self, exchanges: &Exchanges) -> bool {
        self.n_sockets() == 0
            && self.given_ids().all(|id| exchanges.get(id).is_none_or(|exchange| exchange.overdue))
    }
}
