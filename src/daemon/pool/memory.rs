//! The memory usage of workers, and the kernel's memory events.
//!
//! With the kernel's memory controller each worker's cgroup has limits (`systemd::memory`), and
//! `run` waits on [`Pool::memory_watch_fd`] to call [`Pool::take_workers_over_limit`]. Without the
//! controller there is no hard limit, and `run` samples [`Pool::memory_usage`]. The usage is then
//! the *proportional set size* (proc_pid_smaps_rollup(5)), which divides a shared page among the
//! processes that share it. Reading it needs no privilege for processes of the same user, even
//! under `ProtectProc=invisible`, and CAP_SYS_PTRACE for those of another user (`workers.user`).
//!
//! `run` decides what to do about a worker that exceeds its limit.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::error_chain::Chain;
use crate::id::WorkerId;
use crate::supervise::Exit;
use crate::systemd::cgroup::{Controller, Delegation, WorkerCgroup};
use crate::systemd::memory::CgroupWatch;

use super::Pool;
use super::memory_limits::OomCause;
use super::worker::WorkerProcess;

/// Maximum number of processes of one worker whose memory is sampled without a controller; reading
/// one takes the kernel about a millisecond per 100 MiB.
const MAX_SAMPLED_PROCESSES: usize = 64;

/// Maximum time between an OOM kill that is found and the exit of the worker that it has killed. A kill
/// before that was one of the worker's children.
const MAX_EXIT_DELAY: Duration = Duration::from_secs(5);

impl WorkerProcess {
    /// Returns why the out-of-memory killer has killed a process in the cgroup; `None` if it has not,
    /// or the process was not killed by SIGKILL. Must be called before the cgroup is removed.
    pub(super) fn oom_cause(&mut self, exit: Exit, delegation: Option<&Delegation>) -> Option<OomCause> {
        let cgroup = self.cgroup.as_ref().filter(|cgroup| cgroup.has_memory())?;
        if !matches!(exit, Exit::Signal { signal, .. } if signal == nix::libc::SIGKILL) {
            return None;
        }
        let counts = cgroup.memory_events().ok()?;
        self.memory_limits.update(counts, delegation);
        let (found_at, cause) = self.memory_limits.last_oom?;
        (found_at.elapsed() < MAX_EXIT_DELAY).then_some(cause)
    }

    /// Lifts the memory limits: a zygote is not replaced for its memory usage.
    pub(super) fn lift_memory_limits(&mut self) {
        if self.memory_limits.soft.take().is_none() {
            return;
        }
        if let Some(Err(error)) = self.cgroup.as_ref().map(WorkerCgroup::lift_limits) {
            tracing::warn!(error = %Chain(&error), rgun.pid = self.pid.as_raw(),
                "cannot lift a zygote's memory limits, ignoring");
        }
    }

    /// Reads the event counts of the cgroup. Returns whether the worker has reached its soft limit, which
    /// is then lifted.
    fn poll_memory_events(&mut self, delegation: Option<&Delegation>) -> bool {
        let Some(cgroup) = self.cgroup.as_ref().filter(|cgroup| cgroup.has_memory()) else { return false };
        // An unreadable cgroup means that the worker has exited, which `reap` reports.
        let Ok(counts) = cgroup.memory_events() else { return false };
        let last = self.memory_limits.update(counts, delegation);
        let Some(soft) = self.memory_limits.soft.filter(|_| counts.high > last.high) else { return false };
        // The page cache can also reach the limit, and is then reclaimed without harm, so only the
        // other usage counts. The kernel holds the usage at the limit within some 256 KiB per
        // processor, hence the margin.
        if !cgroup.memory_usage().is_ok_and(|bytes| bytes >= soft - soft / 16) {
            return false;
        }
        self.memory_limits.soft = None;
        if let Err(error) = cgroup.lift_soft_limit() {
            tracing::warn!(error = %Chain(&error), rgun.pid = self.pid.as_raw(),
                "cannot lift a worker's memory limit: it is slow until it is replaced");
        }
        true
    }
}

impl Pool {
    /// Returns true if the kernel's memory controller is available for workers.
    pub fn has_memory_controller(&self) -> bool {
        self.delegation.as_ref().is_some_and(|delegation| delegation.has(Controller::Memory))
    }

    /// Returns the bytes of memory that a worker and its children use; `None` if unknown. Without a
    /// cgroup only the worker is counted.
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
            let size = match proportional_set_size(pid) {
                // A worker of another user (`workers.user`), which `ProtectProc=` hides.
                Ok(None) if pid == own && process.peek_exit().is_none() => {
                    Err(io::ErrorKind::PermissionDenied.into())
                }
                size => size,
            };
            match size {
                Ok(Some(bytes)) => total = Some(total.unwrap_or(0_u64).saturating_add(bytes)),
                Ok(None) => {}
                // Without a limit, only the figures in `rgun workers` and in the metrics are missing.
                Err(error) if self.memory_monitor.read_error_logged || !process.memory_limits.is_limited => {
                    tracing::debug!(%error, rgun.pid = pid, "cannot read a worker's smaps_rollup, ignoring");
                }
                Err(error) => {
                    self.memory_monitor.read_error_logged = true;
                    tracing::warn!(%error, rgun.pid = pid,
                        "cannot read a worker's /proc/{pid}/smaps_rollup: its memory is unknown, and workers.max_memory \
                        has no effect: the unit needs a memory controller, or CAP_SYS_PTRACE with workers.user");
                }
            }
        }
        total
    }

    /// Returns a descriptor that is readable when [`Pool::take_workers_over_limit`] may return events;
    /// `None` if there is no memory controller, or the events must be polled.
    pub fn memory_watch_fd(&self) -> Option<BorrowedFd<'_>> {
        self.memory_monitor.watch.as_ref().map(AsFd::as_fd)
    }

    /// Returns the workers that have reached `workers.max_memory` since the last call, each once. Their
    /// soft limit has been lifted, so that the kernel does not slow them down; the hard limit at 1.5
    /// times remains. Does not block. Call when [`Pool::memory_watch_fd`] is readable, and at intervals
    /// in any case.
    pub fn take_workers_over_limit(&mut self) -> Vec<WorkerId> {
        let changed = self.memory_monitor.watch.as_ref().map(CgroupWatch::changed).unwrap_or_default();
        let mut over_limit = Vec::new();
        for (worker, process) in &mut self.processes {
            if process.memory_limits.watch_id.is_none_or(|id| changed.contains(id))
                && process.poll_memory_events(self.delegation.as_ref())
            {
                over_limit.push(*worker);
            }
        }
        over_limit
    }
}

/// Reads `/proc/PID/smaps_rollup`. Returns bytes; `None` if the process has exited.
fn proportional_set_size(pid: u32) -> io::Result<Option<u64>> {
    match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        Ok(text) => parse_rollup(&text).map(Some).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "smaps_rollup has no line of \"Pss:\" in kB")
        }),
        // ESRCH: the process has exited since the file was opened, or is a zombie.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Parses smaps_rollup. Returns `Pss` plus `SwapPss` (absent on some kernels) in bytes.
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
    fn smaps_rollup_parses_with_unknown_fields() {
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
    fn pss_is_none_only_for_an_absent_process() {
        let own = proportional_set_size(std::process::id()).unwrap().unwrap();
        assert!((64 * 1024..1 << 40).contains(&own), "{own}");
        assert_eq!(proportional_set_size(u32::MAX).unwrap(), None);
    }
}
