//! Gunicorn's flags that rgun does not support, one row each; the parent module evaluates them.
//!
//! The list is that of gunicorn 27's `config.py`, without the flags in `flags` and without settings that have no flag.
//! Flags that uvicorn has too (`--backlog`, `--log-config`, `--reload`, `--ssl-version`) are in this table only.

use super::flag::ArgKind::{Switch, Value};
use super::flag::Handling::{self, Ignored, NoOp, NotYet, Refused};
use super::flag::{CompatFlag, flag};
use crate::cli::error::flag_error;
use crate::config::ConfigError;

const JOURNAL: &str = "the log goes to the journal under systemd, to stderr in the foreground";
/// `--ciphers`, `--ssl-ciphers`.
pub(super) const CIPHERS: Handling = Refused(
    "rgun offers the cipher suites that have forward secrecy and authenticated encryption, and no others",
    "remove it",
);
const STATSD: Handling = NotYet("remove it");
/// The HTTP/2 window and frame sizes.
const HTTP2_SIZE: Handling =
    Ignored("rgun sets the HTTP/2 windows and frames itself; heads are limited by limits.header");
const LOG_CONFIG: Handling =
    NotYet("remove it; the application configures its own logging, which goes to the journal");
/// `--reload` and the flags that configure it.
pub(super) const RELOAD: Handling = NotYet(
    "remove it: rgun does not watch files. systemctl reload rgun, or SIGHUP in the foreground, loads new code \
     without losing a request",
);
const SYSLOG: Handling = Ignored("journald forwards to syslog (ForwardToSyslog= in journald.conf)");
const CONTROL: Handling = Ignored(
    "rgun's control socket is in RuntimeDirectory= of the unit, accessible to its user and root only",
);
const DIRTY: Handling =
    Refused("rgun has no pool for long tasks", "run them in a task queue, e.g. Celery, as a unit of its own");
const PASTE: Handling = Refused(
    "rgun does not read PasteDeploy files",
    "write a module with application = paste.deploy.loadapp(\"config:/srv/mysite/production.ini\") and name it",
);
const LENIENT: Handling = Refused(
    "rgun's parser has no lenient mode: messages that two parsers read differently allow request smuggling",
    "remove it, and fix the client",
);

/// Returns whether `--proxy-protocol` with this value requires a PROXY header.
pub(in crate::cli) fn requires_proxy_header(value: &str) -> Result<bool, ConfigError> {
    match value {
        "auto" | "v1" | "v2" | "true" => Ok(true),
        "off" | "none" | "false" => Ok(false),
        // Up to gunicorn 23 the flag had no value, so APP may follow it.
        other => Err(flag_error(
            &format!("--proxy-protocol {other}"),
            "is not one of the choices",
            "write --proxy-protocol=auto or =off; before APP, the value cannot be omitted",
        )),
    }
}

