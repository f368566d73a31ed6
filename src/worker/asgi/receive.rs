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

use super::awaitable::{Waiting, awaited};
use super::exchange::exit_if_forked_child;
use super::response::NO_FIELDS;
use super::state::{Exchange, Stage, State};
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
        Some(Bound::new(exchange.py(), Receiving::new(exchange)).map(Bound::into_any))
    }
}

/// One `receive()`.
#[pyclass(module = "rgun")]
#[derive(Debug)]
pub(super) struct Receiving {
    exchange: Py<Exchange>,
    waiting: Waiting,
}

awaited!(Receiving);

impl Receiving {
    pub(super) fn new(exchange: &Bound<'_, Exchange>) -> Self {
        exit_if_forked_child(exchange.py(), None);
        Self { exchange: exchange.clone().unbind(), waiting: Waiting::default() }
    }

    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            if let Some(future) = self.waiting.go_on(py)? {
                return Ok(Some(future));
            }
            let exchange = self.exchange.bind(py);
            if let Some(event) = Exchange::event(exchange)? {
                return Err(PyStopIteration::new_err(event.unbind()));
            }
            let future = exchange.get().borrow(py).served.event_loop.create_future(py)?;
            exchange.get().borrow_mut(py).receivers.push(future.clone().unbind());
            if let Some(future) = self.waiting.begin(&future)? {
                return Ok(Some(future));
            }
        }
    }

    fn give_up(&mut self, py: Python<'_>) {
        if let Some(future) = self.waiting.give_up() {
            Exchange::forget_future(self.exchange.bind(py), &future, |exchange| &mut exchange.receivers);
        }
    }
}

/// What a `receive()` finds.
enum Found {
    Disconnect,
    Body(Option<Py<PyBytes>>, bool),
    Nothing,
}

impl Exchange {
    /// The next event, if there is one.
    fn event<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let py = slf.py();
        let (served, found, asked) = {
            let mut exchange = slf.get().try_borrow_mut(py)?;
            if exchange.websocket.is_some() {
                drop(exchange);
                return Self::websocket_event(slf);
            }
            let found = exchange.found(py);
            let asked = matches!(found, Found::Nothing | Found::Body(_, true)) && exchange.asks_for_more();
            (exchange.served, found, asked)
        };
        if asked {
            let taken = slf.get().borrow(py).body.taken;
            let told = slf.get().borrow(py).tell_taken(py, taken);
            told.unwrap_or_else(|broken| served.worker.abort_on_protocol_error(&broken));
            served.owe(py);
        }
        let events = &served.events;
        match found {
            Found::Nothing => Ok(None),
            Found::Disconnect => events.disconnect.bind(py).copy().map(Some),
            Found::Body(None, false) => events.empty.bind(py).copy().map(Some),
            Found::Body(bytes, more) => {
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

impl State {
    fn found(&mut self, py: Python<'_>) -> Found {
        if self.is_disconnected || self.stage >= Stage::Ended {
            return Found::Disconnect;
        }
        let body = &mut self.body;
        if body.is_received {
            return if self.is_half_closed { Found::Disconnect } else { Found::Nothing };
        }
        let Some(part) = body.parts.pop_front() else {
            body.is_received = body.is_complete;
            return if body.is_complete { Found::Body(None, false) } else { Found::Nothing };
        };
        body.received += part.bind(py).as_bytes().len() as u64;
        body.is_received = body.is_complete && body.parts.is_empty();
        Found::Body(Some(part), !body.is_received)
    }

    /// Is the daemon to be told that there is room?
    fn asks_for_more(&mut self) -> bool {
        let body = &mut self.body;
        if !body.streams || body.is_complete || body.taken - body.received > WINDOW - STEP {
            return false;
        }
        body.taken = body.received + WINDOW;
        true
    }

    /// Tells the daemon how far it may send.
    pub(super) fn tell_taken(&self, py: Python<'_>, taken: u64) -> Result<(), ProtocolError> {
        let bytes = taken.to_le_bytes();
        self.frame(
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
const WINDOW: u64 = 256 * 1024;

/// So many of them received, the daemon is told.
const STEP: u64 = WINDOW / 4;
