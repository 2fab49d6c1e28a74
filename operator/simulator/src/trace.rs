//! Traces: the offered load over time, read from `second,requests_per_second` lines.

use std::time::Duration;

use serde::Serialize;

/// Offered load over time: from each point on, until the next, that many requests a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trace {
    /// `(second, requests a second)`, ascending; the first is at 0.
    points: Vec<(f64, f64)>,
    seconds: f64,
}

/// Why a trace cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line is not two numbers.
    #[error("{file}:{line}: found {found:?}; write `second,requests_per_second`, such as `60,120.5`")]
    NotNumbers {
        /// The file, as it was named.
        file: String,
        /// Number of the line, from 1.
        line: usize,
        /// The line.
        found: String,
    },
    /// A rate that no load has.
    #[error("{file}:{line}: the rate is {found}; write a finite number of requests a second, 0 or more")]
    Rate {
        /// The file, as it was named.
        file: String,
        /// Number of the line, from 1.
        line: usize,
        /// The rate.
        found: String,
    },
    /// A line that does not come after the one before it.
    #[error("{file}:{line}: second {found} does not come after the line before it; sort the lines by second")]
    Order {
        /// The file, as it was named.
        file: String,
        /// Number of the line, from 1.
        line: usize,
        /// The second.
        found: String,
    },
    /// No line of numbers at all.
    #[error("{file}: it holds no load; write lines of `second,requests_per_second`")]
    Empty {
        /// The file, as it was named.
        file: String,
    },
}

