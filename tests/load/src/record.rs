//! What is told of the load: a line a second, and a summary.
//!
//! A request ends in one of four ways ([`End`]). Only what was answered, or waited for in vain, has a latency: a refusal or a
//! broken connection comes at once and would flatter the percentiles, and counted as slow it would hide how slow the rest
//! was. Each breaks the promise all the same, and is counted under its own name.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use hyper::header::RETRY_AFTER;
use hyper::{HeaderMap, StatusCode};
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
    /// How they ended.
    #[serde(flatten)]
    pub ends: Ends,
    /// Requests without a success within each threshold: answered later, or not answered with success at all.
    pub over: Vec<u64>,
    /// Percentiles of what was answered with success or timed out, in milliseconds from the moment the request was due;
    /// absent when there was no such request.
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
    /// How they ended.
    #[serde(flatten)]
    pub ends: Ends,
    /// Why requests were not answered with success: `status 503`, `timeout`, `connect`, …
    pub failures: BTreeMap<String, u64>,
    /// `GET` requests that were sent again, because a kept-alive connection ended before it answered them.
    pub resent: u64,
    /// Thresholds, in milliseconds.
    pub thresholds_ms: Vec<f64>,
    /// Requests without a success within each threshold: answered later, or not answered with success at all.
    pub over: Vec<u64>,
    /// The same as a share of all requests, 0 to 1.
    pub over_share: Vec<f64>,
    /// As those of a [`Second`], over the whole load; 0 without requests.
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

/// How many requests ended in which way. Each ends in one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ends {
    /// [`End::Completed`].
    pub completed: u64,
    /// [`End::Refused`].
    pub refused: u64,
    /// [`End::Failed`].
    pub failed: u64,
    /// [`End::TimedOut`].
    pub timed_out: u64,
}

impl Ends {
    /// All that ended.
    pub fn all(&self) -> u64 {
        self.completed + self.unserved()
    }

    /// All that ended without a success.
    pub fn unserved(&self) -> u64 {
        self.refused + self.failed + self.timed_out
    }

    /// Adds those of `other`.
    pub fn add(&mut self, other: &Self) {
        let Self { completed, refused, failed, timed_out } = other;
        self.completed += completed;
        self.refused += refused;
        self.failed += failed;
        self.timed_out += timed_out;
    }

    fn count(&mut self, end: &End) {
        let count = match end {
            End::Completed => &mut self.completed,
            End::Refused(_) => &mut self.refused,
            End::Failed(_) => &mut self.failed,
            End::TimedOut(_) => &mut self.timed_out,
        };
        *count += 1;
    }
}

/// How a request ended, and why when it was not answered with success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was answered with a status below 400.
    Completed,
    /// It was answered, by a server that could have served it, with the wish to come again later: 429, or 503 with a
    /// `Retry-After`.
    Refused(String),
    /// It was answered with another status of 400 or above, or its connection could not be opened or broke.
    Failed(String),
    /// There was no answer by the time at which it was given up.
    TimedOut(String),
}

impl End {
    /// By the answer's status and headers.
    pub fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let why = || format!("status {}", status.as_u16());
        match status {
            StatusCode::TOO_MANY_REQUESTS => Self::Refused(why()),
            StatusCode::SERVICE_UNAVAILABLE if headers.contains_key(RETRY_AFTER) => Self::Refused(why()),
            _ if status.is_client_error() || status.is_server_error() => Self::Failed(why()),
            _ => Self::Completed,
        }
    }

    fn why(&self) -> Option<&str> {
        match self {
            Self::Completed => None,
            Self::Refused(why) | Self::Failed(why) | Self::TimedOut(why) => Some(why),
        }
    }
}

