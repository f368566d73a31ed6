//! Merges the sources, checks each value, and collects all errors.
//!
//! Each key has a reader in [`read`] that defines its valid values; the [`Checker`] passes the
//! value of highest precedence to the reader. A default that replaces an invalid value is never
//! returned: any error fails the whole check.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checker::{Checker, Layers, Loaded};
use super::keys::name;
use super::python::Search;
use super::value::{Setting, Source};
use super::{
    AccessFormat, AccessLog, App, AppArgumentDefaults, Asgi, Config, ConfigError, ConfigErrors, Control,
    Count, DaemonSettings, Hooks, Http, Interface, Limits, Listen, Log, PathRule, Proxy, Python, Reload,
    SendfileDirectory, StaticMount, Target, Timeouts, TrustedProxies, ValueError, WebSocket, Workers,
    certificates, combinations, compression, control, credentials, error_pages, forwarding, health,
    idle_exit, listeners, mounts, on_change, paths, python, read, rules, trusted,
};
use super::{preload, start_message, worker_limits, worker_user};

/// Maximum of `limits.header` and `limits.request_line`: a request's head must fit into one record
/// of the channel.
const MAX_HEAD_BYTES: u64 = 64 << 10;
/// Maximum of `limits.headers`. No browser or proxy sends more header fields.
const MAX_HEADERS: u32 = 1000;
/// Maximum of `limits.streams`. The bodies of that many requests fit into the window of a
/// connection (2^31 bytes).
const MAX_STREAMS: u32 = 10_000;
/// Maximum of `limits.queue`. Each waiting request holds a connection, so more than a million is a
/// mistake.
const MAX_QUEUED: u32 = 1_000_000;
/// Maximum of `websocket.max_message`. A worker assembles each message in its memory.
const MAX_MESSAGE_BYTES: u64 = 1 << 30;
/// Maximum of `websocket.max_connections`. Each has a slot in the worker's map, which has 16,384
/// slots.
const MAX_WEBSOCKETS: u32 = 16_000;

/// Checks all settings; `errors` are those found while reading the sources.
pub(crate) fn check(layers: &Layers<'_>, errors: Vec<ConfigError>) -> Result<Loaded, ConfigErrors> {
    let mut checker = Checker { layers, errors, warnings: Vec::new() };
    let (directory, target) = (checker.directory(), checker.target());
    let python = checker.python(directory.as_deref());
    // If the directory is invalid, the result is an error, so its replacement has no effect.
    let base = directory.as_deref().unwrap_or(layers.cwd);
    let (interface, asgi, root_path) = checker.interface();
    let pythonpath = start_message::read(&mut checker, base);
    let ((env, unknown_credentials), log_config) = (checker.env(), checker.log_config());
    let (sendfile_roots, static_mounts) = checker.files();
    let (workers, timeouts, limits) = (checker.workers(), checker.timeouts(), checker.limits());
    let (websocket, http, pages) = (checker.websocket(), checker.http(), error_pages::read(&mut checker));
    let (compression, mut tls) = (compression::read(&mut checker), certificates::check(&mut checker));
    let listen = listeners::check(&mut checker, base, &mut tls);
    let (proxy, health) = (checker.proxy(&listen), health::read(&mut checker, &static_mounts));
    let (reload, hooks, log) = (checker.reload(base), checker.hooks(), checker.log());
    let (app_argument, control, daemon) = checker.own_settings();
    combinations::check(&mut checker, &workers, &timeouts, &log, &compression, &proxy);
    match (directory, target, python) {
        (Some(directory), Some(target), Some(python)) if checker.errors.is_empty() => Ok(Loaded {
            config: Config {
                app: App {
                    target,
                    directory,
                    python,
                    interface,
                    asgi,
                    root_path,
                    env,
                    unknown_credentials,
                    pythonpath,
                    sendfile_roots,
                    log_config,
                },
                static_mounts,
                workers,
                timeouts,
                limits,
                websocket,
                http,
                proxy,
                health,
                control,
                errors: pages,
                compression,
                reload,
                hooks,
                listen,
                tls,
                daemon,
                log,
                origin: layers.path.map(Path::to_owned),
                app_argument,
            },
            warnings: checker.warnings,
        }),
        _ => Err(ConfigErrors(checker.errors)),
    }
}

