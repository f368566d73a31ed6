//! The checked configuration: one struct for each section of the file, with its defaults.
//!
//! `check` fills these types; all other modules only read them. A value here needs no further check.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use super::{Bind, Proxy, Python, Target, bind};

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What to serve, and with which interpreter.
    pub app: App,
    /// How many workers, and how much each takes at a time.
    pub workers: Workers,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// How much anything may hold.
    pub limits: Limits,
    /// How WebSockets are served.
    pub websocket: WebSocket,
    /// What of a request's head the application gets.
    pub http: Http,
    /// The peers whose X-Forwarded-* fields are believed.
    pub proxy: Proxy,
    /// How new code takes over.
    pub reload: Reload,
    /// Functions of the application that are called at points of a worker's life.
    pub hooks: Hooks,
    /// Sockets of rgun's own; unused when systemd passes some.
    pub listen: Listen,
    /// What is told, and how much of it.
    pub log: Log,
    /// The file that was read; `None` when the command line and the environment said everything.
    pub origin: Option<PathBuf>,
}

/// `[app]`: what to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Module and attribute of the application.
    pub target: Target,
    /// The working directory of the workers and the first entry of their `sys.path`. Absolute; existed and was
    /// readable when checked. Not canonical: a `current` symlink of a deployment stays visible as such.
    pub directory: PathBuf,
    /// The interpreter the workers run.
    pub python: Python,
    /// Which calling convention the application has.
    pub interface: Interface,
    /// ASGI: whether the application's lifespan is run.
    pub lifespan: Lifespan,
    /// ASGI: what turns.
    pub event_loop: Loop,
    /// SCRIPT_NAME (PEP 3333) or `root_path` (ASGI). Empty, or starts with `/` and does not end with one.
    pub root_path: String,
    /// Variables for the workers on top of the daemon's own environment, sorted by name, no name twice.
    /// Possibly secrets: not for any log.
    pub env: Vec<(String, String)>,
    /// Entries put before the rest of `sys.path`, absolute, in this order. They need not exist, as with
    /// PYTHONPATH.
    pub pythonpath: Vec<PathBuf>,
}

/// The application's calling convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interface {
    /// The worker looks at the object: a coroutine function, or one with a coroutine `__call__`, is ASGI.
    #[default]
    Auto,
    /// PEP 3333.
    Wsgi,
    /// ASGI 3.
    Asgi,
}

/// Whether an ASGI application's lifespan is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifespan {
    /// If the application knows it: one that raises is taken not to.
    #[default]
    Auto,
    /// Yes; an application that raises does not boot.
    On,
    /// No.
    Off,
}

/// Which event loop serves an ASGI application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loop {
    /// uvloop if the application's environment has it.
    #[default]
    Auto,
    /// The standard library's.
    Asyncio,
    /// uvloop's; without it the application does not boot.
    Uvloop,
}

impl fmt::Display for Interface {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Wsgi => "wsgi",
            Self::Asgi => "asgi",
        })
    }
}

/// `[workers]`. `None` is `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// Number of worker processes.
    pub count: Count,
    /// WSGI: threads, and so slots, of one worker.
    pub threads: NonZeroU16,
    /// ASGI: exchanges one worker has at a time, its slots.
    pub concurrency: NonZeroU32,
    /// Whether workers are forked from one process that has imported the application.
    pub preload: bool,
    /// With `preload`: once a worker has served this many requests, it becomes the process that others are forked from.
    pub refork: Option<NonZeroU64>,
    /// A worker is replaced after this many requests, and a random number up to `max_requests_jitter`.
    pub max_requests: Option<NonZeroU64>,
    /// See `max_requests`.
    pub max_requests_jitter: u64,
    /// Bytes of memory at which a worker is replaced; at half as much again the kernel kills it.
    pub max_memory: Option<u64>,
    /// A worker is replaced at this age.
    pub max_lifetime: Option<Duration>,
    /// Without requests for this long, all workers leave; the next request brings them back.
    pub idle_exit: Option<Duration>,
    /// What becomes of a request whose worker died.
    pub retry: Retry,
    /// How long processes that a worker has started may outlive it when it leaves in good order.
    pub children_timeout: Duration,
}

