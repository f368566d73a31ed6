//! One worker's process and what belongs to it, until it is reaped.

use std::time::Duration;

use nix::unistd::Pid;
use rgun_channel::control::Role;

use crate::supervise::Exit;
use crate::systemd::cgroup::Leaf;

use super::channel::Channel;
use super::memory_limits::Limits;
use super::process::{self, Which};

#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) role: Role,
    pub(super) channel: Channel,
    pub(super) leaf: Option<Leaf>,
    pub(super) limits: Limits,
    /// How long its children may outlive it when it leaves in good order; zero: not at all, and then not if it was to
    /// be killed.
    pub(super) children: Duration,
}

impl Process {
    /// SIGKILL to the worker and what it started. Never called after the process was reaped.
    pub(super) fn kill_all(&self) {
        if let Some(leaf) = &self.leaf {
            // False on a kernel without `cgroup.kill`; the group is then all there is.
            leaf.kill();
        }
        // In any case: a forked worker enters its leaf itself, and may have failed to.
        process::kill_group(self.pid);
    }

    /// Whether it has left in good order, and what it has started may finish.
    pub(super) fn leaves_children(&self, how: Exit) -> bool {
        how == Exit::Code(0) && !self.children.is_zero()
    }

    /// How it ended, if it has, and whether it is there to be reaped.
    pub(super) fn ended(&self) -> Option<(Exit, bool)> {
        match process::ended(Which::One(self.pid)) {
            Ok(ended) => ended.map(|(_, how)| (how, true)),
            Err(error) => {
                tracing::error!(%error, rgun.pid = self.pid.as_raw(), "cannot wait for a worker");
                Some((Exit::Code(-1), false))
            }
        }
    }
}
