//! How many workers serve: by the queue's wait, by the operator's signals, and none while nobody asks.
//!
//! The wait decides and not the CPU: a worker that waits for its database is busy without using any, and one that
//! computes is not too few as long as nobody waits. Growing follows waits at once and doubles its steps while they
//! last; shrinking takes a calm minute for each worker, since a boot costs more than an idle process.

use std::time::{Duration, Instant};

use super::state::{Phase, Worker};
use super::watch::clearly_worse;
use crate::id::WorkerId;

use super::{Load, Report, Resize, Supervisor};

/// What the number of workers follows, from one [`Load`] to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Scaler {
    /// Times it has grown while requests went on waiting.
    streak: u32,
    /// Since when fewer workers would have done.
    calm_since: Option<Instant>,
    /// Everybody who is to serve did so at the last look, so that the waits told now are theirs.
    was_complete: bool,
}

/// How many there are and may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) min: u16,
    pub(super) max: u16,
    pub(super) now: u16,
    /// Exchanges one worker can have at a time.
    pub(super) slots: u32,
    /// Whether all of them serve.
    pub(super) is_complete: bool,
}

impl Scaler {
    /// The number of workers that this load calls for, if it is another.
    pub(super) fn observe(&mut self, load: &Load, size: Size, now: Instant) -> Option<(u16, Resize)> {
        let was_complete = std::mem::replace(&mut self.was_complete, size.is_complete);
        if load.longest_wait > LONG_WAIT {
            self.calm_since = None;
            // Those who are still booting are the answer to it, and their number may be enough.
            if !(size.is_complete && was_complete) || size.now >= size.max {
                return None;
            }
            let step = 1_u16 << self.streak.min(8);
            self.streak += 1;
            self.was_complete = false;
            return Some((size.now.saturating_add(step).min(size.max), Resize::Busy(load.longest_wait)));
        }
        self.streak = 0;
        if size.now <= size.min || !fits(load, size) {
            self.calm_since = None;
            return None;
        }
        let calm_since = *self.calm_since.get_or_insert(now);
        if now.duration_since(calm_since) < CALM {
            return None;
        }
        self.calm_since = Some(now);
        Some((size.now - 1, Resize::Calm))
    }
}

/// Whether one worker fewer would have had room to spare.
fn fits(load: &Load, size: Size) -> bool {
    let fewer = u64::from(size.now - 1) * u64::from(size.slots);
    load.queued == 0 && u64::try_from(load.most_running).is_ok_and(|most| most <= fewer * 4 / 5)
}

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

impl super::crew::Crew {
    /// As many seats as the operator's range has by now; those above it stay, empty.
    fn grow_seats(&mut self) {
        let n_seats = self.seats.len().max(usize::from(self.max));
        self.seats.resize_with(n_seats, Default::default);
    }
}

/// A wait that people notice.
const LONG_WAIT: Duration = Duration::from_millis(100);
/// How long fewer workers must have been enough.
const CALM: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn size(now: u16) -> Size {
        Size { min: 1, max: 20, now, slots: 2, is_complete: true }
    }

    fn busy(ms: u64) -> Load {
        Load { queued: 3, longest_wait: Duration::from_millis(ms), most_running: 4, ..Load::default() }
    }

    fn calm(most_running: usize) -> Load {
        Load { most_running, ..Load::default() }
    }

    #[test]
    fn waits_that_go_on_are_met_by_ever_larger_steps_up_to_the_maximum() {
        let (mut scaler, now) = (Scaler::default(), Instant::now());
        scaler.observe(&calm(1), size(2), now);
        let mut n = 2;
        let mut steps = Vec::new();
        for _ in 0..20 {
            if let Some((to, why)) = scaler.observe(&busy(150), size(n), now) {
                assert_eq!(why, Resize::Busy(Duration::from_millis(150)));
                steps.push(to - n);
                n = to;
            }
        }
        assert_eq!(steps, [1, 2, 4, 8, 3]);
    }

    #[test]
    fn who_is_still_booting_is_waited_for() {
        let (mut scaler, now) = (Scaler::default(), Instant::now());
        scaler.observe(&calm(1), size(2), now);
        assert_eq!(scaler.observe(&busy(150), size(2), now).map(|(to, _)| to), Some(3));
        let booting = Size { is_complete: false, ..size(3) };
        assert_eq!(scaler.observe(&busy(900), booting, now), None);
        assert_eq!(scaler.observe(&busy(900), size(3), now), None, "these waits began before it was ready");
        assert_eq!(scaler.observe(&busy(900), size(3), now).map(|(to, _)| to), Some(5));
    }

    #[test]
    fn a_short_wait_changes_nothing() {
        let (mut scaler, now) = (Scaler::default(), Instant::now());
        for _ in 0..5 {
            assert_eq!(scaler.observe(&busy(100), size(2), now), None);
        }
    }

    #[test]
    fn a_calm_minute_takes_one_worker_and_a_busy_second_in_it_none() {
        let (mut scaler, begin) = (Scaler::default(), Instant::now());
        let at = |s| begin + Duration::from_secs(s);
        for second in 0..60 {
            assert_eq!(scaler.observe(&calm(4), size(4), at(second)), None);
        }
        assert_eq!(scaler.observe(&calm(5), size(4), at(60)), None, "three of them have no room to spare");
        for second in 61..121 {
            assert_eq!(scaler.observe(&calm(4), size(4), at(second)), None);
        }
        assert_eq!(scaler.observe(&calm(4), size(4), at(121)), Some((3, Resize::Calm)));
        assert_eq!(scaler.observe(&calm(0), size(3), at(122)), None, "the next one has its own minute");
    }

    #[test]
    fn the_minimum_is_kept() {
        let (mut scaler, begin) = (Scaler::default(), Instant::now());
        for second in 0..300 {
            let now = begin + Duration::from_secs(second);
            assert_eq!(scaler.observe(&calm(0), size(1), now), None);
        }
    }
}
