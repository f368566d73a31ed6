//! The processes of workers and zygotes: spawning, killing, reaping.
//!
//! [`Pool`] must be used from one thread, the main thread of `run` and `check`: `PR_SET_PDEATHSIG`
//! is tied to the *thread* that forked (prctl(2)), and a pid names its process only until this
//! thread reaps it.
//!
//! # Invariants
//! - The daemon is a *subreaper*: every orphan of its workers (including the workers that a zygote
//!   forks) becomes a child of the daemon, which reaps it. Only the exits of workers and zygotes
//!   are reported.
//! - When a worker has exited, its children are killed before it is reaped, so that no child
//!   outlives the worker. The exception: a worker that exits with status 0 leaves its children
//!   running for a while ([`leftovers`]).
//! - A pid is not used after its process was reaped.

mod account;
mod cgroup_limits;
mod channel;
mod error;
mod extension;
mod fork;
mod identity;
mod identity_trial;
mod leftovers;
mod memory;
mod memory_limits;
mod pending_forks;
mod process;
mod spawn;
mod spawn_spec;
mod stacks;
mod stacks_file;
#[cfg(test)]
mod tests;
mod user_access;
mod worker;
mod worker_identity;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rgun_channel::control::{self, Command, Role};
use rgun_channel::layout::Geometry;
use rgun_channel::log_record::LogToken;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::id::{Generation, WorkerId};
use crate::journal::output::{DaemonEnds, PipeMode, WorkerEnds, WorkerOutput};
use crate::link::{Link, Reactor};
use crate::supervise::Exit;
use crate::systemd::cgroup::{Delegation, WorkerCgroup};

pub use self::account::{UserAccount, find_group};
use self::cgroup_limits::CgroupLimits;
use self::channel::Channel;
pub use self::error::SpawnError;
pub use self::extension::{EXTENSION, find_extension};
pub use self::identity::{Credentials, UserIdentity};
pub use self::leftovers::KilledLeftovers;
use self::leftovers::Leftovers;
use self::memory_limits::MemoryMonitor;
pub use self::memory_limits::OomCause;
pub use self::pending_forks::LostFork;
use self::pending_forks::PendingForks;
use self::process::WaitTarget;
use self::spawn::ProcessSettings;
pub use self::spawn_spec::SpawnSpec;
pub use self::user_access::test_access;
use self::worker::WorkerProcess;
pub use self::worker_identity::{WORKER_USER_CAPABILITIES, find_worker_identity, look_up_worker_identity};

/// All processes of workers and zygotes that have not been reaped.
#[derive(Debug)]
pub struct Pool {
    /// Path of the worker extension.
    extension: PathBuf,
    /// The delegated cgroup; `None` without delegation: then workers stay in the daemon's cgroup.
    delegation: Option<Delegation>,
    process_settings: ProcessSettings,
    /// Reads the output of workers; `None` if they inherit the daemon's stdout and stderr.
    output: Option<WorkerOutput>,
    processes: HashMap<WorkerId, WorkerProcess>,
    forks: PendingForks,
    memory_monitor: MemoryMonitor,
    cgroup_limits: CgroupLimits,
    /// Cgroups to remove as soon as their last process has ended.
    stale_cgroups: Vec<WorkerCgroup>,
    leftovers: Leftovers,
}

/// A process that [`Pool::spawn`] or a zygote has started.
#[derive(Debug)]
pub struct SpawnedWorker {
    /// The process id.
    pub pid: u32,
    /// The daemon's end of the worker's channel, for the dispatcher.
    pub link: Link,
}

/// The exit of a worker or zygote, which has been reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerExit {
    /// The worker or zygote that exited.
    pub worker: WorkerId,
    /// The former process id; the kernel may have reused it.
    pub pid: u32,
    /// The exit status or signal.
    pub status: Exit,
    /// The reason why the kernel's out-of-memory killer has killed a process in the worker's cgroup;
    /// `None` if it has not, or the worker was not killed by SIGKILL.
    pub oom_cause: Option<OomCause>,
}

impl Pool {
    /// Creates a pool without processes and makes this process a subreaper.
    pub fn new(extension: PathBuf, delegation: Option<Delegation>) -> Self {
        // `PR_SET_CHILD_SUBREAPER` fails only on kernels older than 3.4.
        if let Err(errno) = nix::sys::prctl::set_child_subreaper(true) {
            tracing::warn!(error = %errno, "cannot become a subreaper: preloaded workers will not work, ignoring");
        }
        let mut pool = Self {
            extension,
            delegation,
            process_settings: ProcessSettings::default(),
            output: None,
            processes: HashMap::new(),
            forks: PendingForks::default(),
            memory_monitor: MemoryMonitor::default(),
            cgroup_limits: CgroupLimits::default(),
            stale_cgroups: Vec::new(),
            leftovers: Leftovers::default(),
        };
        pool.memory_monitor = MemoryMonitor::new(pool.has_memory_controller());
        pool
    }

