//! The streams `sys.stdout` and `sys.stderr` of a worker.

use std::os::fd::RawFd;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

/// Makes stdout write each line when it ends. CPython collects 8 KiB unless stdout is a terminal, so a line
/// would be logged hours later, or never if the worker is killed. stderr writes each line by itself since
/// CPython 3.9. Called before code of the application runs, once per interpreter: forked processes inherit
/// the change.
///
/// # Errors
/// A Python error.
pub(crate) fn write_lines_at_once(py: Python<'_>) -> PyResult<()> {
    let stdout = py.import("sys")?.getattr("stdout")?;
    if is_text_stream_of(&stdout, 1)? {
        let options: Bound<'_, PyDict> = [("line_buffering", true)].into_py_dict(py)?;
        stdout.call_method("reconfigure", (), Some(&options))?;
    }
    Ok(())
}

/// Returns whether an object is a plain `io.TextIOWrapper` of a descriptor: a subclass, or a `write`
/// of its own, may do something else with the text.
pub(crate) fn is_text_stream_of(stream: &Bound<'_, PyAny>, fd: RawFd) -> PyResult<bool> {
    let py = stream.py();
    if !stream.get_type().is(&py.import("io")?.getattr("TextIOWrapper")?) {
        return Ok(false);
    }
    let number = stream.call_method0(intern!(py, "fileno")).and_then(|number| number.extract::<RawFd>());
    // A closed stream has no descriptor.
    let is_of_descriptor = number.is_ok_and(|number| number == fd);
    Ok(is_of_descriptor && !stream.getattr(intern!(py, "__dict__"))?.contains(intern!(py, "write"))?)
}
