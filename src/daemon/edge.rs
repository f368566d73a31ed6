//! The edge thread: one reactor that accepts connections, speaks HTTP, dispatches, and serves the
//! workers' rings.
//!
//! `run` starts it and controls it through [`Edge`]. The reactor is a tokio `current_thread`
//! runtime. A *turn* of the reactor is one iteration of its loop: it polls the sockets and runs the
//! tasks that are ready. Only this kind of runtime has a hook at the end of each turn
//! (`on_thread_park`), in which completions are collected and doorbells rung. Ringing for each push
//! instead would cost a sixth of the throughput.
//!
//! There is one edge thread; `packaging/doc/performance.md` gives the reasons.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{oneshot, watch};

use crate::dispatch::Dispatcher;
use crate::http::{
    Server, Settings, log_failed_handshake, log_rejected_header, refuse_lost_request, refuse_plain_http,
    resume, serve, serve_negotiated,
};
use crate::journal::daemon_log;
use crate::link::Link;
use crate::net::{
    Adopted, ClientStream, ConnectionLimits, ConnectionTotals, ConnectionTracker, DetachedConnection,
    FailedHandshake, HandshakeOutcome, HandshakeThreads, Listener, ListenerTls, NewConnection, ProxyProtocol,
    StoredConnection, TrustedPeers, accept,
};
use crate::tls::TlsContext;

/// Maximum number of ready sockets that one turn handles. With thousands of busy connections, the state
/// of a connection is then still in the processor's cache when its response comes: 4,096 connections
/// take 0.85 of the CPU time that turns of up to 1,024 sockets take.
const MAX_EVENTS: usize = 48;

/// Number of task polls after which tokio checks for IO in the middle of a turn, which then handles
/// further sockets. More than twice [`MAX_EVENTS`], because a request takes two polls. A larger interval
/// delays small requests beside many large uploads, whose tasks are always ready.
const EVENT_INTERVAL: u32 = 192;

/// Minimum time of a drain, in which waiting requests are answered 503.
const MIN_DRAIN: Duration = Duration::from_millis(100);

/// Time allowed at shutdown for blocking file operations to end. A stuck disk must not hold up the
/// exit.
const BLOCKING_TIMEOUT: Duration = Duration::from_millis(100);

/// A handle to the edge thread. Dropping the handle ends the thread; [`Edge::stop`] also waits for
/// the end.
#[derive(Debug)]
pub struct Edge {
    runtime: Handle,
    dispatcher: &'static Dispatcher,
    connections: Arc<ConnectionTracker>,
    server: SharedServer,
    stop_accepting: watch::Sender<bool>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// The names of the listeners, by index.
    listener_names: Vec<String>,
    /// The PROXY protocol of each listener, by its name.
    proxy_protocols: Vec<(String, Arc<ProxyProtocol>)>,
    /// The TLS settings of each listener, by its name.
    listener_tls: Vec<(String, Arc<ListenerTls>)>,
    /// The running drain.
    drain: Option<tokio::task::AbortHandle>,
}

/// The server of new connections. A reload replaces it.
type SharedServer = Arc<RwLock<Arc<Server>>>;

/// A message from the edge to `run`.
#[derive(Debug)]
pub enum EdgeNotice {
    /// After [`Edge::drain`]: no connection is left.
    Drained,
    /// A listener failed for good.
    AcceptFailed {
        /// The listener's name.
        listener: String,
        /// The error of `accept4(2)`.
        error: io::Error,
    },
}

