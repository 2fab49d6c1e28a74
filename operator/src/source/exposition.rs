//! Reads one histogram, requests in flight, refused requests, CPU and what replicas share from Prometheus' text format (0.0.4).
//!
//! Lenient on order and on everything it is not asked for; strict on the numbers it returns. It takes the text as it comes and keeps
//! only what it has added up, so that hundreds of pods may answer at once, whatever they answer.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Read};

use plimsoll_core::histogram::Rejection;

use super::tally::{Counts, STATUS_LABELS, Tally, float};

/// Longest line that is read; a series with twenty labels takes about one kB. Longer ones that are not asked for are passed over.
const LINE_BYTES_MAX: usize = 16 << 10;

/// An exposition that comes in pieces. Of the histogram the series that have all of `chosen` are summed, the others left out.
///
/// An exposition that declares the histogram, or that has requests in flight or refused, but no bucket of it, is that of a
/// pod that has served nothing yet.
#[derive(Debug)]
pub struct Reader<'a> {
    histogram: &'a str,
    chosen: &'a BTreeMap<String, String>,
    tally: Tally,
    /// The histogram's type was told.
    declared: bool,
    /// A bucket of the histogram had not all of the chosen labels.
    left_out: bool,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// The end has not come of a line that is too long, and not asked for.
    passing_over: bool,
    rejected: Option<Rejection>,
}

impl<'a> Reader<'a> {
    /// Nothing has come yet of an exposition with this histogram.
    pub fn new(histogram: &'a str, chosen: &'a BTreeMap<String, String>) -> Self {
        Self {
            histogram,
            chosen,
            tally: Tally::default(),
            declared: false,
            left_out: false,
            begun: Vec::new(),
            passing_over: false,
            rejected: None,
        }
    }

    /// Reads the next piece, which may end within a line. After what is no exposition all is passed over.
    pub fn take(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && self.rejected.is_none() {
            self.rejected = self.take_line(&mut piece).err();
        }
        if self.rejected.is_some() {
            self.begun = Vec::new();
        }
    }

    /// What was added up.
    ///
    /// # Errors
    /// [`Rejection::NotExposition`] for another format, [`Rejection::HistogramMissing`], [`Rejection::LabelsMissing`], and those
    /// of [`Snapshot::new`](plimsoll_core::histogram::Snapshot::new).
    pub fn finish(mut self) -> Result<Counts, Rejection> {
        if let Some(rejection) = self.rejected {
            return Err(rejection);
        }
        self.end_line()?;
        let Self { tally, declared, left_out, .. } = self;
        if left_out && !tally.has_buckets() {
            return Err(Rejection::LabelsMissing);
        }
        if !tally.has_buckets() && !declared && !tally.tells_requests() {
            return Err(Rejection::HistogramMissing);
        }
        tally.counts()
    }

    /// Takes what a piece has of the line at hand.
    fn take_line(&mut self, piece: &mut &[u8]) -> Result<(), Rejection> {
        // Reading from memory does not fail.
        let failed = |_| Rejection::NotExposition;
        if self.passing_over {
            let before = *piece;
            let passed = piece.skip_until(b'\n').map_err(failed)?;
            self.passing_over = !before[..passed].ends_with(b"\n");
            return Ok(());
        }
        let room = LINE_BYTES_MAX - self.begun.len();
        Read::take(&mut *piece, room as u64).read_until(b'\n', &mut self.begun).map_err(failed)?;
        if self.begun.ends_with(b"\n") {
            return self.end_line();
        }
        if self.begun.len() == LINE_BYTES_MAX {
            if self.begun_is_wanted()? {
                return Err(Rejection::NotExposition);
            }
            self.begun.clear();
            self.passing_over = true;
        }
        Ok(())
    }

    /// Whether the line of which only the beginning is known is asked for.
    fn begun_is_wanted(&self) -> Result<bool, Rejection> {
        let end = self.begun.iter().position(|byte| *byte == b'{' || byte.is_ascii_whitespace());
        let name = std::str::from_utf8(&self.begun[..end.ok_or(Rejection::NotExposition)?]);
        Ok(self.wants(name.map_err(|_| Rejection::NotExposition)?))
    }

    fn wants(&self, name: &str) -> bool {
        self.is_bucket(name) || Tally::takes(name) || Tally::takes_shared(name)
    }

    fn is_bucket(&self, name: &str) -> bool {
        name.strip_suffix("_bucket") == Some(self.histogram)
    }

    fn end_line(&mut self) -> Result<(), Rejection> {
        let mut line = std::mem::take(&mut self.begun);
        self.read(std::str::from_utf8(&line).map_err(|_| Rejection::NotExposition)?.trim())?;
        line.clear();
        self.begun = line;
        Ok(())
    }

