//! Metrics in the formats that a scraper may ask for: OpenMetrics and protobuf by prometheus-client, the old text by us,
//! for that crate has none.
//!
//! Formats: <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/native_histograms/>.

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model as proto;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NativeHistogram, NativeHistogramBuckets, prometheus_protobuf, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{Family, Kind, Value};
use crate::model::WaitHistogram;

/// A format of `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4: what everything understands.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' protobuf format, each family preceded by its length: the one with native histograms.
    Protobuf,
}

impl Exposition {
    /// Its MIME type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The one that an `Accept` header wants most, by its q-values; among equals its first; [`Self::Text`] where it wants
    /// none of them.
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (0.0, Self::Text);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<(String, &str)> = parts
                .filter_map(|part| part.split_once('='))
                .map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"')))
                .collect();
            let parameter = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
            let is = |name: &str, value: &str| parameter(name).is_none_or(|given| given == value);
            let exposition = match &*name {
                "application/vnd.google.protobuf"
                    if is("proto", "io.prometheus.client.MetricFamily") && is("encoding", "delimited") =>
                {
                    Self::Protobuf
                }
                "application/openmetrics-text" if is("version", "1.0.0") => Self::OpenMetrics,
                "text/plain" | "text/*" | "*/*" if is("version", "0.0.4") => Self::Text,
                _ => continue,
            };
            let quality = parameter("q").map_or(Ok(1.0), str::parse).unwrap_or(0.0);
            if quality > best.0 {
                best = (quality, exposition);
            }
        }
        best.1
    }
}

/// Writes families in a format. Fails only where a writer into memory fails: never.
pub fn encode(families: Vec<Family>, exposition: Exposition) -> Result<Vec<u8>, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Constant(families)));
    match exposition {
        Exposition::OpenMetrics => {
            let mut out = String::new();
            text::encode(&mut out, &registry)?;
            Ok(out.into_bytes())
        }
        Exposition::Protobuf => prometheus_protobuf::encode_to_vec(&registry).map_err(|_| fmt::Error),
        Exposition::Text => {
            let mut out = String::new();
            for family in prometheus_protobuf::encode(&registry)? {
                write_text(&mut out, &family)?;
            }
            Ok(out.into_bytes())
        }
    }
}

/// Families as prometheus-client wants them.
#[derive(Debug)]
struct Constant(Vec<Family>);