impl Edge {
    /// Starts the thread, which accepts at once, and also serves the connections of the previous
    /// daemon (`stored`).
    ///
    /// # Errors
    /// The runtime, the pool of TLS threads or the thread cannot be created, or the doorbell cannot
    /// be watched.
    pub fn start(
        listeners: Vec<Listener>,
        stored: Vec<StoredConnection>,
        dispatcher: &'static Dispatcher,
        connections: Arc<ConnectionTracker>,
        server: Arc<Server>,
        notice: impl Fn(EdgeNotice) + Clone + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let clock = Arc::clone(&connections);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(EVENT_INTERVAL)
            .max_io_events_per_tick(MAX_EVENTS)
            // Names tokio's threads for blocking file operations.
            .thread_name("disk")
            .on_thread_park(move || dispatcher.before_park())
            .on_thread_unpark(move || {
                dispatcher.after_park();
                clock.tick();
            })
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (stop_accepting, is_stopping) = watch::channel(false);
        let server = Arc::new(RwLock::new(server));
        let listener_names = listeners.iter().map(|listener| listener.name.clone()).collect();
        let proxy_protocols = listeners
            .iter()
            .map(|listener| (listener.name.clone(), Arc::clone(&listener.proxy_protocol)))
            .collect();
        let listener_tls =
            listeners.iter().map(|listener| (listener.name.clone(), Arc::clone(&listener.tls))).collect();
        let edge_thread = EdgeThread {
            dispatcher,
            connections: Arc::clone(&connections),
            server: Arc::clone(&server),
            handshakes: Arc::new(HandshakeThreads::new()?),
            doorbell: watch_doorbell(&runtime, dispatcher.reactor().doorbell_fd())?,
            stop_accepting: is_stopping,
            stopped,
        };
        let thread = std::thread::Builder::new()
            .name("edge".to_owned())
            .spawn(move || edge_thread.run(runtime, listeners, stored, &notice))?;
        Ok(Self {
            runtime: handle,
            dispatcher,
            connections,
            server,
            stop_accepting,
            stop: Some(stop),
            thread: Some(thread),
            listener_names,
            proxy_protocols,
            listener_tls,
            drain: None,
        })
    }

    /// Changes the settings. Those of HTTP and TLS apply to new connections, the limits to all.
    /// `tls` returns the TLS settings of the listener with the given name, or `None` if it has no
    /// TLS. `proxy_senders` returns the peers that may send a PROXY header to that listener, or
    /// `None` if its connections have no header.
    pub fn reconfigure(
        &self,
        settings: Settings,
        limits: ConnectionLimits,
        tls: impl Fn(&str) -> Option<Arc<TlsContext>>,
        proxy_senders: impl Fn(&str) -> Option<TrustedPeers>,
    ) {
        for (name, slot) in &self.listener_tls {
            slot.set(tls(name));
        }
        for (name, protocol) in &self.proxy_protocols {
            protocol.set(proxy_senders(name));
        }
        let mut server = self.server.write().unwrap_or_else(PoisonError::into_inner);
        *server = server.with_settings(settings);
        self.connections.set_limits(limits);
    }

