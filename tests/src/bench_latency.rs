//! `cargo xtask bench latency`: whether the API's own histogram says what its clients feel, below and above its capacity.
//!
//! 1. Starts the release build of the API in a cgroup with a CPU quota, on the first core.
//! 2. Measures what a request costs it in CPU, and so how many it can serve within the quota: its capacity.
//! 3. For each share of that, sends requests from the second core, open loop, and reads the histogram before and after.
//! 4. Prints client and server side by side, medians over the rounds with the range.
//!
//! It ends what it started and removes its cgroup. It judges nothing: a machine that is busy otherwise shows in the ranges.

mod limited;
pub(crate) mod scrape;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use plimsoll_load::Summary;
use plimsoll_load::record::Line;
use serde::Serialize;
use tokio::process::{Child, Command};

use crate::bench::markdown::NONE;
use crate::bench::stats::Spread;
use crate::progress::{note, step};
use crate::{command, host, paths};
use limited::Limited;
use scrape::Scrape;

/// Shares of the capacity at which latencies are compared; at the last, goodput is what is looked for.
const SHARES: [f64; 5] = [0.5, 0.9, 1.1, 1.5, 2.0];
/// The promise that the server is given, and that goodput is counted by.
const PROMISE_MS: u64 = 100;
/// A release build with an empty cache, on two cores.
const BUILD_LIMIT: Duration = Duration::from_mins(40);
/// How long the server may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a request may take before the client gives it up.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The load, in requests a second, under which a request's CPU cost is first looked at: any replica carries it.
const FIRST_RATE: f64 = 20.0;

/// The share of the capacity at which a request's cost is looked at.
const CALIBRATION_SHARE: f64 = 0.85;

/// What to compare.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server's CPU quota in thousandths of a core.
    #[arg(long, default_value_t = 200)]
    quota_millicores: u32,
    /// What is asked of it. Absent: each in turn.
    #[arg(long, value_enum)]
    workload: Option<Workload>,
    /// Seconds of load at each share of the capacity.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=600))]
    seconds: u32,
    /// How often to measure each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Further flags for the server, such as `--shed-after=0s`; may be repeated.
    #[arg(long = "server-flag")]
    server_flags: Vec<String>,
    /// A file to write every number to, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Workload {
    /// `GET /work?cpu=2ms`: on the workers, where the time goes to the request itself.
    Work,
    /// `GET /posts/{id}` and, one in ten, `GET /posts`: on the event loop, where reading and writing is most of the cost.
    Reads,
}

impl Workload {
    const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Work => &["--get=1=/work?cpu=2ms"],
            Self::Reads => &["--posts=50", "--get=9=/posts/{post}", "--get=1=/posts"],
        }
    }
}

/// One stretch of load.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    workload: Workload,
    round: u32,
    share: f64,
    offered_per_second: f64,
    client_p50_ms: f64,
    client_p95_ms: f64,
    client_p99_ms: f64,
    server_p95_ms: f64,
    server_p99_ms: f64,
    /// From the handler's start: what a stopwatch in a handler would have said.
    handler_p95_ms: f64,
    handler_p99_ms: f64,
    throttled_share: f64,
    shed_share: f64,
    /// Answers with success within the promise, a second.
    goodput_per_second: f64,
    cpu_micros_per_request: f64,
    failures: std::collections::BTreeMap<String, u64>,
}

