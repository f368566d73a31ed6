//! WSGI, PEP 3333: one exchange from its frame to DONE.
//!
//! [`environ`] builds the dictionary, [`input`] reads the body, [`start_response`] takes the head
//! and `write()` data, [`head`] checks and encodes the head, [`response`] sends it,
//! [`file_wrapper`] passes files as descriptors, [`takeover`] offers the client's connection,
//! [`early_hints`] sends a 103. This module calls the application and iterates over its result.

mod application;
mod early_hints;
pub(crate) mod environ;
pub(crate) mod file_wrapper;
pub(crate) mod head;
pub(crate) mod input;
mod last_environ;
mod misuse;
pub(crate) mod response;
pub(crate) mod start_response;
mod takeover;
mod tls_environ;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use rgun_channel::ProtocolError;
use rgun_channel::control::Start;
use rgun_channel::frame::{ExchangeId, Request};

use crate::bodies::SpooledBodies;
use crate::fastcall;
use crate::fault::Fault;
use crate::python::{FormattedError, exit_forked_child, is_forked_child, type_name};
use crate::submission::{ClaimBuffer, decode_request};
use crate::wait::monotonic_ns;
use environ::{EnvironBuilder, EnvironCache};
use file_wrapper::FileWrapper;
use input::Input;
use response::{ExchangeTiming, Response, ResponseStage};
use start_response::{ResponseFunctions, StartResponse};
use takeover::TakeoverSocket;

pub(crate) use application::WsgiApplication;

/// Returns `wsgi.early_hints`.
pub(crate) fn early_hints_function(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    wrap_pyfunction!(early_hints::early_hints, py).map(Bound::into_any)
}

/// Builds the environ of a zygote's warm-up request: GET `target` (path and query) from this host.
///
/// # Errors
/// A Python error.
pub(crate) fn warm_up_environ<'py>(
    py: Python<'py>,
    start: &Start,
    target: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request::new(ExchangeId(1));
    (request.path, request.query) = (path.as_bytes(), query.as_bytes());
    (request.peer, request.request_id) = (b"127.0.0.1", b"warm-up");
    let host = start.listeners.first().map_or("localhost", |listener| &listener.name);
    let mut frame = Vec::new();
    request
        .encode([(&b"host"[..], host.as_bytes())].into_iter(), &mut frame)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    let request = Request::decode(&frame).map_err(|error| PyValueError::new_err(error.to_string()))?;
    EnvironBuilder::new(py, start, &early_hints_function(py)?)?.build(
        py,
        &SpooledBodies::default(),
        &mut EnvironCache::default(),
        &request,
    )
}

/// Runs the exchanges of one slot, one after the other, and keeps the objects that they reuse.
#[derive(Debug)]
pub(crate) struct SlotRunner {
    application: &'static WsgiApplication,
    slot: u32,
    /// The previous exchange's `start_response`, with its buffers; `None` before the first
    /// exchange, and if the application kept a reference.
    reusable: Option<ResponseFunctions>,
    cache: EnvironCache,
}

impl SlotRunner {
    /// Creates the runner of a slot.
    pub(crate) fn new(application: &'static WsgiApplication, slot: u32) -> Self {
        Self { application, slot, reusable: None, cache: EnvironCache::default() }
    }

