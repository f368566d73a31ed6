//! The application's `send`: which message may come when, and what it says.
//!
//! ASGI HTTP specification, "Response Start" and "Response Body"; extensions "Path Send", "Early Hints", "Trailers".
//! The messages of WebSockets are in [`super::websocket`]. Whoever breaks it gets the exception that uvicorn raises.

use std::cell::RefMut;
use std::ffi::CStr;
use std::path::PathBuf;

use pyo3::exceptions::{PyKeyError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::awaitable::{Waiting, awaited};
use super::exchange::{ended, in_the_worker};
use super::head::{bytes, type_name};
use super::receive::Receiving;
use super::state::{Application, Exchange, Stage, State};
use super::{head, websocket};
use crate::builtin::{Arguments, Function};
use crate::fault::Fault;
use crate::head::Head;
use crate::python::values_of;

/// What the application is called with as its third argument.
pub(super) struct Send;

impl Function for Send {
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
    /// Receives an event when it is awaited.
    fn receive(slf: &Bound<'_, Self>) -> Receiving {
        Receiving::new(slf)
    }

    /// Sends a message, now if there is room.
    fn send<'py>(slf: &Bound<'py, Self>, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        in_the_worker(py, None);
        let (served, is_disconnected, is_websocket, can_send) = {
            let exchange = slf.get().try_borrow(py)?;
            let is_websocket = exchange.websocket.is_some();
            (exchange.served, exchange.is_disconnected, is_websocket, exchange.can_send())
        };
        if is_disconnected && !is_websocket {
            return Ok(served.sent.bind(py).clone().into_any());
        }
        let message = if can_send || is_disconnected {
            process(slf, message, is_websocket)?;
            if slf.get().borrow(py).pending.is_none() {
                return Ok(served.sent.bind(py).clone().into_any());
            }
            None
        } else {
            Some(message.clone().unbind())
        };
        Application::hold_up(slf);
        let sending = Sending { exchange: slf.clone().unbind(), message, waiting: Waiting::default() };
        Ok(Bound::new(py, sending)?.into_any())
    }

    /// What `asgi.py` calls when the application has returned None, as it should: without arguments, for which Python
    /// would make a tuple.
    fn _returned(slf: &Bound<'_, Self>) {
        let py = slf.py();
        ended(slf, py.None().bind(py), None);
    }

    #[new]
    fn py_new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("rgun makes these itself"))
    }
}

/// One `send()` that has to wait: for others to be sent, or for all of its own.
#[pyclass(module = "rgun")]
#[derive(Debug)]
struct Sending {
    exchange: Py<Exchange>,
    /// Not sent yet.
    message: Option<Py<PyAny>>,
    waiting: Waiting,
}

awaited!(Sending);

impl Sending {
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            if let Some(future) = self.waiting.go_on(py)? {
                return Ok(Some(future));
            }
            let exchange = self.exchange.bind(py);
            let (is_disconnected, is_websocket, can_send) = {
                let exchange = exchange.get().borrow(py);
                (exchange.is_disconnected, exchange.websocket.is_some(), exchange.can_send())
            };
            if is_disconnected {
                if is_websocket {
                    websocket::process_late(exchange, self.message.take())?;
                }
                return Ok(None);
            }
            if can_send && let Some(message) = self.message.take() {
                process(exchange, message.bind(py), is_websocket)?;
            }
            if self.message.is_none() && exchange.get().borrow(py).pending.is_none() {
                return Ok(None);
            }
            let future = exchange.get().borrow(py).served.event_loop.create_future(py)?;
            exchange.get().borrow_mut(py).senders.push(future.clone().unbind());
            Application::hold_up(exchange);
            if let Some(future) = self.waiting.begin(&future)? {
                return Ok(Some(future));
            }
        }
    }

    fn give_up(&mut self, py: Python<'_>) {
        if let Some(future) = self.waiting.give_up() {
            Exchange::forget_future(self.exchange.bind(py), &future, |exchange| &mut exchange.senders);
        }
    }
}

/// Does what a message says.
fn process(slf: &Bound<'_, Exchange>, message: &Bound<'_, PyAny>, is_websocket: bool) -> PyResult<()> {
    if is_websocket {
        return websocket::process(slf, message);
    }
    let py = slf.py();
    let (served, stage) = {
        let exchange = slf.get().try_borrow(py)?;
        (exchange.served, exchange.stage)
    };
    let names = &served.names;
    // All that is in the messages of which most responses are made.
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
    let kind = kind.ok_or_else(|| missing(intern!(py, "type")))?;
    let is = |name: &Py<PyString>| Ok::<_, PyErr>(kind.is(name) || kind.eq(name)?);
    let outcome = match stage {
        Stage::Unstarted if names.start.is(&kind)? => {
            let status = status.ok_or_else(|| missing(intern!(py, "status")))?;
            return prepare(slf, &status, headers.as_ref(), is_truthy(trailers.as_ref())?);
        }
        Stage::Unstarted if is(&names.hint)? => {
            let (n_links, links) = head::encode_links(&required(message, intern!(py, "links"))?)?;
            unchanged(slf, stage)?.hint(py, n_links, &links)
        }
        Stage::Unstarted => return Err(expected("http.response.start", &kind)),
        Stage::Prepared | Stage::Streaming if names.body.is(&kind)? => {
            let part = body.map(|part| bytes(part, "the body of http.response.body")).transpose()?;
            let more = is_truthy(more_body.as_ref())?;
            unchanged(slf, stage)?.body(py, part.as_ref(), more)
        }
        Stage::Prepared if is(&names.file)? => {
            let path = required(message, intern!(py, "path"))?.extract::<PathBuf>()?;
            unchanged(slf, stage)?.file(py, &path)
        }
        Stage::Prepared | Stage::Streaming => return Err(expected("http.response.body", &kind)),
        Stage::Trailing if is(&names.trailers)? => {
            let more = truth(message, intern!(py, "more_trailers"))?;
            let status = slf.get().try_borrow(py)?.head.status;
            let (Head { n_fields, .. }, fields) = head::encode(status, headers.as_ref(), Vec::new())?;
            unchanged(slf, stage)?.trailers(py, n_fields, &fields, more)
        }
        Stage::Trailing => return Err(expected("http.response.trailers", &kind)),
        Stage::Open | Stage::Ended | Stage::Done => {
            return Err(PyRuntimeError::new_err(format!(
                "Unexpected ASGI message '{}' sent, after response already completed.",
                kind.str()?
            )));
        }
    };
    processed(slf, outcome)
}

