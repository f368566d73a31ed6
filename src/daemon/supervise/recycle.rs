//! Replacing workers that serve well: worn-out ones, one at a time, each by a successor that is ready before it goes;
//! and the worker that becomes the zygote.

use std::time::{Duration, Instant};

use crate::id::{Life, WorkerId};

use super::state::{DaemonPhase, ProcessRole, TimedState, WorkerRecord, after};
use super::{Action, RecycleReason, Report, SpawnMethod, Supervisor};

impl Supervisor {
    /// It has done its share, and serves on until a successor is ready.
    pub(super) fn on_recycle_due(&mut self, id: WorkerId, reason: RecycleReason, now: Instant) {
        if self.phase != DaemonPhase::Running {
            return;
        }
        let is_fresh = self.worker(id).is_some_and(|worker| worker.is_ready() && worker.recycle.is_none());
        if !is_fresh {
            return;
        }
        if reason == RecycleReason::Refork {
            let set = &mut self.live;
            if set.zygote.is_none() || set.reforked || set.candidate.is_some() {
                return;
            }
            set.candidate = Some(id.life);
        }
        if let Some(worker) = self.worker_mut(id) {
            worker.recycle = Some((now, reason));
        }
        self.report(Report::Recycling { worker: id, reason });
    }

    /// A signal asks it to leave: it is replaced as a worn-out one is, before it goes, so that neither what it runs nor
    /// what comes meanwhile is lost. A zygote runs nothing: it leaves at once.
    pub(super) fn on_stop_requested(&mut self, id: WorkerId, signal: i32, now: Instant) {
        // The daemon leaves as well, and sends everybody away when what is queued has been answered.
        if self.phase != DaemonPhase::Running {
            return;
        }
        let Some(worker) = self.worker(id) else { return };
        let is_leaving = match worker.state {
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
        if is_leaving {
            return;
        }
        let leaves_at_once = worker.is_zygote();
        self.cancel_promotion(id);
        let reason = RecycleReason::Signal { signal };
        self.report(Report::Recycling { worker: id, reason });
        if leaves_at_once {
            self.terminate(id, now);
        } else if let Some(worker) = self.worker_mut(id) {
            worker.recycle = Some((worker.recycle.map_or(now, |(since, _)| since), reason));
        }
    }

    /// Those that have reached their age.
    pub(super) fn recycle_expired(&mut self, now: Instant) {
        if self.phase != DaemonPhase::Running {
            return;
        }
        for id in self.ids() {
            if self.worker(id).and_then(WorkerRecord::expiry).is_some_and(|at| at <= now) {
                self.on_recycle_due(id, RecycleReason::Lifetime, now);
            }
        }
    }

    /// The worn-out worker whose successor is to boot next: not while anybody else boots, and not while a reload is
    /// about to replace them all.
    pub(super) fn next_to_succeed(&self, now: Instant) -> Option<WorkerId> {
        if self.phase != DaemonPhase::Running || self.pending.is_some() || !self.live.can_spawn(&self.workers)
        {
            return None;
        }
        let is_booting = |worker: &WorkerRecord| worker.is_booting() && !worker.is_zygote();
        if self.workers.values().any(is_booting) {
            return None;
        }
        let waiting = self.live.open().filter(|(_, seat)| seat.successor.is_none() && seat.may_spawn(now));
        let worn = waiting.filter_map(|(_, seat)| {
            let worker = self.workers.get(&seat.current?).filter(|worker| worker.is_ready())?;
            Some((worker.recycle?.0, worker.id))
        });
        worn.min().map(|(_, id)| id)
    }

    /// A zygote can be forked from.
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
            // What the seats waited for was this.
            for seat in self.live.seats.iter_mut().filter(|seat| seat.current.is_none()) {
                seat.clear_wait();
            }
        }
    }

    /// The worker is drained: if it is the one that is to become the zygote, it is asked to.
    pub(super) fn try_promote(&mut self, id: WorkerId, now: Instant) -> bool {
        if self.phase != DaemonPhase::Running || self.live.candidate != Some(id.life) {
            return false;
        }
        let Some(worker) = self.worker_mut(id) else { return false };
        worker.role = ProcessRole::Zygote;
        worker.enter(TimedState::Promoting { kill_at: after(now, PROMOTION_TIMEOUT) }, now);
        self.actions.push(Action::Promote { worker: id });
        true
    }

    /// Whether it was asked to become the zygote and has neither done so nor been given up: whoever else says that it
    /// has is not to be believed.
    pub fn is_promoting(&self, worker: WorkerId) -> bool {
        self.worker(worker).is_some_and(|worker| matches!(worker.state, TimedState::Promoting { .. }))
    }

    /// It has become a zygote: the one before it leaves, and whoever was forked from that is replaced, one at a time.
    pub(super) fn finish_promotion(&mut self, id: WorkerId, now: Instant) {
        if self.live.candidate != Some(id.life) {
            return;
        }
        let Some(worker) = self.worker(id) else { return };
        let took = now.duration_since(worker.since);
        self.live.candidate = None;
        self.live.reforked = true;
        let Some(seat) = self.live.zygote.as_mut() else { return };
        let before = seat.current.replace(id.life);
        seat.clear();
        self.on_zygote_ready(id, took, now);
        if let Some(before) = before.and_then(|life| self.workers.get(&life)).map(|worker| worker.id) {
            self.retire(before, None, now);
        }
        for worker in self.workers.values_mut() {
            if worker.is_ready() && worker.method != SpawnMethod::Fork(id) {
                worker.recycle.get_or_insert((now, RecycleReason::Refork));
            }
        }
    }

    /// If this is the one that was to become the zygote, it does not any more. When it was asked to and could not,
    /// no other of this set is.
    pub(super) fn cancel_promotion(&mut self, id: WorkerId) {
        if self.live.candidate == Some(id.life) {
            let was_asked = |worker: &WorkerRecord| matches!(worker.state, TimedState::Promoting { .. });
            self.live.reforked |= self.worker(id).is_some_and(was_asked);
            self.live.candidate = None;
        }
    }
}

/// What a worker that has nothing else to do has to become a zygote.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The age at which a worker is replaced: up to a tenth before its limit, so that a set that was born together does
/// not have to be replaced together.
pub(super) fn lifetime(limit: Duration, life: Life) -> Duration {
    // Consecutive lives are spread evenly by the golden ratio (Knuth, TAOCP 3, section 6.4).
    let fraction = u16::try_from(life.0.wrapping_mul(40_503) & 0xffff).expect("masked to 16 bits");
    limit.saturating_sub((limit / 10).mul_f64(f64::from(fraction) / 65_536.0))
}
