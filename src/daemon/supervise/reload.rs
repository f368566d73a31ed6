//! A new generation beside the one that serves: canary, probe, the rest, and then all of the traffic at once; or
//! nothing at all. And the watch over it, which may end in going back.
//!
//! Until its whole crew stands by, nothing that serves is touched, so that "the old generation serves on" needs no
//! repair. Only when nobody serves, the first of the new that is ready takes over at once.

use std::mem;
use std::time::Instant;

use crate::id::{Generation, WorkerId};

use super::crew::Crew;
use super::event::{BootFailure, BootFailureKind};
use super::reload_state::{Awaited, Coming, Stage, Warm};
use super::state::{Phase, Seat, State, Worker, after};
use super::{Action, Policy, Report, Supervisor};

impl Supervisor {
    /// The generation that the next [`Event::Reload`](super::Event::Reload) begins.
    pub fn next_generation(&self) -> Generation {
        self.next_generation
    }

    pub(super) fn reload(&mut self, policy: Policy, now: Instant) {
        let generation = self.next_generation;
        self.next_generation = Generation(generation.0 + 1);
        if !matches!(self.phase, Phase::Idle | Phase::Running) {
            let failure = BootFailure::new(BootFailureKind::Stopped, "the daemon stops");
            self.actions.push(Action::Verdict { generation, outcome: Err(failure) });
            self.actions.push(Action::Forget { generation });
            return;
        }
        let superseded = BootFailure::new(BootFailureKind::Superseded, "superseded by a later reload");
        self.reload_failed(superseded.clone(), now);
        self.did_not_arrive(superseded);
        self.end_watch(now);
        self.remark = None;
        self.report(Report::ReloadBegan { generation });
        if self.ever_ready {
            if self.told_ready {
                self.is_reloading = true;
                self.actions.push(Action::NotifyReloading);
            }
            let crew = Crew::new(generation, policy, Some(self.live.target));
            self.coming = Some(Coming { crew, asked_at: now, stage: Stage::Canary });
        } else {
            // There is nothing to keep: whatever boots, boots the wrong code.
            self.awaited = Some(Awaited { asked_at: now });
            self.told_failure = None;
            self.actions.push(Action::GoLive { generation });
            let old = mem::replace(&mut self.live, Crew::new(generation, policy, None));
            self.dismiss(&old, now);
        }
    }

    /// The answer to the probe.
    pub(super) fn probed(&mut self, id: WorkerId, outcome: Result<(), String>, now: Instant) {
        let Some(coming) = &mut self.coming else { return };
        if !matches!(coming.stage, Stage::Probing { worker, .. } if worker == id) {
            return;
        }
        match outcome {
            Ok(()) => coming.stage = Stage::Rest,
            Err(summary) => {
                let failure = BootFailure::new(BootFailureKind::Probe, summary);
                self.reload_failed(failure, now);
            }
        }
    }

    /// What follows for the reload from who is ready by now.
    pub(super) fn advance(&mut self, now: Instant) {
        let Some(coming) = &mut self.coming else { return };
        let standing_by = coming.crew.open().filter_map(|(_, seat)| self.workers.get(&seat.current?));
        let standing_by: Vec<WorkerId> =
            standing_by.filter(|worker| worker.is_standby()).map(|worker| worker.id).collect();
        let Some(canary) = standing_by.first() else { return };
        if coming.stage == Stage::Canary {
            if coming.crew.policy.probe {
                let deadline = coming.crew.policy.boot.map(|limit| after(now, limit));
                coming.stage = Stage::Probing { worker: *canary, deadline };
                self.actions.push(Action::Probe { worker: *canary });
                return;
            }
            coming.stage = Stage::Rest;
        }
        let is_complete = standing_by.len() == coming.crew.wanted();
        let stage = coming.stage;
        let is_better_than_nobody = !self.live.asleep && !self.anybody_ready();
        if stage == Stage::Rest && (is_complete || is_better_than_nobody) {
            self.go_live(now);
        }
    }

    /// The new generation takes over.
    fn go_live(&mut self, now: Instant) {
        let Some(Coming { crew, asked_at, .. }) = self.coming.take() else { return };
        let generation = crew.generation;
        let watch = crew.policy.watch;
        let mut old = self.change_over(crew, now);
        let served = |worker: &Worker| worker.generation == old.generation && worker.is_ready();
        match watch.filter(|_| self.workers.values().any(served)) {
            Some(watch) => {
                self.keep_warm(&mut old, now);
                self.warm = Some(Warm { crew: old, until: after(now, watch) });
            }
            None => self.dismiss(&old, now),
        }
        self.actions.push(Action::Verdict { generation, outcome: Ok(()) });
        self.report(Report::ReloadDone { generation, took: now.duration_since(asked_at) });
        self.end_reloading();
    }

    /// The crew becomes the live one; those of it that stand by serve from now on. The one before is handed back.
    fn change_over(&mut self, crew: Crew, now: Instant) -> Crew {
        let old = mem::replace(&mut self.live, crew);
        // What kept the places of a crew that was taken from service empty is over.
        self.live.places_mut().for_each(Seat::clear);
        self.actions.push(Action::GoLive { generation: self.live.generation });
        let lives: Vec<_> = self.live.open().filter_map(|(_, seat)| seat.current).collect();
        for life in lives {
            let standby = self.workers.get(&life).filter(|worker| worker.is_standby());
            if let Some(id) = standby.map(|worker| worker.id) {
                self.admit(id, now);
            }
        }
        self.outage = None;
        self.probing = false;
        self.told_failure = None;
        old
    }

