//! What other threads, workers and the kernel tell the main loop, as events for the supervisor.

use std::num::NonZeroU64;
use std::time::Instant;

use rgun_channel::control::{self, Command, FailureKind};

use super::messages::MainMessage;
use super::stack_dumps::DumpReason;
use super::{Daemon, EXIT_TIMEOUT};
use crate::dispatch::{self, Notice};
use crate::edge::EdgeNotice;
use crate::error_chain::Chain;
use crate::id::{Generation, WorkerId};
use crate::pool::{Ended, LostFork, SpawnError};
use crate::supervise::{
    BootFailure, BootFailureKind, Event, RecycleReason, SpawnFault, WorkerSnapshot, WorkerState,
};

impl Daemon {
    pub(super) fn on_message(&mut self, told: MainMessage) -> Vec<Event> {
        match told {
            MainMessage::Edge(EdgeNotice::Drained) => vec![Event::EdgeDrained],
            MainMessage::Edge(EdgeNotice::AcceptFailed { listener, error }) => {
                tracing::error!(%error, rgun.listener = %listener, "a listener cannot accept any more, stopping");
                vec![Event::Stop]
            }
            MainMessage::Dispatch(notice) => self.on_notice(notice),
            MainMessage::Reload(asker) => self.reload(Some(asker)),
            MainMessage::ProbeFinished(worker, outcome) => vec![Event::Probed { worker, outcome }],
        }
    }

    fn on_notice(&mut self, notice: Notice) -> Vec<Event> {
        match notice {
            Notice::Report(worker, report) => {
                self.operator_log.note_report(worker);
                self.on_report(worker, report)
            }
            Notice::ContractBreached(worker, reason) => vec![Event::Misbehaved { worker, reason }],
            Notice::ControlSocketClosed(worker) => {
                // Its descriptors are closed before it can be waited for (a core dump may lie between): how it
                // ended is then told by its exit, unless that does not come.
                self.awaiting_exit.push((worker, Instant::now() + EXIT_TIMEOUT));
                self.reap()
            }
            Notice::DeadlineExceeded(worker, asked) => {
                let mut events = vec![Event::DeadlineExceeded { worker }];
                events.extend(self.request_stacks(worker, DumpReason::Deadline(asked)));
                events
            }
            Notice::TaskDeadlineExceeded(worker, asked) => {
                self.request_stacks(worker, DumpReason::TaskDeadline(asked))
            }
            Notice::CancelIgnored(worker, _) | Notice::LoopStuck(worker, _) => {
                self.stack_dumps.escalate(worker);
                vec![Event::DeadlineExceeded { worker }]
            }
            Notice::LoopStalled(worker, silence) => self.request_stacks(worker, DumpReason::Stall(silence)),
            Notice::SlowRequest(worker, asked) => self.request_stacks(worker, DumpReason::Slow(asked)),
            Notice::MaxRequestsReached(worker, served) => {
                vec![Event::RecycleDue { worker, reason: self.recycle_reason(worker, served) }]
            }
            Notice::WorkerRequested => vec![Event::WorkerRequested],
            Notice::Drained(worker) => vec![Event::Drained { worker }],
            Notice::WorkerDied { worker, requests } => {
                self.operator_log.note_lost_requests(worker, requests);
                Vec::new()
            }
            Notice::Quarantined { method, path, duration } => {
                tracing::error!(
                    rgun.method = %method,
                    rgun.path = %path,
                    rgun.path_raw = path.raw(),
                    "{method} {path} has killed two workers within a minute: such requests are answered 503 for {duration:.0?}"
                );
                Vec::new()
            }
            Notice::Retried(worker, asked) => {
                let dispatch::RequestInfo { request_id, method, path, .. } = asked;
                tracing::warn!(
                    rgun.request_id = %request_id,
                    rgun.method = %method,
                    rgun.path = %path,
                    rgun.path_raw = path.raw(),
                    rgun.worker = worker.number.0,
                    "{method} {path} is tried once more: worker {} died with it",
                    worker.number.0
                );
                Vec::new()
            }
            Notice::RaisedAfterEnd { worker, request: asked, summary, traceback } => {
                let dispatch::RequestInfo { request_id, method, path, .. } = asked;
                tracing::error!(
                    rgun.request_id = %request_id,
                    rgun.method = %method,
                    rgun.path = %path,
                    rgun.path_raw = path.raw(),
                    rgun.worker = worker.number.0,
                    "{method} {path}: the application raised after its answer was complete: {summary}\n{}",
                    traceback.trim_end()
                );
                Vec::new()
            }
        }
    }