    /// Adds a booting worker and starts to serve its rings and its socket.
    pub fn attach(&self, link: Link) {
        let (worker, control) = (link.worker, Arc::clone(&link.control));
        self.dispatcher.attach(link);
        let dispatcher = self.dispatcher;
        self.runtime.spawn(async move {
            let socket = match register(control) {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::error!(%error, "cannot watch the worker socket of {worker}, detaching it");
                    return dispatcher.detach(worker);
                }
            };
            loop {
                let Ok(mut ready) = socket.readable().await else { return };
                if !dispatcher.read_reports(worker) {
                    return;
                }
                ready.clear_ready();
            }
        });
    }

    /// Stops accepting and lets the connections finish; [`EdgeNotice::Drained`] follows when none
    /// is left. The remaining connections are closed at the deadline. A further call replaces all
    /// arguments of the first, and restarts its time.
    ///
    /// Up to `hand_over` connections are detached instead of closed as soon as they are idle, for
    /// [`Edge::take_detached`]. Requests that have not started at half of the time, or that no worker
    /// can serve, are detached with theirs, if `has_next_daemon` returns true, which is called repeatedly.
    /// Requests that have not started at four fifths of the time are answered 503.
    pub fn drain(
        &mut self,
        deadline: Instant,
        hand_over: usize,
        mut has_next_daemon: impl FnMut() -> bool + Send + 'static,
        notice: impl Fn(EdgeNotice) + Send + 'static,
    ) {
        if let Some(earlier) = self.drain.take() {
            earlier.abort();
        }
        self.connections.begin_drain(hand_over);
        self.stop_accepting.send_replace(true);
        let (accepting, connections) = (self.stop_accepting.clone(), Arc::clone(&self.connections));
        let (dispatcher, now) = (self.dispatcher, Instant::now());
        let time = deadline.saturating_duration_since(now);
        // A request that starts after that has less than half of the time.
        let move_at = now + time / 2;
        let reject_at = now + time * 4 / 5;
        let deadline = deadline.max(now + MIN_DRAIN);
        let moves_requests = move || {
            let is_time = Instant::now() >= move_at || dispatcher.load().workers == 0;
            hand_over > 0 && is_time && has_next_daemon()
        };
        let task = self.runtime.spawn(async move {
            accepting.closed().await;
            let drained = connections.drain(deadline, moves_requests);
            tokio::select! {
                () = drained => notice(EdgeNotice::Drained),
                () = dispatcher.reject_waiting_from(reject_at) => {}
            }
        });
        self.drain = Some(task.abort_handle());
    }

    /// Returns what [`ConnectionTracker::unused_for`] returns.
    pub fn unused_for(&self) -> Option<Duration> {
        self.connections.unused_for()
    }

    /// Returns what [`ConnectionTracker::totals`] returns.
    pub fn connection_totals(&self) -> ConnectionTotals {
        self.connections.totals()
    }

    /// Takes the connections that the drain has detached.
    pub fn take_detached(&self) -> Vec<DetachedConnection> {
        self.connections.take_detached()
    }

    /// Returns the names of the listeners by index.
    pub fn listener_names(&self) -> &[String] {
        &self.listener_names
    }

    /// Pings the thread. The returned receiver resolves once a task has run on the reactor and has
    /// taken the dispatcher's lock. That shows that the daemon is alive: systemd's watchdog may be
    /// pinged.
    pub fn ping(&self) -> oneshot::Receiver<()> {
        let (answer, ping) = oneshot::channel();
        let dispatcher = self.dispatcher;
        self.runtime.spawn(async move {
            dispatcher.load();
            // Fails when the caller's timeout has passed.
            let _ = answer.send(());
        });
        ping
    }

    /// Ends the thread and waits for it.
    pub fn stop(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has aborted the process.
            drop(thread.join());
        }
    }
}

/// The values that the edge thread owns.
struct EdgeThread {
    dispatcher: &'static Dispatcher,
    connections: Arc<ConnectionTracker>,
    server: SharedServer,
    handshakes: Arc<HandshakeThreads>,
    /// Registered with the reactor, which the doorbell wakes.
    doorbell: AsyncFd<Arc<OwnedFd>>,
    /// True while draining. The accept loops hold clones: when the last is gone, nothing is
    /// accepted any more.
    stop_accepting: watch::Receiver<bool>,
    /// Resolves when the thread is to end.
    stopped: oneshot::Receiver<()>,
}