    fn read(&mut self, line: &str) -> Result<(), Rejection> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            self.declared |= words.next() == Some("TYPE")
                && words.next() == Some(self.histogram)
                && words.next() == Some("histogram");
            return Ok(());
        }
        let name_end =
            line.find(|c: char| c == '{' || c.is_ascii_whitespace()).ok_or(Rejection::NotExposition)?;
        let (name, rest) = line.split_at(name_end);
        if !self.wants(name) {
            return Ok(());
        }
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(labels) => Labels::read(labels, self.chosen)?,
            None => (Labels::default(), rest),
        };
        let value = number(rest)?;
        if Tally::takes_shared(name) {
            self.tally.shared(name, labels.layer, labels.result, value);
        } else if !self.is_bucket(name) {
            self.tally.scalar(name, value);
        } else if labels.chosen < self.chosen.len() {
            self.left_out = true;
        } else {
            let edge = float(labels.edge.ok_or(Rejection::NotExposition)?).ok_or(Rejection::NotExposition)?;
            self.tally.bucket(edge, labels.status, value);
        }
        Ok(())
    }
}

/// The labels of a series that matter, as they stand there.
#[derive(Default)]
struct Labels<'a> {
    edge: Option<&'a str>,
    status: Option<&'a str>,
    /// Layer of a cache, and what a look-up in it found.
    layer: Option<&'a str>,
    result: Option<&'a str>,
    /// How many labels are those that were chosen.
    chosen: usize,
}

