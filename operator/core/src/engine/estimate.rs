//! From the pods' cumulative counts to what happened since the round before.
//!
//! Differences are taken pod by pod and then added up: counters may start again, pods come and go, some do not answer and
//! some answer nonsense. What is missing is never zero, and percentiles are never averaged.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;

use super::balance::{self, Load};
use super::observation::{Cpu, Observation, seconds_between};
use super::roster::Roster;
use crate::histogram::{Delta, Snapshot};

/// A pod's first seconds are slow, with cold caches and connections: they say nothing of what it can do.
pub const WARM_UP_SECONDS: f64 = 10.0;
/// During a rollout the new pods are waited for so long only: what the others do no longer matters.
const TOLD_SECONDS: f64 = 5.0;
/// A first reading later than this after the start is counted from itself. Prometheus may scrape a pod every half minute.
const FIRST_READING_SECONDS_MAX: f64 = 60.0;
/// A reading older than this is no start for a difference.
const BASELINE_AGE_SECONDS_MAX: f64 = 300.0;
/// A pod that claims this many times the median of at least three is not believed,
const IMPLAUSIBLE_RATIO: f64 = 50.0;
/// unless it is less than this: requests per second, and requests that wait or are being served.
const IMPLAUSIBLE_PER_SECOND: f64 = 1000.0;
const IMPLAUSIBLE_IN_FLIGHT: f64 = 10_000.0;
/// More of either is believed of no pod, whatever the others say.
const IMPOSSIBLE: f64 = 1e6;

/// The last readings of each pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimator {
    last: BTreeMap<String, Last>,
}

/// The last readings of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
struct Last {
    /// What was believed.
    believed: Option<Reading>,
    /// What came after it and counted more than is believed. Seldom there, and so not in the place of every pod.
    doubted: Option<Box<Reading>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Reading {
    at: Timestamp,
    snapshot: Snapshot,
    cpu: Option<Cpu>,
}

impl Last {
    /// Of these, what is young enough for a difference.
    fn young(self, now: Timestamp) -> Self {
        let young = |reading: &Reading| seconds_between(reading.at, now) < BASELINE_AGE_SECONDS_MAX;
        Self { believed: self.believed.filter(young), doubted: self.doubted.filter(|reading| young(reading)) }
    }

