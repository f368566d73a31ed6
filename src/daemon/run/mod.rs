//! The composition root of `rgun` and `rgun APP`: builds the parts, pumps events into the supervisor, performs
//! its actions. Everything that decides is elsewhere.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | building, the main loop, the supervisor's actions |
//! | `error.rs` | why the daemon does not start |
//! | `system.rs` | what the daemon takes from the system at its start |
//! | `hearing.rs` | what other threads, workers and the kernel tell, as events |
//! | `generations.rs` | the configurations that are alive, and what each part must know of them |
//! | `reload.rs` | reading the configuration again, going live, the verdict |
//! | `messages.rs` | what reaches the main loop from other threads and tasks |
//! | `orders.rs` | the control socket of `rgun reload` |
//! | `probe.rs` | `reload.probe` |
//! | `inquiries.rs` | which workers are asked for their Python stacks, what for, until when |
//! | `stacks.rs` | taking the Python stacks of workers |
//! | `memory.rs` | `workers.max_memory` |
//! | `leftovers.rs` | `workers.children_timeout` |
//! | `room.rs` | how much may wait in memory and on disk |
//! | `report.rs` | what the operator reads |

mod buffer_limits;
mod control_socket;
mod error;
mod generations;
mod inputs;
mod leftovers;
mod memory;
mod messages;
mod operator_log;
mod probe;
mod reload;
mod stack_dumps;
mod stack_log;
mod system;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rgun_channel::control::{Command, ListenerInfo, Role};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cli::{self, Invocation};
use crate::dispatch::{Dispatcher, Reactor};
use crate::edge::Edge;
use crate::error_chain::Chain;
use crate::escape::escape_path;
use crate::http::Server;
use crate::id::{Generation, WorkerId};
use crate::journal::daemon_log::{self, Destination};
use crate::journal::output::WorkerOutput;
use crate::journal::requests::Journal;
use crate::journal::thread::LogThread;
use crate::net::{ConnectionTracker, Listener};
use crate::pool::{self, Plan, Pool};
use crate::supervise::{Action, Event, SpawnFault, SpawnMethod, Supervisor};
use crate::systemd::notify;

use self::buffer_limits::BufferLimits;
use self::control_socket::ControlSocket;
use self::error::OS_ERROR;
pub(crate) use self::error::StartupError;
use self::generations::Generations;
use self::messages::ReplySender;
pub(crate) use self::messages::{MainMessage, notice_sink};
use self::operator_log::OperatorLog;
use self::stack_dumps::{DumpReason, StackDumps};
use self::system::{AutoLimits, available_cores, delegation, listeners, raise_file_limit, spool_directory};

/// From the end of a worker's control socket to its exit: a core dump takes its time.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// For the entries of the last requests, and for the workers' last output, at the end: a log that nobody reads is given
/// up after a second.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(2);
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the STATUS= line is brought up to date while it tells of the load.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How often the supervisor is told of the load, when something depends on it.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How often the workers' memory is looked at, when it is limited.
const MEMORY_INTERVAL: Duration = Duration::from_secs(5);

/// How often a cgroup that could not be removed is tried again: its processes are about to be gone.
const CGROUP_INTERVAL: Duration = Duration::from_millis(100);

/// Serves until told to stop.
pub fn serve(invocation: &Invocation) -> ExitCode {
    let config = &invocation.config;
    let destination = match daemon_log::start(config.log.level) {
        Ok(destination) => destination,
        Err(error) => {
            // The status says it as well.
            let _ = writeln!(std::io::stderr(), "rgun: cannot start the log: {error}");
            return ExitCode::from(OS_ERROR);
        }
    };
    for warning in &invocation.warnings {
        tracing::warn!("{warning}");
    }
    let status = match Daemon::build(invocation, destination) {
        Ok((daemon, runtime)) => ExitCode::from(runtime.block_on(daemon.run())),
        Err(StartupError { status, reason }) => {
            tracing::error!("{reason}");
            notify::status(&reason);
            ExitCode::from(status)
        }
    };
    daemon_log::flush();
    status
}

