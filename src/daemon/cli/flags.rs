//! The flags that set something, in gunicorn's spelling, and how they become settings. Uvicorn's are in `compat`.
//!
//! Only the spelling is dealt with here (`--timeout 120` is seconds, `0` is off, `warning` is `warn`). What a
//! value may be is `config`'s to say, so a flag and its key are checked by the same code.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser};

use super::compat::uvicorn;
use super::error::flag_error;
use crate::config::{ConfigError, Layer, Setting, Value, name};

/// What messages call the application on the command line.
pub(super) const APP: &str = "APP";

// Lines of at most 78 columns: clap would break longer ones without their indentation.
const AFTER_HELP: &str = "\
Examples:
  rgun mysite.wsgi                           \"application\" of mysite/wsgi.py
  rgun mysite.asgi:app -b :8000 -w 4         \"app\", 4 workers, all addresses
  rgun 'mysite:make()' --chdir /srv/mysite   what make() returns
  sudo rgun check                            is /etc/rgun/rgun.toml sound, for
                                             the user of rgun.service?
  rgun reload                                new code, losing no request

Settings:
  The command line wins over the environment (RGUN_<SECTION>_<KEY>, and
  WEB_CONCURRENCY for the workers), that over the file, that over the
  defaults. A key without a flag has its variable:
  RGUN_WORKERS_MAX_MEMORY=512MiB.
  With APP and no --config, no file is read; without APP it is
  /etc/rgun/rgun.toml, which explains every key.

Gunicorn and uvicorn:
  Flags are gunicorn's; uvicorn's --host and --port, --uds, --factory,
  --app-dir, --access-log, --limit-max-requests, --limit-concurrency,
  --timeout-keep-alive and --timeout-graceful-shutdown are taken as well.
  The others of both are known: what systemd or rgun's design does is accepted
  with a warning that says what does it now; what would be missed is refused
  with the remedy.

Exit status:
  1   it failed; of reload: the new code does not serve, the old goes on
  64  the command line is wrong
  69  of reload: no daemon answers
  78  the configuration is wrong
  No restart mends 64 and 78: a unit has RestartPreventExitStatus=64 78.";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "rgun",
    bin_name = "rgun",
    override_usage = "rgun [OPTIONS] [APP]\n       rgun check [OPTIONS] [APP]\n       rgun reload [--socket PATH]",
    version,
    about = "Serves a Python application: WSGI and ASGI, one daemon, systemd as its user interface.",
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    disable_help_subcommand = true,
    disable_version_flag = true,
    subcommand_help_heading = "Commands (without one: serve in the foreground)"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) flags: Flags,
    /// Print the version and exit.
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    pub(super) command: Option<Subcommand>,
}

/// What else rgun can do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    /// Say whether configuration and application are sound, and why not; serve nothing.
    #[command(override_usage = "rgun check [OPTIONS] [APP]")]
    Check(Box<Check>),
    /// Have the daemon that runs take new code and configuration; say how it went.
    Reload {
        /// The daemon's control socket [default: control in $RUNTIME_DIRECTORY, or in /run/rgun].
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
}

/// The flags of a check: those of a start, and as whom.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    pub(super) flags: Flags,

    /// As root: check as this user, with its groups [default: User= of the unit].
    #[arg(short, long, value_name = "USER", help_heading = "As root")]
    pub(super) user: Option<String>,

    /// As root: check as this unit runs it; without it rgun.service, and for /etc/rgun/x.toml rgun@x.service.
    #[arg(long, value_name = "UNIT", help_heading = "As root")]
    pub(super) unit: Option<String>,
}

