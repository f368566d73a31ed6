//! The faults of applications that call `start_response()` and `write()` in the wrong order (PEP 3333).

use pyo3::PyErr;
use pyo3::exceptions::{PyBrokenPipeError, PyRuntimeError};

use crate::fault::Fault;
use crate::python::FormattedError;

/// Returns the fault for a body that is sent before `start_response()` was called.
pub(super) fn start_response_missing() -> Fault {
    Fault::App(FormattedError::from_message(
        "the application gave a body without calling start_response() (PEP 3333)",
    ))
}

/// Returns the exception for `start_response()` and `write()` after the end of the response.
pub(super) fn response_complete() -> PyErr {
    PyRuntimeError::new_err("the response is complete; start_response() and write() belong to one request")
}

/// Returns the exception for `write()` after the client has disconnected.
pub(super) fn client_gone() -> PyErr {
    PyBrokenPipeError::new_err("the client has gone")
}
