//! Forks that were requested of zygotes, until each is reported or given up. [`fork`](super::fork)
//! requests them and handles the reports.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::id::{Generation, WorkerId};
use crate::journal::output::DaemonEnds;
use crate::link::Slots;
use crate::systemd::cgroup::WorkerCgroup;

use super::channel::Channel;
use super::error::SpawnError;
use super::memory_limits::MemoryLimits;

/// Time between a zygote's death and the deadline of its pending forks, in which its last reports
/// are read.
const ZYGOTE_DEATH_GRACE: Duration = Duration::from_millis(200);

/// Forks by state.
#[derive(Debug, Default)]
pub(super) struct PendingForks {
    /// Forks without a report yet, by the worker's incarnation.
    pub(super) pending: HashMap<u64, PendingFork>,
    /// Zygotes of the forks that were given up, by the worker's incarnation. If such a worker is
    /// reported after all, it is killed.
    pub(super) given_up: HashMap<u64, WorkerId>,
    /// Forks that were given up, until [`Pool::take_lost_forks`](super::Pool::take_lost_forks)
    /// returns them.
    pub(super) lost: Vec<LostFork>,
}

/// A fork that the zygote will not report.
#[derive(Debug)]
pub struct LostFork {
    /// The worker that was to be forked.
    pub worker: WorkerId,
    /// The zygote that was asked.
    pub zygote: WorkerId,
    /// The zygote is alive but has reported nothing for as long as one fork may take: it hangs and
    /// must be replaced.
    pub timed_out: bool,
    /// The reason, for the log.
    pub error: SpawnError,
}

/// A fork that was requested and not reported.
#[derive(Debug)]
pub(super) struct PendingFork {
    pub(super) worker: WorkerId,
    pub(super) zygote: WorkerId,
    /// When the fork is given up.
    pub(super) deadline: Instant,
    /// The worker is to be killed as soon as it is reported.
    pub(super) kill_on_arrival: bool,
    pub(super) prepared: PreparedWorker,
}

/// The resources of a worker whose process does not exist yet: what its
/// [`WorkerProcess`](super::worker::WorkerProcess) and its [`Link`](crate::link::Link) need, except
/// for the pid.
#[derive(Debug)]
pub(super) struct PreparedWorker {
    pub(super) channel: Channel,
    pub(super) cgroup: Option<WorkerCgroup>,
    pub(super) memory_limits: MemoryLimits,
    pub(super) generation: Generation,
    pub(super) slots: Slots,
    pub(super) max_requests: Option<NonZeroU64>,
    pub(super) children_timeout: Duration,
    /// The daemon's ends of the output pipes; `None` if the worker inherits stdout and stderr.
    pub(super) output: Option<DaemonEnds>,
}

impl PendingForks {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        for fork in self.pending.values_mut() {
            fork.deadline = Instant::now();
        }
    }

    /// Removes a fork that was given up. Returns false if no fork of this incarnation by `zygote`
    /// was given up.
    pub(super) fn take_given_up(&mut self, incarnation: u64, zygote: WorkerId) -> bool {
        let is_given_up = self.given_up.get(&incarnation) == Some(&zygote);
        if is_given_up {
            self.given_up.remove(&incarnation);
        }
        is_given_up
    }

    /// Limits the pending forks of a dead zygote to [`ZYGOTE_DEATH_GRACE`]. Does nothing for a
    /// worker.
    pub(super) fn shorten_deadlines(&mut self, zygote: WorkerId) {
        let deadline = Instant::now() + ZYGOTE_DEATH_GRACE;
        for fork in self.pending.values_mut().filter(|fork| fork.zygote == zygote) {
            fork.deadline = fork.deadline.min(deadline);
        }
    }
}