    /// From where `snapshot` counts on: from the reading that was not believed if it goes on from that, as when a pod has told
    /// nothing new for long and then all at once, or else from what was believed.
    fn start(&self, snapshot: &Snapshot) -> Option<&Reading> {
        let doubted = self.doubted.as_deref().filter(|doubted| snapshot.goes_on_from(&doubted.snapshot));
        doubted.or(self.believed.as_ref())
    }
}

/// What one pod says that it did since its last reading that was believed.
struct Claim {
    uid: String,
    did: PodRound,
    delta: Delta,
    load: Load,
    believed: Option<Reading>,
    now: Reading,
}

impl Claim {
    /// Requests per second that it says have come or ended.
    fn per_second(&self) -> f64 {
        self.load.per_second.max(self.did.completed_per_second + self.did.shed_per_second)
    }
}

/// What all pods did between two rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// Mean length of the intervals of the pods that were there throughout.
    pub seconds: f64,
    /// Requests of all measured pods.
    pub delta: Delta,
    /// Requests of pods that show what pods do from now on.
    pub telling: Delta,
    /// Requests of pods in their first seconds that the load has reached.
    pub cold: Delta,
    /// Whether pods of one template take the place of those of another.
    pub replacing: bool,
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
    /// Whether it shows what pods do from now on: it is warm, or during a rollout new.
    pub telling: bool,
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

impl Round {
    /// Measured pods that are past their first seconds and that the load has reached.
    pub fn warm(&self) -> usize {
        self.pods.iter().filter(|pod| pod.warm).count()
    }
}

impl Estimator {
    /// Takes the readings of a round. The roster must have seen it. Pods of one template are there to stay while they take the
    /// place of others: those with the label `staying`.
    pub fn round(&mut self, observation: &Observation, roster: &Roster, staying: Option<&str>) -> Round {
        let mut round = Round::default();
        let mut next = BTreeMap::new();
        let mut claims = Vec::with_capacity(observation.pods.len());
        let mut implausible = 0;
        round.replacing = staying.is_some();
        for pod in &observation.pods {
            let (uid, last) =
                self.last.remove_entry(&pod.uid).unwrap_or_else(|| (pod.uid.clone(), Last::default()));
            let last = last.young(observation.now);
            let Some(ready_at) = pod.ready_at else {
                // It may come back, with everything that it has counted.
                next.insert(uid, last);
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
                next.insert(uid, last);
                continue;
            };
            round.scraped += 1;
            let now = Reading { at: sample.at, snapshot: snapshot.clone(), cpu: sample.cpu };
            // A pod that has just become ready has counted nothing before.
            let since_ready = seconds_between(ready_at, sample.at);
            let fresh = || {
                let known = since_ready < FIRST_READING_SECONDS_MAX && roster.start_is_known(&uid);
                known.then(|| Reading { at: ready_at, snapshot: Snapshot::default(), cpu: None })
            };
            let earlier = last.start(snapshot).map(Cow::Borrowed).or_else(|| fresh().map(Cow::Owned));
            let Some(earlier) = earlier else {
                if possible(snapshot, seconds_between(pod.created_at, sample.at)) {
                    next.insert(uid, Last { believed: Some(now), doubted: None });
                } else {
                    implausible += 1;
                }
                continue;
            };
            let seconds = seconds_between(earlier.at, sample.at);
            if seconds <= 0.0 {
                next.insert(uid, Last { believed: Some(now), doubted: None });
                continue;
            }
            let delta = snapshot.since(&earlier.snapshot);
            let cpu = cpu_round(earlier.cpu, sample.cpu, seconds);
            let stays = staying.is_none_or(|staying| staying == pod.template);
            let did = PodRound { telling: stays, ..pod_round(snapshot, &delta, seconds, since_ready, cpu) };
            let newly_waiting = (did.in_flight - earlier.snapshot.in_flight.unwrap_or(0.0)) / seconds;
            let per_second = (did.completed_per_second + did.shed_per_second + newly_waiting).max(0.0);
            let load = Load { per_second, seconds, since_ready_seconds: since_ready };
            claims.push(Claim { uid, did, delta, load, believed: last.believed, now });
        }
        let (most_per_second, most_in_flight) = plausible(&claims);
        let mut deltas = Vec::with_capacity(claims.len());
        for claim in claims {
            let last = if claim.per_second() <= most_per_second && claim.did.in_flight <= most_in_flight {
                deltas.push((claim.did, claim.delta, claim.load));
                Last { believed: Some(claim.now), doubted: None }
            } else {
                implausible += 1;
                let counted = claim.did.completed_per_second + claim.did.shed_per_second;
                // A gauge that lies does not make the counts beside it the start of others.
                let doubted = (counted > most_per_second).then(|| Box::new(claim.now));
                Last { believed: claim.believed, doubted }
            };
            next.insert(claim.uid, last);
        }
        self.last = next;
        if implausible > 0 {
            round.scraped -= implausible;
            round.excluded.insert("Implausible", implausible);
        }
        add_up(&mut round, deltas);
        round
    }
}

/// Adds what each measured pod did to the round.
fn add_up(round: &mut Round, mut deltas: Vec<(PodRound, Delta, Load)>) {
    if deltas.is_empty() {
        return;
    }
    round.measured = deltas.len();
    let began_within = |load: &Load| load.since_ready_seconds <= load.seconds;
    let mean = |seconds: Vec<f64>| seconds.iter().sum::<f64>() / seconds.len() as f64;
    let whole = deltas.iter().filter(|(.., load)| !began_within(load)).map(|(.., load)| load.seconds);
    let whole = Some(whole.collect::<Vec<_>>()).filter(|whole| !whole.is_empty());
    round.seconds = mean(whole.unwrap_or_else(|| deltas.iter().map(|(.., load)| load.seconds).collect()));
    // Each pod's counts are added up once: 500 edges of a hundred pods are most of a decision.
    let mut others = Delta::default();
    let unreached = balance::unreached(&deltas.iter().map(|(.., load)| *load).collect::<Vec<_>>());
    for ((pod, delta, load), unreached) in deltas.iter_mut().zip(unreached) {
        round.unreached += usize::from(unreached);
        pod.warm &= !unreached;
        let told = round.replacing && !unreached && load.since_ready_seconds >= TOLD_SECONDS;
        pod.telling &= pod.warm || told;
        // What a new pod got in a part of the round, the others had got in the part before.
        let part = if began_within(load) { (load.seconds / round.seconds).min(1.0) } else { 1.0 };
        round.completed_per_second += part * pod.completed_per_second;
        round.offered_per_second += part * load.per_second;
        round.in_flight += pod.in_flight;
        if pod.telling {
            round.telling.add(delta);
        } else if !pod.warm && !unreached {
            round.cold.add(delta);
        } else {
            others.add(delta);
        }
    }
    round.delta = round.telling.clone();
    round.delta.add(&round.cold);
    round.delta.add(&others);
    round.pods = deltas.into_iter().map(|(pod, ..)| pod).collect();
    // Pods that were not measured are taken for the mean of those that were.
    let all = round.ready as f64 / round.measured as f64;
    round.completed_per_second *= all;
    round.offered_per_second *= all;
    round.in_flight *= all;
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
        telling: false,
        cpu,
    }
}

