//! The validation of the simulator: one trace on the cluster, and in the simulation of the service that was measured there.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use plimsoll_load::Trace;
use serde::{Deserialize, Serialize};

use super::calibrate::{self, Calibration};
use super::load::{self, Connections};
use super::replicas::Replicas;
use super::simulated::{self, Fit};
use super::stage::{SCALED, Stage};
use super::watch::Watch;
use super::windows::Ended;
use crate::bench::stats::{Spread, ratio};
use crate::progress::step;

/// Of the simulation: what it says must not hang on one of them.
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
/// Seconds under each load of the calibration.
const CALIBRATION_SECONDS: (u32, u32) = (45, 4);
/// How often the trace runs on the cluster.
const RUNS: (usize, usize) = (3, 1);

/// A trace, on the cluster and in the simulation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// What the trace is called.
    pub trace: String,
    /// Its load in each second, in requests a second.
    pub rates: Vec<f64>,
    /// The service as it was measured.
    pub calibration: Calibration,
    /// What was fitted to that.
    pub fit: Fit,
    /// On the cluster, one after the other, each with nothing learned.
    pub cluster: Vec<Run>,
    /// In the simulation, one a seed.
    pub simulated: Vec<simulated::Run>,
}

/// A run on the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Replicas over time, in seconds since the load began.
    pub replicas: Replicas,
    /// What ended in each second.
    pub seconds: Vec<Ended>,
    /// How late the generator itself was, 99 of 100 times, in milliseconds.
    pub generator_late_p99_ms: f64,
}

/// How both came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beside {
    /// Replica-hours of the cluster, over its runs.
    pub hours: Spread,
    /// Of the simulation, over the seeds.
    pub simulated_hours: Spread,
    /// How far the median of the simulation is off, as a share of the cluster's median: above 0 when it is more.
    pub hours_off: f64,
    /// Share of requests over the promise on the cluster, 0 to 1, over its runs.
    pub over: Spread,
    /// In the simulation, over the seeds.
    pub simulated_over: Spread,
    /// How far the median of the simulation is off the cluster's, 0 to 1: above 0 when it is more.
    pub over_off: f64,
}

impl Validation {
    /// The same on the cluster, and its part in the simulation anew.
    #[must_use]
    pub fn simulated_anew(self) -> Self {
        let fit = simulated::fit(&self.calibration);
        let simulated = simulated::replay(&self.calibration, &fit, &self.rates, &SEEDS);
        Self { fit, simulated, ..self }
    }

    /// How both came out; absent when a side says nothing.
    pub fn beside(&self) -> Option<Beside> {
        let end = self.rates.len() as f64;
        let hours =
            Spread::of(self.cluster.iter().map(|run| run.replicas.replica_seconds(0.0, end) / 3600.0))?;
        let simulated_hours = Spread::of(self.simulated.iter().map(simulated::Run::replica_hours))?;
        let over = Spread::of(self.cluster.iter().map(|run| Ended::sum(&run.seconds).over_share()))?;
        let simulated_over = Spread::of(self.simulated.iter().map(|run| run.over_share))?;
        Some(Beside {
            hours,
            simulated_hours,
            hours_off: ratio(simulated_hours.median, hours.median)? - 1.0,
            over,
            simulated_over,
            over_off: simulated_over.median - over.median,
        })
    }
}

/// A trace's name and its load in each second.
#[derive(Clone, Debug)]
pub struct Load {
    /// What it is called.
    pub name: String,
    /// Requests a second, one for each second.
    pub rates: Vec<f64>,
}

impl Load {
    /// Of a trace; with `quick`, the same curve within two minutes.
    pub fn of(name: &str, trace: Trace, quick: bool) -> Self {
        let trace = if quick { trace.compressed(Duration::from_mins(2)) } else { trace };
        let seconds = trace.duration().as_secs_f64().ceil() as u32;
        Self { name: name.to_owned(), rates: (0..seconds).map(|second| trace.mean(second)).collect() }
    }

    fn trace(&self) -> Result<Trace> {
        let lines: Vec<String> =
            self.rates.iter().enumerate().map(|(second, rate)| format!("{second},{rate}\n")).collect();
        Trace::parse(&lines.concat())
    }
}

