//! Stops the daemon: by request, at once, or because its start failed. A failed start drains the
//! edge as well, so that connected clients get a 503 with the reason instead of a reset.
//!
//! A requested stop begins with the departure, if `timeouts.drain_delay` is set: requests are
//! served as before, but health checks are answered 503. Before the first worker is ready there is
//! no departure, because no load balancer sends requests then.

use std::time::{Duration, Instant};

use crate::exit_status::{EX_CONFIG, EX_UNUSED};

use super::event::{BootFailure, BootFailureKind};
use super::state::{DaemonPhase, FatalExit, TimedState, WorkerRecord, after};
use super::{AbortReason, Action, Report, StopEffect, Supervisor};

impl Supervisor {
    /// Returns the effect that [`Event::Stop`](super::Event::Stop) would have now.
    pub fn stop_effect(&self) -> StopEffect {
        let delay = self.live.policy.drain_delay;
        match self.phase {
            DaemonPhase::Running if self.ever_ready && !delay.is_zero() => StopEffect::Depart(delay),
            DaemonPhase::NotStarted | DaemonPhase::Running => StopEffect::Drain,
            DaemonPhase::Departing { .. } => StopEffect::EndDeparture,
            DaemonPhase::Draining { .. } | DaemonPhase::Stopping | DaemonPhase::Exited => StopEffect::None,
        }
    }

    /// True if systemd does not restart the daemon at once after this stop: the start has failed,
    /// or the daemon is not used.
    pub fn ends_without_restart(&self) -> bool {
        self.fatal_exit.is_some() || self.is_unused
    }

    /// Drains the edge, after a departure if there is one. Workers are asked to exit once the edge
    /// is drained.
    pub(super) fn stop(&mut self, now: Instant) {
        match self.phase {
            DaemonPhase::NotStarted => {
                self.notify_stopping();
                self.cancel_reloads(now);
                self.phase = DaemonPhase::Stopping;
            }
            DaemonPhase::Running => {
                self.notify_stopping();
                self.cancel_reloads(now);
                if let StopEffect::Depart(delay) = self.stop_effect() {
                    self.phase = DaemonPhase::Departing { drain_at: after(now, delay) };
                } else {
                    self.drain_edge(self.live.policy.drain, now);
                }
            }
            DaemonPhase::Departing { .. } => self.drain_edge(self.live.policy.drain, now),
            DaemonPhase::Draining { .. } | DaemonPhase::Stopping | DaemonPhase::Exited => {}
        }
    }

    /// Stops because the daemon is not used. Does nothing during a reload, while `reload.watch`
    /// lasts and before the first worker is ready. There is no departure: load balancers must keep
    /// sending requests, because a connection starts the daemon again.
    pub(super) fn stop_unused(&mut self, idle_for: Duration, now: Instant) {
        let is_reloading = self.pending.is_some() || self.unproven_reload.is_some();
        if self.phase != DaemonPhase::Running || !self.ever_ready || is_reloading || self.rollback.is_some() {
            return;
        }
        self.is_unused = true;
        self.report(Report::Unused { idle_for });
        self.notify_stopping();
        self.drain_edge(self.live.policy.drain, now);
    }

    /// Drains the edge if the departure's time has passed.
    pub(super) fn expire_departure(&mut self, now: Instant) {
        if let DaemonPhase::Departing { drain_at } = self.phase
            && drain_at <= now
        {
            self.report(Report::DepartureEnded);
            self.drain_edge(self.live.policy.drain, now);
        }
    }

    /// Closes all connections and kills all workers.
    pub(super) fn stop_now(&mut self, now: Instant) {
        self.notify_stopping();
        self.cancel_reloads(now);
        match self.phase {
            DaemonPhase::NotStarted
            | DaemonPhase::Running
            | DaemonPhase::Departing { .. }
            | DaemonPhase::Draining { .. } => {
                self.actions.push(Action::DrainEdge { deadline: now });
            }
            DaemonPhase::Stopping | DaemonPhase::Exited => {}
        }
        self.phase = DaemonPhase::Stopping;
        for id in self.ids() {
            if self.worker(id).is_some_and(|worker| !matches!(worker.state, TimedState::Killed { .. })) {
                self.abort(id, AbortReason::Shutdown, now);
            }
        }
    }

