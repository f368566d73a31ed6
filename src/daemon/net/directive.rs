//! What the tracker instructs a connection to do.

/// An instruction of the tracker to a connection, which the connection's stream follows when
/// polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Directive {
    /// Nothing to do.
    None = 0,
    /// A timeout or the drain: report end of input, if the connection is between requests.
    CloseIdle = 1,
    /// The same, to make room for a new connection.
    Evict = 2,
    /// `timeouts.header` expired: answer 408.
    HeadTimeout = 3,
    /// End the connection now, even within a response.
    Abort = 4,
    /// The drain: leave HTTP as soon as no request is in progress, for the next daemon.
    HandOver = 5,
    /// The connection is idle: leave HTTP until the client sends something, to free the buffers.
    Park = 6,
}

impl Directive {
    pub(super) fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::None,
            1 => Self::CloseIdle,
            2 => Self::Evict,
            3 => Self::HeadTimeout,
            5 => Self::HandOver,
            6 => Self::Park,
            _ => Self::Abort,
        }
    }

    /// Returns whether the next phase cancels this directive.
    pub(super) fn is_for_phase(self) -> bool {
        matches!(self, Self::CloseIdle | Self::Evict | Self::HeadTimeout | Self::Park)
    }
}