/// The flags, as typed.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The application: module, module:attribute or module:factory(). Without an attribute: "application".
    #[arg(value_name = "APP")]
    app: Option<String>,

    /// The TOML file to read [env: RGUN_CONFIG] [without APP: /etc/rgun/rgun.toml].
    #[arg(short = 'c', long, value_name = "PATH")]
    config: Option<OsString>,

    /// Where the application's module is, and where it runs [default: the current directory].
    #[arg(long, value_name = "DIR", help_heading = "Application")]
    chdir: Option<OsString>,

    /// The interpreter [default: $VIRTUAL_ENV, .venv or venv in the directory, python3 on PATH].
    #[arg(long, value_name = "PATH", help_heading = "Application")]
    python: Option<OsString>,

    /// auto, wsgi or asgi [default: auto].
    #[arg(long, value_name = "KIND", help_heading = "Application")]
    interface: Option<String>,

    /// Gunicorn's way to say it: sync and gthread are wsgi; asgi and uvicorn's worker are asgi.
    #[arg(short = 'k', long, value_name = "CLASS", help_heading = "Application")]
    worker_class: Option<String>,

    /// ASGI's lifespan protocol: auto, on or off [default: auto].
    #[arg(long, value_name = "KIND", help_heading = "Application")]
    lifespan: Option<String>,

    /// ASGI's event loop: auto, asyncio or uvloop [default: auto].
    #[arg(long = "loop", value_name = "KIND", help_heading = "Application")]
    event_loop: Option<String>,

    /// Set a variable for the application; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE", help_heading = "Application")]
    env: Vec<String>,

    /// Directories to import from before all others, with commas between.
    #[arg(long, value_name = "DIRS", help_heading = "Application")]
    pythonpath: Option<OsString>,

    /// The path under which a proxy publishes the application, e.g. /shop.
    #[arg(long, value_name = "PATH", help_heading = "Application")]
    root_path: Option<String>,

    /// HOST:PORT, HOST (port 8000), :PORT (all addresses) or unix:PATH; may be repeated [default: 127.0.0.1:8000; with
    /// PORT in the environment 0.0.0.0:$PORT].
    #[arg(short, long, value_name = "ADDRESS", help_heading = "Listening")]
    bind: Vec<String>,

    /// Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses and networks with commas between, * for
    /// all, "" for none [env: FORWARDED_ALLOW_IPS] [default: those on this machine].
    #[arg(long, value_name = "LIST", help_heading = "Listening")]
    forwarded_allow_ips: Option<String>,

    /// Worker processes: a number, 1-9 for as many as the load takes, or auto for two per core and one more
    /// [default: auto].
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, help_heading = "Workers")]
    workers: Option<String>,

    /// WSGI: requests one worker runs at a time [default: 1].
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Workers")]
    threads: Option<String>,

    /// Import the application once and fork the workers, which share that memory.
    #[arg(long, help_heading = "Workers")]
    preload: bool,

    /// Replace a worker after this many requests; 0 for never [default: 0].
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Workers")]
    max_requests: Option<String>,

    /// Add a random number up to this one, so that workers are not replaced all at a time [default: 0].
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Workers")]
    max_requests_jitter: Option<String>,

    /// The longest the application may take for a request: 120 (seconds), 500ms, 2m; 0 for no limit [default: 30].
    #[arg(short, long, value_name = "TIME", allow_negative_numbers = true, help_heading = "Timeouts")]
    timeout: Option<String>,

    /// How long running requests may go on when rgun stops or reloads [default: 30].
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, help_heading = "Timeouts")]
    graceful_timeout: Option<String>,

    /// How long an idle connection is kept; 0 closes it after each response [default: 75].
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, help_heading = "Timeouts")]
    keep_alive: Option<String>,

    /// Length of the request line in bytes [default: 8KiB].
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Limits")]
    limit_request_line: Option<String>,

    /// Number of header fields [default: 100].
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Limits")]
    limit_request_fields: Option<String>,

    /// Size of all header fields together, in bytes [default: 16KiB].
    #[arg(
        long = "limit-request-field_size",
        alias = "limit-request-field-size",
        value_name = "SIZE",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    limit_request_field_size: Option<String>,

    /// Size of a message that a client sends over a WebSocket [default: 16MiB].
    #[arg(
        long,
        alias = "websocket-max-message-size",
        value_name = "SIZE",
        allow_negative_numbers = true,
        help_heading = "WebSockets"
    )]
    ws_max_size: Option<String>,

    /// Ask a client of which nothing was heard for so long whether it is there; 0 for never [default: 20].
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, help_heading = "WebSockets")]
    ws_ping_interval: Option<String>,

    /// How long it has to answer; 0 for ever [default: 20].
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, help_heading = "WebSockets")]
    ws_ping_timeout: Option<String>,

    /// true or false: compress messages for clients that can [default: true].
    #[arg(long, value_name = "BOOLEAN", help_heading = "WebSockets")]
    ws_per_message_deflate: Option<String>,

    /// error, warning, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL", help_heading = "Log")]
    log_level: Option<String>,

    /// "-" logs each request, to the journal or to stderr.
    #[arg(long, value_name = "-", allow_hyphen_values = true, help_heading = "Log")]
    access_logfile: Option<String>,

    /// Gunicorn's way to say http.underscores.
    #[arg(long, hide = true)]
    header_map: Option<String>,

    /// Gunicorn's way to say `rgun check`.
    #[arg(long, hide = true)]
    check_config: bool,

    #[command(flatten)]
    uvicorn: uvicorn::UvicornFlags,
}

