//! Collects the workers' completions and wakes the workers, at the beginning and the end of each
//! turn of the reactor.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use rgun_channel::frame::{Completion, CompletionKind};

use super::exchange::Exchange;
use super::spin::MAX_SERVICE_TIME;
use super::worker::Worker;
use super::worker::contract::ContractBreach;
use super::worker::decode;
use super::{Dispatcher, Notice, State};
use crate::link::Reactor;

/// Maximum number of frames taken from one worker at a time. A completion ring holds fewer, so only
/// a worker that publishes while its ring is read reaches the limit.
const MAX_FRAMES: u32 = 16 * 1024;

/// Maximum number of passes over all rings before the reactor polls its sockets.
const MAX_ROUNDS: u32 = 16;

/// The outcome of popping a completion ring.
enum PopOutcome {
    /// The ring has no completion.
    Empty,
    /// A completion was applied; with the waker of the task that waits for it.
    Applied(Option<Waker>),
}

impl Dispatcher {
    /// Ends the reactor's turn: frees chunks that slow clients hold, collects completions, assigns
    /// queued requests, wakes the workers and announces sleep. tokio's `on_thread_park` calls this,
    /// so it must not block for longer than [`super::coalescing`] allows. If it wakes a task, or
    /// wakes the workers only after one more turn ([`super::gathering`]), the reactor does not sleep.
    pub fn before_park(&self) {
        let mut state = self.lock();
        state.end_turn();
        if self.has_served_file.load(Ordering::Relaxed) {
            self.has_served_file.store(false, Ordering::Relaxed);
            state.coalescing.record_file(Instant::now());
        }
        self.announce_delay(&mut state);
        if state.begins_gathering() {
            self.reactor.ring();
            return;
        }
        let mut may_wait = true;
        for _ in 0..MAX_ROUNDS {
            let woken = self.collect_now(&mut state);
            // An event loop that slept takes the requests at once, and may finish none of them soon.
            may_wait &= !state.ring_doorbells();
            if woken {
                return;
            }
            // What was collected now has woken no task, so it frees no more space in this turn.
            state.end_turn();
            if may_wait && state.is_saturated() {
                may_wait = false;
                state = self.wait_for_workers(state);
                continue;
            }
            if state.spin_for_completion(&self.reactor) {
                continue;
            }
            self.reactor.epoch().announce_sleep();
            if state.has_no_completions() {
                return;
            }
            self.reactor.epoch().announce_awake();
        }
        // A worker that publishes without end must not keep the reactor from its sockets. The next
        // turn continues.
        self.reactor.ring();
    }

    /// Tells the workers how long they may defer a wake-up, if that has changed.
    fn announce_delay(&self, state: &mut State) {
        if !state.coalescing.take_change() {
            return;
        }
        self.reactor.set_wakeup_delay(state.coalescing.delay());
        let prefetch_time = state.coalescing.prefetch_time();
        for worker in state.workers.iter_mut().flatten() {
            worker.load.set_prefetch_time(prefetch_time);
        }
        // Workers with longer requests may defer wake-ups from now on: the timers look for their completions.
        self.tick_fast(&mut state.tick_rate);
    }

