//! Renders results as the tables of `docs/benchmarks.md`.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::case::Case;
use super::goals::{Goal, goals};
use super::results::{Rate, Results};
use super::server::Server;
use super::stats::{Spread, ratio};

const BEGIN: &str = "<!-- results: written by `cargo xtask bench api --publish` -->";
const END: &str = "<!-- end of results -->";
/// What a table has where nothing was measured.
pub(crate) const NONE: &str = "–";

/// The tables.
pub fn render(results: &Results) -> String {
    let mut out = String::new();
    heading(&mut out, results);
    for (title, unit, value) in [
        ("CPU of the server, µs a request", 1, cpu as fn(&Results, Server, Case) -> Option<Spread>),
        ("Requests a second at saturation", 0, requests_per_second),
    ] {
        let _ = writeln!(out, "### {title}\n");
        table(&mut out, results, unit, value);
    }
    latencies(&mut out, results);
    memory_and_baseline(&mut out, results);
    not_offered(&mut out, results);
    let _ = writeln!(out, "### Goals\n");
    goals_table(&mut out, &goals(results));
    out
}

/// A row for each goal, with a verdict.
pub(super) fn goals_table(out: &mut String, goals: &[Goal]) {
    let _ = writeln!(out, "| goal | found | |\n|---|---|---|");
    for goal in goals {
        let verdict = match goal.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        let found = goal.found.as_deref().unwrap_or(NONE);
        let _ = writeln!(out, "| {} | {found} | {verdict} |", goal.text);
    }
}

/// What is to be said of results of `--quick`, before them.
pub(super) fn quick_note(out: &mut String, quick: bool) {
    if quick {
        let _ = writeln!(out, "**Of `--quick`: shows that the benchmark works, and nothing else.**\n");
    }
}

/// Puts rendered results between the marks of a page.
///
/// # Errors
/// When the page or a mark is missing, or it cannot be written.
pub fn publish(page: &Path, rendered: &str) -> Result<()> {
    publish_between(page, BEGIN, rendered)
}

/// The same between `begin` and the next end.
pub(super) fn publish_between(page: &Path, begin: &str, rendered: &str) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let text = replace(&text, begin, rendered)
        .with_context(|| format!("{} has no `{begin}` or `{END}`", page.display()))?;
    std::fs::write(page, text).with_context(|| format!("write {}", page.display()))
}

fn replace(page: &str, begin: &str, rendered: &str) -> Option<String> {
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n\n{}\n\n{END}{after}", rendered.trim()))
}

fn heading(out: &mut String, results: &Results) {
    let (machine, settings) = (&results.machine, &results.settings);
    quick_note(out, settings.quick);
    let versions: Vec<String> =
        results.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let _ = writeln!(
        out,
        "Measured {} on {machine}; CPUs that share CPU 0's core: {}. {} rounds of {} s. Median (lowest–highest).\n\n{}.\n",
        results.started.strftime("%Y-%m-%d"),
        machine.core_of_cpu_0,
        settings.rounds,
        settings.seconds,
        versions.join(", "),
    );
}

fn cpu(results: &Results, server: Server, case: Case) -> Option<Spread> {
    results.closed(server, case, |closed| closed.cpu_us)
}

fn requests_per_second(results: &Results, server: Server, case: Case) -> Option<Spread> {
    results.closed(server, case, |closed| closed.requests_per_second)
}

/// A row for each server and a column for each case, with the ratio to Plimsoll.
fn table(
    out: &mut String,
    results: &Results,
    decimals: usize,
    value: fn(&Results, Server, Case) -> Option<Spread>,
) {
    let titles: Vec<&str> = Case::ALL.into_iter().map(Case::title).collect();
    let _ = writeln!(out, "| | {} |\n|---|{}", titles.join(" | "), "---|".repeat(titles.len()));
    for server in results.servers() {
        let cells = Case::ALL.into_iter().map(|case| {
            let Some(spread) = value(results, server, case) else { return NONE.to_owned() };
            let mut cell = spread.show(decimals);
            let base = value(results, Server::Plimsoll, case).filter(|_| server != Server::Plimsoll);
            if let Some(ratio) = base.and_then(|base| ratio(spread.median, base.median)) {
                let _ = write!(cell, ", {ratio:.2}×");
            }
            match results.errors(server, case) {
                0 => cell,
                errors => format!("{cell}, {errors} errors"),
            }
        });
        let _ = writeln!(out, "| {} | {} |", server.title(), cells.collect::<Vec<_>>().join(" | "));
    }
    let _ = writeln!(out, "\n`×`: as a multiple of Plimsoll's.\n");
}

