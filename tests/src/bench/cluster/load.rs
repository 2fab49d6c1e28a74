//! Sends load to a Service, or a pod, from this machine, and tells what a client felt.

use std::time::Duration;

use anyhow::{Context, Result};
use http::{HeaderMap, HeaderValue};
use plimsoll_load::record::Line;
use plimsoll_load::run::{Plan, run};
use plimsoll_load::{Second, Summary, Trace};

use super::stage::{PATH, TARGET_MS};
use super::windows::Ended;

/// A request is given up after this.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// More than can be waiting within [`TIMEOUT`] at any rate here: the client must not run out of them before the pods do.
const CONNECTIONS_MAX: u64 = 2000;

/// How clients use connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// They keep them, and take any idle one for a request.
    Kept,
    /// One for each request, so that the Service picks a pod for each.
    OneEach,
}

/// What was felt.
pub struct Felt {
    /// Second by second.
    pub seconds: Vec<Second>,
    /// Of the whole load.
    pub summary: Summary,
}

impl Felt {
    /// What ended in each second.
    pub fn ended(&self) -> Vec<Ended> {
        self.seconds.iter().map(Ended::of).collect()
    }
}

/// Sends a trace's requests to `address` (host and port).
///
/// # Errors
/// When the address cannot be used. Failed requests are counted, not errors.
pub async fn send(address: &str, trace: Trace, connections: Connections, seed: u64) -> Result<Felt> {
    let mut headers = HeaderMap::new();
    if connections == Connections::OneEach {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    let plan = Plan {
        base: format!("http://{address}").parse().context("the load's address")?,
        paths: vec![(PATH.to_owned(), 1)],
        posts: 0,
        trace,
        seed,
        timeout: TIMEOUT,
        connections_max: CONNECTIONS_MAX,
        headers,
        warmup: Duration::ZERO,
        thresholds: vec![Duration::from_millis(TARGET_MS)],
    };
    let mut seconds = Vec::new();
    let summary = run(plan, |line| {
        if let Line::Second(second) = line {
            seconds.push(second.clone());
        }
    })
    .await?;
    Ok(Felt { seconds, summary })
}

/// A load of `rate` requests a second.
///
/// # Errors
/// Never for a rate and a length above 0.
pub fn constant(rate: f64, seconds: u32) -> Result<Trace> {
    // The last of two points holds as long as the first did.
    Trace::parse(&format!("0,{rate}\n{},{rate}\n", f64::from(seconds) / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_load_has_its_rate_and_length() {
        let trace = constant(40.0, 15).unwrap();
        assert_eq!(trace.duration(), Duration::from_secs(15));
        assert!((trace.mean(0) - 40.0).abs() < 1e-9 && (trace.mean(14) - 40.0).abs() < 1e-9);
    }
}
