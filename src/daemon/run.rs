//! The composition root of `rgun` and `rgun APP`: builds the parts, pumps events into the supervisor, performs
//! its actions. Everything that decides is elsewhere.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rgun_channel::control::{self, Command, FailureKind, ListenerInfo};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cli::{self, Invocation};
use crate::config::{Bind, Config};
use crate::dispatch::{self, Dispatcher, Notice, Reactor};
use crate::edge::{Edge, EdgeNotice};
use crate::http::{self, Server};
use crate::journal::lifecycle::{self, Destination};
use crate::journal::requests::Journal;
use crate::net::{self, Connections, Listener};
use crate::pool::{self, Plan, Pool};
use crate::report::Chain;
use crate::supervise::{
    Action, BootFailure, BootFailureKind, Event, Exit, LifeState, Policy, Report, Supervisor, WorkerId,
};
use crate::systemd::{cgroup::Delegation, listen, notify};

/// EX_OSERR of sysexits(3head): the system lacks something; trying again may help.
const OS_ERROR: u8 = 71;

/// From the end of a worker's control socket to its exit: a core dump takes its time.
const EXIT_PATIENCE: Duration = Duration::from_secs(2);

/// How often the STATUS= line is brought up to date while it tells of the load.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// What other threads tell the main loop.
#[derive(Debug)]
pub(crate) enum Told {
    Dispatch(Notice),
    Edge(EdgeNotice),
}

/// Serves until told to stop.
pub fn serve(invocation: &Invocation) -> ExitCode {
    let config = &invocation.config;
    let destination = lifecycle::start(config.log.level);
    for warning in &invocation.warnings {
        tracing::warn!("{warning}");
    }
    match Daemon::build(config, destination) {
        Ok((daemon, runtime)) => ExitCode::from(runtime.block_on(daemon.run())),
        Err(Refused { status, reason }) => {
            tracing::error!("{reason}");
            notify::status(&reason);
            ExitCode::from(status)
        }
    }
}

/// Why the daemon does not start.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u8,
    pub(crate) reason: String,
}

impl Refused {
    fn config(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { status: cli::CONFIG, reason: Chain(error).to_string() }
    }

    pub(crate) fn system(what: &str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self { status: OS_ERROR, reason: format!("cannot {what}: {error}") }
    }
}

struct Daemon {
    config: Config,
    slots: u32,
    count: NonZeroU16,
    listeners: Vec<ListenerInfo>,
    supervisor: Supervisor,
    pool: Pool,
    dispatcher: Arc<Dispatcher>,
    edge: Edge,
    journal: std::thread::JoinHandle<()>,
    tell: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
    signals: Signals,
    /// The supervisor's STATUS= line, and what was last sent.
    status: (String, String),
    /// When the line must be looked at again.
    status_due: Option<Instant>,
    /// Pids for the log.
    pids: std::collections::HashMap<WorkerId, u32>,
    /// Workers that have said something, so that their interpreter must be one.
    heard: std::collections::HashSet<WorkerId>,
    /// Workers that have closed their control socket: until when they may take to exit.
    hung_up: Vec<(WorkerId, Instant)>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    child: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }
}

