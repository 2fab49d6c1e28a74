//! Renders results as the tables of `docs/benchmarks.md`: a section for the step, and one for the validation.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::goals;
use super::hpa::CPU_PERCENT;
use super::results::Results;
use super::stage::TARGET_MS;
use super::step::{BUDGET, RATES, Run, Step, Verdict};
use super::validate::Validation;
use crate::bench::markdown::{NONE, goals_table, publish_between, quick_note};
use crate::bench::stats::Spread;

const BEGIN_STEP: &str = "<!-- results: written by `cargo xtask bench cluster --only step --publish` -->";
const BEGIN_TRACE: &str = "<!-- results: written by `cargo xtask bench cluster --only trace --publish` -->";

/// The sections of what was measured.
pub fn render(results: &Results) -> String {
    let sections = [
        results.step.as_ref().map(|step| render_step(results, step)),
        results.validation.as_ref().map(|validation| render_validation(results, validation)),
    ];
    sections.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

/// Puts what was measured between the marks of a page, and leaves the rest.
///
/// # Errors
/// When the page or a mark is missing, or it cannot be written.
pub fn publish(page: &Path, results: &Results) -> Result<()> {
    if let Some(step) = &results.step {
        publish_between(page, BEGIN_STEP, &render_step(results, step))?;
    }
    if let Some(validation) = &results.validation {
        publish_between(page, BEGIN_TRACE, &render_validation(results, validation))?;
    }
    Ok(())
}

fn heading(results: &Results) -> String {
    let mut out = String::new();
    quick_note(&mut out, results.quick);
    let versions: Vec<String> =
        results.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let _ = writeln!(
        out,
        "Measured {} on {}; {}.\n",
        results.started.strftime("%Y-%m-%d"),
        results.machine,
        versions.join(", ")
    );
    out
}

fn render_step(results: &Results, step: &Step) -> String {
    let mut out = heading(results);
    goals_table(&mut out, &goals::of_step(step));
    let plimsoll = step.verdict(&step.plimsoll);
    let hpa = step.hpa.as_ref().map(|run| (run, step.verdict(run)));
    let enough = step.enough().map_or("none of those tried".to_owned(), |enough| enough.to_string());
    let _ = writeln!(
        out,
        "\nFrom {:.0} to {:.0} requests a second; promise: p99 within {TARGET_MS} ms. Enough: {enough} replicas, the smallest fixed fleet that kept it at {:.0} requests a second for {} s ({}).\n",
        RATES.0,
        RATES.1,
        RATES.1,
        step.spans.fleet,
        fleets(step),
    );
    let _ = writeln!(out, "| | Plimsoll | HPA, CPU {CPU_PERCENT} % |\n|---|---|---|");
    let mut row = |title: &str, cell: fn(&Step, &Run, &Verdict) -> String| {
        let of_hpa = hpa.as_ref().map_or(NONE.to_owned(), |(run, verdict)| cell(step, run, verdict));
        let _ = writeln!(out, "| {title} | {} | {of_hpa} |", cell(step, &step.plimsoll, &plimsoll));
    };
    row("enough replicas wanted", |_, _, it| {
        it.wanted.map_or("never".into(), |(s, _)| format!("after {s:.1} s"))
    });
    row("in moves", |_, _, it| it.wanted.map_or(NONE.into(), |(_, moves)| moves.to_string()));
    row("enough replicas Ready", |_, _, it| it.ready.map_or("never".into(), |s| format!("after {s:.1} s")));
    row("p99 within the promise again", |_, _, it| goals::after(it));
    row("requests refused, failed or not answered within 10 s", |step, _, it| {
        format!("{} of {} in {} s", it.unserved, it.offered, step.spans.counted)
    });
    row("requests over the promise, those among them", |_, _, it| it.over.to_string());
    row("changes of direction after the step", |step, _, it| {
        format!("{} in {} s", it.direction_changes, step.spans.after)
    });
    row("most replicas wanted", |_, _, it| it.most.to_string());
    row("replica-seconds from the step on", |_, _, it| format!("{:.0}", it.replica_seconds));
    row("moves", |step, _, it| moves(step, it));
    row("generator late, p99", |_, run, _| format!("{:.1} ms", run.generator_late_p99_ms));
    if let Some(missing) = &step.hpa_missing {
        let _ = writeln!(
            out,
            "\nThe HPA could not be measured in this run: {}. An earlier measurement of the same step, on another day and without Plimsoll beside it, so no rival of this run: from 2 replicas the HPA wanted 4 after 38 s, 7 after 81 s and 9, which were enough there, after 128 s; p99 was back after 150 s; 5,837 of 18,000 requests had failed or timed out at 10 s.",
            missing.lines().next().unwrap_or_default()
        );
    }
    out
}

fn fleets(step: &Step) -> String {
    let tried = step.fleets.iter().map(|fleet| {
        let kept = if fleet.ended.kept(BUDGET) { "kept" } else { "broken" };
        format!("{}: {:.1} % over, {kept}", fleet.replicas, fleet.ended.over_share() * 100.0)
    });
    tried.collect::<Vec<_>>().join("; ")
}

/// Each move with its seconds since the step.
fn moves(step: &Step, verdict: &Verdict) -> String {
    let at = f64::from(step.spans.before);
    let told =
        verdict.moves.iter().map(|to| format!("{} → {} after {:.0} s", to.from, to.to, to.second - at));
    let told = told.collect::<Vec<_>>().join("; ");
    if told.is_empty() { NONE.to_owned() } else { told }
}

fn render_validation(results: &Results, validation: &Validation) -> String {
    let mut out = heading(results);
    goals_table(&mut out, &goals::of_validation(validation));
    if let Some(beside) = validation.beside() {
        let end = validation.rates.len() as f64;
        let counts = |values: &mut dyn Iterator<Item = f64>| {
            Spread::of(values).map_or(NONE.to_owned(), |counts| counts.show(0))
        };
        let _ = writeln!(
            out,
            "\n`{}`, {} s, peak {:.0} requests a second. Median (lowest–highest) of {} on the cluster, one after the other, and of {} seeds in the simulation; with nothing learned each time.\n\n| | cluster | simulation |\n|---|---|---|\n| replica-hours | {} | {} |\n| requests over the promise, % | {} | {} |\n| changes of the replicas | {} | {} |\n",
            validation.trace,
            validation.rates.len(),
            validation.rates.iter().copied().fold(0.0, f64::max),
            runs(validation.cluster.len()),
            validation.simulated.len(),
            beside.hours.show(3),
            beside.simulated_hours.show(3),
            beside.over.times(100.0).show(2),
            beside.simulated_over.times(100.0).show(2),
            counts(&mut validation.cluster.iter().map(|run| run.replicas.moves(0.0, end).len() as f64)),
            counts(&mut validation.simulated.iter().map(|run| changes(&run.wanted))),
        );
    }
    render_calibration(&mut out, validation);
    out
}

fn runs(count: usize) -> String {
    if count == 1 { "one run".to_owned() } else { format!("{count} runs") }
}

fn render_calibration(out: &mut String, validation: &Validation) {
    let calibration = &validation.calibration;
    let starts = Spread::of(calibration.start_ups.iter().copied());
    let _ = writeln!(
        out,
        "Measured first, on pods of the same Deployment: a request costs {:.2} ms of CPU, a pod without requests {:.1} thousandths of a core; {} pods that started at once were Ready after {} s. Fitted to the table below: the CPU time of requests varies by {:.1} of its mean; the simulated pod's share over the promise is then off by {:.1} points (root mean square). While the trace ran the generator was late by {} ms at p99.\n",
        calibration.cost_seconds * 1000.0,
        calibration.idle_cores * 1000.0,
        calibration.start_ups.len(),
        starts.map_or(NONE.to_owned(), |starts| starts.show(1)),
        validation.fit.cv,
        validation.fit.off * 100.0,
        Spread::of(validation.cluster.iter().map(|run| run.generator_late_p99_ms))
            .map_or(NONE.to_owned(), |late| late.show(1)),
    );
    let _ = writeln!(
        out,
        "| one pod at requests a second | thousandths of a core | p50, ms | p99, ms | over the promise, % | refused, failed or timed out, % | over in the simulated pod, % |\n|---|---|---|---|---|---|---|"
    );
    for (point, simulated) in calibration.points.iter().zip(&validation.fit.over_shares) {
        let _ = writeln!(
            out,
            "| {:.0} | {:.0} | {:.1} | {:.0} | {:.1} | {:.1} | {:.1} |",
            point.rate,
            point.cores * 1000.0,
            point.p50_ms,
            point.p99_ms,
            point.ended.over_share() * 100.0,
            point.ended.unserved as f64 / point.ended.all.max(1) as f64 * 100.0,
            simulated * 100.0,
        );
    }
}

fn changes(wanted: &[u32]) -> f64 {
    wanted.windows(2).filter(|pair| pair[0] != pair[1]).count() as f64
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::step::{Spans, testing as steps};
    use super::super::validate::testing::validation;
    use super::*;
    use crate::bench::machine::Machine;

    fn results() -> Results {
        Results {
            started: Timestamp::UNIX_EPOCH,
            machine: Machine::default(),
            versions: [("kubernetes".to_owned(), "v1".to_owned())].into(),
            quick: false,
            step: None,
            validation: None,
        }
    }

    #[track_caller]
    fn holds(text: &str, expected: &[&str]) {
        for expected in expected {
            assert!(text.contains(expected), "{expected}\n\n{text}");
        }
    }

    #[test]
    fn both_autoscalers_stand_side_by_side() {
        let hpa = steps::run(Spans::FULL, 95.0, 9, 120);
        let step = steps::step(steps::run(Spans::FULL, 6.0, 7, 12), Some(hpa));
        let text = render(&Results { step: Some(step), ..results() });
        holds(
            &text,
            &[
                "kubernetes v1.",
                "Enough: 5 replicas",
                "4: 4.5 % over, broken; 5: 0.1 % over, kept",
                "| enough replicas wanted | after 6.0 s | after 95.0 s |",
                "| p99 within the promise again | after 12 s | after 120 s |",
                "| requests refused, failed or not answered within 10 s | 240 of 18000 in 180 s | 2400 of 18000 in 180 s |",
                "| moves | 2 → 7 after 6 s | 2 → 9 after 95 s |",
            ],
        );
        assert!(!text.contains("earlier measurement"), "{text}");
    }

    #[test]
    fn without_the_hpa_the_earlier_figures_are_told_as_such() {
        let step = steps::step(steps::run(Spans::FULL, 6.0, 7, 12), None);
        let text = render(&Results { step: Some(step), ..results() });
        holds(
            &text,
            &[
                "| enough replicas wanted | after 6.0 s | – |",
                "could not be measured in this run: no Go toolchain.",
                "no rival of this run",
                "5,837 of 18,000",
            ],
        );
    }

    #[test]
    fn the_simulation_stands_beside_the_cluster() {
        let validation = validation(&[5, 5, 6], 20, &[(5, 0.01), (6, 0.05), (4, 0.03)]);
        let text = render(&Results { validation: Some(validation), quick: true, ..results() });
        holds(
            &text,
            &[
                "**Of `--quick`",
                "of 3 runs on the cluster",
                "| replica-hours | 0.833 (0.833–1.000) | 0.833 (0.667–1.000) |",
                "| requests over the promise, % | 2.00 | 3.00 (1.00–5.00) |",
                "| met |",
                "a request costs 2.30 ms of CPU",
                "| 60 | 140 | 3.0 | 90 | 40.0 | 0.0 | 41.0 |",
            ],
        );
    }

    #[test]
    fn the_page_has_the_marks_and_the_pictures() {
        let page = std::fs::read_to_string(crate::paths::project().join("docs/benchmarks.md")).unwrap();
        assert!(page.contains(BEGIN_STEP) && page.contains(BEGIN_TRACE));
        for name in [super::super::pictures::STEP, super::super::pictures::VALIDATION] {
            assert!(page.contains(&format!("pictures/{name}.svg")), "{name}");
        }
    }
}
