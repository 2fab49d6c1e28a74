//! What became of a run: how well the promise was kept, what it cost, and how restless the policy was.

use std::time::Duration;

use serde::Serialize;

use crate::clock::{Nanos, SECOND, nanos_of, seconds};
use crate::scenario::{Scenario, Target};

/// Everything that a run tells. Requests belong to the moment at which they were due.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The scenario's name.
    pub scenario: String,
    /// The policy's name.
    pub policy: String,
    /// The scenario's seed.
    pub seed: u64,
    /// Requests that were due.
    pub offered: u64,
    /// Of them, those that were not answered within the latency of the first target, in whatever way.
    pub over: u64,
    /// Refused by a full queue.
    pub shed: u64,
    /// Not answered before the client gave up.
    pub timed_out: u64,
    /// Due while no pod was Ready.
    pub failed: u64,
    /// From the creation of each pod to the end of its draining, or of the run, summed.
    pub replica_seconds: f64,
    /// Each change of the wanted replicas.
    pub scalings: Vec<Scaling>,
    /// Minute by minute.
    pub minutes: Vec<Minute>,
    /// Second by second.
    pub seconds: Vec<Second>,
}

/// One change of the wanted replicas.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Seconds since the start of the run.
    pub at: f64,
    /// Before.
    pub from: u32,
    /// After.
    pub to: u32,
}

/// One minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Minute {
    /// Requests that were due.
    pub offered: u64,
    /// Requests over the first target, those without an answer among them.
    pub over: u64,
    /// More requests were over a target than its quantile allows.
    pub violated: bool,
    /// 50th percentile in seconds, to 5 %, of all that were due; infinite where more had no answer.
    pub p50: f64,
    /// 99th percentile in seconds, likewise.
    pub p99: f64,
}

/// One second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    /// Requests that were due.
    pub offered: u32,
    /// Requests over the first target, those without an answer among them.
    pub over: u32,
    /// Replicas that the policy wanted at the end of the second.
    pub wanted: u32,
    /// Pods that were Ready then.
    pub ready: u32,
    /// All pods then, starting and draining ones too.
    pub pods: u32,
}

/// A run in a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// Share of requests over the first target, those without an answer among them.
    pub over_share: f64,
    /// Minutes in which more requests were over a target than its quantile allows.
    pub violation_minutes: u32,
    /// What the pods cost.
    pub replica_hours: f64,
    /// Changes of the wanted replicas.
    pub scale_events: u32,
    /// Of them, those that go the other way than the one before.
    pub direction_changes: u32,
}

impl Score {
    /// Replica-hours, and `kappa` replica-hours for each hour in violation.
    pub fn cost(&self, kappa: f64) -> f64 {
        self.replica_hours + kappa * f64::from(self.violation_minutes) / 60.0
    }
}

impl Outcome {
    /// The run in a few numbers.
    pub fn score(&self) -> Score {
        self.score_between(Duration::ZERO, Duration::MAX)
    }

