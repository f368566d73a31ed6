//! `main()`: adopts the worker socket (descriptor 3), receives Start, sets up the process and runs
//! its roles.
//!
//! # Why `unsafe`
//! By the contract with the daemon ([`CONTROL_FD`]) descriptor 3 belongs to this module, which
//! the type system does not know.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use rgun_channel::control::{CONTROL_FD, Command, MAX_MESSAGE_BYTES, Report, Role, Start, receive};
use rgun_channel::layout::REACTOR_PAGE_BYTES;
use rgun_channel::map::Map;
use rustix::io::FdFlags;

use crate::gil_cell::GilCell;
use crate::process::{OutputFiles, Process};
use crate::python::{load_py, register_fork_hook, system_exit};
use crate::role::{NextRole, WorkerInit};
use crate::{dispositions, lifecycle, log_records, oom_score, sandbox, sources, stacks, std_streams, zygote};

/// Boots and serves until the daemon stops the process.
///
/// # Errors
/// `SystemExit` with an exit code; anything else is a bug, which the bootstrap reports.
pub(crate) fn main(py: Python<'_>) -> PyResult<()> {
    let control = worker_socket()?;
    // On failure, the kernel may kill the daemon before this process; both serve all the same.
    let _ = oom_score::raise();
    let (start, fds) = receive_start(py, &control)?;
    let [map, reactor_page, reactor_eventfd, stacks, loop_eventfd]: [OwnedFd; 5] = fds
        .try_into()
        .map_err(|_| PyRuntimeError::new_err("the daemon sent Start without its five descriptors"))?;
    let daemon = rustix::process::getppid()
        .ok_or_else(|| PyRuntimeError::new_err("the worker has no parent process"))?;
    stacks::install(py, &stacks)?;
    dispositions::install(py)?;
    register_fork_hook(py)?;
    load_py(py)?.call_method1(intern!(py, "prepare"), (&start.directory, &start.pythonpath))?;
    if start.report_sources {
        sources::prepare(py)?;
    }
    let log_token = start.log_token;
    let mut next = match start.role {
        Role::Worker | Role::Check => {
            let map = Map::attach(map.as_fd(), start.geometry.total_bytes(), true)?;
            NextRole::Worker(WorkerInit { start, map, loop_eventfd, application: None })
        }
        Role::Zygote => NextRole::Zygote(start),
    };
    let reactor_map = Map::attach(reactor_page.as_fd(), REACTOR_PAGE_BYTES, false)?;
    // The mappings remain valid without the descriptors.
    drop((map, reactor_page));
    let process = Process {
        control,
        stacks,
        reactor_page: reactor_map,
        reactor_eventfd,
        daemon,
        own_output: GilCell::new(OutputFiles::current()),
    };
    let process: &'static Process = Box::leak(Box::new(process));
    if let Err(error) = sandbox::restrict() {
        let warning = format!("cannot restrict the worker by Landlock, continuing without: {error}");
        process.report(&Report::Warning(warning))?;
    }
    std_streams::write_lines_at_once(py)?;
    if let Some(token) = log_token {
        log_records::install(py, process, token)?;
    }
    loop {
        next = match next {
            NextRole::Worker(init) => lifecycle::run_worker(py, process, init)?,
            NextRole::Zygote(start) => zygote::boot(py, process, start)?,
            NextRole::Promoted(start, application) => zygote::run_promoted(py, process, start, application)?,
            NextRole::End => return Ok(()),
        }
    }
}

/// Adopts the worker socket.
fn worker_socket() -> PyResult<OwnedFd> {
    #[expect(unsafe_code, reason = "adopting the descriptor passed by the daemon")]
    // SAFETY: the daemon spawns this process with the worker socket as this descriptor, no other
    // code owns it (the bootstrap only writes to it), and main() runs once.
    let socket = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(|error| {
        PyOSError::new_err(format!("descriptor {CONTROL_FD} is not the worker socket: {error}"))
    })?;
    Ok(socket)
}

/// Receives the Start message and its descriptors.
fn receive_start(py: Python<'_>, socket: &OwnedFd) -> PyResult<(Box<Start>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
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
            // The daemon has closed the socket before Start.
            return Err(system_exit(0));
        }
        match Command::decode(&buffer[..received.len]) {
            Ok(Command::Start(start)) => return Ok((start, received.fds)),
            Ok(Command::Stop) => return Err(system_exit(0)),
            Ok(_) => {}
            Err(error) => {
                return Err(PyRuntimeError::new_err(format!(
                    "{error} (this extension belongs to rgun {}; restart rgun after an upgrade)",
                    env!("CARGO_PKG_VERSION")
                )));
            }
        }
    }
}
