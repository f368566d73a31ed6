//! `rgun` and `rgun APP`: builds the daemon, runs the main loop, and performs the supervisor's
//! actions.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | the main loop |
//! | `build.rs` | building the daemon |
//! | `error.rs` | the error of a failed start |
//! | `signals.rs` | Unix signals |
//! | `system.rs` | sockets, cores, limits and cgroup, read at startup |
//! | `inputs.rs` | turning messages and process exits into events for the supervisor |
//! | `messages.rs` | the types of these messages |
//! | `actions.rs` | the supervisor's actions |
//! | `timers.rs` | periodic work, and the watchdog |
//! | `idle_exit.rs` | `daemon.idle_exit` |
//! | `status.rs` | the `STATUS=` line |
//! | `generations.rs` | the configurations of the generations, and settings derived from them |
//! | `file_settings.rs` | the settings of static files |
//! | `hand_over.rs` | passing connections to the next daemon |
//! | `reload.rs` | reloads: reading the configuration again, going live, the reply |
//! | `reload_state.rs` | the data about reloads |
//! | `control_socket.rs` | the control socket |
//! | `control_calls.rs` | the methods that clients of the control socket call |
//! | `stack_calls.rs` | the clients that wait for stacks |
//! | `metrics.rs` | the metrics for systemd-report(1) and Prometheus |
//! | `metrics_listeners.rs` | the listeners for Prometheus |
//! | `worker_users.rs` | the users that workers run as |
//! | `peer_check.rs` | which processes may use the control socket |
//! | `probe.rs` | `reload.probe` |
//! | `file_watch.rs` | `reload.on_change` |
//! | `stack_dumps.rs` | requesting the Python stacks of workers |
//! | `stack_log.rs` | logging these stacks |
//! | `conf_hooks.rs` | the hooks of gunicorn's arbiter |
//! | `memory.rs` | `workers.max_memory` |
//! | `memory_pressure.rs` | what the daemon does while memory is short |
//! | `pressure_watch.rs` | waiting for notifications of memory pressure |
//! | `leftovers.rs` | `workers.children_timeout` |
//! | `buffer_limits.rs` | memory and disk for buffered bodies and responses |
//! | `operator_log.rs` | log entries about workers and reloads |
//! | `terminal_log.rs` | the lines on a terminal about start, reload and stop |
//! | `request_log.rs` | log entries about late, slow and retried requests |

mod actions;
mod buffer_limits;
mod build;
mod conf_hooks;
mod control_calls;
mod control_socket;
mod error;
mod file_settings;
mod file_watch;
mod generations;
mod hand_over;
mod idle_exit;
mod inputs;
mod leftovers;
mod memory;
mod memory_pressure;
mod messages;
mod metrics;
mod metrics_listeners;
mod operator_log;
mod operator_text;
mod peer_check;
mod pressure_watch;
mod probe;
mod reload;
mod reload_state;
mod request_log;
mod signals;
mod stack_calls;
mod stack_dumps;
mod stack_log;
mod status;
mod system;
mod terminal_log;
#[cfg(test)]
mod testing;
mod timers;
mod worker_users;

use std::collections::{HashSet, VecDeque};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedSender;

use crate::cli::Invocation;
use crate::config::{LogFormat, METRICS_SOCKET};
use crate::dispatch::Dispatcher;
use crate::edge::Edge;
use crate::id::WorkerId;
use crate::journal::daemon_log::{self, Destination};
use crate::journal::output::WorkerOutput;
use crate::journal::thread::LogThread;
use crate::pool::Pool;
use crate::supervise::{Action, Event, Supervisor};
use crate::systemd::listen::{self, InheritedDescriptors, InheritedListener};
use crate::systemd::notify;

