//! The Python event loop, and the callbacks that are scheduled on it. [`super::tick`] implements
//! them.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The event loop, with its methods looked up once.
#[derive(Debug)]
pub(super) struct EventLoop {
    pub(super) object: Py<PyAny>,
    pub(super) call_soon: Py<PyAny>,
    /// Context of ticks, and of the tasks that they create. A tick must not run in the context of
    /// the request that scheduled it.
    pub(super) context: Py<PyAny>,
    pub(super) create_future: Py<PyAny>,
    /// The loop runs until this Future is done.
    pub(super) stopped: Py<PyAny>,
    /// `asyncio.Task`, or the loop's `create_task` if the application has set a task factory.
    pub(super) task_constructor: Py<PyAny>,
    pub(super) task_keywords: Py<PyDict>,
    /// Tasks run when they are created, until they first wait (CPython 3.12).
    pub(super) is_eager: bool,
    /// Callback of a scheduled tick.
    pub(super) tick: OnceLock<Py<PyAny>>,
    /// Callback of the tick that sends deferred heads.
    pub(super) heads_tick: OnceLock<Py<PyAny>>,
    /// A tick is running or scheduled; it wakes the daemon at its end.
    pub(super) tick_pending: AtomicBool,
    /// No more ticks: the loop runs only to end lifespan.
    pub(super) is_stopped: AtomicBool,
}

impl EventLoop {
    /// Looks up the methods. The last argument is the result of `Server.task_constructor` in
    /// `asgi.py`: the callable that creates a task, its keyword arguments, and whether tasks are
    /// eager.
    pub(super) fn new(
        object: &Bound<'_, PyAny>,
        stopped: Py<PyAny>,
        (task_constructor, task_keywords, is_eager): (Py<PyAny>, Py<PyDict>, bool),
    ) -> PyResult<Self> {
        let py = object.py();
        Ok(Self {
            call_soon: object.getattr(intern!(py, "call_soon"))?.unbind(),
            context: py
                .import(intern!(py, "contextvars"))?
                .call_method0(intern!(py, "copy_context"))?
                .unbind(),
            create_future: object.getattr(intern!(py, "create_future"))?.unbind(),
            stopped,
            object: object.clone().unbind(),
            task_constructor,
            task_keywords,
            is_eager,
            tick: OnceLock::new(),
            heads_tick: OnceLock::new(),
            tick_pending: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        })
    }

    pub(super) fn object(&self) -> &Py<PyAny> {
        &self.object
    }

    pub(super) fn create_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.create_future.bind(py).call0()
    }

    /// Schedules a callback for the next iteration of the loop, in a copy of `context`.
    pub(super) fn call_soon(&self, py: Python<'_>, callback: &Py<PyAny>) -> PyResult<()> {
        let keywords = PyDict::new(py);
        // A copy for each call: a loop that is run within a task (nest_asyncio) may nest ticks, and
        // a context cannot be entered twice.
        let context = self.context.call_method0(py, intern!(py, "copy"))?;
        keywords.set_item(intern!(py, "context"), context)?;
        self.call_soon.call(py, (callback,), Some(&keywords)).map(drop)
    }
}