    /// They get nothing any more, and stay at hand. Who is only on the way to something is not waited for.
    fn keep_warm(&mut self, crew: &mut Crew, now: Instant) {
        let limit = self.live.policy.drain;
        for id in self.members(crew.generation) {
            let Some(worker) = self.worker_mut(id) else { continue };
            if worker.is_ready() {
                worker.enter(State::Standby, now);
                self.actions.push(Action::Retire { worker: id });
            } else if !worker.is_standby() {
                // Nobody sees to its place, now that the crew is neither live nor coming.
                if crew.candidate == Some(id.life) {
                    crew.candidate = None;
                }
                if let Some(place) = crew.place_mut(id, worker.role) {
                    place.vacate(id.life);
                }
                self.retire(id, Some(limit), now);
            }
        }
    }

    /// The crew is not one any more: its workers finish what they have within `timeouts.drain` and leave, those as well
    /// that had more time until now. Old code does not answer for longer than that.
    fn dismiss(&mut self, crew: &Crew, now: Instant) {
        let limit = self.live.policy.drain;
        for id in self.members(crew.generation) {
            self.retire(id, Some(limit), now);
        }
        self.actions.push(Action::Forget { generation: crew.generation });
    }

    /// The generation that came up does not go live. Who serves is not concerned.
    pub(super) fn reload_failed(&mut self, failure: BootFailure, now: Instant) {
        let Some(Coming { crew, .. }) = self.coming.take() else { return };
        let generation = crew.generation;
        self.dismiss(&crew, now);
        self.actions.push(Action::Verdict { generation, outcome: Err(failure.clone()) });
        if failure.kind != BootFailureKind::Superseded {
            let headline: String = failure.headline.chars().take(LONGEST_SUMMARY).collect();
            let serving = self.live.generation;
            let does = if self.anybody_ready() { "serves on" } else { "stays" };
            self.remark = Some(format!("reload failed: {headline} (generation {serving} {does})"));
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
    pub(super) fn arrived(&mut self, now: Instant) {
        if let Some(Awaited { asked_at }) = self.awaited.take() {
            let generation = self.live.generation;
            self.actions.push(Action::Verdict { generation, outcome: Ok(()) });
            self.report(Report::ReloadDone { generation, took: now.duration_since(asked_at) });
        }
    }

    /// It is not ready either, yet: it is tried again, but who asked for it does not wait for that.
    pub(super) fn did_not_arrive(&mut self, failure: BootFailure) {
        if self.awaited.take().is_some() {
            let generation = self.live.generation;
            self.actions.push(Action::Verdict { generation, outcome: Err(failure) });
        }
    }

    /// Whether the generation before is at hand and has anybody who could serve.
    pub(super) fn can_go_back(&self) -> bool {
        let is_able =
            |worker: &Worker, of| worker.generation == of && worker.is_standby() && !worker.is_zygote();
        let warm = self.warm.as_ref();
        warm.is_some_and(|warm| self.workers.values().any(|worker| is_able(worker, warm.crew.generation)))
    }

    /// The generation before takes over again. `why` is for the journal, `headline` for everybody.
    pub(super) fn go_back(&mut self, why: String, headline: &str, now: Instant) {
        if !self.can_go_back() {
            return;
        }
        let Some(Warm { crew, .. }) = self.warm.take() else { return };
        let to = crew.generation;
        let new = self.change_over(crew, now);
        let from = new.generation;
        self.dismiss(&new, now);
        let figures: String = headline.chars().take(LONGEST_SUMMARY).collect();
        self.remark = Some(format!("went back from generation {from} to {to}: {figures}"));
        self.report(Report::WentBack { from, to, why });
    }

    /// What is new is good enough, or about to be replaced itself.
    pub(super) fn end_watch(&mut self, now: Instant) {
        if let Some(Warm { crew, .. }) = self.warm.take() {
            self.dismiss(&crew, now);
        }
    }

    /// When a reload or a watch has to be looked at.
    pub(super) fn reload_wakeup(&self) -> Option<Instant> {
        let probe = self.coming.as_ref().and_then(|coming| match coming.stage {
            Stage::Probing { deadline, .. } => deadline,
            Stage::Canary | Stage::Rest => None,
        });
        probe.into_iter().chain(self.warm.as_ref().map(|warm| warm.until)).min()
    }

    pub(super) fn run_out_reload(&mut self, now: Instant) {
        if self.reload_wakeup().is_none_or(|at| at > now) {
            return;
        }
        if let Some(coming) = &self.coming {
            let limit = super::status::span(coming.crew.policy.boot.unwrap_or_default());
            let summary = format!("reload.probe was not answered within timeouts.boot = {limit}");
            let failure = BootFailure::new(BootFailureKind::Probe, summary);
            self.reload_failed(failure, now);
        }
        self.end_watch(now);
    }

    fn members(&self, generation: Generation) -> Vec<WorkerId> {
        let members = self.workers.values().filter(|worker| worker.generation == generation);
        members.map(|worker| worker.id).collect()
    }
}

/// Characters of a failure in STATUS=, so that what it means for who serves is not cut off.
const LONGEST_SUMMARY: usize = 160;
