//! Processes that workers leave behind when they leave in good order (`workers.children_timeout`).
//!
//! A worker that was asked to leave and exits with status 0 does not take along what it has started: that may finish,
//! for a while. What is then still there is killed, and named. A worker that is killed, or dies, takes its children
//! along.
//!
//! With a cgroup of its own a worker's children are those in its cgroup, and the cgroup is kept until it is empty. Without one
//! they are those in its process group; each is known by a pidfd, because the number of a group means that group only as
//! long as somebody is in it.

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

/// Processes of one worker that are named; the others are counted.
const MAX_LISTED: usize = 16;

/// From killing processes to looking whether they are gone.
const KILL_INTERVAL: Duration = Duration::from_millis(100);

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    workers: Vec<WorkerLeftovers>,
}

/// What one worker has left behind.
#[derive(Debug)]
struct WorkerLeftovers {
    worker: WorkerId,
    /// The worker's process id, by now perhaps another process's.
    pid: u32,
    processes: ProcessSet,
    /// When the worker left.
    exited_at: Instant,
    /// When they are killed, or killed again.
    kill_at: Instant,
    /// They were killed, and reported.
    is_killed: bool,
}

/// How they are found.
#[derive(Debug)]
enum ProcessSet {
    Cgroup(WorkerCgroup),
    /// The group's number, and the members that were found when its leader had left.
    Group(Pid, Vec<(Pid, OwnedFd)>),
}

/// Processes that a worker had left behind and that were killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KilledLeftovers {
    /// The worker.
    pub worker: WorkerId,
    /// Its process id when it lived.
    pub pid: u32,
    /// How long they had from its end.
    pub waited: Duration,
    /// Process ids and command names, not more than [`MAX_LISTED`].
    pub commands: Vec<(u32, String)>,
    /// How many there were.
    pub n_processes: usize,
}

impl Leftovers {
    /// Keeps what a worker has left behind that was reaped just now, for `patience`. The cgroup of one that has left
    /// nothing behind comes back.
    pub(super) fn track(
        &mut self,
        worker: WorkerId,
        pid: Pid,
        cgroup: Option<WorkerCgroup>,
        patience: Duration,
    ) -> Option<WorkerCgroup> {
        let since = Instant::now();
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
        let until = since.checked_add(patience).unwrap_or(since + Duration::from_hours(24 * 365));
        let pid = pid.as_raw().unsigned_abs();
        self.workers.push(WorkerLeftovers {
            worker,
            pid,
            processes,
            exited_at: since,
            kill_at: until,
            is_killed: false,
        });
        None
    }

    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        for leftover in &mut self.workers {
            leftover.kill_at = Instant::now();
        }
    }

    #[cfg(test)]
    pub(super) fn n_processes(&self) -> usize {
        self.workers.iter().map(|leftover| leftover.processes.pids().len()).sum()
    }

    /// Forgets those that have ended, and removes their cgroups. To be called before orphans are reaped: one that has
    /// ended still holds its group's number for those that it has started.
    pub(super) fn prune(&mut self) {
        self.workers.retain_mut(|leftover| match &mut leftover.processes {
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

    /// When [`Leftovers::kill_due`] has something to do.
    pub(super) fn next_kill(&self) -> Option<Instant> {
        self.workers.iter().map(|leftover| leftover.kill_at).min()
    }

    /// Whether processes that workers have left behind run and have not been killed.
    pub(super) fn has_running(&self) -> bool {
        self.workers.iter().any(|leftover| !leftover.is_killed)
    }

    /// Kills the leftovers whose time has run out. Returns each worker's the first time.
    pub(super) fn kill_due(&mut self) -> Vec<KilledLeftovers> {
        let now = Instant::now();
        self.prune();
        let mut killed = Vec::new();
        for leftover in self.workers.iter_mut().filter(|leftover| leftover.kill_at <= now) {
            let processes = leftover.processes.pids();
            leftover.processes.kill(&processes);
            leftover.kill_at = now + KILL_INTERVAL;
            if !std::mem::replace(&mut leftover.is_killed, true) && !processes.is_empty() {
                killed.push(KilledLeftovers {
                    worker: leftover.worker,
                    pid: leftover.pid,
                    waited: now.duration_since(leftover.exited_at),
                    commands: processes.iter().take(MAX_LISTED).map(|pid| (*pid, command_of(*pid))).collect(),
                    n_processes: processes.len(),
                });
            }
        }
        self.prune();
        killed
    }

    /// Sends SIGTERM to all leftovers, which have until `deadline` at most. Returns how many processes that are.
    pub(super) fn terminate(&mut self, deadline: Instant) -> usize {
        self.prune();
        let mut count = 0;
        for leftover in &mut self.workers {
            leftover.kill_at = leftover.kill_at.min(deadline);
            for pid in leftover.processes.pids() {
                count += 1;
                signal_one(pid, Signal::SIGTERM);
            }
        }
        count
    }
}

impl ProcessSet {
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Cgroup(cgroup) => cgroup.processes().unwrap_or_else(|error| {
                tracing::debug!(error = %crate::error_chain::Chain(&error), "cannot list a worker's processes");
                Vec::new()
            }),
            Self::Group(_, members) => members.iter().map(|(pid, _)| pid.as_raw().unsigned_abs()).collect(),
        }
    }

    /// SIGKILL to all, `listed` being those that were found.
    fn kill(&self, listed: &[u32]) {
        match self {
            Self::Cgroup(cgroup) => {
                if !cgroup.kill() {
                    // A kernel before 5.14. What they start meanwhile is killed the next time.
                    for pid in listed {
                        signal_one(*pid, Signal::SIGKILL);
                    }
                }
            }
            Self::Group(group, members) => {
                // The number is this group's as long as one of those who were in it still is.
                let is_there =
                    |(pid, process): &(Pid, OwnedFd)| is_running(process) && group_of(*pid) == Some(*group);
                if members.iter().any(is_there)
                    && let Err(error) = killpg(*group, Signal::SIGKILL)
                    && error != Errno::ESRCH
                {
                    tracing::warn!(%error, "cannot kill what a worker has left behind, ignoring");
                }
                for pid in listed {
                    signal_one(*pid, Signal::SIGKILL);
                }
            }
        }
    }
}

/// A signal to a process that was found running a moment ago: the kernel gives its number to no other so soon.
fn signal_one(pid: u32, signal: Signal) {
    let Ok(pid) = i32::try_from(pid) else { return };
    if let Err(error) = kill(Pid::from_raw(pid), signal)
        && error != Errno::ESRCH
    {
        tracing::warn!(%error, rgun.pid = pid, "cannot send {signal} to what a worker has left behind, ignoring");
    }
}

/// The running processes of a group whose number nobody else can have: its last member was there a moment ago.
fn members_of(group: Pid) -> Vec<(Pid, OwnedFd)> {
    // Mostly there is none, and the kernel knows that at once.
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

/// The process group of a process, if there is such a one.
fn group_of(pid: Pid) -> Option<Pid> {
    nix::unistd::getpgid(Some(pid)).ok()
}

/// Whether the process of a pidfd has not ended: it is readable from then on (pidfd_open(2)).
fn is_running(process: &OwnedFd) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&at_once)) {
            Ok(ready) => return ready == 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::debug!(error = %io::Error::from(error), "cannot look at a pidfd");
                return false;
            }
        }
    }
}

/// The name of a process's program, as the kernel has it: arguments may hold secrets.
fn command_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name: String =
        name.trim_end().chars().map(|char| if char.is_control() { '?' } else { char }).collect();
    if name.is_empty() { "ended".to_owned() } else { name }
}
