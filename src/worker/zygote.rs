//! The zygote: imports the application once, or other modules, and forks workers (`workers.preload`).
//!
//! With modules, each worker imports the application itself: workers share the memory of the modules,
//! and no state that the application's import leaves behind.
//!
//! The zygote's main thread reads the worker socket, so the zygote has no other thread: after a
//! fork only the forking thread exists in the child, and locks held by others stay locked.
//!
//! A worker is forked twice: the intermediate process exits at once, and the daemon, a subreaper,
//! becomes the worker's parent. `os.fork()` runs the handlers of pthread_atfork(3) and
//! `os.register_at_fork`, on which OpenBLAS, grpc and jemalloc depend; `clone3(CLONE_PARENT)` would
//! not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;
use rgun_channel::control::{
    Command, Fork, Interface, MAX_MESSAGE_BYTES, Preload, ReceivedMessage, Report, Role, Start, receive,
};
use rgun_channel::map::Map;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, pidfd_open, set_parent_process_death_signal, setpgid,
};

use crate::application::{
    BootFailure, check_monkey_patching, interpreter_version, load, report_failure, report_sources,
};
use crate::hooks::{Hooks, configure_logging};
use crate::process::Process;
use crate::python::{
    EX_SOFTWARE, clear_forked_child, embedded_module, exit_forked_child, exit_now, is_forked_child, load_py,
};
use crate::role::{NextRole, WorkerInit};
use crate::{dispositions, log_records, sources, stacks, title, wsgi};

/// Imports the application, or the modules of `workers.preload`, and forks workers until the daemon
/// stops the zygote. Also returns in every forked worker.
///
/// # Errors
/// `SystemExit` with an exit code; anything else is a bug.
pub(crate) fn boot(py: Python<'_>, process: &'static Process, start: Box<Start>) -> PyResult<NextRole> {
    set_title(&start);
    process.report(&Report::Booting { python: interpreter_version(py)? })?;
    let Preload::Application { warm_up } = &start.preload else {
        if let Err(failure) = import_modules(py, process, &start)? {
            return report_failure(process, failure);
        }
        if let Err(failure) = check_monkey_patching(py, &start, start.interface)? {
            return report_failure(process, failure);
        }
        return run(py, process, start, None);
    };
    if let Err(failure) = configure_logging(py, process, &start)? {
        return report_failure(process, failure);
    }
    let (application, interface) = match load(py, process, &start)? {
        Ok(loaded) => loaded,
        Err(failure) => return report_failure(process, failure),
    };
    if let Err(failure) = check_monkey_patching(py, &start, interface)? {
        return report_failure(process, failure);
    }
    if !warm_up.is_empty() && interface == Interface::Asgi {
        // The warm-up would need an event loop and lifespan, whose threads and sockets must not
        // exist when workers are forked.
        let warning = "the warm-up request is for WSGI applications; an ASGI application is only imported";
        process.report(&Report::Warning(warning.to_owned()))?;
    } else if !warm_up.is_empty() {
        let environ = wsgi::warm_up_environ(py, &start, warm_up)?;
        let arguments = (load_py(py)?, &application, environ, warm_up);
        let warning: Option<String> =
            python_module(py)?.call_method1(intern!(py, "warm_up"), arguments)?.extract()?;
        if let Some(warning) = warning {
            process.report(&Report::Warning(warning))?;
        }
    }
    run(py, process, Box::new(Start { interface, ..*start }), Some(application))
}

/// Imports the modules of `workers.preload`. Does nothing if the application is preloaded, or nothing.
/// Reports the files that were loaded, if the daemon watches them.
///
/// # Errors
/// A Python error; exceptions of a module are a [`BootFailure`].
pub(crate) fn import_modules(
    py: Python<'_>,
    process: &Process,
    start: &Start,
) -> PyResult<Result<(), BootFailure>> {
    let Preload::Modules(modules) = &start.preload else { return Ok(Ok(())) };
    let arguments = (load_py(py)?, modules, &start.directory);
    let failure = python_module(py)?.call_method1(intern!(py, "import_modules"), arguments)?;
    if is_forked_child() {
        // A module forked, as the application may in `load`.
        exit_forked_child(py, None);
    }
    report_sources(py, process, start)?;
    BootFailure::from_outcome(&failure)
}