    /// Why a worker that has served its share is replaced: `workers.refork` is one way to set the share. (Of the
    /// supervisor's one candidate at a time the others learn nothing: what it cannot use it ignores.)
    fn recycle_reason(&mut self, worker: WorkerId, served: u64) -> RecycleReason {
        let config = self.generation(worker).and_then(|generation| self.generations.get(generation));
        let is_due = |after: Option<NonZeroU64>| after.is_some_and(|after| served >= after.get());
        let workers = config.map(|config| config.workers).unwrap_or_default();
        if is_due(workers.refork) && !is_due(workers.max_requests) {
            RecycleReason::Refork
        } else {
            RecycleReason::Requests { served }
        }
    }

    /// Which generation a worker is of, while it has not been reported gone.
    pub(super) fn generation(&self, worker: WorkerId) -> Option<Generation> {
        let life = self.supervisor.snapshot().workers.into_iter().find(|life| life.worker == worker);
        life.map(|life| life.generation)
    }

    fn on_report(&mut self, worker: WorkerId, report: control::Report) -> Vec<Event> {
        match report {
            control::Report::StacksDumped(written) => {
                let taken = self.stack_dumps.on_answer(&mut self.pool, worker, written);
                taken.map(|taken| self.log_stacks(taken)).unwrap_or_default()
            }
            control::Report::Warning(text) => {
                tracing::warn!(
                    rgun.worker = worker.number.0,
                    rgun.pid = self.operator_log.pid(worker),
                    "{}: {}",
                    self.operator_log.name(worker),
                    text.trim_end()
                );
                Vec::new()
            }
            control::Report::Forked { life, pid } => self.on_forked(worker, life, pid),
            control::Report::ForkFailed { life, reason } => match self.pool.fork_failed(worker, life) {
                Ok(Some(forked)) => {
                    tracing::warn!(
                        rgun.worker = forked.number.0,
                        "the zygote could not fork a worker: {reason}"
                    );
                    let reason = "the zygote could not fork a worker".to_owned();
                    vec![Event::SpawnFailed { worker: forked, fault: SpawnFault::System, reason }]
                }
                // It was given up before.
                Ok(None) => Vec::new(),
                Err(error) => vec![misbehaved(worker, &Chain(&error).to_string())],
            },
            control::Report::Promoted if !self.supervisor.is_promoting(worker) => {
                vec![misbehaved(worker, "claims to be a zygote now, and was not asked to become one")]
            }
            control::Report::Promoted => {
                self.pool.promoted(worker);
                self.operator_log.note_zygote(worker);
                // Its workers, and those that are forked from now on, need not be the next.
                self.reforked.extend(self.generation(worker));
                Vec::new()
            }
            control::Report::StopRequested(signal) => {
                vec![Event::StopRequested { worker, signal: signal.into() }]
            }
            other => boot_event(worker, other).into_iter().collect(),
        }
    }

