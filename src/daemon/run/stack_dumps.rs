//! Taking the Python stacks of workers: who is being asked, what for, and until when.
//!
//! The main loop begins an inquiry with [`Inquiries::begin`], and tells what the worker says ([`Inquiries::answered`]),
//! that time has passed ([`Inquiries::run_out`]) and that the worker is gone ([`Inquiries::gone`]); each of the last three
//! may end it with a [`Taken`]. `stacks` does what follows from it.
//!
//! A worker is asked politely first, over its control socket: it then writes its stacks under the GIL, which harms
//! nothing. If something holds the GIL (C code, which does not move Python's frames meanwhile), that is not heard: a
//! worker that is going to be replaced anyway is sent the signal after [`POLITE`]. For the slow log it never is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use crate::dispatch::Asked;
use crate::id::WorkerId;
use crate::pool::Pool;

/// What the stacks are wanted for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A request ran over its deadline.
    Deadline(Asked),
    /// A request ran over its deadline in an ASGI worker, which goes on if the request's task can be cancelled.
    Overdue(Asked),
    /// An event loop has not turned for so long.
    Stall(Duration),
    /// A request has been running for longer than `log.slow`.
    Slow(Asked),
    /// The worker has not become ready within `timeouts.boot`.
    Boot,
}

/// The end of an inquiry.
#[derive(Debug)]
pub(super) struct Taken {
    /// Whose.
    pub(super) worker: WorkerId,
    /// Who wanted to know.
    pub(super) purposes: Vec<Purpose>,
    /// The stacks; nothing if they could not be taken, or the request was through by then.
    pub(super) stacks: Option<String>,
    /// The worker was to be killed, and waits for it.
    pub(super) kill: bool,
    /// Who else wanted to know something meanwhile, and could not be asked for at the same time: begin with these.
    pub(super) waiting: Vec<Purpose>,
    /// How many more slow requests there were than anybody could look at.
    pub(super) unseen: u32,
}

/// The inquiries under way, one for each worker: its stacks have one place.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    active: HashMap<WorkerId, Inquiry>,
}

#[derive(Debug)]
struct Inquiry {
    purposes: Vec<Purpose>,
    step: Step,
    /// When the next step is due.
    due: Instant,
    kill: bool,
    waiting: Vec<Purpose>,
    unseen: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Of all threads, over the control socket; the signal comes next.
    Asked,
    /// Of all threads, over the control socket; nothing comes next, unless it turns out that the worker has to go.
    Gentle,
    /// The signal was sent; nothing comes next.
    Signalled,
    /// Of one request's thread, over the control socket; nothing comes next.
    Patient,
}

/// What a worker has to answer over the control socket before it is sent the signal.
const POLITE: Duration = Duration::from_millis(250);
/// What it has after that.
const FORCED: Duration = Duration::from_millis(750);
/// What an ASGI worker has that may go on: a little more than its task has to end.
const GENTLE: Duration = Duration::from_millis(1500);
/// What it has for the slow log.
const PATIENCE: Duration = Duration::from_secs(10);
/// Slow requests of one worker that wait to be looked at, one after the other: when everything is slow, a few tell as
/// much as all.
const MOST_WAITING: usize = 8;
/// `faulthandler` writes this over each stack; of one thread alone it is `traceback`'s, the other way round.
const OF_ALL: &str = "(most recent call first)";

