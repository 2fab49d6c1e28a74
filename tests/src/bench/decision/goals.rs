//! What was promised of a decision's cost, held against what was found.

use plimsoll_decision::{Measured, State};

use super::results::{Results, allocated_bytes, allocations, cold};
use crate::bench::goals::Goal;
use crate::bench::stats::Spread;

/// Pods of the promise.
const PODS: usize = 100;
/// A decision over them takes less, with cold caches, whatever the histogram.
const MICROSECONDS: f64 = 1000.0;
/// "Allocates little": a fixed number of times, and a few times for each pod,
const ALLOCATIONS: f64 = 200.0;
const ALLOCATIONS_PER_POD: f64 = 6.0;
/// and less memory than a few copies of the readings take. An edge of a reading has its place and a count.
const COPIES: f64 = 4.0;
const EDGE_BYTES: f64 = 16.0;
/// What a decision may allocate beside.
const BYTES: f64 = 256.0 * 1024.0;

/// All of them, with what these results say of each.
pub fn goals(results: &Results) -> Vec<Goal> {
    let times = worst(results, |measured| Some((cold(measured)?, MICROSECONDS)));
    let often = ALLOCATIONS + ALLOCATIONS_PER_POD * PODS as f64;
    let counts = worst(results, |measured| Some((allocations(measured)?, often)));
    let memory = worst(results, |measured| {
        let readings = EDGE_BYTES * (PODS * measured.case.edges) as f64;
        Some((allocated_bytes(measured)?, BYTES + COPIES * readings))
    });
    vec![
        Goal {
            text: format!("{PODS} pods: a decision takes under 1 ms, with cold caches, in every case"),
            found: times.as_ref().map(|worst| {
                let Spread { median, min, max } = worst.found;
                format!("{median:.0} µs ({min:.0}–{max:.0}) in the worst, {}", worst.case)
            }),
            met: times.map(|worst| worst.found.median < worst.allowed),
        },
        Goal {
            text: format!("{PODS} pods: it allocates no more than {often:.0} times, in every case"),
            found: counts
                .as_ref()
                .map(|worst| format!("{:.0} times in the worst, {}", worst.found.median, worst.case)),
            met: counts.map(|worst| worst.found.median <= worst.allowed),
        },
        Goal {
            text: format!(
                "{PODS} pods: it allocates less than {COPIES:.0} copies of the readings and {:.0} KiB, in every case",
                BYTES / 1024.0
            ),
            found: memory.as_ref().map(|worst| {
                let of = |bytes: f64| bytes / 1024.0;
                format!(
                    "{:.0} of {:.0} KiB in the worst, {}",
                    of(worst.found.median),
                    of(worst.allowed),
                    worst.case
                )
            }),
            met: memory.map(|worst| worst.found.median < worst.allowed),
        },
    ]
}

struct Worst {
    found: Spread,
    allowed: f64,
    case: String,
}

/// The case of [`PODS`] pods that takes the most of what it is allowed.
fn worst(results: &Results, value: impl Fn(&Measured) -> Option<(Spread, f64)>) -> Option<Worst> {
    let cases = State::ALL.into_iter().flat_map(|state| {
        results.edges().into_iter().filter_map(move |edges| results.of(state, PODS, edges))
    });
    let found = cases.filter_map(|measured| {
        let (found, allowed) = value(measured)?;
        let case = format!(
            "{} edges, capacity {}",
            measured.case.edges,
            super::markdown::title(measured.case.state)
        );
        Some(Worst { found, allowed, case })
    });
    found.max_by(|a, b| (a.found.median / a.allowed).total_cmp(&(b.found.median / b.allowed)))
}
