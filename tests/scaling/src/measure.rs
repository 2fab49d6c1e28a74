//! Runs every policy on a case.

use std::cell::LazyCell;

use plimsoll_simulator::engine::Plimsoll;
use plimsoll_simulator::oracle;
use plimsoll_simulator::peers::hindsight::{self, Found};
use plimsoll_simulator::peers::settings::{Family, Setting, customary, grids};
use plimsoll_simulator::score::{Minute, Second};
use plimsoll_simulator::suite::{CHANGE_AT, STEP_AT};
use plimsoll_simulator::{Outcome, Prepared, Scenario};

use crate::case::Case;
use crate::causes::Causes;
use crate::results::{After, CaseRuns, Moment, Role, Run, Shown, Who};

/// Minutes in a row that must keep the promise before it counts as kept again.
const KEPT_MINUTES: usize = 5;
/// A peer is looked at more closely in hindsight while its best of the grid needs at most so many times the replica-hours of
/// the best peer's: half a step of the grid is far less.
const WITHIN_REACH: f64 = 1.4;

/// How thoroughly hindsight looks.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Every so many settings of the grid.
    pub stride: usize,
    /// How often the step around the best is halved.
    pub halvings: u32,
}

impl Effort {
    /// To about one part in a hundred.
    pub const FULL: Self = Self { stride: 1, halvings: 3 };
    /// To about one part in ten.
    pub const QUICK: Self = Self { stride: 2, halvings: 1 };

    /// That of a run with or without `--quick`.
    pub const fn of(quick: bool) -> Self {
        if quick { Self::QUICK } else { Self::FULL }
    }

    /// The settings of the grid that are tried, by peer.
    pub fn grids(self) -> Vec<(Family, Vec<Setting>)> {
        let thinned = |settings: Vec<Setting>| settings.into_iter().step_by(self.stride).collect();
        grids().into_iter().map(|(family, settings)| (family, thinned(settings))).collect()
    }
}

/// A case's runs, and how its first one went.
pub struct Measured {
    /// The runs.
    pub case: CaseRuns,
    /// How the first run went; absent where no peer ran.
    pub shown: Option<Shown>,
}

impl Measured {
    /// A case of which nothing is measured yet.
    pub fn none(case: &Case) -> Self {
        Self { case: CaseRuns::none(case), shown: None }
    }

    /// Runs everything on one more scenario of the case: on the first one the grid, on the others hindsight begins with what
    /// was best on the first.
    pub fn add(&mut self, case: &Case, scenario: &Scenario, effort: Effort) {
        let prepared = Prepared::new(scenario);
        let (_, oracle) = oracle::best(&prepared);
        let plimsoll = prepared.run(&mut Plimsoll::new(scenario));
        let judge = Judge { case, scenario, oracle: Some(&oracle) };
        let tried = |settings: Vec<Setting>| -> Vec<Found> {
            settings.into_iter().map(|setting| Found::of(&prepared, setting)).collect()
        };
        let judged = |role, found: &[Found]| -> Vec<Run> {
            found.iter().map(|found| judge.run(role, Some(found.setting), &found.outcome)).collect()
        };
        let known = self.best_on_the_first();
        let first = known.is_empty();
        let runs = &mut self.case.runs;
        runs.push(judge.run(Role::Oracle, None, &oracle));
        runs.push(judge.run(Role::Plimsoll, None, &plimsoll));
        runs.extend(judged(Role::Customary, &tried(customary())));
        let mut started = tried(known);
        if first {
            for (_, settings) in effort.grids() {
                let grid = tried(settings);
                runs.extend(judged(Role::Grid, &grid));
                started.extend(hindsight::best(grid));
            }
        }
        let found = refine(&prepared, started, effort);
        runs.extend(judged(Role::Hindsight, &found));
        if let (true, Some(best)) = (first, hindsight::best(found)) {
            self.show(&plimsoll, &oracle, best.outcome);
        }
    }

    /// Each peer's best setting on the first scenario; none when that is not measured yet.
    fn best_on_the_first(&self) -> Vec<Setting> {
        let runs = &self.case.runs;
        let first = runs.first().map(|run| run.seed);
        let best = |run: &&Run| run.role == Role::Hindsight && Some(run.seed) == first;
        runs.iter().filter(best).filter_map(|run| run.setting).collect()
    }

