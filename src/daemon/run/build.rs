//! Builds the daemon: opens the listeners, starts the threads, connects the parts.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rgun_channel::control::ListenerInfo;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::buffer_limits::BufferLimits;
use super::control_socket::{ControlClients, ControlError, ControlSocket};
use super::messages::{MainMessage, edge_notice_sink, notice_sink};
use super::metrics_listeners::MainInput;
use super::operator_log::log_unless_terminal;
use super::peer_check::PeerCheck;
use super::pressure_watch::PressureWatch;
use super::stack_calls::StackCalls;
use super::system::{self, AutoLimits, FileLimit, Host};
use super::terminal_log::TerminalLog;
use super::worker_users::WorkerUsers;
use super::{
    Daemon, Generations, MemoryWatch, OperatorLog, Reloads, SignalStreams, StackDumps, Startup, StartupError,
    StatusLine, Timers, generations, hand_over, metrics_listeners,
};
use crate::cli::Invocation;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::edge::{Edge, register};
use crate::escape::escape_path;
use crate::http::Server;
use crate::journal::daemon_log::Destination;
use crate::journal::output::WorkerOutput;
use crate::journal::requests::Journal;
use crate::journal::thread::LogThread;
use crate::link::Reactor;
use crate::net::{ConnectionTracker, Listener, StoredConnection};
use crate::pool::{self, Pool};
use crate::supervise::Supervisor;
use crate::systemd::cgroup::{self, Delegation};
use crate::systemd::listen::InheritedListener;
use crate::systemd::notify;
use crate::tls::TlsContext;

impl Daemon {
    /// Builds the daemon and the runtime of its main thread. Signal handlers come first, so that a
    /// stop request during startup is handled.
    ///
    /// # Errors
    /// The system refuses a resource, or the configuration names a file that does not exist.
    pub(super) fn build(invocation: &Invocation, startup: Startup) -> Result<(Self, Runtime), StartupError> {
        let Startup { destination, inherited, for_metrics, output, conf_hooks } = startup;
        let config = &invocation.config;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartupError::system("create the main reactor"))?;
        let entered = runtime.enter();
        let signals = SignalStreams::new().map_err(StartupError::system("handle signals"))?;
        let tls = load_tls(config)?;
        let worker_users = WorkerUsers::default();
        let identity = worker_users.find(config).map_err(|errors| StartupError::settings(&errors))?;
        let passed = PassedSockets { app: !inherited.listeners.is_empty(), metrics: !for_metrics.is_empty() };
        let listeners = listeners(config, inherited.listeners, tls.as_ref())?;
        let extension =
            pool::find_extension().map_err(|error| StartupError::config_reason(error.to_string()))?;
        let operator_log = log_start(config, &listeners, destination);
        let delegation = system::delegation(destination);
        let files = system::raise_file_limit();
        let host = host(config, &files, &listeners, &passed);
        let (messages_tx, messages_rx) = unbounded_channel();
        let control = listen_for_commands(config, &messages_tx, delegation.as_ref(), &worker_users)?;
        let metrics = metrics_listeners::listen(config, for_metrics, &messages_tx, destination);
        let reloads = Reloads::new(host.is_supervised);
        let stored = hand_over::take_over(inherited.stored, &listeners, &config.listen);
        let (edge, dispatcher, journal) =
            start_edge(config, &host, listeners, stored, &messages_tx, &reloads)?;
        let pressure = PressureWatch::open(delegation.as_ref(), host.is_supervised);
        let pool = start_pool(extension, delegation, &files, output);
        let memory_events = pool
            .memory_watch_fd()
            .map(|fd| fd.try_clone_to_owned().and_then(|fd| register(Arc::new(fd))))
            .transpose()
            .map_err(StartupError::system("watch the workers' memory"))?;
        let policy = generations::policy(config, &host);
        drop(entered);
        let daemon = Self {
            invocation: invocation.clone(),
            generations: Generations::new(config.clone(), tls, worker_users, identity),
            host,
            supervisor: Supervisor::new(policy),
            pool,
            dispatcher,
            edge,
            journal,
            control,
            messages_tx,
            input: MainInput { messages: messages_rx, metrics },
            signals,
            operator_log,
            stack_dumps: StackDumps::default(),
            reloads,
            status: StatusLine::default(),
            timers: Timers::default(),
            memory: MemoryWatch { pressure, events: memory_events, reported: HashSet::new() },
            awaiting_exit: Vec::new(),
            conf_hooks,
        };
        Ok((daemon, runtime))
    }
}

