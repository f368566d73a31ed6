//! The workers' processes: made here, killed here, reaped here. Nobody else makes processes.
//!
//! `run` calls all of [`Pool`] from the main thread, and only from it: `PR_SET_PDEATHSIG` is tied to the *thread* that
//! forked (prctl(2)), and a pid means a process only until this thread reaps it.
//!
//! # Invariants
//! - The daemon is a *subreaper*: what its workers leave behind becomes its child (that is how a zygote's workers come
//!   to it), and is reaped without a word unless it is a worker.
//! - A process is killed before it is reaped, with all that it started, so that nothing outlives its seat; but one that
//!   has left in good order cgroups its children to finish ([`leftovers`]).
//! - No number of a process is used after it was reaped.

mod channel;
mod error;
mod extension;
mod fork;
mod identity;
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
mod worker;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rgun_channel::control::{self, Command, Role};
use rgun_channel::layout::Geometry;

use crate::dispatch::{Link, Reactor};
use crate::id::WorkerId;
use crate::journal::output::{DaemonEnds, WorkerEnds, WorkerOutput};
use crate::supervise::Exit;
use crate::systemd::cgroup::{Delegation, WorkerCgroup};

use self::channel::Channel;
pub use self::error::SpawnError;
pub use self::extension::{EXTENSION, find_extension};
pub use self::identity::{UserIdentity, switch_user};
pub use self::leftovers::KilledLeftovers;
use self::leftovers::Leftovers;
pub use self::memory_limits::MemoryEvent;
use self::memory_limits::MemoryMonitor;
pub use self::pending_forks::LostFork;
use self::pending_forks::PendingForks;
use self::process::WaitTarget;
use self::spawn::ProcessSettings;
pub use self::spawn_spec::SpawnSpec;
use self::worker::WorkerProcess;

/// All worker processes that have not been reaped.
#[derive(Debug)]
pub struct Pool {
    extension: PathBuf,
    delegation: Option<Delegation>,
    process_settings: ProcessSettings,
    /// Reads what workers print. `None`: they have the daemon's stdout and stderr.
    output: Option<WorkerOutput>,
    processes: HashMap<WorkerId, WorkerProcess>,
    forks: PendingForks,
    memory_monitor: MemoryMonitor,
    /// Leaves whose removal had to wait for their last process.
    stale_cgroups: Vec<WorkerCgroup>,
    leftovers: Leftovers,
}

/// A process that was started.
#[derive(Debug)]
pub struct SpawnedWorker {
    /// Its id.
    pub pid: u32,
    /// Its channel, for the dispatcher.
    pub link: Link,
}

/// A process that has ended, and was reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerExit {
    /// Whose it was.
    pub worker: WorkerId,
    /// Its id, which may be anybody's by now.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// The kernel killed it, or something that it had started, for want of memory.
    pub oom_killed: bool,
}