struct Daemon {
    /// What is read again at a reload.
    invocation: Invocation,
    generations: Generations,
    cores: usize,
    /// systemd watches: a boot that fails is tried again for ever.
    supervised: bool,
    listeners: Vec<ListenerInfo>,
    /// The limits that are "auto".
    auto_limits: AutoLimits,
    supervisor: Supervisor,
    pool: Pool,
    dispatcher: &'static Dispatcher,
    server: Arc<Server>,
    connections: Arc<ConnectionTracker>,
    edge: Edge,
    journal: LogThread,
    control_socket: Option<ControlSocket>,
    messages_tx: UnboundedSender<MainMessage>,
    messages_rx: UnboundedReceiver<MainMessage>,
    signals: SignalStreams,
    operator_log: OperatorLog,
    stack_dumps: StackDumps,
    /// Who waits for a generation's verdict.
    pending_replies: HashMap<Generation, ReplySender>,
    /// Why the last reload was refused before a worker was asked; part of STATUS=.
    rejected_reload: Option<String>,
    /// Workers whose size has been told.
    over_memory_limit: HashSet<WorkerId>,
    /// Generations of which a worker has become the zygote (`workers.refork`): once is enough.
    reforked: HashSet<Generation>,
    /// The supervisor's STATUS= line, and what was last sent.
    status: (String, String),
    /// When the line must be looked at again.
    status_due: Option<Instant>,
    load_due: Option<Instant>,
    memory_due: Option<Instant>,
    cgroups_due: Option<Instant>,
    /// Wakes when a cgroup's memory.events change.
    memory_watch: Option<AsyncFd<Arc<OwnedFd>>>,
    /// Workers that have closed their control socket: until when they may take to exit.
    awaiting_exit: Vec<(WorkerId, Instant)>,
    /// When the daemon stops: what workers have left behind has until then.
    stop_by: Option<Instant>,
}

struct SignalStreams {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    child: Signal,
    more: Signal,
    fewer: Signal,
    reopen: Signal,
    upgrade: Signal,
}

