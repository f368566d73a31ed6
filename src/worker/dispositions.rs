//! Signal handlers of a worker, for signals that the application does not handle itself.
//!
//! | signal | while booting | when ready |
//! |---|---|---|
//! | SIGTERM, SIGINT | default effect: the process ends | [`Report::StopRequested`](rgun_channel::control::Report::StopRequested): the daemon stops the worker after its running requests |
//! | SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU | ignored | ignored: they are commands to the daemon, and a process manager sends them to all processes |
//!
//! Ignored signals have handlers instead of `SIG_IGN`, which programs started by the application
//! would inherit over execve(2).
//!
//! # Two levels
//! Each signal has a Python callable, for libraries that save the handler and restore it later
//! (`asyncio.run` does so with SIGINT), or call it from their own handler. A C handler replaces
//! Python's: it has the same effect, restarts system calls and does not wait for the main thread to
//! run Python code. A handler installed by the application replaces both.
//!
//! # Forks
//! The handlers work in one process, [`OWNER`]. In a process that the application forks they are
//! removed ([`restore`]); a signal that arrives before that has its default effect.
//!
//! # Why `unsafe`
//! There is no safe way to install a signal handler. The handlers here make only async-signal-safe
//! system calls (signal-safety(7)).
#![expect(unsafe_code, reason = "signal handlers")]

use std::ffi::c_int;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use libc::{SIGHUP, SIGINT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyCFunction;
use rgun_channel::control::CONTROL_FD;
use rustix::net::SendFlags;

/// The signals that have handlers: first the stop signals, then the ignored signals.
const SIGNALS: [c_int; 7] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU];

/// Process id of the process that installed the handlers; 0 before.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Set once the process in [`OWNER`] is ready: the daemon handles [`STOP_REQUESTED`] from then on.
static READY: AtomicBool = AtomicBool::new(false);

/// Kind byte of `Report::StopRequested`; the signal's number follows. Written without allocating.
const STOP_REQUESTED: u8 = b't';

/// Installs all handlers. Called on the main thread, before any code of the application runs.
///
/// # Errors
/// A Python error, or one of sigaction(2).
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    set_owner();
    SIGNALS.iter().try_for_each(|signal| install_handler(py, *signal))
}

/// Makes SIGTERM and SIGINT send `Report::StopRequested` from now on.
pub(crate) fn set_ready() {
    READY.store(true, Ordering::SeqCst);
}

/// Returns the signals whose handlers the application has not replaced. Called before a worker is
/// forked.
///
/// # Errors
/// A Python error.
pub(crate) fn handled_signals(py: Python<'_>) -> PyResult<Vec<c_int>> {
    let mut handled = Vec::new();
    for signal in SIGNALS {
        if is_handled(py, signal)? {
            handled.push(signal);
        }
    }
    Ok(handled)
}

/// Installs the handlers of a zygote ([`handled_signals`]) again in a worker forked from it.
///
/// # Errors
/// As [`install`].
pub(crate) fn reinstall(py: Python<'_>, signals: &[c_int]) -> PyResult<()> {
    set_owner();
    signals.iter().try_for_each(|signal| install_handler(py, *signal))
}

/// Restores the handlers of an ordinary Python program, in a process forked by the application.
///
/// # Errors
/// A Python error.
pub(crate) fn restore(py: Python<'_>) -> PyResult<()> {
    let module = py.import(intern!(py, "_signal"))?;
    for signal in handled_signals(py)? {
        let name = if signal == SIGINT { "default_int_handler" } else { "SIG_DFL" };
        module.call_method1(intern!(py, "signal"), (signal, module.getattr(name)?))?;
    }
    Ok(())
}

fn set_owner() {
    READY.store(false, Ordering::SeqCst);
    OWNER.store(current_pid(), Ordering::SeqCst);
}

/// Returns the process id from the kernel: a cached id may be wrong after vfork(2) or clone(2).
fn current_pid() -> c_int {
    // SAFETY: getpid(2) has no preconditions.
    unsafe { libc::getpid() }
}