    /// Keeps how the first run went, with the best peer in hindsight.
    pub fn show(&mut self, plimsoll: &Outcome, oracle: &Outcome, best: Outcome) {
        let moments = moments([plimsoll, oracle, &best]);
        self.shown = Some(Shown { case: self.case.name(), best_peer: best.policy, moments });
    }
}

/// The policies that [`measure`] runs on each scenario of a case, in its order; with the first seed the grid is among them.
pub fn policies(effort: Effort, first: bool) -> Vec<Who> {
    let mut policies = vec![Who::Oracle, Who::Plimsoll];
    policies.extend(customary().into_iter().map(Who::Customary));
    let grids = effort.grids();
    if first {
        policies.extend(grids.iter().flat_map(|(_, settings)| settings).copied().map(Who::Grid));
    }
    policies.extend(grids.iter().map(|&(family, _)| Who::Hindsight(family)));
    policies
}

/// Everything but [`Role::Suite`], which needs all cases to be measured before.
pub fn measure(case: &Case, effort: Effort) -> Measured {
    let mut measured = Measured::none(case);
    for scenario in &case.scenarios {
        measured.add(case, scenario, effort);
    }
    measured
}

/// Looks closer at the peers that can still be the best.
fn refine(prepared: &Prepared<'_>, started: Vec<Found>, effort: Effort) -> Vec<Found> {
    let Some(best) = hindsight::best(started.iter().cloned()) else { return started };
    let violations = best.outcome.score().violation_minutes;
    let within_reach = |found: &Found| {
        found.outcome.replica_seconds <= WITHIN_REACH * best.outcome.replica_seconds
            // A setting that is too tight by less than a step of the grid may be off by some minutes.
            && found.outcome.score().violation_minutes <= violations + 5
    };
    let refined = |found: Found| {
        if within_reach(&found) { hindsight::refine(prepared, found, effort.halvings) } else { found }
    };
    started.into_iter().map(refined).collect()
}

/// The suite's best settings on a case; those that the grid has tried already, or that were the suite's best in an `earlier`
/// run, are not run again.
pub fn measure_suite(case: &Case, measured: &CaseRuns, earlier: &[Run], settings: &[Setting]) -> Vec<Run> {
    let mut runs = Vec::new();
    for scenario in &case.scenarios {
        // Its requests take long to draw, and often none are needed.
        let prepared = LazyCell::new(|| Prepared::new(scenario));
        for &setting in settings {
            let tried = measured.runs.iter().chain(earlier).find(|run| {
                matches!(run.role, Role::Grid | Role::Suite)
                    && (run.seed, run.setting) == (scenario.seed, Some(setting))
            });
            if let Some(tried) = tried {
                runs.push(Run { role: Role::Suite, ..tried.clone() });
                continue;
            }
            let outcome = Found::of(&prepared, setting).outcome;
            let judge = Judge { case, scenario, oracle: None };
            runs.push(judge.run(Role::Suite, Some(setting), &outcome));
        }
    }
    runs
}

/// Of each peer, the setting of the grid with the least J at κ = 10, as a multiple of the oracle's, on the mean of the
/// steady cases; nothing where there is none.
pub fn suite_settings(cases: &[CaseRuns], effort: Effort) -> Vec<Setting> {
    const KAPPA: f64 = 10.0;
    if cases.iter().all(|case| case.changing) {
        return Vec::new();
    }
    let cost = |setting: Setting| {
        let mut costs = Vec::new();
        for case in cases.iter().filter(|case| !case.changing) {
            let of = |role: Role, setting: Option<Setting>| {
                case.runs.iter().find(|run| (run.role, run.setting) == (role, setting))
            };
            if let (Some(own), Some(oracle)) = (of(Role::Grid, Some(setting)), of(Role::Oracle, None)) {
                costs.push(own.score.cost(KAPPA) / oracle.score.cost(KAPPA));
            }
        }
        costs.iter().sum::<f64>() / costs.len().max(1) as f64
    };
    let best = |settings: Vec<Setting>| settings.into_iter().min_by(|&a, &b| cost(a).total_cmp(&cost(b)));
    effort.grids().into_iter().filter_map(|(_, settings)| best(settings)).collect()
}

/// Turns an outcome into what is kept of it.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// The case.
    pub case: &'a Case,
    /// The scenario of it that ran.
    pub scenario: &'a Scenario,
    /// The oracle's run, against which useless rises are judged; absent where none are to be.
    pub oracle: Option<&'a Outcome>,
}

