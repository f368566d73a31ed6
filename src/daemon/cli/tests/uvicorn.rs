//! Command lines written for uvicorn.

use super::super::compat::uvicorn::OPTIONS;
use super::*;
use crate::config::ClientAuth;

impl Shell {
    /// Returns the addresses that a valid line listens on.
    fn addresses(&self, line: &str) -> Vec<String> {
        let listen = self.accepted(line).config.listen;
        assert!(listen.explicit, "{line}");
        listen.bind.iter().map(ToString::to_string).collect()
    }

    /// Returns the only warning of a valid line.
    pub(super) fn warned(&self, line: &str) -> String {
        let warnings = self.run(line).unwrap_or_else(|failure| panic!("{line}: {failure}")).warnings;
        let [warning] = warnings.as_slice() else { panic!("{line}: {warnings:?}") };
        warning.clone()
    }
}

#[test]
fn uvicorn_command_line_is_accepted_unchanged() {
    let shell = Shell::new();
    let line = "shop.main:create --factory --app-dir src --host 0.0.0.0 --port 8080 --workers 4 --loop asyncio \
                --http auto --ws auto --lifespan on --interface asgi3 --log-level trace --access-log --root-path /api \
                --limit-concurrency 8192 --limit-max-requests 1000 --limit-max-requests-jitter 50 --timeout-keep-alive 5 \
                --timeout-graceful-shutdown 20 --no-server-header --no-use-colors";
    let config = shell.accepted(line).config;
    assert_eq!(config.app.target.to_string(), "shop.main:create()");
    assert_eq!(config.app.directory, shell.place.path(), "--app-dir changes no directory");
    assert_eq!(config.app.pythonpath, [shell.place.join("src")]);
    assert_eq!(config.listen.bind, ["0.0.0.0:8080".parse().unwrap()]);
    assert_eq!((config.app.interface, config.app.root_path.as_str()), (Interface::Asgi, "/api"));
    assert_eq!((config.log.level, config.log.access), (Level::Trace, AccessLog::Stdout));
    let workers = config.workers;
    assert_eq!(workers.count.resolve(1).get(), 4);
    assert_eq!((workers.max_requests, workers.max_requests_jitter), (NonZeroU64::new(1000), 50));
    assert_eq!(config.limits.queue, Some(8192));
    let timeouts = config.timeouts;
    assert_eq!((timeouts.keepalive, timeouts.drain), (Duration::from_secs(5), Duration::from_secs(20)));
    assert_eq!(shell.kind(&format!("check {line}")), "check");
}

