//! The life of one worker: what it, or the kernel, says of it, and the ways it is sent off. Where a life belongs to a
//! generation that is pending up, its failure is the reload's; what the whole does next is `fill`'s.

use std::mem;
use std::time::{Duration, Instant};

use crate::id::WorkerId;

use super::event::{BootFailure, BootFailureKind, Exit, SpawnFault};
use super::recycle::lifetime;
use super::state::{DaemonPhase, ProcessRole, Seat, TimedState, WorkerRecord, after};
use super::{AbortReason, Action, Report, SpawnMethod, Supervisor};

impl Supervisor {
    // === what is said ===

    pub(super) fn on_spawned(&mut self, id: WorkerId, pid: u32, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        worker.pid = Some(pid);
        match worker.state {
            TimedState::Spawning { deadline } => worker.enter(TimedState::Booting { deadline }, now),
            // Doomed before it existed.
            TimedState::Killed { abandon_at: None, .. } => self.kill(id, now),
            _ => {}
        }
    }

    pub(super) fn on_spawn_failed(&mut self, id: WorkerId, fault: SpawnFault, reason: String, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        self.remove(id);
        if matches!(worker.state, TimedState::Spawning { .. }) {
            let kind = match fault {
                SpawnFault::Config => BootFailureKind::Spawn,
                SpawnFault::System => BootFailureKind::System,
            };
            self.record_boot_failure(&worker, BootFailure::new(kind, reason), now);
        }
    }

