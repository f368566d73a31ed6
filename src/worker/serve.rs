//! The slots: one thread each, claiming requests and serving them one after the other.
//!
//! Slot 0 is Python's main thread, where applications expect to be if there is only one; the others are
//! `threading.Thread`s, so that `threading.current_thread()` tells the truth. They are daemon threads:
//! the main thread joins them itself, and an application that never returns must not hold the exit.

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rgun_channel::ProtocolError;

use crate::output::MAX_WAKEUP_DELAY_NS;
use crate::wait::SignalHandlers;
use crate::worker::MAIN_THREAD_SLOT;
use crate::wsgi::{SlotRunner, WsgiApplication};

/// Serves until the daemon says stop.
///
/// # Errors
/// When a thread cannot be started; the `SystemExit` of a signal handler.
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

/// What a `threading.Thread` of a slot runs.
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

/// One thread's life.
fn serve(py: Python<'_>, served: &'static WsgiApplication, slot: u32) -> Result<(), ProtocolError> {
    let worker = served.worker;
    worker.mark_thread(slot);
    let mut exchanges = SlotRunner::new(served, slot);
    let mut frame = Vec::new();
    // When the oldest completion was pushed that the doorbell has not been asked for; 0: none.
    let mut deferred_since = 0;
    // When the last exchange was over, if the next one follows at once: a look at the clock takes longer than that.
    let mut free = None;
    while !worker.is_stopping() {
        // With the GIL: under load there is something, and giving the GIL away costs more than looking.
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
            // If no other request has come, the claim that follows finds that out, and the bell is rung there.
            deferred_since = oldest;
        } else {
            worker.output.wake_daemon();
            deferred_since = 0;
        }
    }
    worker.output.wake_daemon();
    Ok(())
}