use self::conf_hooks::ConfHooks;
use self::control_socket::ControlClients;
pub(crate) use self::control_socket::check_group;
pub(crate) use self::error::StartupError;
pub use self::error::refuse_start;
use self::generations::Generations;
pub(crate) use self::generations::{load_tls, preload, worker_hooks};
use self::hand_over::RequestsAtStart;
pub(crate) use self::messages::{MainMessage, notice_sink};
use self::metrics_listeners::MainInput;
use self::operator_log::OperatorLog;
pub(crate) use self::operator_text::explain_missing_module;
use self::pressure_watch::PressureWatch;
use self::reload_state::Reloads;
use self::signals::{SignalStreams, StopRequests};
use self::stack_dumps::StackDumps;
use self::status::StatusLine;
use self::system::Host;

/// Time allowed at shutdown to write the entries of the last requests. (The log itself is given up
/// after a second without a reader.)
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Time allowed at shutdown to read the workers' last output.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves until the daemon is asked to stop. Returns the exit status.
pub fn serve(invocation: &Invocation) -> ExitCode {
    let config = &invocation.config;
    // Before any thread starts, because it removes environment variables, which is not thread-safe.
    let inherited = listen::take_descriptors();
    let requests = inherited.as_ref().ok().map(RequestsAtStart::of);
    let hidden = system::hide_memory();
    let destination = match daemon_log::start(&config.log) {
        Ok(destination) => destination,
        Err(error) => {
            let error = StartupError::system("start the log")(error);
            // If stderr is closed, exit status and STATUS= report the failure.
            let _ = writeln!(io::stderr(), "rgun: {}", error.reason);
            return error.notify();
        }
    };
    if let Err(errno) = hidden {
        tracing::warn!(error = %errno, "workers may read the daemon's memory: prctl(PR_SET_DUMPABLE) failed");
    }
    if let Some(notice) = invocation.notice() {
        tracing::info!("{notice}");
    }
    for warning in &invocation.warnings {
        tracing::warn!("{warning}");
    }
    let built = inherited.map_err(|error| StartupError::config(&error)).and_then(|mut inherited| {
        let for_metrics = inherited.take_listeners(METRICS_SOCKET);
        let output = WorkerOutput::start().map_err(StartupError::system("read the workers' output"))?;
        // If the log is text on standard error, the hooks print there themselves, in the right order.
        let has_entries = destination == Destination::Journal || config.log.format == LogFormat::Json;
        let output_of_hooks = output.as_ref().filter(|_| has_entries);
        let conf_hooks = ConfHooks::start(invocation, &inherited.listeners, output_of_hooks)?;
        Daemon::build(invocation, Startup { destination, inherited, for_metrics, output, conf_hooks })
    });
    let status = match built {
        Ok((daemon, runtime)) => {
            drop(requests);
            ExitCode::from(runtime.block_on(daemon.run()))
        }
        Err(error) => {
            error.log();
            if let Some(requests) = requests {
                requests.refuse();
            }
            error.notify()
        }
    };
    daemon_log::flush();
    status
}

/// The parts of the daemon that exist before the others are built.
struct Startup {
    destination: Destination,
    /// The descriptors that systemd passed, without the sockets for metrics.
    inherited: InheritedDescriptors,
    /// The sockets for metrics that systemd passed.
    for_metrics: Vec<InheritedListener>,
    /// Reads what workers and hooks print. `None` if they inherit the daemon's standard output.
    output: Option<WorkerOutput>,
    conf_hooks: ConfHooks,
}

/// The state of the main thread.
struct Daemon {
    /// The command line and environment; a reload reads them again.
    invocation: Invocation,
    generations: Generations,
    host: Host,
    supervisor: Supervisor,
    pool: Pool,
    dispatcher: &'static Dispatcher,
    edge: Edge,
    /// The thread that writes the entries of requests.
    journal: LogThread,
    control: ControlClients,
    messages_tx: UnboundedSender<MainMessage>,
    input: MainInput,
    signals: SignalStreams,
    operator_log: OperatorLog,
    stack_dumps: StackDumps,
    reloads: Reloads,
    status: StatusLine,
    timers: Timers,
    memory: MemoryWatch,
    /// Workers that closed their worker socket and have not exited yet, each with its deadline.
    awaiting_exit: Vec<(WorkerId, Instant)>,
    /// The hooks of gunicorn's arbiter.
    conf_hooks: ConfHooks,
}