#[test]
fn reload_flags_set_the_watched_files() {
    let shell = Shell::new();
    let line = "a --reload --reload-dir . --reload-include *.css --reload-include b.yaml --reload-exclude tests \
                --reload-delay 0.25 --reload-engine inotify";
    let on_change = shell.accepted(line).config.reload.on_change;
    assert!(on_change.enabled && !on_change.poll);
    assert_eq!(on_change.dirs, [shell.place.path().join(".")]);
    let texts =
        |patterns: &[glob::Pattern]| patterns.iter().map(|it| it.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(texts(&on_change.include), ["*.css", "b.yaml"]);
    assert_eq!(texts(&on_change.exclude), ["tests"]);
    assert_eq!(on_change.delay, Duration::from_millis(250));
    assert_eq!(shell.accepted("a --reload-delay 0").config.reload.on_change.delay, Duration::ZERO);
    assert!(shell.refused("a --reload-engine stat").contains("reload.poll"));
    assert!(!shell.accepted("a").config.reload.on_change.enabled);
}

#[test]
fn host_and_port_are_an_address_with_uvicorns_defaults() {
    let shell = Shell::new();
    for (flags, address) in [
        ("--host 0.0.0.0 --port 80", "0.0.0.0:80"),
        ("--host=0.0.0.0 --port=0", "0.0.0.0:0"),
        ("--host 0.0.0.0", "0.0.0.0:8000"),
        ("--port 8001", "127.0.0.1:8001"),
        ("--port 8001 --host localhost --port 8002", "localhost:8002"),
        ("--host ::", "[::]:8000"),
        ("--host ::1 --port 80", "[::1]:80"),
        ("--host [::1] --port 80", "[::1]:80"),
    ] {
        assert_eq!(shell.addresses(&format!("a {flags}")), [address], "{flags}");
    }
    shell.default_file(&format!("{SITE}[listen]\nbind = \":9\"\n"));
    assert_eq!(shell.addresses("--port 8001"), ["127.0.0.1:8001"], "a flag takes precedence over the file");
}

#[test]
fn uds_flag_takes_a_path() {
    let shell = Shell::new();
    let relative = format!("unix:{}", shell.place.join("x.sock").display());
    for (path, address) in [
        ("/run/x.sock", "unix:/run/x.sock"),
        ("//run/x.sock", "unix:/run/x.sock"),
        ("x.sock", relative.as_str()),
    ] {
        assert_eq!(shell.addresses(&format!("a --uds {path}")), [address], "{path}");
    }
}

#[test]
fn contradictory_addresses_are_refused_with_both_flags() {
    let shell = Shell::new();
    for (flags, typed, other) in [
        ("--host ::1 --bind :80", "--host ::1", "--bind :80"),
        ("--port 80 -b :80 -b :81", "--port 80", "--bind :80 --bind :81"),
        ("--host h --port 80 -b :80", "--host h --port 80", "--bind :80"),
        ("--uds /x -b unix:/x", "--uds /x", "--bind unix:/x"),
        ("--uds /x --port 80", "--uds /x", "--port 80"),
        ("--host h --uds /x --port 80", "--uds /x", "--host h --port 80"),
    ] {
        let text = shell.refused(&format!("a {flags}"));
        assert!(text.starts_with(&format!("{typed}: contradicts {other}\n    hint: ")), "{flags}: {text}");
    }
}

#[test]
fn invalid_address_is_refused_with_the_flags_as_typed() {
    let shell = Shell::new();
    for (flags, starts, has) in [
        ("--port http", "--port: listen.bind = ", "\"http\" is not a port"),
        ("--port -1", "--port: listen.bind = ", "\"-1\" is not a port"),
        ("--port 65536", "--port: listen.bind = ", "\"65536\" is not a port"),
        ("--host 300.1.1.1", "--host: listen.bind = ", "not an IPv4 address"),
        ("--host * --port 80", "--host --port: listen.bind = ", "\"*\" is not an address"),
        ("--host 0.0.0.0:80", "--host 0.0.0.0:80: is not an address", "--host 0.0.0.0 --port 80, or --bind"),
        ("--host http://x", "--host http://x: is not an address", "--host"),
        ("--host :80", "--host :80: is not an address", "0.0.0.0"),
        ("--host=", "--host : is not an address", "--host 0.0.0.0"),
        ("--uds=", "--uds: listen.bind = ", "names no path"),
        ("--uds @x", "--uds: listen.bind = ", "abstract"),
    ] {
        let text = shell.refused(&format!("a {flags}"));
        assert!(text.starts_with(starts) && text.contains(has), "{flags}: {text}");
    }
}

#[test]
fn factory_flag_appends_a_call() {
    let shell = Shell::new();
    for line in ["m:make --factory", "--factory m:make", "m:make()"] {
        assert_eq!(shell.accepted(line).config.app.target.to_string(), "m:make()", "{line}");
    }
    for (line, text) in [
        ("m --factory", "--factory: m names no function to call\n    hint: write m:create_app --factory"),
        ("m: --factory", "--factory: m: names no function to call"),
        ("m:make() --factory", "--factory: m:make() is a call already"),
        ("--factory", "--factory: needs an APP to call"),
        ("m:make( --factory", "APP: app.target = \"m:make(\": has a \"(\""),
        ("m:make(1) --factory", "APP: app.target = \"m:make(1)\": calls the factory with arguments"),
        ("m:my-app --factory", "APP: app.target = \"m:my-app()\": \"my-app\" cannot be"),
    ] {
        let refused = shell.refused(line);
        assert!(refused.starts_with(text), "{line}: {refused}");
    }
}

#[test]
fn app_dir_comes_first_in_pythonpath() {
    let shell = Shell::new();
    let here = |dir: &str| shell.place.join(dir);
    for (flags, dirs) in [
        ("--app-dir src", vec![here("src")]),
        (
            "--pythonpath lib,/opt/lib --app-dir src",
            vec![here("src"), here("lib"), PathBuf::from("/opt/lib")],
        ),
        ("--app-dir=", vec![]),
        ("--app-dir= --pythonpath lib", vec![here("lib")]),
    ] {
        assert_eq!(shell.accepted(&format!("a {flags}")).config.app.pythonpath, dirs, "{flags}");
    }
    let text = shell.refused("a --app-dir a:b");
    assert!(text.starts_with("--app-dir: app.pythonpath"), "{text}");
}

#[test]
fn last_of_two_flags_for_one_setting_wins() {
    let shell = Shell::new();
    for (ours, theirs, key) in [
        ("--max-requests", "--limit-max-requests", "workers.max_requests"),
        ("--max-requests-jitter", "--limit-max-requests-jitter", "workers.max_requests_jitter"),
        ("--keep-alive", "--timeout-keep-alive", "timeouts.keepalive"),
        ("--graceful-timeout", "--timeout-graceful-shutdown", "timeouts.drain"),
    ] {
        for (first, last) in [(ours, theirs), (theirs, ours)] {
            let text = shell.refused(&format!("a --max-requests 9 {first} 5 {last} soon"));
            assert!(text.starts_with(&format!("{last}: {key} = \"soon\": ")), "{first} {last}: {text}");
            shell.accepted(&format!("a --max-requests 9 {first} soon {last} 7"));
        }
    }
    let timeouts = shell.accepted("a --keep-alive 1 --timeout-keep-alive 2").config.timeouts;
    assert_eq!(timeouts.keepalive, Duration::from_secs(2));
    let timeouts = shell.accepted("a --timeout-keep-alive 2 --keep-alive 1").config.timeouts;
    assert_eq!(timeouts.keepalive, Duration::from_secs(1));
}

#[test]
fn access_log_flags_choose_off_log_or_stdout() {
    use AccessLog::{Log, Off, Stdout};
    let shell = Shell::new();
    shell.default_file(&format!("{SITE}[log]\naccess = true\n"));
    for (line, access) in [
        ("a", Off),
        ("a --access-log", Stdout),
        ("a --access-log --access-logfile -", Stdout),
        ("a --access-log --no-access-log", Off),
        ("a --no-access-log --access-log", Stdout),
        // Uvicorn logs requests by default.
        ("a --port 8000", Stdout),
        ("a --uds /run/a.sock --access-logfile /dev/null", Off),
        ("a --app-dir x --no-access-log", Off),
        ("a -k uvicorn.workers.UvicornWorker", Off),
        ("--workers 1", Log),
        ("--port 8000", Log),
        ("--no-access-log", Off),
    ] {
        assert_eq!(shell.accepted(line).config.log.access, access, "{line}");
    }
    let text = shell.refused("a --no-access-log --access-logfile -");
    assert!(text.starts_with("--no-access-log: contradicts --access-logfile -\n    hint: "), "{text}");
    let warnings = shell.run("a --access-log --access-logfile x").unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.starts_with("--access-logfile x: ")), "{warnings:?}");
}

