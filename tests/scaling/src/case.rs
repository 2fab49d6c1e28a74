//! The cases: each trace on each service, and each service that changes.

use plimsoll_simulator::suite::{self, Kind};
use plimsoll_simulator::{Scenario, Trace};

use super::traces::Read;

/// What every policy is run on.
#[derive(Clone, Debug)]
pub struct Case {
    /// What the load is, or what changes.
    pub trace: String,
    /// The service.
    pub service: &'static str,
    /// The service changes in the middle.
    pub changing: bool,
    /// A scenario for each seed.
    pub scenarios: Vec<Scenario>,
}

impl Case {
    /// What it is called.
    pub fn name(&self) -> String {
        format!("{} on {}", self.trace, self.service)
    }

    /// Requests of all its scenarios, about: what its runs take grows with them.
    pub fn weight(&self) -> f64 {
        let requests = |trace: &Trace| trace.mean() * trace.duration().as_secs_f64();
        self.scenarios.iter().map(|scenario| requests(&scenario.trace)).sum()
    }
}

/// Traces and services that `--quick` looks at.
const QUICK_TRACES: [&str; 2] = ["step", "flash crowd"];
const QUICK_SERVICES: [&str; 2] = ["exponential", "throttled event loop"];
const QUICK_CHANGING: &str = "throttled event loop";

/// All cases whose name holds `only`, each with a scenario for each seed.
pub fn all(read: &[Read], seeds: &[u64], quick: bool, only: &str) -> Vec<Case> {
    let kinds = suite::kinds();
    let taken = |kind: &Kind| !quick || QUICK_SERVICES.contains(&kind.name);
    let mut cases = Vec::new();
    for kind in kinds.iter().filter(|kind| taken(kind)) {
        let mut add = |trace: &str, at: &dyn Fn(u64) -> Option<Trace>| {
            let scenario = |&seed: &u64| Some(suite::scenario(trace, &at(seed)?, kind, seed));
            let scenarios = seeds.iter().filter_map(scenario).collect();
            cases.push(Case { trace: trace.to_owned(), service: kind.name, changing: false, scenarios });
        };
        for read in read {
            add(&read.name, &|_| Some(read.trace.clone()));
        }
        for (index, (name, _)) in suite::traces(1).into_iter().enumerate() {
            if !quick || QUICK_TRACES.contains(&name) {
                add(name, &|seed| suite::traces(seed).into_iter().nth(index).map(|(_, trace)| trace));
            }
        }
    }
    for kind in kinds.iter().filter(|kind| !quick || kind.name == QUICK_CHANGING) {
        let mut changes: Vec<Case> = Vec::new();
        for &seed in seeds {
            for (index, scenario) in suite::changing(kind, seed).into_iter().enumerate() {
                match changes.get_mut(index) {
                    Some(case) => case.scenarios.push(scenario),
                    None => changes.push(Case {
                        trace: scenario.name.trim_end_matches(&format!(" on {}", kind.name)).to_owned(),
                        service: kind.name,
                        changing: true,
                        scenarios: vec![scenario],
                    }),
                }
            }
        }
        cases.append(&mut changes);
    }
    cases.retain(|case| case.name().contains(only));
    cases
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_trace_meets_every_service_with_every_seed() {
        let trace = Trace::parse("t", "0,5\n600,6\n").unwrap();
        let read = [Read { name: "mine".into(), trace, from_seconds: 0 }];
        let cases = all(&read, &[1, 2], false, "");
        let services = suite::kinds().len();
        let on_traces = cases.iter().filter(|case| !case.changing).count();
        assert_eq!(on_traces, services * (suite::traces(1).len() + 1));
        assert!(cases.iter().all(|case| case.scenarios.len() == 2));
        assert!(cases.iter().all(|case| case.scenarios[0].name == case.name()));
        assert!(cases.iter().filter(|case| case.changing).all(|case| !case.scenarios[0].changes.is_empty()));
        let mine = cases.iter().find(|case| case.trace == "mine").unwrap();
        assert_eq!(mine.scenarios[1].seed, 2);
        assert_eq!(mine.scenarios[1].trace.duration(), Duration::from_mins(20));
    }

    #[test]
    fn a_filter_is_a_part_of_a_cases_name() {
        let cases = all(&[], &[1], false, "step on exponential");
        assert_eq!(cases.iter().map(Case::name).collect::<Vec<_>>(), ["step on exponential"]);
        assert!(all(&[], &[1], false, "nothing like it").is_empty());
        let changed = all(&[], &[1], false, "heavier mix");
        assert!(changed.len() == suite::kinds().len() && changed.iter().all(|case| case.changing));
    }
}
