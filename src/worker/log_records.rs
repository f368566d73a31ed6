//! Sends records of Python's `logging` to the daemon with their fields, and names the request of
//! printed lines ([`rgun_channel::log_record`]).
//!
//! `log_records.py` replaces `StreamHandler.emit` for handlers that write to the worker's own stdout
//! or stderr. The `write` of these two streams is replaced by a [`TaggedWrite`]: it is an attribute of
//! the stream, which keeps its type, its buffer and its other methods. Both happen only if the
//! stream is a pipe of the daemon, and stop when the application puts another file in its place.
//!
//! # The request
//! A request costs a few instructions: its id is a `str` of the environ or scope. A slot of a WSGI
//! worker keeps a reference to it for its thread. Under ASGI it is the value of a context variable,
//! which tasks and threads inherit that copy the context of the request's task
//! (`asyncio.create_task`, `asyncio.to_thread`, asgiref's `sync_to_async`, anyio).

use std::ffi::CStr;
use std::os::fd::RawFd;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyModule, PyString};
use rgun_channel::log_record::{LogToken, SEPARATOR, TAG};

use crate::fastcall::{Arguments, FastFunction, bind, call};
use crate::gil_cell::GilCell;
use crate::process::Process;
use crate::python::{embedded_module, is_forked_child};
use crate::worker::Worker;

/// The context variable with the id of an ASGI request.
static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The worker of this process.
static WORKER: GilCell<Option<&'static Worker>> = GilCell::new(None);

/// The streams whose `write` is replaced.
static STREAMS: GilCell<Vec<Py<TaggedWrite>>> = GilCell::new(Vec::new());

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
            let write = TaggedWrite {
                write: stream.getattr(intern!(py, "write"))?.unbind(),
                function: GilCell::new(None),
                fd,
                process,
                marker,
                open_line: GilCell::new(None),
            };
            let write = Bound::new(py, write)?;
            let function = bind::<TaggedWrite>(&write)?;
            stream.setattr(intern!(py, "write"), &function)?;
            write.get().function.put(py, Some(function));
            STREAMS.borrow_mut(py).push(write.unbind());
        }
    }
    let modules = py.import("sys")?.getattr("modules")?;
    if modules.contains("logging")? {
        let logging = modules.get_item("logging")?;
        return python_module(py)?.call_method1("replace_emit", (logging,)).map(drop);
    }
    py.import("sys")?.getattr("meta_path")?.call_method1("insert", (0, LoggingFinder)).map(drop)
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
fn current_request(py: Python<'_>) -> PyResult<Option<Bound<'_, PyString>>> {
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

/// Returns the function that writes a record to a stream of the daemon. `None` for any other stream, and
/// if the application has replaced the method or the file.
#[pyfunction]
fn write_of(stream: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    let py = stream.py();
    let Some(process) = *PROCESS.borrow(py) else { return Ok(None) };
    let Ok(current) = stream.getattr(intern!(py, "write")) else { return Ok(None) };
    // By the method, and not by the stream: Flask logs to a proxy.
    let is_known = |write: &&Py<TaggedWrite>| {
        write.get().function.borrow(py).as_ref().is_some_and(|function| function.is(&current))
    };
    let known = STREAMS.borrow(py).iter().find(is_known).map(|write| write.clone_ref(py));
    if let Some(known) = known {
        let is_own = process.is_own_pipe(py, known.get().fd);
        return Ok(is_own.then(|| known.into_any()));
    }
    for fd in [1, 2] {
        if process.is_own_pipe(py, fd) && is_text_stream_of(stream, fd)? {
            return Ok(Some(current.unbind()));
        }
    }
    Ok(None)
}

/// Returns whether an object is a plain `io.TextIOWrapper` of a descriptor: a subclass, or a `write`
/// of its own, may do something else with the text.
fn is_text_stream_of(stream: &Bound<'_, PyAny>, fd: RawFd) -> PyResult<bool> {
    let py = stream.py();
    if !stream.get_type().is(&py.import("io")?.getattr("TextIOWrapper")?) {
        return Ok(false);
    }
    let number = stream.call_method0(intern!(py, "fileno")).and_then(|number| number.extract::<RawFd>());
    // A closed stream has no descriptor.
    let is_of_descriptor = number.is_ok_and(|number| number == fd);
    Ok(is_of_descriptor && !stream.getattr(intern!(py, "__dict__"))?.contains(intern!(py, "write"))?)
}

/// The `write` of stdout or stderr: puts the tag of the request before each line. Called itself, it writes
/// a record.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
struct TaggedWrite {
    /// The stream's own method.
    write: Py<PyAny>,
    /// The function of this object, which is the stream's attribute.
    function: GilCell<Option<Py<PyAny>>>,
    fd: RawFd,
    process: &'static Process,
    marker: &'static str,
    /// The request of a line that has not ended; `None` if it has no tag.
    open_line: GilCell<Option<Py<PyString>>>,
}

#[pymethods]
impl TaggedWrite {
    /// Writes text; returns its length.
    #[pyo3(signature = (text, /))]
    fn write<'py>(slf: &Bound<'py, Self>, text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let own = slf.get();
        let write = own.write.bind(py);
        let request = current_request(py)?;
        let Ok(string) = text.cast::<PyString>() else { return call(write, [text]) };
        // From here to the call no other thread runs: this code runs no Python code.
        let open = own.open_line.borrow(py).as_ref().map(|open| open.bind(py).clone());
        if (request.is_none() && open.is_none()) || string.is_empty()? {
            return call(write, [text]);
        }
        let is_continued = match (&request, &open) {
            (Some(request), Some(open)) => request.as_any().eq(open)?,
            _ => false,
        };
        if !is_continued && !own.process.is_own_pipe(py, own.fd) {
            own.open_line.put(py, None);
            return call(write, [text]);
        }
        let (tagged, is_open) = tagged(string, request.as_ref(), is_continued, own.marker)?;
        own.open_line.put(py, request.filter(|_| is_open).map(Bound::unbind));
        call(write, [&tagged])?;
        Ok(string.len()?.into_pyobject(py)?.into_any())
    }

    /// Writes a record, which ends a line that has not ended.
    #[pyo3(signature = (record, /))]
    fn __call__<'py>(&self, record: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = record.py();
        self.open_line.put(py, None);
        call(self.write.bind(py), [record])
    }

    #[new]
    fn new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("only rgun creates instances of this class"))
    }
}