#[test]
fn uvicorns_interfaces_loops_and_levels_are_accepted() {
    let shell = Shell::new();
    for (typed, interface) in [
        ("asgi3", Interface::Asgi),
        ("asgi2", Interface::Asgi),
        ("wsgi", Interface::Wsgi),
        ("auto", Interface::Auto),
    ] {
        assert_eq!(
            shell.accepted(&format!("a --interface {typed}")).config.app.interface,
            interface,
            "{typed}"
        );
    }
    let text = shell.refused("a --interface asgi3 -k gthread");
    assert!(
        text.starts_with("--interface asgi3: contradicts --worker-class gthread, which is wsgi"),
        "{text}"
    );
    shell.accepted("a --interface asgi3 -k uvicorn.workers.UvicornWorker");
    assert!(shell.refused("a --loop zuvloop").contains("did you mean \"uvloop\"?"));
    assert_eq!(shell.accepted("a --log-level critical").config.log.level, Level::Error);
}

#[test]
fn uvicorns_websocket_flags_set_the_websocket_keys() {
    let shell = Shell::new();
    let typed =
        "a --ws-max-size 1048576 --ws-ping-interval 5.0 --ws-ping-timeout 0 --ws-per-message-deflate false";
    let websocket = shell.accepted(typed).config.websocket;
    assert_eq!((websocket.max_message, websocket.compression), (1 << 20, false));
    assert_eq!((websocket.ping_interval, websocket.ping_timeout), (Some(Duration::from_secs(5)), None));
    assert_eq!(
        shell.accepted("a --websocket-max-message-size 512KiB").config.websocket.max_message,
        512 << 10
    );
    for (typed, millis) in [
        ("20.0", Some(20_000)),
        ("0.2", Some(200)),
        ("1.5", Some(1500)),
        (".25", Some(250)),
        ("3.", Some(3000)),
        ("0.00001", Some(1)),
        ("0.1999", Some(200)),
        ("200ms", Some(200)),
        ("0.0", None),
        ("0", None),
    ] {
        let interval =
            shell.accepted(&format!("a --ws-ping-interval {typed}")).config.websocket.ping_interval;
        assert_eq!(interval, millis.map(Duration::from_millis), "{typed}");
    }
    for typed in [".", "1.2.3", "1.5s", "-0.5", "1e3", "99999999999999999999.5", "18446744073709551.6"] {
        let text = shell.refused(&format!("a --ws-ping-timeout {typed}"));
        assert!(text.contains("--ws-ping-timeout: websocket.ping_timeout"), "{typed}: {text}");
    }
    let text = shell.refused("a --ws-ping-interval soon --ws-per-message-deflate perhaps");
    assert!(text.contains("--ws-ping-interval: websocket.ping_interval"), "{text}");
    assert!(text.contains("--ws-per-message-deflate: websocket.compression"), "{text}");
}

