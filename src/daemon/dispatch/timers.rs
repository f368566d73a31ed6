//! Runs the dispatcher's timers: deadlines, queue timeouts, stalled records, slow requests and
//! stalled event loops.

use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use super::exchange::{Exchange, ExchangeState};
use super::fault::Fault;
use super::tick_rate::TickRate;
use super::worker::Worker;
use super::worker::loop_health::LoopHealth;
use super::{Dispatcher, Notice, State};

/// Interval while records may stall.
const FAST_TICK: Duration = Duration::from_millis(1);

/// Interval while requests may time out.
const SLOW_TICK: Duration = Duration::from_millis(50);

/// Interval while only WebSockets are open, so that only their event loops are checked.
const PARKED_TICK: Duration = Duration::from_secs(1);

/// Time allowed for a cancelled task to end, including its `finally` blocks.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

impl Dispatcher {
    /// Runs the timers forever. Sleeps while there is nothing to watch, so that an idle daemon uses
    /// no CPU.
    pub async fn run_timers(&'static self) {
        loop {
            let rate = self.tick(Instant::now());
            self.start_writes();
            match rate {
                TickRate::Fast => tokio::time::sleep(FAST_TICK).await,
                TickRate::Slow => drop(tokio::time::timeout(SLOW_TICK, self.timer_wakeup.notified()).await),
                TickRate::Parked => {
                    drop(tokio::time::timeout(PARKED_TICK, self.timer_wakeup.notified()).await);
                }
                TickRate::Idle => self.timer_wakeup.notified().await,
            }
        }
    }

    /// Runs the timers that are due. Returns the rate at which to call `tick` next.
    pub(super) fn tick(&self, now: Instant) -> TickRate {
        let mut state = self.lock();
        let state = &mut *state;
        if state.exchanges.is_empty() {
            state.tick_rate = TickRate::Idle;
            return TickRate::Idle;
        }
        self.collect_completions(state, now);
        state.reject_timed_out(now);
        self.revoke_stalled(state, now);
        state.drain_slow_responses(self.buffers, now);
        self.enforce_deadlines(state, now);
        self.report_slow(state, now);
        self.check_event_loops(state, now);
        if !state.quarantine.is_empty() {
            state.quarantine.expire(now);
        }
        state.ring_doorbells();
        let is_fast = state.workers.iter().flatten().any(|worker| worker.needs_fast_tick(now));
        let is_any_running = || state.workers.iter().flatten().any(|worker| worker.load.n_assigned() > 0);
        let slow_clients = state.slow_clients.tick_rate(now);
        state.tick_rate = if is_fast || slow_clients == TickRate::Fast {
            TickRate::Fast
        } else if state.n_waiting() > 0 || is_any_running() || slow_clients == TickRate::Slow {
            TickRate::Slow
        } else {
            TickRate::Parked
        };
        state.tick_rate
    }

    /// Revokes records that their worker has not claimed in time. Prefetched records return to the
    /// queue. A record that has a slot is moved to another worker with an idle slot, if there is
    /// one.
    fn revoke_stalled(&self, state: &mut State, now: Instant) {
        for index in 0..state.workers.len() {
            let Some(worker) = &mut state.workers[index] else { continue };
            let is_stalled = worker.check_stall(now);
            if let Some(lag) = worker.load.unclaimed_wait(now) {
                state.load_stats.record_wait(lag);
            }
            if !is_stalled {
                continue;
            }
            // Wake the worker's sleeping threads before revoking a record.
            if worker.wake_more() {
                continue;
            }
            worker.load.is_stalled = true;
            let ahead = (worker.load.n_assigned() as usize).saturating_sub(worker.load.n_slots());
            state.requeue(index, ahead);
            // A record that has a slot is moved only to a worker that can start it now, and only a
            // few times. Each move restarts the deadline, which must still expire if the worker
            // never claims the record (it is stopped, or holds the GIL in C code).
            while let Some(other) = state.other_idle_worker(index)
                && let Some(id) = state.revoke_movable(index)
            {
                if !self.assign(state, other, id, now) {
                    state.return_to_queue(id);
                    break;
                }
            }
        }
        self.refill_all(state, now);
    }

    /// Enforces the deadline of each request, and reports retiring workers that are drained as a
    /// result.
    fn enforce_deadlines(&self, state: &mut State, now: Instant) {
        for index in 0..state.workers.len() {
            let Some(worker) = &mut state.workers[index] else { continue };
            let worker_id = worker.id;
            for id in worker.load.overdue(now) {
                let Some(worker) = &mut state.workers[index] else { break };
                let Some(exchange) = state.exchanges.get_mut(id) else { continue };
                self.report_ignored_cancel(worker, exchange, now);
                if !Self::extend_deadline(worker, exchange, now) {
                    self.fail_overdue(worker, exchange, now);
                }
            }
            let drained = state.workers[index]
                .as_ref()
                .is_some_and(|worker| worker.is_retiring && worker.is_drained(&state.exchanges));
            if drained {
                self.report_drained(state, index, worker_id);
            }
        }
    }

