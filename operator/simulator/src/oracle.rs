//! The oracle: a schedule of replicas by one who knows the trace, the service and its changes beforehand.
//!
//! Its schedules are n(t) = ⌈max of d over [t, t + w] / C⌉. The demand d is the trace's rate, times how much more a request
//! costs than at the start where a change makes it so, and at most what its dependency carries, beyond which replicas are of
//! no use. w is how far it looks ahead: the time in which nearly every pod is
//! Ready and warm, or somewhat more, so that replicas that are needed again soon are kept. C is the load that it gives
//! each replica. Of these, the oracle's is the schedule with the fewest replica-hours among those with no
//! violation-minute; where there is none, among those with the fewest.
//!
//! What it is not: a lower bound over all schedules. Its C is one number for the whole run, and it counts each second's
//! demand by its mean, not by the requests that will come.

use std::time::Duration;

use crate::demand::Prepared;
use crate::policy::{Policy, View};
use crate::scenario::Scenario;
use crate::score::Outcome;
use crate::service::Changed;
use crate::sweep;

/// Nearly every pod is Ready by this quantile of the start-up time.
const START_UP_QUANTILE: f64 = 0.99;
/// How much further than that it may look ahead, in seconds.
const LOOK_FURTHER: [f64; 3] = [1.0, 15.0, 60.0];
/// Step between two values of C that are tried.
const STEP: f64 = 1.02;
/// The smallest C that is tried, as a part of what a pod can serve at most.
const SMALLEST: f64 = 0.1;

/// A number of replicas for each second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    name: String,
    replicas: Vec<u32>,
}

impl Schedule {
    /// The schedule by which each replica gets `per_replica` requests a second, as they cost at the start, of the highest
    /// demand within `ahead_seconds` from each moment.
    pub fn new(scenario: &Scenario, per_replica: f64, ahead_seconds: f64) -> Self {
        let demand = demand(scenario);
        let ahead = ahead_seconds.ceil() as usize;
        let replicas = (0..demand.len())
            .map(|second| {
                let window = &demand[second..(second + ahead + 1).min(demand.len())];
                (window.iter().copied().fold(0.0, f64::max) / per_replica).ceil() as u32
            })
            .collect();
        Self { name: format!("oracle {per_replica:.1} requests/s a pod"), replicas }
    }
}

impl Policy for Schedule {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        self.replicas.get(view.now.as_secs() as usize).copied().unwrap_or(view.wanted)
    }
}

/// Load in requests a second that the dependency carries at a moment, in seconds; infinite where there is none.
pub fn carried(scenario: &Scenario, second: f64) -> f64 {
    let Some(dependency) = &scenario.dependency else { return f64::INFINITY };
    let slower = scenario
        .changes
        .iter()
        .filter(|change| change.at.as_secs_f64() <= second)
        .filter_map(|change| match change.what {
            Changed::Dependency { factor } => Some((change.at, factor)),
            _ => None,
        })
        .max_by_key(|&(at, _)| at)
        .map_or(1.0, |(_, factor)| factor);
    f64::from(dependency.concurrency) / (dependency.share * dependency.work.mean() * slower)
}

/// Demand of each second, in requests a second as they cost at the start.
fn demand(scenario: &Scenario) -> Vec<f64> {
    let mut changes: Vec<_> = scenario.changes.iter().collect();
    changes.sort_by_key(|change| change.at);
    let first = scenario.service.throughput_max();
    let seconds = scenario.trace.duration().as_secs_f64().ceil() as u32;
    (0..seconds)
        .map(|second| {
            let (mut release, mut work) = (1.0, 1.0);
            for change in changes.iter().take_while(|change| change.at.as_secs_f64() <= f64::from(second)) {
                let since = f64::from(second) - change.at.as_secs_f64();
                match &change.what {
                    Changed::Rollout { service } => release = first / service.throughput_max(),
                    Changed::Work { factor, fades_within } => {
                        let left = fades_within
                            .map_or(1.0, |within| (1.0 - since / within.as_secs_f64().max(1e-9)).max(0.0));
                        work = 1.0 + (factor - 1.0) * left;
                    }
                    // It changes what is carried, not what a pod can serve.
                    Changed::Dependency { .. } => {}
                }
            }
            // The highest rate within the second: a trace may be finer than that.
            let rate = (0..10).map(|tenth| scenario.trace.rate(f64::from(second) + f64::from(tenth) / 10.0));
            rate.fold(0.0, f64::max).min(carried(scenario, f64::from(second))) * release * work
        })
        .collect()
}

