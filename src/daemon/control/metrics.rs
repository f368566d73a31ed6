//! The replies of `io.systemd.Metrics`, the interface of systemd 260 and newer from which
//! systemd-report(1) collects metrics.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A reply to List: the value of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The name of the metric's family. It begins with the name of the service's interface.
    pub name: String,
    /// The value: a number for counters and gauges.
    pub value: Value,
    /// The object that the value belongs to; `None` if the family has one value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

/// A reply to Describe: the meaning of the metrics with one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricFamily {
    /// The name of the family's metrics.
    pub name: String,
    /// The meaning and the unit of the values.
    pub description: String,
    /// The kind of the values.
    #[serde(rename = "type")]
    pub kind: MetricType,
}

/// The type MetricFamilyType.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricType {
    /// The value only increases.
    Counter,
    /// The value may increase and decrease.
    Gauge,
}