fn latencies(out: &mut String, results: &Results) {
    let _ = writeln!(
        out,
        "### Latency in milliseconds, open loop\n\n| case | at | requests a second | | p50 | p95 | p99 | p99.9 | failed | generator late, p99 |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let rates = [
        (Rate::Equal, "80 % of what Express sustains"),
        (Rate::OwnHalf, "50 % of its own capacity"),
        (Rate::OwnMost, "80 % of its own capacity"),
    ];
    for (case, (rate, at)) in Case::ALL.into_iter().flat_map(|case| rates.map(|rate| (case, rate))) {
        for server in results.servers() {
            let spread = |value: fn(&super::measure::Open) -> f64| results.open(server, case, rate, value);
            let Some(asked) = spread(|open| open.rate) else { continue };
            let cell = |spread: Option<Spread>| spread.map_or(NONE.to_owned(), |spread| spread.show(2));
            let invalid = if results.valid(server, case, rate) { "" } else { ", **invalid**: not kept up" };
            let _ = writeln!(
                out,
                "| {} | {at} | {:.0} | {}{invalid} | {} | {} | {} | {} | {} | {} |",
                case.title(),
                asked.median,
                server.title(),
                cell(spread(|open| open.p50_ms)),
                cell(spread(|open| open.p95_ms)),
                cell(spread(|open| open.p99_ms)),
                cell(spread(|open| open.p999_ms)),
                spread(|open| open.failed as f64).map_or(NONE.to_owned(), |failed| failed.show(0)),
                cell(spread(|open| open.late_p99_ms)),
            );
        }
    }
    out.push('\n');
}

fn memory_and_baseline(out: &mut String, results: &Results) {
    let _ = writeln!(
        out,
        "### Peak memory, and the baseline\n\n| | peak memory, MiB | `/health` for {} s on {} connections, requests a second | CPU, µs a request |\n|---|---|---|---|",
        results.settings.baseline_seconds,
        super::measure::CONNECTIONS,
    );
    for server in results.servers() {
        let cell = |spread: Option<Spread>, base: Option<Spread>, decimals| {
            let Some(spread) = spread else { return NONE.to_owned() };
            let times = base
                .filter(|_| server != Server::Plimsoll)
                .and_then(|base| ratio(spread.median, base.median));
            spread.show(decimals) + &times.map(|times| format!(", {times:.2}×")).unwrap_or_default()
        };
        let rate = |server| results.baseline(server, |closed| closed.requests_per_second);
        let cpu = |server| results.baseline(server, |closed| closed.cpu_us);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            server.title(),
            cell(results.memory(server), results.memory(Server::Plimsoll), 1),
            cell(rate(server), rate(Server::Plimsoll), 0),
            cell(cpu(server), cpu(Server::Plimsoll), 1),
        );
    }
    out.push('\n');
}

