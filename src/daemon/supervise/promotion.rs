//! The zygote: its readiness, and the promotion of a drained worker to the zygote
//! (`workers.refork`).

use std::time::{Duration, Instant};

use crate::id::WorkerId;

use super::state::{ProcessRole, TimedState, WorkerRecord, after};
use super::{Action, RecycleReason, Report, SpawnMethod, Supervisor};

impl Supervisor {
    /// Puts a ready zygote in standby: workers can be forked from it.
    pub(super) fn on_zygote_ready(&mut self, id: WorkerId, took: Duration, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        worker.enter(TimedState::Standby, now);
        let generation = worker.generation;
        self.report(Report::ZygoteReady { worker: id, took });
        if generation != self.live.generation {
            return;
        }
        if let Some(seat) = self.live.zygote.as_mut() {
            seat.failure = None;
        }
        if self.serial_boots {
            // The vacant seats got the backoff of the zygote's failed boots, which no longer
            // applies.
            for seat in self.live.seats.iter_mut().filter(|seat| seat.current.is_none()) {
                seat.clear_wait();
            }
        }
    }

    /// Asks a drained worker to become the zygote if it is the candidate. Returns false if it is
    /// not.
    pub(super) fn try_promote(&mut self, id: WorkerId, now: Instant) -> bool {
        if !self.phase.is_serving() || self.live.candidate != Some(id.incarnation) {
            return false;
        }
        let Some(worker) = self.worker_mut(id) else { return false };
        worker.role = ProcessRole::Zygote;
        worker.enter(TimedState::Promoting { kill_at: after(now, PROMOTION_TIMEOUT) }, now);
        self.actions.push(Action::Promote { worker: id });
        true
    }

    /// Returns true if the worker was asked to become the zygote and has not answered. `run` treats
    /// a report of a promotion from any other worker as a violation of the contract.
    pub fn is_promoting(&self, worker: WorkerId) -> bool {
        self.worker(worker).is_some_and(|worker| matches!(worker.state, TimedState::Promoting { .. }))
    }

    /// Makes the candidate the zygote. Retires the previous zygote, and marks the workers that were
    /// not forked from the new one for replacement.
    pub(super) fn finish_promotion(&mut self, id: WorkerId, now: Instant) {
        if self.live.candidate != Some(id.incarnation) {
            return;
        }
        let Some(worker) = self.worker(id) else { return };
        let took = now.duration_since(worker.since);
        self.live.candidate = None;
        self.live.reforked = true;
        let Some(seat) = self.live.zygote.as_mut() else { return };
        let previous = seat.current.replace(id.incarnation);
        seat.clear();
        self.on_zygote_ready(id, took, now);
        if let Some(previous) =
            previous.and_then(|incarnation| self.workers.get(&incarnation)).map(|worker| worker.id)
        {
            self.retire(previous, None, now);
        }
        for worker in self.workers.values_mut() {
            if worker.is_ready() && worker.method != SpawnMethod::Fork(id) {
                worker.recycle.get_or_insert((now, RecycleReason::Refork));
            }
        }
    }

    /// Cancels the promotion if this worker is the candidate. If the worker was already asked to
    /// become the zygote, the promotion has failed, and no other worker of this generation is
    /// promoted.
    pub(super) fn cancel_promotion(&mut self, id: WorkerId) {
        if self.live.candidate == Some(id.incarnation) {
            let was_asked = |worker: &WorkerRecord| matches!(worker.state, TimedState::Promoting { .. });
            self.live.reforked |= self.worker(id).is_some_and(was_asked);
            self.live.candidate = None;
        }
    }
}

/// The time in which a drained worker must become the zygote.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(10);