impl Judge<'_> {
    /// What is kept of it.
    pub fn run(&self, role: Role, setting: Option<Setting>, outcome: &Outcome) -> Run {
        let Self { case, scenario, oracle } = *self;
        let on_step = !case.changing && case.trace == "step";
        let judged = matches!(role, Role::Plimsoll | Role::Customary | Role::Hindsight);
        Run {
            seed: scenario.seed,
            role,
            policy: outcome.policy.clone(),
            setting,
            score: outcome.score(),
            after: case.changing.then(|| after(outcome)),
            step_seconds: on_step.then(|| first_rise(outcome, f64::from(STEP_AT))).flatten(),
            useless_rises: oracle
                .filter(|_| judged && scenario.dependency.is_some())
                .map(|oracle| useless_rises(scenario, outcome, oracle)),
            causes: (role == Role::Plimsoll).then(|| Causes::of(scenario, case.changing, outcome)),
        }
    }
}

fn after(outcome: &Outcome) -> After {
    let change = (CHANGE_AT.as_secs() / 60) as usize;
    let later = outcome.minutes.get(change..).unwrap_or_default();
    let kept = |minutes: &[Minute]| minutes.iter().all(|minute| !minute.violated);
    let minutes_until_kept = later.windows(KEPT_MINUTES).position(kept).map(|minutes| minutes as u32);
    let end = std::time::Duration::from_secs(outcome.seconds.len() as u64);
    After { minutes_until_kept, score: outcome.score_between(CHANGE_AT, end) }
}

/// Seconds from a moment until more replicas were wanted.
fn first_rise(outcome: &Outcome, from: f64) -> Option<f64> {
    outcome
        .scalings
        .iter()
        .find(|scaling| scaling.at >= from && scaling.to > scaling.from)
        .map(|scaling| scaling.at - from)
}

/// Scale-ups beyond the most that the oracle wanted, while the load was more than the dependency carries.
fn useless_rises(scenario: &Scenario, outcome: &Outcome, oracle: &Outcome) -> u32 {
    let most = oracle.seconds.iter().map(|second| second.wanted).max().unwrap_or_default();
    let useless = outcome.scalings.iter().filter(|scaling| {
        let saturated = oracle::carried(scenario, scaling.at) < scenario.trace.rate(scaling.at);
        saturated && scaling.to > scaling.from && scaling.to > most
    });
    useless.count() as u32
}

