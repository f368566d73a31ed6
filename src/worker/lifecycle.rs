//! The lifecycle of a worker: hooks, import of the application, Ready, requests, exit or promotion
//! to a zygote.

use std::time::Duration;

use pyo3::prelude::*;
use rgun_channel::control::{Interface, Report, Role, Start};

use crate::application::{BootFailure, check_monkey_patching, interpreter_version, load, report_failure};
use crate::background::BackgroundThread;
use crate::hooks::{Hooks, configure_logging};
use crate::process::Process;
use crate::role::{NextRole, WorkerInit};
use crate::worker::Worker;
use crate::{asgi, control, current_request, dispositions, serve, title, wsgi, zygote};

/// Boots and serves until the daemon stops the worker or promotes it to a zygote.
///
/// # Errors
/// `SystemExit` with an exit code, or raised by a signal handler; anything else is a bug.
pub(crate) fn run_worker(py: Python<'_>, process: &'static Process, init: WorkerInit) -> PyResult<NextRole> {
    let WorkerInit { start, map, loop_eventfd, application } = init;
    title::set(&format!("rgun: worker {} [{}:{}]", start.worker, start.module, start.attribute));
    let hooks = Hooks::new(py, &start, process.daemon.as_raw_nonzero().get())?;
    let hooks: &'static Hooks = Box::leak(Box::new(hooks));
    let worker: &'static Worker = Box::leak(Box::new(Worker::new(*start, process, map, loop_eventfd)));
    current_request::set_worker(py, Some(worker));
    let background: &'static BackgroundThread = Box::leak(Box::new(BackgroundThread::new(worker, hooks)));
    let start = &worker.start;
    control::spawn(worker, background)?;
    process.report(&Report::Booting { python: interpreter_version(py)? })?;
    let (application, interface) = match import(py, worker, hooks, application)? {
        Ok(loaded) => loaded,
        Err(failure) => return report_failure(process, failure),
    };
    hooks.set_application(py, &application)?;
    if let Err(failure) = hooks.call(py, "post_worker_init")? {
        return report_failure(process, failure);
    }
    if let Err(failure) = check_monkey_patching(py, start, interface)? {
        return report_failure(process, failure);
    }
    if let Err(failure) = hooks.check_late(py, process)? {
        return report_failure(process, failure);
    }
    let hooked = hooks.wrap(py, &application, interface)?;
    let outcome = if interface == Interface::Asgi {
        match asgi::run(py, worker, &hooked, |application| background.set_asgi(application)) {
            Ok(Err(failure)) => return report_failure(process, failure),
            Ok(Ok(())) => Ok(()),
            Err(error) => Err(error),
        }
    } else {
        worker.close_eventfd();
        let hints = wsgi::early_hints_function(py)?;
        let wsgi_application = wsgi::WsgiApplication::new(py, worker, hooked, &hints)?;
        if worker.is_stopping() {
            Ok(())
        } else {
            dispositions::set_ready();
            process.report(&Report::Ready { interface })?;
            serve::run(py, wsgi_application)
        }
    };
    if outcome.is_ok() && worker.is_promoted() {
        current_request::set_worker(py, None);
        py.detach(|| {
            background.close(Duration::MAX);
            worker.release_channel();
        });
        return Ok(NextRole::Promoted(Box::new(Start { interface, ..start.clone() }), application));
    }
    py.detach(|| background.close(EXIT_HOOK_TIMEOUT));
    if let Err(failure) = hooks.call(py, "worker_exit")? {
        process.report(&Report::Warning(failure.as_warning()))?;
    }
    outcome.map(|()| NextRole::End)
}

/// Time that an exiting worker waits for a running `child_exit` hook.
const EXIT_HOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Configures logging, calls `post_fork`, and imports the application, unless the zygote has
/// imported it.
fn import(
    py: Python<'_>,
    worker: &Worker,
    hooks: &Hooks,
    imported: Option<Py<PyAny>>,
) -> PyResult<Result<(Py<PyAny>, Interface), BootFailure>> {
    let (process, start) = (worker.process, &worker.start);
    // A worker forked from the application's zygote inherits the zygote's configuration.
    if imported.is_none()
        && let Err(failure) = configure_logging(py, process, start)?
    {
        return Ok(Err(failure));
    }
    if let Err(failure) = hooks.call(py, "post_fork")? {
        return Ok(Err(failure));
    }
    if start.role == Role::Check
        && let Err(failure) = zygote::import_modules(py, process, start)?
    {
        return Ok(Err(failure));
    }
    match imported {
        Some(application) => Ok(Ok((application, start.interface))),
        None => load(py, process, start),
    }
}