/// Measures the service, replays the trace on the cluster a few times, and then in the simulation.
///
/// # Errors
/// When the service or the trace cannot be measured.
pub async fn measure(stage: &Stage, load: Load, quick: bool) -> Result<Validation> {
    let (seconds, runs) =
        if quick { (CALIBRATION_SECONDS.1, RUNS.1) } else { (CALIBRATION_SECONDS.0, RUNS.0) };
    step("Apply the ApiDeployment, for its pods' template", stage.scale_by_plimsoll()).await?;
    let template = stage.template().await?;
    step("Remove it", stage.remove_scaled()).await?;
    let calibration =
        step("Measure the service on one pod", calibrate::measure(stage, &template, seconds)).await?;
    step("Remove the pods", stage.remove_plain()).await?;
    let mut cluster = Vec::new();
    for seed in 1..=runs as u64 {
        cluster.push(replay(stage, &load, seed).await?);
    }
    let Load { name: trace, rates } = load;
    let measured =
        Validation { trace, rates, calibration, fit: Fit::default(), cluster, simulated: Vec::new() };
    Ok(tokio::task::spawn_blocking(move || measured.simulated_anew()).await?)
}

/// Replays the trace on the cluster, with `seed` for the requests' moments and with nothing learned yet, as the simulation begins.
async fn replay(stage: &Stage, load: &Load, seed: u64) -> Result<Run> {
    step("Apply the ApiDeployment anew", stage.scale_by_plimsoll()).await?;
    let watch = Watch::start(stage.api::<Deployment>(), SCALED).await?;
    let address = stage.address(SCALED).await?;
    let sent = load::send(&address, load.trace()?, Connections::OneEach, seed);
    let felt = step(format!("Replay {} on the cluster", load.name), sent).await?;
    let replicas = watch.since(felt.summary.started);
    step("Remove it", stage.remove_scaled()).await?;
    Ok(Run { replicas, seconds: felt.ended(), generator_late_p99_ms: felt.summary.late_p99_ms })
}

#[cfg(test)]
pub mod testing {
    //! Validations for tests.

    use super::*;
    use crate::bench::cluster::replicas::Change;

    fn run(replicas: u32, over: u64) -> Run {
        Run {
            replicas: Replicas(vec![Change { second: -1.0, wanted: replicas, ready: replicas }]),
            seconds: vec![Ended { offered: 1000, all: 1000, over, unserved: 0 }; 600],
            generator_late_p99_ms: 0.4,
        }
    }

    /// Ten minutes with these replicas, one a run, and so many of a thousand requests over; in the simulation as given, by seed.
    pub fn validation(cluster: &[u32], over: u64, simulated: &[(u32, f64)]) -> Validation {
        let runs = simulated.iter().zip(1..).map(|(&(replicas, over_share), seed)| simulated::Run {
            seed,
            over_share,
            wanted: vec![replicas; 600],
            ready: vec![replicas; 600],
        });
        Validation {
            trace: "trace".into(),
            rates: vec![50.0; 600],
            calibration: simulated::testing::calibration(&[(10.0, 0.0), (60.0, 0.4)]),
            fit: Fit { cv: 0.2, over_shares: vec![0.0, 0.41], off: 0.012 },
            cluster: cluster.iter().map(|&replicas| run(replicas, over)).collect(),
            simulated: runs.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_seed_is_held_against_the_cluster() {
        let beside = testing::validation(&[5], 20, &[(5, 0.01), (6, 0.05), (4, 0.03)]).beside().unwrap();
        assert!((beside.hours.median - 5.0 / 6.0).abs() < 1e-9);
        assert!(beside.hours_off.abs() < 1e-9, "{beside:?}");
        assert!((beside.over.median - 0.02).abs() < 1e-9 && (beside.over_off - 0.01).abs() < 1e-9);
        let less = testing::validation(&[5], 20, &[(4, 0.0)]).beside().unwrap();
        assert!((less.hours_off + 0.2).abs() < 1e-9 && (less.over_off + 0.02).abs() < 1e-9);
        assert_eq!(testing::validation(&[5], 20, &[]).beside(), None);
        assert_eq!(testing::validation(&[], 20, &[(4, 0.0)]).beside(), None);
    }

    #[test]
    fn so_is_the_median_run_of_the_cluster() {
        let beside = testing::validation(&[4, 9, 5], 20, &[(5, 0.01)]).beside().unwrap();
        assert!(beside.hours_off.abs() < 1e-9, "{beside:?}");
        assert!((beside.hours.min - 4.0 / 6.0).abs() < 1e-9 && (beside.hours.max - 1.5).abs() < 1e-9);
    }

    #[test]
    fn a_load_is_sent_as_it_is_simulated() {
        let trace = Trace::parse("0,10\n2,20\n4,5\n").unwrap();
        let load = Load::of("t", trace, false);
        assert_eq!(load.rates.len(), 6);
        let again = load.trace().unwrap();
        assert_eq!(again.duration().as_secs(), 6);
        assert!((0..6).all(|second| (again.mean(second) - load.rates[second as usize]).abs() < 1e-9));
        assert_eq!(Load::of("t", again, true).rates.len(), 120);
    }
}