impl Daemon {
    fn build(config: &Config, destination: Destination) -> Result<(Self, tokio::runtime::Runtime), Refused> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Refused::system("make the main reactor"))?;
        // First of all, so that a stop right after the start is one too.
        let signals = {
            let _entered = runtime.enter();
            Signals::new().map_err(Refused::system("handle signals"))?
        };
        // Before any thread exists: the environment is systemd's message to us.
        let listeners = listeners(config)?;
        let extension = pool::find_extension()
            .map_err(|error| Refused { status: cli::CONFIG, reason: error.to_string() })?;
        let python = &config.app.python;
        tracing::info!(
            rgun.app = %config.app.target,
            rgun.directory = %config.app.directory.display(),
            rgun.python = %python.path.display(),
            "rgun {} starts: {} from {} with {} ({})",
            env!("CARGO_PKG_VERSION"),
            config.app.target,
            config.app.directory.display(),
            python.path.display(),
            python.source,
        );
        for listener in &listeners {
            tracing::info!(rgun.listener = %listener.name, "listening on {}", listener.address());
        }
        let delegation = match Delegation::take() {
            Ok(delegation) => Some(delegation),
            Err(reason) => {
                // Outside systemd nobody expects it.
                if destination == Destination::Journal {
                    tracing::warn!(error = %Chain(&reason), "workers get no cgroups of their own");
                } else {
                    tracing::debug!(error = %Chain(&reason), "workers get no cgroups of their own");
                }
                None
            }
        };
        let count = config.workers.count.resolve(available_cores());
        let slots = u32::from(config.workers.threads.get());
        let files = raise_file_limit();
        let (tell, told) = unbounded_channel();
        let (journal, journal_thread) =
            Journal::start().map_err(Refused::system("start the journal thread"))?;
        let dispatcher = Dispatcher::new(
            dispatch::Policy {
                queue: config.limits.queue,
                queue_timeout: config.timeouts.queue,
                request_timeout: config.timeouts.request,
                ..dispatch::Policy::default()
            },
            Reactor::new().map_err(Refused::system("make the reactor's shared page"))?,
            sink(&tell),
        );
        let connections = Connections::new(net::Limits {
            header: config.timeouts.header,
            keepalive: config.timeouts.keepalive,
            write: config.timeouts.body,
            connections: config.limits.connections.unwrap_or_else(|| connection_limit(files, count)),
        });
        let server = Server::new(
            Arc::clone(&dispatcher),
            http::Settings {
                limits: http::Limits {
                    body: config.limits.body,
                    header: config.limits.header,
                    headers: config.limits.headers,
                    request_line: config.limits.request_line,
                    body_pause: config.timeouts.body,
                    keepalive: !config.timeouts.keepalive.is_zero(),
                },
                log_access: config.log.access,
            },
            spool_directory(),
            journal,
        );
        let infos: Vec<ListenerInfo> = listeners.iter().map(Listener::info).collect();
        let edge_tell = tell.clone();
        let edge = Edge::start(listeners, Arc::clone(&dispatcher), connections, server, move |notice| {
            // The receiver lives as long as the main loop.
            let _after_the_end = edge_tell.send(Told::Edge(notice));
        })
        .map_err(Refused::system("start the edge thread"))?;
        let policy =
            Policy::new(config.app.target.to_string(), count, config.timeouts.boot, config.timeouts.drain);
        let daemon = Self {
            config: config.clone(),
            slots,
            count,
            listeners: infos,
            supervisor: Supervisor::new(policy),
            pool: Pool::new(extension, delegation),
            dispatcher,
            edge,
            journal: journal_thread,
            tell,
            told,
            signals,
            status: (String::new(), String::new()),
            status_due: None,
            pids: std::collections::HashMap::new(),
            heard: std::collections::HashSet::new(),
            hung_up: Vec::new(),
        };
        Ok((daemon, runtime))
    }

    /// The main loop. Returns the exit status.
    async fn run(mut self) -> u8 {
        let mut exit = self.handle(Event::Started);
        let watchdog = notify::watchdog_timeout().map(|timeout| timeout / 2);
        let mut stops = 0_u32;
        let mut pulse = Instant::now();
        while exit.is_none() {
            let hung_up = self.hung_up.iter().map(|(_, until)| *until);
            let wake = self.supervisor.next_wakeup().into_iter().chain(hung_up).min();
            let events = tokio::select! {
                biased;
                Some(told) = self.told.recv() => self.understand(told),
                Some(()) = self.signals.child.recv() => self.reap(),
                Some(()) = self.signals.terminate.recv() => { stops += 1; stop(stops) }
                Some(()) = self.signals.interrupt.recv() => { stops += 1; stop(stops) }
                Some(()) = self.signals.quit.recv() => vec![Event::StopNow],
                Some(()) = self.signals.hangup.recv() => {
                    tracing::warn!("SIGHUP: this version cannot reload yet; restart rgun instead, ignoring");
                    Vec::new()
                }
                () = sleep_until(wake) => {
                    let mut events = self.give_up_on_hung_up();
                    events.push(Event::Tick);
                    events
                }
                () = sleep_until(watchdog.map(|period| pulse + period)) => {
                    pulse = Instant::now();
                    self.feel_pulse(watchdog).await;
                    Vec::new()
                }
            };
            for event in events {
                exit = exit.or(self.handle(event));
            }
        }
        let status = exit.unwrap_or_default();
        self.finish();
        status
    }

    fn finish(self) {
        let Self { edge, journal, pool, dispatcher, .. } = self;
        edge.end();
        drop(dispatcher);
        if journal.join().is_err() {
            tracing::error!("the journal thread panicked");
        }
        drop(pool);
        tracing::info!("stopped");
    }

    fn understand(&mut self, told: Told) -> Vec<Event> {
        match told {
            Told::Edge(EdgeNotice::Drained) => vec![Event::EdgeDrained],
            Told::Edge(EdgeNotice::AcceptFailed { listener, error }) => {
                tracing::error!(%error, rgun.listener = %listener, "a listener cannot accept any more, stopping");
                vec![Event::Stop]
            }
            Told::Dispatch(notice) => self.understand_notice(notice),
        }
    }

    fn understand_notice(&mut self, notice: Notice) -> Vec<Event> {
        match notice {
            Notice::Report(worker, report) => {
                self.heard.insert(worker);
                understand_report(worker, report).into_iter().collect()
            }
            Notice::Misbehaved(worker, why) => vec![Event::Misbehaved { worker, why }],
            Notice::HungUp(worker) => {
                // Its descriptors are closed before it can be waited for (a core dump may lie between): how it
                // ended is then told by its exit, unless that does not come.
                self.hung_up.push((worker, Instant::now() + EXIT_PATIENCE));
                self.reap()
            }
            Notice::DeadlineExceeded(worker, _) => vec![Event::DeadlineExceeded { worker }],
            Notice::Slow(..)
            | Notice::Served(..)
            | Notice::Wanted
            | Notice::Died { .. }
            | Notice::Quarantined { .. }
            | Notice::Retried(..) => Vec::new(),
            Notice::Drained(worker) => vec![Event::Drained { worker }],
            Notice::RaisedAfterEnd { worker, summary, traceback } => {
                tracing::error!(
                    rgun.worker = worker.number.0,
                    "the application raised after its answer was complete: {summary}\n{}",
                    traceback.trim_end()
                );
                Vec::new()
            }
        }
    }

    /// Who closed its control socket and did not exit is not a worker any more.
    fn give_up_on_hung_up(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let (overdue, waiting) = self.hung_up.drain(..).partition(|(_, until)| *until <= now);
        self.hung_up = waiting;
        let why = || "closed its control socket (descriptor 3) and did not exit".to_owned();
        let overdue: Vec<(WorkerId, Instant)> = overdue;
        overdue.into_iter().map(|(worker, _)| Event::Misbehaved { worker, why: why() }).collect()
    }

    fn reap(&mut self) -> Vec<Event> {
        let ended = self.pool.reap();
        self.hung_up.retain(|(worker, _)| ended.iter().all(|gone| gone.worker != *worker));
        ended
            .into_iter()
            .map(|pool::Ended { worker, how, .. }| {
                // What it said and completed before it ended comes first.
                self.dispatcher.pump_control(worker);
                self.dispatcher.detach(worker);
                Event::Exited { worker, how }
            })
            .collect()
    }

    /// Tells the supervisor, and does what it says. The exit status when it is over.
    fn handle(&mut self, event: Event) -> Option<u8> {
        // An exit is preceded by what the worker said last.
        if let Event::Exited { .. } = &event {
            while let Ok(told) = self.told.try_recv() {
                for event in self.understand(told) {
                    if let Some(status) = self.tell_supervisor(event) {
                        return Some(status);
                    }
                }
            }
        }
        self.tell_supervisor(event)
    }

    fn tell_supervisor(&mut self, event: Event) -> Option<u8> {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = self.supervisor.handle(event, Instant::now());
            // Making a process takes milliseconds: what others wait for goes first.
            actions.sort_by_key(|action| matches!(action, Action::Spawn { .. }));
            for action in actions {
                match action {
                    Action::Spawn { worker, generation, .. } => {
                        events.push_back(self.spawn(worker, generation))
                    }
                    Action::Admit { worker } => self.dispatcher.admit(worker),
                    Action::Retire { worker } => self.dispatcher.retire(worker),
                    Action::Terminate { worker } => {
                        if let Err(error) = self.dispatcher.command(worker, &Command::Stop) {
                            tracing::debug!(%error, "cannot ask a worker to stop, ignoring: it will be killed");
                        }
                    }
                    Action::Kill { worker } => self.pool.kill(worker),
                    Action::Probe { .. }
                    | Action::TakeStacks { .. }
                    | Action::Promote { .. }
                    | Action::GoLive { .. }
                    | Action::Forget { .. }
                    | Action::Verdict { .. }
                    | Action::NotifyReloading => {}
                    Action::NotifyReady => notify::ready(),
                    Action::NotifyStopping => notify::stopping(),
                    Action::Status(line) => {
                        self.status.0 = line;
                        self.send_status();
                    }
                    Action::ExtendTimeout(by) => notify::extend_timeout(by),
                    Action::DrainEdge { deadline } => {
                        let tell = self.tell.clone();
                        self.edge.drain(deadline, move |notice| {
                            let _after_the_end = tell.send(Told::Edge(notice));
                        });
                    }
                    Action::Unavailable(reason) => self.dispatcher.set_unavailable(reason.as_deref()),
                    Action::Report(report) => self.report(report),
                    Action::Exit { status, reason } => {
                        if let Some(reason) = reason {
                            // Reported when it happened, with its traceback.
                            tracing::debug!(rgun.reason = %reason, "giving up");
                            notify::status(&reason);
                        }
                        return Some(status);
                    }
                }
            }
        }
        None
    }

    fn spawn(&mut self, worker: WorkerId, generation: crate::supervise::Generation) -> Event {
        let plan = Plan {
            worker,
            generation,
            app: &self.config.app,
            hooks: &control::Hooks::default(),
            slots: self.slots,
            multiprocess: self.count.get() > 1,
            listeners: &self.listeners,
            role: control::Role::Worker,
            warm_up: "",
            max_memory: None,
            max_requests: None,
        };
        match self.pool.spawn(&plan, self.dispatcher.reactor()) {
            Ok(spawned) => {
                self.edge.attach(spawned.link);
                self.pids.insert(worker, spawned.pid);
                tracing::debug!(rgun.worker = worker.number.0, rgun.pid = spawned.pid, "worker spawned");
                Event::Spawned { worker, pid: spawned.pid }
            }
            Err(error) => {
                Event::SpawnFailed { worker, fault: error.fault(), reason: Chain(&error).to_string() }
            }
        }
    }

    /// The live line: what the supervisor says, and what the edge is doing.
    fn send_status(&mut self) {
        let load = self.dispatcher.load();
        let is_busy = load.running + load.queued > 0;
        // What it says of the load is old in a moment; an idle daemon does not wake for it.
        self.status_due = is_busy.then(|| Instant::now() + STATUS_INTERVAL);
        let line = if is_busy {
            format!("{}; {} requests running, {} queued", self.status.0, load.running, load.queued)
        } else {
            self.status.0.clone()
        };
        if line != self.status.1 {
            notify::status(&line);
            self.status.1 = line;
        }
    }

    /// `WATCHDOG=1`, if the edge answers in time; if it does not, systemd is to act.
    async fn feel_pulse(&mut self, period: Option<Duration>) {
        self.send_status();
        let patience = period.unwrap_or_default();
        if let Ok(Ok(())) = tokio::time::timeout(patience, self.edge.pulse()).await {
            notify::watchdog();
        } else {
            tracing::error!("the edge thread does not answer; systemd's watchdog is not told to go on");
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::WorkerReady { worker, took } => tracing::info!(
                rgun.worker = worker.number.0,
                rgun.pid = self.pids.get(&worker).copied(),
                rgun.duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                "worker {} is ready after {took:.1?}",
                worker.number.0
            ),
            Report::WorkerBootFailed { worker, failure, retry_in, told_before } => {
                let BootFailure { kind, mut summary, traceback } = failure;
                if kind == BootFailureKind::Died && !self.heard.remove(&worker) {
                    let python = &self.config.app.python;
                    summary = format!(
                        "{summary} without a word: is app.python = {} ({}) a CPython 3.9 or newer?",
                        python.path.display(),
                        python.source
                    );
                }
                let traceback = match traceback {
                    Some(text) if !told_before && !text.is_empty() => format!("\n{}", text.trim_end()),
                    _ => String::new(),
                };
                let next = match retry_in {
                    Some(pause) => format!(" (next attempt in {pause:.1?})"),
                    None => String::new(),
                };
                tracing::error!(
                    rgun.worker = worker.number.0,
                    rgun.pid = self.pids.get(&worker).copied(),
                    "worker {} did not boot: {summary}{next}{traceback}",
                    worker.number.0
                );
            }
            Report::WorkerExited { worker, how, state, retry_in } => {
                let pid = self.pids.remove(&worker);
                self.heard.remove(&worker);
                let expected = !matches!(state, LifeState::Ready | LifeState::Retiring)
                    || (state == LifeState::Retiring && how == Exit::Code(0));
                let number = worker.number.0;
                if expected {
                    tracing::debug!(rgun.worker = number, rgun.pid = pid, "worker {number} {how}");
                } else {
                    let next = match retry_in {
                        Some(pause) if pause.is_zero() => "; it is replaced".to_owned(),
                        Some(pause) => format!("; it is replaced in {pause:.1?}"),
                        None => String::new(),
                    };
                    tracing::warn!(rgun.worker = number, rgun.pid = pid, "worker {number} {how}{next}");
                }
            }
            Report::WorkerMisbehaved { worker, why, .. } => tracing::error!(
                rgun.worker = worker.number.0,
                rgun.pid = self.pids.get(&worker).copied(),
                "worker {} broke the channel's contract and was killed: {why}",
                worker.number.0
            ),
            Report::Replacing { worker } => tracing::warn!(
                rgun.worker = worker.number.0,
                rgun.pid = self.pids.get(&worker).copied(),
                "worker {} has a request over timeouts.request; it is being replaced",
                worker.number.0
            ),
            Report::Replaced { worker, by } => tracing::info!(
                rgun.worker = worker.number.0,
                rgun.pid = self.pids.get(&by).copied(),
                "worker {} has been replaced",
                worker.number.0
            ),
            Report::Overdue { worker, state, waited } => tracing::warn!(
                rgun.worker = worker.number.0,
                rgun.pid = self.pids.get(&worker).copied(),
                "worker {} ({}) used up its {waited:.1?}",
                worker.number.0,
                state.as_str()
            ),
            Report::RetirementCut { worker } => tracing::warn!(
                rgun.worker = worker.number.0,
                rgun.pid = self.pids.get(&worker).copied(),
                "worker {} was killed before it had finished its other requests: its replacement is stuck too",
                worker.number.0
            ),
            Report::ZygoteReady { .. }
            | Report::WornOut { .. }
            | Report::ReloadBegan { .. }
            | Report::ReloadDone { .. }
            | Report::ReloadFailed { .. }
            | Report::WentBack { .. }
            | Report::Resized { .. } => {}
            Report::DrainRanOut { waited } => tracing::warn!(
                "not every request was answered within timeouts.drain ({waited:.1?}); the rest is cut off"
            ),
        }
    }
}

