//! Replaces healthy workers that reached a limit or received a signal: one at a time, each by a
//! successor that is ready before the worker retires.

use std::time::{Duration, Instant};

use crate::id::{Incarnation, WorkerId};

use super::state::{Seat, TimedState, WorkerRecord};
use super::{RecycleReason, Report, Supervisor};

impl Supervisor {
    /// Marks a worker for replacement; it serves until its successor is ready.
    pub(super) fn on_recycle_due(&mut self, id: WorkerId, reason: RecycleReason, now: Instant) {
        if !self.phase.is_serving() {
            return;
        }
        let is_new = |(_, earlier)| self.is_postponed(earlier) && !self.is_postponed(reason);
        if !self.worker(id).is_some_and(|worker| worker.is_ready() && worker.recycle.is_none_or(is_new)) {
            return;
        }
        if reason == RecycleReason::Refork {
            let set = &mut self.live;
            if set.zygote.is_none() || set.reforked || set.candidate.is_some() {
                return;
            }
            set.candidate = Some(id.incarnation);
        }
        if let Some(worker) = self.worker_mut(id) {
            worker.recycle = Some((now, reason));
        }
        self.report(if self.is_postponed(reason) {
            Report::RecyclingPostponed { worker: id, reason }
        } else {
            Report::Recycling { worker: id, reason }
        });
    }

    /// Returns whether a new worker would import code that a reload has rejected, by failing or by being
    /// rolled back: it imports the files as they are now. Workers forked from a zygote have its code.
    pub(super) fn imports_rejected_code(&self) -> bool {
        self.last_reload_note.is_some() && !self.live.policy.preload
    }

    /// Returns whether a replacement for this reason has to wait for the next reload that succeeds: a
    /// healthy worker is not exchanged for one with rejected code.
    fn is_postponed(&self, reason: RecycleReason) -> bool {
        let is_routine = matches!(reason, RecycleReason::Requests { .. } | RecycleReason::Lifetime);
        is_routine && self.imports_rejected_code()
    }

    /// Returns whether the seat's worker stays although it has reached a limit ([`Self::is_postponed`]).
    pub(super) fn holds_postponed(&self, seat: &Seat) -> bool {
        let worker = seat.current.and_then(|incarnation| self.workers.get(&incarnation));
        let recycle = worker.filter(|worker| worker.is_ready()).and_then(|worker| worker.recycle);
        recycle.is_some_and(|(_, reason)| self.is_postponed(reason))
    }

    /// Handles a signal that asks a process to exit. A worker is replaced first, so that no request
    /// is lost or delayed; a zygote has no requests and exits at once.
    pub(super) fn on_stop_requested(&mut self, id: WorkerId, signal: i32, now: Instant) {
        // A stopping daemon terminates all workers anyway, once the queued requests are answered.
        if !self.phase.is_serving() {
            return;
        }
        let Some(worker) = self.worker(id) else { return };
        let is_handled = match worker.state {
            TimedState::Spawning { .. }
            | TimedState::Booting { .. }
            | TimedState::BootTimedOut { .. }
            | TimedState::Ready
            | TimedState::Standby
            | TimedState::Promoting { .. } => {
                matches!(worker.recycle, Some((_, RecycleReason::Signal { .. })))
            }
            TimedState::Retiring { .. }
            | TimedState::Failed { .. }
            | TimedState::Terminating { .. }
            | TimedState::Killed { .. } => true,
        };
        if is_handled {
            return;
        }
        let is_zygote = worker.is_zygote();
        self.cancel_promotion(id);
        let reason = RecycleReason::Signal { signal };
        self.report(Report::Recycling { worker: id, reason });
        if is_zygote {
            self.terminate(id, now);
        } else if let Some(worker) = self.worker_mut(id) {
            worker.recycle = Some((worker.recycle.map_or(now, |(since, _)| since), reason));
        }
    }

    /// Marks the workers that have reached `workers.max_lifetime`.
    pub(super) fn recycle_expired(&mut self, now: Instant) {
        if !self.phase.is_serving() {
            return;
        }
        for id in self.ids() {
            if self.worker(id).and_then(WorkerRecord::expiry).is_some_and(|at| at <= now) {
                self.on_recycle_due(id, RecycleReason::Lifetime, now);
            }
        }
    }

    /// Returns the worker whose successor boots next: none while another worker boots, or while a
    /// reload is about to replace all workers.
    pub(super) fn next_to_replace(&self, now: Instant) -> Option<WorkerId> {
        if !self.phase.is_serving() || self.pending.is_some() || !self.live.can_spawn(&self.workers) {
            return None;
        }
        let is_booting = |worker: &WorkerRecord| worker.is_booting() && !worker.is_zygote();
        if self.workers.values().any(is_booting) {
            return None;
        }
        let waiting =
            self.live.desired_seats().filter(|(_, seat)| seat.successor.is_none() && seat.may_spawn(now));
        let waiting = waiting.filter(|(_, seat)| !self.holds_postponed(seat));
        let marked = waiting.filter_map(|(_, seat)| {
            let worker = self.workers.get(&seat.current?).filter(|worker| worker.is_ready())?;
            Some((worker.recycle?.0, worker.id))
        });
        marked.min().map(|(_, id)| id)
    }
}

/// Returns the age at which a worker is replaced: up to a tenth below `limit`, so that workers that
/// were spawned together are not replaced together.
pub(super) fn lifetime(limit: Duration, incarnation: Incarnation) -> Duration {
    // The golden ratio spreads consecutive incarnations evenly (Knuth, TAOCP 3, section 6.4).
    let fraction = u16::try_from(incarnation.0.wrapping_mul(40_503) & 0xffff).expect("masked to 16 bits");
    limit.saturating_sub((limit / 10).mul_f64(f64::from(fraction) / 65_536.0))
}
