//! The names of all keys and sections, and hints for names that do not exist.
//!
//! `file` and `environment` look names up here, and tests compare `packaging/etc/rgun.toml` and the
//! manual with [`KEYS`]. Planned sections are refused by name, because they would have no effect.

/// The full name of each key.
pub(crate) mod name {
    pub(crate) const TARGET: &str = "app.target";
    pub(crate) const DIRECTORY: &str = "app.directory";
    pub(crate) const PYTHON: &str = "app.python";
    pub(crate) const INTERFACE: &str = "app.interface";
    pub(crate) const LIFESPAN: &str = "app.lifespan";
    pub(crate) const LOOP: &str = "app.loop";
    pub(crate) const PATHSEND: &str = "app.pathsend";
    pub(crate) const ROOT_PATH: &str = "app.root_path";
    pub(crate) const ENV: &str = "app.env";
    pub(crate) const ENV_FROM_CREDENTIALS: &str = "app.env_from_credentials";
    pub(crate) const PYTHONPATH: &str = "app.pythonpath";
    pub(crate) const SENDFILE_ROOTS: &str = "app.sendfile_roots";
    pub(crate) const LOG_CONFIG: &str = "app.log_config";
    pub(crate) const COUNT: &str = "workers.count";
    pub(crate) const THREADS: &str = "workers.threads";
    pub(crate) const CONCURRENCY: &str = "workers.concurrency";
    pub(crate) const PRELOAD: &str = "workers.preload";
    pub(crate) const REFORK: &str = "workers.refork";
    pub(crate) const MAX_REQUESTS: &str = "workers.max_requests";
    pub(crate) const MAX_REQUESTS_JITTER: &str = "workers.max_requests_jitter";
    pub(crate) const MAX_MEMORY: &str = "workers.max_memory";
    pub(crate) const MAX_TASKS: &str = "workers.max_tasks";
    pub(crate) const CPU_WEIGHT: &str = "workers.cpu_weight";
    pub(crate) const MAX_LIFETIME: &str = "workers.max_lifetime";
    pub(crate) const IDLE_EXIT: &str = "workers.idle_exit";
    pub(crate) const RETRY: &str = "workers.retry";
    pub(crate) const CHILDREN_TIMEOUT: &str = "workers.children_timeout";
    pub(crate) const WORKER_USER: &str = "workers.user";
    pub(crate) const WORKER_GROUP: &str = "workers.group";
    pub(crate) const REQUEST: &str = "timeouts.request";
    pub(crate) const QUEUE_WAIT: &str = "timeouts.queue";
    pub(crate) const HEADER_WAIT: &str = "timeouts.header";
    pub(crate) const BODY_WAIT: &str = "timeouts.body";
    pub(crate) const KEEPALIVE: &str = "timeouts.keepalive";
    pub(crate) const STALL: &str = "timeouts.stall";
    pub(crate) const BOOT: &str = "timeouts.boot";
    pub(crate) const DRAIN: &str = "timeouts.drain";
    pub(crate) const DRAIN_DELAY: &str = "timeouts.drain_delay";
    pub(crate) const BOOT_PAGE: &str = "timeouts.boot_page";
    /// The array of tables; its entries' keys are in `rules`.
    pub(crate) const PATH_RULES: &str = "timeouts.path";
    pub(crate) const QUEUE: &str = "limits.queue";
    pub(crate) const QUEUE_PER_CLIENT: &str = "limits.queue_per_client";
    pub(crate) const BODY: &str = "limits.body";
    pub(crate) const HEADER: &str = "limits.header";
    pub(crate) const HEADERS: &str = "limits.headers";
    pub(crate) const REQUEST_LINE: &str = "limits.request_line";
    pub(crate) const CONNECTIONS: &str = "limits.connections";
    pub(crate) const CONNECTIONS_PER_CLIENT: &str = "limits.connections_per_client";
    pub(crate) const STREAMS: &str = "limits.streams";
    pub(crate) const RESPONSE_MEMORY: &str = "limits.response_memory";
    pub(crate) const RESPONSE_DISK: &str = "limits.response_disk";
    pub(crate) const RESPONSE_RATE: &str = "limits.response_rate";
    pub(crate) const SPOOL_MEMORY: &str = "limits.spool_memory";
    pub(crate) const SPOOL_DISK: &str = "limits.spool_disk";
    pub(crate) const BODY_RATE: &str = "limits.body_rate";
    pub(crate) const MAX_MESSAGE: &str = "websocket.max_message";
    pub(crate) const PING_INTERVAL: &str = "websocket.ping_interval";
    pub(crate) const PING_TIMEOUT: &str = "websocket.ping_timeout";
    pub(crate) const COMPRESSION: &str = "websocket.compression";
    pub(crate) const MAX_CONNECTIONS: &str = "websocket.max_connections";
    pub(crate) const CLOSE_WINDOW: &str = "websocket.close_window";
    pub(crate) const UNDERSCORES: &str = "http.underscores";
    pub(crate) const HTTP2: &str = "http.http2";
    pub(crate) const REDIRECT_TO_HTTPS: &str = "http.redirect_to_https";
    pub(crate) const HSTS: &str = "http.hsts";
    pub(crate) const TRUSTED: &str = "proxy.trusted";
    pub(crate) const FORWARDING_HEADERS: &str = "proxy.headers";
    pub(crate) const FORWARDED_FIELDS: &str = "proxy.fields";
    pub(crate) const PROTOCOL_TRUSTED: &str = "proxy.protocol_trusted";
    pub(crate) const HEALTH_PATH: &str = "health.path";
    pub(crate) const HEALTH_LIVE_PATH: &str = "health.live_path";
    pub(crate) const CONTROL_GROUP: &str = "control.group";
    pub(crate) const METRICS_BIND: &str = "metrics.bind";
    /// Stands for all keys of `[errors]`, which are statuses; read by `error_pages`.
    pub(crate) const ERROR_PAGES: &str = "errors.STATUS";
    pub(crate) const PROBE: &str = "reload.probe";
    pub(crate) const WATCH: &str = "reload.watch";
    pub(crate) const ON_CHANGE: &str = "reload.on_change";
    pub(crate) const RELOAD_DIRS: &str = "reload.dirs";
    pub(crate) const RELOAD_INCLUDE: &str = "reload.include";
    pub(crate) const RELOAD_EXCLUDE: &str = "reload.exclude";
    pub(crate) const RELOAD_DELAY: &str = "reload.delay";
    pub(crate) const RELOAD_POLL: &str = "reload.poll";
    pub(crate) const POST_FORK: &str = "hooks.post_fork";
    pub(crate) const POST_WORKER_INIT: &str = "hooks.post_worker_init";
    pub(crate) const WORKER_EXIT: &str = "hooks.worker_exit";
    pub(crate) const CHILD_EXIT: &str = "hooks.child_exit";
    pub(crate) const WORKER_ABORT: &str = "hooks.worker_abort";
    pub(crate) const BIND: &str = "listen.bind";
    /// The tables `[listen.NAME]`; their keys are in `listen`.
    pub(crate) const LISTENERS: &str = "listen.NAME";
    pub(crate) const CERT: &str = "tls.cert";
    pub(crate) const KEY: &str = "tls.key";
    pub(crate) const MIN_VERSION: &str = "tls.min_version";
    pub(crate) const CLIENT_AUTH: &str = "tls.client_auth";
    pub(crate) const CLIENT_CA: &str = "tls.client_ca";
    pub(crate) const PROXY_PROTOCOL: &str = "listen.proxy_protocol";
    pub(crate) const COMPRESSION_ALGORITHMS: &str = "compression.algorithms";
    pub(crate) const COMPRESSION_TYPES: &str = "compression.types";
    pub(crate) const COMPRESSION_MIN_SIZE: &str = "compression.min_size";
    pub(crate) const COMPRESSION_LEVEL: &str = "compression.level";
    /// An array of tables outside of any section; its entries' keys are in `mounts`.
    pub(crate) const STATIC: &str = "static";
    pub(crate) const DAEMON_IDLE_EXIT: &str = "daemon.idle_exit";
    pub(crate) const LEVEL: &str = "log.level";
    pub(crate) const ACCESS: &str = "log.access";
    pub(crate) const ACCESS_FORMAT: &str = "log.access_format";
    pub(crate) const QUERY: &str = "log.query";
    pub(crate) const SLOW: &str = "log.slow";
    pub(crate) const LOG_RECORDS: &str = "log.records";
    pub(crate) const LOG_FORMAT: &str = "log.format";
}

