//! Turns the messages from other threads and workers, and the exits of processes, into events for
//! the supervisor.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rgun_channel::cancel_report;
use rgun_channel::control::{self, Command, FailureKind, Interface};

use super::messages::MainMessage;
use super::operator_log::seat_field;
use super::stack_dumps::DumpReason;
use super::{Daemon, hand_over, request_log};
use crate::config::Preload;
use crate::dispatch::Notice;
use crate::edge::EdgeNotice;
use crate::error_chain::Chain;
use crate::id::{Generation, WorkerId};
use crate::journal::catalog::OperatorEvent;
use crate::pool::{LostFork, SpawnError, WorkerExit};
use crate::supervise::{
    BootFailure, BootFailureKind, Event, RecycleReason, SpawnFault, WorkerSnapshot, WorkerState,
};

/// Time allowed between the close of a worker socket and the worker's exit. The kernel
/// may write a core dump meanwhile.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

impl Daemon {
    /// Handles a message to the main loop. Returns the events that follow from it.
    pub(super) fn on_message(&mut self, message: MainMessage) -> Vec<Event> {
        match message {
            MainMessage::Edge(EdgeNotice::Drained) => {
                hand_over::store_detached(&self.edge);
                vec![Event::EdgeDrained]
            }
            MainMessage::Edge(EdgeNotice::AcceptFailed { listener, error }) => {
                tracing::error!(
                    message_id = OperatorEvent::AcceptFailed.id(),
                    %error,
                    rgun.listener = %listener,
                    "a listener cannot accept any more, stopping"
                );
                vec![Event::Stop]
            }
            MainMessage::Dispatch(notice) => self.on_notice(notice),
            MainMessage::Control(call) => self.on_call(call),
            MainMessage::Scrape(reply) => {
                // Fails only if the client has left.
                drop(reply.send(self.metrics_text()));
                Vec::new()
            }
            MainMessage::MetricsFailed(fault) => self.on_metrics_failed(&fault),
            MainMessage::Reread(reread) => self.on_reread(*reread),
            MainMessage::FileWatch(notice) => self.on_watch_notice(notice),
            MainMessage::ProbeFinished(worker, outcome) => vec![Event::Probed { worker, outcome }],
        }
    }

    /// Handles a notice of the dispatcher.
    fn on_notice(&mut self, notice: Notice) -> Vec<Event> {
        match notice {
            Notice::Report(worker, report) => {
                self.operator_log.note_report(worker);
                return self.on_report(worker, report);
            }
            Notice::ContractBreached(worker, reason) => return vec![Event::Misbehaved { worker, reason }],
            Notice::WorkerSocketClosed(worker) => {
                // A process closes its descriptors some time before it can be reaped: it may write
                // a core dump in between.
                self.awaiting_exit.push((worker, Instant::now() + EXIT_TIMEOUT));
                return self.reap();
            }
            Notice::DeadlineExceeded(worker, request) => {
                let mut events = vec![Event::DeadlineExceeded { worker }];
                events.extend(self.request_stacks(worker, DumpReason::Deadline(request)));
                return events;
            }
            Notice::TaskDeadlineExceeded(worker, request) => {
                return self.request_stacks(worker, DumpReason::TaskDeadline(request));
            }
            Notice::CancelIgnored(worker, _) | Notice::LoopStuck(worker, _) => {
                self.stack_dumps.escalate(worker);
                return vec![Event::DeadlineExceeded { worker }];
            }
            Notice::LoopStalled(worker, silence) => {
                return self.request_stacks(worker, DumpReason::Stall(silence));
            }
            Notice::SlowRequest(worker, request) => {
                return self.request_stacks(worker, DumpReason::Slow(request));
            }
            Notice::MaxRequestsReached(worker, served) => {
                return vec![Event::RecycleDue { worker, reason: self.recycle_reason(worker, served) }];
            }
            Notice::WorkerRequested => return vec![Event::WorkerRequested],
            Notice::Drained(worker) => return vec![Event::Drained { worker }],
            Notice::WorkerDied { worker, requests } => self.operator_log.note_lost_requests(worker, requests),
            Notice::Quarantined { method, path, duration } => {
                request_log::log_quarantine(&method, &path, duration);
            }
            Notice::Retried(worker, request) => request_log::log_retry(worker, &request),
            Notice::RaisedAfterEnd { worker, request, summary, traceback } => {
                request_log::log_late_exception(worker, &request, &summary, &traceback);
            }
        }
        Vec::new()
    }

    /// Returns why a worker is recycled after `served` requests. The dispatcher has one limit for
    /// `workers.refork` and `workers.max_requests`. The supervisor ignores `Refork` while another
    /// worker is being promoted.
    fn recycle_reason(&mut self, worker: WorkerId, served: u64) -> RecycleReason {
        let config = self.generation(worker).and_then(|generation| self.generations.get(generation));
        let is_due = |after: Option<NonZeroU64>| after.is_some_and(|after| served >= after.get());
        let workers = config.map(|config| config.workers.clone()).unwrap_or_default();
        if is_due(workers.refork) && !is_due(workers.max_requests) {
            RecycleReason::Refork
        } else {
            RecycleReason::Requests { served }
        }
    }

