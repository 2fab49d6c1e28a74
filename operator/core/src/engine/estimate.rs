//! From the pods' cumulative counts to what happened since the round before.
//!
//! Differences are taken pod by pod and then added up: counters may start again, pods come and go, some do not answer and
//! some answer nonsense. What is missing is never zero, and percentiles are never averaged.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::balance::{self, Load};
use super::observation::{Cpu, Observation, seconds_between};
use super::roster::Roster;
use crate::histogram::{Delta, Snapshot};

/// A pod's first seconds are slow, with cold caches and connections: they say nothing of what it can do.
pub const WARM_UP_SECONDS: f64 = 10.0;
/// A first reading later than this after the start is counted from itself. Prometheus may scrape a pod every half minute.
const FIRST_READING_SECONDS_MAX: f64 = 60.0;
/// A reading older than this is no start for a difference.
const BASELINE_AGE_SECONDS_MAX: f64 = 300.0;
/// A pod that claims this many times the median of at least two others is not believed.
const IMPLAUSIBLE_RATIO: f64 = 50.0;
/// Below this load nothing is implausible.
const IMPLAUSIBLE_PER_SECOND: f64 = 1000.0;

/// The last reading of each pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimator {
    baselines: BTreeMap<String, Baseline>,
}

#[derive(Clone, Debug, PartialEq)]
struct Baseline {
    at: Timestamp,
    snapshot: Snapshot,
    cpu: Option<Cpu>,
}

/// What all pods did between two rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// Mean length of the pods' intervals.
    pub seconds: f64,
    /// Requests of all measured pods.
    pub delta: Delta,
    /// Requests of pods that are warm.
    pub warm: Delta,
    /// Requests per second that ended, over all ready pods.
    pub completed_per_second: f64,
    /// Requests per second that arrived: ended, refused, or newly waiting.
    pub offered_per_second: f64,
    /// Requests that wait or are being served, over all ready pods.
    pub in_flight: f64,
    /// Of all ready pods: those measured, those that answered, and all.
    pub measured: usize,
    /// Pods whose answer was used.
    pub scraped: usize,
    /// Pods that are ready.
    pub ready: usize,
    /// Ready pods that were left out, by the reason.
    pub excluded: BTreeMap<&'static str, usize>,
    /// Measured pods that the load has not reached yet.
    pub unreached: usize,
    /// Each measured pod.
    pub pods: Vec<PodRound>,
}

/// What one pod did.
#[derive(Clone, Debug, PartialEq)]
pub struct PodRound {
    /// Requests per second that ended.
    pub completed_per_second: f64,
    /// Requests per second that were refused.
    pub shed_per_second: f64,
    /// Requests that wait or are being served.
    pub in_flight: f64,
    /// Whether it is past its first seconds and the load has reached it.
    pub warm: bool,
    /// CPU, if it is known.
    pub cpu: Option<CpuRound>,
}

/// CPU of one pod in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuRound {
    /// CPUs used on average.
    pub cores: f64,
    /// CPUs that it may use.
    pub limit_cores: Option<f64>,
    /// Share of the enforcement periods with something to run in which it was throttled.
    pub throttled_share: f64,
}