impl Pool {
    /// A pool without processes. Makes this process a subreaper.
    pub fn new(extension: PathBuf, delegation: Option<Delegation>) -> Self {
        // Only a kernel older than 3.4 can refuse.
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
            stale_cgroups: Vec::new(),
            leftovers: Leftovers::default(),
        };
        pool.memory_monitor = MemoryMonitor::new(pool.has_memory_controller());
        pool
    }

    /// Workers get this soft limit of open files, which the daemon had before it raised its own.
    pub fn set_open_files_limit(&mut self, soft: u64) {
        self.process_settings.open_files = Some(soft);
    }

    /// Has what workers print read by this.
    #[must_use]
    pub fn with_output(self, output: Option<WorkerOutput>) -> Self {
        Self { output, ..self }
    }

    /// What reads the workers' output, which outlives them.
    pub fn into_output(self) -> Option<WorkerOutput> {
        self.output
    }

    /// Pipes for a process that is about to be made.
    fn create_output_pipes(&self) -> Result<(Option<WorkerEnds>, Option<DaemonEnds>), SpawnError> {
        let pipes = self.output.as_ref().map(WorkerOutput::pipes).transpose();
        Ok(pipes
            .map_err(|source| SpawnError::System { resource: "the pipes for its output", source })?
            .unzip())
    }

    /// From now on what a process prints is read.
    fn follow_output(&self, ends: Option<DaemonEnds>, worker: WorkerId, pid: Pid) {
        if let (Some(output), Some(ends)) = (&self.output, ends) {
            output.follow(ends, worker, pid.as_raw().unsigned_abs());
        }
    }

    /// Processes that are started from now on are this user's.
    pub fn run_as(&mut self, identity: UserIdentity) {
        self.process_settings.identity = Some(identity);
    }

    /// Starts a worker or a zygote: makes its channel, its cgroup cgroup and its process, and tells it to boot.
    ///
    /// # Errors
    /// What could not be made; nothing is left behind.
    pub fn spawn(&mut self, spec: &SpawnSpec<'_>, reactor: &Reactor) -> Result<SpawnedWorker, SpawnError> {
        let (channel, map, theirs) = Channel::new(Geometry::standard(spec.slots().max()))?;
        let (printing, printed) = self.create_output_pipes()?;
        let cgroup = self.create_cgroup(spec);
        let limits = self.memory_monitor.set_limits(spec, cgroup.as_ref());
        let made =
            spawn::spawn(spec, &self.extension, &theirs, printing, cgroup.as_ref(), &self.process_settings);
        drop(theirs);
        let pid = match made {
            Ok(pid) => pid,
            Err(error) => {
                self.stale_cgroups.extend(cgroup);
                self.remove_stale_cgroups();
                return Err(error);
            }
        };
        self.follow_output(printed, spec.worker, pid);
        let start = Command::Start(Box::new(spec.start(channel.geometry)));
        let fds = [
            map.as_fd(),
            reactor.page_fd(),
            reactor.doorbell_fd(),
            channel.stacks.as_fd(),
            channel.wake.as_fd(),
        ];
        if let Err(error) = control::send(&channel.control, &start.encode(), &fds) {
            // The process is gone already: its exit will tell, and say more than this does.
            tracing::debug!(%error, rgun.pid = pid.as_raw(), "cannot send a worker its start, ignoring");
        }
        let link = channel.link(spec.worker, spec.generation, spec.slots(), spec.max_requests);
        let children = spec.children_timeout;
        self.processes.insert(
            spec.worker,
            WorkerProcess {
                pid,
                role: spec.role,
                channel,
                cgroup,
                memory_limits: limits,
                children_timeout: children,
            },
        );
        Ok(SpawnedWorker { pid: pid.as_raw().unsigned_abs(), link })
    }

    fn create_cgroup(&self, spec: &SpawnSpec<'_>) -> Option<WorkerCgroup> {
        let delegation = self.delegation.as_ref()?;
        let WorkerId { number, life } = spec.worker;
        let name = match spec.role {
            Role::Worker => format!("g{}-w{}-{}", spec.generation.0, number.0, life.0),
            Role::Zygote => format!("g{}-z-{}", spec.generation.0, life.0),
        };
        match delegation.create_worker(&name) {
            Ok(cgroup) => Some(cgroup),
            Err(error) => {
                tracing::warn!(error = %crate::error_chain::Chain(&error),
                    "cannot make a worker's cgroup, proceeding without");
                None
            }
        }
    }

    /// SIGKILL to the worker and everything it started: its cgroup cgroup where there is one, else its
    /// process group. A worker that a zygote has not made yet is killed when it has.
    pub fn kill(&mut self, worker: WorkerId) {
        match self.processes.get_mut(&worker) {
            Some(process) => {
                process.children_timeout = Duration::ZERO;
                process.kill_all();
            }
            None => self.kill_pending(worker),
        }
    }

    /// Whether every process has been reaped, and none is on its way.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.forks.is_empty()
    }

    /// Collects the workers that have ended; to be called at SIGCHLD. What outlived its worker is killed: it must not
    /// outlive its seat; unless the worker has left in good order, and then it has `SpawnSpec::children_timeout`. Others that ended as children of ours are reaped without a word.
    pub fn reap(&mut self) -> Vec<WorkerExit> {
        let mut ended = Vec::new();
        self.leftovers.prune();
        for (worker, process) in &self.processes {
            if let Some((how, can_be_reaped)) = process.peek_exit() {
                let oom_killed = process.was_oom_killed(how);
                if can_be_reaped {
                    if !process.keeps_children(how) {
                        // Before it is reaped, so that its number still is its group's.
                        process.kill_all();
                    }
                    process::reap(process.pid);
                } else if let Some(cgroup) = &process.cgroup {
                    cgroup.kill();
                }
                let pid = process.pid.as_raw().unsigned_abs();
                ended.push(WorkerExit { worker: *worker, pid, exit: how, oom_killed });
            }
        }
        for WorkerExit { worker, exit: how, .. } in &ended {
            if let Some(process) = self.processes.remove(worker) {
                if process.keeps_children(*how) {
                    let WorkerProcess { pid, cgroup, children_timeout: children, .. } = process;
                    self.stale_cgroups.extend(self.leftovers.track(*worker, pid, cgroup, children));
                } else {
                    self.stale_cgroups.extend(process.cgroup);
                }
            }
            self.forks.shorten_deadlines(*worker);
        }
        self.reap_orphans();
        self.remove_stale_cgroups();
        ended
    }

    /// Removes the cgroups whose processes are gone. Without those of [`leftovers`], how many are left, whose last process the kernel has not done
    /// with: to be tried again after a while ([`Pool::reap`] does too).
    pub fn remove_stale_cgroups(&mut self) -> usize {
        self.leftovers.prune();
        self.stale_cgroups.retain(|cgroup| cgroup.remove().is_err());
        self.stale_cgroups.len()
    }

    /// Reaps what workers have left behind to this subreaper. Not while a zygote is at work: a child that nobody knows
    /// may then be a worker that has ended before it was told of, and how it ended is of interest.
    fn reap_orphans(&mut self) {
        while self.forks.is_empty()
            && let Ok(Some((pid, how))) = process::peek_exit(WaitTarget::Any)
            // A worker that has ended this moment: there is a SIGCHLD of its own for it.
            && !self.processes.values().any(|process| process.pid == pid)
        {
            tracing::trace!(rgun.pid = pid.as_raw(), "an orphan of a worker {how}");
            process::reap(pid);
        }
    }

    /// When [`Pool::kill_leftovers`] has something to do.
    pub fn next_leftover_kill(&self) -> Option<Instant> {
        self.leftovers.next_kill()
    }

    /// Whether processes that workers have left behind run and have not been killed.
    pub fn has_leftovers(&self) -> bool {
        self.leftovers.has_running()
    }

    /// Kills the leftovers whose time has run out. Returns each worker's the first time.
    pub fn kill_leftovers(&mut self) -> Vec<KilledLeftovers> {
        self.leftovers.kill_due()
    }

    /// Sends SIGTERM to all leftovers, which have until `deadline` at most. Returns how many processes that are.
    pub fn terminate_leftovers(&mut self, deadline: Instant) -> usize {
        self.leftovers.terminate(deadline)
    }
}
