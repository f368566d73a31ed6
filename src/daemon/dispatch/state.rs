//! The dispatcher and its state. The other files of `dispatch` add the methods, each for one task.
//!
//! The state is behind one mutex, which usually only the reactor's thread takes. (An uncontended
//! lock is two atomic operations. A `RefCell` would tie every connection task to a `LocalSet`,
//! whose wake-ups do not keep the reactor from parking.)

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rgun_channel::layout::Geometry;
use tokio::sync::Notify;

use crate::id::WorkerId;

use super::admission::client_queue::ClientQueue;
use super::admission::quarantine::Quarantine;
use super::admission::queue::Queue;
use super::admission::rules::Rules;
use super::coalescing::Coalescing;
use super::data::Buffers;
use super::exchange::table::ExchangeTable;
use super::fault::Fault;
use super::gathering::Gathering;
use super::load_stats::LoadStats;
use super::notice::{NoticeSink, RequestInfo};
use super::policy::Policy;
use super::slow_clients::spill::SlowClients;
use super::spin::Spinner;
use super::tick_rate::TickRate;
use super::worker::Worker;
use crate::link::Reactor;
use crate::supervise::Presence;

/// The queue, the exchanges and the workers' channels.
pub struct Dispatcher {
    pub(super) reactor: Reactor,
    pub(super) notice: NoticeSink,
    /// Wakes the timers when they have something to watch again.
    pub(super) timer_wakeup: Notify,
    /// Interface of the last admitted worker: [`UNKNOWN`], [`WSGI`] or [`ASGI`].
    pub(super) interface: AtomicU8,
    /// Notified when the interface becomes known, or when requests are rejected while it is
    /// unknown.
    pub(super) interface_known: Notify,
    /// The memory and disk that the responses of all workers share.
    pub(super) buffers: &'static Buffers,
    /// A file was served without a worker in this turn.
    pub(super) has_served_file: AtomicBool,
    pub(super) state: Mutex<State>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

/// Everything that the dispatcher's lock protects.
pub(super) struct State {
    pub(super) policy: Policy,
    /// The attached workers. A worker keeps its index; `None` is free.
    pub(super) workers: Vec<Option<Worker>>,
    pub(super) exchanges: ExchangeTable,
    pub(super) queue: Queue,
    /// The path rules, with the permits in use and the exchanges held.
    pub(super) rules: Rules,
    pub(super) quarantine: Quarantine,
    pub(super) client_queue: ClientQueue,
    pub(super) load_stats: LoadStats,
    /// The reason why no worker will serve soon: requests are rejected, not queued. `None` queues
    /// them.
    pub(super) unavailable: Option<Arc<str>>,
    /// The daemon's presence, for health checks.
    pub(super) presence: Presence,
    /// [`Notice::WorkerRequested`](super::Notice::WorkerRequested) was sent, and no worker has been
    /// admitted since.
    pub(super) worker_requested: bool,
    /// Workers prefetch requests; false while memory is short.
    pub(super) prefetches: bool,
    /// The buffer into which completions are popped.
    pub(super) completion_frame: Vec<u8>,
    /// Length in bytes of the longest frame that fits every worker's ring.
    pub(super) max_frame: usize,
    /// Number of submissions since the workers were last woken.
    pub(super) unrung_submissions: u32,
    pub(super) tick_rate: TickRate,
    pub(super) spinner: Spinner,
    pub(super) coalescing: Coalescing,
    pub(super) gathering: Gathering,
    pub(super) slow_clients: SlowClients,
}

/// No worker has been admitted yet.
pub(super) const UNKNOWN: u8 = 0;
pub(super) const WSGI: u8 = 1;
pub(super) const ASGI: u8 = 2;

/// A summary of the load, for STATUS= and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadSummary {
    /// Requests that wait for a worker, or are held by a path rule.
    pub queued: usize,
    /// Requests assigned to a worker: those that run, and prefetched ones.
    pub assigned: usize,
    /// Open workers.
    pub workers: usize,
    /// Requests that the open workers can run at the same time.
    pub slots: usize,
}

