//! The code that only WebSockets need. References: the ASGI WebSocket specification and uvicorn's
//! behaviour.
//!
//! [`incoming`] assembles messages and makes the events of `receive()`, [`outgoing`] turns the
//! messages of `send()` into frames. Everything else is the same as for a request: slot, task,
//! waiting and flow control. A denied handshake is answered like a request.
//!
//! # Disconnect
//! `receive()` first returns the messages received before the disconnect, then
//! `websocket.disconnect` from each further call. `send()` raises [`ClientDisconnected`] at once,
//! an `OSError` as the specification demands since 2.4. Only `websocket.close` of an open WebSocket
//! is ignored, because frameworks and applications close in a `finally`. An exception that only
//! says that the client has disconnected ends the exchange without an error.
//!
//! # Memory
//! Ten thousand WebSockets may be idle: each costs its task, the application's objects, and a few
//! hundred bytes here. Buffers of messages are allocated on demand. The messages queued for the
//! application are bounded by [`MESSAGE_WINDOW`] and one more message.

mod constants;
mod incoming;
mod outgoing;

use std::collections::VecDeque;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use rgun_channel::frame::MESSAGE_COST;

pub(super) use constants::WebSocketConstants;
pub(super) use outgoing::{process, process_after_disconnect};

pyo3::create_exception!(
    rgun,
    ClientDisconnected,
    PyOSError,
    "Raised by `send()` of a WebSocket whose client has disconnected."
);

/// The part of an exchange's state that only a WebSocket has.
#[derive(Debug, Default)]
pub(super) struct WebSocket {
    /// `receive()` has returned `websocket.connect`.
    connect_received: bool,
    /// Complete messages that `receive()` has not returned.
    messages: VecDeque<Message>,
    /// Parts of the incomplete message.
    partial: Vec<u8>,
    /// Cost of `partial` that has not been credited yet.
    partial_cost: u64,
    /// Total cost of received messages and credited parts.
    credited: u64,
    /// Total cost up to which the daemon may send.
    window_end: u64,
    /// Code and reason of the first close, by either side; `None` before.
    close: Option<(u16, Box<str>)>,
}

/// A complete message from the client.
#[derive(Debug)]
struct Message {
    /// `str` or `bytes`.
    content: Py<PyAny>,
    is_text: bool,
    /// Cost to credit when the message is received.
    cost: u64,
}

/// Maximum cost (bytes, and [`MESSAGE_COST`] per part) of messages queued here and in transit.
const MESSAGE_WINDOW: u64 = 64 * 1024;

/// Minimum advance of the window, so that not every `receive()` sends an update.
const MIN_MESSAGE_UPDATE: u64 = MESSAGE_WINDOW / 4;

/// Code of a disconnect without a close frame (RFC 6455 §7.1.5).
const CLOSE_ABNORMAL: u16 = 1006;

impl WebSocket {
    /// Advances the window if at least [`MIN_MESSAGE_UPDATE`] was credited. Returns its new end.
    fn advance_window(&mut self) -> Option<u64> {
        let window_end = self.credited + MESSAGE_WINDOW;
        if window_end < self.window_end + MIN_MESSAGE_UPDATE {
            return None;
        }
        self.window_end = window_end;
        Some(window_end)
    }

    /// Records code and reason of a close, unless an earlier close is recorded.
    fn record_close(&mut self, code: u16, reason: &str) {
        if self.close.is_none() {
            self.close = Some((code, reason.into()));
        }
    }
}

/// Returns the cost of a part.
fn part_cost(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + MESSAGE_COST
}
