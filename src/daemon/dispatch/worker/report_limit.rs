//! How much a worker may say on its control socket before that is a breach of contract.
//!
//! What it says goes through an unbounded channel to the main loop and, much of it, into the journal: a worker gone
//! wild must not fill either. What it reports of its own life is counted. What answers an order (stacks, forks) or
//! warns comes as often as there is occasion for it, so that only its rate is bounded. Stacks that it was asked for cost
//! nothing: who asks bounds that.

use std::time::{Duration, Instant};

use rgun_channel::control::Report;

/// Of its own life a worker has less to say: that it boots, that it is ready, why it is not.
const MOST_OF_LIFE: u32 = 16;

/// Credit for the others, and what comes back each second. A zygote that makes all workers of a large machine at once
/// says so a few hundred times.
const CREDIT: u32 = 1024;
const CREDIT_PER_SECOND: u32 = 64;

/// A warning is text, and journaled.
const PRICE_OF_WARNING: u32 = 16;

/// One worker's.
#[derive(Debug)]
pub(crate) struct Budget {
    of_life: u32,
    credit: u32,
    /// Stacks that it was asked for and has not told.
    asked: u32,
    /// Up to when credit has come back.
    since: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { of_life: MOST_OF_LIFE, credit: CREDIT, asked: 0, since: now }
    }

    /// It is asked for its stacks: one answer more is free.
    pub(crate) fn ask_for_stacks(&mut self) {
        self.asked = self.asked.saturating_add(1);
    }

    /// # Errors
    /// It has said too much.
    pub(crate) fn spend(&mut self, report: &Report, now: Instant) -> Result<(), String> {
        let price = match report {
            Report::Refused(_)
            | Report::Booting { .. }
            | Report::Ready { .. }
            | Report::Failed { .. }
            | Report::Promoted => {
                let left = self.of_life.checked_sub(1);
                self.of_life =
                    left.ok_or_else(|| format!("sent more than {MOST_OF_LIFE} reports of its life"))?;
                return Ok(());
            }
            // Only for an exchange of its own, and one for each.
            Report::File(_) => return Ok(()),
            Report::StacksDumped(_) if self.asked > 0 => {
                self.asked -= 1;
                return Ok(());
            }
            Report::Warning(_) => PRICE_OF_WARNING,
            Report::StacksDumped(_)
            | Report::Forked { .. }
            | Report::ForkFailed { .. }
            | Report::StopRequested(_) => 1,
        };
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds > 0 {
            let back = u32::try_from(seconds).unwrap_or(CREDIT).saturating_mul(CREDIT_PER_SECOND);
            self.credit = self.credit.saturating_add(back).min(CREDIT);
            self.since += Duration::from_secs(seconds);
        }
        let left = self.credit.checked_sub(price);
        self.credit = left.ok_or_else(|| "sent reports without end".to_owned())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(report: &Report, budget: &mut Budget, now: Instant) -> usize {
        (0..100_000).take_while(|_| budget.spend(report, now).is_ok()).count()
    }

    #[test]
    fn lifecycle_reports_are_limited_for_ever() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert_eq!(most(&Report::Promoted, &mut budget, start), 16);
        assert!(budget.spend(&Report::Promoted, start + Duration::from_hours(1)).is_err());
    }

    #[test]
    fn fork_reports_are_limited_in_rate_only() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let forked = Report::Forked { life: 1, pid: 1 };
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            for _ in 0..CREDIT_PER_SECOND {
                budget.spend(&forked, now).unwrap();
            }
        }
        let rest = most(&forked, &mut budget, start + Duration::from_secs(10_000));
        assert_eq!(rest, CREDIT as usize);
    }

    #[test]
    fn requested_stacks_are_free_and_others_cost_credit() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let stacks = Report::StacksDumped(true);
        for _ in 0..3 * CREDIT {
            budget.ask_for_stacks();
        }
        assert_eq!(most(&stacks, &mut budget, start), 4 * CREDIT as usize);
        budget.ask_for_stacks();
        assert_eq!(most(&stacks, &mut budget, start), 1);
    }

    #[test]
    fn being_asked_for_stacks_makes_nothing_else_free() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        budget.ask_for_stacks();
        assert_eq!(most(&Report::Forked { life: 1, pid: 1 }, &mut budget, start), CREDIT as usize);
        assert_eq!(most(&Report::StacksDumped(false), &mut budget, start), 1);
    }

    #[test]
    fn warnings_cost_more_than_replies() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert_eq!(most(&Report::Warning(String::new()), &mut budget, start), 64);
        assert_eq!(most(&Report::StacksDumped(true), &mut budget, start), 0);
        let later = start + Duration::from_secs(1);
        assert_eq!(most(&Report::Warning(String::new()), &mut budget, later), 4);
    }
}
