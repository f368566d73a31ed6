//! Process-wide state. It outlives a role: workers are forked from a zygote, and a worker may
//! become a zygote.
//!
//! Descriptors keep their numbers over a fork: [`Process::replace_descriptors`] puts a new worker's
//! socket and stacks file in place of the zygote's, so the bootstrap, the signal handlers
//! and `faulthandler` need no update.
//!
//! # Why `unsafe`
//! Replacing a descriptor under its number needs `dup3(2)` on a number that other code refers to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use pyo3::prelude::*;
use rgun_channel::control::{Report, send};
use rgun_channel::map::Map;

use crate::python::{EX_SOFTWARE, system_exit};

/// State of this process. Leaked: it lives as long as the process and its forks.
#[derive(Debug)]
pub(crate) struct Process {
    /// The worker's end of its socket, [`CONTROL_FD`](rgun_channel::control::CONTROL_FD).
    /// `sendmsg(2)` of one packet is atomic, so it needs no lock.
    pub(crate) control: OwnedFd,
    /// The memfd for stacks.
    pub(crate) stacks: OwnedFd,
    /// The reactor's page, read-only: the words at [`REACTOR_EPOCH`](rgun_channel::layout::REACTOR_EPOCH)
    /// and after it.
    pub(crate) reactor_page: Map,
    /// The eventfd that wakes the reactor.
    pub(crate) reactor_eventfd: OwnedFd,
    /// The daemon, parent of all workers.
    pub(crate) daemon: rustix::process::Pid,
    /// stdout and stderr as passed by the daemon.
    pub(crate) initial_output: OutputFiles,
}

/// Identity (device and inode) of stdout and stderr, to detect that the application has redirected
/// them.
#[derive(Debug)]
pub(crate) struct OutputFiles {
    stdout: Option<(u64, u64)>,
    stderr: Option<(u64, u64)>,
}

impl OutputFiles {
    /// Returns the identity of the current files.
    pub(crate) fn current() -> Self {
        Self { stdout: file_id(rustix::stdio::stdout()), stderr: file_id(rustix::stdio::stderr()) }
    }
}

/// Returns device and inode; `None` if the descriptor is closed.
fn file_id(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    rustix::fs::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

impl Process {
    /// Sends a report.
    ///
    /// # Errors
    /// `SystemExit` if the daemon is gone.
    pub(crate) fn report(&self, report: &Report) -> PyResult<()> {
        match send(&self.control, &report.encode(), &[]) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(system_exit(EX_SOFTWARE)),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the zygote's worker socket and stacks file, in a forked worker.
    ///
    /// # Errors
    /// Errors of `dup3(2)`.
    pub(crate) fn replace_descriptors(&self, control: &OwnedFd, stacks: &OwnedFd) -> io::Result<()> {
        replace_fd(&self.control, control)?;
        replace_fd(&self.stacks, stacks)
    }

    /// Replaces stdout and stderr in a forked worker, except where the application has redirected
    /// the zygote's.
    ///
    /// # Errors
    /// Errors of `dup2(2)`.
    pub(crate) fn redirect_output(&self, stdout: &OwnedFd, stderr: &OwnedFd) -> io::Result<()> {
        let inherited = OutputFiles::current();
        if inherited.stdout == self.initial_output.stdout {
            rustix::stdio::dup2_stdout(stdout)?;
        }
        if inherited.stderr == self.initial_output.stderr {
            rustix::stdio::dup2_stderr(stderr)?;
        }
        Ok(())
    }
}

fn replace_fd(old: &OwnedFd, new: &OwnedFd) -> io::Result<()> {
    #[expect(unsafe_code, reason = "the number stays, the open file changes")]
    // SAFETY: both are open and owned by this process; code that uses the old number is meant to
    // get the new file.
    match unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