/// How the dispatcher's notices reach the main loop.
pub(crate) fn sink(tell: &UnboundedSender<Told>) -> dispatch::NoticeSink {
    let tell = tell.clone();
    Box::new(move |notice| {
        // The receiver lives as long as the main loop.
        let _after_the_end = tell.send(Told::Dispatch(notice));
    })
}

pub(crate) fn understand_report(worker: WorkerId, report: control::Report) -> Option<Event> {
    match report {
        control::Report::Refused(summary) => Some(Event::BootFailed {
            worker,
            failure: BootFailure { kind: BootFailureKind::Config, summary, traceback: None },
        }),
        control::Report::Failed { kind, summary, traceback } => Some(Event::BootFailed {
            worker,
            failure: BootFailure {
                kind: match kind {
                    FailureKind::Config => BootFailureKind::Config,
                    FailureKind::App => BootFailureKind::App,
                },
                summary,
                traceback: Some(traceback).filter(|text| !text.is_empty()),
            },
        }),
        control::Report::Ready { .. } => Some(Event::Ready { worker }),
        control::Report::Booting { python } => {
            tracing::debug!(rgun.worker = worker.number.0, rgun.python = %python, "worker is booting");
            None
        }
        control::Report::Stacks(_)
        | control::Report::Warning(_)
        | control::Report::Forked { .. }
        | control::Report::ForkFailed { .. }
        | control::Report::Promoted => None,
        // Consumed by the dispatcher.
        control::Report::File(_) => None,
    }
}