/// Every key of this version, in the order of the sections.
pub(crate) const KEYS: &[&str] = &[
    name::TARGET,
    name::DIRECTORY,
    name::PYTHON,
    name::INTERFACE,
    name::LIFESPAN,
    name::LOOP,
    name::PATHSEND,
    name::ROOT_PATH,
    name::ENV,
    name::ENV_FROM_CREDENTIALS,
    name::PYTHONPATH,
    name::SENDFILE_ROOTS,
    name::LOG_CONFIG,
    name::COUNT,
    name::THREADS,
    name::CONCURRENCY,
    name::PRELOAD,
    name::REFORK,
    name::MAX_REQUESTS,
    name::MAX_REQUESTS_JITTER,
    name::MAX_MEMORY,
    name::MAX_TASKS,
    name::CPU_WEIGHT,
    name::MAX_LIFETIME,
    name::IDLE_EXIT,
    name::RETRY,
    name::CHILDREN_TIMEOUT,
    name::WORKER_USER,
    name::WORKER_GROUP,
    name::REQUEST,
    name::QUEUE_WAIT,
    name::HEADER_WAIT,
    name::BODY_WAIT,
    name::KEEPALIVE,
    name::STALL,
    name::BOOT,
    name::DRAIN,
    name::DRAIN_DELAY,
    name::BOOT_PAGE,
    name::PATH_RULES,
    name::QUEUE,
    name::QUEUE_PER_CLIENT,
    name::BODY,
    name::HEADER,
    name::HEADERS,
    name::REQUEST_LINE,
    name::CONNECTIONS,
    name::CONNECTIONS_PER_CLIENT,
    name::STREAMS,
    name::RESPONSE_MEMORY,
    name::RESPONSE_DISK,
    name::RESPONSE_RATE,
    name::SPOOL_MEMORY,
    name::SPOOL_DISK,
    name::BODY_RATE,
    name::MAX_MESSAGE,
    name::PING_INTERVAL,
    name::PING_TIMEOUT,
    name::COMPRESSION,
    name::MAX_CONNECTIONS,
    name::CLOSE_WINDOW,
    name::UNDERSCORES,
    name::HTTP2,
    name::REDIRECT_TO_HTTPS,
    name::HSTS,
    name::TRUSTED,
    name::FORWARDING_HEADERS,
    name::FORWARDED_FIELDS,
    name::PROTOCOL_TRUSTED,
    name::HEALTH_PATH,
    name::HEALTH_LIVE_PATH,
    name::CONTROL_GROUP,
    name::ERROR_PAGES,
    name::PROBE,
    name::WATCH,
    name::ON_CHANGE,
    name::RELOAD_DIRS,
    name::RELOAD_INCLUDE,
    name::RELOAD_EXCLUDE,
    name::RELOAD_DELAY,
    name::RELOAD_POLL,
    name::POST_FORK,
    name::POST_WORKER_INIT,
    name::WORKER_EXIT,
    name::WORKER_ABORT,
    name::CHILD_EXIT,
    name::BIND,
    name::LISTENERS,
    name::CERT,
    name::KEY,
    name::MIN_VERSION,
    name::CLIENT_AUTH,
    name::CLIENT_CA,
    name::PROXY_PROTOCOL,
    name::METRICS_BIND,
    name::DAEMON_IDLE_EXIT,
    name::LEVEL,
    name::ACCESS,
    name::ACCESS_FORMAT,
    name::QUERY,
    name::SLOW,
    name::LOG_RECORDS,
    name::LOG_FORMAT,
    name::COMPRESSION_ALGORITHMS,
    name::COMPRESSION_TYPES,
    name::COMPRESSION_MIN_SIZE,
    name::COMPRESSION_LEVEL,
];