impl SignalStreams {
    fn new() -> std::io::Result<Self> {
        let of = |signal: nix::sys::signal::Signal| SignalKind::from_raw(signal as i32);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
            more: signal(of(nix::sys::signal::Signal::SIGTTIN))?,
            fewer: signal(of(nix::sys::signal::Signal::SIGTTOU))?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

impl Daemon {
    fn build(
        invocation: &Invocation,
        destination: Destination,
    ) -> Result<(Self, tokio::runtime::Runtime), StartupError> {
        let config = &invocation.config;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartupError::system("make the main reactor"))?;
        let entered = runtime.enter();
        // First of all, so that a stop right after the start is one too.
        let signals = SignalStreams::new().map_err(StartupError::system("handle signals"))?;
        // Before any thread exists: the environment is systemd's message to us.
        let listeners = listeners(config)?;
        let extension = pool::find_extension()
            .map_err(|error| StartupError { status: cli::EX_CONFIG, reason: error.to_string() })?;
        let python = &config.app.python;
        tracing::info!(
            rgun.app = %config.app.target,
            rgun.directory = %escape_path(&config.app.directory),
            rgun.python = %escape_path(&python.path),
            "rgun {} starts: {} from {} with {} ({})",
            env!("CARGO_PKG_VERSION"),
            config.app.target,
            escape_path(&config.app.directory),
            escape_path(&python.path),
            python.source,
        );
        for listener in &listeners {
            tracing::info!(rgun.listener = %listener.name, "listening on {}", listener.address());
        }
        let delegation = delegation(destination);
        let cores = available_cores();
        let files = raise_file_limit();
        let auto_limits = AutoLimits::new(files.own, config.workers.count.resolve(cores));
        let (tell, told) = unbounded_channel();
        let orders =
            ControlSocket::listen(tell.clone()).map_err(StartupError::system("listen for orders"))?;
        if let Some(orders) = &orders {
            tracing::debug!("taking orders on {}", orders.path().display());
        }
        let (journal, journal_thread) =
            Journal::start().map_err(StartupError::system("start the journal thread"))?;
        let room = BufferLimits::measure(&config.limits, spool_directory());
        let dispatcher = Dispatcher::new(
            generations::dispatch_policy(config, auto_limits, &room),
            Reactor::new().map_err(StartupError::system("make the reactor's shared page"))?,
            notice_sink(&tell),
        );
        let connections = ConnectionTracker::new(generations::net_limits(config, auto_limits));
        let settings = generations::http_settings(config, &room);
        let server = Server::new(dispatcher, settings, spool_directory(), journal);
        let infos: Vec<ListenerInfo> = listeners.iter().map(Listener::info).collect();
        let edge_tell = tell.clone();
        let edge = Edge::start(
            listeners,
            dispatcher,
            Arc::clone(&connections),
            Arc::clone(&server),
            move |notice| {
                // The receiver lives as long as the main loop.
                let _after_the_end = edge_tell.send(MainMessage::Edge(notice));
            },
        )
        .map_err(StartupError::system("start the edge thread"))?;
        let output = WorkerOutput::start().map_err(StartupError::system("read the workers' output"))?;
        let mut pool = Pool::new(extension, delegation).with_output(output);
        if let Some(soft) = files.inherited {
            pool.limit_open_files(soft);
        }
        let memory_watch = pool
            .memory_watch_fd()
            .map(|fd| fd.try_clone_to_owned().and_then(|fd| crate::edge::register(Arc::new(fd))))
            .transpose()
            .map_err(StartupError::system("watch the workers' memory"))?;
        let supervised = notify::is_listened_to();
        let policy = generations::policy(config, cores, supervised);
        drop(entered);
        let daemon = Self {
            invocation: invocation.clone(),
            generations: Generations::new(config.clone()),
            cores,
            supervised,
            listeners: infos,
            auto_limits,
            supervisor: Supervisor::new(policy),
            pool,
            dispatcher,
            server,
            connections,
            edge,
            journal: journal_thread,
            control_socket: orders,
            messages_tx: tell,
            messages_rx: told,
            signals,
            operator_log: OperatorLog::default(),
            stack_dumps: StackDumps::default(),
            pending_replies: HashMap::new(),
            rejected_reload: None,
            over_memory_limit: HashSet::new(),
            reforked: HashSet::new(),
            status: (String::new(), String::new()),
            status_due: None,
            load_due: None,
            memory_due: None,
            cgroups_due: None,
            memory_watch,
            awaiting_exit: Vec::new(),
            stop_by: None,
        };
        Ok((daemon, runtime))
    }

    /// The main loop. Returns the exit status.
    async fn run(mut self) -> u8 {
        self.set_timers();
        let mut exit = self.handle(Event::Started);
        let watchdog = notify::watchdog_timeout().map(|timeout| timeout / 2);
        let mut stopping_since = None;
        let mut pulse = Instant::now();
        while exit.is_none() || self.pool.has_leftovers() {
            let wake = self.next_wakeup();
            let events = tokio::select! {
                biased;
                Some(told) = self.messages_rx.recv() => self.on_message(told),
                Some(()) = self.signals.child.recv() => self.reap(),
                Some(()) = self.signals.terminate.recv() => on_stop_signal(&mut stopping_since),
                Some(()) = self.signals.interrupt.recv() => on_stop_signal(&mut stopping_since),
                Some(()) = self.signals.quit.recv() => vec![Event::StopNow],
                Some(()) = self.signals.hangup.recv() => self.reload(None),
                Some(()) = self.signals.more.recv() => vec![Event::Adjust { by: 1 }],
                Some(()) = self.signals.fewer.recv() => vec![Event::Adjust { by: -1 }],
                Some(()) = self.signals.reopen.recv() => {
                    tracing::info!("SIGUSR1: there are no log files to open again; the journal keeps the log");
                    Vec::new()
                }
                Some(()) = self.signals.upgrade.recv() => {
                    tracing::warn!("SIGUSR2: a new rgun takes over by `systemctl restart rgun`, which refuses nobody; ignoring");
                    Vec::new()
                }
                () = memory_changed(self.memory_watch.as_ref()) => self.poll_memory_events(),
                () = sleep_until(wake) => self.run_timers(),
                () = sleep_until(watchdog.map(|period| pulse + period)) => {
                    pulse = Instant::now();
                    self.ping_watchdog(watchdog).await;
                    Vec::new()
                }
            };
            if exit.is_some() {
                self.wait_for_leftovers(&events);
                continue;
            }
            exit = events.into_iter().find_map(|event| self.handle(event));
            if let Some(status) = exit {
                self.end_leftovers(status);
            }
        }
        let status = exit.unwrap_or_default();
        self.finish();
        status
    }

    fn finish(self) {
        let Self { edge, journal, pool, dispatcher, server, control_socket: orders, .. } = self;
        drop(orders);
        edge.stop();
        drop((dispatcher, server));
        if let Err(failure) = journal.join_timeout(JOURNAL_TIMEOUT) {
            tracing::error!(?failure, "the journal thread has not written the last entries of requests");
        }
        if let Some(output) = pool.into_output() {
            output.stop(OUTPUT_TIMEOUT);
        }
        tracing::info!("stopped");
    }

    // === time ===

    fn next_wakeup(&self) -> Option<Instant> {
        let hung_up = self.awaiting_exit.iter().map(|(_, until)| *until);
        [
            self.supervisor.next_wakeup(),
            self.stack_dumps.next_wakeup(),
            self.status_due,
            self.load_due,
            self.memory_due,
            self.cgroups_due,
            self.pool.forks_due(),
            self.pool.leftovers_due(),
        ]
        .into_iter()
        .flatten()
        .chain(hung_up)
        .min()
    }

    fn run_timers(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let mut events = self.expire_exit_waits();
        for taken in self.stack_dumps.on_timeout(&mut self.pool, now) {
            events.extend(self.log_stacks(taken));
        }
        if is_due(self.status_due) {
            self.send_status();
        }
        if is_due(self.load_due) {
            self.load_due = Some(now + LOAD_INTERVAL);
            events.push(Event::Load(self.dispatcher.measure()));
        }
        if is_due(self.memory_due) {
            self.memory_due = Some(now + MEMORY_INTERVAL);
            events.extend(self.check_memory_limits());
        }
        if is_due(self.cgroups_due) {
            self.remove_cgroups();
        }
        if is_due(self.pool.leftovers_due()) {
            self.kill_leftovers();
        }
        if is_due(self.pool.forks_due()) {
            events.extend(self.collect_lost_forks());
        }
        events.push(Event::Tick);
        events
    }

    /// What must be looked at now and then depends on what the living generations want.
    fn set_timers(&mut self) {
        let now = Instant::now();
        let is_watching = self.supervisor.snapshot().rollback.is_some();
        let wants_load = is_watching
            || self.generations.any(|config| {
                let (min, max) = config.workers.count.bounds(self.cores);
                min != max || config.workers.idle_exit.is_some()
            });
        self.load_due = wants_load.then(|| self.load_due.unwrap_or(now + LOAD_INTERVAL));
        let wants_memory = self.generations.any(|config| config.workers.max_memory.is_some());
        self.memory_due = wants_memory.then(|| self.memory_due.unwrap_or(now + MEMORY_INTERVAL));
    }

    fn remove_cgroups(&mut self) {
        let left = self.pool.remove_leaves();
        self.cgroups_due = (left > 0).then(|| Instant::now() + CGROUP_INTERVAL);
    }

    // === actions ===

    /// Tells the supervisor, and does what it says. The exit status when it is over.
    fn handle(&mut self, event: Event) -> Option<u8> {
        let Event::Exited { worker, .. } = event else { return self.apply(event) };
        // An exit is preceded by what the worker said last.
        while let Ok(told) = self.messages_rx.try_recv() {
            for event in self.on_message(told) {
                if let Some(status) = self.apply(event) {
                    return Some(status);
                }
            }
        }
        let over = self.apply(event);
        self.operator_log.forget(worker);
        over
    }

    fn apply(&mut self, event: Event) -> Option<u8> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = self.supervisor.handle(event, Instant::now());
            // Making a process takes milliseconds: what others wait for goes first.
            actions.sort_by_key(|action| matches!(action, Action::Spawn { .. }));
            for action in actions {
                if let Action::Exit { status, reason } = action {
                    if let Some(reason) = reason {
                        // Reported when it happened, with its traceback.
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

    fn perform(&mut self, action: Action) -> Vec<Event> {
        match action {
            Action::Spawn { worker, generation, method } => {
                return self.spawn(worker, generation, method).into_iter().collect();
            }
            Action::Admit { worker } => self.dispatcher.admit(worker),
            Action::Retire { worker } => self.dispatcher.retire(worker),
            Action::Terminate { worker } => self.command(worker, &Command::Stop),
            Action::Promote { worker } => self.command(worker, &Command::Promote),
            Action::Kill { worker, abort } => {
                if abort.is_some() {
                    self.dispatcher.mark_killed(worker);
                }
                if !self.stack_dumps.delay_kill(worker) {
                    self.pool.kill(worker);
                }
            }
            Action::DumpStacks { worker } => return self.request_stacks(worker, DumpReason::Boot),
            Action::Probe { worker } => self.probe(worker),
            Action::GoLive { generation } => {
                self.go_live(generation);
                self.set_timers();
            }
            Action::ForgetGeneration { generation } => {
                self.generations.forget(generation);
                self.set_timers();
            }
            Action::AnswerReload { generation, outcome } => self.reply_verdict(generation, outcome),
            Action::NotifyReady => notify::ready(),
            Action::NotifyReloading => notify::reloading(),
            Action::NotifyStopping => notify::stopping(),
            Action::Status(line) => {
                self.status.0 = line;
                self.send_status();
            }
            Action::ExtendTimeout(by) => notify::extend_timeout(by),
            Action::DrainEdge { deadline } => {
                self.stop_by = Some(deadline);
                self.dispatcher.close_websockets();
                let tell = self.messages_tx.clone();
                self.edge.drain(deadline, move |notice| {
                    let _after_the_end = tell.send(MainMessage::Edge(notice));
                });
            }
            Action::Unavailable(reason) => self.dispatcher.set_unavailable(reason.as_deref()),
            Action::Report(report) => {
                let generations = &self.generations;
                let snapshot = self.supervisor.snapshot();
                let python = |worker: WorkerId| {
                    let life = snapshot.workers.iter().find(|life| life.worker == worker);
                    let config = life.and_then(|life| generations.get(life.generation));
                    let python = &config.as_deref().unwrap_or(generations.live()).app.python;
                    format!("{} ({})", escape_path(&python.path), python.source)
                };
                self.operator_log.write(report, &python);
            }
            // Done by the caller.
            Action::Exit { .. } => {}
        }
        Vec::new()
    }

    fn command(&self, worker: WorkerId, command: &Command) {
        if let Err(error) = self.dispatcher.command(worker, command) {
            tracing::debug!(%error, ?command, "a worker does not take a command, ignoring: it will be killed");
        }
    }

    fn spawn(&mut self, worker: WorkerId, generation: Generation, method: SpawnMethod) -> Option<Event> {
        let failed = |fault, reason| Some(Event::SpawnFailed { worker, fault, reason });
        let Some(config) = self.generations.get(generation) else {
            return failed(SpawnFault::System, format!("generation {generation} is over"));
        };
        let role = match method {
            SpawnMethod::ExecZygote => Role::Zygote,
            SpawnMethod::Exec | SpawnMethod::Fork(_) => Role::Worker,
        };
        let hooks = generations::hooks(&config);
        let plan = Plan {
            worker,
            generation,
            app: &config.app,
            hooks: &hooks,
            threads: u32::from(config.workers.threads.get()),
            concurrency: generations::concurrency(&config),
            websockets: generations::websockets(&config),
            multiprocess: config.workers.count.resolve(self.cores).get() > 1,
            listeners: &self.listeners,
            role,
            warm_up: config.reload.probe.as_deref().unwrap_or_default(),
            max_memory: config.workers.max_memory,
            max_requests: generations::max_requests(&config.workers, self.reforked.contains(&generation)),
            children: config.workers.children_timeout,
        };
        if let SpawnMethod::Fork(zygote) = method {
            return match self.pool.fork(&plan, zygote) {
                // `Spawned` follows when the zygote has done it.
                Ok(()) => None,
                Err(error) => failed(error.fault(), Chain(&error).to_string()),
            };
        }
        match self.pool.spawn(&plan, self.dispatcher.reactor()) {
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

    /// The live line: what the supervisor says, and what the edge is doing.
    fn send_status(&mut self) {
        let load = self.dispatcher.load();
        let is_busy = load.running + load.queued > 0;
        // What it says of the load is old in a moment; an idle daemon does not wake for it.
        self.status_due = is_busy.then(|| Instant::now() + STATUS_INTERVAL);
        let mut line = self.status.0.clone();
        if let Some(refused) = &self.rejected_reload {
            line = format!("{line}; {refused}");
        }
        if is_busy {
            line = format!("{line}; requests: {} running, {} queued", load.running, load.queued);
        }
        if line != self.status.1 {
            notify::status(&line);
            self.status.1 = line;
        }
    }

    /// `WATCHDOG=1`, if the edge answers in time; if it does not, systemd is to act.
    async fn ping_watchdog(&mut self, period: Option<Duration>) {
        self.send_status();
        let patience = period.unwrap_or_default();
        if let Ok(Ok(())) = tokio::time::timeout(patience, self.edge.ping()).await {
            notify::watchdog();
        } else {
            tracing::error!("the edge thread does not answer; systemd's watchdog is not told to go on");
        }
    }
}

async fn memory_changed(watch: Option<&AsyncFd<Arc<OwnedFd>>>) {
    match watch {
        Some(watch) => match watch.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                tracing::debug!(%error, "cannot wait for memory events any more");
                std::future::pending::<()>().await;
            }
        },
        None => std::future::pending().await,
    }
}

/// A stop signal within this time after the first one is the same order: timeout(1) and process managers signal the
/// process, and then its group.
const STOP_REPEAT_WINDOW: Duration = Duration::from_millis(300);

fn on_stop_signal(since: &mut Option<Instant>) -> Vec<Event> {
    match since {
        None => {
            *since = Some(Instant::now());
            tracing::info!("stopping: finishing the requests under way");
            vec![Event::Stop]
        }
        Some(since) if since.elapsed() < STOP_REPEAT_WINDOW => Vec::new(),
        Some(_) => {
            tracing::warn!("asked to stop again: stopping now");
            vec![Event::StopNow]
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
