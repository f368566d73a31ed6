//! What the supervisor keeps of a reload and of the generation before. `reload` has the transitions.

use std::time::Instant;

use crate::id::WorkerId;

use super::crew::Crew;

/// A reload under way.
#[derive(Clone, Debug)]
pub(super) struct Coming {
    pub(super) crew: Crew,
    pub(super) asked_at: Instant,
    pub(super) stage: Stage,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// One worker boots, to see whether the code can; its zygote before it.
    Canary,
    /// That worker is being asked `reload.probe`.
    Probing { worker: WorkerId, deadline: Option<Instant> },
    /// The others boot.
    Rest,
}

impl Coming {
    pub(super) fn boots_at_once(&self) -> usize {
        match self.stage {
            Stage::Canary => 1,
            Stage::Probing { .. } => 0,
            Stage::Rest => usize::from(self.crew.policy.boots_at_once.get()),
        }
    }
}

/// The generation before, until it is clear that the one that took over is no worse.
#[derive(Clone, Debug)]
pub(super) struct Warm {
    pub(super) crew: Crew,
    pub(super) until: Instant,
}

/// A reload before anybody was ever ready: its generation is live, and nobody knows yet whether it can serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    pub(super) asked_at: Instant,
}
