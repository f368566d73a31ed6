//! What an exchange keeps of a WebSocket: whether the application has accepted it, and what it has said on it.
//!
//! Values only; `websocket` decides what may come when.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

/// Gone without a close frame (RFC 6455 §7.1.5).
pub(crate) const ABNORMAL_CLOSURE: u16 = 1006;

/// What an application says on a WebSocket that it has accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A message, or a part of one.
    Message {
        /// Its bytes, perhaps none.
        bytes: Bytes,
        /// It is text (UTF-8 as a whole; a part may end within a character); else binary.
        text: bool,
        /// It goes on in the next part.
        more: bool,
    },
    /// It is closed, by the application or because that has returned. Nothing follows.
    Close {
        /// RFC 6455 §7.4. Hostile: any number.
        code: u16,
        /// At most a control frame's worth, and UTF-8, if the worker is honest.
        reason: Bytes,
    },
    /// The worker is to go, or the daemon: the connection is to close with 1012 after this time. Told once.
    GoingAway {
        /// From now.
        after: Duration,
    },
}

/// What an exchange that began as a handshake has beside what others have.
#[derive(Debug, Default)]
pub(crate) struct WebSocketState {
    pub(crate) is_accepted: bool,
    /// What the application has said and the connection has not taken.
    pub(crate) messages: VecDeque<Outgoing>,
    /// To be told.
    pub(crate) close_after: Option<Duration>,
    pub(crate) is_closing: bool,
}

impl WebSocketState {
    /// Nobody takes them any more.
    pub(crate) fn drop_messages(&mut self) {
        self.messages = VecDeque::new();
    }
}
