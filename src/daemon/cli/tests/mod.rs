//! Command lines, as typed, and what becomes of them.

use std::num::NonZeroU64;
use std::time::Duration;

use super::*;
use crate::config::testing::TestDir;
use crate::config::{Count, Interface, Level, PythonSource};

mod guides;
mod reload;
mod uvicorn;

/// A current directory with an interpreter in it, and no /etc/rgun/rgun.toml but the one a test writes.
struct Shell {
    place: TestDir,
}

impl Shell {
    fn new() -> Self {
        let place = TestDir::new();
        place.python(".venv/bin/python");
        Self { place }
    }

    fn command(&self, variables: &[(&str, &str)], args: &[&str]) -> Result<Command, Failure> {
        let environment = variables.iter().copied().collect();
        let args = std::iter::once("rgun").chain(args.iter().copied());
        parse_with(args, &environment, self.place.path(), &self.place.join("etc/rgun.toml"))
    }

    fn run_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Result<Invocation, Failure> {
        match self.command(variables, args)? {
            Command::Serve(invocation) | Command::Check(invocation, _) => Ok(*invocation),
            Command::Reload { .. } => panic!("{args:?} is a reload"),
        }
    }

    /// The command that a sound line is.
    fn kind(&self, line: &str) -> &'static str {
        match self.command(&[], &line.split_whitespace().collect::<Vec<_>>()) {
            Ok(Command::Serve(_)) => "serve",
            Ok(Command::Check(..)) => "check",
            Ok(Command::Reload { .. }) => "reload",
            Err(failure) => panic!("{line}: {failure}"),
        }
    }

    fn run(&self, line: &str) -> Result<Invocation, Failure> {
        self.run_with(&[], &line.split_whitespace().collect::<Vec<_>>())
    }

    /// The invocation of a line that is sound and gives no cause for a warning.
    fn sound(&self, line: &str) -> Invocation {
        let invocation = self.run(line).unwrap_or_else(|failure| panic!("{line}: {failure}"));
        assert_eq!(invocation.warnings, [""; 0], "{line}");
        invocation
    }

    /// The text of a usage error.
    fn refused(&self, line: &str) -> String {
        let failure = self.run(line).expect_err(line);
        assert_eq!((failure.status, failure.stdout), (EX_USAGE, false), "{line}: {failure}");
        assert!(failure.text.ends_with('\n') && !failure.text.ends_with("\n\n"), "{:?}", failure.text);
        failure.text
    }

    fn default_file(&self, text: &str) {
        let text = text.replace("{here}", &self.place.path().display().to_string());
        self.place.file("etc/rgun.toml", text.as_bytes(), 0o644);
    }
}

const SITE: &str = "[app]\ntarget = \"fromfile\"\ndirectory = \"{here}\"\n";

#[test]
fn an_application_is_all_it_takes() {
    let shell = Shell::new();
    let Invocation { config, .. } = shell.sound("mysite.wsgi");
    assert_eq!(shell.kind("mysite.wsgi"), "serve");
    assert_eq!(config.app.target.to_string(), "mysite.wsgi:application");
    assert_eq!(config.app.directory, shell.place.path());
    assert_eq!(config.app.python.path, shell.place.join(".venv/bin/python"));
    assert_eq!(config.app.python.source, PythonSource::DotVenv);
    assert_eq!((config.workers.count, config.origin), (Count::Auto, None));
}

