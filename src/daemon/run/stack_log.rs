//! Takes the Python stacks of workers when `inquiries` says so, and has them written with what they were taken for.

use super::stack_dumps::{DumpReason, StackDumpResult};
use super::{Daemon, request_log};
use crate::id::WorkerId;
use crate::supervise::Event;

impl Daemon {
    pub(super) fn request_stacks(&mut self, worker: WorkerId, purpose: DumpReason) -> Vec<Event> {
        self.dispatcher.expect_stacks(worker);
        let given_up = self.stack_dumps.request(&mut self.pool, worker, purpose);
        given_up.map(|taken| self.log_stacks(taken)).unwrap_or_default()
    }

    pub(super) fn log_stacks(&mut self, taken: StackDumpResult) -> Vec<Event> {
        let StackDumpResult { worker, reasons: purposes, stacks, kill, postponed: waiting, skipped: unseen } =
            taken;
        let pid = self.operator_log.pid(worker);
        let mut events = Vec::new();
        let mut told: Option<String> = None;
        for purpose in purposes {
            match purpose {
                DumpReason::Stall(silence) => request_log::log_stall(worker, pid, silence, stacks.as_deref()),
                DumpReason::Deadline(asked) | DumpReason::TaskDeadline(asked) => {
                    // All stacks once; of the others that were stuck with it, each its own.
                    let stacks = stacks.as_deref().map(|stacks| match &told {
                        None => mark_thread(stacks, asked.thread),
                        Some(first) => {
                            let own = stack_of_thread(stacks, asked.thread).unwrap_or_default();
                            format!(
                                "{own}(all stacks of the worker are in the entry of request id {first})\n"
                            )
                        }
                    });
                    let stacks = stacks.map(|stacks| format!("Python stacks:\n{stacks}"));
                    request_log::log_deadline(worker, pid, &asked, stacks.as_deref());
                    told.get_or_insert(asked.request_id);
                }
                DumpReason::Slow(asked) => request_log::log_slow(worker, pid, &asked, stacks.as_deref()),
                DumpReason::Boot => events.push(Event::StacksDumped { worker, stacks: stacks.clone() }),
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
            events.extend(self.request_stacks(worker, purpose));
        }
        events
    }
}

/// Marks the thread that runs a request in the stacks that `faulthandler` wrote: it knows threads by their
/// `pthread_self(3)` only.
fn mark_thread(stacks: &str, thread: Option<u64>) -> String {
    let Some(thread) = thread else { return stacks.to_owned() };
    let mut marked = String::with_capacity(stacks.len() + 32);
    for line in stacks.lines() {
        marked.push_str(line);
        if is_thread_header(line, thread) {
            marked.push_str(" <- this request");
        }
        marked.push('\n');
    }
    marked
}

/// The stack of one thread alone.
fn stack_of_thread(stacks: &str, thread: Option<u64>) -> Option<String> {
    let thread = thread?;
    let mut lines = stacks.lines().skip_while(|line| !is_thread_header(line, thread));
    let head = lines.next()?;
    let frames = lines.take_while(|line| line.starts_with(' '));
    Some(std::iter::once(head).chain(frames).flat_map(|line| [line, "\n"]).collect())
}

/// Is this line `Thread 0x00007f3a5c7ff640 (most recent call first):` (or `Current thread 0x…`) of that thread?
fn is_thread_header(line: &str, thread: u64) -> bool {
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
        let marked = mark_thread(stacks, Some(0x7f00_0000_0010));
        assert!(
            marked.starts_with("Thread 0x00007f0000000010 (most recent call first): <- this request\n"),
            "{marked}"
        );
        assert_eq!(marked.matches("<- this request").count(), 1);
        assert!(
            mark_thread(stacks, Some(0x7f00_0000_0020))
                .contains("[python] (most recent call first): <- this request")
        );
        assert!(!mark_thread(stacks, Some(0x7f00_0000_0030)).contains("this request"));
        assert_eq!(mark_thread("as it is", None), "as it is");
        assert_eq!(
            stack_of_thread(stacks, Some(0x7f00_0000_0010)).as_deref(),
            Some("Thread 0x00007f0000000010 (most recent call first):\n  File \"a.py\", line 1 in f\n")
        );
        assert_eq!(stack_of_thread(stacks, Some(1)), None);
    }
}
