//! The part of the configuration that the supervisor needs. `run` builds it from the checked
//! configuration; the values are not checked again.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::BackoffLimits;

/// The supervisor's settings for one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorPolicy {
    /// The application as the operator wrote it (`mysite.wsgi`), for STATUS=.
    pub app: String,
    /// The highest number of workers.
    pub count: NonZeroU16,
    /// The lowest number of workers. If it is less than `count`, the number follows the load.
    pub min: NonZeroU16,
    /// `workers.threads`: the number of requests at which one worker counts as busy. The autoscaler
    /// removes a worker when the others, each with this many requests, can run the peak load. This
    /// is used for ASGI too: an ASGI worker accepts a thousand requests, but how many its event
    /// loop can serve at a time is unknown.
    pub slots: NonZeroU32,
    /// `workers.preload`: workers are forked from a zygote.
    pub preload: bool,
    /// The canary of a reload must answer `reload.probe`.
    pub probe: bool,
    /// `reload.watch`: how long the previous generation is kept for a rollback; `None` if it is not
    /// kept.
    pub watch: Option<Duration>,
    /// `workers.max_lifetime`; `None` if there is no limit.
    pub max_lifetime: Option<Duration>,
    /// `workers.idle_exit`; `None` if idle workers stay.
    pub idle_exit: Option<Duration>,
    /// The number of workers of a pending reload that boot at the same time: the number of cores.
    pub boots_at_once: NonZeroU16,
    /// `timeouts.boot`: from `Spawn` to `Ready`; `None` if there is no limit.
    pub boot: Option<Duration>,
    /// `timeouts.drain`: bounds the daemon's stop. It also bounds the retirement of a worker that a
    /// reload replaced, that is stuck, or that must make room under the process limit.
    pub drain: Duration,
    /// `timeouts.drain_delay`: how long the daemon continues to serve after a stop request; may be
    /// zero.
    pub drain_delay: Duration,
    /// The minimum time that a worker gets to exit after `Terminate`, even if the drain used all of
    /// `drain`.
    pub terminate_grace: Duration,
    /// The backoff between attempts in a seat whose processes die early.
    pub backoff: BackoffLimits,
    /// A worker that served this long is replaced at once when it dies, and its seat's failures are
    /// forgotten. An earlier death is followed by a backoff, except the first in a row.
    pub stable_after: Duration,
    /// Exit with 78 if the very first boot fails in a way that a retry would not change.
    pub exit_on_first_boot_failure: bool,
}

impl SupervisorPolicy {
    /// Creates a policy; the settings that are not parameters have their defaults.
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
            drain_delay: Duration::ZERO,
            // In proportion to the drain timeout; the unit's TimeoutStopSec= allows for both.
            terminate_grace: (drain / 6).clamp(Duration::from_millis(200), Duration::from_secs(5)),
            backoff: BackoffLimits { initial: Duration::from_millis(100), max: Duration::from_secs(30) },
            stable_after: Duration::from_secs(10),
            exit_on_first_boot_failure: true,
        }
    }
}
