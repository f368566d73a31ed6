//! Gunicorn's server hooks, called at the points of a worker's lifetime that
//! [`Hooks`](rgun_channel::control::Hooks) names.
//!
//! `hooks.py` finds and calls them; it is loaded only if a hook is configured. A hook that fails
//! before the first request fails the boot, as in gunicorn; a later failure is a warning.

use std::ffi::OsStr;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyModule};
use rgun_channel::control::{Interface, Report, Role, Start};

use crate::application::BootFailure;
use crate::process::Process;
use crate::python::{embedded_module, load_py};

/// The hooks of one process.
#[derive(Debug)]
pub(crate) struct Hooks {
    /// The `Hooks` object of `hooks.py`; None if no hook is configured.
    object: Option<Py<PyAny>>,
    /// Whether hooks are only looked up, not called (`rgun check`).
    is_check: bool,
}

/// The hooks that are called after the first request.
const LATE_HOOKS: [&str; 3] = ["worker_exit", "worker_abort", "child_exit"];

impl Hooks {
    /// Creates the hooks of the worker described by `start`. Called after `sys.path` is prepared,
    /// because creating the logger imports a module.
    ///
    /// # Errors
    /// A Python error.
    pub(crate) fn new(py: Python<'_>, start: &Start, daemon: i32) -> PyResult<Self> {
        let configured = &start.hooks;
        let names = PyDict::new(py);
        for (name, target) in [
            ("post_fork", &configured.post_fork),
            ("post_worker_init", &configured.post_worker_init),
            ("worker_exit", &configured.worker_exit),
            ("worker_abort", &configured.worker_abort),
            ("child_exit", &configured.child_exit),
        ] {
            if !target.is_empty() {
                names.set_item(name, target)?;
            }
        }
        if names.is_empty() {
            return Ok(Self { object: None, is_check: false });
        }
        let settings = PyDict::new(py);
        settings.set_item("wsgi_app", format!("{}:{}", start.module, start.attribute))?;
        settings.set_item("threads", start.threads)?;
        settings.set_item("chdir", &start.directory)?;
        settings.set_item("pythonpath", start.pythonpath.join(OsStr::new(",")))?;
        settings.set_item("proc_name", "rgun")?;
        let addresses = PyList::empty(py);
        for listener in &start.listeners {
            if listener.path.is_empty() {
                addresses.append((&listener.name, listener.port.parse::<u16>()?))?;
            } else {
                addresses.append(&listener.path)?;
            }
        }
        let conf = wrap_pyfunction!(gunicorn_conf, py)?;
        let modules = (load_py(py)?, hook_objects(py)?, conf);
        let (worker, server) = ((start.worker, start.incarnation), (daemon, addresses));
        let arguments = (modules, names, &start.directory, worker, server, settings);
        let object = python_module(py)?.call_method1(intern!(py, "Hooks"), arguments)?.unbind();
        Ok(Self { object: Some(object), is_check: start.role == Role::Check })
    }

    /// Passes the application to the hooks that follow, as `worker.wsgi`.
    ///
    /// # Errors
    /// A Python error.
    pub(crate) fn set_application(&self, py: Python<'_>, application: &Py<PyAny>) -> PyResult<()> {
        match &self.object {
            Some(hooks) => hooks.bind(py).call_method1(intern!(py, "loaded"), (application,)).map(drop),
            None => Ok(()),
        }
    }

    /// Calls a hook for this worker; for `rgun check`, only looks it up.
    ///
    /// # Errors
    /// A Python error; the failure of a hook is a [`BootFailure`].
    pub(crate) fn call(&self, py: Python<'_>, name: &str) -> PyResult<Result<(), BootFailure>> {
        if self.is_check {
            return self.look_up(py, name);
        }
        self.outcome(py, |hooks| hooks.call_method1(intern!(py, "call"), (name,)))
    }

