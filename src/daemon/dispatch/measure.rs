//! Samples the load and the responses of the workers, for the supervisor's decisions.

use std::time::{Duration, Instant};

use rgun_channel::control::Command;

use crate::supervise;

use super::load_stats;
use super::{Dispatcher, State};

impl Dispatcher {
    /// Returns the load since the last call. Requests that a path rule holds are not counted,
    /// because more workers would not start them sooner.
    pub fn measure(&self) -> supervise::LoadSample {
        self.measure_at(Instant::now())
    }

    /// Returns the time since the last request for the application ended or was refused; zero while
    /// a request is queued or running.
    pub fn idle_for(&self) -> Duration {
        let (state, now) = (self.lock(), Instant::now());
        if !state.exchanges.is_empty() {
            return Duration::ZERO;
        }
        now.saturating_duration_since(state.load_stats.last_active)
    }

    /// Turns prefetching on or off, also for workers that are attached later.
    pub fn set_prefetching(&self, prefetches: bool) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.prefetches, prefetches) == prefetches {
            return;
        }
        for worker in state.workers.iter_mut().flatten() {
            worker.load.set_prefetching(prefetches);
        }
    }

    /// Asks all workers that serve to return memory once they run no request.
    pub fn trim_memory(&self) {
        for worker in self.lock().workers.iter().flatten().filter(|worker| worker.is_admitted) {
            if let Err(error) = worker.channel.send_command(&Command::TrimMemory, &[]) {
                tracing::debug!(%error, rgun.worker = worker.id.number.0,
                    "cannot ask a worker to return memory, ignoring");
            }
        }
    }

    pub(super) fn measure_at(&self, now: Instant) -> supervise::LoadSample {
        let mut state = self.lock();
        let State { workers, exchanges, queue, load_stats: stats, .. } = &mut *state;
        let running = workers.iter().flatten().map(|worker| worker.load.n_busy()).sum();
        stats.record_running(running);
        for exchange in queue.iter().filter_map(|id| exchanges.get(id)) {
            stats.record_wait(now.saturating_duration_since(exchange.ready_at));
        }
        if !exchanges.is_empty() {
            stats.last_active = now;
        }
        let mut responses = stats.past_responses.clone();
        for worker in workers.iter().flatten() {
            load_stats::add_responses(&mut responses, worker.generation, worker.responses);
        }
        responses.sort_unstable_by_key(|(generation, _)| *generation);
        supervise::LoadSample {
            queued: queue.len(),
            longest_wait: std::mem::take(&mut stats.longest_wait),
            running,
            max_running: std::mem::take(&mut stats.max_running),
            idle_for: now.saturating_duration_since(stats.last_active),
            responses,
        }
    }
}
