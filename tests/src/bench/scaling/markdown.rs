//! Renders results as the tables of `docs/benchmarks.md`.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use plimsoll_scaling::causes::Causes;
use plimsoll_scaling::results::{CaseRuns, Results, Total, Who};
use plimsoll_simulator::peers::settings::{Family, customary};

use super::goals::{self, AFTER_SECONDS, Beside};
use crate::bench::markdown::{NONE, goals_table, publish_between};
use crate::bench::stats::{Spread, ratio};

const BEGIN: &str = "<!-- results: written by `cargo xtask bench scaling --publish` -->";

/// The tables.
pub fn render(results: &Results) -> String {
    let mut out = String::new();
    heading(&mut out, results);
    let _ = writeln!(out, "### Goals\n");
    goals_table(&mut out, &goals::goals(results));
    let _ = writeln!(
        out,
        "\nThe step on the real cluster is measured apart: [A step of the load](#a-step-of-the-load)."
    );
    lost(&mut out, results);
    missed(&mut out, results);
    policies(&mut out, results);
    cases(&mut out, results);
    changes(&mut out, results);
    out
}

/// Puts rendered results between the marks of a page.
///
/// # Errors
/// When the page or a mark is missing, or it cannot be written.
pub fn publish(page: &Path, rendered: &str) -> Result<()> {
    publish_between(page, BEGIN, rendered)
}

fn heading(out: &mut String, results: &Results) {
    if results.quick {
        let _ = writeln!(
            out,
            "**Of `--quick`: a few cases and settings, which show that the benchmark works.**\n"
        );
    }
    if !results.only.is_empty() {
        let _ = writeln!(out, "**Of `--only \"{}\"`: not all cases.**\n", results.only);
    }
    let (steady, changing) = (results.steady().count(), results.changing().count());
    let _ = write!(
        out,
        "Version {}, {steady} cases and {changing} changes of a service, each with the seeds {:?}; sums over the seeds.",
        results.version, results.seeds
    );
    for trace in &results.traces {
        let _ = write!(out, " `{}`: {} s from second {} on.", trace.name, trace.seconds, trace.from_seconds);
    }
    out.push_str("\n\n");
}

fn lost(out: &mut String, results: &Results) {
    let lost = goals::lost(results);
    let _ = writeln!(out, "\n### Cases lost\n");
    if lost.is_empty() {
        let _ = writeln!(out, "None.");
    }
    for case in lost {
        let _ = writeln!(out, "- {case}.");
    }
}

