//! A new generation beside the one that serves: canary, probe, the rest, and then all of the traffic at once; or
//! nothing at all. And the watch over it, which may end in going back.
//!
//! Until its whole set stands by, nothing that serves is touched, so that "the old generation serves on" needs no
//! repair. Only when nobody serves, the first of the new that is ready takes over at once.

use std::mem;
use std::time::Instant;

use crate::id::{Generation, WorkerId};

use super::event::{BootFailure, BootFailureKind};
use super::reload_state::{PendingReload, ReloadStage, RollbackTarget, UnprovenReload};
use super::state::{DaemonPhase, Seat, TimedState, WorkerRecord, after};
use super::worker_set::WorkerSet;
use super::{Action, Report, Supervisor, SupervisorPolicy};

impl Supervisor {
    /// The generation that the next [`Event::Reload`](super::Event::Reload) begins.
    pub fn next_generation(&self) -> Generation {
        self.next_generation
    }

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
        self.refute_reload(superseded);
        self.end_watch(now);
        self.last_reload_note = None;
        self.report(Report::ReloadStarted { generation });
        if self.ever_ready {
            if self.told_ready {
                self.is_reloading = true;
                self.actions.push(Action::NotifyReloading);
            }
            let set = WorkerSet::new(generation, policy, Some(self.live.target));
            self.pending = Some(PendingReload { set, requested_at: now, stage: ReloadStage::Canary });
        } else {
            // There is nothing to keep: whatever boots, boots the wrong code.
            self.unproven_reload = Some(UnprovenReload { requested_at: now });
            self.last_boot_failure = None;
            self.actions.push(Action::GoLive { generation });
            let old = mem::replace(&mut self.live, WorkerSet::new(generation, policy, None));
            self.retire_generation(&old, now);
        }
    }

    /// The answer to the probe.
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

    /// What follows for the reload from who is ready by now.
    pub(super) fn advance_reload(&mut self, now: Instant) {
        let Some(pending) = &mut self.pending else { return };
        let standing_by = pending.set.open().filter_map(|(_, seat)| self.workers.get(&seat.current?));
        let standing_by: Vec<WorkerId> =
            standing_by.filter(|worker| worker.is_standby()).map(|worker| worker.id).collect();
        let Some(canary) = standing_by.first() else { return };
        if pending.stage == ReloadStage::Canary {
            if pending.set.policy.probe {
                let deadline = pending.set.policy.boot.map(|limit| after(now, limit));
                pending.stage = ReloadStage::Probing { worker: *canary, deadline };
                self.actions.push(Action::Probe { worker: *canary });
                return;
            }
            pending.stage = ReloadStage::Rest;
        }
        let is_all_ready = standing_by.len() == pending.set.desired_count();
        let stage = pending.stage;
        let is_better_than_nobody = !self.live.asleep && !self.any_ready();
        if stage == ReloadStage::Rest && (is_all_ready || is_better_than_nobody) {
            self.go_live(now);
        }
    }

    /// The new generation takes over.
    fn go_live(&mut self, now: Instant) {
        let Some(PendingReload { set, requested_at, .. }) = self.pending.take() else { return };
        let generation = set.generation;
        let watch = set.policy.watch;
        let mut old = self.switch_to(set, now);
        let served = |worker: &WorkerRecord| worker.generation == old.generation && worker.is_ready();
        match watch.filter(|_| self.workers.values().any(served)) {
            Some(watch) => {
                self.keep_for_rollback(&mut old, now);
                self.rollback = Some(RollbackTarget { set: old, until: after(now, watch) });
            }
            None => self.retire_generation(&old, now),
        }
        self.actions.push(Action::AnswerReload { generation, outcome: Ok(()) });
        self.report(Report::ReloadCompleted { generation, took: now.duration_since(requested_at) });
        self.end_reloading();
    }

    /// The set becomes the live one; those of it that stand by serve from now on. The one before is handed back.
    fn switch_to(&mut self, set: WorkerSet, now: Instant) -> WorkerSet {
        let old = mem::replace(&mut self.live, set);
        // What kept the seats of a set that was taken from service empty is over.
        self.live.all_seats_mut().for_each(Seat::clear);
        self.actions.push(Action::GoLive { generation: self.live.generation });
        let lives: Vec<_> = self.live.open().filter_map(|(_, seat)| seat.current).collect();
        for life in lives {
            let standby = self.workers.get(&life).filter(|worker| worker.is_standby());
            if let Some(id) = standby.map(|worker| worker.id) {
                self.admit(id, now);
            }
        }
        self.outage = None;
        self.serial_boots = false;
        self.last_boot_failure = None;
        old
    }

    /// They get nothing any more, and stay at hand. Who is only on the way to something is not waited for.
    fn keep_for_rollback(&mut self, set: &mut WorkerSet, now: Instant) {
        let limit = self.live.policy.drain;
        for id in self.members(set.generation) {
            let Some(worker) = self.worker_mut(id) else { continue };
            if worker.is_ready() {
                worker.enter(TimedState::Standby, now);
                self.actions.push(Action::Retire { worker: id });
            } else if !worker.is_standby() {
                // Nobody sees to its seat, now that the set is neither live nor pending.
                if set.candidate == Some(id.life) {
                    set.candidate = None;
                }
                if let Some(seat) = set.seat_mut(id, worker.role) {
                    seat.vacate(id.life);
                }
                self.retire(id, Some(limit), now);
            }
        }
    }

    /// The set is not one any more: its workers finish what they have within `timeouts.drain` and leave, those as well
    /// that had more time until now. Old code does not answer for longer than that.
    fn retire_generation(&mut self, set: &WorkerSet, now: Instant) {
        let limit = self.live.policy.drain;
        for id in self.members(set.generation) {
            self.retire(id, Some(limit), now);
        }
        self.actions.push(Action::ForgetGeneration { generation: set.generation });
    }

    /// The generation that came up does not go live. Who serves is not concerned.
    pub(super) fn fail_reload(&mut self, failure: BootFailure, now: Instant) {
        let Some(PendingReload { set, .. }) = self.pending.take() else { return };
        let generation = set.generation;
        self.retire_generation(&set, now);
        self.actions.push(Action::AnswerReload { generation, outcome: Err(failure.clone()) });
        if failure.kind != BootFailureKind::Superseded {
            let headline: String = failure.headline.chars().take(MAX_NOTE_CHARS).collect();
            let serving = self.live.generation;
            let does = if self.any_ready() { "serves on" } else { "stays" };
            self.last_reload_note = Some(format!("reload failed: {headline} (generation {serving} {does})"));
            self.end_reloading();
        }
        self.report(Report::ReloadFailed { generation, failure });
    }

    /// `READY=1`, if `RELOADING=1` was told.
    fn end_reloading(&mut self) {
        if mem::take(&mut self.is_reloading) && !self.told_stopping {
            self.actions.push(Action::NotifyReady);
        }
    }

    /// Somebody is ready: so the generation is that replaced one which never was.
    pub(super) fn confirm_reload(&mut self, now: Instant) {
        if let Some(UnprovenReload { requested_at }) = self.unproven_reload.take() {
            let generation = self.live.generation;
            self.actions.push(Action::AnswerReload { generation, outcome: Ok(()) });
            self.report(Report::ReloadCompleted { generation, took: now.duration_since(requested_at) });
        }
    }

    /// It is not ready either, yet: it is tried again, but who asked for it does not wait for that.
    pub(super) fn refute_reload(&mut self, failure: BootFailure) {
        if self.unproven_reload.take().is_some() {
            let generation = self.live.generation;
            self.actions.push(Action::AnswerReload { generation, outcome: Err(failure) });
        }
    }

    /// Whether the generation before is at hand and has anybody who could serve.
    pub(super) fn can_roll_back(&self) -> bool {
        let is_able =
            |worker: &WorkerRecord, of| worker.generation == of && worker.is_standby() && !worker.is_zygote();
        let rollback = self.rollback.as_ref();
        rollback.is_some_and(|rollback| {
            self.workers.values().any(|worker| is_able(worker, rollback.set.generation))
        })
    }

    /// The generation before takes over again. `why` is for the journal, `headline` for everybody.
    pub(super) fn roll_back(&mut self, reason: String, headline: &str, now: Instant) {
        if !self.can_roll_back() {
            return;
        }
        let Some(RollbackTarget { set, .. }) = self.rollback.take() else { return };
        let to = set.generation;
        let new = self.switch_to(set, now);
        let from = new.generation;
        self.retire_generation(&new, now);
        let figures: String = headline.chars().take(MAX_NOTE_CHARS).collect();
        self.last_reload_note = Some(format!("went back from generation {from} to {to}: {figures}"));
        self.report(Report::RolledBack { from, to, reason });
    }

    /// What is new is good enough, or about to be replaced itself.
    pub(super) fn end_watch(&mut self, now: Instant) {
        if let Some(RollbackTarget { set, .. }) = self.rollback.take() {
            self.retire_generation(&set, now);
        }
    }

    /// When a reload or a watch has to be looked at.
    pub(super) fn reload_deadline(&self) -> Option<Instant> {
        let probe = self.pending.as_ref().and_then(|pending| match pending.stage {
            ReloadStage::Probing { deadline, .. } => deadline,
            ReloadStage::Canary | ReloadStage::Rest => None,
        });
        probe.into_iter().chain(self.rollback.as_ref().map(|rollback| rollback.until)).min()
    }

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

    fn members(&self, generation: Generation) -> Vec<WorkerId> {
        let members = self.workers.values().filter(|worker| worker.generation == generation);
        members.map(|worker| worker.id).collect()
    }
}

/// Characters of a failure in STATUS=, so that what it means for who serves is not cut off.
const MAX_NOTE_CHARS: usize = 160;