/// What the flags come to.
pub(super) struct ParsedFlags {
    /// The settings.
    pub(super) layer: Layer,
    /// The file to read.
    pub(super) config: Option<PathBuf>,
    /// Whether to check only.
    pub(super) check: bool,
}

impl Flags {
    /// The flags as settings. What cannot be done, or contradicts itself, goes to `errors`.
    pub(super) fn parse(&self, warnings: &mut Vec<String>, errors: &mut Vec<ConfigError>) -> ParsedFlags {
        if let Some(size) = &self.limit_request_field_size {
            warnings.push(format!(
                "--limit-request-field_size {size}: bounds all header fields of a request together, not each one"
            ));
        }
        let uvicorn = &self.uvicorn;
        let mut layer = Layer::new();
        let mut set = |key, flag: &str, value: Option<Value>| {
            if let Some(value) = value {
                layer.insert(key, Setting::flag(flag, value));
            }
        };
        let text = |flag: &Option<String>| flag.as_ref().map(Value::text);
        let list = |flag: &[String]| (!flag.is_empty()).then(|| Value::list(flag));
        set(name::TARGET, APP, uvicorn.target(self.app.as_deref(), errors));
        let path = |flag: &Option<OsString>| flag.as_deref().map(Value::os);
        set(name::DIRECTORY, "--chdir", path(&self.chdir));
        set(name::PYTHON, "--python", path(&self.python));
        set(name::ENV, "--env", list(&self.env));
        if let Some((flags, dirs)) = uvicorn.pythonpath(self.pythonpath.as_deref()) {
            set(name::PYTHONPATH, flags, Some(dirs));
        }
        set(name::ROOT_PATH, "--root-path", text(&self.root_path));
        set(name::BIND, "--bind", list(&self.bind));
        if let Some((flags, address)) = uvicorn.address(&self.bind, errors) {
            set(name::BIND, flags, Some(address));
        }
        if let Some((flag, peers)) = uvicorn.trusted(self.forwarded_allow_ips.as_deref()) {
            set(name::TRUSTED, flag, Some(peers));
        }
        set(name::UNDERSCORES, "--header-map", self.header_map.as_deref().map(underscores));
        set(name::COUNT, "--workers", text(&self.workers));
        set(name::THREADS, "--threads", text(&self.threads));
        set(name::PRELOAD, "--preload", self.preload.then_some(Value::Boolean(true)));
        // Of two spellings one is there at most: the last one typed has replaced the other.
        set(name::MAX_REQUESTS, "--max-requests", text(&self.max_requests));
        set(name::MAX_REQUESTS, "--limit-max-requests", text(&uvicorn.limit_max_requests));
        set(name::MAX_REQUESTS_JITTER, "--max-requests-jitter", text(&self.max_requests_jitter));
        set(
            name::MAX_REQUESTS_JITTER,
            "--limit-max-requests-jitter",
            text(&uvicorn.limit_max_requests_jitter),
        );
        set(name::REQUEST, "--timeout", self.timeout.as_deref().map(|time| seconds(time, "off")));
        let wait = |time: &Option<String>| time.as_deref().map(|time| seconds(time, "0s"));
        set(name::DRAIN, "--graceful-timeout", wait(&self.graceful_timeout));
        set(name::DRAIN, "--timeout-graceful-shutdown", wait(&uvicorn.timeout_graceful_shutdown));
        set(name::KEEPALIVE, "--keep-alive", wait(&self.keep_alive));
        set(name::KEEPALIVE, "--timeout-keep-alive", wait(&uvicorn.timeout_keep_alive));
        set(name::REQUEST_LINE, "--limit-request-line", text(&self.limit_request_line));
        set(name::HEADERS, "--limit-request-fields", text(&self.limit_request_fields));
        set(name::HEADER, "--limit-request-field_size", text(&self.limit_request_field_size));
        set(name::QUEUE, "--limit-concurrency", text(&uvicorn.limit_concurrency));
        set(name::MAX_MESSAGE, "--ws-max-size", text(&self.ws_max_size));
        let ping = |time: &Option<String>| time.as_deref().map(fractional_seconds);
        set(name::PING_INTERVAL, "--ws-ping-interval", ping(&self.ws_ping_interval));
        set(name::PING_TIMEOUT, "--ws-ping-timeout", ping(&self.ws_ping_timeout));
        set(name::COMPRESSION, "--ws-per-message-deflate", text(&self.ws_per_message_deflate));
        set(name::LEVEL, "--log-level", self.log_level.as_deref().map(level));
        let (flag, access) = uvicorn.access(self.access(errors), errors);
        set(name::ACCESS, flag, access);
        set(name::LIFESPAN, "--lifespan", text(&self.lifespan));
        set(name::LOOP, "--loop", text(&self.event_loop));
        let (flag, interface) = self.interface(errors);
        set(name::INTERFACE, flag, interface);
        if let Some(command @ ("check" | "reload")) = self.app.as_deref() {
            // Clap takes a command after flags for the application, and would serve a module of that name.
            errors.push(flag_error(
                "APP",
                &format!("the command \"{command}\" stands first"),
                &format!(
                    "write rgun {command} and then its flags; for a module of that name write {command}:application"
                ),
            ));
        }
        ParsedFlags { layer, config: self.config(errors), check: self.check_config }
    }

