//! Log entries about workers and reloads: level and wording of the supervisor's reports.
//!
//! The main loop notes facts about each worker, such as its pid and its running requests, for the
//! entry about the worker's exit.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rgun_channel::control::Interface;

use super::operator_text::{
    describe_oom_kill, describe_python, describe_recycling, describe_reload, describe_service,
    explain_missing_module,
};
use super::terminal_log::{self, TerminalLog};
use crate::config::units::format_duration;
use crate::config::{Config, Python};
use crate::dispatch::RequestInfo;
use crate::id::{Generation, WorkerId, WorkerNr};
use crate::journal::catalog::OperatorEvent;
use crate::journal::requests::microseconds;
use crate::pool::OomCause;
use crate::supervise::{
    BootFailure, BootFailureKind, Exit, RecycleReason, Report, ResizeReason, WorkerState,
};

/// Facts about workers for their log entries. [`OperatorLog::forget`] removes the facts about one
/// worker.
#[derive(Debug, Default)]
pub(super) struct OperatorLog {
    /// The process id of each worker.
    pids: HashMap<WorkerId, u32>,
    /// Workers that sent a message, which shows that `app.python` is a working interpreter.
    reported: HashSet<WorkerId>,
    /// The requests that a worker was running when its worker socket closed.
    lost_requests: HashMap<WorkerId, Vec<RequestInfo>>,
    /// Workers in whose cgroup the OOM killer has killed a process, each with the last cause.
    oom_kills: HashMap<WorkerId, OomCause>,
    /// Workers that others are forked from.
    zygotes: HashSet<WorkerId>,
    /// Whether any worker has been ready since the daemon's start.
    was_ready: bool,
    /// Whether a failed boot is also retried when a file changes (`reload.on_change`).
    pub(super) watches_files: bool,
    /// Whether the log has an entry about `hooks.child_exit` for the workers that exit while the
    /// daemon stops.
    pub(super) missed_child_exit: bool,
    /// Replaces some entries if the log goes to a terminal.
    terminal: Option<TerminalLog>,
}

/// Logs an event of a worker: the worker's name, then the text, with its seat and pid as fields.
macro_rules! log_worker {
    ($level:ident, $event:expr, $log:expr, $worker:expr, $format:literal $($argument:tt)*) => {
        tracing::$level!(
            message_id = $event.id(),
            rgun.worker = seat_field($worker),
            rgun.pid = $log.pid($worker),
            "{} {}",
            $log.name($worker),
            format_args!($format $($argument)*)
        )
    };
}

/// Logs an entry at level info, or at level debug on a terminal, where another line replaces it.
macro_rules! log_unless_terminal {
    ($terminal:expr, $($entry:tt)+) => {
        if $terminal { tracing::debug!($($entry)+) } else { tracing::info!($($entry)+) }
    };
}
pub(super) use log_unless_terminal;

impl OperatorLog {
    /// Creates the log. `terminal` is `None` unless the log goes to a terminal.
    pub(super) fn new(terminal: Option<TerminalLog>) -> Self {
        Self { terminal, ..Self::default() }
    }

    /// Whether the log goes to a terminal.
    pub(super) fn is_on_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Notes the interpreter that a booting worker reports.
    pub(super) fn note_python(&mut self, worker: WorkerId, version: &str) {
        tracing::debug!(rgun.worker = seat_field(worker), rgun.python = %version, "worker is booting");
        if let Some(terminal) = &mut self.terminal {
            terminal.note_python(version);
        }
    }

    /// Notes the process of a worker.
    pub(super) fn note_spawn(&mut self, worker: WorkerId, pid: u32) {
        self.pids.insert(worker, pid);
        tracing::debug!(rgun.worker = seat_field(worker), rgun.pid = pid, "worker spawned");
    }

    /// Notes that the worker sent a message.
    pub(super) fn note_report(&mut self, worker: WorkerId) {
        self.reported.insert(worker);
    }

    /// Notes the requests that a lost worker was running.
    pub(super) fn note_lost_requests(&mut self, worker: WorkerId, requests: Vec<RequestInfo>) {
        self.lost_requests.insert(worker, requests);
    }

    /// Notes that the OOM killer has killed the worker.
    pub(super) fn note_oom_kill(&mut self, worker: WorkerId, cause: OomCause) {
        self.oom_kills.insert(worker, cause);
    }

    /// Notes that the worker is a zygote now.
    pub(super) fn note_zygote(&mut self, worker: WorkerId) {
        self.zygotes.insert(worker);
    }

