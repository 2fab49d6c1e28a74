//! What was promised of the scaling engine, held against what was found, and the cases that it loses.

use plimsoll_scaling::results::{CaseRuns, Results, Run, Total, Who};
use plimsoll_simulator::peers::settings::{Setting, customary};

use crate::bench::goals::Goal;
use crate::bench::markdown::NONE;
use crate::bench::stats::{Spread, ratio};

/// Replica-hours of the best peer in hindsight, on the median case and on the worst.
const OF_HINDSIGHT: (f64, f64) = (1.00, 1.05);
/// Replica-hours of the oracle.
const OF_ORACLE: f64 = 1.10;
/// Share of replica-hours saved against what people run.
const SAVED: f64 = 0.25;
/// Minutes until the promise is kept again after a change.
const KEPT_WITHIN_MINUTES: u32 = 3;
/// Replica-hours of the oracle after a change.
const OF_ORACLE_AFTER: f64 = 1.15;
/// Two scrapes.
const STEP_SECONDS: f64 = 10.0;
const USELESS_RISES: u32 = 2;
/// What is judged of the hour after a change.
pub const AFTER_SECONDS: u64 = 3600;
/// Ratios are rounded as they are shown before they are judged.
const ROUNDING: f64 = 0.0005;

/// How Plimsoll did beside another on a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beside {
    /// Replica-hours as a multiple of the other's.
    pub ratio: f64,
    /// Violation-minutes, own and the other's.
    pub violations: (u32, u32),
}

impl Beside {
    /// On a case, over the seeds; `None` when one of both did not run.
    pub fn of(case: &CaseRuns, other: Who) -> Option<Self> {
        Self::totals(&case.total(Who::Plimsoll)?, &case.total(other)?)
    }

    fn totals(own: &Total, other: &Total) -> Option<Self> {
        Some(Self {
            ratio: ratio(own.replica_hours, other.replica_hours)?,
            violations: (own.violation_minutes, other.violation_minutes),
        })
    }

    /// It broke the promise no more often.
    pub const fn kept(&self) -> bool {
        self.violations.0 <= self.violations.1
    }

    /// Share of the other's replica-hours that it saves; with more violation-minutes nothing is saved.
    pub fn saved(&self) -> f64 {
        if self.kept() { 1.0 - self.ratio } else { (1.0 - self.ratio).min(0.0) }
    }
}

/// All goals, with what these results say of each.
pub fn goals(results: &Results) -> Vec<Goal> {
    let mut goals = against_foresight(results);
    for who in Who::without_hindsight() {
        goals.extend(against_a_peer(results, who));
    }
    goals.extend(after_a_change(results));
    goals.extend(restlessness(results));
    goals
}

fn against_foresight(results: &Results) -> Vec<Goal> {
    let beside = |who| results.steady().filter_map(|case| Beside::of(case, who)).collect::<Vec<_>>();
    let (best, oracle) = (beside(Who::Best), beside(Who::Oracle));
    let kept = best.iter().filter(|beside| beside.kept()).count();
    let of_best = Spread::of(best.iter().map(|beside| beside.ratio));
    let of_oracle = Spread::of(oracle.iter().map(|beside| beside.ratio));
    let within = oracle.iter().filter(|beside| beside.ratio <= OF_ORACLE + ROUNDING).count();
    vec![
        of_cases("no more violation-minutes than the best peer in hindsight", kept, best.len()),
        at_most(
            format!(
                "replica-hours of the best peer in hindsight, median case: at most {:.2}×",
                OF_HINDSIGHT.0
            ),
            OF_HINDSIGHT.0,
            of_best.map(|spread| spread.median),
        ),
        at_most(
            format!(
                "replica-hours of the best peer in hindsight, worst case: at most {:.2}×",
                OF_HINDSIGHT.1
            ),
            OF_HINDSIGHT.1,
            of_best.map(|spread| spread.max),
        ),
        Goal {
            text: format!("replica-hours of the oracle, every case: at most {OF_ORACLE:.2}×"),
            found: of_oracle.map(|spread| {
                format!(
                    "median {:.2}×, worst {:.2}×; {within} of {} cases",
                    spread.median,
                    spread.max,
                    oracle.len()
                )
            }),
            met: of_oracle.map(|spread| spread.max <= OF_ORACLE + ROUNDING),
        },
    ]
}

