//! Reads the messages of `send()`, and performs the steps common to HTTP and WebSockets. Used by
//! [`super::send`] and [`super::websocket`].

use std::cell::RefMut;

use pyo3::exceptions::{PyKeyError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::awaitable;
use super::head;
use super::state::{Exchange, ExchangeState, Stage};
use crate::fault::Fault;
use crate::python::{type_name, values_of};

/// Processes the start of a response, which may be a response that denies a WebSocket. The head is
/// sent later ([`super::deferred_heads`]).
pub(super) fn start_response(
    slf: &Bound<'_, Exchange>,
    status: &Bound<'_, PyAny>,
    headers: Option<&Bound<'_, PyAny>>,
    trailers: bool,
) -> PyResult<()> {
    let (application, message, fields) = {
        let mut exchange = slf.get().try_borrow_mut(slf.py())?;
        let message = match exchange.websocket {
            Some(_) => "websocket.http.response.start",
            None => "http.response.start",
        };
        (exchange.application, message, std::mem::take(&mut exchange.response.encoded_fields))
    };
    let status = head::status_code(status, message)?;
    let head = head::encode_head(&application.last_head, status, headers, fields)?;
    borrow_unchanged(slf, Stage::Unstarted)?.prepare(slf.py(), head, trailers)?;
    application.schedule_flush(slf.py());
    Ok(())
}

/// Borrows the exchange after its message was read. Reading runs code of the application
/// (iterators, mappings, `__bool__`).
///
/// # Errors
/// If that code has sent a message itself.
pub(super) fn borrow_unchanged<'a>(
    slf: &'a Bound<'_, Exchange>,
    stage: Stage,
) -> PyResult<RefMut<'a, ExchangeState>> {
    let exchange = slf.get().try_borrow_mut(slf.py())?;
    if exchange.stage != stage || exchange.response.pending.is_some() {
        return Err(PyRuntimeError::new_err("send() was called while another ASGI message was being read"));
    }
    Ok(exchange)
}

/// Finishes the processing of a message: returns its exception, or wakes waiting `receive()` calls
/// if the response has ended, and schedules a tick.
pub(super) fn finish_message(slf: &Bound<'_, Exchange>, outcome: Result<(), Fault>) -> PyResult<()> {
    let py = slf.py();
    let application = slf.get().borrow(py).application;
    match outcome {
        Ok(()) => {}
        Err(Fault::Python(error)) => return Err(error),
        Err(Fault::App(error)) => return Err(PyRuntimeError::new_err(error.summary)),
        Err(Fault::Channel(error)) => application.worker.abort_on_protocol_error(&error),
    }
    let receivers = {
        let mut exchange = slf.get().borrow_mut(py);
        if exchange.stage >= Stage::Ended { std::mem::take(&mut exchange.receivers) } else { Vec::new() }
    };
    awaitable::wake_futures(py, application.worker, receivers);
    application.schedule_flush(py);
    Ok(())
}

/// Returns whether the type of a message is `expected`.
pub(super) fn is_type(kind: &Bound<'_, PyAny>, expected: &Py<PyString>) -> PyResult<bool> {
    Ok(kind.is(expected) || kind.eq(expected)?)
}

/// Formats the type of a message for an error text.
pub(super) fn type_text(kind: &Bound<'_, PyAny>) -> String {
    kind.str().map_or_else(|_| type_name(kind), |text| text.to_string())
}

/// Returns `message[key]`.
pub(super) fn required<'py>(
    message: &Bound<'py, PyAny>,
    key: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    item(message, key)?.ok_or_else(|| missing_key(key))
}

/// The exception for a missing key.
pub(super) fn missing_key(key: &Bound<'_, PyString>) -> PyErr {
    PyKeyError::new_err(key.clone().unbind())
}

/// Returns `message.get(key)`.
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

/// Returns `[message.get(key) for key in keys]`.
pub(super) fn items<'py, const N: usize>(
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

/// Returns `bool(message.get(key, False))`.
pub(super) fn flag<'py>(message: &Bound<'py, PyAny>, key: &Bound<'py, PyString>) -> PyResult<bool> {
    is_truthy(item(message, key)?.as_ref())
}

/// Returns the truth of a value; `None` is false.
pub(super) fn is_truthy(value: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    value.map_or(Ok(false), PyAnyMethods::is_truthy)
}
