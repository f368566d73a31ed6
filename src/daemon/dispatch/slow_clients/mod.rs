//! Slow clients: their answers are taken off the workers, into memory as long as there is room, then into files.
//!
//! An answer comes through the worker's slab under a window, as fast as its client takes it, without a copy. If the
//! client takes nothing for [`SLOW_AFTER`] while the worker waits, it is *slow*: from then on until it has caught up,
//! bytes are acknowledged as soon as they are in the daemon's hands. So a worker is rid of an answer milliseconds after
//! the application's last part, whatever the client does.
//!
//! # How much
//! An answer may hold as much memory as is left for all others, so the first gets half of `limits.response_memory`, the
//! second half of the rest, and there is always some left for the next. What exceeds that goes to files, of which an
//! answer gets its part of `limits.response_disk` likewise. What exceeds that as well is not acknowledged: the worker
//! waits for the client, which is meant for streams without end. How long, [`Exchange::held_for`] counts.
//!
//! Files are written by a blocking thread, one block of each answer at a time; [`Dispatcher::begin_to_write`] starts it.

pub(super) mod spill;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use crate::error_chain::Chain;

use crate::dispatch::data::Buffers;
use crate::dispatch::exchange::{Exchange, ExchangeState};
use crate::dispatch::fault::Fault;
use crate::dispatch::slow_clients::spill::{MIN_SPILL_BYTES, SpillJob, SpillResult, WatchedExchange};
use crate::dispatch::tick_rate::TickRate;
use crate::dispatch::worker::Worker;
use crate::dispatch::{Dispatcher, State};

/// A client is slow that takes nothing for so long while its worker waits. One on the same machine, or the same fast
/// network, is not, even if another process has its core for a while; what it takes need not be copied.
const SLOW_AFTER: Duration = Duration::from_millis(8);

/// Bytes that are taken off one worker before the reactor looks at its sockets: a fraction of a millisecond.
const ABSORB_BYTES: u64 = 512 * 1024;

/// How often the slabs are cleared of what slow clients hold.
const RECLAIM_INTERVAL: Duration = Duration::from_millis(10);

/// An answer that nothing is taken of is given up after so long, if there is no room for it anywhere.
const STUCK_TIMEOUT: Duration = Duration::from_secs(1);

/// After a file could not be written no other is tried for so long, and no other failure logged.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const REPORT_INTERVAL: Duration = Duration::from_mins(1);

impl Exchange {
    /// Is it to be seen whether its client is slow?
    pub(crate) fn should_watch(&self, buffers: &Buffers) -> bool {
        let is_large = || self.buffer.in_memory() > MIN_SPILL_BYTES && buffers.memory.is_tight();
        !self.is_client_done() && !self.is_accepted_websocket() && (self.waits_for_credit() || is_large())
    }

    /// A slow client's worker need not wait if there is room. So many bytes have just come.
    pub(crate) fn absorb(&mut self, worker: &mut Worker, len: u64) {
        if self.buffer.is_client_slow
            && worker.absorbed + len <= ABSORB_BYTES
            && !self.buffer.is_writing()
            && self.buffer.in_memory() <= worker.buffers.memory.free()
        {
            worker.absorbed += len;
            self.acknowledge_all(worker);
        }
    }

    fn update_hold(&mut self, worker: Option<&mut Worker>, now: Instant) {
        if let Some(worker) = worker
            && self.waits_for_credit()
        {
            self.extend_hold(worker, now);
        }
    }

    /// Its worker goes on: the time that it had to wait was not the application's.
    pub(crate) fn end_hold(&mut self, worker: &mut Worker, now: Instant) {
        self.extend_hold(worker, now);
        self.held_since = None;
    }

    /// Its worker waits for its client: takes the time for which it has done so off the application's.
    pub(crate) fn extend_hold(&mut self, worker: &mut Worker, now: Instant) {
        if let Some(since) = self.held_since.replace(now) {
            let waited = now.saturating_duration_since(since);
            self.held_for += waited;
            worker.extend_clock(self.position(), waited);
        }
    }

    /// Its time begins anew.
    pub(crate) fn reset_hold(&mut self) {
        (self.held_since, self.held_for) = (None, Duration::ZERO);
    }

