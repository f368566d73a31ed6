//! Taking the Python stacks of workers: who is being asked, what for, and until when.
//!
//! The main loop begins an inquiry with [`StackDumps::request`], and tells what the worker says ([`StackDumps::on_answer`]),
//! that time has passed ([`StackDumps::on_timeout`]) and that the worker is gone ([`StackDumps::on_exit`]); each of the last three
//! may end it with a [`StackDumpResult`]. `stacks` does what follows from it.
//!
//! A worker is asked politely first, over its control socket: it then writes its stacks under the GIL, which harms
//! nothing. If something holds the GIL (C code, which does not move Python's frames meanwhile), that is not heard: a
//! worker that is going to be replaced anyway is sent the signal after [`REQUEST_TIMEOUT`]. For the slow log it never is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use crate::dispatch::RequestInfo;
use crate::id::WorkerId;
use crate::pool::Pool;

/// What the stacks are wanted for.
#[derive(Debug)]
pub(super) enum DumpReason {
    /// A request ran over its deadline.
    Deadline(RequestInfo),
    /// A request ran over its deadline in an ASGI worker, which goes on if the request's task can be cancelled.
    TaskDeadline(RequestInfo),
    /// An event loop has not turned for so long.
    Stall(Duration),
    /// A request has been running for longer than `log.slow`.
    Slow(RequestInfo),
    /// The worker has not become ready within `timeouts.boot`.
    Boot,
}

/// The end of an inquiry.
#[derive(Debug)]
pub(super) struct StackDumpResult {
    /// Whose.
    pub(super) worker: WorkerId,
    /// Who wanted to know.
    pub(super) reasons: Vec<DumpReason>,
    /// The stacks; nothing if they could not be taken, or the request was through by then.
    pub(super) stacks: Option<String>,
    /// The worker was to be killed, and waits for it.
    pub(super) kill: bool,
    /// Who else wanted to know something meanwhile, and could not be asked for at the same time: begin with these.
    pub(super) postponed: Vec<DumpReason>,
    /// How many more slow requests there were than anybody could look at.
    pub(super) skipped: u32,
}

/// The inquiries under way, one for each worker: its stacks have one place.
#[derive(Debug, Default)]
pub(super) struct StackDumps {
    active: HashMap<WorkerId, StackDump>,
}

#[derive(Debug)]
struct StackDump {
    reasons: Vec<DumpReason>,
    step: DumpStep,
    /// When the next step is due.
    due: Instant,
    kill: bool,
    postponed: Vec<DumpReason>,
    skipped: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DumpStep {
    /// Of all threads, over the control socket; the signal comes next.
    Requested,
    /// Of all threads, over the control socket; nothing comes next, unless it turns out that the worker has to go.
    Cancelling,
    /// The signal was sent; nothing comes next.
    Signalled,
    /// Of one request's thread, over the control socket; nothing comes next.
    OneThread,
}

/// What a worker has to answer over the control socket before it is sent the signal.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(250);
/// What it has after that.
const SIGNAL_TIMEOUT: Duration = Duration::from_millis(750);
/// What an ASGI worker has that may go on: a little more than its task has to end.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(1500);
/// What it has for the slow log.
const SLOW_LOG_TIMEOUT: Duration = Duration::from_secs(10);
/// Slow requests of one worker that wait to be looked at, one after the other: when everything is slow, a few tell as
/// much as all.
const MAX_POSTPONED: usize = 8;
/// `faulthandler` writes this over each stack; of one thread alone it is `traceback`'s, the other way round.
const ALL_THREADS_MARK: &str = "(most recent call first)";

impl StackDumps {
    /// Asks a worker. What runs already answers this too, or this waits for its end; but an inquiry for the slow log
    /// gives way to a deadline's: it is given up, and returned.
    pub(super) fn request(
        &mut self,
        pool: &mut Pool,
        worker: WorkerId,
        purpose: DumpReason,
    ) -> Option<StackDumpResult> {
        let now = Instant::now();
        let is_slow = matches!(purpose, DumpReason::Slow(_));
        if let Some(running) = self.active.get_mut(&worker) {
            match (running.step, is_slow) {
                (_, true) => {
                    if running.postponed.len() < MAX_POSTPONED {
                        running.postponed.push(purpose);
                    } else {
                        running.skipped += 1;
                    }
                    return None;
                }
                (DumpStep::Cancelling, false) if matches!(purpose, DumpReason::Deadline(_)) => {
                    running.reasons.push(purpose);
                    running.step = DumpStep::Requested;
                    running.due = running.due.min(now + REQUEST_TIMEOUT);
                    return None;
                }
                (DumpStep::Requested | DumpStep::Cancelling | DumpStep::Signalled, false) => {
                    running.reasons.push(purpose);
                    return None;
                }
                (DumpStep::OneThread, false) => {}
            }
        }
        let given_up = self.finish(worker, None);
        let exchange: Option<ExchangeId> = match &purpose {
            DumpReason::Slow(asked) => Some(asked.exchange),
            DumpReason::Deadline(_)
            | DumpReason::TaskDeadline(_)
            | DumpReason::Stall(_)
            | DumpReason::Boot => None,
        };
        if let Err(error) = pool.ask_stacks(worker, exchange) {
            tracing::debug!(%error, "cannot ask a worker for its stacks");
            if is_slow {
                // It is on its way out, and its end says more.
                return given_up;
            }
        }
        let (step, patience) = match purpose {
            DumpReason::Slow(_) => (DumpStep::OneThread, SLOW_LOG_TIMEOUT),
            DumpReason::TaskDeadline(_) => (DumpStep::Cancelling, CANCEL_TIMEOUT),
            DumpReason::Deadline(_) | DumpReason::Stall(_) | DumpReason::Boot => {
                (DumpStep::Requested, REQUEST_TIMEOUT)
            }
        };
        let inquiry = StackDump {
            reasons: vec![purpose],
            step,
            due: now + patience,
            kill: false,
            postponed: Vec::new(),
            skipped: 0,
        };
        self.active.insert(worker, inquiry);
        given_up
    }

