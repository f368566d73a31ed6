//! How much a worker may say on its control socket before that is a breach of contract.
//!
//! What it says goes through an unbounded channel to the main loop and, much of it, into the journal: a worker gone
//! wild must not fill either. What it reports of its own life is counted. What answers an order (stacks, forks) or
//! warns comes as often as there is occasion for it, so that only its rate is bounded. Stacks that it was asked for cost
//! nothing: who asks bounds that.

use std::time::{Duration, Instant};

use rgun_channel::control::Report;

/// Of its own life a worker has less to say: that it boots, that it is ready, why it is not.
const MAX_LIFECYCLE_REPORTS: u32 = 16;

/// Credit for the others, and what comes back each second. A zygote that makes all workers of a large machine at once
/// says so a few hundred times.
const MAX_CREDIT: u32 = 1024;
const CREDIT_PER_SECOND: u32 = 64;

/// A warning is text, and journaled.
const WARNING_COST: u32 = 16;

/// One worker's.
#[derive(Debug)]
pub(crate) struct ReportLimiter {
    lifecycle_left: u32,
    credit: u32,
    /// Stacks that it was asked for and has not told.
    stack_requests: u32,
    /// Up to when credit has come back.
    refilled_at: Instant,
}

impl ReportLimiter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            lifecycle_left: MAX_LIFECYCLE_REPORTS,
            credit: MAX_CREDIT,
            stack_requests: 0,
            refilled_at: now,
        }
    }

    /// It is asked for its stacks: one answer more is free.
    pub(crate) fn expect_stacks(&mut self) {
        self.stack_requests = self.stack_requests.saturating_add(1);
    }

    /// # Errors
    /// It has said too much.
    pub(crate) fn admit(&mut self, report: &Report, now: Instant) -> Result<(), String> {
        let price = match report {
            Report::Refused(_)
            | Report::Booting { .. }
            | Report::Ready { .. }
            | Report::Failed { .. }
            | Report::Promoted => {
                let left = self.lifecycle_left.checked_sub(1);
                self.lifecycle_left = left
                    .ok_or_else(|| format!("sent more than {MAX_LIFECYCLE_REPORTS} reports of its life"))?;
                return Ok(());
            }
            // Only for an exchange of its own, and one for each.
            Report::File(_) => return Ok(()),
            Report::StacksDumped(_) if self.stack_requests > 0 => {
                self.stack_requests -= 1;
                return Ok(());
            }
            Report::Warning(_) => WARNING_COST,
            Report::StacksDumped(_)
            | Report::Forked { .. }
            | Report::ForkFailed { .. }
            | Report::StopRequested(_) => 1,
        };
        let seconds = now.saturating_duration_since(self.refilled_at).as_secs();
        if seconds > 0 {
            let back = u32::try_from(seconds).unwrap_or(MAX_CREDIT).saturating_mul(CREDIT_PER_SECOND);
            self.credit = self.credit.saturating_add(back).min(MAX_CREDIT);
            self.refilled_at += Duration::from_secs(seconds);
        }
        let left = self.credit.checked_sub(price);
        self.credit = left.ok_or_else(|| "sent reports without end".to_owned())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(report: &Report, budget: &mut ReportLimiter, now: Instant) -> usize {
        (0..100_000).take_while(|_| budget.admit(report, now).is_ok()).count()
    }

    #[test]
    fn lifecycle_reports_are_limited_for_ever() {
        let start = Instant::now();
        let mut budget = ReportLimiter::new(start);
        assert_eq!(most(&Report::Promoted, &mut budget, start), 16);
        assert!(budget.admit(&Report::Promoted, start + Duration::from_hours(1)).is_err());
    }

    #[test]
    fn fork_reports_are_limited_in_rate_only() {
        let start = Instant::now();
        let mut budget = ReportLimiter::new(start);
        let forked = Report::Forked { life: 1, pid: 1 };
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            for _ in 0..CREDIT_PER_SECOND {
                budget.admit(&forked, now).unwrap();
            }
        }
        let rest = most(&forked, &mut budget, start + Duration::from_secs(10_000));
        assert_eq!(rest, MAX_CREDIT as usize);
    }

    #[test]
    fn requested_stacks_are_free_and_others_cost_credit() {
        let start = Instant::now();
        let mut budget = ReportLimiter::new(start);
        let stacks = Report::StacksDumped(true);
        for _ in 0..3 * MAX_CREDIT {
            budget.expect_stacks();
        }
        assert_eq!(most(&stacks, &mut budget, start), 4 * MAX_CREDIT as usize);
        budget.expect_stacks();
        assert_eq!(most(&stacks, &mut budget, start), 1);
    }

    #[test]
    fn being_asked_for_stacks_makes_nothing_else_free() {
        let start = Instant::now();
        let mut budget = ReportLimiter::new(start);
        budget.expect_stacks();
        assert_eq!(most(&Report::Forked { life: 1, pid: 1 }, &mut budget, start), MAX_CREDIT as usize);
        assert_eq!(most(&Report::StacksDumped(false), &mut budget, start), 1);
    }

    #[test]
    fn warnings_cost_more_than_replies() {
        let start = Instant::now();
        let mut budget = ReportLimiter::new(start);
        assert_eq!(most(&Report::Warning(String::new()), &mut budget, start), 64);
        assert_eq!(most(&Report::StacksDumped(true), &mut budget, start), 0);
        let later = start + Duration::from_secs(1);
        assert_eq!(most(&Report::Warning(String::new()), &mut budget, later), 4);
    }
}
