//! The application's `send()`: checks the order of HTTP messages and reads them.
//!
//! ASGI HTTP specification, "Response Start" and "Response Body"; extensions "Path Send", "Zero
//! Copy Send", "Early Hints", "Trailers". WebSocket messages are in [`super::websocket`]. A
//! violation raises the same exception as in uvicorn.

use std::ffi::CStr;
use std::path::PathBuf;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::awaitable::{FutureWait, coroutine_methods};
use super::exchange::complete;
use super::head::to_bytes;
use super::message::{
    borrow_unchanged, finish_message, flag, is_truthy, is_type, items, missing_key, required, start_response,
    type_text,
};
use super::receive::ReceiveAwaitable;
use super::state::{Application, Exchange, Stage};
use super::zerocopysend::{self, FileRange, send_block};
use super::{head, websocket};
use crate::fastcall::{Arguments, FastFunction};
use crate::fault::Fault;
use crate::python::exit_if_forked_child;

/// The `send` function passed to the application.
pub(super) struct Send;

impl FastFunction for Send {
    type Object = Exchange;
    const NAME: &'static CStr = c"send";

    fn call<'py>(
        exchange: &Bound<'py, Exchange>,
        arguments: Arguments<'_, 'py>,
    ) -> Option<PyResult<Bound<'py, PyAny>>> {
        let [Some(message), None, None] = arguments else { return None };
        Some(Exchange::send(exchange, &message))
    }
}

#[pymethods]
impl Exchange {
    /// Returns an awaitable for the next event.
    fn receive(slf: &Bound<'_, Self>) -> ReceiveAwaitable {
        ReceiveAwaitable::new(slf)
    }

    /// Sends a message, at once if there is space.
    fn send<'py>(slf: &Bound<'py, Self>, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        exit_if_forked_child(py, None);
        let (application, is_disconnected, is_websocket, can_send) = {
            let exchange = slf.get().try_borrow(py)?;
            let is_websocket = exchange.websocket.is_some();
            (exchange.application, exchange.is_disconnected, is_websocket, exchange.can_send())
        };
        if is_disconnected && !is_websocket {
            return Ok(application.completed_send.bind(py).clone().into_any());
        }
        let (message, range) = if can_send || is_disconnected {
            let range = process(slf, message, is_websocket)?;
            if range.is_none() && slf.get().borrow(py).response.pending.is_none() {
                return Ok(application.completed_send.bind(py).clone().into_any());
            }
            (None, range)
        } else {
            (Some(message.clone().unbind()), None)
        };
        if range.is_none() {
            Application::mark_blocked(slf);
        }
        let sending =
            SendAwaitable { exchange: slf.clone().unbind(), message, range, wait: FutureWait::default() };
        Ok(Bound::new(py, sending)?.into_any())
    }

    /// Completes the exchange when the application has returned None. Called by `asgi.py`. Has no
    /// arguments, so that Python makes no tuple for them.
    fn _complete(slf: &Bound<'_, Self>) {
        let py = slf.py();
        complete(slf, py.None().bind(py), None);
    }

    #[new]
    fn py_new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("only rgun creates instances of this class"))
    }
}

/// One `send()` call that waits: for space before its message is processed, or for its payload to
/// be sent.
#[pyclass(module = "rgun")]
#[derive(Debug)]
struct SendAwaitable {
    exchange: Py<Exchange>,
    /// The message; `None` once it is processed.
    message: Option<Py<PyAny>>,
    /// The rest of a file that is sent in blocks.
    range: Option<Box<FileRange>>,
    wait: FutureWait,
}

coroutine_methods!(SendAwaitable);

impl SendAwaitable {
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            if let Some(future) = self.wait.poll(py)? {
                return Ok(Some(future));
            }
            let exchange = self.exchange.bind(py);
            let (is_disconnected, is_websocket, can_send) = {
                let exchange = exchange.get().borrow(py);
                (exchange.is_disconnected, exchange.websocket.is_some(), exchange.can_send())
            };
            if is_disconnected {
                if is_websocket {
                    websocket::process_after_disconnect(exchange, self.message.take())?;
                }
                return Ok(None);
            }
            if can_send && let Some(message) = self.message.take() {
                self.range = process(exchange, message.bind(py), is_websocket)?;
            } else if can_send
                && let Some(range) = &mut self.range
                && send_block(exchange, range)?
            {
                self.range = None;
            }
            let is_sent = exchange.get().borrow(py).response.pending.is_none();
            if is_sent && self.message.is_none() && self.range.is_none() {
                return Ok(None);
            }
            if is_sent && can_send {
                // There may be space for the next block.
                continue;
            }
            let future = exchange.get().borrow(py).application.event_loop.create_future(py)?;
            exchange.get().borrow_mut(py).senders.push(future.clone().unbind());
            Application::mark_blocked(exchange);
            if let Some(future) = self.wait.start(&future)? {
                return Ok(Some(future));
            }
        }
    }

    fn cancel(&mut self, py: Python<'_>) {
        if let Some(future) = self.wait.cancel() {
            Exchange::forget_future(self.exchange.bind(py), &future, |exchange| &mut exchange.senders);
        }
    }
}

