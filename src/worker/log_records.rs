//! Sends records of Python's `logging` to the daemon with their fields, and names the request of
//! printed lines ([`rgun_channel::log_record`]).
//!
//! `log_records.py` replaces `StreamHandler.emit` for handlers that write to the worker's own stdout
//! or stderr. A [`TaggedStream`] writes what is printed to these two streams. Both happen only if the
//! stream is a pipe of the daemon, and stop when the application puts another file in its place.

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;
use rgun_channel::log_record::LogToken;

use crate::current_request::current_request;
use crate::gil_cell::GilCell;
use crate::process::Process;
use crate::python::embedded_module;
use crate::std_streams::is_text_stream_of;
use crate::tagged_stream::{TaggedStream, replace_methods};

/// The streams whose methods are replaced.
static STREAMS: GilCell<Vec<Py<TaggedStream>>> = GilCell::new(Vec::new());

/// The beginning of records and tags ([`LogToken::marker`]).
static MARKER: GilCell<&'static str> = GilCell::new("");

/// The process, once [`install`] is called.
static PROCESS: GilCell<Option<&'static Process>> = GilCell::new(None);

/// Begins to send records and to name requests. Called before code of the application runs, once per
/// interpreter: forked processes inherit the change.
///
/// # Errors
/// A Python error.
pub(crate) fn install(py: Python<'_>, process: &'static Process, token: LogToken) -> PyResult<()> {
    PROCESS.put(py, Some(process));
    let marker: &'static str = token.marker().leak();
    MARKER.put(py, marker);
    for (name, fd) in [("stdout", 1), ("stderr", 2)] {
        let stream = py.import("sys")?.getattr(name)?;
        if process.is_own_pipe(py, fd) && is_text_stream_of(&stream, fd)? {
            let tagged = replace_methods(&stream, fd, process, marker)?;
            STREAMS.borrow_mut(py).push(tagged);
        }
    }
    let atexit = py.import("atexit")?;
    atexit.call_method1("register", (wrap_pyfunction!(restore_methods, &atexit)?,))?;
    let modules = py.import("sys")?.getattr("modules")?;
    if modules.contains("logging")? {
        let logging = modules.get_item("logging")?;
        return python_module(py)?.call_method1("replace_emit", (logging,)).map(drop);
    }
    py.import("sys")?.getattr("meta_path")?.call_method1("insert", (0, LoggingFinder)).map(drop)
}

/// Ends the changes of the streams. Called at the exit, after the functions of the application.
#[pyfunction]
fn restore_methods(py: Python<'_>) -> PyResult<()> {
    let streams: Vec<_> = STREAMS.borrow(py).iter().map(|stream| stream.clone_ref(py)).collect();
    streams.iter().try_for_each(|stream| stream.get().restore_methods(py))
}

/// Forgets what the zygote's threads have printed. Called in a worker that the zygote has forked.
pub(crate) fn reset(py: Python<'_>) {
    for stream in STREAMS.borrow(py).iter() {
        stream.get().reset(py);
    }
}

/// A finder of modules (PEP 451) that has `StreamHandler.emit` replaced when `logging` is imported.
/// Importing `logging` in each worker would delay the start of small applications.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
struct LoggingFinder;

#[pymethods]
impl LoggingFinder {
    #[pyo3(signature = (name, path=None, target=None))]
    fn find_spec<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        path: Option<Bound<'py, PyAny>>,
        target: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if !name.eq(intern!(py, "logging"))? {
            return Ok(py.None().into_bound(py));
        }
        python_module(py)?.call_method1("find_logging", (slf, name, path, target))
    }

    #[new]
    fn new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("only rgun creates instances of this class"))
    }
}

/// Returns the function that writes a record to a stream of the daemon. `None` for any other stream, and
/// if the application has replaced the method or the file.
#[pyfunction]
fn write_of(stream: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    let py = stream.py();
    let Some(process) = *PROCESS.borrow(py) else { return Ok(None) };
    let Ok(current) = stream.getattr(intern!(py, "write")) else { return Ok(None) };
    // By the method, and not by the stream: Flask logs to a proxy.
    let is_known = |stream: &&Py<TaggedStream>| stream.get().has_function(&current);
    let known = STREAMS.borrow(py).iter().find(is_known).map(|known| known.clone_ref(py));
    if let Some(known) = known {
        let is_own = known.get().is_own_pipe(py);
        return Ok(is_own.then(|| known.into_any()));
    }
    for fd in [1, 2] {
        if process.is_own_pipe(py, fd) && is_text_stream_of(stream, fd)? {
            return Ok(Some(current.unbind()));
        }
    }
    Ok(None)
}

fn python_module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    if let Some(module) = MODULE.get(py) {
        return Ok(module.bind(py));
    }
    let text = include_str!("log_records.py");
    let module = embedded_module(py, &MODULE, text, c"<rgun>/log_records.py", c"rgun_worker.log_records")?;
    let write_of = wrap_pyfunction!(write_of, module)?;
    let current_request = wrap_pyfunction!(current_request, module)?;
    module.call_method1(intern!(py, "install"), (write_of, current_request, *MARKER.borrow(py)))?;
    Ok(module)
}
