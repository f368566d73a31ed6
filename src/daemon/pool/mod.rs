//! The workers' processes: made here, killed here, reaped here. Nobody else makes processes.
//!
//! `run` calls [`Pool::spawn`], [`Pool::kill`] and [`Pool::reap`] from the main thread, and only from it:
//! `PR_SET_PDEATHSIG` is tied to the *thread* that forked (prctl(2)).

mod spawn;

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rgun_channel::control::{self, Command, Hooks, Interface, ListenerInfo, Role, Start};
use rgun_channel::layout::Geometry;
use rgun_channel::map::Map;

use crate::config;
use crate::dispatch::{Link, Reactor};
use crate::supervise::{Exit, Generation, SpawnFault, WorkerId};
use crate::systemd::cgroup::{Delegation, Leaf};

/// All worker processes that have not been reaped.
#[derive(Debug)]
pub struct Pool {
    extension: PathBuf,
    delegation: Option<Delegation>,
    processes: HashMap<WorkerId, Process>,
    /// Leaves whose removal had to wait for their last process.
    leaves: Vec<Leaf>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    leaf: Option<Leaf>,
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
    /// Threads of a worker.
    pub slots: u32,
    /// More than one worker may run.
    pub multiprocess: bool,
    /// What requests learn of the listeners.
    pub listeners: &'a [ListenerInfo],
}

/// A process that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its id.
    pub pid: u32,
    /// Its channel, for the dispatcher.
    pub link: Link,
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
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
}

impl SpawnError {
    /// Whose fault it is.
    pub fn fault(&self) -> SpawnFault {
        match self {
            Self::Interpreter { .. } => SpawnFault::Config,
            Self::System { .. } => SpawnFault::System,
        }
    }
}

/// File name of the worker extension.
pub const EXTENSION: &str = "rgun_worker.abi3.so";

/// Finds the worker extension: next to the binary (a build tree), or in `../lib/rgun` (installed).
///
/// # Errors
/// When it is in neither place; the message names both.
pub fn find_extension() -> io::Result<PathBuf> {
    let binary = std::env::current_exe()?;
    let directory = binary.parent().unwrap_or(Path::new("/"));
    let candidates = [directory.join(EXTENSION), directory.join("../lib/rgun").join(EXTENSION)];
    candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let [beside, installed] = &candidates;
        io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "the worker extension is neither at {} nor at {}; `make build` makes it",
                beside.display(),
                installed.display()
            ),
        )
    })
}

impl Pool {
    /// A pool without processes.
    pub fn new(extension: PathBuf, delegation: Option<Delegation>) -> Self {
        Self { extension, delegation, processes: HashMap::new(), leaves: Vec::new() }
    }

