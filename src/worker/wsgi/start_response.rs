//! The `start_response` callable, and the `write` callable it returns.
//!
//! PEP 3333, "The start_response() Callable". Both are functions bound to one object, which holds
//! the [`Response`]. The slot's next exchange reuses the object unless the application has kept a
//! reference.

use std::ffi::CStr;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTraceback, PyTuple};

use super::misuse::client_disconnected;
use super::response::{Response, ResponseStage};
use crate::fastcall::{Arguments, FastFunction, bind};
use crate::fault::Fault;
use crate::gil_cell::GilCell;
use crate::python::{FormattedError, reference_count, type_name};

/// The object that `start_response` and `write` are bound to.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(crate) struct StartResponse {
    pub(crate) response: GilCell<Response>,
    /// `write`, created once for reuse. It refers to this object, which is a reference cycle.
    write: GilCell<Option<Py<PyAny>>>,
}

/// The `start_response` function of an exchange, and the object that it is bound to.
#[derive(Debug)]
pub(crate) struct ResponseFunctions {
    pub(crate) object: Py<StartResponse>,
    pub(crate) start_response: Py<PyAny>,
}

impl ResponseFunctions {
    pub(crate) fn new(py: Python<'_>, response: Response) -> PyResult<Self> {
        let response = GilCell::new(response);
        let object = Bound::new(py, StartResponse { response, write: GilCell::default() })?;
        object.get().write.put(py, Some(bind::<WriteFunction>(&object)?));
        Ok(Self { start_response: bind::<StartFunction>(&object)?, object: object.unbind() })
    }

    /// Returns itself for the next exchange; `None` if the application has kept a reference.
    pub(crate) fn try_reuse(self, py: Python<'_>) -> Option<Self> {
        let count = |function: &Py<PyAny>| reference_count(function, py);
        let has_write = self.object.get().write.borrow(py).as_ref().is_some_and(|write| count(write) == 1);
        // One reference here, one from each function, and one from `early_hints`.
        if has_write && count(&self.start_response) == 1 && reference_count(&self.object, py) == 4 {
            return Some(self);
        }
        // Breaks the reference cycle.
        self.object.get().write.take(py);
        None
    }
}

/// The `start_response` function passed to the application.
struct StartFunction;

impl FastFunction for StartFunction {
    type Object = StartResponse;
    const NAME: &'static CStr = c"start_response";

    fn call<'py>(
        object: &Bound<'py, StartResponse>,
        arguments: Arguments<'_, 'py>,
    ) -> Option<PyResult<Bound<'py, PyAny>>> {
        let [Some(status), Some(headers), exc_info] = arguments else { return None };
        let exc_info = exc_info.filter(|exc_info| !exc_info.is_none());
        Some(StartResponse::start_response(object, &status, &headers, exc_info.as_deref()))
    }
}

/// The `write` function that `start_response` returns.
struct WriteFunction;

impl FastFunction for WriteFunction {
    type Object = StartResponse;
    const NAME: &'static CStr = c"write";

    fn call<'py>(
        object: &Bound<'py, StartResponse>,
        arguments: Arguments<'_, 'py>,
    ) -> Option<PyResult<Bound<'py, PyAny>>> {
        let [Some(data), None, None] = arguments else { return None };
        let py = object.py();
        Some(object.get().write(py, &data).map(|()| py.None().into_bound(py)))
    }
}

#[pymethods]
impl StartResponse {
    /// Stores status and headers, which are sent with the first body bytes, or at the end.
    #[pyo3(signature = (status, headers, exc_info=None))]
    fn start_response<'py>(
        slf: &Bound<'py, Self>,
        status: &Bound<'py, PyAny>,
        headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(exc_info) = exc_info
            && slf.get().response.borrow(py).is_sent()
        {
            return Err(reraise(exc_info)?);
        }
        let status = status.cast::<PyString>().map_err(|_| {
            PyTypeError::new_err(format!("status is {}, not str (PEP 3333)", type_name(status)))
        })?;
        slf.get().response.try_borrow_mut(py)?.prepare(py, status, headers, exc_info.is_some())?;
        if let Some(write) = &*slf.get().write.borrow(py) {
            return Ok(write.bind(py).clone());
        }
        bind::<WriteFunction>(slf).map(|write| write.into_bound(py))
    }

    /// Sends body bytes at once, the head before them.
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = data.cast::<PyBytes>().map_err(|_| {
            PyTypeError::new_err(format!("write() takes bytes, not {} (PEP 3333)", type_name(data)))
        })?;
        let mut response = self.response.try_borrow_mut(py)?;
        match response.send_chunk(py, data.as_bytes()) {
            // After a disconnect the worker stops reading an iterable; only an exception ends a
            // loop around write().
            Ok(ResponseStage::Cancelled) => Err(client_disconnected()),
            Ok(_) => Ok(()),
            Err(Fault::Python(error)) => Err(error),
            Err(Fault::App(FormattedError { summary, .. })) => Err(PyTypeError::new_err(summary)),
            Err(Fault::Channel(error)) => response.worker().abort_on_protocol_error(&error),
        }
    }
}

/// Returns the exception of `exc_info` with its traceback, to be raised: the head is sent, so the
/// application's error page cannot be sent any more.
fn reraise(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let exc_info = exc_info
        .cast::<PyTuple>()
        .map_err(|_| PyTypeError::new_err(format!("exc_info is {}, not a tuple", type_name(exc_info))))?;
    let error = PyErr::from_value(exc_info.get_item(1)?);
    if let Ok(traceback) = exc_info.get_item(2)?.cast_into::<PyTraceback>() {
        error.set_traceback(exc_info.py(), Some(traceback));
    }
    Ok(error)
}
