//! Waits for, reaps and signals child processes by pid. `std::process::Child` cannot represent the
//! workers that a zygote forks.
//!
//! A pid names its process until the main thread reaps the process. So callers first peek
//! ([`peek_exit`]), then act, then [`reap`].
//!
//! # Why `unsafe`
//! nix's `waitid` fails on a process that a real-time signal has killed, and its `kill` cannot send
//! such a signal ([`STACKS_SIGNAL`] is one); rustix's `waitid` does not return the pid.
#![expect(unsafe_code, reason = "waitid and kill of libc")]

use std::io;

use nix::libc;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use rgun_channel::control::STACKS_SIGNAL;

use crate::supervise::Exit;

/// The children to wait for.
#[derive(Debug, Clone, Copy)]
pub(super) enum WaitTarget {
    /// The child of this pid.
    Pid(Pid),
    /// Any child.
    Any,
}

/// Returns a child that has exited, without reaping it (waitid(2), `WNOWAIT`); `None` while all are
/// running.
///
/// # Errors
/// ECHILD: there is no such child, neither running nor a zombie.
pub(super) fn peek_exit(which: WaitTarget) -> io::Result<Option<(Pid, Exit)>> {
    wait_child(which, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

/// Returns true if the pid is a child of the daemon that has not been reaped.
pub(super) fn is_child(pid: Pid) -> bool {
    peek_exit(WaitTarget::Pid(pid)).is_ok()
}

/// Reaps a child that has exited; from now on the kernel may reuse its pid.
pub(super) fn reap(pid: Pid) {
    if let Err(error) = wait_child(WaitTarget::Pid(pid), libc::WEXITED | libc::WNOHANG) {
        tracing::error!(%error, rgun.pid = pid.as_raw(), "cannot reap a process, ignoring");
    }
}

/// Calls waitid(2). Returns `None` if no such child has exited.
fn wait_child(which: WaitTarget, options: libc::c_int) -> io::Result<Option<(Pid, Exit)>> {
    let (kind, id) = match which {
        WaitTarget::Pid(pid) => (libc::P_PID, libc::id_t::try_from(pid.as_raw()).unwrap_or(0)),
        WaitTarget::Any => (libc::P_ALL, 0),
    };
    // SAFETY: `siginfo_t` is plain data, and all zeros are valid: waitid(2) returns them when no
    // child has exited.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is valid for writing; the call keeps no pointer.
    if unsafe { libc::waitid(kind, id, &raw mut info, options) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeros, or filled in by waitid as for SIGCHLD, which has a pid and a status.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let exit = match info.si_code {
        _ if pid == 0 => return Ok(None),
        libc::CLD_EXITED => Exit::Code(status),
        code => Exit::Signal { signal: status, core_dumped: code == libc::CLD_DUMPED },
    };
    Ok(Some((Pid::from_raw(pid), exit)))
}

/// Sends [`STACKS_SIGNAL`] to a child that has not been reaped.
///
/// # Errors
/// The error of `kill(2)`.
pub(super) fn signal_stacks(pid: Pid) -> io::Result<()> {
    // SAFETY: kill takes two integers; the caller has checked that the pid is an unreaped child.
    if unsafe { libc::kill(pid.as_raw(), STACKS_SIGNAL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends SIGKILL to a child that has not been reaped, and to its process group if it leads one. A
/// spawned worker leads its group from its first instruction; a forked worker creates its group
/// itself.
pub(super) fn kill_group(pid: Pid) {
    let killed = match signal::killpg(pid, Signal::SIGKILL) {
        // The child does not lead a group.
        Err(nix::errno::Errno::ESRCH) => signal::kill(pid, Signal::SIGKILL),
        outcome => outcome,
    };
    // ESRCH: all processes of the group have exited already.
    if let Err(errno) = killed
        && errno != nix::errno::Errno::ESRCH
    {
        tracing::warn!(error = %errno, rgun.pid = pid.as_raw(), "cannot kill a worker's processes, ignoring");
    }
}
