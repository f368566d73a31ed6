//! Uvicorn's command line: its names for flags that rgun supports, and its flags that rgun does not
//! support.
//!
//! [`UvicornFlags`] has the supported flags, which `flags` combines with rgun's own: of two flags
//! for one setting, the last applies; two that contradict each other (`--bind` and `--host`) are an
//! error. [`FLAGS`] has the unsupported flags, one row each; the parent module evaluates them.
//! Flags that gunicorn has too are in `gunicorn`.
//!
//! The list is that of uvicorn 0.54's `main.py`. All of these flags are hidden from the help.

use std::ffi::{OsStr, OsString};
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, ArgMatches, Args};

use super::flag::ArgKind::{self, Switch};
use super::flag::Handling::{Ignored, NoOp, Refused};
use super::flag::{CompatFlag, flag};
use super::gunicorn::CIPHERS;
use crate::cli::error::flag_error;
use crate::config::{ConfigError, Target, Value, forwarded_allow_ips};

/// Uvicorn's defaults for `--host` and `--port`. Each default applies if only the other flag is
/// present.
const HOST: &str = "127.0.0.1";
const PORT: &str = "8000";

/// Uvicorn's flags for settings that rgun has, as typed.
#[derive(Debug, Args)]
pub(in crate::cli) struct UvicornFlags {
    /// `--host HOST --port PORT` is `--bind HOST:PORT`.
    #[arg(long, hide = true)]
    host: Option<String>,

    /// See `host`.
    #[arg(long, allow_negative_numbers = true, hide = true)]
    port: Option<String>,

    /// `--uds PATH` is `--bind unix:PATH`.
    #[arg(long, hide = true)]
    uds: Option<String>,

    /// Calls APP to make the application, as "()" at the end of APP does.
    #[arg(long, hide = true)]
    pub(in crate::cli) factory: bool,

    /// The first directory of `--pythonpath`.
    #[arg(long, hide = true)]
    app_dir: Option<OsString>,

    /// The default: trusts the proxies of `proxy.trusted`.
    #[arg(long, overrides_with = "no_proxy_headers", hide = true)]
    proxy_headers: bool,

    /// Trusts no proxy.
    #[arg(long, overrides_with = "proxy_headers", hide = true)]
    no_proxy_headers: bool,

    /// `--access-logfile -`.
    #[arg(long, overrides_with = "no_access_log", hide = true)]
    access_log: bool,

    /// No `--access-logfile`.
    #[arg(long, overrides_with = "access_log", hide = true)]
    no_access_log: bool,

    /// `--max-requests`.
    #[arg(long, allow_negative_numbers = true, overrides_with = "max_requests", hide = true)]
    pub(in crate::cli) limit_max_requests: Option<String>,

    /// `--max-requests-jitter`.
    #[arg(long, allow_negative_numbers = true, overrides_with = "max_requests_jitter", hide = true)]
    pub(in crate::cli) limit_max_requests_jitter: Option<String>,

    /// `limits.queue`: further requests are answered 503, as in uvicorn.
    #[arg(long, allow_negative_numbers = true, hide = true)]
    pub(in crate::cli) limit_concurrency: Option<String>,

    /// `--keep-alive`.
    #[arg(long, allow_negative_numbers = true, overrides_with = "keep_alive", hide = true)]
    pub(in crate::cli) timeout_keep_alive: Option<String>,

    /// `--graceful-timeout`.
    #[arg(long, allow_negative_numbers = true, overrides_with = "graceful_timeout", hide = true)]
    pub(in crate::cli) timeout_graceful_shutdown: Option<String>,
}

impl UvicornFlags {
    /// Returns the address, and the flags it comes from. `bind` has the values of `--bind`.
    pub(in crate::cli) fn address(
        &self,
        bind: &[String],
        errors: &mut Vec<ConfigError>,
    ) -> Option<(&'static str, Value)> {
        let uds = self.uds.as_ref().map(|path| format!("--uds {path}"));
        let (origin, tcp) = match (&self.host, &self.port) {
            (Some(host), Some(port)) => ("--host --port", Some(format!("--host {host} --port {port}"))),
            (Some(host), None) => ("--host", Some(format!("--host {host}"))),
            (None, Some(port)) => ("--port", Some(format!("--port {port}"))),
            (None, None) => ("--uds", None),
        };
        let typed = match (uds, tcp) {
            (Some(uds), Some(tcp)) => {
                errors.push(flag_error(
                    &uds,
                    &format!("contradicts {tcp}"),
                    "remove one of them; to listen at both, write --bind for each",
                ));
                return None;
            }
            (None, None) => return None,
            (Some(typed), None) | (None, Some(typed)) => typed,
        };
        if !bind.is_empty() {
            errors.push(flag_error(
                &typed,
                &format!("contradicts --bind {}", bind.join(" --bind ")),
                "remove one of them; to listen at both, write --bind for each",
            ));
            return None;
        }
        let address = match &self.uds {
            Some(path) => unix(path),
            None => {
                self.tcp().map_err(|hint| errors.push(flag_error(&typed, "is not an address", &hint))).ok()?
            }
        };
        Some((origin, Value::list([address])))
    }

