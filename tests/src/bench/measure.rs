//! The two ways to measure. The closed loop keeps 50 connections busy: it finds the capacity and the CPU time of a request,
//! and hides stalls. The open loop sends at a rate whatever comes back: it finds the latency that clients feel.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use plimsoll_load::{Summary, record::Line};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::GENERATOR_CPU;
use super::probe::Offer;
use super::server::{Serving, Stage};
use super::usage;
use crate::command;

/// Connections of the closed loop: as many as the baseline that a user would take with autocannon.
pub const CONNECTIONS: u32 = 50;
/// Connections that the open loop may open; a request that finds none has failed. Under the usual limit of 1024 files.
const OPEN_CONNECTIONS_MAX: u32 = 960;
/// Of the rate that was asked for, how much must be answered in time for the latencies to mean something.
const ACHIEVED_MIN: f64 = 0.99;
/// A request counts as failed after it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Generators may take this much longer than they were asked to run.
const PATIENCE: Duration = Duration::from_secs(20);

/// A run of the closed loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Closed {
    /// Requests that were answered.
    pub requests: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Answers with a status of 400 or above, and connections that broke or timed out.
    pub errors: u64,
    /// Requests answered a second.
    pub requests_per_second: f64,
    /// CPU time of the server's processes for each request, in microseconds.
    pub cpu_us: f64,
    /// The same of Redis.
    pub redis_cpu_us: f64,
    /// CPU time of the server's processes, in CPUs: near 1, the server was the limit.
    pub cpus: f64,
}

/// A run of the open loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// Requests a second that were asked for.
    pub rate: f64,
    /// Requests that ended while the load lasted, as a share of those that were due.
    pub achieved: f64,
    /// Whether `achieved` is enough for the latencies to mean something.
    pub valid: bool,
    /// Requests that were not answered with success; of these, only those that timed out are in the percentiles.
    pub failed: u64,
    /// Why they failed, and how many of them.
    pub failures: BTreeMap<String, u64>,
    /// Milliseconds from the moment a request was due.
    pub p50_ms: f64,
    /// As `p50_ms`.
    pub p95_ms: f64,
    /// As `p50_ms`.
    pub p99_ms: f64,
    /// As `p50_ms`.
    pub p999_ms: f64,
    /// How late the generator itself was, 99 of 100 times: part of every latency here.
    pub late_p99_ms: f64,
}

/// What `wrk.lua` prints.
#[derive(Deserialize)]
struct Printed {
    requests: u64,
    duration_us: u64,
    status_errors: u64,
    socket_errors: u64,
}

impl Printed {
    fn read(output: &str) -> Result<Self> {
        let line = output.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("wrk says: {output}"))?;
        serde_json::from_str(line).with_context(|| format!("wrk says: {line}"))
    }
}

/// Asks for `paths` in turn on 50 connections for `seconds`.
///
/// # Errors
/// When wrk fails or nothing is answered.
pub async fn closed(
    stage: &Stage,
    serving: &Serving,
    paths: &[String],
    offer: &Offer,
    seconds: u64,
) -> Result<Closed> {
    let script = stage.folder().join("wrk.lua");
    std::fs::write(&script, include_str!("wrk.lua"))
        .with_context(|| format!("write {}", script.display()))?;
    let mut wrk = pinned(Path::new("wrk"));
    wrk.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
    wrk.args([
        "--duration",
        &format!("{seconds}s"),
        "--timeout",
        &format!("{}s", TIMEOUT.as_secs()),
        "--script",
    ]);
    wrk.arg(&script);
    for (name, value) in &offer.headers {
        wrk.args(["--header", &format!("{name}: {value}")]);
    }
    wrk.arg(format!("http://127.0.0.1:{}", serving.port)).arg("--").args(paths);
    let used = || (usage::cpu(serving.running.id()), usage::cpu(stage.redis()));
    let before = used();
    let output = command::run(&mut wrk, Duration::from_secs(seconds) + PATIENCE).await?;
    let after = used();
    let printed = Printed::read(&output)?;
    ensure!(printed.requests > 0, "no request was answered");
    let micros = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() * 1e6;
    let (cpu_us, redis_us) = (micros(before.0, after.0), micros(before.1, after.1));
    Ok(Closed {
        requests: printed.requests,
        seconds: printed.duration_us as f64 / 1e6,
        errors: printed.status_errors + printed.socket_errors,
        requests_per_second: printed.requests as f64 / (printed.duration_us as f64 / 1e6),
        cpu_us: cpu_us / printed.requests as f64,
        redis_cpu_us: redis_us / printed.requests as f64,
        cpus: cpu_us / printed.duration_us as f64,
    })
}

