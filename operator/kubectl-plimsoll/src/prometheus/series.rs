//! From the answers to a history: one series, its gaps told, and nothing taken for a load that is none.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use jiff::SignedDuration;
use plimsoll_simulator::Trace;

use super::answer::{Answer, Series};
use super::range::Range;
use crate::history::History;

/// Share of the points between the first and the last that may be missing.
const MISSING_MAX: f64 = 0.1;
/// Series that an error shows.
const SHOWN: usize = 3;

/// Puts the parts together.
///
/// # Errors
/// When there is no series or more than one, when it holds what no load is, or when too much of it is missing; with what
/// to write.
pub fn history(query: &str, range: Range, parts: Vec<Answer>) -> Result<History> {
    let mut notes: Vec<String> = Vec::new();
    let mut labels: Vec<BTreeMap<String, String>> = Vec::new();
    let mut points: Vec<(i64, f64)> = Vec::new();
    let mut nan = 0_usize;
    for Answer { series, warnings } in parts {
        for note in warnings.iter().map(|warning| format!("Prometheus says: {warning}")) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        for Series { metric, values, .. } in series {
            if !labels.contains(&metric) {
                labels.push(metric);
            }
            for (second, value) in values {
                let second = second.round() as i64;
                match value.parse::<f64>() {
                    Ok(rate) if rate.is_nan() => nan += 1,
                    Ok(rate) if rate.is_finite() && rate >= 0.0 => points.push((second, rate)),
                    Ok(_) | Err(_) => bail!(
                        "at {} the query gives {value}; requests per second are 0 or more, such as of sum(rate(http_request_duration_seconds_count[1m]))",
                        Range::time(second)
                    ),
                }
            }
        }
    }
    if labels.len() > 1 {
        let shown: Vec<String> = labels.iter().take(SHOWN).map(show).collect();
        bail!(
            "the query gives {} series, such as {}; add them up: --query 'sum({query})'",
            labels.len(),
            shown.join(" and ")
        );
    }
    let (from, to) = (Range::time(range.start), Range::time(range.end));
    let [(first, _), .., (last, _)] = points[..] else {
        if points.is_empty() && nan == 0 {
            bail!(
                "the query gives nothing from {from} to {to}; are the metric's name and its labels right, and does the server keep data for so long?"
            );
        }
        bail!(
            "of {} points from {from} to {to} the query gives {} and {nan} that are no number; write an earlier --from, or a query that does not divide by zero",
            range.points(),
            points.len()
        );
    };
    notes.extend(cut(range, first, last));
    notes.extend(gaps(query, range, &points)?);
    let rates = points.iter().map(|&(second, rate)| ((second - first) as f64, rate)).collect();
    let span = Duration::from_secs((last - first + range.step).unsigned_abs());
    let trace = Trace::from_points(rates).clipped(Duration::ZERO, span);
    History::new("the query's answer", trace, Some(Range::time(first)), notes)
}

/// What lies before the first point and after the last.
fn cut(range: Range, first: i64, last: i64) -> Option<String> {
    let ends = range.start + (range.points() - 1) * range.step;
    (first > range.start || last < ends).then(|| {
        format!(
            "there is no load before {} and none after {}: the history is shorter than was asked for",
            Range::time(first),
            Range::time(last)
        )
    })
}

/// What is missing between the points.
fn gaps(query: &str, range: Range, points: &[(i64, f64)]) -> Result<Option<String>> {
    let missing = |pair: &[(i64, f64)]| (pair[0].0, pair[1].0 - pair[0].0 - range.step);
    let gaps: Vec<(i64, i64)> = points.windows(2).map(missing).filter(|gap| gap.1 > 0).collect();
    let Some(&(begin, longest)) = gaps.iter().max_by_key(|gap| gap.1) else { return Ok(None) };
    let all = gaps.iter().map(|gap| gap.1).sum::<i64>();
    let span = points[points.len() - 1].0 - points[0].0;
    let show = |seconds: i64| format!("{:#}", SignedDuration::from_secs(seconds));
    let (at, longest) = (Range::time(begin), show(longest));
    ensure!(
        all as f64 <= MISSING_MAX * span as f64,
        "of {} {} are missing or no number, the longest gap {longest} after {at}; choose --from and --to beside it, or, where no number means no request, write --query 'sum(({query}) >= 0) or vector(0)'",
        show(span),
        show(all)
    );
    Ok(Some(format!(
        "{} gaps, {} in all, the longest {longest} after {at}: the load before each is taken to go on through it",
        gaps.len(),
        show(all)
    )))
}

