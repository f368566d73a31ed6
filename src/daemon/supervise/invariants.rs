//! Invariants that hold between any two events. The simulation and the tests check them after each
//! event.

use super::Supervisor;
use super::spawning::MAX_ZYGOTES;
use super::state::{DaemonPhase, TimedState, WorkerRecord};
use super::worker_set::WorkerSet;

impl Supervisor {
    /// Checks that the state is consistent.
    ///
    /// # Errors
    /// The violated invariant and the whole state.
    pub fn check_invariants(&self) -> Result<(), String> {
        let violation = self
            .worker_sets()
            .find_map(|set| self.set_violation(set))
            .or_else(|| self.workers.values().find_map(|worker| self.worker_violation(worker)))
            .or_else(|| self.count_violation())
            .or_else(|| self.daemon_violation())
            .or_else(|| self.reload_violation());
        match violation {
            Some(violation) => Err(format!("{violation}: {self:#?}")),
            None => Ok(()),
        }
    }

    fn set_violation(&self, set: &WorkerSet) -> Option<&'static str> {
        if set.min > set.max || set.target < set.min || set.target > set.max || set.min == 0 {
            return Some("a target outside the range");
        }
        if usize::from(set.max) > set.seats.len() {
            return Some("fewer seats than the highest number of workers");
        }
        for (idx, seat) in set.seats.iter().enumerate() {
            if seat.current.is_some() && idx >= set.desired_count() {
                return Some("a closed seat is held");
            }
            if seat.successor.is_some() && seat.current.is_none() {
                return Some("a successor in a vacant seat");
            }
            for incarnation in seat.current.into_iter().chain(seat.successor) {
                match self.workers.get(&incarnation) {
                    Some(worker) if usize::from(worker.id.number.0) != idx || worker.is_zygote() => {
                        return Some("a seat is held by a worker of another number");
                    }
                    Some(worker) if worker.generation != set.generation => {
                        return Some("a seat is held by a worker of another generation");
                    }
                    Some(worker) if worker.is_current() => {}
                    Some(_) => return Some("a seat is held by a worker that retires or exits"),
                    None => return Some("a seat is held by a process that has ended"),
                }
            }
            let worker = |incarnation| self.workers.get(&incarnation);
            if seat.successor.and_then(worker).is_some_and(|worker| !worker.is_booting()) {
                return Some("a booted successor has not taken over its seat");
            }
        }
        let zygote = set.zygote.as_ref().and_then(|seat| seat.current);
        match zygote.map(|incarnation| self.workers.get(&incarnation)) {
            None => None,
            Some(Some(worker)) if worker.is_zygote() && (worker.is_booting() || worker.is_standby()) => None,
            Some(_) => Some("the zygote's seat is held by a worker that is not a zygote"),
        }
    }

    fn worker_violation(&self, worker: &WorkerRecord) -> Option<&'static str> {
        let incarnation = worker.id.incarnation;
        if incarnation >= self.next_incarnation {
            return Some("an incarnation that was never assigned");
        }
        let set = self.worker_set(worker.generation);
        let holds = |set: &WorkerSet| {
            let mut seats = set.seats.iter().chain(set.zygote.as_ref());
            seats.any(|seat| seat.current == Some(incarnation) || seat.successor == Some(incarnation))
        };
        if worker.is_current() && !set.is_some_and(holds) {
            return Some("a current worker without a seat");
        }
        if worker.is_ready() && worker.generation != self.live.generation {
            return Some("a ready worker of a generation that is not live");
        }
        let is_live = worker.generation == self.live.generation;
        if worker.is_standby() && is_live && !worker.is_zygote() {
            return Some("a worker of the live generation in standby");
        }
        if worker.is_booting()
            && self.rollback.as_ref().is_some_and(|rollback| rollback.set.generation == worker.generation)
        {
            return Some("a worker boots for the rollback target");
        }
        let needs_no_deadline = match worker.state {
            TimedState::Ready | TimedState::Standby => true,
            TimedState::Spawning { .. } | TimedState::Booting { .. } => {
                set.is_some_and(|set| set.policy.boot.is_none())
            }
            // `run` has to answer `Spawn`.
            TimedState::Killed { abandon_at: None, .. } => worker.pid.is_none(),
            // The timeouts of the worker's requests bound its retirement; not allowed for a stuck
            // worker or for old code.
            TimedState::Retiring { deadline: None, stuck } => !stuck && is_live,
            _ => worker.is_abandoned(),
        };
        (!needs_no_deadline && worker.deadline().is_none()).then_some("a state without a deadline")
    }

    fn count_violation(&self) -> Option<&'static str> {
        // The limit for all generations is checked only at each spawn, because the limit shrinks
        // when the last worker of a large set exits.
        for set in self.worker_sets() {
            if self.n_workers(set.generation) > 2 * set.seats.len() {
                return Some("more workers of a generation than twice its seats");
            }
            if self.n_zygotes(set.generation) > MAX_ZYGOTES + 1 {
                return Some("too many zygotes");
            }
        }
        let booting = self.workers.values().filter(|worker| worker.is_booting());
        if !self.ever_ready && booting.count() > 1 {
            return Some("more than one boot before any worker was ready");
        }
        let successors = self.live.seats.iter().filter_map(|seat| seat.successor);
        if successors.count() > 1 {
            return Some("more than one successor");
        }
        None
    }

    fn daemon_violation(&self) -> Option<&'static str> {
        if self.any_ready() && (!self.ever_ready || self.outage.is_some() || self.serial_boots) {
            return Some("an outage, serial boots or `ever_ready` unset although a worker is ready");
        }
        if self.notify.ready_sent && !self.ever_ready {
            return Some("READY=1 before any worker was ready");
        }
        if let Some(clock) = self.clock
            && self.next_vacancy(clock).is_some()
        {
            let any_ready = self.any_ready();
            let makes_room = |worker: &WorkerRecord| match worker.state {
                TimedState::Retiring { deadline, stuck } => any_ready && !stuck && deadline.is_some(),
                _ => worker.is_exiting() || worker.is_abandoned(),
            };
            if self.has_room(self.live.generation) || !self.workers.values().any(makes_room) {
                return Some("a vacant seat that could be filled or made room for");
            }
        }
        if self.clock.is_some_and(|clock| self.needs_zygote(clock)) {
            return Some("a missing zygote that could be spawned");
        }
        match self.phase {
            DaemonPhase::NotStarted if !self.workers.is_empty() => Some("a worker before the start"),
            DaemonPhase::Stopping if self.workers.values().any(WorkerRecord::is_current) => {
                Some("a current worker while the daemon stops")
            }
            DaemonPhase::Stopping if self.workers.values().all(WorkerRecord::is_abandoned) => {
                Some("no worker is left and the daemon has not exited")
            }
            DaemonPhase::Exited if !self.workers.values().all(WorkerRecord::is_abandoned) => {
                Some("the daemon exited before its workers")
            }
            _ => None,
        }
    }

    fn reload_violation(&self) -> Option<&'static str> {
        if self.pending.is_some() && self.rollback.is_some() {
            return Some("a reload and a rollback target at the same time");
        }
        let in_progress = self.pending.is_some() || self.unproven_reload.is_some() || self.rollback.is_some();
        if in_progress && !matches!(self.phase, DaemonPhase::NotStarted | DaemonPhase::Running) {
            return Some("a reload while the daemon stops");
        }
        if self.notify.is_reloading && self.pending.is_none() && !self.notify.stopping_sent {
            return Some("RELOADING=1 without a reload");
        }
        let has_limit = |worker: &WorkerRecord| !worker.is_retiring_unbounded() && !worker.is_current();
        if let Some(pending) = &self.pending
            && pending.set.desired_seats().any(|(_, seat)| seat.current.is_none())
            && !self.has_room(pending.set.generation)
            && !self.workers.values().any(has_limit)
        {
            return Some("a reload that waits for room without end");
        }
        if self.unproven_reload.is_some() && self.ever_ready {
            return Some("an unproven reload although a worker was ready");
        }
        None
    }
}
