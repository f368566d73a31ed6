//! Notifications about the daemon as a whole. systemd gets READY=, RELOADING=, STOPPING=, STATUS=
//! and EXTEND_TIMEOUT_USEC=; the edge gets the reason for refusing requests, and the presence. Only
//! changes are sent.

use std::mem;
use std::time::{Duration, Instant};

use super::state::{DaemonPhase, after};
use super::{Action, Presence, Supervisor};

impl Supervisor {
    /// Sends the first `READY=1`, unless it was sent before or the daemon stops.
    pub(super) fn notify_first_ready(&mut self) {
        if !self.notify.ready_sent && !self.notify.stopping_sent {
            self.notify.ready_sent = true;
            self.actions.push(Action::NotifyReady);
        }
    }

    /// Sends `RELOADING=1`, which systemd accepts only after the first `READY=1`.
    pub(super) fn notify_reloading(&mut self) {
        if self.notify.ready_sent {
            self.notify.is_reloading = true;
            self.actions.push(Action::NotifyReloading);
        }
    }

    /// Sends the `READY=1` that ends a reload, if `RELOADING=1` was sent.
    pub(super) fn notify_reload_ended(&mut self) {
        if mem::take(&mut self.notify.is_reloading) && !self.notify.stopping_sent {
            self.actions.push(Action::NotifyReady);
        }
    }

    /// Sends `STOPPING=1` once.
    pub(super) fn notify_stopping(&mut self) {
        if !self.notify.stopping_sent {
            self.notify.stopping_sent = true;
            self.actions.push(Action::NotifyStopping);
        }
    }

    /// Asks systemd for more time while a start, reload or stop is in progress (sd_notify(3)), a
    /// little at a time: if the daemon hangs, TimeoutStartSec= (which also bounds a reload) and
    /// TimeoutStopSec= still apply.
    ///
    /// Does not ask after a failed boot: the unit decides how long a start may be retried.
    pub(super) fn extend_timeout(&mut self, now: Instant) {
        let needs_time = match self.phase {
            DaemonPhase::Running => self.notify.is_reloading || (!self.ever_ready && self.boot_failures == 0),
            DaemonPhase::Departing { .. } | DaemonPhase::Draining { .. } | DaemonPhase::Stopping => true,
            DaemonPhase::NotStarted | DaemonPhase::Exited => false,
        };
        if !needs_time {
            self.notify.extend_at = None;
        } else if self.notify.extend_at.is_none_or(|at| at <= now) {
            self.actions.push(Action::ExtendTimeout(EXTEND_INTERVAL * 2));
            self.notify.extend_at = Some(after(now, EXTEND_INTERVAL));
        }
    }

    /// Sends the status line, the presence and the reason for refusing requests, if they changed.
    pub(super) fn publish(&mut self) {
        if self.phase == DaemonPhase::Exited {
            return;
        }
        self.publish_unavailable();
        let presence = self.presence();
        if mem::replace(&mut self.notify.presence, presence) != presence {
            self.actions.push(Action::Presence(presence));
        }
        let status = self.status_line();
        if self.notify.status != status {
            self.notify.status.clone_from(&status);
            self.actions.push(Action::Status(status));
        }
    }

    /// Returns the presence in the current phase.
    fn presence(&self) -> Presence {
        match self.phase {
            DaemonPhase::NotStarted | DaemonPhase::Running if self.notify.draining => Presence::Draining,
            DaemonPhase::NotStarted | DaemonPhase::Running if self.live.asleep => Presence::Asleep,
            DaemonPhase::NotStarted | DaemonPhase::Running => Presence::Present,
            DaemonPhase::Departing { .. }
            | DaemonPhase::Draining { .. }
            | DaemonPhase::Stopping
            | DaemonPhase::Exited => Presence::Leaving,
        }
    }

    /// Sends the reason for refusing requests, if it changed.
    pub(super) fn publish_unavailable(&mut self) {
        if self.notify.unavailable != self.outage {
            self.notify.unavailable.clone_from(&self.outage);
            self.actions.push(Action::Unavailable(self.outage.clone()));
        }
    }
}

/// The interval between requests to systemd for more time; each extends by twice this.
const EXTEND_INTERVAL: Duration = Duration::from_secs(15);
