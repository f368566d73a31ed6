//! Logs the Python stacks that [`stack_dumps`](super::stack_dumps) requested.

use rgun_channel::frame::ExchangeId;

use super::stack_dumps::{DumpReason, StackDumpResult};
use super::{Daemon, request_log};
use crate::dispatch::RequestInfo;
use crate::id::WorkerId;
use crate::supervise::{Event, WorkerState};

impl Daemon {
    /// Requests the stacks of a worker; they are logged when they have come. Returns the events of
    /// a dump that was abandoned for this one.
    pub(super) fn request_stacks(&mut self, worker: WorkerId, reason: DumpReason) -> Vec<Event> {
        self.dispatcher.expect_stacks(worker);
        let abandoned = self.stack_dumps.request(&mut self.pool, worker, reason);
        abandoned.map(|result| self.log_stacks(result)).unwrap_or_default()
    }

    /// Logs the result of a dump, once per reason, and performs the steps that waited for it.
    pub(super) fn log_stacks(&mut self, result: StackDumpResult) -> Vec<Event> {
        let StackDumpResult { worker, reasons, stacks, task_stacks, kill, postponed, skipped } = result;
        let stacks = stacks.as_deref();
        let pid = self.operator_log.pid(worker);
        let mut events = Vec::new();
        let mut first: Option<String> = None;
        for reason in reasons {
            match reason {
                DumpReason::Stall(silence) => request_log::log_stall(worker, pid, silence, stacks),
                DumpReason::Deadline(request) | DumpReason::TaskDeadline(request) => {
                    let text = deadline_stacks(&request, &task_stacks, stacks, first.as_deref());
                    request_log::log_deadline(worker, pid, &request, text.as_deref());
                    first.get_or_insert(request.request_id);
                }
                DumpReason::Operator => self.control.stack_calls.on_stacks(worker, pid, stacks),
                DumpReason::Exit(waited) => {
                    let addition = match stacks {
                        Some(stacks) => format!("; Python stacks:\n{}", stacks.trim_end()),
                        None => "; its Python stacks could not be taken".to_owned(),
                    };
                    self.operator_log.log_overdue(worker, WorkerState::Terminating, waited, &addition);
                }
                DumpReason::Slow(request) => request_log::log_slow(worker, pid, &request, stacks),
                DumpReason::Boot => {
                    events.push(Event::StacksDumped { worker, stacks: stacks.map(str::to_owned) });
                }
            }
        }
        if skipped > 0 {
            tracing::warn!(
                rgun.worker = worker.number.0,
                rgun.pid = pid,
                "worker {}: {skipped} more requests were slow meanwhile",
                worker.number.0
            );
        }
        if kill {
            self.kill(worker);
        }
        for reason in postponed {
            events.extend(self.request_stacks(worker, reason));
        }
        events
    }
}

/// Returns the stacks for the entry of a request over its deadline: the stack of its task, if there
/// is one, then those of all threads. Only one entry has the stacks of all threads: `first` is the
/// id of its request, or `None` until that entry is written.
fn deadline_stacks(
    request: &RequestInfo,
    task_stacks: &[(ExchangeId, String)],
    stacks: Option<&str>,
    first: Option<&str>,
) -> Option<String> {
    let task = task_stacks.iter().find(|(exchange, _)| *exchange == request.exchange);
    let task = task.map(|(_, stack)| format!("its task was at:\n{}\n", stack.trim_end()));
    let threads = stacks.map(|stacks| match first {
        None => format!("Python stacks:\n{}", mark_thread(stacks, request.thread)),
        Some(first) => {
            let own = stack_of_thread(stacks, request.thread).unwrap_or_default();
            format!(
                "Python stacks:\n{own}(all stacks of the worker are in the entry of request id {first})\n"
            )
        }
    });
    match (task, threads) {
        (Some(task), threads) => Some(task + &threads.unwrap_or_default()),
        (None, threads) => threads,
    }
}

/// Marks the header of the thread that runs the request. `faulthandler` names threads by their
/// `pthread_self(3)`.
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

/// Returns the stack of one thread.
fn stack_of_thread(stacks: &str, thread: Option<u64>) -> Option<String> {
    let thread = thread?;
    let mut lines = stacks.lines().skip_while(|line| !is_thread_header(line, thread));
    let head = lines.next()?;
    let frames = lines.take_while(|line| line.starts_with(' '));
    Some(std::iter::once(head).chain(frames).flat_map(|line| [line, "\n"]).collect())
}

/// Returns whether a line is the header of this thread's stack: `Thread 0x00007f3a5c7ff640 (most
/// recent call first):`, or `Current thread 0x…`.
fn is_thread_header(line: &str, thread: u64) -> bool {
    let rest = line.strip_prefix("Current thread 0x").or_else(|| line.strip_prefix("Thread 0x"));
    let digits = rest.map(|rest| rest.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default());
    digits.is_some_and(|digits| u64::from_str_radix(digits, 16) == Ok(thread))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dispatch::ResponseProgress;
    use crate::escape::RequestPath;

    #[test]
    fn thread_of_request_is_marked_whether_current_or_not() {
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

    #[test]
    fn deadline_entry_has_the_stack_of_the_cancelled_task() {
        let request = RequestInfo {
            exchange: ExchangeId(7),
            request_id: "id7".to_owned(),
            method: "GET".to_owned(),
            path: RequestPath::new(b"/slow"),
            thread: None,
            elapsed: Duration::from_secs(30),
            response: ResponseProgress::NotStarted,
        };
        let tasks = [(ExchangeId(6), "in six\n".to_owned()), (ExchangeId(7), "in seven\n".to_owned())];
        let text = deadline_stacks(&request, &tasks, Some("in run_forever"), None);
        assert_eq!(text.as_deref(), Some("its task was at:\nin seven\nPython stacks:\nin run_forever"));
        let text = deadline_stacks(&request, &tasks, None, None);
        assert_eq!(text.as_deref(), Some("its task was at:\nin seven\n"));
        assert_eq!(deadline_stacks(&request, &[], None, None), None);
    }
}
