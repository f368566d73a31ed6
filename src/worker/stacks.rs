//! Stacks: what the process is doing, for the daemon to read from a memfd that it made.
//!
//! Two ways, both answered with [`Report::Stacks`]:
//!
//! - [`Command::Stacks`](rgun_channel::control::Command::Stacks): written under the GIL ([`write_all`], [`write_one`]).
//! - [`STACKS_SIGNAL`]: `faulthandler` walks the threads in a signal handler, whoever holds the GIL, then chains to a
//!   handler of ours that tells the daemon.
//!
//! # Why `unsafe`
//! There is no safe way to install a signal handler; this one makes a single system call (signal-safety(7)).
#![expect(unsafe_code, reason = "a signal handler")]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyModule};
use rgun_channel::control::{CONTROL_FD, STACKS_SIGNAL};
use rustix::fs::OFlags;
use rustix::net::SendFlags;

use crate::python::{is_forked_child, load_module};

/// Arranges for [`STACKS_SIGNAL`] to be answered, from before the application is imported until the process ends.
///
/// # Errors
/// When the descriptor is not one, or `faulthandler` refuses.
pub(crate) fn install(py: Python<'_>, file: &OwnedFd) -> PyResult<()> {
    // The daemon empties the file by truncating it; the position is shared with it and stays where it was.
    let flags = rustix::fs::fcntl_getfl(file).map_err(std::io::Error::from)?;
    rustix::fs::fcntl_setfl(file, flags | OFlags::APPEND).map_err(std::io::Error::from)?;
    handle_signal()?;
    let faulthandler = py.import("faulthandler")?;
    faulthandler.call_method0("enable")?;
    let arguments = PyDict::new(py);
    arguments.set_item("file", file.as_raw_fd())?;
    arguments.set_item("all_threads", true)?;
    // First the stacks, then the handler that was there before: ours.
    arguments.set_item("chain", true)?;
    faulthandler.call_method("register", (STACKS_SIGNAL,), Some(&arguments)).map(drop)
}

fn handle_signal() -> std::io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`: the default action, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = tell_stacks as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: `action` is initialized, its handler has the signature that goes without SA_SIGINFO, and calls nothing
    // that is not async-signal-safe.
    match unsafe { libc::sigaction(STACKS_SIGNAL, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// `Report::Stacks(true)`, in bytes that need no allocation.
const WRITTEN: [u8; 2] = [b'k', 1];

extern "C" fn tell_stacks(_signal: libc::c_int) {
    if is_forked_child() {
        return;
    }
    // SAFETY: the control socket keeps this number for as long as the process lives (`crate::process`).
    let control = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    // One system call, errno untouched. A full socket means that the daemon does not read: nothing to be done here.
    let _ = rustix::net::send(control, &WRITTEN, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Writes the stacks of all threads but this one.
///
/// # Errors
/// What Python says.
pub(crate) fn write_all(py: Python<'_>, file: &OwnedFd) -> PyResult<()> {
    support(py)?.call_method1(intern!(py, "write_all"), (file.as_raw_fd(),)).map(drop)
}

/// Writes the stacks of all threads, this one as it is.
///
/// # Errors
/// What Python says.
pub(crate) fn write_current(py: Python<'_>, file: &OwnedFd) -> PyResult<()> {
    let arguments = PyDict::new(py);
    arguments.set_item("file", file.as_raw_fd())?;
    arguments.set_item("all_threads", true)?;
    py.import("faulthandler")?.call_method("dump_traceback", (), Some(&arguments)).map(drop)
}

/// Writes the stack of one thread; false if there is no such thread.
///
/// # Errors
/// What Python says.
pub(crate) fn write_one(py: Python<'_>, file: &OwnedFd, thread: u64) -> PyResult<bool> {
    support(py)?.call_method1(intern!(py, "write_one"), (file.as_raw_fd(), thread))?.extract()
}

/// Writes a stack that somebody else has taken.
///
/// # Errors
/// What Python says.
pub(crate) fn write(py: Python<'_>, file: &OwnedFd, text: &str) -> PyResult<bool> {
    let bytes = PyBytes::new(py, text.as_bytes());
    support(py)?.call_method1(intern!(py, "write"), (file.as_raw_fd(), bytes)).map(|_| true)
}

/// This thread as `faulthandler` names it: `pthread_self(3)`.
pub(crate) fn this_thread() -> u64 {
    // SAFETY: pthread_self(3) has no preconditions and cannot fail.
    let thread = unsafe { libc::pthread_self() };
    #[expect(clippy::useless_conversion, reason = "an unsigned long, which 32-bit machines have shorter")]
    u64::from(thread)
}

fn support(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    load_module(py, &MODULE, include_str!("stacks.py"), c"<rgun>/stacks.py", c"rgun_worker.stacks")
}
