//! The dispatcher and its state: what there is. What happens to it is in the files above, a part of it in each.
//!
//! The state is behind one mutex that only the reactor's thread takes in the ordinary course (an
//! uncontended lock is two atomic operations; a `RefCell` would tie every connection task to a `LocalSet`,
//! whose wake-ups do not keep the reactor from parking).

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rgun_channel::layout::Geometry;
use tokio::sync::Notify;

use crate::id::WorkerId;

use super::admission::quarantine::Quarantine;
use super::admission::queue::Queue;
use super::admission::rules::Rules;
use super::data::Buffers;
use super::exchange::table::ExchangeTable;
use super::load_stats::LoadStats;
use super::notice::{NoticeSink, RequestInfo};
use super::policy::Policy;
use super::reactor::Reactor;
use super::slow_clients::spill::SlowClients;
use super::tick_rate::TickRate;
use super::worker::Worker;

/// The queue, the exchanges and the workers' channels.
pub struct Dispatcher {
    pub(super) reactor: Reactor,
    pub(super) notice: NoticeSink,
    /// Wakes the housekeeper when there is something to watch again.
    pub(super) timer_wakeup: Notify,
    /// Of the worker that was admitted last: [`UNKNOWN`], [`WSGI`] or [`ASGI`].
    pub(super) interface: AtomicU8,
    /// It is known, or for now there is nothing to wait for.
    pub(super) interface_known: Notify,
    pub(super) buffers: &'static Buffers,
    pub(super) state: Mutex<State>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

pub(super) struct State {
    pub(super) policy: Policy,
    pub(super) workers: Vec<Option<Worker>>,
    pub(super) exchanges: ExchangeTable,
    pub(super) queue: Queue,
    /// The policy's, with who has a permit and who waits for one.
    pub(super) rules: Rules,
    pub(super) quarantine: Quarantine,
    pub(super) load_stats: LoadStats,
    /// Why nobody will serve soon; requests are then refused instead of queued.
    pub(super) unavailable: Option<Arc<str>>,
    /// [`Notice::Wanted`](super::Notice::Wanted) has been told, and nobody admitted since.
    pub(super) worker_requested: bool,
    /// Frames popped from a completion ring land here.
    pub(super) completion_frame: Vec<u8>,
    /// The longest frame that fits every worker's ring.
    pub(super) max_frame: usize,
    /// Submissions since the last end of a turn, to bound how long a doorbell can be deferred.
    pub(super) unrung_submissions: u32,
    pub(super) tick_rate: TickRate,
    pub(super) slow_clients: SlowClients,
}

/// No worker has been admitted yet.
pub(super) const UNKNOWN: u8 = 0;
pub(super) const WSGI: u8 = 1;
pub(super) const ASGI: u8 = 2;

/// What is going on, for STATUS= and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadSummary {
    /// Requests waiting, for a worker or by a rule of their path.
    pub queued: usize,
    /// Requests given to a worker.
    pub running: usize,
    /// Workers that take requests.
    pub workers: usize,
}

impl Dispatcher {
    /// A dispatcher without workers. Leaked: a daemon has one for as long as it lives, and each request refers to it.
    pub fn new(policy: Policy, reactor: Reactor, notice: NoticeSink) -> &'static Self {
        let now = Instant::now();
        let buffers: &'static Buffers = Box::leak(Box::default());
        buffers.set_limits(&policy);
        Box::leak(Box::new(Self {
            buffers,
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
                load_stats: LoadStats::new(now),
                unavailable: None,
                worker_requested: false,
                completion_frame: Vec::with_capacity(64 * 1024),
                max_frame: Geometry::standard(1).max_submission_frame(),
                unrung_submissions: 0,
                tick_rate: TickRate::Idle,
                slow_clients: SlowClients::new(now),
            }),
        }))
    }

    /// The reactor's page and doorbell, for a new worker.
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// Are requests to be submitted as ASGI workers take them: with a large body that comes in parts?
    pub fn is_asgi(&self) -> bool {
        self.interface.load(Ordering::Relaxed) == ASGI
    }

    /// Waits until a worker has been admitted for the first time, so that [`Dispatcher::is_asgi`] is true or false; but
    /// not for longer than a request may wait, nor when it is known that nobody will serve soon.
    pub async fn wait_for_interface(&self) {
        let patience = self.lock().policy.queue_timeout;
        let known = async {
            loop {
                let known = self.interface_known.notified();
                let is_hopeless = || self.lock().unavailable.is_some();
                if self.interface.load(Ordering::Relaxed) != UNKNOWN || is_hopeless() {
                    return;
                }
                known.await;
            }
        };
        match patience {
            // Who submits then is told.
            Some(patience) => drop(tokio::time::timeout(patience, known).await),
            None => known.await,
        }
    }

    /// Is the handshake of a WebSocket to be submitted as one? Also while no worker has been admitted: if the
    /// application turns out to be WSGI, it is made an ordinary request.
    pub fn accepts_handshakes(&self) -> bool {
        self.interface.load(Ordering::Relaxed) != WSGI
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock is a bug of ours; the state's invariants are re-established by every
        // method before it can panic, and a daemon that goes on beats one that refuses everybody.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is going on.
    pub fn load(&self) -> LoadSummary {
        let state = self.lock();
        LoadSummary {
            queued: state.n_waiting(),
            running: state.workers.iter().flatten().map(Worker::n_running).sum(),
            workers: state.workers.iter().flatten().filter(|worker| worker.is_open()).count(),
        }
    }

    /// What has started in this worker, in the order in which it was given.
    pub fn running_requests(&self, worker: WorkerId) -> Vec<RequestInfo> {
        let state = self.lock();
        let Some(worker) = state.worker_index(worker).and_then(|index| state.workers[index].as_ref()) else {
            return Vec::new();
        };
        let now = Instant::now();
        let exchanges = worker.claimed().filter_map(|id| state.exchanges.get(id));
        exchanges.map(|exchange| exchange.request_info(worker.thread_of(exchange.id), now)).collect()
    }
}

impl State {
    pub(super) fn worker_index(&self, id: WorkerId) -> Option<usize> {
        self.workers.iter().position(|worker| worker.as_ref().is_some_and(|worker| worker.id == id))
    }

    /// Does anybody take requests?
    pub(super) fn has_open_worker(&self) -> bool {
        self.workers.iter().flatten().any(Worker::is_open)
    }

    pub(super) fn n_waiting(&self) -> usize {
        self.queue.len() + self.rules.n_held()
    }
}
