//! The end of the daemon: asked for, hasty, or because nobody can ever serve. A failed start drains too: who has
//! connected meanwhile gets a 503 with the reason, not a reset.

use std::time::{Duration, Instant};

use super::event::{BootFailure, BootFailureKind};
use super::state::{Phase, State, Worker, after};
use super::supervisor::{Ending, Supervisor};
use super::{Action, Cut, Report};

impl Supervisor {
    pub(super) fn stop(&mut self, now: Instant) {
        match self.phase {
            Phase::Idle => {
                self.notify_stopping();
                self.give_up_reloads(now);
                self.phase = Phase::Leaving;
            }
            Phase::Running => {
                self.notify_stopping();
                self.give_up_reloads(now);
                self.drain_edge(self.live.policy.drain, now);
            }
            Phase::Draining { .. } | Phase::Leaving | Phase::Over => {}
        }
    }

    pub(super) fn stop_now(&mut self, now: Instant) {
        self.notify_stopping();
        self.give_up_reloads(now);
        match self.phase {
            Phase::Idle | Phase::Running | Phase::Draining { .. } => {
                self.actions.push(Action::DrainEdge { deadline: now });
            }
            Phase::Leaving | Phase::Over => {}
        }
        self.phase = Phase::Leaving;
        for id in self.ids() {
            if self.worker(id).is_some_and(|worker| !matches!(worker.state, State::Killed { .. })) {
                self.cut(id, Cut::Stop, now);
            }
        }
    }

    /// Everything but the live generation is dismissed, and who asked for it is told.
    fn give_up_reloads(&mut self, now: Instant) {
        let failure = BootFailure::new(BootFailureKind::Stopped, "the daemon stops");
        self.reload_failed(failure.clone(), now);
        self.did_not_arrive(failure);
        self.end_watch(now);
    }

    /// Nobody has ever been ready and nobody will be: answer who waits, and exit with the reason.
    pub(super) fn fail_start(&mut self, failure: BootFailure, now: Instant) {
        self.outage = Some(failure.summary);
        self.ending = Some(Ending { status: EX_CONFIG, reason: failure.headline });
        self.notify_stopping();
        self.publish_unavailable();
        self.drain_edge(self.live.policy.drain.min(FAILED_START_DRAIN), now);
        for id in self.ids() {
            if self.worker(id).is_some_and(Worker::is_current) {
                self.kill(id, now);
            }
        }
    }

    fn drain_edge(&mut self, limit: Duration, now: Instant) {
        let deadline = after(now, limit);
        self.phase = Phase::Draining { since: now, deadline };
        self.actions.push(Action::DrainEdge { deadline });
    }

    pub(super) fn edge_drained(&mut self, now: Instant) {
        if let Phase::Draining { deadline, .. } = self.phase {
            // What the requests did not need of the drain's time is the workers' own shutdown's.
            self.send_away(deadline.max(after(now, self.live.policy.terminate_grace)), now);
        }
    }

    /// The drain has used up its time.
    pub(super) fn run_out_drain(&mut self, now: Instant) {
        if let Phase::Draining { since, deadline } = self.phase
            && deadline <= now
        {
            self.report(Report::DrainRanOut { waited: now.duration_since(since) });
            self.send_away(after(now, self.live.policy.terminate_grace), now);
        }
    }

    /// Tells every worker to go.
    fn send_away(&mut self, kill_at: Instant, now: Instant) {
        self.phase = Phase::Leaving;
        for id in self.ids() {
            let Some(worker) = self.worker(id) else { continue };
            match worker.state {
                State::Ready
                | State::Standby
                | State::Promoting { .. }
                | State::Retiring { stuck: false, .. } => {
                    self.terminate_by(id, kill_at, now);
                }
                // An importing interpreter reads no messages; a stuck worker has a thread that does not end, and
                // would not leave when asked.
                State::Spawning { .. }
                | State::Booting { .. }
                | State::Overtime { .. }
                | State::Retiring { stuck: true, .. } => self.cut(id, Cut::Stop, now),
                State::Failed { .. } | State::Terminating { .. } | State::Killed { .. } => {}
            }
        }
    }

    pub(super) fn leave_when_alone(&mut self) {
        if self.phase == Phase::Leaving && self.workers.values().all(Worker::is_given_up) {
            self.phase = Phase::Over;
            self.extend_at = None;
            let (status, reason) = match self.ending.take() {
                Some(ending) => (ending.status, Some(ending.reason)),
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
const FAILED_START_DRAIN: Duration = Duration::from_secs(3);
/// sysexits.h: the configuration or the application is at fault; the unit's RestartPreventExitStatus= names it.
const EX_CONFIG: u8 = 78;
