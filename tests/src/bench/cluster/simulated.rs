//! The measured service in the simulated cluster.
//!
//! What is not measured directly, how a pod's requests vary, is fitted to how one pod answered under the calibration's loads.
//! The trace that is judged is not looked at.

use std::time::Duration;

use plimsoll_simulator::distribution::Distribution;
use plimsoll_simulator::engine::Plimsoll;
use plimsoll_simulator::peers::fixed::Fixed;
use plimsoll_simulator::scenario::{Balancing, Scraping};
use plimsoll_simulator::service::{Patience, Server, Service};
use plimsoll_simulator::sweep::parallel;
use plimsoll_simulator::{Outcome, Scenario, Target, Trace, run};
use serde::{Deserialize, Serialize};

use super::calibrate::{Calibration, Point};
use super::load::TIMEOUT;
use super::stage::{BOUNDS, LIMIT_MILLICORES, TARGET_MS, WORK_MS};

/// Of a request's CPU time.
const CVS: [f64; 7] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.7, 1.0];
/// Of simulated load, to fit with.
const FIT_SECONDS: usize = 600;
/// From a scrape of a few pods on the same machine to the decision.
const SCRAPE_DELAY: Duration = Duration::from_millis(100);

/// What was fitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fit {
    /// Standard deviation of a request's CPU time over its mean.
    pub cv: f64,
    /// The simulated pod's shares over the promise, one for each load of the calibration, 0 to 1.
    pub over_shares: Vec<f64>,
    /// Root of the mean square by which the shares over the promise are off, 0 to 1.
    pub off: f64,
}

/// A run in the simulated cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The scenario's seed.
    pub seed: u64,
    /// Share of requests over the promise.
    pub over_share: f64,
    /// Replicas wanted at the end of each second.
    pub wanted: Vec<u32>,
    /// Replicas Ready at the end of each second.
    pub ready: Vec<u32>,
}

impl Run {
    /// Wanted replicas over the run, in replica-hours.
    pub fn replica_hours(&self) -> f64 {
        self.wanted.iter().map(|&wanted| f64::from(wanted)).sum::<f64>() / 3600.0
    }
}

fn service(calibration: &Calibration, cv: f64) -> Service {
    let limit = f64::from(LIMIT_MILLICORES) / 1000.0;
    let work = if cv > 0.0 {
        Distribution::Lognormal { mean: calibration.cost_seconds, cv }
    } else {
        Distribution::Constant { seconds: calibration.cost_seconds }
    };
    // What a pod uses anyway is not there for requests.
    let left = (limit - calibration.idle_cores).max(limit / 10.0);
    Service {
        server: Server::EventLoop { cpu_limit: left },
        patience: Some(patience(calibration)),
        cpu_request: limit,
        ..Service::event_loop(limit, work, start_up(&calibration.start_ups))
    }
}

/// As the bundled API has it for this promise. A request that is refused was read, and is answered, but does no work.
fn patience(calibration: &Calibration) -> Patience {
    let refusal_seconds = (calibration.cost_seconds - f64::from(WORK_MS) / 1000.0).max(0.0);
    Patience::of_bundled_api(Duration::from_millis(TARGET_MS), refusal_seconds)
}

/// Multiplicative noise with the mean and the variation of what was measured.
fn start_up(seconds: &[f64]) -> Distribution {
    let count = seconds.len().max(1) as f64;
    let mean = seconds.iter().sum::<f64>() / count;
    let variance = seconds.iter().map(|second| (second - mean).powi(2)).sum::<f64>() / count;
    match variance.sqrt() / mean {
        cv if cv > 0.0 => Distribution::Lognormal { mean, cv },
        _ => Distribution::Constant { seconds: mean },
    }
}

fn scenario(name: &str, calibration: &Calibration, cv: f64, rates: &[f64]) -> Scenario {
    let target = Target { quantile: 0.99, latency: Duration::from_millis(TARGET_MS) };
    let trace = Trace::from_rates(rates.iter().copied());
    Scenario {
        balancing: Balancing::Random,
        client_timeout: Some(TIMEOUT),
        drops_abandoned: true,
        scraping: Scraping { delay: SCRAPE_DELAY, ..Scraping::default() },
        edges: calibration.edges.clone(),
        ..Scenario::new(name, trace, service(calibration, cv), target)
    }
}

