//! How many workers serve: by the queue's wait, by the operator's signals, and none while nobody asks.
//!
//! The wait decides and not the CPU: a worker that waits for its database is busy without using any, and one that
//! computes is not too few as long as nobody waits. Growing follows waits at once and doubles its steps while they
//! last; shrinking takes a calm minute for each worker, since a boot costs more than an idle process.

use std::time::Instant;

use crate::id::WorkerId;

use super::scaler::Size;
use super::state::{Phase, Worker};
use super::watch::clearly_worse;
use super::{Load, Report, Resize, Supervisor};

impl Supervisor {
    /// What the edge measured: goes back, falls asleep, grows or shrinks.
    pub(super) fn load(&mut self, load: &Load, now: Instant) {
        if self.phase != Phase::Running {
            return;
        }
        if self.live.asleep {
            if load.queued > 0 {
                self.wanted();
            }
            return;
        }
        if let Some(warm) = &self.warm {
            let tally = |of| {
                let tally = load.tallies.iter().find(|(generation, _)| *generation == of);
                tally.map_or_else(Default::default, |(_, tally)| *tally)
            };
            let worse = clearly_worse(tally(warm.crew.generation), tally(self.live.generation));
            if let Some(why) = worse {
                self.go_back(why.clone(), &why, now);
                return;
            }
        }
        // What is new decides for itself when it is live.
        if self.coming.is_some() {
            return;
        }
        let is_idle = load.running == 0 && load.queued == 0 && self.warm.is_none();
        if self.live.policy.idle_exit.is_some_and(|limit| is_idle && load.idle >= limit)
            && self.anybody_ready()
        {
            self.fall_asleep(now);
            return;
        }
        let crew = &mut self.live;
        let is_ready = |life| self.workers.get(&life).is_some_and(Worker::is_ready);
        let size = Size {
            min: crew.min,
            max: crew.max,
            now: crew.target,
            slots: crew.policy.slots.get(),
            is_complete: crew.open().all(|(_, seat)| seat.current.is_some_and(is_ready)),
        };
        if let Some((to, why)) = crew.scaler.observe(load, size, now) {
            self.resize(to, why, now);
        }
    }

    /// The whole range moves, and the number in it.
    pub(super) fn adjust(&mut self, by: i32, now: Instant) {
        if !matches!(self.phase, Phase::Idle | Phase::Running) {
            return;
        }
        let moved = |n: u16| {
            let moved = i64::from(n) + i64::from(by);
            u16::try_from(moved.clamp(1, i64::from(u16::MAX - 1))).expect("clamped to what a u16 counts")
        };
        let crew = &mut self.live;
        (crew.min, crew.max) = (moved(crew.min), moved(crew.max));
        let to = moved(crew.target).clamp(crew.min, crew.max);
        if crew.asleep {
            crew.target = to;
            crew.grow_seats();
        } else {
            self.resize(to, Resize::Asked, now);
        }
    }

    /// A request has come and nobody serves.
    pub(super) fn wanted(&mut self) {
        if !self.live.asleep {
            return;
        }
        self.live.asleep = false;
        // The first one up is who the request waits for: the others boot when it is.
        self.probing = true;
        let to = self.live.target;
        self.report(Report::Resized { from: 0, to, why: Resize::Wanted });
    }

    /// All workers leave. A zygote stays, so that the next request waits for a fork and not for an import.
    fn fall_asleep(&mut self, now: Instant) {
        let from = self.live.target;
        self.live.target = self.live.min;
        self.live.asleep = true;
        self.report(Report::Resized { from, to: 0, why: Resize::Idle });
        for idx in 0..self.live.seats.len() {
            self.close(idx, now);
        }
    }

    fn resize(&mut self, to: u16, why: Resize, now: Instant) {
        let from = std::mem::replace(&mut self.live.target, to);
        self.live.grow_seats();
        if from == to {
            return;
        }
        self.report(Report::Resized { from, to, why });
        for idx in usize::from(to)..self.live.seats.len() {
            self.close(idx, now);
        }
    }

    /// Nobody serves in this seat any more.
    fn close(&mut self, idx: usize, now: Instant) {
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
