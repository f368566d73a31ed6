//! What the operator reads: the supervisor's reports, and requests that are stuck or slow, as log entries.
//!
//! Level and wording are decided here and nowhere else.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::dispatch::{RequestInfo, ResponseProgress};
use crate::id::{WorkerId, WorkerNr};
use crate::supervise::{
    BootFailure, BootFailureKind, Exit, RecycleReason, Report, ResizeReason, WorkerState, name_of_signal,
};

/// What the log remembers of workers between what happens to them and when it is told.
#[derive(Debug, Default)]
pub(super) struct OperatorLog {
    /// Pids.
    pids: HashMap<WorkerId, u32>,
    /// Workers that have said something, so that their interpreter must be one.
    reported: HashSet<WorkerId>,
    /// What had started in a worker when it was lost.
    lost_requests: HashMap<WorkerId, Vec<RequestInfo>>,
    /// Workers whose cgroup the kernel's OOM killer has visited.
    oom_killed: HashSet<WorkerId>,
    /// Processes that others are forked from.
    zygotes: HashSet<WorkerId>,
}

impl OperatorLog {
    /// A process was made.
    pub(super) fn note_spawn(&mut self, worker: WorkerId, pid: u32) {
        self.pids.insert(worker, pid);
        tracing::debug!(rgun.worker = seat_field(worker), rgun.pid = pid, "worker spawned");
    }

    /// It has said something.
    pub(super) fn note_report(&mut self, worker: WorkerId) {
        self.reported.insert(worker);
    }

    /// It was lost with these requests.
    pub(super) fn note_lost_requests(&mut self, worker: WorkerId, asked: Vec<RequestInfo>) {
        self.lost_requests.insert(worker, asked);
    }

    /// The kernel killed it for its memory.
    pub(super) fn note_oom_kill(&mut self, worker: WorkerId) {
        self.oom_killed.insert(worker);
    }

    /// Notes that the worker is a zygote now.
    pub(super) fn note_zygote(&mut self, worker: WorkerId) {
        self.zygotes.insert(worker);
    }

    /// Are others forked from it?
    pub(super) fn is_zygote(&self, worker: WorkerId) -> bool {
        self.zygotes.contains(&worker)
    }

