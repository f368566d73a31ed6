//! The limits of one worker's memory, and the watch over all of them. `memory` reads what the kernel tells.

use rgun_channel::control::Role;

use crate::error_chain::Chain;
use crate::id::WorkerId;
use crate::systemd::cgroup::Leaf;
use crate::systemd::memory::{Events, Watch, WatchId};

use super::plan::Plan;

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
pub(super) struct Watcher {
    pub(super) watch: Option<Watch>,
    /// That there is no controller has been said.
    pub(super) told_absent: bool,
    /// That `/proc` cannot be read has been said.
    pub(super) told_unreadable: bool,
}

/// What is known of one worker's limits.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Bytes at which it is told [`MemoryEvent::High`]; nothing when it has no soft limit (any more).
    pub(super) soft: Option<u64>,
    /// Nothing when it cannot be watched: it is then looked at each time.
    pub(super) watch: Option<WatchId>,
    /// What was seen last.
    pub(super) seen: Events,
    /// A leaf of the same name may have been there before.
    pub(super) oom_kills_before: u64,
}

impl Watcher {
    pub(super) fn new(has_memory: bool) -> Self {
        let watch = has_memory.then(Watch::new).and_then(|made| {
            made.inspect_err(|error| {
                tracing::warn!(%error, "cannot watch memory.events, looking at them from time to time instead");
            })
            .ok()
        });
        Self { watch, ..Self::default() }
    }

    /// Bounds a new worker's leaf. A zygote has no limit: it serves nothing that could make it grow, and what its
    /// workers share with it is counted as its own.
    pub(super) fn limit(&mut self, plan: &Plan<'_>, leaf: Option<&Leaf>) -> Limits {
        let soft = plan.max_memory.filter(|_| plan.role == Role::Worker);
        let Some(leaf) = leaf.filter(|leaf| leaf.has_memory()) else {
            if soft.is_some() && !self.told_absent {
                self.told_absent = true;
                tracing::warn!(
                    "workers.max_memory has no memory controller to rely on (under systemd that takes Delegate=yes \
                     and a kernel with cgroup2's): falls back to sampling PSS every 5 s, without a hard limit"
                );
            }
            return Limits::default();
        };
        let soft = soft.filter(|limit| match leaf.limit_memory(*limit) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "cannot limit a worker's memory, proceeding without");
                false
            }
        });
        // Without a limit of its own the kernel may still kill it for the whole system's; that is read at its end.
        let watch = self.watch.as_ref().filter(|_| soft.is_some()).and_then(|watch| {
            let added = watch.add(leaf);
            added
                .inspect_err(|error| {
                    tracing::debug!(%error, "cannot watch a worker's memory.events, looking at them from time to time");
                })
                .ok()
        });
        let seen = leaf.memory_events().unwrap_or_default();
        Limits { soft, watch, seen, oom_kills_before: seen.oom_kill }
    }
}
