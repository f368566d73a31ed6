//! The part of the configuration that the dispatcher uses.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::admission::rules::Rule;
use super::data::Buffers;

/// The dispatcher's settings.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `limits.queue`: number of requests that may wait.
    pub queue: usize,
    /// `limits.queue_per_client`: maximum number of waiting requests of one client; `None` is no
    /// limit.
    pub queue_per_client: Option<NonZeroU32>,
    /// `timeouts.queue`: time that a request may wait; `None` is no limit.
    pub queue_timeout: Option<Duration>,
    /// `timeouts.request`: time that a request may run; `None` is no limit.
    pub request_timeout: Option<Duration>,
    /// `log.slow`: running time after which [`Notice::SlowRequest`](super::Notice::SlowRequest) is
    /// sent; `None` is never.
    pub slow: Option<Duration>,
    /// `timeouts.stall`: time after which [`Notice::LoopStalled`](super::Notice::LoopStalled) is
    /// sent for a blocked event loop; `None` is never.
    pub stall: Option<Duration>,
    /// `websocket.close_window`: time over which the WebSockets of a stopping worker are closed.
    pub close_window: Duration,
    /// `timeouts.path`: the first rule that matches applies.
    pub rules: Vec<Rule>,
    /// `workers.retry = "idempotent"`: an idempotent request whose worker died is retried, once, if
    /// its client has received no part of a response.
    pub retry_idempotent: bool,
    /// `limits.response_memory`: bytes of memory for responses that their clients have not taken.
    pub response_memory: u64,
    /// `limits.response_disk`: bytes of disk for such responses.
    pub response_disk: u64,
    /// The directory for the files of such responses.
    pub spool: PathBuf,
}

impl Buffers {
    pub(super) fn set_limits(&self, policy: &Policy) {
        self.memory.set_limit(policy.response_memory);
        self.disk.set_limit(policy.response_disk);
    }
}
