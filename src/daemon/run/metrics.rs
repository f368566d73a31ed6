//! The metrics that systemd-report(1) collects. Their values are those of the reply to Status.

use serde_json::Value;

use super::Daemon;
use crate::control::{Metric, MetricFamily, MetricType, StatusReply};

/// A metric of the whole service: its name after the prefix, its type, its description, and the
/// function that returns its value.
type Row = (&'static str, MetricType, &'static str, fn(&StatusReply) -> u64);

/// The prefix of all names. io.systemd.Metrics requires the name of the service's interface.
const PREFIX: &str = "io.rgun.Server";

const ROWS: [Row; 10] = [
    ("requests_running", MetricType::Gauge, "Requests that a worker has", |status| status.running as u64),
    ("requests_queued", MetricType::Gauge, "Requests that wait for a worker", |status| status.queued as u64),
    ("request_slots", MetricType::Gauge, "Requests that can run at the same time", |status| {
        status.slots as u64
    }),
    (
        "wait_p95_usec",
        MetricType::Gauge,
        "Wait for a worker that 95 % of the latest requests did not exceed, in microseconds",
        |status| status.wait_p95_usec,
    ),
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
    (
        "worker_crashes_total",
        MetricType::Counter,
        "Workers that exited unexpectedly while they served",
        |status| status.worker_crashes,
    ),
];

impl Daemon {
    /// Returns the current metrics.
    pub(super) fn metrics(&mut self) -> Vec<Metric> {
        let status = self.status_reply();
        let metric = |(name, _, _, value): &Row| Metric {
            name: format!("{PREFIX}.{name}"),
            value: Value::from(value(&status)),
            object: None,
        };
        ROWS.iter().map(metric).collect()
    }
}

/// Returns the descriptions of all metrics.
pub(super) fn families() -> Vec<MetricFamily> {
    let family = |(name, kind, description, _): &Row| MetricFamily {
        name: format!("{PREFIX}.{name}"),
        description: (*description).to_owned(),
        kind: *kind,
    };
    ROWS.iter().map(family).collect()
}
