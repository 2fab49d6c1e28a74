//! What a simulated hour takes: 50 pods that answer 1,000 requests a second, which come at random, and a policy that is asked
//! as often as it asks to be.

use std::iter::repeat_n;
use std::time::Duration;

use anyhow::{Result, ensure};
use plimsoll_simulator::distribution::Distribution;
use plimsoll_simulator::engine::Plimsoll;
use plimsoll_simulator::peers::fixed::Fixed;
use plimsoll_simulator::service::Service;
use plimsoll_simulator::{Policy, Scenario, Target, Trace, run};
use serde::{Deserialize, Serialize};

use crate::clock::cpu_time;

/// Pods throughout: the fewest and the most that a policy may want.
pub const PODS: u32 = 50;
/// Of all of them together.
pub const REQUESTS_PER_SECOND: f64 = 1000.0;

/// What the hours of one policy took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hours {
    /// The policy.
    pub policy: String,
    /// Simulated seconds of each.
    pub seconds: u32,
    /// Requests of each.
    pub requests: u64,
    /// Seconds of one core's CPU that each took, to make the requests included.
    pub cpu_seconds: Vec<f64>,
}

/// Simulates this span so many times with the engine, and as often with a policy that decides nothing.
///
/// # Errors
/// When the CPU time cannot be read, or the pods or requests are not those of [`PODS`] and [`REQUESTS_PER_SECOND`]: something
/// else would be measured.
pub fn measure(seconds: u32, times: usize) -> Result<Vec<Hours>> {
    let scenario = scenario(seconds);
    Ok(vec![
        hours(&scenario, times, || Plimsoll::new(&scenario))?,
        hours(&scenario, times, || Fixed { replicas: PODS })?,
    ])
}

/// Pods at half of what they can serve, which takes 0.1 s a request on four workers.
fn scenario(seconds: u32) -> Scenario {
    let trace = Trace::from_rates(repeat_n(REQUESTS_PER_SECOND, seconds as usize));
    let start_up = Distribution::Lognormal { mean: 12.0, cv: 0.2 };
    let service = Service::workers(4, Distribution::Exponential { mean: 0.1 }, start_up);
    let target = Target { quantile: 0.99, latency: Duration::from_millis(600) };
    Scenario {
        replicas_initial: PODS,
        replicas_min: PODS,
        replicas_max: PODS,
        ..Scenario::new("an hour", trace, service, target)
    }
}

fn hours<P: Policy>(scenario: &Scenario, times: usize, policy: impl Fn() -> P) -> Result<Hours> {
    let seconds = scenario.trace.duration().as_secs() as u32;
    let mut hours =
        Hours { policy: policy().name(), seconds, requests: 0, cpu_seconds: Vec::with_capacity(times) };
    for _ in 0..times {
        let mut policy = policy();
        let started = cpu_time()?;
        let outcome = run(scenario, &mut policy);
        hours.cpu_seconds.push(cpu_time()?.saturating_sub(started).as_secs_f64());
        let expected = REQUESTS_PER_SECOND * f64::from(seconds);
        ensure!((outcome.offered as f64 / expected - 1.0).abs() < 0.05, "{} requests came", outcome.offered);
        ensure!(
            outcome.seconds.iter().all(|second| second.ready == PODS),
            "there were not {PODS} pods throughout"
        );
        hours.requests = outcome.offered;
    }
    Ok(hours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_pods_answer_a_thousand_requests_a_second() {
        let found = measure(30, 2).unwrap();
        let policies = found.iter().map(|hours| hours.policy.as_str()).collect::<Vec<_>>();
        assert_eq!(policies, ["Plimsoll", "fixed 50"]);
        assert!(found.iter().all(|hours| hours.seconds == 30 && hours.requests > 28_000));
        assert!(found.iter().flat_map(|hours| &hours.cpu_seconds).all(|&seconds| seconds > 0.0));
    }
}
