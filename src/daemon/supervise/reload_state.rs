//! The supervisor's data about a reload and about the previous generation; the transitions are in
//! `reload`.

use std::time::Instant;

use crate::id::WorkerId;

use super::worker_set::WorkerSet;

/// A reload in progress.
#[derive(Clone, Debug)]
pub(super) struct PendingReload {
    /// The generation that boots.
    pub(super) set: WorkerSet,
    /// When the reload was requested.
    pub(super) requested_at: Instant,
    pub(super) stage: ReloadStage,
}

/// The progress of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReloadStage {
    /// One worker boots, the canary; with `workers.preload`, the zygote boots before the canary.
    Canary,
    /// The canary runs the `reload.probe` request.
    Probing {
        /// The canary that runs the probe.
        worker: WorkerId,
        /// When the reload fails if the probe is not answered; `None` if `timeouts.boot` is off.
        deadline: Option<Instant>,
    },
    /// The other workers boot.
    Rest,
}

impl PendingReload {
    /// Returns how many workers may boot at the same time.
    pub(super) fn max_boots(&self) -> usize {
        match self.stage {
            ReloadStage::Canary => 1,
            ReloadStage::Probing { .. } => 0,
            ReloadStage::Rest => usize::from(self.set.policy.boots_at_once.get()),
        }
    }
}

/// The previous generation, kept in standby until `reload.watch` ends.
#[derive(Clone, Debug)]
pub(super) struct RollbackTarget {
    pub(super) set: WorkerSet,
    /// When the watch ends.
    pub(super) until: Instant,
}

/// A reload before any worker was ready. The new generation is live at once, since no older one
/// works; whether the new one can boot is not known yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnprovenReload {
    /// When the reload was requested.
    pub(super) requested_at: Instant,
}
