//! Loading of configurations: defaults, every key, and the precedence of sources.

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use super::testing::TestDir;
use super::*;

mod combinations;
mod hook_names;
mod manual;
mod packaged;
mod pending;
mod responses;
mod sockets;
mod start_message;
mod static_mounts;
mod wrong;

/// A temporary directory with an application directory and an interpreter.
struct Case {
    place: TestDir,
}

impl Case {
    fn new() -> Self {
        let place = TestDir::new();
        place.python("app/.venv/bin/python");
        Self { place }
    }

    /// Loads `text` as the file; `{app}` in it stands for the application's directory.
    fn load(&self, text: &str, variables: &[(&str, &str)], flags: Layer) -> Result<Loaded, String> {
        let text = text.replace("{app}", &self.place.join("app").display().to_string());
        let path = self.place.file("rgun.toml", text.as_bytes(), 0o644);
        let environment = variables.iter().copied().collect();
        load(flags, &environment, FileSource::Toml(&path), self.place.path(), None)
            .map_err(|errors| errors.to_string().replace(&self.place.path().display().to_string(), "@"))
    }

    /// Loads a valid `[app]` section followed by `text`.
    fn with(&self, text: &str) -> Result<Config, String> {
        self.load(&format!("{VALID_APP}{text}"), &[], Layer::new()).map(|loaded| loaded.config)
    }
}

const VALID_APP: &str = "[app]\ntarget = \"mysite.wsgi\"\ndirectory = \"{app}\"\n";

