//! The end of the daemon: asked for, hasty, or because nobody can ever serve. A failed start drains too: who has
//! connected meanwhile gets a 503 with the reason, not a reset.

use std::time::{Duration, Instant};

use super::event::{BootFailure, BootFailureKind};
use super::state::{DaemonPhase, TimedState, WorkerRecord, after};
use super::supervisor::{FatalExit, Supervisor};
use super::{AbortReason, Action, Report};

impl Supervisor {
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
                self.drain_edge(self.live.policy.drain, now);
            }
            DaemonPhase::Draining { .. } | DaemonPhase::Stopping | DaemonPhase::Exited => {}
        }
    }

    pub(super) fn stop_now(&mut self, now: Instant) {
        self.notify_stopping();
        self.cancel_reloads(now);
        match self.phase {
            DaemonPhase::NotStarted | DaemonPhase::Running | DaemonPhase::Draining { .. } => {
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

    /// Everything but the live generation is dismissed, and who asked for it is told.
    fn cancel_reloads(&mut self, now: Instant) {
        let failure = BootFailure::new(BootFailureKind::Stopped, "the daemon stops");
        self.fail_reload(failure.clone(), now);
        self.refute_reload(failure);
        self.end_watch(now);
    }

    /// Nobody has ever been ready and nobody will be: answer who waits, and exit with the reason.
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

    fn drain_edge(&mut self, limit: Duration, now: Instant) {
        let deadline = after(now, limit);
        self.phase = DaemonPhase::Draining { since: now, deadline };
        self.actions.push(Action::DrainEdge { deadline });
    }

    pub(super) fn on_edge_drained(&mut self, now: Instant) {
        if let DaemonPhase::Draining { deadline, .. } = self.phase {
            // What the requests did not need of the drain's time is the workers' own shutdown's.
            self.stop_workers(deadline.max(after(now, self.live.policy.terminate_grace)), now);
        }
    }

    /// The drain has used up its time.
    pub(super) fn expire_drain(&mut self, now: Instant) {
        if let DaemonPhase::Draining { since, deadline } = self.phase
            && deadline <= now
        {
            self.report(Report::DrainTimedOut { waited: now.duration_since(since) });
            self.stop_workers(after(now, self.live.policy.terminate_grace), now);
        }
    }

    /// Tells every worker to go.
    fn stop_workers(&mut self, kill_at: Instant, now: Instant) {
        self.phase = DaemonPhase::Stopping;
        for id in self.ids() {
            let Some(worker) = self.worker(id) else { continue };
            match worker.state {
                TimedState::Ready
                | TimedState::Standby
                | TimedState::Promoting { .. }
                | TimedState::Retiring { stuck: false, .. } => {
                    self.terminate_by(id, kill_at, now);
                }
                // An importing interpreter reads no messages; a stuck worker has a thread that does not end, and
                // would not leave when asked.
                TimedState::Spawning { .. }
                | TimedState::Booting { .. }
                | TimedState::BootTimedOut { .. }
                | TimedState::Retiring { stuck: true, .. } => self.abort(id, AbortReason::Shutdown, now),
                TimedState::Failed { .. } | TimedState::Terminating { .. } | TimedState::Killed { .. } => {}
            }
        }
    }

    pub(super) fn exit_when_done(&mut self) {
        if self.phase == DaemonPhase::Stopping && self.workers.values().all(WorkerRecord::is_abandoned) {
            self.phase = DaemonPhase::Exited;
            self.extend_at = None;
            let (status, reason) = match self.fatal_exit.take() {
                Some(fatal_exit) => (fatal_exit.status, Some(fatal_exit.reason)),
                None => (0, None),
            };
            self.actions.push(Action::Exit { status, reason });
        }
    }

    fn notify_stopping(&mut self) {
        if !self.told_stopping {
            self.told_stopping = true;
            self.actions.push(Action::NotifyStopping);
        }
    }
}

/// What a start that failed gives the edge to answer who has connected meanwhile.
const FAILED_START_DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// sysexits.h: the configuration or the application is at fault; the unit's RestartPreventExitStatus= names it.
const EX_CONFIG: u8 = 78;
