//! An ASGI worker from the loaded application to the end of its event loop.

use std::sync::atomic::AtomicBool;

use pyo3::exceptions::PySystemExit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};
use rgun_channel::control::{EventLoop as LoopChoice, Interface, Lifespan, Report};

use super::awaitable::CompletedSend;
use super::deferred_heads::DeferredHeads;
use super::event_loop::EventLoop;
use super::event_templates::HttpEventTemplates;
use super::message_types::HttpMessageTypes;
use super::outbox::Outbox;
use super::scope::ScopeBuilder;
use super::state::{Application, Exchanges, python_module};
use super::{exchange, websocket};
use crate::application::BootFailure;
use crate::dispositions;
use crate::gil_cell::GilCell;
use crate::python::load_py;
use crate::worker::Worker;

/// Runs lifespan's startup, tells Ready, serves until the daemon says stop, and runs lifespan's shutdown. Calls
/// `on_start` before it serves. The inner error is why the application cannot be served.
///
/// # Errors
/// What Python says; the `SystemExit` of a signal handler.
pub(crate) fn run(
    py: Python<'_>,
    worker: &'static Worker,
    application: &Py<PyAny>,
    on_start: impl FnOnce(&'static Application),
) -> PyResult<Result<(), BootFailure>> {
    let half = python_module(py)?;
    half.setattr(intern!(py, "complete"), wrap_pyfunction!(exchange::complete, half)?)?;
    let request_exit = PyCFunction::new_closure(py, None, None, |arguments, _| -> PyResult<()> {
        worker.on_signal_exception(arguments.py(), PyErr::from_value(arguments.get_item(0)?));
        Ok(())
    })?;
    half.setattr(intern!(py, "request_exit"), request_exit)?;
    let lifespan = match worker.start.lifespan {
        Lifespan::Auto => "auto",
        Lifespan::On => "on",
        Lifespan::Off => "off",
    };
    let event_loop = match worker.start.event_loop {
        LoopChoice::Auto => "auto",
        LoopChoice::Asyncio => "asyncio",
        LoopChoice::Uvloop => "uvloop",
    };
    let server =
        half.call_method1(intern!(py, "Server"), (load_py(py)?, application, lifespan, event_loop))?;
    if let Err(failure) = BootFailure::from_outcome(&server.call_method0(intern!(py, "open"))?)? {
        return Ok(Err(failure));
    }
    let warnings = |warnings: Bound<'_, PyAny>| -> PyResult<()> {
        for warning in warnings.extract::<Vec<String>>()? {
            worker.process.report(&Report::Warning(warning))?;
        }
        Ok(())
    };
    let started = match server.call_method0(intern!(py, "startup")) {
        Ok(outcome) => BootFailure::from_outcome(&outcome)?,
        // A signal handler's. What startup has begun ends with the loop.
        Err(error) if error.is_instance_of::<PySystemExit>(py) => {
            worker.on_signal_exception(py, error);
            Ok(())
        }
        Err(error) => return Err(error),
    };
    if let Err(failure) = started {
        // What it has started must not keep the process from exiting.
        warnings(server.call_method0(intern!(py, "close"))?)?;
        return Ok(Err(failure));
    }
    warnings(server.call_method0(intern!(py, "take_warnings"))?)?;
    let served = Application::new(py, worker, &server)?;
    on_start(served);
    if !worker.is_stopping() {
        worker.mark_thread(0);
        served.start_ticking(py)?;
        dispositions::set_ready();
        worker.process.report(&Report::Ready { interface: Interface::Asgi })?;
        served.run(py, &server);
        if let Err(error) = served.stop_ticking(py) {
            worker.on_signal_exception(py, error);
        }
    }
    match server.call_method0(intern!(py, "close")) {
        Ok(told) => warnings(told)?,
        Err(error) => worker.on_signal_exception(py, error),
    }
    worker.take_exit_exception().map_or(Ok(Ok(())), Err)
}

impl Application {
    fn new(py: Python<'_>, worker: &'static Worker, server: &Bound<'_, PyAny>) -> PyResult<&'static Self> {
        let start = &worker.start;
        let half = python_module(py)?;
        let attribute = |name: &str| server.getattr(name);
        let asgi = attribute("asgi")?.cast_into::<PyDict>()?;
        let state = attribute("state")?.cast_into::<PyDict>()?;
        Ok(Box::leak(Box::new(Self {
            worker,
            app: attribute("application")?.unbind(),
            call: half.getattr(intern!(py, "call"))?.unbind(),
            call_websocket: half.getattr(intern!(py, "call_websocket"))?.unbind(),
            event_loop: EventLoop::new(
                &attribute("loop")?,
                attribute("stopped")?.unbind(),
                server.call_method0(intern!(py, "new_task"))?.extract()?,
            )?,
            scope_builder: ScopeBuilder::new(py, start, asgi, state)?,
            scope_cache: GilCell::default(),
            events: HttpEventTemplates::new(py)?,
            websocket_constants: websocket::WebSocketConstants::new(py)?,
            outbox: Outbox::default(),
            message_types: HttpMessageTypes::new(py),
            completed_send: Py::new(py, CompletedSend)?,
            exchanges: GilCell::new(Exchanges {
                running: std::collections::HashMap::default(),
                // The lowest last, so that it is used first.
                free_slots: (0..start.geometry.slots).rev().collect(),
                blocked: std::collections::VecDeque::new(),
                n_unchecked: 0,
                heads: DeferredHeads::default(),
                pool: Vec::new(),
            }),
            completion_buffer: GilCell::default(),
            submission_buffer: GilCell::default(),
            has_blocked: AtomicBool::new(false),
        })))
    }

    /// Runs the loop until nothing is left to do. What a signal handler raises stops the loop wherever it is, so it
    /// goes on from here, where no handler can interrupt: what runs is finished first.
    fn run(&self, py: Python<'_>, server: &Bound<'_, PyAny>) {
        while let Err(error) = server.call_method0(intern!(py, "run")) {
            if error.is_instance_of::<PySystemExit>(py) {
                self.worker.on_signal_exception(py, error);
            } else {
                error.write_unraisable(py, Some(self.event_loop.object().bind(py)));
            }
            // It may have been raised in a task, which nobody else knows to have ended.
            self.reap_done(py).unwrap_or_else(|broken| self.worker.abort_on_protocol_error(&broken));
            // The turn that was to come may have been lost.
            self.worker.wake_loop();
        }
    }
}
