//! Reports the files that the application was loaded from (`reload.on_change`), with `sources.py`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;
use rgun_channel::control::Report;

use crate::python::embedded_module;

/// Prepares the process for reloads that follow each other within a second.
///
/// # Errors
/// A Python error.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    python_module(py)?.call_method0(intern!(py, "prepare")).map(drop)
}

/// Returns reports of the files that were loaded since the last call; no report if no file was
/// loaded.
///
/// # Errors
/// A Python error.
pub(crate) fn new_reports(py: Python<'_>) -> PyResult<Vec<Report>> {
    let lists: Vec<Vec<Vec<u8>>> = python_module(py)?.call_method0(intern!(py, "new_sources"))?.extract()?;
    let report = |paths: Vec<Vec<u8>>| Report::Sources(paths.into_iter().map(OsString::from_vec).collect());
    Ok(lists.into_iter().map(report).collect())
}

fn python_module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    embedded_module(py, &MODULE, include_str!("sources.py"), c"<rgun>/sources.py", c"rgun_worker.sources")
}
