//! Reads one histogram, requests in flight and refused requests from Prometheus' text format (0.0.4).
//!
//! Lenient on order and on everything it is not asked for; strict on the numbers it returns. It copies no text.

use plimsoll_core::histogram::{Rejection, Snapshot};

/// Gauge of requests being served; used when present.
const IN_FLIGHT: &str = "http_requests_in_flight";
/// Counter of requests refused because of load; used when present.
const SHED: &str = "http_requests_shed_total";

/// Reads `histogram` from an exposition. Series that differ in labels are summed.
///
/// An exposition that declares the histogram, or that has the other two metrics, but no bucket of it, is that of a pod
/// that has served nothing yet.
///
/// # Errors
/// [`Rejection::NotExposition`] for another format, [`Rejection::HistogramMissing`], and those of [`Snapshot::new`].
pub fn parse(text: &str, histogram: &str) -> Result<Snapshot, Rejection> {
    let mut buckets = Vec::new();
    let (mut in_flight, mut shed) = (None, None);
    let mut declared = false;
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
        if !is_bucket && name != IN_FLIGHT && name != SHED {
            continue;
        }
        let (edge, value) = if let Some(labels) = rest.strip_prefix('{') {
            let (edge, after) = edge_of(labels)?;
            (edge, number(after)?)
        } else {
            (None, number(rest)?)
        };
        match name {
            IN_FLIGHT => *in_flight.get_or_insert(0.0) += value,
            SHED => *shed.get_or_insert(0.0) += value,
            _ => {
                let edge = edge.ok_or(Rejection::NotExposition)?;
                buckets.push((float(edge)?, value));
            }
        }
    }
    if buckets.is_empty() && !declared && in_flight.is_none() && shed.is_none() {
        return Err(Rejection::HistogramMissing);
    }
    Snapshot::new(buckets, in_flight, shed)
}

/// Goes over `name="value",…}` and returns the value of `le` and what follows the brace.
fn edge_of(mut labels: &str) -> Result<(Option<&str>, &str), Rejection> {
    let mut edge = None;
    loop {
        labels = labels.trim_start_matches([' ', '\t', ',']);
        if let Some(after) = labels.strip_prefix('}') {
            return Ok((edge, after));
        }
        let (name, quoted) = labels.split_once('=').ok_or(Rejection::NotExposition)?;
        let quoted = quoted.trim_start().strip_prefix('"').ok_or(Rejection::NotExposition)?;
        let end = closing_quote(quoted).ok_or(Rejection::NotExposition)?;
        if name.trim() == "le" {
            edge = Some(&quoted[..end]);
        }
        labels = &quoted[end + 1..];
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
        let snapshot = parse(EXPOSITION, NAME).unwrap();
        let delta = snapshot.since(&Snapshot::default());
        assert_eq!(
            (delta.total, delta.slower_than(Duration::from_millis(100)), delta.shed),
            (12.0, 4.0, 4.0)
        );
        assert_eq!(snapshot.in_flight, Some(3.0));
    }

    #[test]
    fn a_declared_histogram_without_series_is_a_pod_that_served_nothing() {
        assert_eq!(parse("# TYPE http_request_duration_seconds histogram\n", NAME), Ok(Snapshot::default()));
        assert!(parse("http_requests_in_flight 0\n", NAME).is_ok());
        assert_eq!(parse("up 1\n", NAME), Err(Rejection::HistogramMissing));
        assert_eq!(parse("", NAME), Err(Rejection::HistogramMissing));
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