/// Finds the interpreter, without checking any other setting.
pub(crate) fn find_interpreter(layers: &Layers<'_>) -> Result<Python, ConfigErrors> {
    let mut checker = Checker { layers, errors: Vec::new(), warnings: Vec::new() };
    let directory = checker.directory();
    let python = checker.python(directory.as_deref());
    python.filter(|_| checker.errors.is_empty()).ok_or(ConfigErrors(checker.errors))
}

impl Checker<'_> {
    /// Returns the calling interface, the settings of ASGI, and the root path.
    fn interface(&mut self) -> (Interface, Asgi, String) {
        let defaults = Asgi::default();
        let interface = self.read(name::INTERFACE, Interface::Auto, read::interface);
        let asgi = Asgi {
            lifespan: self.read(name::LIFESPAN, defaults.lifespan, read::lifespan),
            event_loop: self.read(name::LOOP, defaults.event_loop, read::event_loop),
            pathsend: self.read(name::PATHSEND, defaults.pathsend, read::boolean),
        };
        let root_path = self.read(name::ROOT_PATH, String::new(), read::root_path);
        (interface, asgi, root_path)
    }

    /// Returns the settings that concern the daemon and no application.
    fn own_settings(&mut self) -> (AppArgumentDefaults, Control, DaemonSettings) {
        (self.app_argument_defaults(), control::read(self), idle_exit::read(self))
    }

    fn log_config(&mut self) -> Option<PathBuf> {
        let cwd = self.layers.cwd;
        self.read(name::LOG_CONFIG, None, |setting| paths::file_or_off(setting, cwd))
    }

    /// Returns `app.sendfile_roots` and `[[static]]`.
    fn files(&mut self) -> (Vec<SendfileDirectory>, Vec<StaticMount>) {
        let roots = self.read(name::SENDFILE_ROOTS, Vec::new(), mounts::sendfile_roots);
        let Some(setting) = self.setting(name::STATIC) else { return (roots, Vec::new()) };
        let mounts = mounts::read(setting, &mut self.errors).unwrap_or_else(|error| {
            self.push_error(name::STATIC, setting, error);
            Vec::new()
        });
        (roots, mounts)
    }

    fn target(&mut self) -> Option<Target> {
        if self.setting(name::TARGET).is_none() {
            let error = ValueError::new("is not set")
                .with_hint("name the application: target = \"mysite.wsgi:application\" in [app]");
            self.push_missing(name::TARGET, error);
        }
        self.read(name::TARGET, None, |setting| read::text(setting)?.parse().map(Some))
    }

    /// Returns the application's directory; without the key, the current directory, which
    /// WorkingDirectory= of the unit sets.
    fn directory(&mut self) -> Option<PathBuf> {
        let cwd = self.layers.cwd;
        if self.setting(name::DIRECTORY).is_none() {
            return match paths::readable_directory(cwd.to_owned()) {
                Ok(directory) => Some(directory),
                Err(error) => {
                    let reason =
                        format!("is not set, and the current directory {} {}", cwd.display(), error.reason);
                    self.push_missing(name::DIRECTORY, ValueError { reason, ..error });
                    None
                }
            };
        }
        self.read(name::DIRECTORY, None, |setting| paths::directory(setting, cwd).map(Some))
    }

    fn python(&mut self, directory: Option<&Path>) -> Option<Python> {
        let Layers { environment, cwd, program, .. } = self.layers;
        if let Some(setting) = self.setting(name::PYTHON) {
            let absolute = paths::path(setting).is_ok_and(|path| Path::new(path).is_absolute());
            // A relative path needs a valid directory; an invalid directory has been reported
            // already.
            let base = match directory {
                Some(directory) => directory,
                None if absolute => cwd,
                None => return None,
            };
            return self.read(name::PYTHON, None, |setting| {
                python::configured(paths::path(setting)?, base, environment, cwd).map(Some)
            });
        }
        let search = Search { program: *program, directory: directory?, environment, cwd };
        match search.run(&mut self.warnings) {
            Ok(python) => Some(python),
            Err(error) => {
                self.push_missing(name::PYTHON, error);
                None
            }
        }
    }

    /// Returns the variables of the file and of the command line. Of two with the same name, that
    /// of the command line applies: `--env DEBUG=1` keeps the file's other variables.
    ///
    /// Adds the variables of `app.env_from_credentials`; also returns the names of the credentials
    /// that a check outside of the unit cannot read.
    fn env(&mut self) -> (Vec<(String, String)>, Vec<String>) {
        let Layers { command_line, file, .. } = self.layers;
        let mut merged = BTreeMap::new();
        for setting in [file, command_line].into_iter().filter_map(|layer| layer.get(name::ENV)) {
            let mut value_errors = Vec::new();
            merged.extend(read::env(&setting.value, &mut value_errors));
            for error in value_errors {
                self.push_secret(name::ENV, setting, error);
            }
        }
        let credentials = credentials::read_variables(self, &merged);
        merged.extend(credentials.known);
        (merged.into_iter().collect(), credentials.unknown)
    }

    fn app_argument_defaults(&self) -> AppArgumentDefaults {
        // On the command line, or as `wsgi_app` in gunicorn.conf.py.
        let target = self.setting(name::TARGET);
        let is_named = target.is_some_and(|setting| setting.source == Source::CommandLine);
        AppArgumentDefaults {
            one_worker: is_named && self.setting(name::COUNT).is_none(),
            untimed_asgi: is_named && self.setting(name::REQUEST).is_none(),
            logs_access: is_named && self.layers.environment.logs_access(),
        }
    }

    fn workers(&mut self) -> Workers {
        let mut defaults = Workers::default();
        if self.app_argument_defaults().one_worker {
            defaults.count = Count::Fixed(NonZeroU16::MIN);
        }
        let preload = self.read(name::PRELOAD, defaults.preload, preload::read);
        self.warn_about_preloaded_application(&preload);
        Workers {
            count: self.read(name::COUNT, defaults.count, read::count),
            threads: self.read(name::THREADS, defaults.threads, |setting| {
                read::whole(setting, 1, u16::MAX.into()).map(read::non_zero_u16)
            }),
            concurrency: self.read(name::CONCURRENCY, defaults.concurrency, |setting| {
                read::whole(setting, 1, u32::MAX).map(|n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN))
            }),
            preload,
            refork: self.read(name::REFORK, defaults.refork, read::requests_or_off),
            max_requests: self.read(name::MAX_REQUESTS, defaults.max_requests, read::requests_or_off),
            max_requests_jitter: self.read(
                name::MAX_REQUESTS_JITTER,
                defaults.max_requests_jitter,
                |setting| read::whole(setting, 0, u32::MAX).map(u64::from),
            ),
            max_memory: self.read(name::MAX_MEMORY, defaults.max_memory, read::memory_or_off),
            max_tasks: self.read(name::MAX_TASKS, defaults.max_tasks, worker_limits::max_tasks),
            cpu_weight: self.read(name::CPU_WEIGHT, defaults.cpu_weight, worker_limits::cpu_weight),
            max_lifetime: self.read(name::MAX_LIFETIME, defaults.max_lifetime, read::timeout_or_off),
            idle_exit: self.read(name::IDLE_EXIT, defaults.idle_exit, read::timeout_or_off),
            retry: self.read(name::RETRY, defaults.retry, read::retry),
            children_timeout: self.read(name::CHILDREN_TIMEOUT, defaults.children_timeout, |setting| {
                read::timeout_or_zero(
                    setting,
                    "write \"0s\" to kill them with their worker, or a maximum time",
                )
            }),
            user: worker_user::read(self),
        }
    }

    fn timeouts(&mut self) -> Timeouts {
        let defaults = Timeouts::default();
        Timeouts {
            request: self.read(name::REQUEST, defaults.request, read::timeout_or_off),
            queue: self.read(name::QUEUE_WAIT, defaults.queue, read::timeout_or_off),
            header: self.read(name::HEADER_WAIT, defaults.header, read::timeout),
            body: self.read(name::BODY_WAIT, defaults.body, read::timeout),
            keepalive: self.read(name::KEEPALIVE, defaults.keepalive, |setting| {
                read::timeout_or_zero(setting, "write \"0s\" to close the connection after each response")
            }),
            stall: self.read(name::STALL, defaults.stall, read::timeout_or_off),
            boot: self.read(name::BOOT, defaults.boot, read::timeout_or_off),
            drain: self.read(name::DRAIN, defaults.drain, |setting| {
                read::timeout_or_zero(setting, "write \"0s\" to abort requests at once, or a maximum time")
            }),
            drain_delay: self.read(name::DRAIN_DELAY, defaults.drain_delay, |setting| {
                read::timeout_or_zero(
                    setting,
                    "write \"0s\" to drain at once, or the time that load balancers need to stop sending requests",
                )
            }),
            boot_page: self.read(name::BOOT_PAGE, defaults.boot_page, read::timeout_or_off),
            paths: self.paths(),
        }
    }

    fn paths(&mut self) -> Vec<PathRule> {
        let Some(setting) = self.setting(name::PATH_RULES) else { return Vec::new() };
        let rules = rules::read(setting, &mut self.errors);
        rules.unwrap_or_else(|error| {
            self.push_error(name::PATH_RULES, setting, error);
            Vec::new()
        })
    }

    fn limits(&mut self) -> Limits {
        let defaults = Limits::default();
        let head = |setting: &Setting| read::bytes(setting, MAX_HEAD_BYTES);
        Limits {
            queue: self.read(name::QUEUE, defaults.queue, |setting| {
                if read::is_auto(setting) {
                    return Ok(None);
                }
                read::whole(setting, 1, MAX_QUEUED).map(|n| Some(read::to_usize(n))).map_err(|error| {
                    error.with_hint("write a number, or \"auto\" to derive it from the memory")
                })
            }),
            body: self.read(name::BODY, defaults.body, read::bytes_or_off),
            header: self.read(name::HEADER, defaults.header, head),
            headers: self.read(name::HEADERS, defaults.headers, |setting| {
                read::whole(setting, 1, MAX_HEADERS).map(read::to_usize)
            }),
            request_line: self.read(name::REQUEST_LINE, defaults.request_line, head),
            connections: self.read(name::CONNECTIONS, defaults.connections, |setting| {
                if read::is_auto(setting) {
                    return Ok(None);
                }
                read::whole(setting, 1, u32::MAX).map(|n| Some(read::to_usize(n))).map_err(|error| {
                    error.with_hint(
                        "write a number, or \"auto\" to derive it from the hard limit of LimitNOFILE=",
                    )
                })
            }),
            queue_per_client: self.read(
                name::QUEUE_PER_CLIENT,
                defaults.queue_per_client,
                read::count_or_off,
            ),
            connections_per_client: self.read(
                name::CONNECTIONS_PER_CLIENT,
                defaults.connections_per_client,
                read::count_or_off,
            ),
            streams: self
                .read(name::STREAMS, defaults.streams, |setting| read::whole(setting, 1, MAX_STREAMS)),
            response_memory: self.read(
                name::RESPONSE_MEMORY,
                defaults.response_memory,
                read::capacity_or_auto,
            ),
            response_disk: self.read(name::RESPONSE_DISK, defaults.response_disk, read::capacity_or_auto),
            response_rate: self.read(name::RESPONSE_RATE, defaults.response_rate, read::bytes_or_off),
            spool_memory: self.read(name::SPOOL_MEMORY, defaults.spool_memory, read::capacity_or_auto),
            spool_disk: self.read(name::SPOOL_DISK, defaults.spool_disk, read::capacity_or_auto),
            body_rate: self.read(name::BODY_RATE, defaults.body_rate, read::bytes_or_off),
        }
    }

    fn http(&mut self) -> Http {
        let defaults = Http::default();
        Http {
            underscores: self.read(name::UNDERSCORES, defaults.underscores, read::underscores),
            http2: self.read(name::HTTP2, defaults.http2, read::boolean),
            redirect_to_https: self.read(name::REDIRECT_TO_HTTPS, defaults.redirect_to_https, read::boolean),
            hsts: self.read(name::HSTS, defaults.hsts, certificates::hsts),
        }
    }

    fn websocket(&mut self) -> WebSocket {
        let defaults = WebSocket::default();
        WebSocket {
            max_message: self.read(name::MAX_MESSAGE, defaults.max_message, |setting| {
                read::bytes(setting, MAX_MESSAGE_BYTES)
            }),
            ping_interval: self.read(name::PING_INTERVAL, defaults.ping_interval, read::timeout_or_off),
            ping_timeout: self.read(name::PING_TIMEOUT, defaults.ping_timeout, read::timeout_or_off),
            compression: self.read(name::COMPRESSION, defaults.compression, read::boolean),
            max_connections: self.read(name::MAX_CONNECTIONS, defaults.max_connections, |setting| {
                read::whole(setting, 1, MAX_WEBSOCKETS)
            }),
            close_window: self.read(name::CLOSE_WINDOW, defaults.close_window, |setting| {
                read::timeout_or_zero(setting, "write \"0s\" to close all at once")
            }),
        }
    }

    fn log(&mut self) -> Log {
        let defaults = Log::default();
        let is_named = self.app_argument_defaults().logs_access;
        let access = if is_named { AccessLog::Stdout } else { defaults.access };
        let access_format = self.read(name::ACCESS_FORMAT, None, |setting| match read::text(setting)? {
            "off" => Ok(None),
            text => AccessFormat::parse(text).map(|format| Some(Arc::new(format))),
        });
        if let (Some(format), Some(setting)) = (&access_format, self.setting(name::ACCESS_FORMAT)) {
            self.warnings.extend(format.warnings(setting));
        }
        Log {
            level: self.read(name::LEVEL, defaults.level, read::level),
            access: self.read(name::ACCESS, access, read::access),
            access_format,
            query: self.read(name::QUERY, defaults.query, read::boolean),
            slow: self.read(name::SLOW, defaults.slow, read::timeout_or_off),
            records: self.read(name::LOG_RECORDS, defaults.records, read::boolean),
            format: self.read(name::LOG_FORMAT, defaults.format, read::log_format),
        }
    }

    fn proxy(&mut self, listen: &Listen) -> Proxy {
        let default = Proxy::default();
        let trusted = self.read(name::TRUSTED, default.trusted, trusted::read);
        let headers = self.read(name::FORWARDING_HEADERS, default.headers, forwarding::headers);
        let proxy = Proxy {
            fields: self
                .read(name::FORWARDED_FIELDS, default.fields, |setting| forwarding::fields(setting, headers)),
            protocol_trusted: self.read(name::PROTOCOL_TRUSTED, trusted.clone(), trusted::read),
            trusted,
            headers,
        };
        self.check_proxy_senders(listen, &proxy);
        proxy
    }

    fn reload(&mut self, base: &Path) -> Reload {
        let defaults = Reload::default();
        Reload {
            probe: self.read(name::PROBE, defaults.probe, read::probe),
            watch: self.read(name::WATCH, defaults.watch, read::timeout_or_off),
            on_change: on_change::read(self, base),
        }
    }

    fn hooks(&mut self) -> Hooks {
        let mut hook = |key| self.read(key, None, read::hook);
        Hooks {
            post_fork: hook(name::POST_FORK),
            post_worker_init: hook(name::POST_WORKER_INIT),
            worker_exit: hook(name::WORKER_EXIT),
            worker_abort: hook(name::WORKER_ABORT),
            child_exit: hook(name::CHILD_EXIT),
        }
    }

    /// Reports sockets that require a PROXY header although no peer may send one: they would close
    /// every connection.
    fn check_proxy_senders(&mut self, listen: &Listen, proxy: &Proxy) {
        let is_required = listen.proxy_protocol || listen.named.iter().any(|socket| socket.proxy_protocol);
        if is_required && proxy.protocol_trusted == TrustedProxies::NONE {
            let error = ValueError::new("names no address, so sockets with proxy_protocol serve no client");
            let error =
                error.with_hint("name the proxies, e.g. protocol_trusted = [\"loopback\"] in [proxy]");
            self.push_missing(name::PROTOCOL_TRUSTED, error);
        }
    }
}