impl Trace {
    /// Reads lines of `second,requests_per_second`; a first line that is not numbers is a header. The last rate holds as
    /// long as the one before it did, a single one for a second. `file` names the text in errors.
    ///
    /// # Errors
    /// [`TraceError`], with the line and what to write.
    pub fn parse(file: &str, csv: &str) -> Result<Self, TraceError> {
        let mut points: Vec<(f64, f64)> = Vec::new();
        for (index, text) in csv.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            let (file, line) = (file.to_owned(), index + 1);
            let number = |field: &str| field.trim().parse::<f64>().ok();
            let fields = text.split_once(',').map(|(second, rate)| (number(second), number(rate)));
            let Some((Some(second), Some(rate))) = fields else {
                if index == 0 {
                    continue;
                }
                return Err(TraceError::NotNumbers { file, line, found: text.to_owned() });
            };
            if !(rate.is_finite() && rate >= 0.0) {
                return Err(TraceError::Rate { file, line, found: rate.to_string() });
            }
            if !second.is_finite() || points.last().is_some_and(|&(last, _)| second <= last) {
                return Err(TraceError::Order { file, line, found: second.to_string() });
            }
            points.push((second, rate));
        }
        if points.is_empty() {
            return Err(TraceError::Empty { file: file.to_owned() });
        }
        Ok(Self::from_points(points))
    }

    /// A trace of `(second, requests a second)`, ascending, each of which holds until the next. The last holds as long as
    /// the one before it did, a single one for a second.
    pub fn from_points(mut points: Vec<(f64, f64)>) -> Self {
        let first = points.first().map_or(0.0, |&(second, _)| second);
        for (second, _) in &mut points {
            *second -= first;
        }
        let last = points.last().map_or(0.0, |&(second, _)| second);
        let gap = points.len().checked_sub(2).map_or(1.0, |index| last - points[index].0);
        Self { points, seconds: last + gap }
    }

    /// A trace with one rate for each second.
    pub fn from_rates(rates: impl IntoIterator<Item = f64>) -> Self {
        let points: Vec<_> = rates
            .into_iter()
            .enumerate()
            .map(|(second, rate)| (second as f64, if rate.is_finite() { rate.max(0.0) } else { 0.0 }))
            .collect();
        let seconds = points.len() as f64;
        Self { points, seconds }
    }

    /// The same curve, `factor` times as high.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        for (_, rate) in &mut self.points {
            *rate *= factor;
        }
        self
    }

    /// The part from `from` on for `span`, beginning at 0.
    #[must_use]
    pub fn clipped(&self, from: Duration, span: Duration) -> Self {
        let (from, until) = (from.as_secs_f64(), (from + span).as_secs_f64().min(self.seconds));
        let mut points = vec![(0.0, self.rate(from))];
        points.extend(
            self.points
                .iter()
                .filter(|&&(second, _)| second > from && second < until)
                .map(|&(second, rate)| (second - from, rate)),
        );
        Self { points, seconds: (until - from).max(0.0) }
    }

    /// How long it is.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Load at a moment in requests a second; 0 outside of the trace.
    pub fn rate(&self, second: f64) -> f64 {
        if !(0.0..self.seconds).contains(&second) {
            return 0.0;
        }
        let after = self.points.partition_point(|&(start, _)| start <= second);
        after.checked_sub(1).map_or(0.0, |index| self.points[index].1)
    }

    /// Highest load in requests a second.
    pub fn peak(&self) -> f64 {
        self.points.iter().map(|&(_, rate)| rate).fold(0.0, f64::max)
    }

    /// Mean load in requests a second.
    pub fn mean(&self) -> f64 {
        self.pieces().map(|(start, end, rate)| (end - start) * rate).sum::<f64>() / self.seconds.max(1e-9)
    }

    /// The spans of constant load: `(start, end, requests a second)`, in seconds.
    pub fn pieces(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        self.points.iter().enumerate().map(|(index, &(start, rate))| {
            (start, self.points.get(index + 1).map_or(self.seconds, |&(next, _)| next), rate)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "the rates are those that were written")]
    fn a_row_holds_until_the_next() {
        let trace = Trace::parse("t.csv", "second,requests_per_second\n0,10\n60,20\n120,5\n").unwrap();
        assert_eq!(trace.duration(), Duration::from_mins(3));
        assert_eq!([0.0, 59.9, 60.0, 179.0, 180.0].map(|t| trace.rate(t)), [10.0, 10.0, 20.0, 5.0, 0.0]);
        assert!((trace.mean() - 35.0 / 3.0).abs() < 1e-9);
        assert!((trace.peak() - 20.0).abs() < 1e-9);
    }

    #[test]
    fn errors_name_the_file_and_the_line_and_say_the_fix() {
        for (csv, message) in [
            (
                "second,requests_per_second\n0,5\nx,6\n",
                "t.csv:3: found \"x,6\"; write `second,requests_per_second`",
            ),
            ("0,5\n1\n", "t.csv:2: found \"1\"; write"),
            ("0,5\n0,6\n", "t.csv:2: second 0 does not come after the line before it; sort"),
            ("0,-5\n", "t.csv:1: the rate is -5; write a finite number"),
            ("0,5\n1,inf\n", "t.csv:2: the rate is inf; write"),
            ("second,requests_per_second\n", "t.csv: it holds no load; write lines"),
        ] {
            let error = Trace::parse("t.csv", csv).unwrap_err().to_string();
            assert!(error.starts_with(message), "{csv:?}: {error}");
        }
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "the rates are those that were written, doubled")]
    fn scales_by_one_factor_and_clips_to_a_span() {
        let trace = Trace::parse("t.csv", "0,10\n60,20\n120,5\n").unwrap().scaled(2.0);
        let part = trace.clipped(Duration::from_secs(30), Duration::from_mins(1));
        assert_eq!(part.duration(), Duration::from_mins(1));
        assert_eq!([0.0, 29.9, 30.0, 59.9, 60.0].map(|t| part.rate(t)), [20.0, 20.0, 40.0, 40.0, 0.0]);
        let beyond = trace.clipped(Duration::from_secs(150), Duration::from_mins(10));
        assert_eq!(beyond.duration(), Duration::from_secs(30));
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "the rates are those that were written")]
    fn a_trace_may_begin_at_any_second() {
        let trace = Trace::parse("t.csv", "1000,10\n1001,20\n").unwrap();
        assert_eq!(
            (trace.rate(0.0), trace.rate(1.5), trace.duration()),
            (10.0, 20.0, Duration::from_secs(2))
        );
    }
}
