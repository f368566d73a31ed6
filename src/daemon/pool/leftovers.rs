//! Children of workers that have exited with status 0. The children may run for
//! `workers.children_timeout`, then they are killed and logged. (The children of a worker that
//! fails or is killed are killed with it.)
//!
//! The children are the processes in the worker's cgroup, which is kept until it is empty. Without
//! a cgroup they are the processes in the worker's process group. The pool holds a pidfd of each,
//! because the kernel may reuse the group's id as soon as the group is empty.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::id::WorkerId;
use crate::systemd::cgroup::WorkerCgroup;

/// Maximum number of killed processes that are listed per worker; the others are counted.
const MAX_LISTED: usize = 16;

/// Interval at which processes that have not exited yet are killed again.
const KILL_INTERVAL: Duration = Duration::from_millis(100);

/// The leftovers of all workers.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    entries: Vec<WorkerLeftovers>,
}

/// The running children of one exited worker.
#[derive(Debug)]
struct WorkerLeftovers {
    worker: WorkerId,
    /// The worker's former process id; the kernel may have reused it.
    pid: u32,
    processes: ProcessSet,
    /// When the worker's exit was reaped.
    exited_at: Instant,
    /// When the processes are killed for the first time, or again.
    kill_at: Instant,
    /// The processes were killed and reported.
    is_killed: bool,
}

/// A set of running processes.
#[derive(Debug)]
enum ProcessSet {
    /// The processes in a cgroup.
    Cgroup(WorkerCgroup),
    /// A process group's id, and the members that were found after its leader had exited.
    Group(Pid, Vec<(Pid, OwnedFd)>),
}

/// The children of an exited worker that were killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KilledLeftovers {
    /// The worker that had started them.
    pub worker: WorkerId,
    /// The worker's former process id.
    pub pid: u32,
    /// Time from the worker's exit to the kill.
    pub waited: Duration,
    /// Process ids and command names, at most [`MAX_LISTED`].
    pub commands: Vec<(u32, String)>,
    /// Number of processes that were killed.
    pub n_processes: usize,
}

impl Leftovers {
    /// Tracks the children of a worker that was just reaped; they may run for `timeout`. Returns
    /// the worker's cgroup if it is empty.
    pub(super) fn track(
        &mut self,
        worker: WorkerId,
        pid: Pid,
        cgroup: Option<WorkerCgroup>,
        timeout: Duration,
    ) -> Option<WorkerCgroup> {
        let exited_at = Instant::now();
        let processes = match cgroup {
            Some(cgroup) => ProcessSet::Cgroup(cgroup),
            None => ProcessSet::Group(pid, members_of(pid)),
        };
        if processes.pids().is_empty() {
            return match processes {
                ProcessSet::Cgroup(cgroup) => Some(cgroup),
                ProcessSet::Group(..) => None,
            };
        }
        let kill_at = exited_at.checked_add(timeout).unwrap_or(exited_at + Duration::from_hours(24 * 365));
        let pid = pid.as_raw().unsigned_abs();
        self.entries.push(WorkerLeftovers { worker, pid, processes, exited_at, kill_at, is_killed: false });
        None
    }

    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        for entry in &mut self.entries {
            entry.kill_at = Instant::now();
        }
    }

    #[cfg(test)]
    pub(super) fn n_processes(&self) -> usize {
        self.entries.iter().map(|entry| entry.processes.pids().len()).sum()
    }

    /// Forgets processes that have exited, removes empty cgroups, and adds new members of process
    /// groups. Call before orphans are reaped: until then a zombie keeps its group's id from being
    /// reused.
    pub(super) fn prune(&mut self) {
        self.entries.retain_mut(|entry| match &mut entry.processes {
            ProcessSet::Cgroup(cgroup) => cgroup.remove().is_err(),
            ProcessSet::Group(group, members) => {
                if members.iter().any(|(pid, _)| group_of(*pid) == Some(*group)) {
                    let found = members_of(*group).into_iter();
                    let is_new = |(pid, _): &(Pid, OwnedFd)| members.iter().all(|(known, _)| known != pid);
                    let new: Vec<_> = found.filter(is_new).collect();
                    members.extend(new);
                }
                members.retain(|(_, process)| is_running(process));
                !members.is_empty()
            }
        });
    }

    /// Returns when [`Leftovers::kill_due`] is due; `None` if there are no leftovers.
    pub(super) fn next_kill(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.kill_at).min()
    }

    /// Returns true if there are processes that have not been killed.
    pub(super) fn has_running(&self) -> bool {
        self.entries.iter().any(|entry| !entry.is_killed)
    }

    /// Kills the processes whose timeout has passed. Returns one entry for each worker whose
    /// processes are killed for the first time.
    pub(super) fn kill_due(&mut self) -> Vec<KilledLeftovers> {
        let now = Instant::now();
        self.prune();
        let mut killed = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.kill_at <= now) {
            let processes = entry.processes.pids();
            entry.processes.kill(&processes);
            entry.kill_at = now + KILL_INTERVAL;
            if !std::mem::replace(&mut entry.is_killed, true) && !processes.is_empty() {
                killed.push(KilledLeftovers {
                    worker: entry.worker,
                    pid: entry.pid,
                    waited: now.duration_since(entry.exited_at),
                    commands: processes.iter().take(MAX_LISTED).map(|pid| (*pid, command_of(*pid))).collect(),
                    n_processes: processes.len(),
                });
            }
        }
        self.prune();
        killed
    }

    /// Sends SIGTERM to all processes and kills them at `deadline` at the latest. Returns the
    /// number of processes.
    pub(super) fn terminate(&mut self, deadline: Instant) -> usize {
        self.prune();
        let mut count = 0;
        for entry in &mut self.entries {
            entry.kill_at = entry.kill_at.min(deadline);
            for pid in entry.processes.pids() {
                count += 1;
                signal_one(pid, Signal::SIGTERM);
            }
        }
        count
    }
}

