//! The measured service in the simulated cluster.
//!
//! What is not measured directly, how a pod's requests vary and how many it lets wait, is fitted to how one pod answered under
//! the calibration's loads. The trace that is judged is not looked at.

use std::time::Duration;

use plimsoll_simulator::distribution::Distribution;
use plimsoll_simulator::engine::Plimsoll;
use plimsoll_simulator::peers::fixed::Fixed;
use plimsoll_simulator::scenario::{Balancing, Scraping};
use plimsoll_simulator::service::{Server, Service};
use plimsoll_simulator::sweep::parallel;
use plimsoll_simulator::{Outcome, Scenario, Target, Trace, run};
use serde::{Deserialize, Serialize};

use super::calibrate::Calibration;
use super::load::TIMEOUT;
use super::stage::{BOUNDS, LIMIT_MILLICORES, TARGET_MS};

/// Of a request's CPU time.
const CVS: [f64; 5] = [0.0, 0.2, 0.4, 0.7, 1.0];
/// Requests that may wait in a pod.
const QUEUES: [u32; 9] = [3, 4, 5, 6, 8, 10, 12, 16, 24];
/// Of simulated load, to fit with.
const FIT_SECONDS: usize = 200;
/// From a scrape of a few pods on the same machine to the decision.
const SCRAPE_DELAY: Duration = Duration::from_millis(100);

/// What was fitted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fit {
    /// Standard deviation of a request's CPU time over its mean.
    pub cv: f64,
    /// Requests that may wait in a pod; more are refused.
    pub queue_limit: u32,
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

fn service(calibration: &Calibration, cv: f64, queue_limit: u32) -> Service {
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
        queue_limit: Some(queue_limit),
        cpu_request: limit,
        ..Service::event_loop(limit, work, start_up(&calibration.start_ups))
    }
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

fn scenario(name: &str, service: Service, rates: &[f64]) -> Scenario {
    let target = Target { quantile: 0.99, latency: Duration::from_millis(TARGET_MS) };
    let trace = Trace::from_rates(rates.iter().copied());
    Scenario {
        balancing: Balancing::Random,
        client_timeout: Some(TIMEOUT),
        drops_abandoned: true,
        scraping: Scraping { delay: SCRAPE_DELAY, ..Scraping::default() },
        ..Scenario::new(name, trace, service, target)
    }
}

/// Finds the variation and the queue with which one simulated pod answers as the real one did.
pub fn fit(calibration: &Calibration) -> Fit {
    let candidates: Vec<(f64, u32)> =
        CVS.iter().flat_map(|&cv| QUEUES.iter().map(move |&queue| (cv, queue))).collect();
    let fits = parallel(&candidates, |&(cv, queue_limit)| {
        let squares = calibration.points.iter().map(|point| {
            let rates = vec![point.offered_per_second; FIT_SECONDS];
            let one = Scenario {
                replicas_initial: 1,
                replicas_max: 1,
                ..scenario("one pod", service(calibration, cv, queue_limit), &rates)
            };
            let simulated = run(&one, &mut Fixed { replicas: 1 }).score().over_share;
            (simulated - point.ended.over_share()).powi(2)
        });
        let count = calibration.points.len().max(1) as f64;
        Fit { cv, queue_limit, off: (squares.sum::<f64>() / count).sqrt() }
    });
    let worst = Fit { cv: 0.0, queue_limit: QUEUES[0], off: f64::INFINITY };
    fits.into_iter().fold(worst, |best, fit| if fit.off < best.off { fit } else { best })
}

/// Runs a load of one rate for each second under the engine, with each seed.
pub fn replay(calibration: &Calibration, fit: Fit, rates: &[f64], seeds: &[u64]) -> Vec<Run> {
    let service = service(calibration, fit.cv, fit.queue_limit);
    parallel(seeds, |&seed| {
        let scenario = Scenario {
            seed,
            replicas_initial: BOUNDS.0,
            replicas_min: BOUNDS.0,
            replicas_max: BOUNDS.1,
            ..scenario("the trace", service.clone(), rates)
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
    fn a_pod_that_refuses_much_under_too_much_load_is_given_a_queue_that_does_too() {
        let truth = testing::calibration(&[]);
        let over = |rate: f64| {
            let one = Scenario {
                replicas_initial: 1,
                replicas_max: 1,
                ..scenario("one pod", service(&truth, 0.4, 6), &[rate; 400])
            };
            (rate, run(&one, &mut Fixed { replicas: 1 }).score().over_share)
        };
        let found = fit(&testing::calibration(&[over(10.0), over(30.0), over(60.0)]));
        assert!(found.off < 0.02, "{found:?}");
        assert!((4..=10).contains(&found.queue_limit), "{found:?}");
    }

    #[test]
    fn a_rise_of_the_load_brings_replicas_and_the_same_seed_the_same_run() {
        let rates: Vec<f64> = (0..180).map(|second| if second < 60 { 15.0 } else { 120.0 }).collect();
        let fit = Fit { cv: 0.2, queue_limit: 8, off: 0.0 };
        let runs = replay(&testing::calibration(&[]), fit, &rates, &[1, 2]);
        assert_eq!((runs.len(), runs[0].wanted.len(), runs[1].seed), (2, 180, 2));
        assert!(runs[0].wanted[179] > runs[0].wanted[30], "{:?}", runs[0].wanted);
        assert!(
            (runs[0].replica_hours() * 3600.0 - f64::from(runs[0].wanted.iter().sum::<u32>())).abs() < 1e-6
        );
        assert_eq!(replay(&testing::calibration(&[]), fit, &rates, &[1])[0], runs[0]);
    }
}
