//! The part of the configuration that the dispatcher needs.

use std::path::PathBuf;
use std::time::Duration;

use super::admission::rules::Rule;
use super::data::Buffers;

/// What the dispatcher must know of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `limits.queue`: requests that may wait, however fast they are served.
    pub queue: usize,
    /// `timeouts.queue`: how long one may wait; `None` is for ever.
    pub queue_timeout: Option<Duration>,
    /// `timeouts.request`: how long one may run; `None` is for ever.
    pub request_timeout: Option<Duration>,
    /// `log.slow`: after how long [`Notice::Slow`](super::Notice::Slow) is told of one that runs.
    pub slow: Option<Duration>,
    /// `timeouts.stall`: after how long [`Notice::Stalled`](super::Notice::Stalled) is told of an event loop that does not turn.
    pub stall: Option<Duration>,
    /// `websocket.close_window`: over how long the WebSockets of a worker that goes are closed.
    pub close_window: Duration,
    /// `timeouts.path`: the first that matches counts.
    pub rules: Vec<Rule>,
    /// `workers.retry = "idempotent"`: what had started in a worker that died is given to another, once, if its
    /// method is idempotent and its client has nothing of an answer yet.
    pub retry_idempotent: bool,
    /// `limits.response_memory`: bytes of answers that wait in memory for their clients, all together.
    pub response_memory: u64,
    /// `limits.response_disk`: the same in files.
    pub response_disk: u64,
    /// The directory of those files.
    pub spool: PathBuf,
}

impl Buffers {
    pub(super) fn set_limits(&self, policy: &Policy) {
        self.memory.set_limit(policy.response_memory);
        self.disk.set_limit(policy.response_disk);
    }
}
