//! Sends a trace's load to a server and prints what a client felt, as a line of JSON a second.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Uri};
use plimsoll_load::Trace;
use plimsoll_load::run::{Plan, run};

/// Open-loop HTTP load that follows a trace.
#[derive(Parser)]
struct Arguments {
    /// Scheme, host and port, such as `http://posts:80`.
    base: Uri,
    /// File of `second,requests_per_second` lines.
    #[arg(long)]
    trace: PathBuf,
    /// A path to GET and its weight, as WEIGHT=PATH; may be repeated. `{post}` stands for a post made by --posts.
    #[arg(long = "get", value_parser = weighted, default_value = "1=/")]
    paths: Vec<(String, u32)>,
    /// Posts to make before the load begins.
    #[arg(long, default_value_t = 0)]
    posts: u32,
    /// Of the moments at which requests are due.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Milliseconds after which a request is given up.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// Most connections.
    #[arg(long, default_value_t = 512)]
    connections_max: u64,
    /// A header of every GET, as NAME:VALUE; may be repeated.
    #[arg(long = "header", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Seconds at the start whose requests are not counted.
    #[arg(long, default_value_t = 0)]
    warmup_seconds: u64,
    /// A latency in milliseconds to count requests over; may be repeated.
    #[arg(long = "threshold-ms")]
    thresholds_ms: Vec<u64>,
}

fn weighted(text: &str) -> Result<(String, u32), String> {
    let (weight, path) = text.split_once('=').ok_or("write WEIGHT=PATH, such as 1=/health")?;
    let weight = weight.parse().map_err(|_| format!("{weight:?} is not a whole number"))?;
    if !path.starts_with('/') {
        return Err(format!("{path:?} does not begin with /"));
    }
    Ok((path.to_owned(), weight))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME:VALUE, such as accept-encoding:gzip")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not a header's name"))?;
    let value = value.trim().parse().map_err(|_| format!("{value:?} cannot be sent in a header"))?;
    Ok((name, value))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let csv = std::fs::read_to_string(&arguments.trace)
        .with_context(|| format!("read {}", arguments.trace.display()))?;
    let plan = Plan {
        base: arguments.base,
        paths: arguments.paths,
        posts: arguments.posts,
        trace: Trace::parse(&csv).with_context(|| arguments.trace.display().to_string())?,
        seed: arguments.seed,
        timeout: Duration::from_millis(arguments.timeout_ms),
        connections_max: arguments.connections_max,
        headers: HeaderMap::from_iter(arguments.headers),
        warmup: Duration::from_secs(arguments.warmup_seconds),
        thresholds: arguments.thresholds_ms.iter().map(|ms| Duration::from_millis(*ms)).collect(),
    };
    let mut out = std::io::stdout();
    run(plan, |line| {
        if let Ok(text) = serde_json::to_string(line) {
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        }
    })
    .await
    .map(drop)
}
