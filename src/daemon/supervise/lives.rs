//! The life of one worker: what it, or the kernel, says of it, and the ways it is sent off. Where a life belongs to a
//! generation that is coming up, its failure is the reload's; what the whole does next is `fill`'s.

use std::mem;
use std::time::{Duration, Instant};

use crate::id::WorkerId;

use super::event::{BootFailure, BootFailureKind, Exit, SpawnFault};
use super::state::{Phase, Role, Seat, State, Worker, after};
use super::wear::lifetime;
use super::{Action, Cut, Origin, Report, Supervisor};

impl Supervisor {
    // === what is said ===

    pub(super) fn spawned(&mut self, id: WorkerId, pid: u32, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        worker.pid = Some(pid);
        match worker.state {
            State::Spawning { deadline } => worker.enter(State::Booting { deadline }, now),
            // Doomed before it existed.
            State::Killed { give_up_at: None, .. } => self.kill(id, now),
            _ => {}
        }
    }

    pub(super) fn spawn_failed(&mut self, id: WorkerId, fault: SpawnFault, reason: String, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        self.remove(id);
        if matches!(worker.state, State::Spawning { .. }) {
            let kind = match fault {
                SpawnFault::Config => BootFailureKind::Spawn,
                SpawnFault::System => BootFailureKind::System,
            };
            self.boot_failed(&worker, BootFailure::new(kind, reason), now);
        }
    }

