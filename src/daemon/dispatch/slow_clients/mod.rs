//! Buffers the responses of slow clients, in memory and then in files, so that they do not occupy
//! workers.
//!
//! A response passes through the worker's slab under a window, as fast as the client reads it,
//! without a copy. If the client takes nothing for [`SLOW_AFTER`] while the worker waits, the
//! client is *slow*: until it has caught up, bytes are acknowledged as soon as the daemon has them.
//! A response then leaves its worker milliseconds after the application's last part, however slow
//! the client is.
//!
//! # Limits
//! A response may use as much memory as it leaves free. So the first gets half of
//! `limits.response_memory`, the second half of the rest, and there is always some left for the
//! next. The excess goes to files, which share `limits.response_disk` in the same way. Beyond that,
//! bytes are not acknowledged and the worker waits for the client; this is the normal case for
//! endless streams. [`ClientWait`] counts the wait.
//!
//! When the responses are gone, the sweep of the connections returns their memory to the kernel.
//! Blocking threads write the files, one block of each response at a time;
//! [`Dispatcher::start_writes`] starts them.

pub(super) mod spill;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use crate::error_chain::Chain;

use crate::dispatch::data::{Buffers, Data};
use crate::dispatch::exchange::{ClientWait, Exchange, ExchangeState};
use crate::dispatch::fault::Fault;
use crate::dispatch::slow_clients::spill::{MIN_SPILL_BYTES, SpillJob, SpillResult, WatchedExchange};
use crate::dispatch::worker::Worker;
use crate::dispatch::{Dispatcher, State};

/// A client that takes nothing for this time while its worker waits is slow. The time covers the
/// pauses of a client on the same machine or a fast network, whose response need not be copied.
const SLOW_AFTER: Duration = Duration::from_millis(8);

/// Maximum number of bytes taken from one worker in one turn of the reactor. Taking that many costs
/// a fraction of a millisecond.
const ABSORB_BYTES: u64 = 512 * 1024;

/// Interval at which the slab chunks of slow clients are copied and freed.
const RECLAIM_INTERVAL: Duration = Duration::from_millis(10);

/// A complete response is aborted if its client has read nothing for this time and there is no room
/// to buffer it.
const STUCK_TIMEOUT: Duration = Duration::from_secs(1);

/// After a failed write, no file is written for this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Failed writes are logged at most this often.
const REPORT_INTERVAL: Duration = Duration::from_mins(1);

impl Exchange {
    /// Returns whether the client may be slow: the worker waits for the client, or the response
    /// uses much memory while memory is scarce.
    pub(crate) fn should_watch(&self, buffers: &Buffers) -> bool {
        let is_large = || self.response.buffer.in_memory() > MIN_SPILL_BYTES && buffers.memory.is_tight();
        !self.is_client_done() && !self.is_accepted_websocket() && (self.waits_for_credit() || is_large())
    }

    /// Acknowledges all bytes that have arrived for a slow client, if there is room for them. `len`
    /// is the number of bytes that have just arrived.
    pub(crate) fn absorb(&mut self, worker: &mut Worker, len: u64) {
        if self.response.buffer.is_client_slow
            && worker.absorbed + len <= ABSORB_BYTES
            && !self.response.buffer.is_writing()
            && self.response.buffer.in_memory() <= worker.buffers.memory.free()
        {
            worker.absorbed += len;
            self.acknowledge_all(worker);
        }
    }

    /// Counts the wait so far if the worker waits for the client.
    fn update_client_wait(&mut self, worker: Option<&mut Worker>, now: Instant) {
        if let Some(worker) = worker
            && self.waits_for_credit()
        {
            self.extend_client_wait(worker, now);
        }
    }

    /// Ends the wait of the worker for the client, and does not count it towards the deadline.
    pub(crate) fn end_client_wait(&mut self, worker: &mut Worker, now: Instant) {
        self.extend_client_wait(worker, now);
        self.client_wait.since = None;
    }

    /// Extends the deadline by the time that the worker has waited for the client so far.
    pub(crate) fn extend_client_wait(&mut self, worker: &mut Worker, now: Instant) {
        if let Some(since) = self.client_wait.since.replace(now) {
            let waited = now.saturating_duration_since(since);
            self.client_wait.total += waited;
            worker.load.extend_clock(self.position(), waited);
        }
    }

    /// Resets the time spent waiting for the client.
    pub(crate) fn reset_client_wait(&mut self) {
        self.client_wait = ClientWait::default();
    }

    /// Takes over the response from its worker, if a worker still has the exchange. Returns a job
    /// that writes the part that does not fit into memory to a file.
    fn drain_response(
        &mut self,
        worker: Option<&mut Worker>,
        buffers: &'static Buffers,
        directory: Option<&PathBuf>,
        now: Instant,
    ) -> Option<SpillJob> {
        if self.response.buffer.is_writing() {
            self.update_client_wait(worker, now);
            return None;
        }
        let allowed = buffers.memory.free();
        if self.response.buffer.in_memory() <= allowed {
            if let Some(worker) = worker {
                self.acknowledge_all(worker);
                if self.client_wait.since.is_some() {
                    self.end_client_wait(worker, now);
                }
            }
            return None;
        }
        self.update_client_wait(worker, now);
        let directory = directory?;
        if self.response.buffer.on_disk() > buffers.disk.free() {
            return None;
        }
        let data = self.response.buffer.take_excess(allowed);
        // Another thread writes the pieces, so they must not stay in the slab.
        data.iter().for_each(Data::leave_slab);
        let len: u64 = data.iter().map(|data| data.len() as u64).sum();
        match buffers.disk.reserve(len) {
            _ if data.is_empty() => None,
            Some(reservation) => {
                let file = self.response.buffer.append_target();
                Some(SpillJob { id: self.id, data, file, reservation, directory: directory.clone() })
            }
            None => {
                self.response.buffer.restore(data);
                None
            }
        }
    }
}

