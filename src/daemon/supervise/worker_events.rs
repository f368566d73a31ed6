//! Handles the events about one worker: it was spawned, booted, exceeded a deadline, violated the
//! contract, exited. A failure of a worker of the pending generation fails the reload.

use std::mem;
use std::time::{Duration, Instant};

use crate::id::WorkerId;

use super::event::{BootFailure, BootFailureKind, Exit, SpawnFault};
use super::state::{DaemonPhase, ProcessRole, Seat, TimedState, WorkerRecord, after};
use super::{Report, SpawnMethod, Supervisor};

impl Supervisor {
    /// Records the pid of a created process. If it is no longer needed, kills it.
    pub(super) fn on_spawned(&mut self, id: WorkerId, pid: u32, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        worker.pid = Some(pid);
        match worker.state {
            TimedState::Spawning { deadline } => worker.enter(TimedState::Booting { deadline }, now),
            // A kill was requested before the process existed.
            TimedState::Killed { abandon_at: None, .. } => self.kill(id, now),
            _ => {}
        }
    }

    /// Removes a worker whose process could not be created, and handles its failure.
    pub(super) fn on_spawn_failed(&mut self, id: WorkerId, fault: SpawnFault, reason: String, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        self.remove(id);
        if matches!(worker.state, TimedState::Spawning { .. }) {
            let kind = match fault {
                SpawnFault::Config => BootFailureKind::Spawn,
                SpawnFault::System => BootFailureKind::System,
            };
            self.decide_after_boot_failure(&worker, BootFailure::new(kind, reason), now);
        }
    }

    /// Handles the readiness of a worker or zygote that has booted, or of a worker that has become
    /// the zygote.
    pub(super) fn on_ready(&mut self, id: WorkerId, now: Instant) {
        let live = self.live.generation;
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            // A worker that is ready after its boot deadline is accepted.
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

    /// Admits a worker of the live generation, and retires the one that it replaces.
    fn on_worker_ready(&mut self, id: WorkerId, took: Duration, now: Instant) {
        self.admit(id, now);
        self.outage = None;
        self.ever_ready = true;
        self.last_boot_failure = None;
        if mem::take(&mut self.serial_boots) {
            // The canary is ready, so the other seats boot at once.
            for seat in self.live.all_seats_mut().filter(|seat| seat.current.is_none()) {
                seat.clear_wait();
            }
        }
        self.report(Report::WorkerReady { worker: id, took });
        if self.imports_rejected_code() {
            self.report(Report::RejectedCode { worker: id });
        }
        if let Some(seat) = self.live.seat_mut(id, ProcessRole::Worker) {
            seat.failure = None;
            let stuck = seat.replaces.take();
            let replaced = seat.current.filter(|_| seat.successor == Some(id.incarnation));
            if replaced.is_some() {
                seat.current = seat.successor.take();
            }
            let replaced =
                replaced.and_then(|incarnation| self.workers.get(&incarnation)).map(|worker| worker.id);
            for old in stuck.into_iter().chain(replaced) {
                self.report(Report::Replaced { worker: old, by: id });
            }
            if let Some(replaced) = replaced {
                self.retire(replaced, None, now);
            }
        }
        self.complete_unproven_reload(now);
        self.notify_first_ready();
    }

    /// Handles a worker's report that it cannot boot. After the boot, this report violates the
    /// contract.
    pub(super) fn on_boot_failed(&mut self, id: WorkerId, failure: BootFailure, now: Instant) {
        let Some(worker) = self.worker(id) else { return };
        if worker.is_booting() {
            let mut failed = worker.clone();
            // The worker exits by itself, so that its output is complete. A thread started by the
            // import may prevent the exit.
            failed.enter(TimedState::Failed { kill_at: after(now, FAILED_EXIT_TIMEOUT) }, now);
            self.workers.insert(id.incarnation, failed.clone());
            self.vacate(id);
            self.decide_after_boot_failure(&failed, failure, now);
        } else {
            let BootFailure { headline, .. } = failure;
            self.on_misbehaved(id, format!("reported a boot failure after it was ready: {headline}"), now);
        }
    }

    /// Removes a worker whose process was reaped, and decides about its replacement.
    pub(super) fn on_exited(&mut self, id: WorkerId, exit: Exit, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        self.remove(id);
        if worker.is_booting() {
            let summary = format!("the {} {exit} while booting", role_name(&worker));
            let kind = if exit.is_by_request() { BootFailureKind::Signalled } else { BootFailureKind::Died };
            let failure = BootFailure::new(kind, summary);
            self.decide_after_boot_failure(&worker, failure, now);
        } else {
            let failure =
                BootFailure::new(BootFailureKind::Died, format!("the {} {exit}", role_name(&worker)));
            let retry_in = self.back_off_after_death(&worker, failure, now);
            self.crashes += u64::from(worker.is_ready());
            self.report(Report::WorkerExited { worker: id, exit, state: worker.public_state(), retry_in });
        }
        if worker.is_zygote() {
            // Forks that the zygote has not reported do not exist.
            let orphans: Vec<WorkerId> = self
                .workers
                .values()
                .filter(|worker| worker.method == SpawnMethod::Fork(id) && worker.pid.is_none())
                .map(|worker| worker.id)
                .collect();
            for orphan in orphans {
                let reason = "the zygote exited before it forked the worker".to_owned();
                self.on_spawn_failed(orphan, SpawnFault::System, reason, now);
            }
        }
    }

    /// Kills a worker that violated the channel's contract, and decides about its replacement.
    pub(super) fn on_misbehaved(&mut self, id: WorkerId, reason: String, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        // The reason may quote what the worker sent, so STATUS= gets a headline without it.
        let headline = format!("the {} broke the channel's contract", role_name(&worker));
        let kind = BootFailureKind::Misbehaved;
        let failure = BootFailure { headline, ..BootFailure::new(kind, reason.as_str()) };
        match worker.state {
            TimedState::Spawning { .. } | TimedState::Booting { .. } | TimedState::BootTimedOut { .. } => {
                self.kill(id, now);
                self.decide_after_boot_failure(&worker, failure, now);
            }
            TimedState::Ready | TimedState::Standby => {
                self.kill(id, now);
                let retry_in = self.back_off_after_death(&worker, failure, now);
                self.report(Report::WorkerMisbehaved { worker: id, reason, retry_in });
            }
            TimedState::Retiring { .. } | TimedState::Promoting { .. } => {
                self.kill(id, now);
                self.report(Report::WorkerMisbehaved { worker: id, reason, retry_in: None });
            }
            // A worker that is exiting may close its socket.
            TimedState::Failed { .. } | TimedState::Terminating { .. } | TimedState::Killed { .. } => {}
        }
    }

    /// Takes a worker with a stuck request out of service.
    pub(super) fn on_deadline_exceeded(&mut self, id: WorkerId, now: Instant) {
        let drained_by = after(now, self.live.policy.drain);
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            TimedState::Ready => self.replace_stuck(id, now),
            // One of the requests that the worker should finish is stuck.
            TimedState::Retiring { deadline, .. } => {
                worker.state = TimedState::Retiring { deadline: deadline.or(Some(drained_by)), stuck: true };
            }
            // A worker of the rollback target, which can no longer serve.
            TimedState::Standby if !worker.drained => {
                worker.enter(TimedState::Retiring { deadline: Some(drained_by), stuck: true }, now);
                self.vacate(id);
            }
            _ => {}
        }
    }