    /// Takes what it can of the answer off the worker, if one still has it. A job if that is to be written.
    fn drain_response(
        &mut self,
        worker: Option<&mut Worker>,
        buffers: &'static Buffers,
        directory: Option<&PathBuf>,
        now: Instant,
    ) -> Option<SpillJob> {
        if self.buffer.is_writing() {
            self.update_hold(worker, now);
            return None;
        }
        let allowed = buffers.memory.free();
        if self.buffer.in_memory() <= allowed {
            if let Some(worker) = worker {
                self.acknowledge_all(worker);
                if self.held_since.is_some() {
                    self.end_hold(worker, now);
                }
            }
            return None;
        }
        self.update_hold(worker, now);
        let directory = directory?;
        if self.buffer.on_disk() > buffers.disk.free() {
            return None;
        }
        let data = self.buffer.take_excess(allowed);
        let len: u64 = data.iter().map(|data| data.len() as u64).sum();
        match buffers.disk.reserve(len) {
            _ if data.is_empty() => None,
            Some(held) => {
                let file = self.buffer.append_target();
                Some(SpillJob { id: self.id, data, file, reservation: held, directory: directory.clone() })
            }
            None => {
                self.buffer.restore(data);
                None
            }
        }
    }
}

impl State {
    /// Looks after slow clients: takes their answers off the workers, and their chunks out of the slabs.
    pub(crate) fn drain_slow_responses(&mut self, buffers: &'static Buffers, now: Instant) {
        let mut watched = std::mem::take(&mut self.slow_clients.watched);
        watched.retain_mut(|watch| self.check_watched(watch, buffers, now));
        self.slow_clients.watched = watched;
        if now.saturating_duration_since(self.slow_clients.last_reclaim) >= RECLAIM_INTERVAL {
            self.slow_clients.last_reclaim = now;
            self.slow_clients.has_lent_chunks = false;
            for worker in self.workers.iter().flatten().filter(|worker| worker.has_lent_chunks()) {
                worker.reclaim();
                self.slow_clients.has_lent_chunks = true;
            }
        }
    }

    /// Returns whether it is to be looked at again.
    fn check_watched(
        &mut self,
        watch: &mut WatchedExchange,
        buffers: &'static Buffers,
        now: Instant,
    ) -> bool {
        let Some(exchange) = self.exchanges.get_mut(watch.id) else { return false };
        if !exchange.should_watch(buffers) {
            exchange.is_watched = false;
            return false;
        }
        if exchange.buffer.n_popped != watch.n_popped {
            (watch.n_popped, watch.last_popped, watch.last_drained) = (exchange.buffer.n_popped, now, now);
        } else if now.saturating_duration_since(watch.last_popped) >= SLOW_AFTER {
            exchange.buffer.is_client_slow = true;
        }
        if !exchange.buffer.is_client_slow {
            return true;
        }
        let unacked = exchange.unacked;
        self.drain_exchange(watch.id, buffers, now);
        let is_active = |exchange: &Exchange| exchange.unacked < unacked || exchange.buffer.is_writing();
        if self.exchanges.get(watch.id).is_some_and(is_active) {
            watch.last_drained = now;
        }
        self.abort_if_stuck(watch, buffers, now);
        true
    }

    fn drain_exchange(&mut self, id: ExchangeId, buffers: &'static Buffers, now: Instant) {
        let Self { exchanges, workers, slow_clients, policy, .. } = self;
        let Some(exchange) = exchanges.get_mut(id) else { return };
        let worker = match exchange.state {
            ExchangeState::Assigned { worker, .. } => workers.get_mut(worker).and_then(Option::as_mut),
            ExchangeState::Queued | ExchangeState::Held(_) | ExchangeState::Finished => None,
        };
        let directory = slow_clients.can_write(now).then_some(&policy.spool);
        slow_clients.jobs.extend(exchange.drain_response(worker, buffers, directory, now));
    }

    /// For longer than the application may take, its client may not hold it back either. An answer that has come to its
    /// end holds nobody back; if there is no room for it and nothing is taken of it, it is given up: memory has an end.
    fn abort_if_stuck(&mut self, watch: &WatchedExchange, buffers: &Buffers, now: Instant) {
        let Some(exchange) = self.exchanges.get(watch.id) else { return };
        let is_stuck = now.saturating_duration_since(watch.last_popped) >= STUCK_TIMEOUT;
        let is_homeless = exchange.has_ended() && !exchange.buffer.is_writing() && buffers.memory.free() == 0;
        let is_held = exchange.timeout.is_some_and(|limit| exchange.held_for > limit);
        if is_stuck && (is_homeless || is_held && exchange.waits_for_credit()) {
            self.abort_slow_client(watch.id, now);
        }
    }