    /// Runs one exchange. `started` is the start time (`CLOCK_MONOTONIC`, nanoseconds); with `None`
    /// the clock is read.
    ///
    /// # Errors
    /// If the daemon violates the protocol. A failure of the application is answered and is not
    /// an error.
    pub(crate) fn serve(
        &mut self,
        py: Python<'_>,
        claimed: &mut ClaimBuffer,
        started: Option<u64>,
    ) -> Result<ExchangeTiming, ProtocolError> {
        let worker = self.application.worker;
        let (frame, body) = claimed.take();
        let request = decode_request(py, frame, body.as_ref())?;
        let started = started.unwrap_or_else(monotonic_ns);
        worker.mark_running(self.slot, request.exchange, started);
        let builder = &self.application.environ_builder;
        let environ = builder.build(py, &worker.bodies, &mut self.cache, &request).and_then(|environ| {
            if let Some(body) = body {
                environ.set_item(intern!(py, "wsgi.input"), Input::memory(py, body).into_pyobject(py)?)?;
            }
            Ok(environ)
        });
        worker.set_request_id(py, self.slot, self.cache.request_id.take());
        let outcome = environ.and_then(|environ| {
            let socket = request
                .is_takeover()
                .then(|| TakeoverSocket::offer(py, &worker.bodies, request.exchange, &environ))
                .transpose()?;
            Ok((environ, socket, self.open_functions(py, &request, started)?))
        });
        match outcome {
            Ok((environ, socket, functions)) => {
                let ran = run_application(py, self.application, environ.into_any(), &functions);
                if let Some(socket) = socket {
                    socket.end(py);
                }
                ran?;
                let finished = functions.object.get().response.borrow(py).timing();
                // If the application kept a reference, the next exchange gets new functions.
                self.reusable = functions.try_reuse(py);
                Ok(finished)
            }
            Err(error) => {
                // Most likely memory is exhausted. The socket of a takeover may not have been
                // taken.
                worker.bodies.discard(request.exchange);
                let mut response = Response::new(self.application, self.slot);
                response.begin(&request, started);
                response.send_error(py, &FormattedError::from_exception(py, &error), true)?;
                Ok(response.timing())
            }
        }
    }

    fn open_functions(
        &mut self,
        py: Python<'_>,
        request: &Request<'_>,
        started: u64,
    ) -> PyResult<ResponseFunctions> {
        let functions = if let Some(spare) = self.reusable.take() {
            spare
        } else {
            let new = ResponseFunctions::new(py, Response::new(self.application, self.slot))?;
            early_hints::set_current(py, &new.object);
            new
        };
        functions.object.get().response.borrow_mut(py).begin(request, started);
        Ok(functions)
    }
}

/// Calls the application and sends its whole response.
fn run_application(
    py: Python<'_>,
    application: &WsgiApplication,
    environ: Bound<'_, PyAny>,
    functions: &ResponseFunctions,
) -> Result<(), ProtocolError> {
    let start_response = functions.object.bind(py);
    let called = fastcall::call(application.callable.bind(py), [&environ, functions.start_response.bind(py)]);
    drop(environ);
    let result = match called {
        Ok(result) => result,
        Err(error) => return report_fault(py, start_response, &error.into(), true),
    };
    // Lists and tuples (not their subclasses) have no close(), and the body is complete.
    let whole = if let Ok(list) = result.cast_exact::<PyList>() {
        Some(send_sequence(py, list.iter(), list.len(), start_response))
    } else if let Ok(tuple) = result.cast_exact::<PyTuple>() {
        Some(send_sequence(py, tuple.iter(), tuple.len(), start_response))
    } else {
        None
    };
    match whole {
        Some(Ok(())) => return Ok(()),
        Some(Err(fault)) => return report_fault(py, start_response, &fault, true),
        None => {}
    }

    let close = match result.getattr_opt(intern!(py, "close")) {
        Ok(close) => close,
        Err(error) => return report_fault(py, start_response, &error.into(), true),
    };
    let sent = send_iterable(py, &result, start_response, close.is_none());
    let Some(close) = close else {
        return sent.or_else(|fault| report_fault(py, start_response, &fault, true));
    };
    // PEP 3333, "Specification Details": close() is called whether the request completed or not.
    match (sent, close.call0()) {
        (Ok(()), Ok(_)) => start_response.get().response.borrow_mut(py).send_done(py),
        (Ok(()), Err(error)) => report_fault(py, start_response, &error.into(), true),
        (Err(fault), Ok(_)) => report_fault(py, start_response, &fault, true),
        (Err(fault), Err(error)) => {
            report_fault(py, start_response, &fault, false)?;
            report_fault(py, start_response, &error.into(), true)
        }
    }
}

