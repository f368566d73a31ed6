//! What the supervisor keeps of a reload and of the generation before. `reload` has the transitions.

use std::time::Instant;

use crate::id::WorkerId;

use super::worker_set::WorkerSet;

/// A reload under way.
#[derive(Clone, Debug)]
pub(super) struct PendingReload {
    pub(super) set: WorkerSet,
    pub(super) requested_at: Instant,
    pub(super) stage: ReloadStage,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReloadStage {
    /// One worker boots, to see whether the code can; its zygote before it.
    Canary,
    /// That worker is being asked `reload.probe`.
    Probing { worker: WorkerId, deadline: Option<Instant> },
    /// The others boot.
    Rest,
}

impl PendingReload {
    pub(super) fn boots_at_once(&self) -> usize {
        match self.stage {
            ReloadStage::Canary => 1,
            ReloadStage::Probing { .. } => 0,
            ReloadStage::Rest => usize::from(self.set.policy.boots_at_once.get()),
        }
    }
}

/// The generation before, until it is clear that the one that took over is no worse.
#[derive(Clone, Debug)]
pub(super) struct RollbackTarget {
    pub(super) set: WorkerSet,
    pub(super) until: Instant,
}

/// A reload before anybody was ever ready: its generation is live, and nobody knows yet whether it can serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnprovenReload {
    pub(super) requested_at: Instant,
}