fn stop(count: u32) -> Vec<Event> {
    if count > 1 {
        tracing::warn!("asked to stop again: stopping now");
        return vec![Event::StopNow];
    }
    tracing::info!("stopping: finishing the requests under way");
    vec![Event::Stop]
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// systemd's sockets if it passed any, else our own.
fn listeners(config: &Config) -> Result<Vec<Listener>, Refused> {
    let inherited = listen::inherited().map_err(|error| Refused::config(&error))?;
    if inherited.is_empty() {
        let bind = |bind: &Bind| Listener::bind(bind).map_err(|error| Refused::config(&error));
        return config.listen.bind.iter().map(bind).collect();
    }
    if config.listen.explicit {
        let ignored: Vec<String> = config.listen.bind.iter().map(ToString::to_string).collect();
        tracing::warn!(
            "listening on the sockets that systemd passed; listen.bind = {} has no effect: change \
             ListenStream= in the socket unit instead",
            ignored.join(", ")
        );
    }
    Ok(inherited.into_iter().map(Listener::inherited).collect())
}

/// Cores this process may use (sched_getaffinity(2)).
fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Raises the soft limit of open files to the hard one and returns it: the default soft limit of 1024 is for
/// programs that use select(2).
fn raise_file_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
                hard
            } else {
                soft
            }
        }
        Err(error) => {
            tracing::debug!(%error, "cannot read RLIMIT_NOFILE, ignoring");
            1024
        }
    }
}

/// `limits.connections = "auto"`: what the limit of open files leaves after the workers' channels and
/// one spooled body or file for every second connection.
fn connection_limit(files: u64, workers: NonZeroU16) -> usize {
    let own = 64 + 8 * u64::from(workers.get());
    usize::try_from(files.saturating_sub(own) / 2).unwrap_or(usize::MAX).max(16)
}

/// Where bodies over 16 MiB wait: on disk, unlike `/tmp` on many systems. systemd's `CacheDirectory=` if the
/// unit has one (systemd.exec(5)).
fn spool_directory() -> PathBuf {
    std::env::var_os("CACHE_DIRECTORY").map_or_else(
        || PathBuf::from("/var/tmp"),
        |directories| std::env::split_paths(&directories).next().unwrap_or_else(|| PathBuf::from("/var/tmp")),
    )
}
