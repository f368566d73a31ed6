//! The application's `receive`: the request's body, then `http.disconnect`.
//!
//! A body comes with its request, or in parts as far as the application takes it: the daemon is told how far when the
//! application first asks, and again whenever a good part of the window was received. An event is made when it is
//! awaited, not when `receive()` is called, so that a cancelled wait loses nothing.

use std::ffi::CStr;

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rgun_channel::ProtocolError;
use rgun_channel::frame::CompletionKind;

use super::awaitable::{FutureWait, awaited};
use super::exchange::exit_if_forked_child;
use super::response::NO_FIELDS;
use super::state::{Exchange, ExchangeState, Stage};
use crate::fastcall::{Arguments, FastFunction};

/// What the application is called with as its second argument.
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

/// One `receive()`.
#[pyclass(module = "rgun")]
#[derive(Debug)]
pub(super) struct ReceiveAwaitable {
    exchange: Py<Exchange>,
    waiting: FutureWait,
}

awaited!(ReceiveAwaitable);

impl ReceiveAwaitable {
    pub(super) fn new(exchange: &Bound<'_, Exchange>) -> Self {
        exit_if_forked_child(exchange.py(), None);
        Self { exchange: exchange.clone().unbind(), waiting: FutureWait::default() }
    }

    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            if let Some(future) = self.waiting.poll(py)? {
                return Ok(Some(future));
            }
            let exchange = self.exchange.bind(py);
            if let Some(event) = Exchange::next_event(exchange)? {
                return Err(PyStopIteration::new_err(event.unbind()));
            }
            let future = exchange.get().borrow(py).application.event_loop.create_future(py)?;
            exchange.get().borrow_mut(py).receivers.push(future.clone().unbind());
            if let Some(future) = self.waiting.start(&future)? {
                return Ok(Some(future));
            }
        }
    }

    fn give_up(&mut self, py: Python<'_>) {
        if let Some(future) = self.waiting.cancel() {
            Exchange::forget_future(self.exchange.bind(py), &future, |exchange| &mut exchange.receivers);
        }
    }
}

/// What a `receive()` finds.
enum HttpEvent {
    Disconnect,
    Body(Option<Py<PyBytes>>, bool),
    Nothing,
}

impl Exchange {
    /// The next event, if there is one.
    fn next_event<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let py = slf.py();
        let (application, found, asked) = {
            let mut exchange = slf.get().try_borrow_mut(py)?;
            if exchange.websocket.is_some() {
                drop(exchange);
                return Self::next_websocket_event(slf);
            }
            let found = exchange.take_event(py);
            let asked =
                matches!(found, HttpEvent::Nothing | HttpEvent::Body(_, true)) && exchange.advance_window();
            (exchange.application, found, asked)
        };
        if asked {
            let taken = slf.get().borrow(py).body.window_end;
            let told = slf.get().borrow(py).send_window_update(py, taken);
            told.unwrap_or_else(|broken| application.worker.abort_on_protocol_error(&broken));
            application.schedule_flush(py);
        }
        let events = &application.events;
        match found {
            HttpEvent::Nothing => Ok(None),
            HttpEvent::Disconnect => events.disconnect.bind(py).copy().map(Some),
            HttpEvent::Body(None, false) => events.empty.bind(py).copy().map(Some),
            HttpEvent::Body(bytes, more) => {
                let event = events.empty.bind(py).copy()?;
                if let Some(bytes) = bytes {
                    event.set_item(&events.body, bytes)?;
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
    fn take_event(&mut self, py: Python<'_>) -> HttpEvent {
        if self.is_disconnected || self.stage >= Stage::Ended {
            return HttpEvent::Disconnect;
        }
        let body = &mut self.body;
        if body.is_fully_received {
            return if self.is_half_closed { HttpEvent::Disconnect } else { HttpEvent::Nothing };
        }
        let Some(part) = body.parts.pop_front() else {
            body.is_fully_received = body.is_complete;
            return if body.is_complete { HttpEvent::Body(None, false) } else { HttpEvent::Nothing };
        };
        body.received_bytes += part.bind(py).as_bytes().len() as u64;
        body.is_fully_received = body.is_complete && body.parts.is_empty();
        HttpEvent::Body(Some(part), !body.is_fully_received)
    }

    /// Is the daemon to be told that there is room?
    fn advance_window(&mut self) -> bool {
        let body = &mut self.body;
        if !body.is_streamed
            || body.is_complete
            || body.window_end - body.received_bytes > BODY_WINDOW_BYTES - MIN_UPDATE_BYTES
        {
            return false;
        }
        body.window_end = body.received_bytes + BODY_WINDOW_BYTES;
        true
    }

    /// Tells the daemon how far it may send.
    pub(super) fn send_window_update(&self, py: Python<'_>, taken: u64) -> Result<(), ProtocolError> {
        let bytes = taken.to_le_bytes();
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

/// Bytes of a body that may wait here, or be on their way.
const BODY_WINDOW_BYTES: u64 = 256 * 1024;

/// So many of them received, the daemon is told.
const MIN_UPDATE_BYTES: u64 = BODY_WINDOW_BYTES / 4;