fn against_a_peer(results: &Results, who: Who) -> Vec<Goal> {
    let title = results.title(who);
    let beside: Vec<Beside> = results.steady().filter_map(|case| Beside::of(case, who)).collect();
    let saved = Spread::of(beside.iter().map(Beside::saved));
    let anyway = Spread::of(beside.iter().map(|beside| 1.0 - beside.ratio));
    let by_oracle = Spread::of(results.steady().filter_map(|case| {
        let [oracle, peer] = [Who::Oracle, who].map(|who| case.total(who).map(|total| total.replica_hours));
        Some(1.0 - ratio(oracle?, peer?)?)
    }));
    let more = beside.iter().filter(|beside| !beside.kept()).count();
    let (lower, of) = lower_cost(results, (Who::Plimsoll, who), 10.0);
    let (by_foresight, _) = lower_cost(results, (Who::Oracle, who), 10.0);
    vec![
        Goal {
            text: format!(
                "{title}: saves at least 25 % of the replica-hours at no more violation-minutes, median case"
            ),
            found: saved.map(|saved| {
                let short = (SAVED - saved.median) * 100.0;
                let by = if short > 0.05 { format!(", short by {short:.0} points") } else { String::new() };
                let percent = |spread: Option<Spread>| {
                    spread.map_or(NONE.to_owned(), |spread| format!("{:.0} %", spread.median * 100.0))
                };
                format!(
                    "{:.0} %{by}; more violation-minutes in {more} of {} cases, which save nothing; these aside {}, the oracle {}",
                    saved.median * 100.0,
                    beside.len(),
                    percent(anyway),
                    percent(by_oracle)
                )
            }),
            met: saved.map(|saved| saved.median >= SAVED - ROUNDING),
        },
        Goal {
            text: format!("{title}: lower J at κ = 10, every case"),
            found: (of > 0).then(|| format!("{lower} of {of} cases; the oracle {by_foresight}")),
            met: (of > 0).then_some(lower == of),
        },
    ]
}

/// In how many cases the J of the first is lower than the other's, of how many.
pub fn lower_cost(results: &Results, whose: (Who, Who), kappa: f64) -> (usize, usize) {
    let pairs: Vec<(f64, f64)> = results
        .steady()
        .filter_map(|case| Some((case.total(whose.0)?.cost(kappa), case.total(whose.1)?.cost(kappa))))
        .collect();
    (pairs.iter().filter(|(own, other)| own < other).count(), pairs.len())
}

fn after_a_change(results: &Results) -> Vec<Goal> {
    let minutes = |who| {
        let runs = results.changing().flat_map(|case| case.runs(who));
        runs.filter_map(|run| Some(run.after?.minutes_until_kept)).collect::<Vec<Option<u32>>>()
    };
    let late = |minutes: &[Option<u32>]| {
        minutes.iter().filter(|until| until.is_none_or(|until| until > KEPT_WITHIN_MINUTES)).count()
    };
    let own = minutes(Who::Plimsoll);
    let (runs, late, late_oracle) = (own.len(), late(&own), late(&minutes(Who::Oracle)));
    let never = own.iter().filter(|until| until.is_none()).count();
    let slowest = own.iter().flatten().max().copied().unwrap_or_default();
    let ratios = Spread::of(results.changing().filter_map(ratio_after));
    vec![
        Goal {
            text: format!("after a change, the promise is kept again within {KEPT_WITHIN_MINUTES} minutes"),
            found: (runs > 0).then(|| {
                format!(
                    "{} of {runs} runs, the oracle in {}; never in {never}, else after {slowest} min at the latest",
                    runs - late,
                    runs - late_oracle
                )
            }),
            met: (runs > 0).then_some(late == 0),
        },
        Goal {
            text: format!(
                "the hour after a change, replica-hours of the oracle, every case: at most {OF_ORACLE_AFTER:.2}×"
            ),
            found: ratios.map(|ratios| format!("median {:.2}×, worst {:.2}×", ratios.median, ratios.max)),
            met: ratios.map(|ratios| ratios.max <= OF_ORACLE_AFTER + ROUNDING),
        },
    ]
}

