//! Renders results as the tables of `docs/benchmarks.md`.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use plimsoll_decision::{Measured, State, hour};

use super::goals::goals;
use super::results::{Results, allocated_bytes, allocations, cold, hour_seconds, warm};
use crate::bench::markdown::{NONE, goals_table, publish_between, quick_note};

const BEGIN: &str = "<!-- results: written by `cargo xtask bench decision --publish` -->";

/// The tables.
pub fn render(results: &Results) -> String {
    let mut out = String::new();
    heading(&mut out, results);
    let _ = writeln!(out, "### Goals\n");
    goals_table(&mut out, &goals(results));
    let _ = writeln!(out, "\n### Microseconds of a decision\n");
    table(&mut out, results, |measured| {
        Some(format!("{}; {:.0}", cold(measured)?.show(0), warm(measured)?.median))
    });
    let _ = writeln!(out, "\n### Allocations of a decision, and KiB\n");
    table(&mut out, results, |measured| {
        let kib = allocated_bytes(measured)?.median / 1024.0;
        Some(format!("{:.0}; {kib:.0}", allocations(measured)?.median))
    });
    hours_table(&mut out, results);
    out
}

/// Puts rendered results between the marks of a page.
///
/// # Errors
/// When the page or a mark is missing, or it cannot be written.
pub fn publish(page: &Path, rendered: &str) -> Result<()> {
    publish_between(page, BEGIN, rendered)
}

/// What the engine knows, in a word.
pub const fn title(state: State) -> &'static str {
    match state {
        State::Unsure => "unsure",
        State::Known => "known",
    }
}

fn heading(out: &mut String, results: &Results) {
    quick_note(out, results.quick);
    let decisions = results.cases.iter().map(|measured| measured.cold_microseconds.len()).min();
    let _ = writeln!(
        out,
        "Measured {} on {}; plimsoll {}; {} decisions of each case. Median (lowest–highest) with cold caches; then the median with warm ones.\n",
        results.started.strftime("%Y-%m-%d"),
        results.machine,
        results.version,
        decisions.unwrap_or_default(),
    );
}

/// A row for each number of pods in each state, and a column for each size of the histograms.
fn table(out: &mut String, results: &Results, cell: impl Fn(&Measured) -> Option<String>) {
    let titles: Vec<String> = results.edges().iter().map(|edges| format!("{edges} edges")).collect();
    let _ = writeln!(
        out,
        "| capacity | pods | {} |\n|---|---|{}",
        titles.join(" | "),
        "---|".repeat(titles.len())
    );
    for state in State::ALL {
        for pods in results.pods() {
            let cells: Vec<String> = results
                .edges()
                .into_iter()
                .map(|edges| {
                    results.of(state, pods, edges).and_then(&cell).unwrap_or_else(|| NONE.to_owned())
                })
                .collect();
            let _ = writeln!(out, "| {} | {pods} | {} |", title(state), cells.join(" | "));
        }
    }
}

fn hours_table(out: &mut String, results: &Results) {
    let (pods, rate) = (hour::PODS, hour::REQUESTS_PER_SECOND);
    let _ = writeln!(out, "\n### A simulated hour: {pods} pods, {rate:.0} requests/s\n");
    let _ =
        writeln!(out, "| policy | simulated seconds | requests | seconds of one core |\n|---|---|---|---|");
    for hours in &results.hours {
        let took = hour_seconds(hours).map_or_else(|| NONE.to_owned(), |spread| spread.show(2));
        let _ = writeln!(out, "| {} | {} | {} | {took} |", hours.policy, hours.seconds, hours.requests);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use plimsoll_decision::{Case, Hours};

    use super::*;
    use crate::bench::machine::Machine;

    fn measured(state: State, pods: usize, edges: usize, microseconds: f64, allocations: u64) -> Measured {
        Measured {
            case: Case { state, pods, edges },
            cold_microseconds: vec![microseconds, microseconds - 100.0, microseconds + 300.0],
            warm_microseconds: vec![microseconds / 2.0; 3],
            allocations: vec![allocations; 6],
            allocated_bytes: vec![20 * 1024 * allocations / 100; 6],
        }
    }

    fn results(cases: Vec<Measured>) -> Results {
        Results {
            started: Timestamp::UNIX_EPOCH,
            machine: Machine::default(),
            version: "1".into(),
            quick: false,
            cases,
            hours: Vec::new(),
        }
    }

    #[track_caller]
    fn holds(text: &str, expected: &[&str]) {
        for expected in expected {
            assert!(text.contains(expected), "{expected}\n\n{text}");
        }
    }

    #[test]
    fn the_worst_case_of_a_hundred_pods_is_judged() {
        let cases = vec![
            measured(State::Unsure, 100, 12, 700.0, 500),
            measured(State::Known, 100, 12, 400.0, 400),
            measured(State::Known, 1000, 12, 4000.0, 90_000),
        ];
        let text = render(&results(cases));
        holds(
            &text,
            &[
                "in every case | 700 µs (600–1000) in the worst, 12 edges, capacity unsure | met |",
                "no more than 800 times, in every case | 500 times in the worst, 12 edges, capacity unsure | met |",
                "| 100 of 331 KiB in the worst, 12 edges, capacity unsure | met |",
                "| unsure | 100 | 700 (600–1000); 350 |",
                "| unsure | 1000 | – |",
                "| known | 1000 | 4000 (3900–4300); 2000 |",
                "| known | 100 | 400; 80 |",
            ],
        );
    }

    #[test]
    fn what_is_missed_or_not_measured_is_told() {
        let text = render(&results(vec![measured(State::Known, 100, 500, 1000.0, 801)]));
        holds(&text, &["1000 µs (900–1300) in the worst, 500 edges, capacity known | **missed** |"]);
        holds(&text, &["801 times in the worst, 500 edges, capacity known | **missed** |"]);
        let text = render(&results(vec![measured(State::Known, 10, 50, 100.0, 10)]));
        holds(&text, &["takes under 1 ms, with cold caches, in every case | – | not measured |"]);
    }

    #[test]
    fn a_simulated_hour_is_judged_and_less_is_not() {
        let hours = |seconds, took| {
            let hours = |policy: &str, cpu_seconds| Hours {
                policy: policy.into(),
                seconds,
                requests: 7,
                cpu_seconds,
            };
            Results {
                hours: vec![hours("Plimsoll", took), hours("fixed 50", vec![1.0])],
                ..results(Vec::new())
            }
        };
        let goal = "a simulated hour of 50 pods at 1000 requests/s takes under 10 s on one core";
        let text = render(&hours(3600, vec![3.0, 2.0, 4.0]));
        holds(
            &text,
            &[
                &format!("| {goal} | 3.00 (2.00–4.00) s | met |"),
                "| Plimsoll | 3600 | 7 | 3.00 (2.00–4.00) |",
            ],
        );
        holds(&render(&hours(3600, vec![11.0])), &[&format!("| {goal} | 11.00 s | **missed** |")]);
        holds(
            &render(&hours(60, vec![0.1])),
            &[&format!("| {goal} | – | not measured |"), "| fixed 50 | 60 | 7 | 1.00 |"],
        );
    }

    #[test]
    fn the_page_has_the_marks() {
        let page = std::fs::read_to_string(crate::paths::project().join("docs/benchmarks.md")).unwrap();
        assert!(page.contains(BEGIN));
    }
}