    /// It is gone, and everything has been told.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.pids.remove(&worker);
        self.reported.remove(&worker);
        self.lost_requests.remove(&worker);
        self.oom_killed.remove(&worker);
        self.zygotes.remove(&worker);
    }

    /// What people call it.
    pub(super) fn name(&self, worker: WorkerId) -> String {
        if self.is_zygote(worker) { "the zygote".to_owned() } else { format!("worker {}", worker.number.0) }
    }

    /// Its pid, while it has not been reported gone.
    pub(super) fn pid(&self, worker: WorkerId) -> Option<u32> {
        self.pids.get(&worker).copied()
    }

    /// Writes a report. `python` is for a worker that died without a word.
    pub(super) fn write(&mut self, report: Report, python: &dyn Fn(WorkerId) -> String) {
        match report {
            Report::WorkerReady { worker, took } => tracing::info!(
                rgun.worker = seat_field(worker),
                rgun.pid = self.pid(worker),
                rgun.duration_us = microseconds(took),
                "{} is ready after {took:.1?}",
                self.name(worker)
            ),
            Report::ZygoteReady { worker, took } => tracing::info!(
                rgun.pid = self.pid(worker),
                rgun.duration_us = microseconds(took),
                "the zygote is ready after {took:.1?}: workers are forked from it"
            ),
            Report::WorkerBootFailed { worker, failure, retry_in, already_reported } => {
                self.log_boot_failure(worker, failure, retry_in, already_reported, python);
            }
            Report::WorkerExited { worker, exit, state, retry_in } => {
                self.log_exit(worker, exit, state, retry_in);
            }
            Report::WorkerMisbehaved { worker, reason, .. } => tracing::error!(
                rgun.worker = seat_field(worker),
                rgun.pid = self.pid(worker),
                "{} broke the channel's contract and was killed: {reason}",
                self.name(worker)
            ),
            Report::Replacing { worker } => tracing::warn!(
                rgun.worker = seat_field(worker),
                rgun.pid = self.pid(worker),
                "{} has a request over its deadline; it is being replaced",
                self.name(worker)
            ),
            Report::Replaced { worker, by } => tracing::info!(
                rgun.worker = seat_field(worker),
                rgun.pid = self.pid(by),
                "{} has been replaced",
                self.name(worker)
            ),
            Report::Recycling { worker, reason } => tracing::info!(
                rgun.worker = seat_field(worker),
                rgun.pid = self.pid(worker),
                "{} {}; it {}",
                self.name(worker),
                describe_recycling(reason),
                if self.is_zygote(worker) {
                    "leaves, and another one is started"
                } else {
                    "serves until its successor is ready"
                }
            ),
            Report::Overdue { worker, state, waited } => tracing::warn!(
                rgun.worker = seat_field(worker),
                rgun.pid = self.pid(worker),
                "{} ({}) used up its {waited:.1?}",
                self.name(worker),
                state.as_str()
            ),
            Report::RetirementAborted { worker } => tracing::warn!(
                rgun.worker = seat_field(worker),
                rgun.pid = self.pid(worker),
                "{} was killed before it had finished its requests: there is no room for one more process",
                self.name(worker)
            ),
            Report::DrainTimedOut { waited } => tracing::warn!(
                "not every request was answered within timeouts.drain ({waited:.1?}); the rest is cut off"
            ),
            Report::ReloadStarted { generation } => tracing::info!(
                rgun.generation = generation.0,
                "reloading: generation {generation} boots beside the one that serves"
            ),
            Report::ReloadCompleted { generation, took } => tracing::info!(
                rgun.generation = generation.0,
                rgun.duration_us = microseconds(took),
                "reloaded: generation {generation} serves after {took:.1?}"
            ),
            Report::ReloadFailed { generation, failure } => match failure.kind {
                BootFailureKind::Superseded | BootFailureKind::Stopped => tracing::info!(
                    rgun.generation = generation.0,
                    "generation {generation} does not take over: {failure}"
                ),
                _ => tracing::error!(
                    rgun.generation = generation.0,
                    "reload failed: {failure}; generation {generation} does not take over"
                ),
            },
            Report::RolledBack { from, to, reason } => tracing::error!(
                rgun.generation = to.0,
                "generation {from} answers worse than the one before it ({reason}): generation {to} serves again"
            ),
            Report::Resized { from, to, reason } => log_resize(from, to, reason),
        }
    }

    fn log_boot_failure(
        &mut self,
        worker: WorkerId,
        failure: BootFailure,
        retry_in: Option<Duration>,
        already_reported: bool,
        python: &dyn Fn(WorkerId) -> String,
    ) {
        let BootFailure { kind, mut summary, traceback, headline: _ } = failure;
        let heard = self.reported.contains(&worker);
        if kind == BootFailureKind::Died && !heard {
            summary = format!(
                "{summary} without a word: is app.python = {} a CPython 3.9 or newer?",
                python(worker)
            );
        }
        let traceback = match traceback {
            Some(text) if !already_reported && !text.is_empty() => format!("\n{}", text.trim_end()),
            _ => String::new(),
        };
        let next = match retry_in {
            Some(pause) => format!(" (next attempt in {pause:.1?})"),
            None => String::new(),
        };
        tracing::error!(
            rgun.worker = seat_field(worker),
            rgun.pid = self.pid(worker),
            "{} did not boot: {summary}{next}{traceback}",
            self.name(worker)
        );
    }

    fn log_exit(&mut self, worker: WorkerId, exit: Exit, state: WorkerState, retry_in: Option<Duration>) {
        let pid = self.pid(worker);
        let lost = self.lost_requests.remove(&worker).unwrap_or_default();
        let oom_killed = self.oom_killed.contains(&worker);
        // Who stands by is the zygote, or about to serve, or kept to serve again: nobody asked it to leave.
        let expected = !matches!(state, WorkerState::Ready | WorkerState::Standby | WorkerState::Retiring)
            || (state == WorkerState::Retiring && exit == Exit::Code(0));
        let (number, name) = (worker.number.0, self.name(worker));
        if expected {
            tracing::debug!(rgun.worker = number, rgun.pid = pid, "{name} {exit}");
            return;
        }
        let why = if oom_killed { " (out of memory: workers.max_memory)" } else { "" };
        let with = match lost.as_slice() {
            [] => String::new(),
            [one] => format!(" with {} {} (request id {})", one.method, one.path, one.request_id),
            several => {
                let named: Vec<String> = several
                    .iter()
                    .map(|asked| format!("{} {} (request id {})", asked.method, asked.path, asked.request_id))
                    .collect();
                format!(" with one of {}", named.join(", "))
            }
        };
        let next = match retry_in {
            Some(pause) if pause.is_zero() => "; it is replaced".to_owned(),
            Some(pause) => format!("; it is replaced in {pause:.1?}"),
            None => String::new(),
        };
        tracing::warn!(rgun.worker = number, rgun.pid = pid, "{name} {exit}{why}{with}{next}");
    }
}

