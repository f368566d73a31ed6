//! Reloads: boots a new generation alongside the live one (canary, probe, then the rest) and
//! switches all traffic to it at once, or leaves the live one untouched. After the switch,
//! `reload.watch` may roll back to the previous generation.
//!
//! The live generation is not changed before all new workers are ready, so a failed reload has
//! nothing to undo. If no live worker is ready, the new generation goes live with its first ready
//! worker.

use std::mem;
use std::time::Instant;

use crate::id::{Generation, WorkerId};

use super::event::{BootFailure, BootFailureKind};
use super::reload_state::{PendingReload, ReloadStage, RollbackTarget, UnprovenReload};
use super::state::{DaemonPhase, Seat, TimedState, WorkerRecord, after};
use super::worker_set::WorkerSet;
use super::{Action, Report, Supervisor, SupervisorPolicy};

impl Supervisor {
    /// Returns the generation that the next [`Event::Reload`](super::Event::Reload) will create.
    pub fn next_generation(&self) -> Generation {
        self.next_generation
    }

    /// Starts a reload, which supersedes a reload in progress.
    pub(super) fn start_reload(&mut self, policy: SupervisorPolicy, now: Instant) {
        let generation = self.next_generation;
        self.next_generation = Generation(generation.0 + 1);
        if !matches!(self.phase, DaemonPhase::NotStarted | DaemonPhase::Running) {
            let failure = BootFailure::new(BootFailureKind::Stopped, "the daemon stops");
            self.actions.push(Action::AnswerReload { generation, outcome: Err(failure) });
            self.actions.push(Action::ForgetGeneration { generation });
            return;
        }
        let superseded = BootFailure::new(BootFailureKind::Superseded, "superseded by a later reload");
        self.fail_reload(superseded.clone(), now);
        self.fail_unproven_reload(superseded);
        self.end_watch(now);
        self.last_reload_note = None;
        self.report(Report::ReloadStarted { generation, old_ready: self.any_ready() });
        if self.ever_ready {
            self.notify_reloading();
            let set = WorkerSet::new(generation, policy, Some(self.live.target));
            self.pending = Some(PendingReload { set, requested_at: now, stage: ReloadStage::Canary });
        } else {
            // There is no working generation to keep, so the new one is live at once.
            self.unproven_reload = Some(UnprovenReload { requested_at: now });
            self.last_boot_failure = None;
            self.actions.push(Action::GoLive { generation });
            let old = mem::replace(&mut self.live, WorkerSet::new(generation, policy, None));
            self.retire_generation(&old, now);
        }
    }

    /// Handles the canary's answer to the probe.
    pub(super) fn on_probed(&mut self, id: WorkerId, outcome: Result<(), String>, now: Instant) {
        let Some(pending) = &mut self.pending else { return };
        if !matches!(pending.stage, ReloadStage::Probing { worker, .. } if worker == id) {
            return;
        }
        match outcome {
            Ok(()) => pending.stage = ReloadStage::Rest,
            Err(summary) => {
                let failure = BootFailure::new(BootFailureKind::Probe, summary);
                self.fail_reload(failure, now);
            }
        }
    }

    /// Moves the pending reload to its next stage if the workers it waits for are ready.
    pub(super) fn advance_reload(&mut self, now: Instant) {
        let Some(pending) = &mut self.pending else { return };
        let standby = pending.set.desired_seats().filter_map(|(_, seat)| self.workers.get(&seat.current?));
        let standby: Vec<WorkerId> =
            standby.filter(|worker| worker.is_standby()).map(|worker| worker.id).collect();
        let Some(canary) = standby.first() else { return };
        if pending.stage == ReloadStage::Canary {
            if pending.set.policy.probe {
                let deadline = pending.set.policy.boot.map(|limit| after(now, limit));
                pending.stage = ReloadStage::Probing { worker: *canary, deadline };
                self.actions.push(Action::Probe { worker: *canary });
                return;
            }
            pending.stage = ReloadStage::Rest;
        }
        let is_all_ready = standby.len() == pending.set.desired_count();
        let stage = pending.stage;
        let no_live_worker = !self.live.asleep && !self.any_ready();
        if stage == ReloadStage::Rest && (is_all_ready || no_live_worker) {
            self.go_live(now);
        }
    }

