//! What was promised of the cost of a decision and of a simulated hour, held against what was found.

use plimsoll_decision::{Measured, State, hour};

use super::results::{Results, allocated_bytes, allocations, cold, hour_seconds};
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
/// A simulated hour takes less of one core, under the engine.
const HOUR_CPU_SECONDS: f64 = 10.0;
const HOUR_SECONDS: u32 = 3600;

/// All of them, with what these results say of each.
pub fn goals(results: &Results) -> Vec<Goal> {
    let times = worst(results, |measured| Some((cold(measured)?, MICROSECONDS)));
    let often = ALLOCATIONS + ALLOCATIONS_PER_POD * PODS as f64;
    let counts = worst(results, |measured| Some((allocations(measured)?, often)));
    let memory = worst(results, |measured| {
        let readings = EDGE_BYTES * (PODS * measured.case.edges) as f64;
        Some((allocated_bytes(measured)?, BYTES + COPIES * readings))
    });
    // The first policy is the engine.
    let whole = results.hours.first().filter(|hours| hours.seconds == HOUR_SECONDS);
    let hours = whole.and_then(hour_seconds);
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
        Goal {
            text: format!(
                "a simulated hour of {} pods at {:.0} requests/s takes under {HOUR_CPU_SECONDS:.0} s on one core",
                hour::PODS,
                hour::REQUESTS_PER_SECOND
            ),
            found: hours.map(|spread| format!("{} s", spread.show(2))),
            met: hours.map(|spread| spread.median < HOUR_CPU_SECONDS),
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