impl Collector for Constant {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { metric, series } in &self.0 {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            // The crate puts both back on.
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            let units = [Unit::Seconds, Unit::Bytes];
            let suffixes = ["_seconds", "_bytes"];
            let unit = units.iter().zip(suffixes).find_map(|(unit, suffix)| Some((unit, name.strip_suffix(suffix)?)));
            let (unit, name) = unit.map_or((None, name), |(unit, name)| (Some(unit), name));
            let help = format!("{}.", metric.help);
            let mut family = encoder.encode_descriptor(name, &help, unit, kind)?;
            for (values, value) in series {
                let labels: Vec<(&str, &str)> =
                    metric.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                // An empty set of labels would be written as `{}`.
                if labels.is_empty() {
                    encode_value(&mut family, metric.kind, value)?;
                } else {
                    encode_value(&mut family.encode_family(&labels)?, metric.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Number(number)) => encoder.encode_counter::<[(&str, &str); 0], f64, f64>(number, None),
        (_, Value::Number(number)) => encoder.encode_gauge(number),
        (_, Value::Waits { sum, rows, rows_a_bucket }) => {
            let (spans, deltas) = native(rows);
            let none = NativeHistogramBuckets { spans: &[], deltas: &[] };
            let native = NativeHistogram {
                schema: 0,
                zero_threshold: ZERO_THRESHOLD,
                zero_count: 0,
                negative: none,
                positive: NativeHistogramBuckets { spans: &spans, deltas: &deltas },
                created: None,
            };
            let buckets = classic(rows, *rows_a_bucket);
            let count = rows.iter().sum();
            encoder.encode_histogram_with_native::<[(&str, &str); 0]>(*sum, count, &buckets, None, native)
        }
    }
}

/// client_golang's: 2^-128. Prometheus takes a histogram without waits for a classic one if this is 0, and with the first of its
/// family all others.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// The first row's upper end: 2^10 ns, shorter waits are in one bucket.
const FIRST_BUCKET: usize = 9;

/// Upper bounds in seconds, with how many are in each bucket; the last is infinite.
fn classic(rows: &WaitHistogram, rows_a_bucket: usize) -> Vec<(f64, u64)> {
    let mut buckets = Vec::new();
    let mut start = 0;
    let mut end = FIRST_BUCKET + 1;
    while end < rows.len() {
        // Row n ends at 2^(n+1) ns.
        buckets.push(((1_u64 << end) as f64 / 1e9, rows[start..end].iter().sum()));
        start = end;
        end += rows_a_bucket;
    }
    buckets.push((f64::INFINITY, rows[start..].iter().sum()));
    buckets
}

/// Sparse buckets of schema 0, which end at powers of two seconds: spans and deltas. Row n is nine tenths in the bucket that
/// ends at 2^(n-29) s, and is put there.
fn native(rows: &WaitHistogram) -> (Vec<(i32, u32)>, Vec<i64>) {
    let Some(first) = rows.iter().position(|&count| count > 0) else { return (Vec::new(), Vec::new()) };
    let last = rows.iter().rposition(|&count| count > 0).unwrap_or(first);
    let rows = &rows[first..=last];
    let start = i32::try_from(first).unwrap_or(0) - 29;
    let mut before = 0;
    let deltas = rows.iter().map(|&count| {
        let count = count.cast_signed();
        let delta = count - before;
        before = count;
        delta
    });
    (vec![(start, u32::try_from(rows.len()).unwrap_or(0))], deltas.collect())
}

/// One family in the old text format.
fn write_text(out: &mut String, family: &proto::MetricFamily) -> fmt::Result {
    let name = &family.name;
    let kind = match family.r#type() {
        proto::MetricType::Counter => "counter",
        proto::MetricType::Histogram | proto::MetricType::GaugeHistogram => "histogram",
        _ => "gauge",
    };
    let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
    for metric in &family.metric {
        let labels: Vec<(&str, &str)> = metric.label.iter().map(|label| (&*label.name, &*label.value)).collect();
        if let Some(histogram) = &metric.histogram {
            for bucket in &histogram.bucket {
                let bound = match bucket.upper_bound {
                    bound if bound.is_infinite() => "+Inf".to_owned(),
                    bound => bound.to_string(),
                };
                write_line(out, &format!("{name}_bucket"), &labels, Some(&bound), bucket.cumulative_count as f64)?;
            }
            write_line(out, &format!("{name}_sum"), &labels, None, histogram.sample_sum)?;
            write_line(out, &format!("{name}_count"), &labels, None, histogram.sample_count as f64)?;
        } else {
            let counter = metric.counter.as_ref().map(|counter| counter.value);
            let gauge = metric.gauge.as_ref().map(|gauge| gauge.value);
            write_line(out, name, &labels, None, counter.or(gauge).unwrap_or_default())?;
        }
    }
    Ok(())
}

fn write_line(out: &mut String, name: &str, labels: &[(&str, &str)], le: Option<&str>, value: f64) -> fmt::Result {
    out.push_str(name);
    let labels = labels.iter().copied().chain(le.map(|bound| ("le", bound)));
    for (position, (key, value)) in labels.clone().enumerate() {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        write!(out, "{}{key}=\"{value}\"", if position == 0 { '{' } else { ',' })?;
    }
    let end = if labels.count() > 0 { "}" } else { "" };
    writeln!(out, "{end} {value}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::metrics::{GROUP_CPU, GROUP_RUN_QUEUE_LATENCY, GROUPS};

    fn families() -> Vec<Family> {
        let mut rows = [0; 32];
        (rows[3], rows[9], rows[10], rows[31]) = (1, 2, 3, 4);
        let waits = Value::Waits { sum: 1.5, rows: Box::new(rows), rows_a_bucket: 8 };
        let odd = "a\"b\\c\nd".to_owned();
        vec![
            Family { metric: &GROUP_CPU, series: vec![(vec![odd, "user".to_owned()], Value::Number(2.5))] },
            Family { metric: &GROUP_RUN_QUEUE_LATENCY, series: vec![(vec!["x".to_owned()], waits)] },
            Family { metric: &GROUPS, series: vec![(vec![], Value::Number(7.0))] },
        ]
    }

    /// What is on the wire, in both text formats: names once, labels escaped, buckets that grow up to all.
    #[test]
    fn texts() {
        let text = |exposition| {
            let text = String::from_utf8(encode(families(), exposition).unwrap()).unwrap();
            text.lines().filter(|line| !line.starts_with("# HELP")).collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(text(Exposition::Text), @r#"
        # TYPE cputrace_group_cpu_seconds_total counter
        cputrace_group_cpu_seconds_total{groupname="a\"b\\c\nd",mode="user"} 2.5
        # TYPE cputrace_group_runqueue_latency_seconds histogram
        cputrace_group_runqueue_latency_seconds_bucket{groupname="x",le="0.000001024"} 3
        cputrace_group_runqueue_latency_seconds_bucket{groupname="x",le="0.000262144"} 6
        cputrace_group_runqueue_latency_seconds_bucket{groupname="x",le="0.067108864"} 6
        cputrace_group_runqueue_latency_seconds_bucket{groupname="x",le="+Inf"} 10
        cputrace_group_runqueue_latency_seconds_sum{groupname="x"} 1.5
        cputrace_group_runqueue_latency_seconds_count{groupname="x"} 10
        # TYPE cputrace_groups gauge
        cputrace_groups 7
        "#);
        insta::assert_snapshot!(text(Exposition::OpenMetrics), @r#"
        # TYPE cputrace_group_cpu_seconds counter
        # UNIT cputrace_group_cpu_seconds seconds
        cputrace_group_cpu_seconds_total{groupname="a\"b\\c\nd",mode="user"} 2.5
        # TYPE cputrace_group_runqueue_latency_seconds histogram
        # UNIT cputrace_group_runqueue_latency_seconds seconds
        cputrace_group_runqueue_latency_seconds_sum{groupname="x"} 1.5
        cputrace_group_runqueue_latency_seconds_count{groupname="x"} 10
        cputrace_group_runqueue_latency_seconds_bucket{le="0.000001024",groupname="x"} 3
        cputrace_group_runqueue_latency_seconds_bucket{le="0.000262144",groupname="x"} 6
        cputrace_group_runqueue_latency_seconds_bucket{le="0.067108864",groupname="x"} 6
        cputrace_group_runqueue_latency_seconds_bucket{le="+Inf",groupname="x"} 10
        # TYPE cputrace_groups gauge
        cputrace_groups 7.0
        # EOF
        "#);
    }

    /// The headers of Prometheus' versions, of browsers and of curl get what they want most.
    #[test]
    fn negotiation() {
        let check = |accept: &str, expected| assert_eq!(Exposition::negotiate(accept), expected, "{accept}");
        check("", Exposition::Text);
        check("*/*", Exposition::Text);
        check("text/html,application/xhtml+xml,*/*;q=0.8", Exposition::Text);
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Exposition::OpenMetrics,
        );
        check(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Exposition::Protobuf,
        );
        check("application/openmetrics-text;version=2.0.0,text/plain;q=0.4", Exposition::Text);
        check("application/openmetrics-text; version=1.0.0; q=0.3, text/plain; q=0.4", Exposition::Text);
        check("application/openmetrics-text;q=x", Exposition::Text);
    }

    /// What has no waits yet is a native histogram as well.
    #[test]
    fn empty_ones_are_native() {
        let waits = Value::Waits { sum: 0.0, rows: Box::new([0; 32]), rows_a_bucket: 8 };
        let empty = Family { metric: &GROUP_RUN_QUEUE_LATENCY, series: vec![(vec!["x".to_owned()], waits)] };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Constant(vec![empty])));
        let families = prometheus_protobuf::encode(&registry).unwrap();
        assert!(families[0].metric[0].histogram.as_ref().unwrap().zero_threshold > 0.0);
    }

    /// Rows lie next to the powers of two that they are put to, and none gets lost.
    #[test]
    fn native_buckets() {
        let mut rows = [0; 32];
        (rows[20], rows[22]) = (5, 2);
        assert_eq!(native(&rows), (vec![(-9, 3)], vec![5, -5, 2]));
        // Row 20 is 1.05 to 2.10 ms; bucket -9 is 0.98 to 1.95 ms.
        assert_eq!(native(&[0; 32]), (vec![], vec![]));
    }
}
