//! A generation's policy and seats. At most three sets exist: the live one, the one that a reload
//! boots, and the previous one while `reload.watch` lasts. This module has only data and queries;
//! the transitions are elsewhere.

use std::collections::BTreeMap;

use crate::id::{Generation, Incarnation, WorkerId, WorkerNr};

use super::SupervisorPolicy;
use super::autoscaler::Autoscaler;
use super::state::{ProcessRole, Seat, WorkerRecord};

/// The workers of one generation.
#[derive(Clone, Debug)]
pub(super) struct WorkerSet {
    pub(super) generation: Generation,
    pub(super) policy: SupervisorPolicy,
    /// The seats by worker number; at least `max`.
    pub(super) seats: Vec<Seat>,
    /// The lowest number of workers, as the operator last changed it.
    pub(super) min: u16,
    /// The highest number of workers, as the operator last changed it.
    pub(super) max: u16,
    /// The desired number of workers unless the set is asleep; from `min` to `max`.
    pub(super) target: u16,
    /// No worker is desired until the next request: there was none for `workers.idle_exit`.
    pub(super) asleep: bool,
    /// The zygote's seat; `None` without `workers.preload`.
    pub(super) zygote: Option<Seat>,
    /// The worker chosen to become the next zygote (`workers.refork`), which it does once drained;
    /// `None` if no worker is chosen.
    pub(super) candidate: Option<Incarnation>,
    /// A worker became the zygote, or failed to become it. No other worker is promoted.
    pub(super) reforked: bool,
    pub(super) scaler: Autoscaler,
}

impl WorkerSet {
    /// Creates a set without workers. `previous` is the previous generation's target; `None` starts
    /// at the minimum.
    pub(super) fn new(generation: Generation, policy: SupervisorPolicy, previous: Option<u16>) -> Self {
        let max = policy.count.get().min(WorkerNr::MAX_COUNT);
        let min = policy.min.get().min(max);
        WorkerSet {
            generation,
            seats: vec![Seat::default(); usize::from(max)],
            min,
            max,
            target: previous.unwrap_or(min).clamp(min, max),
            asleep: false,
            zygote: policy.preload.then(Seat::default),
            candidate: None,
            reforked: false,
            scaler: Autoscaler::default(),
            policy,
        }
    }

    /// Returns the number of workers that should serve now.
    pub(super) fn desired_count(&self) -> usize {
        if self.asleep { 0 } else { usize::from(self.target) }
    }

    /// Returns the seats that should have a worker now, vacant or not, with their numbers.
    pub(super) fn desired_seats(&self) -> impl Iterator<Item = (u16, &Seat)> {
        (0..).zip(self.seats.iter().take(self.desired_count()))
    }

    /// All seats, including the zygote's.
    pub(super) fn all_seats_mut(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.seats.iter_mut().chain(self.zygote.as_mut())
    }

    /// The seat of a worker or zygote of this set, whether it holds the seat or not.
    pub(super) fn seat_mut(&mut self, id: WorkerId, role: ProcessRole) -> Option<&mut Seat> {
        match role {
            ProcessRole::Worker => self.seats.get_mut(usize::from(id.number.0)),
            ProcessRole::Zygote => self.zygote.as_mut(),
        }
    }

    /// Returns the zygote if workers can be forked from it.
    pub(super) fn ready_zygote(&self, workers: &BTreeMap<Incarnation, WorkerRecord>) -> Option<WorkerId> {
        let incarnation = self.zygote.as_ref()?.current?;
        workers.get(&incarnation).filter(|worker| worker.is_standby()).map(|worker| worker.id)
    }

    /// Returns true if workers can be spawned: with `workers.preload`, while the zygote is ready.
    pub(super) fn can_spawn(&self, workers: &BTreeMap<Incarnation, WorkerRecord>) -> bool {
        self.zygote.is_none() || self.ready_zygote(workers).is_some()
    }

    /// Adds seats up to `max`. Seats are never removed; those above the target stay vacant.
    pub(super) fn grow_seats(&mut self) {
        let n_seats = self.seats.len().max(usize::from(self.max));
        self.seats.resize_with(n_seats, Default::default);
    }
}
