//! Takes the Python stacks of workers when `inquiries` says so, and has them written with what they were taken for.

use super::stack_dumps::{Purpose, Taken};
use super::{Daemon, operator_log};
use crate::id::WorkerId;
use crate::supervise::Event;

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
                Purpose::Stall(silence) => operator_log::stalled(worker, pid, silence, stacks.as_deref()),
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
                    operator_log::overdue(worker, pid, &asked, stacks.as_deref());
                    told.get_or_insert(asked.request_id);
                }
                Purpose::Slow(asked) => operator_log::slow(worker, pid, &asked, stacks.as_deref()),
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
