//! Requests the Python stacks of workers: one dump per worker at a time.
//!
//! The main loop starts a dump with [`StackDumps::request`] and passes on the worker's answer
//! ([`StackDumps::on_answer`]), the stacks of cancelled tasks ([`StackDumps::on_task_stack`]),
//! timeouts ([`StackDumps::on_timeout`]) and the worker's exit ([`StackDumps::on_exit`]). A dump
//! ends with a [`StackDumpResult`], which `stack_log` logs.
//!
//! The first request goes over the worker socket: the worker writes its stacks under the GIL,
//! which is safe. If C code holds the GIL, no answer comes. A worker that is going to be replaced
//! anyway then gets a signal, after [`REQUEST_TIMEOUT`], and writes its stacks without the GIL. The
//! slow log never sends the signal.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use crate::dispatch::RequestInfo;
use crate::id::WorkerId;
use crate::pool::Pool;

use super::operator_log::seat_field;

/// Maximum wait for an answer over the worker socket, before the signal is sent.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(250);

/// Maximum wait for an answer after the signal.
const SIGNAL_TIMEOUT: Duration = Duration::from_millis(750);

/// Maximum wait for the answer of an ASGI worker that is cancelling a task. Longer than the time in
/// which the task must end.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(1500);

/// Maximum wait for the stacks that an operator has requested.
const OPERATOR_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum wait for the stacks of cancelled tasks, after the stacks of all threads have come.
const TASK_STACK_TIMEOUT: Duration = Duration::from_millis(250);

/// Maximum wait for the answer to a request of the slow log.
const SLOW_LOG_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of slow requests of one worker that wait for the end of the current dump. When
/// all requests are slow, a few stacks show as much as all of them.
const MAX_POSTPONED: usize = 8;

/// Part of the header of each stack that `faulthandler` writes. The stack of a single thread is
/// written by `traceback`, most recent call last.
const ALL_THREADS_MARK: &str = "(most recent call first)";

/// The reason for requesting a dump.
#[derive(Debug)]
pub(super) enum DumpReason {
    /// A request ran over its deadline.
    Deadline(RequestInfo),
    /// A request ran over its deadline in an ASGI worker, which cancels the request's task and
    /// continues.
    TaskDeadline(RequestInfo),
    /// The event loop has been blocked for this long.
    Stall(Duration),
    /// A request has been running for longer than `log.slow`.
    Slow(RequestInfo),
    /// The worker did not become ready within `timeouts.boot`.
    Boot,
    /// The worker has not exited this long after it was asked to.
    Exit(Duration),
    /// A client of the control socket has requested the stacks.
    Operator,
}

/// The result of a dump.
#[derive(Debug)]
pub(super) struct StackDumpResult {
    /// The worker whose stacks were requested.
    pub(super) worker: WorkerId,
    /// The reasons for requesting the dump.
    pub(super) reasons: Vec<DumpReason>,
    /// The stacks. `None` if they could not be taken, or the slow request had already ended.
    pub(super) stacks: Option<String>,
    /// Stacks of tasks that the worker cancelled, by exchange.
    pub(super) task_stacks: Vec<(ExchangeId, String)>,
    /// The worker's kill was delayed for this dump, and is due now.
    pub(super) kill: bool,
    /// Slow requests of the same worker; their dumps are due now.
    pub(super) postponed: Vec<DumpReason>,
    /// Number of slow requests beyond [`MAX_POSTPONED`], which are not dumped.
    pub(super) skipped: u32,
}

/// The running dumps, at most one per worker: a worker has one file for its stacks.
#[derive(Debug, Default)]
pub(super) struct StackDumps {
    active: HashMap<WorkerId, StackDump>,
}

/// A running dump of one worker. The fields are those of [`StackDumpResult`], unless described.
#[derive(Debug)]
struct StackDump {
    reasons: Vec<DumpReason>,
    step: DumpStep,
    /// When the next step is due.
    due: Instant,
    /// The stacks of all threads, while the stacks of cancelled tasks are missing.
    stacks: Option<String>,
    task_stacks: Vec<(ExchangeId, String)>,
    kill: bool,
    postponed: Vec<DumpReason>,
    skipped: u32,
}

/// The current step of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DumpStep {
    /// The stacks of all threads were requested over the worker socket. Next: the signal.
    Requested,
    /// Like `Requested`, but without the signal: the worker cancels a task, or goes on serving.
    /// Ends with the stacks, or becomes `Requested` if the worker has to be replaced after all.
    WithoutSignal,
    /// The signal was sent. Ends with the stacks that the worker has written so far.
    Signalled,
    /// The stack of one request's thread was requested over the worker socket. Ends with the
    /// answer.
    OneThread,
}