/// Compares, prints and writes.
///
/// # Errors
/// When this is not root on Linux with cgroups, a build fails, or the server or the generator ends early.
pub async fn run(options: Options) -> Result<()> {
    host::require_root()?;
    let mut build = Command::new("cargo");
    build.current_dir(paths::project());
    build.args(["build", "--locked", "--release", "--package", "plimsoll-api", "--package", "plimsoll-load"]);
    step("Build the API and the load generator", command::run(&mut build, BUILD_LIMIT)).await?;
    let workloads = options.workload.map_or(vec![Workload::Work, Workload::Reads], |workload| vec![workload]);
    let mut rows = Vec::new();
    for workload in workloads {
        let capacity = capacity(&options, workload).await?;
        note(format!("{workload:?}: {capacity:.0} requests a second use up the quota"));
        for round in 0..options.rounds {
            for share in SHARES {
                let title = format!("{workload:?}, round {}, {:.0} % of capacity", round + 1, share * 100.0);
                let row = measure(&options, workload, share * capacity);
                rows.push(Row { round, share, ..step(title, row).await? });
            }
        }
    }
    print(&rows);
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Requests a second that use up the quota, by what a request costs just below that. Cheap requests cost less the more of
/// them come at once, so each look is nearer to where it matters than the one before it.
async fn capacity(options: &Options, workload: Workload) -> Result<f64> {
    let mut capacity = FIRST_RATE;
    for _ in 0..4 {
        let rate = CALIBRATION_SHARE * capacity;
        let row = step("Look at what a request costs", measure(options, workload, rate)).await?;
        capacity = f64::from(options.quota_millicores) * 1000.0 / row.cpu_micros_per_request;
    }
    Ok(capacity)
}

/// Loads a fresh server with `rate` requests a second.
async fn measure(options: &Options, workload: Workload, rate: f64) -> Result<Row> {
    let release = paths::target().join("release");
    let cgroup = Limited::new(options.quota_millicores)?;
    let address =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).context("find a port")?;
    let mut server = cgroup.command(&release.join("plimsoll-api"));
    server
        .arg(format!("--listen={address}"))
        .args(["--database-url=sqlite::memory:", "--log=warn", "--drain=0s"])
        .arg(format!("--latency-targets={PROMISE_MS}ms"))
        .args(&options.server_flags);
    let mut server = server.spawn().context("start the API")?;
    let result = tokio::select! {
        result = load(options, workload, rate, address, &release) => result,
        status = server.wait() => Err(anyhow::anyhow!("the API ended early: {status:?}")),
    };
    end(&mut server).await?;
    drop(cgroup);
    result
}

async fn load(
    options: &Options,
    workload: Workload,
    rate: f64,
    address: SocketAddr,
    release: &Path,
) -> Result<Row> {
    ready(address).await?;
    // One short stretch unmeasured: connections are opened, code and data are paged in.
    generate(workload, rate.min(FIRST_RATE * 5.0), 2, address, release).await?;
    let before = scrape::read(address).await?;
    let summary = generate(workload, rate, options.seconds, address, release).await?;
    let after = scrape::read(address).await?;
    Ok(row(workload, options.seconds, &summary, &before, &after))
}

