//! WebSockets (RFC 6455, RFC 7692) between a client and `dispatch`.
//!
//! ```text
//! client ──bytes──▶ receive ──parts──▶ dispatch ──▶ worker: receive()
//!        ◀──bytes── send ◀──messages── dispatch ◀── worker: send()
//! ```
//! `http` checks a handshake, submits it like any request and answers it. Once the application has accepted,
//! [`serve`] takes over the connection until its end. [`receive`] and [`send`] translate between bytes and messages and
//! know neither socket nor clock; [`conn`] has both.
//!
//! A message is not stored here: it is forwarded as it arrives, in parts of at most
//! [`dispatch::MAX_PART`](crate::dispatch::MAX_PART), and only its length is compared with the limit. All connections share the
//! buffers for input and output; a connection owns bytes only while the client or the application does not take them.
//!
//! The frame codec is tungstenite's, deflate is zlib-rs'. The rest is written here because the libraries store whole
//! messages (tungstenite, yawc: 16 MiB for each client that announces one) or cannot be polled together with another
//! source of messages (soketto); of them, only yawc and soketto compress.

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

use crate::dispatch::{Dispatcher, MAX_PART};
use crate::journal::requests::Journal;

pub use self::conn::{AcceptedHandshake, WebSocketConn, serve};
use self::deflate::{DeflatePool, InflateBuffer};
pub use self::extension::{DeflateParams, negotiate};
pub use self::key::{accept, is_key};

/// Settings that a reload can change, for connections accepted afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// `websocket.max_message`: bytes of one message, after decompression.
    pub max_message: u64,
    /// `websocket.ping_interval`: a client that has been silent for this long is pinged. None: never.
    pub ping_interval: Option<Duration>,
    /// `websocket.ping_timeout`: time to answer a ping. None: the answer is not awaited.
    pub ping_timeout: Option<Duration>,
    /// `websocket.compression`: accept permessage-deflate.
    pub compression: bool,
}

/// The resources that all WebSockets share.
#[derive(Debug)]
pub struct WebSocketResources {
    dispatcher: &'static Dispatcher,
    journal: Journal,
    pool: DeflatePool,
    /// None while a connection is being polled. One is enough, since one thread polls them all.
    scratch: Mutex<Option<Scratch>>,
}

/// The buffers of one poll of a connection.
#[derive(Debug)]
struct Scratch {
    /// Bytes from the client.
    input: Box<[u8]>,
    /// Frames for the client.
    output: Vec<u8>,
    /// Decompressed bytes, at most one part.
    inflated: InflateBuffer,
    /// Compressed bytes of one part.
    deflated: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self {
            input: vec![0; MAX_PART].into_boxed_slice(),
            output: Vec::with_capacity(MAX_PART),
            inflated: InflateBuffer::new(MAX_PART),
            deflated: Vec::new(),
        }
    }
}

impl WebSocketResources {
    /// Creates the resources, without a connection.
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
