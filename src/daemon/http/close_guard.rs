//! Marks a connection as closed before its running requests are dropped.

use std::sync::Arc;

use crate::net::Connection;

/// When dropped, marks a connection as closed. Must be dropped before the requests in flight, which
/// log the close reason when they are dropped.
pub(super) struct CloseGuard {
    connection: Arc<Connection>,
    /// The connection's future completed. Otherwise the reactor dropped it because the daemon
    /// stops.
    has_finished: bool,
}

impl CloseGuard {
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        Self { connection: Arc::clone(connection), has_finished: false }
    }

    /// Notes that the connection's future completed.
    pub(super) fn finish(&mut self) {
        self.has_finished = true;
    }
}

impl Drop for CloseGuard {
    fn drop(&mut self) {
        if self.has_finished {
            self.connection.mark_closed();
        } else {
            self.connection.mark_shutdown();
        }
    }
}
