//! Uvicorn's command line: its spelling of what rgun has, and its flags that rgun does not act on.
//!
//! [`UvicornFlags`] has those that set something, for `flags` to join with rgun's own: two spellings of one setting replace
//! each other, the last one counts, but where both would be meant at once (`--bind` and `--host`) it is an error.
//! [`FLAGS`] are the others, one row, one verdict each; the parent module does what it says. What gunicorn has too is in
//! `gunicorn`.
//!
//! The list is that of uvicorn 0.54's `main.py`. All of it is hidden from the help, which explains rgun's own.

use std::ffi::{OsStr, OsString};
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStrExt;

use clap::Args;

use super::flag::ArgKind::{self, Switch};
use super::flag::Handling::{Ignored, NoOp, Refused};
use super::flag::{CompatFlag, flag};
use super::gunicorn::{HTTP2, RELOAD, TLS};
use crate::cli::error::flag_error;
use crate::config::{ConfigError, Environment, Target, Value, forwarded_allow_ips};

/// Uvicorn's defaults of `--host` and `--port`, each for when only the other is given.
const HOST: &str = "127.0.0.1";
const PORT: &str = "8000";

/// Settings as uvicorn spells them, as typed.
#[derive(Debug, Args)]
pub(in crate::cli) struct UvicornFlags {
    /// Together with `--port`: HOST:PORT of `--bind`.
    #[arg(long, hide = true)]
    host: Option<String>,

    /// Together with `--host`.
    #[arg(long, allow_negative_numbers = true, hide = true)]
    port: Option<String>,

    /// unix:PATH of `--bind`.
    #[arg(long, hide = true)]
    uds: Option<String>,

    /// APP is called, as with "()" after it.
    #[arg(long, hide = true)]
    factory: bool,

    /// The first of `--pythonpath`.
    #[arg(long, hide = true)]
    app_dir: Option<OsString>,

    /// What is so unless `--forwarded-allow-ips` or the file says otherwise.
    #[arg(long, overrides_with = "no_proxy_headers", hide = true)]
    proxy_headers: bool,

    /// Nobody is believed.
    #[arg(long, overrides_with = "proxy_headers", hide = true)]
    no_proxy_headers: bool,

    /// `--access-logfile -`.
    #[arg(long, overrides_with = "no_access_log", hide = true)]
    access_log: bool,

    /// Nothing of `--access-logfile`.
    #[arg(long, overrides_with = "access_log", hide = true)]
    no_access_log: bool,

    /// `--max-requests`.
    #[arg(long, allow_negative_numbers = true, overrides_with = "max_requests", hide = true)]
    pub(in crate::cli) limit_max_requests: Option<String>,

    /// `--max-requests-jitter`.
    #[arg(long, allow_negative_numbers = true, overrides_with = "max_requests_jitter", hide = true)]
    pub(in crate::cli) limit_max_requests_jitter: Option<String>,

    /// `limits.queue`: beyond it a request is answered 503, as there.
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
    /// The address, and the flags it comes from; `bind` is what `--bind` says.
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
                    "leave one of them out; to listen at both, write --bind for each",
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
                "leave one of them out; to listen at both, write --bind for each",
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

    /// HOST:PORT, or what to write instead. Whether it is one is for the check to say.
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

    /// The application's name, called if that was asked for.
    pub(in crate::cli) fn target(&self, app: Option<&str>, errors: &mut Vec<ConfigError>) -> Option<Value> {
        let app = match app {
            Some(app) if !self.factory => return Some(Value::text(app)),
            None if !self.factory => return None,
            app => app.unwrap_or_default(),
        };
        let (module, function) = app.split_once(':').unwrap_or((app, ""));
        let (reason, hint) = if app.is_empty() {
            (
                "has no APP beside it to call".to_owned(),
                "write rgun module:function --factory, or app.target = \"module:function()\" in the file"
                    .to_owned(),
            )
        } else if function.is_empty() {
            (
                format!("{app} names no function to call"),
                format!("write {module}:create_app --factory, with the function's name"),
            )
        } else if function.contains('(') && app.parse::<Target>().is_ok() {
            (format!("{app} is a call already"), "leave out --factory, or the brackets".to_owned())
        } else if function.contains('(') {
            // No call that could be made; the check has the words for it.
            return Some(Value::text(app));
        } else {
            return Some(Value::text(format!("{app}()")));
        };
        errors.push(flag_error("--factory", &reason, &hint));
        None
    }

