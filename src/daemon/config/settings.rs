//! The checked configuration: one struct for each section of the file, with its defaults.
//!
//! `check` fills these types. A value here needs no further check.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    Compression, Control, DaemonSettings, ErrorPage, Health, Listen, Log, Proxy, Reload, SendfileDirectory,
    StaticMount, Target, Timeouts, Tls, Workers,
};

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The application and its interpreter.
    pub app: App,
    /// `[[static]]`.
    pub static_mounts: Vec<StaticMount>,
    /// Number, capacity and replacement of workers.
    pub workers: Workers,
    /// Time limits of requests, connections, boots and shutdown.
    pub timeouts: Timeouts,
    /// Size, number and rate limits of requests, responses and connections.
    pub limits: Limits,
    /// WebSocket limits and keepalive.
    pub websocket: WebSocket,
    /// Field names with underscores, HTTP/2, and redirects to HTTPS.
    pub http: Http,
    /// Which forwarding fields of which proxies are used.
    pub proxy: Proxy,
    /// The health answers of the daemon.
    pub health: Health,
    /// Access to the control socket.
    pub control: Control,
    /// `[errors]`: pages in place of the daemon's own.
    pub errors: Vec<ErrorPage>,
    /// Compression of the application's responses.
    pub compression: Compression,
    /// Checks of new code during and after a reload, and reloads that changed files cause.
    pub reload: Reload,
    /// Functions of the application that are called at points of a worker's lifetime.
    pub hooks: Hooks,
    /// The sockets that rgun opens itself, and the protocols of all sockets.
    pub listen: Listen,
    /// Certificates and TLS versions.
    pub tls: Tls,
    /// When the daemon itself exits.
    pub daemon: DaemonSettings,
    /// Log level, access log and slow log.
    pub log: Log,
    /// The file that was read; `None` when there was none.
    pub origin: Option<PathBuf>,
    /// Which settings are the defaults of a command line with APP.
    pub app_argument: AppArgumentDefaults,
}

/// Defaults that hold only if the command line names the application, as it does for gunicorn and
/// uvicorn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppArgumentDefaults {
    /// `workers.count` is 1: an application that keeps state in memory breaks with more.
    pub one_worker: bool,
    /// `timeouts.request` applies to WSGI only: uvicorn has no request timeout.
    pub untimed_asgi: bool,
    /// `log.access` is `"stdout"`: on a terminal, and with flags of uvicorn.
    pub logs_access: bool,
}

/// `[app]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Module and attribute of the application.
    pub target: Target,
    /// The working directory of the workers and the first entry of their `sys.path`. Absolute;
    /// existed and was readable when checked. Not canonical: the `current` symlink of a deployment
    /// is kept.
    pub directory: PathBuf,
    /// The interpreter the workers run.
    pub python: Python,
    /// The application's calling convention.
    pub interface: Interface,
    /// Settings that concern ASGI only.
    pub asgi: Asgi,
    /// SCRIPT_NAME (PEP 3333) or `root_path` (ASGI). Empty, or starts with `/` and does not end
    /// with one.
    pub root_path: String,
    /// Variables that the workers get in addition to the daemon's environment, with those of
    /// `app.env_from_credentials`, sorted by name, without duplicates. The values may be secrets;
    /// never log them.
    pub env: Vec<(String, String)>,
    /// Names of the credentials in `app.env_from_credentials` that could not be read, because a
    /// check outside of the unit has no access to them. Their variables are not in `env`.
    pub unknown_credentials: Vec<String>,
    /// Entries to put before the rest of `sys.path`, absolute, in this order. As in PYTHONPATH,
    /// they need not exist.
    pub pythonpath: Vec<PathBuf>,
    /// Directories whose files the application may name in `X-Sendfile` or `X-Accel-Redirect`.
    pub sendfile_roots: Vec<SendfileDirectory>,
    /// The file by which workers configure Python's logging before they import the application.
    /// Absolute; was a readable file when checked.
    pub log_config: Option<PathBuf>,
}

