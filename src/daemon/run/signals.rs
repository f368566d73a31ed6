//! The Unix signals that the main loop handles.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal as SignalNumber;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::supervise::{Event, StopEffect};

/// A stop signal within this time after the last one counts as the same request: timeout(1) and
/// process managers signal the process and then its group.
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
        let stream = |number: SignalNumber| signal(SignalKind::from_raw(number as i32));
        Ok(Self {
            terminate: stream(SignalNumber::SIGTERM)?,
            interrupt: stream(SignalNumber::SIGINT)?,
            quit: stream(SignalNumber::SIGQUIT)?,
            hangup: stream(SignalNumber::SIGHUP)?,
            child: stream(SignalNumber::SIGCHLD)?,
            more: stream(SignalNumber::SIGTTIN)?,
            fewer: stream(SignalNumber::SIGTTOU)?,
            reopen: stream(SignalNumber::SIGUSR1)?,
            upgrade: stream(SignalNumber::SIGUSR2)?,
        })
    }
}

/// Decides what each SIGTERM or SIGINT does. The first one drains, after `timeouts.drain_delay`.
/// The next one ends that delay or, if none is running, stops at once.
#[derive(Debug, Default)]
pub(super) struct StopRequests {
    /// Time of the last stop signal that had an effect.
    last: Option<Instant>,
}

impl StopRequests {
    /// Whether a stop signal would begin the drain. The first signal does, unless
    /// `timeouts.drain_delay` is set.
    pub(super) fn begins_drain(&self, effect: StopEffect) -> bool {
        self.last.is_none() && matches!(effect, StopEffect::Drain | StopEffect::None)
    }

    /// Notes a stop signal that the caller has logged. Returns its event.
    pub(super) fn note_stop(&mut self) -> Vec<Event> {
        self.last = Some(Instant::now());
        vec![Event::Stop]
    }

    /// Returns the event for a signal, and logs it. `effect` is the effect that a stop request has
    /// now.
    pub(super) fn on_signal(&mut self, effect: StopEffect) -> Vec<Event> {
        let is_first = self.last.is_none();
        if self.last.is_some_and(|last| last.elapsed() < STOP_REPEAT_WINDOW) {
            return Vec::new();
        }
        self.last = Some(Instant::now());
        match effect {
            StopEffect::Depart(delay) => tracing::info!(
                "stopping: serving for another {delay:?} so that load balancers leave (timeouts.drain_delay), \
                 then finishing running requests; another SIGTERM skips the delay"
            ),
            StopEffect::EndDeparture => {
                tracing::info!("asked to stop again: finishing running requests");
            }
            StopEffect::Drain | StopEffect::None if is_first => {
                tracing::info!("stopping: finishing running requests");
            }
            StopEffect::Drain | StopEffect::None => {
                tracing::warn!("asked to stop again: stopping now");
                return vec![Event::StopNow];
            }
        }
        vec![Event::Stop]
    }
}
