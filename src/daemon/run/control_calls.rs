//! The methods of the control socket, as the main loop performs them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::stack_dumps::DumpReason;
use super::{Daemon, metrics};
use crate::control::{
    Call, CallFault, DrainReply, Method, ReplySender, Request, RequestState, RequestsReply, ScaleReply,
    StatusReply, WorkerEntry, WorkersReply,
};
use crate::dispatch::{ActiveRequest, WorkerLoadSummary};
use crate::escape::{LineFeeds, escape};
use crate::id::{WorkerId, WorkerNr};
use crate::supervise::{Event, WorkerSnapshot, WorkerState};

/// Maximum number of characters of a method or path in a reply.
const MAX_TEXT_CHARS: usize = 1000;

impl Daemon {
    /// Performs a call. Returns the events that follow from it.
    pub(super) fn on_call(&mut self, call: Call) -> Vec<Event> {
        let Call { method, replies } = call;
        match method {
            Method::Status => replies.finish(&self.status_reply()),
            Method::Workers => replies.finish(&self.workers_reply()),
            Method::Requests { limit } => replies.finish(&self.requests_reply(limit)),
            Method::ListMetrics => replies.finish_all(&self.metrics()),
            Method::DescribeMetrics => replies.finish_all(&metrics::families()),
            Method::Stacks { worker } => return self.request_stacks_for(worker, replies),
            _ if self.supervisor.is_stopping() => replies.fail(CallFault::Stopping {}),
            Method::Reload => return self.reload(Some(replies)),
            Method::Scale { workers } => {
                replies.finish(&ScaleReply { workers });
                return vec![Event::SetCount { to: workers }];
            }
            Method::Drain { enable } => return self.set_draining(enable, replies),
        }
        Vec::new()
    }

    /// Returns the state of the service.
    pub(super) fn status_reply(&mut self) -> StatusReply {
        // This also reads the load again, if the last reading is older than `STATUS_INTERVAL`.
        self.send_status();
        let snapshot = self.supervisor.snapshot();
        let load = self.dispatcher.load();
        let responses = self.dispatcher.total_responses();
        StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            status: self.status.line().to_owned(),
            generation: snapshot.generation.0,
            pending_generation: snapshot.pending.map(|generation| generation.0),
            draining: self.supervisor.is_draining(),
            unavailable: snapshot.unavailable.as_deref().map(printable),
            workers_ready: snapshot.ready,
            workers_desired: snapshot.desired,
            running: load.assigned,
            queued: load.queued,
            slots: load.slots,
            wait_p95_usec: micros(self.status.wait_p95()),
            responses: responses.answered,
            failed_responses: responses.failed,
            workers_spawned: snapshot.spawned,
            boot_failures: snapshot.boot_failures,
            worker_crashes: snapshot.crashes,
        }
    }

    fn workers_reply(&mut self) -> WorkersReply {
        let loads: HashMap<WorkerId, WorkerLoadSummary> =
            self.dispatcher.worker_loads().into_iter().map(|load| (load.worker, load)).collect();
        let now = Instant::now();
        let worker = |snapshot: &WorkerSnapshot| {
            let id = snapshot.worker;
            let load = loads.get(&id);
            let responses = load.map(|load| load.responses).unwrap_or_default();
            WorkerEntry {
                number: (id.number != WorkerNr::ZYGOTE).then_some(id.number.0),
                pid: snapshot.pid,
                generation: snapshot.generation.0,
                state: snapshot.state.as_str().to_owned(),
                state_usec: micros(now.saturating_duration_since(snapshot.since)),
                running: load.map_or(0, |load| load.running),
                slots: load.map_or(0, |load| load.slots),
                websockets: load.map_or(0, |load| load.websockets),
                responses: responses.answered,
                failed_responses: responses.failed,
                memory: self.pool.memory_usage(id),
            }
        };
        WorkersReply { workers: self.supervisor.snapshot().workers.iter().map(worker).collect() }
    }

    fn requests_reply(&self, limit: usize) -> RequestsReply {
        let (requests, total) = self.dispatcher.active_requests(limit);
        RequestsReply { requests: requests.into_iter().map(to_request).collect(), total }
    }

    /// Requests the stacks of the workers with this number; `None`: of all workers. The reply is sent
    /// when all of them have answered or cannot answer.
    fn request_stacks_for(&mut self, number: Option<u16>, replies: ReplySender) -> Vec<Event> {
        let has_stacks = |worker: &&WorkerSnapshot| {
            matches!(worker.state, WorkerState::Ready | WorkerState::Retiring)
                && number.is_none_or(|number| worker.worker.number.0 == number)
        };
        let snapshot = self.supervisor.snapshot();
        let workers: Vec<WorkerId> =
            snapshot.workers.iter().filter(has_stacks).map(|worker| worker.worker).collect();
        if let (Some(worker), []) = (number, workers.as_slice()) {
            replies.fail(CallFault::NoSuchWorker { worker });
            return Vec::new();
        }
        self.control.stack_calls.add(workers.clone(), replies);
        workers.into_iter().flat_map(|worker| self.request_stacks(worker, DumpReason::Operator)).collect()
    }

    /// Makes health checks get 503, so that load balancers send no more requests, or ends that.
    fn set_draining(&self, enable: bool, replies: ReplySender) -> Vec<Event> {
        if enable && self.generations.live().health.path.is_none() {
            replies.fail(CallFault::NoHealthCheck {});
            return Vec::new();
        }
        if enable != self.supervisor.is_draining() {
            if enable {
                tracing::info!(
                    "drained by the operator: health checks get 503 until rgun drain --undo or a restart"
                );
            } else {
                tracing::info!("no longer drained: health checks get 200 while a worker can serve");
            }
        }
        replies.finish(&DrainReply { draining: enable });
        vec![Event::SetDraining { enable }]
    }
}

fn to_request(request: ActiveRequest) -> Request {
    let ActiveRequest { request_id, method, path, client, worker, is_running, elapsed } = request;
    Request {
        id: printable(&request_id),
        method: printable(&method),
        path: printable(&path.to_string()),
        client: client.as_deref().map(printable),
        state: if is_running { RequestState::Running } else { RequestState::Queued },
        worker: worker.map(|worker| worker.number.0),
        elapsed_usec: micros(elapsed),
    }
}

/// Escapes a text that a client sent, and shortens it to [`MAX_TEXT_CHARS`].
fn printable(text: &str) -> String {
    let escaped = escape(text, LineFeeds::Escape);
    match escaped.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}...", &escaped[..end]),
        None => escaped.into_owned(),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
