//! What the awaitables that `send()` and `receive()` return have in common. They need no coroutine,
//! and a Future only if they wait.
//!
//! An awaitable is its own iterator: `await` calls `__next__`, and a `StopIteration` with the value
//! ends it. An awaitable has `send`, `throw` and `close`, too, which make it a
//! `collections.abc.Coroutine`: `asyncio.create_task()` accepts it.

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;

use crate::worker::Worker;

/// Returns the exception that `throw()` was called with: an instance, or a type with a value.
pub(super) fn exception_from_throw(
    kind: &Bound<'_, PyAny>,
    value: Option<&Bound<'_, PyAny>>,
    traceback: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyErr> {
    let value = value.filter(|value| !value.is_none());
    let error = match value {
        Some(value) if value.is_instance_of::<pyo3::exceptions::PyBaseException>() => value.clone(),
        Some(value) => kind.call1((value,))?,
        None if kind.is_instance_of::<pyo3::exceptions::PyBaseException>() => kind.clone(),
        None => kind.call0()?,
    };
    if let Some(traceback) = traceback.filter(|traceback| !traceback.is_none()) {
        error.call_method1(intern!(kind.py(), "with_traceback"), (traceback,))?;
    }
    Ok(PyErr::from_value(error))
}

/// Implements the methods of a coroutine for a type that has `next` and `cancel`.
///
/// A macro, because a class can have only one `#[pymethods]` block.
macro_rules! coroutine_methods {
    ($name:ident) => {
        #[pymethods]
        impl $name {
            fn __await__(slf: Py<Self>) -> Py<Self> {
                slf
            }

            fn __iter__(slf: Py<Self>) -> Py<Self> {
                slf
            }

            fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
                self.next(py)
            }

            fn send<'py>(
                &mut self,
                py: Python<'py>,
                _value: &Bound<'py, PyAny>,
            ) -> PyResult<Bound<'py, PyAny>> {
                self.next(py)?.ok_or_else(|| pyo3::exceptions::PyStopIteration::new_err(()))
            }

            #[pyo3(signature = (kind, value=None, traceback=None))]
            fn throw(
                &mut self,
                kind: &Bound<'_, PyAny>,
                value: Option<&Bound<'_, PyAny>>,
                traceback: Option<&Bound<'_, PyAny>>,
            ) -> PyResult<()> {
                self.cancel(kind.py());
                Err($crate::asgi::awaitable::exception_from_throw(kind, value, traceback)?)
            }

            fn close(&mut self, py: Python<'_>) {
                self.cancel(py);
            }
        }
    };
}
pub(super) use coroutine_methods;

/// The Future that an awaitable waits for, and the Future's iterator; `None` if the awaitable does
/// not wait.
#[derive(Debug, Default)]
pub(super) struct FutureWait(Option<(Py<PyAny>, Py<PyAny>)>);

impl FutureWait {
    /// Polls the Future, if there is one. Returns the value that its iterator yields, or `None`
    /// once the Future is done.
    pub(super) fn poll<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some((future, iterator)) = self.0.take() else { return Ok(None) };
        let yielded = poll_iterator(iterator.bind(py))?;
        if yielded.is_some() {
            self.0 = Some((future, iterator));
        }
        Ok(yielded)
    }

    /// Starts to wait for a Future and polls it once. Returns as [`poll`](Self::poll) does.
    pub(super) fn start<'py>(&mut self, future: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let iterator = future.call_method0(intern!(future.py(), "__await__"))?;
        self.0 = Some((future.clone().unbind(), iterator.unbind()));
        self.poll(future.py())
    }

    /// Ends the wait and returns its Future, if there is one.
    pub(super) fn cancel(&mut self) -> Option<Py<PyAny>> {
        self.0.take().map(|(future, _)| future)
    }
}

/// Calls `__next__`. Returns `None` for a `StopIteration`.
fn poll_iterator<'py>(iterator: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = iterator.py();
    match iterator.call_method0(intern!(py, "__next__")) {
        Ok(yielded) => Ok(Some(yielded)),
        Err(error) if error.is_instance_of::<PyStopIteration>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Completes the Futures that are not done. A cancelled Future is done.
#[inline]
pub(super) fn wake_futures(py: Python<'_>, worker: &Worker, futures: Vec<Py<PyAny>>) {
    if !futures.is_empty() {
        wake_all(py, worker, futures);
    }
}

fn wake_all(py: Python<'_>, worker: &Worker, futures: Vec<Py<PyAny>>) {
    for future in futures {
        let future = future.bind(py);
        let completed =
            future.call_method0(intern!(py, "done")).and_then(|done| done.is_truthy()).and_then(|done| {
                if done {
                    Ok(())
                } else {
                    future.call_method1(intern!(py, "set_result"), (py.None(),)).map(drop)
                }
            });
        if let Err(error) = completed {
            worker.on_signal_exception(py, error);
        }
    }
}