/// Plimsoll's replica-hours after a change as a multiple of the oracle's.
pub fn ratio_after(case: &CaseRuns) -> Option<f64> {
    let of = |who| case.total_after(who, AFTER_SECONDS).map(|total| total.replica_hours);
    ratio(of(Who::Plimsoll)?, of(Who::Oracle)?)
}

fn restlessness(results: &Results) -> Vec<Goal> {
    let answers = Spread::of(
        results.steady().flat_map(|case| case.runs(Who::Plimsoll)).filter_map(|run: &Run| run.step_seconds),
    );
    let turns = |who| results.over_all(who).0;
    let knative = customary()
        .into_iter()
        .find(|setting| matches!(setting, Setting::KnativeConcurrency { .. }))
        .map(|setting| turns(Who::Customary(setting)));
    let own = turns(Who::Plimsoll);
    let an_hour = |total: &Total| f64::from(total.direction_changes) / total.hours.max(1e-9);
    let knative = knative.filter(|knative| knative.hours > 0.0);
    let rises: Vec<u32> = results
        .cases
        .iter()
        .flat_map(|case| case.runs(Who::Plimsoll))
        .filter_map(|run| run.useless_rises)
        .collect();
    let most_rises = rises.iter().max();
    vec![
        Goal {
            text: format!(
                "a step to twice the load: more replicas wanted within {STEP_SECONDS:.0} s (two scrapes)"
            ),
            found: answers
                .map(|answers| format!("median {:.0} s, slowest {:.0} s", answers.median, answers.max)),
            met: answers.map(|answers| answers.max <= STEP_SECONDS),
        },
        Goal {
            text: "fewer changes of direction than Knative on concurrency, over all cases".into(),
            found: knative
                .as_ref()
                .map(|knative| format!("{:.1} an hour beside {:.1}", an_hour(&own), an_hour(knative))),
            met: knative.as_ref().map(|knative| an_hour(&own) < an_hour(knative)),
        },
        Goal {
            text: format!(
                "dependency-bound: at most {USELESS_RISES} scale-ups beyond the oracle's most while the dependency is saturated"
            ),
            found: most_rises.map(|most| format!("{most} in the worst of {} runs", rises.len())),
            met: most_rises.map(|&most| most <= USELESS_RISES),
        },
    ]
}

/// The cases that are lost, each with what to; against hindsight, the oracle and what people run.
pub fn lost(results: &Results) -> Vec<String> {
    let mut lost = Vec::new();
    for case in results.steady() {
        let mut to = Vec::new();
        if let Some(beside) = Beside::of(case, Who::Best) {
            if !beside.kept() {
                let (own, other) = beside.violations;
                to.push(format!("{own} violation-minutes, the best peer in hindsight {other}"));
            }
            if beside.ratio > OF_HINDSIGHT.1 + ROUNDING {
                to.push(format!("{:.2}× the replica-hours of the best peer in hindsight", beside.ratio));
            }
        }
        if let Some(beside) = Beside::of(case, Who::Oracle).filter(|of| of.ratio > OF_ORACLE + ROUNDING) {
            to.push(format!("{:.2}× the oracle's replica-hours", beside.ratio));
        }
        for who in Who::without_hindsight() {
            let cost = |who| case.total(who).map(|total| total.cost(10.0));
            if let (Some(own), Some(other)) = (cost(Who::Plimsoll), cost(who))
                && own >= other
            {
                to.push(format!("J {own:.1}, {} {other:.1}", results.title(who)));
            }
        }
        if !to.is_empty() {
            lost.push(format!("{}: {}", case.name(), to.join("; ")));
        }
    }
    lost
}

fn at_most(text: String, bound: f64, found: Option<f64>) -> Goal {
    let shown = |found: f64| {
        let over = found - bound;
        if over > ROUNDING { format!("{found:.3}×, over by {over:.3}") } else { format!("{found:.3}×") }
    };
    Goal { text, found: found.map(shown), met: found.map(|found| found <= bound + ROUNDING) }
}

fn of_cases(text: &str, count: usize, of: usize) -> Goal {
    let found = (of > 0).then(|| format!("{count} of {of} cases"));
    Goal { text: format!("{text}, every case"), found, met: (of > 0).then_some(count == of) }
}
