//! Reads one histogram, requests in flight, refused requests and CPU from Prometheus' text format (0.0.4).
//!
//! Lenient on order and on everything it is not asked for; strict on the numbers it returns. It copies no text.

use plimsoll_core::engine::Cpu;
use plimsoll_core::histogram::{Rejection, Snapshot};
use plimsoll_core::shared::Shared;

/// Gauge of requests being served; used when present.
const IN_FLIGHT: &str = "http_requests_in_flight";
/// Counter of requests refused because of load; used when present.
const SHED: &str = "http_requests_shed_total";

/// Labels by which a histogram tells the status of its requests, by custom and by OpenTelemetry's conventions; one is used
/// when present.
const STATUS_LABELS: [&str; 4] = ["status", "code", "status_code", "http_response_status_code"];
/// CPU seconds of the pod's cgroup; of the process alone, as Prometheus' client libraries tell them, when there is none.
const CPU_CGROUP: &str = "cgroup_cpu_usage_seconds_total";
const CPU_PROCESS: &str = "process_cpu_seconds_total";
/// CPUs that the cgroup may use; used when present.
const CPU_QUOTA: &str = "cgroup_cpu_quota_cores";
/// Periods of the CPU quota in which the cgroup ran, and those in which it was throttled; used when present.
const CPU_PERIODS: &str = "cgroup_cpu_periods_total";
const CPU_THROTTLED: &str = "cgroup_cpu_throttled_periods_total";

/// Look-ups in the layers of the cache, by what they found; those of the shared layer are used when present.
const CACHE_REQUESTS: &str = "cache_requests_total";
/// Connections that the database server takes; used when present.
const DATABASE_MAX: &str = "database_server_connections_max";

/// What an exposition says.
#[derive(Clone, Debug, PartialEq)]
pub struct Exposition {
    /// The histogram, and what goes with it.
    pub snapshot: Snapshot,
    /// CPU, if it is told.
    pub cpu: Option<Cpu>,
}

/// Numbers that have no labels that matter.
#[derive(Default)]
struct Scalars {
    in_flight: Option<f64>,
    shed: Option<f64>,
    cpu_cgroup: Option<f64>,
    cpu_process: Option<f64>,
    cpu_quota: Option<f64>,
    cpu_periods: Option<f64>,
    cpu_throttled: Option<f64>,
    cache_hits: Option<f64>,
    cache_misses: Option<f64>,
    /// Look-ups that are not used.
    cache_other: Option<f64>,
    database_max: Option<f64>,
}

impl Scalars {
    fn slot(&mut self, name: &str, labels: &Labels<'_>) -> Option<&mut Option<f64>> {
        Some(match name {
            CACHE_REQUESTS => match (labels.layer, labels.result) {
                (Some("redis"), Some("hit")) => &mut self.cache_hits,
                (Some("redis"), Some("miss")) => &mut self.cache_misses,
                _ => &mut self.cache_other,
            },
            DATABASE_MAX => &mut self.database_max,
            IN_FLIGHT => &mut self.in_flight,
            SHED => &mut self.shed,
            CPU_CGROUP => &mut self.cpu_cgroup,
            CPU_PROCESS => &mut self.cpu_process,
            CPU_QUOTA => &mut self.cpu_quota,
            CPU_PERIODS => &mut self.cpu_periods,
            CPU_THROTTLED => &mut self.cpu_throttled,
            _ => return None,
        })
    }

    fn shared(&self) -> Shared {
        Shared {
            cache_hits: sane(self.cache_hits),
            cache_misses: sane(self.cache_misses),
            database_connections_max: sane(self.database_max),
        }
    }

    /// A number that makes no sense is as good as none: nothing depends on CPU alone.
    fn cpu(&self) -> Option<Cpu> {
        Some(Cpu {
            used_seconds: sane(self.cpu_cgroup).or(sane(self.cpu_process))?,
            limit_cores: sane(self.cpu_quota).filter(|cores| *cores > 0.0),
            periods: sane(self.cpu_periods).unwrap_or(0.0),
            throttled_periods: sane(self.cpu_throttled).unwrap_or(0.0),
        })
    }
}

fn sane(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value >= 0.0)
}