/// When work is due (`None` while there is none), and when the daemon was last ready.
#[derive(Debug, Default)]
struct Timers {
    /// To measure the load for the supervisor.
    load: Option<Instant>,
    /// To check whether the daemon is used (`daemon.idle_exit`).
    unused: Option<Instant>,
    /// Time of the last READY=1, at the end of the start or of a reload. `None` before the first.
    last_ready_at: Option<Instant>,
    /// To tell systemd that the start was a success.
    restart_reset: Option<Instant>,
    /// To compare the workers' memory with its limit.
    memory: Option<Instant>,
    /// To remove cgroups that still had processes at the last attempt.
    cgroups: Option<Instant>,
    /// The workers that are calling `hooks.worker_abort`, each with the time to kill it.
    kills: Vec<(WorkerId, Instant)>,
    /// The end of the measures against memory pressure; `None` without pressure.
    pressure_end: Option<Instant>,
    /// The end of the shutdown's drain. `None` until the daemon stops.
    stop_by: Option<Instant>,
}

/// Watches the workers' memory for `workers.max_memory`, and memory pressure on the service.
#[derive(Debug)]
struct MemoryWatch {
    /// Reports memory pressure. `None` if no file reports it, and after a failure.
    pressure: Option<PressureWatch>,
    /// Readable when a worker's `memory.events` changed. `None` without delegated cgroups, and
    /// after a failed wait.
    events: Option<AsyncFd<Arc<OwnedFd>>>,
    /// Workers over their limit that were reported to the supervisor. Each is reported once.
    reported: HashSet<WorkerId>,
}

impl Daemon {
    /// The main loop. Returns the exit status.
    async fn run(mut self) -> u8 {
        self.set_timers();
        self.set_idle_exit();
        let config = self.invocation.config.clone();
        self.apply_file_watch(&config);
        let mut exit = self.handle(Event::Started);
        let watchdog = notify::watchdog_timeout().map(|timeout| timeout / 2);
        let mut pinged = Instant::now();
        let mut stops = StopRequests::default();
        while exit.is_none() || self.pool.has_leftovers() {
            let wake = self.next_wakeup();
            let events = tokio::select! {
                biased;
                Some(message) = self.input.messages.recv() => self.on_message(message),
                Some(()) = self.signals.child.recv() => self.reap(),
                Some(()) = self.signals.terminate.recv() => self.on_stop_signal(&mut stops, false),
                Some(()) = self.signals.interrupt.recv() => self.on_stop_signal(&mut stops, true),
                Some(()) = self.signals.quit.recv() => vec![Event::StopNow],
                Some(()) = self.signals.hangup.recv() => self.reload(None),
                Some(()) = self.signals.more.recv() => vec![Event::Adjust { by: 1 }],
                Some(()) = self.signals.fewer.recv() => vec![Event::Adjust { by: -1 }],
                Some(()) = self.signals.reopen.recv() => {
                    tracing::info!("ignoring SIGUSR1; there are no log files to reopen, the journal keeps the log");
                    Vec::new()
                }
                Some(()) = self.signals.upgrade.recv() => {
                    self.log_ignored_upgrade();
                    Vec::new()
                }
                change = self.memory.changed() => self.on_memory_change(change),
                () = sleep_until(wake) => self.run_timers(),
                () = sleep_until(watchdog.map(|interval| pinged + interval)) => {
                    pinged = Instant::now();
                    self.ping_watchdog(watchdog).await;
                    Vec::new()
                }
            };
            if exit.is_some() {
                self.check_leftovers(&events);
                continue;
            }
            exit = events.into_iter().find_map(|event| self.handle(event));
            if let Some(status) = exit {
                self.end_leftovers(status);
            }
        }
        let status = exit.unwrap_or_default();
        self.input.end().await;
        self.finish();
        status
    }