/// The unsupported flags of gunicorn 27's `config.py`.
pub(super) const FLAGS: &[CompatFlag] = &[
    // Flags for functions of systemd.
    flag(
        "daemon",
        Switch,
        Refused(
            "rgun does not run itself in the background",
            "systemctl enable --now rgun.socket, or in a unit of your own: Type=notify, ExecStart=rgun … without this flag",
        ),
    )
    .short('D'),
    flag("user", Value, Refused("rgun does not change its user", "in the unit, write User={}")).short('u'),
    flag("group", Value, Refused("rgun does not change its group", "in the unit, write Group={}")).short('g'),
    flag("umask", Value, Refused("rgun does not change its umask", "in the unit, write UMask={}")).short('m'),
    flag("initgroups", Switch, Ignored("User= of the unit sets the supplementary groups")),
    flag("pid", Value, Ignored("systemd knows the main process: systemctl show -p MainPID rgun")).short('p'),
    flag("backlog", Value, Ignored("Backlog= of the socket unit sets the length of the kernel's queue, limits.queue that of rgun's")),
    flag("name", Value, Ignored("the unit's name identifies the service")).short('n'),
    flag("worker-tmp-dir", Value, Ignored("workers' heartbeats are in shared memory, not in files")),
    flag("error-logfile", Value, Ignored(JOURNAL)).alias("log-file").accepted(&["-"]),
    flag("capture-output", Switch, Ignored("rgun logs what the application prints")),
    flag("enable-stdio-inheritance", Switch, Ignored("rgun logs what the application prints"))
        .short('R'),
    flag("disable-redirect-access-to-syslog", Switch, Ignored(JOURNAL)),
    flag("log-syslog", Switch, SYSLOG),
    flag("log-syslog-to", Value, SYSLOG),
    flag("log-syslog-prefix", Value, SYSLOG),
    flag("log-syslog-facility", Value, SYSLOG),
    flag("control-socket", Value, CONTROL),
    flag("control-socket-mode", Value, CONTROL),
    flag("no-control-socket", Switch, CONTROL),
    // Flags for behaviour that rgun always has, or does not need.
    flag("reuse-port", Switch, Ignored("one listener and one queue serve all workers, so no request waits behind a busy one")),
    flag("no-sendfile", Switch, Ignored("the daemon sends files, without sendfile(2)")),
    flag(
        "worker-connections",
        Value,
        Ignored(
            "workers have no connections; limits.connections limits the daemon's, and workers.concurrency limits the requests \
             that an ASGI worker runs at a time",
        ),
    ),
    flag("http-parser", Value, Ignored("rgun has one parser, hyper's")).accepted(&["auto", "fast"]),
    flag("http2-initial-window-size", Value, HTTP2_SIZE),
    flag("http2-max-frame-size", Value, HTTP2_SIZE),
    flag("http2-max-header-list-size", Value, HTTP2_SIZE),
    flag(
        "http2-cleartext",
        Value,
        Refused(
            "RFC 9113 has removed the upgrade to HTTP/2 in clear text",
            "have the client begin with HTTP/2 (prior knowledge), which http.http2 allows",
        ),
    )
    .accepted(&["off", "prior-knowledge"]),
    flag("asgi-disconnect-grace-period", Value, Ignored("the application receives http.disconnect and decides itself when to stop")),
    flag("suppress-ragged-eofs", Switch, NoOp),
    flag("do-handshake-on-connect", Switch, NoOp),
    flag("ciphers", Value, CIPHERS),
    // The values of `ssl.PROTOCOL_TLS` and `ssl.PROTOCOL_TLS_SERVER`, which negotiate the version.
    flag(
        "ssl-version",
        Value,
        Refused("rgun speaks TLS 1.2 and 1.3", "remove it; RGUN_TLS_MIN_VERSION=1.3 refuses TLS 1.2"),
    )
    .accepted(&["2", "17", "TLS", "TLS_SERVER"]),
    flag("spew", Switch, Refused("rgun does not trace lines", "run the application under python -m trace")),
    flag(
        "logger-class",
        Value,
        Refused("rgun's log is not written in Python", "remove it; the application's own logging is not touched"),
    ),
    flag("dirty-app", Value, DIRTY),
    flag("dirty-workers", Value, DIRTY).accepted(&["0"]),
    flag("dirty-timeout", Value, DIRTY),
    flag("dirty-threads", Value, DIRTY),
    flag("dirty-graceful-timeout", Value, DIRTY),
    flag("paste", Value, PASTE).alias("paster"),
    flag("paste-global", Value, PASTE),
    flag("permit-obsolete-folding", Switch, LENIENT),
    flag("strip-header-spaces", Switch, LENIENT),
    flag("permit-unconventional-http-method", Switch, LENIENT),
    flag("permit-unconventional-http-version", Switch, LENIENT),
    flag("casefold-http-method", Switch, LENIENT),
    // Planned for a later version.
    flag("reload", Switch, RELOAD),
    flag("reload-engine", Value, RELOAD),
    flag("reload-extra-file", Value, RELOAD),
    flag("print-config", Switch, NotYet("rgun check checks the configuration")),
    flag("access-logformat", Value, NotYet("remove it; entries of the access log have named fields")),
    flag("log-config", Value, LOG_CONFIG),
    flag("log-config-json", Value, LOG_CONFIG),
    flag("statsd-host", Value, STATSD),
    flag("statsd-prefix", Value, STATSD),
    flag("dogstatsd-tags", Value, STATSD),
    flag("enable-backlog-metric", Switch, STATSD),
    flag("forwarder-headers", Value, NotYet("remove it; the path under which the application is published is --root-path"))
        .accepted(&["SCRIPT_NAME,PATH_INFO", ""]),
    flag("protocol", Value, NotYet("let the proxy speak HTTP to rgun: proxy_pass in place of uwsgi_pass"))
        .accepted(&["http"]),
    flag("uwsgi-allow-from", Value, NotYet("let the proxy speak HTTP to rgun: proxy_pass in place of uwsgi_pass")),
    flag("asgi-loop", Value, NotYet("remove it")).accepted(&["auto"]),
    flag("asgi-lifespan", Value, NotYet("remove it: rgun runs the lifespan if the application supports it")).accepted(&["auto"]),
];
