//! The reactor's turns: what the workers have completed is collected at the end of each, and the doorbells ring.

use std::task::Waker;
use std::time::{Duration, Instant};

use rgun_channel::frame::CompletionKind;

use super::tick_rate::TickRate;
use super::worker::Worker;
use super::worker::decode;
use super::{Dispatcher, Notice, State};

/// While every worker has more than it can start, the reactor waits this long for completions alone before it
/// looks at its sockets: what arrives could not start anyway, and each look interrupts a worker that shares
/// the core. (A network card moderates its interrupts for the same reason.)
const COMPLETION_WAIT: Duration = Duration::from_micros(500);

/// Frames that are taken from one worker at a time: more than its ring holds of the shortest, so that only one which
/// goes on while it is read is cut off. And looks at all rings before the sockets have their turn again.
const MAX_FRAMES: u32 = 16 * 1024;
const MAX_ROUNDS: u32 = 16;

impl Dispatcher {
    /// The end of the reactor's turn: collects what the workers have completed, gives out what was queued,
    /// rings the doorbells, and announces sleep. Called by tokio's `on_thread_park`, so it must not block, but for
    /// [`MODERATION`]; a task it wakes keeps the reactor from sleeping.
    pub fn before_park(&self) {
        let mut state = self.lock();
        let mut moderated = false;
        for _ in 0..MAX_ROUNDS {
            let woken = self.collect_completions(&mut state, Instant::now());
            state.ring_doorbells();
            if woken {
                return;
            }
            self.reactor.epoch().announce_sleep();
            if state.workers.iter().flatten().all(Worker::has_no_completions) {
                if moderated || !state.is_saturated() {
                    return;
                }
                moderated = true;
                // Other threads (a worker's death, a reload) must not wait for the lock meanwhile.
                drop(state);
                self.reactor.wait_for_doorbell(COMPLETION_WAIT);
                state = self.lock();
            }
            self.reactor.epoch().announce_awake();
        }
        // A worker that talks without end must not keep the reactor from its sockets: the next turn goes on here.
        self.reactor.ring();
    }

    /// Collects, gives out and rings before the turn has ended: for whoever keeps it from ending.
    pub fn poll_now(&self) {
        let mut state = self.lock();
        self.collect_completions(&mut state, Instant::now());
        state.ring_doorbells();
    }

    /// The reactor is awake again.
    pub fn after_park(&self) {
        self.reactor.epoch().announce_awake();
    }

    /// Pops everything the workers have completed. True if a task was woken.
    pub(super) fn collect_completions(&self, state: &mut State, now: Instant) -> bool {
        let mut woken = false;
        let running = state.workers.iter().flatten().map(Worker::n_busy).sum();
        state.load_stats.record_running(running);
        for index in 0..state.workers.len() {
            let (mut popped_any, mut freed) = (false, false);
            if let Some(worker) = &mut state.workers[index] {
                worker.absorbed = 0;
            }
            for _ in 0..MAX_FRAMES {
                let mut scratch = std::mem::take(&mut state.completion_frame);
                scratch.clear();
                let popped = match &mut state.workers[index] {
                    Some(worker) => worker.completions.pop(&mut scratch),
                    None => Ok(None),
                };
                let outcome = match popped {
                    Ok(None) => None,
                    Ok(Some(_)) => Some(self.handle_completion(state, index, &scratch, now, &mut freed)),
                    Err(broken) => Some(Err(broken.to_string())),
                };
                state.completion_frame = scratch;
                match outcome {
                    None => break,
                    Some(Ok(waker)) => {
                        if let Some(waker) = waker {
                            waker.wake();
                            woken = true;
                        }
                    }
                    Some(Err(why)) => {
                        self.fail_worker(state, index, &why);
                        break;
                    }
                }
                popped_any = true;
            }
            if popped_any && let Some(worker) = &state.workers[index] {
                worker.notify_space();
            }
            if let Some(worker) = &mut state.workers[index]
                && worker.outbox.has_backlog()
            {
                match worker.flush() {
                    Ok(woke) => woken |= woke,
                    Err(why) => self.fail_worker(state, index, &why),
                }
            }
            if freed {
                self.refill(state, index, now);
            }
        }
        woken
    }

    /// One completion frame. Returns the waker of the task that waits for it.
    fn handle_completion(
        &self,
        state: &mut State,
        index: usize,
        frame: &[u8],
        now: Instant,
        freed: &mut bool,
    ) -> Result<Option<Waker>, String> {
        let Some(worker) = &mut state.workers[index] else { return Ok(None) };
        let completion = decode::decode(worker, frame, &self.notice)?;
        let id = completion.header.exchange;
        let exchange = match state.exchanges.get_mut(id) {
            Some(exchange) if exchange.is_assigned_to(index) => exchange,
            _ => return Err(format!("answered exchange {}, which is not its own", id.0)),
        };
        let (done, kind) = (completion.header.done, completion.header.kind);
        let mut waker = exchange.receive(completion, worker, &self.notice)?;
        if kind == CompletionKind::Respond && exchange.is_accepted_websocket() {
            // One whose time was up is against orders, and keeps its slot until it ends, or its worker.
            if !exchange.deadline_exceeded {
                worker.park(id, exchange.position(), now);
                *freed = true;
            }
            if worker.retiring {
                exchange.begin_close(Duration::ZERO);
            }
        }
        let is_part = matches!(kind, CompletionKind::Respond | CompletionKind::Body);
        if is_part && !exchange.has_ended() && !exchange.is_accepted_websocket() {
            // A stream of events lives as long as it says something; its head is the first that it says.
            worker.restart_clock(exchange.position(), now);
            exchange.reset_hold();
        }
        if !exchange.is_watched && exchange.should_watch(self.buffers) {
            state.slow_clients.watch(exchange, now);
            if state.tick_rate != TickRate::Fast {
                state.tick_rate = TickRate::Fast;
                self.timer_wakeup.notify_one();
            }
        }
        let is_unheard = kind == CompletionKind::Respond && exchange.is_client_done();
        if is_unheard && !worker.is_asgi() && exchange.is_cancellable() {
            worker.send_cancel(id);
        }
        let worker_id = worker.id;
        let is_well = kind == CompletionKind::Respond && !exchange.has_app_failed();
        let mut permit = None;
        if done {
            worker.finish(id, exchange.position(), now);
            *freed = true;
            exchange.mark_worker_done();
            // The worker had its say; an answer that is still missing will not come any more.
            waker = exchange.take_waker_if_settled().or(waker);
            state.load_stats.last_active = now;
            permit = exchange.permit.take();
            if !exchange.deadline_exceeded {
                worker.count_answer(exchange.has_app_failed());
            }
            if let Some(served) = worker.count_served() {
                (self.notice)(Notice::MaxRequestsReached(worker_id, served));
            }
        }
        if exchange.pinned
            && let Some(waker) = waker.take()
        {
            // Its task is another runtime's: that it is runnable does not keep this reactor from sleeping.
            waker.wake();
        }
        let drained = done && worker.retiring && worker.is_drained(&state.exchanges);
        if is_well && !state.quarantine.is_empty() {
            state.clear_quarantine(id);
        }
        state.exchanges.remove_if_finished(id);
        if let Some(rule) = permit {
            state.free_permit(rule, now);
        }
        if drained {
            self.report_drained(state, index, worker_id);
        }
        Ok(waker)
    }
}

impl State {
    pub(super) fn ring_doorbells(&mut self) {
        self.unrung_submissions = 0;
        for worker in self.workers.iter_mut().flatten() {
            worker.ring();
        }
    }
}
