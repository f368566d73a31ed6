//! A worker's life: hooks, the application, Ready, requests, the end, or the beginning of a zygote.

use std::time::Duration;

use pyo3::prelude::*;
use rgun_channel::control::{Interface, Report, Start};

use crate::application::{check_patches, fail, interpreter, load};
use crate::background::Helper;
use crate::hooks::Hooks;
use crate::process::Process;
use crate::role::{Birth, Next};
use crate::worker::Worker;
use crate::{asgi, control, dispositions, serve, title, wsgi};

/// Boots and serves until the daemon stops the worker, or wants a zygote of it.
///
/// # Errors
/// `SystemExit` with the code of what went wrong, or of a signal handler; anything else is a bug.
pub(crate) fn worker(py: Python<'_>, process: &'static Process, birth: Birth) -> PyResult<Next> {
    let Birth { start, map, wake, application } = birth;
    title::set(&format!("rgun: worker {} [{}:{}]", start.worker, start.module, start.attribute));
    let hooks = Hooks::new(py, &start, process.daemon.as_raw_nonzero().get())?;
    let hooks: &'static Hooks = Box::leak(Box::new(hooks));
    let worker: &'static Worker = Box::leak(Box::new(Worker::new(*start, process, map, wake)));
    let helper: &'static Helper = Box::leak(Box::new(Helper::new(worker, hooks)));
    let start = &worker.start;
    control::spawn(worker, helper)?;
    process.tell(&Report::Booting { python: interpreter(py)? })?;
    if let Err(failure) = hooks.call(py, "post_fork")? {
        return fail(process, failure);
    }
    let loaded = application
        .map_or_else(|| load(py, process, start), |application| Ok(Ok((application, start.interface))))?;
    let (application, interface) = match loaded {
        Ok(loaded) => loaded,
        Err(failure) => return fail(process, failure),
    };
    if let Err(failure) = hooks.call(py, "post_worker_init")? {
        return fail(process, failure);
    }
    if let Err(failure) = check_patches(py, start, interface)? {
        return fail(process, failure);
    }
    for warning in hooks.check(py)? {
        process.tell(&Report::Warning(warning))?;
    }
    let outcome = if interface == Interface::Asgi {
        match asgi::run(py, worker, &application, |served| helper.serves(served)) {
            Ok(Err(failure)) => return fail(process, failure),
            Ok(Ok(())) => Ok(()),
            Err(error) => Err(error),
        }
    } else {
        worker.drop_bell();
        let served = wsgi::Application::new(py, worker, application.clone_ref(py))?;
        if worker.is_stopping() {
            Ok(())
        } else {
            dispositions::set_ready();
            process.tell(&Report::Ready { interface })?;
            serve::run(py, served)
        }
    };
    if outcome.is_ok() && worker.is_promoted() {
        py.detach(|| {
            helper.close(Duration::MAX);
            worker.retire();
        });
        return Ok(Next::Promoted(Box::new(Start { interface, ..start.clone() }), application));
    }
    py.detach(|| helper.close(PATIENCE));
    if let Err(failure) = hooks.call(py, "worker_exit")? {
        process.tell(&Report::Warning(failure.as_warning()))?;
    }
    outcome.map(|()| Next::End)
}

/// How long a worker that exits waits for a `child_exit` hook that runs.
const PATIENCE: Duration = Duration::from_secs(1);