/// The sections of this version.
pub(crate) const SECTIONS: &[&str] = &[
    "app",
    "workers",
    "timeouts",
    "limits",
    "websocket",
    "http",
    "proxy",
    "health",
    "control",
    ERRORS_SECTION,
    "reload",
    "hooks",
    "listen",
    "tls",
    "metrics",
    "daemon",
    "log",
    "compression",
];

/// The section whose keys are not fixed.
pub(crate) const ERRORS_SECTION: &str = "errors";

/// Sections planned for a later version.
pub(crate) const PLANNED_SECTIONS: &[&str] = &["admin"];

/// Former names of keys: section, old name, key.
const RENAMED: &[(&str, &str, &str)] =
    &[("websocket", "most", name::MAX_CONNECTIONS), ("workers", "children", name::CHILDREN_TIMEOUT)];

/// Gunicorn's names of settings, and rgun's keys for them.
const GUNICORN_NAMES: &[(&str, &str)] = &[
    ("access_log", name::ACCESS),
    ("access_log_format", name::ACCESS_FORMAT),
    ("access_logformat", name::ACCESS_FORMAT),
    ("accesslog", name::ACCESS),
    ("address", name::BIND),
    ("ca_certs", name::CLIENT_CA),
    ("cert_reqs", name::CLIENT_AUTH),
    ("certfile", name::CERT),
    ("application", name::TARGET),
    ("chdir", name::DIRECTORY),
    ("environment", name::ENV),
    ("forwarded_allow_ips", name::TRUSTED),
    ("graceful_timeout", name::DRAIN),
    ("header_map", name::UNDERSCORES),
    ("keep_alive", name::KEEPALIVE),
    ("keyfile", name::KEY),
    ("limit_request_field_size", name::HEADER),
    ("limit_request_fields", name::HEADERS),
    ("limit_request_line", name::REQUEST_LINE),
    ("log_level", name::LEVEL),
    ("loglevel", name::LEVEL),
    ("module", name::TARGET),
    ("port", name::BIND),
    ("preload_app", name::PRELOAD),
    ("proxy_allow_ips", name::PROTOCOL_TRUSTED),
    ("proxy_protocol", name::PROXY_PROTOCOL),
    ("raw_env", name::ENV),
    ("secure_scheme_headers", name::FORWARDED_FIELDS),
    ("timeout", name::REQUEST),
    ("loop_factory", name::LOOP),
    ("worker_class", name::INTERFACE),
    ("workers", name::COUNT),
    ("websocket_max_message_size", name::MAX_MESSAGE),
    ("working_directory", name::DIRECTORY),
    ("wsgi_app", name::TARGET),
];