/// What becomes of a request that had started in a worker that died before it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// 502.
    #[default]
    Off,
    /// One more attempt in another worker, if its method is idempotent (RFC 9110 §9.2.2); else 502.
    Idempotent,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            count: Count::Auto,
            threads: NonZeroU16::MIN,
            concurrency: NonZeroU32::new(1000).expect("1000 is not 0"),
            preload: false,
            refork: None,
            max_requests: None,
            max_requests_jitter: 0,
            max_memory: None,
            max_lifetime: None,
            idle_exit: None,
            retry: Retry::Off,
            children_timeout: Duration::from_secs(30),
        }
    }
}

/// How many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// Two per core and one more: what gunicorn's "How Many Workers?" advises.
    #[default]
    Auto,
    /// This many.
    Fixed(NonZeroU16),
    /// As many as keep the queue's wait short.
    Range {
        /// Never fewer (but for `idle_exit`).
        min: NonZeroU16,
        /// Never more; at least `min`.
        max: NonZeroU16,
    },
}

impl Count {
    /// The fewest and the most workers on a machine of which `cores` are usable (sched_getaffinity(2), not all there
    /// are).
    pub fn bounds(self, cores: usize) -> (NonZeroU16, NonZeroU16) {
        match self {
            Self::Range { min, max } => (min, max),
            Self::Auto | Self::Fixed(_) => (self.resolve(cores), self.resolve(cores)),
        }
    }

    /// The most workers on a machine of which `cores` are usable.
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

/// `[timeouts]`. `None` is `"off"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From the start of the application on a request to its end; then 504. Gunicorn's `timeout`.
    pub request: Option<Duration>,
    /// The longest a request waits for a worker; then 503.
    pub queue: Option<Duration>,
    /// From the first byte of a request's head to its last; then 408 (RFC 9110 §15.5.9).
    pub header: Duration,
    /// The longest pause between two pieces of a request's body; then 408.
    pub body: Duration,
    /// How long a connection may lie idle between requests. Zero closes it after each response.
    pub keepalive: Duration,
    /// ASGI: how long an event loop may not turn; then its stacks are logged, and after as long again the worker is
    /// replaced.
    pub stall: Option<Duration>,
    /// From the start of a worker process to "ready"; then it has failed.
    pub boot: Option<Duration>,
    /// On stop and reload, how long running requests may go on. Zero cuts them off at once.
    pub drain: Duration,
    /// `[[timeouts.path]]`: other limits for some paths; the first that matches counts.
    pub paths: Vec<PathRule>,
}

/// One `[[timeouts.path]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    /// `match`: a path as requests have it, percent-encoded and without the query; `*` stands for any bytes, `/` too.
    pub pattern: String,
    /// Instead of `timeouts.request`; the inner `None` is `"off"`, the outer one "not given".
    pub request: Option<Option<Duration>>,
    /// How many of these requests may run at a time in all workers together; the others wait without holding up
    /// anybody else.
    pub concurrency: Option<NonZeroU32>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Some(Duration::from_secs(30)),
            queue: Some(Duration::from_secs(30)),
            header: Duration::from_secs(10),
            body: Duration::from_mins(1),
            keepalive: Duration::from_secs(75),
            stall: Some(Duration::from_secs(10)),
            boot: Some(Duration::from_mins(1)),
            drain: Duration::from_secs(30),
            paths: Vec::new(),
        }
    }
}

/// `[reload]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reload {
    /// A path that the new code must answer with a status below 500 before it is given anything else.
    pub probe: Option<String>,
    /// For this long after the new code took over, the old workers are kept, and take over again if the new ones
    /// answer clearly worse.
    pub watch: Option<Duration>,
}