    /// Ends a reload in progress and retires all generations but the live one.
    fn cancel_reloads(&mut self, now: Instant) {
        let failure = BootFailure::new(BootFailureKind::Stopped, "the daemon stops");
        self.fail_reload(failure.clone(), now);
        self.fail_unproven_reload(failure);
        self.end_watch(now);
    }

    /// Ends a start whose first boot failed: answers the waiting requests 503 and exits with the
    /// reason.
    pub(super) fn fail_start(&mut self, failure: BootFailure, now: Instant) {
        self.outage = Some(failure.summary);
        self.fatal_exit = Some(FatalExit { status: EX_CONFIG, reason: failure.headline });
        self.notify_stopping();
        self.publish_unavailable();
        self.drain_edge(self.live.policy.drain.min(FAILED_START_DRAIN_TIMEOUT), now);
        for id in self.ids() {
            if self.worker(id).is_some_and(WorkerRecord::is_current) {
                self.kill(id, now);
            }
        }
    }

    /// Makes the edge finish its requests within `limit`.
    fn drain_edge(&mut self, limit: Duration, now: Instant) {
        let deadline = after(now, limit);
        self.phase = DaemonPhase::Draining { since: now, deadline };
        self.actions.push(Action::DrainEdge { deadline });
    }

    /// Stops the workers, because the edge has no requests left.
    pub(super) fn on_edge_drained(&mut self, now: Instant) {
        if let DaemonPhase::Draining { deadline, .. } = self.phase {
            // The workers may use the drain time that the requests did not need.
            self.stop_workers(deadline.max(after(now, self.live.policy.terminate_grace)), now);
        }
    }

    /// Stops the workers if the drain timeout has passed.
    pub(super) fn expire_drain(&mut self, now: Instant) {
        if let DaemonPhase::Draining { since, deadline } = self.phase
            && deadline <= now
        {
            self.report(Report::DrainTimedOut { waited: now.duration_since(since) });
            self.stop_workers(after(now, self.live.policy.terminate_grace), now);
        }
    }

    /// Asks every worker to exit, and kills those that cannot read the request.
    fn stop_workers(&mut self, kill_at: Instant, now: Instant) {
        self.phase = DaemonPhase::Stopping;
        for id in self.ids() {
            let Some(worker) = self.worker(id) else { continue };
            match worker.state {
                // A zygote has no requests.
                TimedState::Ready | TimedState::Standby | TimedState::Retiring { stuck: false, .. }
                    if worker.is_zygote() =>
                {
                    self.terminate(id, now);
                }
                TimedState::Ready
                | TimedState::Standby
                | TimedState::Promoting { .. }
                | TimedState::Retiring { stuck: false, .. } => {
                    self.terminate_by(id, kill_at, now);
                }
                // A booting worker does not read its socket; a stuck worker has a thread
                // that does not end.
                TimedState::Spawning { .. }
                | TimedState::Booting { .. }
                | TimedState::BootTimedOut { .. }
                | TimedState::Retiring { stuck: true, .. } => self.abort(id, AbortReason::Shutdown, now),
                TimedState::Failed { .. } | TimedState::Terminating { .. } | TimedState::Killed { .. } => {}
            }
        }
    }

    /// Exits once all workers have ended or are abandoned.
    pub(super) fn exit_when_done(&mut self) {
        if self.phase == DaemonPhase::Stopping && self.workers.values().all(WorkerRecord::is_abandoned) {
            self.phase = DaemonPhase::Exited;
            self.notify.extend_at = None;
            let (status, reason) = match self.fatal_exit.take() {
                Some(FatalExit { status, reason }) => (status, Some(reason)),
                None if self.is_unused => (EX_UNUSED, None),
                None => (0, None),
            };
            self.actions.push(Action::Exit { status, reason });
        }
    }
}

/// The time that a failed start gives the edge to answer the clients that have connected.
const FAILED_START_DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
