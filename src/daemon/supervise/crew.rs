//! A crew: one generation's policy and places. At most three exist: the one that is live, the one that a reload brings
//! up beside it, and the one before it while a watch lasts. Only data and questions; the transitions are elsewhere.

use std::collections::BTreeMap;

use crate::id::{Generation, Life, WorkerId};

use super::Policy;
use super::scaler::Scaler;
use super::state::{Role, Seat, Worker};

/// One generation: what it goes by and the places of those who serve for it.
#[derive(Clone, Debug)]
pub(super) struct Crew {
    pub(super) generation: Generation,
    pub(super) policy: Policy,
    /// As many as may ever serve; the index is the worker number.
    pub(super) seats: Vec<Seat>,
    /// The fewest and the most that are to serve, as the operator has them now.
    pub(super) min: u16,
    pub(super) max: u16,
    /// The first so many seats are to be filled, unless the crew sleeps.
    pub(super) target: u16,
    /// Nothing was asked for `idle_exit`: no seat is filled until somebody is wanted.
    pub(super) asleep: bool,
    /// The place of the process that workers are forked from; there is one with `preload`.
    pub(super) zygote: Option<Seat>,
    /// The worn-out worker that is to become the zygote.
    pub(super) candidate: Option<Life>,
    /// The zygote was a worker, or an attempt to make it one has failed: not again.
    pub(super) reforked: bool,
    pub(super) scaler: Scaler,
}

impl Crew {
    /// A crew with nobody in it yet. `before` is how many served until now, if anybody did.
    pub(super) fn new(generation: Generation, policy: Policy, before: Option<u16>) -> Self {
        // The last number there is belongs to zygotes.
        let max = policy.count.get().min(u16::MAX - 1);
        let min = policy.min.get().min(max);
        Crew {
            generation,
            seats: vec![Seat::default(); usize::from(max)],
            min,
            max,
            target: before.unwrap_or(min).clamp(min, max),
            asleep: false,
            zygote: policy.preload.then(Seat::default),
            candidate: None,
            reforked: false,
            scaler: Scaler::default(),
            policy,
        }
    }

    /// How many are to serve at this moment.
    pub(super) fn wanted(&self) -> usize {
        if self.asleep { 0 } else { usize::from(self.target) }
    }

    /// The seats that are to be filled, with their numbers.
    pub(super) fn open(&self) -> impl Iterator<Item = (u16, &Seat)> {
        (0..).zip(self.seats.iter().take(self.wanted()))
    }

    /// Every place: the seats and the zygote's.
    pub(super) fn places_mut(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.seats.iter_mut().chain(self.zygote.as_mut())
    }

    /// The place a worker of this crew has, had, or is to have.
    pub(super) fn place_mut(&mut self, id: WorkerId, role: Role) -> Option<&mut Seat> {
        match role {
            Role::Worker => self.seats.get_mut(usize::from(id.number.0)),
            Role::Zygote => self.zygote.as_mut(),
        }
    }

    /// The zygote, when workers can be forked from it.
    pub(super) fn ready_zygote(&self, workers: &BTreeMap<Life, Worker>) -> Option<WorkerId> {
        let life = self.zygote.as_ref()?.current?;
        workers.get(&life).filter(|worker| worker.is_standby()).map(|worker| worker.id)
    }

    /// Whether a process could be made for a seat.
    pub(super) fn can_spawn(&self, workers: &BTreeMap<Life, Worker>) -> bool {
        self.zygote.is_none() || self.ready_zygote(workers).is_some()
    }

    /// As many seats as the operator's range has by now; those above it stay, empty.
    pub(super) fn grow_seats(&mut self) {
        let n_seats = self.seats.len().max(usize::from(self.max));
        self.seats.resize_with(n_seats, Default::default);
    }
}