impl Estimator {
    /// Takes the readings of a round. The roster must have seen it.
    pub fn round(&mut self, observation: &Observation, roster: &Roster) -> Round {
        let mut round = Round::default();
        let mut baselines = BTreeMap::new();
        let mut deltas = Vec::with_capacity(observation.pods.len());
        let mut seconds_sum = 0.0;
        for pod in &observation.pods {
            let earlier = self.baselines.remove(&pod.uid);
            let kept = |earlier: Option<Baseline>| {
                let young = earlier.filter(|earlier| {
                    seconds_between(earlier.at, observation.now) < BASELINE_AGE_SECONDS_MAX
                });
                young.map(|earlier| (pod.uid.clone(), earlier))
            };
            let Some(ready_at) = pod.ready_at else {
                // It may come back, with everything that it has counted.
                baselines.extend(kept(earlier));
                continue;
            };
            round.ready += 1;
            let Some((sample, snapshot)) =
                pod.sample.as_ref().and_then(|sample| Some((sample, sample.reading.as_ref().ok()?)))
            else {
                let reason = match pod.sample.as_ref().map(|sample| &sample.reading) {
                    Some(Err(rejection)) => rejection.as_str(),
                    Some(Ok(_)) | None => "NotAsked",
                };
                *round.excluded.entry(reason).or_default() += 1;
                // The next good reading then covers the gap too.
                baselines.extend(kept(earlier));
                continue;
            };
            round.scraped += 1;
            // A pod that has just become ready has counted nothing before.
            let since_ready = seconds_between(ready_at, sample.at);
            let fresh = || {
                let known = since_ready < FIRST_READING_SECONDS_MAX && roster.start_is_known(&pod.uid);
                known.then(|| Baseline { at: ready_at, snapshot: Snapshot::default(), cpu: None })
            };
            if let Some(earlier) = earlier.or_else(fresh) {
                let seconds = seconds_between(earlier.at, sample.at);
                if seconds > 0.0 {
                    let delta = snapshot.since(&earlier.snapshot);
                    let cpu = cpu_round(earlier.cpu, sample.cpu, seconds);
                    let pod = pod_round(snapshot, &delta, seconds, since_ready, cpu);
                    let newly_waiting = (pod.in_flight - earlier.snapshot.in_flight.unwrap_or(0.0)) / seconds;
                    let per_second =
                        (pod.completed_per_second + pod.shed_per_second + newly_waiting).max(0.0);
                    let load = Load { per_second, seconds, since_ready_seconds: since_ready };
                    deltas.push((pod, delta, load));
                    seconds_sum += seconds;
                }
            }
            baselines.insert(
                pod.uid.clone(),
                Baseline { at: sample.at, snapshot: snapshot.clone(), cpu: sample.cpu },
            );
        }
        self.baselines = baselines;
        let ceiling = plausible(&deltas);
        let claimed = deltas.len();
        deltas.retain(|(pod, ..)| pod.completed_per_second <= ceiling);
        if deltas.len() < claimed {
            round.scraped -= claimed - deltas.len();
            round.excluded.insert("Implausible", claimed - deltas.len());
        }
        round.measured = deltas.len();
        let unreached = balance::unreached(&deltas.iter().map(|(.., load)| *load).collect::<Vec<_>>());
        for ((mut pod, delta, load), unreached) in deltas.into_iter().zip(unreached) {
            round.unreached += usize::from(unreached);
            pod.warm &= !unreached;
            round.completed_per_second += pod.completed_per_second;
            round.offered_per_second += load.per_second;
            round.in_flight += pod.in_flight;
            round.delta.add(&delta);
            if pod.warm {
                round.warm.add(&delta);
            }
            round.pods.push(pod);
        }
        if round.measured > 0 {
            round.seconds = seconds_sum / round.measured as f64;
            // Pods that were not measured are taken for the mean of those that were.
            let all = round.ready as f64 / round.measured as f64;
            round.completed_per_second *= all;
            round.offered_per_second *= all;
            round.in_flight *= all;
        }
        round
    }
}

fn pod_round(
    snapshot: &Snapshot,
    delta: &Delta,
    seconds: f64,
    since_ready: f64,
    cpu: Option<CpuRound>,
) -> PodRound {
    PodRound {
        completed_per_second: delta.total / seconds,
        shed_per_second: delta.shed / seconds,
        in_flight: snapshot.in_flight.unwrap_or(0.0),
        warm: since_ready - seconds >= WARM_UP_SECONDS,
        cpu,
    }
}

/// The most that is believed of one pod.
fn plausible(deltas: &[(PodRound, Delta, Load)]) -> f64 {
    if deltas.len() < 3 {
        return f64::INFINITY;
    }
    let mut rates = deltas.iter().map(|(pod, ..)| pod.completed_per_second).collect::<Vec<_>>();
    rates.sort_by(f64::total_cmp);
    IMPLAUSIBLE_PER_SECOND.max(IMPLAUSIBLE_RATIO * rates[rates.len() / 2])
}

fn cpu_round(earlier: Option<Cpu>, later: Option<Cpu>, seconds: f64) -> Option<CpuRound> {
    let (earlier, later) = (earlier?, later?);
    let used = later.used_seconds - earlier.used_seconds;
    let periods = later.periods - earlier.periods;
    let throttled = later.throttled_periods - earlier.throttled_periods;
    (used >= 0.0).then(|| CpuRound {
        cores: used / seconds,
        limit_cores: later.limit_cores,
        throttled_share: if periods > 0.0 { (throttled / periods).clamp(0.0, 1.0) } else { 0.0 },
    })
}