    /// Returns the generation of a worker; `None` after its exit.
    pub(super) fn generation(&self, worker: WorkerId) -> Option<Generation> {
        let entry = self.supervisor.snapshot().workers.into_iter().find(|entry| entry.worker == worker);
        entry.map(|entry| entry.generation)
    }

    /// Handles a message that a worker sent over its worker socket.
    fn on_report(&mut self, worker: WorkerId, report: control::Report) -> Vec<Event> {
        match report {
            control::Report::StacksDumped(written) => {
                let result = self.stack_dumps.on_answer(&mut self.pool, worker, written);
                result.map(|result| self.log_stacks(result)).unwrap_or_default()
            }
            control::Report::AbortHookEnded => self.on_abort_hook_ended(worker),
            control::Report::Warning(text) => {
                match cancel_report::decode(&text) {
                    Some((exchange, stack)) => {
                        if !self.stack_dumps.on_task_stack(worker, exchange, stack) {
                            // The request was cancelled because its worker exits, or the report is late.
                            tracing::debug!(rgun.worker = seat_field(worker), "{text}");
                        }
                    }
                    None => self.operator_log.log_warning(worker, &text),
                }
                Vec::new()
            }
            control::Report::Forked { incarnation, pid } => self.on_forked(worker, incarnation, pid),
            control::Report::ForkFailed { incarnation, reason } => {
                self.on_fork_failed(worker, incarnation, &reason)
            }
            control::Report::Sources(paths) => self.on_sources(paths),
            control::Report::Promoted if !self.supervisor.is_promoting(worker) => {
                vec![misbehaved(worker, "reported that it has become a zygote, which was not requested")]
            }
            control::Report::Promoted => {
                self.pool.on_promoted(worker);
                self.operator_log.note_zygote(worker);
                if let Some(generation) = self.generation(worker) {
                    self.generations.note_reforked(generation);
                }
                Vec::new()
            }
            control::Report::StopRequested(signal) => {
                vec![Event::StopRequested { worker, signal: signal.into() }]
            }
            control::Report::Booting { python } => {
                self.operator_log.note_python(worker, &python);
                Vec::new()
            }
            control::Report::Ready { interface } => {
                vec![self.on_ready(worker, interface)]
            }
            control::Report::Refused(summary) => {
                vec![Event::BootFailed {
                    worker,
                    failure: BootFailure::new(BootFailureKind::Config, summary),
                }]
            }
            control::Report::Failed { kind, summary, traceback, headline } => {
                let traceback = Some(traceback).filter(|text| !text.is_empty());
                let failure = BootFailure { kind: boot_failure_kind(kind), summary, headline, traceback };
                vec![Event::BootFailed { worker, failure }]
            }
            // The dispatcher handles these reports.
            control::Report::File(_) => Vec::new(),
        }
    }

    /// Handles a report of readiness. Only a zygote may be ready without an interface: its workers import
    /// the application.
    fn on_ready(&mut self, worker: WorkerId, interface: Interface) -> Event {
        if interface != Interface::Auto {
            self.note_interface(worker, interface);
        } else if !self.operator_log.is_zygote(worker) {
            return misbehaved(worker, "reported that it is ready without an interface");
        }
        Event::Ready { worker }
    }

    /// Applies the defaults of the application's interface. When the first worker is ready, logs
    /// which application is served.
    fn note_interface(&mut self, worker: WorkerId, interface: Interface) {
        let Some(generation) = self.generation(worker) else { return };
        if interface == Interface::Asgi
            && let Some(config) = self.generations.note_asgi(generation)
        {
            self.set_dispatch_policy(&config);
        }
        if let Some(config) = self.generations.get(generation) {
            self.operator_log.log_first_ready(&config, interface, self.host.cores);
        }
    }