/// Turns a drained worker into a zygote.
///
/// # Errors
/// As [`boot`].
pub(crate) fn run_promoted(
    py: Python<'_>,
    process: &'static Process,
    start: Box<Start>,
    application: Py<PyAny>,
) -> PyResult<NextRole> {
    set_title(&start);
    process.report(&Report::Promoted)?;
    run(py, process, start, Some(application))
}

fn set_title(start: &Start) {
    title::set(&format!("rgun: zygote [{}:{}]", start.module, start.attribute));
}

/// Forks workers from now on. `application`: what the workers serve; `None` if each imports it, and
/// also looks for the hooks, which may be in the application's modules.
fn run(
    py: Python<'_>,
    process: &'static Process,
    start: Box<Start>,
    application: Option<Py<PyAny>>,
) -> PyResult<NextRole> {
    let hooks = Hooks::new(py, &start, process.daemon.as_raw_nonzero().get())?;
    if application.is_some()
        && let Err(failure) = hooks.check_late(py, process)?
    {
        return report_failure(process, failure);
    }
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let own = [process.control.as_raw_fd()];
    let warnings: Vec<String> =
        python_module(py)?.call_method1(intern!(py, "freeze"), (own, application.is_some()))?.extract()?;
    for warning in warnings {
        process.report(&Report::Warning(warning))?;
    }
    dispositions::set_ready();
    process.report(&Report::Ready { interface: start.interface })?;
    loop {
        let received = receive_command(py, process, &mut buffer)?;
        match Command::decode(&buffer[..received.len]) {
            Ok(Command::Fork(command)) => {
                if let Some((map, loop_eventfd)) = fork(py, process, &start, command, received.fds)? {
                    let start = Box::new(Start {
                        worker: command.worker,
                        incarnation: command.incarnation,
                        role: Role::Worker,
                        ..*start
                    });
                    return Ok(NextRole::Worker(WorkerInit { start, map, loop_eventfd, application }));
                }
            }
            Ok(Command::ReportSources) => {
                for report in sources::new_reports(py)? {
                    process.report(&report)?;
                }
            }
            Ok(Command::DumpStacks(None)) => dump_stacks(py, process)?,
            Ok(Command::DumpStacks(Some(_))) => process.report(&Report::StacksDumped(false))?,
            Ok(Command::ChildExited { pid, worker, incarnation }) => {
                if let Some(warning) = hooks.child_exit(py, pid, worker, incarnation)? {
                    process.report(&Report::Warning(warning))?;
                }
            }
            // Not called, because a zygote serves no requests.
            Ok(Command::Abort) => process.report(&Report::AbortHookEnded)?,
            Ok(Command::Stop) => return Ok(NextRole::End),
            // Promote is ignored, because this is a zygote already. The other commands are for
            // workers: TrimMemory would unshare the pages that workers share with the zygote.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Receives one message. Exits when the daemon has closed the socket.
fn receive_command(py: Python<'_>, process: &Process, buffer: &mut [u8]) -> PyResult<ReceivedMessage> {
    loop {
        match py.detach(|| receive(&process.control, buffer)) {
            Ok(received) if received.len > 0 => return Ok(received),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => py.check_signals()?,
            Ok(_) | Err(_) => exit_now(0),
        }
    }
}

fn dump_stacks(py: Python<'_>, process: &Process) -> PyResult<()> {
    let written = stacks::write_current(py, &process.stacks);
    if let Err(error) = &written {
        error.clone_ref(py).write_unraisable(py, None);
    }
    process.report(&Report::StacksDumped(written.is_ok()))
}

/// Forks a worker. Returns twice: in the worker, its shared map and event loop's eventfd; in the
/// zygote, None.
fn fork(
    py: Python<'_>,
    process: &'static Process,
    start: &Start,
    command: Fork,
    fds: Vec<OwnedFd>,
) -> PyResult<Option<(Map, OwnedFd)>> {
    let mut fds = fds.into_iter();
    let (Some(control), Some(map), Some(stacks), Some(loop_eventfd)) =
        (fds.next(), fds.next(), fds.next(), fds.next())
    else {
        let reason = "the daemon sent Fork without its descriptors".to_owned();
        return process
            .report(&Report::ForkFailed { incarnation: command.incarnation, reason })
            .map(|()| None);
    };
    // stdout and stderr come as a pair, or not at all if the daemon writes to a terminal;
    // cgroup.procs is sent or not independently of them.
    let output = if fds.len() >= 2 { fds.next().zip(fds.next()) } else { None };
    let cgroup_procs = fds.next();
    let handled = dispositions::handled_signals(py)?;
    let forked = python_module(py)?
        .call_method1(intern!(py, "fork"), (cgroup_procs.as_ref().map(AsRawFd::as_raw_fd),))
        .and_then(|forked| forked.extract::<(u32, Option<i32>)>());
    match forked {
        Ok((0, intermediate)) => {
            clear_forked_child();
            log_records::reset(py);
            let redirected = output.map_or(Ok(()), |ends| process.redirect_output(py, &ends));
            if redirected.and_then(|()| process.replace_descriptors(&control, &stacks)).is_err() {
                // A report would be sent on the zygote's worker socket.
                exit_now(EX_SOFTWARE);
            }
            dispositions::reinstall(py, &handled)?;
            if let Err(error) = adopt_by_daemon(process.daemon, intermediate.and_then(Pid::from_raw)) {
                let failure =
                    BootFailure::internal(format!("the forked worker is not a child of the daemon: {error}"));
                return report_failure(process, failure);
            }
            let warning: Option<String> =
                python_module(py)?.call_method0(intern!(py, "reseed"))?.extract()?;
            if let Some(warning) = warning {
                process.report(&Report::Warning(warning))?;
            }
            Ok(Some((Map::attach(map.as_fd(), start.geometry.total_bytes(), true)?, loop_eventfd)))
        }
        Ok((pid, _)) => {
            // The daemon detects the worker's death by end-of-file on the worker socket, so the
            // zygote must not keep it open.
            drop((control, map, stacks, loop_eventfd, output, cgroup_procs));
            process.report(&Report::Forked { incarnation: command.incarnation, pid })?;
            Ok(None)
        }
        Err(error) => {
            let reason = error.value(py).to_string();
            process.report(&Report::ForkFailed { incarnation: command.incarnation, reason })?;
            Ok(None)
        }
    }
}

/// Waits, in a forked worker, for the exit of the intermediate process, then sets up the worker as
/// a child of the daemon.
fn adopt_by_daemon(daemon: Pid, intermediate: Option<Pid>) -> io::Result<()> {
    if let Some(intermediate) = intermediate
        && getppid() == Some(intermediate)
    {
        match pidfd_open(intermediate, PidfdFlags::empty()) {
            Ok(exit) => await_readable(&exit)?,
            // The intermediate process has been reaped.
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Must follow the wait: the death signal refers to the current parent (prctl(2)).
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(daemon) {
        return Err(io::Error::other("its parent is not the daemon, which has died or is not a subreaper"));
    }
    // The worker gets a process group of its own, so that the daemon can kill it with its children.
    Ok(setpgid(None, None)?)
}

/// Waits until a pidfd is readable: its process has exited and its children are reparented.
fn await_readable(pidfd: &OwnedFd) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn python_module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    embedded_module(py, &MODULE, include_str!("zygote.py"), c"<rgun>/zygote.py", c"rgun_worker.zygote")
}
