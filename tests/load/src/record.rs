//! What is told of the load: a line a second, and a summary.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One second of load. Requests are counted in the second in which they were due (`offered`) and in the one in which
/// they ended (all else).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    /// Seconds since the load began.
    pub second: u32,
    /// When it ended.
    pub time: Timestamp,
    /// Requests that were due.
    pub offered: u64,
    /// Requests that were answered with a status below 400.
    pub completed: u64,
    /// Requests that were answered with 400 or above, or not at all.
    pub failed: u64,
    /// Of `completed` and `failed`, those that took longer than each threshold; a failure counts for each.
    pub over: Vec<u64>,
    /// Percentiles of what ended, in milliseconds from the moment the request was due. A failure counts as the time after
    /// which it would have been given up, however fast it came: a refusal is no quick answer.
    pub p50_ms: Option<f64>,
    /// As `p50_ms`.
    pub p95_ms: Option<f64>,
    /// As `p50_ms`.
    pub p99_ms: Option<f64>,
    /// Requests under way at the end of the second.
    pub in_flight: u64,
    /// Connections open at the end of the second.
    pub connections: u64,
}

/// The whole load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// When the load began.
    pub started: Timestamp,
    /// Requests that were due.
    pub offered: u64,
    /// Requests that were answered with a status below 400.
    pub completed: u64,
    /// Requests that were answered with 400 or above, or not at all.
    pub failed: u64,
    /// Why they failed: `status 503`, `timeout`, `connect`, …
    pub failures: BTreeMap<String, u64>,
    /// `GET` requests that were sent again, because a kept-alive connection ended before it answered them.
    pub resent: u64,
    /// Thresholds, in milliseconds.
    pub thresholds_ms: Vec<f64>,
    /// Share of all requests, 0 to 1, that took longer than each threshold; a failure counts for each.
    pub over_share: Vec<f64>,
    /// Percentiles over the whole load, in milliseconds.
    pub p50_ms: f64,
    /// As `p50_ms`.
    pub p95_ms: f64,
    /// As `p50_ms`.
    pub p99_ms: f64,
    /// As `p50_ms`.
    pub p999_ms: f64,
    /// How late the generator itself was, 99 of 100 times, in milliseconds: from the moment a request was due to when it
    /// was begun. It is part of every latency here; near those, it is the generator that was measured.
    #[serde(default)]
    pub late_p99_ms: f64,
    /// Percentiles of the requests that were answered with a status below 400, which a refusal does not move: what a
    /// server's own histogram of successes must agree with.
    pub answered: Percentiles,
}

/// Percentiles in milliseconds from the moment a request was due; 0 without requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    /// Half took at most so long.
    pub p50_ms: f64,
    /// As `p50_ms`.
    pub p95_ms: f64,
    /// As `p50_ms`.
    pub p99_ms: f64,
}

/// A line of the generator's output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// A second has ended.
    Second(Second),
    /// The load has ended.
    Summary(Summary),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// From the moment it was due.
    pub latency: Duration,
    /// Of that, until it was begun.
    pub late: Duration,
    /// Why it failed.
    pub failure: Option<String>,
    /// Whether it was sent twice because the first connection had been closed.
    pub resent: bool,
}

/// Counts outcomes.
pub struct Recorder {
    thresholds: Vec<Duration>,
    timeout: Duration,
    second: Second,
    latencies: Histogram<u64>,
    summary: Summary,
    all_latencies: Histogram<u64>,
    lateness: Histogram<u64>,
    answered: Histogram<u64>,
    over: Vec<u64>,
}

impl Recorder {
    /// Counts against these thresholds; `timeout` is when a request is given up.
    ///
    /// # Errors
    /// Never for the fixed precision used.
    pub fn new(thresholds: Vec<Duration>, timeout: Duration, started: Timestamp) -> anyhow::Result<Self> {
        let thresholds_ms = thresholds.iter().map(|threshold| threshold.as_secs_f64() * 1000.0).collect();
        Ok(Self {
            second: Second { over: vec![0; thresholds.len()], ..Second::default() },
            over: vec![0; thresholds.len()],
            summary: Summary { started, thresholds_ms, ..Summary::default() },
            thresholds,
            timeout,
            latencies: histogram()?,
            all_latencies: histogram()?,
            lateness: histogram()?,
            answered: histogram()?,
        })
    }

    /// A request is due.
    pub fn offered(&mut self) {
        self.second.offered += 1;
        self.summary.offered += 1;
    }

