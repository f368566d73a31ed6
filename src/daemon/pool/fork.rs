//! Workers that a zygote forks.
//!
//! ```text
//! Pool::fork ──Command::Fork──▶ zygote ── fork, fork ──▶ worker, child of the daemon (a subreaper)
//!                                  └──Report::Forked──▶ Pool::on_forked      or ──Report::ForkFailed──▶ Pool::on_fork_failed
//! ```
//! Between request and report a fork is *pending*. A zygote runs application code, so its reports
//! are not trusted: the fork must have been requested of this zygote, and the pid must be an
//! unknown child of the daemon. [`Pool::take_lost_forks`] returns the pending forks that will not
//! be reported.
//!
//! When a zygote dies, its pending forks are kept for [`ZYGOTE_DEATH_GRACE`](super::pending_forks):
//! the zygote's last report may still be unread, and the worker named in it is alive.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rgun_channel::control::{self, Command, Fork, Role};

use crate::id::WorkerId;
use crate::systemd::cgroup::WorkerCgroup;

use super::channel::Channel;
use super::error::SpawnError;
use super::pending_forks::{LostFork, PendingFork, PreparedWorker};
use super::spawn_spec::SpawnSpec;
use super::worker::WorkerProcess;
use super::{Pool, SpawnedWorker, process};

/// Timeout of one report of a zygote, which forks one worker at a time. A fork takes some
/// milliseconds, or seconds on a machine that is out of memory. Longer than `FORK_TIMEOUT` of
/// worker/zygote.py.
const FORK_TIMEOUT: Duration = Duration::from_secs(10);

impl Pool {
    /// Asks a zygote to fork a worker. The worker gets the zygote's geometry, application,
    /// listeners and log token.
    ///
    /// # Errors
    /// If the channel cannot be created or Fork cannot be sent; then the worker's resources are
    /// removed.
    pub fn fork(&mut self, spec: &SpawnSpec<'_>, zygote: WorkerId) -> Result<(), SpawnError> {
        let no_zygote = |reason: &str| SpawnError::Zygote(io::Error::new(io::ErrorKind::NotFound, reason));
        let (geometry, log_token) = match self.processes.get(&zygote) {
            Some(process) if process.role == Role::Zygote => {
                (process.channel.geometry, process.channel.log_token)
            }
            Some(_) => return Err(no_zygote("it is not a zygote")),
            None => return Err(no_zygote("it has exited")),
        };
        let (channel, map, worker_socket) = Channel::new(geometry, log_token)?;
        let (worker_ends, output) = self.create_output_pipes(spec)?;
        let cgroup = self.create_cgroup(spec);
        let memory_limits = self.memory_monitor.set_limits(spec, cgroup.as_ref(), self.delegation.as_ref());
        let procs = cgroup.as_ref().map(WorkerCgroup::open_procs).transpose();
        let sent = procs.map_err(SpawnError::open_cgroup).and_then(|procs| {
            let mut fds =
                vec![worker_socket.as_fd(), map.as_fd(), channel.stacks.as_fd(), channel.wake.as_fd()];
            fds.extend(worker_ends.iter().flat_map(|ends| [ends.stdout.as_fd(), ends.stderr.as_fd()]));
            fds.extend(procs.as_ref().map(AsFd::as_fd));
            let fork = Fork { worker: spec.worker.number.0, incarnation: spec.worker.incarnation.0 };
            let process = self.processes.get(&zygote).ok_or_else(|| no_zygote("it has exited"))?;
            control::send(&process.channel.control, &Command::Fork(fork).encode(), &fds)
                .map_err(SpawnError::Zygote)
        });
        if let Err(error) = sent {
            self.stale_cgroups.extend(cgroup);
            self.remove_stale_cgroups();
            return Err(error);
        }
        let SpawnSpec { worker, generation, max_requests, children_timeout, .. } = *spec;
        let prepared = PreparedWorker {
            channel,
            cgroup,
            memory_limits,
            generation,
            slots: spec.slots(),
            max_requests,
            children_timeout,
            output,
        };
        let deadline = Instant::now() + FORK_TIMEOUT;
        let fork = PendingFork { worker, zygote, deadline, kill_on_arrival: false, prepared };
        self.forks.pending.insert(worker.incarnation.0, fork);
        Ok(())
    }

    /// Handles [`Report::Forked`](control::Report::Forked): checks the report and adopts the
    /// worker.
    ///
    /// # Errors
    /// If the report is false or too late, or the fork was not requested. If this fails a pending
    /// fork, [`Pool::take_lost_forks`] returns that fork.
    pub fn on_forked(
        &mut self,
        zygote: WorkerId,
        incarnation: u64,
        pid: u32,
    ) -> Result<SpawnedWorker, SpawnError> {
        let child = self.unknown_child(pid);
        if self.forks.take_given_up(incarnation, zygote) {
            if let Some(pid) = child {
                process::kill_group(pid);
            }
            self.reap_orphans();
            return Err(SpawnError::TooLate);
        }
        let Some(fork) = self.forks.pending.get(&incarnation).filter(|fork| fork.zygote == zygote) else {
            return Err(SpawnError::FalseFork { incarnation, pid, reason: "it was not requested" });
        };
        let worker = fork.worker;
        let Some(child) = child else {
            let reason = "it is not a child of the daemon, or already known";
            let error = || SpawnError::FalseFork { incarnation, pid, reason };
            self.give_up_fork(incarnation, false, error());
            self.reap_orphans();
            return Err(error());
        };
        let fork = self.forks.pending.remove(&incarnation).expect("the fork was found above");
        self.extend_fork_deadlines(zygote);
        let PreparedWorker {
            channel,
            cgroup,
            memory_limits,
            generation,
            slots,
            max_requests,
            children_timeout,
            output,
        } = fork.prepared;
        self.follow_output(output, channel.log_token, (worker, generation), child);
        let link = channel.link(worker, generation, slots, max_requests);
        let role = Role::Worker;
        let mut process =
            WorkerProcess { pid: child, role, channel, cgroup, memory_limits, children_timeout };
        if fork.kill_on_arrival {
            process.children_timeout = Duration::ZERO;
            process.kill_all();
        }
        self.processes.insert(worker, process);
        self.reap_orphans();
        Ok(SpawnedWorker { pid, link })
    }

