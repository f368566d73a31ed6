//! The Unix signals that the main loop handles.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal as SignalNumber;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::supervise::Event;

/// A stop signal this soon after the first one is the same request: timeout(1) and process managers signal the process
/// and then its group.
const STOP_REPEAT_WINDOW: Duration = Duration::from_millis(300);

/// A stream for each handled signal.
#[derive(Debug)]
pub(super) struct SignalStreams {
    /// SIGTERM: stop.
    pub(super) terminate: Signal,
    /// SIGINT: stop.
    pub(super) interrupt: Signal,
    /// SIGQUIT: stop without draining.
    pub(super) quit: Signal,
    /// SIGHUP: reload.
    pub(super) hangup: Signal,
    /// SIGCHLD: a process has exited.
    pub(super) child: Signal,
    /// SIGTTIN: one worker more.
    pub(super) more: Signal,
    /// SIGTTOU: one worker fewer.
    pub(super) fewer: Signal,
    /// SIGUSR1: gunicorn reopens its log files; ignored.
    pub(super) reopen: Signal,
    /// SIGUSR2: gunicorn upgrades itself; ignored.
    pub(super) upgrade: Signal,
}

impl SignalStreams {
    /// Installs the handlers.
    pub(super) fn new() -> std::io::Result<Self> {
        let of = |number: SignalNumber| signal(SignalKind::from_raw(number as i32));
        Ok(Self {
            terminate: of(SignalNumber::SIGTERM)?,
            interrupt: of(SignalNumber::SIGINT)?,
            quit: of(SignalNumber::SIGQUIT)?,
            hangup: of(SignalNumber::SIGHUP)?,
            child: of(SignalNumber::SIGCHLD)?,
            more: of(SignalNumber::SIGTTIN)?,
            fewer: of(SignalNumber::SIGTTOU)?,
            reopen: of(SignalNumber::SIGUSR1)?,
            upgrade: of(SignalNumber::SIGUSR2)?,
        })
    }
}

/// The first SIGTERM or SIGINT drains; a second one stops at once.
#[derive(Debug, Default)]
pub(super) struct StopRequests {
    first: Option<Instant>,
}

impl StopRequests {
    pub(super) fn on_signal(&mut self) -> Vec<Event> {
        match self.first {
            None => {
                self.first = Some(Instant::now());
                tracing::info!("stopping: finishing running requests");
                vec![Event::Stop]
            }
            Some(first) if first.elapsed() < STOP_REPEAT_WINDOW => Vec::new(),
            Some(_) => {
                tracing::warn!("asked to stop again: stopping now");
                vec![Event::StopNow]
            }
        }
    }
}