/// Opens the control socket, if there is a runtime directory.
fn listen_for_commands(
    config: &Config,
    messages: &UnboundedSender<MainMessage>,
    delegation: Option<&Delegation>,
    worker_users: &WorkerUsers,
) -> Result<ControlClients, StartupError> {
    let peers = PeerCheck::new(nix::unistd::getpid(), delegation.cloned(), worker_users.clone());
    let group = config.control.group.as_deref();
    let socket = ControlSocket::listen(messages.clone(), peers, group).map_err(|error| match error {
        ControlError::System { source } => StartupError::system("listen on the control socket")(source),
        error => StartupError::config_reason(error.to_string()),
    })?;
    match &socket {
        Some(socket) => tracing::debug!("listening for commands on {}", socket.path().display()),
        None if notify::is_enabled() => tracing::info!(
            "the unit has no RuntimeDirectory=, so there is no control socket: rgun reload, rgun status and others \
             cannot reach this daemon"
        ),
        None => {}
    }
    Ok(ControlClients { socket, stack_calls: StackCalls::default() })
}

/// Opens the listeners, with their TLS settings.
fn listeners(
    config: &Config,
    inherited: Vec<InheritedListener>,
    tls: Option<&Arc<TlsContext>>,
) -> Result<Vec<Listener>, StartupError> {
    let listeners = system::listeners(config, inherited)?;
    for listener in &listeners {
        listener.tls.set(generations::listener_tls(config, tls, &listener.name));
    }
    Ok(listeners)
}

/// Reads the certificates, and logs warnings about them.
fn load_tls(config: &Config) -> Result<Option<Arc<TlsContext>>, StartupError> {
    let loaded = generations::load_tls(config, None).map_err(|errors| StartupError::settings(&errors))?;
    for warning in loaded.iter().flat_map(|loaded| &loaded.warnings) {
        tracing::warn!("{warning}");
    }
    Ok(loaded.map(|loaded| loaded.context))
}

/// Logs the start. On a terminal, the lines follow when the first worker is ready.
fn log_start(config: &Config, listeners: &[Listener], destination: Destination) -> OperatorLog {
    let is_terminal = destination == Destination::Terminal;
    let python = &config.app.python;
    log_unless_terminal!(
        is_terminal,
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
    for listener in listeners {
        let with_tls = if config.listen.speaks_tls(&listener.name) { " with TLS" } else { "" };
        log_unless_terminal!(
            is_terminal,
            rgun.listener = %listener.name,
            "listening on {}{with_tls}",
            listener.address()
        );
    }
    OperatorLog::new(is_terminal.then(|| TerminalLog::new(config, listeners)))
}

/// Which sockets systemd has passed: those that serve the application, and those that serve metrics.
struct PassedSockets {
    app: bool,
    metrics: bool,
}

/// Returns the facts about the host.
fn host(config: &Config, files: &FileLimit, listeners: &[Listener], passed: &PassedSockets) -> Host {
    let cores = system::available_cores();
    Host {
        started_at: SystemTime::now(),
        cores,
        is_supervised: notify::is_enabled(),
        restart: system::restart_instruction(notify::is_enabled(), cgroup::own_unit()),
        is_socket_activated: passed.app,
        has_metrics_socket: passed.metrics,
        listeners: listeners.iter().map(Listener::info).collect::<Vec<ListenerInfo>>(),
        auto_limits: AutoLimits::new(files.own, config.workers.count.resolve(cores)),
        hand_over: hand_over::capacity(files.inherited),
    }
}

/// Starts the journal thread and the edge thread, and creates the dispatcher.
fn start_edge(
    config: &Config,
    host: &Host,
    listeners: Vec<Listener>,
    stored: Vec<StoredConnection>,
    messages: &UnboundedSender<MainMessage>,
    reloads: &Reloads,
) -> Result<(Edge, &'static Dispatcher, LogThread), StartupError> {
    let (journal, journal_thread) =
        Journal::start().map_err(StartupError::system("start the journal thread"))?;
    let buffers = BufferLimits::measure(&config.limits, system::spool_directory());
    let dispatcher = Dispatcher::new(
        generations::dispatch_policy(config, host.auto_limits, &buffers),
        host.cores,
        Reactor::new().map_err(StartupError::system("create the reactor's shared page"))?,
        notice_sink(messages),
    );
    let connections = ConnectionTracker::new(generations::net_limits(config, host.auto_limits));
    let settings = reloads.http_settings(config, &buffers);
    for listener in &listeners {
        listener.proxy_protocol.set(generations::proxy_senders(config, &listener.name));
    }
    let server = Server::new(dispatcher, settings, system::spool_directory(), journal);
    let edge = Edge::start(listeners, stored, dispatcher, connections, server, edge_notice_sink(messages))
        .map_err(StartupError::system("start the edge thread"))?;
    Ok((edge, dispatcher, journal_thread))
}

/// Creates the pool.
fn start_pool(
    extension: PathBuf,
    delegation: Option<Delegation>,
    files: &FileLimit,
    output: Option<WorkerOutput>,
) -> Pool {
    let mut pool = Pool::new(extension, delegation).with_output(output);
    if let Some(soft) = files.inherited {
        pool.set_open_files_limit(soft);
    }
    pool
}
