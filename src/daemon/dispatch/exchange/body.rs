//! The ways in which a request's body travels to its worker, and the progress of a body that
//! travels in parts. Values only.

use std::task::{Context, Waker};

use rgun_channel::frame::Request;

/// Longest part of a body or message in bytes. Several fit into a ring.
pub const MAX_PART: usize = 64 * 1024;

/// The way in which a request's body travels; each interface accepts some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyTransport {
    /// In the request's frame.
    Inline,
    /// As a descriptor of a spooled file, or of a takeover's socket; WSGI only.
    Descriptor,
    /// In parts, as the application reads it; ASGI only.
    Parts,
    /// Not at all: the request is a WebSocket handshake; ASGI only.
    WebSocket,
}

impl BodyTransport {
    /// Returns how the body of a request travels. `is_spooled`: it is in a file.
    pub(crate) fn of(request: &Request<'_>, is_spooled: bool) -> Self {
        if request.is_takeover() {
            Self::Descriptor
        } else if request.websocket {
            Self::WebSocket
        } else if request.body_streams {
            Self::Parts
        } else if is_spooled {
            Self::Descriptor
        } else {
            Self::Inline
        }
    }
}

/// Progress of a body that travels in parts, or of a WebSocket's messages.
#[derive(Debug, Default)]
pub(crate) struct UploadProgress {
    /// Bytes, counted from the beginning, for which the application has given credit. 0 until it
    /// first reads.
    pub(crate) granted: u64,
    /// Bytes sent to the worker.
    pub(crate) sent: u64,
    /// The last part was sent.
    pub(crate) is_complete: bool,
    /// The task that sends the parts; woken when it gets credit or can stop.
    pub(crate) waker: Option<Waker>,
}

impl UploadProgress {
    /// Returns whether the application waits for bytes from the client.
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
