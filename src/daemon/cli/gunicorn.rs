//! Gunicorn's flags that rgun does not act on: one table, one verdict each.
//!
//! Harmless to lose (something else does it, or nobody needs it here): accepted, with a warning that says what
//! does it now. Missed by whoever wrote it (`--user`, TLS, trust in a proxy): refused, with the line to write
//! instead. A value that asks for what happens anyway (`--proxy-protocol off`) passes in silence.
//!
//! The list is that of gunicorn 27's `config.py`, less what `flags` has; settings without a flag are absent. Two of
//! uvicorn's are with them.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::flags::refusal;
use crate::config::ConfigError;

/// A flag of gunicorn's.
struct Foreign {
    /// Its long name.
    long: &'static str,
    /// Another long name of it.
    alias: Option<&'static str>,
    short: Option<char>,
    takes: Takes,
    /// Values that ask for what rgun does anyway.
    fine: &'static [&'static str],
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    /// A value that may be left out.
    Optional,
}

/// In texts, `{}` is the flag's value.
#[derive(Clone, Copy)]
enum Verdict {
    /// Accepted without effect; what does it now.
    Ignored(&'static str),
    /// Not done; why, and the remedy.
    Refused(&'static str, &'static str),
    /// Not done yet; the remedy until then.
    Later(&'static str),
}

use Takes::{Nothing, Optional, Value};
use Verdict::{Ignored, Later, Refused};

const fn flag(long: &'static str, takes: Takes, verdict: Verdict) -> Foreign {
    Foreign { long, alias: None, short: None, takes, fine: &[], verdict }
}

impl Foreign {
    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }

    const fn fine(mut self, values: &'static [&'static str]) -> Self {
        self.fine = values;
        self
    }
}

const JOURNAL: &str = "the log goes to the journal under systemd, to stderr in the foreground";
const TLS: Verdict = Later("let a proxy before rgun (nginx, Caddy) speak TLS, and leave the flag out");
const PROXY: Verdict = Later("let the application trust its proxy's headers itself, and leave the flag out");
const STATSD: Verdict = Later("leave it out");
const HTTP2: Verdict = Later("leave it out; a proxy before rgun can speak HTTP/2 to clients");
const LOG_CONFIG: Verdict =
    Later("leave it out; the application configures its own logging, which goes to the journal");
const RELOAD: Verdict = Later(
    "leave it out: rgun does not watch files. systemctl reload rgun, or SIGHUP in the foreground, takes new code \
     without losing a request",
);
const SYSLOG: Verdict = Ignored("journald forwards to syslog (ForwardToSyslog= in journald.conf)");
const CONTROL: Verdict =
    Ignored("rgun's control socket is in RuntimeDirectory= of the unit, for its own user and root alone");
const DIRTY: Verdict =
    Refused("rgun has no pool for long tasks", "run them in a task queue, e.g. Celery, as a unit of its own");
const PASTE: Verdict = Refused(
    "rgun does not read PasteDeploy files",
    "write a module with application = paste.deploy.loadapp(\"config:/srv/mysite/production.ini\") and name it",
);
const LENIENT: Verdict = Refused(
    "rgun's parser has no lenient mode: what two parsers read differently is how requests are smuggled",
    "leave it out, and mend the client",
);

