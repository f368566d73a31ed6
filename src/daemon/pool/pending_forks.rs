//! The workers that zygotes were asked to fork, until each is there or given up. `fork` asks and decides.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::dispatch::Slots;
use crate::id::{Generation, WorkerId};
use crate::journal::output::DaemonEnds;
use crate::systemd::cgroup::WorkerCgroup;

use super::channel::Channel;
use super::error::SpawnError;
use super::memory_limits::MemoryLimits;

/// From a zygote's death to the last that it may have said.
const ZYGOTE_DEATH_GRACE: Duration = Duration::from_millis(200);

/// The workers that were asked for and are not there yet.
#[derive(Debug, Default)]
pub(super) struct PendingForks {
    /// By life.
    pub(super) pending: HashMap<u64, PendingFork>,
    /// Lives that were given up, and their zygotes; should their process come after all, it is killed.
    pub(super) given_up: HashMap<u64, WorkerId>,
    pub(super) lost: Vec<LostFork>,
}

/// A worker that was asked for and will not come.
#[derive(Debug)]
pub struct LostFork {
    /// Whose it was to be.
    pub worker: WorkerId,
    /// Who was asked for it.
    pub zygote: WorkerId,
    /// The zygote lives and has not answered anything for as long as one fork may take: it hangs, and another one is
    /// to take its place.
    pub timed_out: bool,
    /// Why it will not come.
    pub error: SpawnError,
}

/// A worker that was asked for.
#[derive(Debug)]
pub(super) struct PendingFork {
    pub(super) worker: WorkerId,
    pub(super) zygote: WorkerId,
    /// When it is given up.
    pub(super) deadline: Instant,
    /// It was to be killed before it existed.
    pub(super) kill_on_arrival: bool,
    pub(super) prepared: PreparedWorker,
}

/// A process but for its pid.
#[derive(Debug)]
pub(super) struct PreparedWorker {
    pub(super) channel: Channel,
    pub(super) cgroup: Option<WorkerCgroup>,
    pub(super) memory_limits: MemoryLimits,
    pub(super) generation: Generation,
    pub(super) slots: Slots,
    pub(super) max_requests: Option<NonZeroU64>,
    pub(super) children_timeout: Duration,
    /// What it prints comes here.
    pub(super) output: Option<DaemonEnds>,
}

impl PendingForks {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        for pending in self.pending.values_mut() {
            pending.deadline = Instant::now();
        }
    }

    /// Forgets a fork that was given up and that its zygote has answered now; false if there was none.
    pub(super) fn take_given_up(&mut self, life: u64, zygote: WorkerId) -> bool {
        let is_given_up = self.given_up.get(&life) == Some(&zygote);
        if is_given_up {
            self.given_up.remove(&life);
        }
        is_given_up
    }

    /// A process has died: if it is a zygote, what it was to do may not come any more.
    pub(super) fn shorten_deadlines(&mut self, zygote: WorkerId) {
        let until = Instant::now() + ZYGOTE_DEATH_GRACE;
        for pending in self.pending.values_mut().filter(|pending| pending.zygote == zygote) {
            pending.deadline = pending.deadline.min(until);
        }
    }
}
