//! The phases of a connection.

/// The phase of a connection, which decides which timeout applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Accepted, nothing received: `timeouts.header`.
    New = 0,
    /// Part of a head received: `timeouts.header`.
    Head = 1,
    /// A request is in progress; the dispatcher and the body reader have their own timeouts.
    Busy = 2,
    /// Between requests: `timeouts.keepalive`.
    Idle = 3,
    /// The last response is sent; further input is read and discarded for a second.
    Lingering = 4,
    /// A WebSocket, which sets its own timeouts with
    /// [`Connection::set_alarm`](super::Connection::set_alarm).
    WebSocket = 5,
}

impl Phase {
    pub(super) fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::New,
            1 => Self::Head,
            2 => Self::Busy,
            3 => Self::Idle,
            4 => Self::Lingering,
            _ => Self::WebSocket,
        }
    }
}
