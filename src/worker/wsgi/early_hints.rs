//! `wsgi.early_hints`: sends a 103 (RFC 8297) ahead of the response, as gunicorn does.
//!
//! All requests of the worker share one function, so a request without hints pays nothing. The
//! function finds the response of the request that the calling thread serves. In a thread without a
//! request it does nothing.

use std::cell::RefCell;

use pyo3::prelude::*;
use rgun_channel::frame::{Body, CompletionKind};

use super::response::Response;
use super::start_response::StartResponse;
use crate::fault::Fault;
use crate::head::HEAD_OVERHEAD_BYTES;

thread_local! {
    /// The response functions of this thread's slot.
    static CURRENT: RefCell<Option<Py<StartResponse>>> = const { RefCell::new(None) };
}

/// Sets the response functions of the calling thread.
pub(super) fn set_current(py: Python<'_>, functions: &Py<StartResponse>) {
    let old = CURRENT.replace(Some(functions.clone_ref(py)));
    drop(old);
}

/// Sends header fields, a list of (name, value) pairs of `str` or `bytes`, in a 103. Does nothing
/// once the response has begun. HTTP/1.0 clients get none.
#[pyfunction]
pub(super) fn early_hints(py: Python<'_>, headers: &Bound<'_, PyAny>) -> PyResult<()> {
    let current = CURRENT.with_borrow(|current| current.as_ref().map(|functions| functions.clone_ref(py)));
    let Some(functions) = current else { return Ok(()) };
    let mut response = functions.get().response.try_borrow_mut(py)?;
    match response.send_early_hints(py, headers) {
        Ok(()) => Ok(()),
        Err(Fault::Python(error)) => Err(error),
        Err(Fault::App(error)) => Err(pyo3::exceptions::PyValueError::new_err(error.summary)),
        Err(Fault::Channel(error)) => response.worker().abort_on_protocol_error(&error),
    }
}

impl Response {
    fn send_early_hints(&mut self, py: Python<'_>, headers: &Bound<'_, PyAny>) -> Result<(), Fault> {
        if self.is_sent() {
            return Ok(());
        }
        let mut fields = Vec::new();
        let n_fields = self.head_encoder().encode_hints(py, headers, &mut fields)?;
        let max = self.worker().start.geometry.max_completion_frame();
        if fields.len() + HEAD_OVERHEAD_BYTES > max {
            return Err(pyo3::exceptions::PyValueError::new_err(format!(
                "the early hints have {} bytes, more than the {} that fit",
                fields.len(),
                max - HEAD_OVERHEAD_BYTES
            ))
            .into());
        }
        if n_fields == 0 {
            return Ok(());
        }
        let mut frame = Vec::new();
        self.completion(CompletionKind::EarlyHints, false, false).encode(
            n_fields,
            &Body::Inline(&[]),
            &mut frame,
        );
        frame.extend_from_slice(&fields);
        self.worker().output.push(py, self.worker(), &frame)?;
        self.worker().output.wake_daemon();
        Ok(())
    }
}
