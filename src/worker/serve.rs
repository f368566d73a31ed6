//! The slots of a WSGI worker: one thread each, which claims and serves requests one at a time.
//!
//! Slot 0 is Python's main thread, as applications with one thread expect; the others are
//! `threading.Thread`s, so that `threading.current_thread()` returns them. The main thread joins
//! them. They are daemon threads, because an application that never returns must not block the
//! exit.

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rgun_channel::ProtocolError;

use crate::submission::ClaimBuffer;
use crate::wait::SignalHandlers;
use crate::worker::MAIN_THREAD_SLOT;
use crate::wsgi::{SlotRunner, WsgiApplication};

/// Serves until the daemon stops the worker.
///
/// # Errors
/// A thread cannot be started, or a signal handler raised `SystemExit`.
pub(crate) fn run(py: Python<'_>, application: &'static WsgiApplication) -> PyResult<()> {
    let threading = py.import("threading")?;
    let mut threads = Vec::new();
    for slot in 1..application.worker.n_slots() {
        let arguments = PyDict::new(py);
        arguments.set_item("target", SlotThread { application, slot }.into_pyobject(py)?)?;
        arguments.set_item("name", format!("rgun-{slot}"))?;
        arguments.set_item("daemon", true)?;
        let thread = threading.getattr(intern!(py, "Thread"))?.call((), Some(&arguments))?;
        thread.call_method0(intern!(py, "start"))?;
        threads.push(thread);
    }
    serve(py, application, 0).unwrap_or_else(|error| application.worker.abort_on_protocol_error(&error));
    for thread in threads {
        thread.call_method0(intern!(py, "join"))?;
    }
    application.worker.take_exit_exception().map_or(Ok(()), Err)
}

/// Target of a slot's `threading.Thread`.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
struct SlotThread {
    application: &'static WsgiApplication,
    slot: u32,
}

#[pymethods]
impl SlotThread {
    fn __call__(&self, py: Python<'_>) {
        serve(py, self.application, self.slot)
            .unwrap_or_else(|error| self.application.worker.abort_on_protocol_error(&error));
    }

    #[new]
    fn new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("only rgun creates instances of this class"))
    }
}

/// Serves requests on one thread until the worker stops.
fn serve(py: Python<'_>, application: &'static WsgiApplication, slot: u32) -> Result<(), ProtocolError> {
    let worker = application.worker;
    worker.mark_thread(slot);
    let mut exchanges = SlotRunner::new(application, slot);
    let mut claimed = ClaimBuffer::default();
    // Time of the oldest completion whose wake-up is deferred; 0 for none.
    let mut deferred_since = 0;
    // End of the previous exchange if the next exchange starts at once: reading the clock takes
    // longer than the gap.
    let mut previous_end = None;
    while !worker.is_stopping() {
        // With the GIL held: under load there is a request, and releasing the GIL costs more than
        // this check.
        if !worker.claim(py, &mut claimed)? {
            worker.output.wake_daemon();
            if slot == MAIN_THREAD_SLOT {
                worker.run_signal_handlers();
            }
            if !py.detach(|| worker.wait_and_claim(slot, &mut claimed))? {
                break;
            }
            deferred_since = 0;
            previous_end = None;
        }
        let timing = exchanges.serve(py, &mut claimed, previous_end)?;
        previous_end = Some(timing.ended_at);
        let oldest = if deferred_since == 0 { timing.ended_at } else { deferred_since };
        if timing.ended_at - oldest + timing.service <= worker.output.wakeup_delay_ns() {
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