fn install_handler(py: Python<'_>, signal: c_int) -> PyResult<()> {
    let module = py.import(intern!(py, "_signal"))?;
    module.call_method1(intern!(py, "signal"), (signal, python_handler(py, signal)?))?;
    // SAFETY: all zeroes is a valid `sigaction`: the default action, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = if is_stop_signal(signal) {
        on_stop_signal as extern "C" fn(c_int) as *const () as libc::sighandler_t
    } else {
        on_ignored_signal as extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) as *const ()
            as libc::sighandler_t
    };
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    if !is_stop_signal(signal) {
        action.sa_flags |= libc::SA_SIGINFO;
    }
    // SAFETY: `action` is initialized; its handler has the signature that its flags say, and makes
    // system calls only.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}

/// Returns whether the signal asks the process to stop.
fn is_stop_signal(signal: c_int) -> bool {
    matches!(signal, SIGTERM | SIGINT)
}

/// Returns the Python callable that Python reports as the signal's handler, for libraries that save
/// or call it.
fn python_handler(py: Python<'_>, signal: c_int) -> PyResult<&Bound<'_, PyCFunction>> {
    static STOP_HANDLER: PyOnceLock<Py<PyCFunction>> = PyOnceLock::new();
    static IGNORE_HANDLER: PyOnceLock<Py<PyCFunction>> = PyOnceLock::new();
    let stops = is_stop_signal(signal);
    let cell = if stops { &STOP_HANDLER } else { &IGNORE_HANDLER };
    let handler = cell.get_or_try_init(py, || {
        let name = if stops { c"rgun_finish_and_exit" } else { c"rgun_do_nothing" };
        let call = move |arguments: &Bound<'_, pyo3::types::PyTuple>, _: Option<&Bound<'_, _>>| {
            if stops {
                // A handler of the application may call this without arguments.
                on_stop_signal(arguments.get_item(0).and_then(|number| number.extract()).unwrap_or(SIGTERM));
            }
        };
        PyCFunction::new_closure(py, Some(name), None, call).map(Bound::unbind)
    })?;
    Ok(handler.bind(py))
}

fn is_handled(py: Python<'_>, signal: c_int) -> PyResult<bool> {
    let module = py.import(intern!(py, "_signal"))?;
    Ok(module.call_method1(intern!(py, "getsignal"), (signal,))?.is(python_handler(py, signal)?))
}

/// Handler of SIGTERM and SIGINT.
extern "C" fn on_stop_signal(signal: c_int) {
    if current_pid() != OWNER.load(Ordering::SeqCst) || !READY.load(Ordering::SeqCst) {
        raise_with_default(signal);
        return;
    }
    // SAFETY: the address of this thread's errno is valid for as long as the thread runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    // SAFETY: the worker socket keeps this number for as long as the process lives
    // (`crate::process`).
    let control = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    let report = [STOP_REQUESTED, u8::try_from(signal).unwrap_or_default()];
    // Blocks while the socket is full, until the daemon drains it. Without a daemon the process is
    // about to exit.
    let _ = rustix::net::send(control, &report, SendFlags::NOSIGNAL);
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// Handler for signals that a worker ignores.
extern "C" fn on_ignored_signal(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if current_pid() != OWNER.load(Ordering::SeqCst) {
        raise_with_default(signal);
    }
    // SAFETY: with SA_SIGINFO the kernel passes a valid pointer (sigaction(2)).
    let is_from_kernel = unsafe { (*info).si_code } > 0;
    if is_from_kernel && matches!(signal, SIGTTIN | SIGTTOU) {
        // The kernel sends this signal to a background process that uses its terminal. The process
        // must stop, or it would retry forever.
        // SAFETY: raise(3) has no preconditions.
        unsafe { libc::raise(libc::SIGSTOP) };
    }
}

/// Raises the signal with its default effect, which happens when the handler returns and unblocks
/// it.
fn raise_with_default(signal: c_int) {
    // SAFETY: SIG_DFL installs no function.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: raise(3) has no preconditions.
    unsafe { libc::raise(signal) };
}
