//! The options of granian 2.8, hypercorn 0.18 and uWSGI 2.0, one row each: rgun's flag or key for it, or the reason why
//! there is none.

use super::flags;
use super::plan::{DropIn, Plan};
use crate::config::{Value, name};

/// An option of another server.
pub(super) struct ForeignOption {
    /// The long name without its leading hyphens, then the other names.
    names: &'static [&'static str],
    has_value: bool,
    becomes: Becomes,
}

/// The result for an option.
#[derive(Clone, Copy)]
enum Becomes {
    /// This flag of rgun, with the same value.
    Flag(&'static str),
    /// This flag of rgun. The text says how its meaning differs.
    Changed(&'static str, &'static str),
    /// This key, with the option's value followed by this unit of measure.
    Key(&'static str, &'static str),
    /// This key, with this value.
    Fixed(&'static str, &'static str),
    /// A directive.
    Directive(DropIn, &'static str),
    /// Dropped without a note: rgun needs no setting for it.
    Nothing,
    /// Left out, for this reason.
    Left(&'static str),
}

use Becomes::{Changed, Directive, Fixed, Flag, Key, Left, Nothing};

const fn value(names: &'static [&'static str], becomes: Becomes) -> ForeignOption {
    ForeignOption { names, has_value: true, becomes }
}

const fn switch(names: &'static [&'static str], becomes: Becomes) -> ForeignOption {
    ForeignOption { names, has_value: false, becomes }
}

const JOURNAL: &str = "the log is in the journal, journalctl -u rgun";
const RELOAD: &str = "rgun does not watch files; systemctl reload rgun loads new code";
const METRICS: &str = "this version of rgun publishes no metrics";
const TASKS: &str = "rgun runs no background tasks; run them in a systemd unit of their own";

/// The options of `granian`.
pub(super) const GRANIAN: &[ForeignOption] = &[
    value(&["host"], Flag("host")),
    value(&["port"], Flag("port")),
    value(&["uds"], Flag("uds")),
    value(&["interface"], Flag("interface")),
    value(&["workers"], Flag("workers")),
    value(&["blocking-threads"], Flag("threads")),
    value(&["loop"], Flag("loop")),
    value(&["log-level"], Flag("log-level")),
    switch(&["access-log"], Flag("access-log")),
    switch(&["no-access-log"], Flag("no-access-log")),
    switch(&["factory"], Flag("factory")),
    value(&["url-path-prefix"], Flag("root-path")),
    value(&["working-dir"], Flag("chdir")),
    value(&["ssl-certificate"], Flag("certfile")),
    value(&["ssl-keyfile"], Flag("keyfile")),
    value(&["ssl-ca"], Flag("ca-certs")),
    switch(&["ssl-client-verify"], Fixed(name::CLIENT_AUTH, "required")),
    value(
        &["ssl-protocol-min"],
        Left("rgun speaks TLS 1.2 and 1.3; tls.min_version = \"1.3\" refuses TLS 1.2"),
    ),
    value(&["workers-lifetime"], Key(name::MAX_LIFETIME, "s")),
    value(&["workers-max-rss"], Key(name::MAX_MEMORY, "MiB")),
    value(&["workers-kill-timeout"], Key(name::DRAIN, "s")),
    value(
        &["backpressure"],
        Changed("limit-concurrency", "it limits the requests that wait, for all workers together"),
    ),
    value(&["env-files"], Directive(DropIn::Service, "EnvironmentFile")),
    value(&["backlog"], Directive(DropIn::Socket, "Backlog")),
    value(&["http"], Nothing),
    switch(&["ws", "no-ws"], Nothing),
    switch(&["respawn-failed-workers", "no-respawn-failed-workers"], Nothing),
    value(
        &[
            "runtime-threads",
            "runtime-blocking-threads",
            "runtime-mode",
            "task-impl",
            "process-name",
            "pid-file",
        ],
        Nothing,
    ),
    value(&["respawn-interval", "http1-buffer-size", "rss-sample-interval", "rss-samples"], Nothing),
    value(
        &["static-path-route", "static-path-mount", "static-path-expires"],
        Left("write [[static]] with url and directory"),
    ),
    switch(&["reload"], Left(RELOAD)),
    switch(&["metrics"], Left(METRICS)),
    value(
        &["log-config", "access-log-fmt"],
        Left("the log's format is fixed; the application configures its own logging"),
    ),
];

/// The options of `hypercorn`.
pub(super) const HYPERCORN: &[ForeignOption] = &[
    value(&["bind", "b", "insecure-bind"], Flag("bind")),
    value(&["workers", "w"], Flag("workers")),
    value(&["graceful-timeout"], Flag("graceful-timeout")),
    value(&["keep-alive"], Flag("keep-alive")),
    value(&["max-requests"], Flag("max-requests")),
    value(&["max-requests-jitter"], Flag("max-requests-jitter")),
    value(&["root-path"], Flag("root-path")),
    value(&["certfile"], Flag("certfile")),
    value(&["keyfile"], Flag("keyfile")),
    value(&["ca-certs"], Flag("ca-certs")),
    value(&["log-level"], Flag("log-level")),
    value(&["access-logfile", "access-log"], Flag("access-logfile")),
    value(&["websocket-ping-interval"], Flag("ws-ping-interval")),
    value(&["user", "u"], Directive(DropIn::Service, "User")),
    value(&["group", "g"], Directive(DropIn::Service, "SupplementaryGroups")),
    value(&["umask", "m"], Directive(DropIn::Service, "UMask")),
    value(&["backlog"], Directive(DropIn::Socket, "Backlog")),
    value(&["worker-class", "k"], Changed("loop", "only asyncio and uvloop exist")),
    value(&["read-timeout"], Key(name::BODY_WAIT, "s")),
    value(&["pid", "p"], Nothing),
    value(&["error-log", "error-logfile", "access-logformat", "log-config"], Left(JOURNAL)),
    value(&["config", "c"], Left("write its settings as options of the command, and migrate the command")),
    value(&["quic-bind"], Left("rgun does not speak HTTP/3; a proxy can")),
    value(&["server-name", "server-names"], Left("a proxy refuses other names")),
    value(&["statsd-host", "statsd-prefix"], Left(METRICS)),
    value(
        &["ciphers", "keyfile-password"],
        Left("rgun offers only cipher suites with forward secrecy, and reads only unencrypted private keys"),
    ),
    switch(&["reload"], Left(RELOAD)),
    switch(&["debug", "daemon"], Nothing),
];

/// The options of uWSGI, in its ini files.
pub(super) const UWSGI: &[ForeignOption] = &[
    value(&["http", "http-socket", "https-socket"], Flag("bind")),
    value(&["module", "wsgi", "wsgi-file", "file", "callable"], Nothing),
    value(&["chdir"], Flag("chdir")),
    value(&["processes", "workers", "p", "cheaper"], Nothing),
    value(&["threads"], Flag("threads")),
    value(&["harakiri"], Flag("timeout")),
    value(&["max-requests"], Flag("max-requests")),
    value(&["max-requests-delta"], Flag("max-requests-jitter")),
    value(&["pythonpath", "python-path", "pp"], Flag("pythonpath")),
    value(&["env"], Flag("env")),
    value(&["reload-on-rss", "evil-reload-on-rss"], Key(name::MAX_MEMORY, "MiB")),
    value(&["max-worker-lifetime"], Key(name::MAX_LIFETIME, "s")),
    value(&["worker-reload-mercy", "reload-mercy"], Key(name::DRAIN, "s")),
    value(&["http-keepalive"], Nothing),
    value(&["buffer-size"], Key(name::HEADER, "")),
    value(&["uid"], Directive(DropIn::Service, "User")),
    value(&["gid"], Directive(DropIn::Service, "SupplementaryGroups")),
    value(&["umask"], Directive(DropIn::Service, "UMask")),
    value(&["listen"], Directive(DropIn::Socket, "Backlog")),
    value(&["chmod-socket"], Directive(DropIn::Socket, "SocketMode")),
    value(
        &[
            "virtualenv",
            "home",
            "venv",
            "static-map",
            "socket",
            "uwsgi-socket",
            "chown-socket",
            "lazy-apps",
            "lazy",
        ],
        Nothing,
    ),
    value(
        &[
            "master",
            "vacuum",
            "die-on-term",
            "single-interpreter",
            "enable-threads",
            "thunder-lock",
            "need-app",
            "strict",
        ],
        Nothing,
    ),
    value(
        &[
            "plugin",
            "plugins",
            "autoload",
            "procname",
            "procname-prefix",
            "auto-procname",
            "pidfile",
            "safe-pidfile",
        ],
        Nothing,
    ),
    value(
        &[
            "harakiri-verbose",
            "disable-logging",
            "memory-report",
            "no-orphans",
            "post-buffering",
            "close-on-exec",
        ],
        Nothing,
    ),
    value(
        &[
            "ignore-sigpipe",
            "ignore-write-errors",
            "disable-write-exception",
            "py-call-osafterfork",
            "limit-post",
        ],
        Nothing,
    ),
    value(
        &["cheaper-initial", "cheaper-step", "cheaper-algo", "cheaper-overload"],
        Left("workers.count = { min = …, max = … } follows the load by itself"),
    ),
    value(
        &["attach-daemon", "attach-daemon2", "smart-attach-daemon"],
        Left("rgun starts no other programs; run this one in a systemd unit of its own"),
    ),
    value(&["mule", "mules", "spooler", "cron", "cron2", "timer"], Left(TASKS)),
    value(
        &["logto", "logto2", "daemonize", "daemonize2", "log-format", "logger", "req-logger", "log-maxsize"],
        Left(JOURNAL),
    ),
    value(&["touch-reload", "py-autoreload", "touch-chain-reload"], Left(RELOAD)),
    value(&["stats", "stats-server", "metrics"], Left(METRICS)),
    value(
        &["route", "route-uri", "static-index", "check-static", "static-expires"],
        Left("write [[static]], or let the proxy do it"),
    ),
    value(
        &["emperor", "vassals"],
        Left("each application is an instance: rgun@NAME.service reads /etc/rgun/NAME.toml"),
    ),
];

/// Adds the options of a command line.
pub(super) fn add(table: &[ForeignOption], args: &[String], origin: &str, plan: &mut Plan) {
    let (mut flags, mut args) = (Vec::new(), args.iter());
    while let Some(word) = args.next() {
        let Some(option) =
            word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|option| !option.is_empty())
        else {
            flags.push(word.clone());
            continue;
        };
        let (name, inline) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value.to_owned())));
        let Some(row) = table.iter().find(|row| row.names.contains(&name)) else {
            plan.left_out(origin, &format!("{word}: is not an option that rgun knows"));
            continue;
        };
        let value = if row.has_value { inline.or_else(|| args.next().cloned()) } else { None };
        apply(row, word, value.as_deref().unwrap_or_default(), &mut flags, origin, plan);
    }
    flags::add(&flags, origin, plan);
}

