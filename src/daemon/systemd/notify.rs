//! Notifications to systemd (sd_notify(3)). Without `NOTIFY_SOCKET` these functions do nothing.

use std::borrow::Cow;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::escape::{LineFeeds, escape};

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify systemd, ignoring");
    }
}

/// Returns true if `NOTIFY_SOCKET` is set.
pub fn is_enabled() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// Sends `READY=1`: the service can serve.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Sends `RELOADING=1` and `MONOTONIC_USEC=` in one message, as `Type=notify-reload` requires: a
/// reload begins. [`ready`] must follow when the reload has succeeded or failed.
pub fn reloading() {
    send(&reloading_states());
}

fn reloading_states() -> Vec<NotifyState<'static>> {
    let mut states = vec![NotifyState::Reloading];
    match NotifyState::monotonic_usec_now() {
        Ok(now) => states.push(now),
        Err(error) => tracing::debug!(%error, "cannot read the monotonic clock, proceeding anyway"),
    }
    states
}

/// Sends `STOPPING=1`: the service shuts down.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Sends `STATUS=`: one line for `systemctl status`.
pub fn status(line: &str) {
    send(&[NotifyState::Status(&to_status_line(line))]);
}

/// Sends `STATUS=` with the reason of a failed start and, if a system call failed, `ERRNO=`, which
/// `systemctl status` shows as `Error: 98 (Address already in use)`.
pub fn failed_start(reason: &str, errno: Option<i32>) {
    let line = to_status_line(reason);
    let mut states = vec![NotifyState::Status(&line)];
    states.extend(errno.and_then(|errno| u32::try_from(errno).ok()).map(NotifyState::Errno));
    send(&states);
}

/// Replaces control characters: a line end would begin another assignment, and the text may be the
/// application's.
fn to_status_line(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        escape(&text.replace(char::is_control, " "), LineFeeds::Escape).into_owned().into()
    } else {
        escape(text, LineFeeds::Escape)
    }
}

/// Sends `EXTEND_TIMEOUT_USEC=`: systemd waits this much longer for the start or the stop.
pub fn extend_timeout(by: Duration) {
    let microseconds = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::ExtendTimeoutUsec(microseconds)]);
}

/// Sends `WATCHDOG=1`: the daemon makes progress.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// Sends `WATCHDOG=trigger`: the daemon has found that it hangs. systemd acts as if a ping had been
/// missed.
pub fn trigger_watchdog() {
    send(&[NotifyState::WatchdogTrigger]);
}

/// Sends `RESTART_RESET=1` (systemd 258; older ones ignore it): the next restart is delayed by
/// `RestartSec=` again, not by a later step of `RestartSteps=`.
pub fn reset_restart_delay() {
    send(&[NotifyState::Custom("RESTART_RESET=1")]);
}

/// Returns the longest interval between two calls of [`watchdog`] (`WatchdogSec=`,
/// sd_watchdog_enabled(3)); `None` if systemd requires none.
pub fn watchdog_timeout() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_one_line_without_control_characters() {
        assert_eq!(to_status_line("serving"), "serving");
        assert_eq!(to_status_line("cannot import: no\nREADY=1\r"), "cannot import: no READY=1 ");
        assert_eq!(to_status_line("no\u{202e}\n"), "no\\u{202e} ");
    }

    #[test]
    fn reload_is_sent_with_monotonic_time() {
        let monotonic = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000
        };
        let before = monotonic();
        let states: Vec<String> = reloading_states().iter().map(ToString::to_string).collect();
        let after = monotonic();
        let [reloading, time] = states.as_slice() else { panic!("{states:?}") };
        assert_eq!(reloading, "RELOADING=1");
        let time: i128 = time.strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!((before..=after).contains(&time), "{before} {time} {after}");
    }
}
