//! Histograms against a reference that sees each request.
// Counts of whole requests are exact.
#![allow(clippy::float_cmp, clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use plimsoll_core::histogram::{Delta, Rejection, Share, Snapshot};
use proptest::prelude::*;

const EDGES: [f64; 4] = [0.05, 0.1, 0.25, 1.0];

fn snapshot(durations: &[f64]) -> Snapshot {
    let up_to = |edge: f64| durations.iter().filter(|&&duration| duration <= edge).count() as f64;
    let cumulative = EDGES.into_iter().chain([f64::INFINITY]).map(|edge| (edge, up_to(edge))).collect();
    Snapshot::new(cumulative, None, None).unwrap()
}

fn delta(durations: &[f64]) -> Delta {
    snapshot(durations).since(&Snapshot::default())
}

#[test]
fn rejects_what_is_not_a_histogram() {
    let new = |cumulative: &[(f64, f64)]| Snapshot::new(cumulative.to_vec(), None, None).unwrap_err();
    let inf = f64::INFINITY;
    assert_eq!(new(&[(0.1, f64::NAN), (inf, 1.0)]), Rejection::InvalidCount);
    assert_eq!(new(&[(0.1, -1.0), (inf, 1.0)]), Rejection::InvalidCount);
    assert_eq!(new(&[(f64::NAN, 1.0), (inf, 1.0)]), Rejection::InvalidCount);
    assert_eq!(new(&[(-0.1, 1.0), (inf, 1.0)]), Rejection::InvalidCount);
    assert_eq!(new(&[(-inf, 1.0), (inf, 1.0)]), Rejection::InvalidCount);
    assert_eq!(new(&[(0.1, 1.0)]), Rejection::NoInfBucket);
    assert_eq!(new(&[(0.1, 2.0), (0.2, 1.0), (inf, 3.0)]), Rejection::NotMonotone);
    assert_eq!(new(&[(0.1, 2.0), (inf, 1.0)]), Rejection::NotMonotone);
}

#[test]
fn a_restart_counts_from_zero() {
    let before = snapshot(&[0.3; 10]);
    // More requests than before in all, yet fewer slow ones: only a restart explains it.
    let after = snapshot(&[0.01; 20]);
    assert_eq!(after.since(&before).total, 20.0);
}

#[test]
fn a_percentile_above_the_highest_edge_says_so() {
    let quantile = delta(&[5.0; 10]).quantile(0.99).unwrap();
    assert_eq!((quantile.seconds, quantile.saturated), (1.0, true));
}

#[test]
fn a_percentile_is_linear_within_its_bucket() {
    // Ten requests in 0.1..0.25; the 50th percentile is in the middle.
    let quantile = delta(&[0.2; 10]).quantile(0.5).unwrap();
    assert!((quantile.seconds - 0.175).abs() < 1e-9);
    assert_eq!(delta(&[]).quantile(0.5), None);
}

#[test]
fn a_target_between_edges_counts_from_the_lower_one() {
    let delta = delta(&[0.01, 0.15, 0.2, 0.9]);
    assert_eq!(delta.slower_than(Duration::from_millis(180)), 3.0);
    assert_eq!(delta.slower_than(Duration::from_millis(250)), 1.0);
}

#[test]
fn versions_with_other_edges_meet_at_the_common_ones() {
    let mut merged = delta(&[0.01, 0.3]);
    let other = Snapshot::new(vec![(0.25, 1.0), (0.4, 2.0), (f64::INFINITY, 2.0)], None, None).unwrap();
    merged.add(&other.since(&Snapshot::default()));
    assert_eq!((merged.total, merged.slower_than(Duration::from_millis(250))), (4.0, 2.0));
}

/// One pod's life: batches of durations between scrapes, with a restart before some of them.
fn life() -> impl Strategy<Value = Vec<(bool, Vec<f64>)>> {
    let duration = prop_oneof![Just(0.05), Just(0.1), 0.0..2.0_f64];
    prop::collection::vec((prop::bool::weighted(0.1), prop::collection::vec(duration, 0..20)), 1..8)
}

proptest! {
    #[test]
    fn merged_deltas_are_exact_at_an_edge(pods in prop::collection::vec(life(), 1..5)) {
        let mut merged = Delta::default();
        let mut seen = Vec::<f64>::new();
        for batches in &pods {
            // The first reading is a baseline; what came before it is not counted.
            let mut alive = Vec::<f64>::new();
            let mut baseline = snapshot(&alive);
            for (restart, batch) in batches {
                // A restart shows only when some count falls; one that serves at least as much in every bucket
                // before the next scrape can't be told from none.
                let mut next = if *restart { Vec::new() } else { alive.clone() };
                next.extend(batch);
                let hidden = *restart && delta(&next).total >= delta(&alive).total && !alive.is_empty();
                if hidden {
                    next.clone_from(&alive);
                    next.extend(batch);
                }
                let reading = snapshot(&next);
                merged.add(&reading.since(&baseline));
                seen.extend(batch);
                (alive, baseline) = (next, reading);
            }
        }
        prop_assert_eq!(merged.total, seen.len() as f64);
        for target_ms in [50, 100, 250] {
            let bad = seen.iter().filter(|&&duration| duration > f64::from(target_ms) / 1000.0).count();
            prop_assert_eq!(merged.slower_than(Duration::from_millis(u64::from(target_ms as u32))), bad as f64);
        }
    }

    #[test]
    fn a_percentile_lies_in_the_bucket_of_the_true_one(durations in prop::collection::vec(0.0..2.0_f64, 1..200), q in 0.01..1.0_f64) {
        let quantile = delta(&durations).quantile(q).unwrap();
        let mut sorted = durations.clone();
        sorted.sort_by(f64::total_cmp);
        let exact = sorted[((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1];
        let bucket = |value: f64| EDGES.iter().position(|&edge| value <= edge).unwrap_or(EDGES.len());
        if quantile.saturated {
            prop_assert!(exact > 1.0);
        } else {
            prop_assert_eq!(bucket(quantile.seconds), bucket(exact));
        }
    }

    #[test]
    fn the_interval_holds_the_share(total in 0..2000_u32, part in 0.0..=1.0_f64) {
        let bad = (f64::from(total) * part).floor();
        let share = Share::wilson(bad, f64::from(total));
        prop_assert!(0.0 <= share.lower && share.lower <= share.value && share.value <= share.upper && share.upper <= 1.0);
    }

    #[test]
    fn any_buckets_are_taken_or_rejected(cumulative in prop::collection::vec((any::<f64>(), any::<f64>()), 0..10)) {
        if let Ok(snapshot) = Snapshot::new(cumulative, None, None) {
            let delta = snapshot.since(&Snapshot::default());
            let _ = delta.quantile(0.99);
            let _ = delta.slower_than(Duration::from_millis(100));
        }
    }
}

#[test]
fn one_pod_cannot_fill_the_memory_with_edges() {
    let edges =
        |count: u32| (1..count).map(|edge| (f64::from(edge), 1.0)).chain([(f64::INFINITY, 1.0)]).collect();
    assert!(Snapshot::new(edges(512), None, None).is_ok());
    assert_eq!(Snapshot::new(edges(513), None, None), Err(Rejection::TooManyBuckets));
}
