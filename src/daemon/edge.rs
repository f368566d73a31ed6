//! The edge thread: one reactor that accepts, speaks HTTP, dispatches, and serves the workers' rings.
//!
//! `run` starts it and talks to it through [`Edge`]. The reactor is a tokio `current_thread` runtime, because
//! only that has a hook at the end of each turn (`on_thread_park`), where completions are collected and
//! doorbells rung: per push they cost a sixth of the throughput.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

use crate::dispatch::{Dispatcher, Link};
use crate::http::{Server, serve};
use crate::journal::daemon_log;
use crate::net::{ConnectionTracker, Listener, accept};

/// How often tokio looks for IO while tasks are runnable; its default of 61 polls would let completions wait.
const EVENT_INTERVAL: u32 = 31;

/// The thread and its handles.
#[derive(Debug)]
pub struct Edge {
    runtime: Handle,
    dispatcher: &'static Dispatcher,
    connections: Arc<ConnectionTracker>,
    /// Serves the connections that begin now.
    server: Arc<RwLock<Arc<Server>>>,
    stop_accepting: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    drain: Option<tokio::task::AbortHandle>,
}

/// What the edge tells the supervisor, through `run`.
#[derive(Debug)]
pub enum EdgeNotice {
    /// After [`Edge::drain`]: no connection is left.
    Drained,
    /// A listener cannot accept any more.
    AcceptFailed {
        /// Which.
        listener: String,
        /// Why.
        error: io::Error,
    },
}

impl Edge {
    /// Starts the thread; it accepts at once.
    ///
    /// # Errors
    /// When the runtime or the thread cannot be made.
    pub fn start(
        listeners: Vec<Listener>,
        dispatcher: &'static Dispatcher,
        connections: Arc<ConnectionTracker>,
        server: Arc<Server>,
        notice: impl Fn(EdgeNotice) + Clone + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let clock = connections.clone();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(EVENT_INTERVAL)
            .on_thread_park(move || dispatcher.before_park())
            .on_thread_unpark(move || {
                dispatcher.after_park();
                clock.tick();
            })
            .build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let (stop_accepting, stop) = watch::channel(false);
        let doorbell = dispatcher.reactor().doorbell_fd().try_clone_to_owned()?;
        let server = Arc::new(RwLock::new(server));
        let current = Arc::clone(&server);
        let registry = connections.clone();
        let thread = std::thread::Builder::new().name("edge".to_owned()).spawn(move || {
            let _guard = AbortOnPanic;
            runtime.block_on(async move {
                // Registered, never read: a ring is an edge, and an edge wakes the reactor.
                let _doorbell = match register(Arc::new(doorbell)) {
                    Ok(registered) => registered,
                    Err(error) => {
                        tracing::error!(%error, "cannot watch the doorbell");
                        return;
                    }
                };
                let mut keeper = tokio::spawn(dispatcher.run_timers());
                let mut sweeper = tokio::spawn(registry.clone().sweep());
                for (index, listener) in listeners.into_iter().enumerate() {
                    let index = u16::try_from(index).unwrap_or(u16::MAX);
                    let (current, registry) = (Arc::clone(&current), registry.clone());
                    let (stop, notice) = (stop.clone(), notice.clone());
                    tokio::spawn(async move {
                        let serve_one = |stream| {
                            let server = Arc::clone(&current.read().unwrap_or_else(PoisonError::into_inner));
                            tokio::spawn(serve(server, stream));
                        };
                        if let Err(error) = accept(&listener, index, &registry, stop, serve_one).await {
                            notice(EdgeNotice::AcceptFailed { listener: listener.name.clone(), error });
                        }
                    });
                }
                // The last receivers are the accept loops': the drain waits for their end.
                drop(stop);
                let broken = tokio::select! {
                    // Ends when the handle is dropped, too.
                    _either_way = ended => return,
                    broken = &mut keeper => broken,
                    broken = &mut sweeper => broken,
                };
                // A connection's panic is its own; without these two nobody looks at the clock any more.
                if let Err(error) = broken {
                    std::panic::resume_unwind(error.into_panic());
                }
            });
            // Blocking reads of a stuck disk must not hold up the exit.
            runtime.shutdown_timeout(Duration::from_millis(100));
        })?;
        Ok(Self {
            runtime: handle,
            dispatcher,
            connections,
            server,
            stop_accepting,
            stop: Some(end),
            thread: Some(thread),
            drain: None,
        })
    }

    /// Connections that begin from now on are served by this.
    pub fn serve_with(&self, server: Arc<Server>) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Adds a booting worker: its rings and its control socket are served from now on.
    pub fn attach(&self, link: Link) {
        let (worker, control) = (link.worker, Arc::clone(&link.control));
        self.dispatcher.attach(link);
        let dispatcher = self.dispatcher;
        self.runtime.spawn(async move {
            let socket = match register(control) {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::error!(%error, "cannot watch a worker's control socket");
                    return dispatcher.detach(worker);
                }
            };
            loop {
                let Ok(mut ready) = socket.readable().await else { return };
                if !dispatcher.pump_control(worker) {
                    return;
                }
                ready.clear_ready();
            }
        });
    }

    /// Stops accepting and lets the connections finish; [`EdgeNotice::Drained`] follows when none is left. At
    /// the deadline those that are left are broken. Called again, only the deadline changes.
    pub fn drain(&mut self, deadline: Instant, notice: impl Fn(EdgeNotice) + Send + 'static) {
        if let Some(earlier) = self.drain.take() {
            earlier.abort();
        }
        self.connections.begin_drain();
        self.stop_accepting.send_replace(true);
        let (accepting, connections) = (self.stop_accepting.clone(), Arc::clone(&self.connections));
        let task = self.runtime.spawn(async move {
            accepting.closed().await;
            connections.drain(deadline).await;
            notice(EdgeNotice::Drained);
        });
        self.drain = Some(task.abort_handle());
    }

    /// Resolves when the reactor has had a turn and the dispatcher's state is not held up: what systemd's
    /// watchdog is told depends on it.
    pub fn ping(&self) -> oneshot::Receiver<()> {
        let (answer, pulse) = oneshot::channel();
        let dispatcher = self.dispatcher;
        self.runtime.spawn(async move {
            dispatcher.load();
            // Nobody waits any more: then it came too late, which is what the asker is told by that.
            let _too_late = answer.send(());
        });
        pulse
    }

    /// Ends the thread.
    pub fn stop(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the edge thread panicked");
        }
    }
}

/// Ends the process when the edge thread panics: nothing would be served any more, by a daemon that looks alive.
/// Whoever supervises it starts it anew, and the workers die with it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the edge thread panicked, which is a bug of rgun's; aborting");
            daemon_log::flush();
            std::process::abort();
        }
    }
}

/// Registers a descriptor with the reactor this is called on, for reading.
///
/// # Errors
/// What `epoll_ctl(2)` says.
pub(crate) fn register(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
    // SAFETY: an `OwnedFd` is open for as long as it exists, the `Arc` in the `AsyncFd` keeps it in existence,
    // and `as_raw_fd` of it never changes.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}
