//! What the operator chose, as far as the supervisor has to know it. `run` builds this from the checked
//! configuration; every value has been checked there.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::BackoffLimits;

/// The numbers the supervisor goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorPolicy {
    /// The application as the operator wrote it (`mysite.wsgi`), for STATUS=.
    pub app: String,
    /// How many workers serve; the most when `min` is less.
    pub count: NonZeroU16,
    /// The fewest that serve; the number between follows the queue's wait.
    pub min: NonZeroU16,
    /// How many exchanges make one worker busy (`workers.threads`): what is fewer than a smaller number of workers can
    /// take lets it shrink. Also of an ASGI application, though its workers take a thousand: exit many of those an event
    /// loop can serve nobody knows.
    pub slots: NonZeroU32,
    /// Whether workers are forked from a zygote.
    pub preload: bool,
    /// Whether a new generation's canary must answer a probe before it is believed.
    pub probe: bool,
    /// `reload.watch`: for exit long the generation before stays at hand.
    pub watch: Option<Duration>,
    /// `workers.max_lifetime`.
    pub max_lifetime: Option<Duration>,
    /// `workers.idle_exit`.
    pub idle_exit: Option<Duration>,
    /// How many workers of a new generation may boot at the same time beside those that serve: the number of cores.
    pub boots_at_once: NonZeroU16,
    /// `timeouts.boot`: from `Spawn` to `Ready`; `None` for as long as it takes.
    pub boot: Option<Duration>,
    /// `timeouts.drain`: for the whole daemon on stop, and for a worker that a reload has replaced, is stuck, or is in
    /// the way of another.
    pub drain: Duration,
    /// What a worker has at least for its own shutdown when the drain has used up its time.
    pub terminate_grace: Duration,
    /// Between attempts in a seat whose lives are too short.
    pub backoff: BackoffLimits,
    /// A worker that was ready for this long is replaced at once when it dies, and its seat's failures forgotten; of
    /// those that die earlier, the first.
    pub stable_after: Duration,
    /// The first boot of all decides: if it fails and would fail again, exit with 78 instead of retrying.
    pub exit_on_first_boot_failure: bool,
}

impl SupervisorPolicy {
    /// The policy for `app` with what is not in the configuration file at its proper value.
    pub fn new(app: String, count: NonZeroU16, boot: Option<Duration>, drain: Duration) -> Self {
        SupervisorPolicy {
            app,
            count,
            min: count,
            slots: NonZeroU32::MIN,
            preload: false,
            probe: false,
            watch: None,
            max_lifetime: None,
            idle_exit: None,
            boots_at_once: count,
            boot,
            drain,
            // In proportion, so that `drain = "1s"` in a test does not mean six; the unit's TimeoutStopSec has room.
            terminate_grace: (drain / 6).clamp(Duration::from_millis(200), Duration::from_secs(5)),
            backoff: BackoffLimits { initial: Duration::from_millis(100), max: Duration::from_secs(30) },
            stable_after: Duration::from_secs(10),
            exit_on_first_boot_failure: true,
        }
    }
}
