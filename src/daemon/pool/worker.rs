//! One worker's process and what belongs to it, until it is reaped.

use std::time::Duration;

use nix::unistd::Pid;
use rgun_channel::control::Role;

use crate::supervise::Exit;
use crate::systemd::cgroup::WorkerCgroup;

use super::channel::Channel;
use super::memory_limits::MemoryLimits;
use super::process::{self, WaitTarget};

#[derive(Debug)]
pub(super) struct WorkerProcess {
    pub(super) pid: Pid,
    pub(super) role: Role,
    pub(super) channel: Channel,
    pub(super) cgroup: Option<WorkerCgroup>,
    pub(super) memory_limits: MemoryLimits,
    /// How long its children may outlive it when it cgroups in good order; zero: not at all, and then not if it was to
    /// be killed.
    pub(super) children_timeout: Duration,
}

impl WorkerProcess {
    /// SIGKILL to the worker and what it started. Never called after the process was reaped.
    pub(super) fn kill_all(&self) {
        if let Some(cgroup) = &self.cgroup {
            // False on a kernel without `cgroup.kill`; the group is then all there is.
            cgroup.kill();
        }
        // In any case: a forked worker enters its cgroup itself, and may have failed to.
        process::kill_group(self.pid);
    }

    /// Whether it has left in good order, and what it has started may finish.
    pub(super) fn keeps_children(&self, how: Exit) -> bool {
        how == Exit::Code(0) && !self.children_timeout.is_zero()
    }

    /// How it ended, if it has, and whether it is there to be reaped.
    pub(super) fn peek_exit(&self) -> Option<(Exit, bool)> {
        match process::peek_exit(WaitTarget::Pid(self.pid)) {
            Ok(ended) => ended.map(|(_, how)| (how, true)),
            Err(error) => {
                tracing::error!(%error, rgun.pid = self.pid.as_raw(), "cannot wait for a worker");
                Some((Exit::Code(-1), false))
            }
        }
    }
}