    /// Logs that SIGUSR2 has no effect, and what replaces gunicorn's upgrade of itself.
    fn log_ignored_upgrade(&self) {
        let effect = if self.host.is_socket_activated {
            "systemd keeps the sockets, so no connection is refused"
        } else {
            "connections are refused meanwhile, unless a socket unit keeps the sockets (rgun.units(7))"
        };
        tracing::warn!("ignoring SIGUSR2; to replace rgun itself, {}: {effect}", self.host.restart);
    }

    /// Handles a signal to stop. `is_interrupt`: SIGINT, which Ctrl-C sends.
    fn on_stop_signal(&self, stops: &mut StopRequests, is_interrupt: bool) -> Vec<Event> {
        let effect = self.supervisor.stop_effect();
        if !self.operator_log.is_on_terminal() || !stops.begins_drain(effect) {
            return stops.on_signal(effect);
        }
        let load = self.dispatcher.load();
        let drain = generations::drain_timeout(self.generations.live());
        terminal_log::show_stopping(load.assigned + load.queued, drain, is_interrupt);
        stops.note_stop()
    }

    /// Handles an event: passes it to the supervisor and performs the resulting actions. Returns
    /// the exit status when the daemon ends.
    fn handle(&mut self, event: Event) -> Option<u8> {
        let Event::Exited { worker, .. } = event else { return self.apply(event) };
        // The supervisor gets the worker's last messages before its exit.
        while let Ok(message) = self.input.messages.try_recv() {
            for event in self.on_message(message) {
                if let Some(status) = self.apply(event) {
                    return Some(status);
                }
            }
        }
        let exit = self.apply(event);
        self.operator_log.forget(worker);
        exit
    }

    /// Passes an event to the supervisor, performs the resulting actions, and does the same with
    /// the events that they cause. Returns the exit status when the daemon ends.
    fn apply(&mut self, event: Event) -> Option<u8> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = self.supervisor.handle(event, Instant::now());
            // Spawns come last, because each takes milliseconds.
            actions.sort_by_key(|action| matches!(action, Action::Spawn { .. }));
            for action in actions {
                if let Action::Exit { status, reason } = action {
                    if let Some(reason) = reason {
                        // At debug level, because the failure was logged with its traceback when it
                        // happened.
                        tracing::debug!(rgun.reason = %reason, "giving up");
                        notify::status(&reason);
                    }
                    return Some(status);
                }
                events.extend(self.perform(action));
            }
        }
        None
    }

    /// Ends the threads, in the order in which they write to each other.
    fn finish(self) {
        // If the drain timed out, connections may have become idle after it.
        hand_over::store_detached(&self.edge);
        let Self { edge, journal, pool, control, conf_hooks, operator_log, .. } = self;
        drop(control);
        edge.stop();
        if let Err(failure) = journal.join_timeout(JOURNAL_TIMEOUT) {
            tracing::error!(?failure, "the journal thread has not written the last entries of requests");
        }
        conf_hooks.finish();
        if let Some(output) = pool.into_output() {
            output.stop(OUTPUT_TIMEOUT);
        }
        notify::finish();
        if operator_log.is_on_terminal() {
            terminal_log::show_stopped();
        } else {
            tracing::info!("stopped");
        }
    }
}

/// Resolves when the descriptor is readable, or cannot be waited for; never if there is no
/// descriptor.
async fn readable(fd: Option<&AsyncFd<Arc<OwnedFd>>>) -> io::Result<()> {
    match fd {
        Some(fd) => fd.readable().await.map(|mut ready| ready.clear_ready()),
        None => std::future::pending().await,
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