    pub(super) fn on_ready(&mut self, id: WorkerId, now: Instant) {
        let live = self.live.generation;
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            // It was late; but here it is.
            TimedState::Booting { .. } | TimedState::BootTimedOut { .. } => {}
            TimedState::Promoting { .. } => return self.finish_promotion(id, now),
            _ => return,
        }
        let took = now.duration_since(worker.requested_at);
        if worker.is_zygote() {
            self.on_zygote_ready(id, took, now);
        } else if worker.generation == live {
            self.on_worker_ready(id, took, now);
        } else {
            worker.enter(TimedState::Standby, now);
            self.report(Report::WorkerReady { worker: id, took });
        }
    }

    /// A worker of the live generation is ready.
    fn on_worker_ready(&mut self, id: WorkerId, took: Duration, now: Instant) {
        self.admit(id, now);
        self.outage = None;
        self.ever_ready = true;
        self.last_boot_failure = None;
        if mem::take(&mut self.serial_boots) {
            // The canary lives: what kept the others from booting is over.
            for seat in self.live.all_seats_mut().filter(|seat| seat.current.is_none()) {
                seat.clear_wait();
            }
        }
        self.report(Report::WorkerReady { worker: id, took });
        if let Some(seat) = self.live.seat_mut(id, ProcessRole::Worker) {
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
        self.confirm_reload(now);
        if !self.told_ready && !self.told_stopping {
            self.told_ready = true;
            self.actions.push(Action::NotifyReady);
        }
    }

    pub(super) fn on_boot_failed(&mut self, id: WorkerId, failure: BootFailure, now: Instant) {
        let Some(worker) = self.worker(id) else { return };
        if worker.is_booting() {
            let mut failed = worker.clone();
            // It exits by itself, so that its output is complete; threads that its import started may prevent that.
            failed.enter(TimedState::Failed { kill_at: after(now, FAILED_EXIT_TIMEOUT) }, now);
            self.workers.insert(id.life, failed.clone());
            self.vacate(id);
            self.record_boot_failure(&failed, failure, now);
        } else {
            let BootFailure { headline, .. } = failure;
            self.on_misbehaved(id, format!("said that it cannot boot after it was ready: {headline}"), now);
        }
    }

    pub(super) fn on_exited(&mut self, id: WorkerId, exit: Exit, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        self.remove(id);
        if worker.is_booting() {
            let summary = format!("the {} {exit} while booting", who(&worker));
            let kind = if exit.is_by_request() { BootFailureKind::Signalled } else { BootFailureKind::Died };
            let failure = BootFailure::new(kind, summary);
            self.record_boot_failure(&worker, failure, now);
        } else {
            let failure = BootFailure::new(BootFailureKind::Died, format!("the {} {exit}", who(&worker)));
            let retry_in = self.record_death(&worker, failure, now);
            self.crashes += u64::from(worker.is_ready());
            self.report(Report::WorkerExited { worker: id, exit, state: worker.public_state(), retry_in });
        }
        if worker.is_zygote() {
            // What it was to fork and has not told of does not exist.
            let orphans: Vec<WorkerId> = self
                .workers
                .values()
                .filter(|worker| worker.method == SpawnMethod::Fork(id) && worker.pid.is_none())
                .map(|worker| worker.id)
                .collect();
            for orphan in orphans {
                let reason = "the zygote was gone before it had forked the worker".to_owned();
                self.on_spawn_failed(orphan, SpawnFault::System, reason, now);
            }
        }
    }

    pub(super) fn on_misbehaved(&mut self, id: WorkerId, reason: String, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        // The reason may quote what the worker has sent.
        let headline = format!("the {} broke the channel's contract", who(&worker));
        let kind = BootFailureKind::Misbehaved;
        let failure = BootFailure { headline, ..BootFailure::new(kind, reason.as_str()) };
        match worker.state {
            TimedState::Spawning { .. } | TimedState::Booting { .. } | TimedState::BootTimedOut { .. } => {
                self.kill(id, now);
                self.record_boot_failure(&worker, failure, now);
            }
            TimedState::Ready | TimedState::Standby => {
                self.kill(id, now);
                let retry_in = self.record_death(&worker, failure, now);
                self.report(Report::WorkerMisbehaved { worker: id, reason, retry_in });
            }
            TimedState::Retiring { .. } | TimedState::Promoting { .. } => {
                self.kill(id, now);
                self.report(Report::WorkerMisbehaved { worker: id, reason, retry_in: None });
            }
            // It hangs up while it leaves: whether it goes is all that counts now.
            TimedState::Failed { .. } | TimedState::Terminating { .. } | TimedState::Killed { .. } => {}
        }
    }

    pub(super) fn on_deadline_exceeded(&mut self, id: WorkerId, now: Instant) {
        let drained_by = after(now, self.live.policy.drain);
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            TimedState::Ready => self.replace_stuck(id, now),
            // It was to finish what it had, and will not.
            TimedState::Retiring { deadline, .. } => {
                worker.state = TimedState::Retiring { deadline: deadline.or(Some(drained_by)), stuck: true };
            }
            // Of the generation before, which is watched: this one cannot take over again.
            TimedState::Standby if !worker.drained => {
                worker.enter(TimedState::Retiring { deadline: Some(drained_by), stuck: true }, now);
                self.vacate(id);
            }
            _ => {}
        }
    }

    pub(super) fn on_drained(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            TimedState::Retiring { stuck: true, .. } => self.kill(id, now),
            TimedState::Retiring { stuck: false, .. } => {
                worker.drained = true;
                if !self.try_promote(id, now) {
                    self.terminate(id, now);
                }
            }
            TimedState::Standby => worker.drained = true,
            _ => {}
        }
    }

    pub(super) fn on_stacks_dumped(&mut self, id: WorkerId, stacks: Option<String>, now: Instant) {
        if self.worker(id).is_some_and(|worker| matches!(worker.state, TimedState::BootTimedOut { .. })) {
            self.boot_timed_out(id, stacks, now);
        }
    }

    /// It has been booting for too long, and its stacks are there or waited for in vain.
    fn boot_timed_out(&mut self, id: WorkerId, stacks: Option<String>, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        self.kill(id, now);
        let set = self.worker_set(worker.generation);
        let limit = set.and_then(|set| set.policy.boot).unwrap_or_default();
        let summary = format!(
            "not ready after timeouts.boot = {}; the import hangs or needs a longer limit",
            super::status::format_duration(limit)
        );
        let failure =
            BootFailure { traceback: stacks, ..BootFailure::new(BootFailureKind::Timeout, summary) };
        self.record_boot_failure(&worker, failure, now);
    }

    // === what that comes down to ===

    /// A life ended, or is about to, without having been ready; it does not hold its seat any more.
    fn record_boot_failure(&mut self, worker: &WorkerRecord, failure: BootFailure, now: Instant) {
        self.boot_failures += 1;
        let id = worker.id;
        if worker.generation != self.live.generation {
            let report = Report::WorkerBootFailed {
                worker: id,
                failure: failure.clone(),
                retry_in: None,
                already_reported: false,
            };
            self.report(report);
            self.fail_reload(failure, now);
            return;
        }
        let already_reported = self.last_boot_failure.as_ref() == Some(&failure);
        self.last_boot_failure = Some(failure.clone());
        let report = |retry_in| Report::WorkerBootFailed {
            worker: id,
            failure: failure.clone(),
            retry_in,
            already_reported,
        };
        let is_final = self.phase == DaemonPhase::Running
            && self.live.policy.exit_on_first_boot_failure
            && !self.ever_ready
            && failure.kind.is_lasting();
        if is_final {
            self.report(report(None));
            self.refute_reload(failure.clone());
            self.fail_start(failure, now);
            return;
        }
        let none_ready = !self.any_ready();
        if none_ready && self.can_roll_back() {
            self.report(report(None));
            self.roll_back(failure.summary, &failure.headline, now);
            return;
        }

        let limits = self.live.policy.backoff;
        let (mut retry_at, mut wait) = (None, Duration::ZERO);
        if let Some(seat) = self.live.seat_mut(id, worker.role) {
            wait = seat.backoff.failure_wait(limits);
            seat.set_wait(wait, now);
            seat.failure = Some(failure.headline.clone());
            retry_at = seat.retry_at;
        }
        if none_ready {
            self.serial_boots = true;
            self.outage = Some(failure.summary.clone());
            for seat in self.live.all_seats_mut().filter(|seat| seat.current.is_none()) {
                (seat.retry_at, seat.wait) = (retry_at, wait);
            }
        }
        self.report(report(Some(wait)));
        self.refute_reload(failure);
    }

    /// A life that was ready or stood by has ended and does not hold its seat any more: how long the seat stays
    /// empty, if it is to be filled again.
    fn record_death(
        &mut self,
        worker: &WorkerRecord,
        failure: BootFailure,
        now: Instant,
    ) -> Option<Duration> {
        if !worker.is_ready() && !worker.is_standby() {
            return None;
        }
        if worker.generation != self.live.generation {
            if self.pending.as_ref().is_some_and(|pending| pending.set.generation == worker.generation) {
                let on_the_way = |why| format!("{why} while it stood by to take over");
                let (summary, headline) = (on_the_way(failure.summary), on_the_way(failure.headline));
                self.fail_reload(BootFailure { summary, headline, ..failure }, now);
            }
            return None;
        }
        let is_stable = now.duration_since(worker.since) >= self.live.policy.stable_after;
        let limits = self.live.policy.backoff;
        if worker.is_zygote() {
            self.live.reforked = false;
        }
        let seat = self.live.seat_mut(worker.id, worker.role)?;
        if is_stable {
            seat.backoff.reset();
        }
        let wait = if is_stable { Duration::ZERO } else { seat.backoff.early_death_wait(limits) };
        if wait.is_zero() {
            seat.clear_wait();
        } else {
            seat.set_wait(wait, now);
            seat.failure = Some(failure.headline.clone());
        }
        // The application boots, and then its workers die: below MIN_OUTAGE a request is better off in the queue.
        let is_out = |seat: &Seat| seat.current.is_none() && seat.wait >= MIN_OUTAGE;
        if !self.live.asleep && self.live.open().all(|(_, seat)| is_out(seat)) {
            if self.can_roll_back() {
                self.roll_back(failure.summary, &failure.headline, now);
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
        worker.enter(TimedState::Ready, now);
        worker.drained = false;
        worker.expires_at = limit.map(|limit| after(now, lifetime(limit, id.life)));
        self.actions.push(Action::Admit { worker: id });
    }

    /// It is stuck. Replace first, kill second: the seat is vacant at once, the old life finishes what can be
    /// finished.
    fn replace_stuck(&mut self, id: WorkerId, now: Instant) {
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

    /// It is not needed any more: it finishes what it has, within `limit` if there is one, and leaves.
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
                self.kill(id, now)
            }
            TimedState::Retiring { deadline: None, stuck } => {
                worker.state = TimedState::Retiring { deadline, stuck }
            }
            TimedState::Retiring { .. }
            | TimedState::Failed { .. }
            | TimedState::Terminating { .. }
            | TimedState::Killed { .. } => {}
        }
    }

    /// Asks it to leave; nobody waits for it any more.
    pub(super) fn terminate(&mut self, id: WorkerId, now: Instant) {
        self.terminate_by(id, after(now, self.live.policy.terminate_grace), now);
    }

    pub(super) fn terminate_by(&mut self, id: WorkerId, kill_at: Instant, now: Instant) {
        self.cancel_promotion(id);
        let Some(worker) = self.worker_mut(id) else { return };
        worker.enter(TimedState::Terminating { kill_at }, now);
        self.vacate(id);
        self.actions.push(Action::Terminate { worker: id });
    }

    /// It has nothing that anybody waits for, or has itself to thank for it.
    pub(super) fn kill(&mut self, id: WorkerId, now: Instant) {
        self.kill_with(id, None, now);
    }

    /// Cuts off what it has.
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

    /// The life does not hold its seat any more.
    fn vacate(&mut self, id: WorkerId) {
        let Some(worker) = self.worker(id) else { return };
        let (generation, role) = (worker.generation, worker.role);
        if let Some(seat) = self.worker_set_mut(generation).and_then(|set| set.seat_mut(id, role)) {
            Seat::vacate(seat, id.life);
        }
    }

    fn remove(&mut self, id: WorkerId) {
        self.cancel_promotion(id);
        self.vacate(id);
        self.workers.remove(&id.life);
    }

    /// Runs out the deadline of one worker.
    pub(super) fn expire_worker(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        let (state, waited) = (worker.public_state(), now.duration_since(worker.since));
        match worker.state {
            TimedState::Spawning { .. } | TimedState::BootTimedOut { .. } => {
                self.boot_timed_out(id, None, now)
            }
            TimedState::Booting { .. } => {
                worker.enter(TimedState::BootTimedOut { kill_at: after(now, STACKS_TIMEOUT) }, now);
                self.actions.push(Action::DumpStacks { worker: id });
            }
            TimedState::Retiring { .. } => {
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

fn who(worker: &WorkerRecord) -> &'static str {
    match worker.role {
        ProcessRole::Worker => "worker",
        ProcessRole::Zygote => "zygote",
    }
}

/// What a worker that said it cannot boot has to finish its output.
const FAILED_EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// A process that is not reaped this long after SIGKILL sleeps uninterruptibly.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);
/// A wait for the next life that is better answered with 503 than with the queue.
const MIN_OUTAGE: Duration = Duration::from_secs(1);
/// What the stacks of a hanging import have to be written; they are asked for twice within it.
const STACKS_TIMEOUT: Duration = Duration::from_millis(1500);