    /// Handles a zygote's report of a forked worker, which is attached like a spawned one.
    fn on_forked(&mut self, zygote: WorkerId, incarnation: u64, pid: u32) -> Vec<Event> {
        let mut events = match self.pool.on_forked(zygote, incarnation, pid) {
            Ok(spawned) => {
                let worker = spawned.link.worker;
                self.edge.attach(spawned.link);
                self.operator_log.note_spawn(worker, spawned.pid);
                vec![Event::Spawned { worker, pid: spawned.pid }]
            }
            Err(error @ SpawnError::FalseFork { .. }) => vec![misbehaved(zygote, &Chain(&error).to_string())],
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "ignoring the report of a fork");
                Vec::new()
            }
        };
        events.extend(self.collect_lost_forks());
        events
    }

    /// Handles a zygote's report that it could not fork a worker.
    fn on_fork_failed(&mut self, zygote: WorkerId, incarnation: u64, reason: &str) -> Vec<Event> {
        match self.pool.on_fork_failed(zygote, incarnation) {
            Ok(Some(worker)) => {
                tracing::warn!(rgun.worker = worker.number.0, "the zygote could not fork a worker: {reason}");
                let reason = "the zygote could not fork a worker".to_owned();
                vec![Event::SpawnFailed { worker, fault: SpawnFault::System, reason }]
            }
            // The fork had timed out.
            Ok(None) => Vec::new(),
            Err(error) => vec![misbehaved(zygote, &Chain(&error).to_string())],
        }
    }

    /// Returns events for the forks that failed or timed out.
    pub(super) fn collect_lost_forks(&mut self) -> Vec<Event> {
        let lost = self.pool.take_lost_forks();
        // A hanging zygote is reported first, so that no other worker is forked from it.
        let hanging = lost.iter().filter(|lost| lost.timed_out);
        let why = "did not answer when it was asked to fork a worker";
        let mut events: Vec<_> = hanging.map(|lost| misbehaved(lost.zygote, why)).collect();
        events.extend(lost.into_iter().map(|LostFork { worker, error, .. }| Event::SpawnFailed {
            worker,
            fault: error.fault(),
            reason: Chain(&error).to_string(),
        }));
        events
    }

    /// Reports workers that closed their worker socket and did not exit within [`EXIT_TIMEOUT`].
    pub(super) fn expire_exit_waits(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let is_overdue = |(_, deadline): &mut (WorkerId, Instant)| *deadline <= now;
        let overdue: Vec<_> = self.awaiting_exit.extract_if(.., is_overdue).collect();
        let why = "closed its worker socket (descriptor 3) and did not exit";
        overdue.into_iter().map(|(worker, _)| misbehaved(worker, why)).collect()
    }

    /// Reaps the processes that have exited, and returns an event for each worker among them.
    pub(super) fn reap(&mut self) -> Vec<Event> {
        let ended = self.pool.reap();
        self.awaiting_exit.retain(|(worker, _)| ended.iter().all(|exit| exit.worker != *worker));
        let mut events = Vec::new();
        for WorkerExit { worker, status: exit, oom_cause, pid } in ended {
            // Handles the messages and completions that the worker sent before its exit.
            self.dispatcher.read_reports(worker);
            self.dispatcher.detach(worker);
            if let Some(cause) = oom_cause {
                self.operator_log.note_oom_kill(worker, cause);
            }
            if let Some(result) = self.stack_dumps.on_exit(worker) {
                events.extend(self.log_stacks(result));
            }
            self.timers.kills.retain(|(other, _)| *other != worker);
            self.memory.reported.remove(&worker);
            if self.operator_log.is_zygote(worker)
                && let Some(generation) = self.generation(worker)
            {
                self.generations.clear_reforked(generation);
            }
            self.run_child_exit_hook(worker, pid);
            events.push(Event::Exited { worker, exit });
        }
        events.extend(self.collect_lost_forks());
        self.remove_cgroups();
        events
    }

    /// Asks another process of the application to call `hooks.child_exit`: a zygote that has
    /// imported the application if there is one, else a worker.
    fn run_child_exit_hook(&mut self, exited: WorkerId, pid: u32) {
        let live = self.generations.live();
        if live.hooks.child_exit.is_none() {
            return;
        }
        // The hook may be in the application, which a zygote of listed modules must not import.
        let asks_zygote = live.workers.preload == Preload::Application;
        let snapshot = self.supervisor.snapshot();
        let can_call_hook = |other: &&WorkerSnapshot| match other.state {
            WorkerState::Ready => true,
            WorkerState::Standby => asks_zygote && self.operator_log.is_zygote(other.worker),
            _ => false,
        };
        let others = snapshot.workers.iter().filter(|other| other.worker != exited).filter(can_call_hook);
        let Some(other) = others.min_by_key(|other| !self.operator_log.is_zygote(other.worker)) else {
            return self.log_missed_child_exit(exited, pid);
        };
        let command =
            Command::ChildExited { pid, worker: exited.number.0, incarnation: exited.incarnation.0 };
        if let Err(error) = self.dispatcher.command(other.worker, &command) {
            tracing::warn!(%error, rgun.pid = pid, "cannot ask a worker to call hooks.child_exit, ignoring");
        }
    }

    /// Logs that no process can call `hooks.child_exit` for a worker. While the daemon stops, one
    /// entry covers all workers.
    fn log_missed_child_exit(&mut self, exited: WorkerId, pid: u32) {
        let is_stopping = self.timers.stop_by.is_some();
        if is_stopping && std::mem::replace(&mut self.operator_log.missed_child_exit, true) {
            return;
        }
        let reason = if is_stopping {
            "nor for the other workers that exit now: no process of the application is left to call it; worker_exit is \
             called in each"
        } else {
            "because no other process of the application is ready"
        };
        let name = self.operator_log.name(exited);
        tracing::warn!(rgun.pid = pid, "hooks.child_exit is not called for {name}, {reason}");
    }
}

fn boot_failure_kind(kind: FailureKind) -> BootFailureKind {
    match kind {
        FailureKind::Config => BootFailureKind::Config,
        FailureKind::App => BootFailureKind::App,
    }
}

fn misbehaved(worker: WorkerId, why: &str) -> Event {
    Event::Misbehaved { worker, reason: why.to_owned() }
}
