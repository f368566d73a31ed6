//! The flags of each section of the help, and their conversion to settings.
//!
//! Where uvicorn has another name for a flag, the group reads uvicorn's flag, too. At most one of
//! the two is present, because the last one on the command line overrides the other.

use std::ffi::OsString;

use clap::Args;

use super::convert::{WorkerClass, client_auth, fractional_seconds, level, seconds, worker_class};
use super::settings::FlagSettings;
use crate::cli::compat::{gunicorn, uvicorn};
use crate::cli::error::flag_error;
use crate::config::{ConfigError, Value, forwarded_allow_ips, name};

/// Number of threads of a worker in place of a worker class with many greenlets.
const N_THREADS: u16 = 8;

fn text(flag: Option<&String>) -> Option<Value> {
    flag.map(Value::text)
}

fn path(flag: Option<&OsString>) -> Option<Value> {
    flag.map(|path| Value::os(path))
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Application")]
pub(super) struct ApplicationFlags {
    /// The directory that contains the application's module, and the workers' working directory
    /// [default: the current directory].
    #[arg(long, value_name = "DIR")]
    chdir: Option<OsString>,

    /// The interpreter [default: that of rgun's own virtual environment, $VIRTUAL_ENV, .venv or
    /// venv in the directory, …, python3 on PATH].
    #[arg(long, value_name = "PATH")]
    python: Option<OsString>,

    /// auto, wsgi or asgi [default: auto].
    #[arg(long, value_name = "KIND")]
    interface: Option<String>,

    /// Gunicorn's name for --interface: sync and gthread are wsgi; asgi and uvicorn's worker are
    /// asgi.
    #[arg(short = 'k', long, value_name = "CLASS")]
    worker_class: Option<String>,

    /// Whether an ASGI application's lifespan is run: auto, on or off [default: auto].
    #[arg(long, value_name = "KIND")]
    lifespan: Option<String>,

    /// The event loop of an ASGI application: auto, asyncio or uvloop [default: auto].
    #[arg(long = "loop", value_name = "KIND")]
    event_loop: Option<String>,

    /// Set an environment variable for the application; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Directories to search for modules before all others, separated by commas.
    #[arg(long, value_name = "DIRS")]
    pythonpath: Option<OsString>,

    /// The URL path under which a proxy publishes the application, e.g. /shop.
    #[arg(long, value_name = "PATH")]
    root_path: Option<String>,
}

impl ApplicationFlags {
    pub(super) fn add_to(
        &self,
        settings: &mut FlagSettings,
        uvicorn: &uvicorn::UvicornFlags,
        warnings: &mut Vec<String>,
        errors: &mut Vec<ConfigError>,
    ) {
        settings.set(name::DIRECTORY, "--chdir", path(self.chdir.as_ref()));
        settings.set(name::PYTHON, "--python", path(self.python.as_ref()));
        let env = (!self.env.is_empty()).then(|| Value::list(&self.env));
        settings.set(name::ENV, "--env", env);
        if let Some((flags, directories)) = uvicorn.pythonpath(self.pythonpath.as_deref()) {
            settings.set(name::PYTHONPATH, flags, Some(directories));
        }
        settings.set(name::ROOT_PATH, "--root-path", text(self.root_path.as_ref()));
        settings.set(name::LIFESPAN, "--lifespan", text(self.lifespan.as_ref()));
        settings.set(name::LOOP, "--loop", text(self.event_loop.as_ref()));
        let class = self.worker_class(errors);
        if let Some((typed, WorkerClass { needs_threads: true, .. })) = class {
            settings.imply(name::THREADS, "--worker-class", Value::text(N_THREADS.to_string()));
            warnings.push(format!(
                "--worker-class {typed}: rgun has no such worker; a WSGI application is served by {N_THREADS} threads in \
                 each worker, or as many as workers.threads (--threads) says. Slow clients occupy none of them"
            ));
        }
        if let (Some((typed, WorkerClass { is_loop: true, .. })), None) = (class, &self.event_loop) {
            settings.set(name::LOOP, "--worker-class", Some(Value::text(typed)));
        }
        let (flag, interface) = self.interface(class, errors);
        settings.set(name::INTERFACE, flag, interface);
    }

    /// Returns the value of `--worker-class`, as typed, and its equivalent.
    fn worker_class(&self, errors: &mut Vec<ConfigError>) -> Option<(&str, WorkerClass)> {
        let typed = self.worker_class.as_deref()?;
        worker_class(typed)
            .map_err(|hint| {
                errors.push(flag_error(
                    &format!("--worker-class {typed}"),
                    "rgun has no such worker class",
                    &hint,
                ));
            })
            .ok()
            .map(|class| (typed, class))
    }

    /// Returns the value of `--interface` or `--worker-class`, which set the same key, and the flag
    /// it comes from.
    fn interface(
        &self,
        class: Option<(&str, WorkerClass)>,
        errors: &mut Vec<ConfigError>,
    ) -> (&'static str, Option<Value>) {
        let class = class.map(|(typed, class)| (typed, class.interface));
        let typed = self.interface.as_deref().unwrap_or_default();
        match (self.interface.as_deref().map(uvicorn::interface), class) {
            (Some(interface), Some((class, its)))
                if interface != its && its != "auto" && matches!(interface, "wsgi" | "asgi") =>
            {
                errors.push(flag_error(
                    &format!("--interface {typed}"),
                    &format!("contradicts --worker-class {class}, which is {its}"),
                    "remove one of them",
                ));
                ("--interface", None)
            }
            (Some(interface), _) => ("--interface", Some(Value::text(interface))),
            (None, class) => {
                let named = class.filter(|(_, interface)| *interface != "auto");
                ("--worker-class", named.map(|(_, interface)| Value::text(interface)))
            }
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
pub(super) struct ListenFlags {
    /// HOST:PORT, HOST (port 8000), :PORT (all IPv4 addresses) or unix:PATH; may be repeated;
    /// several addresses are separated by commas [default: 127.0.0.1:8000; with PORT in the
    /// environment 0.0.0.0:$PORT].
    #[arg(short, long, value_name = "ADDRESS")]
    bind: Vec<String>,

    /// Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted: addresses and networks
    /// separated by commas, * for all, "" for none [env: FORWARDED_ALLOW_IPS] [default: those on
    /// this machine].
    #[arg(long, value_name = "LIST")]
    forwarded_allow_ips: Option<String>,

    /// Each connection begins with a PROXY header; v1, v2 and auto (also without a value) accept
    /// both versions [default: off].
    #[arg(long, value_name = "VERSION", num_args = 0..=1, default_missing_value = "auto")]
    proxy_protocol: Option<String>,

    /// Proxies that may send a PROXY header, written as in --forwarded-allow-ips [default: the
    /// proxies listed there].
    #[arg(long, value_name = "LIST")]
    proxy_allow_from: Option<String>,
}

impl ListenFlags {
    pub(super) fn add_to(
        &self,
        settings: &mut FlagSettings,
        uvicorn: &uvicorn::UvicornFlags,
        errors: &mut Vec<ConfigError>,
    ) {
        if !self.bind.is_empty() {
            let addresses = self.bind.iter().flat_map(|list| list.split(',')).map(str::trim);
            settings.set(name::BIND, "--bind", Some(Value::list(addresses)));
        }
        if let Some((flags, address)) = uvicorn.address(&self.bind, errors) {
            settings.set(name::BIND, flags, Some(address));
        }
        if let Some((flag, peers)) = uvicorn.trusted(self.forwarded_allow_ips.as_deref()) {
            settings.set(name::TRUSTED, flag, Some(peers));
        }
        let required = self.proxy_protocol.as_deref().map(gunicorn::requires_proxy_header);
        match required.transpose() {
            Ok(required) => {
                settings.set(name::PROXY_PROTOCOL, "--proxy-protocol", required.map(Value::Boolean));
            }
            Err(error) => errors.push(error),
        }
        let senders = self.proxy_allow_from.as_deref().map(forwarded_allow_ips);
        settings.set(name::PROTOCOL_TRUSTED, "--proxy-allow-from", senders);
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsFlags {
    /// PEM file with the certificate and its intermediate ones: clients speak TLS.
    #[arg(long, alias = "ssl-certfile", value_name = "PATH")]
    certfile: Option<OsString>,

    /// PEM file with the certificate's private key [default: the file of --certfile].
    #[arg(long, alias = "ssl-keyfile", value_name = "PATH")]
    keyfile: Option<OsString>,

    /// PEM file with the authorities whose client certificates are valid.
    #[arg(long, alias = "ssl-ca-certs", value_name = "PATH")]
    ca_certs: Option<OsString>,

    /// Client certificates: 0 or off, 1 or optional, 2 or required [default: 0].
    #[arg(long, alias = "ssl-cert-reqs", value_name = "MODE", allow_negative_numbers = true)]
    cert_reqs: Option<String>,
}

impl TlsFlags {
    pub(super) fn add_to(&self, settings: &mut FlagSettings) {
        let path = |path: &Option<OsString>| path.as_deref().map(Value::os);
        settings.set(name::CERT, "--certfile", path(&self.certfile));
        settings.set(name::KEY, "--keyfile", path(&self.keyfile));
        settings.set(name::CLIENT_CA, "--ca-certs", path(&self.ca_certs));
        settings.set(name::CLIENT_AUTH, "--cert-reqs", self.cert_reqs.as_deref().map(client_auth));
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Workers")]
pub(super) struct WorkerFlags {
    /// Worker processes: a number, a range such as 1-9 to scale with the load, or auto for two per
    /// core plus one [default: 1 with APP, else auto].
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    workers: Option<String>,

    /// WSGI: requests one worker runs at a time [default: 1].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    threads: Option<String>,

    /// Import the application once and fork the workers, which share that memory.
    #[arg(long)]
    preload: bool,

    /// Replace a worker after this many requests; 0 for never [default: 0].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_requests: Option<String>,

    /// Raise each worker's --max-requests by a random number from 0 to N, so that they are not all
    /// replaced at once [default: 0].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_requests_jitter: Option<String>,

    /// Run the workers as this user; rgun itself keeps its own user, usually root.
    #[arg(short, long, value_name = "USER")]
    pub(super) user: Option<String>,

    /// Run the workers with this group [default: that of --user].
    #[arg(short, long, value_name = "GROUP")]
    group: Option<String>,
}

impl WorkerFlags {
    pub(super) fn add_to(&self, settings: &mut FlagSettings, uvicorn: &uvicorn::UvicornFlags) {
        settings.set(name::COUNT, "--workers", text(self.workers.as_ref()));
        settings.set(name::THREADS, "--threads", text(self.threads.as_ref()));
        settings.set(name::WORKER_USER, "--user", text(self.user.as_ref()));
        settings.set(name::WORKER_GROUP, "--group", text(self.group.as_ref()));
        settings.set(name::PRELOAD, "--preload", self.preload.then_some(Value::Boolean(true)));
        settings.set(name::MAX_REQUESTS, "--max-requests", text(self.max_requests.as_ref()));
        settings.set(name::MAX_REQUESTS, "--limit-max-requests", text(uvicorn.limit_max_requests.as_ref()));
        settings.set(
            name::MAX_REQUESTS_JITTER,
            "--max-requests-jitter",
            text(self.max_requests_jitter.as_ref()),
        );
        settings.set(
            name::MAX_REQUESTS_JITTER,
            "--limit-max-requests-jitter",
            text(uvicorn.limit_max_requests_jitter.as_ref()),
        );
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Timeouts")]
pub(super) struct TimeoutFlags {
    /// Maximum time the application may take for a request: 120 (seconds), 500ms, 2m; 0 for no
    /// limit [default: 30; none for ASGI with APP].
    #[arg(short, long, value_name = "TIME", allow_negative_numbers = true)]
    timeout: Option<String>,

    /// Maximum time running requests have to finish when rgun stops or reloads [default: 30].
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    graceful_timeout: Option<String>,

    /// Time until an idle connection is closed; 0 closes it after each response [default: 75].
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    keep_alive: Option<String>,
}

impl TimeoutFlags {
    pub(super) fn add_to(&self, settings: &mut FlagSettings, uvicorn: &uvicorn::UvicornFlags) {
        settings.set(name::REQUEST, "--timeout", self.timeout.as_deref().map(|time| seconds(time, "off")));
        let wait = |time: &Option<String>| time.as_deref().map(|time| seconds(time, "0s"));
        settings.set(name::DRAIN, "--graceful-timeout", wait(&self.graceful_timeout));
        settings.set(name::DRAIN, "--timeout-graceful-shutdown", wait(&uvicorn.timeout_graceful_shutdown));
        settings.set(name::KEEPALIVE, "--keep-alive", wait(&self.keep_alive));
        settings.set(name::KEEPALIVE, "--timeout-keep-alive", wait(&uvicorn.timeout_keep_alive));
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
#[expect(clippy::struct_field_names, reason = "clap derives the flags' names from the fields")]
pub(super) struct LimitFlags {
    /// Maximum length of the request line in bytes [default: 8KiB].
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    limit_request_line: Option<String>,

    /// Maximum number of header fields [default: 100].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    limit_request_fields: Option<String>,

    /// Maximum size of all header fields together, in bytes [default: 16KiB].
    #[arg(
        long = "limit-request-field_size",
        alias = "limit-request-field-size",
        value_name = "SIZE",
        allow_negative_numbers = true
    )]
    limit_request_field_size: Option<String>,
}

impl LimitFlags {
    pub(super) fn add_to(
        &self,
        settings: &mut FlagSettings,
        uvicorn: &uvicorn::UvicornFlags,
        warnings: &mut Vec<String>,
    ) {
        if let Some(size) = &self.limit_request_field_size {
            warnings.push(format!(
                "--limit-request-field_size {size}: bounds all header fields of a request together, not each one"
            ));
        }
        for (key, flag, limit, largest) in [
            (name::REQUEST_LINE, "--limit-request-line", &self.limit_request_line, "64KiB"),
            (name::HEADERS, "--limit-request-fields", &self.limit_request_fields, "1000"),
            (name::HEADER, "--limit-request-field_size", &self.limit_request_field_size, "64KiB"),
        ] {
            // In gunicorn, zero is no limit.
            let is_zero = limit.as_deref() == Some("0");
            if is_zero {
                warnings.push(format!("{flag} 0: rgun always has a limit; {largest} is its largest"));
            }
            settings.set(key, flag, if is_zero { Some(Value::text(largest)) } else { text(limit.as_ref()) });
        }
        settings.set(name::QUEUE, "--limit-concurrency", text(uvicorn.limit_concurrency.as_ref()));
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "WebSockets")]
#[expect(clippy::struct_field_names, reason = "clap derives the flags' names from the fields")]
pub(super) struct WebSocketFlags {
    /// Maximum size of a message from a client [default: 16MiB].
    #[arg(long, alias = "websocket-max-message-size", value_name = "SIZE", allow_negative_numbers = true)]
    ws_max_size: Option<String>,

    /// Ping a client that has sent nothing for this long; 0 for never [default: 20].
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    ws_ping_interval: Option<String>,

    /// Close the connection if a ping is not answered within this time; 0 for never [default: 20].
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    ws_ping_timeout: Option<String>,

    /// true or false: compress messages if the client supports it [default: true].
    #[arg(long, value_name = "BOOLEAN")]
    ws_per_message_deflate: Option<String>,
}

impl WebSocketFlags {
    pub(super) fn add_to(&self, settings: &mut FlagSettings) {
        settings.set(name::MAX_MESSAGE, "--ws-max-size", text(self.ws_max_size.as_ref()));
        let ping = |time: &Option<String>| time.as_deref().map(fractional_seconds);
        settings.set(name::PING_INTERVAL, "--ws-ping-interval", ping(&self.ws_ping_interval));
        settings.set(name::PING_TIMEOUT, "--ws-ping-timeout", ping(&self.ws_ping_timeout));
        settings.set(
            name::COMPRESSION,
            "--ws-per-message-deflate",
            text(self.ws_per_message_deflate.as_ref()),
        );
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogFlags {
    /// The least severe level that is logged: error, warning, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    /// The format of the log: auto, text or json [default: auto, which is readable on a terminal
    /// and has all fields elsewhere].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,

    /// Configure Python's logging in the workers from this file: JSON, YAML or TOML if it has such
    /// an extension, else ini.
    #[arg(long, alias = "log-config-json", value_name = "PATH")]
    log_config: Option<OsString>,

    /// "-" logs each request: to the journal under systemd, elsewhere to stdout.
    #[arg(long, value_name = "-", allow_hyphen_values = true)]
    access_logfile: Option<String>,

    /// The line of a request in the access log, in gunicorn's notation: '%(h)s "%(r)s" %(s)s'.
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    access_logformat: Option<String>,
}

impl LogFlags {
    pub(super) fn add_to(
        &self,
        settings: &mut FlagSettings,
        uvicorn: &uvicorn::UvicornFlags,
        warnings: &mut Vec<String>,
        errors: &mut Vec<ConfigError>,
    ) {
        settings.set(name::LEVEL, "--log-level", self.log_level.as_deref().map(level));
        settings.set(name::LOG_FORMAT, "--log-format", self.log_format.as_deref().map(Value::text));
        settings.set(name::LOG_CONFIG, "--log-config", path(self.log_config.as_ref()));
        let (flag, access) = uvicorn.access(self.access(warnings), errors);
        settings.set(name::ACCESS, flag, access);
        let format = self.access_logformat.as_deref().map(Value::text);
        settings.set(name::ACCESS_FORMAT, "--access-logformat", format);
    }

    /// Returns the value of `log.access`. If the flag names a file, requests are logged where the
    /// rest of the log goes, as for `--error-logfile`.
    fn access(&self, warnings: &mut Vec<String>) -> Option<Value> {
        match self.access_logfile.as_deref()? {
            "-" | "/dev/stdout" => Some(Value::text("stdout")),
            "/dev/stderr" => Some(Value::Boolean(true)),
            "/dev/null" => Some(Value::Boolean(false)),
            path => {
                warnings.push(format!(
                    "--access-logfile {path}: requests are logged, but not to this file; the log goes to the journal \
                     under systemd (journalctl -u rgun -t rgun), to stderr in the foreground"
                ));
                Some(Value::Boolean(true))
            }
        }
    }
}