/// A response's start, or that of one which denies a WebSocket. It is sent with what follows at once, or by a turn.
pub(super) fn prepare(
    slf: &Bound<'_, Exchange>,
    status: &Bound<'_, PyAny>,
    headers: Option<&Bound<'_, PyAny>>,
    trailers: bool,
) -> PyResult<()> {
    let (message, fields) = {
        let mut exchange = slf.get().try_borrow_mut(slf.py())?;
        let message = match exchange.websocket {
            Some(_) => "websocket.http.response.start",
            None => "http.response.start",
        };
        (message, std::mem::take(&mut exchange.fields))
    };
    let head = head::encode(head::status_code(status, message)?, headers, fields)?;
    let served = {
        let mut exchange = unchanged(slf, Stage::Unstarted)?;
        exchange.prepare(slf.py(), head, trailers)?;
        exchange.served
    };
    served.owe(slf.py());
    Ok(())
}

/// The exchange, when its message has been read: that runs code of the application's (iterators, mappings, `__bool__`),
/// which may have sent something itself.
pub(super) fn unchanged<'a>(slf: &'a Bound<'_, Exchange>, stage: Stage) -> PyResult<RefMut<'a, State>> {
    let exchange = slf.get().try_borrow_mut(slf.py())?;
    if exchange.stage != stage || exchange.pending.is_some() {
        return Err(PyRuntimeError::new_err("an ASGI message has sent another one while it was read"));
    }
    Ok(exchange)
}

/// What follows a message that was sent.
pub(super) fn processed(slf: &Bound<'_, Exchange>, outcome: Result<(), Fault>) -> PyResult<()> {
    let py = slf.py();
    let served = slf.get().borrow(py).served;
    match outcome {
        Ok(()) => {}
        Err(Fault::Python(error)) => return Err(error),
        Err(Fault::App(described)) => return Err(PyRuntimeError::new_err(described.summary)),
        Err(Fault::Channel(broken)) => served.worker.broken(&broken),
    }
    let receivers = {
        let mut exchange = slf.get().borrow_mut(py);
        if exchange.stage >= Stage::Ended { std::mem::take(&mut exchange.receivers) } else { Vec::new() }
    };
    super::awaitable::wake(py, served.worker, receivers);
    served.owe(py);
    Ok(())
}

fn expected(expected: &str, kind: &Bound<'_, PyAny>) -> PyErr {
    let kind = shown(kind);
    PyRuntimeError::new_err(format!("Expected ASGI message '{expected}', but got '{kind}'."))
}

/// A message's type in a text.
pub(super) fn shown(kind: &Bound<'_, PyAny>) -> String {
    kind.str().map_or_else(|_| type_name(kind), |text| text.to_string())
}

/// `message[key]`
pub(super) fn required<'py>(
    message: &Bound<'py, PyAny>,
    key: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    item(message, key)?.ok_or_else(|| missing(key))
}

fn missing(key: &Bound<'_, PyString>) -> PyErr {
    PyKeyError::new_err(key.clone().unbind())
}

/// `message.get(key)`
pub(super) fn item<'py>(
    message: &Bound<'py, PyAny>,
    key: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Ok(message) = message.cast::<PyDict>() {
        return message.get_item(key);
    }
    match message.get_item(key) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyKeyError>(message.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `[message.get(key) for key in keys]`
fn items<'py, const N: usize>(
    message: &Bound<'py, PyAny>,
    keys: [&Bound<'py, PyString>; N],
) -> PyResult<[Option<Bound<'py, PyAny>>; N]> {
    if let Ok(message) = message.cast_exact::<PyDict>() {
        return values_of(message, keys);
    }
    let mut values = [const { None }; N];
    for (value, key) in values.iter_mut().zip(keys) {
        *value = item(message, key)?;
    }
    Ok(values)
}

/// `bool(message.get(key, False))`
pub(super) fn truth<'py>(message: &Bound<'py, PyAny>, key: &Bound<'py, PyString>) -> PyResult<bool> {
    is_truthy(item(message, key)?.as_ref())
}

fn is_truthy(value: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    value.map_or(Ok(false), PyAnyMethods::is_truthy)
}
