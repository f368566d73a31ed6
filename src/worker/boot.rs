//! From `main()` to the first request: descriptor 3, Start, the map, the application, Ready.
//!
//! # Why `unsafe`
//! Descriptor 3 is ours by the contract with the daemon ([`CONTROL_FD`]); only that contract, not the
//! type system, says that nobody else in the process owns it.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use rgun_channel::control::{
    CONTROL_FD, Command, FailureKind, Interface, MAX_MESSAGE, Report, Start, receive, send,
};
use rgun_channel::layout::REACTOR_PAGE;
use rgun_channel::map::Map;
use rustix::io::FdFlags;

use crate::python::{EX_CONFIG, EX_SOFTWARE, support, system_exit, watch_forks};
use crate::worker::Worker;
use crate::{control, serve, title, wsgi};

/// Boots and serves until the daemon stops the worker.
///
/// # Errors
/// `SystemExit` with the code of what went wrong; anything else is a bug, and the bootstrap reports it.
pub(crate) fn main(py: Python<'_>) -> PyResult<()> {
    let socket = control_socket()?;
    let (start, fds) = receive_start(py, &socket)?;
    let [map, reactor, eventfd, _stacks]: [OwnedFd; 4] = fds
        .try_into()
        .map_err(|_| PyRuntimeError::new_err("the daemon sent Start without its four descriptors"))?;
    let map = Map::attach(map.as_fd(), start.geometry.total(), true)?;
    let reactor = Map::attach(reactor.as_fd(), REACTOR_PAGE, false)?;

    title::set(&format!("rgun: worker {} [{}:{}]", start.worker, start.module, start.attribute));
    tell(&socket, &Report::Booting { python: interpreter(py)? })?;
    py.import("faulthandler")?.call_method0("enable")?;
    let application = match load(py, &start)? {
        Ok(application) => application,
        Err((kind, summary, traceback)) => {
            let code = if kind == FailureKind::Config { EX_CONFIG } else { 1 };
            tell(&socket, &Report::Failed { kind, summary, traceback })?;
            return Err(system_exit(code));
        }
    };
    let worker: &'static Worker =
        Box::leak(Box::new(Worker::new(start, socket, Arc::new(map), reactor, eventfd)));
    watch_forks(py)?;
    let served = wsgi::Application::new(py, worker, application)?;
    control::spawn(worker)?;
    tell(&worker.control, &Report::Ready { interface: Interface::Wsgi })?;
    serve::run(py, served)
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

fn receive_start(py: Python<'_>, socket: &OwnedFd) -> PyResult<(Start, Vec<OwnedFd>)> {
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
            Ok(Command::Start(start)) => return Ok((*start, received.fds)),
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

fn tell(socket: &OwnedFd, report: &Report) -> PyResult<()> {
    match send(socket, &report.encode(), &[]) {
        Ok(()) => Ok(()),
        // The daemon is gone; there is nobody to boot for.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(system_exit(EX_SOFTWARE)),
        Err(error) => Err(error.into()),
    }
}

/// For instance `CPython 3.11.2`.
fn interpreter(py: Python<'_>) -> PyResult<String> {
    // "3.11.2 (main, ...) [GCC ...]"
    let version: String = py.import("sys")?.getattr("version")?.extract()?;
    Ok(format!("CPython {}", version.split_whitespace().next().unwrap_or("?")))
}

type Failure = (FailureKind, String, String);

/// Loads the application by `load.py`.
fn load(py: Python<'_>, start: &Start) -> PyResult<Result<Py<PyAny>, Failure>> {
    let module = support(py)?;
    module.call_method1(intern!(py, "prepare"), (&start.directory, &start.pythonpath))?;
    let interface = match start.interface {
        Interface::Auto => "auto",
        Interface::Wsgi => "wsgi",
        Interface::Asgi => "asgi",
    };
    let arguments = (&start.module, &start.attribute, start.factory, interface, &start.directory);
    let outcome = module.call_method1(intern!(py, "load"), arguments)?;
    let (application, failure): (Py<PyAny>, Option<(u8, String, String)>) = outcome.extract()?;
    Ok(match failure {
        None => Ok(application),
        Some((kind, summary, traceback)) => {
            let kind = if kind == 0 { FailureKind::Config } else { FailureKind::App };
            Err((kind, summary, traceback))
        }
    })
}
