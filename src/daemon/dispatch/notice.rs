//! Notices from the dispatcher to the supervisor, through `run`, and the description of a request
//! in them.

use std::time::Duration;

use rgun_channel::control::Report;
use rgun_channel::frame::ExchangeId;

use crate::escape::RequestPath;
use crate::id::WorkerId;

/// A notice from the dispatcher to the supervisor.
#[derive(Debug)]
pub enum Notice {
    /// A report from the worker socket.
    Report(WorkerId, Report),
    /// The worker broke the channel's contract and was removed; with the description of the breach.
    ContractBreached(WorkerId, String),
    /// The worker closed its socket, as it does on exit, and was removed.
    WorkerSocketClosed(WorkerId),
    /// The request exceeded its deadline in a WSGI worker. Its client has been answered.
    DeadlineExceeded(WorkerId, RequestInfo),
    /// The request exceeded its deadline in an ASGI worker. Its client has been answered, and its
    /// task is cancelled.
    TaskDeadlineExceeded(WorkerId, RequestInfo),
    /// The cancelled task has not ended within a second: only killing the worker can end it.
    CancelIgnored(WorkerId, RequestInfo),
    /// The ASGI worker's event loop has not run for this time, longer than `timeouts.stall`. Sent
    /// once for each stall.
    LoopStalled(WorkerId, Duration),
    /// The event loop has not run for this time, longer than twice `timeouts.stall`: only killing
    /// the worker can end the stall.
    LoopStuck(WorkerId, Duration),
    /// The request has been running for longer than `log.slow`. Sent once for each attempt.
    SlowRequest(WorkerId, RequestInfo),
    /// The retiring worker has no exchange left, except those past their deadline.
    Drained(WorkerId),
    /// The worker has served this number of requests, its
    /// [`Link::max_requests`](crate::link::Link::max_requests). Sent once.
    MaxRequestsReached(WorkerId, u64),
    /// A request is queued and no worker is open. Sent once until a worker is admitted.
    WorkerRequested,
    /// The worker is gone with requests that it had claimed. Not sent if there were none.
    WorkerDied {
        /// The worker that exited.
        worker: WorkerId,
        /// The claimed requests that were not past their deadline, in the order of their
        /// assignment.
        requests: Vec<RequestInfo>,
    },
    /// Requests of this method and path have crashed workers repeatedly, and are rejected for a
    /// while.
    Quarantined {
        /// The request method.
        method: String,
        /// The path, without the query.
        path: RequestPath,
        /// Time for which such requests are rejected.
        duration: Duration,
    },
    /// The worker died while it had this request, which is retried in another worker.
    Retried(WorkerId, RequestInfo),
    /// The application raised after its response was complete, for example in `close()`.
    RaisedAfterEnd {
        /// The worker that ran the request.
        worker: WorkerId,
        /// The request whose response was complete.
        request: RequestInfo,
        /// Type and message of the exception.
        summary: String,
        /// The formatted traceback; may be empty.
        traceback: String,
    },
}

/// The function that passes a notice to the supervisor.
pub type NoticeSink = Box<dyn Fn(Notice) + Send + Sync>;

/// A request in a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// The exchange of the request.
    pub exchange: ExchangeId,
    /// The id that the response and the journal carry.
    pub request_id: String,
    /// The request method.
    pub method: String,
    /// The path as sent, without the query.
    pub path: RequestPath,
    /// `pthread_self(3)` of the thread that runs the request, as the worker wrote it to the shared
    /// map: unchecked. `None` if there is no such thread.
    pub thread: Option<u64>,
    /// Time since the request was assigned to the worker.
    pub elapsed: Duration,
    /// The part of the response that the client has.
    pub response: ResponseProgress,
}

/// The part of a response that a client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseProgress {
    /// Nothing: the daemon can still send an error response.
    NotStarted,
    /// The head with this status, and perhaps a part of the body: the daemon can only abort the
    /// response.
    HeadSent(u16),
    /// The whole response, or the client is gone.
    Complete,
}