    fn access(&self, errors: &mut Vec<ConfigError>) -> Option<bool> {
        match self.access_logfile.as_deref()? {
            "-" => Some(true),
            path => {
                errors.push(flag_error(
                    &format!("--access-logfile {path}"),
                    "rgun writes its log to the journal, or to stderr in the foreground, not to files",
                    "write --access-logfile - and read it with journalctl -u rgun",
                ));
                None
            }
        }
    }

    /// Of `--interface` and `--worker-class`, which say the same thing.
    fn interface(&self, errors: &mut Vec<ConfigError>) -> (&'static str, Option<Value>) {
        let class = self.worker_class.as_deref().and_then(|class| match worker_class_interface(class) {
            Ok(interface) => Some((class, interface)),
            Err(hint) => {
                errors.push(flag_error(&format!("--worker-class {class}"), "rgun has no such worker", &hint));
                None
            }
        });
        let typed = self.interface.as_deref().unwrap_or_default();
        match (self.interface.as_deref().map(uvicorn::interface), class) {
            (Some(interface), Some((class, its)))
                if interface != its && matches!(interface, "wsgi" | "asgi") =>
            {
                errors.push(flag_error(
                    &format!("--interface {typed}"),
                    &format!("contradicts --worker-class {class}, which is {its}"),
                    "leave one of them out",
                ));
                ("--interface", None)
            }
            (Some(interface), _) => ("--interface", Some(Value::text(interface))),
            (None, class) => ("--worker-class", class.map(|(_, interface)| Value::text(interface))),
        }
    }