const FOREIGN: &[Foreign] = &[
    // What systemd does.
    flag(
        "daemon",
        Nothing,
        Refused(
            "rgun does not put itself into the background",
            "systemctl enable --now rgun.socket, or in a unit of your own: Type=notify, ExecStart=rgun … without this flag",
        ),
    )
    .short('D'),
    flag("user", Value, Refused("rgun does not change its user", "in the unit, write User={}")).short('u'),
    flag("group", Value, Refused("rgun does not change its group", "in the unit, write Group={}")).short('g'),
    flag("umask", Value, Refused("rgun does not change its umask", "in the unit, write UMask={}")).short('m'),
    flag("initgroups", Nothing, Ignored("User= of the unit sets the supplementary groups")),
    flag("pid", Value, Ignored("systemd knows the process: systemctl show -p MainPID rgun")).short('p'),
    flag("backlog", Value, Ignored("Backlog= of the socket unit is the kernel's queue, limits.queue is rgun's")),
    flag("name", Value, Ignored("the service is known by its unit's name")).short('n'),
    flag("worker-tmp-dir", Value, Ignored("workers' heartbeats are in shared memory, in no file")),
    flag("error-logfile", Value, Ignored(JOURNAL)).alias("log-file").fine(&["-"]),
    flag("capture-output", Nothing, Ignored("what the application prints goes to the log anyway")),
    flag("enable-stdio-inheritance", Nothing, Ignored("what the application prints goes to the log anyway"))
        .short('R'),
    flag("disable-redirect-access-to-syslog", Nothing, Ignored(JOURNAL)),
    flag("log-syslog", Nothing, SYSLOG),
    flag("log-syslog-to", Value, SYSLOG),
    flag("log-syslog-prefix", Value, SYSLOG),
    flag("log-syslog-facility", Value, SYSLOG),
    flag("control-socket", Value, CONTROL),
    flag("control-socket-mode", Value, CONTROL),
    flag("no-control-socket", Nothing, CONTROL),
    // What the design does, or has no need of.
    flag("reuse-port", Nothing, Ignored("one listener and one queue feed all workers, so none waits behind a busy one")),
    flag("no-sendfile", Nothing, Ignored("files are sent by the daemon, without sendfile(2)")),
    flag(
        "worker-connections",
        Value,
        Ignored(
            "workers have no connections; limits.connections bounds the daemon's, workers.concurrency what an ASGI \
             worker runs at a time",
        ),
    ),
    flag("http-parser", Value, Ignored("rgun has one parser, hyper's")).fine(&["auto", "fast"]),
    flag("asgi-disconnect-grace-period", Value, Ignored("the application hears http.disconnect and decides itself how long it goes on")),
    flag("suppress-ragged-eofs", Nothing, Ignored("it is for TLS, which this version does not have")),
    flag("do-handshake-on-connect", Nothing, Ignored("it is for TLS, which this version does not have")),
    flag("spew", Nothing, Refused("rgun does not trace lines", "run the application under python -m trace")),
    flag(
        "logger-class",
        Value,
        Refused("rgun's log is not written in Python", "leave it out; the application's own logging is not touched"),
    ),
    flag("dirty-app", Value, DIRTY),
    flag("dirty-workers", Value, DIRTY).fine(&["0"]),
    flag("dirty-timeout", Value, DIRTY),
    flag("dirty-threads", Value, DIRTY),
    flag("dirty-graceful-timeout", Value, DIRTY),
    flag("paste", Value, PASTE).alias("paster"),
    flag("paste-global", Value, PASTE),
    flag("permit-obsolete-folding", Nothing, LENIENT),
    flag("strip-header-spaces", Nothing, LENIENT),
    flag("permit-unconventional-http-method", Nothing, LENIENT),
    flag("permit-unconventional-http-version", Nothing, LENIENT),
    flag("casefold-http-method", Nothing, LENIENT),
    // Uvicorn's for WebSockets, less what `flags` has.
    flag("ws", Value, Ignored("the daemon speaks the WebSocket protocol itself; the application needs no library for it"))
        .fine(&["auto"]),
    flag(
        "ws-max-queue",
        Value,
        Ignored("no messages are queued by number: a client is read as far as the application receives"),
    ),
    // What this version does not have.
    flag("reload", Nothing, RELOAD),
    flag("reload-engine", Value, RELOAD),
    flag("reload-extra-file", Value, RELOAD),
    flag("print-config", Nothing, Later("rgun check says whether the configuration is sound")),
    flag("access-logformat", Value, Later("leave it out; entries of the access log have named fields")),
    flag("log-config", Value, LOG_CONFIG),
    flag("log-config-json", Value, LOG_CONFIG),
    flag("statsd-host", Value, STATSD),
    flag("statsd-prefix", Value, STATSD),
    flag("dogstatsd-tags", Value, STATSD),
    flag("enable-backlog-metric", Nothing, STATSD),
    flag("keyfile", Value, TLS),
    flag("certfile", Value, TLS),
    flag("ca-certs", Value, TLS),
    flag("cert-reqs", Value, TLS).fine(&["0"]),
    flag("ciphers", Value, TLS),
    flag("ssl-version", Value, TLS),
    flag("forwarded-allow-ips", Value, PROXY),
    flag("proxy-allow-from", Value, PROXY),
    flag("proxy-protocol", Optional, PROXY).fine(&["off"]),
    flag("forwarder-headers", Value, PROXY),
    flag("header-map", Value, Later("leave it out")),
    flag("protocol", Value, Later("let the proxy speak HTTP to rgun: proxy_pass in place of uwsgi_pass"))
        .fine(&["http"]),
    flag("uwsgi-allow-from", Value, Later("let the proxy speak HTTP to rgun: proxy_pass in place of uwsgi_pass")),
    flag("http-protocols", Value, HTTP2).fine(&["h1"]),
    flag("http2-cleartext", Value, HTTP2).fine(&["off"]),
    flag("http2-max-concurrent-streams", Value, HTTP2),
    flag("http2-initial-window-size", Value, HTTP2),
    flag("http2-max-frame-size", Value, HTTP2),
    flag("http2-max-header-list-size", Value, HTTP2),
    flag("asgi-loop", Value, Later("leave it out")).fine(&["auto"]),
    flag("asgi-lifespan", Value, Later("leave it out: lifespan is used where the application has it")).fine(&["auto"]),
];

