//! Counts what becomes of requests while a run goes on.

use crate::clock::{Nanos, SECOND, nanos_of, seconds};
use crate::scenario::{Scenario, Target};
use crate::score::{Minute, Outcome, Scaling, Second};

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

/// The fates of requests so far.
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
    use std::time::Duration;

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
