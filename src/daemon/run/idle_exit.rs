//! `daemon.idle_exit`: stops the daemon when it has not been used for that time. The socket unit
//! keeps the listening sockets, and starts the daemon again at the next connection.
//!
//! These count as use: a request that reaches the dispatcher, a static file, an open WebSocket, a
//! reload. Health checks and malformed requests do not count: a load balancer that checks the
//! daemon every few seconds, or a scanner, would keep the daemon running for ever. Idle keep-alive
//! connections do not count either: the stop closes them, as `timeouts.keepalive` would.

use std::time::{Duration, Instant};

use super::Daemon;
use crate::supervise::Event;

/// Time until the next check of a daemon that cannot exit yet: a request or a boot is in progress.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl Daemon {
    /// Applies `daemon.idle_exit` of the live generation.
    pub(super) fn set_idle_exit(&mut self) {
        let is_set = self.generations.live().daemon.idle_exit.is_some();
        if is_set && !self.host.is_socket_activated {
            tracing::warn!(
                "daemon.idle_exit has no effect: systemd passed no sockets, so no connection would start rgun again; use \
                 a socket unit (rgun.units(7))"
            );
        }
        self.timers.unused = (is_set && self.host.is_socket_activated).then(Instant::now);
    }

    /// Returns [`Event::Unused`] if the daemon has not been used for `daemon.idle_exit`. Schedules
    /// the next check.
    pub(super) fn check_use(&mut self, now: Instant) -> Option<Event> {
        let Some(limit) = self.generations.live().daemon.idle_exit else {
            self.timers.unused = None;
            return None;
        };
        let idle_for = self.timers.last_ready_at.zip(self.edge.unused_for()).map(|(ready_at, unused_for)| {
            now.saturating_duration_since(ready_at).min(unused_for).min(self.dispatcher.idle_for())
        });
        let rest = idle_for.map_or(RETRY_INTERVAL, |idle_for| limit.saturating_sub(idle_for));
        self.timers.unused = now.checked_add(rest.max(RETRY_INTERVAL));
        idle_for.filter(|idle_for| *idle_for >= limit).map(|idle_for| Event::Unused { idle_for })
    }
}
