//! The options of uWSGI 2.0, one row each, and the conversion of options of other servers.

use super::flags::{self, FlagSet};
use super::plan::{DropIn, Plan};
use crate::cli::compat::peers::Becomes::{
    Changed, Directive, Fixed, Flag, Ignored, Key, Nothing, Refused, SocketMask,
};
use crate::cli::compat::peers::{self, ForeignOption, JOURNAL, METRICS, RELOAD, TASKS, switch, value};
use crate::config::{Value, name};

/// The options of uWSGI. In ini files, switches have values too: `master = true`.
pub(super) const UWSGI: &[ForeignOption] = &[
    value(&["http", "http-socket", "https-socket"], Flag("bind")),
    value(&["module", "wsgi", "wsgi-file", "file", "callable"], Nothing),
    value(&["processes", "workers", "cheaper"], Nothing),
    value(&["threads"], Flag("threads")),
    value(&["harakiri"], Flag("timeout")),
    value(&["max-requests"], Flag("max-requests")),
    value(&["max-requests-delta"], Flag("max-requests-jitter")),
    value(&["pythonpath", "python-path", "pp"], Flag("pythonpath")),
    value(&["env"], Flag("env")),
    value(&["reload-on-rss", "evil-reload-on-rss"], Key(name::MAX_MEMORY, "MiB")),
    value(&["max-worker-lifetime"], Key(name::MAX_LIFETIME, "s")),
    value(&["worker-reload-mercy", "reload-mercy"], Key(name::DRAIN, "s")),
    switch(&["http-keepalive", "manage-script-name", "show-config"], Nothing),
    value(&["buffer-size"], Key(name::HEADER, "")),
    value(&["uid"], Directive(DropIn::Service, "User")),
    value(&["gid"], Directive(DropIn::Service, "SupplementaryGroups")),
    value(&["umask"], Directive(DropIn::Service, "UMask")),
    value(&["listen"], Directive(DropIn::Socket, "Backlog")),
    value(&["chmod-socket"], Directive(DropIn::Socket, "SocketMode")),
    value(
        &["virtualenv", "home", "venv", "pyhome", "static-map", "socket", "uwsgi-socket", "chown-socket"],
        Nothing,
    ),
    switch(
        &[
            "master",
            "vacuum",
            "die-on-term",
            "single-interpreter",
            "enable-threads",
            "thunder-lock",
            "need-app",
            "strict",
            "lazy-apps",
            "lazy",
            "autoload",
            "auto-procname",
        ],
        Nothing,
    ),
    value(
        &[
            "plugin",
            "plugins",
            "procname",
            "procname-prefix",
            "pidfile",
            "safe-pidfile",
            "post-buffering",
            "limit-post",
            "offload-threads",
        ],
        Nothing,
    ),
    switch(
        &[
            "harakiri-verbose",
            "disable-logging",
            "memory-report",
            "no-orphans",
            "close-on-exec",
            "ignore-sigpipe",
            "ignore-write-errors",
            "disable-write-exception",
            "py-call-osafterfork",
        ],
        Nothing,
    ),
    value(
        &["gevent", "asyncio", "ugreen"],
        Refused(
            "rgun serves WSGI with threads; write workers.threads, the requests that a worker runs at a time",
        ),
    ),
    value(
        &["http-timeout", "socket-timeout", "http-connect-timeout"],
        Refused("timeouts.request limits the application, timeouts.header, body and keepalive limit clients"),
    ),
    value(
        &["cheaper-initial", "cheaper-step", "cheaper-algo", "cheaper-overload"],
        Refused("workers.count = { min = …, max = … } follows the load by itself"),
    ),
    value(
        &["attach-daemon", "attach-daemon2", "smart-attach-daemon"],
        Refused("rgun starts no other programs; run this one in a systemd unit of its own"),
    ),
    value(&["mule", "mules", "spooler", "cron", "cron2", "timer"], Refused(TASKS)),
    value(
        &["logto", "logto2", "daemonize", "daemonize2", "log-format", "logger", "req-logger", "log-maxsize"],
        Refused(JOURNAL),
    ),
    value(&["touch-reload", "py-autoreload", "touch-chain-reload"], Refused(RELOAD)),
    value(&["stats", "stats-server", "metrics"], Refused(METRICS)),
    value(
        &["route", "route-uri", "static-index", "check-static", "static-expires"],
        Refused("write [[static]], or let the proxy do it"),
    ),
    value(
        &["emperor", "vassals"],
        Refused("each application is an instance: rgun@NAME.service reads /etc/rgun/NAME.toml"),
    ),
];

/// Adds the options of a command line. Returns what the flags among them set.
pub(super) fn add(table: &[ForeignOption], args: &[String], origin: &str, plan: &mut Plan) -> FlagSet {
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
        let named = |name: &str| table.iter().find(|row| row.names.contains(&name));
        // `-p8001`: the value follows the letter.
        let attached = word.split_at_checked(2).filter(|(letter, _)| !letter.ends_with('-'));
        let attached = attached.and_then(|(letter, value)| {
            let row = named(letter.trim_start_matches('-')).filter(|row| row.has_value)?;
            Some((row, Some(value.to_owned())))
        });
        let Some((row, inline)) = named(name).map(|row| (row, inline)).or(attached) else {
            plan.left_out(origin, &format!("{word}: is not an option that rgun knows"));
            continue;
        };
        let value = if row.has_value { inline.or_else(|| args.next().cloned()) } else { None };
        apply(row, word, value.as_deref().unwrap_or_default(), &mut flags, origin, plan);
    }
    flags::add(&flags, origin, plan)
}

/// Adds one option of a file, by its name. Returns false if the table has no such option.
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

/// Returns whether an option has no value: on a command line, the next word is not its value.
pub(super) fn is_switch(table: &[ForeignOption], name: &str) -> bool {
    table.iter().any(|row| !row.has_value && row.names.contains(&name))
}

/// Returns whether the table has an option.
pub(super) fn is_known(table: &[ForeignOption], name: &str) -> bool {
    table.iter().any(|row| row.names.contains(&name))
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
        Directive(DropIn::Service, "EnvironmentFile") => flags::add_env_file(value, origin, plan),
        Directive(part, name) => plan.directive(part, name, value),
        SocketMask => match peers::socket_mode(value) {
            Some(mode) => plan.directive(DropIn::Socket, "SocketMode", &mode),
            None => plan.left_out(
                origin,
                &format!(
                    "{word} {value}: is not a decimal number; write SocketMode= in a drop-in of rgun.socket"
                ),
            ),
        },
        Nothing => {}
        Ignored(reason) | Refused(reason) => {
            plan.left_out(origin, &format!("{word} {value}: {reason}").replace(" : ", ": "));
        }
    }
}