    /// Whether workers are forked from this one.
    pub(super) fn is_zygote(&self, worker: WorkerId) -> bool {
        self.zygotes.contains(&worker)
    }

    /// Forgets a worker after the entry about its exit.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.pids.remove(&worker);
        self.reported.remove(&worker);
        self.lost_requests.remove(&worker);
        self.oom_kills.remove(&worker);
        self.zygotes.remove(&worker);
    }

    /// Returns `the zygote` or `worker 3`.
    pub(super) fn name(&self, worker: WorkerId) -> String {
        if self.is_zygote(worker) { "the zygote".to_owned() } else { format!("worker {}", worker.number.0) }
    }

    /// Returns the pid of a worker that has not been forgotten.
    pub(super) fn pid(&self, worker: WorkerId) -> Option<u32> {
        self.pids.get(&worker).copied()
    }

    /// Logs a report of the supervisor. `python` returns the interpreter of a worker, which the
    /// entries about some boot failures name.
    pub(super) fn write(&mut self, report: Report, python: &dyn Fn(WorkerId) -> Python) {
        match report {
            Report::WorkerReady { worker, took } => self.log_ready(worker, took),
            Report::ZygoteReady { worker, took } => self.log_zygote_ready(worker, took),
            Report::WorkerBootFailed { worker, failure, retry_in, already_reported } => {
                self.log_boot_failure(worker, failure, retry_in, already_reported, python);
            }
            Report::WorkerExited { worker, exit, state, retry_in } => {
                self.log_exit(worker, exit, state, retry_in);
            }
            Report::WorkerMisbehaved { worker, reason, .. } => self.log_misbehaved(worker, &reason),
            Report::Replacing { worker } => {
                log_worker!(
                    warn,
                    OperatorEvent::WorkerReplaced,
                    self,
                    worker,
                    "has a request over its deadline; it is being replaced"
                );
            }
            Report::Replaced { worker, by } => self.log_replaced(worker, by),
            Report::Recycling { worker, reason } => self.log_recycling(worker, reason),
            Report::RecyclingPostponed { worker, reason } => self.log_postponed(worker, reason),
            Report::RejectedCode { worker } => self.log_rejected_code(worker),
            Report::Overdue { worker, state, waited } => self.log_overdue(worker, state, waited, ""),
            Report::RetirementAborted { worker } => log_worker!(
                warn,
                OperatorEvent::Overdue,
                self,
                worker,
                "was killed before it had finished its requests: its replacement would exceed the process limit"
            ),
            Report::Unused { idle_for } => log_unused(idle_for),
            Report::DepartureEnded => {
                tracing::info!("timeouts.drain_delay has passed: finishing running requests");
            }
            Report::DrainTimedOut { waited } => tracing::warn!(
                message_id = OperatorEvent::DrainTimedOut.id(),
                "requests are still running after timeouts.drain ({waited:.1?}): aborting them"
            ),
            Report::ReloadStarted { generation, old_ready } => self.log_reload(generation, old_ready),
            Report::ReloadCompleted { generation, took } => self.log_reloaded(generation, took),
            Report::ReloadFailed { generation, old_ready, failure } => {
                self.log_failed_reload(generation, old_ready, &failure);
            }
            Report::RolledBack { from, to, reason } => tracing::error!(
                message_id = OperatorEvent::RolledBack.id(),
                rgun.generation = to.0,
                "generation {from} failed ({reason}): rolled back to generation {to}, which serves again"
            ),
            Report::Resized { from, to, reason } => log_resize(from, to, reason),
        }
    }

    /// Logs the application, its capacity and its deadline when the first worker since the start is
    /// ready.
    pub(super) fn log_first_ready(&mut self, config: &Config, interface: Interface, cores: usize) {
        if std::mem::replace(&mut self.was_ready, true) {
            return;
        }
        if let Some(terminal) = &self.terminal {
            terminal.show_ready(config, interface, cores);
        } else {
            tracing::info!(
                message_id = OperatorEvent::Ready.id(),
                rgun.app = %config.app.target,
                "{}",
                describe_service(config, interface, cores)
            );
        }
    }

    /// Logs a warning that the worker sent.
    pub(super) fn log_warning(&self, worker: WorkerId, text: &str) {
        tracing::warn!(
            rgun.worker = seat_field(worker),
            rgun.pid = self.pid(worker),
            "{}: {}",
            self.name(worker),
            text.trim_end()
        );
    }

    fn log_reload(&mut self, generation: Generation, old_ready: bool) {
        if let Some(terminal) = &mut self.terminal {
            terminal.note_reload();
        }
        log_unless_terminal!(
            self.is_on_terminal(),
            message_id = OperatorEvent::ReloadStarted.id(),
            rgun.generation = generation.0,
            "reloading: {}",
            describe_reload(generation, old_ready)
        );
    }

    fn log_reloaded(&self, generation: Generation, took: Duration) {
        if let Some(terminal) = &self.terminal {
            terminal.show_reloaded(took);
        }
        log_unless_terminal!(
            self.is_on_terminal(),
            message_id = OperatorEvent::Reloaded.id(),
            rgun.generation = generation.0,
            rgun.duration_us = microseconds(took),
            "reloaded: generation {generation} serves after {took:.1?}"
        );
    }

    fn log_failed_reload(&self, generation: Generation, old_ready: bool, failure: &BootFailure) {
        match failure.kind {
            BootFailureKind::Superseded | BootFailureKind::Stopped => {
                tracing::info!(
                    rgun.generation = generation.0,
                    "generation {generation} is discarded: {failure}"
                );
            }
            _ if self.is_on_terminal() => {
                let reason = failure.summary.lines().next().unwrap_or_default();
                terminal_log::show_failed_reload(reason, old_ready);
            }
            _ => tracing::error!(
                message_id = OperatorEvent::ReloadFailed.id(),
                rgun.generation = generation.0,
                "reload failed: {failure}; generation {generation} is discarded{}",
                if old_ready { "" } else { ", and no worker with the old code is ready" }
            ),
        }
    }

    fn log_ready(&mut self, worker: WorkerId, took: Duration) {
        if let Some(terminal) = &mut self.terminal {
            terminal.note_ready();
        }
        log_unless_terminal!(
            self.is_on_terminal(),
            rgun.worker = seat_field(worker),
            rgun.pid = self.pid(worker),
            rgun.duration_us = microseconds(took),
            "{} is ready after {took:.1?}",
            self.name(worker)
        );
    }

    fn log_zygote_ready(&self, worker: WorkerId, took: Duration) {
        log_unless_terminal!(
            self.is_on_terminal(),
            rgun.pid = self.pid(worker),
            rgun.duration_us = microseconds(took),
            "the zygote is ready after {took:.1?}: workers are forked from it"
        );
    }

    /// Logs a worker that has been in `state` for `waited`, its limit. `addition` ends the entry.
    pub(super) fn log_overdue(&self, worker: WorkerId, state: WorkerState, waited: Duration, addition: &str) {
        let setting = match state {
            WorkerState::Retiring | WorkerState::Terminating => " (timeouts.drain)",
            _ => "",
        };
        log_worker!(
            warn,
            OperatorEvent::Overdue,
            self,
            worker,
            "has been {} for {waited:.1?}, its limit{setting}{addition}",
            state.as_str()
        );
    }

    fn log_misbehaved(&self, worker: WorkerId, reason: &str) {
        log_worker!(
            error,
            OperatorEvent::WorkerMisbehaved,
            self,
            worker,
            "broke the channel's contract and was killed: {reason}"
        );
    }

    fn log_replaced(&self, worker: WorkerId, successor: WorkerId) {
        tracing::info!(
            rgun.worker = seat_field(worker),
            rgun.pid = self.pid(successor),
            "{} has been replaced",
            self.name(worker)
        );
    }

    fn log_recycling(&self, worker: WorkerId, reason: RecycleReason) {
        let what_next = if self.is_zygote(worker) {
            "it exits and is replaced"
        } else {
            "it serves until its successor is ready"
        };
        log_worker!(
            info,
            OperatorEvent::Recycled,
            self,
            worker,
            "{}; {what_next}",
            describe_recycling(reason)
        );
    }

    fn log_postponed(&self, worker: WorkerId, reason: RecycleReason) {
        log_worker!(
            warn,
            OperatorEvent::Recycled,
            self,
            worker,
            "{}; it serves until a reload succeeds: the last one did not, and a successor would import that code",
            describe_recycling(reason)
        );
    }

    fn log_rejected_code(&self, worker: WorkerId) {
        log_worker!(
            warn,
            OperatorEvent::RejectedCode,
            self,
            worker,
            "has imported the files as they are now, although their last reload did not succeed: repair them, and reload"
        );
    }

    fn log_boot_failure(
        &mut self,
        worker: WorkerId,
        failure: BootFailure,
        retry_in: Option<Duration>,
        already_reported: bool,
        python: &dyn Fn(WorkerId) -> Python,
    ) {
        let BootFailure { kind, mut summary, traceback, headline: _ } = failure;
        if kind == BootFailureKind::Died && !self.reported.contains(&worker) {
            summary = format!(
                "{summary} without a message: is app.python = {} a CPython 3.9 or newer?",
                describe_python(&python(worker))
            );
        }
        if summary.contains("ModuleNotFoundError: ") {
            summary.push_str(&explain_missing_module(&python(worker)));
        }
        let traceback = match traceback {
            Some(text) if !already_reported && !text.is_empty() => format!("\n{}", text.trim_end()),
            _ => String::new(),
        };
        let next = match retry_in {
            Some(pause) if self.watches_files => {
                format!(" (next attempt when a file changes, or in {pause:.1?})")
            }
            Some(pause) => format!(" (next attempt in {pause:.1?})"),
            None => String::new(),
        };
        if let Some(terminal) = self.terminal.as_mut().filter(|_| !self.was_ready) {
            terminal.show_failed_start();
        }
        tracing::error!(
            message_id = OperatorEvent::BootFailed.id(),
            rgun.worker = seat_field(worker),
            rgun.pid = self.pid(worker),
            "{} did not boot: {summary}{next}{traceback}",
            self.name(worker)
        );
    }

    fn log_exit(&mut self, worker: WorkerId, exit: Exit, state: WorkerState, retry_in: Option<Duration>) {
        let pid = self.pid(worker);
        let lost = self.lost_requests.remove(&worker).unwrap_or_default();
        // A worker in standby is the zygote or will serve again; it was not asked to exit.
        let expected = !matches!(state, WorkerState::Ready | WorkerState::Standby | WorkerState::Retiring)
            || (state == WorkerState::Retiring && exit == Exit::Code(0));
        let (number, name) = (seat_field(worker), self.name(worker));
        if expected {
            tracing::debug!(rgun.worker = number, rgun.pid = pid, "{name} {exit}");
            return;
        }
        let why = self.oom_kills.get(&worker).copied().map_or("", describe_oom_kill);
        let with = match lost.as_slice() {
            [] => String::new(),
            [one] => format!(" with {} {} (request id {})", one.method, one.path, one.request_id),
            several => {
                let named: Vec<String> = several
                    .iter()
                    .map(|request| {
                        format!("{} {} (request id {})", request.method, request.path, request.request_id)
                    })
                    .collect();
                format!(" with one of {}", named.join(", "))
            }
        };
        let next = match retry_in {
            Some(pause) if pause.is_zero() => "; it is replaced".to_owned(),
            Some(pause) => format!("; it is replaced in {pause:.1?}"),
            None => String::new(),
        };
        tracing::warn!(
            message_id = OperatorEvent::WorkerDied.id(),
            rgun.worker = number,
            rgun.pid = pid,
            "{name} {exit}{why}{with}{next}"
        );
    }
}

