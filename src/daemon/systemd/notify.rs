//! What systemd is told (sd_notify(3)). Without `NOTIFY_SOCKET` all of it does nothing.

use std::borrow::Cow;
use std::time::Duration;

use sd_notify::NotifyState;

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify systemd, ignoring");
    }
}

/// `READY=1`: the service can serve.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// `STOPPING=1`: the service shuts down.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// `STATUS=`: one line for `systemctl status`.
pub fn status(line: &str) {
    send(&[NotifyState::Status(&one_line(line))]);
}

/// A line end would begin another assignment, and part of a status is the application's text.
fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) { text.replace(char::is_control, " ").into() } else { text.into() }
}

/// `EXTEND_TIMEOUT_USEC=`: start or stop takes this much longer.
pub fn extend_timeout(by: Duration) {
    let microseconds = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::ExtendTimeoutUsec(microseconds)]);
}

/// `WATCHDOG=1`: the daemon makes progress.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear [`watchdog`] at the latest: `WatchdogSec=`, or nothing
/// (sd_watchdog_enabled(3)).
pub fn watchdog_timeout() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_whatever_the_application_says() {
        assert_eq!(one_line("serving"), "serving");
        assert_eq!(one_line("cannot import: no\nREADY=1\r"), "cannot import: no READY=1 ");
    }
}