impl Dispatcher {
    /// Makes a dispatcher without workers, and leaks it: each request refers to it, and a daemon
    /// never drops it. `cores`: the number of cores that the process may use.
    pub fn new(policy: Policy, cores: usize, reactor: Reactor, notice: NoticeSink) -> &'static Self {
        let now = Instant::now();
        let buffers: &'static Buffers = Box::leak(Box::default());
        buffers.set_limits(&policy);
        Box::leak(Box::new(Self {
            buffers,
            has_served_file: AtomicBool::new(false),
            reactor,
            notice,
            timer_wakeup: Notify::new(),
            interface: AtomicU8::new(UNKNOWN),
            interface_known: Notify::new(),
            state: Mutex::new(State {
                workers: Vec::new(),
                exchanges: ExchangeTable::default(),
                queue: Queue::new(policy.queue_timeout),
                rules: Rules::new(&policy.rules),
                policy,
                quarantine: Quarantine::default(),
                client_queue: ClientQueue::default(),
                load_stats: LoadStats::new(now),
                unavailable: None,
                presence: Presence::default(),
                worker_requested: false,
                prefetches: true,
                completion_frame: Vec::with_capacity(64 * 1024),
                max_frame: Geometry::standard(1).max_submission_frame(),
                unrung_submissions: 0,
                spinner: Spinner::new(cores),
                coalescing: Coalescing::new(cores),
                gathering: Gathering::new(cores),
                tick_rate: TickRate::Idle,
                slow_clients: SlowClients::new(now),
            }),
        }))
    }

    /// Returns the reactor's page and doorbell, for a new worker.
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// Returns whether the application is ASGI, so that large bodies travel in parts.
    pub fn is_asgi(&self) -> bool {
        self.interface.load(Ordering::Relaxed) == ASGI
    }

    /// Waits until the first worker is admitted, which makes the interface known. Returns earlier
    /// if requests are rejected; `submit` then returns the fault.
    ///
    /// # Errors
    /// No worker was admitted within `timeouts.queue`.
    pub async fn wait_for_interface(&self) -> Result<(), Fault> {
        let timeout = self.lock().policy.queue_timeout;
        let interface_known = async {
            loop {
                let notified = self.interface_known.notified();
                let is_rejecting = || self.lock().unavailable.is_some();
                if self.interface.load(Ordering::Relaxed) != UNKNOWN || is_rejecting() {
                    return;
                }
                notified.await;
            }
        };
        let Some(timeout) = timeout else {
            interface_known.await;
            return Ok(());
        };
        tokio::time::timeout(timeout, interface_known).await.map_err(|_| Fault::QueueTimeout)
    }

    /// Returns whether a WebSocket handshake is submitted for an ASGI application. True also while
    /// the interface is unknown: if the application turns out to be WSGI, the handshake becomes the
    /// offer of a takeover.
    pub fn accepts_handshakes(&self) -> bool {
        self.interface.load(Ordering::Relaxed) != WSGI
    }

    /// Makes the timers run every millisecond, until they find that a lower rate will do.
    pub(super) fn tick_fast(&self, tick_rate: &mut TickRate) {
        if *tick_rate != TickRate::Fast {
            *tick_rate = TickRate::Fast;
            self.timer_wakeup.notify_one();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock is a bug. Every method restores the state's invariants before it
        // can panic, and it is better to continue than to reject every request.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a summary of the load.
    pub fn load(&self) -> LoadSummary {
        let state = self.lock();
        let open = state.workers.iter().flatten().filter(|worker| worker.is_open());
        LoadSummary {
            queued: state.n_waiting(),
            assigned: state.workers.iter().flatten().map(|worker| worker.load.n_assigned() as usize).sum(),
            workers: open.clone().count(),
            slots: open.map(|worker| worker.load.n_slots()).sum(),
        }
    }

    /// Returns the wait for a worker that 95 % of the requests assigned since the last call did not
    /// exceed (rounded up, at most twofold).
    pub fn take_wait_p95(&self) -> Duration {
        self.lock().load_stats.waits.take_p95()
    }

    /// Returns the requests that this worker has claimed, in the order of their assignment.
    pub fn running_requests(&self, worker: WorkerId) -> Vec<RequestInfo> {
        let state = self.lock();
        let Some(worker) = state.worker_index(worker).and_then(|index| state.workers[index].as_ref()) else {
            return Vec::new();
        };
        let now = Instant::now();
        let exchanges = worker.claimed().filter_map(|id| state.exchanges.get(id));
        exchanges.map(|exchange| exchange.request_info(worker.channel.thread_of(exchange.id), now)).collect()
    }
}

impl State {
    /// Returns the index of an attached worker.
    pub(super) fn worker_index(&self, id: WorkerId) -> Option<usize> {
        self.workers.iter().position(|worker| worker.as_ref().is_some_and(|worker| worker.id == id))
    }

    /// Returns whether any worker is open.
    pub(super) fn has_open_worker(&self) -> bool {
        self.workers.iter().flatten().any(Worker::is_open)
    }

    /// Returns the number of requests that are queued or held.
    pub(super) fn n_waiting(&self) -> usize {
        self.queue.len() + self.rules.n_held()
    }
}
