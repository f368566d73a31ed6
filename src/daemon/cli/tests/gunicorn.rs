//! Command lines written for gunicorn.

use super::*;

#[test]
fn gunicorn_command_line_is_accepted_unchanged() {
    let shell = Shell::new();
    shell.place.python("app/py/bin/python");
    let config = shell
        .accepted(
            "mysite.wsgi --bind 127.0.0.1:8001 --workers 9 --threads 3 --timeout 120 --graceful-timeout 20 \
             --keep-alive 5 --chdir app --env K=V --env L=a=b --pythonpath lib,/opt/lib --python py/bin/python \
             --interface wsgi --root-path /shop --log-level warning --access-logfile - --access-logformat %(s)s \
             --limit-request-line 4094 --limit-request-fields 50 --preload --max-requests 1000 \
             --max-requests-jitter 50",
        )
        .config;
    let app = shell.place.join("app");
    assert_eq!(config.listen.bind, ["127.0.0.1:8001".parse().unwrap()]);
    assert!(config.listen.explicit);
    assert_eq!(config.workers.count.resolve(1).get(), 9);
    assert_eq!(config.workers.threads.get(), 3);
    assert_eq!(config.timeouts.request, Some(Duration::from_mins(2)));
    assert_eq!(config.timeouts.drain, Duration::from_secs(20));
    assert_eq!(config.timeouts.keepalive, Duration::from_secs(5));
    assert_eq!(config.app.directory, app);
    assert_eq!(config.app.env, [("K".into(), "V".into()), ("L".into(), "a=b".into())]);
    assert_eq!(config.app.pythonpath, [app.join("lib"), PathBuf::from("/opt/lib")]);
    assert_eq!(config.app.python.path, app.join("py/bin/python"));
    assert_eq!(config.app.interface, Interface::Wsgi);
    assert_eq!(config.app.root_path, "/shop");
    assert_eq!((config.log.level, config.log.access), (Level::Warn, AccessLog::Stdout));
    assert_eq!(config.log.access_format.as_deref(), Some(&access_format("%(s)s")));
    let limits = config.limits;
    assert_eq!((limits.request_line, limits.headers), (4094, 50));
    let workers = config.workers;
    assert_eq!(workers.preload, Preload::Application);
    assert_eq!((workers.max_requests, workers.max_requests_jitter), (NonZeroU64::new(1000), 50));
}

#[test]
fn limit_request_field_size_warns_that_it_limits_the_sum() {
    let invocation = Shell::new().run("a --limit-request-field_size 8190").unwrap();
    assert_eq!(invocation.config.limits.header, 8190);
    assert!(invocation.warnings[0].contains("together, not each one"), "{:?}", invocation.warnings);
}

#[test]
fn short_flags_and_equals_signs_are_equivalent() {
    let shell = Shell::new();
    let long = shell.accepted(
        "a.b --bind :80 --bind [::1]:80 --workers 2 --timeout 60 --worker-class gthread --env A=1 --env B=2",
    );
    for line in [
        "-b :80 -b [::1]:80 -w 2 -t 60 -k gthread -e A=1 -e B=2 a.b",
        "-b:80 -b[::1]:80 -w2 -t60 -kgthread -eA=1 -eB=2 a.b",
        "a.b --bind=:80 --bind=[::1]:80 -w=2 --timeout=60 --worker-class=gthread --env=A=1 --env=B=2",
        "-w 7 -b :80 -b [::1]:80 -w 2 -t 60s -k sync --interface wsgi -e A=1 -e B=2 -- a.b",
    ] {
        assert_eq!(shell.accepted(line).config, long.config, "{line}");
    }
    assert_eq!(long.config.listen.bind.len(), 2);
    assert_eq!(long.config.app.env.len(), 2);
}