    /// Completes a `--host` without `--port`, or the reverse: `part` returns the missing value of
    /// `host` or `port`.
    pub(in crate::cli) fn complete_address(&mut self, part: impl Fn(&str) -> Option<String>) {
        match (&self.host, &self.port, &self.uds) {
            (Some(_), None, None) => self.port = part("port"),
            (None, Some(_), None) => self.host = part("host"),
            _ => {}
        }
    }

    /// Returns HOST:PORT, which `config` checks.
    ///
    /// # Errors
    /// The hint for a `--host` that cannot be combined with a port.
    fn tcp(&self) -> Result<String, String> {
        let (host, port) = (self.host.as_deref().unwrap_or(HOST), self.port.as_deref().unwrap_or(PORT));
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.parse::<Ipv6Addr>().is_ok() {
            return Ok(format!("[{bare}]:{port}"));
        }
        if host.is_empty() {
            return Err("write --host 0.0.0.0 for all IPv4 addresses, --host :: for all".to_owned());
        }
        if host.contains(':') {
            return Err(match host.rsplit_once(':') {
                Some((name, port)) if !name.contains(':') && !name.is_empty() && !port.is_empty() => {
                    format!("write --host {name} --port {port}, or --bind {host}")
                }
                _ => "write an address or a name, e.g. --host 0.0.0.0, or --host :: for IPv6".to_owned(),
            });
        }
        Ok(format!("{host}:{port}"))
    }

    /// Returns the application's name, with "()" appended for `--factory`.
    pub(in crate::cli) fn target(&self, app: Option<&str>, errors: &mut Vec<ConfigError>) -> Option<Value> {
        let app = match app {
            Some(app) if !self.factory => return Some(Value::text(app)),
            None if !self.factory => return None,
            app => app.unwrap_or_default(),
        };
        let (module, function) = app.split_once(':').unwrap_or((app, ""));
        let (reason, hint) = if app.is_empty() {
            (
                "needs an APP to call".to_owned(),
                "write rgun module:function --factory, or app.target = \"module:function()\" in the file"
                    .to_owned(),
            )
        } else if function.is_empty() {
            (
                format!("{app} names no function to call"),
                format!("write {module}:create_app --factory, with the function's name"),
            )
        } else if function.contains('(') && app.parse::<Target>().is_ok() {
            (format!("{app} is a call already"), "leave out --factory or the parentheses".to_owned())
        } else if function.contains('(') {
            // An invalid call, which `config` reports.
            return Some(Value::text(app));
        } else {
            return Some(Value::text(format!("{app}()")));
        };
        errors.push(flag_error("--factory", &reason, &hint));
        None
    }

    /// Returns the directories of `--app-dir` and `--pythonpath`, and the flags they come from.
    /// `others` is the value of `--pythonpath`.
    pub(in crate::cli) fn pythonpath(&self, others: Option<&OsStr>) -> Option<(&'static str, Value)> {
        // An empty directory is uvicorn's default, the current one, which rgun always imports from.
        match (self.app_dir.as_deref().filter(|dir| !dir.is_empty()), others) {
            (None, others) => others.map(|dirs| ("--pythonpath", Value::os(dirs))),
            (Some(dir), None) => Some(("--app-dir", Value::List(vec![Value::os(dir)]))),
            (Some(dir), Some(others)) => {
                let others = others.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                let dirs = std::iter::once(dir).chain(others.map(OsStr::from_bytes));
                Some(("--app-dir --pythonpath", Value::List(dirs.map(Value::os).collect())))
            }
        }
    }

    /// Returns the trusted peers, and the flag they come from. `list` is the value of
    /// `--forwarded-allow-ips`.
    pub(in crate::cli) fn trusted(&self, list: Option<&str>) -> Option<(&'static str, Value)> {
        if self.no_proxy_headers {
            return Some(("--no-proxy-headers", Value::list::<String>([])));
        }
        list.map(|list| ("--forwarded-allow-ips", forwarded_allow_ips(list)))
    }

    /// Returns whether one of these flags was typed.
    pub(in crate::cli) fn is_used(matches: &ArgMatches) -> bool {
        let command = Self::augment_args(clap::Command::new("uvicorn"));
        command
            .get_arguments()
            .map(Arg::get_id)
            .any(|id| matches.value_source(id.as_str()) == Some(clap::parser::ValueSource::CommandLine))
    }

    /// Returns the value of `log.access`, and the flag it comes from. `logfile` is the value from
    /// `--access-logfile`.
    pub(in crate::cli) fn access(
        &self,
        logfile: Option<Value>,
        errors: &mut Vec<ConfigError>,
    ) -> (&'static str, Option<Value>) {
        let (flag, access) = match (self.access_log, self.no_access_log) {
            (true, _) => ("--access-log", Some(Value::text("stdout"))),
            (_, true) if logfile.as_ref().is_some_and(|access| *access != Value::Boolean(false)) => {
                errors.push(flag_error(
                    "--no-access-log",
                    "contradicts --access-logfile -",
                    "remove one of them",
                ));
                return ("--no-access-log", None);
            }
            (_, true) => ("--no-access-log", Some(Value::Boolean(false))),
            _ => ("--access-logfile", logfile),
        };
        (flag, access)
    }
}