/// Finds the variation with which one simulated pod answers as the real one did.
pub fn fit(calibration: &Calibration) -> Fit {
    let fits = parallel(&CVS, |&cv| {
        let over_share = |point: &Point| {
            let rates = vec![point.offered_per_second; FIT_SECONDS];
            let one = Scenario {
                replicas_initial: 1,
                replicas_max: 1,
                ..scenario("one pod", calibration, cv, &rates)
            };
            run(&one, &mut Fixed { replicas: 1 }).score().over_share
        };
        let over_shares = calibration.points.iter().map(over_share).collect::<Vec<_>>();
        let squares = over_shares
            .iter()
            .zip(&calibration.points)
            .map(|(simulated, point)| (simulated - point.ended.over_share()).powi(2));
        let count = calibration.points.len().max(1) as f64;
        Fit { cv, off: (squares.sum::<f64>() / count).sqrt(), over_shares }
    });
    let worst = Fit { cv: CVS[0], over_shares: Vec::new(), off: f64::INFINITY };
    fits.into_iter().fold(worst, |best, fit| if fit.off < best.off { fit } else { best })
}

/// Runs a load of one rate for each second under the engine, with each seed.
pub fn replay(calibration: &Calibration, fit: &Fit, rates: &[f64], seeds: &[u64]) -> Vec<Run> {
    parallel(seeds, |&seed| {
        let scenario = Scenario {
            seed,
            replicas_initial: BOUNDS.0,
            replicas_min: BOUNDS.0,
            replicas_max: BOUNDS.1,
            ..scenario("the trace", calibration, fit.cv, rates)
        };
        told(&run(&scenario, &mut Plimsoll::new(&scenario)))
    })
}

fn told(outcome: &Outcome) -> Run {
    Run {
        seed: outcome.seed,
        over_share: outcome.score().over_share,
        wanted: outcome.seconds.iter().map(|second| second.wanted).collect(),
        ready: outcome.seconds.iter().map(|second| second.ready).collect(),
    }
}

#[cfg(test)]
pub mod testing {
    //! A calibration for tests.

    use super::super::calibrate::{Calibration, Point};
    use super::super::windows::Ended;

    /// Requests of 2.3 ms on pods that start in a second or two; shares over the promise are those given, by rate.
    pub fn calibration(over: &[(f64, f64)]) -> Calibration {
        let point = |&(rate, share): &(f64, f64)| Point {
            rate,
            offered_per_second: rate,
            cores: 0.002 + 0.0023 * rate,
            ended: Ended { offered: 1000, all: 1000, over: (share * 1000.0) as u64, unserved: 0 },
            p50_ms: 3.0,
            p99_ms: 90.0,
        };
        Calibration {
            points: over.iter().map(point).collect(),
            cost_seconds: 0.0023,
            idle_cores: 0.002,
            start_ups: vec![1.0, 1.5, 2.0],
            edges: vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 10.0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_up_has_the_mean_and_the_variation_of_what_was_measured() {
        assert_eq!(start_up(&[2.0, 2.0]), Distribution::Constant { seconds: 2.0 });
        let Distribution::Lognormal { mean, cv } = start_up(&[1.0, 3.0]) else {
            panic!("it varies");
        };
        assert!((mean - 2.0).abs() < 1e-9 && (cv - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_variation_of_the_work_is_found_by_the_shares_near_a_pods_limit() {
        let truth = testing::calibration(&[]);
        let over = |rate: f64| {
            let one = Scenario {
                replicas_initial: 1,
                replicas_max: 1,
                ..scenario("one pod", &truth, 0.7, &[rate; 1200])
            };
            (rate, run(&one, &mut Fixed { replicas: 1 }).score().over_share)
        };
        let found = fit(&testing::calibration(&[over(10.0), over(36.0), over(40.0), over(60.0)]));
        assert!(found.off < 0.02, "{found:?}");
        assert!((0.4..=1.0).contains(&found.cv), "{found:?}");
    }

    #[test]
    fn what_it_refuses_costs_a_pod_what_is_beside_the_work() {
        let patience = patience(&testing::calibration(&[]));
        assert!((patience.refusal_seconds - 0.0003).abs() < 1e-9);
        assert_eq!(patience.target, Duration::from_millis(125));
        assert_eq!(patience.interval, Duration::from_millis(200));
    }

    #[test]
    fn a_rise_of_the_load_brings_replicas_and_the_same_seed_the_same_run() {
        let rates: Vec<f64> = (0..180).map(|second| if second < 60 { 15.0 } else { 120.0 }).collect();
        let fit = Fit { cv: 0.2, over_shares: Vec::new(), off: 0.0 };
        let runs = replay(&testing::calibration(&[]), &fit, &rates, &[1, 2]);
        assert_eq!((runs.len(), runs[0].wanted.len(), runs[1].seed), (2, 180, 2));
        assert!(runs[0].wanted[179] > runs[0].wanted[30], "{:?}", runs[0].wanted);
        assert!(
            (runs[0].replica_hours() * 3600.0 - f64::from(runs[0].wanted.iter().sum::<u32>())).abs() < 1e-6
        );
        assert_eq!(replay(&testing::calibration(&[]), &fit, &rates, &[1])[0], runs[0]);
    }
}
