//! How much memory workers use, and who has come to its limit.
//!
//! With the kernel's memory controller each worker has limits of its own (`systemd::memory`), and `run` awaits
//! [`Pool::memory_watch_fd`] to call [`Pool::take_memory_events`]. Without it there is no hard limit, and `run` samples
//! [`Pool::memory_usage`] instead: the *proportional set size* (proc_pid_smaps_rollup(5)), in which a page that several
//! processes share counts for each in proportion. That needs no privilege for processes of the same user, under
//! `ProtectProc=invisible` neither.
//!
//! What is done about a worker that has grown is not decided here.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::error_chain::Chain;
use crate::id::WorkerId;
use crate::supervise::Exit;
use crate::systemd::cgroup::{Controller, WorkerCgroup};
use crate::systemd::memory::CgroupWatch;

use super::Pool;
use super::memory_limits::MemoryEvent;
use super::worker::WorkerProcess;

/// Most processes of one worker whose memory is added up without a controller; reading one takes the kernel about a
/// millisecond for each 100 MiB.
const MAX_SAMPLED_PROCESSES: usize = 64;

impl WorkerProcess {
    /// Whether the kernel has killed something of it for want of memory. To be asked before its cgroup is removed.
    pub(super) fn was_oom_killed(&self, how: Exit) -> bool {
        let Some(cgroup) = self.cgroup.as_ref().filter(|cgroup| cgroup.has_memory()) else { return false };
        matches!(how, Exit::Signal { signal, .. } if signal == nix::libc::SIGKILL)
            && cgroup
                .memory_events()
                .is_ok_and(|events| events.oom_kill > self.memory_limits.initial_oom_kills)
    }

    /// Lifts its limits: it is not to be replaced because of what it uses.
    pub(super) fn lift_memory_limits(&mut self) {
        if self.memory_limits.soft.take().is_none() {
            return;
        }
        if let Some(Err(error)) = self.cgroup.as_ref().map(WorkerCgroup::lift_limits) {
            tracing::warn!(error = %Chain(&error), rgun.pid = self.pid.as_raw(),
                "cannot lift the limits of a zygote's memory, ignoring");
        }
    }

    /// What the kernel has told since the last look.
    fn poll_memory_events(&mut self, worker: WorkerId, news: &mut Vec<MemoryEvent>) -> Option<()> {
        let cgroup = self.cgroup.as_ref().filter(|cgroup| cgroup.has_memory())?;
        let events = cgroup.memory_events().ok()?;
        let seen = std::mem::replace(&mut self.memory_limits.last_counts, events);
        if events.oom_kill > seen.oom_kill {
            news.push(MemoryEvent::OomKill(worker));
        }
        let soft = self.memory_limits.soft.filter(|_| events.high > seen.high)?;
        // The page cache comes to the limit as well, and goes from there without harm: only what is left then counts.
        // The kernel holds the use at the limit, within some 256 KiB a processor: hence not all of it.
        if cgroup.memory_usage().ok()? < soft - soft / 16 {
            return None;
        }
        self.memory_limits.soft = None;
        news.push(MemoryEvent::High(worker));
        if let Err(error) = cgroup.lift_soft_limit() {
            tracing::warn!(error = %Chain(&error), rgun.pid = self.pid.as_raw(),
                "cannot lift the limit of a worker's memory: it is slow until it is replaced");
        }
        Some(())
    }
}

impl Pool {
    /// Whether the kernel counts and bounds the memory of workers.
    pub fn has_memory_controller(&self) -> bool {
        self.delegation.as_ref().is_some_and(|delegation| delegation.has(Controller::Memory))
    }