#[test]
fn unneeded_flags_are_accepted_with_one_warning() {
    let shell = Shell::new();
    for (flag, now) in [
        ("--http h11", "hyper"),
        ("--h11-max-incomplete-event-size 65536", "limits.header"),
        ("--ws wsproto", "itself"),
        ("--timeout-worker-healthcheck 60", "timeouts.stall"),
        ("--use-colors", "NO_COLOR"),
        ("--ssl-version TLSv1_2", "RGUN_TLS_MIN_VERSION"),
        ("--server-header", "no Server header"),
        ("--no-date-header", "RFC 9110"),
        ("--backlog 2048", "Backlog="),
    ] {
        let warning = shell.warned(&format!("a {flag}"));
        assert!(warning.starts_with(&format!("{flag}: ignored; ")) && warning.contains(now), "{warning}");
    }
}

#[test]
fn flags_asking_for_the_default_give_no_warning() {
    let shell = Shell::new();
    for flag in [
        "--http auto",
        "--no-server-header",
        "--date-header",
        "--no-use-colors",
        "--no-proxy-headers",
        "--reset-contextvars",
        "--ssl-cert-reqs 0",
        "--ssl-ciphers TLSv1",
        "--ssl-version 17",
    ] {
        shell.accepted(&format!("a {flag}"));
    }
}