    /// Sets the soft limit of open files that workers get: the daemon's limit before the daemon
    /// raised it.
    pub fn set_open_files_limit(&mut self, soft: u64) {
        self.process_settings.open_files = Some(soft);
    }

    /// Sets the reader of the workers' output; with `None`, workers inherit the daemon's stdout and
    /// stderr.
    #[must_use]
    pub fn with_output(self, output: Option<WorkerOutput>) -> Self {
        Self { output, ..self }
    }

    /// Drops the pool and returns the reader of the workers' output, which may still have lines to
    /// log.
    pub fn into_output(self) -> Option<WorkerOutput> {
        self.output
    }

    fn create_output_pipes(
        &self,
        spec: &SpawnSpec<'_>,
    ) -> Result<(Option<WorkerEnds>, Option<DaemonEnds>), SpawnError> {
        let mode = if spec.identity.is_some() { PipeMode::AnyUser } else { PipeMode::OwnUser };
        let pipes = self.output.as_ref().map(|output| output.pipes(mode)).transpose();
        Ok(pipes.map_err(|source| SpawnError::System { resource: "the output pipes", source })?.unzip())
    }

    /// Starts reading the output of a process.
    fn follow_output(
        &self,
        ends: Option<DaemonEnds>,
        log_token: Option<LogToken>,
        worker: (WorkerId, Generation),
        pid: Pid,
    ) {
        if let (Some(output), Some(ends)) = (&self.output, ends) {
            output.follow(ends, log_token, Some(worker), pid.as_raw().unsigned_abs());
        }
    }

    /// Starts a worker or a zygote: creates its channel, cgroup and process, and sends it Start.
    ///
    /// # Errors
    /// If the channel, the output pipes or the process cannot be created. Whatever was created
    /// before is then removed.
    pub fn spawn(&mut self, spec: &SpawnSpec<'_>, reactor: &Reactor) -> Result<SpawnedWorker, SpawnError> {
        let log_token = spec.log_records.then(new_log_token).transpose()?;
        let (channel, map, worker_socket) = Channel::new(Geometry::standard(spec.slots().max()), log_token)?;
        let (worker_ends, daemon_ends) = self.create_output_pipes(spec)?;
        let cgroup = self.create_cgroup(spec);
        let memory_limits = self.memory_monitor.set_limits(spec, cgroup.as_ref(), self.delegation.as_ref());
        let spawned = spawn::spawn(
            spec,
            &self.extension,
            &worker_socket,
            worker_ends,
            cgroup.as_ref(),
            &self.process_settings,
        );
        drop(worker_socket);
        let pid = match spawned {
            Ok(pid) => pid,
            Err(error) => {
                self.stale_cgroups.extend(cgroup);
                self.remove_stale_cgroups();
                return Err(error);
            }
        };
        self.follow_output(daemon_ends, log_token, (spec.worker, spec.generation), pid);
        let start = Command::Start(Box::new(spec.start(channel.geometry, log_token)));
        let fds = [
            map.as_fd(),
            reactor.page_fd(),
            reactor.doorbell_fd(),
            channel.stacks.as_fd(),
            channel.wake.as_fd(),
        ];
        if let Err(error) = control::send(&channel.control, &start.encode(), &fds) {
            // The process has exited already; its exit is reported by `reap`.
            tracing::debug!(%error, rgun.pid = pid.as_raw(), "cannot send Start to a worker, ignoring");
        }
        let link = channel.link(spec.worker, spec.generation, spec.slots(), spec.max_requests);
        let (role, children_timeout) = (spec.role, spec.children_timeout);
        let process = WorkerProcess { pid, role, channel, cgroup, memory_limits, children_timeout };
        self.processes.insert(spec.worker, process);
        Ok(SpawnedWorker { pid: pid.as_raw().unsigned_abs(), link })
    }

    fn create_cgroup(&mut self, spec: &SpawnSpec<'_>) -> Option<WorkerCgroup> {
        let delegation = self.delegation.as_ref()?;
        let WorkerId { number, incarnation } = spec.worker;
        let name = match spec.role {
            Role::Worker | Role::Check => format!("g{}-w{}-{}", spec.generation.0, number.0, incarnation.0),
            Role::Zygote => format!("g{}-z-{}", spec.generation.0, incarnation.0),
        };
        match delegation.create_worker(&name) {
            Ok(cgroup) => {
                self.cgroup_limits.set(spec, delegation, &cgroup);
                Some(cgroup)
            }
            Err(error) => {
                tracing::warn!(error = %crate::error_chain::Chain(&error),
                    "cannot create a worker's cgroup, proceeding without");
                None
            }
        }
    }

