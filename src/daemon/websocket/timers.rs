//! The timers of a WebSocket: ping, ping timeout, close for a restart, close timeout.
//!
//! Times are milliseconds of the connection's clock
//! ([`Connection::coarse_now`](crate::net::Connection::coarse_now)), which wraps; the connection's
//! alarm wakes the task at [`ConnTimers::next`].

use std::time::Duration;

use super::context::WebSocketSettings;

/// Time for a client to answer a close frame, and to read the last output before the connection
/// ends; as in uvicorn.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time from the return of a WSGI application that has taken over the connection to the end of its
/// output, if its socket stays open: one of its threads may still be writing a close frame.
const APP_END_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct ConnTimers {
    /// When the client last sent something, or when reading resumed.
    last_input: u32,
    /// When the unanswered ping was sent. None while nothing is read, since the pong would not be
    /// seen.
    ping_sent: Option<u32>,
    /// The application receives messages, so the client's input is read.
    is_reading: bool,
    /// When to close with code 1012, because the worker or the daemon stops.
    restart_at: Option<u32>,
    /// When to stop waiting for the client's close frame, for the client to read the last output, or
    /// for the output of an application that has returned.
    close_deadline: Option<u32>,
}

/// A timer that has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The client has not closed within [`CLOSE_TIMEOUT`], or the application has not closed its
    /// socket within [`APP_END_TIMEOUT`].
    CloseTimeout,
    /// The connection is to be closed with code 1012.
    Restart,
    /// Nothing came from the client for `websocket.ping_interval`.
    Ping,
    /// The last ping is unanswered after `websocket.ping_timeout`.
    PingTimeout,
}

impl ConnTimers {
    /// Creates the timers for a client that has just sent its handshake. `is_stopping`: the daemon
    /// is already stopping, and does not announce its stop again.
    pub(super) fn new(now: u32, is_stopping: bool) -> Self {
        Self {
            last_input: now,
            ping_sent: None,
            is_reading: true,
            restart_at: is_stopping.then_some(now),
            close_deadline: None,
        }
    }

    pub(super) fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// Sets whether the client's input is read from now on.
    pub(super) fn set_reading(&mut self, is_reading: bool, now: u32) {
        if is_reading && !self.is_reading {
            // The client seemed silent only because its input was not read.
            self.on_input(now);
        }
        if !is_reading {
            self.ping_sent = None;
        }
        self.is_reading = is_reading;
    }

    /// Called when the client has sent something: restarts the ping interval.
    pub(super) fn on_input(&mut self, now: u32) {
        self.last_input = now;
        self.ping_sent = None;
    }

    /// Called when a ping was sent: starts the wait for its pong, unless no pong is expected.
    pub(super) fn on_ping(&mut self, now: u32, settings: &WebSocketSettings) {
        if settings.ping_timeout.is_some() && self.is_reading {
            self.ping_sent = Some(now);
        } else {
            // No pong is awaited: there is no timeout, or nothing is read. The next ping is sent an
            // interval from now. A vanished client is still detected, because its machine answers
            // the ping with a TCP reset.
            self.last_input = now;
        }
    }

    /// Schedules a close with code 1012 after `delay`.
    pub(super) fn schedule_restart(&mut self, now: u32, delay: Duration) {
        self.restart_at = Some(add(now, delay));
    }

    /// True once the worker or the daemon has announced that it stops.
    pub(super) fn is_restarting(&self) -> bool {
        self.restart_at.is_some()
    }

    pub(super) fn is_restart_due(&self, now: u32) -> bool {
        self.restart_at.is_some_and(|at| is_due(at, now))
    }

    pub(super) fn start_close_timeout(&mut self, now: u32) {
        self.close_deadline = Some(add(now, CLOSE_TIMEOUT));
    }

    /// Called when an application that has taken over the connection has returned.
    pub(super) fn start_app_end_timeout(&mut self, now: u32) {
        self.close_deadline = Some(add(now, APP_END_TIMEOUT));
    }

