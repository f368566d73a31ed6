//! What the dispatcher tells the supervisor, through `run`; and how it names a request to people.

use std::time::Duration;

use rgun_channel::control::Report;
use rgun_channel::frame::ExchangeId;

use crate::escape::RequestPath;
use crate::id::WorkerId;

/// What the dispatcher tells the supervisor, through `run`.
#[derive(Debug)]
pub enum Notice {
    /// The worker said something on its control socket.
    Report(WorkerId, Report),
    /// The worker broke the channel's contract.
    ContractBreached(WorkerId, String),
    /// The worker closed its control socket, which is how every exit begins. Nothing of it is used any more.
    ControlSocketClosed(WorkerId),
    /// This request ran over its deadline in this worker; its client has been answered.
    DeadlineExceeded(WorkerId, RequestInfo),
    /// This request ran over its deadline in this ASGI worker; its client has been answered, and its task is being
    /// cancelled.
    TaskDeadlineExceeded(WorkerId, RequestInfo),
    /// A second later its task has not ended: only the end of the worker ends it.
    CancelIgnored(WorkerId, RequestInfo),
    /// This ASGI worker's event loop has not turned for `timeouts.stall`; for how long. Told once until it turns.
    LoopStalled(WorkerId, Duration),
    /// Nor for as long again: only the end of the worker ends it.
    LoopStuck(WorkerId, Duration),
    /// This request has been running for longer than `log.slow`. Told once of each attempt.
    SlowRequest(WorkerId, RequestInfo),
    /// A retiring worker has no exchange left but those over their deadline.
    Drained(WorkerId),
    /// The worker has served as many requests as its [`Link::max_requests`](super::Link::max_requests) says. Told once.
    MaxRequestsReached(WorkerId, u64),
    /// A request waits and no worker is open. Told once until one is admitted.
    WorkerRequested,
    /// What had started in a worker that is lost, but for what was over its deadline already. Not told when that is
    /// nothing.
    WorkerDied {
        /// The worker.
        worker: WorkerId,
        /// What it had started, in the order in which it was given.
        requests: Vec<RequestInfo>,
    },
    /// Requests of this method and path have ended workers repeatedly and are refused for a while.
    Quarantined {
        /// The method.
        method: String,
        /// The path, without the query.
        path: RequestPath,
        /// For how long.
        duration: Duration,
    },
    /// This worker died of, or with, this request; it is given to another.
    Retried(WorkerId, RequestInfo),
    /// The application raised when its answer was complete already (in `close()`, for one).
    RaisedAfterEnd {
        /// In which worker.
        worker: WorkerId,
        /// Whose answer.
        request: RequestInfo,
        /// Type and message.
        summary: String,
        /// The formatted traceback, perhaps empty.
        traceback: String,
    },
}

/// How the dispatcher reaches the supervisor.
pub type NoticeSink = Box<dyn Fn(Notice) + Send + Sync>;

/// A request that a worker has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// The exchange.
    pub exchange: ExchangeId,
    /// Under which the response and the journal have it.
    pub request_id: String,
    /// Its method.
    pub method: String,
    /// Its path as sent, without the query.
    pub path: RequestPath,
    /// `pthread_self(3)` of its thread, as the worker has it in the shared map: any number, if the worker likes.
    /// `None` when the worker names no thread for it.
    pub thread: Option<u64>,
    /// Since it was given to the worker.
    pub elapsed: Duration,
    /// How far its client is.
    pub response: ResponseProgress,
}

/// What a client has had of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseProgress {
    /// Nothing: the daemon can still answer in the application's place.
    NotStarted,
    /// The head, with this status, and perhaps a part of the body, which can only break off.
    HeadSent(u16),
    /// Everything; or it has gone. It learns nothing of what happens now.
    Complete,
}
