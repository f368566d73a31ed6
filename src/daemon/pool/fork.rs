//! Workers that a zygote forks: asked for here, believed here.
//!
//! ```text
//! Pool::fork ──Command::Fork──▶ zygote ── fork, fork ──▶ worker, re-parented to the daemon (a subreaper)
//!                                  └──Report::Forked──▶ Pool::on_forked    or ──Report::ForkFailed──▶ Pool::on_fork_failed
//! ```
//! Between the two a worker is *pending*. A zygote runs the application's code, so what it says is a claim: it must be
//! the one that was asked, and the pid must be a child of ours that is nobody's yet. A pending worker that never comes is told by [`Pool::take_lost_forks`].
//!
//! When a zygote dies, its pending workers have a moment left: what it said last may still wait on its control socket,
//! and the worker that it spoke of lives.

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

/// For one answer of a zygote, which forks one after the other. A fork takes some milliseconds; a machine that is out of
/// memory may take seconds. (The zygote gives up on a fork after `FORK_TIMEOUT` of worker/zygote.py, which is less.)
const FORK_TIMEOUT: Duration = Duration::from_secs(10);

impl Pool {
    /// Asks a zygote for a worker. Its geometry, application and listeners are the zygote's.
    ///
    /// # Errors
    /// What could not be made, or why the zygote cannot be asked; nothing is left behind.
    pub fn fork(&mut self, spec: &SpawnSpec<'_>, zygote: WorkerId) -> Result<(), SpawnError> {
        let no_zygote = |why: &str| SpawnError::Zygote(io::Error::new(io::ErrorKind::NotFound, why));
        let geometry = match self.processes.get(&zygote) {
            Some(process) if process.role == Role::Zygote => process.channel.geometry,
            Some(_) => return Err(no_zygote("it is no zygote")),
            None => return Err(no_zygote("it is gone")),
        };
        let (channel, map, theirs) = Channel::new(geometry)?;
        let (printing, printed) = self.create_output_pipes()?;
        let cgroup = self.create_cgroup(spec);
        let limits = self.memory_monitor.set_limits(spec, cgroup.as_ref());
        let asked =
            cgroup.as_ref().map(WorkerCgroup::open_procs).transpose().map_err(SpawnError::open_cgroup);
        let asked = asked.and_then(|entrance| {
            let mut fds = vec![theirs.as_fd(), map.as_fd(), channel.stacks.as_fd(), channel.wake.as_fd()];
            fds.extend(printing.iter().flat_map(|ends| [ends.stdout.as_fd(), ends.stderr.as_fd()]));
            fds.extend(entrance.as_ref().map(AsFd::as_fd));
            let fork = Fork { worker: spec.worker.number.0, life: spec.worker.life.0 };
            let process = self.processes.get(&zygote).ok_or_else(|| no_zygote("it is gone"))?;
            control::send(&process.channel.control, &Command::Fork(fork).encode(), &fds)
                .map_err(SpawnError::Zygote)
        });
        if let Err(error) = asked {
            self.stale_cgroups.extend(cgroup);
            self.remove_stale_cgroups();
            return Err(error);
        }
        let SpawnSpec { worker, generation, max_requests, children_timeout: children, .. } = *spec;
        let slots = spec.slots();
        let process = PreparedWorker {
            channel,
            cgroup,
            memory_limits: limits,
            generation,
            slots,
            max_requests,
            children_timeout: children,
            output: printed,
        };
        let until = Instant::now() + FORK_TIMEOUT;
        self.forks.pending.insert(
            worker.life.0,
            PendingFork { worker, zygote, deadline: until, kill_on_arrival: false, prepared: process },
        );
        Ok(())
    }

    /// A zygote says that a worker exists ([`Report::Forked`](control::Report::Forked)).
    ///
    /// # Errors
    /// When that is not so, nobody has asked for it, or it comes too late. Whose worker was to come with it, if
    /// anybody's, [`Pool::take_lost_forks`] tells.
    pub fn on_forked(&mut self, zygote: WorkerId, life: u64, pid: u32) -> Result<SpawnedWorker, SpawnError> {
        let claim = self.unknown_child(pid);
        if self.forks.take_given_up(life, zygote) {
            if let Some(pid) = claim {
                process::kill_group(pid);
            }
            self.reap_orphans();
            return Err(SpawnError::TooLate);
        }
        let Some(pending) = self.forks.pending.get(&life).filter(|pending| pending.zygote == zygote) else {
            return Err(SpawnError::FalseFork { life, pid, reason: "nobody has asked for it" });
        };
        let worker = pending.worker;
        let Some(own) = claim else {
            let error = || SpawnError::FalseFork {
                life,
                pid,
                reason: "it is no child of the daemon's, or a known one",
            };
            self.give_up_fork(life, false, error());
            self.reap_orphans();
            return Err(error());
        };
        let pending = self.forks.pending.remove(&life).expect("it was there just now");
        self.extend_fork_deadlines(zygote);
        let PreparedWorker {
            channel,
            cgroup,
            memory_limits: limits,
            generation,
            slots,
            max_requests,
            children_timeout: children,
            output: printed,
        } = pending.prepared;
        self.follow_output(printed, worker, own);
        let link = channel.link(worker, generation, slots, max_requests);
        let mut process = WorkerProcess {
            pid: own,
            role: Role::Worker,
            channel,
            cgroup,
            memory_limits: limits,
            children_timeout: children,
        };
        if pending.kill_on_arrival {
            process.children_timeout = Duration::ZERO;
            process.kill_all();
        }
        self.processes.insert(worker, process);
        self.reap_orphans();
        Ok(SpawnedWorker { pid, link })
    }