/// Reads `histogram` from an exposition. Series that differ in labels are summed.
///
/// An exposition that declares the histogram, or that has the other two metrics, but no bucket of it, is that of a pod
/// that has served nothing yet.
///
/// # Errors
/// [`Rejection::NotExposition`] for another format, [`Rejection::HistogramMissing`], and those of [`Snapshot::new`].
pub fn parse(text: &str, histogram: &str) -> Result<Exposition, Rejection> {
    let mut buckets = Vec::new();
    let mut scalars = Scalars::default();
    let (mut failed, mut declared) = (None, false);
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            continue;
        }
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            declared |= words.next() == Some("TYPE")
                && words.next() == Some(histogram)
                && words.next() == Some("histogram");
            continue;
        }
        let name_end =
            line.find(|c: char| c == '{' || c.is_ascii_whitespace()).ok_or(Rejection::NotExposition)?;
        let (name, rest) = line.split_at(name_end);
        let is_bucket = name.strip_suffix("_bucket") == Some(histogram);
        if !is_bucket && scalars.slot(name, &Labels::default()).is_none() {
            continue;
        }
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(labels) => Labels::read(labels)?,
            None => (Labels::default(), rest),
        };
        let value = number(rest)?;
        if let Some(scalar) = scalars.slot(name, &labels) {
            *scalar.get_or_insert(0.0) += value;
        } else {
            let edge = float(labels.edge.ok_or(Rejection::NotExposition)?)?;
            if let Some(status) = labels.status.filter(|_| edge == f64::INFINITY) {
                *failed.get_or_insert(0.0) += if status.starts_with('5') { value } else { 0.0 };
            }
            buckets.push((edge, value));
        }
    }
    if buckets.is_empty() && !declared && scalars.in_flight.is_none() && scalars.shed.is_none() {
        return Err(Rejection::HistogramMissing);
    }
    let mut snapshot = Snapshot::new(buckets, scalars.in_flight, scalars.shed)?;
    snapshot.shared = scalars.shared();
    let snapshot = match failed {
        Some(failed) => snapshot.with_failed(failed)?,
        None => snapshot,
    };
    Ok(Exposition { snapshot, cpu: scalars.cpu() })
}

/// The labels of a series that matter, as they stand there.
#[derive(Default)]
struct Labels<'a> {
    edge: Option<&'a str>,
    status: Option<&'a str>,
    layer: Option<&'a str>,
    result: Option<&'a str>,
}

impl<'a> Labels<'a> {
    /// Goes over `name="value",…}` and returns the labels and what follows the brace.
    fn read(mut text: &'a str) -> Result<(Self, &'a str), Rejection> {
        let mut labels = Self::default();
        loop {
            text = text.trim_start_matches([' ', '\t', ',']);
            if let Some(after) = text.strip_prefix('}') {
                return Ok((labels, after));
            }
            let (name, quoted) = text.split_once('=').ok_or(Rejection::NotExposition)?;
            let quoted = quoted.trim_start().strip_prefix('"').ok_or(Rejection::NotExposition)?;
            let end = closing_quote(quoted).ok_or(Rejection::NotExposition)?;
            match name.trim() {
                "le" => labels.edge = Some(&quoted[..end]),
                "layer" => labels.layer = Some(&quoted[..end]),
                "result" => labels.result = Some(&quoted[..end]),
                name if STATUS_LABELS.contains(&name) => labels.status = Some(&quoted[..end]),
                _ => {}
            }
            text = &quoted[end + 1..];
        }
    }
}

/// Place of the first quote that no backslash escapes.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(place),
            _ => {}
        }
    }
    None
}

/// The value of a sample; a timestamp may follow it.
fn number(rest: &str) -> Result<f64, Rejection> {
    float(rest.split_ascii_whitespace().next().ok_or(Rejection::NotExposition)?)
}

/// Go's forms of a float, which are Rust's but for the sign of infinity.
fn float(text: &str) -> Result<f64, Rejection> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        text => text.parse().map_err(|_| Rejection::NotExposition),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "http_request_duration_seconds";

    const EXPOSITION: &str = r#"