/// Sends `rate` requests a second, at random moments, for `seconds` after a second that is not counted.
///
/// # Errors
/// When the generator fails.
pub async fn open(
    stage: &Stage,
    serving: &Serving,
    paths: &[String],
    offer: &Offer,
    rate: f64,
    seconds: u64,
) -> Result<Open> {
    const WARMUP_SECONDS: u64 = 1;
    let all = seconds + WARMUP_SECONDS;
    let trace = stage.folder().join("trace.csv");
    // The last rate holds for as long as the one before it did.
    std::fs::write(&trace, format!("0,{rate}\n{},{rate}\n", all as f64 / 2.0)).context("write a trace")?;
    let mut load = pinned(stage.load());
    load.arg(format!("http://127.0.0.1:{}", serving.port)).arg("--trace").arg(&trace);
    load.args(["--warmup-seconds", &WARMUP_SECONDS.to_string()]);
    load.args(["--timeout-ms", &TIMEOUT.as_millis().to_string()]);
    load.args(["--connections-max", &OPEN_CONNECTIONS_MAX.to_string()]);
    for path in paths {
        load.args(["--get", &format!("1={path}")]);
    }
    for (name, value) in &offer.headers {
        load.args(["--header", &format!("{name}:{value}")]);
    }
    let output = command::run(&mut load, Duration::from_secs(all) + TIMEOUT + PATIENCE).await?;
    judge(&output, rate, all)
}

fn judge(output: &str, rate: f64, seconds: u64) -> Result<Open> {
    let mut in_time = 0;
    let mut summary: Option<Summary> = None;
    for line in output.lines() {
        match serde_json::from_str(line).with_context(|| format!("the load generator says: {line}"))? {
            Line::Second(second) if u64::from(second.second) < seconds => {
                in_time += second.ends.all();
            }
            Line::Second(_) => {}
            Line::Summary(told) => summary = Some(told),
        }
    }
    let summary = summary.context("the load generator ends without a summary")?;
    ensure!(summary.offered > 0, "no request was due");
    let achieved = in_time as f64 / summary.offered as f64;
    Ok(Open {
        rate,
        achieved,
        valid: achieved >= ACHIEVED_MIN,
        failed: summary.ends.unserved(),
        failures: summary.failures,
        p50_ms: summary.p50_ms,
        p95_ms: summary.p95_ms,
        p99_ms: summary.p99_ms,
        p999_ms: summary.p999_ms,
        late_p99_ms: summary.late_p99_ms,
    })
}

/// A program on the generator's CPU.
fn pinned(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", GENERATOR_CPU]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use plimsoll_load::{Ends, Second};

    use super::*;

    fn output(completed: &[u64], offered: u64) -> String {
        let seconds = completed.iter().enumerate().map(|(second, completed)| {
            let ends = Ends { completed: *completed, ..Ends::default() };
            Line::Second(Second { second: second as u32, ends, ..Second::default() })
        });
        let summary = Summary { offered, p99_ms: 4.5, ..Summary::default() };
        let lines = seconds.chain([Line::Summary(summary)]);
        lines.map(|line| serde_json::to_string(&line).unwrap() + "\n").collect()
    }

    #[test]
    fn a_load_that_is_not_answered_in_time_is_not_valid() {
        let kept_up = judge(&output(&[0, 100, 99, 1], 200), 100.0, 3).unwrap();
        assert!(kept_up.valid && kept_up.p99_ms > 4.4, "{kept_up:?}");
        let fell_behind = judge(&output(&[0, 100, 90, 10], 200), 100.0, 3).unwrap();
        assert!(!fell_behind.valid, "{fell_behind:?}");
        assert!(judge("", 100.0, 3).is_err());
    }

    #[test]
    fn reads_what_the_script_prints() {
        let output = "Running 5s test\n\n{\"requests\":10,\"duration_us\":5,\"bytes\":1,\"status_errors\":2,\
            \"socket_errors\":3,\"p50_us\":1,\"p99_us\":2}\n";
        let printed = Printed::read(output).unwrap();
        assert_eq!((printed.requests, printed.status_errors + printed.socket_errors), (10, 5));
        assert!(Printed::read("unable to connect").is_err());
    }
}
