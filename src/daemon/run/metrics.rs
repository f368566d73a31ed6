//! The metrics that systemd-report(1) and Prometheus collect. Most of their values are those of the
//! reply to Status.

use std::time::SystemTime;

use serde_json::Value;

use super::Daemon;
use super::messages::MetricsFault;
use crate::control::{Metric, MetricFamily, MetricType, NO_METRICS, StatusReply};
use crate::id::WorkerNr;
use crate::journal::catalog::OperatorEvent;
use crate::metrics::{Family, Samples, encode};
use crate::supervise::{Event, WorkerState};

/// A metric of the whole service: its name after the prefix, its type, its description, and the
/// function that returns its value.
type Row = (&'static str, MetricType, &'static str, fn(&StatusReply) -> u64);

/// The prefix of all names for systemd-report. io.systemd.Metrics requires the name of the service's
/// interface.
const PREFIX: &str = "io.rgun.Server";

/// The metrics that both collect.
const ROWS: [Row; 11] = [
    ("requests_running", MetricType::Gauge, "Requests that a worker has", |status| status.running as u64),
    ("requests_queued", MetricType::Gauge, "Requests that wait for a worker", |status| status.queued as u64),
    ("request_slots", MetricType::Gauge, "Requests that can run at the same time", |status| {
        status.slots as u64
    }),
    ("responses_total", MetricType::Counter, "Requests that ended in a worker", |status| status.responses),
    (
        "responses_failed_total",
        MetricType::Counter,
        "Requests that failed: status of 500 or above, exception, deadline exceeded, worker died",
        |status| status.failed_responses,
    ),
    ("generation", MetricType::Gauge, "Generation of code and configuration that serves", |status| {
        status.generation
    }),
    ("workers_ready", MetricType::Gauge, "Workers that serve", |status| status.workers_ready as u64),
    ("workers_desired", MetricType::Gauge, "Workers that should serve", |status| {
        status.workers_desired as u64
    }),
    ("workers_spawned_total", MetricType::Counter, "Workers that were started", |status| {
        status.workers_spawned
    }),
    (
        "worker_boot_failures_total",
        MetricType::Counter,
        "Workers that ended before they could serve",
        |status| status.boot_failures,
    ),
    (
        "worker_crashes_total",
        MetricType::Counter,
        "Workers that exited unexpectedly while they served",
        |status| status.worker_crashes,
    ),
];

/// The metric of systemd-report in place of the histogram of waits.
const WAIT_ROW: Row = (
    "wait_p95_usec",
    MetricType::Gauge,
    "Wait for a worker that 95 % of the latest requests did not exceed, in microseconds",
    |status| status.wait_p95_usec,
);

/// The values of the label `class`, by the first digit of the status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn report_rows() -> impl Iterator<Item = Row> {
    ROWS.into_iter().chain([WAIT_ROW])
}

impl Daemon {
    /// Reports an address without metrics. The application is served.
    pub(super) fn on_metrics_failed(&mut self, fault: &MetricsFault) -> Vec<Event> {
        let MetricsFault { address, reason, reason_has_remedy } = fault;
        let then = if *reason_has_remedy { "then " } else { "" };
        tracing::error!(
            message_id = OperatorEvent::MetricsFailed.id(),
            "the application is served, but {NO_METRICS}{address}: {reason}; {then}{}",
            self.host.restart
        );
        self.status.add_no_metrics(format!("{NO_METRICS}{address}: {reason}"));
        self.send_status();
        Vec::new()
    }
}

impl Daemon {
    /// Returns the current metrics for systemd-report.
    pub(super) fn metrics(&mut self) -> Vec<Metric> {
        let status = self.status_reply();
        let metric = |(name, _, _, value): Row| Metric {
            name: format!("{PREFIX}.{name}"),
            value: Value::from(value(&status)),
            object: None,
        };
        report_rows().map(metric).collect()
    }

    /// Returns the current metrics in the text format of Prometheus.
    pub(super) fn metrics_text(&mut self) -> String {
        let status = self.status_reply();
        let mut families = vec![
            family("build_info", "Version of rgun", Samples::Info("version", env!("CARGO_PKG_VERSION"))),
            family(
                "start_time_seconds",
                "Start of the daemon, in seconds since the Unix epoch",
                Samples::Gauge(
                    self.host
                        .started_at
                        .duration_since(SystemTime::UNIX_EPOCH)
                        .unwrap_or_default()
                        .as_secs_f64(),
                ),
            ),
        ];
        families.extend(ROWS.iter().map(|(name, kind, help, value)| {
            let value = value(&status);
            let samples = match kind {
                MetricType::Counter => Samples::Counter(value),
                MetricType::Gauge => Samples::Gauge(to_float(value)),
            };
            family(name, help, samples)
        }));
        families.extend(self.worker_families());
        families.extend(self.edge_families());
        encode(families)
    }

    fn worker_families(&self) -> [Family; 3] {
        let workers = self.supervisor.snapshot().workers;
        let count = |state: WorkerState| {
            let workers = workers.iter().filter(|worker| worker.worker.number != WorkerNr::ZYGOTE);
            to_float(workers.filter(|worker| worker.state == state).count() as u64)
        };
        let states = WorkerState::ALL_STATES.map(|state| (state.as_str(), count(state)));
        let websockets = self.dispatcher.worker_loads().iter().map(|load| load.websockets as u64).sum();
        let waits = self.dispatcher.wait_totals();
        [
            family("workers", "Workers by state", Samples::Gauges("state", states.to_vec())),
            family("websockets", "WebSockets of the ASGI application", Samples::Gauge(to_float(websockets))),
            family(
                "queue_wait_seconds",
                "Time for which requests waited until a worker got them",
                Samples::Histogram(waits.buckets, waits.sum),
            ),
        ]
    }

    fn edge_families(&self) -> [Family; 6] {
        let connections = self.edge.connection_totals();
        let responses = connections.responses;
        let classes = CLASSES.into_iter().zip(responses.by_class).collect();
        [
            family(
                "http_responses_total",
                "Responses by class of status, without those to health checks",
                Samples::Counters("class", classes),
            ),
            family(
                "http_unanswered_total",
                "Requests whose client left, or was disconnected, before its response began",
                Samples::Counter(responses.unanswered),
            ),
            family("open_connections", "Open connections", Samples::Gauge(to_float(connections.open as u64))),
            family("connections_total", "Connections that were opened", Samples::Counter(connections.opened)),
            family(
                "received_bytes_total",
                "Bytes from clients, including fields and TLS",
                Samples::Counter(connections.received),
            ),
            family(
                "sent_bytes_total",
                "Bytes to clients, including fields and TLS",
                Samples::Counter(connections.sent),
            ),
        ]
    }
}

fn family(name: &str, help: &'static str, samples: Samples) -> Family {
    Family { name: format!("rgun_{name}"), help, samples }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are far below 2^52")]
fn to_float(value: u64) -> f64 {
    value as f64
}

/// Returns the descriptions of all metrics for systemd-report.
pub(super) fn families() -> Vec<MetricFamily> {
    let family = |(name, kind, description, _): Row| MetricFamily {
        name: format!("{PREFIX}.{name}"),
        description: description.to_owned(),
        kind,
    };
    report_rows().map(family).collect()
}