fn row(workload: Workload, seconds: u32, summary: &Summary, before: &Scrape, after: &Scrape) -> Row {
    let more = |series: &str| after.sum(series) - before.sum(series);
    let quantile = |histogram: &str, q: f64| after.quantile(before, histogram, q) * 1000.0;
    let offered = summary.offered.max(1) as f64;
    let within = 1.0 - summary.over_share.first().copied().unwrap_or_default();
    let measured = |q| quantile(r#"http_request_duration_seconds_bucket{method="GET""#, q);
    let handled = |q| quantile("http_handler_duration_seconds_bucket{", q);
    Row {
        workload,
        round: 0,
        share: 0.0,
        offered_per_second: offered / f64::from(seconds),
        client_p50_ms: summary.answered.p50_ms,
        client_p95_ms: summary.answered.p95_ms,
        client_p99_ms: summary.answered.p99_ms,
        server_p95_ms: measured(0.95),
        server_p99_ms: measured(0.99),
        handler_p95_ms: handled(0.95),
        handler_p99_ms: handled(0.99),
        throttled_share: more("cgroup_cpu_throttled_periods_total")
            / more("cgroup_cpu_periods_total").max(1.0),
        shed_share: more("http_requests_shed_total") / offered,
        goodput_per_second: within * offered / f64::from(seconds),
        cpu_micros_per_request: more("process_cpu_seconds_total") * 1e6 / offered,
        failures: summary.failures.clone(),
    }
}

async fn ready(address: SocketAddr) -> Result<()> {
    let answers = async {
        while scrape::get(address, "/readyz").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(START_LIMIT, answers).await.context("the API is not ready in time")
}

async fn generate(
    workload: Workload,
    rate: f64,
    seconds: u32,
    address: SocketAddr,
    release: &Path,
) -> Result<Summary> {
    let trace = std::env::temp_dir().join(format!("plimsoll-bench-latency-{}.csv", std::process::id()));
    // The last of two points holds as long as the first did.
    std::fs::write(&trace, format!("0,{rate}\n{},{rate}\n", f64::from(seconds) / 2.0))
        .with_context(|| format!("write {}", trace.display()))?;
    // On the other core, and ahead of whatever else wants it: its own delays would count as the server's.
    let mut generator = Command::new("chrt");
    generator.args(["--fifo", "10", "taskset", "-c", "1"]).arg(release.join("plimsoll-load"));
    generator.arg(format!("http://{address}")).arg("--trace").arg(&trace).args(workload.flags());
    generator.arg(format!("--threshold-ms={PROMISE_MS}"));
    generator.arg(format!("--timeout-ms={}", TIMEOUT.as_millis()));
    // As many as the server takes: a client that runs out of connections would hide the server's queue.
    generator.arg("--connections-max=4000");
    let limit = Duration::from_secs(u64::from(seconds)) + TIMEOUT + START_LIMIT;
    let output = command::run(&mut generator, limit).await;
    let _ = std::fs::remove_file(&trace);
    let output = output?;
    let last = output.lines().last().context("the load generator says nothing")?;
    match serde_json::from_str(last).context("read what the load generator says")? {
        Line::Summary(summary) => Ok(summary),
        Line::Second(_) => bail!("the load generator broke off"),
    }
}

/// Asks the server to end, and sees to it.
async fn end(server: &mut Child) -> Result<()> {
    if let Some(id) = server.id() {
        let id = nix::unistd::Pid::from_raw(i32::try_from(id).context("a process's id")?);
        // It may have ended by itself.
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
    }
    if tokio::time::timeout(TIMEOUT, server.wait()).await.is_err() {
        server.kill().await.context("end the API")?;
    }
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "Latencies in ms, median (lowest–highest) over rounds; of requests answered with success. The server's are read from\n\
         its histogram; the handler's are what a stopwatch in the handler would have said.\n\n\
         | load | % of capacity | offered/s | client p50 | client p95 | server p95 | off | client p99 | server p99 | off | handler p95 | handler p99 | throttled | shed | goodput/s | CPU µs |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut seen: Vec<(Workload, f64)> = Vec::new();
    for row in rows {
        if seen.contains(&(row.workload, row.share)) {
            continue;
        }
        seen.push((row.workload, row.share));
        let same: Vec<&Row> =
            rows.iter().filter(|other| (other.workload, other.share) == (row.workload, row.share)).collect();
        let column = |value: fn(&Row) -> f64, show: &dyn Fn(Spread) -> String| {
            Spread::of(same.iter().map(|row| value(row))).map_or(NONE.to_owned(), show)
        };
        let (ms, whole) = (&|spread: Spread| spread.show(1), &|spread: Spread| spread.show(0));
        let middle = &|spread: Spread| format!("{:.0}", spread.median);
        println!(
            "| {:?} | {:.0} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} % | {} % | {} | {} |",
            row.workload,
            row.share * 100.0,
            column(|row| row.offered_per_second, middle),
            column(|row| row.client_p50_ms, ms),
            column(|row| row.client_p95_ms, ms),
            column(|row| row.server_p95_ms, ms),
            column(|row| off(row.server_p95_ms, row.client_p95_ms), &signed),
            column(|row| row.client_p99_ms, ms),
            column(|row| row.server_p99_ms, ms),
            column(|row| off(row.server_p99_ms, row.client_p99_ms), &signed),
            column(|row| row.handler_p95_ms, ms),
            column(|row| row.handler_p99_ms, ms),
            column(|row| row.throttled_share * 100.0, whole),
            column(|row| row.shed_share * 100.0, whole),
            column(|row| row.goodput_per_second, whole),
            column(|row| row.cpu_micros_per_request, middle),
        );
    }
}

/// By how many percent the server's number is above the client's.
fn off(server: f64, client: f64) -> f64 {
    (server / client - 1.0) * 100.0
}

/// The median, with its sign and the range.
fn signed(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:+.0} % ({min:+.0} to {max:+.0})")
}
