//! What the operator chose, as far as the supervisor has to know it. `run` builds this from the checked
//! configuration; every value has been checked there.

use std::num::NonZeroU16;
use std::time::Duration;

use super::BackoffLimits;

/// The numbers the supervisor goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The application as the operator wrote it (`mysite.wsgi`), for STATUS=.
    pub app: String,
    /// How many workers serve.
    pub count: NonZeroU16,
    /// `timeouts.boot`: from `Spawn` to `Ready`; `None` for as long as it takes.
    pub boot: Option<Duration>,
    /// `timeouts.drain`: for the whole daemon on stop, and for a worker that retires.
    pub drain: Duration,
    /// What a worker has at least for its own shutdown when the drain has used up its time.
    pub terminate_grace: Duration,
    /// Between attempts in a seat whose lives are too short.
    pub backoff: BackoffLimits,
    /// A worker that was ready for this long is replaced at once when it dies, and its seat's failures forgotten.
    pub settled: Duration,
    /// The first boot of all decides: if it fails and would fail again, exit with 78 instead of retrying.
    pub exit_on_first_boot_failure: bool,
}

impl Policy {
    /// The policy for `app` with what is not in the configuration file at its proper value.
    pub fn new(app: String, count: NonZeroU16, boot: Option<Duration>, drain: Duration) -> Self {
        Policy {
            app,
            count,
            boot,
            drain,
            // In proportion, so that `drain = "1s"` in a test does not mean six; the unit's TimeoutStopSec has room.
            terminate_grace: (drain / 6).clamp(Duration::from_millis(200), Duration::from_secs(5)),
            backoff: BackoffLimits { first: Duration::from_millis(100), longest: Duration::from_secs(30) },
            settled: Duration::from_secs(10),
            exit_on_first_boot_failure: true,
        }
    }
}
