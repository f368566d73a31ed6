//! Variables that uvicorn, granian and gunicorn read.

use super::*;

fn config(variables: &[(&str, &str)], args: &[&str]) -> (Config, Vec<String>) {
    let invocation = Shell::new().run_with(variables, args).unwrap_or_else(|failure| panic!("{failure}"));
    (invocation.config, invocation.warnings)
}

fn addresses(variables: &[(&str, &str)], args: &[&str]) -> Vec<String> {
    config(variables, args).0.listen.bind.iter().map(ToString::to_string).collect()
}

#[test]
fn flags_override_variables_of_uvicorn() {
    let variables = [
        ("UVICORN_HOST", "0.0.0.0"),
        ("UVICORN_PORT", "9000"),
        ("UVICORN_WORKERS", "3"),
        ("UVICORN_LOG_LEVEL", "warning"),
        ("UVICORN_ACCESS_LOG", "true"),
        ("UVICORN_PROXY_HEADERS", "0"),
        ("UVICORN_ROOT_PATH", "/api"),
        ("UVICORN_TIMEOUT_KEEP_ALIVE", "7"),
        ("UVICORN_APP_DIR", "src"),
        ("UVICORN_FACTORY", "false"),
        ("UVICORN_HOME", "/x"),
    ];
    let (found, warnings) = config(&variables, &["a", "--workers", "2"]);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(found.listen.bind, ["0.0.0.0:9000".parse().unwrap()]);
    assert_eq!(found.workers.count.resolve(1).get(), 2);
    assert_eq!((found.log.level, found.log.access.is_on()), (Level::Warn, true));
    assert_eq!(found.proxy.trusted, config::TrustedProxies::NONE);
    assert_eq!((found.app.root_path.as_str(), found.timeouts.keepalive), ("/api", Duration::from_secs(7)));
    assert!(found.app.pythonpath[0].ends_with("src"));
}

#[test]
fn variables_complete_the_address_of_the_flags() {
    let both = [("UVICORN_HOST", "0.0.0.0"), ("UVICORN_PORT", "9000")];
    for (args, expected) in [
        (&["a", "--port", "80"][..], "0.0.0.0:80"),
        (&["a", "--host", "::1"], "[::1]:9000"),
        (&["a", "--host", "localhost", "--port", "1"], "localhost:1"),
        (&["a", "--bind", ":7"], "0.0.0.0:7"),
        (&["a", "--uds", "/run/x"], "unix:/run/x"),
    ] {
        assert_eq!(addresses(&both, args), [expected], "{args:?}");
    }
    assert_eq!(addresses(&[("GRANIAN_HOST", "0.0.0.0")], &["a", "--port", "80"]), ["0.0.0.0:80"]);
}

#[test]
fn variables_of_granian_are_flags_and_keys() {
    let variables = [
        ("GRANIAN_HOST", "0.0.0.0"),
        ("GRANIAN_INTERFACE", "asginl"),
        ("GRANIAN_WORKERS", "3"),
        ("GRANIAN_BLOCKING_THREADS", "4"),
        ("GRANIAN_LOG_ACCESS_ENABLED", "true"),
        ("GRANIAN_WORKERS_LIFETIME", "3600"),
        ("GRANIAN_WEBSOCKETS", "true"),
        ("GRANIAN_RESPAWN_FAILED_WORKERS", "1"),
    ];
    let (found, warnings) = config(&variables, &["a"]);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(found.listen.bind, ["0.0.0.0:8000".parse().unwrap()]);
    assert_eq!(found.app.interface, Interface::Asgi);
    assert_eq!((found.workers.count.resolve(1).get(), found.workers.threads.get()), (3, 4));
    assert_eq!((found.log.access.is_on(), found.workers.max_lifetime), (true, Some(Duration::from_hours(1))));
}

#[test]
fn variable_without_a_counterpart_is_warned_about_once() {
    for (variable, value, expected) in [
        ("GRANIAN_METRICS_ENABLED", "true", "GRANIAN_METRICS_ENABLED: ignored; metrics.bind"),
        ("GRANIAN_STATIC_PATH_MOUNT", "/s", "GRANIAN_STATIC_PATH_MOUNT: ignored; write [[static]]"),
        ("GRANIAN_ENV_FILES", "/e", "GRANIAN_ENV_FILES: ignored; write EnvironmentFile=/e in the service"),
        ("GRANIAN_FACTORY", "maybe", "GRANIAN_FACTORY=maybe: ignored; write true or false"),
        ("UVICORN_WS", "wsproto", "UVICORN_WS wsproto: ignored; the daemon implements"),
        ("UVICORN_ACCESS_LOG", "2", "UVICORN_ACCESS_LOG=2: ignored; write true or false"),
    ] {
        let (_, warnings) = config(&[(variable, value)], &["a"]);
        let [warning] = warnings.as_slice() else { panic!("{variable}: {warnings:?}") };
        assert!(warning.starts_with(expected), "{warning}");
    }
}

