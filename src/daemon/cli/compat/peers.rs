//! The options of granian 2.8, hypercorn 0.18 and daphne 4.2. Each row has rgun's flag or key for
//! the option, or the reason why there is none.
//!
//! `migrate` reads the tables for commands of these servers, `translate` for the command line of
//! rgun.

use crate::config::name;

/// The file that a directive goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) enum DropIn {
    /// `[Unit]` of `rgun.service`.
    Unit,
    /// `[Service]` of `rgun.service`.
    Service,
    /// `[Socket]` of `rgun.socket`.
    Socket,
}

/// An option of another server.
pub(in crate::cli) struct ForeignOption {
    /// The long name without its leading hyphens, then the other names.
    pub(in crate::cli) names: &'static [&'static str],
    pub(in crate::cli) has_value: bool,
    pub(in crate::cli) becomes: Becomes,
}

/// The replacement of an option.
#[derive(Clone, Copy)]
pub(in crate::cli) enum Becomes {
    /// This flag of rgun, with the same value.
    Flag(&'static str),
    /// This flag of rgun. The text says how its meaning differs.
    Changed(&'static str, &'static str),
    /// This key, with the option's value followed by this unit of measure.
    Key(&'static str, &'static str),
    /// This key, with this value.
    Fixed(&'static str, &'static str),
    /// This directive of a unit, with the option's value.
    Directive(DropIn, &'static str),
    /// `SocketMode=`, from a decimal mask of the permissions that users do not get.
    SocketMask,
    /// Dropped without a note: rgun needs no setting for it.
    Nothing,
    /// Left out, for this reason. The option is safe to ignore: a command line with it is served
    /// with a warning.
    Ignored(&'static str),
    /// Left out, for this reason. A command line with it is refused.
    Refused(&'static str),
}

use Becomes::{Changed, Directive, Fixed, Flag, Ignored, Key, Nothing, Refused, SocketMask};

pub(in crate::cli) const fn value(names: &'static [&'static str], becomes: Becomes) -> ForeignOption {
    ForeignOption { names, has_value: true, becomes }
}

pub(in crate::cli) const fn switch(names: &'static [&'static str], becomes: Becomes) -> ForeignOption {
    ForeignOption { names, has_value: false, becomes }
}

pub(in crate::cli) const JOURNAL: &str = "the log is in the journal, journalctl -u rgun";
pub(in crate::cli) const RELOAD: &str =
    "systemctl reload rgun loads new code; for development, rgun --reload does so when files change";
pub(in crate::cli) const BUFFERS: &str = "rgun sets the HTTP/1 buffers and HTTP/2 windows itself";
pub(in crate::cli) const METRICS: &str = "metrics.bind = \"127.0.0.1:9797\" serves metrics to Prometheus";
pub(in crate::cli) const TASKS: &str =
    "rgun runs no background tasks; run them in a systemd unit of their own";

/// The options of `granian`.
pub(in crate::cli) const GRANIAN: &[ForeignOption] = &[
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
        Refused("rgun speaks TLS 1.2 and 1.3; tls.min_version = \"1.3\" refuses TLS 1.2"),
    ),
    value(&["workers-lifetime"], Key(name::MAX_LIFETIME, "s")),
    value(&["workers-max-rss"], Key(name::MAX_MEMORY, "MiB")),
    value(&["workers-kill-timeout"], Key(name::DRAIN, "s")),
    value(
        &["backpressure"],
        Changed("limit-concurrency", "it limits the requests that wait, for all workers together"),
    ),
    value(&["env-files"], Directive(DropIn::Service, "EnvironmentFile")),
    value(&["backlog"], Flag("backlog")),
    value(&["uds-permissions"], Directive(DropIn::Socket, "SocketMode")),
    value(&["http"], Nothing),
    switch(&["ws", "no-ws"], Nothing),
    switch(&["no-factory", "log", "no-reload", "no-metrics", "no-ssl-client-verify"], Nothing),
    switch(&["no-log"], Ignored("--log-level error logs errors only")),
    switch(&["respawn-failed-workers", "no-respawn-failed-workers"], Nothing),
    value(
        &[
            "runtime-threads",
            "runtime-blocking-threads",
            "runtime-mode",
            "task-impl",
            "process-name",
            "pid-file",
            "blocking-threads-idle-timeout",
        ],
        Nothing,
    ),
    value(&["respawn-interval", "rss-sample-interval", "rss-samples"], Nothing),
    value(&["http1-header-read-timeout"], Key(name::HEADER_WAIT, "ms")),
    value(
        &[
            "http1-buffer-size",
            "http2-initial-connection-window-size",
            "http2-initial-stream-window-size",
            "http2-max-frame-size",
            "http2-max-headers-size",
            "http2-max-send-buffer-size",
            "http2-keep-alive-interval",
            "http2-keep-alive-timeout",
        ],
        Ignored(BUFFERS),
    ),
    value(&["http2-max-concurrent-streams"], Flag("http2-max-concurrent-streams")),
    switch(
        &[
            "http1-keep-alive",
            "http1-pipeline-flush",
            "no-http1-pipeline-flush",
            "http2-adaptive-window",
            "no-http2-adaptive-window",
        ],
        Nothing,
    ),
    switch(&["no-http1-keep-alive"], Fixed(name::KEEPALIVE, "0s")),
    value(
        &["static-path-route", "static-path-mount", "static-path-expires", "static-path-dir-to-file"],
        Refused("write [[static]] with url and directory in the file, or let the application serve them"),
    ),
    value(&["ssl-crl"], Refused("rgun reads no list of revoked certificates; a proxy can")),
    value(&["ssl-keyfile-password"], Refused("rgun reads only unencrypted private keys")),
    switch(&["reload"], Flag("reload")),
    value(&["reload-paths"], Flag("reload-dir")),
    value(&["reload-ignore-dirs", "reload-ignore-paths"], Flag("reload-exclude")),
    value(
        &["reload-ignore-patterns"],
        Refused("its patterns are regular expressions; write those of --reload-exclude, such as *.css"),
    ),
    value(&["reload-tick"], Ignored("--reload-delay sets the time without a change before a reload")),
    switch(&["reload-ignore-worker-failure", "no-reload-ignore-worker-failure"], Nothing),
    switch(&["metrics"], Ignored(METRICS)),
    value(&["metrics-scrape-interval", "metrics-address", "metrics-port"], Ignored(METRICS)),
    value(&["log-config"], Flag("log-config")),
    value(&["access-log-fmt"], Flag("access-logformat")),
];

/// The options of `hypercorn`.
pub(in crate::cli) const HYPERCORN: &[ForeignOption] = &[
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
    // In hypercorn, these options concern unix sockets only.
    value(&["user", "u"], Directive(DropIn::Socket, "SocketUser")),
    value(&["group", "g"], Directive(DropIn::Socket, "SocketGroup")),
    value(&["umask", "m"], SocketMask),
    value(&["backlog"], Flag("backlog")),
    value(&["worker-class", "k"], Flag("worker-class")),
    value(&["read-timeout"], Key(name::BODY_WAIT, "s")),
    value(&["pid", "p"], Nothing),
    value(&["error-log", "error-logfile", "log-file"], Flag("error-logfile")),
    value(&["access-logformat"], Flag("access-logformat")),
    value(&["log-config"], Flag("log-config")),
    value(&["config", "c"], Refused("migrate reads this file itself: rgun migrate hypercorn.toml")),
    value(&["quic-bind"], Ignored("rgun does not speak HTTP/3; a proxy can")),
    value(&["server-name"], Refused("rgun serves every name; a proxy refuses other names")),
    value(&["statsd-host", "statsd-prefix"], Ignored(METRICS)),
    value(&["ciphers"], Flag("ciphers")),
    value(&["cert-reqs", "verify-mode"], Flag("cert-reqs")),
    value(&["keyfile-password"], Refused("rgun reads only unencrypted private keys")),
    switch(&["reload"], Flag("reload")),
    switch(&["debug", "daemon", "D"], Nothing),
];

/// The options of `daphne`.
pub(in crate::cli) const DAPHNE: &[ForeignOption] = &[
    value(&["bind", "b"], Flag("host")),
    value(&["port", "p"], Flag("port")),
    value(&["unix-socket", "u"], Flag("uds")),
    value(&["fd"], Flag("fd")),
    value(&["endpoint", "e"], Refused(ENDPOINT)),
    value(&["http-timeout", "t"], Flag("timeout")),
    value(&["root-path"], Flag("root-path")),
    value(&["access-log"], Flag("access-logfile")),
    value(&["ping-interval"], Flag("ws-ping-interval")),
    value(&["ping-timeout"], Flag("ws-ping-timeout")),
    value(&["websocket-max-message-size"], Flag("ws-max-size")),
    value(&["websocket-max-frame-size"], Ignored("--ws-max-size bounds a message with all its frames")),
    value(
        &["websocket_timeout"],
        Ignored("a WebSocket may stay open for as long as its client answers pings"),
    ),
    value(&["websocket_connect_timeout"], Ignored("--timeout bounds the handshake too")),
    value(
        &["application-close-timeout"],
        Ignored("the application receives http.disconnect and decides itself when to stop"),
    ),
    value(&["verbosity", "v"], Ignored("--log-level debug logs more")),
    value(&["log-fmt"], Ignored("the daemon's log has named fields")),
    switch(&["proxy-headers"], Flag("proxy-headers")),
    value(
        &["proxy-headers-host", "proxy-headers-port"],
        Refused("rgun reads X-Forwarded-For and X-Forwarded-Port; have the proxy send those"),
    ),
    value(&["server-name", "s"], Ignored("rgun sends no Server header; the application may")),
    switch(&["no-server-name"], Nothing),
];

/// Returns the permissions that a mask leaves, in octal. As in hypercorn, the mask is a decimal
/// number, even with leading zeros. Returns `None` for any other text.
pub(in crate::cli) fn socket_mode(mask: &str) -> Option<String> {
    let mask: u32 = mask.parse().ok().filter(|mask| *mask <= 0o777)?;
    Some(format!("{:04o}", 0o666 & !mask))
}

/// The remedy for daphne's endpoints.
pub(in crate::cli) const ENDPOINT: &str = "rgun has no endpoints of Twisted; write --bind HOST:PORT, or --uds PATH, and for TLS --certfile and --keyfile";