    /// The directories to import from, with those of `--pythonpath`, and the flags they come from.
    pub(in crate::cli) fn pythonpath(&self, others: Option<&OsStr>) -> Option<(&'static str, Value)> {
        // An empty one is uvicorn's default, the current directory; rgun imports from there anyway.
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

    /// The peers that are believed, and the flag that says so; `list` is what `--forwarded-allow-ips` says.
    pub(in crate::cli) fn trusted(&self, list: Option<&str>) -> Option<(&'static str, Value)> {
        if self.no_proxy_headers {
            return Some(("--no-proxy-headers", Value::list::<String>([])));
        }
        list.map(|list| ("--forwarded-allow-ips", forwarded_allow_ips(list)))
    }

    /// Whether requests are logged; `logfile` is what `--access-logfile` says, and the flag it comes from.
    pub(in crate::cli) fn access(
        &self,
        logfile: Option<bool>,
        errors: &mut Vec<ConfigError>,
    ) -> (&'static str, Option<Value>) {
        let (flag, access) = match (self.access_log, self.no_access_log) {
            (true, _) => ("--access-log", Some(true)),
            (_, true) if logfile == Some(true) => {
                errors.push(flag_error(
                    "--no-access-log",
                    "contradicts --access-logfile -",
                    "leave one of them out",
                ));
                return ("--no-access-log", None);
            }
            (_, true) => ("--no-access-log", Some(false)),
            _ => ("--access-logfile", logfile),
        };
        (flag, access.map(Value::Boolean))
    }
}

/// `--bind`'s way to say it. Two slashes at the beginning would be read as those of a URL.
fn unix(path: &str) -> String {
    match path.trim_start_matches('/') {
        relative if relative.len() == path.len() => format!("unix:{relative}"),
        rest => format!("unix:/{rest}"),
    }
}

/// `asgi3` and `asgi2` are one here: which of them an application speaks is found out.
pub(in crate::cli) fn interface(typed: &str) -> &str {
    match typed {
        "asgi3" | "asgi2" => "asgi",
        other => other,
    }
}

/// Of uvicorn 0.54's `main.py`, less what `gunicorn` has.
pub(super) const FLAGS: &[CompatFlag] = &[
    // What systemd does.
    flag(
        "fd",
        ArgKind::Value,
        Refused(
            "rgun takes sockets from systemd by LISTEN_FDS, not by number",
            "leave it out: sockets of a socket unit are used without being named; elsewhere write --uds or --bind",
        ),
    ),
    flag(
        "env-file",
        ArgKind::Value,
        Refused(
            "rgun reads no files of variables",
            "in the unit, write EnvironmentFile= with the full path of {}; single variables are app.env, or --env \
             NAME=VALUE",
        ),
    ),
    // What the design does, or has no need of.
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
        Ignored("the daemon speaks the WebSocket protocol itself; the application needs no library for it"),
    )
    .accepted(&["auto"]),
    flag(
        "ws-max-queue",
        ArgKind::Value,
        Ignored("no messages are queued by number: a client is read as far as the application receives"),
    ),
    flag(
        "timeout-worker-healthcheck",
        ArgKind::Value,
        Ignored(
            "a worker whose event loop does not turn for timeouts.stall has its stacks logged, and is replaced",
        ),
    ),
    // Each request has a context of its own, without what lifespan has set.
    flag("reset-contextvars", Switch, NoOp),
    flag("use-colors", Switch, Ignored("the log has no colors; journalctl has")),
    flag("no-use-colors", Switch, NoOp),
    flag("server-header", Switch, Ignored("rgun sends no Server header; the application may")),
    flag("no-server-header", Switch, NoOp),
    flag("date-header", Switch, NoOp),
    flag(
        "no-date-header",
        Switch,
        Ignored(
            "an answer without a Date gets one (RFC 9110, 6.6.1); the application's own is left as it is",
        ),
    ),
    flag(
        "header",
        ArgKind::Value,
        Refused(
            "rgun adds no headers to answers",
            "set it in a middleware of the application, or in the proxy",
        ),
    ),
    // What this version does not have.
    flag("http2", Switch, HTTP2),
    flag("reload-dir", ArgKind::Value, RELOAD),
    flag("reload-include", ArgKind::Value, RELOAD),
    flag("reload-exclude", ArgKind::Value, RELOAD),
    flag("reload-delay", ArgKind::Value, RELOAD),
    flag("ssl-keyfile", ArgKind::Value, TLS),
    flag("ssl-certfile", ArgKind::Value, TLS),
    flag("ssl-keyfile-password", ArgKind::Value, TLS).secret(),
    flag("ssl-cert-reqs", ArgKind::Value, TLS).accepted(&["0"]),
    flag("ssl-ca-certs", ArgKind::Value, TLS),
    flag("ssl-ciphers", ArgKind::Value, TLS),
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

/// Warns of the variables that uvicorn would have read.
pub(in crate::cli) fn warn_about_variables(environment: &Environment, warnings: &mut Vec<String>) {
    for option in OPTIONS {
        let variable = format!("UVICORN_{}", option.replace('-', "_").to_uppercase());
        // One with a URL is of a Service that is called uvicorn (Kubernetes), not of uvicorn.
        let is_meant = |value: &OsStr| !value.as_bytes().windows(3).any(|bytes| bytes == b"://");
        if environment.value(&variable).is_some_and(is_meant) {
            warnings.push(format!(
                "{variable}: ignored; write the flag on the command line, or its key as RGUN_<SECTION>_<KEY>"
            ));
        }
    }
}
