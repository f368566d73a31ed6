//! Changes the state of one worker: admits, retires, terminates or kills it, and ends the states
//! whose deadline has passed.

use std::time::{Duration, Instant};

use crate::id::WorkerId;

use super::recycle::lifetime;
use super::state::{ProcessRole, Seat, TimedState, after};
use super::{AbortReason, Action, Report, Supervisor};

impl Supervisor {
    /// Lets the worker receive requests.
    pub(super) fn admit(&mut self, id: WorkerId, now: Instant) {
        let limit = self.live.policy.max_lifetime;
        let Some(worker) = self.worker_mut(id) else { return };
        worker.enter(TimedState::Ready, now);
        worker.drained = false;
        worker.expires_at = limit.map(|limit| after(now, lifetime(limit, id.incarnation)));
        self.actions.push(Action::Admit { worker: id });
    }

    /// Retires a stuck worker and vacates its seat at once, so that a replacement boots while the
    /// stuck worker finishes its other requests.
    pub(super) fn replace_stuck(&mut self, id: WorkerId, now: Instant) {
        let deadline = Some(after(now, self.live.policy.drain));
        let stable_after = self.live.policy.stable_after;
        let Some(worker) = self.worker_mut(id) else { return };
        let is_stable = now.duration_since(worker.since) >= stable_after;
        worker.enter(TimedState::Retiring { deadline, stuck: true }, now);
        self.vacate(id);
        self.cancel_promotion(id);
        if let Some(seat) = self.live.seat_mut(id, ProcessRole::Worker) {
            if is_stable {
                seat.backoff.reset();
            }
            seat.clear_wait();
            seat.replaces = Some(id);
        }
        self.report(Report::Replacing { worker: id });
        self.actions.push(Action::Retire { worker: id });
    }

    /// Removes a worker that is not needed. A serving worker finishes its requests, within `limit`
    /// if it is set; a worker without requests is terminated; a booting worker is killed.
    pub(super) fn retire(&mut self, id: WorkerId, limit: Option<Duration>, now: Instant) {
        let deadline = limit.map(|limit| after(now, limit));
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            TimedState::Ready => {
                worker.enter(TimedState::Retiring { deadline, stuck: false }, now);
                self.vacate(id);
                self.actions.push(Action::Retire { worker: id });
            }
            TimedState::Standby if !worker.drained => {
                worker.enter(TimedState::Retiring { deadline, stuck: false }, now);
                self.vacate(id);
            }
            TimedState::Standby | TimedState::Promoting { .. } => self.terminate(id, now),
            TimedState::Spawning { .. } | TimedState::Booting { .. } | TimedState::BootTimedOut { .. } => {
                self.kill(id, now);
            }
            TimedState::Retiring { deadline: None, stuck } => {
                worker.state = TimedState::Retiring { deadline, stuck };
            }
            TimedState::Retiring { .. }
            | TimedState::Failed { .. }
            | TimedState::Terminating { .. }
            | TimedState::Killed { .. } => {}
        }
    }

    /// Asks a worker without requests to exit.
    pub(super) fn terminate(&mut self, id: WorkerId, now: Instant) {
        self.terminate_by(id, after(now, self.live.policy.terminate_grace), now);
    }

    /// Asks a worker to exit and kills it at `kill_at`.
    pub(super) fn terminate_by(&mut self, id: WorkerId, kill_at: Instant, now: Instant) {
        self.cancel_promotion(id);
        let Some(worker) = self.worker_mut(id) else { return };
        worker.enter(TimedState::Terminating { kill_at }, now);
        self.vacate(id);
        self.actions.push(Action::Terminate { worker: id });
    }

    /// Kills a worker that has no requests, or that is itself the cause of their failure.
    pub(super) fn kill(&mut self, id: WorkerId, now: Instant) {
        self.kill_with(id, None, now);
    }

    /// Kills a worker; `dispatch` answers its requests as aborted.
    pub(super) fn abort(&mut self, id: WorkerId, reason: AbortReason, now: Instant) {
        self.kill_with(id, Some(reason), now);
    }

    fn kill_with(&mut self, id: WorkerId, abort: Option<AbortReason>, now: Instant) {
        self.cancel_promotion(id);
        let Some(worker) = self.worker_mut(id) else { return };
        let exists = worker.pid.is_some();
        let abandon_at = exists.then(|| after(now, REAP_TIMEOUT));
        worker.enter(TimedState::Killed { abandon_at, abandoned: false }, now);
        if exists {
            self.actions.push(Action::Kill { worker: id, abort });
        }
        self.vacate(id);
    }

    /// Takes the seat from the worker, if it holds one.
    pub(super) fn vacate(&mut self, id: WorkerId) {
        let Some(worker) = self.worker(id) else { return };
        let (generation, role) = (worker.generation, worker.role);
        if let Some(seat) = self.worker_set_mut(generation).and_then(|set| set.seat_mut(id, role)) {
            Seat::vacate(seat, id.incarnation);
        }
    }

    /// Forgets a worker whose process has ended or was never created.
    pub(super) fn remove(&mut self, id: WorkerId) {
        self.cancel_promotion(id);
        self.vacate(id);
        self.workers.remove(&id.incarnation);
    }

    /// Acts on a worker that has exceeded the deadline of its state.
    pub(super) fn expire_worker(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        let (state, waited) = (worker.public_state(), now.duration_since(worker.since));
        match worker.state {
            TimedState::Spawning { .. } | TimedState::BootTimedOut { .. } => {
                self.fail_boot_timed_out(id, None, now);
            }
            TimedState::Booting { .. } => {
                worker.enter(TimedState::BootTimedOut { kill_at: after(now, STACKS_TIMEOUT) }, now);
                self.actions.push(Action::DumpStacks { worker: id });
            }
            TimedState::Retiring { stuck: false, .. } => {
                self.report(Report::Overdue { worker: id, state, waited });
                // As at a stop, the application gets the time to clean up.
                self.actions.push(Action::CancelRequests { worker: id });
                self.terminate(id, now);
            }
            TimedState::Retiring { stuck: true, .. } => {
                self.report(Report::Overdue { worker: id, state, waited });
                self.abort(id, AbortReason::DrainTimeout, now);
            }
            TimedState::Promoting { .. } | TimedState::Failed { .. } | TimedState::Terminating { .. } => {
                self.report(Report::Overdue { worker: id, state, waited });
                self.kill(id, now);
            }
            TimedState::Killed { abandon_at, .. } => {
                worker.state = TimedState::Killed { abandon_at, abandoned: true };
                self.report(Report::Overdue { worker: id, state, waited });
            }
            TimedState::Ready | TimedState::Standby => {}
        }
    }
}

/// A process that is not reaped this long after SIGKILL is in an uninterruptible sleep.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);
/// The time to wait for the stacks of a worker that boots too slowly. `run` requests them up to
/// twice within this time.
const STACKS_TIMEOUT: Duration = Duration::from_millis(1500);