/// Whether a pod can have counted this in its life.
fn possible(snapshot: &Snapshot, age_seconds: f64) -> bool {
    let counted = snapshot.since(&Snapshot::default());
    counted.total + counted.shed <= IMPOSSIBLE * age_seconds.max(1.0)
        && snapshot.in_flight.unwrap_or(0.0) <= IMPOSSIBLE
}

/// The most that is believed of one pod: requests per second, and requests in it.
fn plausible(claims: &[Claim]) -> (f64, f64) {
    let most = |mut claimed: Vec<f64>, least: f64| {
        if claimed.len() < 3 {
            return IMPOSSIBLE;
        }
        claimed.sort_by(f64::total_cmp);
        least.max(IMPLAUSIBLE_RATIO * claimed[claimed.len() / 2]).min(IMPOSSIBLE)
    };
    (
        most(claims.iter().map(Claim::per_second).collect(), IMPLAUSIBLE_PER_SECOND),
        most(claims.iter().map(|claim| claim.did.in_flight).collect(), IMPLAUSIBLE_IN_FLIGHT),
    )
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

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::observation::{Pod, Sample};
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_second(1_900_000_000).unwrap() + SignedDuration::from_secs_f64(seconds)
    }

    /// A pod that became ready at a second and has answered so many requests since, none of them late.
    fn pod(uid: &str, template: &str, ready_at: f64, now: f64, answered: f64) -> Pod {
        let snapshot = Snapshot::new(vec![(0.1, answered), (f64::INFINITY, answered)], Some(0.0), None);
        Pod {
            uid: uid.into(),
            template: template.into(),
            created_at: at(ready_at),
            ready_at: (now >= ready_at).then(|| at(ready_at)),
            sample: (now >= ready_at).then(|| Sample { at: at(now), reading: snapshot, cpu: None }),
        }
    }

    /// The last of these rounds, given by their time and pods.
    fn last(rounds: Vec<(f64, Vec<Pod>)>, rolling_out: bool) -> Round {
        let (mut estimator, mut roster, mut round) =
            (Estimator::default(), Roster::default(), Round::default());
        for (now, pods) in rounds {
            let current = pods.len() as u32;
            let observation = Observation { now: at(now), current, template: 1, rolling_out, pods };
            roster.follow(&observation);
            let staying = rolling_out.then_some("b");
            round = estimator.round(&observation, &roster, staying);
        }
        round
    }

    #[test]
    fn a_pod_that_starts_within_a_round_adds_no_load() {
        // A hundred requests a second on two pods, and after half of the round on three.
        let pods = |now, answered: [f64; 3]| {
            let pod = |(index, ready_at): (usize, f64)| {
                pod(&index.to_string(), "a", ready_at, now, answered[index])
            };
            [-100.0, -100.0, 2.5].into_iter().enumerate().map(pod).collect::<Vec<_>>()
        };
        let (old, new) = (50.0 * 2.5 + 100.0 / 3.0 * 2.5, 100.0 / 3.0 * 2.5);
        let round = last(vec![(0.0, pods(0.0, [0.0; 3])), (5.0, pods(5.0, [old, old, new]))], false);
        assert!((round.offered_per_second - 100.0).abs() < 1e-6, "{}", round.offered_per_second);
        assert!((round.completed_per_second - 100.0).abs() < 1e-6 && (round.seconds - 5.0).abs() < 1e-9);
    }

    #[test]
    fn during_a_rollout_only_the_new_pods_tell() {
        let round = |now: f64, rolling_out| {
            let pods = |now: f64| {
                vec![
                    pod("old", "a", -100.0, now, 50.0 * (now + 100.0)),
                    pod("new", "b", 2.0, now, 30.0 * (now - 2.0).max(0.0)),
                ]
            };
            last(
                (0..=(now / 5.0) as u32)
                    .map(|round| 5.0 * f64::from(round))
                    .map(|now| (now, pods(now)))
                    .collect(),
                rolling_out,
            )
        };
        let telling = |round: &Round| round.pods.iter().map(|pod| pod.telling).collect::<Vec<_>>();
        let early = round(5.0, true);
        assert_eq!((telling(&early), early.telling.total, early.replacing), (vec![false, false], 0.0, true));
        let later = round(10.0, true);
        assert_eq!((telling(&later), later.telling.total), (vec![false, true], 150.0));
        let over = round(10.0, false);
        assert_eq!((telling(&over), over.telling.total, over.cold.total), (vec![true, false], 250.0, 150.0));
    }
}
