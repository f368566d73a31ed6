//! Command lines written for granian, hypercorn and daphne.

use super::super::compat::peers::{DAPHNE, ForeignOption, GRANIAN, HYPERCORN};
use super::*;

/// The long options of granian 2.8.9, as its help lists them.
const GRANIAN_OPTIONS: &str = "access-log access-log-fmt backlog backpressure blocking-threads blocking-threads-idle-timeout \
    env-files factory host http http1-buffer-size http1-header-read-timeout http1-keep-alive \
    http1-pipeline-flush http2-adaptive-window http2-initial-connection-window-size \
    http2-initial-stream-window-size http2-keep-alive-interval http2-keep-alive-timeout \
    http2-max-concurrent-streams http2-max-frame-size http2-max-headers-size http2-max-send-buffer-size \
    interface log log-config log-level loop metrics metrics-address metrics-port metrics-scrape-interval \
    no-access-log no-factory no-http1-keep-alive no-http1-pipeline-flush no-http2-adaptive-window no-log \
    no-metrics no-reload no-reload-ignore-worker-failure no-respawn-failed-workers no-ssl-client-verify \
    no-ws pid-file port process-name reload reload-ignore-dirs reload-ignore-paths reload-ignore-patterns \
    reload-ignore-worker-failure reload-paths reload-tick respawn-failed-workers respawn-interval \
    rss-sample-interval rss-samples runtime-blocking-threads runtime-mode runtime-threads ssl-ca \
    ssl-certificate ssl-client-verify ssl-crl ssl-keyfile ssl-keyfile-password ssl-protocol-min \
    static-path-dir-to-file static-path-expires static-path-mount static-path-route task-impl uds \
    uds-permissions url-path-prefix workers workers-kill-timeout workers-lifetime workers-max-rss \
    working-dir ws";

/// The long options of hypercorn 0.18.
const HYPERCORN_OPTIONS: &str = "access-log access-logfile access-logformat backlog bind ca-certs cert-reqs certfile ciphers config \
    daemon debug error-log error-logfile graceful-timeout group insecure-bind keep-alive keyfile \
    keyfile-password log-config log-file log-level max-requests max-requests-jitter pid quic-bind \
    read-timeout reload root-path server-name statsd-host statsd-prefix umask user verify-mode \
    websocket-ping-interval worker-class workers";

/// The long options of daphne 4.2.3.
const DAPHNE_OPTIONS: &str = "access-log application-close-timeout bind endpoint fd http-timeout log-fmt no-server-name \
    ping-interval ping-timeout port proxy-headers proxy-headers-host proxy-headers-port root-path \
    server-name unix-socket verbosity websocket-max-frame-size websocket-max-message-size \
    websocket_connect_timeout websocket_timeout";

#[test]
fn every_option_of_each_server_has_a_row() {
    for (options, table) in
        [(GRANIAN_OPTIONS, GRANIAN), (HYPERCORN_OPTIONS, HYPERCORN), (DAPHNE_OPTIONS, DAPHNE)]
    {
        let has_no_row = |option: &&str| !table.iter().any(|row: &ForeignOption| row.names.contains(option));
        let missing: Vec<_> = options.split_whitespace().filter(has_no_row).collect();
        assert_eq!(missing, [""; 0]);
    }
}

#[test]
fn command_line_of_granian_is_served() {
    let shell = Shell::new();
    let config = shell
        .accepted(
            "--interface asginl main:app --host 0.0.0.0 --port 80 --workers 4 --blocking-threads 2 --runtime-mode mt \
             --http auto --no-ws --loop uvloop --url-path-prefix /api --working-dir . --workers-max-rss 512 \
             --respawn-failed-workers --log-level warning --access-log",
        )
        .config;
    assert_eq!(config.app.target.to_string(), "main:app");
    assert_eq!(config.listen.bind, ["0.0.0.0:80".parse().unwrap()]);
    assert_eq!((config.workers.count.resolve(1).get(), config.workers.threads.get()), (4, 2));
    assert_eq!((config.app.interface, config.app.root_path.as_str()), (Interface::Asgi, "/api"));
    assert_eq!(config.workers.max_memory, Some(512 << 20));
}

