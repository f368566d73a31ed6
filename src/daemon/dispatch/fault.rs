//! Why the daemon answers an exchange in the application's place.
//!
//! Values only: `http` makes a response of a [`Fault`]; which of them an exchange ends with, its owner decides.

use std::sync::Arc;
use std::time::Duration;

use crate::id::WorkerId;

/// Why an exchange is answered by the daemon and not by the application. `http::fault` maps it to a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A part of the head is longer than a frame can say.
    TooLong(&'static str),
    /// `limits.queue` requests wait already.
    QueueFull,
    /// It would wait for this long, which is longer than `timeouts.queue`.
    QueueTooSlow(Duration),
    /// It waited longer than `timeouts.queue`.
    QueueTimeout,
    /// Nobody serves and nobody will soon; the short reason.
    Unavailable(Arc<str>),
    /// It ran longer than `timeouts.request`.
    Deadline(WorkerId),
    /// Its client takes its answer too slowly, and there is no room for what waits.
    ClientTooSlow,
    /// Requests with its method and path have ended workers repeatedly; for how long they are refused.
    Quarantined(Duration),
    /// Its body could not be received to its end.
    Upload(UploadFault),
    /// The worker died, or broke the contract, while it had the request.
    WorkerDied(WorkerId),
    /// The daemon ended the worker while it had the request: the time for finishing it was over.
    WorkerKilled(WorkerId),
    /// The application raised.
    Raised {
        /// In which worker.
        worker: WorkerId,
        /// Type and message.
        summary: String,
        /// The formatted traceback, perhaps empty.
        traceback: String,
    },
    /// The client has closed its sending half, and the application took that for its end: it makes no answer, or no
    /// more of it.
    ClientHalfClosed,
}

/// Why a body that is given to the application as it comes does not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadFault {
    /// It is longer than `limits.body`.
    TooLarge,
    /// The client paused for longer than `timeouts.body`.
    TooSlow,
    /// It breaks off.
    Truncated,
    /// Its chunks are malformed; what was wrong, as a sentence.
    Malformed(&'static str),
}
