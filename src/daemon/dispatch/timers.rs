//! What time brings about: deadlines, the queue's patience, records that lie unclaimed, slow requests.

use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use super::exchange::Place;
use super::fault::Fault;
use super::tick_rate::Keeper;
use super::worker::outbox::Pulse;
use super::{Dispatcher, Notice, State};

/// How often the housekeeper looks while records may be stalled, and while there is only something to time out.
const FAST_TICK: Duration = Duration::from_millis(1);
const SLOW_TICK: Duration = Duration::from_millis(50);

/// How often while there are only WebSockets, of which all there is to know is whether their event loops turn.
const PARKED_TICK: Duration = Duration::from_secs(1);

/// How long a task that was cancelled may take to end: its `finally` blocks run.
const GRACE: Duration = Duration::from_secs(1);

impl Dispatcher {
    /// Watches time: deadlines, the queue's patience, stalled records. Never returns. Sleeps while there is
    /// nothing to watch, so that an idle daemon costs nothing.
    pub async fn keep_house(&'static self) {
        loop {
            let keeper = self.housekeeping(Instant::now());
            self.begin_to_write();
            match keeper {
                Keeper::Fast => tokio::time::sleep(FAST_TICK).await,
                // Earlier if it is notified.
                Keeper::Slow => drop(tokio::time::timeout(SLOW_TICK, self.work.notified()).await),
                Keeper::Parked => drop(tokio::time::timeout(PARKED_TICK, self.work.notified()).await),
                Keeper::Idle => self.work.notified().await,
            }
        }
    }

    /// One look at the clock; returns when to look again.
    pub(super) fn housekeeping(&self, now: Instant) -> Keeper {
        let mut state = self.lock();
        let state = &mut *state;
        if state.exchanges.is_empty() {
            state.keeper = Keeper::Idle;
            return Keeper::Idle;
        }
        self.collect(state, now);
        state.refuse_overdue(now);
        self.revoke_stalled(state, now);
        state.relieve_workers(self.buffers, now);
        self.enforce_deadlines(state, now);
        self.tell_slow(state, now);
        self.feel_pulses(state, now);
        if !state.quarantine.is_empty() {
            state.quarantine.expire(now);
        }
        state.ring_doorbells();
        let fast = state.workers.iter().flatten().any(|worker| worker.may_stall(now));
        let runs = || state.workers.iter().flatten().any(|worker| worker.n_running() > 0);
        let relieves = state.relief.interval(now);
        state.keeper = if fast || relieves == Keeper::Fast {
            Keeper::Fast
        } else if state.n_waiting() > 0 || runs() || relieves == Keeper::Slow {
            Keeper::Slow
        } else {
            Keeper::Parked
        };
        state.keeper
    }

    /// A worker that has not claimed what it was given ahead of time turned out to be slow: the records go
    /// back to the queue, where the next idle slot takes them.
    fn revoke_stalled(&self, state: &mut State, now: Instant) {
        for index in 0..state.workers.len() {
            let Some(worker) = &mut state.workers[index] else { continue };
            let is_stalled = worker.check_stall(now);
            if let Some(lag) = worker.lag(now) {
                state.gauge.note_wait(lag);
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
            while let Some(other) = state.idle_beside(index)
                && let Some(id) = state.revoke_movable(index)
            {
                if !self.give(state, other, id, now) {
                    state.queue_again(id);
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
                if exchange.grace.is_some_and(|grace| now > grace) {
                    exchange.grace = None;
                    (self.notice)(Notice::Stubborn(
                        worker_id,
                        exchange.asked(worker.thread_of(exchange.id), now),
                    ));
                }
                if exchange.waits_for_answer_to_leave() && !exchange.overdue {
                    // A slow client's time is not the application's; how much it has of that, `slow` counts.
                    exchange.extend_hold(worker, now);
                    continue;
                }
                if exchange.is_held_back() && !exchange.overdue {
                    // It waits for its request's body, of which a minimum rate is asked.
                    worker.restart_clock(exchange.position(), now);
                    continue;
                }
                // What a task does after its answer (Starlette's background tasks) keeps nobody waiting, and no thread.
                if worker.is_asgi() && exchange.has_ended() {
                    continue;
                }
                if std::mem::replace(&mut exchange.overdue, true) {
                    continue;
                }
                worker.count_answer(true);
                let waker = exchange.fail(Fault::Deadline(worker_id));
                let asked = exchange.asked(worker.thread_of(exchange.id), now);
                if worker.is_asgi() {
                    worker.cancel(exchange);
                    exchange.grace = Some(now + GRACE);
                } else if exchange.can_be_cut_short() {
                    worker.forget(id);
                }
                if let Some(waker) = waker {
                    waker.wake();
                }
                (self.notice)(if worker.is_asgi() {
                    Notice::Overdue(worker_id, asked)
                } else {
                    Notice::DeadlineExceeded(worker_id, asked)
                });
            }
            let drained = state.workers[index]
                .as_ref()
                .is_some_and(|worker| worker.retiring && worker.is_drained(&state.exchanges));
            if drained {
                self.tell_drained(state, index, worker_id);
            }
        }
    }

    /// Event loops that do not turn are told of.
    fn feel_pulses(&self, state: &mut State, now: Instant) {
        let Some(stall) = state.policy.stall else { return };
        for worker in state.workers.iter_mut().flatten() {
            if !worker.has_pulse() {
                continue;
            }
            match worker.pulse(stall, now) {
                Pulse::Fine => {}
                Pulse::Stalled(silence) => (self.notice)(Notice::Stalled(worker.id, silence)),
                Pulse::Stuck(silence) => (self.notice)(Notice::Stuck(worker.id, silence)),
            }
        }
    }

    fn tell_slow(&self, state: &mut State, now: Instant) {
        let Some(slow) = state.policy.slow else { return };
        let State { workers, exchanges, .. } = state;
        for worker in workers.iter_mut().flatten() {
            for id in worker.slower_than(slow, now) {
                let Some(exchange) = exchanges.get_mut(id) else { continue };
                // Over its deadline it has been told of already; held back it is the client that is slow.
                if !std::mem::replace(&mut exchange.told_slow, true)
                    && !exchange.overdue
                    && !exchange.is_held_back()
                {
                    (self.notice)(Notice::Slow(
                        worker.id,
                        exchange.asked(worker.thread_of(exchange.id), now),
                    ));
                }
            }
        }
    }
}

impl State {
    /// 503 to whoever has waited for longer than `timeouts.queue`, in the queue or by a rule.
    fn refuse_overdue(&mut self, now: Instant) {
        let Some(patience) = self.policy.queue_timeout else { return };
        while let Some(id) = self.first_overdue(patience, now) {
            if let Some(exchange) = self.exchanges.get(id)
                && exchange.place == Place::Queued
            {
                self.gauge.note_wait(now.saturating_duration_since(exchange.ready));
            }
            self.fail(id, Fault::QueueTimeout, now);
        }
    }

    fn first_overdue(&self, patience: Duration, now: Instant) -> Option<ExchangeId> {
        let waits = |id: &ExchangeId| {
            let exchange = self.exchanges.get(*id)?;
            Some((now.saturating_duration_since(exchange.received), exchange.retried))
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
        self.rules.oldest().find(is_overdue)
    }
}
