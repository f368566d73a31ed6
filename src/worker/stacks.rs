//! Python stacks of the process, written to a memfd of the daemon.
//!
//! The daemon requests them in two ways, and gets a [`Report::StacksDumped`] for both:
//!
//! - [`Command::DumpStacks`](rgun_channel::control::Command::DumpStacks): written with the GIL held
//!   ([`write_all`], [`write_one`]).
//! - [`STACKS_SIGNAL`]: the handler here calls `faulthandler`'s, which walks the threads no matter
//!   which of them holds the GIL, and then reports to the daemon. The handler does not use
//!   `faulthandler`'s `chain`, which installs its handler without `SA_RESTART`, and again after
//!   each signal: system calls of libraries would fail with EINTR (signal(7)) after each dump.
//!
//! # Why `unsafe`
//! There is no safe way to install a signal handler. This one calls another handler and makes one
//! system call (signal-safety(7)).
#![expect(unsafe_code, reason = "a signal handler")]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyModule};
use rgun_channel::control::{CONTROL_FD, Report, STACKS_SIGNAL};
use rustix::fs::OFlags;
use rustix::net::SendFlags;

use crate::python::{embedded_module, is_forked_child};

/// Installs the handler of [`STACKS_SIGNAL`]. Called before the application is imported.
///
/// # Errors
/// The descriptor is invalid, or `faulthandler` fails.
pub(crate) fn install(py: Python<'_>, file: &OwnedFd) -> PyResult<()> {
    // The daemon truncates the file but does not reset the shared position: append.
    let flags = rustix::fs::fcntl_getfl(file).map_err(std::io::Error::from)?;
    rustix::fs::fcntl_setfl(file, flags | OFlags::APPEND).map_err(std::io::Error::from)?;
    let faulthandler = py.import("faulthandler")?;
    faulthandler.call_method0("enable")?;
    let arguments = PyDict::new(py);
    arguments.set_item("file", file.as_raw_fd())?;
    arguments.set_item("all_threads", true)?;
    arguments.set_item("chain", false)?;
    faulthandler.call_method("register", (STACKS_SIGNAL,), Some(&arguments))?;
    Ok(install_handler()?)
}

/// The handler installed by `faulthandler`, which writes the stacks.
static WRITE_STACKS: OnceLock<extern "C" fn(libc::c_int)> = OnceLock::new();

/// Installs [`on_stacks_signal`] in place of `faulthandler`'s handler, which [`WRITE_STACKS`]
/// keeps.
fn install_handler() -> std::io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`: the default action, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: with a null action nothing is changed, and the present one is written to `action`.
    if unsafe { libc::sigaction(STACKS_SIGNAL, std::ptr::null(), &raw mut action) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let is_function = action.sa_flags & libc::SA_SIGINFO == 0
        && action.sa_sigaction != libc::SIG_DFL
        && action.sa_sigaction != libc::SIG_IGN;
    if !is_function {
        return Err(std::io::Error::other("faulthandler has installed no plain signal handler"));
    }
    // SAFETY: a handler without SA_SIGINFO has this signature (sigaction(2)), and functions have
    // the size of pointers.
    let handler =
        unsafe { std::mem::transmute::<libc::sighandler_t, extern "C" fn(libc::c_int)>(action.sa_sigaction) };
    WRITE_STACKS.get_or_init(|| handler);
    action.sa_sigaction = on_stacks_signal as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: `action` is initialized; its handler has the signature of one without SA_SIGINFO, and
    // calls only async-signal-safe functions and faulthandler's handler.
    match unsafe { libc::sigaction(STACKS_SIGNAL, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

extern "C" fn on_stacks_signal(signal: libc::c_int) {
    // Set before this handler was installed; reading it takes no lock.
    if let Some(write_stacks) = WRITE_STACKS.get() {
        write_stacks(signal);
    }
    if is_forked_child() {
        return;
    }
    // SAFETY: the worker socket keeps this number for as long as the process lives
    // (`crate::process`).
    let control = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    // One system call, which leaves errno alone. If the socket is full, the daemon does not read:
    // ignored.
    let _ = rustix::net::send(control, &Report::STACKS_DUMPED, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Writes the stacks of all threads except this one.
///
/// # Errors
/// A Python error.
pub(crate) fn write_all(py: Python<'_>, file: &OwnedFd) -> PyResult<()> {
    python_module(py)?.call_method1(intern!(py, "write_all"), (file.as_raw_fd(),)).map(drop)
}

/// Writes the stacks of all threads, including this one.
///
/// # Errors
/// A Python error.
pub(crate) fn write_current(py: Python<'_>, file: &OwnedFd) -> PyResult<()> {
    let arguments = PyDict::new(py);
    arguments.set_item("file", file.as_raw_fd())?;
    arguments.set_item("all_threads", true)?;
    py.import("faulthandler")?.call_method("dump_traceback", (), Some(&arguments)).map(drop)
}

/// Writes the stack of one thread. Returns false if there is no such thread.
///
/// # Errors
/// A Python error.
pub(crate) fn write_one(py: Python<'_>, file: &OwnedFd, thread: u64) -> PyResult<bool> {
    python_module(py)?.call_method1(intern!(py, "write_one"), (file.as_raw_fd(), thread))?.extract()
}

/// Writes a formatted stack. Returns true.
///
/// # Errors
/// A Python error.
pub(crate) fn write_text(py: Python<'_>, file: &OwnedFd, text: &str) -> PyResult<bool> {
    let bytes = PyBytes::new(py, text.as_bytes());
    python_module(py)?.call_method1(intern!(py, "write"), (file.as_raw_fd(), bytes)).map(|_| true)
}

/// Returns this thread's id as `faulthandler` prints it: `pthread_self(3)`.
pub(crate) fn current_thread_id() -> u64 {
    // SAFETY: pthread_self(3) has no preconditions and cannot fail.
    let thread = unsafe { libc::pthread_self() };
    #[expect(clippy::useless_conversion, reason = "an unsigned long: 32 bits on 32-bit machines")]
    u64::from(thread)
}

fn python_module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    embedded_module(py, &MODULE, include_str!("stacks.py"), c"<rgun>/stacks.py", c"rgun_worker.stacks")
}