    /// Bytes of memory that a worker and what it started use; nothing when that cannot be told. Without a cgroup only
    /// the worker itself is counted.
    pub fn memory_usage(&mut self, worker: WorkerId) -> Option<u64> {
        let process = self.processes.get(&worker)?;
        if let Some(cgroup) = process.cgroup.as_ref().filter(|cgroup| cgroup.has_memory())
            && let Ok(bytes) = cgroup.memory_usage()
        {
            return Some(bytes);
        }
        let own = process.pid.as_raw().unsigned_abs();
        let mut processes =
            process.cgroup.as_ref().and_then(|cgroup| cgroup.processes().ok()).unwrap_or_default();
        processes.retain(|pid| *pid != own);
        processes.truncate(MAX_SAMPLED_PROCESSES - 1);
        processes.push(own);
        let mut total = None;
        for pid in processes {
            match proportional_set_size(pid) {
                Ok(Some(bytes)) => total = Some(total.unwrap_or(0_u64).saturating_add(bytes)),
                Ok(None) => {}
                Err(error) if self.memory_monitor.read_error_logged => {
                    tracing::debug!(%error, rgun.pid = pid, "cannot read a worker's smaps_rollup, ignoring");
                }
                Err(error) => {
                    self.memory_monitor.read_error_logged = true;
                    tracing::warn!(%error, rgun.pid = pid,
                        "cannot read a worker's /proc/{pid}/smaps_rollup: its memory is not known");
                }
            }
        }
        total
    }

    /// Readable when [`Pool::take_memory_events`] may have something to tell. Without it there are no limits, or they cannot
    /// be watched: then only calling it tells.
    pub fn memory_watch_fd(&self) -> Option<BorrowedFd<'_>> {
        self.memory_monitor.watch.as_ref().map(AsFd::as_fd)
    }

    /// What the kernel has told of the workers' memory since the last call. Does not block. To be called when
    /// [`Pool::memory_watch_fd`] is readable, and from time to time anyway.
    pub fn take_memory_events(&mut self) -> Vec<MemoryEvent> {
        let changed = self.memory_monitor.watch.as_ref().map(CgroupWatch::changed).unwrap_or_default();
        let mut news = Vec::new();
        for (worker, process) in &mut self.processes {
            if process.memory_limits.watch_id.is_none_or(|id| changed.contains(id)) {
                // Nothing is an end that will be told by `reap`.
                let _nothing_new = process.poll_memory_events(*worker, &mut news);
            }
        }
        news
    }
}

/// Reads `/proc/PID/smaps_rollup`. Nothing when the process is gone.
fn proportional_set_size(pid: u32) -> io::Result<Option<u64>> {
    match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        Ok(text) => parse_rollup(&text).map(Some).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "smaps_rollup has no line of \"Pss:\" in kB")
        }),
        // ESRCH: it has ended since the file was opened, or is a zombie.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `Pss`, and `SwapPss` where the kernel tells it: what was swapped out has not gone away. In bytes.
fn parse_rollup(text: &str) -> Option<u64> {
    let field = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
    };
    field("Pss")?.checked_add(field("SwapPss").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rollup_is_read_whatever_else_a_kernel_tells() {
        let text = "55d0c0a00000-7ffd5b5f2000 ---p 00000000 00:00 0                  [rollup]\n\
                    Rss:                9876 kB\nPss:                4321 kB\nPss_Dirty:           100 kB\n\
                    Pss_Anon:            90 kB\nShared_Clean:       5555 kB\nSwap:                 10 kB\n\
                    SwapPss:               7 kB\nLocked:                0 kB\n";
        assert_eq!(parse_rollup(text), Some((4321 + 7) * 1024));
        assert_eq!(parse_rollup("Pss:                12 kB\n"), Some(12 * 1024), "without swap");
        for broken in ["", "Rss: 1 kB\n", "Pss: 12 MB\n", "Pss: kB\n", "Pss: 99999999999999999 kB\n"] {
            assert_eq!(parse_rollup(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn the_kernel_tells_our_own_size_and_nothing_of_a_process_that_is_gone() {
        let own = proportional_set_size(std::process::id()).unwrap().unwrap();
        assert!((64 * 1024..1 << 40).contains(&own), "{own}");
        assert_eq!(proportional_set_size(u32::MAX).unwrap(), None);
    }
}
