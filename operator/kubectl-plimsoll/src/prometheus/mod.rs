//! A history of load from a Prometheus server: the answer to a range query, which must be one series of requests per second.
//!
//! Reading order: [`moment`] and [`range`] (what is asked for), [`client`] and [`answer`] (how, and what comes back),
//! [`series`] (what it means).

mod answer;
mod client;
mod moment;
mod range;
mod series;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use hyper::Uri;
use jiff::Timestamp;

use self::client::{Client, LIMITS, Trust};
use self::moment::Moment;
use self::range::Range;
use crate::history::History;

/// Seconds between two points, as most servers scrape.
const STEP_SECONDS: u32 = 15;

/// What to ask, and whom.
#[derive(Args, Clone, Debug)]
pub struct Source {
    /// In place of --trace: a Prometheus server that answers --query, such as `http://localhost:9090`
    #[arg(long, value_name = "URL", value_parser = client::server, requires_all = ["query", "from"])]
    prometheus: Option<Uri>,
    /// A query for one series of requests per second, such as `sum(rate(http_requests_total[1m]))`
    #[arg(long, value_name = "PROMQL", requires = "prometheus", allow_hyphen_values = true)]
    query: Option<String>,
    /// Where the history begins: a time such as 2026-11-24T00:00:00Z, or how long ago, such as 6h or 7d
    #[arg(long, value_name = "TIME", value_parser = moment::moment, requires = "prometheus")]
    from: Option<Moment>,
    /// Where it ends [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment::moment, requires = "prometheus")]
    to: Option<Moment>,
    /// Time between two points [default: 15s]
    #[arg(long, value_name = "DURATION", value_parser = moment::step, requires = "prometheus")]
    step: Option<u32>,
    /// A file with the token that the server asks for
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    bearer_token_file: Option<PathBuf>,
    /// A PEM file with the authorities that may have signed the server's certificate, in place of the machine's
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    ca_file: Option<PathBuf>,
    /// Take any certificate: whoever is on the way can read the token and make the answer up
    #[arg(long, requires = "prometheus", conflicts_with = "ca_file")]
    insecure_skip_tls_verify: bool,
}

/// Asks, as often as the number of points takes.
///
/// # Errors
/// When the server cannot be asked or refuses, and when its answer is no history of load; with what to write.
pub fn read(source: &Source) -> Result<History> {
    let server = source.prometheus.as_ref().context("write --trace FILE or --prometheus URL")?;
    let query = source.query.as_deref().context("write --query, a query for requests per second")?;
    let from = source.from.context("write --from, such as --from 6h")?;
    let now = Timestamp::now();
    let to = source.to.map_or(now, |to| to.at(now));
    let range = Range::between(from.at(now), to, source.step.unwrap_or(STEP_SECONDS))?;
    let trust = match &source.ca_file {
        Some(file) => Trust::File(file),
        None if source.insecure_skip_tls_verify => Trust::Anyone,
        None => Trust::Machine,
    };
    let client = Client::new(server, source.bearer_token_file.as_deref(), trust, LIMITS)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the client of Prometheus")?;
    let mut parts = Vec::new();
    for part in range.parts() {
        let response = runtime.block_on(client.query_range(query, part))?;
        parts.push(answer::parse(&response).with_context(|| format!("ask {server}"))?);
    }
    series::history(query, range, parts)
}