impl<'a> Labels<'a> {
    /// Goes over `name="value",…}` and returns the labels and what follows the brace.
    fn read(mut text: &'a str, chosen: &BTreeMap<String, String>) -> Result<(Self, &'a str), Rejection> {
        let mut labels = Self::default();
        loop {
            text = text.trim_start_matches([' ', '\t', ',']);
            if let Some(after) = text.strip_prefix('}') {
                return Ok((labels, after));
            }
            let (name, quoted) = text.split_once('=').ok_or(Rejection::NotExposition)?;
            let quoted = quoted.trim_start().strip_prefix('"').ok_or(Rejection::NotExposition)?;
            let end = closing_quote(quoted).ok_or(Rejection::NotExposition)?;
            let (name, value) = (name.trim(), &quoted[..end]);
            match name {
                "le" => labels.edge = Some(value),
                "layer" => labels.layer = Some(value),
                "result" => labels.result = Some(value),
                name if STATUS_LABELS.contains(&name) => labels.status = Some(value),
                _ => {}
            }
            if chosen.get(name).is_some_and(|wanted| unescaped(value, wanted)) {
                labels.chosen += 1;
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

/// Whether a value, as it stands there, is this text.
fn unescaped(value: &str, text: &str) -> bool {
    let mut characters = value.chars();
    let plain = std::iter::from_fn(|| match characters.next()? {
        '\\' => match characters.next()? {
            'n' => Some('\n'),
            other => Some(other),
        },
        other => Some(other),
    });
    plain.eq(text.chars())
}

/// The value of a sample; a timestamp may follow it.
fn number(rest: &str) -> Result<f64, Rejection> {
    rest.split_ascii_whitespace().next().and_then(float).ok_or(Rejection::NotExposition)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use plimsoll_core::engine::Cpu;
    use plimsoll_core::histogram::{EDGES_MAX, Snapshot};
    use plimsoll_core::shared::Shared;

    use super::*;

    fn parse_chosen(text: &str, chosen: &BTreeMap<String, String>) -> Result<Counts, Rejection> {
        let mut reader = Reader::new(NAME, chosen);
        reader.take(text.as_bytes());
        reader.finish()
    }

    fn parse(text: &str) -> Result<Counts, Rejection> {
        parse_chosen(text, &BTreeMap::new())
    }

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
        let snapshot = parse(EXPOSITION).unwrap().snapshot;
        let delta = snapshot.since(&Snapshot::default());
        assert_eq!(
            (delta.total, delta.slower_than(Duration::from_millis(100)), delta.shed),
            (12.0, 4.0, 4.0)
        );
        assert_eq!(snapshot.in_flight, Some(3.0));
    }

    #[test]
    fn a_declared_histogram_without_series_is_a_pod_that_served_nothing() {
        let declared = parse("# TYPE http_request_duration_seconds histogram\n").unwrap();
        assert_eq!(declared, Counts { snapshot: Snapshot::default(), cpu: None });
        assert!(parse("http_requests_in_flight 0\n").is_ok());
        assert_eq!(parse("up 1\n"), Err(Rejection::HistogramMissing));
        assert_eq!(parse(""), Err(Rejection::HistogramMissing));
    }

    #[test]
    fn only_series_with_the_chosen_labels_are_counted() {
        let total = |labels: &[(&str, &str)]| {
            let chosen = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            parse_chosen(EXPOSITION, &chosen).map(|counts| counts.snapshot.since(&Snapshot::default()).total)
        };
        assert_eq!(total(&[("route", "/posts/{id}")]), Ok(10.0));
        assert_eq!(total(&[("route", "/posts/{id}"), ("status", "200")]), Ok(10.0));
        assert_eq!(total(&[("status", "404")]), Ok(2.0));
        // The value is what the escapes stand for.
        assert_eq!(total(&[("route", "a\"}\\")]), Ok(2.0));
        assert_eq!(total(&[("route", "/posts/{id}"), ("status", "404")]), Err(Rejection::LabelsMissing));
        assert_eq!(total(&[("handler", "/api")]), Err(Rejection::LabelsMissing));
        let nothing_served = parse_chosen(
            "# TYPE http_request_duration_seconds histogram\n",
            &[("handler".into(), "/api".into())].into(),
        );
        assert!(nothing_served.is_ok());
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
            parse(&text).unwrap().snapshot.since(&Snapshot::default()).failed
        };
        for label in STATUS_LABELS {
            assert_eq!(failed(label).to_string(), "3", "{label}");
        }
        assert_eq!(failed("route").to_string(), "0");
    }

    #[test]
    fn cpu_is_that_of_the_cgroup_or_else_of_the_process() {
        let cpu = |text: &str| parse(&format!("http_requests_in_flight 0\n{text}")).unwrap().cpu;
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
            |text: &str| parse(&format!("http_requests_in_flight 0\n{text}")).unwrap().snapshot.shared;
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
            // Each counts, and not only their sum.
            (bucket("+Inf", "-1") + &bucket("+Inf", "5"), Rejection::InvalidCount),
            (bucket("+Inf", "+Inf") + &bucket("+Inf", "5"), Rejection::InvalidCount),
            ("<html>".into(), Rejection::NotExposition),
        ];
        for (text, rejection) in cases {
            assert_eq!(parse(&text), Err(rejection), "{text}");
        }
    }

    /// Reads a line that begins so and goes on for 400 kB, and then the exposition.
    fn parse_after_a_long_line(beginning: &str) -> Result<Counts, Rejection> {
        let nothing_chosen = BTreeMap::new();
        let mut reader = Reader::new(NAME, &nothing_chosen);
        reader.take(beginning.as_bytes());
        for _ in 0..100 {
            reader.take(&[b'a'; 4096]);
            assert!(reader.begun.capacity() <= 2 * LINE_BYTES_MAX, "{}", reader.begun.capacity());
        }
        reader.take(b"\"} 1\n");
        reader.take(EXPOSITION.as_bytes());
        reader.finish()
    }

    #[test]
    fn a_long_line_is_not_kept_and_matters_only_where_it_is_asked_for() {
        for beginning in ["# HELP other ", "other_metric{statement=\""] {
            assert_eq!(parse_after_a_long_line(beginning), parse(EXPOSITION), "{beginning}");
        }
        let asked_for = format!("{NAME}_bucket{{route=\"");
        for beginning in ["a", asked_for.as_str(), "http_requests_in_flight "] {
            assert_eq!(parse_after_a_long_line(beginning), Err(Rejection::NotExposition), "{beginning}");
        }
    }

    #[test]
    fn edges_without_end_are_not_kept() {
        let nothing_chosen = BTreeMap::new();
        let mut reader = Reader::new(NAME, &nothing_chosen);
        for edge in 0..100_000 {
            reader.take(format!("{NAME}_bucket{{le=\"{edge}\"}} 1\n").as_bytes());
        }
        assert!(reader.tally.buckets_kept() <= EDGES_MAX + 1, "{}", reader.tally.buckets_kept());
        assert_eq!(reader.finish(), Err(Rejection::TooManyBuckets));
    }

    proptest! {
        #[test]
        fn pieces_tell_what_the_whole_does(lengths in proptest::collection::vec(1..200_usize, 1..20)) {
            let nothing_chosen = BTreeMap::new();
            let mut reader = Reader::new(NAME, &nothing_chosen);
            let mut rest = EXPOSITION.as_bytes();
            for length in lengths.into_iter().cycle() {
                let (piece, after) = rest.split_at(length.min(rest.len()));
                reader.take(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(reader.finish(), parse(EXPOSITION));
        }

        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_a_damaged_exposition(at in 0..EXPOSITION.len(), piece in "[\"\\\\{}=,# \\n+a-z0-9é]{0,6}") {
            let mut text = EXPOSITION.to_owned();
            text.insert_str(at, &piece);
            let _ = parse(&text);
            let _ = parse(&EXPOSITION[at..]);
        }
    }
}