    /// A part of the run in a few numbers, to whole minutes; the cost is that of the pods there at the end of each second.
    pub fn score_between(&self, from: Duration, until: Duration) -> Score {
        let part = |length: usize, unit: u64| {
            let end = until.as_secs().div_ceil(unit).min(length as u64) as usize;
            (from.as_secs() / unit) as usize..end.max((from.as_secs() / unit) as usize).min(length)
        };
        let minutes = self.minutes.get(part(self.minutes.len(), 60)).unwrap_or_default();
        let (offered, over) = minutes
            .iter()
            .fold((0, 0), |(offered, over), minute| (offered + minute.offered, over + minute.over));
        let whole = from.is_zero() && until == Duration::MAX;
        let replica_seconds = if whole {
            self.replica_seconds
        } else {
            let seconds = self.seconds.get(part(self.seconds.len(), 1)).unwrap_or_default();
            seconds.iter().map(|second| f64::from(second.pods)).sum()
        };
        let span = from.as_secs_f64()..until.as_secs_f64();
        let scalings: Vec<_> = self.scalings.iter().filter(|scaling| span.contains(&scaling.at)).collect();
        let turns =
            scalings.windows(2).filter(|pair| (pair[0].to > pair[0].from) != (pair[1].to > pair[1].from));
        Score {
            over_share: if offered == 0 { 0.0 } else { over as f64 / offered as f64 },
            violation_minutes: minutes.iter().filter(|minute| minute.violated).count() as u32,
            replica_hours: replica_seconds / 3600.0,
            scale_events: scalings.len() as u32,
            direction_changes: turns.count() as u32,
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    Answered(Nanos),
    Shed,
    TimedOut,
    Failed,
}

/// Buckets for each doubling of the latency.
const FINENESS: u32 = 4;
/// Latencies below 2¹³ ns, 8 µs, are one.
const SHORTEST: u32 = 13;
const BUCKETS: usize = 27 << FINENESS;

/// Counts the fates of requests while a run goes on.
pub(crate) struct Tally {
    targets: Vec<(Target, Nanos)>,
    totals: [u64; 4],
    over: u64,
    minutes: Vec<MinuteTally>,
    pub(crate) seconds: Vec<Second>,
}

#[derive(Clone)]
struct MinuteTally {
    offered: u64,
    over: Vec<u64>,
    unanswered: u64,
    latencies: Vec<u32>,
}

impl Tally {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let seconds = scenario.trace.duration().as_secs_f64().ceil() as usize;
        let minute = MinuteTally {
            offered: 0,
            over: vec![0; scenario.targets.len()],
            unanswered: 0,
            latencies: vec![0; BUCKETS],
        };
        Self {
            targets: scenario.targets.iter().map(|&target| (target, nanos_of(target.latency))).collect(),
            totals: [0; 4],
            over: 0,
            minutes: vec![minute; seconds.div_ceil(60)],
            seconds: vec![Second::default(); seconds],
        }
    }

    /// A request is due.
    pub(crate) fn due(&mut self, at: Nanos) {
        self.totals[0] += 1;
        if let Some(second) = self.seconds.get_mut((at / SECOND) as usize) {
            second.offered += 1;
        }
        if let Some(minute) = self.minutes.get_mut((at / (60 * SECOND)) as usize) {
            minute.offered += 1;
        }
    }

    /// What became of the request that was due at `at`.
    pub(crate) fn end(&mut self, at: Nanos, fate: Fate) {
        let Some(minute) = self.minutes.get_mut((at / (60 * SECOND)) as usize) else { return };
        let latency = match fate {
            Fate::Answered(latency) => Some(latency),
            Fate::Shed => {
                self.totals[1] += 1;
                None
            }
            Fate::TimedOut => {
                self.totals[2] += 1;
                None
            }
            Fate::Failed => {
                self.totals[3] += 1;
                None
            }
        };
        match latency {
            Some(latency) => minute.latencies[bucket(latency)] += 1,
            None => minute.unanswered += 1,
        }
        for (index, (_, target)) in self.targets.iter().enumerate() {
            if latency.is_none_or(|latency| latency > *target) {
                minute.over[index] += 1;
                if index == 0 {
                    self.over += 1;
                    if let Some(second) = self.seconds.get_mut((at / SECOND) as usize) {
                        second.over += 1;
                    }
                }
            }
        }
    }

    pub(crate) fn outcome(
        self,
        scenario: &Scenario,
        policy: String,
        replica_nanos: Nanos,
        scalings: Vec<Scaling>,
    ) -> Outcome {
        let targets = &self.targets;
        let minutes = self.minutes.iter().map(|minute| minute.summary(targets)).collect();
        let [offered, shed, timed_out, failed] = self.totals;
        Outcome {
            scenario: scenario.name.clone(),
            policy,
            seed: scenario.seed,
            offered,
            over: self.over,
            shed,
            timed_out,
            failed,
            replica_seconds: seconds(replica_nanos),
            scalings,
            minutes,
            seconds: self.seconds,
        }
    }
}

impl MinuteTally {
    fn summary(&self, targets: &[(Target, Nanos)]) -> Minute {
        let violated = targets.iter().zip(&self.over).any(|((target, _), &over)| {
            // A tolerance far below one request, for shares such as 1 - 0.99.
            over as f64 > (1.0 - target.quantile) * self.offered as f64 + 1e-6
        });
        Minute {
            offered: self.offered,
            over: self.over.first().copied().unwrap_or(0),
            violated,
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
        }
    }