# HELP http_request_duration_seconds Duration of requests.
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{route="/posts/{id}",status="200",le="+Inf"} 10
http_request_duration_seconds_bucket{route="/posts/{id}",status="200",le="0.1"} 7 1700000000000
http_request_duration_seconds_bucket{route="a\"}\\",status="404",le="0.1"} 1
http_request_duration_seconds_bucket{route="a\"}\\",status="404",le="+Inf"} 2
http_request_duration_seconds_sum{route="/posts/{id}",status="200"} 1.5
http_request_duration_seconds_count{route="/posts/{id}",status="200"} 10
http_requests_in_flight 3
http_requests_shed_total{reason="queue"} 4
other_metric{le="0.1"} NaN
"#;

    #[test]
    fn sums_series_whatever_their_order_and_labels() {
        let snapshot = parse(EXPOSITION, NAME).unwrap().snapshot;
        let delta = snapshot.since(&Snapshot::default());
        assert_eq!(
            (delta.total, delta.slower_than(Duration::from_millis(100)), delta.shed),
            (12.0, 4.0, 4.0)
        );
        assert_eq!(snapshot.in_flight, Some(3.0));
    }

    #[test]
    fn a_declared_histogram_without_series_is_a_pod_that_served_nothing() {
        let declared = parse("# TYPE http_request_duration_seconds histogram\n", NAME).unwrap();
        assert_eq!(declared, Exposition { snapshot: Snapshot::default(), cpu: None });
        assert!(parse("http_requests_in_flight 0\n", NAME).is_ok());
        assert_eq!(parse("up 1\n", NAME), Err(Rejection::HistogramMissing));
        assert_eq!(parse("", NAME), Err(Rejection::HistogramMissing));
    }

    #[test]
    fn errors_of_the_server_are_counted_where_the_status_is_told() {
        let failed = |label: &str| {
            let series = |status: &str, count: u32| {
                format!(
                    "{NAME}_bucket{{{label}=\"{status}\",le=\"0.1\"}} 0\n\
                         {NAME}_bucket{{le=\"+Inf\",{label}=\"{status}\"}} {count}\n"
                )
            };
            let text = series("200", 90) + &series("404", 7) + &series("500", 2) + &series("503", 1);
            parse(&text, NAME).unwrap().snapshot.since(&Snapshot::default()).failed
        };
        for label in STATUS_LABELS {
            assert_eq!(failed(label).to_string(), "3", "{label}");
        }
        assert_eq!(failed("route").to_string(), "0");
    }

    #[test]
    fn cpu_is_that_of_the_cgroup_or_else_of_the_process() {
        let cpu = |text: &str| parse(&format!("http_requests_in_flight 0\n{text}"), NAME).unwrap().cpu;
        let process = "process_cpu_seconds_total 7\n";
        let of_process = Cpu { used_seconds: 7.0, limit_cores: None, periods: 0.0, throttled_periods: 0.0 };
        assert_eq!(cpu(process), Some(of_process));
        let cgroup = "cgroup_cpu_usage_seconds_total 9\ncgroup_cpu_quota_cores 0.5\ncgroup_cpu_periods_total 40\n\
                      cgroup_cpu_throttled_periods_total 3\n";
        let of_cgroup =
            Cpu { used_seconds: 9.0, limit_cores: Some(0.5), periods: 40.0, throttled_periods: 3.0 };
        assert_eq!(cpu(&format!("{process}{cgroup}")), Some(of_cgroup));
        for nothing in ["", "process_cpu_seconds_total NaN\n", "cgroup_cpu_usage_seconds_total -1\n"] {
            assert_eq!(cpu(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn what_replicas_share_is_read_where_it_is_told() {
        let shared =
            |text: &str| parse(&format!("http_requests_in_flight 0\n{text}"), NAME).unwrap().snapshot.shared;
        let text = "cache_requests_total{layer=\"local\",result=\"hit\"} 9\n\
                    cache_requests_total{layer=\"redis\",result=\"hit\"} 5\n\
                    cache_requests_total{result=\"miss\",layer=\"redis\"} 2\n\
                    database_server_connections_max 97\n";
        let told =
            Shared { cache_hits: Some(5.0), cache_misses: Some(2.0), database_connections_max: Some(97.0) };
        assert_eq!(shared(text), told);
        assert_eq!(shared("database_server_connections_max NaN\n"), Shared::default());
    }

    #[test]
    fn broken_numbers_are_rejected_and_never_zero() {
        let bucket = |le: &str, value: &str| format!("{NAME}_bucket{{le=\"{le}\"}} {value}\n");
        let cases = [
            (bucket("+Inf", "NaN"), Rejection::InvalidCount),
            (bucket("+Inf", "-1"), Rejection::InvalidCount),
            (bucket("+Inf", "+Inf"), Rejection::InvalidCount),
            (bucket("NaN", "1"), Rejection::InvalidCount),
            (bucket("+Inf", "many"), Rejection::NotExposition),
            (bucket("0.1", "1"), Rejection::NoInfBucket),
            (bucket("0.1", "2") + &bucket("+Inf", "1"), Rejection::NotMonotone),
            (format!("{NAME}_bucket{{le=\"0.1"), Rejection::NotExposition),
            ("<html>".into(), Rejection::NotExposition),
        ];
        for (text, rejection) in cases {
            assert_eq!(parse(&text, NAME), Err(rejection), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _ = parse(&text, NAME);
        }

        #[test]
        fn never_panics_on_a_damaged_exposition(at in 0..EXPOSITION.len(), piece in "[\"\\\\{}=,# \\n+a-z0-9é]{0,6}") {
            let mut text = EXPOSITION.to_owned();
            text.insert_str(at, &piece);
            let _ = parse(&text, NAME);
            let _ = parse(&EXPOSITION[at..], NAME);
        }
    }
}
