//! Samples the load and the responses of the workers, for the supervisor's decisions.

use std::time::{Duration, Instant};

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

    /// Turns prefetching on or off for the workers that are attached now.
    pub fn set_prefetching(&self, prefetches: bool) {
        for worker in self.lock().workers.iter_mut().flatten() {
            worker.load.set_prefetching(prefetches);
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
