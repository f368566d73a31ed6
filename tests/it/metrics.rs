//! Metrics for Prometheus: their listeners, their values, and what the other requests of a listener
//! for metrics get.

#![expect(clippy::float_cmp, reason = "the values are whole numbers")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::client::{Address, Response};
use crate::support::systemd::NotifySocket;
use crate::support::{Client, Daemon, Rgun, systemd, wait_until};

/// Configures fake workers and a socket for metrics; returns the address of that socket.
fn rgun() -> (Rgun, Address) {
    let rgun = Rgun::fake();
    let path = rgun.scratch().join("metrics");
    (rgun.set("metrics.bind", &format!("unix:{}", path.display())), Address::Unix(path))
}

fn get(address: &Address, path: &str) -> Response {
    Client::connect(address).expect("the daemon listens").get(path)
}

/// Returns the samples: values by name with labels.
fn scrape(address: &Address) -> BTreeMap<String, f64> {
    let response = get(address, "/metrics");
    assert_eq!(response.status, 200);
    assert_eq!(response.field("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

fn value(address: &Address, name: &str) -> f64 {
    let samples = scrape(address);
    *samples.get(name).unwrap_or_else(|| panic!("no {name} in {samples:?}"))
}

fn wait_for_value(address: &Address, name: &str, expected: f64) {
    wait_until(&format!("{name} is {expected}"), || (value(address, name) == expected).then_some(()));
}

#[test]
fn responses_are_counted_by_class_without_health_checks() {
    let (rgun, metrics) = rgun();
    let daemon = rgun.set("health.path", "/-/healthz").set("limits.request_line", "200").start_ready();
    for (path, status) in [("/hello", 200), ("/-/healthz", 200), ("/raise", 500)] {
        assert_eq!(daemon.get(path).status, status, "{path}");
    }
    assert_eq!(daemon.get(&format!("/{}", "x".repeat(300))).status, 414);
    for (class, count) in [("1xx", 0.0), ("2xx", 1.0), ("3xx", 0.0), ("4xx", 1.0), ("5xx", 1.0)] {
        let name = format!("rgun_http_responses_total{{class=\"{class}\"}}");
        assert_eq!(value(&metrics, &name), count, "{name}");
    }
    wait_for_value(&metrics, "rgun_responses_total", 2.0);
    assert_eq!(value(&metrics, "rgun_responses_failed_total"), 1.0);
    assert_eq!(value(&metrics, "rgun_queue_wait_seconds_count"), 2.0);
    assert_eq!(value(&metrics, "rgun_queue_wait_seconds_bucket{le=\"+Inf\"}"), 2.0);
    assert_eq!(value(&metrics, "rgun_workers{state=\"ready\"}"), 1.0);
    assert_eq!(
        value(&metrics, &format!("rgun_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))),
        1.0
    );
}

#[test]
fn metrics_are_served_while_all_workers_are_busy() {
    let (rgun, metrics) = rgun();
    let daemon = rgun.start_ready();
    let (mut running, mut waiting) = (daemon.connect(), daemon.connect());
    running.send_get("/hang");
    wait_for_value(&metrics, "rgun_requests_running", 1.0);
    waiting.send_get("/hello");
    wait_for_value(&metrics, "rgun_requests_queued", 1.0);
    assert_eq!(value(&metrics, "rgun_open_connections"), 2.0);
    drop(waiting);
    wait_for_value(&metrics, "rgun_http_unanswered_total", 1.0);
    wait_for_value(&metrics, "rgun_requests_queued", 0.0);
}

#[test]
fn wait_of_a_queued_request_is_in_the_histogram() {
    let (rgun, metrics) = rgun();
    let daemon = rgun.start_ready();
    let (mut running, mut waiting) = (daemon.connect(), daemon.connect());
    running.send_get("/slow/300");
    wait_for_value(&metrics, "rgun_requests_running", 1.0);
    waiting.send_get("/hello");
    assert_eq!(waiting.response().status, 200);
    let samples = scrape(&metrics);
    let bucket = |le: &str| samples[&format!("rgun_queue_wait_seconds_bucket{{le=\"{le}\"}}")];
    assert_eq!((bucket("1e-06"), bucket("+Inf")), (1.0, 2.0), "{samples:?}");
    let sum = samples["rgun_queue_wait_seconds_sum"];
    assert!((0.001..10.0).contains(&sum), "{sum}");
}

#[test]
fn bytes_and_connections_are_counted() {
    let (rgun, metrics) = rgun();
    let daemon = rgun.start_ready();
    let before = scrape(&metrics);
    let mut client = daemon.connect();
    let request = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(request);
    assert_eq!(client.response().body.len(), 13);
    // The client may have the response before its bytes are counted.
    let after = wait_until("the response is counted", || {
        let after = scrape(&metrics);
        let sent = after["rgun_sent_bytes_total"] - before["rgun_sent_bytes_total"];
        (sent > 13.0).then_some(after)
    });
    let difference = |name: &str| after[name] - before[name];
    assert_eq!((difference("rgun_received_bytes_total"), request.len()), (32.0, 32));
    assert_eq!((difference("rgun_connections_total"), after["rgun_open_connections"]), (1.0, 1.0));
}

#[test]
fn dead_worker_is_counted_and_a_reload_keeps_the_counters() {
    let (rgun, metrics) = rgun();
    let daemon = rgun.start_ready();
    assert_eq!(daemon.get("/die").status, 502);
    wait_for_value(&metrics, "rgun_worker_crashes_total", 1.0);
    wait_for_value(&metrics, "rgun_workers_ready", 1.0);
    assert_eq!(value(&metrics, "rgun_workers_spawned_total"), 2.0);
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for_value(&metrics, "rgun_generation", 2.0);
    assert_eq!(value(&metrics, "rgun_http_responses_total{class=\"5xx\"}"), 1.0);
    assert_eq!(value(&metrics, "rgun_worker_crashes_total"), 1.0);
}

#[test]
fn other_paths_and_methods_are_refused() {
    let (rgun, metrics) = rgun();
    let daemon = rgun.set("log.access", "true").start_ready();
    for path in ["/", "/hello", "/metrics/", "/-/healthz"] {
        assert_eq!(get(&metrics, path).status, 404, "{path}");
    }
    assert_eq!(get(&metrics, "/metrics?x=1").status, 200);
    let send = |request: &str, method: &str| {
        let mut client = Client::connect(&metrics).expect("the daemon listens");
        client.send(request);
        client.try_response(method).expect("a response")
    };
    let response = send("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST");
    assert_eq!((response.status, response.field("allow")), (405, "GET, HEAD"));
    let response = send("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD");
    assert_eq!((response.status, response.body.len()), (200, 0));
    // The application gets requests for this path, too.
    assert_eq!(daemon.get("/metrics").text(), "unknown path");
    daemon.log.wait_for("GET /metrics");
    assert_eq!(daemon.log.count("GET /metrics"), 1, "requests for metrics are not logged");
    assert_eq!(value(&metrics, "rgun_http_responses_total{class=\"4xx\"}"), 1.0);
}

#[test]
fn idle_clients_do_not_keep_others_from_the_metrics() {
    let (rgun, metrics) = rgun();
    let _daemon = rgun.start_ready();
    // As many as are served at the same time: the next client waits until the first is disconnected.
    let idle: Vec<Client> = (0..16).map(|_| Client::connect(&metrics).expect("it listens")).collect();
    let started = std::time::Instant::now();
    assert_eq!(value(&metrics, "rgun_workers_ready"), 1.0);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    drop(idle);
}

#[test]
fn socket_named_metrics_from_systemd_serves_metrics_only() {
    let rgun = Rgun::fake();
    let (web, at_web) = systemd::tcp("127.0.0.1:0");
    let (passed, metrics) = systemd::tcp("127.0.0.1:0");
    let rgun = rgun.socket("metrics", passed).socket("web", web).at(at_web);
    let daemon = rgun.set("metrics.bind", "127.0.0.1:1").start_ready();
    let line = daemon.log.wait_for("metrics.bind = 127.0.0.1:1 has no effect");
    assert!(line.contains("ListenStream="), "{line}");
    daemon.log.wait_for("serving metrics on 127.0.0.1:");
    assert_eq!(daemon.get("/echo").value("listener"), "0", "the application has one listener");
    assert_eq!(value(&metrics, "rgun_workers_ready"), 1.0);
    assert_eq!(get(&metrics, "/hello").status, 404);
}

#[test]
fn addresses_are_bound_beside_a_socket_named_metrics() {
    let (passed, metrics) = systemd::tcp("127.0.0.1:0");
    let rgun = Rgun::fake().socket("metrics", passed);
    let path = rgun.scratch().join("own");
    let bind = format!("unix:{}", path.display());
    let daemon = rgun.flags(["--bind", bind.as_str()]).at(Address::Unix(path)).start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    assert_eq!(value(&metrics, "rgun_workers_ready"), 1.0);
    assert_eq!(daemon.log.count("has no effect"), 0);
}

#[test]
fn address_in_use_is_an_error_and_the_application_served() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (rgun, _) = rgun();
    let own = rgun.scratch().join("metrics");
    let mut systemd = NotifySocket::at(rgun.scratch());
    let bind = format!("{address},unix:{}", own.display());
    let rgun = rgun.variable("NOTIFY_SOCKET", &systemd.name).set("metrics.bind", &bind);
    let daemon = rgun.start_ready();
    let line =
        daemon.log.wait_for(&format!("the application is served, but no metrics are served at {address}"));
    assert!(line.contains("ERROR"), "{line}");
    assert!(line.contains(&format!("metrics.bind: {address} is in use")), "{line}");
    assert!(line.contains("another address in metrics.bind; then run `systemctl restart rgun`"), "{line}");
    let at = systemd.wait("STATUS=1/1 workers ready");
    let (_, status) = &systemd.assignments[at];
    assert!(
        status.contains(&format!("no metrics are served at {address}: metrics.bind: {address} is in use")),
        "{status}"
    );
    assert_eq!(daemon.get("/hello").status, 200);
    assert_eq!(value(&Address::Unix(own), "rgun_workers_ready"), 1.0, "other addresses have metrics");
}

#[test]
fn status_names_each_address_without_metrics() {
    let taken: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let addresses: Vec<_> =
        taken.iter().map(|socket| socket.local_addr().expect("an address").to_string()).collect();
    let (rgun, _) = rgun();
    let mut systemd = NotifySocket::at(rgun.scratch());
    let rgun = rgun.variable("NOTIFY_SOCKET", &systemd.name).set("metrics.bind", &addresses.join(","));
    let daemon = rgun.start_ready();
    for address in &addresses {
        daemon.log.wait_for(&format!("but no metrics are served at {address}: "));
    }
    let at = systemd.wait("STATUS=1/1 workers ready");
    let (_, status) = &systemd.assignments[at];
    let notes = addresses
        .iter()
        .filter(|address| status.contains(&format!("; no metrics are served at {address}: ")));
    assert_eq!(notes.count(), 2, "{status}");
}

#[test]
fn socket_file_is_removed_at_the_end() {
    let (rgun, metrics) = rgun();
    let mut daemon: Daemon = rgun.start_ready();
    let Address::Unix(path) = &metrics else { panic!("a unix socket") };
    assert!(path.exists());
    daemon.stop();
    assert!(!path.exists());
}

/// The document lists exactly the metrics that exist.
#[test]
fn every_metric_is_documented() {
    let (rgun, metrics) = rgun();
    let _daemon = rgun.start_ready();
    let text = get(&metrics, "/metrics").text();
    let word = |line: &str, index: usize| line.split(' ').nth(index).expect("a word").to_owned();
    let types = text.lines().filter(|line| line.starts_with("# TYPE "));
    let served: BTreeSet<_> = types.map(|line| (word(line, 2), word(line, 3))).collect();
    let helps: BTreeSet<_> =
        text.lines().filter(|line| line.starts_with("# HELP ")).map(|line| word(line, 2)).collect();
    assert_eq!(helps, served.iter().map(|(name, _)| name.clone()).collect(), "one HELP line for each");
    let mut documented = BTreeSet::new();
    for line in
        include_str!("../../packaging/doc/metrics.md").lines().filter(|line| line.starts_with("| `rgun_"))
    {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        for name in cells[1].split(", ") {
            let name = name.trim_matches('`').split('{').next().expect("a name");
            documented.insert((name.to_owned(), cells[2].to_owned()));
        }
    }
    assert_eq!(documented, served);
}