fn not_offered(out: &mut String, results: &Results) {
    let _ = writeln!(out, "### Bytes of a body as sent, and what is not offered\n");
    for case in Case::ALL {
        let told: Vec<String> = results
            .probes
            .iter()
            .filter(|probe| probe.case == case)
            .map(|probe| match (&probe.body_bytes, &probe.not_offered) {
                (Some(bytes), _) => format!("{} {bytes}", probe.server.title()),
                (None, reason) => {
                    format!("{} not offered ({})", probe.server.title(), reason.as_deref().unwrap_or(NONE))
                }
            })
            .collect();
        if !told.is_empty() {
            let _ = writeln!(out, "- {}: {}.", case.title(), told.join("; "));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::bench::machine::Machine;
    use crate::bench::measure::{Closed, Open};
    use crate::bench::results::{Found, Probed, Run, Settings};
    use crate::bench::usage::Memory;

    fn closed(cpu_us: f64) -> Closed {
        Closed {
            requests: 1000,
            seconds: 5.0,
            errors: 0,
            requests_per_second: 1e6 / cpu_us,
            cpu_us,
            redis_cpu_us: 0.0,
            cpus: 1.0,
        }
    }

    fn open(p99_ms: f64, valid: bool) -> Open {
        Open {
            rate: 2000.0,
            achieved: if valid { 1.0 } else { 0.5 },
            valid,
            failed: 0,
            failures: BTreeMap::new(),
            p50_ms: p99_ms / 4.0,
            p95_ms: p99_ms / 2.0,
            p99_ms,
            p999_ms: p99_ms * 2.0,
            late_p99_ms: 0.1,
        }
    }

    fn results() -> Results {
        let mut runs = Vec::new();
        for (round, noise) in [(1, 1.0), (2, 1.1), (3, 1.2)] {
            for (server, cpu_us, p99_ms) in
                [(Server::Plimsoll, 20.0, 0.5), (Server::Express, 300.0, 5.0), (Server::Nginx, 12.0, 0.3)]
            {
                let mut add = |found| runs.push(Run { round, server, found });
                add(Found::Closed { case: Case::Health, closed: closed(cpu_us * noise) });
                let open = open(p99_ms * noise, server != Server::Nginx);
                add(Found::Open { case: Case::Health, at: Rate::Equal, open });
                add(Found::Baseline(closed(cpu_us)));
                add(Found::Memory(Memory { now_kib: 1024, peak_kib: cpu_us as u64 * 1024 }));
            }
        }
        let probe = |server, body_bytes, reason: Option<&str>| Probed {
            server,
            case: Case::ListBr,
            body_bytes,
            not_offered: reason.map(str::to_owned),
        };
        Results {
            started: Timestamp::UNIX_EPOCH,
            machine: Machine { cpus: 2, cpu_model: "Model".into(), ..Machine::default() },
            versions: BTreeMap::from([("express".into(), "5.3.0".into())]),
            settings: Settings { rounds: 3, seconds: 5, ..Settings::default() },
            probes: vec![
                probe(Server::Express, Some(3000), None),
                probe(Server::Nginx, None, Some("asked for br, it sends no coding")),
            ],
            capacities: Vec::new(),
            runs,
        }
    }

    #[test]
    fn shows_medians_ranges_and_ratios() {
        let text = render(&results());
        for expected in [
            "| Plimsoll | 22.0 (20.0–24.0) | – |",
            "| Express 5 | 330.0 (300.0–360.0), 15.00× | – |",
            "nginx, constants, **invalid**: not kept up | ",
            "| `/health` | 80 % of what Express sustains | 2000 | Plimsoll | 0.14 (0.12–0.15) |",
            "| Express 5 | 300.0, 15.00× | 3333, 0.07× | 300.0, 15.00× |",
            "nginx, constants not offered (asked for br, it sends no coding).",
            "| `/health`: at least 12× less CPU a request than Express | 15.0× | met |",
            "| `/health`: p99 at 80 % of what Express sustains at most 0.2× Express's | 0.10× | met |",
            "| list, gzip: at least 40× less CPU a request than Express | – | not measured |",
        ] {
            assert!(text.contains(expected), "{expected}\n\n{text}");
        }
    }

    #[test]
    fn a_missed_goal_is_told_as_one() {
        let mut results = results();
        for run in &mut results.runs {
            if let (Server::Plimsoll, Found::Closed { closed, .. }) = (run.server, &mut run.found) {
                closed.cpu_us *= 2.0;
            }
        }
        let text = render(&results);
        assert!(text.contains("less CPU a request than Express | 7.5× | **missed** |"), "{text}");
        assert!(text.contains("at most 2× the CPU a request of nginx | 3.3× | **missed** |"), "{text}");
    }

    #[test]
    fn results_survive_their_json() {
        let results = results();
        let json = serde_json::to_string(&results).unwrap();
        let again: Results = serde_json::from_str(&json).unwrap();
        assert_eq!((again.runs.len(), render(&again)), (results.runs.len(), render(&results)));
    }

    #[test]
    fn replaces_only_what_is_between_the_marks() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(
            replace(&page, BEGIN, "new\n").unwrap(),
            format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n")
        );
        assert_eq!(replace("no marks", BEGIN, "new"), None);
    }

    #[test]
    fn the_page_has_the_marks() {
        let page = std::fs::read_to_string(crate::paths::project().join("docs/benchmarks.md")).unwrap();
        assert!(replace(&page, BEGIN, "").is_some());
    }
}
