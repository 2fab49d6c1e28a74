//! The peers on the suite's cases, beside the oracle: replica-hours as a multiple of the oracle's, and violation-minutes.
//!
//! `cargo run --release --package plimsoll-simulator --example peers [FILTER [TRACE.csv]...]`; a filter is a part of a
//! case's name. Without a trace it makes its own.

use std::error::Error;

use plimsoll_simulator::oracle;
use plimsoll_simulator::peers::hindsight::{Found, best, refine};
use plimsoll_simulator::peers::settings::{customary, grids};
use plimsoll_simulator::suite::{kinds, scenario, traces};
use plimsoll_simulator::sweep::parallel;
use plimsoll_simulator::{Score, Trace, run};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let filter = arguments.next().unwrap_or_default();
    let mut all: Vec<(String, Trace)> = Vec::new();
    for file in arguments {
        let trace = Trace::parse(&file, &std::fs::read_to_string(&file)?)?;
        all.push((file, trace));
    }
    if all.is_empty() {
        all = traces(1).into_iter().map(|(name, trace)| (name.to_owned(), trace)).collect();
    }
    for kind in kinds() {
        for (name, trace) in &all {
            let scenario = scenario(name, trace, &kind, 1);
            if !scenario.name.contains(&filter) {
                continue;
            }
            let (_, outcome) = oracle::best(&scenario);
            let oracle = outcome.score();
            let line = |name: &str, score: Score| {
                println!(
                    "  {:>5.2}x {:>3} min, {:>5.2} % over, {:>3} turns: {name}",
                    score.replica_hours / oracle.replica_hours,
                    score.violation_minutes,
                    score.over_share * 100.0,
                    score.direction_changes
                );
            };
            println!("{}: {:.1} replica-hours, {}", scenario.name, oracle.replica_hours, outcome.policy);
            line("oracle", oracle);
            for (_, settings) in grids() {
                let found = parallel(&settings, |&setting| Found::of(&scenario, setting));
                if let Some(found) = best(found).map(|found| refine(&scenario, found, 3)) {
                    line(&format!("hindsight: {}", found.outcome.policy), found.outcome.score());
                }
            }
            for outcome in
                parallel(&customary(), |setting| run(&scenario, setting.policy(&scenario).as_mut()))
            {
                line(&format!("customary: {}", outcome.policy), outcome.score());
            }
        }
    }
    Ok(())
}
