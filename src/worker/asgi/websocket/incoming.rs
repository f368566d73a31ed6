//! From the daemon's parts to what `receive()` gives: `websocket.connect`, `websocket.receive`, `websocket.disconnect`.
//!
//! # Credit
//! A message is paid for when the application has received it. Of one that goes on nothing can be received, so its parts
//! are paid for when they come; but only while no other message waits, or one after the other could pile up.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use rgun_channel::ProtocolError;

use super::{CLOSE_ABNORMAL, Message, WebSocket, part_cost};
use crate::asgi::awaitable;
use crate::asgi::state::{Exchange, ExchangeState, Stage};

/// A queue that a burst has made larger than this is let go of when it is empty.
const MAX_IDLE_CAPACITY: usize = 8;

/// What a `receive()` finds.
enum WebSocketEvent {
    Connect,
    Message(Message),
    Disconnect(u16, Box<str>),
    Nothing,
}

impl WebSocket {
    /// Takes a part; true if that makes a message whole.
    fn add_part(
        &mut self,
        py: Python<'_>,
        bytes: &[u8],
        is_text: bool,
        more: bool,
    ) -> Result<bool, ProtocolError> {
        if more {
            self.partial.extend_from_slice(bytes);
            self.unpaid += part_cost(bytes);
            self.settle_unpaid();
            return Ok(false);
        }
        let mut assembled = std::mem::take(&mut self.partial);
        let content = if assembled.is_empty() {
            to_python(py, bytes, is_text)?
        } else {
            assembled.extend_from_slice(bytes);
            to_python(py, &assembled, is_text)?
        };
        let cost = std::mem::take(&mut self.unpaid) + part_cost(bytes);
        self.messages.push_back(Message { content, is_text, cost });
        Ok(true)
    }

    /// What is being put together does not wait for the application, unless the application is behind.
    fn settle_unpaid(&mut self) {
        if self.messages.is_empty() {
            self.paid += std::mem::take(&mut self.unpaid);
        }
    }

    fn take_event(&mut self, is_over: bool) -> WebSocketEvent {
        if !self.connect_received {
            self.connect_received = true;
            return WebSocketEvent::Connect;
        }
        if let Some(message) = self.messages.pop_front() {
            self.paid += message.cost;
            if self.messages.is_empty() && self.messages.capacity() > MAX_IDLE_CAPACITY {
                self.messages = std::collections::VecDeque::new();
            }
            self.settle_unpaid();
            return WebSocketEvent::Message(message);
        }
        if !is_over {
            return WebSocketEvent::Nothing;
        }
        let (code, reason) = self.close.clone().unwrap_or((CLOSE_ABNORMAL, "".into()));
        WebSocketEvent::Disconnect(code, reason)
    }
}

fn to_python(py: Python<'_>, bytes: &[u8], is_text: bool) -> Result<Py<PyAny>, ProtocolError> {
    if !is_text {
        return Ok(PyBytes::new(py, bytes).into_any().unbind());
    }
    let text = str::from_utf8(bytes).map_err(|_| ProtocolError::Frame("a text message is not UTF-8"))?;
    Ok(PyString::new(py, text).into_any().unbind())
}

impl Exchange {
    /// A message, or a part of one.
    pub(in crate::asgi) fn on_message_part(
        slf: &Bound<'_, Self>,
        bytes: &[u8],
        text: bool,
        more: bool,
    ) -> Result<(), ProtocolError> {
        let py = slf.py();
        let (worker, receivers, taken) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            let Some(websocket) = exchange.websocket.as_deref_mut() else { return Ok(()) };
            if exchange.stage >= Stage::Ended || exchange.is_disconnected {
                // Closed by the application, which expects no more.
                return Ok(());
            }
            let is_whole = websocket.add_part(py, bytes, text, more)?;
            let receivers = if is_whole { std::mem::take(&mut exchange.receivers) } else { Vec::new() };
            (exchange.application.worker, receivers, websocket.advance_window())
        };
        if let Some(taken) = taken {
            slf.get().borrow(py).send_window_update(py, taken)?;
        }
        awaitable::wake_futures(py, worker, receivers);
        Ok(())
    }

    /// The next event, if there is one.
    pub(in crate::asgi) fn next_websocket_event<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let py = slf.py();
        let (application, found, taken) = {
            let exchange = &mut *slf.get().try_borrow_mut(py)?;
            let is_over = exchange.is_disconnected || exchange.stage >= Stage::Ended;
            let Some(websocket) = exchange.websocket.as_deref_mut() else { return Ok(None) };
            let found = websocket.take_event(is_over);
            // Before it is accepted, nothing is taken.
            let is_open = exchange.stage == Stage::Open && !is_over;
            (exchange.application, found, if is_open { websocket.advance_window() } else { None })
        };
        if let Some(taken) = taken {
            let told = slf.get().borrow(py).send_window_update(py, taken);
            told.unwrap_or_else(|broken| application.worker.abort_on_protocol_error(&broken));
            application.schedule_flush(py);
        }
        let events = &application.websocket_constants.events;
        match found {
            WebSocketEvent::Nothing => Ok(None),
            WebSocketEvent::Connect => events.connect.bind(py).copy().map(Some),
            WebSocketEvent::Message(message) => {
                let event = events.receive.bind(py).copy()?;
                let key = if message.is_text { &events.text } else { &events.bytes };
                event.set_item(key, message.content)?;
                Ok(Some(event))
            }
            WebSocketEvent::Disconnect(code, reason) => {
                let event = events.disconnect.bind(py).copy()?;
                event.set_item(&events.code, code)?;
                event.set_item(&events.reason, &*reason)?;
                Ok(Some(event))
            }
        }
    }
}

impl ExchangeState {
    /// Why the client has gone, if it is a WebSocket's.
    pub(in crate::asgi) fn record_client_close(
        &mut self,
        code: u16,
        reason: &[u8],
    ) -> Result<(), ProtocolError> {
        let Some(websocket) = self.websocket.as_deref_mut() else { return Ok(()) };
        let reason =
            str::from_utf8(reason).map_err(|_| ProtocolError::Frame("a close reason is not UTF-8"))?;
        websocket.record_close(code, reason);
        // What was being put together is of no use to anybody.
        websocket.partial = Vec::new();
        Ok(())
    }
}