/// The command, and its subcommands, with all of these flags, hidden from the help.
pub(super) fn add(command: Command) -> Command {
    // `reload` takes none of gunicorn's: what a daemon does was said when it was started.
    let serves = |sub: &&Command| sub.get_name() != "reload";
    let names: Vec<String> =
        command.get_subcommands().filter(serves).map(|sub| sub.get_name().to_owned()).collect();
    let command = names
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, |sub| sub.args(FOREIGN.iter().map(arg))));
    command.args(FOREIGN.iter().map(arg))
}

fn arg(flag: &Foreign) -> Arg {
    let arg = Arg::new(flag.long).long(flag.long).hide(true);
    let arg = flag.short.into_iter().fold(arg, Arg::short);
    let arg = flag.alias.into_iter().fold(arg, Arg::alias);
    match flag.takes {
        Nothing => arg.action(ArgAction::SetTrue),
        Value => arg.action(ArgAction::Append).allow_hyphen_values(flag.fine.contains(&"-")),
        Optional => arg.action(ArgAction::Append).num_args(0..=1).default_missing_value("auto"),
    }
}

/// Sorts what was typed into warnings and refusals.
pub(super) fn judge(matches: &ArgMatches, warnings: &mut Vec<String>, refusals: &mut Vec<ConfigError>) {
    for flag in FOREIGN {
        let value = match flag.takes {
            Nothing if !matches.get_flag(flag.long) => continue,
            Nothing => None,
            Value | Optional => {
                // The last one counts, as in gunicorn.
                match matches.get_many::<String>(flag.long).and_then(Iterator::last) {
                    None => continue,
                    Some(value) if flag.fine.contains(&value.as_str()) => continue,
                    Some(value) => Some(value.as_str()),
                }
            }
        };
        let typed =
            value.map_or_else(|| format!("--{}", flag.long), |value| format!("--{} {value}", flag.long));
        let filled = |text: &str| text.replace("{}", value.unwrap_or_default());
        match flag.verdict {
            Ignored(now) => warnings.push(format!("{typed}: ignored; {now}")),
            Refused(reason, hint) => refusals.push(refusal(&typed, reason, &filled(hint))),
            Later(hint) => {
                refusals.push(refusal(&typed, "is not in this version of rgun yet", hint));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_is_in_the_table_twice() {
        for (idx, flag) in FOREIGN.iter().enumerate() {
            for other in &FOREIGN[idx + 1..] {
                assert_ne!(flag.long, other.long);
                assert_ne!(Some(flag.long), other.alias);
                assert!(flag.short.is_none() || flag.short != other.short, "{}", flag.long);
            }
        }
    }
}
