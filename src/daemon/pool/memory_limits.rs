//! Sets the memory limits of new workers and adds their cgroups to the watch.
//! [`memory`](super::memory) reads the events.

use rgun_channel::control::Role;

use crate::error_chain::Chain;
use crate::id::WorkerId;
use crate::systemd::cgroup::{Delegation, WorkerCgroup};
use crate::systemd::memory::{CgroupWatch, MemoryEventCounts, WatchId};

use super::spawn_spec::SpawnSpec;

/// A memory event of a worker's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryEvent {
    /// The worker has reached `workers.max_memory`, its soft limit. The limit has been lifted, so
    /// that the kernel does not slow the worker down; the hard limit at 1.5 times remains. Sent
    /// once per worker.
    High(WorkerId),
    /// The out-of-memory killer has killed a process of the worker; if the worker has a limit, all
    /// of its processes.
    OomKill(WorkerId, OomCause),
}

/// The limit because of which the out-of-memory killer has killed a process of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomCause {
    /// The worker's own hard limit, 1.5 times `workers.max_memory`.
    WorkerLimit,
    /// The limit of the unit for all of its processes (`MemoryMax=`).
    UnitLimit,
    /// The memory of the machine, or the limit of a slice above the unit.
    Elsewhere,
}

/// The watch over all workers' cgroups, and the warnings that have been logged.
#[derive(Debug, Default)]
pub(super) struct MemoryMonitor {
    /// `None` if there is no memory controller, or if inotify fails: then the events are polled.
    pub(super) watch: Option<CgroupWatch>,
    /// The absence of a memory controller was logged.
    pub(super) absence_logged: bool,
    /// A failure to read `/proc` was logged.
    pub(super) read_error_logged: bool,
}

/// The memory limits and event counts of one worker.
#[derive(Debug, Default)]
pub(super) struct MemoryLimits {
    /// Bytes at which [`MemoryEvent::High`] is sent; `None` if there is no soft limit, or after the
    /// limit was lifted.
    pub(super) soft: Option<u64>,
    /// The cgroup's watch; `None` if it must be polled.
    pub(super) watch_id: Option<WatchId>,
    /// The event counts of the last poll.
    pub(super) last_counts: MemoryEventCounts,
    /// The event counts before the worker started, because the cgroup may be an old one of the same
    /// name.
    pub(super) initial_counts: MemoryEventCounts,
    /// Number of times that the unit had reached its own limit before the worker started.
    pub(super) initial_unit_ooms: u64,
    /// Whether `workers.max_memory` is set for the worker.
    pub(super) is_limited: bool,
}

impl MemoryLimits {
    /// Returns the cause of an OOM kill in the worker's cgroup, whose event counts are `counts`.
    pub(super) fn oom_cause(&self, counts: MemoryEventCounts, delegation: Option<&Delegation>) -> OomCause {
        if counts.oom > self.initial_counts.oom {
            OomCause::WorkerLimit
        } else if delegation.is_some_and(|delegation| delegation.unit_ooms() > self.initial_unit_ooms) {
            OomCause::UnitLimit
        } else {
            OomCause::Elsewhere
        }
    }
}

impl MemoryMonitor {
    pub(super) fn new(has_memory: bool) -> Self {
        let watch = has_memory.then(CgroupWatch::new).and_then(|created| {
            created
                .inspect_err(|error| {
                    tracing::warn!(%error, "cannot watch memory.events, polling it instead");
                })
                .ok()
        });
        Self { watch, ..Self::default() }
    }

    /// Sets the limits of a new worker's cgroup. A zygote has no limits: it serves no requests, and
    /// the pages that it shares with its workers are charged to it.
    pub(super) fn set_limits(
        &mut self,
        spec: &SpawnSpec<'_>,
        cgroup: Option<&WorkerCgroup>,
        delegation: Option<&Delegation>,
    ) -> MemoryLimits {
        let soft = spec.max_memory.filter(|_| spec.role == Role::Worker);
        let Some(cgroup) = cgroup.filter(|cgroup| cgroup.has_memory()) else {
            if soft.is_some() && !self.absence_logged {
                self.absence_logged = true;
                tracing::warn!(
                    "workers.max_memory: no memory controller (it needs cgroup2 and, under systemd, Delegate=yes): \
                     sampling PSS every 5 s instead, without a hard limit"
                );
            }
            return MemoryLimits { is_limited: soft.is_some(), ..MemoryLimits::default() };
        };
        let is_limited = soft.is_some();
        let soft = soft.filter(|limit| match cgroup.limit_memory(*limit) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "cannot limit a worker's memory, proceeding without");
                false
            }
        });
        // The system's OOM killer may also kill a worker without a limit; `was_oom_killed` notices
        // this at the worker's exit.
        let watch_id = self.watch.as_ref().filter(|_| soft.is_some()).and_then(|watch| {
            let added = watch.add(cgroup);
            added
                .inspect_err(|error| {
                    tracing::debug!(%error, "cannot watch a worker's memory.events, polling it instead");
                })
                .ok()
        });
        let counts = cgroup.memory_events().unwrap_or_default();
        MemoryLimits {
            soft,
            watch_id,
            last_counts: counts,
            initial_counts: counts,
            initial_unit_ooms: delegation.map_or(0, Delegation::unit_ooms),
            is_limited,
        }
    }
}
