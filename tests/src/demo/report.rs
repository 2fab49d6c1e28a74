//! What happened, as data and as a page.

use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use plimsoll_load::{Ends, Second, Summary, Trace};
use serde::Serialize;

use super::watch::{Decision, Replicas, Seen};
use super::{html, pictures};
use crate::sample::{P95_MS, P99_MS};

/// All that `report.json` holds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Version of the project.
    pub version: &'static str,
    /// When the load began.
    pub started: Timestamp,
    /// The load that was asked for.
    pub trace: TraceInfo,
    /// The promise.
    pub targets: Targets,
    /// Each second of the load.
    pub seconds: Vec<Row>,
    /// Each decision of the operator.
    pub decisions: Vec<Decision>,
    /// Replicas over the whole run.
    pub replicas: ReplicaInfo,
    /// Requests over the whole run.
    pub requests: Summary,
    /// What broke the promise, for each of its targets.
    pub violations: Violations,
    /// The first load step; absent in a trace without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepInfo>,
}

/// The load that was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceInfo {
    /// Where it is from.
    pub source: String,
    /// What its rates were multiplied with.
    pub factor: f64,
    /// Highest rate of a second, in requests a second.
    pub peak: f64,
    /// How long it is.
    pub seconds: u64,
}

/// Latency targets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Targets {
    /// In milliseconds.
    pub p95_ms: u64,
    /// In milliseconds.
    pub p99_ms: u64,
}

/// Replicas over the whole run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaInfo {
    /// Most replicas wanted.
    pub peak: i32,
    /// Replicas wanted at the end of the load.
    #[serde(rename = "final")]
    pub last: i32,
    /// Replicas wanted, summed over time.
    pub hours: f64,
}

/// What broke the promise, for each of its targets.
#[derive(Debug, Serialize)]
pub struct Violations {
    /// Of the p95 target.
    pub p95: Violation,
    /// Of the p99 target.
    pub p99: Violation,
}

/// Requests without a success within a target. A refused one counts in full: its client got nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Violation {
    /// All of them, as a share of all requests, 0 to 1.
    pub share: f64,
    /// Answered with success after the target, or given up: requests.
    pub late: u64,
    /// Answered with 503 and the wish to come again, or 429: requests.
    pub refused: u64,
    /// Answered with another error, or not at all because a connection broke: requests.
    pub failed: u64,
}

impl Violation {
    fn new(summary: &Summary, target: usize) -> Self {
        let Ends { refused, failed, .. } = summary.ends;
        Self {
            share: summary.over_share.get(target).copied().unwrap_or(0.0),
            late: late(&summary.ends, summary.over.get(target).copied().unwrap_or(0)),
            refused,
            failed,
        }
    }

    /// For people: the share, and what it is made of.
    pub fn text(&self) -> String {
        let Self { share, late, refused, failed } = self;
        format!("{:.2} % ({late} late, {refused} refused, {failed} failed)", share * 100.0)
    }
}

/// Of `over` requests without a success in time, those that were late: answered too late, or given up.
pub fn late(ends: &Ends, over: u64) -> u64 {
    over.saturating_sub(ends.refused + ends.failed)
}

/// How the operator answered the first load step.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepInfo {
    /// When it began, in seconds of the load.
    pub second: f64,
    /// Load before, in requests a second.
    pub from: f64,
    /// Load after, in requests a second.
    pub to: f64,
    /// Until more replicas were wanted than at the step.
    pub seconds_to_wanted: Option<f64>,
    /// Until more replicas were ready than were wanted at the step.
    pub seconds_to_ready: Option<f64>,
}

/// A second of the load, with the replicas at its end.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The load.
    #[serde(flatten)]
    pub load: Second,
    /// Replicas of the Deployment's spec.
    pub wanted: i32,
    /// Replicas of the Deployment's status.
    pub ready: i32,
}

impl Row {
    /// Requests that were answered after the p95 target, or given up.
    pub fn late(&self) -> u64 {
        late(&self.load.ends, self.load.over.first().copied().unwrap_or(0))
    }
}

/// Puts a second and what was seen at its end together.
pub fn row(load: Second, seen: &Seen) -> Row {
    let replicas = seen.replicas.last().copied().unwrap_or_default();
    Row { load, wanted: replicas.wanted, ready: replicas.ready }
}

