//! The requests and workers at one moment, for the control socket.

use std::time::{Duration, Instant};

use rgun_channel::frame::{ExchangeId, Request};

use crate::escape::RequestPath;
use crate::id::WorkerId;
use crate::supervise::ResponseStats;

use super::exchange::{Exchange, ExchangeState};
use super::wait_histogram::WaitTotals;
use super::{Dispatcher, State};

/// A request that is queued or running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveRequest {
    /// The id of the request in the response and in the journal.
    pub request_id: String,
    /// The request method.
    pub method: String,
    /// The path as sent, without the query.
    pub path: RequestPath,
    /// The client's address; `None` on a unix socket.
    pub client: Option<String>,
    /// The worker that has the request; `None` while it is in the queue or held by a path rule.
    pub worker: Option<WorkerId>,
    /// Whether the worker has claimed the request.
    pub is_running: bool,
    /// Time since the worker got the request; without a worker, since the request was submitted.
    pub elapsed: Duration,
}

/// The load of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerLoadSummary {
    /// The worker.
    pub worker: WorkerId,
    /// Requests that occupy a slot.
    pub running: usize,
    /// Requests that can run at the same time.
    pub slots: usize,
    /// WebSockets that occupy no slot.
    pub websockets: usize,
    /// The responses since the worker was admitted.
    pub responses: ResponseStats,
}

/// An exchange in a snapshot, before its request is decoded.
struct SnapshotEntry {
    id: ExchangeId,
    worker: Option<WorkerId>,
    is_running: bool,
    since: Instant,
}

impl Dispatcher {
    /// Returns the `limit` requests that have been queued or running for the longest time, the
    /// longest first, and the number of all queued or running requests.
    pub fn active_requests(&self, limit: usize) -> (Vec<ActiveRequest>, usize) {
        let state = self.lock();
        let mut entries: Vec<SnapshotEntry> =
            state.exchanges.iter().filter_map(|exchange| state.entry(exchange)).collect();
        let total = entries.len();
        entries.sort_by_key(|entry| entry.since);
        entries.truncate(limit);
        let now = Instant::now();
        let requests = entries.iter().filter_map(|entry| {
            let exchange = state.exchanges.get(entry.id)?;
            Some(active_request(entry, &exchange.request()?, now))
        });
        (requests.collect(), total)
    }

    /// Returns the load of every attached worker.
    pub fn worker_loads(&self) -> Vec<WorkerLoadSummary> {
        let state = self.lock();
        let workers = state.workers.iter().flatten().map(|worker| WorkerLoadSummary {
            worker: worker.id,
            running: worker.load.n_busy(),
            slots: worker.load.n_slots(),
            websockets: worker.load.n_websockets(),
            responses: worker.responses,
        });
        workers.collect()
    }

    /// Returns the waits of the requests that workers got since the daemon started.
    pub fn wait_totals(&self) -> WaitTotals {
        self.lock().load_stats.waits.totals()
    }

    /// Returns the numbers of all and of failed responses since the daemon started.
    pub fn total_responses(&self) -> ResponseStats {
        let state = self.lock();
        let mut total = state.load_stats.retired_responses;
        for worker in state.workers.iter().flatten() {
            total.answered += worker.responses.answered;
            total.failed += worker.responses.failed;
        }
        total
    }
}

impl State {
    /// Returns the entry of an exchange that is queued, held or in a worker.
    fn entry(&self, exchange: &Exchange) -> Option<SnapshotEntry> {
        let (worker, is_running, since) = match exchange.state {
            ExchangeState::Queued | ExchangeState::Held(_) => (None, false, exchange.submitted_at),
            ExchangeState::Assigned { worker, position } => {
                let worker = self.workers.get(worker)?.as_ref()?;
                let since = exchange.attempt.assigned_at.unwrap_or(exchange.submitted_at);
                (Some(worker.id), worker.has_claimed(position), since)
            }
            ExchangeState::Finished => return None,
        };
        Some(SnapshotEntry { id: exchange.id, worker, is_running, since })
    }
}

fn active_request(entry: &SnapshotEntry, request: &Request<'_>, now: Instant) -> ActiveRequest {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ActiveRequest {
        request_id: text(request.request_id),
        method: text(request.method),
        path: RequestPath::new(request.path),
        client: (!request.peer.is_empty()).then(|| text(request.peer)),
        worker: entry.worker,
        is_running: entry.is_running,
        elapsed: now.saturating_duration_since(entry.since),
    }
}
