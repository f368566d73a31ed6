//! The process of one worker or zygote with its channel and cgroup, until it is reaped.

use std::time::Duration;

use nix::unistd::Pid;
use rgun_channel::control::Role;

use crate::supervise::Exit;
use crate::systemd::cgroup::WorkerCgroup;

use super::channel::Channel;
use super::memory_limits::MemoryLimits;
use super::process::{self, WaitTarget};

/// The process of a worker or zygote.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    pub(super) pid: Pid,
    pub(super) role: Role,
    pub(super) channel: Channel,
    /// The worker's cgroup; `None` without delegation.
    pub(super) cgroup: Option<WorkerCgroup>,
    pub(super) memory_limits: MemoryLimits,
    /// Time that the children may run after the process has exited with status 0. If zero, they are
    /// killed with it. [`Pool::kill`](super::Pool::kill) sets zero.
    pub(super) children_timeout: Duration,
}

impl WorkerProcess {
    /// Sends SIGKILL to the worker and its children. Must not be called after the process was
    /// reaped.
    pub(super) fn kill_all(&self) {
        if let Some(cgroup) = &self.cgroup {
            // Fails on a kernel without `cgroup.kill`: then only the process group is killed.
            cgroup.kill();
        }
        // The process group is killed in any case, because a forked worker may have failed to enter
        // its cgroup.
        process::kill_group(self.pid);
    }

    /// Returns true if the process exited in such a way that its children may continue to run.
    pub(super) fn keeps_children(&self, exit: Exit) -> bool {
        exit == Exit::Code(0) && !self.children_timeout.is_zero()
    }

    /// Returns the exit of a process that has exited, and whether it is a child that can be reaped;
    /// `None` while it is running.
    pub(super) fn peek_exit(&self) -> Option<(Exit, bool)> {
        match process::peek_exit(WaitTarget::Pid(self.pid)) {
            Ok(exited) => exited.map(|(_, exit)| (exit, true)),
            Err(error) => {
                tracing::error!(%error, rgun.pid = self.pid.as_raw(), "cannot wait for a worker");
                Some((Exit::Code(-1), false))
            }
        }
    }
}
