//! The limits of one worker's memory, and the watch over all of them. `memory` reads what the kernel tells.

use rgun_channel::control::Role;

use crate::error_chain::Chain;
use crate::id::WorkerId;
use crate::systemd::cgroup::WorkerCgroup;
use crate::systemd::memory::{CgroupWatch, MemoryEventCounts, WatchId};

use super::spawn_spec::SpawnSpec;

/// Something the kernel has told of a worker's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryEvent {
    /// It has come to `workers.max_memory`. The limit has been lifted, so that what it does is not slowed down; the
    /// one at half as much again stands. Once for each worker.
    High(WorkerId),
    /// The kernel has killed something of it for want of memory; with a limit of its own all of it.
    OomKill(WorkerId),
}

/// What the pool keeps about it.
#[derive(Debug, Default)]
pub(super) struct MemoryMonitor {
    pub(super) watch: Option<CgroupWatch>,
    /// That there is no controller has been said.
    pub(super) absence_logged: bool,
    /// That `/proc` cannot be read has been said.
    pub(super) read_error_logged: bool,
}

/// What is known of one worker's limits.
#[derive(Debug, Default)]
pub(super) struct MemoryLimits {
    /// Bytes at which it is told [`MemoryEvent::High`]; nothing when it has no soft limit (any more).
    pub(super) soft: Option<u64>,
    /// Nothing when it cannot be watched: it is then looked at each time.
    pub(super) watch_id: Option<WatchId>,
    /// What was seen last.
    pub(super) last_counts: MemoryEventCounts,
    /// A cgroup of the same name may have been there before.
    pub(super) initial_oom_kills: u64,
}

impl MemoryMonitor {
    pub(super) fn new(has_memory: bool) -> Self {
        let watch = has_memory.then(CgroupWatch::new).and_then(|made| {
            made.inspect_err(|error| {
                tracing::warn!(%error, "cannot watch memory.events, looking at them from time to time instead");
            })
            .ok()
        });
        Self { watch, ..Self::default() }
    }

    /// Bounds a new worker's cgroup. A zygote has no limit: it serves nothing that could make it grow, and what its
    /// workers share with it is counted as its own.
    pub(super) fn set_limits(&mut self, spec: &SpawnSpec<'_>, cgroup: Option<&WorkerCgroup>) -> MemoryLimits {
        let soft = spec.max_memory.filter(|_| spec.role == Role::Worker);
        let Some(cgroup) = cgroup.filter(|cgroup| cgroup.has_memory()) else {
            if soft.is_some() && !self.absence_logged {
                self.absence_logged = true;
                tracing::warn!(
                    "workers.max_memory has no memory controller to rely on (under systemd that takes Delegate=yes \
                     and a kernel with cgroup2's): falls back to sampling PSS every 5 s, without a hard limit"
                );
            }
            return MemoryLimits::default();
        };
        let soft = soft.filter(|limit| match cgroup.limit_memory(*limit) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "cannot limit a worker's memory, proceeding without");
                false
            }
        });
        // Without a limit of its own the kernel may still kill it for the whole system's; that is read at its end.
        let watch = self.watch.as_ref().filter(|_| soft.is_some()).and_then(|watch| {
            let added = watch.add(cgroup);
            added
                .inspect_err(|error| {
                    tracing::debug!(%error, "cannot watch a worker's memory.events, looking at them from time to time");
                })
                .ok()
        });
        let seen = cgroup.memory_events().unwrap_or_default();
        MemoryLimits { soft, watch_id: watch, last_counts: seen, initial_oom_kills: seen.oom_kill }
    }
}