/// Runs of the same scenario, every ten seconds.
fn moments(runs: [&Outcome; 3]) -> Vec<Moment> {
    const STEP: usize = 10;
    let ready = |run: &Outcome, index: usize| run.seconds.get(index).map_or(0, |second| second.ready);
    let moment = |(index, span): (usize, &[Second])| {
        let offered: u32 = span.iter().map(|second| second.offered).sum();
        Moment {
            second: (index * STEP) as u64,
            load: f64::from(offered) / span.len() as f64,
            ready: runs.map(|run| ready(run, index * STEP)),
        }
    };
    runs[0].seconds.chunks(STEP).enumerate().map(moment).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plimsoll_simulator::generate;
    use plimsoll_simulator::score::Scaling;
    use plimsoll_simulator::suite::{kinds, scenario};

    use super::*;

    fn short(service: usize) -> Case {
        let kind = &kinds()[service];
        let trace = generate::step(300, 120, 0.4, 0.8);
        let scenarios = [1, 2].map(|seed| scenario("short", &trace, kind, seed)).to_vec();
        Case { trace: "short".into(), service: kind.name, changing: false, scenarios }
    }

    fn outcome(scalings: &[(f64, u32, u32)], violated: &[usize]) -> Outcome {
        let mut minutes = vec![Minute::default(); 60];
        for &minute in violated {
            minutes[minute].violated = true;
        }
        Outcome {
            scalings: scalings.iter().map(|&(at, from, to)| Scaling { at, from, to }).collect(),
            minutes,
            seconds: vec![Second { wanted: 5, pods: 4, ..Second::default() }; 3600],
            ..Outcome::default()
        }
    }

    #[test]
    fn every_policy_runs_with_every_seed_and_the_same_again() {
        let case = short(5);
        let once = measure(&case, Effort::QUICK);
        for who in [Who::Plimsoll, Who::Oracle, Who::Best, Who::Customary(customary()[0])] {
            assert_eq!(once.case.runs(who).len(), 2, "{who:?}");
        }
        for family in Family::ALL {
            assert_eq!(once.case.runs(Who::Hindsight(family)).len(), 2, "{family:?}");
        }
        assert!(once.case.runs.iter().filter(|run| run.role == Role::Grid).all(|run| run.seed == 1));
        let shown = once.shown.unwrap();
        assert_eq!((shown.moments.len(), shown.best_peer.is_empty()), (30, false));
        assert_eq!(measure(&case, Effort::QUICK).case.runs, once.case.runs);
        let policies = [true, false].into_iter().flat_map(|first| policies(Effort::QUICK, first));
        let policies: Vec<Who> = policies.collect();
        assert_eq!(once.case.runs.len(), policies.len());
        assert!(once.case.runs.iter().zip(policies).all(|(run, who)| who.did(run)));
    }

    #[test]
    fn hindsight_is_never_worse_than_the_grid() {
        let case = measure(&short(5), Effort::QUICK).case;
        let key = |run: &Run| (run.score.violation_minutes, run.score.replica_hours);
        let best = case.runs(Who::Best)[0];
        let grid = case.runs.iter().filter(|run| run.role == Role::Grid);
        assert!(grid.into_iter().all(|run| key(best) <= key(run)));
    }

    #[test]
    fn the_suites_best_is_one_setting_a_peer_and_is_not_run_twice() {
        let case = short(5);
        let measured = measure(&case, Effort::QUICK).case;
        let settings = suite_settings(std::slice::from_ref(&measured), Effort::QUICK);
        assert_eq!(settings.iter().map(Setting::family).collect::<Vec<_>>(), Family::ALL);
        let runs = measure_suite(&case, &measured, &[], &settings);
        assert_eq!(runs.len(), 2 * settings.len());
        assert!(runs.iter().all(|run| run.role == Role::Suite));
        let grid = measured.runs(Who::Grid(settings[0]))[0];
        assert_eq!(runs[0].score, grid.score);
        // With the second seed there is no grid: what an earlier run found is taken.
        let mut earlier = runs.clone();
        for run in &mut earlier {
            run.policy = "earlier".into();
        }
        let again = measure_suite(&case, &measured, &earlier, &settings);
        let taken = again.iter().filter(|run| run.policy == "earlier");
        assert_eq!(taken.map(|run| run.seed).collect::<Vec<_>>(), vec![2; settings.len()]);
    }

    #[test]
    fn the_promise_is_kept_again_when_five_minutes_in_a_row_keep_it() {
        let minutes = |violated: &[usize]| after(&outcome(&[], violated)).minutes_until_kept;
        assert_eq!(minutes(&[29]), Some(0));
        assert_eq!(minutes(&[30, 32]), Some(3));
        assert_eq!(minutes(&[30, 50]), Some(1), "a violation long after is another");
        assert_eq!(minutes(&(30..60).step_by(4).collect::<Vec<_>>()), None);
        let score = after(&outcome(&[], &[29, 30])).score;
        assert_eq!(score.violation_minutes, 1);
        assert!((score.replica_hours - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_answer_to_a_step_is_the_first_rise_after_it() {
        let outcome = outcome(&[(1100.0, 4, 5), (1203.0, 5, 4), (1207.0, 4, 9)], &[]);
        assert_eq!(first_rise(&outcome, 1200.0), Some(7.0));
        assert_eq!(first_rise(&outcome, 1300.0), None);
    }

    #[test]
    fn a_rise_is_useless_above_the_oracles_most_while_the_dependency_is_saturated() {
        let kinds = kinds();
        let kind = kinds.iter().find(|kind| kind.dependency.is_some()).unwrap();
        let trace = generate::step(3600, 1200, 0.4, 1.0);
        let scenario = scenario("saturated", &trace, kind, 1);
        // The oracle's most is 5. At 1000 s the dependency is not saturated.
        let rises = [(1000.0, 4, 7), (1300.0, 7, 5), (1400.0, 4, 5), (1500.0, 5, 6), (1600.0, 6, 7)];
        assert_eq!(useless_rises(&scenario, &outcome(&rises, &[]), &outcome(&[], &[])), 2);
        assert!(scenario.trace.duration() == Duration::from_hours(1));
    }
}