    /// Ends the retirement of a drained worker: it becomes the zygote, or it is asked to exit, for which
    /// it has the rest of the drain; a stuck worker is killed.
    pub(super) fn on_drained(&mut self, id: WorkerId, now: Instant) {
        let (drain, grace) = (self.live.policy.drain, self.live.policy.terminate_grace);
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            TimedState::Retiring { stuck: true, .. } => self.kill(id, now),
            TimedState::Retiring { stuck: false, .. } => {
                worker.drained = true;
                let drain_ends_at = after(worker.since, drain);
                if !self.try_promote(id, now) {
                    self.terminate_by(id, drain_ends_at.max(after(now, grace)), now);
                }
            }
            TimedState::Standby => worker.drained = true,
            _ => {}
        }
    }

    /// Fails a boot that exceeded its limit, now that the worker's stacks have been dumped or have
    /// not come in time.
    pub(super) fn on_stacks_dumped(&mut self, id: WorkerId, stacks: Option<String>, now: Instant) {
        if self.worker(id).is_some_and(|worker| matches!(worker.state, TimedState::BootTimedOut { .. })) {
            self.fail_boot_timed_out(id, stacks, now);
        }
    }

    /// Kills a worker whose boot exceeded its limit, and records the failure together with the
    /// worker's stacks if there are any.
    pub(super) fn fail_boot_timed_out(&mut self, id: WorkerId, stacks: Option<String>, now: Instant) {
        let Some(worker) = self.worker(id).cloned() else { return };
        self.kill(id, now);
        let set = self.worker_set(worker.generation);
        let limit = set.and_then(|set| set.policy.boot).unwrap_or_default();
        let summary = format!(
            "not ready after timeouts.boot = {}; the import or the startup hangs, or needs a longer limit",
            super::status::format_duration(limit)
        );
        let failure =
            BootFailure { traceback: stacks, ..BootFailure::new(BootFailureKind::Timeout, summary) };
        self.decide_after_boot_failure(&worker, failure, now);
    }

    /// Decides what follows from a failed boot: retry after a backoff, fail the reload, roll back,
    /// or exit. The worker has given up its seat.
    fn decide_after_boot_failure(&mut self, worker: &WorkerRecord, failure: BootFailure, now: Instant) {
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
            self.fail_unproven_reload(failure.clone());
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
            wait = seat.backoff.record_failure(limits);
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
        self.fail_unproven_reload(failure);
    }

    /// Starts the backoff of a booted worker's seat after its death, and returns the wait; `None`
    /// if this death does not cause a replacement. The worker has given up its seat.
    fn back_off_after_death(
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
                let add_context = |text| format!("{text} while it was in standby");
                let (summary, headline) = (add_context(failure.summary), add_context(failure.headline));
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
        let wait = if is_stable { Duration::ZERO } else { seat.backoff.record_early_death(limits) };
        if wait.is_zero() {
            seat.clear_wait();
        } else {
            seat.set_wait(wait, now);
            seat.failure = Some(failure.headline.clone());
        }
        // Workers boot, but die soon after. Requests are refused only if no seat is filled again
        // within MIN_OUTAGE.
        let is_down = |seat: &Seat| seat.current.is_none() && seat.wait >= MIN_OUTAGE;
        if !self.live.asleep && self.live.desired_seats().all(|(_, seat)| is_down(seat)) {
            if self.can_roll_back() {
                self.roll_back(failure.summary, &failure.headline, now);
                return None;
            }
            self.outage = Some(failure.summary);
        }
        Some(wait)
    }
}

fn role_name(worker: &WorkerRecord) -> &'static str {
    match worker.role {
        ProcessRole::Worker => "worker",
        ProcessRole::Zygote => "zygote",
    }
}

/// The time in which a worker that reported a boot failure must complete its output and exit.
const FAILED_EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests are refused instead of queued when all seats stay vacant for at least this long.
const MIN_OUTAGE: Duration = Duration::from_secs(1);
