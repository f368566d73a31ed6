//! When the number of workers changes: the decision, from one measured load to the next. `scale` carries it out.

use std::time::{Duration, Instant};

use super::{LoadSample, ResizeReason};

/// What the number of workers follows, from one [`LoadSample`] to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Autoscaler {
    /// Times it has grown while requests went on waiting.
    streak: u32,
    /// Since when fewer workers would have done.
    spare_since: Option<Instant>,
    /// Everybody who is to serve did so at the last look, so that the waits told now are theirs.
    was_all_ready: bool,
}

/// How many there are and may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerCount {
    pub(super) min: u16,
    pub(super) max: u16,
    pub(super) now: u16,
    /// Exchanges one worker can have at a time.
    pub(super) slots: u32,
    /// Whether all of them serve.
    pub(super) is_all_ready: bool,
}

impl Autoscaler {
    /// The number of workers that this load calls for, if it is another.
    pub(super) fn observe(
        &mut self,
        load: &LoadSample,
        size: WorkerCount,
        now: Instant,
    ) -> Option<(u16, ResizeReason)> {
        let was_all_ready = std::mem::replace(&mut self.was_all_ready, size.is_all_ready);
        if load.longest_wait > MAX_QUEUE_WAIT {
            self.spare_since = None;
            // Those who are still booting are the answer to it, and their number may be enough.
            if !(size.is_all_ready && was_all_ready) || size.now >= size.max {
                return None;
            }
            let step = 1_u16 << self.streak.min(8);
            self.streak += 1;
            self.was_all_ready = false;
            return Some((
                size.now.saturating_add(step).min(size.max),
                ResizeReason::QueueWait(load.longest_wait),
            ));
        }
        self.streak = 0;
        if size.now <= size.min || !fits(load, size) {
            self.spare_since = None;
            return None;
        }
        let spare_since = *self.spare_since.get_or_insert(now);
        if now.duration_since(spare_since) < SHRINK_DELAY {
            return None;
        }
        self.spare_since = Some(now);
        Some((size.now - 1, ResizeReason::LowLoad))
    }
}

/// Whether one worker fewer would have had room to spare.
fn fits(load: &LoadSample, size: WorkerCount) -> bool {
    let fewer = u64::from(size.now - 1) * u64::from(size.slots);
    load.queued == 0 && u64::try_from(load.max_running).is_ok_and(|most| most <= fewer * 4 / 5)
}

/// A wait that people notice.
const MAX_QUEUE_WAIT: Duration = Duration::from_millis(100);
/// How long fewer workers must have been enough.
const SHRINK_DELAY: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn size(now: u16) -> WorkerCount {
        WorkerCount { min: 1, max: 20, now, slots: 2, is_all_ready: true }
    }

    fn busy(ms: u64) -> LoadSample {
        LoadSample {
            queued: 3,
            longest_wait: Duration::from_millis(ms),
            max_running: 4,
            ..LoadSample::default()
        }
    }

    fn calm(max_running: usize) -> LoadSample {
        LoadSample { max_running, ..LoadSample::default() }
    }

    #[test]
    fn waits_that_go_on_are_met_by_ever_larger_steps_up_to_the_maximum() {
        let (mut scaler, now) = (Autoscaler::default(), Instant::now());
        scaler.observe(&calm(1), size(2), now);
        let mut n = 2;
        let mut steps = Vec::new();
        for _ in 0..20 {
            if let Some((to, why)) = scaler.observe(&busy(150), size(n), now) {
                assert_eq!(why, ResizeReason::QueueWait(Duration::from_millis(150)));
                steps.push(to - n);
                n = to;
            }
        }
        assert_eq!(steps, [1, 2, 4, 8, 3]);
    }

    #[test]
    fn who_is_still_booting_is_waited_for() {
        let (mut scaler, now) = (Autoscaler::default(), Instant::now());
        scaler.observe(&calm(1), size(2), now);
        assert_eq!(scaler.observe(&busy(150), size(2), now).map(|(to, _)| to), Some(3));
        let booting = WorkerCount { is_all_ready: false, ..size(3) };
        assert_eq!(scaler.observe(&busy(900), booting, now), None);
        assert_eq!(scaler.observe(&busy(900), size(3), now), None, "these waits began before it was ready");
        assert_eq!(scaler.observe(&busy(900), size(3), now).map(|(to, _)| to), Some(5));
    }

    #[test]
    fn a_short_wait_changes_nothing() {
        let (mut scaler, now) = (Autoscaler::default(), Instant::now());
        for _ in 0..5 {
            assert_eq!(scaler.observe(&busy(100), size(2), now), None);
        }
    }

    #[test]
    fn a_calm_minute_takes_one_worker_and_a_busy_second_in_it_none() {
        let (mut scaler, begin) = (Autoscaler::default(), Instant::now());
        let at = |s| begin + Duration::from_secs(s);
        for second in 0..60 {
            assert_eq!(scaler.observe(&calm(4), size(4), at(second)), None);
        }
        assert_eq!(scaler.observe(&calm(5), size(4), at(60)), None, "three of them have no room to spare");
        for second in 61..121 {
            assert_eq!(scaler.observe(&calm(4), size(4), at(second)), None);
        }
        assert_eq!(scaler.observe(&calm(4), size(4), at(121)), Some((3, ResizeReason::LowLoad)));
        assert_eq!(scaler.observe(&calm(0), size(3), at(122)), None, "the next one has its own minute");
    }

    #[test]
    fn the_minimum_is_kept() {
        let (mut scaler, begin) = (Autoscaler::default(), Instant::now());
        for second in 0..300 {
            let now = begin + Duration::from_secs(second);
            assert_eq!(scaler.observe(&calm(0), size(1), now), None);
        }
    }
}
