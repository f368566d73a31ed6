//! Decides after each event which workers to spawn: first for vacant seats of the live set, then
//! for the pending generation, then the successor of a worker to be recycled. Backoff, the canary
//! rule and the process limits apply.

use std::time::{Duration, Instant};

use crate::id::{Generation, Incarnation, WorkerId, WorkerNr};

use super::state::{DaemonPhase, ProcessRole, Seat, TimedState, WorkerRecord, after};
use super::worker_set::WorkerSet;
use super::{AbortReason, Action, Report, SpawnMethod, Supervisor};

impl Supervisor {
    /// Spawns all workers that may boot now.
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
            // A reload waits for room; no request is aborted for it. The wait is finite, because
            // only workers of the live generation retire without a deadline, and the limit exceeds
            // their number.
            if !self.has_room(pending.set.generation) {
                return;
            }
            self.spawn(pending.set.generation, number, now);
        }
        if let Some(recycled) = self.next_to_replace(now)
            && self.has_room(self.live.generation)
        {
            self.spawn(self.live.generation, recycled.number, now);
        }
    }

    /// Returns the vacant seat to fill next; `None` if none may be filled now.
    pub(super) fn next_vacancy(&self, now: Instant) -> Option<u16> {
        let is_held = |seat: &Seat| seat.current.is_some();
        if !self.fills_vacancies()
            || !self.live.can_spawn(&self.workers)
            || (self.boots_serially() && self.live.seats.iter().any(is_held))
        {
            return None;
        }
        let due = self.live.desired_seats().filter(|(_, seat)| seat.is_due(now));
        due.min_by_key(|(_, seat)| seat.retry_at).map(|(idx, _)| idx)
    }

    /// Returns true if the live set needs a zygote and one may be spawned now.
    pub(super) fn needs_zygote(&self, now: Instant) -> bool {
        let set = &self.live;
        let is_due = set.zygote.as_ref().is_some_and(|seat| seat.is_due(now));
        // Nothing is forked while the set is asleep, or while a worker boots as the canary.
        let is_held = |seat: &Seat| seat.current.is_some();
        let is_needed = set.desired_count() > 0 && !(self.boots_serially() && set.seats.iter().any(is_held));
        is_due && is_needed && self.fills_vacancies() && self.n_zygotes(set.generation) < MAX_ZYGOTES
    }

    /// Returns true if vacant seats are filled in this phase.
    pub(super) fn fills_vacancies(&self) -> bool {
        match self.phase {
            DaemonPhase::Running | DaemonPhase::Departing { .. } => true,
            // Queued requests are still answered, unless the start failed.
            DaemonPhase::Draining { .. } => self.fatal_exit.is_none(),
            DaemonPhase::NotStarted | DaemonPhase::Stopping | DaemonPhase::Exited => false,
        }
    }

    /// Returns true if a seat may be filled only while all others are vacant: for a canary, and
    /// while the daemon drains, where one worker suffices to empty the queue.
    pub(super) fn boots_serially(&self) -> bool {
        let is_canary = (!self.ever_ready || self.serial_boots) && !self.any_ready();
        is_canary || !self.phase.is_serving()
    }

    /// Returns true if the process limits allow one more worker of this generation. A generation
    /// may have two workers per seat, so that every seat may have a stuck one in addition to its
    /// current one. All generations together may have three per seat, so that another generation
    /// can boot as well.
    pub(super) fn has_room(&self, generation: Generation) -> bool {
        self.worker_set(generation).is_some_and(|set| self.n_workers(generation) < 2 * set.seats.len())
            && self.n_all_workers() < self.max_workers()
    }

    /// The limit for all generations together: three times the largest number of seats of a
    /// generation that still has workers.
    fn max_workers(&self) -> usize {
        let sets = self.worker_sets().map(|set| set.seats.len());
        let existing = self.workers.values().map(|worker| worker.set_size);
        3 * sets.chain(existing).max().unwrap_or(0)
    }

    /// Returns the number of workers of a generation, including those that are exiting.
    pub(super) fn n_workers(&self, generation: Generation) -> usize {
        let is_member = |worker: &&WorkerRecord| !worker.is_zygote() && worker.generation == generation;
        self.workers.values().filter(is_member).count()
    }

    /// Returns the number of zygotes of a generation, including those that are exiting.
    pub(super) fn n_zygotes(&self, generation: Generation) -> usize {
        let is_member = |worker: &&WorkerRecord| worker.is_zygote() && worker.generation == generation;
        self.workers.values().filter(is_member).count()
    }

    fn n_all_workers(&self) -> usize {
        self.workers.values().filter(|worker| !worker.is_zygote()).count()
    }

    /// Returns the number of the worker or zygote of the pending generation that boots next; `None`
    /// if none may.
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
            seat.current
                .and_then(|incarnation| self.workers.get(&incarnation))
                .is_some_and(WorkerRecord::is_booting)
        };
        let n_booting = set.seats.iter().filter(|seat| is_booting(seat)).count();
        if n_booting >= pending.max_boots() {
            return None;
        }
        set.desired_seats().find(|(_, seat)| seat.current.is_none()).map(|(idx, _)| WorkerNr(idx))
    }

    /// Spawns a worker or zygote and gives it the seat, or makes it the successor of the seat's
    /// worker.
    fn spawn(&mut self, generation: Generation, number: WorkerNr, now: Instant) {
        let role = if number == WorkerNr::ZYGOTE { ProcessRole::Zygote } else { ProcessRole::Worker };
        let id = WorkerId { number, incarnation: self.next_incarnation };
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
            seat.current = Some(id.incarnation);
        } else {
            seat.successor = Some(id.incarnation);
        }
        self.next_incarnation = Incarnation(id.incarnation.0 + 1);
        self.workers.insert(id.incarnation, worker);
        self.actions.push(Action::Spawn { worker: id, generation, method });
    }

    /// Makes room under the process limits for vacant seats that are due: kills stuck workers,
    /// beginning with those that have been retiring longest. Workers that finish their requests
    /// normally are killed only if no worker is ready; otherwise they get `timeouts.drain` from
    /// now.
    fn make_room(&mut self, now: Instant) {
        // If the limit of the generation is reached, only an exit of one of its workers makes room.
        let generation = self.live.generation;
        let at_own_limit = self.n_workers(generation) >= 2 * self.live.seats.len();
        let is_counted = |worker: &&WorkerRecord| {
            !worker.is_zygote() && (!at_own_limit || worker.generation == generation)
        };
        let n_due = self.live.desired_seats().filter(|(_, seat)| seat.is_due(now)).count();
        let n_exiting = self.workers.values().filter(is_counted).filter(|worker| worker.is_exiting()).count();
        let any_ready = self.any_ready();
        let mut retiring: Vec<(bool, Instant, WorkerId)> = self
            .workers
            .values()
            .filter(is_counted)
            .filter_map(|worker| match worker.state {
                TimedState::Retiring { stuck, .. } => Some((!stuck, worker.since, worker.id)),
                _ => None,
            })
            .filter(|(is_healthy, ..)| !(*is_healthy && any_ready))
            .collect();
        retiring.sort_unstable();
        for (_, _, id) in retiring.into_iter().take(n_due.saturating_sub(n_exiting)) {
            self.report(Report::RetirementAborted { worker: id });
            self.abort(id, AbortReason::ProcessLimit, now);
        }
        self.bound_retirements(at_own_limit.then_some(generation), n_due, now);
    }

    /// Ensures that `n` workers exit in bounded time, or all that are retiring or exiting if there
    /// are fewer. Retiring workers without a deadline get the deadline `timeouts.drain` from now,
    /// longest retiring first. If `generation` is given, only its workers count.
    fn bound_retirements(&mut self, generation: Option<Generation>, n: usize, now: Instant) {
        // At least 1 ms, so that no deadline has passed when the tick ends.
        let limit = self.live.policy.drain.max(Duration::from_millis(1));
        let is_outgoing = |worker: &WorkerRecord| {
            worker.is_exiting() || matches!(worker.state, TimedState::Retiring { .. })
        };
        let outgoing = self.workers.values().filter(|worker| {
            is_outgoing(worker)
                && !worker.is_zygote()
                && generation.is_none_or(|generation| worker.generation == generation)
        });
        let (mut unbounded, bounded): (Vec<&WorkerRecord>, Vec<&WorkerRecord>) =
            outgoing.partition(|worker| worker.is_retiring_unbounded());
        unbounded.sort_unstable_by_key(|worker| (worker.since, worker.id));
        let n_more = n.saturating_sub(bounded.len());
        let to_bound: Vec<WorkerId> = unbounded.into_iter().take(n_more).map(|worker| worker.id).collect();
        for id in to_bound {
            self.retire(id, Some(limit), now);
        }
    }

    /// Returns the live set, and the pending and previous sets if they exist.
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

/// A zygote is spawned only while its generation has fewer zygotes than this. Two allow for one to
/// fork from and one that is about to exit.
pub(super) const MAX_ZYGOTES: usize = 2;
