//! What a process has for all of its lives: a zygote's workers are forked from it, a worker may become a zygote.
//!
//! The descriptors keep their numbers over a fork: a new worker's control socket and stacks are put in the place of its
//! zygote's ([`Process::replace_descriptors`]). So the bootstrap's last words, the signal handler for stacks and `faulthandler`
//! reach the right one without being told.
//!
//! # Why `unsafe`
//! Replacing a descriptor under its number needs `dup3(2)` on a number that others refer to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use pyo3::prelude::*;
use rgun_channel::control::{Report, send};
use rgun_channel::map::Map;

use crate::python::{EX_SOFTWARE, system_exit};

/// Leaked: lives as long as the process and its forks.
#[derive(Debug)]
pub(crate) struct Process {
    /// Our end of the control socket, [`CONTROL_FD`](rgun_channel::control::CONTROL_FD). `sendmsg(2)` of one packet is
    /// atomic: no lock.
    pub(crate) control: OwnedFd,
    /// Where stacks are written.
    pub(crate) stacks: OwnedFd,
    /// The reactor's page, read-only: the epoch is its first word.
    pub(crate) reactor: Map,
    /// The reactor's doorbell.
    pub(crate) eventfd: OwnedFd,
    /// The daemon, the parent of us all.
    pub(crate) daemon: rustix::process::Pid,
    /// Where the daemon has the first of these processes print to.
    pub(crate) initial_output: OutputFiles,
}

/// What stdout and stderr were before the application could put something else in their place: device and inode.
#[derive(Debug)]
pub(crate) struct OutputFiles {
    stdout: Option<(u64, u64)>,
    stderr: Option<(u64, u64)>,
}

impl OutputFiles {
    pub(crate) fn current() -> Self {
        Self { stdout: file_id(rustix::stdio::stdout()), stderr: file_id(rustix::stdio::stderr()) }
    }
}

/// Device and inode; nothing if it is closed.
fn file_id(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    rustix::fs::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

impl Process {
    /// Sends a report.
    ///
    /// # Errors
    /// `SystemExit` when the daemon is gone: there is nobody to go on for.
    pub(crate) fn report(&self, report: &Report) -> PyResult<()> {
        match send(&self.control, &report.encode(), &[]) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(system_exit(EX_SOFTWARE)),
            Err(error) => Err(error.into()),
        }
    }

    /// In a process that was forked to be a worker of its own: its descriptors instead of its zygote's.
    ///
    /// # Errors
    /// What `dup3(2)` says.
    pub(crate) fn replace_descriptors(&self, control: &OwnedFd, stacks: &OwnedFd) -> io::Result<()> {
        replace_fd(&self.control, control)?;
        replace_fd(&self.stacks, stacks)
    }

    /// In such a process: stdout and stderr of its own, unless the application has redirected the zygote's.
    ///
    /// # Errors
    /// What `dup2(2)` says.
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
    #[expect(unsafe_code, reason = "the number stays, what is behind it changes")]
    // SAFETY: both are open and owned by us; whoever refers to the old number is meant to get the new file.
    match unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
