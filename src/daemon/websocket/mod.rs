//! WebSockets (RFC 6455, RFC 7692) between a client and `dispatch`.
//!
//! ```text
//! client ──bytes──▶ receive ──parts──▶ dispatch ──▶ worker: receive()
//!        ◀──bytes── send ◀──messages── dispatch ◀── worker: send()
//! ```
//! `http` checks a handshake, submits it like any request and answers it; when the application has accepted it, it
//! hands the connection over to [`serve`], which stays on it until its end. Frames, UTF-8, compression and their state
//! ([`receive`], [`send`]) know neither sockets nor clocks; [`conn`] has both.
//!
//! A message is passed on as it comes, in parts of at most [`dispatch::PART`](crate::dispatch::PART): it is never held
//! here, and its size is a sum that is compared with the limit. What lies idle has no buffers: those that bytes are
//! read into and written from belong to all connections, and one has bytes of its own only while somebody does not
//! take them.
//!
//! The frames are tungstenite's, inflating and deflating zlib-rs'. What is here is what no library does: those that
//! there are keep whole messages (tungstenite, yawc: 16 MiB for each client that cares to announce them) or cannot be
//! polled beside anything else (soketto), and of them only yawc and soketto know compression.

mod close_log;
mod conn;
mod deflate;
mod extension;
mod frame;
mod key;
mod receive;
mod send;
mod timers;
mod utf8;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::dispatch::{Dispatcher, PART};
use crate::journal::requests::Journal;

pub use self::conn::{AcceptedHandshake, WebSocketConn, serve};
use self::deflate::{DeflatePool, InflateBuffer};
pub use self::extension::{DeflateParams, negotiate};
pub use self::key::{accept, is_key};

/// What a reload can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// `websocket.max_message`: bytes of one message.
    pub max_message: u64,
    /// `websocket.ping_interval`: a client of which nothing is heard for so long is asked whether it is there.
    pub ping_interval: Option<Duration>,
    /// `websocket.ping_timeout`: how long it has to answer.
    pub ping_timeout: Option<Duration>,
    /// `websocket.compression`.
    pub compression: bool,
}

/// What all WebSockets have together, whatever their settings.
#[derive(Debug)]
pub struct WebSocketResources {
    dispatcher: &'static Dispatcher,
    journal: Journal,
    pool: DeflatePool,
    /// There is one reactor, so one is enough.
    scratch: Mutex<Option<Scratch>>,
}

/// Room to work in, for as long as a socket has its turn.
#[derive(Debug)]
struct Scratch {
    /// What has been read.
    input: Box<[u8]>,
    /// What is to be written.
    output: Vec<u8>,
    /// What has been inflated: no more than fits into a part.
    inflated: InflateBuffer,
    /// What has been deflated.
    deflated: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self {
            input: vec![0; PART].into_boxed_slice(),
            output: Vec::with_capacity(PART),
            inflated: InflateBuffer::new(PART),
            deflated: Vec::new(),
        }
    }
}

impl WebSocketResources {
    /// Of no socket yet.
    pub fn new(dispatcher: &'static Dispatcher, journal: Journal) -> Arc<Self> {
        Arc::new(Self { dispatcher, journal, pool: DeflatePool::default(), scratch: Mutex::new(None) })
    }

    fn take_scratch(&self) -> Scratch {
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).take();
        scratch.unwrap_or_else(Scratch::new)
    }

    fn return_scratch(&self, scratch: Scratch) {
        *self.scratch.lock().unwrap_or_else(PoisonError::into_inner) = Some(scratch);
    }
}

#[cfg(test)]
mod tests;
