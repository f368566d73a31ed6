//! The measurements between two calls of [`Dispatcher::measure`](super::Dispatcher::measure).

use std::time::{Duration, Instant};

use super::wait_histogram::WaitHistogram;
use crate::id::Generation;
use crate::supervise::ResponseStats;

/// Load since the last sample, and the responses of workers that have exited.
#[derive(Debug)]
pub(super) struct LoadStats {
    /// Longest wait of a request, whether it was assigned, timed out, or is still waiting.
    pub(super) longest_wait: Duration,
    /// Waits of the requests that were assigned since the daemon started.
    pub(super) waits: WaitHistogram,
    /// Maximum number of requests that ran at the same time.
    pub(super) max_running: usize,
    /// Time of the last request or response.
    pub(super) last_active: Instant,
    /// Response counts of workers that have exited, by generation: the last [`MAX_GENERATIONS`].
    pub(super) past_responses: Vec<(Generation, ResponseStats)>,
    /// Sum of the response counts of all workers that have exited since the daemon started.
    pub(super) retired_responses: ResponseStats,
}

/// Maximum number of generations whose response counts are kept. Three matter at most: the live
/// one, one that is booting, and one to which a reload may roll back.
const MAX_GENERATIONS: usize = 8;

impl LoadStats {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            longest_wait: Duration::ZERO,
            waits: WaitHistogram::default(),
            max_running: 0,
            last_active: now,
            past_responses: Vec::new(),
            retired_responses: ResponseStats::default(),
        }
    }

    /// Records the number of running requests. Called before completions are collected.
    pub(super) fn record_running(&mut self, running: usize) {
        self.max_running = self.max_running.max(running);
    }

    pub(super) fn record_wait(&mut self, wait: Duration) {
        self.longest_wait = self.longest_wait.max(wait);
    }

    /// Keeps the response counts of a worker that has exited.
    pub(super) fn retain_stats(&mut self, generation: Generation, stats: ResponseStats) {
        self.retired_responses.answered += stats.answered;
        self.retired_responses.failed += stats.failed;
        add_responses(&mut self.past_responses, generation, stats);
        if self.past_responses.len() > MAX_GENERATIONS
            && let Some(eldest) = self.past_responses.iter().map(|(other, _)| *other).min()
        {
            self.past_responses.retain(|(other, _)| *other != eldest);
        }
    }
}

/// Adds a worker's responses to those of its generation.
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
