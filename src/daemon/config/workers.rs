//! The checked `[workers]` section.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::time::Duration;

/// `[workers]`. `None` is `"off"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// Number of worker processes.
    pub count: Count,
    /// WSGI: threads of one worker, and thus its slots.
    pub threads: NonZeroU16,
    /// ASGI: slots of one worker, the exchanges it runs at a time.
    pub concurrency: NonZeroU32,
    /// Whether workers are forked from a zygote, and what it has imported.
    pub preload: Preload,
    /// With [`Preload::Application`]: requests after which a worker becomes the new zygote.
    pub refork: Option<NonZeroU64>,
    /// Requests after which a worker is replaced, plus a random number up to `max_requests_jitter`.
    pub max_requests: Option<NonZeroU64>,
    /// See `max_requests`.
    pub max_requests_jitter: u64,
    /// Bytes of memory at which a worker is replaced; at 1.5 times as many the kernel kills it.
    pub max_memory: Option<u64>,
    /// Maximum number of processes and threads of one worker.
    pub max_tasks: MaxTasks,
    /// The worker's share of the processors relative to other workers, `cpu.weight`; `None` for the
    /// kernel's default.
    pub cpu_weight: Option<NonZeroU16>,
    /// Age at which a worker is replaced.
    pub max_lifetime: Option<Duration>,
    /// Time without requests after which all workers stop; the next request starts them again.
    pub idle_exit: Option<Duration>,
    /// Handling of requests whose worker died.
    pub retry: Retry,
    /// Maximum time that processes started by a worker may outlive it after a normal exit.
    pub children_timeout: Duration,
    /// The user that workers run as.
    pub user: WorkerUser,
}

/// `workers.preload`: what is imported once, by a zygote that workers are forked from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Preload {
    /// Nothing: there is no zygote.
    #[default]
    Off,
    /// The application.
    Application,
    /// These modules; each worker imports the application. Not empty.
    Modules(Vec<String>),
}

/// `workers.user` and `workers.group`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerUser {
    /// The user; `None` for the daemon's user.
    pub user: Option<AccountName>,
    /// The primary group; `None` for that of the user.
    pub group: Option<AccountName>,
}

/// The name or number of a user or group, which may not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountName {
    /// As the operator wrote it. A text of digits is a number.
    pub text: String,
    /// File and line, flag or variable, for messages.
    pub origin: String,
}

/// The maximum number of processes and threads of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaxTasks {
    /// Half of the service's `TasksMax=`.
    #[default]
    Auto,
    /// No limit of its own.
    Off,
    /// This number.
    Fixed(NonZeroU32),
}

/// Handling of a request whose worker died before the response started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// Answers 502.
    #[default]
    Off,
    /// Tries once more in another worker if the method is idempotent (RFC 9110 §9.2.2); else
    /// answers 502.
    Idempotent,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            count: Count::Auto,
            threads: NonZeroU16::MIN,
            concurrency: NonZeroU32::new(1000).expect("1000 is not 0"),
            preload: Preload::Off,
            refork: None,
            max_requests: None,
            max_requests_jitter: 0,
            max_memory: None,
            max_tasks: MaxTasks::Auto,
            cpu_weight: None,
            max_lifetime: None,
            idle_exit: None,
            retry: Retry::Off,
            children_timeout: Duration::from_secs(30),
            user: WorkerUser::default(),
        }
    }
}

/// The number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// Two per core plus one, as gunicorn's "How Many Workers?" advises.
    #[default]
    Auto,
    /// This number of workers.
    Fixed(NonZeroU16),
    /// Scales with the time that requests wait in the queue.
    Range {
        /// Minimum (except after `idle_exit`).
        min: NonZeroU16,
        /// Maximum; at least `min`.
        max: NonZeroU16,
    },
}

impl Count {
    /// The minimum and maximum on a machine with `cores` usable cores, which the affinity mask
    /// and the cgroup's CPU quota limit.
    pub fn bounds(self, cores: usize) -> (NonZeroU16, NonZeroU16) {
        match self {
            Self::Range { min, max } => (min, max),
            Self::Auto | Self::Fixed(_) => (self.resolve(cores), self.resolve(cores)),
        }
    }

    /// The maximum on a machine with `cores` usable cores.
    pub fn resolve(self, cores: usize) -> NonZeroU16 {
        match self {
            Self::Auto => {
                let n = cores.max(1).saturating_mul(2).saturating_add(1);
                NonZeroU16::new(u16::try_from(n).unwrap_or(u16::MAX)).unwrap_or(NonZeroU16::MAX)
            }
            Self::Fixed(n) => n,
            Self::Range { max, .. } => max,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Fixed(n) => n.fmt(formatter),
            Self::Range { min, max } => write!(formatter, "{min} to {max}"),
        }
    }
}
