//! WebSockets (RFC 6455, RFC 7692) between a client and `dispatch`.
//!
//! ```text
//! client ──bytes──▶ receive ──parts──▶ dispatch ──▶ worker: receive()
//!        ◀──bytes── send ◀──messages── dispatch ◀── worker: send()
//! ```
//! `http` checks a handshake, submits it like any request and answers it. Once the application has
//! accepted, [`serve`] takes over the connection until its end. [`receive`] and [`send`] translate
//! between bytes and messages; [`conn`] owns the socket and the timers.
//!
//! A WSGI application speaks the protocol itself, on a socket; [`relay`] forwards the bytes.
//!
//! Messages are not stored here. They are forwarded as they arrive, in parts of at most
//! [`dispatch::MAX_PART`](crate::dispatch::MAX_PART); only their length is compared with the limit.
//! All connections share the buffers for input and output; a connection owns bytes only while the
//! client or the application does not accept them.
//!
//! The frame codec is tungstenite's, deflate is zlib-rs'. The rest is written here for two reasons.
//! tungstenite and yawc store whole messages: up to 16 MiB for each client that announces a message
//! of this length. soketto cannot be polled together with another source of messages. (Only yawc
//! and soketto compress.)

mod close_log;
mod conn;
mod deflate;
mod extension;
mod frame;
mod key;
mod receive;
mod relay;
mod send;
mod timers;
mod utf8;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::dispatch::{Dispatcher, MAX_PART};
use crate::id::WorkerId;
use crate::journal::requests::{Journal, LoggedRequest};
use crate::net::ClientStream;

pub use self::conn::{AcceptedHandshake, WebSocketConn, serve as serve_messages};
use self::deflate::{DeflatePool, InflateBuffer};
pub use self::extension::{DeflateParams, negotiate};
pub use self::key::{accept, is_key};
pub use self::relay::{RelayConn, TakenConnection};

/// Settings that a reload can change, for connections accepted afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// `websocket.max_message`: bytes of one message, after decompression.
    pub max_message: u64,
    /// `websocket.ping_interval`: a client that has been silent for this long is pinged. None:
    /// never.
    pub ping_interval: Option<Duration>,
    /// `websocket.ping_timeout`: time to answer a ping. None: the answer is not awaited.
    pub ping_timeout: Option<Duration>,
    /// `websocket.compression`: accept permessage-deflate.
    pub compression: bool,
}

/// Settings, shared resources and log data of an accepted WebSocket.
#[derive(Debug)]
pub struct AcceptedRequest {
    /// The settings at the time of the handshake; a reload does not change them.
    pub settings: WebSocketSettings,
    /// The resources that all WebSockets share.
    pub resources: Arc<WebSocketResources>,
    /// The handshake request, for the journal.
    pub request: LoggedRequest,
    /// The worker that serves the connection, for the journal.
    pub worker: Option<WorkerId>,
    /// Time at which the handshake request was received completely.
    pub handshake_at: Instant,
    /// `log.access`: whether connections that end without a failure are logged as well.
    pub log_access: bool,
}

/// An accepted WebSocket, which takes over the connection after the 101.
#[derive(Debug)]
pub enum AcceptedUpgrade {
    /// An ASGI application exchanges messages.
    Messages(Box<AcceptedHandshake>),
    /// A WSGI application exchanges bytes.
    Takeover(Box<TakenConnection>, Box<AcceptedRequest>),
}

/// A WebSocket connection. The future completes when it has ended.
#[derive(Debug)]
pub enum UpgradedConn {
    /// Speaks the protocol for an ASGI application.
    Messages(Box<WebSocketConn<ClientStream>>),
    /// Forwards bytes to and from a WSGI application.
    Relay(Box<RelayConn>),
}

/// Serves a WebSocket until its end. `early_input` holds the client's bytes that were read with the
/// handshake.
pub fn serve(stream: ClientStream, early_input: &[u8], accepted: AcceptedUpgrade) -> UpgradedConn {
    match accepted {
        AcceptedUpgrade::Messages(accepted) => {
            UpgradedConn::Messages(conn::serve(stream, early_input, *accepted))
        }
        AcceptedUpgrade::Takeover(taken, accepted) => {
            UpgradedConn::Relay(relay::serve(stream, early_input, *taken, *accepted))
        }
    }
}

impl Future for UpgradedConn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Self::Messages(conn) => Pin::new(&mut **conn).poll(cx),
            Self::Relay(conn) => Pin::new(&mut **conn).poll(cx),
        }
    }
}

/// The resources that all WebSockets share.
#[derive(Debug)]
pub struct WebSocketResources {
    dispatcher: &'static Dispatcher,
    journal: Journal,
    pool: DeflatePool,
    /// `None` before the first poll of a connection, and during each poll. One set of buffers is
    /// enough, because one thread polls all connections.
    scratch: Mutex<Option<Scratch>>,
}

/// The buffers of one poll of a connection.
#[derive(Debug)]
struct Scratch {
    /// Bytes from the client.
    input: Box<[u8]>,
    /// Frames for the client.
    output: Vec<u8>,
    /// Decompressed bytes of at most one part.
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
    /// Creates the resources. They allocate their buffers when the first connection is polled.
    pub fn new(dispatcher: &'static Dispatcher, journal: Journal) -> Arc<Self> {
        Arc::new(Self { dispatcher, journal, pool: DeflatePool::default(), scratch: Mutex::new(None) })
    }

    /// Collects the workers' completions in the middle of a turn of the reactor.
    fn poll_dispatcher(&self) {
        self.dispatcher.poll_now();
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