    /// A zygote says that a worker could not be made ([`Report::ForkFailed`](control::Report::ForkFailed)). Whose it
    /// would have been; nothing when that was given up before.
    ///
    /// # Errors
    /// When the sender was not asked for it.
    pub fn on_fork_failed(&mut self, zygote: WorkerId, life: u64) -> Result<Option<WorkerId>, SpawnError> {
        if self.forks.take_given_up(life, zygote) {
            return Ok(None);
        }
        if self.forks.pending.get(&life).is_none_or(|pending| pending.zygote != zygote) {
            return Err(SpawnError::UnexpectedFailure { life });
        }
        let pending = self.forks.pending.remove(&life).expect("it was there just now");
        self.extend_fork_deadlines(zygote);
        self.discard_cgroup(pending.prepared.cgroup);
        self.reap_orphans();
        Ok(Some(pending.worker))
    }

    /// The workers that were asked for and will not come: their zygote died, did not answer in time, or lied. Told
    /// once each. To be called after [`Pool::reap`] and [`Pool::on_forked`], and at [`Pool::next_fork_deadline`].
    pub fn take_lost_forks(&mut self) -> Vec<LostFork> {
        let now = Instant::now();
        let overdue: Vec<(u64, WorkerId)> = self
            .forks
            .pending
            .iter()
            .filter(|(_, pending)| pending.deadline <= now)
            .map(|(life, pending)| (*life, pending.zygote))
            .collect();
        for (life, zygote) in overdue {
            let timed_out = self.processes.contains_key(&zygote);
            let (kind, why) = if timed_out {
                (io::ErrorKind::TimedOut, "it did not answer")
            } else {
                (io::ErrorKind::NotFound, "it died")
            };
            self.give_up_fork(life, timed_out, SpawnError::Zygote(io::Error::new(kind, why)));
        }
        self.forks.given_up.retain(|_, zygote| self.processes.contains_key(zygote));
        self.reap_orphans();
        std::mem::take(&mut self.forks.lost)
    }

    /// When [`Pool::take_lost_forks`] may have something to tell.
    pub fn next_fork_deadline(&self) -> Option<Instant> {
        if !self.forks.lost.is_empty() {
            return Some(Instant::now());
        }
        self.forks.pending.values().map(|pending| pending.deadline).min()
    }

    /// A worker has become a zygote ([`Report::Promoted`](control::Report::Promoted)): workers may be forked from it,
    /// and its memory is bounded no more. Whether it was asked to
    /// ([`Supervisor::is_promoting`](crate::supervise::Supervisor::is_promoting)) is the caller's to know.
    pub fn on_promoted(&mut self, worker: WorkerId) {
        if let Some(process) = self.processes.get_mut(&worker) {
            process.role = Role::Zygote;
            process.lift_memory_limits();
        }
    }

    /// A worker that does not exist yet is to be killed as soon as it does.
    pub(super) fn kill_pending(&mut self, worker: WorkerId) {
        if let Some(pending) = self.forks.pending.get_mut(&worker.life.0) {
            pending.kill_on_arrival = true;
        }
    }

    /// The process that a pid names, if it can be one that was just forked for us.
    fn unknown_child(&self, pid: u32) -> Option<Pid> {
        let pid = Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid > 1)?);
        let is_known = self.processes.values().any(|process| process.pid == pid);
        (!is_known && process::is_child(pid)).then_some(pid)
    }

    /// Those that wait behind this answer have their time from now; not when it was the zygote's last word.
    fn extend_fork_deadlines(&mut self, zygote: WorkerId) {
        if self.processes.contains_key(&zygote) {
            let until = Instant::now() + FORK_TIMEOUT;
            for pending in self.forks.pending.values_mut().filter(|pending| pending.zygote == zygote) {
                pending.deadline = until;
            }
        }
    }

    fn give_up_fork(&mut self, life: u64, timed_out: bool, error: SpawnError) {
        let Some(PendingFork { worker, zygote, prepared: process, .. }) = self.forks.pending.remove(&life)
        else {
            return;
        };
        if self.processes.contains_key(&zygote) {
            self.forks.given_up.insert(life, zygote);
        }
        self.discard_cgroup(process.cgroup);
        self.forks.lost.push(LostFork { worker, zygote, timed_out, error });
    }

    /// Whatever is in there belongs to nobody. (A process that did not come so far as to enter it finds its control
    /// socket closed, and ends.)
    fn discard_cgroup(&mut self, cgroup: Option<WorkerCgroup>) {
        if let Some(cgroup) = &cgroup
            && !cgroup.kill()
        {
            tracing::debug!("cannot kill what a worker that never came has left in its cgroup, ignoring");
        }
        self.stale_cgroups.extend(cgroup);
        self.remove_stale_cgroups();
    }
}
