//! What systemd is told (sd_notify(3)). Without `NOTIFY_SOCKET` all of it does nothing.

use std::borrow::Cow;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::escape::{LineFeeds, escape};

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify systemd, ignoring");
    }
}

/// Whether anybody hears what is said here: `NOTIFY_SOCKET` is set.
pub fn is_enabled() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// `READY=1`: the service can serve.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// `RELOADING=1`: the configuration is loaded again; [`ready`] follows when that is over, whatever came of it.
/// `MONOTONIC_USEC=` goes with it in the same message, as `Type=notify-reload` wants (sd_notify(3)).
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

/// `STOPPING=1`: the service shuts down.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// `STATUS=`: one line for `systemctl status`.
pub fn status(line: &str) {
    send(&[NotifyState::Status(&to_status_line(line))]);
}

/// A line end would begin another assignment, and part of a status is the application's text.
fn to_status_line(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        escape(&text.replace(char::is_control, " "), LineFeeds::Escape).into_owned().into()
    } else {
        escape(text, LineFeeds::Escape)
    }
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
        assert_eq!(to_status_line("serving"), "serving");
        assert_eq!(to_status_line("cannot import: no\nREADY=1\r"), "cannot import: no READY=1 ");
        assert_eq!(to_status_line("no\u{202e}\n"), "no\\u{202e} ");
    }

    #[test]
    fn a_reload_is_told_with_its_time_of_the_monotonic_clock() {
        let monotonic = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000
        };
        let before = monotonic();
        let told: Vec<String> = reloading_states().iter().map(ToString::to_string).collect();
        let after = monotonic();
        let [reloading, time] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(reloading, "RELOADING=1");
        let time: i128 = time.strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!((before..=after).contains(&time), "{before} {time} {after}");
    }
}