/// The oracle's schedule and what becomes of it. It is searched for: some dozens of runs.
pub fn best(prepared: &Prepared<'_>) -> (Schedule, Outcome) {
    let scenario = prepared.scenario();
    let warm_up = scenario.service.warm_up.time.as_secs_f64();
    let start_up = scenario.service.start_up.quantile(START_UP_QUANTILE) + warm_up;
    let count = (-libm::log(SMALLEST) / libm::log(STEP)).ceil() as i32;
    let per_replica =
        |step: i32| scenario.service.throughput_max() * SMALLEST * libm::pow(STEP, f64::from(step));
    let searched = sweep::parallel(&LOOK_FURTHER, |further| {
        let mut tried = Vec::new();
        let mut violations = |step: i32| {
            let mut schedule = Schedule::new(scenario, per_replica(step), start_up + further);
            let outcome = prepared.run(&mut schedule);
            let minutes = outcome.score().violation_minutes;
            tried.push((schedule, outcome));
            minutes
        };
        let least = violations(0);
        let (mut good, mut bad) = (0, count + 1);
        while bad - good > 1 {
            let middle = i32::midpoint(good, bad);
            if violations(middle) <= least { good = middle } else { bad = middle }
        }
        // More load is nearly always worse, and sometimes luckier.
        for step in good + 2..=(good + 4).min(count) {
            violations(step);
        }
        tried.into_iter().min_by(|a, b| sweep::compare(&a.1, &b.1))
    });
    let found = searched.into_iter().flatten().min_by(|a, b| sweep::compare(&a.1, &b.1));
    found.unwrap_or_else(|| {
        let schedule = Schedule::new(scenario, per_replica(0), start_up);
        let outcome = prepared.run(&mut schedule.clone());
        (schedule, outcome)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::Distribution;
    use crate::peers::fixed::Fixed;
    use crate::service::{Change, Dependency, Service};
    use crate::{Target, generate, run};

    fn scenario(trace: crate::Trace) -> Scenario {
        let service = Service::workers(
            4,
            Distribution::Exponential { mean: 0.05 },
            Distribution::Constant { seconds: 12.0 },
        );
        let target = Target { quantile: 0.99, latency: Duration::from_millis(300) };
        Scenario::new("oracle", trace, service, target)
    }

    #[test]
    fn looks_ahead_and_divides_by_the_capacity() {
        let schedule = Schedule::new(&scenario(generate::step(60, 30, 100.0, 250.0)), 50.0, 12.0);
        assert_eq!(schedule.replicas[17], 2);
        assert_eq!(schedule.replicas[18], 5);
        assert_eq!(schedule.replicas[59], 5);
    }

    #[test]
    fn knows_what_changes_cost() {
        let mut scenario = scenario(generate::step(60, 0, 100.0, 100.0));
        let release = Box::new(scenario.service.release(1.5));
        scenario.changes = vec![
            Change { at: Duration::from_secs(40), what: Changed::Rollout { service: release } },
            Change {
                at: Duration::from_secs(20),
                what: Changed::Work { factor: 3.0, fades_within: Some(Duration::from_secs(10)) },
            },
        ];
        let demand = demand(&scenario);
        let near = |second: usize, expected: f64| assert!((demand[second] - expected).abs() < 1e-6);
        near(0, 100.0);
        near(20, 300.0);
        near(25, 200.0);
        near(35, 100.0);
        near(40, 150.0);
    }

    #[test]
    fn knows_what_the_dependency_carries() {
        let mut scenario = scenario(generate::step(60, 30, 100.0, 250.0));
        let work = Distribution::Constant { seconds: 0.02 };
        scenario.dependency = Some(Dependency { concurrency: 4, work, share: 0.8 });
        scenario.changes =
            vec![Change { at: Duration::from_secs(50), what: Changed::Dependency { factor: 2.0 } }];
        let demand = demand(&scenario);
        assert!((demand[10] - 100.0).abs() < 1e-9);
        assert!((demand[40] - 250.0).abs() < 1e-9);
        assert!((demand[55] - 125.0).abs() < 1e-9);
    }

    /// At 400 requests a second the 99th percentile is 281 ms with seven replicas and 394 ms with six.
    #[test]
    fn finds_the_fewest_replicas_that_keep_the_promise() {
        let mut scenario = scenario(generate::step(900, 0, 400.0, 400.0));
        scenario.targets[0].latency = Duration::from_millis(330);
        scenario.replicas_initial = 8;
        let (schedule, outcome) = best(&Prepared::new(&scenario));
        assert_eq!(outcome.score().violation_minutes, 0);
        assert_eq!(schedule.replicas[450], 7);
        assert!(run(&scenario, &mut Fixed { replicas: 6 }).score().violation_minutes > 10);
    }

    #[test]
    fn has_the_fewest_violations_where_none_is_impossible() {
        // Four times the load at once before a pod can have started: the first minute is lost for everybody.
        let mut scenario = scenario(generate::step(600, 5, 50.0, 400.0));
        scenario.replicas_initial = 1;
        let (_, outcome) = best(&Prepared::new(&scenario));
        assert!((1..=2).contains(&outcome.score().violation_minutes), "{:?}", outcome.score());
    }
}