/// Gunicorn's server hooks that `[hooks]` does not have, and hints at their replacements.
const UNSUPPORTED_HOOKS: &[(&[&str], &str)] = &[
    (
        &["on_starting", "when_ready", "on_exit", "on_reload"],
        "rgun calls it from a gunicorn.conf.py (rgun -c FILE); in the unit, ExecStartPre=, ExecStartPost=, \
         ExecReload= and ExecStopPost= run commands",
    ),
    (
        &["nworkers_changed", "pre_fork", "pre_exec"],
        "gunicorn calls it in its arbiter, and rgun's daemon runs no Python: post_fork runs in each worker, and \
         ExecStartPre= in the unit runs a command before the daemon",
    ),
    (
        &["worker_int"],
        "worker_exit is called when a worker exits, and worker_abort before a stuck one is killed",
    ),
    (
        &["pre_request", "post_request"],
        "wrap the application in a middleware, or let log.access write each request",
    ),
    (&["ssl_context"], "rgun's daemon runs no Python: certificates and versions are set in [tls]"),
];

/// The result of [`lookup`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// A key of this version.
    Known(&'static str),
    /// The name is not a key. The hint suggests one.
    Unknown(Option<String>),
}

/// Looks up `key` of `section`, which must be one of [`SECTIONS`].
pub(crate) fn lookup(section: &str, key: &str) -> Lookup {
    let full = format!("{section}.{key}");
    if let Some(known) = KEYS.iter().find(|known| **known == full) {
        return Lookup::Known(known);
    }
    Lookup::Unknown(unknown_key_hint(section, key))
}

/// Returns whether a table of this name is one of [`name::LISTENERS`], and not a key with a value
/// of a wrong type.
pub(crate) fn is_table_name(full: &str) -> bool {
    full.starts_with("listen.") && (full == name::LISTENERS || !KEYS.contains(&full))
}

/// Returns the hint for a section that does not exist.
pub(crate) fn section_hint(section: &str) -> String {
    if nearest(section, [name::STATIC]).is_some() {
        return format!("did you mean [[{}]]?", name::STATIC);
    }
    match nearest(section, SECTIONS.iter().copied()) {
        Some(near) => format!("did you mean [{near}]?"),
        None => format!("the sections are {}", list_sections(SECTIONS)),
    }
}

/// Returns the hint for a key outside of any section.
pub(crate) fn stray_key_hint(key: &str) -> Option<String> {
    other_section_hint(key).or_else(|| gunicorn_hint(key))
}

/// Returns the key that `word` names without a section: a key's bare name, or gunicorn's name for a
/// key.
pub(crate) fn key_of_word(word: &str) -> Option<&'static str> {
    let is_named = |full: &&str| full.split_once('.').is_some_and(|(_, name)| name == word);
    let gunicorn = || GUNICORN_NAMES.iter().find(|(theirs, _)| *theirs == word).map(|(_, full)| *full);
    KEYS.iter().copied().find(is_named).or_else(gunicorn)
}

/// Returns the variable that sets `key`: `RGUN_<SECTION>_<KEY>`.
pub(crate) fn variable_name(key: &str) -> String {
    format!("RGUN_{}", key.replace('.', "_").to_uppercase())
}

/// Returns whether a variable would set a key of a planned section.
pub(crate) fn is_planned_variable(variable: &str) -> bool {
    PLANNED_SECTIONS.iter().any(|section| variable.starts_with(&(variable_name(section) + "_")))
}

