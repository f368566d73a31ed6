//! The measurements that the dispatcher keeps between two calls of [`measure`](super::Dispatcher::measure).

use std::time::{Duration, Instant};

use crate::id::Generation;
use crate::supervise::ResponseStats;

/// What is noted between two measurements, and of workers that are gone.
#[derive(Debug)]
pub(super) struct Gauge {
    /// Of those that were given to a worker, or ran out of patience.
    pub(super) longest_wait: Duration,
    pub(super) most_running: usize,
    /// When something was last asked or answered.
    pub(super) active: Instant,
    /// How workers that are gone have answered.
    pub(super) tallies: Vec<(Generation, ResponseStats)>,
}

/// Of how many generations the tallies are kept: one serves, one comes, one may come back.
const GENERATIONS: usize = 8;

impl Gauge {
    pub(super) fn new(now: Instant) -> Self {
        Self { longest_wait: Duration::ZERO, most_running: 0, active: now, tallies: Vec::new() }
    }

    /// So many run; to be told before some of them are completed.
    pub(super) fn note_running(&mut self, running: usize) {
        self.most_running = self.most_running.max(running);
    }

    pub(super) fn note_wait(&mut self, wait: Duration) {
        self.longest_wait = self.longest_wait.max(wait);
    }

    /// The worker is gone, but not how it has answered.
    pub(super) fn bury(&mut self, generation: Generation, tally: ResponseStats) {
        add(&mut self.tallies, generation, tally);
        if self.tallies.len() > GENERATIONS
            && let Some(eldest) = self.tallies.iter().map(|(other, _)| *other).min()
        {
            self.tallies.retain(|(other, _)| *other != eldest);
        }
    }
}

/// Adds a worker's tally to its generation's.
pub(super) fn add(
    tallies: &mut Vec<(Generation, ResponseStats)>,
    generation: Generation,
    tally: ResponseStats,
) {
    if tally.answered == 0 {
        return;
    }
    match tallies.iter_mut().find(|(other, _)| *other == generation) {
        Some((_, sum)) => {
            sum.answered += tally.answered;
            sum.failed += tally.failed;
        }
        None => tallies.push((generation, tally)),
    }
}