impl StackDumps {
    /// Starts a dump, or joins the running one. A running dump for the slow log is abandoned in
    /// favour of any other reason: its result is returned.
    pub(super) fn request(
        &mut self,
        pool: &mut Pool,
        worker: WorkerId,
        reason: DumpReason,
    ) -> Option<StackDumpResult> {
        let now = Instant::now();
        let reason = match self.active.get_mut(&worker) {
            Some(dump) => dump.join(reason, now)?,
            None => reason,
        };
        let abandoned = self.finish(worker, None);
        let (step, timeout, exchange) = match &reason {
            DumpReason::Slow(request) => (DumpStep::OneThread, SLOW_LOG_TIMEOUT, Some(request.exchange)),
            DumpReason::TaskDeadline(_) => (DumpStep::WithoutSignal, CANCEL_TIMEOUT, None),
            DumpReason::Operator => (DumpStep::WithoutSignal, OPERATOR_TIMEOUT, None),
            DumpReason::Deadline(_) | DumpReason::Stall(_) | DumpReason::Boot | DumpReason::Exit(_) => {
                (DumpStep::Requested, REQUEST_TIMEOUT, None)
            }
        };
        if let Err(error) = pool.request_stacks(worker, exchange) {
            tracing::debug!(%error, "cannot ask a worker for its stacks");
            if step == DumpStep::OneThread {
                // The worker is exiting; the entry about its exit has more information.
                return abandoned;
            }
        }
        self.active.insert(worker, StackDump::new(reason, step, now + timeout));
        abandoned
    }

    /// Handles the worker's answer: its stacks are written or, if `is_written` is false, the slow
    /// request had ended. Returns the result if this ends the dump.
    pub(super) fn on_answer(
        &mut self,
        pool: &mut Pool,
        worker: WorkerId,
        is_written: bool,
    ) -> Option<StackDumpResult> {
        let step = self.active.get(&worker)?.step;
        let stacks = if is_written { pool.read_stacks(worker) } else { None };
        // An answer without the stacks of all threads is late and belongs to an abandoned dump.
        let has_all_threads = stacks.as_deref().is_some_and(|stacks| stacks.contains(ALL_THREADS_MARK));
        if !has_all_threads && step != DumpStep::OneThread {
            return None;
        }
        let dump = self.active.get_mut(&worker)?;
        if dump.step == DumpStep::WithoutSignal && !dump.has_task_stacks() {
            dump.stacks = stacks;
            dump.due = dump.due.min(Instant::now() + TASK_STACK_TIMEOUT);
            return None;
        }
        self.finish(worker, stacks)
    }

    /// Handles the stack of a task that the worker has cancelled. Returns whether a dump waited for
    /// the stack. After the last one, [`StackDumps::on_timeout`] is due.
    pub(super) fn on_task_stack(&mut self, worker: WorkerId, exchange: ExchangeId, stack: &str) -> bool {
        let Some(dump) = self.active.get_mut(&worker) else { return false };
        if !dump.task_deadlines().any(|request| request.exchange == exchange) {
            return false;
        }
        dump.task_stacks.push((exchange, stack.to_owned()));
        if dump.stacks.is_some() && dump.has_task_stacks() {
            dump.due = Instant::now();
        }
        true
    }

    /// Ends the dump of a worker that has exited. Its postponed requests are dropped.
    pub(super) fn on_exit(&mut self, worker: WorkerId) -> Option<StackDumpResult> {
        let result = self.finish(worker, None)?;
        Some(StackDumpResult { postponed: Vec::new(), ..result })
    }

    /// Permits the signal for a worker that is cancelling a task, because the worker will be
    /// replaced after all.
    pub(super) fn escalate(&mut self, worker: WorkerId) {
        if let Some(dump) = self.active.get_mut(&worker)
            && dump.step == DumpStep::WithoutSignal
        {
            dump.step = DumpStep::Requested;
            dump.due = Instant::now();
        }
    }

    /// Delays the worker's kill until its dump has ended, at most a second. Returns false if there
    /// is no dump to wait for.
    pub(super) fn delay_kill(&mut self, worker: WorkerId) -> bool {
        match self.active.get_mut(&worker) {
            Some(dump) if dump.step != DumpStep::OneThread => {
                dump.kill = true;
                true
            }
            _ => false,
        }
    }

