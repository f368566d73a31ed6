//! Changes the number of workers: with the load (`autoscaler`), under memory pressure, by the
//! operator, and to none after `workers.idle_exit`.
//!
//! The load is measured by the time that requests wait in the queue. CPU time would mislead: a
//! worker that waits for its database uses none, and busy workers are enough while no request
//! waits. A wait adds workers at once, in doubling steps. Only a minute of spare capacity removes a
//! worker, because a boot costs more than an idle process.

use std::time::Instant;

use crate::id::{WorkerId, WorkerNr};

use super::autoscaler::WorkerCount;
use super::state::{DaemonPhase, WorkerRecord};
use super::watch::clearly_worse;
use super::{LoadSample, Report, ResizeReason, Supervisor};

impl Supervisor {
    /// Acts on a load sample: rolls back, puts the workers to sleep, adds or removes workers.
    pub(super) fn on_load(&mut self, load: &LoadSample, now: Instant) {
        if !self.phase.is_serving() {
            return;
        }
        if self.live.asleep {
            if load.queued > 0 {
                self.wake();
            }
            return;
        }
        if let Some(rollback) = &self.rollback {
            let stats_of = |generation| {
                let entry = load.responses.iter().find(|(of, _)| *of == generation);
                entry.map_or_else(Default::default, |(_, stats)| *stats)
            };
            let worse = clearly_worse(stats_of(rollback.set.generation), stats_of(self.live.generation));
            if let Some(reason) = worse {
                self.roll_back(reason.clone(), &reason, now);
                return;
            }
        }
        // The pending generation is resized once it is live.
        if self.pending.is_some() {
            return;
        }
        let is_idle = load.running == 0 && load.queued == 0 && self.rollback.is_none();
        if self.live.policy.idle_exit.is_some_and(|limit| is_idle && load.idle_for >= limit)
            && self.any_ready()
        {
            self.fall_asleep(now);
            return;
        }
        let set = &mut self.live;
        let is_ready = |incarnation| self.workers.get(&incarnation).is_some_and(WorkerRecord::is_ready);
        let count = WorkerCount {
            min: set.min,
            max: set.max,
            current: set.target,
            slots: set.policy.slots.get(),
            is_all_ready: set.desired_seats().all(|(_, seat)| seat.current.is_some_and(is_ready)),
        };
        if let Some((to, reason)) = set.scaler.observe(load, count, now) {
            self.resize(to, reason, now);
        }
    }

    /// Retires the workers above the minimum that `n_requests` running or waiting requests do not need,
    /// because memory is short.
    pub(super) fn shed_idle_workers(&mut self, n_requests: usize, now: Instant) {
        if !self.phase.is_serving() || self.live.asleep || self.pending.is_some() {
            return;
        }
        let slots = usize::try_from(self.live.policy.slots.get()).unwrap_or(usize::MAX);
        let needed = n_requests.div_ceil(slots);
        let needed = u16::try_from(needed).unwrap_or(u16::MAX).max(self.live.min);
        if needed < self.live.target {
            self.resize(needed, ResizeReason::MemoryPressure, now);
        }
    }

    /// Adds `by` to the minimum, the maximum and the current number of workers.
    pub(super) fn adjust_count(&mut self, by: i32, now: Instant) {
        if self.phase != DaemonPhase::NotStarted && !self.phase.is_serving() {
            return;
        }
        let shifted = |n: u16| {
            let shifted = i64::from(n) + i64::from(by);
            u16::try_from(shifted.clamp(1, i64::from(WorkerNr::MAX_COUNT))).expect("clamped to a u16")
        };
        let set = &mut self.live;
        (set.min, set.max) = (shifted(set.min), shifted(set.max));
        let to = shifted(set.target).clamp(set.min, set.max);
        self.resize_by_operator(to, now);
    }

    /// Makes `to` the minimum, the maximum and the current number of workers.
    pub(super) fn set_count(&mut self, to: u16, now: Instant) {
        if !self.phase.is_serving() {
            return;
        }
        let to = to.clamp(1, WorkerNr::MAX_COUNT);
        (self.live.min, self.live.max) = (to, to);
        self.resize_by_operator(to, now);
    }

    /// Sets the number of workers. While the workers are asleep, sets the number that the next
    /// request starts.
    fn resize_by_operator(&mut self, to: u16, now: Instant) {
        if self.live.asleep {
            self.live.target = to;
            self.live.grow_seats();
        } else {
            self.resize(to, ResizeReason::Operator, now);
        }
    }

    /// Ends the sleep, because a request arrived.
    pub(super) fn wake(&mut self) {
        if !self.live.asleep {
            return;
        }
        self.live.asleep = false;
        // The request waits for the first worker, so that worker boots alone.
        self.serial_boots = true;
        let to = self.live.target;
        self.report(Report::Resized { from: 0, to, reason: ResizeReason::Request });
    }

    /// Retires all workers. The zygote stays, so that the next request waits for a fork and not for
    /// an import.
    fn fall_asleep(&mut self, now: Instant) {
        let from = self.live.target;
        self.live.target = self.live.min;
        self.live.asleep = true;
        self.report(Report::Resized { from, to: 0, reason: ResizeReason::IdleExit });
        for idx in 0..self.live.seats.len() {
            self.close_seat(idx, now);
        }
    }

    /// Sets the number of workers; retires those above it.
    fn resize(&mut self, to: u16, reason: ResizeReason, now: Instant) {
        let from = std::mem::replace(&mut self.live.target, to);
        self.live.grow_seats();
        if from == to {
            return;
        }
        self.report(Report::Resized { from, to, reason });
        for idx in usize::from(to)..self.live.seats.len() {
            self.close_seat(idx, now);
        }
    }

    /// Retires the workers of a seat that is no longer open.
    fn close_seat(&mut self, idx: usize, now: Instant) {
        let Some(seat) = self.live.seats.get_mut(idx) else { return };
        seat.clear();
        // The successor is retired first, or it would become the current worker.
        let incarnations: Vec<_> = seat.successor.into_iter().chain(seat.current).collect();
        let ids: Vec<WorkerId> = incarnations
            .iter()
            .filter_map(|incarnation| self.workers.get(incarnation))
            .map(|worker| worker.id)
            .collect();
        for id in ids {
            self.retire(id, None, now);
        }
    }
}
