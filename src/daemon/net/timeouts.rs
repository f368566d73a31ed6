//! Chooses the directive of a connection whose timeout has expired.

use std::time::Duration;

use super::connection::Connection;
use super::directive::Directive;
use super::limits::{ConnectionLimits, IDLE_GRACE, LINGER_TIMEOUT};
use super::phase::Phase;

/// Time after which an idle connection is parked. Clients that send requests in quick succession
/// are served without the work of parking.
const PARK_AFTER: Duration = Duration::from_secs(3);

impl Connection {
    /// Issues the directive of an expired timeout. Called by the tracker's sweep.
    pub(super) fn check_timeouts(&self, limits: &ConnectionLimits) {
        self.check_alarm();
        if let Some(streams) = self.streams() {
            streams.for_each(|stream| stream.check_timeouts(limits));
        }
        let age = self.age();
        let is_blocked = self.is_write_blocked();
        let is_too_slow = self.output.sample_rate(is_blocked, limits, self.coarse_now());
        if is_blocked {
            if age > limits.write || is_too_slow {
                self.set_directive(Directive::Abort);
            }
            return;
        }
        match self.phase() {
            // A reset after an orderly shutdown wakes no reader, so the task checks the socket.
            Phase::Busy if self.is_half_closed() => self.wake(),
            Phase::New if age > limits.header => self.set_directive(Directive::CloseIdle),
            Phase::Head if age > limits.header => self.set_directive(Directive::HeadTimeout),
            Phase::Idle if age > limits.keepalive => self.set_directive(Directive::CloseIdle),
            Phase::Idle if age > PARK_AFTER && self.is_parkable() => self.set_directive(Directive::Park),
            Phase::Lingering if age > LINGER_TIMEOUT => self.set_directive(Directive::Abort),
            _ => {}
        }
    }

    /// Closes the connection if it has been between requests for [`IDLE_GRACE`] or lingering for
    /// [`LINGER_TIMEOUT`], and checks the alarms. Called repeatedly while the daemon drains.
    pub(super) fn close_if_idle(&self) {
        self.check_alarm();
        if let Some(streams) = self.streams() {
            // The connection's task announces the drain to the client.
            self.wake();
            streams.for_each(Self::check_alarm);
        }
        match self.phase() {
            Phase::New | Phase::Idle if self.age() > IDLE_GRACE => self.set_directive(Directive::CloseIdle),
            Phase::Lingering if self.age() > LINGER_TIMEOUT => self.set_directive(Directive::Abort),
            _ => {}
        }
    }
}
