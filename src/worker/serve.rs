//! The slots of a WSGI worker: one thread each, which claims and serves requests one at a time.
//!
//! Slot 0 is Python's main thread, as applications with one thread expect; the others are `threading.Thread`s, so that
//! `threading.current_thread()` returns them. Those are daemon threads: the main thread joins them, and an application
//! that never returns must not block the exit.

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rgun_channel::ProtocolError;

use crate::output::MAX_WAKEUP_DELAY_NS;
use crate::wait::SignalHandlers;
use crate::worker::MAIN_THREAD_SLOT;
use crate::wsgi::{SlotRunner, WsgiApplication};

/// Serves until the daemon stops the worker.
///
/// # Errors
/// A thread cannot be started, or a signal handler raised `SystemExit`.
pub(crate) fn run(py: Python<'_>, served: &'static WsgiApplication) -> PyResult<()> {
    let threading = py.import("threading")?;
    let mut threads = Vec::new();
    for slot in 1..served.worker.n_slots() {
        let arguments = PyDict::new(py);
        arguments.set_item("target", SlotThread { served, slot }.into_pyobject(py)?)?;
        arguments.set_item("name", format!("rgun-{slot}"))?;
        arguments.set_item("daemon", true)?;
        let thread = threading.getattr(intern!(py, "Thread"))?.call((), Some(&arguments))?;
        thread.call_method0(intern!(py, "start"))?;
        threads.push(thread);
    }
    serve(py, served, 0).unwrap_or_else(|error| served.worker.abort_on_protocol_error(&error));
    for thread in threads {
        thread.call_method0(intern!(py, "join"))?;
    }
    served.worker.take_exit_exception().map_or(Ok(()), Err)
}

/// Target of a slot's `threading.Thread`.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
struct SlotThread {
    served: &'static WsgiApplication,
    slot: u32,
}

#[pymethods]
impl SlotThread {
    fn __call__(&self, py: Python<'_>) {
        serve(py, self.served, self.slot)
            .unwrap_or_else(|error| self.served.worker.abort_on_protocol_error(&error));
    }

    #[new]
    fn new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("rgun starts its threads itself"))
    }
}

/// Serves requests on one thread until the worker stops.
fn serve(py: Python<'_>, served: &'static WsgiApplication, slot: u32) -> Result<(), ProtocolError> {
    let worker = served.worker;
    worker.mark_thread(slot);
    let mut exchanges = SlotRunner::new(served, slot);
    let mut frame = Vec::new();
    // Time of the oldest completion whose wake-up is deferred; 0 for none.
    let mut deferred_since = 0;
    // End of the previous exchange if the next one starts at once: reading the clock takes longer than the gap.
    let mut free = None;
    while !worker.is_stopping() {
        // With the GIL held: under load there is a request, and releasing the GIL costs more than this check.
        if !worker.claim(&mut frame)? {
            worker.output.wake_daemon();
            if slot == MAIN_THREAD_SLOT {
                worker.run_signal_handlers();
            }
            if !py.detach(|| worker.wait_and_claim(slot, &mut frame))? {
                break;
            }
            deferred_since = 0;
            free = None;
        }
        let finished = exchanges.serve(py, &frame, free)?;
        free = Some(finished.ended_at);
        let oldest = if deferred_since == 0 { finished.ended_at } else { deferred_since };
        if finished.ended_at - oldest + finished.service <= MAX_WAKEUP_DELAY_NS {
            // If there is no further request, the next claim fails and wakes the daemon.
            deferred_since = oldest;
        } else {
            worker.output.wake_daemon();
            deferred_since = 0;
        }
    }
    worker.output.wake_daemon();
    Ok(())
}
