//! The workers' processes: made here, killed here, reaped here. Nobody else makes processes.
//!
//! `run` calls all of [`Pool`] from the main thread, and only from it: `PR_SET_PDEATHSIG` is tied to the *thread* that
//! forked (prctl(2)), and a pid means a process only until this thread reaps it.
//!
//! # Invariants
//! - The daemon is a *subreaper*: what its workers leave behind becomes its child (that is how a zygote's workers come
//!   to it), and is reaped without a word unless it is a worker.
//! - A process is killed before it is reaped, with all that it started, so that nothing outlives its seat; but one that
//!   has left in good order leaves its children to finish ([`leftovers`]).
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
mod plan;
mod process;
mod spawn;
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
use crate::systemd::cgroup::{Delegation, Leaf};

use self::channel::Channel;
pub use self::error::SpawnError;
pub use self::extension::{EXTENSION, find_extension};
pub use self::identity::{Identity, become_user};
pub use self::leftovers::KilledLeftover;
use self::leftovers::Leftovers;
pub use self::memory_limits::MemoryEvent;
use self::memory_limits::Watcher;
use self::pending_forks::Forks;
pub use self::pending_forks::LostFork;
pub use self::plan::Plan;
use self::process::Which;
use self::spawn::ProcessSettings;
use self::worker::Process;

/// All worker processes that have not been reaped.
#[derive(Debug)]
pub struct Pool {
    extension: PathBuf,
    delegation: Option<Delegation>,
    process: ProcessSettings,
    /// Reads what workers print. `None`: they have the daemon's stdout and stderr.
    output: Option<WorkerOutput>,
    processes: HashMap<WorkerId, Process>,
    forks: Forks,
    memory: Watcher,
    /// Leaves whose removal had to wait for their last process.
    leaves: Vec<Leaf>,
    leftovers: Leftovers,
}

/// A process that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its id.
    pub pid: u32,
    /// Its channel, for the dispatcher.
    pub link: Link,
}