    /// Returns the action that is due now. `is_open`: no close frame was sent or received.
    /// `is_flushed`: all output has been written to the socket; until then the write timeout
    /// applies and no ping is sent.
    pub(super) fn due(
        &self,
        now: u32,
        settings: &WebSocketSettings,
        is_open: bool,
        is_flushed: bool,
    ) -> Option<Due> {
        if self.close_deadline.is_some_and(|at| is_due(at, now)) {
            return Some(Due::CloseTimeout);
        }
        if !is_open {
            return None;
        }
        if self.is_restart_due(now) {
            return Some(Due::Restart);
        }
        match self.ping_sent {
            None => (is_flushed && is_due(self.ping_at(settings)?, now)).then_some(Due::Ping),
            Some(_) => is_due(self.ping_at(settings)?, now).then_some(Due::PingTimeout),
        }
    }

    /// Returns the time of the next timer, if one is set. The parameters are those of
    /// [`ConnTimers::due`].
    pub(super) fn next(
        &self,
        now: u32,
        settings: &WebSocketSettings,
        is_open: bool,
        is_flushed: bool,
    ) -> Option<u32> {
        let ping = if is_open && is_flushed { self.ping_at(settings) } else { None };
        let restart = self.restart_at.filter(|_| is_open);
        let times = [ping, restart, self.close_deadline].into_iter().flatten();
        times.min_by_key(|at| at.wrapping_sub(now).cast_signed())
    }

    /// Returns the time at which a ping must be sent, or at which an unanswered ping times out.
    fn ping_at(&self, settings: &WebSocketSettings) -> Option<u32> {
        let interval = settings.ping_interval?;
        match self.ping_sent {
            None => Some(add(self.last_input, interval)),
            Some(sent) => settings.ping_timeout.map(|timeout| add(sent, timeout)),
        }
    }
}

/// Adds a duration to a time of the clock, which wraps. A duration over half of the clock's range
/// is shortened to half of the range.
fn add(time: u32, duration: Duration) -> u32 {
    time.wrapping_add(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).min(i32::MAX as u32))
}

fn is_due(time: u32, now: u32) -> bool {
    now.wrapping_sub(time).cast_signed() >= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: WebSocketSettings = WebSocketSettings {
        max_message: 1024,
        ping_interval: Some(Duration::from_secs(20)),
        ping_timeout: Some(Duration::from_secs(5)),
        compression: false,
    };

    #[test]
    fn ping_and_its_timeout_follow_the_last_input() {
        // The clock wraps between the ping and its timeout.
        let start = u32::MAX - 21_000;
        let mut timers = ConnTimers::new(start, false);
        assert_eq!(timers.due(start + 19_999, &SETTINGS, true, true), None);
        assert_eq!(timers.next(start, &SETTINGS, true, true), Some(start + 20_000));
        assert_eq!(timers.due(start + 20_000, &SETTINGS, true, false), None, "the write timeout applies");
        assert_eq!(timers.due(start + 20_000, &SETTINGS, true, true), Some(Due::Ping));
        timers.on_ping(start + 20_000, &SETTINGS);
        let timeout = start.wrapping_add(25_000);
        assert_eq!(timers.next(start + 20_000, &SETTINGS, true, true), Some(timeout));
        assert_eq!(timers.due(timeout, &SETTINGS, true, true), Some(Due::PingTimeout));
        timers.on_input(timeout);
        assert_eq!(timers.due(timeout, &SETTINGS, true, true), None);
    }

    #[test]
    fn pong_is_not_awaited_while_nothing_is_read() {
        let mut timers = ConnTimers::new(0, false);
        timers.set_reading(false, 0);
        timers.on_ping(20_000, &SETTINGS);
        assert_eq!(timers.due(39_999, &SETTINGS, true, true), None);
        assert_eq!(timers.due(40_000, &SETTINGS, true, true), Some(Due::Ping));
        timers.set_reading(true, 40_000);
        assert_eq!(timers.due(40_000, &SETTINGS, true, true), None);
    }

    #[test]
    fn closing_connection_has_only_the_close_timeout() {
        let mut timers = ConnTimers::new(0, true);
        assert_eq!(timers.due(0, &SETTINGS, true, true), Some(Due::Restart));
        timers.start_close_timeout(0);
        assert_eq!(timers.due(9_999, &SETTINGS, false, true), None);
        assert_eq!(timers.next(0, &SETTINGS, false, true), Some(10_000));
        assert_eq!(timers.due(10_000, &SETTINGS, false, true), Some(Due::CloseTimeout));
    }
}