/// The interpreter, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// Absolute, not canonical; was an executable file when checked.
    pub path: PathBuf,
    /// The place where the search found it.
    pub source: PythonSource,
}

impl fmt::Display for Python {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.path.display(), self.source)
    }
}

/// The place where an interpreter was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PythonSource {
    /// `app.python`, `--python` or `RGUN_APP_PYTHON`.
    Configured,
    /// The virtual environment that contains the started `rgun`.
    SameEnvironment,
    /// The environment that this variable names.
    Variable(&'static str),
    /// An environment's usual folder in one of the searched directories.
    Folder(&'static str, SearchedDirectory),
    /// The only folder in the application's directory that is an environment.
    OnlyFolder,
    /// `python3` on PATH.
    Path,
}

/// A directory in which a virtual environment is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchedDirectory {
    /// The application's directory.
    Application,
    /// The directory that contains the application's directory.
    Parent,
    /// The directory that contains the parent: that of a project whose application is in `src/app`.
    Grandparent,
    /// The directory in which rgun was started.
    Current,
}

impl fmt::Display for PythonSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => formatter.write_str("as configured"),
            Self::SameEnvironment => formatter.write_str("from the virtual environment of rgun"),
            Self::Variable(variable) => write!(formatter, "from ${variable}"),
            Self::Folder(folder, directory) => write!(formatter, "from {folder} in {directory}"),
            Self::OnlyFolder => {
                formatter.write_str("the only virtual environment in the application's directory")
            }
            Self::Path => formatter.write_str("python3 on PATH"),
        }
    }
}

impl fmt::Display for SearchedDirectory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Application => "the application's directory",
            Self::Parent => "the parent of the application's directory",
            Self::Grandparent => "the directory two levels above the application's",
            Self::Current => "the current directory",
        })
    }
}

/// The application's calling convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interface {
    /// The worker inspects the object: a coroutine function, or an object with a coroutine
    /// `__call__`, is ASGI.
    #[default]
    Auto,
    /// PEP 3333.
    Wsgi,
    /// ASGI 3.
    Asgi,
}

/// The settings of `[app]` that concern ASGI only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asgi {
    /// Whether the application's lifespan is run.
    pub lifespan: Lifespan,
    /// The event loop.
    pub event_loop: Loop,
    /// Whether the application is offered the extension `http.response.pathsend`.
    pub pathsend: bool,
}

impl Default for Asgi {
    fn default() -> Self {
        Self { lifespan: Lifespan::Auto, event_loop: Loop::Auto, pathsend: true }
    }
}

/// Whether an ASGI application's lifespan is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifespan {
    /// Runs the lifespan; an application that raises at its start is served without it.
    #[default]
    Auto,
    /// Runs the lifespan; an application that raises does not boot.
    On,
    /// Never runs the lifespan.
    Off,
}

/// Which event loop serves an ASGI application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loop {
    /// uvloop if the application's environment has it.
    #[default]
    Auto,
    /// asyncio, of the standard library.
    Asyncio,
    /// uvloop; if it is not installed, the application does not boot.
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

