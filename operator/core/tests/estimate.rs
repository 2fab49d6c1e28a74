//! What the engine counts, held to a reference that sees each request: over pods that restart, come, go, miss a scrape,
//! lose their readiness and lie.
// Counts of whole requests are exact.
#![allow(clippy::float_cmp, clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use plimsoll_core::engine::{Engine, Observation, Pod, Sample, Settings, Target, VIOLATION_PRICE_DEFAULT};
use plimsoll_core::histogram::{Rejection, Snapshot};
use proptest::prelude::*;

const PERIOD_SECONDS: i64 = 5;
const TARGET: Duration = Duration::from_millis(100);
const EDGES: [f64; 4] = [0.05, 0.1, 0.25, 1.0];

/// What befalls a pod in a round, after it has served.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answers,
    Restarts,
    MissesTheScrape,
    Lies,
    LosesReadiness,
    IsReplaced,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Answers),
        1 => Just(Fate::Restarts),
        1 => Just(Fate::MissesTheScrape),
        1 => Just(Fate::Lies),
        1 => Just(Fate::LosesReadiness),
        1 => Just(Fate::IsReplaced),
    ]
}

/// Durations of a round's requests, in seconds, and what then befalls the pod.
type Turn = (Vec<f64>, Fate);

fn turns(pods: usize, rounds: usize) -> impl Strategy<Value = Vec<Vec<Turn>>> {
    let durations = prop::collection::vec(0.001..2.0_f64, 0..30);
    prop::collection::vec(prop::collection::vec((durations, fate()), pods), rounds)
}

/// A pod, and the requests that no reading has told of yet.
#[derive(Default)]
struct TruePod {
    uid: String,
    counted: Vec<f64>,
    untold: Vec<f64>,
    /// Whether a reading was used, so that the next one has a start.
    known: bool,
}

impl TruePod {
    fn new(uid: usize) -> Self {
        Self { uid: uid.to_string(), ..Self::default() }
    }

    fn snapshot(&self) -> Snapshot {
        let up_to = |edge: f64| self.counted.iter().filter(|&&duration| duration <= edge).count() as f64;
        let cumulative = EDGES.into_iter().chain([f64::INFINITY]).map(|edge| (edge, up_to(edge)));
        Snapshot::new(cumulative.collect(), None, None).unwrap()
    }
}

fn settings() -> Settings {
    Settings {
        targets: vec![Target::latency(0.99, TARGET)],
        min: 1,
        max: 20,
        period: Duration::from_secs(5),
        violation_price: VIOLATION_PRICE_DEFAULT,
    }
}

proptest! {
    #[test]
    fn counts_what_was_told_and_nothing_twice(turns in (1..6_usize).prop_flat_map(|pods| turns(pods, 20))) {
        let mut engine = Engine::default();
        let mut uids = 0..;
        let mut pods = turns[0].iter().map(|_| TruePod::new(uids.next().unwrap())).collect::<Vec<_>>();
        let began = Timestamp::from_second(1_900_000_000).unwrap();
        let created_at = began - SignedDuration::from_hours(1);
        for (round, turns) in turns.into_iter().enumerate() {
            let now = began + SignedDuration::from_secs(PERIOD_SECONDS * i64::try_from(round).unwrap());
            let mut told = Vec::new();
            let mut observed = Vec::new();
            for (pod, (durations, fate)) in pods.iter_mut().zip(turns) {
                pod.counted.extend(&durations);
                pod.untold.extend(durations);
                if matches!(fate, Fate::Restarts) {
                    // What it had not told yet is lost, and it begins to count again.
                    (pod.counted, pod.untold) = (Vec::new(), Vec::new());
                }
                if matches!(fate, Fate::IsReplaced) {
                    *pod = TruePod::new(uids.next().unwrap());
                }
                let reading = match fate {
                    Fate::MissesTheScrape => Err(Rejection::Timeout),
                    Fate::Lies => Err(Rejection::InvalidCount),
                    _ => Ok(pod.snapshot()),
                };
                let ready = !matches!(fate, Fate::LosesReadiness);
                if ready && reading.is_ok() {
                    let untold = std::mem::take(&mut pod.untold);
                    if std::mem::replace(&mut pod.known, true) {
                        told.extend(untold);
                    }
                }
                observed.push(Pod {
                    uid: pod.uid.clone(),
                    template: String::new(),
                    created_at,
                    ready_at: ready.then_some(created_at),
                    sample: ready.then_some(Sample { at: now, reading, cpu: None }),
                });
            }
            let current = observed.len() as u32;
            let observation = Observation { now, current, template: 1, rolling_out: false, pods: observed };
            engine.decide(&observation, &settings());
            let delta = &engine.round().delta;
            prop_assert_eq!(delta.total, told.len() as f64);
            let late = told.iter().filter(|duration| **duration > TARGET.as_secs_f64()).count();
            if delta.total > 0.0 {
                prop_assert_eq!(delta.slower_than(TARGET), late as f64);
            }
        }
    }
}