#[test]
fn gunicorns_command_line_works_as_it_is() {
    let shell = Shell::new();
    shell.place.python("app/py/bin/python");
    let config = shell
        .sound(
            "mysite.wsgi --bind 127.0.0.1:8001 --workers 9 --threads 3 --timeout 120 --graceful-timeout 20 \
             --keep-alive 5 --chdir app --env K=V --env L=a=b --pythonpath lib,/opt/lib --python py/bin/python \
             --interface wsgi --root-path /shop --log-level warning --access-logfile - \
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
    assert_eq!((config.log.level, config.log.access), (Level::Warn, true));
    let limits = config.limits;
    assert_eq!((limits.request_line, limits.headers), (4094, 50));
    let workers = config.workers;
    assert!(workers.preload);
    assert_eq!((workers.max_requests, workers.max_requests_jitter), (NonZeroU64::new(1000), 50));
}

#[test]
fn the_size_of_header_fields_is_taken_with_a_warning_that_it_means_all_of_them() {
    let invocation = Shell::new().run("a --limit-request-field_size 8190").unwrap();
    assert_eq!(invocation.config.limits.header, 8190);
    assert!(invocation.warnings[0].contains("together, not each one"), "{:?}", invocation.warnings);
}

#[test]
fn short_forms_and_equals_signs_mean_the_same() {
    let shell = Shell::new();
    let long = shell.sound(
        "a.b --bind :80 --bind [::1]:80 --workers 2 --timeout 60 --worker-class gthread --env A=1 --env B=2",
    );
    for line in [
        "-b :80 -b [::1]:80 -w 2 -t 60 -k gthread -e A=1 -e B=2 a.b",
        "-b:80 -b[::1]:80 -w2 -t60 -kgthread -eA=1 -eB=2 a.b",
        "a.b --bind=:80 --bind=[::1]:80 -w=2 --timeout=60 --worker-class=gthread --env=A=1 --env=B=2",
        "-w 7 -b :80 -b [::1]:80 -w 2 -t 60s -k sync --interface wsgi -e A=1 -e B=2 -- a.b",
    ] {
        assert_eq!(shell.sound(line).config, long.config, "{line}");
    }
    assert_eq!(long.config.listen.bind.len(), 2);
    assert_eq!(long.config.app.env.len(), 2);
}

#[test]
fn times_are_gunicorns_seconds_or_have_a_unit() {
    let shell = Shell::new();
    for (flag, expected) in [
        ("-t 30", Some(Duration::from_secs(30))),
        ("-t 500ms", Some(Duration::from_millis(500))),
        ("-t 2m", Some(Duration::from_mins(2))),
        ("-t 0", None),
        ("-t 00", None),
        ("-t off", None),
    ] {
        assert_eq!(shell.sound(&format!("a {flag}")).config.timeouts.request, expected, "{flag}");
    }
    let timeouts = shell.sound("a --keep-alive 0 --graceful-timeout 0").config.timeouts;
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
fn levels_are_gunicorns() {
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
        assert_eq!(shell.sound(&format!("a --log-level {typed}")).config.log.level, level, "{typed}");
    }
    assert!(shell.refused("a --log-level loud").contains("--log-level: log.level = \"loud\": is not one of"));
}

#[test]
fn worker_classes_become_interfaces() {
    let shell = Shell::new();
    for (class, interface) in [
        ("sync", Interface::Wsgi),
        ("gthread", Interface::Wsgi),
        ("asgi", Interface::Asgi),
        ("uvicorn.workers.UvicornWorker", Interface::Asgi),
        ("uvicorn_worker.UvicornWorker", Interface::Asgi),
    ] {
        assert_eq!(shell.sound(&format!("a -k {class}")).config.app.interface, interface, "{class}");
    }
    for (class, remedy) in [
        ("gevent", "--threads 8"),
        ("eventlet", "--threads 8"),
        ("tornado", "HTTPServer"),
        ("my.Worker", "--interface"),
    ] {
        let text = shell.refused(&format!("a -k {class}"));
        assert!(
            text.starts_with(&format!("--worker-class {class}: rgun has no such worker\n    hint: ")),
            "{text}"
        );
        assert!(text.contains(remedy), "{text}");
    }
    let text = shell.refused("a -k gthread --interface asgi");
    assert!(text.contains("--interface asgi: contradicts --worker-class gthread, which is wsgi"), "{text}");
}

#[test]
fn flags_that_something_else_does_now_are_accepted_with_one_warning_each() {
    let shell = Shell::new();
    for (flag, now) in [
        ("--pid /run/x.pid", "MainPID"),
        ("-p /run/x.pid", "MainPID"),
        ("--backlog 2048", "Backlog="),
        ("--worker-tmp-dir /dev/shm", "shared memory"),
        ("--log-file /var/log/x", "journal"),
        ("--error-logfile=/var/log/x", "journal"),
        ("--capture-output", "prints"),
        ("-R", "prints"),
        ("--reuse-port", "one queue"),
        ("--no-sendfile", "sent by the daemon"),
        ("--worker-connections 1000", "workers.concurrency"),
        ("-n shop", "unit's name"),
        ("--initgroups", "User="),
        ("--log-syslog", "ForwardToSyslog="),
        ("--http-parser python", "hyper"),
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
fn values_that_ask_for_what_happens_anyway_pass_in_silence() {
    let shell = Shell::new();
    for flag in [
        "--log-file -",
        "--error-logfile=-",
        "--http-protocols h1",
        "--proxy-protocol off",
        "--proxy-protocol=off",
        "--asgi-loop auto",
        "--ws auto",
    ] {
        shell.sound(&format!("{flag} a"));
    }
}

#[test]
fn flags_whose_loss_would_hurt_are_refused_with_the_line_to_write() {
    let shell = Shell::new();
    for (flag, typed, remedy) in [
        ("--daemon", "--daemon", "Type=notify"),
        ("-D", "--daemon", "systemctl enable"),
        ("--user www-data", "--user www-data", "User=www-data"),
        ("-u www-data", "--user www-data", "User=www-data"),
        ("-g www-data", "--group www-data", "Group=www-data"),
        ("-m 0027", "--umask 0027", "UMask=0027"),
        ("--keyfile k.pem", "--keyfile k.pem", "proxy"),
        ("--certfile c.pem", "--certfile c.pem", "proxy"),
        ("--access-logfile /var/log/x", "--access-logfile /var/log/x", "journalctl"),
        ("--config gunicorn.conf.py", "--config gunicorn.conf.py", "TOML"),
        ("-c python:conf", "--config python:conf", "TOML"),
        ("--paste x.ini", "--paste x.ini", "loadapp"),
        ("--logger-class x.Y", "--logger-class x.Y", "logging"),
        ("--strip-header-spaces", "--strip-header-spaces", "smuggled"),
    ] {
        let text = shell.refused(&format!("a {flag}"));
        assert!(text.starts_with(&format!("{typed}: ")), "{flag}: {text}");
        assert!(text.split_once("hint: ").unwrap_or_else(|| panic!("{text}")).0.contains('\n'), "{text}");
        assert!(text.contains(remedy), "{flag}: {text}");
    }
}

#[test]
fn flags_this_version_does_not_have_say_so() {
    let shell = Shell::new();
    for flag in [
        "--reload",
        "--print-config",
        "--access-logformat %s",
        "--statsd-host localhost:8125",
        "--proxy-protocol",
        "--proxy-protocol v2",
        "--asgi-loop uvloop",
        "--http-protocols h1,h2",
        "--log-config x.ini",
        "--forwarder-headers X-USER",
    ] {
        let text = shell.refused(&format!("a {flag}"));
        assert!(text.contains("is not in this version of rgun yet"), "{flag}: {text}");
    }
    assert!(shell.refused("a --reload").contains("systemctl reload rgun"));
    let text = shell.refused("a --reload --daemon -k gevent --access-logfile x");
    assert_eq!(text.lines().filter(|line| line.starts_with("--")).count(), 4, "{text}");
}

#[test]
fn an_unknown_flag_is_a_usage_error_with_a_suggestion() {
    let shell = Shell::new();
    let text = shell.refused("a --wrokers 3");
    assert!(text.contains("--wrokers") && text.contains("--workers"), "{text}");
    assert!(shell.refused("a b").contains("'b'"));
    assert!(shell.refused("a --workers").contains("a value is required"));
}

#[test]
fn wrong_values_of_flags_are_usage_errors_that_name_the_flag() {
    let shell = Shell::new();
    for (line, text) in [
        ("my-site.wsgi", "APP: app.target = \"my-site.wsgi\": \"my-site.wsgi\" cannot be a module's name"),
        ("mysite/wsgi.py", "APP: app.target = \"mysite/wsgi.py\": is a file's path"),
        ("a:b:c", "APP: app.target = \"a:b:c\": has more than one \":\""),
        ("a:make(1)", "APP: app.target = \"a:make(1)\": calls the factory with arguments"),
        ("a -w 0", "--workers: workers.count = \"0\": is out of bounds"),
        ("a -w -1", "--workers: workers.count = \"-1\": is negative"),
        ("a -w many", "--workers: workers.count = \"many\": is not a whole number"),
        ("a -w +2", "--workers: workers.count = \"+2\": is not a whole number"),
        ("a -w 9-1", "--workers: workers.count = \"9-1\": its min, 9, is more than its max, 1"),
        ("a -w 0-3", "--workers: workers.count = \"0-3\": its min, \"0\", is out of bounds"),
        ("a -w 1-", "--workers: workers.count = \"1-\": is not a whole number"),
        ("a --max-requests -1", "--max-requests: workers.max_requests = \"-1\": is negative"),
        ("a --max-requests many", "--max-requests: workers.max_requests = \"many\": is not a whole number"),
        (
            "a --max-requests-jitter 50",
            "--max-requests-jitter: workers.max_requests_jitter = \"50\": is added to workers.max_requests, which is not set",
        ),
        ("a --threads 0", "--threads: workers.threads = \"0\": is out of bounds"),
        ("a --bind my/host", "--bind: listen.bind = [\"my/host\"]: \"my/host\" \"my/host\" is not a host"),
        (
            "a --forwarded-allow-ips proxy",
            "--forwarded-allow-ips: proxy.trusted = [\"proxy\", \"unix\"]: \"proxy\" is neither an address nor a network",
        ),
        ("a --header-map yes", "--header-map: http.underscores = \"yes\": is not one of the choices"),
        ("a --chdir missing", "--chdir: app.directory = \"missing\": does not exist"),
        ("a --python /no/such/python", "--python: app.python = \"/no/such/python\": there is no file"),
        ("a --env DEBUG", "--env: app.env: \"DEBUG\" has no \"=\""),
        ("a --interface cgi", "--interface: app.interface = \"cgi\": is not one of the choices"),
        ("a --limit-request-fields 0", "--limit-request-fields: limits.headers = \"0\": is out of bounds"),
        ("a --limit-request-line 0", "--limit-request-line: limits.request_line = \"0\": is no size at all"),
    ] {
        assert!(shell.refused(line).starts_with(text), "{line}: {}", shell.refused(line));
    }
    assert_eq!(shell.sound("a -w auto").config.workers.count, Count::Auto);
    let (min, max) = shell.sound("a -w 1-9").config.workers.count.bounds(1);
    assert_eq!((min.get(), max.get()), (1, 9));
}

#[test]
fn requests_of_a_worker_are_without_limit_at_zero_as_in_gunicorn() {
    let shell = Shell::new();
    for line in
        ["a", "a --max-requests 0", "a --max-requests 0 --max-requests-jitter 0", "a --max-requests off"]
    {
        let workers = shell.sound(line).config.workers;
        assert_eq!((workers.max_requests, workers.max_requests_jitter), (None, 0), "{line}");
    }
    shell.default_file(&format!("{SITE}[workers]\nmax_requests = 1000\npreload = true\n"));
    let workers = shell.sound("--max-requests 0").config.workers;
    assert_eq!((workers.max_requests, workers.preload), (None, true));
    let off = shell.run_with(&[("RGUN_WORKERS_PRELOAD", "no")], &["--max-requests-jitter", "7"]).unwrap();
    let workers = off.config.workers;
    assert_eq!(workers.max_requests, NonZeroU64::new(1000));
    assert_eq!((workers.max_requests_jitter, workers.preload), (7, false));
}

#[test]
fn without_an_application_the_default_file_is_read() {
    let shell = Shell::new();
    shell.default_file(SITE);
    let config = shell.sound("--workers 2").config;
    assert_eq!(config.app.target.to_string(), "fromfile:application");
    assert_eq!(config.origin, Some(shell.place.join("etc/rgun.toml")));
    assert_eq!(config.workers.count.resolve(1).get(), 2);
    let config = shell.sound("typed").config;
    assert_eq!((config.app.target.to_string().as_str(), config.origin), ("typed:application", None));
}

#[test]
fn with_nothing_at_all_the_shortest_example_is_shown() {
    let shell = Shell::new();
    for line in ["", "check", "--workers 2"] {
        let text = shell.refused(line);
        assert!(text.contains("no application given, and there is no "), "{text}");
        assert!(text.contains("rgun mysite.wsgi --chdir /srv/mysite"), "{text}");
        assert!(text.contains("target = \"mysite.wsgi\""), "{text}");
    }
}

#[test]
fn a_target_in_the_environment_needs_no_file() {
    let shell = Shell::new();
    let invocation = shell.run_with(&[("RGUN_APP_TARGET", "container:app")], &[]).unwrap();
    assert_eq!(invocation.config.app.target.to_string(), "container:app");
    assert_eq!(invocation.config.origin, None);
}

#[test]
fn a_file_that_was_named_is_read_and_the_command_line_wins_over_it() {
    let shell = Shell::new();
    let text = SITE.replace("{here}", &shell.place.path().display().to_string()) + "[workers]\ncount = 3\n";
    let path = shell.place.file("my.toml", text.as_bytes(), 0o644);
    let full = path.display().to_string();
    for (variables, args) in [
        (vec![], vec!["--config", "my.toml"]),
        (vec![], vec!["-c", full.as_str()]),
        (vec![], vec!["--config=my.toml", "typed"]),
        (vec![("RGUN_CONFIG", full.as_str())], vec![]),
        (vec![("RGUN_CONFIG", "/no/such/file")], vec!["-c", "my.toml"]),
    ] {
        let config = shell.run_with(&variables, &args).unwrap().config;
        assert_eq!(config.origin.as_deref(), Some(path.as_path()), "{args:?}");
        assert_eq!(config.workers.count.resolve(1).get(), 3);
        let target = if args.contains(&"typed") { "typed:application" } else { "fromfile:application" };
        assert_eq!(config.app.target.to_string(), target);
    }
}

#[test]
fn a_wrong_file_is_a_configuration_error() {
    let shell = Shell::new();
    let failure = shell.run("-c missing.toml").unwrap_err();
    assert_eq!((failure.status, failure.stdout), (EX_CONFIG, false));
    assert!(failure.text.contains("missing.toml: cannot be read: No such file"), "{failure}");
    shell.default_file(&format!("{SITE}[workers]\ncuont = 1\n"));
    let failure = shell.run("-w 0").unwrap_err();
    assert_eq!(failure.status, EX_CONFIG);
    assert!(failure.text.contains("rgun.toml:5: workers.cuont = 1: is not a key"), "{failure}");
    assert!(failure.text.contains("--workers: workers.count = \"0\""), "all at once: {failure}");
    let failure = Shell::new().run_with(&[("WEB_CONCURRENCY", "x")], &["a"]).unwrap_err();
    assert_eq!(failure.status, EX_CONFIG);
    assert!(failure.text.starts_with("WEB_CONCURRENCY: workers.count = \"x\": "), "{failure}");
}

#[test]
fn no_interpreter_is_a_configuration_error() {
    let shell = Shell { place: TestDir::new() };
    let failure = shell.run("a").unwrap_err();
    assert_eq!(failure.status, EX_CONFIG);
    assert!(failure.text.starts_with("rgun: app.python: no interpreter found: "), "{failure}");
}

#[test]
fn check_takes_the_same_flags() {
    let shell = Shell::new();
    for line in ["check a -w 3 --chdir .", "a -w 3 --chdir . --check-config"] {
        let invocation = shell.sound(line);
        assert_eq!(shell.kind(line), "check", "{line}");
        assert_eq!(invocation.config.workers.count.resolve(1).get(), 3);
    }
    assert!(shell.refused("check a --daemon").contains("--daemon: rgun does not put itself"));
    assert_eq!(shell.run("check a --backlog 5").unwrap().warnings.len(), 1);
    assert!(shell.refused("--workers 2 check").contains("\"check\" stands first"));
    assert!(shell.refused("check check").contains("\"check\" stands first"));
    assert_eq!(shell.kind("check:application"), "serve", "a module may be called check");
}

#[test]
fn check_is_told_as_whom() {
    let shell = Shell::new();
    for (line, user, unit) in [
        ("check a", None, None),
        ("check --user shop a", Some("shop"), None),
        ("check -u shop --unit rgun@shop", Some("shop"), Some("rgun@shop")),
        ("a --check-config", None, None),
    ] {
        shell.default_file(SITE);
        let Ok(Command::Check(_, wanted)) = shell.command(&[], &line.split(' ').collect::<Vec<_>>()) else {
            panic!("{line}")
        };
        assert_eq!((wanted.user.as_deref(), wanted.unit.as_deref()), (user, unit), "{line}");
    }
    assert!(shell.refused("a --user shop").contains("User=shop"), "of a start it is the unit's");
    assert!(shell.refused("check a --group shop").contains("Group=shop"));
}

#[test]
fn gunicorns_own_variable_is_warned_about() {
    let invocation = Shell::new().run_with(&[("GUNICORN_CMD_ARGS", "--workers 3")], &["a"]).unwrap();
    assert!(invocation.warnings[0].starts_with("GUNICORN_CMD_ARGS: ignored"), "{:?}", invocation.warnings);
    assert_eq!(invocation.config.workers.count, Count::Auto);
}

#[test]
fn a_virtual_environment_that_is_gone_is_warned_about() {
    let invocation = Shell::new().run_with(&[("VIRTUAL_ENV", "/no/such/venv")], &["a"]).unwrap();
    assert!(invocation.warnings[0].contains("no /no/such/venv/bin/python"), "{:?}", invocation.warnings);
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    let shell = Shell::new();
    for line in ["--help", "-h", "check --help", "reload --help", "--version", "-v", "-V"] {
        let failure = shell.run(line).unwrap_err();
        assert_eq!((failure.status, failure.stdout), (0, true), "{line}");
        assert!(failure.text.ends_with('\n'), "{line}");
    }
    assert_eq!(shell.run("-v").unwrap_err().text, concat!("rgun ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = shell.run("--help").unwrap_err().text;
    for word in [
        "--bind",
        "--workers",
        "check",
        "reload",
        "--preload",
        "--max-requests",
        "Examples:",
        "/etc/rgun/rgun.toml",
        "RGUN_<SECTION>_<KEY>",
        "64",
        "69",
        "78",
    ] {
        assert!(help.contains(word), "{word}\n{help}");
    }
    assert!(!help.contains("--reload"), "what rgun does not do is not advertised\n{help}");
    assert!(!help.contains("--daemon"), "what rgun does not do is not advertised\n{help}");
}

#[test]
fn arguments_that_are_not_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = OsString::from_vec(vec![b'a', 0xff]);
    let failure = parse_with(
        [OsString::from("rgun"), bytes],
        &Environment::default(),
        Path::new("/"),
        Path::new("/no/such/file"),
    )
    .unwrap_err();
    assert_eq!(failure.status, EX_USAGE);
    assert!(failure.text.contains("UTF-8"), "{failure}");
}

#[test]
fn the_commands_definition_is_sound() {
    compat::add_flags(Cli::command()).debug_assert();
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

/// The long names of all flags, hidden or not.
fn known_flags() -> Vec<String> {
    let command = compat::add_flags(Cli::command());
    let mut known = Vec::new();
    for arg in command.get_arguments() {
        known.extend(arg.get_long_and_visible_aliases().unwrap_or_default());
        known.extend(arg.get_all_aliases().unwrap_or_default());
    }
    known.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_manual_has_every_flag_and_command_of_the_help() {
    let manual = include_str!("../../../../packaging/man/rgun.8");
    let command = Cli::command();
    let reload = command.find_subcommand("reload").unwrap();
    for arg in command.get_arguments().chain(reload.get_arguments()).filter(|arg| !arg.is_hide_set()) {
        if let Some(long) = arg.get_long() {
            let item = |line: &str| line.starts_with(".It Fl ") && line.split(' ').any(|word| word == long);
            assert!(manual.lines().any(item), "--{long}");
        }
    }
    for sub in command.get_subcommands() {
        assert!(manual.contains(&format!(".Cm {}\n", sub.get_name())), "{}", sub.get_name());
    }
}