/// Sends the items of a list or tuple and ends the exchange. The length of the body is known; a
/// small body takes one frame.
fn send_sequence<'py>(
    py: Python<'py>,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    len: usize,
    start_response: &Bound<'py, StartResponse>,
) -> Result<(), Fault> {
    let mut first = None;
    let mut rest = Vec::new();
    for item in items {
        let item = expect_bytes(item)?;
        if first.is_none() {
            first = Some(item);
        } else {
            if rest.is_empty() {
                rest.reserve(len);
            }
            rest.push(item);
        }
    }
    let mut response = start_response.get().response.borrow_mut(py);
    match (first, rest.is_empty()) {
        (None, _) => response.send_whole(py, &[]),
        (Some(item), true) => response.send_whole(py, &[item.as_bytes()]),
        (Some(item), false) => {
            let mut parts = Vec::with_capacity(1 + rest.len());
            parts.push(item.as_bytes());
            parts.extend(rest.iter().map(PyBytesMethods::as_bytes));
            response.send_whole(py, &parts)
        }
    }
}

/// Sends any other iterable, each item at once. With `done`, ends the exchange after the body.
fn send_iterable<'py>(
    py: Python<'py>,
    result: &Bound<'py, PyAny>,
    start_response: &Bound<'py, StartResponse>,
    done: bool,
) -> Result<(), Fault> {
    if start_response.get().response.borrow(py).can_send_file()
        && let Ok(wrapper) = result.cast_exact::<FileWrapper>()
        && let Some(file) = file_wrapper::file_body(py, wrapper)?
    {
        return start_response.get().response.borrow_mut(py).send_file(py, &file);
    }
    for item in result.try_iter().map_err(|error| explain_result(py, result, error))? {
        let item = expect_bytes(item?)?;
        // The response is not borrowed while the application runs: it may call start_response in
        // next().
        if start_response.get().response.borrow_mut(py).send_chunk(py, item.as_bytes())?
            == ResponseStage::Cancelled
        {
            break;
        }
    }
    start_response.get().response.borrow_mut(py).send_end(py, done)
}

fn expect_bytes(item: Bound<'_, PyAny>) -> Result<Bound<'_, PyBytes>, Fault> {
    match item.cast_into::<PyBytes>() {
        Ok(bytes) => Ok(bytes),
        Err(error) => {
            let item = error.into_inner();
            Err(Fault::App(FormattedError::from_message(format!(
                "TypeError: the application's iterable yielded {}, not bytes (PEP 3333)",
                type_name(&item)
            ))))
        }
    }
}

/// Replaces `TypeError: 'NoneType' object is not iterable` with a message that names the
/// application.
fn explain_result(py: Python<'_>, result: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyTypeError>(py) {
        return error;
    }
    PyTypeError::new_err(format!(
        "the application returned {}, not an iterable of bytes (PEP 3333)",
        type_name(result)
    ))
}

/// Reports a fault to the daemon, which answers 500 if the head is not sent, resets the connection
/// if the body is not complete, and otherwise logs the fault. With `done`, ends the exchange.
fn report_fault(
    py: Python<'_>,
    start_response: &Bound<'_, StartResponse>,
    fault: &Fault,
    done: bool,
) -> Result<(), ProtocolError> {
    let formatted = match fault {
        Fault::Channel(error) => return Err(error.clone()),
        Fault::Python(error) if is_forked_child() => exit_forked_child(py, Some(error)),
        Fault::Python(error) => {
            if takeover::ends_takeover(py, error) {
                start_response.get().response.borrow_mut(py).mark_takeover_end();
            }
            FormattedError::from_exception(py, error)
        }
        Fault::App(error) => {
            return start_response.get().response.borrow_mut(py).send_error(py, error, done);
        }
    };
    start_response.get().response.borrow_mut(py).send_error(py, &formatted, done)
}