    /// Sends SIGKILL to a worker and all its children: to its cgroup if it has one, and to its
    /// process group. If the worker's zygote has not reported the fork yet, the worker is killed
    /// when it is reported.
    pub fn kill(&mut self, worker: WorkerId) {
        match self.processes.get_mut(&worker) {
            Some(process) => {
                process.children_timeout = Duration::ZERO;
                process.kill_all();
            }
            None => self.kill_pending(worker),
        }
    }

    /// Returns true if every process has been reaped and no fork is pending.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.forks.is_empty()
    }

    /// Reaps exited workers and orphans. Call on SIGCHLD.
    ///
    /// Kills the children of each exited worker. If the worker exited with status 0, they may
    /// continue to run for [`SpawnSpec::children_timeout`].
    pub fn reap(&mut self) -> Vec<WorkerExit> {
        let mut exits = Vec::new();
        self.leftovers.prune();
        for (worker, process) in &mut self.processes {
            if let Some((status, is_child)) = process.peek_exit() {
                let oom_cause = process.oom_cause(status, self.delegation.as_ref());
                if is_child {
                    if !process.keeps_children(status) {
                        // Before the worker is reaped, while its pid is still the id of its process
                        // group.
                        process.kill_all();
                    }
                    process::reap(process.pid);
                } else if let Some(cgroup) = &process.cgroup {
                    cgroup.kill();
                }
                let pid = process.pid.as_raw().unsigned_abs();
                exits.push(WorkerExit { worker: *worker, pid, status, oom_cause });
            }
        }
        for WorkerExit { worker, status, .. } in &exits {
            if let Some(process) = self.processes.remove(worker) {
                if process.keeps_children(*status) {
                    let WorkerProcess { pid, cgroup, children_timeout, .. } = process;
                    self.stale_cgroups.extend(self.leftovers.track(*worker, pid, cgroup, children_timeout));
                } else {
                    self.stale_cgroups.extend(process.cgroup);
                }
            }
            self.forks.shorten_deadlines(*worker);
        }
        self.reap_orphans();
        self.remove_stale_cgroups();
        exits
    }

    /// Removes the cgroups whose processes have ended. Returns the number of cgroups that still
    /// have processes (not counting [`leftovers`]); call again later for these.
    pub fn remove_stale_cgroups(&mut self) -> usize {
        self.leftovers.prune();
        self.stale_cgroups.retain(|cgroup| cgroup.remove().is_err());
        self.stale_cgroups.len()
    }

    /// Reaps orphans of workers, unless a fork is pending: an unknown child may then be a worker
    /// that exited before its zygote reported it, and its exit status is needed.
    fn reap_orphans(&mut self) {
        while self.forks.is_empty()
            && let Ok(Some((pid, exit))) = process::peek_exit(WaitTarget::Any)
            // A worker that exited just now is handled at its own SIGCHLD.
            && !self.processes.values().any(|process| process.pid == pid)
        {
            tracing::trace!(rgun.pid = pid.as_raw(), "an orphan of a worker {exit}");
            process::reap(pid);
        }
    }

    /// Returns when [`Pool::kill_leftovers`] is due; `None` if there are no leftovers.
    pub fn next_leftover_kill(&self) -> Option<Instant> {
        self.leftovers.next_kill()
    }

    /// Returns true if children of exited workers are running and have not been killed.
    pub fn has_leftovers(&self) -> bool {
        self.leftovers.has_running()
    }

    /// Kills the leftovers whose timeout has passed. Returns one entry for each worker whose
    /// leftovers are killed for the first time.
    pub fn kill_leftovers(&mut self) -> Vec<KilledLeftovers> {
        self.leftovers.kill_due()
    }

    /// Sends SIGTERM to all leftovers and kills them at `deadline` at the latest. Returns the
    /// number of processes.
    pub fn terminate_leftovers(&mut self, deadline: Instant) -> usize {
        self.leftovers.terminate(deadline)
    }
}

/// Chooses the token of a process.
fn new_log_token() -> Result<LogToken, SpawnError> {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        // Eight bytes are returned whole (getrandom(2)).
        Ok(_) => Ok(LogToken::from_random(bytes)),
        Err(errno) => Err(SpawnError::System { resource: "the log token", source: errno.into() }),
    }
}
