//! Notifications to systemd (sd_notify(3)). Without `NOTIFY_SOCKET` these functions do nothing.
//!
//! Except [`finish`], which the daemon calls before it exits, and [`send_descriptors`], they do not
//! wait: if systemd does not read, a message stays in a [queue](super::notify_queue) until [`retry`].

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sd_notify::NotifyState;

use super::notify_queue::{MessageKind, NotifyQueue};
use crate::escape::{LineFeeds, escape};

/// Interval of attempts to send messages that wait.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum time to send the last messages before the exit.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The messages that wait for room.
static WAITING: Mutex<Waiting> = Mutex::new(Waiting { queue: NotifyQueue::new(), retry_at: None });

struct Waiting {
    queue: NotifyQueue,
    /// When to try again. `None` if no message waits.
    retry_at: Option<Instant>,
}

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a message, or lets it wait.
fn send(kind: MessageKind, states: &[NotifyState<'_>]) {
    if !is_enabled() {
        return;
    }
    let mut waiting = waiting();
    waiting.queue.push(kind, to_text(states));
    waiting.send();
}

/// Returns the text of a message: one assignment for each line.
fn to_text(states: &[NotifyState<'_>]) -> String {
    states.iter().fold(String::new(), |mut text, state| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{state}");
        text
    })
}

impl Waiting {
    /// Sends messages, until there is no room. Any other failure drops them, because a later attempt
    /// would fail as well.
    fn send(&mut self) {
        let socket = connect();
        self.queue.send_all(|text| {
            let sent = match &socket {
                Ok(socket) => socket.send(text.as_bytes()).map(drop),
                Err(error) => Err(error.kind().into()),
            };
            match sent {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                Err(error) => {
                    tracing::debug!(%error, "cannot notify systemd, ignoring");
                    true
                }
            }
        });
        self.retry_at = (!self.queue.is_empty()).then(|| Instant::now() + RETRY_INTERVAL);
    }
}

/// Returns a non-blocking socket that is connected to `NOTIFY_SOCKET`: a path, or a name after `@`.
fn connect() -> io::Result<UnixDatagram> {
    let name = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Returns when [`retry`] must be called. `None` if no message waits for room.
pub fn retry_at() -> Option<Instant> {
    waiting().retry_at
}

/// Sends the messages that wait, if it is time to try again.
pub fn retry() {
    let mut waiting = waiting();
    if waiting.retry_at.is_some_and(|at| at <= Instant::now()) {
        waiting.send();
    }
}

/// Waits for room, for at most a second, and sends the messages that wait. Called before the exit.
pub fn finish() {
    let deadline = Instant::now() + FINISH_TIMEOUT;
    let mut waiting = waiting();
    while !waiting.queue.is_empty() {
        let has_room = connect().and_then(|socket| wait_for_room(&socket, deadline));
        if let Err(error) = has_room {
            tracing::warn!(%error, "systemd has not received the last notifications");
            return;
        }
        waiting.send();
    }
}

/// Waits until the socket has room for a message.
fn wait_for_room(socket: &UnixDatagram, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Sends a message with descriptors, of which there may be 253 (`SCM_MAX_FD`, unix(7)). Messages that
/// wait are sent before.
///
/// # Errors
/// There was no room before the deadline, or the socket fails.
pub(super) fn send_descriptors(
    states: &[NotifyState<'_>],
    fds: &[BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<()> {
    if !is_enabled() {
        return Ok(());
    }
    let text = to_text(states);
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size()];
    let socket = connect()?;
    let mut waiting = waiting();
    loop {
        waiting.send();
        if waiting.queue.is_empty() {
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
            let parts = [IoSlice::new(text.as_bytes())];
            match sendmsg(&socket, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        wait_for_room(&socket, deadline)?;
    }
}

/// Returns true if `NOTIFY_SOCKET` is set.
pub fn is_enabled() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// Sends `READY=1`: the service can serve.
pub fn ready() {
    send(MessageKind::State, &[NotifyState::Ready]);
}

/// Sends `RELOADING=1` and `MONOTONIC_USEC=` in one message, as `Type=notify-reload` requires: a
/// reload begins. [`ready`] must follow when the reload has succeeded or failed.
pub fn reloading() {
    send(MessageKind::State, &reloading_states());
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
    send(MessageKind::State, &[NotifyState::Stopping]);
}

/// Sends `STATUS=`: one line for `systemctl status`.
pub fn status(line: &str) {
    send(MessageKind::Status, &[NotifyState::Status(&to_status_line(line))]);
}

/// Sends `STATUS=` with the reason of a failed start and, if a system call failed, `ERRNO=`, which
/// `systemctl status` shows as `Error: 98 (Address already in use)`. Waits for room, because the daemon
/// exits next.
pub fn failed_start(reason: &str, errno: Option<i32>) {
    let line = to_status_line(reason);
    let mut states = vec![NotifyState::Status(&line)];
    states.extend(errno.and_then(|errno| u32::try_from(errno).ok()).map(NotifyState::Errno));
    send(MessageKind::State, &states);
    finish();
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
    send(MessageKind::Extension, &[NotifyState::ExtendTimeoutUsec(microseconds)]);
}

/// Sends `WATCHDOG=1`: the daemon makes progress.
pub fn watchdog() {
    send(MessageKind::Watchdog, &[NotifyState::Watchdog]);
}

/// Sends `WATCHDOG=trigger`: the daemon has found that it hangs. systemd acts as if a ping had been
/// missed.
pub fn trigger_watchdog() {
    send(MessageKind::State, &[NotifyState::WatchdogTrigger]);
}

/// Sends `RESTART_RESET=1` (systemd 258; older ones ignore it): the next restart is delayed by
/// `RestartSec=` again, not by a later step of `RestartSteps=`.
pub fn reset_restart_delay() {
    send(MessageKind::State, &[NotifyState::Custom("RESTART_RESET=1")]);
}

/// Removes all descriptors of this name from the store (`FDSTOREREMOVE=1`).
pub(super) fn remove_descriptors(name: &str) {
    send(
        MessageKind::State,
        &[NotifyState::Custom("FDSTOREREMOVE=1"), NotifyState::Custom(&format!("FDNAME={name}"))],
    );
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