impl Inquiries {
    /// Asks a worker. What runs already answers this too, or this waits for its end; but an inquiry for the slow log
    /// gives way to a deadline's: it is given up, and returned.
    pub(super) fn begin(&mut self, pool: &mut Pool, worker: WorkerId, purpose: Purpose) -> Option<Taken> {
        let now = Instant::now();
        let is_slow = matches!(purpose, Purpose::Slow(_));
        if let Some(running) = self.active.get_mut(&worker) {
            match (running.step, is_slow) {
                (_, true) => {
                    if running.waiting.len() < MOST_WAITING {
                        running.waiting.push(purpose);
                    } else {
                        running.unseen += 1;
                    }
                    return None;
                }
                (Step::Gentle, false) if matches!(purpose, Purpose::Deadline(_)) => {
                    running.purposes.push(purpose);
                    running.step = Step::Asked;
                    running.due = running.due.min(now + POLITE);
                    return None;
                }
                (Step::Asked | Step::Gentle | Step::Signalled, false) => {
                    running.purposes.push(purpose);
                    return None;
                }
                (Step::Patient, false) => {}
            }
        }
        let given_up = self.end(worker, None);
        let exchange: Option<ExchangeId> = match &purpose {
            Purpose::Slow(asked) => Some(asked.exchange),
            Purpose::Deadline(_) | Purpose::Overdue(_) | Purpose::Stall(_) | Purpose::Boot => None,
        };
        if let Err(error) = pool.ask_stacks(worker, exchange) {
            tracing::debug!(%error, "cannot ask a worker for its stacks");
            if is_slow {
                // It is on its way out, and its end says more.
                return given_up;
            }
        }
        let (step, patience) = match purpose {
            Purpose::Slow(_) => (Step::Patient, PATIENCE),
            Purpose::Overdue(_) => (Step::Gentle, GENTLE),
            Purpose::Deadline(_) | Purpose::Stall(_) | Purpose::Boot => (Step::Asked, POLITE),
        };
        let inquiry = Inquiry {
            purposes: vec![purpose],
            step,
            due: now + patience,
            kill: false,
            waiting: Vec::new(),
            unseen: 0,
        };
        self.active.insert(worker, inquiry);
        given_up
    }

    /// The worker says that they are written, or that the request it was asked about is through.
    pub(super) fn answered(&mut self, pool: &mut Pool, worker: WorkerId, written: bool) -> Option<Taken> {
        let step = self.active.get(&worker)?.step;
        let stacks = if written { pool.stacks(worker) } else { None };
        // A late answer to an inquiry that was given up says nothing about this one: of one thread only, or nothing.
        let is_of_all = stacks.as_deref().is_some_and(|stacks| stacks.contains(OF_ALL));
        if !is_of_all && step != Step::Patient {
            return None;
        }
        self.end(worker, stacks)
    }

    /// The worker's process is gone, and nobody can be asked any more.
    pub(super) fn gone(&mut self, worker: WorkerId) -> Option<Taken> {
        let taken = self.end(worker, None)?;
        Some(Taken { waiting: Vec::new(), ..taken })
    }

    /// The worker has to go after all: it may be sent the signal.
    pub(super) fn escalate(&mut self, worker: WorkerId) {
        if let Some(inquiry) = self.active.get_mut(&worker)
            && inquiry.step == Step::Gentle
        {
            inquiry.step = Step::Asked;
            inquiry.due = Instant::now();
        }
    }

    /// Holds back the worker's kill until its stacks are there, at most a second. False when nobody waits for them.
    pub(super) fn hold_kill(&mut self, worker: WorkerId) -> bool {
        match self.active.get_mut(&worker) {
            Some(inquiry) if inquiry.step != Step::Patient => {
                inquiry.kill = true;
                true
            }
            _ => false,
        }
    }

    /// When [`Inquiries::run_out`] is due.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.active.values().map(|inquiry| inquiry.due).min()
    }

    /// Takes the next step of those whose time is over.
    pub(super) fn run_out(&mut self, pool: &mut Pool, now: Instant) -> Vec<Taken> {
        let due: Vec<WorkerId> =
            self.active.iter().filter(|(_, inquiry)| inquiry.due <= now).map(|(worker, _)| *worker).collect();
        let mut taken = Vec::new();
        for worker in due {
            let Some(inquiry) = self.active.get_mut(&worker) else { continue };
            match inquiry.step {
                Step::Asked => {
                    inquiry.step = Step::Signalled;
                    inquiry.due = now + FORCED;
                    if let Err(error) = pool.signal_stacks(worker) {
                        tracing::debug!(%error, rgun.worker = worker.number.0, "cannot signal a worker");
                    }
                }
                Step::Signalled => {
                    let stacks = pool.stacks(worker);
                    taken.extend(self.end(worker, stacks));
                }
                Step::Gentle | Step::Patient => taken.extend(self.end(worker, None)),
            }
        }
        taken
    }

    fn end(&mut self, worker: WorkerId, stacks: Option<String>) -> Option<Taken> {
        let Inquiry { purposes, kill, waiting, unseen, .. } = self.active.remove(&worker)?;
        Some(Taken { worker, purposes, stacks, kill, waiting, unseen })
    }
}
