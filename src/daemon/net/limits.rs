//! The limits that apply to connections, from the configuration.

use std::num::NonZeroU32;
use std::time::Duration;

/// Minimum idle time before a drain or an eviction closes a connection: its client may be sending
/// the next request already, and would see a reset.
pub(super) const IDLE_GRACE: Duration = Duration::from_secs(1);

/// Time for which a connection in [`Phase::Lingering`](super::Phase::Lingering) reads and drops input.
pub(super) const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Timeouts and maximum numbers of connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// `timeouts.header`: from the accept to the first byte, and from the first byte of a head to
    /// its end.
    pub header: Duration,
    /// `timeouts.keepalive`: between two requests.
    pub keepalive: Duration,
    /// `timeouts.body`: time for which a client may leave its response unread.
    pub write: Duration,
    /// `limits.response_rate`: bytes per second that a client must read on average over `write`;
    /// `None`: no minimum.
    pub response_rate: Option<u64>,
    /// `limits.connections`: open connections.
    pub connections: usize,
    /// `limits.connections_per_client`: open connections of one address; `None`: no limit.
    pub per_client: Option<NonZeroU32>,
}