/// A process that has ended, and was reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Whose it was.
    pub worker: WorkerId,
    /// Its id, which may be anybody's by now.
    pub pid: u32,
    /// How it ended.
    pub how: Exit,
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
            process: ProcessSettings::default(),
            output: None,
            processes: HashMap::new(),
            forks: Forks::default(),
            memory: Watcher::default(),
            leaves: Vec::new(),
            leftovers: Leftovers::default(),
        };
        pool.memory = Watcher::new(pool.has_memory_controller());
        pool
    }

    /// Workers get this soft limit of open files, which the daemon had before it raised its own.
    pub fn limit_open_files(&mut self, soft: u64) {
        self.process.open_files = Some(soft);
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
    fn pipes(&self) -> Result<(Option<WorkerEnds>, Option<DaemonEnds>), SpawnError> {
        let pipes = self.output.as_ref().map(WorkerOutput::pipes).transpose();
        Ok(pipes.map_err(|source| SpawnError::System { what: "the pipes for its output", source })?.unzip())
    }

    /// From now on what a process prints is read.
    fn follow(&self, ends: Option<DaemonEnds>, worker: WorkerId, pid: Pid) {
        if let (Some(output), Some(ends)) = (&self.output, ends) {
            output.follow(ends, worker, pid.as_raw().unsigned_abs());
        }
    }

    /// Processes that are started from now on are this user's.
    pub fn run_as(&mut self, identity: Identity) {
        self.process.identity = Some(identity);
    }

    /// Starts a worker or a zygote: makes its channel, its leaf cgroup and its process, and tells it to boot.
    ///
    /// # Errors
    /// What could not be made; nothing is left behind.
    pub fn spawn(&mut self, plan: &Plan<'_>, reactor: &Reactor) -> Result<Spawned, SpawnError> {
        let (channel, map, theirs) = Channel::new(Geometry::standard(plan.slots().max()))?;
        let (printing, printed) = self.pipes()?;
        let leaf = self.leaf(plan);
        let limits = self.memory.limit(plan, leaf.as_ref());
        let made = spawn::spawn(plan, &self.extension, &theirs, printing, leaf.as_ref(), &self.process);
        drop(theirs);
        let pid = match made {
            Ok(pid) => pid,
            Err(error) => {
                self.leaves.extend(leaf);
                self.remove_leaves();
                return Err(error);
            }
        };
        self.follow(printed, plan.worker, pid);
        let start = Command::Start(Box::new(plan.start(channel.geometry)));
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
        let link = channel.link(plan.worker, plan.generation, plan.slots(), plan.max_requests);
        let children = plan.children;
        self.processes.insert(plan.worker, Process { pid, role: plan.role, channel, leaf, limits, children });
        Ok(Spawned { pid: pid.as_raw().unsigned_abs(), link })
    }

    fn leaf(&self, plan: &Plan<'_>) -> Option<Leaf> {
        let delegation = self.delegation.as_ref()?;
        let WorkerId { number, life } = plan.worker;
        let name = match plan.role {
            Role::Worker => format!("g{}-w{}-{}", plan.generation.0, number.0, life.0),
            Role::Zygote => format!("g{}-z-{}", plan.generation.0, life.0),
        };
        match delegation.leaf(&name) {
            Ok(leaf) => Some(leaf),
            Err(error) => {
                tracing::warn!(error = %crate::error_chain::Chain(&error),
                    "cannot make a worker's cgroup, proceeding without");
                None
            }
        }
    }

    /// SIGKILL to the worker and everything it started: its leaf cgroup where there is one, else its
    /// process group. A worker that a zygote has not made yet is killed when it has.
    pub fn kill(&mut self, worker: WorkerId) {
        match self.processes.get_mut(&worker) {
            Some(process) => {
                process.children = Duration::ZERO;
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
    /// outlive its seat; unless the worker has left in good order, and then it has `Plan::children`. Others that ended as children of ours are reaped without a word.
    pub fn reap(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.leftovers.forget_ended();
        for (worker, process) in &self.processes {
            if let Some((how, can_be_reaped)) = process.ended() {
                let oom_killed = process.was_oom_killed(how);
                if can_be_reaped {
                    if !process.leaves_children(how) {
                        // Before it is reaped, so that its number still is its group's.
                        process.kill_all();
                    }
                    process::reap(process.pid);
                } else if let Some(leaf) = &process.leaf {
                    leaf.kill();
                }
                let pid = process.pid.as_raw().unsigned_abs();
                ended.push(Ended { worker: *worker, pid, how, oom_killed });
            }
        }
        for Ended { worker, how, .. } in &ended {
            if let Some(process) = self.processes.remove(worker) {
                if process.leaves_children(*how) {
                    let Process { pid, leaf, children, .. } = process;
                    self.leaves.extend(self.leftovers.keep(*worker, pid, leaf, children));
                } else {
                    self.leaves.extend(process.leaf);
                }
            }
            self.forks.zygote_died(*worker);
        }
        self.reap_strangers();
        self.remove_leaves();
        ended
    }

    /// Removes the leaves whose processes are gone. Without those of [`leftovers`], how many are left, whose last process the kernel has not done
    /// with: to be tried again after a while ([`Pool::reap`] does too).
    pub fn remove_leaves(&mut self) -> usize {
        self.leftovers.forget_ended();
        self.leaves.retain(|leaf| leaf.remove().is_err());
        self.leaves.len()
    }

    /// Reaps what workers have left behind to this subreaper. Not while a zygote is at work: a child that nobody knows
    /// may then be a worker that has ended before it was told of, and how it ended is of interest.
    fn reap_strangers(&mut self) {
        while self.forks.is_empty()
            && let Ok(Some((pid, how))) = process::ended(Which::Any)
            // A worker that has ended this moment: there is a SIGCHLD of its own for it.
            && !self.processes.values().any(|process| process.pid == pid)
        {
            tracing::trace!(rgun.pid = pid.as_raw(), "an orphan of a worker {how}");
            process::reap(pid);
        }
    }

    /// When [`Pool::kill_leftovers`] has something to do.
    pub fn leftovers_due(&self) -> Option<Instant> {
        self.leftovers.due()
    }

    /// Whether processes that workers have left behind run and have not been killed.
    pub fn has_leftovers(&self) -> bool {
        self.leftovers.has_running()
    }

    /// Kills the leftovers whose time has run out. Returns each worker's the first time.
    pub fn kill_leftovers(&mut self) -> Vec<KilledLeftover> {
        self.leftovers.kill_due()
    }

    /// Sends SIGTERM to all leftovers, which have until `deadline` at most. Returns how many processes that are.
    pub fn end_leftovers(&mut self, deadline: Instant) -> usize {
        self.leftovers.end(deadline)
    }
}