    fn config(&self, errors: &mut Vec<ConfigError>) -> Option<PathBuf> {
        let path = PathBuf::from(self.config.as_ref()?);
        let is_py = path.extension().is_some_and(|extension| extension == "py");
        let is_called = |kind: &str| path.as_os_str().as_encoded_bytes().starts_with(kind.as_bytes());
        if is_py || is_called("python:") || is_called("file:") {
            errors.push(flag_error(
                &format!("--config {}", path.display()),
                "is gunicorn's configuration in Python; no Python runs in rgun's daemon",
                "write its settings as flags, or as keys of a TOML file as /etc/rgun/rgun.toml explains them",
            ));
            return None;
        }
        Some(path)
    }
}

/// Gunicorn's whole seconds; everything else is left for the check, which knows units.
fn seconds(time: &str, zero: &str) -> Value {
    let plain = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit());
    match plain {
        true if time.bytes().all(|byte| byte == b'0') => Value::text(zero),
        true => Value::text(format!("{time}s")),
        false => Value::text(time),
    }
}

/// Uvicorn's seconds, which are floating-point numbers: `20.0`, `0.2`. Less than a millisecond is one.
fn fractional_seconds(time: &str) -> Value {
    let value = match milliseconds(time) {
        None => return seconds(time, "off"),
        Some(0) => return Value::text("off"),
        Some(time) => time,
    };
    if value % 1000 == 0 {
        Value::text(format!("{}s", value / 1000))
    } else {
        Value::text(format!("{value}ms"))
    }
}

/// Of a number with a decimal point.
fn milliseconds(time: &str) -> Option<u64> {
    let (whole, fraction) = time.split_once('.')?;
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || time.len() < 2 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let (mut value, mut is_more) = (whole, false);
    for at in 0..fraction.len().max(3) {
        let digit = fraction.as_bytes().get(at).map_or(0, |digit| u64::from(digit - b'0'));
        if at < 3 {
            value = value.checked_mul(10)?.checked_add(digit)?;
        } else {
            is_more |= digit > 0;
        }
    }
    value.checked_add(u64::from(is_more))
}

/// Gunicorn's `--header-map` by our words.
fn underscores(map: &str) -> Value {
    Value::text(if map == "dangerous" { "allow" } else { map })
}

/// Gunicorn's levels by our names.
fn level(level: &str) -> Value {
    Value::text(match level.to_ascii_lowercase().as_str() {
        "critical" => "error",
        "warning" => "warn",
        other => return Value::text(other),
    })
}

/// The interface of one of gunicorn's worker classes, or what to do instead of it.
fn worker_class_interface(class: &str) -> Result<&'static str, String> {
    match class {
        "sync" | "gthread" | "gunicorn.workers.sync.SyncWorker" | "gunicorn.workers.gthread.ThreadWorker" => {
            Ok("wsgi")
        }
        "asgi"
        | "uvicorn.workers.UvicornWorker"
        | "uvicorn.workers.UvicornH11Worker"
        | "uvicorn_worker.UvicornWorker"
        | "uvicorn_worker.UvicornH11Worker" => Ok("asgi"),
        "gevent" | "gevent_wsgi" | "gevent_pywsgi" | "eventlet" => Err(format!(
            "{class} patches Python to switch between requests; give workers threads instead (--threads 8), or \
             serve an ASGI application. Slow clients need neither: rgun keeps them away from workers"
        )),
        "tornado" => Err(
            "serve the tornado application by its own HTTPServer, or a WSGI or ASGI application by rgun".to_owned(),
        ),
        _ => Err(
            "leave it out, or write wsgi or asgi with --interface; threads are --threads in every WSGI worker"
                .to_owned(),
        ),
    }
}
