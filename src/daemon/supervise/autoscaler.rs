//! Decides how many workers the load needs. `resize` applies the decision.

use std::time::{Duration, Instant};

use super::{LoadSample, ResizeReason};

/// The history of load samples that the next decision depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Autoscaler {
    /// Consecutive increases while requests kept waiting.
    streak: u32,
    /// Since when one worker fewer would have been enough; `None` if all workers are needed.
    spare_since: Option<Instant>,
    /// All workers were ready at the last sample, so waits in the next sample are not due to
    /// booting workers.
    was_all_ready: bool,
}

/// The number of workers and its bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerCount {
    pub(super) min: u16,
    pub(super) max: u16,
    /// The current number.
    pub(super) current: u16,
    /// Number of requests that make one worker busy.
    pub(super) slots: u32,
    /// All workers are ready.
    pub(super) is_all_ready: bool,
}

impl Autoscaler {
    /// Returns the number of workers that the load needs, and the reason for the change; `None` to
    /// keep the current number.
    pub(super) fn observe(
        &mut self,
        load: &LoadSample,
        count: WorkerCount,
        now: Instant,
    ) -> Option<(u16, ResizeReason)> {
        let was_all_ready = std::mem::replace(&mut self.was_all_ready, count.is_all_ready);
        if load.longest_wait > MAX_QUEUE_WAIT {
            self.spare_since = None;
            // Workers that are still booting may suffice.
            if !(count.is_all_ready && was_all_ready) || count.current >= count.max {
                return None;
            }
            let step = 1_u16 << self.streak.min(8);
            self.streak += 1;
            self.was_all_ready = false;
            return Some((
                count.current.saturating_add(step).min(count.max),
                ResizeReason::QueueWait(load.longest_wait),
            ));
        }
        self.streak = 0;
        if count.current <= count.min || !one_fewer_fits(load, count) {
            self.spare_since = None;
            return None;
        }
        let spare_since = *self.spare_since.get_or_insert(now);
        if now.duration_since(spare_since) < SHRINK_DELAY {
            return None;
        }
        self.spare_since = Some(now);
        Some((count.current - 1, ResizeReason::LowLoad))
    }
}

/// Returns true if one worker fewer would have run the peak load in 80 % of the slots.
fn one_fewer_fits(load: &LoadSample, count: WorkerCount) -> bool {
    let slots = u64::from(count.current - 1) * u64::from(count.slots);
    load.queued == 0 && u64::try_from(load.max_running).is_ok_and(|max| max <= slots * 4 / 5)
}

/// A worker is added when a request waits longer than this.
const MAX_QUEUE_WAIT: Duration = Duration::from_millis(100);
/// A worker is removed after this time of spare capacity.
const SHRINK_DELAY: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn count(current: u16) -> WorkerCount {
        WorkerCount { min: 1, max: 20, current, slots: 2, is_all_ready: true }
    }

    fn waiting(ms: u64) -> LoadSample {
        LoadSample {
            queued: 3,
            longest_wait: Duration::from_millis(ms),
            max_running: 4,
            ..LoadSample::default()
        }
    }

    fn running(max_running: usize) -> LoadSample {
        LoadSample { max_running, ..LoadSample::default() }
    }

    #[test]
    fn repeated_waits_double_the_step_up_to_the_maximum() {
        let (mut scaler, now) = (Autoscaler::default(), Instant::now());
        scaler.observe(&running(1), count(2), now);
        let mut n = 2;
        let mut steps = Vec::new();
        for _ in 0..20 {
            if let Some((to, why)) = scaler.observe(&waiting(150), count(n), now) {
                assert_eq!(why, ResizeReason::QueueWait(Duration::from_millis(150)));
                steps.push(to - n);
                n = to;
            }
        }
        assert_eq!(steps, [1, 2, 4, 8, 3]);
    }

    #[test]
    fn no_worker_is_added_while_another_boots() {
        let (mut scaler, now) = (Autoscaler::default(), Instant::now());
        scaler.observe(&running(1), count(2), now);
        assert_eq!(scaler.observe(&waiting(150), count(2), now).map(|(to, _)| to), Some(3));
        let booting = WorkerCount { is_all_ready: false, ..count(3) };
        assert_eq!(scaler.observe(&waiting(900), booting, now), None);
        assert_eq!(
            scaler.observe(&waiting(900), count(3), now),
            None,
            "this wait began before all were ready"
        );
        assert_eq!(scaler.observe(&waiting(900), count(3), now).map(|(to, _)| to), Some(5));
    }

    #[test]
    fn a_wait_at_the_limit_adds_no_worker() {
        let (mut scaler, now) = (Autoscaler::default(), Instant::now());
        for _ in 0..5 {
            assert_eq!(scaler.observe(&waiting(100), count(2), now), None);
        }
    }

    #[test]
    fn one_worker_is_removed_per_minute_of_low_load() {
        let (mut scaler, start) = (Autoscaler::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        for second in 0..60 {
            assert_eq!(scaler.observe(&running(4), count(4), at(second)), None);
        }
        assert_eq!(scaler.observe(&running(5), count(4), at(60)), None, "three workers would be too busy");
        for second in 61..121 {
            assert_eq!(scaler.observe(&running(4), count(4), at(second)), None);
        }
        assert_eq!(scaler.observe(&running(4), count(4), at(121)), Some((3, ResizeReason::LowLoad)));
        assert_eq!(
            scaler.observe(&running(0), count(3), at(122)),
            None,
            "the next removal needs another minute"
        );
    }

    #[test]
    fn the_minimum_is_never_undercut() {
        let (mut scaler, start) = (Autoscaler::default(), Instant::now());
        for second in 0..300 {
            let now = start + Duration::from_secs(second);
            assert_eq!(scaler.observe(&running(0), count(1), now), None);
        }
    }
}