impl Report {
    /// Draws the sums.
    pub fn new(
        trace: &Trace,
        source: String,
        factor: f64,
        seconds: Vec<Row>,
        requests: Summary,
        seen: Seen,
    ) -> Self {
        let peak =
            (0..trace.duration().as_secs()).map(|second| trace.mean(second as u32)).fold(0.0, f64::max);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started: requests.started,
            trace: TraceInfo { source, factor, peak, seconds: trace.duration().as_secs() },
            targets: Targets { p95_ms: P95_MS, p99_ms: P99_MS },
            replicas: ReplicaInfo {
                peak: seconds.iter().map(|row| row.wanted).max().unwrap_or(0),
                last: seconds.last().map_or(0, |row| row.wanted),
                hours: seconds.iter().map(|row| f64::from(row.wanted)).sum::<f64>() / 3600.0,
            },
            violations: Violations { p95: Violation::new(&requests, 0), p99: Violation::new(&requests, 1) },
            step: step(trace, requests.started, &seen.replicas),
            decisions: seen.decisions,
            seconds,
            requests,
        }
    }
}

fn step(trace: &Trace, started: Timestamp, replicas: &[Replicas]) -> Option<StepInfo> {
    let step = trace.first_step()?;
    let since =
        |time: Timestamp| (time.as_millisecond() - started.as_millisecond()) as f64 / 1000.0 - step.second;
    let before =
        replicas.iter().rfind(|replicas| since(replicas.time) <= 0.0).or_else(|| replicas.first())?;
    let wanted = replicas.iter().position(|it| since(it.time) > 0.0 && it.wanted > before.wanted);
    // One that was wanted before the step may become ready after it; it is no answer to the step.
    let ready = wanted.and_then(|index| replicas[index..].iter().find(|it| it.ready > before.wanted));
    Some(StepInfo {
        second: step.second,
        from: step.from,
        to: step.to,
        seconds_to_wanted: wanted.map(|index| since(replicas[index].time)),
        seconds_to_ready: ready.map(|it| since(it.time)),
    })
}

/// Writes `report.json`, `report.html` and the pictures.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, report: &Report) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let pictures = pictures::draw(report)?;
    let mut files = vec![
        ("report.json".to_owned(), serde_json::to_string_pretty(report)?),
        ("report.html".to_owned(), html::page(report, &pictures)),
    ];
    files.extend(pictures.into_iter().map(|picture| (format!("{}.svg", picture.name), picture.svg)));
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_breaks_the_promise_and_is_not_late() {
        let ends = Ends { completed: 90, refused: 6, failed: 3, timed_out: 1 };
        // 15 over the first target: 5 answered too late, and the ten without a success.
        let summary = Summary { ends, over: vec![15, 10], over_share: vec![0.15, 0.1], ..Summary::default() };
        let p95 = Violation::new(&summary, 0);
        assert_eq!(p95, Violation { share: 0.15, late: 6, refused: 6, failed: 3 });
        assert_eq!(p95.text(), "15.00 % (6 late, 6 refused, 3 failed)");
        assert_eq!(Violation::new(&summary, 1).late, 1, "one was given up");
    }

    fn at(second: i64, wanted: i32, ready: i32) -> Replicas {
        Replicas { time: Timestamp::from_second(second).unwrap(), wanted, ready }
    }

    #[test]
    fn measures_the_answer_to_a_step_from_the_step() {
        let trace = Trace::parse("0,15\n60,100\n120,100\n").unwrap();
        let started = Timestamp::from_second(1000).unwrap();
        let replicas = [at(990, 2, 2), at(1068, 9, 2), at(1070, 9, 4), at(1100, 8, 8)];
        let step = step(&trace, started, &replicas).unwrap();
        assert_eq!((step.seconds_to_wanted, step.seconds_to_ready), (Some(8.0), Some(10.0)));
        let starting = [at(1055, 6, 4), at(1062, 6, 6), at(1068, 9, 6), at(1070, 9, 7)];
        let step = super::step(&trace, started, &starting).unwrap();
        assert_eq!((step.seconds_to_wanted, step.seconds_to_ready), (Some(8.0), Some(10.0)));
        let held = super::step(&trace, started, &replicas[..1]).unwrap();
        assert_eq!((held.seconds_to_wanted, held.seconds_to_ready), (None, None));
    }
}
