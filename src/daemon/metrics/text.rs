//! Encodes metrics in the text format of Prometheus, version 0.0.4.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The media type of the text.
pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// The metrics with one name.
#[derive(Debug)]
pub struct Family {
    /// The name; with the suffix `_total` for a counter.
    pub name: String,
    /// The meaning, without a final period.
    pub help: &'static str,
    /// The values.
    pub samples: Samples,
}

/// The values of a family.
#[derive(Debug)]
pub enum Samples {
    /// A number that only increases.
    Counter(u64),
    /// A number that may increase and decrease.
    Gauge(f64),
    /// A constant 1, with a label that describes the program.
    Info(&'static str, &'static str),
    /// A counter for each value of a label.
    Counters(&'static str, Vec<(&'static str, u64)>),
    /// A gauge for each value of a label.
    Gauges(&'static str, Vec<(&'static str, f64)>),
    /// The numbers of observations in each range, with the upper end of the range, and the sum of all
    /// observations. The last upper end is infinity.
    Histogram(Vec<(f64, u64)>, f64),
}

impl Samples {
    fn metric_type(&self) -> MetricType {
        match self {
            Self::Counter(_) | Self::Counters(..) => MetricType::Counter,
            Self::Gauge(_) | Self::Gauges(..) => MetricType::Gauge,
            Self::Info(..) => MetricType::Info,
            Self::Histogram(..) => MetricType::Histogram,
        }
    }
}

/// Returns the text with all families, in their order.
pub fn encode(families: Vec<Family>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).expect("writing to a string succeeds");
    text
}

/// The families of one scrape.
#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| encode_family(family, &mut encoder))
    }
}

fn encode_family(family: &Family, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let metric_type = family.samples.metric_type();
    // The encoder adds the suffix of counters and infos.
    let suffix = match metric_type {
        MetricType::Counter => "_total",
        MetricType::Info => "_info",
        _ => "",
    };
    let name = family.name.strip_suffix(suffix).unwrap_or(&family.name);
    let mut encoder = encoder.encode_descriptor(name, &format!("{}.", family.help), None, metric_type)?;
    match &family.samples {
        Samples::Counter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        Samples::Gauge(value) => encoder.encode_gauge(value),
        Samples::Info(label, value) => encoder.encode_info(&[(*label, *value)]),
        Samples::Counters(label, values) => values.iter().try_for_each(|(of, value)| {
            encoder.encode_family(&[(*label, *of)])?.encode_counter::<NoLabelSet, _, f64>(value, None)
        }),
        Samples::Gauges(label, values) => values
            .iter()
            .try_for_each(|(of, value)| encoder.encode_family(&[(*label, *of)])?.encode_gauge(value)),
        Samples::Histogram(buckets, sum) => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_family_is_encoded() {
        let family = |name: &str, samples| Family { name: name.to_owned(), help: "What it is", samples };
        let text = encode(vec![
            family("a_info", Samples::Info("version", "1.0")),
            family("b_total", Samples::Counter(7)),
            family("c", Samples::Gauge(0.5)),
            family("d_total", Samples::Counters("class", vec![("2xx", 3), ("5xx", 0)])),
            family("e", Samples::Gauges("state", vec![("ready", 2.0)])),
            family("f_seconds", Samples::Histogram(vec![(0.1, 4), (1.0, 1), (f64::INFINITY, 2)], 9.25)),
        ]);
        let expected = "\
# HELP a_info What it is.
# TYPE a_info gauge
a_info{version=\"1.0\"} 1
# HELP b_total What it is.
# TYPE b_total counter
b_total 7
# HELP c What it is.
# TYPE c gauge
c 0.5
# HELP d_total What it is.
# TYPE d_total counter
d_total{class=\"2xx\"} 3
d_total{class=\"5xx\"} 0
# HELP e What it is.
# TYPE e gauge
e{state=\"ready\"} 2.0
# HELP f_seconds What it is.
# TYPE f_seconds histogram
f_seconds_bucket{le=\"0.1\"} 4
f_seconds_bucket{le=\"1\"} 5
f_seconds_bucket{le=\"+Inf\"} 7
f_seconds_sum 9.25
f_seconds_count 7
";
        assert_eq!(text, expected);
    }
}
