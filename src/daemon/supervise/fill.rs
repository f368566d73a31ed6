//! Who boots next. A look at the whole after each event: vacancies of the live crew first, then the generation that
//! comes up, then successors of the worn-out, as far as time, the canary rule and the number of processes allow.

use std::time::{Duration, Instant};

use crate::id::{Generation, Life, WorkerId, WorkerNr};

use super::crew::Crew;
use super::state::{Phase, Role, Seat, State, Worker, after};
use super::{Action, Cut, Origin, Report, Supervisor};

impl Supervisor {
    pub(super) fn fill(&mut self, now: Instant) {
        if self.lacks_zygote(now) {
            self.spawn(self.live.generation, WorkerNr::ZYGOTE, now);
        }
        while let Some(idx) = self.vacancy(now) {
            if !self.has_room(self.live.generation) {
                self.make_room(now);
                return;
            }
            self.spawn(self.live.generation, WorkerNr(idx), now);
        }
        while let Some(number) = self.recruit() {
            let Some(coming) = &self.coming else { return };
            // It waits for those before it to leave: nobody's requests are cut short for new code. That is not for
            // ever: who leaves without a limit is of the live generation, and there is room beside all of that.
            if !self.has_room(coming.crew.generation) {
                return;
            }
            self.spawn(coming.crew.generation, number, now);
        }
        if let Some(worn) = self.to_succeed(now)
            && self.has_room(self.live.generation)
        {
            self.spawn(self.live.generation, worn.number, now);
        }
    }

    /// The seat to fill next.
    pub(super) fn vacancy(&self, now: Instant) -> Option<u16> {
        let is_held = |seat: &Seat| seat.current.is_some();
        if !self.fills()
            || !self.live.can_spawn(&self.workers)
            || (self.one_at_a_time() && self.live.seats.iter().any(is_held))
        {
            return None;
        }
        let due = self.live.open().filter(|(_, seat)| seat.is_due(now));
        due.min_by_key(|(_, seat)| seat.retry_at).map(|(idx, _)| idx)
    }

    /// Whether there has to be a zygote, and it can be made now.
    pub(super) fn lacks_zygote(&self, now: Instant) -> bool {
        let crew = &self.live;
        let is_due = crew.zygote.as_ref().is_some_and(|place| place.is_due(now));
        // Nothing is to be forked in a sleep, nor while somebody else is the canary.
        let is_held = |seat: &Seat| seat.current.is_some();
        let is_needed = crew.wanted() > 0 && !(self.one_at_a_time() && crew.seats.iter().any(is_held));
        is_due && is_needed && self.fills() && self.n_zygotes(crew.generation) < MOST_ZYGOTES
    }

    /// Whether vacancies are filled at all.
    pub(super) fn fills(&self) -> bool {
        match self.phase {
            Phase::Running => true,
            // What is queued is still to be answered, unless it cannot be.
            Phase::Draining { .. } => self.ending.is_none(),
            Phase::Idle | Phase::Leaving | Phase::Over => false,
        }
    }

    /// Whether a seat is filled only when no other has anybody: the canary before anybody was ready, while boots fail
    /// and after a sleep, and the last one needed to empty the queue before the end.
    pub(super) fn one_at_a_time(&self) -> bool {
        let is_canary = (!self.ever_ready || self.probing) && !self.anybody_ready();
        is_canary || self.phase != Phase::Running
    }

    /// Whether one more worker of this generation may exist. Each may have twice as many as it has seats, so that
    /// every seat can have a stuck life beside its current one; and all of them together three times as many, so that
    /// another generation can come up beside that.
    pub(super) fn has_room(&self, generation: Generation) -> bool {
        self.crew(generation).is_some_and(|crew| self.n_workers(generation) < 2 * crew.seats.len())
            && self.n_all_workers() < self.most_workers()
    }

    fn most_workers(&self) -> usize {
        let crews = self.crews().map(|crew| crew.seats.len());
        let lives = self.workers.values().map(|worker| worker.crew_size);
        3 * crews.chain(lives).max().unwrap_or(0)
    }

    pub(super) fn n_workers(&self, generation: Generation) -> usize {
        let is_one = |worker: &&Worker| !worker.is_zygote() && worker.generation == generation;
        self.workers.values().filter(is_one).count()
    }

    pub(super) fn n_zygotes(&self, generation: Generation) -> usize {
        let is_one = |worker: &&Worker| worker.is_zygote() && worker.generation == generation;
        self.workers.values().filter(is_one).count()
    }

    fn n_all_workers(&self) -> usize {
        self.workers.values().filter(|worker| !worker.is_zygote()).count()
    }

    /// Who is to boot next of the generation that comes up.
    fn recruit(&self) -> Option<WorkerNr> {
        let coming = self.coming.as_ref()?;
        let crew = &coming.crew;
        if crew.zygote.as_ref().is_some_and(|place| place.current.is_none()) {
            return Some(WorkerNr::ZYGOTE);
        }
        if !crew.can_spawn(&self.workers) {
            return None;
        }
        let is_booting = |seat: &Seat| {
            seat.current.and_then(|life| self.workers.get(&life)).is_some_and(Worker::is_booting)
        };
        let n_booting = crew.seats.iter().filter(|seat| is_booting(seat)).count();
        if n_booting >= coming.boots_at_once() {
            return None;
        }
        crew.open().find(|(_, seat)| seat.current.is_none()).map(|(idx, _)| WorkerNr(idx))
    }