#[test]
fn command_line_of_hypercorn_is_served() {
    let shell = Shell::new();
    let config = shell
        .accepted(
            "main:app --bind 0.0.0.0:8000 -w 4 -k uvloop --keep-alive 5 --access-logfile - --error-logfile - \
             --graceful-timeout 20 --read-timeout 9 --websocket-ping-interval 15",
        )
        .config;
    assert_eq!(config.app.asgi.event_loop, config::Loop::Uvloop);
    assert_eq!(config.workers.threads.get(), 1);
    assert_eq!((config.timeouts.body, config.websocket.ping_interval), seconds(9, 15));
    let text = shell.refused("main:app -k trio");
    assert!(text.contains("written with anyio"), "{text}");
}

fn seconds(body: u64, ping: u64) -> (Duration, Option<Duration>) {
    (Duration::from_secs(body), Some(Duration::from_secs(ping)))
}

#[test]
fn command_line_of_daphne_is_served() {
    let shell = Shell::new();
    for (line, address, n_warnings) in [
        ("-b 0.0.0.0 -p 8001 mysite.asgi:application", "0.0.0.0:8001", 1),
        ("-p 8001 mysite.asgi:application", "127.0.0.1:8001", 1),
        ("--bind 0.0.0.0 --port 8001 mysite.asgi:application", "0.0.0.0:8001", 0),
        ("-u /run/daphne.sock mysite.asgi:application", "unix:/run/daphne.sock", 1),
        ("--unix-socket /run/daphne.sock mysite.asgi:application", "unix:/run/daphne.sock", 0),
        ("mysite.asgi:application -b 0.0.0.0 -p 80 -v 2 --access-log - --proxy-headers", "0.0.0.0:80", 3),
    ] {
        let Invocation { config, warnings, .. } =
            shell.run(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(config.listen.bind, [address.parse().unwrap()], "{line}");
        assert_eq!(warnings.len(), n_warnings, "{line}: {warnings:?}");
    }
    let warning = shell.warned("-p 8001 mysite.asgi:application");
    assert_eq!(warning, "-p 8001: read as --port 8001");
    // In gunicorn, this is the file for the process id.
    assert!(shell.warned("a -p /run/a.pid").starts_with("--pid /run/a.pid: ignored"));
}

#[test]
fn requests_are_logged_if_the_old_server_logs_them() {
    let shell = Shell::new();
    for (line, is_logged) in [
        ("a:b --host 0.0.0.0", true),
        ("a:b --host 0.0.0.0 --interface asgi3", true),
        ("-b 127.0.0.1 -p 8001 a:b", true),
        ("--interface asgi a:b --host 0.0.0.0", false),
        ("a:b --host 0.0.0.0 --blocking-threads 2", false),
        ("a:b --host 0.0.0.0 --websocket-ping-interval 5", false),
        ("a:b --host 0.0.0.0 --blocking-threads 2 --access-log", true),
        ("a --bind :8000", false),
    ] {
        let config = shell.run(line).unwrap_or_else(|error| panic!("{line}: {error}")).config;
        assert_eq!(config.log.access != AccessLog::Off, is_logged, "{line}");
    }
}

#[test]
fn option_without_a_counterpart_is_refused_with_the_remedy() {
    let shell = Shell::new();
    for (line, expected) in [
        ("a --static-path-mount assets", "hint: remove it: write [[static]]"),
        (
            "a --env-files .env",
            "--env-files .env: is not a flag of rgun\n    hint: write EnvironmentFile=.env",
        ),
        ("a -e ssl:443:privateKey=k.pem", "is an endpoint of daphne\n    hint: rgun has no endpoints"),
        ("a --proxy-headers-host X-Real-IP", "hint: remove it: rgun reads X-Forwarded-For"),
        ("a --interface rsgi", "rsgi"),
    ] {
        let text = shell.refused(line);
        assert!(text.contains(expected), "{line}: {text}");
    }
}

#[test]
fn harmless_option_of_another_server_is_warned_about() {
    let shell = Shell::new();
    for (line, expected) in [
        ("a --metrics", "--metrics: ignored; metrics.bind = \"127.0.0.1:9797\" serves metrics to Prometheus"),
        ("a --quic-bind :443", "--quic-bind :443: ignored; rgun does not speak HTTP/3"),
        ("a -s nginx", "-s nginx: ignored; rgun sends no Server header"),
        ("a --backpressure 100", "--backpressure 100: read as --limit-concurrency 100; it limits"),
        ("check a --http1-buffer-size=9000", "--http1-buffer-size 9000: ignored; rgun sets"),
    ] {
        let warning = shell.warned(line);
        assert!(warning.starts_with(expected), "{warning}");
    }
}