/// Labels as Prometheus writes them.
fn show(labels: &BTreeMap<String, String>) -> String {
    let name = labels.get("__name__").map_or("", String::as_str);
    let pairs = labels.iter().filter(|(label, _)| *label != "__name__");
    let pairs: Vec<String> = pairs.map(|(label, value)| format!("{label}={value:?}")).collect();
    format!("{name}{{{}}}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = "rate(http_requests_total[1m])";
    const RANGE: Range = Range { start: 1000, end: 1600, step: 15 };

    fn series(code: &str, values: &[(i64, &str)]) -> Series {
        let metric = BTreeMap::from([("__name__".into(), "load".into()), ("code".into(), code.into())]);
        let values = values.iter().map(|&(second, value)| (second as f64, value.to_owned())).collect();
        Series { metric, values, ..Series::default() }
    }

    fn told(series: Vec<Series>) -> Result<History> {
        history(QUERY, RANGE, vec![Answer { series, warnings: Vec::new() }])
    }

    #[track_caller]
    fn fails(series: Vec<Series>, expected: &[&str]) {
        let error = told(series).unwrap_err().to_string();
        for expected in expected {
            assert!(error.contains(expected), "{expected}\n{error}");
        }
    }

    /// Points from 1000 to 1600, without those that are left out.
    fn but(left_out: impl Fn(i64) -> bool) -> Vec<(i64, &'static str)> {
        (0..=40).map(|point| 1000 + 15 * point).filter(|at| !left_out(*at)).map(|at| (at, "20.5")).collect()
    }

    #[test]
    fn a_whole_series_is_read_without_a_note() {
        let history = told(vec![series("200", &but(|_| false))]).unwrap();
        assert_eq!(history.started, Some(Range::time(1000)));
        assert_eq!(history.trace.duration(), Duration::from_secs(615));
        assert!((history.trace.mean() - 20.5).abs() < 1e-9);
        assert!(history.notes.is_empty(), "{:?}", history.notes);
    }

    #[test]
    fn parts_of_the_same_series_are_one_history() {
        let [early, late] = [|at| at > 1300, |at| at <= 1300].map(|out: fn(i64) -> bool| Answer {
            series: vec![series("200", &but(out))],
            warnings: vec!["a store is down".into()],
        });
        let history = history(QUERY, RANGE, vec![early, late]).unwrap();
        assert_eq!(history.trace.duration(), Duration::from_secs(615));
        assert_eq!(history.notes, ["Prometheus says: a store is down"]);
    }

    #[test]
    fn several_series_are_refused_with_the_sum_to_write() {
        let expected = [
            "the query gives 2 series, such as load{code=\"200\"} and load{code=\"500\"}",
            "add them up: --query 'sum(rate(http_requests_total[1m]))'",
        ];
        fails(vec![series("200", &but(|_| false)), series("500", &but(|_| false))], &expected);
        // Also when they come one after the other, as those of two pods do.
        let part = |code, out: fn(i64) -> bool| Answer {
            series: vec![series(code, &but(out))],
            warnings: Vec::new(),
        };
        let error = history(QUERY, RANGE, vec![part("200", |at| at > 1300), part("500", |at| at < 1300)])
            .unwrap_err();
        assert!(error.to_string().contains(expected[0]), "{error}");
    }

    #[test]
    fn what_no_load_is_is_refused_with_its_time() {
        for value in ["-1", "+Inf", "many"] {
            let expected = [format!("at 1970-01-01T00:16:55Z the query gives {value}; requests per second")];
            fails(
                vec![series("200", &[(1000, "5"), (1015, value)])],
                &expected.each_ref().map(String::as_str),
            );
        }
    }

    #[test]
    fn nothing_and_next_to_nothing_are_refused() {
        fails(
            vec![],
            &["gives nothing from 1970-01-01T00:16:40Z to 1970-01-01T00:26:40Z", "name and its labels"],
        );
        fails(
            vec![series("200", &[(1000, "NaN"), (1015, "NaN")])],
            &["of 41 points", "gives 0 and 2 that are no number"],
        );
        fails(
            vec![series("200", &[(1000, "5")])],
            &["gives 1 and 0 that are no number", "write an earlier --from"],
        );
        fails(vec![series("200", &[(1000, "0"), (1015, "0")])], &["its load is 0 throughout"]);
    }

    #[test]
    fn a_short_gap_is_bridged_and_told_and_no_number_is_one() {
        let mut values = but(|at| (1150..1180).contains(&at));
        values[1].1 = "NaN";
        let history = told(vec![series("200", &values)]).unwrap();
        assert_eq!(history.trace.duration(), Duration::from_secs(615));
        assert!((history.trace.rate(160.0) - 20.5).abs() < 1e-9);
        let note = "2 gaps, 45s in all, the longest 30s after 1970-01-01T00:18:55Z: the load before each";
        assert!(history.notes[0].starts_with(note), "{:?}", history.notes);
    }

    #[test]
    fn too_many_gaps_are_refused_with_what_to_write() {
        fails(
            vec![series("200", &but(|at| (1150..1300).contains(&at)))],
            &[
                "of 10m 2m 30s are missing or no number, the longest gap 2m 30s after 1970-01-01T00:18:55Z",
                "write --query 'sum((rate(http_requests_total[1m])) >= 0) or vector(0)'",
            ],
        );
    }

    #[test]
    fn a_series_that_begins_late_or_ends_early_is_told() {
        let history = told(vec![series("200", &but(|at| at < 1100))]).unwrap();
        assert_eq!(history.started, Some(Range::time(1105)));
        assert!(
            history.notes[0].starts_with("there is no load before 1970-01-01T00:18:25Z"),
            "{:?}",
            history.notes
        );
    }
}
