//! How many workers serve: by the queue's wait, by the operator's signals, and none while nobody asks.
//!
//! The wait decides and not the CPU: a worker that waits for its database is busy without using any, and one that
//! computes is not too few as long as nobody waits. Growing follows waits at once and doubles its steps while they
//! last; shrinking takes a calm minute for each worker, since a boot costs more than an idle process.

use std::time::Instant;

use crate::id::WorkerId;

use super::autoscaler::WorkerCount;
use super::state::{DaemonPhase, WorkerRecord};
use super::watch::clearly_worse;
use super::{LoadSample, Report, ResizeReason, Supervisor};

impl Supervisor {
    /// What the edge measured: goes back, falls asleep, grows or shrinks.
    pub(super) fn on_load(&mut self, load: &LoadSample, now: Instant) {
        if self.phase != DaemonPhase::Running {
            return;
        }
        if self.live.asleep {
            if load.queued > 0 {
                self.wake();
            }
            return;
        }
        if let Some(rollback) = &self.rollback {
            let tally = |of| {
                let tally = load.responses.iter().find(|(generation, _)| *generation == of);
                tally.map_or_else(Default::default, |(_, tally)| *tally)
            };
            let worse = clearly_worse(tally(rollback.set.generation), tally(self.live.generation));
            if let Some(reason) = worse {
                self.roll_back(reason.clone(), &reason, now);
                return;
            }
        }
        // What is new decides for itself when it is live.
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
        let is_ready = |life| self.workers.get(&life).is_some_and(WorkerRecord::is_ready);
        let size = WorkerCount {
            min: set.min,
            max: set.max,
            now: set.target,
            slots: set.policy.slots.get(),
            is_all_ready: set.open().all(|(_, seat)| seat.current.is_some_and(is_ready)),
        };
        if let Some((to, reason)) = set.scaler.observe(load, size, now) {
            self.resize(to, reason, now);
        }
    }

    /// The whole range moves, and the number in it.
    pub(super) fn adjust_count(&mut self, by: i32, now: Instant) {
        if !matches!(self.phase, DaemonPhase::NotStarted | DaemonPhase::Running) {
            return;
        }
        let moved = |n: u16| {
            let moved = i64::from(n) + i64::from(by);
            u16::try_from(moved.clamp(1, i64::from(u16::MAX - 1))).expect("clamped to what a u16 counts")
        };
        let set = &mut self.live;
        (set.min, set.max) = (moved(set.min), moved(set.max));
        let to = moved(set.target).clamp(set.min, set.max);
        if set.asleep {
            set.target = to;
            set.grow_seats();
        } else {
            self.resize(to, ResizeReason::Operator, now);
        }
    }

    /// A request has come and nobody serves.
    pub(super) fn wake(&mut self) {
        if !self.live.asleep {
            return;
        }
        self.live.asleep = false;
        // The first one up is who the request waits for: the others boot when it is.
        self.serial_boots = true;
        let to = self.live.target;
        self.report(Report::Resized { from: 0, to, reason: ResizeReason::Request });
    }

    /// All workers leave. A zygote stays, so that the next request waits for a fork and not for an import.
    fn fall_asleep(&mut self, now: Instant) {
        let from = self.live.target;
        self.live.target = self.live.min;
        self.live.asleep = true;
        self.report(Report::Resized { from, to: 0, reason: ResizeReason::IdleExit });
        for idx in 0..self.live.seats.len() {
            self.close_seat(idx, now);
        }
    }

    fn resize(&mut self, to: u16, reason: ResizeReason, now: Instant) {
        let from = std::mem::replace(&mut self.live.target, to);
        self.live.grow_seats();
        if from == to {
            return;
        }
        self.report(Report::Resized { from, to, reason: reason });
        for idx in usize::from(to)..self.live.seats.len() {
            self.close_seat(idx, now);
        }
    }

    /// Nobody serves in this seat any more.
    fn close_seat(&mut self, idx: usize, now: Instant) {
        let Some(seat) = self.live.seats.get_mut(idx) else { return };
        seat.clear();
        // The successor first, so that it does not follow.
        let lives: Vec<_> = seat.successor.into_iter().chain(seat.current).collect();
        let ids: Vec<WorkerId> =
            lives.iter().filter_map(|life| self.workers.get(life)).map(|worker| worker.id).collect();
        for id in ids {
            self.retire(id, None, now);
        }
    }
}
