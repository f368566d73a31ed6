//! Limits the reports that a worker may send on its socket; more are a breach of contract.
//!
//! Reports pass through an unbounded channel to the main loop, and many are logged. Without limits,
//! a faulty worker could fill the daemon's memory and the log. Reports of the worker's lifecycle
//! are limited in number. Replies (stacks, forks), requests to stop and warnings are limited in
//! rate, by credit. Stacks that the daemon has requested, and those of tasks that it has cancelled, cost
//! nothing, since the daemon limits its requests.

use std::time::{Duration, Instant};

use rgun_channel::cancel_report;
use rgun_channel::control::Report;

use crate::dispatch::worker::contract::ContractBreach;

/// Maximum number of lifecycle reports of one worker: booting, ready, failed. A correct worker
/// sends fewer.
const MAX_LIFECYCLE_REPORTS: u32 = 16;

/// Maximum credit for other reports. A zygote that forks all workers of a large machine sends a few
/// hundred at once.
const MAX_CREDIT: u32 = 1024;

/// Credit regained per second.
const CREDIT_PER_SECOND: u32 = 64;

/// Cost of a warning, whose text is logged; another report costs 1.
const WARNING_COST: u32 = 16;

/// The limits of one worker.
#[derive(Debug)]
pub(crate) struct ReportLimiter {
    lifecycle_left: u32,
    credit: u32,
    /// Requested stacks that the worker has not reported.
    stack_requests: u32,
    /// Cancelled tasks whose stacks the worker has not reported.
    cancelled_tasks: u32,
    /// When credit last returned.
    refilled_at: Instant,
}

impl ReportLimiter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            lifecycle_left: MAX_LIFECYCLE_REPORTS,
            credit: MAX_CREDIT,
            stack_requests: 0,
            cancelled_tasks: 0,
            refilled_at: now,
        }
    }

    /// Notes a request for stacks: one report of stacks costs no credit.
    pub(crate) fn expect_stacks(&mut self) {
        self.stack_requests = self.stack_requests.saturating_add(1);
    }

    /// Notes a cancelled task: one report of its stack costs no credit.
    pub(crate) fn expect_cancel_report(&mut self) {
        self.cancelled_tasks = self.cancelled_tasks.saturating_add(1);
    }

    /// Counts a report.
    ///
    /// # Errors
    /// The worker has sent too many.
    pub(crate) fn admit(&mut self, report: &Report, now: Instant) -> Result<(), ContractBreach> {
        let cost = match report {
            Report::Refused(_)
            | Report::Booting { .. }
            | Report::Ready { .. }
            | Report::Failed { .. }
            | Report::Promoted => {
                let left = self.lifecycle_left.checked_sub(1);
                self.lifecycle_left =
                    left.ok_or_else(|| format!("sent more than {MAX_LIFECYCLE_REPORTS} lifecycle reports"))?;
                return Ok(());
            }
            // The channel limits these to one for each exchange.
            Report::File(_) => return Ok(()),
            Report::StacksDumped(_) if self.stack_requests > 0 => {
                self.stack_requests -= 1;
                return Ok(());
            }
            Report::Warning(text) if self.cancelled_tasks > 0 && cancel_report::decode(text).is_some() => {
                self.cancelled_tasks -= 1;
                return Ok(());
            }
            Report::Warning(_) => WARNING_COST,
            Report::StacksDumped(_)
            | Report::AbortHookEnded
            | Report::Sources(_)
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
        let left = self.credit.checked_sub(cost);
        self.credit = left.ok_or("sent reports too fast")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rgun_channel::frame::ExchangeId;

    use super::*;

    fn count_admitted(report: &Report, limiter: &mut ReportLimiter, now: Instant) -> usize {
        (0..100_000).take_while(|_| limiter.admit(report, now).is_ok()).count()
    }

    #[test]
    fn lifecycle_reports_are_limited_in_total() {
        let start = Instant::now();
        let mut limiter = ReportLimiter::new(start);
        assert_eq!(count_admitted(&Report::Promoted, &mut limiter, start), 16);
        assert!(limiter.admit(&Report::Promoted, start + Duration::from_hours(1)).is_err());
    }

    #[test]
    fn fork_reports_are_limited_in_rate_only() {
        let start = Instant::now();
        let mut limiter = ReportLimiter::new(start);
        let forked = Report::Forked { incarnation: 1, pid: 1 };
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            for _ in 0..CREDIT_PER_SECOND {
                limiter.admit(&forked, now).unwrap();
            }
        }
        let rest = count_admitted(&forked, &mut limiter, start + Duration::from_secs(10_000));
        assert_eq!(rest, MAX_CREDIT as usize);
    }

    #[test]
    fn requested_stacks_are_free_and_others_cost_credit() {
        let start = Instant::now();
        let mut limiter = ReportLimiter::new(start);
        let stacks = Report::StacksDumped(true);
        for _ in 0..3 * MAX_CREDIT {
            limiter.expect_stacks();
        }
        assert_eq!(count_admitted(&stacks, &mut limiter, start), 4 * MAX_CREDIT as usize);
        limiter.expect_stacks();
        assert_eq!(count_admitted(&stacks, &mut limiter, start), 1);
    }

    #[test]
    fn stacks_of_cancelled_tasks_are_free() {
        let start = Instant::now();
        let mut limiter = ReportLimiter::new(start);
        for _ in 0..1000 {
            limiter.expect_cancel_report();
        }
        let stack = Report::Warning(cancel_report::encode(ExchangeId(1), "in f\n"));
        assert_eq!(count_admitted(&Report::Warning(String::new()), &mut limiter, start), 64);
        assert_eq!(count_admitted(&stack, &mut limiter, start), 1000);
    }

    #[test]
    fn expected_stacks_do_not_make_other_reports_free() {
        let start = Instant::now();
        let mut limiter = ReportLimiter::new(start);
        limiter.expect_stacks();
        assert_eq!(
            count_admitted(&Report::Forked { incarnation: 1, pid: 1 }, &mut limiter, start),
            MAX_CREDIT as usize
        );
        assert_eq!(count_admitted(&Report::StacksDumped(false), &mut limiter, start), 1);
    }

    #[test]
    fn warnings_cost_more_than_replies() {
        let start = Instant::now();
        let mut limiter = ReportLimiter::new(start);
        assert_eq!(count_admitted(&Report::Warning(String::new()), &mut limiter, start), 64);
        assert_eq!(count_admitted(&Report::StacksDumped(true), &mut limiter, start), 0);
        let later = start + Duration::from_secs(1);
        assert_eq!(count_admitted(&Report::Warning(String::new()), &mut limiter, later), 4);
    }
}
