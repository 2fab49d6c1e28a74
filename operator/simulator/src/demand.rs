//! The requests of a scenario: when each is due and what it asks for.
//!
//! They do not depend on the policy, so that many runs of one scenario can share them ([`Prepared`]); drawing them is about
//! half of a run's work. One run alone draws each when it is due, and holds none.

use std::slice;

use crate::arrivals::ArrivalStream;
use crate::clock::Nanos;
use crate::distribution::Distribution;
use crate::policy::Policy;
use crate::random::{Purpose, Random};
use crate::scenario::Scenario;
use crate::score::Outcome;
use crate::world;

/// More requests than this are not kept but drawn in every run: they would take more than a gigabyte.
const KEPT_MAX: f64 = 25e6;

/// A request that is to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Incoming {
    pub(crate) due: Nanos,
    /// Which quantile of the work it is.
    pub(crate) rank: f64,
    /// What that is of the first template's work, in seconds.
    pub(crate) work: f64,
    /// How long it keeps the dependency before any change, in seconds, if it calls it.
    pub(crate) call: Option<f64>,
}

/// Draws the requests, in order of time.
struct Draw {
    arrivals: ArrivalStream,
    ranks: Random,
    work: Distribution,
    /// What a call takes, and the share of requests that make one.
    call: Option<(Distribution, f64)>,
}

impl Draw {
    fn new(scenario: &Scenario) -> Self {
        Self {
            arrivals: ArrivalStream::new(&scenario.trace, scenario.arrivals, scenario.seed),
            ranks: Random::new(scenario.seed, Purpose::Service),
            work: scenario.service.work,
            call: scenario.dependency.as_ref().map(|dependency| (dependency.work, dependency.share)),
        }
    }
}

impl Iterator for Draw {
    type Item = Incoming;

    fn next(&mut self) -> Option<Incoming> {
        let due = self.arrivals.next()?;
        let rank = self.ranks.unit();
        let call = self.call.and_then(|(work, share)| {
            let (chance, rank) = (self.ranks.unit(), self.ranks.unit());
            (chance < share).then(|| work.quantile(rank))
        });
        Some(Incoming { due, rank, work: self.work.quantile(rank), call })
    }
}

/// The requests of a run, in order of time.
pub(crate) struct Requests<'a>(From<'a>);

enum From<'a> {
    Draw(Box<Draw>),
    Kept(slice::Iter<'a, Incoming>),
}

impl Iterator for Requests<'_> {
    type Item = Incoming;

    fn next(&mut self) -> Option<Incoming> {
        match &mut self.0 {
            From::Draw(draw) => draw.next(),
            From::Kept(kept) => kept.next().copied(),
        }
    }
}

/// A scenario whose requests are drawn, for many runs.
pub struct Prepared<'a> {
    scenario: &'a Scenario,
    /// Absent if there are too many to be kept.
    kept: Option<Vec<Incoming>>,
}

impl<'a> Prepared<'a> {
    /// Draws the requests: 40 bytes each, about a gigabyte at most.
    pub fn new(scenario: &'a Scenario) -> Self {
        let expected = scenario.trace.mean() * scenario.trace.duration().as_secs_f64();
        Self { scenario, kept: (expected <= KEPT_MAX).then(|| Draw::new(scenario).collect()) }
    }

    /// What is simulated.
    pub const fn scenario(&self) -> &'a Scenario {
        self.scenario
    }

    /// Simulates it under `policy`: the outcome is that of [`run`], to the byte.
    pub fn run(&self, policy: &mut dyn Policy) -> Outcome {
        let requests = match &self.kept {
            Some(kept) => From::Kept(kept.iter()),
            None => From::Draw(Box::new(Draw::new(self.scenario))),
        };
        world::run(self.scenario, Requests(requests), policy)
    }
}

/// Simulates `scenario` once under `policy`.
pub fn run(scenario: &Scenario, policy: &mut dyn Policy) -> Outcome {
    world::run(scenario, Requests(From::Draw(Box::new(Draw::new(scenario)))), policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::fixed::Fixed;
    use crate::{generate, suite};

    #[test]
    fn a_run_of_prepared_requests_is_the_same_to_the_byte() {
        let trace = generate::step(300, 120, 0.4, 0.8);
        let kinds = suite::kinds();
        let steady = kinds.iter().map(|kind| suite::scenario("step", &trace, kind, 1));
        // A release whose work is another one than the first's.
        let changing = suite::changing(&kinds[0], 2).into_iter().take(1);
        for scenario in steady.chain(changing) {
            let policy = || Fixed { replicas: 20 };
            let prepared = Prepared::new(&scenario);
            assert!(prepared.kept.is_some(), "{}", scenario.name);
            let alone = run(&scenario, &mut policy());
            assert_eq!(prepared.run(&mut policy()), alone, "{}", scenario.name);
            let too_many = Prepared { scenario: &scenario, kept: None };
            assert_eq!(too_many.run(&mut policy()), alone, "{}", scenario.name);
        }
    }
}
