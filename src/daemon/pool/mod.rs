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

mod extension;
mod fork;
mod identity;
mod leftovers;
mod memory;
mod process;
mod spawn;
mod stacks;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Pid;
use rgun_channel::control::{self, Command, Hooks, Interface, Lifespan, ListenerInfo, Loop, Role, Start};
use rgun_channel::layout::Geometry;
use rgun_channel::map::Map;
use rustix::event::{EventfdFlags, eventfd};

use crate::config;
use crate::dispatch::{Link, Reactor, Slots};
use crate::id::{Generation, WorkerId};
use crate::journal::output::{DaemonEnds, WorkerEnds, WorkerOutput};
use crate::supervise::{Exit, SpawnFault};
use crate::systemd::cgroup::{Delegation, Leaf};

pub use self::extension::{EXTENSION, find_extension};
use self::fork::Forks;
pub use self::fork::LostFork;
pub use self::identity::{Identity, become_user};
pub use self::leftovers::KilledLeftover;
use self::leftovers::Leftovers;
pub use self::memory::MemoryEvent;
use self::process::Which;
use self::spawn::ProcessSettings;
use self::stacks::Stacks;

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
    memory: memory::Watcher,
    /// Leaves whose removal had to wait for their last process.
    leaves: Vec<Leaf>,
    leftovers: Leftovers,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    role: Role,
    channel: Channel,
    leaf: Option<Leaf>,
    limits: memory::Limits,
    /// How long its children may outlive it when it leaves in good order; zero: not at all, and then not if it was to
    /// be killed.
    children: Duration,
}

/// The daemon's ends of what it shares with a worker.
#[derive(Debug)]
struct Channel {
    map: Arc<Map>,
    geometry: Geometry,
    control: Arc<OwnedFd>,
    /// Rung for an ASGI worker's event loop.
    wake: Arc<OwnedFd>,
    stacks: Stacks,
}

/// What to start.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Which life of which seat.
    pub worker: WorkerId,
    /// Which load of code and configuration.
    pub generation: Generation,
    /// The application.
    pub app: &'a config::App,
    /// Functions of it to call at points of its life.
    pub hooks: &'a Hooks,
    /// Slots of a WSGI worker.
    pub threads: u32,
    /// Slots of an ASGI worker.
    pub concurrency: u32,
    /// WebSockets that an ASGI worker may have accepted besides.
    pub websockets: u32,
    /// More than one worker may run.
    pub multiprocess: bool,
    /// What requests learn of the listeners.
    pub listeners: &'a [ListenerInfo],
    /// What it is for.
    pub role: Role,
    /// A zygote's: the path of the request that it answers itself before the first fork; empty for none.
    pub warm_up: &'a str,
    /// Bytes of memory at which a [`MemoryEvent::High`] is told, if the kernel can.
    pub max_memory: Option<u64>,
    /// After how many requests the dispatcher says that it has served enough; jitter included.
    pub max_requests: Option<NonZeroU64>,
    /// How long its children may outlive it when it leaves in good order.
    pub children: Duration,
}

