//! Who boots next. A look at the whole after each event: vacancies of the live set first, then the generation that
//! comes up, then successors of the worn-out, as far as time, the canary rule and the number of processes allow.

use std::time::{Duration, Instant};

use crate::id::{Generation, Life, WorkerId, WorkerNr};

use super::state::{DaemonPhase, ProcessRole, Seat, TimedState, WorkerRecord, after};
use super::worker_set::WorkerSet;
use super::{AbortReason, Action, Report, SpawnMethod, Supervisor};

impl Supervisor {
    pub(super) fn spawn_missing(&mut self, now: Instant) {
        if self.needs_zygote(now) {
            self.spawn(self.live.generation, WorkerNr::ZYGOTE, now);
        }
        while let Some(idx) = self.next_vacancy(now) {
            if !self.has_room(self.live.generation) {
                self.make_room(now);
                return;
            }
            self.spawn(self.live.generation, WorkerNr(idx), now);
        }
        while let Some(number) = self.next_reload_seat() {
            let Some(pending) = &self.pending else { return };
            // It waits for those before it to leave: nobody's requests are cut short for new code. That is not for
            // ever: who leaves without a limit is of the live generation, and there is room beside all of that.
            if !self.has_room(pending.set.generation) {
                return;
            }
            self.spawn(pending.set.generation, number, now);
        }
        if let Some(worn) = self.next_to_succeed(now)
            && self.has_room(self.live.generation)
        {
            self.spawn(self.live.generation, worn.number, now);
        }
    }

    /// The seat to fill next.
    pub(super) fn next_vacancy(&self, now: Instant) -> Option<u16> {
        let is_held = |seat: &Seat| seat.current.is_some();
        if !self.fills_vacancies()
            || !self.live.can_spawn(&self.workers)
            || (self.boots_serially() && self.live.seats.iter().any(is_held))
        {
            return None;
        }
        let due = self.live.open().filter(|(_, seat)| seat.is_due(now));
        due.min_by_key(|(_, seat)| seat.retry_at).map(|(idx, _)| idx)
    }

    /// Whether there has to be a zygote, and it can be made now.
    pub(super) fn needs_zygote(&self, now: Instant) -> bool {
        let set = &self.live;
        let is_due = set.zygote.as_ref().is_some_and(|seat| seat.is_due(now));
        // Nothing is to be forked in a sleep, nor while somebody else is the canary.
        let is_held = |seat: &Seat| seat.current.is_some();
        let is_needed = set.desired_count() > 0 && !(self.boots_serially() && set.seats.iter().any(is_held));
        is_due && is_needed && self.fills_vacancies() && self.n_zygotes(set.generation) < MAX_ZYGOTES
    }

    /// Whether vacancies are filled at all.
    pub(super) fn fills_vacancies(&self) -> bool {
        match self.phase {
            DaemonPhase::Running => true,
            // What is queued is still to be answered, unless it cannot be.
            DaemonPhase::Draining { .. } => self.fatal_exit.is_none(),
            DaemonPhase::NotStarted | DaemonPhase::Stopping | DaemonPhase::Exited => false,
        }
    }

    /// Whether a seat is filled only when no other has anybody: the canary before anybody was ready, while boots fail
    /// and after a sleep, and the last one needed to empty the queue before the end.
    pub(super) fn boots_serially(&self) -> bool {
        let is_canary = (!self.ever_ready || self.serial_boots) && !self.any_ready();
        is_canary || self.phase != DaemonPhase::Running
    }

    /// Whether one more worker of this generation may exist. Each may have twice as many as it has seats, so that
    /// every seat can have a stuck life beside its current one; and all of them together three times as many, so that
    /// another generation can come up beside that.
    pub(super) fn has_room(&self, generation: Generation) -> bool {
        self.worker_set(generation).is_some_and(|set| self.n_workers(generation) < 2 * set.seats.len())
            && self.n_all_workers() < self.max_workers()
    }

    fn max_workers(&self) -> usize {
        let sets = self.worker_sets().map(|set| set.seats.len());
        let lives = self.workers.values().map(|worker| worker.set_size);
        3 * sets.chain(lives).max().unwrap_or(0)
    }

    pub(super) fn n_workers(&self, generation: Generation) -> usize {
        let is_one = |worker: &&WorkerRecord| !worker.is_zygote() && worker.generation == generation;
        self.workers.values().filter(is_one).count()
    }

    pub(super) fn n_zygotes(&self, generation: Generation) -> usize {
        let is_one = |worker: &&WorkerRecord| worker.is_zygote() && worker.generation == generation;
        self.workers.values().filter(is_one).count()
    }

    fn n_all_workers(&self) -> usize {
        self.workers.values().filter(|worker| !worker.is_zygote()).count()
    }

    /// Who is to boot next of the generation that comes up.
    fn next_reload_seat(&self) -> Option<WorkerNr> {
        let pending = self.pending.as_ref()?;
        let set = &pending.set;
        if set.zygote.as_ref().is_some_and(|seat| seat.current.is_none()) {
            return Some(WorkerNr::ZYGOTE);
        }
        if !set.can_spawn(&self.workers) {
            return None;
        }
        let is_booting = |seat: &Seat| {
            seat.current.and_then(|life| self.workers.get(&life)).is_some_and(WorkerRecord::is_booting)
        };
        let n_booting = set.seats.iter().filter(|seat| is_booting(seat)).count();
        if n_booting >= pending.boots_at_once() {
            return None;
        }
        set.open().find(|(_, seat)| seat.current.is_none()).map(|(idx, _)| WorkerNr(idx))
    }

