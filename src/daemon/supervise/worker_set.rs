//! A set: one generation's policy and seats. At most three exist: the one that is live, the one that a reload brings
//! up beside it, and the one before it while a watch lasts. Only data and questions; the transitions are elsewhere.

use std::collections::BTreeMap;

use crate::id::{Generation, Life, WorkerId};

use super::SupervisorPolicy;
use super::autoscaler::Autoscaler;
use super::state::{ProcessRole, Seat, WorkerRecord};

/// One generation: what it goes by and the seats of those who serve for it.
#[derive(Clone, Debug)]
pub(super) struct WorkerSet {
    pub(super) generation: Generation,
    pub(super) policy: SupervisorPolicy,
    /// As many as may ever serve; the index is the worker number.
    pub(super) seats: Vec<Seat>,
    /// The fewest and the most that are to serve, as the operator has them now.
    pub(super) min: u16,
    pub(super) max: u16,
    /// The first so many seats are to be filled, unless the set sleeps.
    pub(super) target: u16,
    /// Nothing was asked for `idle_exit`: no seat is filled until somebody is wanted.
    pub(super) asleep: bool,
    /// The seat of the process that workers are forked from; there is one with `preload`.
    pub(super) zygote: Option<Seat>,
    /// The worn-out worker that is to become the zygote.
    pub(super) candidate: Option<Life>,
    /// The zygote was a worker, or an attempt to make it one has failed: not again.
    pub(super) reforked: bool,
    pub(super) scaler: Autoscaler,
}

impl WorkerSet {
    /// A set with nobody in it yet. `before` is exit many served until now, if anybody did.
    pub(super) fn new(generation: Generation, policy: SupervisorPolicy, before: Option<u16>) -> Self {
        // The last number there is belongs to zygotes.
        let max = policy.count.get().min(u16::MAX - 1);
        let min = policy.min.get().min(max);
        WorkerSet {
            generation,
            seats: vec![Seat::default(); usize::from(max)],
            min,
            max,
            target: before.unwrap_or(min).clamp(min, max),
            asleep: false,
            zygote: policy.preload.then(Seat::default),
            candidate: None,
            reforked: false,
            scaler: Autoscaler::default(),
            policy,
        }
    }

    /// How many are to serve at this moment.
    pub(super) fn desired_count(&self) -> usize {
        if self.asleep { 0 } else { usize::from(self.target) }
    }

    /// The seats that are to be filled, with their numbers.
    pub(super) fn open(&self) -> impl Iterator<Item = (u16, &Seat)> {
        (0..).zip(self.seats.iter().take(self.desired_count()))
    }

    /// Every seat: the seats and the zygote's.
    pub(super) fn all_seats_mut(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.seats.iter_mut().chain(self.zygote.as_mut())
    }

    /// The seat a worker of this set has, had, or is to have.
    pub(super) fn seat_mut(&mut self, id: WorkerId, role: ProcessRole) -> Option<&mut Seat> {
        match role {
            ProcessRole::Worker => self.seats.get_mut(usize::from(id.number.0)),
            ProcessRole::Zygote => self.zygote.as_mut(),
        }
    }

    /// The zygote, when workers can be forked from it.
    pub(super) fn ready_zygote(&self, workers: &BTreeMap<Life, WorkerRecord>) -> Option<WorkerId> {
        let life = self.zygote.as_ref()?.current?;
        workers.get(&life).filter(|worker| worker.is_standby()).map(|worker| worker.id)
    }

    /// Whether a process could be made for a seat.
    pub(super) fn can_spawn(&self, workers: &BTreeMap<Life, WorkerRecord>) -> bool {
        self.zygote.is_none() || self.ready_zygote(workers).is_some()
    }

    /// As many seats as the operator's range has by now; those above it stay, empty.
    pub(super) fn grow_seats(&mut self) {
        let n_seats = self.seats.len().max(usize::from(self.max));
        self.seats.resize_with(n_seats, Default::default);
    }
}