#[test]
fn times_are_seconds_or_have_a_unit() {
    let shell = Shell::new();
    for (flag, expected) in [
        ("-t 30", Some(Duration::from_secs(30))),
        ("-t 500ms", Some(Duration::from_millis(500))),
        ("-t 2m", Some(Duration::from_mins(2))),
        ("-t 0", None),
        ("-t 00", None),
        ("-t off", None),
    ] {
        assert_eq!(shell.accepted(&format!("a {flag}")).config.timeouts.request, expected, "{flag}");
    }
    let timeouts = shell.accepted("a --keep-alive 0 --graceful-timeout 0").config.timeouts;
    assert_eq!((timeouts.keepalive, timeouts.drain), (Duration::ZERO, Duration::ZERO));
    let text = shell.refused("a -t soon --keep-alive 5MB --graceful-timeout -1");
    assert_eq!(text.lines().filter(|line| line.starts_with("--")).count(), 3, "{text}");
    assert!(text.contains("--timeout: timeouts.request = \"soon\": is not a duration"), "{text}");
    assert!(
        text.contains("--keep-alive: timeouts.keepalive = \"5MB\": \"MB\" is not a unit of time"),
        "{text}"
    );
    assert!(text.contains("--graceful-timeout: timeouts.drain = \"-1\": is negative"), "{text}");
}

#[test]
fn gunicorns_log_levels_are_accepted() {
    let shell = Shell::new();
    for (typed, level) in [
        ("debug", Level::Debug),
        ("info", Level::Info),
        ("warning", Level::Warn),
        ("warn", Level::Warn),
        ("error", Level::Error),
        ("critical", Level::Error),
        ("INFO", Level::Info),
        ("trace", Level::Trace),
    ] {
        assert_eq!(shell.accepted(&format!("a --log-level {typed}")).config.log.level, level, "{typed}");
    }
    assert!(shell.refused("a --log-level loud").contains("--log-level: log.level = \"loud\": is not one of"));
}

#[test]
fn worker_class_sets_the_interface() {
    let shell = Shell::new();
    for (class, interface) in [
        ("sync", Interface::Wsgi),
        ("gthread", Interface::Wsgi),
        ("asgi", Interface::Asgi),
        ("uvicorn.workers.UvicornWorker", Interface::Asgi),
        ("uvicorn_worker.UvicornWorker", Interface::Asgi),
    ] {
        assert_eq!(shell.accepted(&format!("a -k {class}")).config.app.interface, interface, "{class}");
    }
    let text = shell.refused("a -k tornado");
    assert!(text.starts_with("--worker-class tornado: rgun has no such worker class\n    hint: "), "{text}");
    assert!(text.contains("HTTPServer"), "{text}");
    let text = shell.refused("a -k gthread --interface asgi");
    assert!(text.contains("--interface asgi: contradicts --worker-class gthread, which is wsgi"), "{text}");
}

#[test]
fn unneeded_flags_are_accepted_with_one_warning_each() {
    let shell = Shell::new();
    for (flag, now) in [
        ("--pid /run/x.pid", "MainPID"),
        ("-p /run/x.pid", "MainPID"),
        ("--backlog 2048", "Backlog="),
        ("--worker-tmp-dir /dev/shm", "shared memory"),
        ("--log-file /var/log/x", "journal"),
        ("--statsd-host localhost:8125", "statsd"),
        ("--logger-class x.Y", "logging"),
        ("--error-logfile=/var/log/x", "journal"),
        ("--capture-output", "prints"),
        ("-R", "prints"),
        ("--reuse-port", "one queue"),
        ("--no-sendfile", "the daemon sends"),
        ("--worker-connections 1000", "workers.concurrency"),
        ("-n shop", "unit's name"),
        ("--log-syslog", "ForwardToSyslog="),
        ("--http-parser python", "hyper"),
        ("--http2-cleartext off", "--http-protocols h1"),
        ("--ws websockets-sansio", "itself"),
        ("--ws-max-queue 32", "receives"),
    ] {
        let warnings = shell.run(&format!("a {flag}")).unwrap().warnings;
        let [warning] = warnings.as_slice() else { panic!("{flag}: {warnings:?}") };
        assert!(
            warning.starts_with("--") && warning.contains(": ignored; ") && warning.contains(now),
            "{warning}"
        );
    }
    let both = shell.run("a --backlog 5 --reuse-port --backlog 6").unwrap().warnings;
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both[0].starts_with("--backlog 6: "), "{both:?}");
}