    /// A request has ended.
    pub fn ended(&mut self, outcome: &Outcome) {
        let felt =
            if outcome.failure.is_some() { outcome.latency.max(self.timeout) } else { outcome.latency };
        self.latencies.saturating_record(micros(felt));
        self.all_latencies.saturating_record(micros(felt));
        self.lateness.saturating_record(micros(outcome.late));
        match &outcome.failure {
            None => {
                self.answered.saturating_record(micros(felt));
                self.second.completed += 1;
                self.summary.completed += 1;
            }
            Some(failure) => {
                self.second.failed += 1;
                self.summary.failed += 1;
                *self.summary.failures.entry(failure.clone()).or_default() += 1;
            }
        }
        self.summary.resent += u64::from(outcome.resent);
        for (index, threshold) in self.thresholds.iter().enumerate() {
            let over = u64::from(outcome.failure.is_some() || outcome.latency > *threshold);
            self.second.over[index] += over;
            self.over[index] += over;
        }
    }

    /// Closes the second.
    pub fn tick(&mut self, second: u32, time: Timestamp, in_flight: u64, connections: u64) -> Second {
        let percentile =
            |q: f64| (!self.latencies.is_empty()).then(|| ms(self.latencies.value_at_quantile(q)));
        let closed = Second {
            second,
            time,
            in_flight,
            connections,
            p50_ms: percentile(0.5),
            p95_ms: percentile(0.95),
            p99_ms: percentile(0.99),
            ..self.second.clone()
        };
        self.second = Second { over: vec![0; self.thresholds.len()], ..Second::default() };
        self.latencies.reset();
        closed
    }

    /// The whole load.
    pub fn summary(&self) -> Summary {
        let ended = (self.summary.completed + self.summary.failed).max(1);
        Summary {
            over_share: self.over.iter().map(|over| *over as f64 / ended as f64).collect(),
            p50_ms: ms(self.all_latencies.value_at_quantile(0.5)),
            p95_ms: ms(self.all_latencies.value_at_quantile(0.95)),
            p99_ms: ms(self.all_latencies.value_at_quantile(0.99)),
            p999_ms: ms(self.all_latencies.value_at_quantile(0.999)),
            late_p99_ms: ms(self.lateness.value_at_quantile(0.99)),
            answered: Percentiles {
                p50_ms: ms(self.answered.value_at_quantile(0.5)),
                p95_ms: ms(self.answered.value_at_quantile(0.95)),
                p99_ms: ms(self.answered.value_at_quantile(0.99)),
            },
            ..self.summary.clone()
        }
    }
}

/// Microseconds to an hour with three digits; what is beyond is told as an hour.
fn histogram() -> anyhow::Result<Histogram<u64>> {
    const HOUR_MICROS: u64 = 3_600_000_000;
    Ok(Histogram::new_with_bounds(1, HOUR_MICROS, 3)?)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn percentiles_are_of_the_latencies_that_were_recorded() {
        let mut recorder = Recorder::new(Vec::new(), TIMEOUT, Timestamp::UNIX_EPOCH).unwrap();
        for millis in 1..=1000 {
            let latency = Duration::from_millis(millis);
            recorder.ended(&Outcome { latency, late: latency / 10, failure: None, resent: false });
        }
        let second = recorder.tick(0, Timestamp::UNIX_EPOCH, 0, 0);
        let near = |told: Option<f64>, ms: f64| told.is_some_and(|told| (told / ms - 1.0).abs() < 0.002);
        assert!(
            near(second.p50_ms, 500.0) && near(second.p95_ms, 950.0) && near(second.p99_ms, 990.0),
            "{second:?}"
        );
        assert!(near(Some(recorder.summary().p999_ms), 999.0));
        assert!(near(Some(recorder.summary().late_p99_ms), 99.0));
    }

    #[test]
    fn failures_count_as_over_every_threshold() {
        let thresholds = vec![Duration::from_millis(100), Duration::from_millis(250)];
        let mut recorder = Recorder::new(thresholds, TIMEOUT, Timestamp::UNIX_EPOCH).unwrap();
        for (millis, failure) in [(50, None), (150, None), (300, None), (1, Some("status 503"))] {
            recorder.offered();
            let failure = failure.map(str::to_owned);
            let latency = Duration::from_millis(millis);
            recorder.ended(&Outcome { latency, late: Duration::ZERO, failure, resent: false });
        }
        let second = recorder.tick(0, Timestamp::UNIX_EPOCH, 0, 1);
        assert_eq!((second.offered, second.completed, second.failed, &second.over), (4, 3, 1, &vec![3, 2]));
        assert_eq!(recorder.summary().over_share, vec![0.75, 0.5]);
        let answered = recorder.summary().answered.p99_ms;
        assert!((299.0..301.0).contains(&answered), "a refusal moves it: {answered}");
        assert!(
            second.p99_ms.is_some_and(|p99| p99 >= 9_990.0),
            "a quick refusal looks like a quick answer: {second:?}"
        );
        assert_eq!(recorder.summary().failures, BTreeMap::from([("status 503".to_owned(), 1)]));
        assert_eq!(recorder.tick(1, Timestamp::UNIX_EPOCH, 0, 1).p99_ms, None);
    }
}