impl EdgeThread {
    fn run(
        self,
        runtime: Runtime,
        listeners: Vec<Listener>,
        stored: Vec<StoredConnection>,
        notice: &(impl Fn(EdgeNotice) + Clone + Send + Sync + 'static),
    ) {
        let _guard = AbortOnPanic;
        runtime.block_on(self.serve(listeners, stored, notice));
        runtime.shutdown_timeout(BLOCKING_TIMEOUT);
    }

    async fn serve(
        self,
        listeners: Vec<Listener>,
        stored: Vec<StoredConnection>,
        notice: &(impl Fn(EdgeNotice) + Clone + Send + Sync + 'static),
    ) {
        // The doorbell stays registered until the thread ends.
        let Self {
            dispatcher,
            connections,
            server,
            handshakes,
            doorbell: _doorbell,
            stop_accepting,
            stopped,
        } = self;
        let mut timers = tokio::spawn(dispatcher.run_timers());
        let mut sweeper = tokio::spawn(Arc::clone(&connections).sweep());
        for stored in stored {
            adopt(&server, &connections, stored);
        }
        for (index, listener) in listeners.into_iter().enumerate() {
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            let (server, connections) = (Arc::clone(&server), Arc::clone(&connections));
            let (stop, notice, handshakes) =
                (stop_accepting.clone(), notice.clone(), Arc::clone(&handshakes));
            tokio::spawn(async move {
                let current = Arc::clone(&server);
                let reject = move |rejected| log_rejected_header(&current_server(&current), rejected);
                let serve_one = move |connection: NewConnection| {
                    let server = current_server(&server);
                    match connection.tls() {
                        None => drop(tokio::spawn(serve(server, connection.into_stream()))),
                        Some(tls) => {
                            let tls = Arc::clone(tls);
                            tokio::spawn(serve_tls(server, connection, tls, Arc::clone(&handshakes)));
                        }
                    }
                };
                if let Err(error) = accept(&listener, index, &connections, stop, serve_one, reject).await {
                    notice(EdgeNotice::AcceptFailed { listener: listener.name.clone(), error });
                }
            });
        }
        drop(stop_accepting);
        let ended = tokio::select! {
            // `Err` if the `Edge` was dropped, which also ends the thread.
            _ = stopped => return,
            ended = &mut timers => ended,
            ended = &mut sweeper => ended,
        };
        // A panic in a connection's task ends that connection only. Without either of these two
        // tasks, timeouts would no longer work.
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Registers the doorbell with a runtime, so that the doorbell wakes the reactor. The registration
/// is edge-triggered, so the doorbell need not be read.
fn watch_doorbell(runtime: &Runtime, doorbell: BorrowedFd<'_>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    let _entered = runtime.enter();
    register(Arc::new(doorbell.try_clone_to_owned()?))
}

/// Returns the server of new connections.
fn current_server(shared: &SharedServer) -> Arc<Server> {
    Arc::clone(&shared.read().unwrap_or_else(PoisonError::into_inner))
}

/// Serves a connection of the previous daemon, or closes it in an orderly way.
fn adopt(server: &SharedServer, connections: &ConnectionTracker, stored: StoredConnection) {
    let server = current_server(server);
    match connections.adopt(stored) {
        Ok(Adopted::Resumed(stream, unread)) => drop(tokio::spawn(resume(server, stream, unread))),
        Ok(Adopted::Refused(stream)) => drop(tokio::spawn(refuse_lost_request(server, stream))),
        Ok(Adopted::Idle(stream)) => drop(tokio::spawn(shut_down(stream))),
        Err(error) => tracing::debug!(%error, "cannot take over a connection, closing it"),
    }
}

async fn shut_down(mut stream: ClientStream) {
    if let Err(error) = stream.shutdown().await {
        tracing::debug!(%error, "cannot shut down a connection, closing it");
    }
}

/// Performs the TLS handshake of a connection and serves it.
async fn serve_tls(
    server: Arc<Server>,
    connection: NewConnection,
    tls: Arc<TlsContext>,
    threads: Arc<HandshakeThreads>,
) {
    let client = connection.connection().peer.address.clone();
    // Boxed, so that the future takes up no room while requests are served.
    match Box::pin(connection.handshake(&tls, &threads)).await {
        Ok(HandshakeOutcome::Complete(stream)) => {
            drop((tls, threads));
            serve_negotiated(server, stream).await;
        }
        Ok(HandshakeOutcome::PlainHttp(stream)) => refuse_plain_http(server, stream).await,
        Err(FailedHandshake { reason, stream }) => {
            log_failed_handshake(&server, client, reason);
            if let Some(stream) = stream {
                shut_down(stream).await;
            }
        }
    }
}

/// Aborts the process when the edge thread panics, because the daemon would look alive and serve
/// nothing. The workers end with the daemon, and systemd restarts it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the edge thread panicked, which is a bug in rgun; aborting");
            daemon_log::flush();
            std::process::abort();
        }
    }
}

/// Registers a descriptor with the current reactor, for reading.
///
/// # Errors
/// The error of `epoll_ctl(2)`.
pub(crate) fn register(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    register_for(fd, Interest::READABLE)
}

/// Registers a descriptor with the current reactor, for these events.
///
/// # Errors
/// The error of `epoll_ctl(2)`.
pub(crate) fn register_for(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    #[expect(unsafe_code, reason = "the descriptor must stay open and the same")]
    // SAFETY: an `OwnedFd` is open for as long as it exists, the `Arc` in the `AsyncFd` keeps it in
    // existence, and `as_raw_fd` of it never changes.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn doorbell_that_epoll_refuses_fails_the_start() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        // epoll_ctl(2) refuses regular files.
        let file = std::fs::File::open("/proc/self/exe").expect("a regular file");
        let error = watch_doorbell(&runtime, file.as_fd()).expect_err("a file has no readiness");
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EPERM as i32));
    }
}
