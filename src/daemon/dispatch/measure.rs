//! How busy the workers are and how well they answer, for the supervisor's decisions.

use std::time::Instant;

use crate::supervise;

use super::load_stats;
use super::worker::Worker;
use super::{Dispatcher, State};

impl Dispatcher {
    /// What has been going on since the last call. Requests that wait for others by a rule of their path do not wait
    /// for want of workers, and are left out.
    pub fn measure(&self) -> supervise::LoadSample {
        self.measure_at(Instant::now())
    }

    pub(super) fn measure_at(&self, now: Instant) -> supervise::LoadSample {
        let mut state = self.lock();
        let State { workers, exchanges, queue, gauge, .. } = &mut *state;
        let running = workers.iter().flatten().map(Worker::n_busy).sum();
        gauge.note_running(running);
        for exchange in queue.iter().filter_map(|id| exchanges.get(id)) {
            gauge.note_wait(now.saturating_duration_since(exchange.ready_at));
        }
        if !exchanges.is_empty() {
            gauge.active = now;
        }
        let mut tallies = gauge.tallies.clone();
        for worker in workers.iter().flatten() {
            load_stats::add(&mut tallies, worker.generation, worker.tally);
        }
        tallies.sort_unstable_by_key(|(generation, _)| *generation);
        supervise::LoadSample {
            queued: queue.len(),
            longest_wait: std::mem::take(&mut gauge.longest_wait),
            running,
            max_running: std::mem::take(&mut gauge.most_running),
            idle_for: now.saturating_duration_since(gauge.active),
            responses: tallies,
        }
    }
}