    /// Handles [`Report::ForkFailed`](control::Report::ForkFailed). Returns the worker that was to
    /// be forked; `None` if its fork was given up before.
    ///
    /// # Errors
    /// If the fork was not requested of this zygote.
    pub fn on_fork_failed(
        &mut self,
        zygote: WorkerId,
        incarnation: u64,
    ) -> Result<Option<WorkerId>, SpawnError> {
        if self.forks.take_given_up(incarnation, zygote) {
            return Ok(None);
        }
        if self.forks.pending.get(&incarnation).is_none_or(|fork| fork.zygote != zygote) {
            return Err(SpawnError::UnexpectedFailure { incarnation });
        }
        let fork = self.forks.pending.remove(&incarnation).expect("the fork was found above");
        self.extend_fork_deadlines(zygote);
        self.discard_cgroup(fork.prepared.cgroup);
        self.reap_orphans();
        Ok(Some(fork.worker))
    }

    /// Returns each fork that will not be reported, once: its zygote died, timed out, or sent a
    /// false report. Call after [`Pool::reap`] and [`Pool::on_forked`], and at
    /// [`Pool::next_fork_deadline`].
    pub fn take_lost_forks(&mut self) -> Vec<LostFork> {
        let now = Instant::now();
        let overdue: Vec<(u64, WorkerId)> = self
            .forks
            .pending
            .iter()
            .filter(|(_, fork)| fork.deadline <= now)
            .map(|(incarnation, fork)| (*incarnation, fork.zygote))
            .collect();
        for (incarnation, zygote) in overdue {
            let timed_out = self.processes.contains_key(&zygote);
            let (kind, reason) = if timed_out {
                (io::ErrorKind::TimedOut, "it did not answer")
            } else {
                (io::ErrorKind::NotFound, "it died")
            };
            self.give_up_fork(incarnation, timed_out, SpawnError::Zygote(io::Error::new(kind, reason)));
        }
        self.forks.given_up.retain(|_, zygote| self.processes.contains_key(zygote));
        self.reap_orphans();
        std::mem::take(&mut self.forks.lost)
    }

    /// Returns when [`Pool::take_lost_forks`] is due; `None` if no fork is pending or lost.
    pub fn next_fork_deadline(&self) -> Option<Instant> {
        if !self.forks.lost.is_empty() {
            return Some(Instant::now());
        }
        self.forks.pending.values().map(|fork| fork.deadline).min()
    }

    /// Handles [`Report::Promoted`](control::Report::Promoted): the worker has become a zygote.
    /// Allows forks from it and lifts its memory limits. The caller has checked that the promotion
    /// was requested ([`Supervisor::is_promoting`](crate::supervise::Supervisor::is_promoting)).
    pub fn on_promoted(&mut self, worker: WorkerId) {
        if let Some(process) = self.processes.get_mut(&worker) {
            process.role = Role::Zygote;
            process.lift_memory_limits();
        }
    }

    /// Marks a pending fork: its worker is killed when the zygote reports it.
    pub(super) fn kill_pending(&mut self, worker: WorkerId) {
        if let Some(fork) = self.forks.pending.get_mut(&worker.incarnation.0) {
            fork.kill_on_arrival = true;
        }
    }

    /// Returns the process of a reported pid, if it is a child of the daemon and not a known
    /// worker.
    fn unknown_child(&self, pid: u32) -> Option<Pid> {
        let pid = Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid > 1)?);
        let is_known = self.processes.values().any(|process| process.pid == pid);
        (!is_known && process::is_child(pid)).then_some(pid)
    }

    /// Restarts the timeout of a zygote's other pending forks after one report, unless the zygote
    /// has died.
    fn extend_fork_deadlines(&mut self, zygote: WorkerId) {
        if self.processes.contains_key(&zygote) {
            let deadline = Instant::now() + FORK_TIMEOUT;
            for fork in self.forks.pending.values_mut().filter(|fork| fork.zygote == zygote) {
                fork.deadline = deadline;
            }
        }
    }

    /// Moves a pending fork to the lost ones. The worker is killed if its zygote reports it later.
    fn give_up_fork(&mut self, incarnation: u64, timed_out: bool, error: SpawnError) {
        let Some(fork) = self.forks.pending.remove(&incarnation) else { return };
        let PendingFork { worker, zygote, prepared, .. } = fork;
        if self.processes.contains_key(&zygote) {
            self.forks.given_up.insert(incarnation, zygote);
        }
        self.discard_cgroup(prepared.cgroup);
        self.forks.lost.push(LostFork { worker, zygote, timed_out, error });
    }

    /// Kills the processes in the cgroup of a worker that was not reported, and removes the cgroup.
    /// A worker that had not entered its cgroup yet finds its socket closed and exits.
    fn discard_cgroup(&mut self, cgroup: Option<WorkerCgroup>) {
        if let Some(cgroup) = &cgroup
            && !cgroup.kill()
        {
            tracing::debug!("cannot kill the processes in the cgroup of a lost fork, ignoring");
        }
        self.stale_cgroups.extend(cgroup);
        self.remove_stale_cgroups();
    }
}
