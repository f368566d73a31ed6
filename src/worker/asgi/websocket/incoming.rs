//! Assembles messages from the daemon's parts, and makes the events that `receive()` returns:
//! `websocket.connect`, `websocket.receive`, `websocket.disconnect`.
//!
//! # Credit
//! The cost of a message is credited when the application receives the message. An incomplete
//! message cannot be received, so its parts are credited on arrival, but not while complete
//! messages are queued: the queue could otherwise grow without bound.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use rgun_channel::ProtocolError;

use super::{CLOSE_ABNORMAL, Message, WebSocket, part_cost};
use crate::asgi::awaitable;
use crate::asgi::state::{Exchange, ExchangeState, Stage};

/// Maximum capacity of an empty message queue; a larger one is freed.
const MAX_IDLE_CAPACITY: usize = 8;

/// The next event of a WebSocket.
enum WebSocketEvent {
    Connect,
    Message(Message),
    Disconnect { code: u16, reason: Box<str> },
}

impl WebSocket {
    /// Adds a part. Returns whether it completes a message.
    fn add_part(
        &mut self,
        py: Python<'_>,
        bytes: &[u8],
        is_text: bool,
        more: bool,
    ) -> Result<bool, ProtocolError> {
        if more {
            self.partial.extend_from_slice(bytes);
            self.partial_cost += part_cost(bytes);
            self.credit_partial();
            return Ok(false);
        }
        let mut assembled = std::mem::take(&mut self.partial);
        let content = if assembled.is_empty() {
            to_python(py, bytes, is_text)?
        } else {
            assembled.extend_from_slice(bytes);
            to_python(py, &assembled, is_text)?
        };
        let cost = std::mem::take(&mut self.partial_cost) + part_cost(bytes);
        self.messages.push_back(Message { content, is_text, cost });
        Ok(true)
    }

    /// Credits the parts of the incomplete message, unless complete messages are queued.
    fn credit_partial(&mut self) {
        if self.messages.is_empty() {
            self.credited += std::mem::take(&mut self.partial_cost);
        }
    }

    /// Takes the next event; `None` if there is none yet.
    fn take_event(&mut self, is_closed: bool) -> Option<WebSocketEvent> {
        if !self.connect_received {
            self.connect_received = true;
            return Some(WebSocketEvent::Connect);
        }
        if let Some(message) = self.messages.pop_front() {
            self.credited += message.cost;
            if self.messages.is_empty() && self.messages.capacity() > MAX_IDLE_CAPACITY {
                self.messages = std::collections::VecDeque::new();
            }
            self.credit_partial();
            return Some(WebSocketEvent::Message(message));
        }
        if !is_closed {
            return None;
        }
        let (code, reason) = self.close.clone().unwrap_or((CLOSE_ABNORMAL, "".into()));
        Some(WebSocketEvent::Disconnect { code, reason })
    }
}

/// Makes the `str` or `bytes` of a message.
fn to_python(py: Python<'_>, bytes: &[u8], is_text: bool) -> Result<Py<PyAny>, ProtocolError> {
    if !is_text {
        return Ok(PyBytes::new(py, bytes).into_any().unbind());
    }
    let text = str::from_utf8(bytes).map_err(|_| ProtocolError::Frame("a text message is not UTF-8"))?;
    Ok(PyString::new(py, text).into_any().unbind())
}

impl Exchange {
    /// Handles a part of a message.
    pub(in crate::asgi) fn on_message_part(
        slf: &Bound<'_, Self>,
        bytes: &[u8],
        text: bool,
        more: bool,
    ) -> Result<(), ProtocolError> {
        let py = slf.py();
        let (worker, receivers, window_end) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            let Some(websocket) = exchange.websocket.as_deref_mut() else { return Ok(()) };
            if exchange.stage >= Stage::Ended || exchange.is_disconnected {
                // The daemon may have sent the part before it knew of the close.
                return Ok(());
            }
            let is_complete = websocket.add_part(py, bytes, text, more)?;
            let receivers = if is_complete { std::mem::take(&mut exchange.receivers) } else { Vec::new() };
            (exchange.application.worker, receivers, websocket.advance_window())
        };
        if let Some(window_end) = window_end {
            slf.get().borrow(py).send_window_update(py, window_end)?;
        }
        awaitable::wake_futures(py, worker, receivers);
        Ok(())
    }

    /// Takes the next event, if there is one, and advances the window.
    pub(in crate::asgi) fn next_websocket_event<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let py = slf.py();
        let (application, event, window_end) = {
            let exchange = &mut *slf.get().try_borrow_mut(py)?;
            let is_closed = exchange.is_disconnected || exchange.stage >= Stage::Ended;
            let Some(websocket) = exchange.websocket.as_deref_mut() else { return Ok(None) };
            let event = websocket.take_event(is_closed);
            // The window opens when the application accepts.
            let is_open = exchange.stage == Stage::Open && !is_closed;
            (exchange.application, event, if is_open { websocket.advance_window() } else { None })
        };
        if let Some(window_end) = window_end {
            let sent = slf.get().borrow(py).send_window_update(py, window_end);
            sent.unwrap_or_else(|error| application.worker.abort_on_protocol_error(&error));
            application.schedule_flush(py);
        }
        let events = &application.websocket_constants.events;
        match event {
            None => Ok(None),
            Some(WebSocketEvent::Connect) => events.connect.bind(py).copy().map(Some),
            Some(WebSocketEvent::Message(message)) => {
                let event = events.receive.bind(py).copy()?;
                let key = if message.is_text { &events.text } else { &events.bytes };
                event.set_item(key, message.content)?;
                Ok(Some(event))
            }
            Some(WebSocketEvent::Disconnect { code, reason }) => {
                let event = events.disconnect.bind(py).copy()?;
                event.set_item(&events.code, code)?;
                event.set_item(&events.reason, &*reason)?;
                Ok(Some(event))
            }
        }
    }
}

impl ExchangeState {
    /// Records code and reason of a disconnect, if the exchange is a WebSocket.
    pub(in crate::asgi) fn record_client_close(
        &mut self,
        code: u16,
        reason: &[u8],
    ) -> Result<(), ProtocolError> {
        let Some(websocket) = self.websocket.as_deref_mut() else { return Ok(()) };
        let reason =
            str::from_utf8(reason).map_err(|_| ProtocolError::Frame("a close reason is not UTF-8"))?;
        websocket.record_close(code, reason);
        // An incomplete message is never received.
        websocket.partial = Vec::new();
        Ok(())
    }
}
