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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use pyo3::prelude::*;
use rgun_channel::control::{Report, send};
use rgun_channel::map::Map;
use rustix::fs::FileType;

use crate::gil_cell::GilCell;
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
    pub(crate) own_output: GilCell<OutputFiles>,
}

/// Identity (device and inode) of stdout and stderr, to detect that the application has redirected
/// them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputFiles {
    stdout: Option<FileIdentity>,
    stderr: Option<FileIdentity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    is_pipe: bool,
}

impl OutputFiles {
    /// Returns the identity of the current files.
    pub(crate) fn current() -> Self {
        Self { stdout: identity(rustix::stdio::stdout()), stderr: identity(rustix::stdio::stderr()) }
    }
}

/// Returns the identity of a file; `None` if the descriptor is closed.
fn identity(fd: BorrowedFd<'_>) -> Option<FileIdentity> {
    let stat = rustix::fs::fstat(fd).ok()?;
    let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
    Some(FileIdentity { device: stat.st_dev, inode: stat.st_ino, is_pipe })
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

    /// Returns whether stdout (1) or stderr (2) is a pipe of the daemon.
    pub(crate) fn is_own_pipe(&self, py: Python<'_>, fd: RawFd) -> bool {
        let OutputFiles { stdout, stderr } = *self.own_output.borrow(py);
        let (own, current) = match fd {
            1 => (stdout, identity(rustix::stdio::stdout())),
            2 => (stderr, identity(rustix::stdio::stderr())),
            _ => return false,
        };
        own.is_some_and(|own| own.is_pipe) && own == current
    }

    /// Replaces stdout and stderr in a forked worker, except where the application has redirected
    /// the zygote's.
    ///
    /// # Errors
    /// Errors of `dup2(2)`.
    pub(crate) fn redirect_output(
        &self,
        py: Python<'_>,
        (stdout, stderr): &(OwnedFd, OwnedFd),
    ) -> io::Result<()> {
        let own = &mut *self.own_output.borrow_mut(py);
        let inherited = OutputFiles::current();
        if inherited.stdout == own.stdout {
            rustix::stdio::dup2_stdout(stdout)?;
            own.stdout = identity(stdout.as_fd());
        }
        if inherited.stderr == own.stderr {
            rustix::stdio::dup2_stderr(stderr)?;
            own.stderr = identity(stderr.as_fd());
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