/// `[hooks]`: `module:function`, with gunicorn's names and arguments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// `(server, worker)`, in each new worker, before the application is imported (with preload: after).
    pub post_fork: Option<Target>,
    /// `(worker)`, in each new worker when the application is imported.
    pub post_worker_init: Option<Target>,
    /// `(server, worker)`, in a worker that is about to exit.
    pub worker_exit: Option<Target>,
    /// `(server, worker)`, in another worker, after a worker has exited.
    pub child_exit: Option<Target>,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that wait for a worker; one more is answered 503. `None` is `"auto"`: what the memory leaves.
    pub queue: Option<usize>,
    /// Bytes of a request's body; more is answered 413 (RFC 9110 §15.5.14). `None` is `"off"`.
    pub body: Option<u64>,
    /// Bytes of a request's header section, all fields together; more is answered 431 (RFC 6585 §5).
    pub header: usize,
    /// Number of a request's header fields; more is answered 431.
    pub headers: usize,
    /// Bytes of the request line; more is answered 414 (RFC 9112 §3).
    pub request_line: usize,
    /// Connections open at a time; `None` is `"auto"`: what RLIMIT_NOFILE leaves.
    pub connections: Option<usize>,
    /// Connections of one address open at a time; one more is closed. `None` is `"off"`.
    pub connections_per_client: Option<NonZeroU32>,
    /// Bytes of answers that wait in memory for their clients, all together; `None` is `"auto"`.
    pub response_memory: Option<u64>,
    /// Bytes of answers that wait in files, all together; `None` is `"auto"`.
    pub response_disk: Option<u64>,
    /// Bytes per second that a client takes at least of its answer, over `timeouts.body`; else it is cut off. `None` is
    /// `"off"`.
    pub response_rate: Option<u64>,
    /// Bytes of requests' bodies that wait in memory, all together; `None` is `"auto"`.
    pub spool_memory: Option<u64>,
    /// Bytes of requests' bodies that wait in files, all together; `None` is `"auto"`.
    pub spool_disk: Option<u64>,
    /// Bytes per second that a client sends at least of its body, over all of it but at least over `timeouts.body`; else
    /// it is answered 408. `None` is `"off"`.
    pub body_rate: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: None,
            body: Some(1 << 30),
            header: 16 << 10,
            headers: 100,
            request_line: 8 << 10,
            connections: None,
            connections_per_client: None,
            response_memory: None,
            response_disk: None,
            response_rate: Some(256),
            spool_memory: None,
            spool_disk: None,
            body_rate: Some(256),
        }
    }
}

/// `[websocket]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocket {
    /// Bytes of a message from a client; more closes it with 1009 (RFC 6455 §7.4.1).
    pub max_message: usize,
    /// A client of which nothing was heard for so long is asked whether it is there. `None` is `"off"`.
    pub ping_interval: Option<Duration>,
    /// How long it has to answer; then it is closed with 1011. `None` is `"off"`.
    pub ping_timeout: Option<Duration>,
    /// Whether messages may be compressed (RFC 7692).
    pub compression: bool,
    /// How many one worker may have open beside `workers.concurrency`; more count against that.
    pub max_connections: u32,
    /// Over how long those of a worker that goes are closed, with 1012.
    pub close_window: Duration,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            max_message: 16 << 20,
            ping_interval: Some(Duration::from_secs(20)),
            ping_timeout: Some(Duration::from_secs(20)),
            compression: true,
            max_connections: 10_000,
            close_window: Duration::from_secs(10),
        }
    }
}

/// `[http]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Http {
    /// CGI makes the same variable of an underscore as of a hyphen.
    pub underscores: Underscores,
}

/// What becomes of fields with an underscore in their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    /// The application does not get them.
    #[default]
    Drop,
    /// A request that has one is answered 400.
    Refuse,
    /// The application gets them.
    Allow,
}

/// `[listen]`: only without socket activation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Addresses to listen on; at least one, none twice.
    pub bind: Vec<Bind>,
    /// Whether somebody asked for these addresses. False is the default address, which gives way to sockets
    /// from systemd without a word; true together with such sockets is a contradiction the caller must report.
    pub explicit: bool,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            bind: vec![Bind::Tcp { host: bind::DEFAULT_HOST.to_owned(), port: bind::DEFAULT_PORT }],
            explicit: false,
        }
    }
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Log {
    /// The least severe message that is written.
    pub level: Level,
    /// Whether each request is logged.
    pub access: bool,
    /// A request that runs for longer than this is logged once, with the stack of its thread. `None` is `"off"`.
    pub slow: Option<Duration>,
}

/// Severity, most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Somebody should act.
    Error,
    /// Degraded, going on.
    Warn,
    /// Life-cycle: start, ready, reload, drain, stop.
    #[default]
    Info,
    /// Per worker.
    Debug,
    /// Per frame.
    Trace,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}
