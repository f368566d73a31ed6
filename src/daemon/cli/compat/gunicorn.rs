//! Every flag and setting of gunicorn 27's `config.py`, one row each.
//!
//! The parent module evaluates the flags that rgun does not support, `gunicorn_conf` the settings
//! of `gunicorn.conf.py`. Flags that uvicorn has too (`--backlog`, `--log-config`, `--reload`,
//! `--ssl-version`) are in this table only.

use super::flag::ArgKind::{Function, List, NegatedSwitch, Switch, Value};
use super::flag::Handling::{self, BesideDaemon, FlagOnly, Ignored, Key, NoOp, NotYet, Refused};
use super::flag::{CompatFlag, flag, setting};
use crate::cli::error::flag_error;
use crate::config::{ConfigError, name};

const JOURNAL: &str = "the log goes to the journal under systemd, to stderr in the foreground";
/// `--ciphers`, `--ssl-ciphers`.
pub(super) const CIPHERS: Handling = Refused(
    "rgun offers the cipher suites that have forward secrecy and authenticated encryption, and no others",
    "remove it",
);
const STATSD: Handling =
    Ignored("rgun sends no statsd metrics; metrics.bind = \"127.0.0.1:9797\" serves metrics to Prometheus");
/// The HTTP/2 window and frame sizes.
const HTTP2_SIZE: Handling =
    Ignored("rgun sets the HTTP/2 windows and frames itself; heads are limited by limits.header");
const SYSLOG: Handling = Ignored("journald forwards to syslog (ForwardToSyslog= in journald.conf)");
const CONTROL: Handling = Ignored(
    "rgun's control socket is in RuntimeDirectory= of the unit, accessible to root and its user; control.group admits others",
);
const DIRTY: Handling = Refused(
    "rgun has no pool for long tasks",
    "run them in a task queue with its own systemd unit, e.g. Celery",
);
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

/// Parses a umask as gunicorn does: a number after `0` or `0o` is octal, a number after `0x` is
/// hexadecimal, and any other is decimal.
pub(in crate::cli) fn parse_umask(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('0').unwrap_or_default();
    match (digits.strip_prefix(['o', 'O']), digits.strip_prefix(['x', 'X'])) {
        (Some(octal), _) => u32::from_str_radix(octal, 8).ok(),
        (_, Some(hexadecimal)) => u32::from_str_radix(hexadecimal, 16).ok(),
        _ if digits.is_empty() => text.parse().ok(),
        _ => u32::from_str_radix(digits, 8).ok(),
    }
    .filter(|mask| *mask <= 0o777)
}