/// `[hooks]`: functions with gunicorn's names and arguments. `None` is `"off"`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// `(server, worker)`, in each new worker, before the application is imported (with preload:
    /// after).
    pub post_fork: Option<Target>,
    /// `(worker)`, in each new worker when the application is imported.
    pub post_worker_init: Option<Target>,
    /// `(server, worker)`, in a worker that is about to exit.
    pub worker_exit: Option<Target>,
    /// `(worker)`, in a worker that is about to be killed because it exceeded a deadline or is
    /// blocked.
    pub worker_abort: Option<Target>,
    /// `(server, worker)`, in another worker, after a worker has exited.
    pub child_exit: Option<Target>,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of requests that wait for a worker; one more is answered 503. `None` is
    /// `"auto"`: derived from the memory.
    pub queue: Option<usize>,
    /// Maximum number of requests from one address that wait for a worker; further ones are
    /// answered 429. `None` is `"off"`.
    pub queue_per_client: Option<NonZeroU32>,
    /// Maximum size, in bytes, of a request's body; a larger one is answered 413 (RFC 9110
    /// §15.5.14). `None` is `"off"`.
    pub body: Option<u64>,
    /// Maximum total size, in bytes, of a request's header fields; more is answered 431 (RFC 6585
    /// §5).
    pub header: usize,
    /// Maximum number of a request's header fields, whatever their size; more are answered 431.
    pub headers: usize,
    /// Maximum length, in bytes, of the request line; a longer one is answered 414 (RFC 9112 §3).
    pub request_line: usize,
    /// Maximum number of open connections. `None` is `"auto"`: derived from RLIMIT_NOFILE.
    pub connections: Option<usize>,
    /// Maximum number of open connections of one address; one more is closed. `None` is `"off"`.
    pub connections_per_client: Option<NonZeroU32>,
    /// HTTP/2: maximum number of requests that are open on one connection; the protocol refuses
    /// further ones.
    pub streams: u32,
    /// Total bytes of responses that may be buffered in memory for slow clients. `None` is
    /// `"auto"`.
    pub response_memory: Option<u64>,
    /// Total bytes of responses that may be buffered in files. `None` is `"auto"`.
    pub response_disk: Option<u64>,
    /// Minimum rate at which a client reads its response, in bytes per second over `timeouts.body`;
    /// a slower client's connection is closed. `None` is `"off"`.
    pub response_rate: Option<u64>,
    /// Total bytes of request bodies that may be buffered in memory. `None` is `"auto"`.
    pub spool_memory: Option<u64>,
    /// Total bytes of request bodies that may be buffered in files. `None` is `"auto"`.
    pub spool_disk: Option<u64>,
    /// Minimum rate at which a client sends its body, in bytes per second over the whole body but
    /// at least over `timeouts.body`; a slower client is answered 408. `None` is `"off"`.
    pub body_rate: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: None,
            queue_per_client: None,
            body: Some(1 << 30),
            header: 16 << 10,
            headers: 100,
            request_line: 8 << 10,
            connections: None,
            connections_per_client: None,
            streams: 100,
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
    /// Maximum bytes of a message from a client; a larger one closes the connection with 1009 (RFC
    /// 6455 §7.4.1).
    pub max_message: usize,
    /// Time without data from the client after which it is pinged. `None` is `"off"`.
    pub ping_interval: Option<Duration>,
    /// Maximum time to answer a ping; then the connection is closed with 1011. `None` is `"off"`.
    pub ping_timeout: Option<Duration>,
    /// Whether messages may be compressed (RFC 7692).
    pub compression: bool,
    /// WebSockets that one worker may have open in addition to `workers.concurrency`; further ones
    /// count against that limit.
    pub max_connections: u32,
    /// Time over which a stopping worker's connections are closed, one after the other, with 1012.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Handling of field names with an underscore. In CGI, `X_A` and `X-A` map to the same
    /// variable.
    pub underscores: Underscores,
    /// Whether HTTP/2 is served: over TLS, and in clear text to clients that send its preface (RFC
    /// 9113 §3.3).
    pub http2: bool,
    /// Whether requests without TLS are redirected to the same URL with `https`.
    pub redirect_to_https: bool,
    /// `Strict-Transport-Security` of responses over TLS (RFC 6797). `None` is `"off"`.
    pub hsts: Option<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self { underscores: Underscores::Drop, http2: true, redirect_to_https: false, hsts: None }
    }
}

/// Handling of header fields with an underscore in their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    /// Removes them.
    #[default]
    Drop,
    /// Answers 400 to a request with such a field.
    Refuse,
    /// Passes them to the application.
    Allow,
}
