//! The application's `receive()`: the request body, then `http.disconnect`.
//!
//! A body comes with its request, or in parts within a window. The window opens at the first
//! `receive()` and advances whenever [`MIN_UPDATE_BYTES`] of it were received. An event is made
//! when the call is awaited, not when `receive()` is called, so a cancelled wait loses no event.

use std::ffi::CStr;

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rgun_channel::ProtocolError;
use rgun_channel::frame::CompletionKind;

use super::awaitable::{FutureWait, coroutine_methods};
use super::response::NO_FIELDS;
use super::state::{Exchange, ExchangeState, RequestBody, Stage};
use crate::fastcall::{Arguments, FastFunction};
use crate::python::exit_if_forked_child;

/// The `receive` function passed to the application.
pub(super) struct Receive;

impl FastFunction for Receive {
    type Object = Exchange;
    const NAME: &'static CStr = c"receive";

    fn call<'py>(
        exchange: &Bound<'py, Exchange>,
        arguments: Arguments<'_, 'py>,
    ) -> Option<PyResult<Bound<'py, PyAny>>> {
        let [None, None, None] = arguments else { return None };
        Some(Bound::new(exchange.py(), ReceiveAwaitable::new(exchange)).map(Bound::into_any))
    }
}

/// One `receive()` call.
#[pyclass(module = "rgun")]
#[derive(Debug)]
pub(super) struct ReceiveAwaitable {
    exchange: Py<Exchange>,
    wait: FutureWait,
}

coroutine_methods!(ReceiveAwaitable);

impl ReceiveAwaitable {
    pub(super) fn new(exchange: &Bound<'_, Exchange>) -> Self {
        exit_if_forked_child(exchange.py(), None);
        Self { exchange: exchange.clone().unbind(), wait: FutureWait::default() }
    }

    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            if let Some(future) = self.wait.poll(py)? {
                return Ok(Some(future));
            }
            let exchange = self.exchange.bind(py);
            if let Some(event) = Exchange::next_event(exchange)? {
                return Err(PyStopIteration::new_err(event.unbind()));
            }
            let future = exchange.get().borrow(py).application.event_loop.create_future(py)?;
            exchange.get().borrow_mut(py).receivers.push(future.clone().unbind());
            if let Some(future) = self.wait.start(&future)? {
                return Ok(Some(future));
            }
        }
    }

    fn cancel(&mut self, py: Python<'_>) {
        if let Some(future) = self.wait.cancel() {
            Exchange::forget_future(self.exchange.bind(py), &future, |exchange| &mut exchange.receivers);
        }
    }
}

/// The next event of a request.
enum HttpEvent {
    Disconnect,
    Body {
        /// `None` for an empty body.
        part: Option<Py<PyBytes>>,
        more: bool,
    },
}

impl Exchange {
    /// Takes the next event, if there is one, and opens or advances the window.
    fn next_event<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let py = slf.py();
        let (application, event, window_end) = {
            let mut exchange = slf.get().try_borrow_mut(py)?;
            if exchange.websocket.is_some() {
                drop(exchange);
                return Self::next_websocket_event(slf);
            }
            let event = exchange.take_event(py);
            let window_end = match event {
                None | Some(HttpEvent::Body { more: true, .. }) => exchange.body.advance_window(),
                Some(HttpEvent::Disconnect | HttpEvent::Body { more: false, .. }) => None,
            };
            (exchange.application, event, window_end)
        };
        if let Some(window_end) = window_end {
            let sent = slf.get().borrow(py).send_window_update(py, window_end);
            sent.unwrap_or_else(|error| application.worker.abort_on_protocol_error(&error));
            application.schedule_flush(py);
        }
        let events = &application.events;
        match event {
            None => Ok(None),
            Some(HttpEvent::Disconnect) => events.disconnect.bind(py).copy().map(Some),
            Some(HttpEvent::Body { part, more }) => {
                let event = events.empty.bind(py).copy()?;
                if let Some(part) = part {
                    event.set_item(&events.body, part)?;
                }
                if more {
                    event.set_item(&events.more_body, true)?;
                }
                Ok(Some(event))
            }
        }
    }
}

impl ExchangeState {
    /// Takes the next event; `None` if there is none yet.
    fn take_event(&mut self, py: Python<'_>) -> Option<HttpEvent> {
        if self.is_disconnected || self.stage >= Stage::Ended {
            return Some(HttpEvent::Disconnect);
        }
        let body = &mut self.body;
        if body.is_fully_received {
            return self.is_half_closed.then_some(HttpEvent::Disconnect);
        }
        let Some(part) = body.parts.pop_front() else {
            body.is_fully_received = body.is_complete;
            return body.is_complete.then_some(HttpEvent::Body { part: None, more: false });
        };
        body.received_bytes += part.bind(py).as_bytes().len() as u64;
        body.is_fully_received = body.is_complete && body.parts.is_empty();
        Some(HttpEvent::Body { part: Some(part), more: !body.is_fully_received })
    }

    /// Tells the daemon the offset up to which it may send.
    pub(super) fn send_window_update(&self, py: Python<'_>, window_end: u64) -> Result<(), ProtocolError> {
        let bytes = window_end.to_le_bytes();
        self.push_frame(
            py,
            CompletionKind::WindowUpdate,
            NO_FIELDS,
            &rgun_channel::frame::Body::Inline(&bytes),
            false,
            false,
        )
    }
}

impl RequestBody {
    /// Advances the window if at least [`MIN_UPDATE_BYTES`] of it are used up. Returns its new end.
    fn advance_window(&mut self) -> Option<u64> {
        if !self.is_streamed
            || self.is_complete
            || self.window_end - self.received_bytes > BODY_WINDOW_BYTES - MIN_UPDATE_BYTES
        {
            return None;
        }
        self.window_end = self.received_bytes + BODY_WINDOW_BYTES;
        Some(self.window_end)
    }
}

/// Maximum number of body bytes queued in the exchange and in transit.
const BODY_WINDOW_BYTES: u64 = 256 * 1024;

/// Minimum advance of the window, so that not every `receive()` sends an update.
const MIN_UPDATE_BYTES: u64 = BODY_WINDOW_BYTES / 4;
