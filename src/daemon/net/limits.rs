//! What bounds connections.

use std::num::NonZeroU32;
use std::time::Duration;

/// How long a connection may take, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// `timeouts.header`.
    pub header: Duration,
    /// `timeouts.keepalive`.
    pub keepalive: Duration,
    /// `timeouts.body`: how long a client may not take a byte of its answer.
    pub write: Duration,
    /// `limits.response_rate`: bytes per second that a client takes at least of what is sent to it, over `write`.
    pub response_rate: Option<u64>,
    /// `limits.connections`.
    pub connections: usize,
    /// `limits.connections_per_client`.
    pub per_client: Option<NonZeroU32>,
}