    fn spawn(&mut self, generation: Generation, number: WorkerNr, now: Instant) {
        let role = if number == WorkerNr::ZYGOTE { Role::Zygote } else { Role::Worker };
        let id = WorkerId { number, life: self.next_life };
        let Some(crew) = self.crew(generation) else { return };
        let origin = match (role, crew.ready_zygote(&self.workers)) {
            (Role::Zygote, _) => Origin::ExecZygote,
            (Role::Worker, Some(zygote)) => Origin::Fork(zygote),
            (Role::Worker, None) => Origin::Exec,
        };
        let worker = Worker {
            id,
            generation,
            role,
            origin,
            crew_size: crew.seats.len(),
            pid: None,
            asked_at: now,
            since: now,
            state: State::Spawning { deadline: crew.policy.boot.map(|limit| after(now, limit)) },
            drained: true,
            worn: None,
            ages_at: None,
        };
        let Some(place) = self.crew_mut(generation).and_then(|crew| crew.place_mut(id, role)) else { return };
        if place.current.is_none() {
            place.current = Some(id.life);
        } else {
            place.successor = Some(id.life);
        }
        self.next_life = Life(id.life.0 + 1);
        self.workers.insert(id.life, worker);
        self.actions.push(Action::Spawn { worker: id, generation, origin });
    }

    /// There are due vacancies and too many processes on their way out: the stuck ones that have been retiring longest
    /// go. Those that finish their requests in good order are only cut short when nobody else serves; else they have
    /// `timeouts.drain` from now.
    fn make_room(&mut self, now: Instant) {
        // Too many of one generation is only helped by one of it less.
        let generation = self.live.generation;
        let is_crowded = self.n_workers(generation) >= 2 * self.live.seats.len();
        let counts =
            |worker: &&Worker| !worker.is_zygote() && (!is_crowded || worker.generation == generation);
        let n_due = self.live.open().filter(|(_, seat)| seat.is_due(now)).count();
        let n_dying = self.workers.values().filter(counts).filter(|worker| worker.is_dying()).count();
        let anybody_ready = self.anybody_ready();
        let mut retiring: Vec<(bool, Instant, WorkerId)> = self
            .workers
            .values()
            .filter(counts)
            .filter_map(|worker| match worker.state {
                State::Retiring { stuck, .. } => Some((!stuck, worker.since, worker.id)),
                _ => None,
            })
            .filter(|(is_well, ..)| !(*is_well && anybody_ready))
            .collect();
        retiring.sort_unstable();
        for (_, _, id) in retiring.into_iter().take(n_due.saturating_sub(n_dying)) {
            self.report(Report::RetirementCut { worker: id });
            self.cut(id, Cut::Room, now);
        }
        self.hurry(is_crowded.then_some(generation), n_due, now);
    }

    /// So many more processes are wanted than there may be: as many on their way out, of this generation if it is one
    /// that is too large, are not waited for without a limit any more. Those that have been retiring longest.
    fn hurry(&mut self, generation: Option<Generation>, n: usize, now: Instant) {
        // In any case for a later tick than this, which has run out by now what it was due for.
        let limit = self.live.policy.drain.max(Duration::from_millis(1));
        let is_leaving =
            |worker: &Worker| worker.is_dying() || matches!(worker.state, State::Retiring { .. });
        let leaving = self.workers.values().filter(|worker| {
            is_leaving(worker)
                && !worker.is_zygote()
                && generation.is_none_or(|generation| worker.generation == generation)
        });
        let (mut lingering, bounded): (Vec<&Worker>, Vec<&Worker>) =
            leaving.partition(|worker| worker.is_lingering());
        lingering.sort_unstable_by_key(|worker| (worker.since, worker.id));
        let n_more = n.saturating_sub(bounded.len());
        let hurried: Vec<WorkerId> = lingering.into_iter().take(n_more).map(|worker| worker.id).collect();
        for id in hurried {
            self.retire(id, Some(limit), now);
        }
    }

    pub(super) fn crews(&self) -> impl Iterator<Item = &Crew> {
        let coming = self.coming.as_ref().map(|coming| &coming.crew);
        let warm = self.warm.as_ref().map(|warm| &warm.crew);
        std::iter::once(&self.live).chain(coming).chain(warm)
    }

    pub(super) fn crew(&self, generation: Generation) -> Option<&Crew> {
        self.crews().find(|crew| crew.generation == generation)
    }

    pub(super) fn crew_mut(&mut self, generation: Generation) -> Option<&mut Crew> {
        let coming = self.coming.as_mut().map(|coming| &mut coming.crew);
        let warm = self.warm.as_mut().map(|warm| &mut warm.crew);
        let mut crews = std::iter::once(&mut self.live).chain(coming).chain(warm);
        crews.find(|crew| crew.generation == generation)
    }
}

/// One that others are forked from and one on its way out.
pub(super) const MOST_ZYGOTES: usize = 2;