    /// Starts a worker: makes its channel, its leaf cgroup and its process, and tells it to boot.
    ///
    /// # Errors
    /// What could not be made; nothing is left behind.
    pub fn spawn(&mut self, plan: &Plan<'_>, reactor: &Reactor) -> Result<Spawned, SpawnError> {
        let system = |what| move |source| SpawnError::System { what, source };
        let geometry = Geometry::standard(plan.slots);
        let (map, map_fd) =
            Map::create("rgun-channel", geometry.total()).map_err(system("the shared memory"))?;
        let stacks = memfd_create(c"rgun-stacks", MFdFlags::MFD_CLOEXEC)
            .map_err(|errno| SpawnError::System { what: "the file for stacks", source: errno.into() })?;
        let (ours, theirs) = control::pair().map_err(system("the control socket"))?;
        let leaf = self.leaf(plan);
        let child = spawn::spawn(plan, &self.extension, &theirs, leaf.as_ref());
        drop(theirs);
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                self.leaves.extend(leaf);
                self.remove_leaves();
                return Err(error);
            }
        };
        let pid = child.id();
        self.processes.insert(plan.worker, Process { child, leaf });
        let start = Command::Start(Box::new(start(plan, geometry)));
        let fds = [map_fd.as_fd(), reactor.page_fd(), reactor.doorbell_fd(), stacks.as_fd()];
        if let Err(error) = control::send(&ours, &start.encode(), &fds) {
            // The process is gone already: its exit will tell, and say more than this does.
            tracing::debug!(%error, rgun.pid = pid, "cannot send a worker its start, ignoring");
        }
        let link = Link { worker: plan.worker, map: Arc::new(map), geometry, control: Arc::new(ours) };
        Ok(Spawned { pid, link })
    }

    fn leaf(&self, plan: &Plan<'_>) -> Option<Leaf> {
        let delegation = self.delegation.as_ref()?;
        let WorkerId { number, life } = plan.worker;
        match delegation.leaf(&format!("g{}-w{}-{}", plan.generation.0, number.0, life.0)) {
            Ok(leaf) => Some(leaf),
            Err(error) => {
                tracing::warn!(error = %crate::report::Chain(&error),
                    "cannot make a worker's cgroup, proceeding without");
                None
            }
        }
    }

    /// SIGKILL to the worker and everything it started: its leaf cgroup where there is one, else its
    /// process group.
    pub fn kill(&mut self, worker: WorkerId) {
        if let Some(process) = self.processes.get(&worker) {
            process.kill_all();
        }
    }

    /// Whether every process has been reaped.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Collects the processes that have ended. Children that outlived their worker are killed: they must not
    /// outlive its seat.
    pub fn reap(&mut self) -> Vec<(WorkerId, Exit)> {
        let mut ended = Vec::new();
        for (worker, process) in &mut self.processes {
            if !process.has_ended() {
                continue;
            }
            // Before the process is reaped, so that its number still is its group's.
            process.kill_all();
            let how = match process.child.wait() {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, signal) => {
                        Exit::Signal { signal: signal.unwrap_or_default(), core_dumped: status.core_dumped() }
                    }
                },
                Err(error) => {
                    tracing::error!(%error, rgun.pid = process.child.id(), "cannot wait for a worker");
                    Exit::Code(-1)
                }
            };
            ended.push((*worker, how));
        }
        for (worker, _) in &ended {
            if let Some(process) = self.processes.remove(worker) {
                self.leaves.extend(process.leaf);
            }
        }
        self.remove_leaves();
        ended
    }

    /// Removes the leaves whose processes are gone; the others wait for the next time.
    pub fn remove_leaves(&mut self) {
        self.leaves.retain(|leaf| leaf.remove().is_err());
    }
}

impl Process {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is positive and fits"))
    }

    /// SIGKILL to the worker and what it started. Never called after the process was reaped.
    fn kill_all(&self) {
        if self.leaf.as_ref().is_some_and(Leaf::kill) {
            return;
        }
        // The group is the worker's own since before exec. ESRCH: they have all gone by themselves.
        if let Err(errno) = killpg(self.pid(), Signal::SIGKILL)
            && errno != nix::errno::Errno::ESRCH
        {
            tracing::warn!(error = %errno, rgun.pid = self.child.id(), "cannot kill a worker's processes, ignoring");
        }
    }

    /// Has it ended, without reaping it (waitid(2), WNOWAIT)? An error means that it cannot be waited for.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(self.pid()), flags), Ok(WaitStatus::StillAlive))
    }
}

fn start(plan: &Plan<'_>, geometry: Geometry) -> Start {
    let config::App { target, directory, interface, root_path, pythonpath, .. } = plan.app;
    Start {
        protocol: rgun_channel::PROTOCOL_VERSION,
        geometry,
        generation: u32::try_from(plan.generation.0).unwrap_or(u32::MAX),
        worker: plan.worker.number.0,
        life: plan.worker.life.0,
        role: Role::Worker,
        hooks: Hooks::default(),
        warm_up: String::new(),
        multiprocess: plan.multiprocess,
        interface: match interface {
            config::Interface::Auto => Interface::Auto,
            config::Interface::Wsgi => Interface::Wsgi,
            config::Interface::Asgi => Interface::Asgi,
        },
        module: target.module.clone(),
        attribute: target.attribute.clone(),
        factory: target.factory,
        directory: directory.to_string_lossy().into_owned(),
        pythonpath: pythonpath.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        root_path: root_path.clone(),
        listeners: plan.listeners.to_vec(),
    }
}
