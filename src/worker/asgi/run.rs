//! The lifecycle of an ASGI worker, from the loaded application to the end of its event loop.
//!
//! [`run`] is called by [`crate::lifecycle`].

use std::sync::atomic::AtomicBool;

use pyo3::exceptions::PySystemExit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};
use rgun_channel::control::{EventLoop as LoopChoice, Interface, Lifespan, Report};

use super::deferred_heads::DeferredHeads;
use super::event_loop::EventLoop;
use super::event_templates::HttpEventTemplates;
use super::message_types::HttpMessageTypes;
use super::outbox::Outbox;
use super::request_context::RequestContexts;
use super::scope::ScopeBuilder;
use super::state::{Application, Exchanges, python_module};
use super::{completed_send, exchange, loop_flags, websocket};
use crate::application::BootFailure;
use crate::dispositions;
use crate::gil_cell::GilCell;
use crate::python::load_py;
use crate::worker::Worker;

/// Runs lifespan's startup, reports Ready, serves until the daemon stops the worker, and runs
/// lifespan's shutdown. Calls `on_start` before it serves. The inner error is the reason why the
/// application cannot be served.
///
/// # Errors
/// An exception of the worker's own Python code, or the `SystemExit` of a signal handler.
pub(crate) fn run(
    py: Python<'_>,
    worker: &'static Worker,
    callable: &Py<PyAny>,
    on_start: impl FnOnce(&'static Application),
) -> PyResult<Result<(), BootFailure>> {
    install_callbacks(py, worker)?;
    let server = create_server(py, worker, callable)?;
    if let Err(failure) = BootFailure::from_outcome(&server.call_method0(intern!(py, "open"))?)? {
        return Ok(Err(failure));
    }
    if let Err(failure) = start_up(py, worker, &server)? {
        // Ends the threads and tasks of the failed startup, which could prevent the process from
        // exiting.
        report_warnings(worker, &server.call_method0(intern!(py, "close"))?)?;
        return Ok(Err(failure));
    }
    report_warnings(worker, &server.call_method0(intern!(py, "take_warnings"))?)?;
    let application = Application::new(py, worker, &server)?;
    on_start(application);
    if !worker.is_stopping() {
        application.serve(py, &server)?;
    }
    match server.call_method0(intern!(py, "close")) {
        Ok(warnings) => report_warnings(worker, &warnings)?,
        Err(error) => worker.on_signal_exception(py, error),
    }
    worker.take_exit_exception().map_or(Ok(Ok(())), Err)
}

/// Sets the functions of the worker that `asgi.py` calls.
fn install_callbacks(py: Python<'_>, worker: &'static Worker) -> PyResult<()> {
    let module = python_module(py)?;
    module.setattr(intern!(py, "complete"), wrap_pyfunction!(exchange::complete, module)?)?;
    let request_exit = PyCFunction::new_closure(py, None, None, |arguments, _| -> PyResult<()> {
        worker.on_signal_exception(arguments.py(), PyErr::from_value(arguments.get_item(0)?));
        Ok(())
    })?;
    module.setattr(intern!(py, "request_exit"), request_exit)
}

/// Creates the `Server` of `asgi.py`.
fn create_server<'py>(py: Python<'py>, worker: &Worker, callable: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
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
    python_module(py)?.call_method1(intern!(py, "Server"), (load_py(py)?, callable, lifespan, event_loop))
}

/// Runs lifespan's startup. The exception of a signal handler ends it, and the worker stops.
fn start_up(py: Python<'_>, worker: &Worker, server: &Bound<'_, PyAny>) -> PyResult<Result<(), BootFailure>> {
    match server.call_method0(intern!(py, "startup")) {
        Ok(outcome) => BootFailure::from_outcome(&outcome),
        Err(error) if error.is_instance_of::<PySystemExit>(py) => {
            worker.on_signal_exception(py, error);
            Ok(Ok(()))
        }
        Err(error) => Err(error),
    }
}

