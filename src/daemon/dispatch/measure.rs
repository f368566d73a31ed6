//! How busy the workers are and how well they answer, for the supervisor's decisions.

use std::time::{Duration, Instant};

use crate::id::Generation;
use crate::supervise::{self, Tally};

use super::worker::Worker;
use super::{Dispatcher, State};

/// What is noted between two measurements, and of workers that are gone.
#[derive(Debug)]
pub(super) struct Gauge {
    /// Of those that were given to a worker, or ran out of patience.
    pub(super) longest_wait: Duration,
    most_running: usize,
    /// When something was last asked or answered.
    pub(super) active: Instant,
    /// How workers that are gone have answered.
    tallies: Vec<(Generation, Tally)>,
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
    pub(super) fn bury(&mut self, worker: &Worker) {
        add(&mut self.tallies, worker.generation, worker.tally);
        if self.tallies.len() > GENERATIONS
            && let Some(eldest) = self.tallies.iter().map(|(generation, _)| *generation).min()
        {
            self.tallies.retain(|(generation, _)| *generation != eldest);
        }
    }
}

fn add(tallies: &mut Vec<(Generation, Tally)>, generation: Generation, tally: Tally) {
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

impl Dispatcher {
    /// What has been going on since the last call. Requests that wait for others by a rule of their path do not wait
    /// for want of workers, and are left out.
    pub fn measure(&self) -> supervise::Load {
        self.measure_at(Instant::now())
    }

    pub(super) fn measure_at(&self, now: Instant) -> supervise::Load {
        let mut state = self.lock();
        let State { workers, exchanges, queue, gauge, .. } = &mut *state;
        let running = workers.iter().flatten().map(Worker::n_busy).sum();
        gauge.note_running(running);
        for exchange in queue.iter().filter_map(|id| exchanges.get(id)) {
            gauge.note_wait(now.saturating_duration_since(exchange.ready));
        }
        if !exchanges.is_empty() {
            gauge.active = now;
        }
        let mut tallies = gauge.tallies.clone();
        for worker in workers.iter().flatten() {
            add(&mut tallies, worker.generation, worker.tally);
        }
        tallies.sort_unstable_by_key(|(generation, _)| *generation);
        supervise::Load {
            queued: queue.len(),
            longest_wait: std::mem::take(&mut gauge.longest_wait),
            running,
            most_running: std::mem::take(&mut gauge.most_running),
            idle: now.saturating_duration_since(gauge.active),
            tallies,
        }
    }
}