    /// Switches to the pending generation.
    fn go_live(&mut self, now: Instant) {
        let Some(PendingReload { set, requested_at, .. }) = self.pending.take() else { return };
        let generation = set.generation;
        let watch = set.policy.watch;
        let mut old = self.switch_to(set, now);
        let serves = |worker: &WorkerRecord| worker.generation == old.generation && worker.is_ready();
        match watch.filter(|_| self.workers.values().any(serves)) {
            Some(watch) => {
                self.keep_for_rollback(&mut old, now);
                self.rollback = Some(RollbackTarget { set: old, until: after(now, watch) });
            }
            None => self.retire_generation(&old, now),
        }
        self.actions.push(Action::AnswerReload { generation, outcome: Ok(()) });
        self.report(Report::ReloadCompleted { generation, took: now.duration_since(requested_at) });
        self.notify_reload_ended();
    }

    /// Makes `set` the live one, admits its workers in standby, and returns the previous set.
    fn switch_to(&mut self, set: WorkerSet, now: Instant) -> WorkerSet {
        let old = mem::replace(&mut self.live, set);
        // After a rollback, failures from the set's earlier time as the live one no longer count.
        self.live.all_seats_mut().for_each(Seat::clear);
        self.actions.push(Action::GoLive { generation: self.live.generation });
        let incarnations: Vec<_> = self.live.desired_seats().filter_map(|(_, seat)| seat.current).collect();
        for incarnation in incarnations {
            let standby = self.workers.get(&incarnation).filter(|worker| worker.is_standby());
            if let Some(id) = standby.map(|worker| worker.id) {
                self.admit(id, now);
            }
        }
        self.outage = None;
        self.serial_boots = false;
        self.last_boot_failure = None;
        old
    }

    /// Takes the workers of the previous set out of service and keeps the ready ones in standby;
    /// retires the others.
    fn keep_for_rollback(&mut self, set: &mut WorkerSet, now: Instant) {
        let limit = self.live.policy.drain;
        for id in self.workers_of(set.generation) {
            let Some(worker) = self.worker_mut(id) else { continue };
            if worker.is_ready() {
                worker.enter(TimedState::Standby, now);
                self.actions.push(Action::Retire { worker: id });
            } else if !worker.is_standby() {
                // No other code updates the seats of a set that is neither live nor pending.
                if set.candidate == Some(id.incarnation) {
                    set.candidate = None;
                }
                if let Some(seat) = set.seat_mut(id, worker.role) {
                    seat.vacate(id.incarnation);
                }
                self.retire(id, Some(limit), now);
            }
        }
    }

    /// Retires all workers of a generation within `timeouts.drain`, including those that were
    /// retiring without a deadline, so that old code does not answer for longer. Drops the
    /// generation's configuration.
    fn retire_generation(&mut self, set: &WorkerSet, now: Instant) {
        let limit = self.live.policy.drain;
        for id in self.workers_of(set.generation) {
            self.retire(id, Some(limit), now);
        }
        self.actions.push(Action::ForgetGeneration { generation: set.generation });
    }

    /// Ends the pending reload with `failure`; the live generation is unaffected.
    pub(super) fn fail_reload(&mut self, failure: BootFailure, now: Instant) {
        let Some(PendingReload { set, .. }) = self.pending.take() else { return };
        let generation = set.generation;
        self.retire_generation(&set, now);
        self.actions.push(Action::AnswerReload { generation, outcome: Err(failure.clone()) });
        if failure.kind != BootFailureKind::Superseded {
            let headline: String = failure.headline.chars().take(MAX_NOTE_CHARS).collect();
            let serving = self.live.generation;
            let outcome = if self.any_ready() { "keeps serving" } else { "stays live" };
            self.last_reload_note =
                Some(format!("reload failed: {headline} (generation {serving} {outcome})"));
            self.notify_reload_ended();
        }
        self.report(Report::ReloadFailed { generation, old_ready: self.any_ready(), failure });
    }

