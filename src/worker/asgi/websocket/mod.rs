//! What is different if an exchange is a WebSocket: ASGI WebSocket specification, uvicorn's behaviour.
//!
//! [`incoming`] makes the daemon's parts into `receive()`'s events, [`outgoing`] makes `send()`'s messages into frames.
//! The rest is an exchange like any other: its slot, its task, who waits for it, and how what finds no credit waits. A
//! handshake that is denied goes the way of a response altogether.
//!
//! # When the client has gone
//! What has come from it is received first, then `websocket.disconnect`, as often as it is asked for. `send()` raises
//! [`ClientDisconnected`] at once, an `OSError` as the specification has it since 2.4; only `websocket.close` is taken
//! without a word: frameworks and their users close in a `finally`, and uvicorn does not mind while the event is fresh.
//! An exception that says no more than that the client has gone ends the exchange quietly.
//!
//! # Costs
//! Ten thousand of them idle: each has its task, what the application keeps, and a few hundred bytes here. Nothing is
//! allocated for messages that do not exist. What waits for the application is bounded by [`MESSAGE_WINDOW`] and by one message.

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
    "What `send()` of a WebSocket raises when its client has gone."
);

/// What an exchange has of its own if it is a WebSocket.
#[derive(Debug, Default)]
pub(super) struct WebSocket {
    /// `websocket.connect` was received.
    connect_received: bool,
    /// Whole ones that were not received.
    messages: VecDeque<Message>,
    /// The parts so far of one that goes on.
    partial: Vec<u8>,
    /// What those cost of which the daemon has not been told.
    unpaid: u64,
    /// Cost of what the application has received, or of what had to be taken without that.
    paid: u64,
    /// How far the daemon has been told to send.
    window_end: u64,
    /// Code and reason of whoever closed it first.
    close: Option<(u16, Box<str>)>,
}

/// One that came.
#[derive(Debug)]
struct Message {
    /// `str` or `bytes`.
    content: Py<PyAny>,
    is_text: bool,
    /// What of its cost the daemon is told of when it is received.
    cost: u64,
}

/// Cost ([`MESSAGE_COST`] and bytes) of what may wait here, or be on its way.
const MESSAGE_WINDOW: u64 = 64 * 1024;

/// So much of it received, the daemon is told.
const MIN_MESSAGE_UPDATE: u64 = MESSAGE_WINDOW / 4;

/// What `receive()` says if nobody has closed it (RFC 6455 §7.1.5).
const CLOSE_ABNORMAL: u16 = 1006;

impl WebSocket {
    /// How far the daemon is to be told that it may send, if it is.
    fn advance_window(&mut self) -> Option<u64> {
        let taken = self.paid + MESSAGE_WINDOW;
        if taken < self.window_end + MIN_MESSAGE_UPDATE {
            return None;
        }
        self.window_end = taken;
        Some(taken)
    }

    /// Whoever closes it first says why.
    fn record_close(&mut self, code: u16, reason: &str) {
        if self.close.is_none() {
            self.close = Some((code, reason.into()));
        }
    }
}

/// What a part costs.
fn part_cost(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + MESSAGE_COST
}