    pub(super) fn ready(&mut self, id: WorkerId, now: Instant) {
        let live = self.live.generation;
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            // It was late; but here it is.
            State::Booting { .. } | State::Overtime { .. } => {}
            State::Promoting { .. } => return self.promoted(id, now),
            _ => return,
        }
        let took = now.duration_since(worker.asked_at);
        if worker.is_zygote() {
            self.zygote_ready(id, took, now);
        } else if worker.generation == live {
            self.serves(id, took, now);
        } else {
            worker.enter(State::Standby, now);
            self.report(Report::WorkerReady { worker: id, took });
        }
    }

    /// A worker of the live generation is ready.
    fn serves(&mut self, id: WorkerId, took: Duration, now: Instant) {
        self.admit(id, now);
        self.outage = None;
        self.ever_ready = true;
        self.told_failure = None;
        if mem::take(&mut self.probing) {
            // The canary lives: what kept the others from booting is over.
            for seat in self.live.places_mut().filter(|seat| seat.current.is_none()) {
                seat.wait_no_longer();
            }
        }
        self.report(Report::WorkerReady { worker: id, took });
        if let Some(seat) = self.live.place_mut(id, Role::Worker) {
            seat.failure = None;
            let stuck = seat.replaces.take();
            let worn = seat.current.filter(|_| seat.successor == Some(id.life));
            if worn.is_some() {
                seat.current = seat.successor.take();
            }
            let worn = worn.and_then(|life| self.workers.get(&life)).map(|worker| worker.id);
            for old in stuck.into_iter().chain(worn) {
                self.report(Report::Replaced { worker: old, by: id });
            }
            if let Some(worn) = worn {
                self.retire(worn, None, now);
            }
        }
        self.arrived(now);
        if !self.told_ready && !self.told_stopping {
            self.told_ready = true;
            self.actions.push(Action::NotifyReady);
        }
    }

    pub(super) fn told_boot_failure(&mut self, id: WorkerId, failure: BootFailure, now: Instant) {
        let Some(worker) = self.worker(id) else { return };
        if worker.is_booting() {
            let mut failed = worker.clone();
            // It exits by itself, so that its output is complete; threads that its import started may prevent that.
            failed.enter(State::Failed { kill_at: after(now, FAILED_GRACE) }, now);
            self.workers.insert(id.life, failed.clone());
            self.vacate(id);
            self.boot_failed(&failed, failure, now);
        } else {
            let BootFailure { headline, .. } = failure;
            self.misbehaved(id, format!("said that it cannot boot after it was ready: {headline}"), now);
        }
    }

    pub(super) fn exited(&mut self, id: WorkerId, how: Exit, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        self.remove(id);
        if worker.is_booting() {
            let summary = format!("the {} {how} while booting", who(&worker));
            let kind = if how.is_by_request() { BootFailureKind::Signalled } else { BootFailureKind::Died };
            let failure = BootFailure::new(kind, summary);
            self.boot_failed(&worker, failure, now);
        } else {
            let failure = BootFailure::new(BootFailureKind::Died, format!("the {} {how}", who(&worker)));
            let retry_in = self.lost(&worker, failure, now);
            self.crashes += u64::from(worker.is_ready());
            self.report(Report::WorkerExited { worker: id, how, state: worker.life_state(), retry_in });
        }
        if worker.is_zygote() {
            // What it was to fork and has not told of does not exist.
            let orphans: Vec<WorkerId> = self
                .workers
                .values()
                .filter(|worker| worker.origin == Origin::Fork(id) && worker.pid.is_none())
                .map(|worker| worker.id)
                .collect();
            for orphan in orphans {
                let reason = "the zygote was gone before it had forked the worker".to_owned();
                self.spawn_failed(orphan, SpawnFault::System, reason, now);
            }
        }
    }

    pub(super) fn misbehaved(&mut self, id: WorkerId, why: String, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        // Why may quote what the worker has sent.
        let headline = format!("the {} broke the channel's contract", who(&worker));
        let kind = BootFailureKind::Misbehaved;
        let failure = BootFailure { headline, ..BootFailure::new(kind, why.as_str()) };
        match worker.state {
            State::Spawning { .. } | State::Booting { .. } | State::Overtime { .. } => {
                self.kill(id, now);
                self.boot_failed(&worker, failure, now);
            }
            State::Ready | State::Standby => {
                self.kill(id, now);
                let retry_in = self.lost(&worker, failure, now);
                self.report(Report::WorkerMisbehaved { worker: id, why, retry_in });
            }
            State::Retiring { .. } | State::Promoting { .. } => {
                self.kill(id, now);
                self.report(Report::WorkerMisbehaved { worker: id, why, retry_in: None });
            }
            // It hangs up while it leaves: whether it goes is all that counts now.
            State::Failed { .. } | State::Terminating { .. } | State::Killed { .. } => {}
        }
    }

    pub(super) fn deadline_exceeded(&mut self, id: WorkerId, now: Instant) {
        let drained_by = after(now, self.live.policy.drain);
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            State::Ready => self.replace(id, now),
            // It was to finish what it had, and will not.
            State::Retiring { deadline, .. } => {
                worker.state = State::Retiring { deadline: deadline.or(Some(drained_by)), stuck: true };
            }
            // Of the generation before, which is watched: this one cannot take over again.
            State::Standby if !worker.drained => {
                worker.enter(State::Retiring { deadline: Some(drained_by), stuck: true }, now);
                self.vacate(id);
            }
            _ => {}
        }
    }

    pub(super) fn drained(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            State::Retiring { stuck: true, .. } => self.kill(id, now),
            State::Retiring { stuck: false, .. } => {
                worker.drained = true;
                if !self.promote(id, now) {
                    self.terminate(id, now);
                }
            }
            State::Standby => worker.drained = true,
            _ => {}
        }
    }

    pub(super) fn stacks_taken(&mut self, id: WorkerId, stacks: Option<String>, now: Instant) {
        if self.worker(id).is_some_and(|worker| matches!(worker.state, State::Overtime { .. })) {
            self.boot_timed_out(id, stacks, now);
        }
    }

    /// It has been booting for too long, and its stacks are there or waited for in vain.
    fn boot_timed_out(&mut self, id: WorkerId, stacks: Option<String>, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        self.kill(id, now);
        let crew = self.crew(worker.generation);
        let limit = crew.and_then(|crew| crew.policy.boot).unwrap_or_default();
        let summary = format!(
            "not ready after timeouts.boot = {}; the import hangs or needs a longer limit",
            super::status::span(limit)
        );
        let failure =
            BootFailure { traceback: stacks, ..BootFailure::new(BootFailureKind::Timeout, summary) };
        self.boot_failed(&worker, failure, now);
    }

    // === what that comes down to ===

    /// A life ended, or is about to, without having been ready; it does not hold its seat any more.
    fn boot_failed(&mut self, worker: &Worker, failure: BootFailure, now: Instant) {
        self.boot_failures += 1;
        let id = worker.id;
        if worker.generation != self.live.generation {
            let report = Report::WorkerBootFailed {
                worker: id,
                failure: failure.clone(),
                retry_in: None,
                told_before: false,
            };
            self.report(report);
            self.reload_failed(failure, now);
            return;
        }
        let told_before = self.told_failure.as_ref() == Some(&failure);
        self.told_failure = Some(failure.clone());
        let report = |retry_in| Report::WorkerBootFailed {
            worker: id,
            failure: failure.clone(),
            retry_in,
            told_before,
        };
        let is_final = self.phase == Phase::Running
            && self.live.policy.exit_on_first_boot_failure
            && !self.ever_ready
            && failure.kind.is_lasting();
        if is_final {
            self.report(report(None));
            self.did_not_arrive(failure.clone());
            self.fail_start(failure, now);
            return;
        }
        let nobody_ready = !self.anybody_ready();
        if nobody_ready && self.can_go_back() {
            self.report(report(None));
            self.go_back(failure.summary, &failure.headline, now);
            return;
        }

        let limits = self.live.policy.backoff;
        let (mut retry_at, mut wait) = (None, Duration::ZERO);
        if let Some(seat) = self.live.place_mut(id, worker.role) {
            wait = seat.backoff.fail(limits);
            seat.wait_for(wait, now);
            seat.failure = Some(failure.headline.clone());
            retry_at = seat.retry_at;
        }
        if nobody_ready {
            self.probing = true;
            self.outage = Some(failure.summary.clone());
            for seat in self.live.places_mut().filter(|seat| seat.current.is_none()) {
                (seat.retry_at, seat.wait) = (retry_at, wait);
            }
        }
        self.report(report(Some(wait)));
        self.did_not_arrive(failure);
    }

    /// A life that was ready or stood by has ended and does not hold its place any more: how long the place stays
    /// empty, if it is to be filled again.
    fn lost(&mut self, worker: &Worker, failure: BootFailure, now: Instant) -> Option<Duration> {
        if !worker.is_ready() && !worker.is_standby() {
            return None;
        }
        if worker.generation != self.live.generation {
            if self.coming.as_ref().is_some_and(|coming| coming.crew.generation == worker.generation) {
                let on_the_way = |why| format!("{why} while it stood by to take over");
                let (summary, headline) = (on_the_way(failure.summary), on_the_way(failure.headline));
                self.reload_failed(BootFailure { summary, headline, ..failure }, now);
            }
            return None;
        }
        let is_settled = now.duration_since(worker.since) >= self.live.policy.settled;
        let limits = self.live.policy.backoff;
        if worker.is_zygote() {
            self.live.reforked = false;
        }
        let seat = self.live.place_mut(worker.id, worker.role)?;
        if is_settled {
            seat.backoff.reset();
        }
        let wait = if is_settled { Duration::ZERO } else { seat.backoff.die_early(limits) };
        if wait.is_zero() {
            seat.wait_no_longer();
        } else {
            seat.wait_for(wait, now);
            seat.failure = Some(failure.headline.clone());
        }
        // The application boots, and then its workers die: below PATIENCE a request is better off in the queue.
        let is_out = |seat: &Seat| seat.current.is_none() && seat.wait >= PATIENCE;
        if !self.live.asleep && self.live.open().all(|(_, seat)| is_out(seat)) {
            if self.can_go_back() {
                self.go_back(failure.summary, &failure.headline, now);
                return None;
            }
            self.outage = Some(failure.summary);
        }
        Some(wait)
    }

    // === what is done with it ===

    /// From now on it is given exchanges.
    pub(super) fn admit(&mut self, id: WorkerId, now: Instant) {
        let limit = self.live.policy.max_lifetime;
        let Some(worker) = self.worker_mut(id) else { return };
        worker.enter(State::Ready, now);
        worker.drained = false;
        worker.ages_at = limit.map(|limit| after(now, lifetime(limit, id.life)));
        self.actions.push(Action::Admit { worker: id });
    }

    /// It is stuck. Replace first, kill second: the seat is vacant at once, the old life finishes what can be
    /// finished.
    fn replace(&mut self, id: WorkerId, now: Instant) {
        let deadline = Some(after(now, self.live.policy.drain));
        let settled = self.live.policy.settled;
        let Some(worker) = self.worker_mut(id) else { return };
        let is_settled = now.duration_since(worker.since) >= settled;
        worker.enter(State::Retiring { deadline, stuck: true }, now);
        self.vacate(id);
        self.not_promoted(id);
        if let Some(seat) = self.live.place_mut(id, Role::Worker) {
            if is_settled {
                seat.backoff.reset();
            }
            seat.wait_no_longer();
            seat.replaces = Some(id);
        }
        self.report(Report::Replacing { worker: id });
        self.actions.push(Action::Retire { worker: id });
    }

    /// It is not needed any more: it finishes what it has, within `limit` if there is one, and leaves.
    pub(super) fn retire(&mut self, id: WorkerId, limit: Option<Duration>, now: Instant) {
        let deadline = limit.map(|limit| after(now, limit));
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            State::Ready => {
                worker.enter(State::Retiring { deadline, stuck: false }, now);
                self.vacate(id);
                self.actions.push(Action::Retire { worker: id });
            }
            State::Standby if !worker.drained => {
                worker.enter(State::Retiring { deadline, stuck: false }, now);
                self.vacate(id);
            }
            State::Standby | State::Promoting { .. } => self.terminate(id, now),
            State::Spawning { .. } | State::Booting { .. } | State::Overtime { .. } => self.kill(id, now),
            State::Retiring { deadline: None, stuck } => worker.state = State::Retiring { deadline, stuck },
            State::Retiring { .. }
            | State::Failed { .. }
            | State::Terminating { .. }
            | State::Killed { .. } => {}
        }
    }

    /// Asks it to leave; nobody waits for it any more.
    pub(super) fn terminate(&mut self, id: WorkerId, now: Instant) {
        self.terminate_by(id, after(now, self.live.policy.terminate_grace), now);
    }

    pub(super) fn terminate_by(&mut self, id: WorkerId, kill_at: Instant, now: Instant) {
        self.not_promoted(id);
        let Some(worker) = self.worker_mut(id) else { return };
        worker.enter(State::Terminating { kill_at }, now);
        self.vacate(id);
        self.actions.push(Action::Terminate { worker: id });
    }

    /// It has nothing that anybody waits for, or has itself to thank for it.
    pub(super) fn kill(&mut self, id: WorkerId, now: Instant) {
        self.kill_for(id, None, now);
    }

    /// Cuts off what it has.
    pub(super) fn cut(&mut self, id: WorkerId, why: Cut, now: Instant) {
        self.kill_for(id, Some(why), now);
    }

    fn kill_for(&mut self, id: WorkerId, cut: Option<Cut>, now: Instant) {
        self.not_promoted(id);
        let Some(worker) = self.worker_mut(id) else { return };
        let exists = worker.pid.is_some();
        let give_up_at = exists.then(|| after(now, REAP_PATIENCE));
        worker.enter(State::Killed { give_up_at, given_up: false }, now);
        if exists {
            self.actions.push(Action::Kill { worker: id, cut });
        }
        self.vacate(id);
    }

    /// The life does not hold its place any more.
    fn vacate(&mut self, id: WorkerId) {
        let Some(worker) = self.worker(id) else { return };
        let (generation, role) = (worker.generation, worker.role);
        if let Some(place) = self.crew_mut(generation).and_then(|crew| crew.place_mut(id, role)) {
            Seat::vacate(place, id.life);
        }
    }

    fn remove(&mut self, id: WorkerId) {
        self.not_promoted(id);
        self.vacate(id);
        self.workers.remove(&id.life);
    }

    /// Runs out the deadline of one worker.
    pub(super) fn run_out_worker(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        let (state, waited) = (worker.life_state(), now.duration_since(worker.since));
        match worker.state {
            State::Spawning { .. } | State::Overtime { .. } => self.boot_timed_out(id, None, now),
            State::Booting { .. } => {
                worker.enter(State::Overtime { kill_at: after(now, STACKS_PATIENCE) }, now);
                self.actions.push(Action::TakeStacks { worker: id });
            }
            State::Retiring { .. } => {
                self.report(Report::Overdue { worker: id, state, waited });
                self.cut(id, Cut::Drain, now);
            }
            State::Promoting { .. } | State::Failed { .. } | State::Terminating { .. } => {
                self.report(Report::Overdue { worker: id, state, waited });
                self.kill(id, now);
            }
            State::Killed { give_up_at, .. } => {
                worker.state = State::Killed { give_up_at, given_up: true };
                self.report(Report::Overdue { worker: id, state, waited });
            }
            State::Ready | State::Standby => {}
        }
    }
}

fn who(worker: &Worker) -> &'static str {
    match worker.role {
        Role::Worker => "worker",
        Role::Zygote => "zygote",
    }
}

/// What a worker that said it cannot boot has to finish its output.
const FAILED_GRACE: Duration = Duration::from_secs(1);
/// A process that is not reaped this long after SIGKILL sleeps uninterruptibly.
const REAP_PATIENCE: Duration = Duration::from_secs(5);
/// A wait for the next life that is better answered with 503 than with the queue.
const PATIENCE: Duration = Duration::from_secs(1);
/// What the stacks of a hanging import have to be written; they are asked for twice within it.
const STACKS_PATIENCE: Duration = Duration::from_millis(1500);
