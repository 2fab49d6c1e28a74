//! What is promised of one operator with hundreds of resources, held against what was found.

use super::results::{Fleet, Results, Span};
use super::{SCRAPE_PERIOD_SECONDS, SILENT_PART};
use crate::bench::goals::Goal;

/// Hundreds of APIs, on one shard.
const RESOURCES: usize = 300;
/// The chart's limit of the operator's memory, in bytes. A restart is to fit too.
pub const MEMORY_LIMIT_BYTES: f64 = 256.0 * 1024.0 * 1024.0;
/// A step of 2× the load: new replicas are wanted within two scrapes.
const RAISED_SECONDS: f64 = 2.0 * SCRAPE_PERIOD_SECONDS;
const RAISED_PART: f64 = 0.99;
/// No reading is older than two scrapes.
const AGE_SECONDS: f64 = 2.0 * SCRAPE_PERIOD_SECONDS;
const CORES: f64 = 0.5;
/// No longer than a Lease takes to run out.
const RESTART_SECONDS: f64 = 15.0;

/// All of them, with what these results say of each.
pub fn goals(results: &Results) -> Vec<Goal> {
    let fleet = results.fleets.iter().find(|fleet| fleet.resources == RESOURCES);
    let goal = |text: String, found: Option<(f64, String)>, bound: f64| Goal {
        text: format!("{RESOURCES} resources: {text}"),
        met: found.as_ref().map(|(value, _)| *value <= bound),
        found: found.map(|(_, words)| words),
    };
    let number = |value: fn(&Fleet) -> f64, unit: &'static str, decimals: usize| {
        fleet.map(value).map(|value| (value, format!("{value:.decimals$} {unit}")))
    };
    let oldest = |span: &Span| {
        let seconds = span.scrape_age_seconds.map_or(f64::INFINITY, |age| age.max);
        (seconds, format!("{seconds:.1} s"))
    };
    let raised = fleet.map(|fleet| match fleet.step.raised(RAISED_PART) {
        Some(seconds) => (seconds, format!("{seconds:.1} s, of {} that needed more", fleet.step.in_need)),
        None => (f64::INFINITY, format!("not within {:.0} s", fleet.step.span.seconds)),
    });
    let mebibytes =
        |fleet: &Fleet| fleet.memory_peak_bytes.max(fleet.restart.memory_peak_bytes) / 1024.0 / 1024.0;
    vec![
        goal(
            format!("the operator uses at most {CORES} cores while the load stands"),
            number(|fleet| fleet.steady.cores, "cores", 2),
            CORES,
        ),
        goal(
            format!(
                "its memory stays within the chart's limit of {:.0} MiB",
                MEMORY_LIMIT_BYTES / 1024.0 / 1024.0
            ),
            fleet.map(mebibytes).map(|value| (value, format!("{value:.0} MiB"))),
            MEMORY_LIMIT_BYTES / 1024.0 / 1024.0,
        ),
        goal(
            format!("no reading is ever older than {AGE_SECONDS:.0} s while the load stands"),
            fleet.map(|fleet| oldest(&fleet.steady)),
            AGE_SECONDS,
        ),
        goal(
            format!(
                "none of the others is older while the pods of one of {SILENT_PART} resources answer nothing"
            ),
            fleet.map(|fleet| oldest(&fleet.silence)),
            AGE_SECONDS,
        ),
        goal(
            format!(
                "the load of all doubles: for {:.0} of 100 that need more replicas, more are wanted within {RAISED_SECONDS:.0} s",
                RAISED_PART * 100.0
            ),
            raised,
            RAISED_SECONDS,
        ),
        goal(
            format!("a new operator has decided for all within {RESTART_SECONDS:.0} s of its start"),
            number(|fleet| fleet.restart.all_decided_seconds, "s", 1),
            RESTART_SECONDS,
        ),
    ]
}