/// A request that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// From the moment it was due.
    pub latency: Duration,
    /// Of that, until it was begun.
    pub late: Duration,
    /// How it ended.
    pub end: End,
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
            summary: Summary {
                started,
                thresholds_ms,
                over: vec![0; thresholds.len()],
                ..Summary::default()
            },
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
        let Outcome { latency, late, end, resent } = outcome;
        self.lateness.saturating_record(micros(*late));
        self.second.ends.count(end);
        self.summary.ends.count(end);
        let felt = match end {
            End::Completed => Some(*latency),
            // One that found no connection may have ended before; it too would have been waited for until then.
            End::TimedOut(_) => Some(self.timeout.max(*latency)),
            End::Refused(_) | End::Failed(_) => None,
        };
        if let Some(felt) = felt {
            self.latencies.saturating_record(micros(felt));
            self.all_latencies.saturating_record(micros(felt));
        }
        if *end == End::Completed {
            self.answered.saturating_record(micros(*latency));
        }
        if let Some(why) = end.why() {
            *self.summary.failures.entry(why.to_owned()).or_default() += 1;
        }
        self.summary.resent += u64::from(*resent);
        for (index, threshold) in self.thresholds.iter().enumerate() {
            let over = u64::from(*end != End::Completed || latency > threshold);
            self.second.over[index] += over;
            self.summary.over[index] += over;
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
        let ended = self.summary.ends.all().max(1);
        Summary {
            over_share: self.summary.over.iter().map(|over| *over as f64 / ended as f64).collect(),
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
            recorder.ended(&Outcome { latency, late: latency / 10, end: End::Completed, resent: false });
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

    /// What is told of these, in milliseconds, against thresholds of 100 and 250 ms.
    fn recorded(outcomes: &[(u64, End)]) -> (Second, Summary) {
        let thresholds = vec![Duration::from_millis(100), Duration::from_millis(250)];
        let mut recorder = Recorder::new(thresholds, TIMEOUT, Timestamp::UNIX_EPOCH).unwrap();
        for (millis, end) in outcomes {
            recorder.offered();
            let latency = Duration::from_millis(*millis);
            recorder.ended(&Outcome { latency, late: Duration::ZERO, end: end.clone(), resent: false });
        }
        let second = recorder.tick(0, Timestamp::UNIX_EPOCH, 0, 1);
        assert_eq!(recorder.tick(1, Timestamp::UNIX_EPOCH, 0, 1).p99_ms, None);
        (second, recorder.summary())
    }

    #[test]
    fn each_way_to_end_is_counted_apart_and_breaks_every_threshold() {
        let (second, summary) = recorded(&[
            (50, End::Completed),
            (150, End::Completed),
            (300, End::Completed),
            (1, End::Refused("status 503".to_owned())),
            (1, End::Refused("status 503".to_owned())),
            (2, End::Failed("connect".to_owned())),
            (10_000, End::TimedOut("timeout".to_owned())),
        ]);
        let ends = Ends { completed: 3, refused: 2, failed: 1, timed_out: 1 };
        assert_eq!((second.offered, second.ends, summary.ends), (7, ends, ends));
        assert_eq!((ends.all(), ends.unserved()), (7, 4));
        assert_eq!((&second.over, &summary.over), (&vec![6, 5], &vec![6, 5]));
        assert_eq!(summary.over_share, vec![6.0 / 7.0, 5.0 / 7.0]);
        let why = |why: &str, count: u64| (why.to_owned(), count);
        let failures = [why("status 503", 2), why("connect", 1), why("timeout", 1)];
        assert_eq!(summary.failures, BTreeMap::from(failures));
    }

    #[test]
    fn a_refusal_has_no_latency_and_a_wait_in_vain_has() {
        let refused = || (1, End::Refused("status 429".to_owned()));
        let broken = (1, End::Failed("connection broken".to_owned()));
        let (second, summary) = recorded(&[(300, End::Completed), refused(), refused(), broken]);
        let near = |told: f64, ms: f64| (told / ms - 1.0).abs() < 0.002;
        assert!(second.p50_ms.is_some_and(|p50| near(p50, 300.0)), "{second:?}");
        assert!(near(summary.p50_ms, 300.0) && near(summary.p999_ms, 300.0), "{summary:?}");

        let (second, _) = recorded(&[refused()]);
        assert_eq!((second.p50_ms, second.p99_ms), (None, None));

        // Given up early, for want of a connection.
        let (second, summary) = recorded(&[(50, End::Completed), (0, End::TimedOut("none".to_owned()))]);
        assert!(second.p99_ms.is_some_and(|p99| near(p99, 10_000.0)), "{second:?}");
        assert!(near(summary.answered.p99_ms, 50.0), "{summary:?}");
    }

    #[test]
    fn a_503_is_a_refusal_when_it_says_when_to_come_again() {
        let none = HeaderMap::new();
        let later = HeaderMap::from_iter([(RETRY_AFTER, "1".parse().unwrap())]);
        let status = |status: u16, headers| End::of(StatusCode::from_u16(status).unwrap(), headers);
        for success in [200, 204, 304] {
            assert_eq!(status(success, &later), End::Completed);
        }
        for (code, headers) in [(429, &none), (503, &later)] {
            assert_eq!(status(code, headers), End::Refused(format!("status {code}")));
        }
        for (code, headers) in [(503, &none), (500, &later), (404, &none), (504, &later)] {
            assert_eq!(status(code, headers), End::Failed(format!("status {code}")));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (second, summary) = recorded(&[(50, End::Completed), (1, End::Failed("connect".to_owned()))]);
        for line in [Line::Second(second), Line::Summary(summary)] {
            let text = serde_json::to_string(&line).unwrap();
            assert!(text.contains(r#""completed":1,"refused":0,"failed":1,"timedOut":0"#), "{text}");
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        }
    }
}
