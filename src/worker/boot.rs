//! `main()`: descriptor 3, Start, what every process of ours needs; then what it is to be, one thing after the other.
//!
//! # Why `unsafe`
//! Descriptor 3 is ours by the contract with the daemon ([`CONTROL_FD`]); only that contract, not the
//! type system, says that nobody else in the process owns it.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use rgun_channel::control::{
    CONTROL_FD, Command, FailureKind, Interface, MAX_MESSAGE, Report, Role, Start, receive,
};
use rgun_channel::layout::REACTOR_PAGE;
use rgun_channel::map::Map;
use rustix::io::FdFlags;

use crate::life::{self, Birth, Next};
use crate::process::{Printing, Process};
use crate::python::{is_forked_child, leave_forked_child, support, system_exit, watch_forks};
use crate::{dispositions, stacks, zygote};

/// Boots and serves until the daemon stops the process.
///
/// # Errors
/// `SystemExit` with the code of what went wrong; anything else is a bug, and the bootstrap reports it.
pub(crate) fn main(py: Python<'_>) -> PyResult<()> {
    let control = control_socket()?;
    let (start, fds) = receive_start(py, &control)?;
    let [map, reactor, eventfd, stacks, wake]: [OwnedFd; 5] = fds
        .try_into()
        .map_err(|_| PyRuntimeError::new_err("the daemon sent Start without its five descriptors"))?;
    let daemon = rustix::process::getppid().ok_or_else(|| PyRuntimeError::new_err("there is no daemon"))?;
    stacks::install(py, &stacks)?;
    dispositions::install(py)?;
    watch_forks(py)?;
    support(py)?.call_method1(intern!(py, "prepare"), (&start.directory, &start.pythonpath))?;
    let mut next = match start.role {
        Role::Worker => {
            let map = Map::attach(map.as_fd(), start.geometry.total(), true)?;
            Next::Worker(Birth { start, map, wake, application: None })
        }
        Role::Zygote => Next::Zygote(start),
    };
    let reactor_page = Map::attach(reactor.as_fd(), REACTOR_PAGE, false)?;
    // Mapped, they need no descriptors any more.
    drop((map, reactor));
    let process =
        Process { control, stacks, reactor: reactor_page, eventfd, daemon, printing: Printing::now() };
    let process: &'static Process = Box::leak(Box::new(process));
    loop {
        next = match next {
            Next::Worker(birth) => life::worker(py, process, birth)?,
            Next::Zygote(start) => zygote::boot(py, process, start)?,
            Next::Promoted(start, application) => zygote::promoted(py, process, start, application)?,
            Next::End => return Ok(()),
        }
    }
}

fn control_socket() -> PyResult<OwnedFd> {
    #[expect(unsafe_code, reason = "adopting the descriptor that the daemon has put there for us")]
    // SAFETY: the daemon spawns us with the control socket as this descriptor, nothing else in this
    // process knows of it (the bootstrap only writes to it), and main() runs once.
    let socket = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(|error| {
        PyOSError::new_err(format!("descriptor {CONTROL_FD} is not the control socket: {error}"))
    })?;
    Ok(socket)
}

fn receive_start(py: Python<'_>, socket: &OwnedFd) -> PyResult<(Box<Start>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let received = match py.detach(|| receive(socket, &mut buffer)) {
            Ok(received) => received,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                py.check_signals()?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if received.len == 0 {
            // The daemon went away before it said anything.
            return Err(system_exit(0));
        }
        match Command::decode(&buffer[..received.len]) {
            Ok(Command::Start(start)) => return Ok((start, received.fds)),
            Ok(Command::Stop) => return Err(system_exit(0)),
            Ok(_) => {}
            Err(error) => {
                return Err(PyRuntimeError::new_err(format!(
                    "{error} (this extension is of rgun {}; restart rgun after an upgrade)",
                    env!("CARGO_PKG_VERSION")
                )));
            }
        }
    }
}

/// For instance `CPython 3.11.2`.
pub(crate) fn interpreter(py: Python<'_>) -> PyResult<String> {
    // "3.11.2 (main, ...) [GCC ...]"
    let version: String = py.import("sys")?.getattr("version")?.extract()?;
    Ok(format!("CPython {}", version.split_whitespace().next().unwrap_or("?")))
}

/// Why the application cannot be served.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Whose fault.
    pub(crate) kind: FailureKind,
    /// One line.
    pub(crate) summary: String,
    /// Or empty.
    pub(crate) traceback: String,
    /// One line without any text of the application's.
    pub(crate) headline: String,
}

impl Failure {
    /// Something of ours did not work.
    pub(crate) fn of_system(summary: String) -> Self {
        Self { kind: FailureKind::App, headline: summary.clone(), summary, traceback: String::new() }
    }

    /// From what the Python halves return: None, or kind, summary, traceback and headline.
    ///
    /// # Errors
    /// When it is neither.
    pub(crate) fn of(outcome: &Bound<'_, PyAny>) -> PyResult<Result<(), Self>> {
        let outcome: Option<(u8, String, String, String)> = outcome.extract()?;
        Ok(outcome.map_or(Ok(()), |(kind, summary, traceback, headline)| {
            let kind = if kind == 0 { FailureKind::Config } else { FailureKind::App };
            Err(Self { kind, summary, traceback, headline })
        }))
    }
}

/// Why an application that is loaded cannot be served as configured: gevent or eventlet have patched what its threads,
/// or a fork, would rely on.
///
/// # Errors
/// What Python says.
pub(crate) fn check_patches(
    py: Python<'_>,
    start: &Start,
    interface: Interface,
) -> PyResult<Result<(), Failure>> {
    let arguments = (interface == Interface::Wsgi, start.threads, start.role == Role::Zygote);
    Failure::of(&support(py)?.call_method1(intern!(py, "check_patches"), arguments)?)
}

/// Imports the application by `load.py`, and finds out how it wants to be called; tells the daemon what is to be warned of.
///
/// # Errors
/// What Python says; not what the application raises.
pub(crate) fn load(
    py: Python<'_>,
    process: &Process,
    start: &Start,
) -> PyResult<Result<(Py<PyAny>, Interface), Failure>> {
    let interface = match start.interface {
        Interface::Auto => "auto",
        Interface::Wsgi => "wsgi",
        Interface::Asgi => "asgi",
    };
    let arguments = (&start.module, &start.attribute, start.factory, interface, &start.directory);
    let (application, found, warning, failure): (Py<PyAny>, Option<String>, Option<String>, Py<PyAny>) =
        support(py)?.call_method1(intern!(py, "load"), arguments)?.extract()?;
    if is_forked_child() {
        // The application forked while it was imported, and the child came back: the parent boots.
        leave_forked_child(py, None);
    }
    if let Some(warning) = warning {
        process.tell(&Report::Warning(warning))?;
    }
    let interface = if found.as_deref() == Some("asgi") { Interface::Asgi } else { Interface::Wsgi };
    Ok(Failure::of(failure.bind(py))?.map(|()| (application, interface)))
}