#[test]
fn flags_asking_for_the_default_give_no_warning() {
    let shell = Shell::new();
    for flag in [
        "--log-file -",
        "--error-logfile=-",
        "--http2-cleartext prior-knowledge",
        "--proxy-protocol off",
        "--proxy-protocol=off",
        "--asgi-loop auto",
        "--ws auto",
    ] {
        shell.accepted(&format!("{flag} a"));
    }
}

#[test]
fn flags_unsafe_to_ignore_are_refused_with_a_remedy() {
    let shell = Shell::new();
    for (flag, typed, remedy) in [
        ("--daemon", "--daemon", "Type=notify"),
        ("-D", "--daemon", "systemctl enable"),
        ("-m 0027", "--umask 0027", "UMask=0027"),
        ("-m 18", "--umask 18", "UMask=0022"),
        ("--umask 0o7", "--umask 0o7", "UMask=0007"),
        ("--ciphers HIGH", "--ciphers HIGH", "remove it"),
        ("--paste x.ini", "--paste x.ini", "loadapp"),
        ("--strip-header-spaces", "--strip-header-spaces", "smuggling"),
        ("--http2-cleartext upgrade", "--http2-cleartext upgrade", "prior knowledge"),
    ] {
        let text = shell.refused(&format!("a {flag}"));
        assert!(text.starts_with(&format!("{typed}: ")), "{flag}: {text}");
        assert!(text.split_once("hint: ").unwrap_or_else(|| panic!("{text}")).0.contains('\n'), "{text}");
        assert!(text.contains(remedy), "{flag}: {text}");
    }
}

#[test]
fn unsupported_flags_are_refused_as_not_in_this_version() {
    let shell = Shell::new();
    for flag in ["--print-config", "--asgi-loop uvloop", "--forwarder-headers X-USER"] {
        let text = shell.refused(&format!("a {flag}"));
        assert!(text.contains("is not in this version of rgun yet"), "{flag}: {text}");
    }
    let text = shell.refused("a --print-config --daemon -k tornado --paste x");
    assert_eq!(text.lines().filter(|line| line.starts_with("--")).count(), 4, "{text}");
}

#[test]
fn threads_replace_greenlets_and_unknown_workers() {
    let shell = Shell::new();
    for (class, interface) in [
        ("gevent", Interface::Wsgi),
        ("gunicorn.workers.ggevent.GeventWorker", Interface::Wsgi),
        ("eventlet", Interface::Wsgi),
        ("my.Worker", Interface::Auto),
    ] {
        let Invocation { config, warnings, .. } = shell.run(&format!("a -k {class}")).unwrap();
        assert_eq!((config.workers.threads.get(), config.app.interface), (8, interface), "{class}");
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        let start = format!(
            "--worker-class {class}: rgun has no such worker; a WSGI application is served by 8 threads"
        );
        assert!(warning.starts_with(&start), "{warning}");
        let more = shell.run(&format!("a -k {class} --threads 20")).unwrap();
        assert_eq!(more.config.workers.threads.get(), 20, "{class}");
    }
    assert!(shell.run("a -k my.Worker --interface asgi").is_ok());
}

#[test]
fn limit_of_zero_becomes_the_maximum_with_a_warning() {
    let line = "a --limit-request-line 0 --limit-request-fields 0 --limit-request-field_size 0";
    let Invocation { config, warnings, .. } = Shell::new().run(line).unwrap();
    assert_eq!(
        (config.limits.request_line, config.limits.headers, config.limits.header),
        (65536, 1000, 65536)
    );
    for flag in ["--limit-request-line", "--limit-request-fields", "--limit-request-field_size"] {
        assert!(warnings.iter().any(|warning| warning.starts_with(&format!("{flag} 0: "))), "{warnings:?}");
    }
}