/// The flags and settings of gunicorn 27.
pub(in crate::cli) const TABLE: &[CompatFlag] = &[
    // The same in rgun.
    setting("wsgi_app", Value, Key(name::TARGET)),
    flag("bind", List, Key(name::BIND)),
    flag("workers", Value, Key(name::COUNT)),
    flag("worker-class", Value, Key(name::INTERFACE)),
    flag("threads", Value, Key(name::THREADS)),
    flag("max-requests", Value, Key(name::MAX_REQUESTS)),
    flag("max-requests-jitter", Value, Key(name::MAX_REQUESTS_JITTER)),
    flag("timeout", Value, Key(name::REQUEST)),
    flag("graceful-timeout", Value, Key(name::DRAIN)),
    flag("keep-alive", Value, Key(name::KEEPALIVE)).setting("keepalive"),
    flag("limit-request-line", Value, Key(name::REQUEST_LINE)),
    flag("limit-request-fields", Value, Key(name::HEADERS)),
    flag("limit-request-field_size", Value, Key(name::HEADER)).default("8190"),
    flag("preload", Switch, Key(name::PRELOAD)).setting("preload_app"),
    flag("user", Value, Key(name::WORKER_USER)),
    flag("group", Value, Key(name::WORKER_GROUP)),
    flag("chdir", Value, Key(name::DIRECTORY)),
    flag("env", List, Key(name::ENV)).setting("raw_env"),
    flag("pythonpath", Value, Key(name::PYTHONPATH)),
    flag("root-path", Value, Key(name::ROOT_PATH)),
    flag("forwarded-allow-ips", Value, Key(name::TRUSTED)),
    flag("proxy-protocol", Value, Key(name::PROXY_PROTOCOL)),
    flag("proxy-allow-from", Value, Key(name::PROTOCOL_TRUSTED)).setting("proxy_allow_ips"),
    flag("access-logfile", Value, Key(name::ACCESS)).setting("accesslog"),
    flag("access-logformat", Value, Key(name::ACCESS_FORMAT)).setting("access_log_format"),
    flag("log-level", Value, Key(name::LEVEL)).setting("loglevel"),
    flag("keyfile", Value, Key(name::KEY)),
    flag("certfile", Value, Key(name::CERT)),
    flag("ca-certs", Value, Key(name::CLIENT_CA)),
    flag("cert-reqs", Value, Key(name::CLIENT_AUTH)),
    flag("http-protocols", Value, Key(name::HTTP2)),
    flag("http2-max-concurrent-streams", Value, Key(name::STREAMS)),
    flag("header-map", Value, Key(name::UNDERSCORES)),
    flag("websocket-max-message-size", Value, Key(name::MAX_MESSAGE)),
    flag("reload", Switch, Key(name::ON_CHANGE)),
    flag("reload-engine", Value, Key(name::RELOAD_POLL)),
    flag("reload-extra-file", List, Key(name::RELOAD_INCLUDE)).setting("reload_extra_files"),
    setting("post_fork", Function, Key(name::POST_FORK)),
    setting("post_worker_init", Function, Key(name::POST_WORKER_INIT)),
    setting("worker_exit", Function, Key(name::WORKER_EXIT)),
    setting("worker_abort", Function, Key(name::WORKER_ABORT)),
    setting("child_exit", Function, Key(name::CHILD_EXIT)),
    flag("config", Value, FlagOnly("the file cannot name another file")),
    flag("check-config", Switch, FlagOnly("rgun check checks the configuration")),
    // Flags whose job systemd or the journal does, or that rgun has no use for.
    flag(
        "daemon",
        Switch,
        Refused(
            "rgun does not run itself in the background",
            "systemctl enable --now rgun.socket, or in a unit of your own: Type=notify, ExecStart=rgun … without this flag",
        ),
    )
    .short('D'),
    flag("umask", Value, Refused("rgun does not change its umask", "in the unit, write UMask={}; SocketMode= of the socket unit is the mode of a Unix socket")).short('m').default("0"),
    flag("initgroups", Switch, NoOp),
    flag("pid", Value, Ignored("systemd knows the main process: systemctl show -p MainPID rgun")).short('p').setting("pidfile"),
    flag("backlog", Value, Ignored("Backlog= of the socket unit sets the length of the kernel's queue, limits.queue the length of rgun's")).default("2048"),
    flag("name", Value, Ignored("the unit's name identifies the service")).short('n').setting("proc_name"),
    flag("worker-tmp-dir", Value, Ignored("workers' heartbeats are in shared memory, not in files")),
    flag("error-logfile", Value, Ignored(JOURNAL)).alias("log-file").accepted(&["-"]).setting("errorlog"),
    flag("capture-output", Switch, Ignored("rgun logs what the application prints")),
    flag("enable-stdio-inheritance", Switch, Ignored("rgun logs what the application prints"))
        .short('R'),
    flag("disable-redirect-access-to-syslog", Switch, Ignored(JOURNAL)),
    flag("log-syslog", Switch, SYSLOG).setting("syslog"),
    flag("log-syslog-to", Value, SYSLOG).setting("syslog_addr").default("udp://localhost:514"),
    flag("log-syslog-prefix", Value, SYSLOG).setting("syslog_prefix"),
    flag("log-syslog-facility", Value, SYSLOG).setting("syslog_facility").default("user"),
    flag("control-socket", Value, CONTROL),
    flag("control-socket-mode", Value, CONTROL).default("384"),
    flag("no-control-socket", Switch, CONTROL).setting("control_socket_disable"),
    // Flags for behaviour that rgun always has, or does not need.
    flag("reuse-port", Switch, Ignored("one listener and one queue serve all workers, so no request waits for a busy worker while another is free")),
    flag("no-sendfile", NegatedSwitch, Ignored("the daemon sends files, and uses sendfile(2) where it can")).setting("sendfile"),
    flag(
        "worker-connections",
        Value,
        Ignored(
            "workers have no connections; limits.connections limits the daemon's, and workers.concurrency limits the requests \
             that an ASGI worker runs at a time",
        ),
    )
    .default("1000"),
    flag("http-parser", Value, Ignored("rgun has one parser, hyper's")).accepted(&["auto", "fast"]),
    flag("http2-initial-window-size", Value, HTTP2_SIZE).default("65535"),
    flag("http2-max-frame-size", Value, HTTP2_SIZE).default("16384"),
    flag("http2-max-header-list-size", Value, HTTP2_SIZE).default("65536"),
    flag(
        "http2-cleartext",
        Value,
        Refused(
            "RFC 9113 has removed the upgrade to HTTP/2 in clear text",
            "have the client begin with HTTP/2 (prior knowledge), which http.http2 allows",
        ),
    )
    .ignored(
        "off",
        "clients may begin with HTTP/2 in clear text unless http.http2 is false (--http-protocols h1)",
    )
    .accepted(&["prior-knowledge"])
    .default("off"),
    flag("asgi-disconnect-grace-period", Value, Ignored("the application receives http.disconnect and decides itself when to stop")).default("3"),
    flag("suppress-ragged-eofs", Switch, NoOp),
    flag("do-handshake-on-connect", Switch, NoOp),
    flag("ciphers", Value, CIPHERS),
    // The values of `ssl.PROTOCOL_TLS` and `ssl.PROTOCOL_TLS_SERVER`, which negotiate the version.
    flag(
        "ssl-version",
        Value,
        Ignored("rgun speaks TLS 1.2 and 1.3; RGUN_TLS_MIN_VERSION=1.3 (tls.min_version) refuses TLS 1.2"),
    )
    .accepted(&["2", "17", "TLS", "TLS_SERVER"]),
    flag("spew", Switch, Refused("rgun does not trace lines", "run the application under python -m trace")),
    flag(
        "logger-class",
        Value,
        Ignored("rgun's log is not written in Python; the application's own logging is not touched"),
    )
    .default("gunicorn.glogging.Logger"),
    flag("dirty-app", List, DIRTY).setting("dirty_apps"),
    flag("dirty-workers", Value, DIRTY).accepted(&["0"]),
    flag("dirty-timeout", Value, DIRTY).default("300"),
    flag("dirty-threads", Value, DIRTY).default("1"),
    flag("dirty-graceful-timeout", Value, DIRTY).default("30"),
    flag("paste", Value, PASTE).alias("paster"),
    flag("paste-global", List, PASTE).setting("raw_paste_global_conf"),
    flag("permit-obsolete-folding", Switch, LENIENT),
    flag("strip-header-spaces", Switch, LENIENT),
    flag("permit-unconventional-http-method", Switch, LENIENT),
    flag("permit-unconventional-http-version", Switch, LENIENT),
    flag("casefold-http-method", Switch, LENIENT),
    // Planned for a later version.
    flag("print-config", Switch, NotYet("rgun check checks the configuration")),
    flag("log-config", Value, Key(name::LOG_CONFIG)).setting("logconfig"),
    flag("log-config-json", Value, Key(name::LOG_CONFIG)).setting("logconfig_json"),
    flag("statsd-host", Value, STATSD),
    flag("statsd-prefix", Value, STATSD),
    flag("dogstatsd-tags", Value, STATSD),
    flag("enable-backlog-metric", Switch, STATSD),
    flag("forwarder-headers", Value, NotYet("remove it; the path under which the application is published is --root-path"))
        .accepted(&["SCRIPT_NAME,PATH_INFO", ""]),
    flag("protocol", Value, NotYet("let the proxy speak HTTP to rgun: proxy_pass in place of uwsgi_pass"))
        .accepted(&["http"]),
    flag("uwsgi-allow-from", Value, NotYet("let the proxy speak HTTP to rgun: proxy_pass in place of uwsgi_pass"))
        .setting("uwsgi_allow_ips")
        .default("127.0.0.1,::1"),
    flag("asgi-loop", Value, NotYet("remove it")).accepted(&["auto"]),
    flag("asgi-lifespan", Value, NotYet("remove it: rgun runs the lifespan if the application supports it")).accepted(&["auto"]),
    // Settings without a flag.
    setting("default_proc_name", Value, NoOp),
    setting(
        "tmp_upload_dir",
        Value,
        Ignored("request bodies too large for memory are in CacheDirectory= of the unit, else in the system's temporary directory"),
    ),
    setting(
        "secure_scheme_headers",
        Value,
        Refused(
            "rgun reads the client's scheme from X-Forwarded-Proto, X-Forwarded-Protocol and X-Forwarded-Ssl, as gunicorn does by default",
            "have the proxy send X-Forwarded-Proto, and remove the setting",
        ),
    ),
    setting("logconfig_dict", Value, Ignored("write it to a file for --log-config")).applied_by_worker(),
    // Hooks that run in gunicorn's arbiter, or in a process that rgun does not have.
    setting("on_starting", Function, BesideDaemon),
    setting("when_ready", Function, BesideDaemon),
    setting("on_exit", Function, BesideDaemon),
    setting("on_reload", Function, BesideDaemon),
    setting("pre_fork", Function, Ignored("the daemon starts workers and contains no Python; post_fork runs in the worker")),
    setting("pre_exec", Function, Ignored("rgun does not replace itself: systemctl restart rgun refuses no connection")),
    setting("nworkers_changed", Function, Ignored("the log has the number of workers whenever that changes")),
    setting("worker_int", Function, Ignored("rgun stops no worker by SIGINT or SIGQUIT; worker_exit is called whenever a worker exits")),
    setting("pre_request", Function, Ignored("a middleware of the application sees each request")).applied_by_worker(),
    setting("post_request", Function, Ignored("a middleware of the application sees each response; log.access logs it")).applied_by_worker(),
    setting(
        "ssl_context",
        Function,
        Refused("the daemon speaks TLS and contains no Python", "remove it; only certfile, keyfile, ca_certs and cert_reqs configure TLS"),
    ),
    setting("on_dirty_starting", Function, DIRTY),
    setting("dirty_post_fork", Function, DIRTY),
    setting("dirty_worker_init", Function, DIRTY),
    setting("dirty_worker_exit", Function, DIRTY),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::flags::Cli;

    /// Every setting of gunicorn 27.0.1, as `gunicorn.config.make_settings()` returns them.
    const SETTINGS: &str = "config wsgi_app bind backlog workers worker_class threads worker_connections max_requests \
        max_requests_jitter timeout graceful_timeout keepalive limit_request_line limit_request_fields \
        limit_request_field_size reload reload_engine reload_extra_files spew check_config print_config \
        preload_app sendfile reuse_port chdir daemon raw_env pidfile worker_tmp_dir user group umask \
        initgroups tmp_upload_dir secure_scheme_headers forwarded_allow_ips accesslog \
        disable_redirect_access_to_syslog access_log_format errorlog loglevel capture_output \
        logger_class logconfig logconfig_dict logconfig_json syslog_addr syslog syslog_prefix \
        syslog_facility enable_stdio_inheritance statsd_host dogstatsd_tags statsd_prefix \
        enable_backlog_metric proc_name default_proc_name pythonpath paste on_starting on_reload \
        when_ready pre_fork post_fork post_worker_init worker_int worker_abort pre_exec pre_request \
        post_request child_exit worker_exit nworkers_changed on_exit ssl_context proxy_protocol \
        proxy_allow_ips protocol uwsgi_allow_ips keyfile certfile ssl_version cert_reqs ca_certs \
        suppress_ragged_eofs do_handshake_on_connect ciphers http_protocols http2_cleartext \
        http2_max_concurrent_streams http2_initial_window_size http2_max_frame_size \
        http2_max_header_list_size raw_paste_global_conf permit_obsolete_folding strip_header_spaces \
        permit_unconventional_http_method permit_unconventional_http_version casefold_http_method \
        forwarder_headers header_map asgi_loop asgi_lifespan asgi_disconnect_grace_period \
        websocket_max_message_size http_parser root_path dirty_apps dirty_workers dirty_timeout \
        dirty_threads dirty_graceful_timeout on_dirty_starting dirty_post_fork dirty_worker_init \
        dirty_worker_exit control_socket control_socket_mode control_socket_disable";

    #[test]
    fn every_setting_of_gunicorn_has_one_row() {
        let names: Vec<_> = TABLE.iter().map(|row| row.setting_name().into_owned()).collect();
        let unique: BTreeSet<_> = names.iter().map(String::as_str).collect();
        assert_eq!(unique, SETTINGS.split_whitespace().collect());
        assert_eq!(unique.len(), names.len());
    }

    #[test]
    fn supported_rows_name_an_existing_flag_and_key() {
        let command = Cli::command();
        for row in TABLE {
            let Key(key) = row.handling else { continue };
            assert!(crate::config::is_key(key), "{key}");
            let is_flag = |arg: &clap::Arg| {
                arg.get_long() == Some(row.long)
                    || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&row.long))
            };
            assert!(row.long.is_empty() || command.get_arguments().any(is_flag), "--{}", row.long);
        }
    }

    /// The row of the manual for one setting.
    fn manual_row(row: &CompatFlag) -> String {
        let flag = if row.long.is_empty() { String::new() } else { format!("`--{}`", row.long) };
        let mut text = match row.handling {
            Ignored(_) if row.is_applied_by_worker && row.arg_kind == Function => {
                "called in the worker, for WSGI applications".to_owned()
            }
            Ignored(_) if row.is_applied_by_worker => "the worker configures logging with it".to_owned(),
            Key(key) if key == name::CHILD_EXIT => format!("called in another process: `{key}`"),
            Key(key) if row.arg_kind == Function => format!("called in the worker: `{key}`"),
            Key(key) => format!("`{key}`"),
            BesideDaemon if row.setting_name() == "on_reload" => {
                "called at each reload, in a separate process".to_owned()
            }
            BesideDaemon => "called once, in a separate process".to_owned(),
            NoOp => "accepted".to_owned(),
            FlagOnly(reason) | Ignored(reason) => format!("ignored: {reason}"),
            Refused(reason, hint) => format!("refused: {reason}; {hint}"),
            NotYet(hint) => format!("refused in this version: {hint}"),
        };
        if !row.accepted.is_empty() {
            let values: Vec<_> = row
                .accepted
                .iter()
                .filter(|value| !value.is_empty())
                .map(|value| format!("`{value}`"))
                .collect();
            let or_empty = if row.accepted.contains(&"") { ", or empty" } else { "" };
            text = format!("{text} (accepted: {}{or_empty})", values.join(", "));
        }
        if let Some((value, now)) = row.ignored {
            text = format!("{text} (ignored: `{value}`; {now})");
        }
        format!("| `{}` | {flag} | {} |\n", row.setting_name(), text.replace("{}", "…"))
    }

    #[test]
    fn settings_table_of_the_manual_is_that_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/doc/migrating.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once("settings_table -->\n").unwrap();
        let (table, after) = rest.split_once("<!-- end of the table -->").unwrap();
        let rows: String = TABLE.iter().map(manual_row).collect();
        let expected = format!("\n| setting | flag | rgun |\n|---|---|---|\n{rows}\n");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(
                path,
                format!("{before}settings_table -->\n{expected}<!-- end of the table -->{after}"),
            )
            .unwrap();
            return;
        }
        assert_eq!(table, expected, "write it with UPDATE_DOCS=1");
    }
}
