//! The context of a WebSocket: its settings, the handshake request, and the resources that all
//! WebSockets share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::dispatch::{Dispatcher, MAX_PART};
use crate::id::WorkerId;
use crate::journal::requests::{Journal, LoggedRequest};

use super::deflate::{DeflatePool, InflateBuffer};

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

/// The resources that all WebSockets share.
#[derive(Debug)]
pub struct WebSocketResources {
    pub(super) dispatcher: &'static Dispatcher,
    pub(super) journal: Journal,
    pub(super) pool: DeflatePool,
    /// `None` before the first poll of a connection, and during each poll. One set of buffers is
    /// enough, because one thread polls all connections.
    scratch: Mutex<Option<Scratch>>,
}

/// The buffers of one poll of a connection.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Bytes from the client.
    pub(super) input: Box<[u8]>,
    /// Frames for the client.
    pub(super) output: Vec<u8>,
    /// Decompressed bytes of at most one part.
    pub(super) inflated: InflateBuffer,
    /// Compressed bytes of one part.
    pub(super) deflated: Vec<u8>,
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
    pub(super) fn poll_dispatcher(&self) {
        self.dispatcher.poll_now();
    }

    pub(super) fn take_scratch(&self) -> Scratch {
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).take();
        scratch.unwrap_or_else(Scratch::new)
    }

    pub(super) fn return_scratch(&self, scratch: Scratch) {
        *self.scratch.lock().unwrap_or_else(PoisonError::into_inner) = Some(scratch);
    }
}
