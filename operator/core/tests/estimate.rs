//! What the engine counts, held to a reference that sees each request: over pods that restart, come, go, miss a scrape,
//! lose their readiness, answer nonsense and claim the impossible.
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
    AnswersNonsense,
    ClaimsTheImpossible,
    ClaimsToBeFull,
    LosesReadiness,
    IsReplaced,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Answers),
        1 => Just(Fate::Restarts),
        1 => Just(Fate::MissesTheScrape),
        1 => Just(Fate::AnswersNonsense),
        1 => Just(Fate::ClaimsTheImpossible),
        1 => Just(Fate::ClaimsToBeFull),
        1 => Just(Fate::LosesReadiness),
        1 => Just(Fate::IsReplaced),
    ]
}

/// What a pod does in a round, and what then befalls it.
#[derive(Clone, Debug)]
struct Turn {
    /// Durations of the requests that end, in seconds.
    durations: Vec<f64>,
    /// Requests that are refused.
    refused: u32,
    /// Requests that are in it at the end.
    in_flight: u32,
    fate: Fate,
}

fn turns(pods: usize, rounds: usize) -> impl Strategy<Value = Vec<Vec<Turn>>> {
    let durations = prop::collection::vec(0.001..2.0_f64, 0..30);
    let turn = (durations, 0..10_u32, 0..50_u32, fate())
        .prop_map(|(durations, refused, in_flight, fate)| Turn { durations, refused, in_flight, fate });
    prop::collection::vec(prop::collection::vec(turn, pods), rounds)
}

/// Requests that ended, by their durations, and those that were refused.
#[derive(Clone, Debug, Default)]
struct Requests {
    ended: Vec<f64>,
    refused: u32,
}

impl Requests {
    fn add(&mut self, other: &Self) {
        self.ended.extend(&other.ended);
        self.refused += other.refused;
    }
}

/// A pod, and the requests that no reading has told of yet.
#[derive(Default)]
struct TruePod {
    uid: String,
    counted: Requests,
    untold: Requests,
    in_flight: u32,
    /// Whether a reading was used, so that the next one has a start.
    known: bool,
}

impl TruePod {
    fn new(uid: usize) -> Self {
        Self { uid: uid.to_string(), ..Self::default() }
    }

    fn snapshot(&self) -> Snapshot {
        self.claim(0.0, self.in_flight)
    }

    /// What it has counted, with so many requests more that never were, and so many in it.
    fn claim(&self, more: f64, in_flight: u32) -> Snapshot {
        let ended = &self.counted.ended;
        let up_to = |edge: f64| more + ended.iter().filter(|&&duration| duration <= edge).count() as f64;
        let cumulative = EDGES.into_iter().chain([f64::INFINITY]).map(|edge| (edge, up_to(edge)));
        let (in_flight, refused) = (f64::from(in_flight), f64::from(self.counted.refused));
        Snapshot::new(cumulative.collect(), Some(in_flight), Some(refused)).unwrap()
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
            let mut told = Requests::default();
            let (mut in_flight, mut measured) = (0, 0);
            let mut observed = Vec::new();
            for (pod, turn) in pods.iter_mut().zip(turns) {
                let did = Requests { ended: turn.durations, refused: turn.refused };
                pod.counted.add(&did);
                pod.untold.add(&did);
                pod.in_flight = turn.in_flight;
                if matches!(turn.fate, Fate::Restarts) {
                    // What it had not told yet is lost, and it begins to count again.
                    (pod.counted, pod.untold) = Default::default();
                }
                if matches!(turn.fate, Fate::IsReplaced) {
                    *pod = TruePod::new(uids.next().unwrap());
                }
                let reading = match turn.fate {
                    Fate::MissesTheScrape => Err(Rejection::Timeout),
                    Fate::AnswersNonsense => Err(Rejection::InvalidCount),
                    Fate::ClaimsTheImpossible => Ok(pod.claim(1e12 * (round + 1) as f64, pod.in_flight)),
                    Fate::ClaimsToBeFull => Ok(pod.claim(0.0, 1_000_000_000)),
                    _ => Ok(pod.snapshot()),
                };
                let ready = !matches!(turn.fate, Fate::LosesReadiness);
                let believed = reading.is_ok()
                    && !matches!(turn.fate, Fate::ClaimsTheImpossible | Fate::ClaimsToBeFull);
                if ready && believed {
                    let untold = std::mem::take(&mut pod.untold);
                    if std::mem::replace(&mut pod.known, true) {
                        told.add(&untold);
                        in_flight += pod.in_flight;
                        measured += 1;
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
            let round = engine.round();
            let delta = &round.delta;
            prop_assert_eq!((delta.total, delta.shed), (told.ended.len() as f64, f64::from(told.refused)));
            let late = told.ended.iter().filter(|duration| **duration > TARGET.as_secs_f64()).count();
            if delta.total > 0.0 {
                prop_assert_eq!(delta.slower_than(TARGET), late as f64);
            }
            prop_assert_eq!(round.measured, measured);
            if measured > 0 {
                // Those that were not measured are taken for the mean of those that were.
                let expected = f64::from(in_flight) * round.ready as f64 / measured as f64;
                prop_assert!((round.in_flight - expected).abs() < 1e-6, "{} of {}", round.in_flight, expected);
            }
        }
    }
}