fn flags(settings: &[(&'static str, &str, Value)]) -> Layer {
    settings.iter().map(|(key, flag, value)| (*key, Setting::flag(flag, value.clone()))).collect()
}

#[test]
fn missing_keys_have_the_documented_defaults() {
    let case = Case::new();
    let config = case.with("").unwrap();
    let app = case.place.join("app");
    assert_eq!(
        config.app,
        App {
            target: "mysite.wsgi:application".parse().unwrap(),
            python: Python {
                path: app.join(".venv/bin/python"),
                source: PythonSource::Folder(".venv", SearchedDirectory::Application)
            },
            directory: app,
            interface: Interface::Auto,
            root_path: String::new(),
            asgi: Asgi { lifespan: Lifespan::Auto, event_loop: Loop::Auto, pathsend: true },
            env: vec![],
            unknown_credentials: vec![],
            pythonpath: vec![],
            sendfile_roots: Vec::new(),
            log_config: None,
        }
    );
    let seconds = Duration::from_secs;
    let Timeouts {
        request,
        queue,
        header,
        body,
        keepalive,
        boot,
        drain,
        stall,
        paths,
        drain_delay,
        boot_page,
    } = config.timeouts;
    assert_eq!((drain_delay, boot_page), (Duration::ZERO, Some(Duration::from_secs(2))));
    assert_eq!((paths, stall), (vec![], Some(seconds(10))));
    assert_eq!((request, queue, boot), (Some(seconds(30)), Some(seconds(30)), Some(seconds(60))));
    assert_eq!((header, body, keepalive, drain), (seconds(10), seconds(60), seconds(75), seconds(30)));
    let Limits { queue, body, header, headers, request_line, connections, .. } = config.limits;
    assert_eq!((queue, body, header), (None, Some(1 << 30), 16 << 10));
    assert_eq!(config.limits.connections_per_client, None);
    let Limits { response_memory, response_disk, response_rate, .. } = config.limits;
    assert_eq!((response_memory, response_disk, response_rate), (None, None, Some(256)));
    let Limits { spool_memory, spool_disk, body_rate, .. } = config.limits;
    assert_eq!((spool_memory, spool_disk, body_rate), (None, None, Some(256)));
    assert_eq!((headers, request_line, connections), (100, 8 << 10, None));
    let WebSocket { max_message, ping_interval, ping_timeout, compression, max_connections, close_window } =
        config.websocket;
    assert_eq!((max_message, compression, max_connections), (16 << 20, true, 10_000));
    assert_eq!((ping_interval, ping_timeout), (Some(seconds(20)), Some(seconds(20))));
    assert_eq!(close_window, seconds(10));
    let Workers { count, threads, concurrency, .. } = config.workers;
    assert_eq!((count, threads.get(), concurrency.get()), (Count::Auto, 1, 1000));
    let Workers { preload, refork, max_requests, max_requests_jitter, retry, .. } = config.workers;
    assert_eq!((preload, refork, max_requests, max_requests_jitter), (Preload::Off, None, None, 0));
    let Workers { max_memory, max_lifetime, idle_exit, .. } = config.workers;
    assert_eq!((max_memory, max_lifetime, idle_exit, retry), (None, None, None, Retry::Off));
    assert_eq!(config.workers.children_timeout, Duration::from_secs(30));
    assert_eq!(config.workers.user, WorkerUser::default());
    assert_eq!(config.reload, Reload::default());
    assert!(
        !config.reload.on_change.enabled && config.reload.probe.is_none() && config.reload.watch.is_none()
    );
    let Hooks { post_fork, post_worker_init, worker_exit, worker_abort, child_exit } = config.hooks;
    assert_eq!([post_fork, post_worker_init, worker_exit, worker_abort, child_exit], [const { None }; 5]);
    assert_eq!(config.listen.bind, ["127.0.0.1:8000".parse().unwrap()]);
    assert!(!config.listen.explicit);
    assert_eq!(config.log, Log::default());
    assert!(!config.log.access.is_on() && config.log.query && config.log.slow.is_none());
    assert_eq!(config.origin, Some(case.place.join("rgun.toml")));
}

#[test]
fn every_key_of_the_file_is_read() {
    let case = Case::new();
    case.place.python("app/env/bin/python3");
    let config = case
        .load(
            r#"
            [app]
            target = "mysite.asgi:make()"
            directory = "{app}"
            python = "env/bin/python3"
            interface = "asgi"
            root_path = "/shop"
            env = { DJANGO_SETTINGS_MODULE = "mysite.settings", A = "" }
            pythonpath = ["lib", "/opt/lib"]
            [workers]
            count = { min = 2, max = 9 }
            threads = 3
            concurrency = 50
            preload = true
            refork = 500
            max_requests = 1000
            max_requests_jitter = 100
            max_memory = "512MiB"
            max_lifetime = "24h"
            idle_exit = "10m"
            retry = "idempotent"
            children_timeout = "0s"
            user = "shop"
            group = 33
            [timeouts]
            request = "off"
            queue = "off"
            header = "5s"
            body = "500ms"
            keepalive = "0s"
            boot = "off"
            drain = "2m"
            [[timeouts.path]]
            match = "/admin/export*"
            request = "600s"
            concurrency = 2
            [[timeouts.path]]
            match = "*.csv"
            request = "off"
            [[timeouts.path]]
            match = "/login"
            concurrency = 50
            [limits]
            queue = 10
            body = "off"
            header = "32KiB"
            headers = 50
            request_line = 4096
            connections = 500
            connections_per_client = 8
            response_memory = "32MiB"
            response_disk = 0
            response_rate = "off"
            spool_memory = "8MiB"
            spool_disk = "4GiB"
            body_rate = "1KiB"
            [websocket]
            max_message = "1MiB"
            ping_interval = "1m"
            ping_timeout = "off"
            compression = false
            max_connections = 500
            close_window = "0s"
            [reload]
            probe = "/healthz?deep=1"
            watch = "30s"
            on_change = true
            dirs = ["env"]
            include = ["*.css", "conf/*.yaml"]
            exclude = "generated"
            delay = "0s"
            poll = true
            [hooks]
            post_fork = "mysite.hooks:post_fork"
            post_worker_init = "mysite.hooks:Pool.open"
            worker_exit = "hooks:bye"
            worker_abort = "hooks:abort"
            child_exit = "mysite.metrics:child_exit"
            [listen]
            bind = ["[::1]:8000", "unix:/run/x.sock"]
            [log]
            level = "debug"
            access = true
            slow = "1s"
            format = "json"
            "#,
            &[],
            Layer::new(),
        )
        .unwrap()
        .config;
    let app = case.place.join("app");
    assert_eq!(config.app.target.to_string(), "mysite.asgi:make()");
    let python = Python { path: app.join("env/bin/python3"), source: PythonSource::Configured };
    assert_eq!(config.app.python, python);
    assert_eq!((config.app.interface, config.app.root_path.as_str()), (Interface::Asgi, "/shop"));
    let env = [("A", ""), ("DJANGO_SETTINGS_MODULE", "mysite.settings")];
    assert_eq!(config.app.env, env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(config.app.pythonpath, [app.join("lib"), PathBuf::from("/opt/lib")]);
    let (min, max) = (NonZeroU16::new(2).unwrap(), NonZeroU16::new(9).unwrap());
    assert_eq!(config.workers.count, Count::Range { min, max });
    let Workers { preload, refork, max_requests, max_requests_jitter, retry, .. } = config.workers;
    assert_eq!(
        (preload, refork, max_requests),
        (Preload::Application, NonZeroU64::new(500), NonZeroU64::new(1000))
    );
    assert_eq!((max_requests_jitter, retry), (100, Retry::Idempotent));
    assert_eq!(config.workers.children_timeout, Duration::ZERO);
    let text = |account: Option<AccountName>| account.map(|account| account.text);
    let WorkerUser { user, group } = config.workers.user;
    assert_eq!((text(user).as_deref(), text(group).as_deref()), (Some("shop"), Some("33")));
    let Workers { max_memory, max_lifetime, idle_exit, .. } = config.workers;
    assert_eq!((max_memory, max_lifetime), (Some(512 << 20), Some(Duration::from_hours(24))));
    assert_eq!(idle_exit, Some(Duration::from_mins(10)));
    assert_eq!((config.workers.threads.get(), config.workers.concurrency.get()), (3, 50));
    let rule = |pattern: &str, request, concurrency| PathRule {
        pattern: pattern.to_owned(),
        request,
        concurrency: NonZeroU32::new(concurrency),
    };
    let Timeouts { request, queue, header, body, keepalive, boot, drain, paths, .. } = config.timeouts;
    assert_eq!(
        paths,
        [
            rule("/admin/export*", Some(Some(Duration::from_mins(10))), 2),
            rule("*.csv", Some(None), 0),
            rule("/login", None, 50),
        ]
    );
    let probe = Some("/healthz?deep=1".to_owned());
    let pattern = |text| glob::Pattern::new(text).unwrap();
    let on_change = OnChange {
        enabled: true,
        dirs: vec![app.join("env")],
        include: vec![pattern("*.css"), pattern("conf/*.yaml")],
        exclude: vec![pattern("generated")],
        delay: Duration::ZERO,
        poll: true,
    };
    assert_eq!(config.reload, Reload { probe, watch: Some(Duration::from_secs(30)), on_change });
    let Hooks { post_fork, post_worker_init, worker_exit, worker_abort, child_exit } = config.hooks;
    assert_eq!(
        [post_fork, post_worker_init, worker_exit, worker_abort, child_exit]
            .map(|hook| hook.unwrap().to_string()),
        [
            "mysite.hooks:post_fork",
            "mysite.hooks:Pool.open",
            "hooks:bye",
            "hooks:abort",
            "mysite.metrics:child_exit"
        ]
    );
    assert_eq!((request, queue, boot), (None, None, None));
    assert_eq!((header, body), (Duration::from_secs(5), Duration::from_millis(500)));
    assert_eq!((keepalive, drain), (Duration::ZERO, Duration::from_mins(2)));
    let Limits { queue, body, header, headers, request_line, connections, .. } = config.limits;
    let connections_per_client = config.limits.connections_per_client;
    let Limits { response_memory, response_disk, response_rate, .. } = config.limits;
    assert_eq!((response_memory, response_disk, response_rate), (Some(32 << 20), Some(0), None));
    let Limits { spool_memory, spool_disk, body_rate, .. } = config.limits;
    assert_eq!((spool_memory, spool_disk, body_rate), (Some(8 << 20), Some(4 << 30), Some(1 << 10)));
    assert_eq!((queue, body, header), (Some(10), None, 32 << 10));
    assert_eq!((headers, request_line, connections), (50, 4096, Some(500)));
    assert_eq!(connections_per_client, NonZeroU32::new(8));
    let websocket = WebSocket {
        max_message: 1 << 20,
        ping_interval: Some(Duration::from_mins(1)),
        ping_timeout: None,
        compression: false,
        max_connections: 500,
        close_window: Duration::ZERO,
    };
    assert_eq!(config.websocket, websocket);
    let bind: Vec<_> = config.listen.bind.iter().map(ToString::to_string).collect();
    assert_eq!(bind, ["[::1]:8000", "unix:/run/x.sock"]);
    assert!(config.listen.explicit);
    assert_eq!(
        config.log,
        Log {
            level: Level::Debug,
            access: AccessLog::Log,
            access_format: None,
            query: true,
            slow: Some(Duration::from_secs(1)),
            records: true,
            format: LogFormat::Json
        }
    );
}

#[test]
fn flags_override_variables_and_variables_the_file() {
    let case = Case::new();
    let text = format!("{VALID_APP}[workers]\ncount = 2\n");
    let flag = || flags(&[(name::COUNT, "--workers", Value::text("5"))]);
    let web = ("WEB_CONCURRENCY", "3");
    let own = ("RGUN_WORKERS_COUNT", "4");
    for (variables, flags, n) in [
        (vec![], Layer::new(), 2),
        (vec![web], Layer::new(), 3),
        (vec![web, own], Layer::new(), 4),
        (vec![web, own], flag(), 5),
    ] {
        let config = case.load(&text, &variables, flags).unwrap().config;
        assert_eq!(config.workers.count.resolve(1).get(), n);
    }
}

#[test]
fn env_flags_are_merged_with_env_of_the_file() {
    let case = Case::new();
    let text = format!("{VALID_APP}env = {{ A = \"file\", B = \"file\" }}\n");
    let flags = flags(&[(name::ENV, "--env", Value::list(["B=flag", "C=x=y", "B=last"]))]);
    let env = case.load(&text, &[], flags).unwrap().config.app.env;
    let expected = [("A", "file"), ("B", "last"), ("C", "x=y")];
    assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn variables_come_from_credentials_of_the_unit() {
    let case = Case::new();
    case.place.file("credentials/key", b"s3cret\n", 0o400);
    case.place.file("credentials/binary", b"\xff", 0o400);
    let directory = case.place.join("credentials").display().to_string();
    let load = |text: &str, variables: &[(&str, &str)]| {
        let loaded = case.load(&format!("{VALID_APP}{text}\n"), variables, Layer::new());
        loaded.map(|loaded| loaded.config.app)
    };
    let unit = [("CREDENTIALS_DIRECTORY", &*directory)];
    let app = load("env_from_credentials = { SECRET_KEY = \"key\" }\nenv = { A = \"1\" }", &unit).unwrap();
    let expected = [("A", "1"), ("SECRET_KEY", "s3cret")];
    assert_eq!(app.env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for (text, variables, expected) in [
        ("{ K = \"key\" }", &[][..], "K: key is a credential, and $CREDENTIALS_DIRECTORY is not set"),
        ("{ K = \"none\" }", &unit, "hint: write LoadCredential=none:/path in the unit"),
        ("{ K = \"../key\" }", &unit, "\"../key\" is not the name of a credential"),
        ("{ K = \"binary\" }", &unit, "the credential binary is not text"),
        ("{ K = \"key\" }\nenv = { K = \"1\" }", &unit, "K is also in app.env"),
        ("\"key\"", &unit, "must be a table of strings"),
    ] {
        let error = load(&format!("env_from_credentials = {text}"), variables).unwrap_err();
        assert!(error.contains(expected) && !error.contains("s3cret"), "{text}\n{error}");
    }
    let unset = Environment::default().allowing_unknown_credentials();
    let outside =
        [("CREDENTIALS_DIRECTORY", unset.value("CREDENTIALS_DIRECTORY").unwrap().to_str().unwrap())];
    let app = load("env_from_credentials = { SECRET_KEY = \"key\" }", &outside).unwrap();
    assert_eq!((app.env, app.unknown_credentials), (vec![], vec!["key".to_owned()]));
}

#[test]
fn relative_paths_are_allowed_on_the_command_line() {
    let case = Case::new();
    let loaded = case
        .load(
            VALID_APP,
            &[],
            flags(&[
                (name::DIRECTORY, "--chdir", Value::text("./app")),
                (name::PYTHONPATH, "--pythonpath", Value::text("lib, /opt/lib")),
                (name::BIND, "--bind", Value::list(["unix:x.sock"])),
            ]),
        )
        .unwrap();
    let app = case.place.join("app");
    assert_eq!(loaded.config.app.directory, app);
    assert_eq!(loaded.config.app.pythonpath, [app.join("lib"), PathBuf::from("/opt/lib")]);
    assert_eq!(loaded.config.listen.bind, [Bind::Unix { path: app.join("x.sock") }]);
}

#[test]
fn environment_sets_every_kind_of_value() {
    let case = Case::new();
    let config = case
        .load(
            VALID_APP,
            &[
                ("RGUN_APP_TARGET", "other:app"),
                ("RGUN_APP_PATHSEND", "off"),
                ("RGUN_TIMEOUTS_REQUEST", "2m"),
                ("RGUN_LIMITS_BODY", "off"),
                ("RGUN_LIMITS_CONNECTIONS", "auto"),
                ("RGUN_LISTEN_BIND", ":80, [::]:80"),
                ("RGUN_LOG_ACCESS", "1"),
                ("RGUN_LOG_SLOW", "500ms"),
                ("RGUN_WORKERS_COUNT", "1-9"),
                ("RGUN_WORKERS_PRELOAD", "on"),
                ("RGUN_WORKERS_REFORK", "1000"),
                ("RGUN_WORKERS_MAX_REQUESTS", "off"),
                ("RGUN_WORKERS_MAX_MEMORY", "1GiB"),
                ("RGUN_WORKERS_RETRY", "idempotent"),
                ("RGUN_RELOAD_PROBE", "/healthz"),
                ("RGUN_LIMITS_QUEUE", "auto"),
                ("RGUN_LIMITS_CONNECTIONS_PER_CLIENT", "20"),
                ("RGUN_HOOKS_POST_FORK", "mysite.hooks:post_fork"),
            ],
            Layer::new(),
        )
        .unwrap()
        .config;
    assert_eq!((config.app.target.to_string().as_str(), config.app.asgi.pathsend), ("other:app", false));
    assert_eq!(config.timeouts.request, Some(Duration::from_mins(2)));
    assert_eq!((config.limits.body, config.limits.connections), (None, None));
    assert_eq!((config.limits.queue, config.limits.connections_per_client), (None, NonZeroU32::new(20)));
    assert_eq!(config.listen.bind, [":80".parse().unwrap(), "[::]:80".parse().unwrap()]);
    assert_eq!(config.log.access, AccessLog::Log);
    assert_eq!(config.log.slow, Some(Duration::from_millis(500)));
    let (min, max) = (NonZeroU16::MIN, NonZeroU16::new(9).unwrap());
    assert_eq!(config.workers.count, Count::Range { min, max });
    let Workers { preload, refork, max_requests, max_memory, retry, .. } = config.workers;
    assert_eq!((preload, refork, max_requests), (Preload::Application, NonZeroU64::new(1000), None));
    assert_eq!((max_memory, retry), (Some(1 << 30), Retry::Idempotent));
    assert_eq!(config.reload.probe.as_deref(), Some("/healthz"));
    assert_eq!(config.hooks.post_fork, Some("mysite.hooks:post_fork".parse().unwrap()));
}

#[test]
fn overridden_value_is_not_checked() {
    let case = Case::new();
    let text = VALID_APP.replace("{app}", "/no/such/dir");
    let flags = flags(&[(name::DIRECTORY, "--chdir", Value::text("app"))]);
    assert!(case.load(&text, &[], flags).is_ok());
}

#[test]
fn auto_is_two_workers_per_core_plus_one() {
    for (cores, n) in [(0, 3), (1, 3), (2, 5), (64, 129), (40_000, u16::MAX), (usize::MAX, u16::MAX)] {
        assert_eq!(Count::Auto.resolve(cores).get(), n, "{cores} cores");
    }
    assert_eq!(Count::Fixed(NonZeroU16::new(9).unwrap()).resolve(64).get(), 9);
}
