//! The faults of applications that call `start_response()` and `write()` in the wrong order, or
//! whose body does not have the announced length (PEP 3333).

use std::sync::atomic::AtomicBool;

use pyo3::exceptions::{PyAssertionError, PyBrokenPipeError, PyRuntimeError};
use pyo3::{PyErr, Python};

use crate::fault::Fault;
use crate::python::{FormattedError, warn_once};

/// Returns the fault for a body that is sent before `start_response()` was called.
pub(super) fn start_response_missing() -> Fault {
    Fault::App(FormattedError::from_message(
        "the application returned a body without calling start_response() (PEP 3333)",
    ))
}

/// Returns the exception of a second `start_response()`.
pub(super) fn called_again() -> PyErr {
    PyAssertionError::new_err("start_response() was called again without exc_info (PEP 3333)")
}

/// Returns the exception for `start_response()` and `write()` after the end of the response.
pub(super) fn response_complete() -> PyErr {
    PyRuntimeError::new_err(
        "the response is complete: start_response() and write() must not be called any more",
    )
}

/// Returns the exception for `write()` after the client has disconnected.
pub(super) fn client_disconnected() -> PyErr {
    PyBrokenPipeError::new_err("the client has disconnected")
}

/// Returns the fault of a body that ends before its Content-Length.
pub(super) fn body_too_short(length: u64, sent: u64) -> Fault {
    Fault::App(FormattedError::from_message(format!(
        "the application promised {length} bytes of body and sent {sent}"
    )))
}

/// Warns once about a body that is longer than its Content-Length.
pub(super) fn warn_body_too_long(py: Python<'_>, length: u64) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let text = format!(
        "the application sent more body than its Content-Length of {length}; the rest is dropped (logged once)"
    );
    warn_once(py, &WARNED, &text);
}