    /// The worker says that they are written, or that the request it was asked about is through.
    pub(super) fn on_answer(
        &mut self,
        pool: &mut Pool,
        worker: WorkerId,
        written: bool,
    ) -> Option<StackDumpResult> {
        let step = self.active.get(&worker)?.step;
        let stacks = if written { pool.stacks(worker) } else { None };
        // A late answer to an inquiry that was given up says nothing about this one: of one thread only, or nothing.
        let is_of_all = stacks.as_deref().is_some_and(|stacks| stacks.contains(ALL_THREADS_MARK));
        if !is_of_all && step != DumpStep::OneThread {
            return None;
        }
        self.finish(worker, stacks)
    }

    /// The worker's process is gone, and nobody can be asked any more.
    pub(super) fn on_exit(&mut self, worker: WorkerId) -> Option<StackDumpResult> {
        let taken = self.finish(worker, None)?;
        Some(StackDumpResult { postponed: Vec::new(), ..taken })
    }

    /// The worker has to go after all: it may be sent the signal.
    pub(super) fn escalate(&mut self, worker: WorkerId) {
        if let Some(inquiry) = self.active.get_mut(&worker)
            && inquiry.step == DumpStep::Cancelling
        {
            inquiry.step = DumpStep::Requested;
            inquiry.due = Instant::now();
        }
    }

    /// Holds back the worker's kill until its stacks are there, at most a second. False when nobody waits for them.
    pub(super) fn delay_kill(&mut self, worker: WorkerId) -> bool {
        match self.active.get_mut(&worker) {
            Some(inquiry) if inquiry.step != DumpStep::OneThread => {
                inquiry.kill = true;
                true
            }
            _ => false,
        }
    }

    /// When [`StackDumps::on_timeout`] is due.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.active.values().map(|inquiry| inquiry.due).min()
    }

    /// Takes the next step of those whose time is over.
    pub(super) fn on_timeout(&mut self, pool: &mut Pool, now: Instant) -> Vec<StackDumpResult> {
        let due: Vec<WorkerId> =
            self.active.iter().filter(|(_, inquiry)| inquiry.due <= now).map(|(worker, _)| *worker).collect();
        let mut taken = Vec::new();
        for worker in due {
            let Some(inquiry) = self.active.get_mut(&worker) else { continue };
            match inquiry.step {
                DumpStep::Requested => {
                    inquiry.step = DumpStep::Signalled;
                    inquiry.due = now + SIGNAL_TIMEOUT;
                    if let Err(error) = pool.signal_stacks(worker) {
                        tracing::debug!(%error, rgun.worker = worker.number.0, "cannot signal a worker");
                    }
                }
                DumpStep::Signalled => {
                    let stacks = pool.stacks(worker);
                    taken.extend(self.finish(worker, stacks));
                }
                DumpStep::Cancelling | DumpStep::OneThread => taken.extend(self.finish(worker, None)),
            }
        }
        taken
    }

    fn finish(&mut self, worker: WorkerId, stacks: Option<String>) -> Option<StackDumpResult> {
        let StackDump { reasons: purposes, kill, postponed: waiting, skipped: unseen, .. } =
            self.active.remove(&worker)?;
        Some(StackDumpResult { worker, reasons: purposes, stacks, kill, postponed: waiting, skipped: unseen })
    }
}