/// Reports a list of warnings to the daemon, which logs them.
fn report_warnings(worker: &Worker, warnings: &Bound<'_, PyAny>) -> PyResult<()> {
    for warning in warnings.extract::<Vec<String>>()? {
        worker.process.report(&Report::Warning(warning))?;
    }
    Ok(())
}

impl Application {
    fn new(py: Python<'_>, worker: &'static Worker, server: &Bound<'_, PyAny>) -> PyResult<&'static Self> {
        let start = &worker.start;
        let module = python_module(py)?;
        let attribute = |name: &str| server.getattr(name);
        let asgi = attribute("asgi")?.cast_into::<PyDict>()?;
        let state = attribute("state")?.cast_into::<PyDict>()?;
        let event_loop = attribute("loop")?;
        if server.call_method0(intern!(py, "has_asyncio_flags"))?.is_truthy()? {
            loop_flags::install(&event_loop)?;
        }
        let (task_constructor, task_keywords, is_eager, accepts_context) =
            server.call_method0(intern!(py, "task_constructor"))?.extract()?;
        Ok(Box::leak(Box::new(Self {
            worker,
            app: attribute("application")?.unbind(),
            call: module.getattr(intern!(py, "call"))?.unbind(),
            call_websocket: module.getattr(intern!(py, "call_websocket"))?.unbind(),
            contexts: RequestContexts::new(py, start.log_token.is_some(), accepts_context)?,
            event_loop: EventLoop::new(
                &event_loop,
                attribute("stopped")?.unbind(),
                (task_constructor, task_keywords, is_eager),
            )?,
            scope_builder: ScopeBuilder::new(py, start, &asgi, state)?,
            scope_cache: GilCell::default(),
            events: HttpEventTemplates::new(py)?,
            websocket_constants: websocket::WebSocketConstants::new(py)?,
            outbox: Outbox::default(),
            message_types: HttpMessageTypes::new(py),
            last_head: GilCell::default(),
            completed_send: completed_send::create(py)?,
            exchanges: GilCell::new(Exchanges {
                running: std::collections::HashMap::default(),
                // Reversed, so that the lowest slot is used first.
                free_slots: (0..start.geometry.slots).rev().collect(),
                blocked: std::collections::VecDeque::new(),
                n_unchecked: 0,
                heads: DeferredHeads::default(),
                pool: Vec::new(),
            }),
            completion_buffer: GilCell::default(),
            claim_buffer: GilCell::default(),
            has_blocked: AtomicBool::new(false),
        })))
    }

    /// Reports Ready and serves until the daemon stops the worker.
    fn serve(&'static self, py: Python<'_>, server: &Bound<'_, PyAny>) -> PyResult<()> {
        self.worker.mark_thread(0);
        self.start_ticking(py)?;
        dispositions::set_ready();
        self.worker.process.report(&Report::Ready { interface: Interface::Asgi })?;
        self.run_loop(py, server);
        if let Err(error) = self.stop_ticking(py) {
            self.worker.on_signal_exception(py, error);
        }
        Ok(())
    }

    /// Runs the loop until all exchanges have ended. The exception of a signal handler interrupts
    /// the loop, which is then run again to finish the running exchanges.
    fn run_loop(&self, py: Python<'_>, server: &Bound<'_, PyAny>) {
        while let Err(error) = server.call_method0(intern!(py, "run")) {
            if error.is_instance_of::<PySystemExit>(py) {
                self.worker.on_signal_exception(py, error);
            } else {
                error.write_unraisable(py, Some(self.event_loop.object().bind(py)));
            }
            // The exception may have ended a task without completing its exchange.
            self.reap_done(py).unwrap_or_else(|error| self.worker.abort_on_protocol_error(&error));
            // The scheduled tick may have been lost.
            self.worker.wake_loop();
        }
    }
}