impl ProcessSet {
    /// Returns the ids of the processes.
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Cgroup(cgroup) => cgroup.processes().unwrap_or_else(|error| {
                tracing::debug!(error = %crate::error_chain::Chain(&error), "cannot list a worker's processes");
                Vec::new()
            }),
            Self::Group(_, members) => members.iter().map(|(pid, _)| pid.as_raw().unsigned_abs()).collect(),
        }
    }

    /// Sends SIGKILL to all processes. `listed` are their [`pids`](Self::pids).
    fn kill(&self, listed: &[u32]) {
        match self {
            Self::Cgroup(cgroup) => {
                if !cgroup.kill() {
                    // Linux before 5.14 has no `cgroup.kill`. Processes that the listed ones start
                    // meanwhile are killed by the next call.
                    for pid in listed {
                        signal_one(*pid, Signal::SIGKILL);
                    }
                }
            }
            Self::Group(group, members) => {
                // The id still belongs to this group if a member found earlier is running in it.
                let is_member =
                    |(pid, process): &(Pid, OwnedFd)| is_running(process) && group_of(*pid) == Some(*group);
                if members.iter().any(is_member)
                    && let Err(error) = killpg(*group, Signal::SIGKILL)
                    && error != Errno::ESRCH
                {
                    tracing::warn!(%error, "cannot kill the children of an exited worker, ignoring");
                }
                for pid in listed {
                    signal_one(*pid, Signal::SIGKILL);
                }
            }
        }
    }
}

/// Sends a signal to a process that was running a moment ago: the kernel does not reuse a pid that
/// soon.
fn signal_one(pid: u32, signal: Signal) {
    let Ok(pid) = i32::try_from(pid) else { return };
    if let Err(error) = kill(Pid::from_raw(pid), signal)
        && error != Errno::ESRCH
    {
        tracing::warn!(%error, rgun.pid = pid, "cannot send {signal} to a child of an exited worker, ignoring");
    }
}

/// Lists the running processes of a group that existed a moment ago, so its id cannot have been
/// reused.
fn members_of(group: Pid) -> Vec<(Pid, OwnedFd)> {
    // Usually the group is empty, which one system call shows.
    if killpg(group, None) == Err(Errno::ESRCH) {
        return Vec::new();
    }
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let pid = Pid::from_raw(pid);
        if group_of(pid) == Some(group)
            && let Some(raw) = rustix::process::Pid::from_raw(pid.as_raw())
            && let Ok(process) = pidfd_open(raw, PidfdFlags::empty())
            && is_running(&process)
        {
            members.push((pid, process));
        }
    }
    members
}

/// Returns the process group of a process; `None` if the process does not exist.
fn group_of(pid: Pid) -> Option<Pid> {
    nix::unistd::getpgid(Some(pid)).ok()
}

/// Returns true while the process of a pidfd is running. The pidfd becomes readable when the
/// process exits (pidfd_open(2)).
fn is_running(process: &OwnedFd) -> bool {
    let no_wait = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&no_wait)) {
            Ok(ready) => return ready == 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::debug!(error = %io::Error::from(error), "cannot poll a pidfd");
                return false;
            }
        }
    }
}

/// Returns the command name of a process, without its arguments, which may contain secrets.
fn command_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name: String =
        name.trim_end().chars().map(|char| if char.is_control() { '?' } else { char }).collect();
    if name.is_empty() { "exited".to_owned() } else { name }
}
