//! Sets the memory limits of new workers and adds their cgroups to the watch.
//! [`memory`](super::memory) reads the events.

use std::time::Instant;

use rgun_channel::control::Role;

use crate::error_chain::Chain;
use crate::systemd::cgroup::{Delegation, WorkerCgroup};
use crate::systemd::memory::{CgroupWatch, MemoryEventCounts, WatchId};

use super::spawn_spec::SpawnSpec;

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
    /// `workers.max_memory` in bytes; `None` if there is no soft limit, or after the limit was lifted.
    pub(super) soft: Option<u64>,
    /// The cgroup's watch; `None` if it must be polled.
    pub(super) watch_id: Option<WatchId>,
    /// The event counts of the last poll; at first those before the worker started, because the cgroup
    /// may be an old one of the same name.
    pub(super) last_counts: MemoryEventCounts,
    /// Number of times that the unit had reached its own limit at the last poll.
    pub(super) last_unit_ooms: u64,
    /// Time at which a poll has found an OOM kill, and its cause.
    pub(super) last_oom: Option<(Instant, OomCause)>,
    /// Whether `workers.max_memory` is set for the worker.
    pub(super) is_limited: bool,
}

impl MemoryLimits {
    /// Stores the current event counts, and the cause if the OOM killer has killed a process since the
    /// last call. Returns the counts before.
    pub(super) fn update(
        &mut self,
        counts: MemoryEventCounts,
        delegation: Option<&Delegation>,
    ) -> MemoryEventCounts {
        let last = std::mem::replace(&mut self.last_counts, counts);
        let unit_ooms = delegation.map_or(0, Delegation::unit_ooms);
        let last_unit_ooms = std::mem::replace(&mut self.last_unit_ooms, unit_ooms);
        if counts.oom_kill > last.oom_kill {
            let cause = if counts.oom > last.oom {
                OomCause::WorkerLimit
            } else if unit_ooms > last_unit_ooms {
                OomCause::UnitLimit
            } else {
                OomCause::Elsewhere
            };
            self.last_oom = Some((Instant::now(), cause));
        }
        last
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
        // The system's OOM killer may also kill a worker without a limit; `WorkerProcess::oom_cause`
        // notices this at the worker's exit.
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
            last_unit_ooms: delegation.map_or(0, Delegation::unit_ooms),
            last_oom: None,
            is_limited,
        }
    }
}