impl State {
    /// Takes over the responses of slow clients from the workers, and frees their slab chunks.
    pub(crate) fn drain_slow_responses(&mut self, buffers: &'static Buffers, now: Instant) {
        if buffers.memory.free() > 0 {
            self.slow_clients.last_room = now;
        }
        let mut watched = std::mem::take(&mut self.slow_clients.watched);
        watched.retain_mut(|watch| self.check_watched(watch, buffers, now));
        self.slow_clients.watched = watched;
        if now.saturating_duration_since(self.slow_clients.last_reclaim) >= RECLAIM_INTERVAL {
            self.slow_clients.last_reclaim = now;
            self.slow_clients.may_own_chunks = false;
            for worker in self.workers.iter().flatten().filter(|worker| worker.channel.is_quarter_lent()) {
                worker.channel.reclaim();
                self.slow_clients.may_own_chunks = true;
            }
        }
    }

    /// Checks one client, and takes over its response if the client is slow. Returns whether to
    /// keep watching the client.
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
        if exchange.response.buffer.n_popped != watch.n_popped {
            (watch.n_popped, watch.last_popped, watch.last_drained) =
                (exchange.response.buffer.n_popped, now, now);
        } else if now.saturating_duration_since(watch.last_popped) >= SLOW_AFTER {
            exchange.response.buffer.is_client_slow = true;
        }
        if !exchange.response.buffer.is_client_slow {
            return true;
        }
        let unacked = exchange.response.unacked;
        self.drain_exchange(watch.id, buffers, now);
        let is_active = |exchange: &Exchange| {
            exchange.response.unacked < unacked || exchange.response.buffer.is_writing()
        };
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

    /// Aborts a response that its client does not read, if this has delayed the application for
    /// longer than the request timeout. A complete response delays no application; it is aborted if
    /// memory has been full for a while. While files are being written, memory is full for moments
    /// only.
    fn abort_if_stuck(&mut self, watch: &WatchedExchange, buffers: &Buffers, now: Instant) {
        let Some(exchange) = self.exchanges.get(watch.id) else { return };
        let is_stuck = now.saturating_duration_since(watch.last_popped) >= STUCK_TIMEOUT;
        let is_full = buffers.memory.free() == 0
            && now.saturating_duration_since(self.slow_clients.last_room) >= STUCK_TIMEOUT;
        let lacks_memory = is_full && exchange.has_ended() && !exchange.response.buffer.is_writing();
        let delays_application = exchange.timeout.is_some_and(|limit| exchange.client_wait.total > limit);
        if is_stuck && (lacks_memory || delays_application && exchange.waits_for_credit()) {
            self.abort_slow_client(watch.id, now);
        }
    }

    /// Aborts a response whose client has been too slow.
    pub(crate) fn abort_slow_client(&mut self, id: ExchangeId, now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.fault = Some(Box::new(Fault::ClientTooSlow));
        exchange.close_upload();
        let waker = exchange.waker.take();
        if let ExchangeState::Assigned { worker, .. } = exchange.state
            && let Some(worker) = self.workers.get_mut(worker).and_then(Option::as_mut)
        {
            exchange.release_response(worker);
            // The clock restarts, so that the application has time to notice the abort.
            exchange.reset_client_wait();
            worker.load.restart_clock(exchange.position(), now);
            if worker.is_asgi() {
                worker.send_disconnect(exchange);
            } else if exchange.is_cancellable() {
                worker.channel.send_cancel(id);
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
    /// Starts blocking threads that write the pending jobs.
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
                        // The job's bytes are lost: the client must not get what follows them.
                        tracing::error!(%error, "writing a response to a file panicked, aborting the response");
                        self.lock().abort_slow_client(id, Instant::now());
                    }
                }
            });
        }
    }

    /// Writes the pending jobs on this thread, and returns their number.
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
        // The response may have been dropped meanwhile.
        let Some(exchange) =
            state.exchanges.get_mut(id).filter(|exchange| exchange.response.buffer.is_writing())
        else {
            return;
        };
        match written {
            Ok(segment) => {
                state.slow_clients.last_room = now;
                let acknowledged = segment.len.min(exchange.response.unacked);
                exchange.response.buffer.finish_write(segment);
                exchange.response.unacked -= acknowledged;
                if let Some(credit) = exchange.credit(acknowledged)
                    && let Some(worker) = state.workers.get_mut(credit.worker).and_then(Option::as_mut)
                {
                    worker.channel.acknowledge(credit.slot, credit.bytes);
                    if !exchange.waits_for_credit() {
                        exchange.end_client_wait(worker, now);
                    }
                }
            }
            Err((_, data)) => exchange.response.buffer.restore(data),
        }
        if let Some(waker) = exchange.waker.take() {
            waker.wake();
        }
        if exchange.should_watch(self.buffers) {
            state.drain_exchange(id, self.buffers, now);
        }
        self.tick_fast(&mut state.tick_rate);
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
                "cannot write responses for slow clients to {}; workers may have to wait for their clients: make room \
                 there, or raise limits.response_memory",
                self.policy.spool.display()
            );
        }
    }
}