impl FastFunction for TaggedWrite {
    type Object = Self;
    const NAME: &'static CStr = c"write";

    fn call<'py>(
        object: &Bound<'py, Self>,
        arguments: Arguments<'_, 'py>,
    ) -> Option<PyResult<Bound<'py, PyAny>>> {
        let [Some(text), None, None] = arguments else { return None };
        Some(Self::write(object, &text))
    }
}

/// Returns text with tags of its request before its lines, and whether its last line is open. `request` is
/// `None` after an open line of a request. `is_continued`: the text continues such a line.
fn tagged<'py>(
    text: &Bound<'py, PyString>,
    request: Option<&Bound<'py, PyString>>,
    is_continued: bool,
    marker: &str,
) -> PyResult<(Bound<'py, PyAny>, bool)> {
    let py = text.py();
    let id = request.map(PyStringMethods::to_cow).transpose()?.unwrap_or_default();
    let tag =
        format!("{marker}{TAG}{id}{SEPARATOR}", TAG = char::from(TAG), SEPARATOR = char::from(SEPARATOR));
    let encoding = (intern!(py, "utf-8"), intern!(py, "surrogatepass"));
    // As bytes, because of lone surrogates.
    let encoded = if let Ok(text) = text.to_cow() {
        text.into_owned().into_bytes()
    } else {
        let encode = py.get_type::<PyString>().getattr(intern!(py, "encode"))?;
        encode.call1((text, encoding.0, encoding.1))?.extract()?
    };
    let mut bytes = Vec::with_capacity(encoded.len() + 2 * tag.len());
    for (index, line) in encoded.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let needs_tag = if index == 0 { !is_continued } else { request.is_some() };
        if needs_tag {
            bytes.extend_from_slice(tag.as_bytes());
        }
        bytes.extend_from_slice(line);
    }
    let tagged = match str::from_utf8(&bytes) {
        Ok(text) => PyString::new(py, text).into_any(),
        Err(_) => PyBytes::new(py, &bytes).call_method1(intern!(py, "decode"), encoding)?,
    };
    Ok((tagged, !encoded.ends_with(b"\n")))
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
