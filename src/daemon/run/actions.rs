//! Performs the supervisor's actions on the pool, the dispatcher, the edge and systemd.

use std::time::{Duration, Instant};

use rgun_channel::control::{Command, Role};

use super::messages::edge_notice_sink;
use super::stack_dumps::DumpReason;
use super::timers::RESTART_RESET_DELAY;
use super::{Daemon, generations};
use crate::error_chain::Chain;
use crate::id::{Generation, WorkerId};
use crate::pool::SpawnSpec;
use crate::supervise::{Action, Event, Report, SpawnFault, SpawnMethod, WorkerState};
use crate::systemd::notify;
use crate::systemd::stop_job::StopJobWatch;

/// Maximum running time of the hook `worker_abort`.
const ABORT_HOOK_TIMEOUT: Duration = Duration::from_secs(1);

impl Daemon {
    /// Performs an action. Returns the events that it causes immediately.
    pub(super) fn perform(&mut self, action: Action) -> Vec<Event> {
        match action {
            Action::Spawn { worker, generation, method } => {
                return self.spawn(worker, generation, method).into_iter().collect();
            }
            Action::Admit { worker } => self.dispatcher.admit(worker),
            Action::Retire { worker } => self.dispatcher.retire(worker),
            Action::CancelRequests { worker } => self.dispatcher.cancel_requests(worker),
            Action::Terminate { worker } => {
                self.dispatcher.mark_stopped(worker);
                self.command(worker, &Command::Stop);
            }
            Action::Promote { worker } => self.command(worker, &Command::Promote),
            Action::Kill { worker, abort } => {
                if abort.is_some() {
                    self.dispatcher.mark_stopped(worker);
                }
                if !self.stack_dumps.delay_kill(worker) {
                    self.kill(worker);
                }
            }
            Action::DumpStacks { worker } => return self.request_stacks(worker, DumpReason::Boot),
            Action::Probe { worker } => self.probe(worker),
            Action::GoLive { generation } => {
                self.go_live(generation);
                self.set_timers();
                self.set_idle_exit();
            }
            Action::ForgetGeneration { generation } => {
                self.generations.forget(generation);
                self.set_timers();
            }
            Action::AnswerReload { generation, outcome } => self.answer_reload(generation, outcome),
            Action::NotifyReady => {
                notify::ready();
                let now = Instant::now();
                self.timers.last_ready_at = Some(now);
                self.timers.restart_reset = Some(now + RESTART_RESET_DELAY);
                self.conf_hooks.on_ready();
            }
            Action::NotifyReloading => notify::reloading(),
            Action::NotifyStopping => notify::stopping(),
            Action::Status(text) => {
                self.status.set_text(text);
                self.send_status();
            }
            Action::ExtendTimeout(by) => notify::extend_timeout(by),
            Action::DrainEdge { deadline } => self.drain_edge(deadline),
            Action::Unavailable(reason) => self.dispatcher.set_unavailable(reason.as_deref()),
            Action::Presence(presence) => self.dispatcher.set_presence(presence),
            // The entry has the worker's stacks. The Kill that follows waits for them.
            Action::Report(Report::Overdue { worker, state: WorkerState::Terminating, waited }) => {
                return self.request_stacks(worker, DumpReason::Exit(waited));
            }
            Action::Report(report) => self.log_report(report),
            // `Daemon::apply` handles this action.
            Action::Exit { .. } => {}
        }
        Vec::new()
    }

    fn drain_edge(&mut self, deadline: Instant) {
        self.timers.stop_by = Some(deadline);
        self.dispatcher.close_websockets();
        let (hand_over, notice) = (self.hand_over_limit(deadline), edge_notice_sink(&self.messages_tx));
        let mut stop_job = StopJobWatch::default();
        self.edge.drain(deadline, hand_over, move || stop_job.poll(), notice);
    }

    /// Returns the number of connections that the drain may keep for the next daemon: 0 if the
    /// daemon stops at once, or if systemd does not restart the daemon.
    fn hand_over_limit(&self, deadline: Instant) -> usize {
        let has_time = deadline > Instant::now();
        if has_time && !self.supervisor.ends_without_restart() { self.host.hand_over } else { 0 }
    }