    fn quantile(&self, q: f64) -> f64 {
        let ended = self.unanswered + self.latencies.iter().map(|&count| u64::from(count)).sum::<u64>();
        if ended == 0 {
            return 0.0;
        }
        let rank = ((q * ended as f64).ceil() as u64).max(1);
        let mut up_to = 0;
        for (index, &count) in self.latencies.iter().enumerate() {
            up_to += u64::from(count);
            if up_to >= rank {
                return middle(index);
            }
        }
        f64::INFINITY
    }
}

fn bucket(latency: Nanos) -> usize {
    let latency = latency.max(1 << SHORTEST);
    let exponent = latency.ilog2();
    let part = (latency >> (exponent - FINENESS)) as usize & ((1 << FINENESS) - 1);
    ((((exponent - SHORTEST) as usize) << FINENESS) + part).min(BUCKETS - 1)
}

/// The middle of a bucket in seconds.
fn middle(bucket: usize) -> f64 {
    let (exponent, part) = ((bucket >> FINENESS) as u32 + SHORTEST, bucket & ((1 << FINENESS) - 1));
    let width = f64::from(1 << FINENESS);
    (1_u64 << exponent) as f64 * (1.0 + (part as f64 + 0.5) / width) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::Distribution;
    use crate::generate;
    use crate::service::Service;

    const MILLI: Nanos = 1_000_000;

    fn scenario() -> Scenario {
        let time = Distribution::Constant { seconds: 0.05 };
        let target = Target { quantile: 0.99, latency: Duration::from_millis(100) };
        let trace = generate::step(120, 0, 1.0, 1.0);
        Scenario::new("test", trace, Service::workers(1, time, time), target)
    }

    fn outcome(fates: &[(Nanos, Fate)]) -> Outcome {
        let scenario = scenario();
        let mut tally = Tally::new(&scenario);
        for &(at, fate) in fates {
            tally.due(at);
            tally.end(at, fate);
        }
        tally.outcome(&scenario, "test".into(), 7200 * SECOND, Vec::new())
    }

    #[test]
    fn a_minute_is_violated_when_more_than_the_quantile_allows_are_over() {
        let good = (0, Fate::Answered(100 * MILLI));
        let mut fates = vec![good; 99];
        fates.push((SECOND, Fate::Answered(101 * MILLI)));
        assert_eq!(outcome(&fates).score().violation_minutes, 0);
        fates[0].1 = Fate::Answered(101 * MILLI);
        assert_eq!(outcome(&fates).score().violation_minutes, 1);
    }

    #[test]
    fn whatever_is_not_answered_is_over() {
        for fate in [Fate::Shed, Fate::TimedOut, Fate::Failed] {
            let outcome = outcome(&[(0, Fate::Answered(MILLI)), (61 * SECOND, fate)]);
            let score = outcome.score();
            assert_eq!((outcome.over, score.violation_minutes), (1, 1));
            assert!((score.over_share - 0.5).abs() < 1e-9);
            assert_eq!(outcome.shed + outcome.timed_out + outcome.failed, 1);
            assert!(!outcome.minutes[0].violated && outcome.minutes[1].violated);
            assert_eq!((outcome.seconds[61].offered, outcome.seconds[61].over), (1, 1));
            assert!(outcome.minutes[1].p99.is_infinite());
        }
    }

    #[test]
    fn cost_weighs_hours_of_violation() {
        let score = outcome(&[(0, Fate::Shed), (61 * SECOND, Fate::Shed)]).score();
        assert!((score.replica_hours - 2.0).abs() < 1e-9);
        assert!((score.cost(10.0) - (2.0 + 10.0 * 2.0 / 60.0)).abs() < 1e-9);
    }

    #[test]
    fn changes_of_direction_are_counted() {
        let mut outcome = outcome(&[]);
        let scaling = |at, from, to| Scaling { at, from, to };
        outcome.scalings =
            vec![scaling(1.0, 1, 4), scaling(2.0, 4, 5), scaling(3.0, 5, 3), scaling(4.0, 3, 6)];
        let score = outcome.score();
        assert_eq!((score.scale_events, score.direction_changes), (4, 2));
        let part = outcome.score_between(Duration::from_secs(3), Duration::from_mins(1));
        assert_eq!((part.scale_events, part.direction_changes), (2, 1));
    }

    #[test]
    fn percentiles_are_within_five_percent() {
        for latency in [9_000, 50 * MILLI, 230 * MILLI, 9 * SECOND] {
            let read = middle(bucket(latency));
            assert!((read / seconds(latency) - 1.0).abs() < 0.05, "{latency}: {read}");
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(Nanos::MAX), BUCKETS - 1);
    }
}
