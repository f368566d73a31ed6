//! How a request's body travels to its worker, and how far one that goes in parts has come.
//!
//! Values only: `upload` and `websocket` send the parts, `worker` decides which way it takes.

use std::task::{Context, Waker};

/// Longest part. Three fit into a ring.
pub const MAX_PART: usize = 64 * 1024;

/// How a request's body travels; not every worker takes every way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyTransport {
    /// In the frame.
    Inline,
    /// As a descriptor, which only WSGI workers take.
    Descriptor,
    /// In parts, which only ASGI workers take.
    Parts,
    /// It has none: it is the handshake of a WebSocket, which only ASGI workers take, too.
    WebSocket,
}

/// How far a body has come.
#[derive(Debug, Default)]
pub(crate) struct UploadProgress {
    /// The application has room for it as far as here, bytes from its beginning. 0: it has not asked for it.
    pub(crate) granted: u64,
    /// So much has been given to the worker.
    pub(crate) sent: u64,
    /// All of it has.
    pub(crate) is_complete: bool,
    /// Of whoever brings it: more is taken, or none any more.
    pub(crate) waker: Option<Waker>,
}

impl UploadProgress {
    /// Does the application wait for the client?
    pub(crate) fn awaits_client(&self) -> bool {
        self.granted > self.sent && !self.is_complete
    }

    pub(crate) fn store_waker(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(stored) => stored.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}