#[test]
fn wrong_value_of_a_variable_names_the_variable() {
    for (variables, expected) in [
        (&[("UVICORN_WORKERS", "x")][..], "UVICORN_WORKERS: workers.count = \"x\""),
        (&[("UVICORN_HOST", "a:1")], "UVICORN_HOST a:1: is not an address"),
        (&[("GRANIAN_BLOCKING_THREADS", "x")], "GRANIAN_BLOCKING_THREADS: workers.threads = \"x\""),
        (&[("GRANIAN_WORKERS_MAX_RSS", "x")], "GRANIAN_WORKERS_MAX_RSS: workers.max_memory = \"xMiB\""),
        (&[("UVICORN_FD", "3")], "UVICORN_FD 3: rgun takes sockets"),
    ] {
        let failure = Shell::new().run_with(variables, &["a"]).expect_err(expected);
        assert!(failure.text.contains(expected), "{failure}");
        assert_eq!(failure.status, EX_CONFIG, "{failure}");
    }
}

#[test]
fn other_servers_variables_are_ignored_without_app() {
    let shell = Shell::new();
    shell.default_file(SITE);
    let variables = [
        ("UVICORN_PORT", "80"),
        ("GRANIAN_PORT", "81"),
        ("SCRIPT_NAME", "/shop"),
        // Set for a Kubernetes Service that is called uvicorn-host.
        ("UVICORN_HOST", "tcp://10.0.0.7:80"),
    ];
    let invocation = shell.run_with(&variables, &[]).unwrap();
    assert!(!invocation.config.listen.explicit);
    assert_eq!(invocation.config.app.root_path, "");
    let [granian, uvicorn, script] = invocation.warnings.as_slice() else {
        panic!("{:?}", invocation.warnings)
    };
    assert!(granian.starts_with("GRANIAN_PORT: ignored without APP"), "{granian}");
    assert!(uvicorn.starts_with("UVICORN_PORT: ignored without APP"), "{uvicorn}");
    assert!(script.starts_with("SCRIPT_NAME=/shop: ignored without APP"), "{script}");
}

#[test]
fn script_name_sets_the_root_path_of_app() {
    let script = ("SCRIPT_NAME", "/shop");
    let root_path = |variables: &[(&str, &str)], args: &[&str]| config(variables, args).0.app.root_path;
    assert_eq!(root_path(&[script], &["a"]), "/shop");
    assert_eq!(root_path(&[script], &["a", "--root-path", "/x"]), "/x");
    assert_eq!(root_path(&[script, ("RGUN_APP_ROOT_PATH", "/x")], &["a"]), "/x");
    assert_eq!(root_path(&[script, ("GUNICORN_CMD_ARGS", "--root-path /x")], &["a"]), "/x");
    assert_eq!(root_path(&[("SCRIPT_NAME", "")], &["a"]), "");
    let failure = Shell::new().run_with(&[("SCRIPT_NAME", "shop/")], &["a"]).unwrap_err();
    assert!(failure.text.contains("SCRIPT_NAME: app.root_path = \"shop/\""), "{failure}");
}

#[test]
fn explicit_threads_override_those_of_a_worker_class() {
    let shell = Shell::new();
    let file = shell.place.file("f.toml", b"[workers]\nthreads = 3\n", 0o644).display().to_string();
    let threads = |variables: &[(&str, &str)], args: &[&str]| {
        shell.run_with(variables, args).unwrap().config.workers.threads.get()
    };
    assert_eq!(threads(&[], &["a", "-k", "gevent"]), 8);
    assert_eq!(threads(&[], &["a", "-k", "gevent", "-c", &file]), 3);
    assert_eq!(threads(&[("RGUN_WORKERS_THREADS", "5")], &["a", "-k", "gevent"]), 5);
    assert_eq!(threads(&[("GUNICORN_CMD_ARGS", "--threads 4")], &["a", "-k", "gevent"]), 4);
    assert_eq!(threads(&[("GUNICORN_CMD_ARGS", "-k gevent")], &["a", "--threads", "2"]), 2);
    assert_eq!(threads(&[("GUNICORN_CMD_ARGS", "-k gevent")], &["a", "-c", &file]), 3);
}

#[test]
fn variables_of_uvicorn_turn_the_access_log_on() {
    let shell = Shell::new();
    for (variables, args, is_on) in [
        (&[("UVICORN_PORT", "8001")][..], &["a"][..], true),
        (&[("UVICORN_FACTORY", "1")], &["a:make"], true),
        (&[("UVICORN_ACCESS_LOG", "false"), ("UVICORN_PORT", "8001")], &["a"], false),
        (&[("UVICORN_PORT", "8001")], &["a", "--no-access-log"], false),
        // Also a flag of gunicorn, which logs no requests by default.
        (&[("UVICORN_WORKERS", "2")], &["a"], false),
        (&[("GRANIAN_PORT", "8001")], &["a"], false),
        // A Kubernetes Service that is called uvicorn.
        (&[("UVICORN_PORT", "tcp://10.0.0.1:80")], &["a"], false),
    ] {
        let found = shell.run_with(variables, args).unwrap();
        assert_eq!(found.config.log.access.is_on(), is_on, "{variables:?}");
    }
}

#[test]
fn variable_calls_the_factory_on_the_command_line() {
    let shell = Shell::new();
    for variable in ["UVICORN_FACTORY", "GRANIAN_FACTORY"] {
        for (value, app, target) in
            [("1", "a:make", "a:make()"), ("1", "a:make()", "a:make()"), ("false", "a:app", "a:app")]
        {
            let found = shell.run_with(&[(variable, value)], &[app]).unwrap();
            assert_eq!(found.config.app.target.to_string(), target, "{variable}={value}");
            assert!(found.warnings.is_empty(), "{:?}", found.warnings);
        }
    }
}