/// Adds one option of a file, by its name. Returns false if the table has none.
pub(super) fn add_one(
    table: &[ForeignOption],
    name: &str,
    value: &str,
    flags: &mut Vec<String>,
    origin: &str,
    plan: &mut Plan,
) -> bool {
    let Some(row) = table.iter().find(|row| row.names.contains(&name)) else { return false };
    apply(row, name, value, flags, origin, plan);
    true
}

fn apply(
    row: &ForeignOption,
    word: &str,
    value: &str,
    flags: &mut Vec<String>,
    origin: &str,
    plan: &mut Plan,
) {
    let flag = |flag: &str| if row.has_value { format!("--{flag}={value}") } else { format!("--{flag}") };
    match row.becomes {
        Flag(name) => flags.push(flag(name)),
        Changed(name, how) => {
            flags.push(flag(name));
            plan.changed.push(format!("{origin}: {word} {value}: became --{name}; {how}"));
        }
        Key(key, unit) => plan.set(key, Value::text(format!("{value}{unit}")), origin),
        Fixed(key, value) => plan.set(key, Value::text(value), origin),
        Directive(part, name) => plan.directive(part, name, value),
        Nothing => {}
        Left(reason) => plan.left_out(origin, &format!("{word} {value}: {reason}").replace(" : ", ": ")),
    }
}
