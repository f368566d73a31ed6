//! The composition root of `rgun` and `rgun APP`: builds the parts, pumps events into the supervisor, performs
//! its actions. Everything that decides is elsewhere.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | building, the main loop, actions |
//! | `generations.rs` | the configurations that are alive, and what each part must know of them |
//! | `orders.rs` | the control socket of `rgun reload` |
//! | `probe.rs` | `reload.probe` |
//! | `stacks.rs` | taking the Python stacks of workers |
//! | `report.rs` | what the operator reads |

mod generations;
mod orders;
mod probe;
mod report;
mod stacks;

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rgun_channel::control::{self, Command, FailureKind, ListenerInfo, Role};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cli::{self, Invocation};
use crate::config::{Bind, Config};
use crate::dispatch::{self, Dispatcher, Notice, Reactor};
use crate::edge::{Edge, EdgeNotice};
use crate::http::Server;
use crate::journal::lifecycle::{self, Destination};
use crate::journal::requests::Journal;
use crate::net::{Connections, Listener};
use crate::pool::{self, Ended, MemoryEvent, Plan, Pool, SpawnError};
use crate::report::Chain;
use crate::supervise::{
    Action, BootFailure, BootFailureKind, Event, Generation, LifeState, Origin, SpawnFault, Supervisor, Wear,
    WorkerId,
};
use crate::systemd::{cgroup::Delegation, listen, notify};

use self::generations::Generations;
use self::orders::{Asker, Orders, Word};
use self::report::Reporter;
use self::stacks::{Inquiries, Purpose, Taken};

/// EX_OSERR of sysexits(3head): the system lacks something; trying again may help.
const OS_ERROR: u8 = 71;

/// From the end of a worker's control socket to its exit: a core dump takes its time.
const EXIT_PATIENCE: Duration = Duration::from_secs(2);

/// How often the STATUS= line is brought up to date while it tells of the load.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How often the supervisor is told of the load, when something depends on it.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How often the workers' memory is looked at, when it is limited.
const MEMORY_INTERVAL: Duration = Duration::from_secs(5);

/// How often a cgroup that could not be removed is tried again: its processes are about to be gone.
const LEAVES_INTERVAL: Duration = Duration::from_millis(100);

/// What other threads and tasks tell the main loop.
#[derive(Debug)]
pub(crate) enum Told {
    Dispatch(Notice),
    Edge(EdgeNotice),
    /// `rgun reload`.
    Reload(Asker),
    /// What came of `reload.probe`.
    Probed(WorkerId, Result<(), String>),
}

