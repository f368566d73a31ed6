//! The `start_response` callable, and the `write` callable it returns.
//!
//! PEP 3333, "The start_response() Callable". One object per exchange; the `write` callable is a bound
//! method of it. All state is in [`Response`].

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTraceback, PyTuple};

use super::response::{Fault, Response, Stage, gone};
use crate::attached::Attached;
use crate::python::Described;

/// What the application is called with as its second argument.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(crate) struct StartResponse {
    pub(crate) response: Attached<Response>,
}

#[pymethods]
impl StartResponse {
    /// Takes status and headers; nothing is sent before the first body bytes, or the end.
    #[pyo3(signature = (status, headers, exc_info=None))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        status: &Bound<'py, PyAny>,
        headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(exc_info) = exc_info
            && slf.get().response.borrow(py).is_sent()
        {
            return Err(raise_again(exc_info)?);
        }
        let status = status.cast::<PyString>().map_err(|_| {
            PyTypeError::new_err(format!("status is {}, not str (PEP 3333)", type_name(status)))
        })?;
        slf.get().response.try_borrow_mut(py)?.prepare(py, status, headers, exc_info.is_some())?;
        slf.getattr(intern!(py, "write"))
    }

    /// Sends body bytes at once, the head before them. For applications that have no iterable to give.
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = data.cast::<PyBytes>().map_err(|_| {
            PyTypeError::new_err(format!("write() takes bytes, not {} (PEP 3333)", type_name(data)))
        })?;
        let mut response = self.response.try_borrow_mut(py)?;
        match response.chunk(py, data.as_bytes()) {
            // An iterable is simply not read any further; a loop around write() has to be told.
            Ok(Stage::Abandoned) => Err(gone()),
            Ok(_) => Ok(()),
            Err(Fault::Python(error)) => Err(error),
            Err(Fault::App(Described { summary, .. })) => Err(PyTypeError::new_err(summary)),
            Err(Fault::Channel(broken)) => response.worker().broken(&broken),
        }
    }
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string())
}

/// The exception of `exc_info`, with its traceback, to be raised: the head has been sent, so the error
/// page of the application cannot be.
fn raise_again(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let exc_info = exc_info
        .cast::<PyTuple>()
        .map_err(|_| PyTypeError::new_err(format!("exc_info is {}, not a tuple", type_name(exc_info))))?;
    let error = PyErr::from_value(exc_info.get_item(1)?);
    if let Ok(traceback) = exc_info.get_item(2)?.cast_into::<PyTraceback>() {
        error.set_traceback(exc_info.py(), Some(traceback));
    }
    Ok(error)
}