    fn on_forked(&mut self, zygote: WorkerId, life: u64, pid: u32) -> Vec<Event> {
        let mut events = match self.pool.forked(zygote, life, pid) {
            Ok(spawned) => {
                let worker = spawned.link.worker;
                self.edge.attach(spawned.link);
                self.operator_log.note_spawn(worker, spawned.pid);
                vec![Event::Spawned { worker, pid: spawned.pid }]
            }
            Err(error @ SpawnError::Claim { .. }) => vec![misbehaved(zygote, &Chain(&error).to_string())],
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "a fork came to nothing");
                Vec::new()
            }
        };
        events.extend(self.collect_lost_forks());
        events
    }

    pub(super) fn collect_lost_forks(&mut self) -> Vec<Event> {
        let lost = self.pool.lost_forks();
        // First, so that it is not asked for another one.
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

    /// Who closed its control socket and did not exit is not a worker any more.
    pub(super) fn expire_exit_waits(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let (overdue, waiting) = self.awaiting_exit.drain(..).partition(|(_, until)| *until <= now);
        self.awaiting_exit = waiting;
        let overdue: Vec<(WorkerId, Instant)> = overdue;
        let why = "closed its control socket (descriptor 3) and did not exit";
        overdue.into_iter().map(|(worker, _)| misbehaved(worker, why)).collect()
    }

    pub(super) fn reap(&mut self) -> Vec<Event> {
        let ended = self.pool.reap();
        self.awaiting_exit.retain(|(worker, _)| ended.iter().all(|gone| gone.worker != *worker));
        let mut events = Vec::new();
        for Ended { worker, how: exit, oom_killed, pid } in ended {
            // What it said and completed before it ended comes first.
            self.dispatcher.pump_control(worker);
            self.dispatcher.detach(worker);
            if oom_killed {
                self.operator_log.note_oom_kill(worker);
            }
            if let Some(taken) = self.stack_dumps.on_exit(worker) {
                events.extend(self.log_stacks(taken));
            }
            self.over_memory_limit.remove(&worker);
            if self.operator_log.is_zygote(worker)
                && let Some(generation) = self.generation(worker)
            {
                self.reforked.remove(&generation);
            }
            self.run_child_exit_hook(worker, pid);
            events.push(Event::Exited { worker, exit });
        }
        events.extend(self.collect_lost_forks());
        self.remove_cgroups();
        events
    }

    /// `hooks.child_exit` runs in another process of the application: a zygote if there is one, else a worker.
    fn run_child_exit_hook(&mut self, gone: WorkerId, pid: u32) {
        if self.generations.live().hooks.child_exit.is_none() {
            return;
        }
        let snapshot = self.supervisor.snapshot();
        let is_able = |other: &&WorkerSnapshot| match other.state {
            WorkerState::Ready => true,
            WorkerState::Standby => self.operator_log.is_zygote(other.worker),
            _ => false,
        };
        let others = snapshot.workers.iter().filter(|other| other.worker != gone).filter(is_able);
        let Some(other) = others.min_by_key(|other| !self.operator_log.is_zygote(other.worker)) else {
            tracing::warn!(
                rgun.pid = pid,
                "hooks.child_exit is not called for {}: no other process of the application is ready",
                self.operator_log.name(gone)
            );
            return;
        };
        let command = Command::ChildExited { pid, worker: gone.number.0, life: gone.life.0 };
        if let Err(error) = self.dispatcher.command(other.worker, &command) {
            tracing::warn!(%error, rgun.pid = pid, "cannot have hooks.child_exit called");
        }
    }
}

fn misbehaved(worker: WorkerId, why: &str) -> Event {
    Event::Misbehaved { worker, reason: why.to_owned() }
}

pub(crate) fn boot_event(worker: WorkerId, report: control::Report) -> Option<Event> {
    match report {
        control::Report::Refused(summary) => {
            Some(Event::BootFailed { worker, failure: BootFailure::new(BootFailureKind::Config, summary) })
        }
        control::Report::Failed { kind, summary, traceback, headline } => Some(Event::BootFailed {
            worker,
            failure: BootFailure {
                kind: match kind {
                    FailureKind::Config => BootFailureKind::Config,
                    FailureKind::App => BootFailureKind::App,
                },
                summary,
                headline,
                traceback: Some(traceback).filter(|text| !text.is_empty()),
            },
        }),
        control::Report::Ready { .. } => Some(Event::Ready { worker }),
        control::Report::Booting { python } => {
            tracing::debug!(rgun.worker = worker.number.0, rgun.python = %python, "worker is booting");
            None
        }
        // Understood by the caller, or consumed by the dispatcher.
        control::Report::StacksDumped(_)
        | control::Report::Warning(_)
        | control::Report::Forked { .. }
        | control::Report::ForkFailed { .. }
        | control::Report::Promoted
        | control::Report::StopRequested(_)
        | control::Report::File(_) => None,
    }
}
