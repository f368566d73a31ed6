//! The event loop as Python has it, and what is scheduled on it.
//!
//! What a turn does is [`super::tick`]'s.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The event loop, and what we need of it.
#[derive(Debug)]
pub(super) struct EventLoop {
    pub(super) object: Py<PyAny>,
    pub(super) call_soon: Py<PyAny>,
    /// What turns run in, and with it the tasks that they begin: not the context of the request that happened to ask
    /// for a turn, whose variables are nobody else's.
    pub(super) context: Py<PyAny>,
    pub(super) create_future: Py<PyAny>,
    /// The Future for which the loop runs.
    pub(super) stopped: Py<PyAny>,
    /// `asyncio.Task`, or the loop's `create_task` if the application has set a task factory.
    pub(super) new_task: Py<PyAny>,
    pub(super) task_keywords: Py<PyDict>,
    /// Tasks run when they are made, until they first wait.
    pub(super) is_eager: bool,
    /// The turn that is scheduled.
    pub(super) tick: OnceLock<Py<PyAny>>,
    /// The one that sends heads.
    pub(super) heads_tick: OnceLock<Py<PyAny>>,
    /// A turn is running, or scheduled: it will ring.
    pub(super) tick_pending: AtomicBool,
    /// What is still scheduled has nothing to do: the loop runs for the end of lifespan.
    pub(super) is_stopped: AtomicBool,
}

impl EventLoop {
    /// `task` is how `asgi.py` has found that tasks are made: a callable, its keywords, and whether they run at once.
    pub(super) fn new(
        object: &Bound<'_, PyAny>,
        over: Py<PyAny>,
        (new_task, task_keywords, is_eager): (Py<PyAny>, Py<PyDict>, bool),
    ) -> PyResult<Self> {
        let py = object.py();
        Ok(Self {
            call_soon: object.getattr(intern!(py, "call_soon"))?.unbind(),
            context: py
                .import(intern!(py, "contextvars"))?
                .call_method0(intern!(py, "copy_context"))?
                .unbind(),
            create_future: object.getattr(intern!(py, "create_future"))?.unbind(),
            stopped: over,
            object: object.clone().unbind(),
            new_task,
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

    /// Schedules a turn.
    pub(super) fn call_soon(&self, py: Python<'_>, turn: &Py<PyAny>) -> PyResult<()> {
        let keywords = PyDict::new(py);
        // A copy for each: a loop that is run within a task (nest_asyncio) may take a turn within a turn, and no context
        // is entered twice.
        let context = self.context.call_method0(py, intern!(py, "copy"))?;
        keywords.set_item(intern!(py, "context"), context)?;
        self.call_soon.call(py, (turn,), Some(&keywords)).map(drop)
    }
}
