//! Where the requests of a histogram are judged whose targets have no bucket edge.
//!
//! A count is known at an edge only. Below a target lies the nearest edge that never calls a slow request a fast one.

use std::time::Duration;

use crate::histogram::{Snapshot, same_edge};
use crate::input::Targets;

/// Where requests are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Each target at an edge of its own.
    Exactly,
    /// Some target at the nearest edge below; the text says which and what to do.
    Below(String),
    /// Some target has no edge at or below it, so that every request would count as slow; the text says what to do.
    Nowhere(String),
}

/// Looks at the edges that all readings have. Pods that have served nothing have none, and stand in nobody's way.
pub(crate) fn judged(readings: &[&Snapshot], targets: Targets) -> Judged {
    let readings = readings.iter().copied().filter(|reading| !reading.is_empty()).collect::<Vec<_>>();
    if readings.is_empty() {
        return Judged::Exactly;
    }
    let mut below = Vec::new();
    for (percentile, target) in targets.latencies() {
        let seconds = target.as_secs_f64();
        match common_edge(&readings, target) {
            None => {
                return Judged::Nowhere(format!(
                    "the histogram has no bucket edge at or below the {} of {seconds} s, so that nothing tells whether it is \
                     kept: give it an edge at {seconds}, or raise the target",
                    percentile.as_str()
                ));
            }
            Some(edge) if same_edge(edge, seconds) => {}
            Some(edge) => below.push(format!(
                "{} is judged at {edge} s, the nearest bucket edge below its {seconds} s: give the histogram an edge at {seconds}",
                percentile.as_str()
            )),
        }
    }
    if below.is_empty() { Judged::Exactly } else { Judged::Below(below.join("; ")) }
}

/// The highest edge at or below the target that all readings have: pods of two versions may have different ones.
fn common_edge(readings: &[&Snapshot], target: Duration) -> Option<f64> {
    let mut at = target.as_secs_f64();
    loop {
        let edges = readings.iter().map(|reading| reading.edge_at_or_below(at));
        let (mut lowest, mut highest) = (f64::INFINITY, 0.0_f64);
        for edge in edges {
            let edge = edge?;
            (lowest, highest) = (lowest.min(edge), highest.max(edge));
        }
        if same_edge(lowest, highest) {
            return Some(lowest);
        }
        // Lower than before, so that it ends.
        at = lowest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(edges: &[f64]) -> Snapshot {
        let mut counts = edges.iter().map(|edge| (*edge, 1.0)).collect::<Vec<_>>();
        counts.push((f64::INFINITY, 2.0));
        Snapshot::new(counts, None, None).unwrap()
    }

    fn judge(readings: &[Snapshot], p95: &str, p99: &str) -> Judged {
        let spec = serde_json::json!({ "latency": { "p95": p95, "p99": p99 } });
        let targets = Targets::of(&serde_json::from_value(spec).unwrap()).unwrap();
        judged(&readings.iter().collect::<Vec<_>>(), targets)
    }

    #[test]
    fn an_edge_at_each_target_judges_exactly() {
        assert_eq!(judge(&[reading(&[0.05, 0.1, 0.25])], "100ms", "250ms"), Judged::Exactly);
        assert_eq!(judge(&[], "100ms", "250ms"), Judged::Exactly);
        assert_eq!(judge(&[Snapshot::default(), reading(&[0.1, 0.25])], "100ms", "250ms"), Judged::Exactly);
    }

    #[test]
    fn a_target_between_two_edges_is_judged_at_the_lower_one_and_says_so() {
        let Judged::Below(text) = judge(&[reading(&[0.1, 0.2, 0.5])], "100ms", "250ms") else { panic!() };
        assert_eq!(
            text,
            "p99 is judged at 0.2 s, the nearest bucket edge below its 0.25 s: give the histogram an edge at 0.25"
        );
        let Judged::Below(text) = judge(&[reading(&[0.1, 1.0])], "100ms", "30s") else { panic!() };
        assert!(text.starts_with("p99 is judged at 1 s"), "{text}");
    }

    #[test]
    fn the_edges_that_count_are_those_of_all_replicas() {
        let old = reading(&[0.05, 0.2, 0.3]);
        let new = reading(&[0.05, 0.1, 0.25]);
        let Judged::Below(text) = judge(&[old, new], "100ms", "250ms") else { panic!() };
        assert!(
            text.starts_with("p95 is judged at 0.05 s") && text.contains("p99 is judged at 0.05 s"),
            "{text}"
        );
        assert!(matches!(judge(&[reading(&[0.1]), reading(&[0.05])], "100ms", "250ms"), Judged::Nowhere(_)));
    }

    #[test]
    fn without_an_edge_below_a_target_nothing_can_be_judged() {
        let Judged::Nowhere(text) = judge(&[reading(&[0.5, 1.0])], "100ms", "500ms") else { panic!() };
        assert!(text.starts_with("the histogram has no bucket edge at or below the p95 of 0.1 s"), "{text}");
        // One that has counted, and has only the edge of all requests.
        assert!(matches!(judge(&[reading(&[])], "100ms", "500ms"), Judged::Nowhere(_)));
    }
}