#[test]
fn access_log_file_is_replaced_by_the_log_with_a_warning() {
    let shell = Shell::new();
    let Invocation { config, warnings, .. } = shell.run("a --access-logfile /var/log/x").unwrap();
    assert_eq!(config.log.access, AccessLog::Log);
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(
        warning.starts_with("--access-logfile /var/log/x: requests are logged, but not to this file"),
        "{warning}"
    );
    for (file, access) in [
        ("-", AccessLog::Stdout),
        ("/dev/stdout", AccessLog::Stdout),
        ("/dev/stderr", AccessLog::Log),
        ("/dev/null", AccessLog::Off),
    ] {
        assert_eq!(shell.accepted(&format!("a --access-logfile {file}")).config.log.access, access, "{file}");
    }
}

#[test]
fn proxy_protocol_flags_set_listener_and_senders() {
    let shell = Shell::new();
    for (line, required) in [
        ("a", false),
        ("a --proxy-protocol", true),
        ("a --proxy-protocol auto", true),
        ("--proxy-protocol=v1 a", true),
        ("--proxy-protocol v2 a", true),
        ("--proxy-protocol off a", false),
    ] {
        assert_eq!(shell.accepted(line).config.listen.proxy_protocol, required, "{line}");
    }
    let text = shell.refused("--proxy-protocol app:application");
    assert!(text.contains("--proxy-protocol=auto"), "{text}");
    let proxy = shell.accepted("a --proxy-protocol --proxy-allow-from 10.0.0.1").config.proxy;
    assert_eq!(proxy.protocol_trusted.networks, ["10.0.0.1/32".parse().unwrap()]);
    assert!(proxy.protocol_trusted.unix && proxy.trusted == config::TrustedProxies::default());
    let proxy = shell.accepted("a --forwarded-allow-ips 10.0.0.2").config.proxy;
    assert_eq!(proxy.protocol_trusted, proxy.trusted);
}

#[test]
fn max_requests_of_zero_means_no_limit() {
    let shell = Shell::new();
    for line in
        ["a", "a --max-requests 0", "a --max-requests 0 --max-requests-jitter 0", "a --max-requests off"]
    {
        let workers = shell.accepted(line).config.workers;
        assert_eq!((workers.max_requests, workers.max_requests_jitter), (None, 0), "{line}");
    }
    shell.default_file(&format!("{SITE}[workers]\nmax_requests = 1000\npreload = true\n"));
    let workers = shell.accepted("--max-requests 0").config.workers;
    assert_eq!((workers.max_requests, workers.preload), (None, Preload::Application));
    let off = shell.run_with(&[("RGUN_WORKERS_PRELOAD", "no")], &["--max-requests-jitter", "7"]).unwrap();
    let workers = off.config.workers;
    assert_eq!(workers.max_requests, NonZeroU64::new(1000));
    assert_eq!((workers.max_requests_jitter, workers.preload), (7, Preload::Off));
}

#[test]
fn command_line_overrides_gunicorn_cmd_args() {
    let shell = Shell::new();
    let run = |flags: &str, line: &[&str]| shell.run_with(&[("GUNICORN_CMD_ARGS", flags)], line);
    let config =
        run("--workers 3 --threads=2 -b '0.0.0.0:80' ignored:app", &["a", "-w", "4"]).unwrap().config;
    assert_eq!((config.workers.count.resolve(1).get(), config.workers.threads.get()), (4, 2));
    assert_eq!(config.app.target.to_string(), "a:application");
    let warnings = run("--pid /run/a.pid", &["a"]).unwrap().warnings;
    assert!(warnings[0].starts_with("GUNICORN_CMD_ARGS: --pid /run/a.pid: ignored; systemd"), "{warnings:?}");
}

