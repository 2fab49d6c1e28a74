//! Renders results as the tables of `docs/benchmarks.md`.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::SILENT_PART;
use super::goals::goals;
use super::results::{Fleet, Results, Span};
use crate::bench::markdown::{NONE, goals_table, publish_between, quick_note};

const BEGIN: &str = "<!-- results: written by `cargo xtask bench fleet --publish` -->";

/// The tables.
pub fn render(results: &Results) -> String {
    let mut out = String::new();
    quick_note(&mut out, results.quick);
    let _ = writeln!(
        out,
        "Measured {} on {}; plimsoll {}.\n",
        results.started.strftime("%Y-%m-%d"),
        results.machine,
        results.version,
    );
    goals_table(&mut out, &goals(results));
    let titles: Vec<String> = results.fleets.iter().map(|fleet| fleet.resources.to_string()).collect();
    let _ = writeln!(out, "\n| resources | {} |\n|---|{}", titles.join(" | "), "---|".repeat(titles.len()));
    let mut row = |title: &str, cell: &dyn Fn(&Fleet) -> String| {
        let cells: Vec<String> = results.fleets.iter().map(cell).collect();
        let _ = writeln!(out, "| {title} | {} |", cells.join(" | "));
    };
    row("each of them Ready once after", &|fleet| format!("{:.0} s", fleet.all_ready_seconds));
    span(&mut row, "the load stands", |fleet| &fleet.steady);
    let silent = format!("one of {SILENT_PART} has silent pods");
    span(&mut row, &silent, |fleet| &fleet.silence);
    span(&mut row, "the load has doubled", |fleet| &fleet.step.span);
    row("the load has doubled: resources that need more replicas", &|fleet| fleet.step.in_need.to_string());
    for part in [0.5, 0.99, 1.0] {
        row(
            &format!("the load has doubled: more replicas wanted, {:.0} % of those", part * 100.0),
            &|fleet| {
                let after = fleet.step.raised(part);
                after.map_or(NONE.to_owned(), |seconds| format!("after {seconds:.1} s"))
            },
        );
    }
    row("peak memory until then", &|fleet| mebibytes(fleet.memory_peak_bytes));
    row("a new operator: has decided for all", &|fleet| {
        format!("{:.1} s after its start", fleet.restart.all_decided_seconds)
    });
    row("a new operator: peak memory until then", &|fleet| mebibytes(fleet.restart.memory_peak_bytes));
    out
}

/// Puts rendered results between the marks of a page.
///
/// # Errors
/// When the page or a mark is missing, or it cannot be written.
pub fn publish(page: &Path, rendered: &str) -> Result<()> {
    publish_between(page, BEGIN, rendered)
}

fn span(row: &mut impl FnMut(&str, &dyn Fn(&Fleet) -> String), when: &str, of: fn(&Fleet) -> &Span) {
    row(&format!("{when}: pods"), &|fleet| of(fleet).pods.to_string());
    row(&format!("{when}: cores of the operator"), &|fleet| format!("{:.2}", of(fleet).cores));
    row(&format!("{when}: reconciles a second"), &|fleet| format!("{:.0}", of(fleet).reconciles_per_second));
    row(&format!("{when}: a reconcile takes, p50 and p99"), &|fleet| {
        let [p50, p99] = of(fleet).reconcile_seconds;
        format!("{:.0} ms, {:.0} ms", p50 * 1e3, p99 * 1e3)
    });
    row(&format!("{when}: age of the oldest reading"), &|fleet| {
        of(fleet).scrape_age_seconds.map_or(NONE.to_owned(), |age| format!("{} s", age.show(1)))
    });
    row(&format!("{when}: requests a second to the API server that read, that write"), &|fleet| {
        format!("{:.1}, {:.1}", of(fleet).reads_per_second, of(fleet).writes_per_second)
    });
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / 1024.0 / 1024.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_has_the_marks() {
        let page = std::fs::read_to_string(crate::paths::project().join("docs/benchmarks.md")).unwrap();
        assert_eq!(page.matches(super::BEGIN).count(), 1);
    }
}
