//! The request that the current task or thread serves.
//!
//! A request costs a few instructions: its id is a `str` of the environ or scope. A slot of a WSGI
//! worker keeps a reference to it for its thread. Under ASGI it is the value of a context variable,
//! which tasks and threads inherit that copy the context of the request's task
//! (`asyncio.create_task`, `asyncio.to_thread`, asgiref's `sync_to_async`, anyio).

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use crate::gil_cell::GilCell;
use crate::python::is_forked_child;
use crate::worker::Worker;

/// The context variable with the id of an ASGI request.
static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The worker of this process.
static WORKER: GilCell<Option<&'static Worker>> = GilCell::new(None);

/// Sets the worker of this process, whose slots know the requests of threads; `None` for a zygote.
pub(crate) fn set_worker(py: Python<'_>, worker: Option<&'static Worker>) {
    WORKER.put(py, worker);
}

/// The id of a request, as the value of the context variable.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug, Default)]
pub(crate) struct RequestCell(GilCell<Option<Py<PyString>>>);

impl RequestCell {
    /// Replaces the id.
    pub(crate) fn set(&self, py: Python<'_>, id: Option<Py<PyString>>) {
        self.0.replace(py, id);
    }
}

/// Returns the context variable of ASGI requests; its values are instances of [`RequestCell`].
///
/// # Errors
/// A Python error.
pub(crate) fn context_variable(py: Python<'_>) -> PyResult<&Py<PyAny>> {
    VARIABLE.get_or_try_init(py, || {
        let arguments = ("rgun.request_id",);
        py.import("contextvars")?.call_method1("ContextVar", arguments).map(Bound::unbind)
    })
}

/// Returns the id of the request that the current task or thread serves.
#[pyfunction]
pub(crate) fn current_request(py: Python<'_>) -> PyResult<Option<Bound<'_, PyString>>> {
    // A forked process may outlive the request.
    if is_forked_child() {
        return Ok(None);
    }
    if let Some(variable) = VARIABLE.get(py) {
        let cell = variable.bind(py).call_method1(intern!(py, "get"), (py.None(),))?;
        let cell = cell.cast::<RequestCell>().ok();
        return Ok(cell.and_then(|cell| cell.get().0.borrow(py).as_ref().map(|id| id.bind(py).clone())));
    }
    let worker = *WORKER.borrow(py);
    Ok(worker.and_then(|worker| worker.request_of_thread(py)))
}