/// Converts a path to an address of `--bind`. Several leading slashes become one, because `unix://`
/// would begin a URL.
fn unix(path: &str) -> String {
    match path.trim_start_matches('/') {
        relative if relative.len() == path.len() => format!("unix:{relative}"),
        rest => format!("unix:/{rest}"),
    }
}

/// Maps `asgi3` and `asgi2`, and granian's `asginl` (without lifespan), to `asgi`; the worker
/// detects the version.
pub(in crate::cli) fn interface(typed: &str) -> &str {
    match typed {
        "asgi3" | "asgi2" | "asginl" => "asgi",
        other => other,
    }
}

/// The flags of uvicorn 0.54's `main.py` that rgun does not support, without those in `gunicorn`.
pub(in crate::cli) const FLAGS: &[CompatFlag] = &[
    // systemd does this.
    flag(
        "fd",
        ArgKind::Value,
        Refused(
            "rgun takes sockets from systemd through LISTEN_FDS, not by number",
            "remove it: rgun uses the sockets of a socket unit automatically; elsewhere use --uds or --bind",
        ),
    ),
    flag(
        "env-file",
        ArgKind::Value,
        Refused(
            "rgun reads no environment files",
            "in the unit, write EnvironmentFile= with the full path of {}; single variables are app.env, or --env \
             NAME=VALUE",
        ),
    ),
    // Done by design, or unnecessary.
    flag("http", ArgKind::Value, Ignored("rgun has one parser, hyper's")).accepted(&["auto"]),
    flag(
        "h11-max-incomplete-event-size",
        ArgKind::Value,
        Ignored(
            "limits.request_line and limits.header bound the head of a request (--limit-request-line, \
                 --limit-request-field_size)",
        ),
    ),
    flag(
        "ws",
        ArgKind::Value,
        Ignored(
            "the daemon implements the WebSocket protocol itself; the application needs no library for it",
        ),
    )
    .accepted(&["auto"]),
    flag(
        "ws-max-queue",
        ArgKind::Value,
        Ignored("rgun has no message queue: it reads from a client only as the application receives"),
    ),
    flag(
        "timeout-worker-healthcheck",
        ArgKind::Value,
        Ignored(
            "rgun logs the stacks of a worker whose event loop is blocked for timeouts.stall, and replaces it",
        ),
    ),
    // Each request has its own context, without variables that lifespan has set.
    flag("reset-contextvars", Switch, NoOp),
    flag(
        "use-colors",
        Switch,
        Ignored("the log has colours if stderr is a terminal and NO_COLOR is not set"),
    ),
    flag("no-use-colors", Switch, NoOp),
    flag("server-header", Switch, Ignored("rgun sends no Server header; the application may")),
    flag("no-server-header", Switch, NoOp),
    flag("date-header", Switch, NoOp),
    flag(
        "no-date-header",
        Switch,
        Ignored("rgun adds a Date to a response without one (RFC 9110, 6.6.1) and keeps the application's"),
    ),
    flag(
        "header",
        ArgKind::Value,
        Refused(
            "rgun adds no headers to responses",
            "set it in a middleware of the application or in the proxy",
        ),
    ),
    flag(
        "ssl-keyfile-password",
        ArgKind::Value,
        Refused(
            "rgun reads no encrypted keys",
            "decrypt the key (openssl pkey -in FILE -out FILE.plain), or let systemd decrypt it \
             (LoadCredentialEncrypted=)",
        ),
    )
    .secret(),
    flag("ssl-ciphers", ArgKind::Value, CIPHERS).accepted(&["TLSv1"]),
];

/// Uvicorn's options, which can be variables too: `--port` is `UVICORN_PORT`.
pub(in crate::cli) const OPTIONS: &[&str] = &[
    "access-log",
    "app",
    "app-dir",
    "backlog",
    "date-header",
    "env-file",
    "factory",
    "fd",
    "forwarded-allow-ips",
    "h11-max-incomplete-event-size",
    "header",
    "host",
    "http",
    "http2",
    "interface",
    "lifespan",
    "limit-concurrency",
    "limit-max-requests",
    "limit-max-requests-jitter",
    "log-config",
    "log-level",
    "loop",
    "port",
    "proxy-headers",
    "reload",
    "reload-delay",
    "reload-dir",
    "reload-exclude",
    "reload-include",
    "reset-contextvars",
    "root-path",
    "server-header",
    "ssl-ca-certs",
    "ssl-cert-reqs",
    "ssl-certfile",
    "ssl-ciphers",
    "ssl-keyfile",
    "ssl-keyfile-password",
    "ssl-version",
    "timeout-graceful-shutdown",
    "timeout-keep-alive",
    "timeout-worker-healthcheck",
    "uds",
    "use-colors",
    "workers",
    "ws",
    "ws-max-queue",
    "ws-max-size",
    "ws-per-message-deflate",
    "ws-ping-interval",
    "ws-ping-timeout",
];