    /// Completes the reload of a daemon that was never ready: a worker of the new generation is
    /// ready.
    pub(super) fn complete_unproven_reload(&mut self, now: Instant) {
        if let Some(UnprovenReload { requested_at }) = self.unproven_reload.take() {
            let generation = self.live.generation;
            self.actions.push(Action::AnswerReload { generation, outcome: Ok(()) });
            self.report(Report::ReloadCompleted { generation, took: now.duration_since(requested_at) });
        }
    }

    /// Answers the reload of a daemon that was never ready with `failure`. Boots are still retried,
    /// but the client that requested the reload does not wait for them.
    pub(super) fn fail_unproven_reload(&mut self, failure: BootFailure) {
        if self.unproven_reload.take().is_some() {
            let generation = self.live.generation;
            self.actions.push(Action::AnswerReload { generation, outcome: Err(failure) });
        }
    }

    /// Returns true if the previous generation is kept and has a worker that could serve.
    pub(super) fn can_roll_back(&self) -> bool {
        let can_serve = |worker: &WorkerRecord, generation| {
            worker.generation == generation && worker.is_standby() && !worker.is_zygote()
        };
        let rollback = self.rollback.as_ref();
        rollback.is_some_and(|rollback| {
            self.workers.values().any(|worker| can_serve(worker, rollback.set.generation))
        })
    }

    /// Switches back to the previous generation. `reason` goes to the journal, `headline` to
    /// STATUS=, which every user of the machine may read.
    pub(super) fn roll_back(&mut self, reason: String, headline: &str, now: Instant) {
        if !self.can_roll_back() {
            return;
        }
        let Some(RollbackTarget { set, .. }) = self.rollback.take() else { return };
        let to = set.generation;
        let failed = self.switch_to(set, now);
        let from = failed.generation;
        self.retire_generation(&failed, now);
        let note: String = headline.chars().take(MAX_NOTE_CHARS).collect();
        self.last_reload_note = Some(format!("rolled back from generation {from} to {to}: {note}"));
        self.report(Report::RolledBack { from, to, reason });
    }

    /// Ends the watch: the previous generation is no longer needed for a rollback.
    pub(super) fn end_watch(&mut self, now: Instant) {
        if let Some(RollbackTarget { set, .. }) = self.rollback.take() {
            self.retire_generation(&set, now);
        }
    }

    /// Returns when the probe or the watch ends; `None` if there is neither.
    pub(super) fn reload_deadline(&self) -> Option<Instant> {
        let probe = self.pending.as_ref().and_then(|pending| match pending.stage {
            ReloadStage::Probing { deadline, .. } => deadline,
            ReloadStage::Canary | ReloadStage::Rest => None,
        });
        probe.into_iter().chain(self.rollback.as_ref().map(|rollback| rollback.until)).min()
    }

    /// Fails the pending reload or ends the watch if its deadline has passed.
    pub(super) fn expire_reload(&mut self, now: Instant) {
        if self.reload_deadline().is_none_or(|at| at > now) {
            return;
        }
        if let Some(pending) = &self.pending {
            let limit = super::status::format_duration(pending.set.policy.boot.unwrap_or_default());
            let summary = format!("reload.probe was not answered within timeouts.boot = {limit}");
            let failure = BootFailure::new(BootFailureKind::Probe, summary);
            self.fail_reload(failure, now);
        }
        self.end_watch(now);
    }

    fn workers_of(&self, generation: Generation) -> Vec<WorkerId> {
        let members = self.workers.values().filter(|worker| worker.generation == generation);
        members.map(|worker| worker.id).collect()
    }
}

/// Maximum number of characters of a failure in STATUS=, so that the rest of the line is not cut
/// off.
const MAX_NOTE_CHARS: usize = 160;