    /// Returns the application with the request hooks of a `gunicorn.conf.py` around it; unchanged
    /// if there are none.
    ///
    /// # Errors
    /// A Python error.
    pub(crate) fn wrap(
        &self,
        py: Python<'_>,
        application: &Py<PyAny>,
        interface: Interface,
    ) -> PyResult<Py<PyAny>> {
        let Some(hooks) = &self.object else { return Ok(application.clone_ref(py)) };
        let arguments = (application, interface == Interface::Asgi);
        hooks.bind(py).call_method1(intern!(py, "wrap"), arguments).map(Bound::unbind)
    }

    /// Looks up the hooks that are called after the first request. Reports a warning for each hook
    /// that does not exist; for `rgun check`, the first of them is a failure.
    ///
    /// # Errors
    /// A Python error.
    pub(crate) fn check_late(&self, py: Python<'_>, process: &Process) -> PyResult<Result<(), BootFailure>> {
        for name in LATE_HOOKS {
            match self.look_up(py, name)? {
                Ok(()) => {}
                Err(failure) if self.is_check => return Ok(Err(failure)),
                Err(failure) => process.report(&Report::Warning(failure.as_warning()))?,
            }
        }
        Ok(Ok(()))
    }

    /// Returns the failure of a configured hook that does not exist. This hook is not called later.
    fn look_up(&self, py: Python<'_>, name: &str) -> PyResult<Result<(), BootFailure>> {
        self.outcome(py, |hooks| hooks.call_method1(intern!(py, "check"), (name,)))
    }

    /// Calls `worker_abort` for this worker. Returns the warning if it fails.
    ///
    /// # Errors
    /// A Python error.
    pub(crate) fn abort(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let outcome = self.outcome(py, |hooks| hooks.call_method0(intern!(py, "abort")))?;
        Ok(outcome.err().map(|failure| failure.as_warning()))
    }

    /// Calls `child_exit` for another worker. Returns the warning if it fails.
    ///
    /// # Errors
    /// A Python error.
    pub(crate) fn child_exit(
        &self,
        py: Python<'_>,
        pid: u32,
        number: u16,
        incarnation: u64,
    ) -> PyResult<Option<String>> {
        let outcome = self
            .outcome(py, |hooks| hooks.call_method1(intern!(py, "child_exit"), (pid, number, incarnation)))?;
        Ok(outcome.err().map(|failure| failure.as_warning()))
    }

    /// Calls a method of the Python object, if there is one, and converts its result.
    fn outcome<'py>(
        &self,
        py: Python<'py>,
        call: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Result<(), BootFailure>> {
        let Some(hooks) = &self.object else { return Ok(Ok(())) };
        BootFailure::from_outcome(&call(hooks.bind(py))?)
    }
}

/// Configures Python's logging by `app.log_config`. The worker with number 0 reports a warning, if
/// there is one.
///
/// # Errors
/// A Python error.
pub(crate) fn configure_logging(
    py: Python<'_>,
    process: &Process,
    start: &Start,
) -> PyResult<Result<(), BootFailure>> {
    if start.log_config.is_empty() {
        return Ok(Ok(()));
    }
    let arguments = (load_py(py)?, &start.log_config);
    let (outcome, warning): (Bound<'_, PyAny>, Option<String>) =
        gunicorn_conf(py)?.call_method1(intern!(py, "configure_by_file"), arguments)?.extract()?;
    if let Some(warning) = warning.filter(|_| start.worker == 0) {
        process.report(&Report::Warning(warning))?;
    }
    BootFailure::from_outcome(&outcome)
}

/// Returns the module `gunicorn_conf.py`, which only hooks of a file need.
#[pyfunction]
fn gunicorn_conf(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let text = include_str!("gunicorn_conf.py");
    embedded_module(py, &MODULE, text, c"<rgun>/gunicorn_conf.py", c"rgun_worker.gunicorn_conf")
}

/// Returns the module `hook_objects.py`.
fn hook_objects(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let text = include_str!("hook_objects.py");
    embedded_module(py, &MODULE, text, c"<rgun>/hook_objects.py", c"rgun_worker.hook_objects")
}

fn python_module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    embedded_module(py, &MODULE, include_str!("hooks.py"), c"<rgun>/hooks.py", c"rgun_worker.hooks")
}
