//! What signals do in a worker that the application has not said anything about.
//!
//! | signal | while booting | when ready |
//! |---|---|---|
//! | SIGTERM, SIGINT | the process ends, as by default | [`Report::StopRequested`](rgun_channel::control::Report::StopRequested): the daemon lets it finish what it runs and leave |
//! | SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU | nothing | nothing: they are orders to the daemon, and a process manager sends them to all |
//!
//! Handlers, and not `SIG_IGN`: that would survive execve(2) in every program that the application starts.
//!
//! # Two levels
//! Each signal has a Python callable, so that libraries which save a handler, install their own and put the old one back
//! (`asyncio.run` does with SIGINT), or call the old one from theirs, get what they expect. In front of that stands a C
//! handler of ours, which restarts system calls, does not wait for the main thread to run Python code, and does the same.
//! A handler that the application installs replaces both.
//!
//! # Processes
//! The handlers are for one process, [`OWNER`]. In one that the application forks they are taken away ([`restore`]);
//! should a signal come before that, it has its default effect.
//!
//! # Why `unsafe`
//! There is no safe way to install a signal handler; these make async-signal-safe system calls only (signal-safety(7)).
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

/// Those that ask the process to leave, and those that are none of its business.
const SIGNALS: [c_int; 7] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU];

/// The process that the handlers are for; 0 before there are any.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Whether that process is ready, so that the daemon knows what to do with [`STOP_REQUESTED`].
static READY: AtomicBool = AtomicBool::new(false);

/// The kind of `Report::StopRequested`; the signal's number follows. In bytes that need no allocation.
const STOP_REQUESTED: u8 = b't';

/// Installs all handlers. On the main thread, before any code of the application runs.
///
/// # Errors
/// What Python or the system says.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    set_owner();
    SIGNALS.iter().try_for_each(|signal| install_handler(py, *signal))
}

/// From now on SIGTERM and SIGINT are the daemon's to answer.
pub(crate) fn set_ready() {
    READY.store(true, Ordering::SeqCst);
}

/// The signals that nobody else handles, in a process that is about to fork a worker.
///
/// # Errors
/// What Python says.
pub(crate) fn handled_signals(py: Python<'_>) -> PyResult<Vec<c_int>> {
    let mut held = Vec::new();
    for signal in SIGNALS {
        if is_handled(py, signal)? {
            held.push(signal);
        }
    }
    Ok(held)
}

/// In a new worker that was forked: handles again what its zygote did ([`held`]).
///
/// # Errors
/// As [`install`].
pub(crate) fn reinstall(py: Python<'_>, held: &[c_int]) -> PyResult<()> {
    set_owner();
    held.iter().try_for_each(|signal| install_handler(py, *signal))
}

/// In a process that the application has forked: what a Python program has that rgun did not start.
///
/// # Errors
/// What Python says.
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

/// This process, without the C library's or anybody's memory of it: vfork(2) and clone(2) change it silently.
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
    // SAFETY: `action` is initialized; its handler has the signature that its flags say, and makes system calls only.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}

/// Whether the signal asks the process to leave.
fn is_stop_signal(signal: c_int) -> bool {
    matches!(signal, SIGTERM | SIGINT)
}

/// What Python has as the signal's handler, for libraries that keep or call it.
fn python_handler(py: Python<'_>, signal: c_int) -> PyResult<&Bound<'_, PyCFunction>> {
    static REQUEST: PyOnceLock<Py<PyCFunction>> = PyOnceLock::new();
    static ORDER: PyOnceLock<Py<PyCFunction>> = PyOnceLock::new();
    let cell = if is_stop_signal(signal) { &REQUEST } else { &ORDER };
    let made = cell.get_or_try_init(py, || {
        let (name, does) = if is_stop_signal(signal) {
            (c"rgun_finish_and_leave", true)
        } else {
            (c"rgun_do_nothing", false)
        };
        let call = move |arguments: &Bound<'_, pyo3::types::PyTuple>, _: Option<&Bound<'_, _>>| {
            if does {
                // Called by a handler of the application's: perhaps without arguments.
                on_stop_signal(arguments.get_item(0).and_then(|number| number.extract()).unwrap_or(SIGTERM));
            }
        };
        PyCFunction::new_closure(py, Some(name), None, call).map(Bound::unbind)
    })?;
    Ok(made.bind(py))
}

fn is_handled(py: Python<'_>, signal: c_int) -> PyResult<bool> {
    let module = py.import(intern!(py, "_signal"))?;
    Ok(module.call_method1(intern!(py, "getsignal"), (signal,))?.is(python_handler(py, signal)?))
}

/// SIGTERM and SIGINT.
extern "C" fn on_stop_signal(signal: c_int) {
    if current_pid() != OWNER.load(Ordering::SeqCst) || !READY.load(Ordering::SeqCst) {
        raise_with_default(signal);
        return;
    }
    // SAFETY: the address of this thread's errno is valid for as long as the thread runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    // SAFETY: the control socket keeps this number for as long as the process lives (`crate::process`).
    let control = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    let report = [STOP_REQUESTED, u8::try_from(signal).unwrap_or_default()];
    // A full socket is waited for: the daemon reads it soon. Without a daemon the process is ending anyway.
    let _ = rustix::net::send(control, &report, SendFlags::NOSIGNAL);
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// The others.
extern "C" fn on_ignored_signal(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if current_pid() != OWNER.load(Ordering::SeqCst) {
        raise_with_default(signal);
    }
    // SAFETY: with SA_SIGINFO the kernel passes a valid pointer (sigaction(2)).
    let is_of_the_kernel = unsafe { (*info).si_code } > 0;
    if is_of_the_kernel && matches!(signal, SIGTTIN | SIGTTOU) {
        // A terminal that stops those in the background who use it: without the stop they would try for ever.
        // SAFETY: raise(3) has no preconditions.
        unsafe { libc::raise(libc::SIGSTOP) };
    }
}

/// Has the signal's default effect once its handler has returned: until then it is blocked.
fn raise_with_default(signal: c_int) {
    // SAFETY: the disposition is not a function that could run at a bad time.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: raise(3) has no preconditions.
    unsafe { libc::raise(signal) };
}
