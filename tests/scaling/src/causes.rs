//! What happened in the minutes that missed the promise: whether replicas that help could have been there in time.

use plimsoll_simulator::suite::CHANGE_AT;
use plimsoll_simulator::{Outcome, Scenario, oracle};
use serde::{Deserialize, Serialize};

/// Minutes in which a service is not known yet.
const LEARNING_MINUTES: usize = 10;
/// Minutes after a service has changed.
const CHANGED_MINUTES: usize = 5;
/// A load that is higher by a tenth needs about a tenth more pods, which is more than a margin.
const RISEN: f64 = 1.1;
/// Loads are means of so many seconds.
const LOAD_SECONDS: usize = 10;
/// Requests of a minute may still wait for what happened so long before it.
const BEFORE_SECONDS: usize = 15;
/// From a rise of the load until more replicas are wanted, at the earliest: a round of scrapes.
const SEEN_SECONDS: f64 = 5.0;

/// The minutes that missed the promise; each is counted once, under the first that is true of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Causes {
    /// The load was more than the dependency carries: no number of replicas would have kept it.
    pub saturated: u32,
    /// The first ten minutes: the service was not known yet.
    pub learning: u32,
    /// The first five minutes after the service changed.
    pub changed: u32,
    /// The load rose by a tenth or more within the time that a pod takes to be there.
    pub rise: u32,
    /// New pods were in their first seconds.
    pub starts: u32,
    /// None of these.
    pub other: u32,
}

impl Causes {
    /// Looks at each minute of a run that missed the promise.
    pub fn of(scenario: &Scenario, changing: bool, outcome: &Outcome) -> Self {
        let load = Load::of(scenario);
        let change = (CHANGE_AT.as_secs() / 60) as usize;
        let mut causes = Self::default();
        for (minute, _) in outcome.minutes.iter().enumerate().filter(|(_, minute)| minute.violated) {
            let seconds = (60 * minute).saturating_sub(BEFORE_SECONDS)..60 * (minute + 1);
            let cause = if seconds.clone().any(|second| load.is_beyond_dependency(scenario, second)) {
                &mut causes.saturated
            } else if minute < LEARNING_MINUTES {
                &mut causes.learning
            } else if changing && (change..change + CHANGED_MINUTES).contains(&minute) {
                &mut causes.changed
            } else if seconds.clone().any(|second| load.has_risen(second)) {
                &mut causes.rise
            } else if seconds.clone().any(|second| ready_more(outcome, second)) {
                &mut causes.starts
            } else {
                &mut causes.other
            };
            *cause += 1;
        }
        causes
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.saturated += other.saturated;
        self.learning += other.learning;
        self.changed += other.changed;
        self.rise += other.rise;
        self.starts += other.starts;
        self.other += other.other;
    }
}

/// Whether pods became ready in a second.
fn ready_more(outcome: &Outcome, second: usize) -> bool {
    let ready = |second: usize| outcome.seconds.get(second).map_or(0, |second| second.ready);
    second > 0 && ready(second) > ready(second - 1)
}

/// The load of a scenario's trace.
struct Load {
    /// Means of the seconds from each one on, in requests per second.
    means: Vec<f64>,
    /// The time that a pod takes to be there, half of the time.
    start_seconds: usize,
}

impl Load {
    fn of(scenario: &Scenario) -> Self {
        let seconds = scenario.trace.duration().as_secs();
        let rates: Vec<f64> = (0..seconds).map(|second| scenario.trace.rate(second as f64)).collect();
        let mean = |span: &[f64]| span.iter().sum::<f64>() / span.len() as f64;
        Self {
            means: rates.windows(LOAD_SECONDS).map(mean).collect(),
            start_seconds: (scenario.service.start_up.quantile(0.5) + SEEN_SECONDS).ceil() as usize,
        }
    }

    fn is_beyond_dependency(&self, scenario: &Scenario, second: usize) -> bool {
        self.means.get(second).is_some_and(|mean| *mean > oracle::carried(scenario, second as f64))
    }

    fn has_risen(&self, second: usize) -> bool {
        let before = second.checked_sub(self.start_seconds + LOAD_SECONDS).and_then(|at| self.means.get(at));
        let now = self.means.get(second);
        before.zip(now).is_some_and(|(before, now)| *now > RISEN * before)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_simulator::score::{Minute, Second};
    use plimsoll_simulator::suite::{kinds, scenario};
    use plimsoll_simulator::{Trace, generate};

    use super::*;

    /// What is told of an hour that missed the promise in these minutes, with a pod more from these seconds on.
    fn of(service: &str, trace: &Trace, changing: bool, missed: &[usize], started: &[usize]) -> Causes {
        let kinds = kinds();
        let kind = kinds.iter().find(|kind| kind.name == service).unwrap();
        let mut minutes = vec![Minute::default(); 60];
        for &minute in missed {
            minutes[minute].violated = true;
        }
        let ready = |second: usize| started.iter().filter(|&&at| at <= second).count() as u32;
        let seconds = (0..3600).map(|second| Second { ready: ready(second), ..Second::default() });
        let outcome = Outcome { minutes, seconds: seconds.collect(), ..Outcome::default() };
        Causes::of(&scenario("causes", trace, kind, 1), changing, &outcome)
    }

    #[test]
    fn each_minute_is_told_once_by_what_comes_first() {
        let step = generate::step(3600, 1200, 0.5, 1.0);
        let found = of("exponential", &step, false, &[3, 15, 20, 21, 40, 41], &[1150, 2410]);
        let expected = Causes { learning: 1, rise: 1, starts: 1, other: 3, ..Causes::default() };
        assert_eq!(
            found, expected,
            "the rise is told of the minute that it falls in, the start of the one that it is in"
        );
        let found = of("exponential", &step, true, &[29, 30, 34, 35], &[]);
        assert_eq!(found, Causes { changed: 2, other: 2, ..Causes::default() });
    }

    #[test]
    fn a_slow_rise_is_no_rise_and_a_start_counts_for_a_while() {
        let ramp = generate::ramp(3600, (0, 0.5), (3600, 1.0));
        let found = of("exponential", &ramp, false, &[30, 31], &[60 * 30 - 10]);
        assert_eq!(found, Causes { starts: 1, other: 1, ..Causes::default() });
    }

    #[test]
    fn beyond_the_dependency_nothing_helps() {
        let step = generate::step(3600, 1200, 0.4, 1.0);
        let found = of("dependency-bound", &step, false, &[5, 20, 30], &[]);
        assert_eq!(found, Causes { saturated: 2, learning: 1, ..Causes::default() });
    }
}
