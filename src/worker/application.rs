//! Loads the application, and describes boot failures.
//!
//! Workers ([`crate::lifecycle`]) and zygotes ([`crate::zygote`]) load the application with
//! `load.py`. Gunicorn's hooks ([`crate::hooks`]) fail with the same [`BootFailure`].

use std::fmt::Write as _;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;
use rgun_channel::control::{FailureKind, Interface, Preload, Report, Role, Start};

use crate::process::Process;
use crate::python::{EX_CONFIG, embedded_module, exit_forked_child, is_forked_child, load_py, system_exit};
use crate::sources;

/// Returns the interpreter's name and version, such as `CPython 3.11.2`.
pub(crate) fn interpreter_version(py: Python<'_>) -> PyResult<String> {
    // "3.11.2 (main, ...) [GCC ...]"
    let version: String = py.import("sys")?.getattr("version")?.extract()?;
    Ok(format!("CPython {}", version.split_whitespace().next().unwrap_or("?")))
}

/// The reason why the application cannot be served.
#[derive(Debug)]
pub(crate) struct BootFailure {
    /// Cause, which decides whether the daemon retries.
    pub(crate) kind: FailureKind,
    /// One line for the operator.
    pub(crate) summary: String,
    /// The traceback; empty if there is none.
    pub(crate) traceback: String,
    /// One line without text from the application.
    pub(crate) headline: String,
}

impl BootFailure {
    /// A failure of the worker itself.
    pub(crate) fn internal(summary: String) -> Self {
        Self { kind: FailureKind::App, headline: summary.clone(), summary, traceback: String::new() }
    }

    /// Converts the result of a Python function: None, or kind, summary, traceback and headline.
    ///
    /// # Errors
    /// The result has another form.
    pub(crate) fn from_outcome(outcome: &Bound<'_, PyAny>) -> PyResult<Result<(), Self>> {
        let outcome: Option<(u8, String, String, String)> = outcome.extract()?;
        Ok(outcome.map_or(Ok(()), |(kind, summary, traceback, headline)| {
            let kind = if kind == 0 { FailureKind::Config } else { FailureKind::App };
            Err(Self { kind, summary, traceback, headline })
        }))
    }

    /// Returns the text for [`Report::Warning`].
    pub(crate) fn as_warning(&self) -> String {
        let mut text = self.summary.clone();
        if !self.traceback.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{}", self.traceback);
        }
        text
    }
}

/// Checks whether gevent or eventlet has patched modules on which the application's threads, or a
/// fork, depend.
///
/// # Errors
/// A Python error.
pub(crate) fn check_monkey_patching(
    py: Python<'_>,
    start: &Start,
    interface: Interface,
) -> PyResult<Result<(), BootFailure>> {
    let preloads_modules = matches!(start.preload, Preload::Modules(_));
    let arguments =
        (interface == Interface::Wsgi, start.threads, start.role == Role::Zygote, preloads_modules);
    BootFailure::from_outcome(&load_py(py)?.call_method1(intern!(py, "check_patches"), arguments)?)
}

/// Reports the files that were loaded since the last report, if the daemon watches them.
///
/// # Errors
/// A Python error.
pub(crate) fn report_sources(py: Python<'_>, process: &Process, start: &Start) -> PyResult<()> {
    if start.report_sources {
        for report in sources::new_reports(py)? {
            process.report(&report)?;
        }
    }
    Ok(())
}

/// Imports the application with `load.py` and detects its interface; imports the URLconf of a
/// Django application. Reports warnings to the daemon, and the files that were loaded, if the
/// daemon watches them.
///
/// # Errors
/// A Python error; exceptions of the application are a [`BootFailure`].
pub(crate) fn load(
    py: Python<'_>,
    process: &Process,
    start: &Start,
) -> PyResult<Result<(Py<PyAny>, Interface), BootFailure>> {
    let interface = match start.interface {
        Interface::Auto => "auto",
        Interface::Wsgi => "wsgi",
        Interface::Asgi => "asgi",
    };
    let arguments = (&start.module, &start.attribute, start.factory, interface, &start.directory);
    let (application, found, warning, failure): (Py<PyAny>, Option<String>, Option<String>, Py<PyAny>) =
        load_py(py)?.call_method1(intern!(py, "load"), arguments)?.extract()?;
    let (failure, urlconf_warning) =
        if failure.is_none(py) { load_urlconf(py, start, &application)? } else { (failure, None) };
    if is_forked_child() {
        // The application forked while it was imported, and this is the child: only the parent
        // boots.
        exit_forked_child(py, None);
    }
    report_sources(py, process, start)?;
    for warning in [warning, urlconf_warning].into_iter().flatten() {
        process.report(&Report::Warning(warning))?;
    }
    let interface = if found.as_deref() == Some("asgi") { Interface::Asgi } else { Interface::Wsgi };
    Ok(BootFailure::from_outcome(failure.bind(py))?.map(|()| (application, interface)))
}

/// Imports the URLconf of a Django application with `urlconf.py`; does nothing for any other
/// application. Returns the outcome of a failure or None, and a warning.
///
/// # Errors
/// A Python error.
fn load_urlconf(
    py: Python<'_>,
    start: &Start,
    application: &Py<PyAny>,
) -> PyResult<(Py<PyAny>, Option<String>)> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    if !py.import("sys")?.getattr("modules")?.contains("django.core.handlers.base")? {
        return Ok((py.None(), None));
    }
    let text = include_str!("urlconf.py");
    let module = embedded_module(py, &MODULE, text, c"<rgun>/urlconf.py", c"rgun_worker.urlconf")?;
    // The first generation has no older code that could serve instead.
    let is_reload = start.generation > 1;
    let arguments = (load_py(py)?, application, &start.root_path, is_reload);
    module.call_method1(intern!(py, "load_urlconf"), arguments)?.extract()
}

/// Reports a boot failure to the daemon and exits.
///
/// # Errors
/// Always: `SystemExit`.
pub(crate) fn report_failure<T>(process: &Process, failure: BootFailure) -> PyResult<T> {
    let BootFailure { kind, summary, traceback, headline } = failure;
    let code = if kind == FailureKind::Config { EX_CONFIG } else { 1 };
    process.report(&Report::Failed { kind, summary, traceback, headline })?;
    Err(system_exit(code))
}