impl Plan<'_> {
    /// How many exchanges the worker can have at a time; which of the two numbers counts is known when it is ready.
    fn slots(&self) -> Slots {
        let concurrency = self.concurrency.min(Geometry::MOST_SLOTS);
        let websockets = self.websockets.min(Geometry::MOST_SLOTS - concurrency);
        Slots { threads: self.threads, concurrency, websockets }
    }
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

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The directory that it is to run in is gone, or closed.
    #[error("cannot start a worker in {path} (app.directory)")]
    Directory {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The interpreter cannot be executed.
    #[error("cannot run the interpreter {path} (app.python, {source_of_path})")]
    Interpreter {
        /// Its path.
        path: PathBuf,
        /// Where the path came from.
        source_of_path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The channel, the cgroup or the process could not be made.
    #[error("cannot make {what} for a worker")]
    System {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The zygote cannot fork it.
    #[error("cannot have a worker forked by the zygote")]
    Zygote(#[source] io::Error),
    /// What a zygote said is not so.
    #[error("the zygote claims to have forked life {life} as process {pid}, but {why}")]
    Claim {
        /// The life it named.
        life: u64,
        /// The process it named.
        pid: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Somebody says that a worker could not be forked, and was not asked for it.
    #[error("it claims to have failed to fork life {life}, but nobody has asked it to")]
    NotAsked {
        /// The life it named.
        life: u64,
    },
    /// The zygote has forked it when nobody waited for it any more; it was killed.
    #[error("the zygote forked a worker too late")]
    TooLate,
}

impl SpawnError {
    fn entrance(source: io::Error) -> Self {
        Self::System { what: "the cgroup's entrance", source }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> SpawnFault {
        match self {
            Self::Interpreter { .. } | Self::Directory { .. } => SpawnFault::Config,
            Self::System { .. }
            | Self::Zygote(_)
            | Self::Claim { .. }
            | Self::NotAsked { .. }
            | Self::TooLate => SpawnFault::System,
        }
    }
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
            memory: memory::Watcher::default(),
            leaves: Vec::new(),
            leftovers: Leftovers::default(),
        };
        pool.memory = memory::Watcher::new(pool.has_memory_controller());
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
        let (channel, map, theirs) = Channel::new(Geometry::standard(plan.slots().most()))?;
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
        let start = Command::Start(Box::new(start(plan, channel.geometry)));
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
                tracing::warn!(error = %crate::report::Chain(&error),
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
}

impl Channel {
    /// A new one, and what the worker is to be given of it: the map and its end of the control socket.
    fn new(geometry: Geometry) -> Result<(Self, OwnedFd, OwnedFd), SpawnError> {
        let system = |what| move |source| SpawnError::System { what, source };
        let (map, map_fd) =
            Map::create("rgun-channel", geometry.total()).map_err(system("the shared memory"))?;
        let stacks = Stacks::new().map_err(system("the file for stacks"))?;
        let (ours, theirs) = control::pair().map_err(system("the control socket"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| SpawnError::System { what: "the eventfd", source: errno.into() })?;
        let channel =
            Self { map: Arc::new(map), geometry, control: Arc::new(ours), wake: Arc::new(wake), stacks };
        Ok((channel, map_fd, theirs))
    }

    fn link(
        &self,
        worker: WorkerId,
        generation: Generation,
        slots: Slots,
        max_requests: Option<NonZeroU64>,
    ) -> Link {
        Link {
            worker,
            generation,
            map: Arc::clone(&self.map),
            geometry: self.geometry,
            control: Arc::clone(&self.control),
            wake: Arc::clone(&self.wake),
            slots,
            max_requests,
        }
    }
}

impl Process {
    /// SIGKILL to the worker and what it started. Never called after the process was reaped.
    fn kill_all(&self) {
        if let Some(leaf) = &self.leaf {
            // False on a kernel without `cgroup.kill`; the group is then all there is.
            leaf.kill();
        }
        // In any case: a forked worker enters its leaf itself, and may have failed to.
        process::kill_group(self.pid);
    }

    /// Whether it has left in good order, and what it has started may finish.
    fn leaves_children(&self, how: Exit) -> bool {
        how == Exit::Code(0) && !self.children.is_zero()
    }

    /// How it ended, if it has, and whether it is there to be reaped.
    fn ended(&self) -> Option<(Exit, bool)> {
        match process::ended(Which::One(self.pid)) {
            Ok(ended) => ended.map(|(_, how)| (how, true)),
            Err(error) => {
                tracing::error!(%error, rgun.pid = self.pid.as_raw(), "cannot wait for a worker");
                Some((Exit::Code(-1), false))
            }
        }
    }
}

fn start(plan: &Plan<'_>, geometry: Geometry) -> Start {
    let config::App { target, directory, interface, lifespan, event_loop, root_path, pythonpath, .. } =
        plan.app;
    Start {
        protocol: rgun_channel::PROTOCOL_VERSION,
        geometry,
        generation: u32::try_from(plan.generation.0).unwrap_or(u32::MAX),
        worker: plan.worker.number.0,
        life: plan.worker.life.0,
        role: plan.role,
        hooks: plan.hooks.clone(),
        warm_up: plan.warm_up.to_owned(),
        multiprocess: plan.multiprocess,
        interface: match interface {
            config::Interface::Auto => Interface::Auto,
            config::Interface::Wsgi => Interface::Wsgi,
            config::Interface::Asgi => Interface::Asgi,
        },
        threads: plan.threads,
        // Which of them are WebSockets is not its concern.
        concurrency: plan.slots().concurrency + plan.slots().websockets,
        lifespan: match lifespan {
            config::Lifespan::Auto => Lifespan::Auto,
            config::Lifespan::On => Lifespan::On,
            config::Lifespan::Off => Lifespan::Off,
        },
        event_loop: match event_loop {
            config::Loop::Auto => Loop::Auto,
            config::Loop::Asyncio => Loop::Asyncio,
            config::Loop::Uvloop => Loop::Uvloop,
        },
        module: target.module.clone(),
        attribute: target.attribute.clone(),
        factory: target.factory,
        directory: directory.clone().into(),
        pythonpath: pythonpath.iter().map(|path| path.clone().into()).collect(),
        root_path: root_path.clone(),
        listeners: plan.listeners.to_vec(),
    }
}