    /// Waits until a worker has published completions or has no backlog any more, at most for
    /// [`Coalescing::delay`](super::coalescing::Coalescing::delay), rounded up to a millisecond.
    fn wait_for_workers<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.reactor.backlog_wait().announce();
        self.reactor.epoch().announce_sleep();
        // Checked after the announcement: a worker whose backlog ends from now on wakes the reactor.
        if state.has_no_completions() && state.is_saturated() {
            // Other threads (a worker's death, a reload) must not wait for the lock meanwhile.
            let delay = state.coalescing.delay();
            drop(state);
            self.reactor.wait_for_doorbell(delay);
            state = self.lock();
        }
        self.reactor.backlog_wait().end();
        self.reactor.epoch().announce_awake();
        state
    }

    /// Notes that a file was served without a worker: its client may send the next request soon, and no worker
    /// keeps that from being answered. So completions wait for a shorter time.
    pub fn note_served_file(&self) {
        self.has_served_file.store(true, Ordering::Relaxed);
    }

    /// Collects completions and wakes the workers in the middle of a turn. Called by tasks that run
    /// for long.
    pub fn poll_now(&self) {
        let mut state = self.lock();
        self.collect_now(&mut state);
        state.ring_doorbells();
    }

    /// Announces that the reactor is awake, and collects the completions that woke it. tokio's
    /// `on_thread_unpark` calls this. Tasks woken here run in this turn. Tasks woken by
    /// `before_park` run in the next turn, before which tokio polls its sockets, at the cost of a
    /// system call.
    pub fn after_park(&self) {
        self.reactor.epoch().announce_awake();
        let mut state = self.lock();
        self.collect_now(&mut state);
        if !state.gathering.is_active() {
            state.ring_doorbells();
        }
    }

    /// Collects completions if a worker may have some, or has a backlog; only then reads the clock.
    /// Returns whether a task was woken.
    fn collect_now(&self, state: &mut State) -> bool {
        let has_work = |worker: &Worker| !worker.channel.has_no_completions() || worker.has_backlog();
        state.workers.iter().flatten().any(has_work) && self.collect_completions(state, Instant::now())
    }

    /// Pops and applies the workers' completions, flushes their backlogs, and assigns queued
    /// exchanges to freed slots. Returns whether a task was woken.
    pub(super) fn collect_completions(&self, state: &mut State, now: Instant) -> bool {
        let mut woken = false;
        let running = state.workers.iter().flatten().map(|worker| worker.load.n_busy()).sum();
        state.load_stats.record_running(running);
        for index in 0..state.workers.len() {
            let (mut n_popped_bytes, mut has_freed_slot) = (0, false);
            if let Some(worker) = &mut state.workers[index] {
                worker.absorbed = 0;
            }
            for _ in 0..MAX_FRAMES {
                match self.pop_completion(state, index, now, &mut has_freed_slot) {
                    Ok(PopOutcome::Empty) => break,
                    Ok(PopOutcome::Applied(waker)) => {
                        if let Some(waker) = waker {
                            waker.wake();
                            woken = true;
                        }
                    }
                    Err(breach) => {
                        self.fail_worker(state, index, &breach);
                        break;
                    }
                }
                n_popped_bytes += state.completion_frame.len();
            }
            if n_popped_bytes > 0
                && let Some(worker) = &mut state.workers[index]
            {
                worker.channel.free_space(n_popped_bytes);
            }
            if let Some(worker) = &mut state.workers[index]
                && worker.has_backlog()
            {
                match worker.flush() {
                    Ok(has_woken) => woken |= has_woken,
                    Err(breach) => self.fail_worker(state, index, &breach),
                }
            }
            if has_freed_slot {
                self.refill(state, index, now);
            }
        }
        woken
    }

    /// Pops and applies one completion.
    fn pop_completion(
        &self,
        state: &mut State,
        index: usize,
        now: Instant,
        has_freed_slot: &mut bool,
    ) -> Result<PopOutcome, ContractBreach> {
        let mut frame = std::mem::take(&mut state.completion_frame);
        frame.clear();
        let popped = match &mut state.workers[index] {
            Some(worker) => worker.channel.completions.pop(&mut frame),
            None => Ok(None),
        };
        let outcome = match popped {
            Ok(None) => Ok(PopOutcome::Empty),
            Ok(Some(_)) => {
                self.apply_completion(state, index, &frame, now, has_freed_slot).map(PopOutcome::Applied)
            }
            Err(error) => Err(error.into()),
        };
        state.completion_frame = frame;
        outcome
    }

    /// Applies one completion frame. Returns the waker of the task that waits for it.
    fn apply_completion(
        &self,
        state: &mut State,
        index: usize,
        frame: &[u8],
        now: Instant,
        has_freed_slot: &mut bool,
    ) -> Result<Option<Waker>, ContractBreach> {
        let Some(worker) = &mut state.workers[index] else { return Ok(None) };
        let completion = decode::decode(worker, frame, &self.notice)?;
        let Completion { exchange: id, kind, done, service, .. } = completion.header;
        let exchange = match state.exchanges.get_mut(id) {
            Some(exchange) if exchange.is_assigned_to(index) => exchange,
            _ => {
                return Err(format!("sent a frame for exchange {}, which is not assigned to it", id.0).into());
            }
        };
        let mut waker = exchange.receive(completion, worker, &self.notice)?;
        *has_freed_slot |= worker.on_received(exchange, kind, now);
        if !exchange.is_watched && exchange.should_watch(self.buffers) {
            state.slow_clients.watch(exchange, now);
            self.tick_fast(&mut state.tick_rate);
        }
        let worker_id = worker.id;
        let has_succeeded = kind == CompletionKind::Respond && !exchange.has_app_failed();
        let mut permit = None;
        if done {
            *has_freed_slot = true;
            state.load_stats.last_active = now;
            permit = exchange.permit.take();
            if let Some(served) = worker.on_done(exchange, service, now) {
                (self.notice)(Notice::MaxRequestsReached(worker_id, served));
            }
            // A response that is still missing will not come any more.
            waker = exchange.take_waker_if_settled().or(waker);
        }
        if exchange.is_pinned
            && let Some(waker) = waker.take()
        {
            // A probe's task belongs to another runtime, so waking it does not keep this reactor
            // from sleeping.
            waker.wake();
        }
        let is_drained = done && worker.is_retiring && worker.is_drained(&state.exchanges);
        if has_succeeded && !state.quarantine.is_empty() {
            state.clear_quarantine(id);
        }
        state.exchanges.remove_if_finished(id);
        if let Some(rule) = permit {
            state.free_permit(rule, now);
        }
        if is_drained {
            self.report_drained(state, index, worker_id);
        }
        Ok(waker)
    }
}