    /// Returns when [`StackDumps::on_timeout`] is due.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.active.values().map(|dump| dump.due).min()
    }

    /// Takes the next step of each dump that is due. Returns the results of those that have ended.
    pub(super) fn on_timeout(&mut self, pool: &mut Pool, now: Instant) -> Vec<StackDumpResult> {
        let due: Vec<WorkerId> =
            self.active.iter().filter(|(_, dump)| dump.due <= now).map(|(worker, _)| *worker).collect();
        let mut results = Vec::new();
        for worker in due {
            let Some(dump) = self.active.get_mut(&worker) else { continue };
            match dump.step {
                DumpStep::Requested if dump.stacks.is_none() => {
                    dump.step = DumpStep::Signalled;
                    dump.due = now + SIGNAL_TIMEOUT;
                    if let Err(error) = pool.signal_stacks(worker) {
                        tracing::debug!(%error, rgun.worker = seat_field(worker), "cannot signal a worker");
                    }
                }
                DumpStep::Signalled => {
                    let stacks = pool.read_stacks(worker);
                    results.extend(self.finish(worker, stacks));
                }
                DumpStep::Requested | DumpStep::WithoutSignal | DumpStep::OneThread => {
                    results.extend(self.finish(worker, None));
                }
            }
        }
        results
    }

    /// Ends a dump. If `stacks` is `None`, the result has the stacks that came before, if any.
    fn finish(&mut self, worker: WorkerId, stacks: Option<String>) -> Option<StackDumpResult> {
        let dump = self.active.remove(&worker)?;
        Some(StackDumpResult {
            worker,
            reasons: dump.reasons,
            stacks: stacks.or(dump.stacks),
            task_stacks: dump.task_stacks,
            kill: dump.kill,
            postponed: dump.postponed,
            skipped: dump.skipped,
        })
    }
}

impl StackDump {
    fn new(reason: DumpReason, step: DumpStep, due: Instant) -> Self {
        Self {
            reasons: vec![reason],
            step,
            due,
            stacks: None,
            task_stacks: Vec::new(),
            kill: false,
            postponed: Vec::new(),
            skipped: 0,
        }
    }

    /// Adds a reason to a running dump. Returns the reason if it needs a dump of its own at once.
    fn join(&mut self, reason: DumpReason, now: Instant) -> Option<DumpReason> {
        match (self.step, &reason) {
            (_, DumpReason::Slow(_)) if self.postponed.len() < MAX_POSTPONED => self.postponed.push(reason),
            (_, DumpReason::Slow(_)) => self.skipped += 1,
            (DumpStep::OneThread, _) => return Some(reason),
            (DumpStep::WithoutSignal, DumpReason::Deadline(_) | DumpReason::Exit(_)) => {
                self.reasons.push(reason);
                self.step = DumpStep::Requested;
                self.due = self.due.min(now + REQUEST_TIMEOUT);
            }
            _ => self.reasons.push(reason),
        }
        None
    }

    /// The requests whose tasks the worker is cancelling.
    fn task_deadlines(&self) -> impl Iterator<Item = &RequestInfo> {
        self.reasons.iter().filter_map(|reason| match reason {
            DumpReason::TaskDeadline(request) => Some(request),
            _ => None,
        })
    }

    /// Whether the stacks of all cancelled tasks have come.
    fn has_task_stacks(&self) -> bool {
        let has_stack = |request: &RequestInfo| {
            self.task_stacks.iter().any(|(exchange, _)| *exchange == request.exchange)
        };
        self.task_deadlines().all(has_stack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::ResponseProgress;
    use crate::escape::RequestPath;
    use crate::id::{Incarnation, WorkerNr};

    const WORKER: WorkerId = WorkerId { number: WorkerNr(0), incarnation: Incarnation(1) };

    fn request(exchange: u64) -> RequestInfo {
        RequestInfo {
            exchange: ExchangeId(exchange),
            request_id: format!("id{exchange}"),
            method: "GET".to_owned(),
            path: RequestPath::new(b"/slow"),
            thread: None,
            elapsed: Duration::from_secs(30),
            response: ResponseProgress::NotStarted,
        }
    }

    fn cancelling(exchanges: [u64; 2]) -> StackDumps {
        let reason = DumpReason::TaskDeadline(request(exchanges[0]));
        let due = Instant::now() + CANCEL_TIMEOUT;
        let mut dump = StackDump::new(reason, DumpStep::WithoutSignal, due);
        assert!(dump.join(DumpReason::TaskDeadline(request(exchanges[1])), Instant::now()).is_none());
        StackDumps { active: HashMap::from([(WORKER, dump)]) }
    }

    #[test]
    fn dump_is_due_once_all_task_stacks_have_come() {
        let mut dumps = cancelling([7, 8]);
        let due = dumps.next_wakeup();
        assert!(dumps.on_task_stack(WORKER, ExchangeId(7), "in seven"));
        dumps.active.get_mut(&WORKER).unwrap().stacks = Some("all threads".to_owned());
        assert_eq!(dumps.next_wakeup(), due, "one task is missing");
        assert!(dumps.on_task_stack(WORKER, ExchangeId(8), "in eight"));
        assert!(dumps.next_wakeup().unwrap() <= Instant::now());
        let result = dumps.finish(WORKER, None).unwrap();
        assert_eq!(result.stacks.as_deref(), Some("all threads"));
        assert_eq!(result.task_stacks.len(), 2);
    }

    #[test]
    fn task_stack_without_a_dump_is_not_taken() {
        let mut dumps = cancelling([7, 8]);
        assert!(!dumps.on_task_stack(WORKER, ExchangeId(9), "in nine"));
        drop(dumps.finish(WORKER, None));
        assert!(!dumps.on_task_stack(WORKER, ExchangeId(7), "in seven"));
    }
}
