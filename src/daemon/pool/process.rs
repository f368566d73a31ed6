//! A child process by its number: has it ended, and how; reap it; signal it. Workers come by `fork` of somebody else
//! too (a zygote), so `std::process::Child` cannot stand for them.
//!
//! A number means a process only as long as the process has not been reaped, and only this thread reaps: see first
//! ([`ended`]), act, reap last ([`reap`]).
//!
//! # Why `unsafe`
//! nix's `waitid` fails on a process that a real-time signal has killed, and its `kill` cannot send one
//! ([`STACKS_SIGNAL`] is one); rustix's `waitid` does not tell whose status it is.
#![expect(unsafe_code, reason = "waitid and kill of libc")]

use std::io;

use nix::libc;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use rgun_channel::control::STACKS_SIGNAL;

use crate::supervise::Exit;

/// Which children to look at.
#[derive(Debug, Clone, Copy)]
pub(super) enum WaitTarget {
    /// This one.
    Pid(Pid),
    /// All.
    Any,
}

/// A child of these that has ended and how, without reaping it (waitid(2), `WNOWAIT`). Nothing while they live.
///
/// # Errors
/// ECHILD: there is no such child, living or dead.
pub(super) fn peek_exit(which: WaitTarget) -> io::Result<Option<(Pid, Exit)>> {
    wait_child(which, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

/// Whether a child of ours has this number and has not been reaped.
pub(super) fn is_child(pid: Pid) -> bool {
    peek_exit(WaitTarget::Pid(pid)).is_ok()
}

/// Removes a child that has ended from the kernel's table; from now on its number may be anybody's.
pub(super) fn reap(pid: Pid) {
    if let Err(error) = wait_child(WaitTarget::Pid(pid), libc::WEXITED | libc::WNOHANG) {
        tracing::error!(%error, rgun.pid = pid.as_raw(), "cannot reap a process, ignoring");
    }
}

fn wait_child(which: WaitTarget, options: libc::c_int) -> io::Result<Option<(Pid, Exit)>> {
    let (kind, id) = match which {
        WaitTarget::Pid(pid) => (libc::P_PID, libc::id_t::try_from(pid.as_raw()).unwrap_or(0)),
        WaitTarget::Any => (libc::P_ALL, 0),
    };
    // SAFETY: `siginfo_t` is plain data for which all zeros are a value: that of "nothing to tell" (waitid(2)).
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is valid for writing; the call keeps no pointer.
    if unsafe { libc::waitid(kind, id, &raw mut info, options) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeros, or filled in by waitid as for SIGCHLD, which has a pid and a status.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let how = match info.si_code {
        _ if pid == 0 => return Ok(None),
        libc::CLD_EXITED => Exit::Code(status),
        code => Exit::Signal { signal: status, core_dumped: code == libc::CLD_DUMPED },
    };
    Ok(Some((Pid::from_raw(pid), how)))
}

/// Sends [`STACKS_SIGNAL`] to a child that has not been reaped.
///
/// # Errors
/// What `kill(2)` says.
pub(super) fn signal_stacks(pid: Pid) -> io::Result<()> {
    // SAFETY: kill reads its two numbers only; whose the pid is was settled by the caller.
    if unsafe { libc::kill(pid.as_raw(), STACKS_SIGNAL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// SIGKILL to a child that has not been reaped, and to its process group if it leads one (a worker is the leader of
/// its own since before its first instruction; a forked one makes itself one).
pub(super) fn kill_group(pid: Pid) {
    let killed = match signal::killpg(pid, Signal::SIGKILL) {
        // No such group.
        Err(nix::errno::Errno::ESRCH) => signal::kill(pid, Signal::SIGKILL),
        outcome => outcome,
    };
    // ESRCH: they have all gone by themselves.
    if let Err(errno) = killed
        && errno != nix::errno::Errno::ESRCH
    {
        tracing::warn!(error = %errno, rgun.pid = pid.as_raw(), "cannot kill a worker's processes, ignoring");
    }
}