impl Worker {
    /// Reacts to a completion that an exchange has received. Returns whether that freed a slot,
    /// because a WebSocket was accepted and parked.
    fn on_received(&mut self, exchange: &mut Exchange, kind: CompletionKind, now: Instant) -> bool {
        let is_head = kind == CompletionKind::Respond;
        if is_head && exchange.is_accepted_websocket() {
            // A WebSocket past its deadline is being cancelled, and keeps its slot until it ends.
            let has_freed_slot =
                !exchange.attempt.deadline_exceeded && self.load.park(exchange.id, exchange.position(), now);
            if self.is_retiring {
                exchange.begin_close(Duration::ZERO);
            }
            return has_freed_slot;
        }
        let is_part = is_head || kind == CompletionKind::Body;
        if is_part && !exchange.has_ended() && !exchange.is_accepted_websocket() {
            // Each part restarts the deadline: a stream may run as long as it sends parts.
            self.load.restart_clock(exchange.position(), now);
            exchange.reset_client_wait();
        }
        if is_head && exchange.is_client_done() && !self.is_asgi() && exchange.is_cancellable() {
            self.channel.send_cancel(exchange.id);
        }
        false
    }

    /// Finishes an exchange that the worker is done with. `service` is its service time in
    /// nanoseconds. Returns the number of served requests when that number reaches `max_requests`.
    fn on_done(&mut self, exchange: &mut Exchange, service: u64, now: Instant) -> Option<u64> {
        // The time for which a connection was taken over does not predict the next request's time.
        if !exchange.is_taken_over() {
            self.load.record_service_time(service);
        }
        self.finish(exchange.id, exchange.position(), now);
        exchange.mark_worker_done();
        if !exchange.attempt.deadline_exceeded {
            self.count_response(exchange.has_app_failed());
        }
        self.count_served()
    }
}

impl State {
    /// Spins until a worker has published a completion, if the turn ends with a single quick request
    /// ([`super::spin`]). Returns whether a completion was published. Called before the reactor
    /// announces its sleep.
    fn spin_for_completion(&mut self, reactor: &Reactor) -> bool {
        let Self { workers, spinner, .. } = self;
        let workers = || workers.iter().flatten();
        let n_assigned = workers().map(|worker| worker.load.n_assigned()).sum();
        let is_quick = n_assigned == 1 && workers().any(|worker| worker.load.is_quick(MAX_SERVICE_TIME));
        spinner.note_turn(n_assigned, is_quick);
        let is_active = spinner.is_active();
        reactor.set_spinning(is_active);
        let is_ready = || workers().any(|worker| !worker.channel.has_no_completions());
        is_active && is_quick && spinner.run(is_ready)
    }

    /// Returns whether the workers are woken only after one more turn ([`super::gathering`]).
    fn begins_gathering(&mut self) -> bool {
        let Self { workers, gathering, .. } = self;
        gathering.end_turn(|| workers.iter().flatten().map(Worker::n_unrung_parts).max().unwrap_or(0))
    }

    fn has_no_completions(&self) -> bool {
        self.workers.iter().flatten().all(|worker| worker.channel.has_no_completions())
    }

    /// Wakes the workers for which records were published. Returns whether one of them is an event loop
    /// that slept.
    pub(super) fn ring_doorbells(&mut self) -> bool {
        self.unrung_submissions = 0;
        let mut has_woken = false;
        for worker in self.workers.iter_mut().flatten() {
            has_woken |= worker.ring() && worker.is_asgi();
        }
        has_woken
    }
}