    fn spawn(&mut self, generation: Generation, number: WorkerNr, now: Instant) {
        let role = if number == WorkerNr::ZYGOTE { ProcessRole::Zygote } else { ProcessRole::Worker };
        let id = WorkerId { number, life: self.next_life };
        let Some(set) = self.worker_set(generation) else { return };
        let method = match (role, set.ready_zygote(&self.workers)) {
            (ProcessRole::Zygote, _) => SpawnMethod::ExecZygote,
            (ProcessRole::Worker, Some(zygote)) => SpawnMethod::Fork(zygote),
            (ProcessRole::Worker, None) => SpawnMethod::Exec,
        };
        let worker = WorkerRecord {
            id,
            generation,
            role,
            method,
            set_size: set.seats.len(),
            pid: None,
            requested_at: now,
            since: now,
            state: TimedState::Spawning { deadline: set.policy.boot.map(|limit| after(now, limit)) },
            drained: true,
            recycle: None,
            expires_at: None,
        };
        let Some(seat) = self.worker_set_mut(generation).and_then(|set| set.seat_mut(id, role)) else {
            return;
        };
        if seat.current.is_none() {
            seat.current = Some(id.life);
        } else {
            seat.successor = Some(id.life);
        }
        self.next_life = Life(id.life.0 + 1);
        self.workers.insert(id.life, worker);
        self.actions.push(Action::Spawn { worker: id, generation, method });
    }

    /// There are due vacancies and too many processes on their way out: the stuck ones that have been retiring longest
    /// go. Those that finish their requests in good order are only cut short when nobody else serves; else they have
    /// `timeouts.drain` from now.
    fn make_room(&mut self, now: Instant) {
        // Too many of one generation is only helped by one of it less.
        let generation = self.live.generation;
        let is_crowded = self.n_workers(generation) >= 2 * self.live.seats.len();
        let counts =
            |worker: &&WorkerRecord| !worker.is_zygote() && (!is_crowded || worker.generation == generation);
        let n_due = self.live.open().filter(|(_, seat)| seat.is_due(now)).count();
        let n_dying = self.workers.values().filter(counts).filter(|worker| worker.is_exiting()).count();
        let any_ready = self.any_ready();
        let mut retiring: Vec<(bool, Instant, WorkerId)> = self
            .workers
            .values()
            .filter(counts)
            .filter_map(|worker| match worker.state {
                TimedState::Retiring { stuck, .. } => Some((!stuck, worker.since, worker.id)),
                _ => None,
            })
            .filter(|(is_well, ..)| !(*is_well && any_ready))
            .collect();
        retiring.sort_unstable();
        for (_, _, id) in retiring.into_iter().take(n_due.saturating_sub(n_dying)) {
            self.report(Report::RetirementAborted { worker: id });
            self.abort(id, AbortReason::ProcessLimit, now);
        }
        self.bound_retirements(is_crowded.then_some(generation), n_due, now);
    }

    /// So many more processes are wanted than there may be: as many on their way out, of this generation if it is one
    /// that is too large, are not waited for without a limit any more. Those that have been retiring longest.
    fn bound_retirements(&mut self, generation: Option<Generation>, n: usize, now: Instant) {
        // In any case for a later tick than this, which has run out by now what it was due for.
        let limit = self.live.policy.drain.max(Duration::from_millis(1));
        let is_leaving = |worker: &WorkerRecord| {
            worker.is_exiting() || matches!(worker.state, TimedState::Retiring { .. })
        };
        let leaving = self.workers.values().filter(|worker| {
            is_leaving(worker)
                && !worker.is_zygote()
                && generation.is_none_or(|generation| worker.generation == generation)
        });
        let (mut lingering, bounded): (Vec<&WorkerRecord>, Vec<&WorkerRecord>) =
            leaving.partition(|worker| worker.is_retiring_unbounded());
        lingering.sort_unstable_by_key(|worker| (worker.since, worker.id));
        let n_more = n.saturating_sub(bounded.len());
        let bounded_ids: Vec<WorkerId> = lingering.into_iter().take(n_more).map(|worker| worker.id).collect();
        for id in bounded_ids {
            self.retire(id, Some(limit), now);
        }
    }

    pub(super) fn worker_sets(&self) -> impl Iterator<Item = &WorkerSet> {
        let pending = self.pending.as_ref().map(|pending| &pending.set);
        let rollback = self.rollback.as_ref().map(|rollback| &rollback.set);
        std::iter::once(&self.live).chain(pending).chain(rollback)
    }

    pub(super) fn worker_set(&self, generation: Generation) -> Option<&WorkerSet> {
        self.worker_sets().find(|set| set.generation == generation)
    }

    pub(super) fn worker_set_mut(&mut self, generation: Generation) -> Option<&mut WorkerSet> {
        let pending = self.pending.as_mut().map(|pending| &mut pending.set);
        let rollback = self.rollback.as_mut().map(|rollback| &mut rollback.set);
        let mut sets = std::iter::once(&mut self.live).chain(pending).chain(rollback);
        sets.find(|set| set.generation == generation)
    }
}

/// One that others are forked from and one on its way out.
pub(super) const MAX_ZYGOTES: usize = 2;
