//! Traces: the offered load over time, read from CSV or generated from a seed.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Offered load over time: from each point's second on, until the next point's, that many requests a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    points: Vec<Point>,
    duration_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    second: f64,
    requests_per_second: f64,
}

/// A rise of the load that a person would call a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// When it begins.
    pub second: f64,
    /// Load before, in requests a second.
    pub from: f64,
    /// Load after, in requests a second.
    pub to: f64,
}

impl Trace {
    /// Reads `second,requests_per_second` lines, in order of time. A first line that is not numbers is a header.
    ///
    /// # Errors
    /// Names the line that is not two numbers, goes back in time or holds a negative rate; and when there is none.
    pub fn parse(csv: &str) -> Result<Self> {
        let mut points: Vec<Point> = Vec::new();
        for (index, line) in csv.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let number = |text: Option<&str>| {
                text.and_then(|text| text.trim().parse::<f64>().ok()).filter(|n| n.is_finite())
            };
            let mut fields = line.split(',');
            let (second, rate) = (number(fields.next()), number(fields.next()));
            let (Some(second), Some(requests_per_second)) = (second, rate) else {
                if index == 0 {
                    continue;
                }
                bail!("line {}: expected `second,requests_per_second`, found {line:?}", index + 1);
            };
            if requests_per_second < 0.0 {
                bail!("line {}: the rate is negative: {requests_per_second}", index + 1);
            }
            if points.last().is_some_and(|last| second <= last.second) {
                bail!("line {}: second {second} does not come after the line before it", index + 1);
            }
            points.push(Point { second, requests_per_second });
        }
        let first = points.first().context("the trace holds no line of `second,requests_per_second`")?.second;
        for point in &mut points {
            point.second -= first;
        }
        let last = points.last().map_or(0.0, |point| point.second);
        // The last rate holds as long as the one before it did.
        let gap = points.len().checked_sub(2).map_or(1.0, |index| last - points[index].second);
        Ok(Self { points, duration_seconds: last + gap })
    }

    /// A day in `duration`: night, a morning's rise, short bursts, and from 40 % of the time on a step to nearly the
    /// peak, after which the day goes down for long enough to see what is done about it.
    /// The same seed gives the same trace.
    pub fn generated(seed: u64, duration: Duration) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let duration_seconds = duration.as_secs_f64().max(10.0).floor();
        let bursts: Vec<(f64, f64, f64)> = (0..3)
            .map(|burst| {
                let begin = 0.1 + 0.08 * f64::from(burst) + random.random_range(0.0..0.03);
                (begin, random.random_range(0.02..0.04), random.random_range(0.25..0.4))
            })
            .collect();
        let points = (0..duration_seconds as u32)
            .map(|second| {
                let at = f64::from(second) / duration_seconds;
                // A day's curve: lowest at the ends.
                let day = 0.12 + 0.33 * (std::f64::consts::PI * at).sin().max(0.0);
                let burst: f64 = bursts
                    .iter()
                    .filter(|(begin, length, _)| (*begin..begin + length).contains(&at))
                    .map(|(_, _, height)| height)
                    .sum();
                let step = if (0.4..0.55).contains(&at) { 0.45 } else { 0.0 };
                let noise = random.random_range(-0.02..0.02);
                let requests_per_second = (day * (1.0 + burst) + step + noise).clamp(0.02, 1.0) * 100.0;
                Point { second: f64::from(second), requests_per_second }
            })
            .collect();
        Self { points, duration_seconds }
    }

    /// The same curve within `duration`, a point a second: the mean of ten moments in it.
    #[must_use]
    pub fn compressed(mut self, duration: Duration) -> Self {
        let factor = duration.as_secs_f64() / self.duration_seconds;
        for point in &mut self.points {
            point.second *= factor;
        }
        self.duration_seconds = duration.as_secs_f64();
        let points = (0..self.duration_seconds.ceil() as u32)
            .map(|second| Point { second: f64::from(second), requests_per_second: self.mean(second) })
            .collect();
        Self { points, ..self }
    }

    /// The same curve with its peak, of one-second means, at `requests_per_second`; and the factor that it took.
    #[must_use]
    pub fn with_peak(mut self, requests_per_second: f64) -> (Self, f64) {
        let peak =
            (0..self.duration_seconds.ceil() as u32).map(|second| self.mean(second)).fold(0.0, f64::max);
        let factor = if peak > 0.0 { requests_per_second / peak } else { 1.0 };
        for point in &mut self.points {
            point.requests_per_second *= factor;
        }
        (self, factor)
    }

    /// Load at a moment, in requests a second; 0 outside of the trace.
    pub fn rate(&self, second: f64) -> f64 {
        if !(0.0..self.duration_seconds).contains(&second) {
            return 0.0;
        }
        let after = self.points.partition_point(|point| point.second <= second);
        after.checked_sub(1).map_or(0.0, |index| self.points[index].requests_per_second)
    }

    /// Mean load over one second, in requests a second.
    pub fn mean(&self, second: u32) -> f64 {
        (0..10).map(|tenth| self.rate(f64::from(second) + f64::from(tenth) / 10.0)).sum::<f64>() / 10.0
    }

    /// How long it is.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration_seconds)
    }

    /// The first moment after which the load stays, for ten seconds on the mean, at 1.7 times or more of the mean of
    /// the ten seconds before. `None` for a trace without one.
    pub fn first_step(&self) -> Option<Step> {
        const SPAN: u32 = 10;
        const RISE: f64 = 1.7;
        let mean =
            |from: u32| (from..from + SPAN).map(|second| self.mean(second)).sum::<f64>() / f64::from(SPAN);
        let last = (self.duration_seconds as u32).checked_sub(SPAN)?;
        let ratio = |second: u32| mean(second) / mean(second - SPAN).max(0.1);
        let mut second = (SPAN..=last).find(|second| ratio(*second) >= RISE)?;
        // The ratio passes the threshold before the edge: the edge is where it is highest.
        while second < last && ratio(second + 1) > ratio(second) {
            second += 1;
        }
        Some(Step { second: f64::from(second), from: mean(second - SPAN), to: mean(second) })
    }

    /// Lines of `second,requests_per_second`.
    pub fn to_csv(&self) -> String {
        let mut csv = String::from("second,requests_per_second\n");
        for point in &self.points {
            let _ = writeln!(csv, "{:.3},{:.3}", point.second, point.requests_per_second);
        }
        csv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let trace = Trace::generated(7, Duration::from_mins(2));
        let again = Trace::parse(&trace.to_csv()).unwrap();
        assert_eq!(again.duration(), trace.duration());
        assert!((again.rate(60.0) - trace.rate(60.0)).abs() < 0.001);
    }

    #[test]
    fn names_the_line_that_it_cannot_read() {
        for (csv, message) in [
            ("second,requests_per_second\n0,5\nx,6\n", "line 3"),
            ("0,5\n0,6\n", "line 2"),
            ("0,-5\n", "line 1"),
            ("0,NaN\n1,2\n2,inf\n", "line 3"),
            ("", "no line"),
        ] {
            let error = Trace::parse(csv).unwrap_err().to_string();
            assert!(error.contains(message), "{csv:?}: {error}");
        }
    }

    #[test]
    fn same_seed_same_trace() {
        let minutes = Duration::from_mins(5);
        assert_eq!(Trace::generated(1, minutes), Trace::generated(1, minutes));
        assert_ne!(Trace::generated(1, minutes), Trace::generated(2, minutes));
    }

    #[test]
    fn peak_and_length_are_as_asked() {
        let (trace, _) =
            Trace::generated(1, Duration::from_hours(1)).compressed(Duration::from_mins(5)).with_peak(150.0);
        assert_eq!(trace.duration(), Duration::from_mins(5));
        let peak = (0..300).map(|second| trace.mean(second)).fold(0.0, f64::max);
        assert!((peak - 150.0).abs() < 1e-6, "{peak}");
    }

    #[test]
    fn the_step_of_a_generated_trace_is_where_it_was_put() {
        for seed in 0..50 {
            let trace = Trace::generated(seed, Duration::from_mins(5));
            let step = trace.first_step().unwrap();
            assert!((step.second - 120.0).abs() <= 2.0, "seed {seed}: {step:?}");
        }
    }

    #[test]
    fn finds_the_step_and_not_in_a_flat_trace() {
        let step = Trace::parse("0,15\n60,100\n120,100\n").unwrap().first_step().unwrap();
        assert_eq!((step.second, step.from, step.to), (60.0, 15.0, 100.0));
        assert_eq!(Trace::parse("0,20\n60,20\n").unwrap().first_step(), None);
    }
}
