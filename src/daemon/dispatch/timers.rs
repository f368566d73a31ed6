//! What time brings about: deadlines, the queue's patience, records that lie unclaimed, slow requests.

use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use super::exchange::ExchangeState;
use super::fault::Fault;
use super::tick_rate::TickRate;
use super::worker::outbox::LoopHealth;
use super::{Dispatcher, Notice, State};

/// How often the housekeeper looks while records may be stalled, and while there is only something to time out.
const FAST_TICK: Duration = Duration::from_millis(1);
const SLOW_TICK: Duration = Duration::from_millis(50);

/// How often while there are only WebSockets, of which all there is to know is whether their event loops turn.
const PARKED_TICK: Duration = Duration::from_secs(1);

/// How long a task that was cancelled may take to end: its `finally` blocks run.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

impl Dispatcher {
    /// Watches time: deadlines, the queue's patience, stalled records. Never returns. Sleeps while there is
    /// nothing to watch, so that an idle daemon costs nothing.
    pub async fn run_timers(&'static self) {
        loop {
            let keeper = self.tick(Instant::now());
            self.start_writes();
            match keeper {
                TickRate::Fast => tokio::time::sleep(FAST_TICK).await,
                // Earlier if it is notified.
                TickRate::Slow => drop(tokio::time::timeout(SLOW_TICK, self.timer_wakeup.notified()).await),
                TickRate::Parked => {
                    drop(tokio::time::timeout(PARKED_TICK, self.timer_wakeup.notified()).await)
                }
                TickRate::Idle => self.timer_wakeup.notified().await,
            }
        }
    }

    /// One look at the clock; returns when to look again.
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
        let fast = state.workers.iter().flatten().any(|worker| worker.needs_fast_tick(now));
        let runs = || state.workers.iter().flatten().any(|worker| worker.n_running() > 0);
        let relieves = state.slow_clients.tick_rate(now);
        state.tick_rate = if fast || relieves == TickRate::Fast {
            TickRate::Fast
        } else if state.n_waiting() > 0 || runs() || relieves == TickRate::Slow {
            TickRate::Slow
        } else {
            TickRate::Parked
        };
        state.tick_rate
    }

    /// A worker that has not claimed what it was given ahead of time turned out to be slow: the records go
    /// back to the queue, where the next idle slot takes them.
    fn revoke_stalled(&self, state: &mut State, now: Instant) {
        for index in 0..state.workers.len() {
            let Some(worker) = &mut state.workers[index] else { continue };
            let is_stalled = worker.check_stall(now);
            if let Some(lag) = worker.unclaimed_wait(now) {
                state.load_stats.record_wait(lag);
            }
            if !is_stalled {
                continue;
            }
            // Threads that sleep although there is work: wake them before taking anything away.
            if worker.wake_more() {
                continue;
            }
            worker.stalled = true;
            let ahead = worker.n_running().saturating_sub(worker.n_slots());
            state.requeue(index, ahead);
            // What has a slot there stays unless another worker can start it now, and is passed on a few times only:
            // its time begins anew each time, and a worker that never claims (stopped, or a lock held in C code)
            // would otherwise never be found out by the deadline.
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

    fn enforce_deadlines(&self, state: &mut State, now: Instant) {
        for index in 0..state.workers.len() {
            let Some(worker) = &mut state.workers[index] else { continue };
            let worker_id = worker.id;
            for id in worker.overdue(now) {
                let Some(worker) = &mut state.workers[index] else { break };
                let Some(exchange) = state.exchanges.get_mut(id) else { continue };
                if exchange.cancel_deadline.is_some_and(|grace| now > grace) {
                    exchange.cancel_deadline = None;
                    (self.notice)(Notice::CancelIgnored(
                        worker_id,
                        exchange.request_info(worker.thread_of(exchange.id), now),
                    ));
                }
                if exchange.waits_for_credit() && !exchange.deadline_exceeded {
                    // A slow client's time is not the application's; how much it has of that, `slow` counts.
                    exchange.extend_hold(worker, now);
                    continue;
                }
                if exchange.waits_for_client() && !exchange.deadline_exceeded {
                    // It waits for its request's body, of which a minimum rate is asked.
                    worker.restart_clock(exchange.position(), now);
                    continue;
                }
                // What a task does after its answer (Starlette's background tasks) keeps nobody waiting, and no thread.
                if worker.is_asgi() && exchange.has_ended() {
                    continue;
                }
                if std::mem::replace(&mut exchange.deadline_exceeded, true) {
                    continue;
                }
                worker.count_answer(true);
                let waker = exchange.fail(Fault::Deadline(worker_id));
                let asked = exchange.request_info(worker.thread_of(exchange.id), now);
                if worker.is_asgi() {
                    worker.cancel_task(exchange);
                    exchange.cancel_deadline = Some(now + CANCEL_TIMEOUT);
                } else if exchange.is_cancellable() {
                    worker.send_cancel(id);
                }
                if let Some(waker) = waker {
                    waker.wake();
                }
                (self.notice)(if worker.is_asgi() {
                    Notice::TaskDeadlineExceeded(worker_id, asked)
                } else {
                    Notice::DeadlineExceeded(worker_id, asked)
                });
            }
            let drained = state.workers[index]
                .as_ref()
                .is_some_and(|worker| worker.retiring && worker.is_drained(&state.exchanges));
            if drained {
                self.report_drained(state, index, worker_id);
            }
        }
    }

    /// Event loops that do not turn are told of.
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

    fn report_slow(&self, state: &mut State, now: Instant) {
        let Some(slow) = state.policy.slow else { return };
        let State { workers, exchanges, .. } = state;
        for worker in workers.iter_mut().flatten() {
            for id in worker.slower_than(slow, now) {
                let Some(exchange) = exchanges.get_mut(id) else { continue };
                // Over its deadline it has been told of already; held back it is the client that is slow.
                if !std::mem::replace(&mut exchange.slow_reported, true)
                    && !exchange.deadline_exceeded
                    && !exchange.waits_for_client()
                {
                    (self.notice)(Notice::SlowRequest(
                        worker.id,
                        exchange.request_info(worker.thread_of(exchange.id), now),
                    ));
                }
            }
        }
    }
}

impl State {
    /// 503 to whoever has waited for longer than `timeouts.queue`, in the queue or by a rule.
    fn reject_timed_out(&mut self, now: Instant) {
        let Some(patience) = self.policy.queue_timeout else { return };
        while let Some(id) = self.first_timed_out(patience, now) {
            if let Some(exchange) = self.exchanges.get(id)
                && exchange.state == ExchangeState::Queued
            {
                self.load_stats.record_wait(now.saturating_duration_since(exchange.ready_at));
            }
            self.fail(id, Fault::QueueTimeout, now);
        }
    }

    fn first_timed_out(&self, patience: Duration, now: Instant) -> Option<ExchangeId> {
        let waits = |id: &ExchangeId| {
            let exchange = self.exchanges.get(*id)?;
            Some((now.saturating_duration_since(exchange.submitted_at), exchange.retried))
        };
        let is_overdue = |id: &ExchangeId| waits(id).is_none_or(|(wait, _)| wait > patience);
        for id in self.queue.iter() {
            if is_overdue(&id) {
                return Some(id);
            }
            // Who is younger has waited for less; but one that is tried again waits anew.
            if waits(&id).is_some_and(|(_, retried)| !retried) {
                break;
            }
        }
        self.rules.oldest_held().find(is_overdue)
    }
}