/// A row for each service: what happened in the minutes in which Plimsoll missed the promise.
fn missed(out: &mut String, results: &Results) {
    let _ = writeln!(
        out,
        "\n### Why minutes missed the promise\n\nPlimsoll's violation-minutes, those of changing services included; each is counted once, under the first column that is true of it.\n\n| service | Plimsoll | oracle | best peer in hindsight | load beyond what the dependency carries | first 10 minutes | 5 minutes after a change | load rose by a tenth or more within the start of a pod | new pods in their first seconds | none of these |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut services: Vec<&str> = results.cases.iter().map(|case| case.service.as_str()).collect();
    services.sort_unstable();
    services.dedup();
    let row = |name: &str, cases: &[&CaseRuns]| {
        let minutes = |who: Who| -> u32 {
            cases.iter().filter_map(|case| case.total(who)).map(|total| total.violation_minutes).sum()
        };
        let mut causes = Causes::default();
        let runs = cases.iter().flat_map(|case| case.runs(Who::Plimsoll));
        runs.filter_map(|run| run.causes.as_ref()).for_each(|run| causes.add(run));
        let Causes { saturated, learning, changed, rise, starts, other } = causes;
        let [plimsoll, oracle, best] = [Who::Plimsoll, Who::Oracle, Who::Best].map(minutes);
        format!(
            "| {name} | {plimsoll} | {oracle} | {best} | {saturated} | {learning} | {changed} | {rise} | {starts} | {other} |"
        )
    };
    for service in services {
        let cases: Vec<&CaseRuns> = results.cases.iter().filter(|case| case.service == service).collect();
        let _ = writeln!(out, "{}", row(service, &cases));
    }
    let _ = writeln!(out, "{}", row("all", &results.cases.iter().collect::<Vec<_>>()));
}

/// A row for each policy, over all cases.
fn policies(out: &mut String, results: &Results) {
    let _ = writeln!(
        out,
        "\n### Policies over all cases\n\n| | replica-hours of the oracle: median, worst | violation-minutes an hour | changes of direction an hour | J of the oracle at κ = 1, 10, 100 | Plimsoll saves, median | with no more violation-minutes in | Plimsoll's J is lower at κ = 1, 10, 100 in |\n|---|---|---|---|---|---|---|---|"
    );
    let mut all = vec![Who::Oracle, Who::Plimsoll, Who::Best];
    all.extend(Family::ALL.map(Who::Hindsight));
    all.extend(Who::without_hindsight());
    for who in all {
        let (own, oracle) = results.over_all(who);
        if own.hours <= 0.0 {
            continue;
        }
        let of_oracle = Spread::of(results.steady().filter_map(|case| {
            ratio(case.total(who)?.replica_hours, case.total(Who::Oracle)?.replica_hours)
        }));
        let costs = [1.0, 10.0, 100.0].map(|kappa| {
            ratio(own.cost(kappa), oracle.cost(kappa)).map_or(NONE.to_owned(), |times| format!("{times:.2}×"))
        });
        let other = !matches!(who, Who::Plimsoll);
        let beside: Vec<Beside> = results.steady().filter_map(|case| Beside::of(case, who)).collect();
        let saved = Spread::of(beside.iter().map(Beside::saved)).filter(|_| other);
        let kept = beside.iter().filter(|beside| beside.kept()).count();
        let wins = [1.0, 10.0, 100.0].map(|kappa| {
            let (lower, of) = goals::lower_cost(results, (Who::Plimsoll, who), kappa);
            format!("{lower}/{of}")
        });
        let only = |text: String| if other { text } else { NONE.to_owned() };
        let _ = writeln!(
            out,
            "| {} | {} | {:.2} | {:.1} | {} | {} | {} | {} |",
            results.title(who),
            of_oracle.map_or(NONE.to_owned(), |of| format!("{:.2}×, {:.2}×", of.median, of.max)),
            own.violations_an_hour(),
            f64::from(own.direction_changes) / own.hours,
            costs.join(", "),
            saved.map_or(NONE.to_owned(), |saved| format!("{:.0} %", saved.median * 100.0)),
            only(format!("{kept}/{}", beside.len())),
            only(wins.join(", ")),
        );
    }
}

/// A row for each case.
fn cases(out: &mut String, results: &Results) {
    let used = customary();
    let _ = writeln!(
        out,
        "\n### Cases\n\nReplica-hours as a multiple of the oracle's, with violation-minutes.\n\n| case | oracle, replica-hours | best peer in hindsight | Plimsoll | of the best peer's | {} |\n|---|---|---|---|---|{}",
        used.iter().map(|&setting| results.title(Who::Customary(setting))).collect::<Vec<_>>().join(" | "),
        "---|".repeat(used.len()),
    );
    for case in results.steady() {
        let Some(oracle) = case.total(Who::Oracle) else { continue };
        let of_best = Beside::of(case, Who::Best);
        let cells: Vec<String> =
            used.iter().map(|&setting| cell(case.total(Who::Customary(setting)), &oracle)).collect();
        let _ = writeln!(
            out,
            "| {} | {:.1}, {} min | {}{} | {} | {} | {} |",
            case.name(),
            oracle.replica_hours,
            oracle.violation_minutes,
            cell(case.total(Who::Best), &oracle),
            best_family(case).map_or(String::new(), |family| format!(" ({})", family.title())),
            cell(case.total(Who::Plimsoll), &oracle),
            of_best.map_or(NONE.to_owned(), |of| format!("{:.2}×", of.ratio)),
            cells.join(" | "),
        );
    }
}

/// The peer that was best in hindsight with the most seeds.
fn best_family(case: &CaseRuns) -> Option<Family> {
    let best: Vec<Family> =
        case.runs(Who::Best).iter().filter_map(|run| run.setting.map(|setting| setting.family())).collect();
    let times = |family: Family| best.iter().filter(|&&of| of == family).count();
    best.iter().copied().max_by_key(|&family| times(family))
}

fn cell(total: Option<Total>, oracle: &Total) -> String {
    let shown = total.and_then(|total| {
        let times = ratio(total.replica_hours, oracle.replica_hours)?;
        Some(format!("{times:.2}×, {} min", total.violation_minutes))
    });
    shown.unwrap_or_else(|| NONE.to_owned())
}

/// A row for each change of a service.
fn changes(out: &mut String, results: &Results) {
    let mut shown = vec![Who::Oracle, Who::Plimsoll, Who::Best];
    shown.extend(customary().into_iter().map(Who::Customary));
    let _ = writeln!(
        out,
        "\n### Services that change\n\nMinutes from the change until the promise is kept again for five in a row, the slowest of the seeds; then the hour from the change on: replica-hours of the oracle, with violation-minutes.\n\n| change | {} |\n|---|{}",
        shown.iter().map(|&who| results.title(who)).collect::<Vec<_>>().join(" | "),
        "---|".repeat(shown.len()),
    );
    for case in results.changing() {
        let Some(oracle) = case.total_after(Who::Oracle, AFTER_SECONDS) else { continue };
        let cells = shown.iter().map(|&who| {
            let Some(total) = case.total_after(who, AFTER_SECONDS) else { return NONE.to_owned() };
            let kept = case
                .runs(who)
                .iter()
                .map(|run| run.after.and_then(|after| after.minutes_until_kept))
                .try_fold(0, |slowest, minutes| Some(minutes?.max(slowest)));
            let kept = kept.map_or("never".to_owned(), |minutes| format!("{minutes} min"));
            format!("{kept}; {}", cell(Some(total), &oracle))
        });
        let _ = writeln!(out, "| {} | {} |", case.name(), cells.collect::<Vec<_>>().join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_simulator::Score;

    use super::*;
    use plimsoll_scaling::results::{After, Role, Run};

    fn run(seed: u64, role: Role, index: Option<usize>, replica_hours: f64, violation_minutes: u32) -> Run {
        let score = Score {
            over_share: 0.0,
            violation_minutes,
            replica_hours,
            scale_events: 4,
            direction_changes: 2,
        };
        Run {
            seed,
            role,
            policy: "a policy".into(),
            setting: index.map(|index| customary()[index]),
            score,
            after: None,
            step_seconds: None,
            useless_rises: None,
            causes: None,
        }
    }

    fn case(trace: &str, plimsoll: (f64, u32)) -> CaseRuns {
        let runs = [1, 2].into_iter().flat_map(|seed| {
            [
                run(seed, Role::Oracle, None, 10.0, 0),
                run(seed, Role::Plimsoll, None, plimsoll.0, plimsoll.1),
                run(seed, Role::Customary, Some(0), 20.0, 0),
                run(seed, Role::Customary, Some(5), 14.0, 3),
                run(seed, Role::Hindsight, Some(0), 11.0, 0),
                run(seed, Role::Hindsight, Some(4), 10.9, 1),
            ]
        });
        CaseRuns {
            trace: trace.into(),
            service: "service".into(),
            changing: false,
            seconds: 3600,
            peak_requests_per_second: vec![100.0; 2],
            runs: runs.collect(),
        }
    }

    fn results(cases: Vec<CaseRuns>) -> Results {
        Results {
            version: "1".into(),
            quick: false,
            only: String::new(),
            seeds: vec![1, 2],
            traces: Vec::new(),
            suite_settings: Vec::new(),
            shown: None,
            cases,
        }
    }

    #[track_caller]
    fn holds(text: &str, expected: &[&str]) {
        for expected in expected {
            assert!(text.contains(expected), "{expected}\n\n{text}");
        }
    }

    #[test]
    fn goals_that_are_met_are_told_as_such() {
        let text = render(&results(vec![case("calm", (10.5, 0)), case("wild", (11.0, 0))]));
        holds(
            &text,
            &[
                "| no more violation-minutes than the best peer in hindsight, every case | 2 of 2 cases | met |",
                "median case: at most 1.00× | 0.977× | met |",
                "| replica-hours of the oracle, every case: at most 1.10× | median 1.08×, worst 1.10×; 2 of 2 cases | met |",
                "| HPA on CPU, 50 %: saves at least 25 % of the replica-hours at no more violation-minutes, median case | 46 %; more violation-minutes in 0 of 2 cases, which save nothing; these aside 46 %, the oracle 50 % | met |",
                "| HPA on CPU, 50 %: lower J at κ = 10, every case | 2 of 2 cases; the oracle 2 | met |",
                "### Cases lost\n\nNone.",
                "The step on the real cluster is measured apart: [A step of the load](#a-step-of-the-load).",
                "| calm on service | 20.0, 0 min | 1.10×, 0 min (HPA on CPU) | 1.05×, 0 min | 0.95× | 2.00×, 0 min |",
            ],
        );
    }

    #[test]
    fn what_is_missed_is_told_with_by_how_much_and_the_case() {
        let text = render(&results(vec![case("calm", (12.0, 0)), case("wild", (13.0, 2))]));
        holds(
            &text,
            &[
                "every case | 1 of 2 cases | **missed** |",
                "median case: at most 1.00× | 1.136×, over by 0.136 | **missed** |",
                "worst case: at most 1.05× | 1.182×, over by 0.132 | **missed** |",
                "median case | 20 %, short by 5 points; more violation-minutes in 1 of 2 cases, which save nothing; these aside 38 %, the oracle 50 % | **missed** |",
                "- wild on service: 4 violation-minutes, the best peer in hindsight 0; 1.18× the replica-hours of the best peer in hindsight; 1.30× the oracle's replica-hours.",
            ],
        );
    }

    #[test]
    fn missed_minutes_are_told_by_service_with_what_happened() {
        let mut wild = case("wild", (11.0, 3));
        for run in wild.runs.iter_mut().filter(|run| run.role == Role::Plimsoll) {
            run.causes = Some(Causes { rise: 2, other: 1, ..Causes::default() });
        }
        let calm = CaseRuns { service: "another".into(), ..case("calm", (10.5, 0)) };
        let text = render(&results(vec![wild, calm]));
        holds(
            &text,
            &[
                "| another | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |",
                "| service | 6 | 0 | 0 | 0 | 0 | 0 | 4 | 0 | 2 |",
                "| all | 6 | 0 | 0 | 0 | 0 | 0 | 4 | 0 | 2 |",
            ],
        );
    }

    #[test]
    fn a_change_that_is_not_survived_is_told() {
        let mut changed = case("dearer release", (10.5, 0));
        changed.changing = true;
        for run in &mut changed.runs {
            let score = Score { replica_hours: run.score.replica_hours / 2.0, ..run.score };
            let minutes_until_kept =
                if run.role == Role::Plimsoll { Some(run.seed as u32 * 2) } else { None };
            run.after = Some(After { minutes_until_kept, score });
        }
        let text = render(&results(vec![changed]));
        holds(
            &text,
            &[
                "| after a change, the promise is kept again within 3 minutes | 1 of 2 runs, the oracle in 0; never in 0, else after 4 min at the latest | **missed** |",
                "every case: at most 1.15× | median 1.05×, worst 1.05× | met |",
                "| dearer release on service | never; 1.00×, 0 min | 4 min; 1.05×, 0 min | never; 1.10×, 0 min |",
                "| no more violation-minutes than the best peer in hindsight, every case | – | not measured |",
            ],
        );
    }

    #[test]
    fn the_page_has_the_marks_and_the_pictures() {
        let page = std::fs::read_to_string(crate::paths::project().join("docs/benchmarks.md")).unwrap();
        assert!(page.contains(BEGIN));
        for name in [super::super::pictures::PARETO, super::super::pictures::TIMELINE] {
            assert!(page.contains(&format!("pictures/{name}.svg")), "{name}");
        }
    }
}