    /// Reports a task that has not ended within [`CANCEL_TIMEOUT`].
    fn report_ignored_cancel(&self, worker: &Worker, exchange: &mut Exchange, now: Instant) {
        if exchange.attempt.cancel_deadline.is_some_and(|deadline| now > deadline) {
            exchange.attempt.cancel_deadline = None;
            (self.notice)(Notice::CancelIgnored(
                worker.id,
                exchange.request_info(worker.channel.thread_of(exchange.id), now),
            ));
        }
    }

    /// Extends the deadline of an exchange whose worker waits for the client. Returns true if the
    /// deadline was extended.
    fn extend_deadline(worker: &mut Worker, exchange: &mut Exchange, now: Instant) -> bool {
        if exchange.attempt.deadline_exceeded {
            return false;
        }
        if exchange.waits_for_credit() {
            // `slow_clients` limits this wait.
            exchange.extend_client_wait(worker, now);
            return true;
        }
        if exchange.waits_for_client() {
            // The application waits for the request body, which has a minimum rate.
            worker.load.restart_clock(exchange.position(), now);
            return true;
        }
        false
    }

    /// Answers 504 to an overdue request, and cancels it if possible.
    fn fail_overdue(&self, worker: &mut Worker, exchange: &mut Exchange, now: Instant) {
        // A task may continue after its response (Starlette's background tasks): no client waits,
        // and no thread is occupied.
        if worker.is_asgi() && exchange.has_ended() {
            return;
        }
        if std::mem::replace(&mut exchange.attempt.deadline_exceeded, true) {
            return;
        }
        worker.count_response(true);
        let waker = exchange.fail(Fault::Deadline(worker.id));
        // The thread of a task is that of the event loop, which other tasks use, too.
        let thread = worker.channel.thread_of(exchange.id).filter(|_| !worker.is_asgi());
        let request = exchange.request_info(thread, now);
        if worker.is_asgi() {
            worker.cancel_task(exchange);
            exchange.attempt.cancel_deadline = Some(now + CANCEL_TIMEOUT);
        } else if exchange.is_cancellable() {
            worker.channel.send_cancel(exchange.id);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        (self.notice)(if worker.is_asgi() {
            Notice::TaskDeadlineExceeded(worker.id, request)
        } else {
            Notice::DeadlineExceeded(worker.id, request)
        });
    }

    /// Reports stalled event loops.
    fn check_event_loops(&self, state: &mut State, now: Instant) {
        let Some(stall) = state.policy.stall else { return };
        for worker in state.workers.iter_mut().flatten() {
            if !worker.has_watched_loop() {
                continue;
            }
            match worker.check_loop(stall, now) {
                LoopHealth::Healthy => {}
                LoopHealth::Stalled(silence) => (self.notice)(Notice::LoopStalled(worker.id, silence)),
                LoopHealth::Stuck(silence) => (self.notice)(Notice::LoopStuck(worker.id, silence)),
            }
        }
    }

    /// Reports requests that exceed `log.slow`, once for each attempt.
    fn report_slow(&self, state: &mut State, now: Instant) {
        let Some(slow) = state.policy.slow else { return };
        let State { workers, exchanges, .. } = state;
        for worker in workers.iter_mut().flatten() {
            for id in worker.slower_than(slow, now) {
                let Some(exchange) = exchanges.get_mut(id) else { continue };
                // An overdue request was reported as such, and one that waits for its client is not
                // slow itself.
                if !std::mem::replace(&mut exchange.attempt.slow_reported, true)
                    && !exchange.attempt.deadline_exceeded
                    && !exchange.waits_for_client()
                {
                    (self.notice)(Notice::SlowRequest(
                        worker.id,
                        exchange.request_info(worker.channel.thread_of(exchange.id), now),
                    ));
                }
            }
        }
    }
}

impl State {
    /// Answers 503 to requests that were queued or held for longer than `timeouts.queue`.
    fn reject_timed_out(&mut self, now: Instant) {
        let Some(timeout) = self.policy.queue_timeout else { return };
        while let Some(id) = self.first_timed_out(timeout, now) {
            if let Some(exchange) = self.exchanges.get(id)
                && exchange.state == ExchangeState::Queued
            {
                self.load_stats.record_wait(now.saturating_duration_since(exchange.ready_at));
            }
            self.fail(id, Fault::QueueTimeout, now);
        }
    }

    fn first_timed_out(&self, timeout: Duration, now: Instant) -> Option<ExchangeId> {
        let wait_of = |id: &ExchangeId| {
            let exchange = self.exchanges.get(*id)?;
            Some((now.saturating_duration_since(exchange.submitted_at), exchange.is_retry))
        };
        let is_overdue = |id: &ExchangeId| wait_of(id).is_none_or(|(wait, _)| wait > timeout);
        for id in self.queue.iter() {
            if is_overdue(&id) {
                return Some(id);
            }
            // The queue is in order of submission, except for retries: a retry is at the front, but
            // its wait began when its first worker died. So only a first attempt proves that all
            // requests behind it are younger.
            if wait_of(&id).is_some_and(|(_, is_retry)| !is_retry) {
                break;
            }
        }
        self.rules.oldest_held().find(is_overdue)
    }
}