/// Processes a message. Returns the part of a file that must be sent in blocks.
fn process(
    slf: &Bound<'_, Exchange>,
    message: &Bound<'_, PyAny>,
    is_websocket: bool,
) -> PyResult<Option<Box<FileRange>>> {
    if is_websocket {
        return websocket::process(slf, message).map(|()| None);
    }
    let py = slf.py();
    let (application, stage) = {
        let exchange = slf.get().try_borrow(py)?;
        (exchange.application, exchange.stage)
    };
    let types = &application.message_types;
    // All keys of the two most frequent messages, looked up at once.
    let [kind, status, headers, trailers, body, more_body] = items(
        message,
        [
            intern!(py, "type"),
            intern!(py, "status"),
            intern!(py, "headers"),
            intern!(py, "trailers"),
            intern!(py, "body"),
            intern!(py, "more_body"),
        ],
    )?;
    let kind = kind.ok_or_else(|| missing_key(intern!(py, "type")))?;
    let has_type = |expected: &Py<PyString>| is_type(&kind, expected);
    let outcome = match stage {
        Stage::Unstarted if types.start.matches(&kind)? => {
            let status = status.ok_or_else(|| missing_key(intern!(py, "status")))?;
            return start_response(slf, &status, headers.as_ref(), is_truthy(trailers.as_ref())?)
                .map(|()| None);
        }
        Stage::Unstarted if has_type(&types.hint)? => {
            let (n_links, links) = head::encode_links(&required(message, intern!(py, "links"))?)?;
            borrow_unchanged(slf, stage)?.send_early_hints(py, n_links, &links)
        }
        Stage::Unstarted => return Err(unexpected_message("http.response.start", &kind)),
        Stage::Prepared | Stage::Streaming if types.body.matches(&kind)? => {
            let part = body.map(|part| to_bytes(part, "the body of http.response.body")).transpose()?;
            let more = is_truthy(more_body.as_ref())?;
            borrow_unchanged(slf, stage)?.send_body(py, part.as_ref(), more)
        }
        Stage::Prepared if has_type(&types.file)? => {
            let path = required(message, intern!(py, "path"))?.extract::<PathBuf>()?;
            borrow_unchanged(slf, stage)?.send_file(py, &path)
        }
        Stage::Prepared | Stage::Streaming if has_type(&types.zero_copy)? => {
            return zerocopysend::process(slf, message, stage);
        }
        Stage::Prepared | Stage::Streaming => return Err(unexpected_message("http.response.body", &kind)),
        Stage::Trailing if has_type(&types.trailers)? => process_trailers(slf, message, headers.as_ref())?,
        Stage::Trailing => return Err(unexpected_message("http.response.trailers", &kind)),
        Stage::Open | Stage::Ended | Stage::Done => return Err(late_message(&kind)?),
    };
    finish_message(slf, outcome).map(|()| None)
}

/// Processes `http.response.trailers`.
fn process_trailers(
    slf: &Bound<'_, Exchange>,
    message: &Bound<'_, PyAny>,
    headers: Option<&Bound<'_, PyAny>>,
) -> PyResult<Result<(), Fault>> {
    let py = slf.py();
    let more = flag(message, intern!(py, "more_trailers"))?;
    let status = slf.get().try_borrow(py)?.response.head.status;
    let (n_fields, fields) = head::encode_trailers(status, headers)?;
    Ok(borrow_unchanged(slf, Stage::Trailing)?.add_trailers(py, n_fields, &fields, more))
}

/// The exception for a message after the end of the response.
fn late_message(kind: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let kind = kind.str()?;
    let text = format!("Unexpected ASGI message '{kind}' sent, after response already completed.");
    Ok(PyRuntimeError::new_err(text))
}

/// The exception for a message that is not allowed now.
fn unexpected_message(expected: &str, kind: &Bound<'_, PyAny>) -> PyErr {
    let kind = type_text(kind);
    PyRuntimeError::new_err(format!("Expected ASGI message '{expected}', but got '{kind}'."))
}