#[test]
fn flags_unsafe_to_ignore_are_refused_with_a_remedy() {
    let shell = Shell::new();
    for (flag, remedy) in [
        ("--fd 3", "socket unit"),
        ("--env-file /etc/shop.env", "EnvironmentFile= with the full path of /etc/shop.env"),
        ("--header X-Served-By:me", "middleware"),
        ("--ssl-ciphers HIGH", "remove it"),
    ] {
        let text = shell.refused(&format!("a {flag}"));
        let (first, hint) = text.split_once("\n    hint: ").unwrap_or_else(|| panic!("{text}"));
        assert!(first.starts_with(&format!("{flag}: ")) && hint.contains(remedy), "{flag}: {text}");
    }
}

#[test]
fn certificate_flags_of_both_servers_set_the_tls_keys() {
    let shell = Shell::new();
    for line in [
        "a --certfile c.pem --keyfile /k.pem --ca-certs ca.pem --cert-reqs 2",
        "a --ssl-certfile c.pem --ssl-keyfile /k.pem --ssl-ca-certs ca.pem --ssl-cert-reqs 2",
    ] {
        let config = shell.accepted(line).config;
        let [files] = &*config.tls.certificates else { panic!("{line}") };
        assert!(files.cert.is_absolute() && files.cert.ends_with("c.pem"), "{line}");
        assert_eq!(files.key, Path::new("/k.pem"), "{line}");
        assert!(config.tls.client_ca.is_some_and(|path| path.is_absolute()), "{line}");
        assert_eq!(config.tls.client_auth, ClientAuth::Required, "{line}");
        assert!(config.listen.tls, "{line}");
    }
    let config = shell.accepted("a --certfile /both.pem").config;
    assert_eq!(config.tls.certificates[0].key, Path::new("/both.pem"));
    let text = shell.refused("a --keyfile k.pem");
    assert!(text.starts_with("--keyfile: tls.key = \"k.pem\": has no effect without tls.cert"), "{text}");
    assert!(text.contains("hint: add --certfile"), "{text}");
    for (line, hint) in [
        ("a --certfile /c.pem --ca-certs ca.pem", "hint: add --cert-reqs 2"),
        ("a --certfile /c.pem --cert-reqs 2", "hint: add --ca-certs"),
        ("a --ca-certs /ca.pem --cert-reqs 2", "hint: add --certfile (and --keyfile)"),
        ("a --ssl-ca-certs /ca.pem --ssl-cert-reqs 2", "hint: add --certfile (and --keyfile)"),
        (
            "a --certfile /c.pem --cert-reqs 5",
            "hint: write --cert-reqs 0 (off), 1 (optional) or 2 (required)",
        ),
    ] {
        let text = shell.refused(line);
        assert!(text.contains(hint) && !text.contains("[tls]"), "{text}");
    }
}

#[test]
fn password_is_not_repeated_in_messages() {
    let text = Shell::new().refused("a --ssl-keyfile-password hunter2");
    assert!(text.starts_with("--ssl-keyfile-password: ") && !text.contains("hunter2"), "{text}");
}

#[test]
fn every_option_of_uvicorn_is_known() {
    let known = known_flags();
    let negated =
        ["no-access-log", "no-use-colors", "no-proxy-headers", "no-server-header", "no-date-header"];
    for flag in OPTIONS.iter().chain(&negated).filter(|option| **option != "app") {
        assert!(known.iter().any(|name| name == flag), "--{flag}");
    }
}

#[test]
fn abbreviated_flags_are_refused() {
    let shell = Shell::new();
    for flag in ["--hos h", "--limit-max 5", "--timeout-graceful 5", "--fact", "--no-access"] {
        assert!(shell.refused(&format!("a {flag}")).contains("unexpected argument"), "{flag}");
    }
}

#[test]
fn help_shows_only_rguns_flags_within_78_columns() {
    let help = Shell::new().run("--help").unwrap_err().text;
    let (options, after) = help.split_once("Examples:").unwrap();
    assert!(after.contains("uvicorn's --host and --port"), "{after}");
    for flag in ["--host", "--app-dir", "--http2", "--ssl-"] {
        assert!(!options.contains(flag), "{flag}\n{options}");
    }
    for line in after.lines() {
        assert!(line.chars().count() <= 78, "{line}");
    }
}