/// Serves until told to stop.
pub fn serve(invocation: &Invocation) -> ExitCode {
    let config = &invocation.config;
    let destination = lifecycle::start(config.log.level);
    for warning in &invocation.warnings {
        tracing::warn!("{warning}");
    }
    match Daemon::build(invocation, destination) {
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
    /// What is read again at a reload.
    invocation: Invocation,
    generations: Generations,
    cores: usize,
    /// systemd watches: a boot that fails is tried again for ever.
    supervised: bool,
    listeners: Vec<ListenerInfo>,
    /// Connections that the limit of open files leaves room for.
    most_connections: usize,
    supervisor: Supervisor,
    pool: Pool,
    dispatcher: Arc<Dispatcher>,
    server: Arc<Server>,
    connections: Arc<Connections>,
    edge: Edge,
    journal: std::thread::JoinHandle<()>,
    orders: Option<Orders>,
    tell: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
    signals: Signals,
    reporter: Reporter,
    inquiries: Inquiries,
    /// Who waits for a generation's verdict.
    askers: HashMap<Generation, Asker>,
    /// Why the last reload was refused before a worker was asked; part of STATUS=.
    refused_reload: Option<String>,
    /// Workers whose size has been told.
    outgrown: HashSet<WorkerId>,
    /// Generations of which a worker has become the zygote (`workers.refork`): once is enough.
    reforked: HashSet<Generation>,
    /// The supervisor's STATUS= line, and what was last sent.
    status: (String, String),
    /// When the line must be looked at again.
    status_due: Option<Instant>,
    load_due: Option<Instant>,
    memory_due: Option<Instant>,
    leaves_due: Option<Instant>,
    /// Wakes when a cgroup's memory.events change.
    memory_watch: Option<AsyncFd<Arc<OwnedFd>>>,
    /// Workers that have closed their control socket: until when they may take to exit.
    hung_up: Vec<(WorkerId, Instant)>,
}

struct Signals {
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

impl Signals {
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
    ) -> Result<(Self, tokio::runtime::Runtime), Refused> {
        let config = &invocation.config;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Refused::system("make the main reactor"))?;
        let entered = runtime.enter();
        // First of all, so that a stop right after the start is one too.
        let signals = Signals::new().map_err(Refused::system("handle signals"))?;
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
        let delegation = delegation(destination);
        let cores = available_cores();
        let files = raise_file_limit();
        let most_connections = connection_limit(files, config.workers.count.resolve(cores));
        let (tell, told) = unbounded_channel();
        let orders = Orders::listen(tell.clone()).map_err(Refused::system("listen for orders"))?;
        if let Some(orders) = &orders {
            tracing::debug!("taking orders on {}", orders.path().display());
        }
        let (journal, journal_thread) =
            Journal::start().map_err(Refused::system("start the journal thread"))?;
        let dispatcher = Dispatcher::new(
            generations::dispatch_policy(config),
            Reactor::new().map_err(Refused::system("make the reactor's shared page"))?,
            sink(&tell),
        );
        let connections = Connections::new(generations::net_limits(config, most_connections));
        let server = Server::new(
            Arc::clone(&dispatcher),
            generations::http_settings(config),
            spool_directory(),
            journal,
        );
        let infos: Vec<ListenerInfo> = listeners.iter().map(Listener::info).collect();
        let edge_tell = tell.clone();
        let edge = Edge::start(
            listeners,
            Arc::clone(&dispatcher),
            Arc::clone(&connections),
            Arc::clone(&server),
            move |notice| {
                // The receiver lives as long as the main loop.
                let _after_the_end = edge_tell.send(Told::Edge(notice));
            },
        )
        .map_err(Refused::system("start the edge thread"))?;
        let pool = Pool::new(extension, delegation);
        let memory_watch = pool
            .memory_watch_fd()
            .map(|fd| fd.try_clone_to_owned().and_then(|fd| crate::edge::watch(Arc::new(fd))))
            .transpose()
            .map_err(Refused::system("watch the workers' memory"))?;
        let supervised = notify::is_listened_to();
        let policy = generations::policy(config, cores, supervised);
        drop(entered);
        let daemon = Self {
            invocation: invocation.clone(),
            generations: Generations::new(config.clone()),
            cores,
            supervised,
            listeners: infos,
            most_connections,
            supervisor: Supervisor::new(policy),
            pool,
            dispatcher,
            server,
            connections,
            edge,
            journal: journal_thread,
            orders,
            tell,
            told,
            signals,
            reporter: Reporter::default(),
            inquiries: Inquiries::default(),
            askers: HashMap::new(),
            refused_reload: None,
            outgrown: HashSet::new(),
            reforked: HashSet::new(),
            status: (String::new(), String::new()),
            status_due: None,
            load_due: None,
            memory_due: None,
            leaves_due: None,
            memory_watch,
            hung_up: Vec::new(),
        };
        Ok((daemon, runtime))
    }

    /// The main loop. Returns the exit status.
    async fn run(mut self) -> u8 {
        self.set_timers();
        let mut exit = self.handle(Event::Started);
        let watchdog = notify::watchdog_timeout().map(|timeout| timeout / 2);
        let mut stops = 0_u32;
        let mut pulse = Instant::now();
        while exit.is_none() {
            let wake = self.next_wakeup();
            let events = tokio::select! {
                biased;
                Some(told) = self.told.recv() => self.understand(told),
                Some(()) = self.signals.child.recv() => self.reap(),
                Some(()) = self.signals.terminate.recv() => { stops += 1; stop(stops) }
                Some(()) = self.signals.interrupt.recv() => { stops += 1; stop(stops) }
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
                () = memory_changed(self.memory_watch.as_ref()) => self.heed_memory_events(),
                () = sleep_until(wake) => self.look_at_the_clock(),
                () = sleep_until(watchdog.map(|period| pulse + period)) => {
                    pulse = Instant::now();
                    self.feel_pulse(watchdog).await;
                    Vec::new()
                }
            };
            for event in events {
                exit = exit.or_else(|| self.handle(event));
            }
        }
        let status = exit.unwrap_or_default();
        self.finish();
        status
    }

    fn finish(self) {
        let Self { edge, journal, pool, dispatcher, server, orders, .. } = self;
        drop(orders);
        edge.end();
        drop((dispatcher, server));
        if journal.join().is_err() {
            tracing::error!("the journal thread panicked");
        }
        drop(pool);
        tracing::info!("stopped");
    }

    // === time ===

    fn next_wakeup(&self) -> Option<Instant> {
        let hung_up = self.hung_up.iter().map(|(_, until)| *until);
        [
            self.supervisor.next_wakeup(),
            self.inquiries.next_wakeup(),
            self.status_due,
            self.load_due,
            self.memory_due,
            self.leaves_due,
            self.pool.forks_due(),
        ]
        .into_iter()
        .flatten()
        .chain(hung_up)
        .min()
    }

    fn look_at_the_clock(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let mut events = self.give_up_on_hung_up();
        for taken in self.inquiries.run_out(&mut self.pool, now) {
            events.extend(self.taken(taken));
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
            events.extend(self.weigh());
        }
        if is_due(self.leaves_due) {
            self.remove_leaves();
        }
        if is_due(self.pool.forks_due()) {
            events.extend(self.lost_forks());
        }
        events.push(Event::Tick);
        events
    }

    /// What must be looked at now and then depends on what the living generations want.
    fn set_timers(&mut self) {
        let now = Instant::now();
        let wants_load = self.generations.any(|config| {
            let (min, max) = config.workers.count.bounds(self.cores);
            min != max || config.workers.idle_exit.is_some() || config.reload.watch.is_some()
        });
        self.load_due = wants_load.then(|| self.load_due.unwrap_or(now + LOAD_INTERVAL));
        let wants_memory = self.generations.any(|config| config.workers.max_memory.is_some());
        self.memory_due = wants_memory.then(|| self.memory_due.unwrap_or(now + MEMORY_INTERVAL));
    }

    fn remove_leaves(&mut self) {
        let left = self.pool.remove_leaves();
        self.leaves_due = (left > 0).then(|| Instant::now() + LEAVES_INTERVAL);
    }

    // === what is told ===

    fn understand(&mut self, told: Told) -> Vec<Event> {
        match told {
            Told::Edge(EdgeNotice::Drained) => vec![Event::EdgeDrained],
            Told::Edge(EdgeNotice::AcceptFailed { listener, error }) => {
                tracing::error!(%error, rgun.listener = %listener, "a listener cannot accept any more, stopping");
                vec![Event::Stop]
            }
            Told::Dispatch(notice) => self.understand_notice(notice),
            Told::Reload(asker) => self.reload(Some(asker)),
            Told::Probed(worker, outcome) => vec![Event::Probed { worker, outcome }],
        }
    }

    fn understand_notice(&mut self, notice: Notice) -> Vec<Event> {
        match notice {
            Notice::Report(worker, report) => {
                self.reporter.heard(worker);
                self.understand_report(worker, report)
            }
            Notice::Misbehaved(worker, why) => vec![Event::Misbehaved { worker, why }],
            Notice::HungUp(worker) => {
                // Its descriptors are closed before it can be waited for (a core dump may lie between): how it
                // ended is then told by its exit, unless that does not come.
                self.hung_up.push((worker, Instant::now() + EXIT_PATIENCE));
                self.reap()
            }
            Notice::DeadlineExceeded(worker, asked) => {
                let mut events = vec![Event::DeadlineExceeded { worker }];
                events.extend(self.inquire(worker, Purpose::Deadline(asked)));
                events
            }
            Notice::Overdue(worker, asked) => self.inquire(worker, Purpose::Deadline(asked)),
            Notice::Stubborn(worker, _) | Notice::Stuck(worker, _) => vec![Event::DeadlineExceeded { worker }],
            Notice::Stalled(worker, silence) => {
                tracing::error!(
                    rgun.worker = worker.number.0,
                    "the event loop of worker {} has not turned for {silence:.1?} (timeouts.stall)",
                    worker.number.0
                );
                Vec::new()
            }
            Notice::Slow(worker, asked) => self.inquire(worker, Purpose::Slow(asked)),
            Notice::Served(worker, served) => {
                vec![Event::WornOut { worker, wear: self.wear(worker, served) }]
            }
            Notice::Wanted => vec![Event::Wanted],
            Notice::Drained(worker) => vec![Event::Drained { worker }],
            Notice::Died { worker, asked } => {
                self.reporter.lost(worker, asked);
                Vec::new()
            }
            Notice::Quarantined { method, path, for_ } => {
                tracing::error!(
                    rgun.method = %method,
                    rgun.path = %path,
                    "{method} {path} has killed two workers within a minute: such requests are answered 503 for {for_:.0?}"
                );
                Vec::new()
            }
            Notice::Retried(worker, asked) => {
                let dispatch::Asked { request_id, method, path, .. } = asked;
                tracing::warn!(
                    rgun.request_id = %request_id,
                    rgun.method = %method,
                    rgun.path = %path,
                    rgun.worker = worker.number.0,
                    "{method} {path} is tried once more: worker {} died with it",
                    worker.number.0
                );
                Vec::new()
            }
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

    /// Why a worker that has served its share is replaced: `workers.refork` is one way to set the share.
    fn wear(&mut self, worker: WorkerId, served: u64) -> Wear {
        let life = self.supervisor.snapshot().workers.into_iter().find(|life| life.worker == worker);
        let generation = life.map(|life| life.generation);
        let config = generation.and_then(|generation| self.generations.get(generation));
        let refork = config.and_then(|config| config.workers.refork);
        match (refork, generation) {
            (Some(after), Some(generation)) if served >= after.get() && self.reforked.insert(generation) => {
                Wear::Refork
            }
            _ => Wear::Requests { served },
        }
    }

    fn understand_report(&mut self, worker: WorkerId, report: control::Report) -> Vec<Event> {
        match report {
            control::Report::Stacks(written) => {
                let taken = self.inquiries.answered(&mut self.pool, worker, written);
                taken.map(|taken| self.taken(taken)).unwrap_or_default()
            }
            control::Report::Warning(text) => {
                tracing::warn!(
                    rgun.worker = worker.number.0,
                    rgun.pid = self.reporter.pid(worker),
                    "{}: {}",
                    self.reporter.name(worker),
                    text.trim_end()
                );
                Vec::new()
            }
            control::Report::Forked { life, pid } => self.forked(worker, life, pid),
            control::Report::ForkFailed { life, reason } => match self.pool.fork_failed(life) {
                Some(forked) => {
                    vec![Event::SpawnFailed { worker: forked, fault: SpawnFault::System, reason }]
                }
                // It was given up before.
                None => Vec::new(),
            },
            control::Report::Promoted => {
                self.pool.promoted(worker);
                self.reporter.is_now_zygote(worker);
                Vec::new()
            }
            other => understand_report(worker, other).into_iter().collect(),
        }
    }

    fn forked(&mut self, zygote: WorkerId, life: u64, pid: u32) -> Vec<Event> {
        let mut events = match self.pool.forked(zygote, life, pid) {
            Ok(spawned) => {
                let worker = spawned.link.worker;
                self.edge.attach(spawned.link);
                self.reporter.spawned(worker, spawned.pid);
                vec![Event::Spawned { worker, pid: spawned.pid }]
            }
            Err(error @ SpawnError::Claim { .. }) => vec![misbehaved(zygote, &Chain(&error).to_string())],
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "a fork came to nothing");
                Vec::new()
            }
        };
        events.extend(self.lost_forks());
        events
    }

    fn lost_forks(&mut self) -> Vec<Event> {
        let lost = self.pool.lost_forks().into_iter();
        lost.map(|(worker, error)| Event::SpawnFailed {
            worker,
            fault: error.fault(),
            reason: Chain(&error).to_string(),
        })
        .collect()
    }

    /// Who closed its control socket and did not exit is not a worker any more.
    fn give_up_on_hung_up(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let (overdue, waiting) = self.hung_up.drain(..).partition(|(_, until)| *until <= now);
        self.hung_up = waiting;
        let overdue: Vec<(WorkerId, Instant)> = overdue;
        let why = "closed its control socket (descriptor 3) and did not exit";
        overdue.into_iter().map(|(worker, _)| misbehaved(worker, why)).collect()
    }

    fn reap(&mut self) -> Vec<Event> {
        let ended = self.pool.reap();
        self.hung_up.retain(|(worker, _)| ended.iter().all(|gone| gone.worker != *worker));
        let mut events = Vec::new();
        for Ended { worker, how, oom_killed, pid } in ended {
            // What it said and completed before it ended comes first.
            self.dispatcher.pump_control(worker);
            self.dispatcher.detach(worker);
            if oom_killed {
                self.reporter.oom_killed(worker);
            }
            if let Some(taken) = self.inquiries.gone(&mut self.pool, worker) {
                events.extend(self.taken(taken));
            }
            self.outgrown.remove(&worker);
            self.tell_child_exited(worker, pid);
            events.push(Event::Exited { worker, how });
        }
        events.extend(self.lost_forks());
        self.remove_leaves();
        events
    }

    /// `hooks.child_exit` runs in another process of the application: a zygote if there is one, else a worker.
    fn tell_child_exited(&mut self, gone: WorkerId, pid: u32) {
        if self.generations.live().hooks.child_exit.is_none() {
            return;
        }
        let snapshot = self.supervisor.snapshot();
        let others =
            snapshot.workers.iter().filter(|other| other.worker != gone && other.state == LifeState::Ready);
        let Some(other) = others.min_by_key(|other| !self.reporter.is_zygote(other.worker)) else {
            tracing::warn!(
                rgun.pid = pid,
                "hooks.child_exit is not called for worker {}: no other process of the application is ready",
                gone.number.0
            );
            return;
        };
        let command = Command::ChildExited { pid, worker: gone.number.0, life: gone.life.0 };
        if let Err(error) = self.dispatcher.command(other.worker, &command) {
            tracing::warn!(%error, rgun.pid = pid, "cannot have hooks.child_exit called");
        }
    }

    // === stacks ===

    fn inquire(&mut self, worker: WorkerId, purpose: Purpose) -> Vec<Event> {
        let given_up = self.inquiries.begin(&mut self.pool, worker, purpose);
        given_up.map(|taken| self.taken(taken)).unwrap_or_default()
    }

    fn taken(&mut self, taken: Taken) -> Vec<Event> {
        let Taken { worker, purposes, stacks, kill, waiting } = taken;
        let pid = self.reporter.pid(worker);
        let mut events = Vec::new();
        for purpose in purposes {
            match purpose {
                Purpose::Deadline(asked) => report::overdue(worker, pid, &asked, stacks.as_deref()),
                Purpose::Slow(asked) => report::slow(worker, pid, &asked, stacks.as_deref()),
                Purpose::Boot => events.push(Event::StacksTaken { worker, stacks: stacks.clone() }),
            }
        }
        if kill {
            self.pool.kill(worker);
        }
        for purpose in waiting {
            events.extend(self.inquire(worker, purpose));
        }
        events
    }

    // === memory ===

    fn weigh(&mut self) -> Vec<Event> {
        let snapshot = self.supervisor.snapshot();
        let mut events = Vec::new();
        for worker in snapshot.workers.iter().filter(|worker| worker.state == LifeState::Ready) {
            let limit = self.generations.get(worker.generation).and_then(|config| config.workers.max_memory);
            let (Some(limit), Some(bytes)) = (limit, self.pool.memory(worker.worker)) else { continue };
            if bytes >= limit {
                events.extend(self.outgrown(worker.worker, bytes, limit));
            }
        }
        events
    }

    /// `workers.max_memory` of a worker's generation.
    fn limit(&self, worker: WorkerId) -> Option<u64> {
        let life = self.supervisor.snapshot().workers.into_iter().find(|life| life.worker == worker)?;
        self.generations.get(life.generation)?.workers.max_memory
    }

    fn heed_memory_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for event in self.pool.memory_events() {
            match event {
                MemoryEvent::High(worker) => {
                    let limit = self.limit(worker).unwrap_or_default();
                    let bytes = self.pool.memory(worker).unwrap_or(limit);
                    events.extend(self.outgrown(worker, bytes, limit));
                }
                MemoryEvent::OomKill(worker) => self.reporter.oom_killed(worker),
            }
        }
        events
    }

    /// The request named by growth during it is one of those that run now.
    fn outgrown(&mut self, worker: WorkerId, bytes: u64, limit: u64) -> Option<Event> {
        if !self.outgrown.insert(worker) {
            return None;
        }
        for asked in self.dispatcher.running(worker) {
            let dispatch::Asked { request_id, method, path, elapsed, .. } = asked;
            tracing::warn!(
                rgun.request_id = %request_id,
                rgun.method = %method,
                rgun.path = %path,
                rgun.worker = worker.number.0,
                "worker {} reached workers.max_memory while {method} {path} ran (for {elapsed:.1?})",
                worker.number.0
            );
        }
        Some(Event::WornOut { worker, wear: Wear::Memory { bytes, limit } })
    }

    // === reload ===

    fn reload(&mut self, asker: Option<Asker>) -> Vec<Event> {
        match self.invocation.reread() {
            Ok(invocation) => {
                for warning in &invocation.warnings {
                    tracing::warn!("{warning}");
                }
                self.refused_reload = None;
                let policy = generations::policy(&invocation.config, self.cores, self.supervised);
                let generation = self.generations.add(invocation.config);
                self.set_timers();
                if let Some(asker) = asker {
                    let text = format!("generation {generation} boots beside the one that serves");
                    let _listening = asker.send(Word::Progress(text));
                    self.askers.insert(generation, asker);
                }
                vec![Event::Reload { policy }]
            }
            Err(failure) => {
                let reason = failure.to_string();
                tracing::error!("reload refused, the configuration is wrong; nothing has changed: {reason}");
                let line = reason.lines().next().unwrap_or_default();
                self.refused_reload = Some(format!("reload refused: {line}"));
                self.send_status();
                if let Some(asker) = asker {
                    let _listening = asker.send(Word::Failed(reason));
                }
                Vec::new()
            }
        }
    }

    fn verdict(&mut self, generation: Generation, outcome: Result<(), BootFailure>) {
        let Some(asker) = self.askers.remove(&generation) else { return };
        let word = match outcome {
            Ok(()) => Word::Done(format!("generation {generation} serves")),
            Err(BootFailure { summary, traceback, .. }) => {
                let traceback = traceback.unwrap_or_default();
                Word::Failed(format!("{summary}\n{}", last_lines(&traceback)))
            }
        };
        // Who asked may have gone: the journal has it too.
        let _listening = asker.send(word);
    }

    fn go_live(&mut self, generation: Generation) {
        let Some(config) = self.generations.go_live(generation) else { return };
        self.dispatcher.set_policy(generations::dispatch_policy(&config));
        self.server = self.server.with(generations::http_settings(&config));
        self.edge.serve_with(Arc::clone(&self.server));
        self.connections.set(generations::net_limits(&config, self.most_connections));
        lifecycle::set_level(config.log.level);
    }

    // === actions ===

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
            Action::Spawn { worker, generation, origin } => {
                return self.spawn(worker, generation, origin).into_iter().collect();
            }
            Action::Admit { worker } => self.dispatcher.admit(worker),
            Action::Retire { worker } => self.dispatcher.retire(worker),
            Action::Terminate { worker } => self.command(worker, &Command::Stop),
            Action::Promote { worker } => self.command(worker, &Command::Promote),
            Action::Kill { worker } => {
                if !self.inquiries.hold_kill(worker) {
                    self.pool.kill(worker);
                }
            }
            Action::TakeStacks { worker } => return self.inquire(worker, Purpose::Boot),
            Action::Probe { worker } => self.probe(worker),
            Action::GoLive { generation } => self.go_live(generation),
            Action::Forget { generation } => {
                self.generations.forget(generation);
                self.set_timers();
            }
            Action::Verdict { generation, outcome } => self.verdict(generation, outcome),
            Action::NotifyReady => notify::ready(),
            Action::NotifyReloading => notify::reloading(),
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
            Action::Report(report) => {
                let generations = &self.generations;
                let snapshot = self.supervisor.snapshot();
                let python = |worker: WorkerId| {
                    let life = snapshot.workers.iter().find(|life| life.worker == worker);
                    let config = life.and_then(|life| generations.get(life.generation));
                    let python = &config.as_deref().unwrap_or(generations.live()).app.python;
                    format!("{} ({})", python.path.display(), python.source)
                };
                self.reporter.write(report, &python);
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

    fn spawn(&mut self, worker: WorkerId, generation: Generation, origin: Origin) -> Option<Event> {
        let failed = |fault, reason| Some(Event::SpawnFailed { worker, fault, reason });
        let Some(config) = self.generations.get(generation) else {
            return failed(SpawnFault::System, format!("generation {generation} is over"));
        };
        let role = match origin {
            Origin::ExecZygote => Role::Zygote,
            Origin::Exec | Origin::Fork(_) => Role::Worker,
        };
        let hooks = generations::hooks(&config);
        let plan = Plan {
            worker,
            generation,
            app: &config.app,
            hooks: &hooks,
            threads: u32::from(config.workers.threads.get()),
            concurrency: generations::concurrency(&config),
            multiprocess: config.workers.count.resolve(self.cores).get() > 1,
            listeners: &self.listeners,
            role,
            warm_up: config.reload.probe.as_deref().unwrap_or_default(),
            max_memory: config.workers.max_memory,
            max_requests: generations::max_requests(&config.workers, self.reforked.contains(&generation)),
        };
        if let Origin::Fork(zygote) = origin {
            return match self.pool.fork(&plan, zygote) {
                // `Spawned` follows when the zygote has done it.
                Ok(()) => None,
                Err(error) => failed(error.fault(), Chain(&error).to_string()),
            };
        }
        match self.pool.spawn(&plan, self.dispatcher.reactor()) {
            Ok(spawned) => {
                self.edge.attach(spawned.link);
                self.reporter.spawned(worker, spawned.pid);
                if origin == Origin::ExecZygote {
                    self.reporter.is_now_zygote(worker);
                }
                Some(Event::Spawned { worker, pid: spawned.pid })
            }
            Err(error) => failed(error.fault(), Chain(&error).to_string()),
        }
    }

    fn probe(&self, worker: WorkerId) {
        let life = self.supervisor.snapshot().workers.into_iter().find(|life| life.worker == worker);
        let config = life.and_then(|life| self.generations.get(life.generation));
        let path = config.and_then(|config| config.reload.probe.clone());
        let (dispatcher, tell) = (Arc::clone(&self.dispatcher), self.tell.clone());
        tokio::spawn(async move {
            let outcome = match path {
                Some(path) => probe::probe(dispatcher, worker, path).await,
                None => Ok(()),
            };
            let _after_the_end = tell.send(Told::Probed(worker, outcome));
        });
    }

    /// The live line: what the supervisor says, and what the edge is doing.
    fn send_status(&mut self) {
        let load = self.dispatcher.load();
        let is_busy = load.running + load.queued > 0;
        // What it says of the load is old in a moment; an idle daemon does not wake for it.
        self.status_due = is_busy.then(|| Instant::now() + STATUS_INTERVAL);
        let mut line = self.status.0.clone();
        if let Some(refused) = &self.refused_reload {
            line = format!("{line}; {refused}");
        }
        if is_busy {
            line = format!("{line}; {} requests running, {} queued", load.running, load.queued);
        }
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
}

fn misbehaved(worker: WorkerId, why: &str) -> Event {
    Event::Misbehaved { worker, why: why.to_owned() }
}

/// The end of a traceback: what it was, and where.
fn last_lines(traceback: &str) -> String {
    let lines: Vec<&str> = traceback.trim_end().lines().collect();
    let shown = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default();
    shown.join("\n")
}

/// Lines of a traceback that `rgun reload` prints; the journal has all of them.
const SHOWN_LINES: usize = 12;

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

/// The cgroup that systemd delegates, if it does.
fn delegation(destination: Destination) -> Option<Delegation> {
    match Delegation::take() {
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
        // Understood by the caller, or consumed by the dispatcher.
        control::Report::Stacks(_)
        | control::Report::Warning(_)
        | control::Report::Forked { .. }
        | control::Report::ForkFailed { .. }
        | control::Report::Promoted
        | control::Report::File(_) => None,
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