/// Returns the position of a key in the order of the manual.
pub(crate) fn key_position(key: &str) -> usize {
    KEYS.iter().position(|known| *known == key).unwrap_or(KEYS.len())
}

/// Whether this version has the key.
#[cfg(test)]
pub(crate) fn is_key(key: &str) -> bool {
    KEYS.contains(&key)
}

/// Returns the candidate most similar to `word`, if the difference may be a typo: at most two
/// edits, one for short candidates.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= if candidate.len() < 5 { 1 } else { 2 })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn unknown_key_hint(section: &str, key: &str) -> Option<String> {
    if section == "hooks"
        && let Some((_, hint)) = UNSUPPORTED_HOOKS.iter().find(|(names, _)| names.contains(&key))
    {
        return Some((*hint).to_owned());
    }
    if let Some((_, _, full)) = RENAMED.iter().find(|(its, old, _)| *its == section && *old == key)
        && let Some((_, new)) = full.split_once('.')
    {
        return Some(format!("it is called \"{new}\" now"));
    }
    let keys = || KEYS.iter().filter_map(|full| full.split_once('.')).filter(|(its, _)| *its == section);
    let typo = nearest(key, keys().map(|(_, name)| name)).map(|near| format!("did you mean \"{near}\"?"));
    typo.or_else(|| other_section_hint(key)).or_else(|| gunicorn_hint(key)).or_else(|| {
        let names: Vec<_> = keys().map(|(_, name)| name).collect();
        Some(format!("the keys of [{section}] are {}", names.join(", ")))
    })
}

fn other_section_hint(key: &str) -> Option<String> {
    let mut keys = KEYS.iter().filter_map(|full| full.split_once('.'));
    let (section, _) = keys.find(|(_, name)| *name == key)?;
    Some(format!("\"{key}\" is a key of [{section}]"))
}

fn gunicorn_hint(key: &str) -> Option<String> {
    let (_, full) = GUNICORN_NAMES.iter().find(|(theirs, _)| *theirs == key)?;
    let (section, name) = full.split_once('.')?;
    Some(format!("that is \"{name}\" in [{section}]"))
}

fn list_sections(sections: &[&str]) -> String {
    sections.iter().map(|section| format!("[{section}]")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_in_a_section() {
        for (idx, key) in KEYS.iter().enumerate() {
            let (section, _) = key.split_once('.').expect("section.key");
            assert!(SECTIONS.contains(&section), "{key}");
            assert!(!KEYS[idx + 1..].contains(key), "{key} twice");
        }
        for full in GUNICORN_NAMES.iter().map(|(_, full)| full).chain(RENAMED.iter().map(|(_, _, full)| full))
        {
            assert!(KEYS.contains(full), "{full}");
        }
        for (section, old, _) in RENAMED {
            assert!(!KEYS.contains(&format!("{section}.{old}").as_str()), "{section}.{old} is a key again");
        }
    }

    #[test]
    fn misspelled_key_has_a_hint() {
        for (section, key, hint) in [
            ("workers", "cuont", "did you mean \"count\"?"),
            ("workers", "thread", "did you mean \"threads\"?"),
            ("timeouts", "keep_alive", "did you mean \"keepalive\"?"),
            ("timeouts", "timeout", "that is \"request\" in [timeouts]"),
            ("workers", "bind", "\"bind\" is a key of [listen]"),
            ("app", "chdir", "that is \"directory\" in [app]"),
            (
                "log",
                "colour",
                "the keys of [log] are level, access, access_format, query, slow, records, format",
            ),
            ("limits", "max_requests", "\"max_requests\" is a key of [workers]"),
            ("workers", "preload_app", "that is \"preload\" in [workers]"),
            ("timeouts", "paths", "did you mean \"path\"?"),
            ("hooks", "worker_exti", "did you mean \"worker_exit\"?"),
            ("app", "post_fork", "\"post_fork\" is a key of [hooks]"),
            ("websocket", "most", "it is called \"max_connections\" now"),
            ("workers", "children", "it is called \"children_timeout\" now"),
        ] {
            assert_eq!(lookup(section, key), Lookup::Unknown(Some(hint.to_owned())), "{section}.{key}");
        }
    }

    #[test]
    fn misspelled_section_has_a_hint() {
        assert_eq!(section_hint("worker"), "did you mean [workers]?");
        assert_eq!(section_hint("timeout"), "did you mean [timeouts]?");
        assert_eq!(
            section_hint("database"),
            "the sections are [app] [workers] [timeouts] [limits] [websocket] [http] [proxy] [health] [control] [errors] [reload] [hooks] [listen] [tls] [metrics] [daemon] [log] [compression]"
        );
    }
}
