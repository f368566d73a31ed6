//! Collects garbage on the event loop's thread while no request is running: finalizers may use objects
//! of the loop, such as transports.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use super::state::Application;
use crate::memory;

impl Application {
    /// Schedules a collection on the event loop, which then calls `finished`: with false if requests
    /// are running by then, so that nothing was collected. Called from another thread.
    ///
    /// # Errors
    /// The loop is closed.
    pub(crate) fn schedule_collection(
        &'static self,
        py: Python<'_>,
        finished: impl Fn(bool) + Send + Sync + 'static,
    ) -> PyResult<()> {
        let collect = PyCFunction::new_closure(py, None, None, move |arguments, _| -> PyResult<()> {
            let is_idle = self.n_running(arguments.py()) == 0;
            if is_idle {
                memory::collect_garbage(arguments.py());
            }
            finished(is_idle);
            Ok(())
        })?;
        self.event_loop.object.call_method1(py, intern!(py, "call_soon_threadsafe"), (collect,)).map(drop)
    }
}
