//! The type of `[daemon]`.

use std::time::Duration;

/// `[daemon]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DaemonSettings {
    /// Time without use after which the daemon exits, if systemd passed the listening sockets.
    /// `None` is `"off"`.
    pub idle_exit: Option<Duration>,
}