#[test]
fn wrong_gunicorn_cmd_args_are_errors_with_their_place() {
    for (flags, text) in [
        ("--workers many", "GUNICORN_CMD_ARGS: --workers: workers.count = \"many\": is not a whole number"),
        ("--user a:b", "GUNICORN_CMD_ARGS: --user: workers.user = \"a:b\": cannot be a name or a number"),
        ("--wrokers 3", "GUNICORN_CMD_ARGS: unexpected argument '--wrokers' found"),
        ("--name 'a", "GUNICORN_CMD_ARGS: cannot be split into flags"),
    ] {
        let failure = Shell::new().run_with(&[("GUNICORN_CMD_ARGS", flags)], &["a"]).unwrap_err();
        assert!(failure.text.starts_with(text), "{flags}: {failure}");
        assert_eq!(failure.status, EX_CONFIG, "{flags}");
    }
}

/// The flags of gunicorn 27.0.1, from the add_setting table of its `config.py`.
const GUNICORN_FLAGS: &str = "access-logfile access-logformat asgi-disconnect-grace-period asgi-lifespan asgi-loop \
    backlog bind ca-certs capture-output casefold-http-method cert-reqs certfile chdir check-config ciphers config \
    control-socket control-socket-mode daemon dirty-app dirty-graceful-timeout dirty-threads dirty-timeout \
    dirty-workers disable-redirect-access-to-syslog do-handshake-on-connect dogstatsd-tags enable-backlog-metric \
    enable-stdio-inheritance env error-logfile forwarded-allow-ips forwarder-headers graceful-timeout group \
    header-map http-parser http-protocols http2-cleartext http2-initial-window-size http2-max-concurrent-streams \
    http2-max-frame-size http2-max-header-list-size initgroups keep-alive keyfile limit-request-field_size \
    limit-request-fields limit-request-line log-config log-config-json log-file log-level log-syslog \
    log-syslog-facility log-syslog-prefix log-syslog-to logger-class max-requests max-requests-jitter name \
    no-control-socket no-sendfile paste paste-global paster permit-obsolete-folding \
    permit-unconventional-http-method permit-unconventional-http-version pid preload print-config protocol \
    proxy-allow-from proxy-protocol pythonpath reload reload-engine reload-extra-file reuse-port root-path spew \
    ssl-version statsd-host statsd-prefix strip-header-spaces suppress-ragged-eofs threads timeout umask user \
    uwsgi-allow-from version websocket-max-message-size worker-class worker-connections worker-tmp-dir workers";

#[test]
fn every_flag_of_gunicorn_is_known() {
    let known = known_flags();
    for flag in GUNICORN_FLAGS.split_whitespace() {
        assert!(known.iter().any(|name| name == flag), "--{flag}");
    }
}

#[test]
fn nearest_name_is_suggested_for_a_misspelled_worker_class() {
    let shell = Shell::new();
    for (typed, meant) in [
        ("gevnt", "gevent"),
        ("gthreads", "gthread"),
        ("Sync", "sync"),
        ("uvicorn.workers.UvicornWorkers", "uvicorn.workers.UvicornWorker"),
    ] {
        let text = shell.refused(&format!("a -k {typed}"));
        let start =
            format!("--worker-class {typed}: rgun has no such worker class\n    hint: did you mean {meant}?");
        assert!(text.starts_with(&start), "{text}");
    }
}

#[test]
fn access_format_without_atoms_is_a_warning() {
    let shell = Shell::new();
    let warnings = |line: &str| shell.run(line).unwrap().warnings;
    let expected = "--access-logformat: \"combined\" has no atom such as %(r)s, so each line of the access log is this \
                    text; gunicorn's line is '%(h)s %(l)s %(u)s %(t)s \"%(r)s\" %(s)s %(b)s \"%(f)s\" \"%(a)s\"'";
    assert_eq!(warnings("a --access-logfile - --access-logformat combined"), [expected]);
    assert!(warnings("a --access-logfile - --access-logformat %(h)s").is_empty());
}