/// A request ran over its deadline: the one entry about it.
pub(super) fn log_deadline(worker: WorkerId, pid: Option<u32>, asked: &RequestInfo, stacks: Option<&str>) {
    let RequestInfo { request_id, method, path, elapsed, response: client, .. } = asked;
    let stacks = match stacks {
        Some(stacks) => format!("Python stacks:\n{}", stacks.trim_end()),
        None => "its Python stacks could not be taken".to_owned(),
    };
    // A client that has had its answer, or is gone, has its entry with a status elsewhere, if it has one.
    let (status, told) = match client {
        ResponseProgress::NotStarted => (Some(504), "504"),
        ResponseProgress::HeadSent(status) => (Some(*status), "broke off in mid-body"),
        ResponseProgress::Complete => (None, "goes on although nobody waits for it"),
    };
    tracing::error!(
        target: "rgun::request",
        {
        rgun.request_id = %request_id,
        rgun.method = %method,
        rgun.path = %path,
        rgun.path_raw = path.raw(),
        rgun.status = status,
        rgun.duration_us = microseconds(*elapsed),
        rgun.worker = seat_field(worker),
        rgun.pid = pid,
        },
        "{method} {path} {told}: the application took longer than {elapsed:.1?} in worker {}; {stacks}",
        worker.number.0
    );
}

/// An event loop has not turned for longer than `timeouts.stall`.
pub(super) fn log_stall(worker: WorkerId, pid: Option<u32>, silence: Duration, stacks: Option<&str>) {
    let stacks = match stacks {
        Some(stacks) => format!("Python stacks:\n{}", stacks.trim_end()),
        None => "its Python stacks could not be taken".to_owned(),
    };
    tracing::error!(
        rgun.worker = seat_field(worker),
        rgun.pid = pid,
        rgun.duration_us = microseconds(silence),
        "the event loop of worker {} has not turned for {silence:.1?} (timeouts.stall): something in it blocks; {stacks}",
        worker.number.0
    );
}

/// A request has been running for longer than `log.slow`.
pub(super) fn log_slow(worker: WorkerId, pid: Option<u32>, asked: &RequestInfo, stacks: Option<&str>) {
    let RequestInfo { request_id, method, path, elapsed, .. } = asked;
    let stacks = match stacks {
        Some(stacks) => format!("its Python stack:\n{}", stacks.trim_end()),
        None => "its Python stack could not be taken in time".to_owned(),
    };
    tracing::warn!(
        target: "rgun::request",
        {
        rgun.request_id = %request_id,
        rgun.method = %method,
        rgun.path = %path,
        rgun.path_raw = path.raw(),
        rgun.duration_us = microseconds(*elapsed),
        rgun.worker = seat_field(worker),
        rgun.pid = pid,
        },
        "{method} {path} is slow: running for {elapsed:.1?} in worker {}; {stacks}",
        worker.number.0
    );
}

/// The seat, as a field; a zygote has none.
fn seat_field(worker: WorkerId) -> Option<u16> {
    (worker.number != WorkerNr::ZYGOTE).then_some(worker.number.0)
}

fn describe_recycling(reason: RecycleReason) -> String {
    match reason {
        RecycleReason::Requests { served } => format!("has served {served} requests (workers.max_requests)"),
        RecycleReason::Memory { bytes, limit } => {
            format!("uses {} of workers.max_memory = {}", format_mebibytes(bytes), format_mebibytes(limit))
        }
        RecycleReason::Lifetime => "has reached workers.max_lifetime".to_owned(),
        RecycleReason::Refork => "has served workers.refork requests and becomes the zygote".to_owned(),
        RecycleReason::Signal { signal } => format!("was asked by {} to leave", name_of_signal(signal)),
    }
}

fn log_resize(from: u16, to: u16, reason: ResizeReason) {
    match reason {
        ResizeReason::Operator => tracing::info!("{from} workers, now {to}: asked for by a signal"),
        ResizeReason::QueueWait(waited) => {
            tracing::info!("{from} workers, now {to}: requests waited for {waited:.1?}")
        }
        ResizeReason::LowLoad => tracing::info!("{from} workers, now {to}: fewer are enough"),
        ResizeReason::IdleExit => {
            tracing::info!("no request for workers.idle_exit: the workers leave until the next one");
        }
        ResizeReason::Request => tracing::info!("a request has come: workers start"),
    }
}

fn format_mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
