//! From the pods' cumulative counts to what happened since the round before.
//!
//! Differences are taken pod by pod and then added up: counters may start again, pods come and go, some do not answer and
//! some answer nonsense. What is missing is never zero, and percentiles are never averaged.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::observation::{Cpu, Observation, seconds_between};
use crate::histogram::{Delta, Snapshot};

/// A pod's first seconds are slow, with cold caches and connections: they say nothing of what it can do.
pub const WARM_UP_SECONDS: f64 = 10.0;
/// A reading older than this is no start for a difference.
const BASELINE_AGE_SECONDS_MAX: f64 = 300.0;
/// A pod that claims this many times the median of at least two others is not believed.
const IMPLAUSIBLE_RATIO: f64 = 50.0;
/// Below this load nothing is implausible.
const IMPLAUSIBLE_PER_SECOND: f64 = 1000.0;

/// The last reading of each pod.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    baselines: BTreeMap<String, Baseline>,
}

#[derive(Clone, Debug, Default)]
struct Baseline {
    at: Timestamp,
    snapshot: Snapshot,
    cpu: Option<Cpu>,
}

/// What all pods did between two rounds.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Mean length of the pods' intervals.
    pub seconds: f64,
    /// Requests of all measured pods.
    pub delta: Delta,
    /// Requests of pods that are past their first seconds.
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
    /// Each measured pod.
    pub pods: Vec<PodRound>,
}

/// What one pod did.
#[derive(Clone, Debug)]
pub struct PodRound {
    /// Requests per second that ended.
    pub completed_per_second: f64,
    /// Requests per second that were refused.
    pub shed_per_second: f64,
    /// Requests that wait or are being served.
    pub in_flight: f64,
    /// Whether it is past its first seconds.
    pub warm: bool,
    /// CPU, if it is known.
    pub cpu: Option<CpuRound>,
}

/// CPU of one pod in a round.
#[derive(Clone, Copy, Debug)]
pub struct CpuRound {
    /// CPUs used on average.
    pub cores: f64,
    /// CPUs that it may use.
    pub limit_cores: Option<f64>,
}

impl Estimator {
    /// Takes the readings of a round.
    pub fn round(&mut self, observation: &Observation) -> Round {
        let mut round = Round::default();
        let mut baselines = BTreeMap::new();
        let mut readings = Vec::with_capacity(observation.pods.len());
        // One memory for the differences of all pods, one after the other.
        let mut delta = Delta::default();
        let mut sum = Delta::default();
        let mut seconds_sum = 0.0;
        for pod in &observation.pods {
            let Some(ready_at) = pod.ready_at else { continue };
            round.ready += 1;
            let earlier = self.baselines.remove_entry(&pod.uid);
            let Some((sample, snapshot)) =
                pod.sample.as_ref().and_then(|sample| Some((sample, sample.reading.as_ref().ok()?)))
            else {
                let reason = match pod.sample.as_ref().map(|sample| &sample.reading) {
                    Some(Err(rejection)) => rejection.as_str(),
                    Some(Ok(_)) | None => "NotAsked",
                };
                *round.excluded.entry(reason).or_default() += 1;
                // The next good reading then covers the gap too.
                baselines.extend(earlier.filter(|(_, earlier)| {
                    seconds_between(earlier.at, observation.now) < BASELINE_AGE_SECONDS_MAX
                }));
                continue;
            };
            round.scraped += 1;
            // A pod that has just become ready has counted nothing before.
            let since_ready = seconds_between(ready_at, sample.at);
            let fresh = || {
                (since_ready < 2.0 * WARM_UP_SECONDS).then(|| Baseline {
                    at: ready_at,
                    snapshot: Snapshot::default(),
                    cpu: None,
                })
            };
            let (uid, earlier) = match earlier {
                Some((uid, earlier)) => (uid, Some(earlier)),
                None => (pod.uid.clone(), fresh()),
            };
            let mut did = None;
            if let Some(earlier) = &earlier {
                let seconds = seconds_between(earlier.at, sample.at);
                if seconds > 0.0 {
                    snapshot.since_into(&earlier.snapshot, &mut delta);
                    sum.add(&delta);
                    let cpu = cpu_round(earlier.cpu, sample.cpu, seconds);
                    let newly = snapshot.in_flight.unwrap_or(0.0) - earlier.snapshot.in_flight.unwrap_or(0.0);
                    did = Some((pod_round(snapshot, &delta, seconds, since_ready, cpu), newly / seconds));
                    seconds_sum += seconds;
                }
            }
            readings.push((uid, earlier.unwrap_or_default(), sample, snapshot, did));
        }
        let ceiling = plausible(readings.iter().filter_map(|reading| Some(&reading.4.as_ref()?.0)));
        // Mostly the sum over all pods is what is wanted; otherwise those that belong to it are added up once more.
        let all = readings.iter().all(|reading| {
            reading.4.as_ref().is_none_or(|(pod, _)| pod.warm && pod.completed_per_second <= ceiling)
        });
        for (uid, mut baseline, sample, snapshot, did) in readings {
            if let Some((pod, newly_waiting)) = did {
                if pod.completed_per_second > ceiling {
                    round.scraped -= 1;
                    *round.excluded.entry("Implausible").or_default() += 1;
                } else {
                    if !all {
                        snapshot.since_into(&baseline.snapshot, &mut delta);
                        round.delta.add(&delta);
                        if pod.warm {
                            round.warm.add(&delta);
                        }
                    }
                    round.take(pod, newly_waiting);
                }
            }
            // In the memory of the reading before.
            (baseline.at, baseline.cpu) = (sample.at, sample.cpu);
            baseline.snapshot.clone_from(snapshot);
            baselines.insert(uid, baseline);
        }
        self.baselines = baselines;
        if all {
            (round.delta, round.warm) = (sum.clone(), sum);
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

impl Round {
    fn take(&mut self, pod: PodRound, newly_waiting_per_second: f64) {
        self.measured += 1;
        self.completed_per_second += pod.completed_per_second;
        self.offered_per_second +=
            (pod.completed_per_second + pod.shed_per_second + newly_waiting_per_second).max(0.0);
        self.in_flight += pod.in_flight;
        self.pods.push(pod);
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
fn plausible<'a>(pods: impl Iterator<Item = &'a PodRound>) -> f64 {
    let mut rates = pods.map(|pod| pod.completed_per_second).collect::<Vec<_>>();
    if rates.len() < 3 {
        return f64::INFINITY;
    }
    rates.sort_by(f64::total_cmp);
    IMPLAUSIBLE_PER_SECOND.max(IMPLAUSIBLE_RATIO * rates[rates.len() / 2])
}

fn cpu_round(earlier: Option<Cpu>, later: Option<Cpu>, seconds: f64) -> Option<CpuRound> {
    let (earlier, later) = (earlier?, later?);
    let used = later.used_seconds - earlier.used_seconds;
    (used >= 0.0).then(|| CpuRound { cores: used / seconds, limit_cores: later.limit_cores })
}