    /// Kills a worker. If its generation has a hook `worker_abort`, the worker first gets
    /// [`ABORT_HOOK_TIMEOUT`] to call it.
    pub(super) fn kill(&mut self, worker: WorkerId) {
        let generation = self.generation(worker).and_then(|generation| self.generations.get(generation));
        let has_hook = generation.is_some_and(|config| config.hooks.worker_abort.is_some());
        if has_hook && self.dispatcher.command(worker, &Command::Abort).is_ok() {
            self.timers.kills.push((worker, Instant::now() + ABORT_HOOK_TIMEOUT));
        } else {
            self.pool.kill(worker);
        }
    }

    /// Kills a worker that has called the hook `worker_abort`. Returns no events: the exit follows
    /// later.
    pub(super) fn on_abort_hook_ended(&mut self, worker: WorkerId) -> Vec<Event> {
        let before = self.timers.kills.len();
        self.timers.kills.retain(|(other, _)| *other != worker);
        if self.timers.kills.len() < before {
            self.pool.kill(worker);
        }
        Vec::new()
    }

    /// Sends a command to a worker. An error is only logged: the supervisor kills a worker that
    /// does not obey.
    pub(super) fn command(&self, worker: WorkerId, command: &Command) {
        if let Err(error) = self.dispatcher.command(worker, command) {
            tracing::debug!(%error, ?command, "cannot send a command to a worker, ignoring: it will be killed");
        }
    }

    fn log_report(&mut self, report: Report) {
        self.note_outcome(&report);
        let generations = &self.generations;
        let snapshot = self.supervisor.snapshot();
        let python = |worker: WorkerId| {
            let entry = snapshot.workers.iter().find(|entry| entry.worker == worker);
            let config = entry.and_then(|entry| generations.get(entry.generation));
            config.as_deref().unwrap_or(generations.live()).app.python.clone()
        };
        self.operator_log.write(report, &python);
    }

    /// Spawns or forks a worker. Returns the outcome; `None` if a fork was requested, whose outcome
    /// follows when the zygote has answered.
    fn spawn(&mut self, worker: WorkerId, generation: Generation, method: SpawnMethod) -> Option<Event> {
        let failed = |fault, reason| Some(Event::SpawnFailed { worker, fault, reason });
        let Some(config) = self.generations.get(generation) else {
            return failed(SpawnFault::System, format!("generation {generation} no longer exists"));
        };
        let role = match method {
            SpawnMethod::ExecZygote => Role::Zygote,
            SpawnMethod::Exec | SpawnMethod::Fork(_) => Role::Worker,
        };
        let hooks = generations::worker_hooks(&config);
        let preload = generations::preload(&config);
        let identity = self.generations.identity(generation);
        let has_reforked = self.generations.has_reforked(generation);
        let spec = SpawnSpec {
            worker,
            generation,
            app: &config.app,
            identity: identity.as_deref(),
            hooks: &hooks,
            threads: u32::from(config.workers.threads.get()),
            concurrency: generations::concurrency(&config),
            max_websockets: generations::websockets(&config),
            multiprocess: config.workers.count.resolve(self.host.cores).get() > 1,
            report_sources: config.reload.on_change.enabled,
            log_records: config.log.records,
            listeners: &self.host.listeners,
            role,
            preload: &preload,
            max_memory: config.workers.max_memory,
            max_tasks: config.workers.max_tasks,
            cpu_weight: config.workers.cpu_weight,
            max_requests: generations::max_requests(&config.workers, has_reforked),
            children_timeout: config.workers.children_timeout,
        };
        if let SpawnMethod::Fork(zygote) = method {
            return match self.pool.fork(&spec, zygote) {
                Ok(()) => None,
                Err(error) => failed(error.fault(), Chain(&error).to_string()),
            };
        }
        match self.pool.spawn(&spec, self.dispatcher.reactor()) {
            Ok(spawned) => {
                self.edge.attach(spawned.link);
                self.operator_log.note_spawn(worker, spawned.pid);
                if method == SpawnMethod::ExecZygote {
                    self.operator_log.note_zygote(worker);
                }
                Some(Event::Spawned { worker, pid: spawned.pid })
            }
            Err(error) => failed(error.fault(), Chain(&error).to_string()),
        }
    }
}
