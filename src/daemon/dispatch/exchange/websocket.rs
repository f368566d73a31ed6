//! The state of a WebSocket in its exchange. Values only; `websocket_messages` checks the order of
//! the messages.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::Bytes;

/// Code of a connection that ended without a close frame (RFC 6455 §7.1.5).
pub(crate) const ABNORMAL_CLOSURE: u16 = 1006;

/// An event from the application, or the dispatcher, to the client's connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A message, or a part of one.
    Message {
        /// The payload, perhaps empty.
        bytes: Bytes,
        /// The message is text, and UTF-8 as a whole; a part may end within a character. False:
        /// binary.
        text: bool,
        /// Another part follows.
        more: bool,
    },
    /// The application has closed the WebSocket, or returned. Nothing follows.
    Close {
        /// RFC 6455 §7.4, unchecked: the worker can send any number.
        code: u16,
        /// UTF-8 that fits into a control frame, unless the worker breaks the contract.
        reason: Bytes,
    },
    /// The worker or the daemon is about to stop: the connection must close with 1012. Sent once.
    GoingAway {
        /// Time from now after which to close.
        after: Duration,
    },
}

/// The part of an exchange that only a WebSocket handshake has.
#[derive(Debug, Default)]
pub(crate) struct WebSocketState {
    /// The application has accepted the handshake.
    pub(crate) is_accepted: bool,
    /// The offer to a WSGI application to take over the connection; `None` for an ASGI application,
    /// which exchanges messages.
    pub(crate) takeover: Option<TakeoverOffer>,
    /// Events from the application that the connection has not taken.
    pub(crate) messages: VecDeque<Outgoing>,
    /// The time in an [`Outgoing::GoingAway`] that the connection has not taken.
    pub(crate) close_after: Option<Duration>,
    /// [`Outgoing::GoingAway`] was queued.
    pub(crate) is_closing: bool,
}

/// The socket on which a WSGI application may answer a handshake, and then speak the protocol
/// itself.
#[derive(Debug, Default)]
pub(crate) struct TakeoverOffer {
    /// The daemon's end of the socket pair, until the connection takes it. `None` also before the
    /// exchange is assigned.
    pub(crate) socket: Option<UnixStream>,
}

impl WebSocketState {
    /// Creates the state of a handshake that goes to a WSGI application.
    pub(crate) fn for_takeover() -> Self {
        Self { takeover: Some(TakeoverOffer::default()), ..Self::default() }
    }

    /// Drops the messages and the queue's memory.
    pub(crate) fn drop_messages(&mut self) {
        self.messages = VecDeque::new();
    }
}
