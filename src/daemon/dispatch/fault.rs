//! The reasons why the daemon answers a request in the application's place. Values only.

use std::sync::Arc;
use std::time::Duration;

use crate::id::WorkerId;

/// The reason for an error response of the daemon. `http::fault` maps it to a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The named part of the request is too long for a frame.
    TooLong(&'static str),
    /// The number of waiting requests is at `limits.queue`.
    QueueFull,
    /// The request's client already has `limits.queue_per_client` waiting requests.
    ClientQueueFull,
    /// The request would wait for this time, longer than `timeouts.queue`.
    QueueTooSlow(Duration),
    /// The request has waited for longer than `timeouts.queue`.
    QueueTimeout,
    /// No worker is open, and none will be soon; with the reason.
    Unavailable(Arc<str>),
    /// The request ran for longer than its timeout in this worker.
    Deadline(WorkerId),
    /// The client reads the response too slowly, and there is no more room to buffer it.
    ClientTooSlow,
    /// Requests with this method and path have crashed workers repeatedly, and are rejected for
    /// this time.
    Quarantined(Duration),
    /// The request's body was not received to its end.
    Upload(UploadFault),
    /// The worker died, or broke the channel's contract, while it had the request.
    WorkerDied(WorkerId),
    /// The daemon killed the worker while it had the request, because the time to drain was up.
    WorkerKilled(WorkerId),
    /// The application raised.
    Raised {
        /// The worker that ran the application.
        worker: WorkerId,
        /// Type and message of the exception.
        summary: String,
        /// The formatted traceback, perhaps empty.
        traceback: String,
        /// True if the exception is of a kind that applications raise to end a request whose
        /// connection they have taken over.
        ends_takeover: bool,
    },
    /// The client has closed its sending half, and the application has therefore ended without a
    /// complete response.
    ClientHalfClosed,
}

/// The reason why a request's body was not received to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadFault {
    /// The body is longer than `limits.body`.
    TooLarge,
    /// The client paused for longer than `timeouts.body`.
    TooSlow,
    /// The client closed the connection within the body.
    Truncated,
    /// The chunked coding is malformed; the text describes the defect.
    Malformed(&'static str),
}
