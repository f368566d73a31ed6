//! The measurements that the dispatcher keeps between two calls of [`measure`](super::Dispatcher::measure).

use std::time::{Duration, Instant};

use crate::id::Generation;
use crate::supervise::ResponseStats;

/// What is noted between two measurements, and of workers that are gone.
#[derive(Debug)]
pub(super) struct LoadStats {
    /// Of those that were given to a worker, or ran out of patience.
    pub(super) longest_wait: Duration,
    pub(super) max_running: usize,
    /// When something was last asked or answered.
    pub(super) last_active: Instant,
    /// How workers that are gone have answered.
    pub(super) past_responses: Vec<(Generation, ResponseStats)>,
}

/// Of how many generations the tallies are kept: one serves, one comes, one may come back.
const MAX_GENERATIONS: usize = 8;

impl LoadStats {
    pub(super) fn new(now: Instant) -> Self {
        Self { longest_wait: Duration::ZERO, max_running: 0, last_active: now, past_responses: Vec::new() }
    }

    /// So many run; to be told before some of them are completed.
    pub(super) fn record_running(&mut self, running: usize) {
        self.max_running = self.max_running.max(running);
    }

    pub(super) fn record_wait(&mut self, wait: Duration) {
        self.longest_wait = self.longest_wait.max(wait);
    }

    /// The worker is gone, but not how it has answered.
    pub(super) fn retain_stats(&mut self, generation: Generation, stats: ResponseStats) {
        add_responses(&mut self.past_responses, generation, stats);
        if self.past_responses.len() > MAX_GENERATIONS
            && let Some(eldest) = self.past_responses.iter().map(|(other, _)| *other).min()
        {
            self.past_responses.retain(|(other, _)| *other != eldest);
        }
    }
}

/// Adds a worker's stats to its generation's.
pub(super) fn add_responses(
    responses: &mut Vec<(Generation, ResponseStats)>,
    generation: Generation,
    stats: ResponseStats,
) {
    if stats.answered == 0 {
        return;
    }
    match responses.iter_mut().find(|(other, _)| *other == generation) {
        Some((_, sum)) => {
            sum.answered += stats.answered;
            sum.failed += stats.failed;
        }
        None => responses.push((generation, stats)),
    }
}