/// The field `rgun.worker`: the seat. `None` for a zygote.
pub(super) fn seat_field(worker: WorkerId) -> Option<u16> {
    (worker.number != WorkerNr::ZYGOTE).then_some(worker.number.0)
}

fn log_unused(idle_for: Duration) {
    tracing::info!(
        message_id = OperatorEvent::IdleExit.id(),
        "no request for {} (daemon.idle_exit): exiting; systemd starts the service again at the next connection",
        format_duration(Duration::from_secs(idle_for.as_secs()))
    );
}

fn log_resize(from: u16, to: u16, reason: ResizeReason) {
    let text = match reason {
        ResizeReason::Operator => format!("{from} workers, now {to}: requested by the operator"),
        ResizeReason::QueueWait(waited) => {
            format!("{from} workers, now {to}: requests waited for {waited:.1?}")
        }
        ResizeReason::LowLoad => format!("{from} workers, now {to}: the load needs no more"),
        ResizeReason::IdleExit => {
            "no request for workers.idle_exit: stopping the workers; the next request starts them again"
                .to_owned()
        }
        ResizeReason::MemoryPressure => format!("{from} workers, now {to}: memory is short"),
        ResizeReason::Request => "a request has arrived: starting workers".to_owned(),
    };
    tracing::info!(message_id = OperatorEvent::Resized.id(), "{text}");
}