    /// The client has been too slow for too long: it gets no more of its answer.
    pub(crate) fn abort_slow_client(&mut self, id: ExchangeId, now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.fault = Some(Fault::ClientTooSlow);
        exchange.close_upload();
        let waker = exchange.waker.take();
        if let ExchangeState::Assigned { worker, .. } = exchange.state
            && let Some(worker) = self.workers.get_mut(worker).and_then(Option::as_mut)
        {
            exchange.release_response(worker);
            // The application has not had all of its time, and has to notice.
            exchange.reset_hold();
            worker.restart_clock(exchange.position(), now);
            if worker.is_asgi() {
                worker.send_disconnect(exchange);
            } else if exchange.is_cancellable() {
                worker.send_cancel(id);
            }
        } else {
            exchange.drop_response();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Dispatcher {
    /// Has blocking threads write what waits for it.
    pub(crate) fn start_writes(&'static self) {
        let jobs = std::mem::take(&mut self.lock().slow_clients.jobs);
        for job in jobs {
            let id = job.id;
            tokio::spawn(async move {
                match tokio::task::spawn_blocking(move || job.run()).await {
                    Ok(result) => {
                        self.on_written(result, Instant::now());
                        self.start_writes();
                    }
                    Err(error) => {
                        // Its bytes are gone, so what follows must not look like the rest.
                        tracing::error!(%error, "a thread that wrote an answer to a file panicked");
                        self.lock().abort_slow_client(id, Instant::now());
                    }
                }
            });
        }
    }

    /// Jobs as a test does them.
    #[cfg(test)]
    pub(crate) fn run_writes(&self) -> usize {
        let jobs = std::mem::take(&mut self.lock().slow_clients.jobs);
        let count = jobs.len();
        for job in jobs {
            let result = job.run();
            self.on_written(result, Instant::now());
        }
        count
    }

    fn on_written(&self, result: SpillResult, now: Instant) {
        let SpillResult { id, written } = result;
        let mut state = self.lock();
        let state = &mut *state;
        if let Err((error, _)) = &written {
            state.on_write_failure(error, now);
        }
        // Nobody waits for the bytes any more if what they were taken out of has been dropped.
        let Some(exchange) = state.exchanges.get_mut(id).filter(|exchange| exchange.buffer.is_writing())
        else {
            return;
        };
        match written {
            Ok(segment) => {
                let acknowledged = segment.len.min(exchange.unacked);
                exchange.buffer.finish_write(segment);
                exchange.unacked -= acknowledged;
                if let Some(leaving) = exchange.credit(acknowledged)
                    && let Some(worker) = state.workers.get_mut(leaving.worker).and_then(Option::as_mut)
                {
                    worker.acknowledge(leaving.slot, leaving.bytes);
                    if !exchange.waits_for_credit() {
                        exchange.end_hold(worker, now);
                    }
                }
            }
            Err((_, data)) => exchange.buffer.restore(data),
        }
        if let Some(waker) = exchange.waker.take() {
            waker.wake();
        }
        if exchange.should_watch(self.buffers) {
            state.drain_exchange(id, self.buffers, now);
        }
        if state.tick_rate != TickRate::Fast {
            state.tick_rate = TickRate::Fast;
            self.timer_wakeup.notify_one();
        }
    }
}

impl State {
    fn on_write_failure(&mut self, error: &io::Error, now: Instant) {
        let slow_clients = &mut self.slow_clients;
        slow_clients.retry_at = Some(now + RETRY_INTERVAL);
        if slow_clients.last_report.is_none_or(|last| now.saturating_duration_since(last) >= REPORT_INTERVAL)
        {
            slow_clients.last_report = Some(now);
            tracing::warn!(
                error = %Chain(error),
                rgun.directory = %self.policy.spool.display(),
                "cannot keep answers for slow clients in {}; workers may have to wait for their clients: make room \
                 there, or raise limits.response_memory",
                self.policy.spool.display()
            );
        }
    }
}
