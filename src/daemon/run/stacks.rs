//! Taking the Python stacks of workers: who is being asked, what for, and until when.
//!
//! The main loop begins an inquiry with [`Inquiries::begin`], and tells what the worker says ([`Inquiries::answered`]),
//! that time has passed ([`Inquiries::run_out`]) and that the worker is gone ([`Inquiries::gone`]); each of the last three
//! may end it with a [`Taken`]. What is then written where is `report`'s.
//!
//! A worker is asked politely first, over its control socket: it then writes its stacks under the GIL, which harms
//! nothing. If something holds the GIL (C code, which does not move Python's frames meanwhile), that is not heard: a
//! worker that is going to be replaced anyway is sent the signal after [`POLITE`]. For the slow log it never is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use super::{Daemon, report};
use crate::dispatch::Asked;
use crate::id::WorkerId;
use crate::pool::Pool;
use crate::supervise::Event;

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

impl Daemon {
    pub(super) fn inquire(&mut self, worker: WorkerId, purpose: Purpose) -> Vec<Event> {
        self.dispatcher.asked_for_stacks(worker);
        let given_up = self.inquiries.begin(&mut self.pool, worker, purpose);
        given_up.map(|taken| self.taken(taken)).unwrap_or_default()
    }

    pub(super) fn taken(&mut self, taken: Taken) -> Vec<Event> {
        let Taken { worker, purposes, stacks, kill, waiting, unseen } = taken;
        let pid = self.reporter.pid(worker);
        let mut events = Vec::new();
        let mut told: Option<String> = None;
        for purpose in purposes {
            match purpose {
                Purpose::Stall(silence) => report::stalled(worker, pid, silence, stacks.as_deref()),
                Purpose::Deadline(asked) | Purpose::Overdue(asked) => {
                    // All stacks once; of the others that were stuck with it, each its own.
                    let stacks = stacks.as_deref().map(|stacks| match &told {
                        None => mark(stacks, asked.thread),
                        Some(first) => {
                            let own = own_stack(stacks, asked.thread).unwrap_or_default();
                            format!(
                                "{own}(all stacks of the worker are in the entry of request id {first})\n"
                            )
                        }
                    });
                    report::overdue(worker, pid, &asked, stacks.as_deref());
                    told.get_or_insert(asked.request_id);
                }
                Purpose::Slow(asked) => report::slow(worker, pid, &asked, stacks.as_deref()),
                Purpose::Boot => events.push(Event::StacksTaken { worker, stacks: stacks.clone() }),
            }
        }
        if unseen > 0 {
            tracing::warn!(
                rgun.worker = worker.number.0,
                rgun.pid = pid,
                "worker {}: {unseen} more requests were slow meanwhile",
                worker.number.0
            );
        }
        if kill {
            self.pool.kill(worker);
        }
        for purpose in waiting {
            events.extend(self.inquire(worker, purpose));
        }
        events
    }
}

/// Marks the thread that runs a request in the stacks that `faulthandler` wrote: it knows threads by their
/// `pthread_self(3)` only.
fn mark(stacks: &str, thread: Option<u64>) -> String {
    let Some(thread) = thread else { return stacks.to_owned() };
    let mut marked = String::with_capacity(stacks.len() + 32);
    for line in stacks.lines() {
        marked.push_str(line);
        if is_head_of(line, thread) {
            marked.push_str(" <- this request");
        }
        marked.push('\n');
    }
    marked
}

/// The stack of one thread alone.
fn own_stack(stacks: &str, thread: Option<u64>) -> Option<String> {
    let thread = thread?;
    let mut lines = stacks.lines().skip_while(|line| !is_head_of(line, thread));
    let head = lines.next()?;
    let frames = lines.take_while(|line| line.starts_with(' '));
    Some(std::iter::once(head).chain(frames).flat_map(|line| [line, "\n"]).collect())
}

/// Is this line `Thread 0x00007f3a5c7ff640 (most recent call first):` (or `Current thread 0x…`) of that thread?
fn is_head_of(line: &str, thread: u64) -> bool {
    let rest = line.strip_prefix("Current thread 0x").or_else(|| line.strip_prefix("Thread 0x"));
    let digits = rest.map(|rest| rest.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default());
    digits.is_some_and(|digits| u64::from_str_radix(digits, 16) == Ok(thread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_of_the_request_is_marked_whether_current_or_not() {
        let stacks = "Thread 0x00007f0000000010 (most recent call first):\n  File \"a.py\", line 1 in f\n\n\
                      Current thread 0x00007f0000000020 [python] (most recent call first):\n  File \"b.py\", line 2 in g\n";
        let marked = mark(stacks, Some(0x7f00_0000_0010));
        assert!(
            marked.starts_with("Thread 0x00007f0000000010 (most recent call first): <- this request\n"),
            "{marked}"
        );
        assert_eq!(marked.matches("<- this request").count(), 1);
        assert!(
            mark(stacks, Some(0x7f00_0000_0020))
                .contains("[python] (most recent call first): <- this request")
        );
        assert!(!mark(stacks, Some(0x7f00_0000_0030)).contains("this request"));
        assert_eq!(mark("as it is", None), "as it is");
        assert_eq!(
            own_stack(stacks, Some(0x7f00_0000_0010)).as_deref(),
            Some("Thread 0x00007f0000000010 (most recent call first):\n  File \"a.py\", line 1 in f\n")
        );
        assert_eq!(own_stack(stacks, Some(1)), None);
    }
}
