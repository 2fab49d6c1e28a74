//! What a round says of the promise adds up to what the requests met with.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;

use common::{World, app};
use plimsoll_core::attainment::Attainment;
use serde_json::json;

/// The requests of all rounds, and those that missed each target.
fn sums<'a>(rounds: impl Iterator<Item = &'a Attainment>) -> (f64, BTreeMap<&'static str, f64>) {
    let (mut requests, mut missed) = (0.0, BTreeMap::new());
    for round in rounds {
        requests += round.requests;
        for target in &round.targets {
            *missed.entry(target.name).or_default() += target.missed;
        }
    }
    (requests, missed)
}

#[test]
#[allow(clippy::float_cmp, reason = "counts of whole requests are exact")]
fn every_request_is_counted_once_and_those_that_missed_the_target_are_told() {
    let mut world = World::new(app(&json!({ "replicas": { "pinned": 1 } })), 7);
    world.decide(None);
    // The first reading is only where the next ones are counted from.
    for per_second in [20.0, 0.0] {
        world.round(per_second);
    }
    (world.served, world.late) = (0.0, 0.0);
    world.history.clear();
    for per_second in [20.0, 20.0, 49.0, 49.0, 120.0, 120.0, 0.0, 0.0] {
        world.round(per_second);
    }
    let rounds = world.history.iter().filter_map(|plan| plan.findings.attainment.as_ref());
    let (requests, missed) = sums(rounds);
    assert!(world.late > 100.0 && world.late < world.served, "the load is too much for some of the time");
    assert_eq!((requests, missed["p99"]), (world.served, world.late));
}

#[test]
fn a_target_says_what_may_miss_it() {
    let mut world = World::new(app(&json!({ "latency": { "p50": "50ms", "p99": "250ms" } })), 1);
    world.decide(None);
    for _ in 0..20 {
        world.round(20.0);
    }
    let attainment = world.history.last().unwrap().findings.attainment.clone().unwrap();
    let told = attainment.targets.iter().map(|target| (target.name, target.within_seconds));
    assert_eq!(told.collect::<Vec<_>>(), [("p50", Some(0.05)), ("p99", Some(0.25))]);
    let budgets = attainment.targets.iter().map(|target| (target.budget * 1000.0).round());
    assert_eq!(budgets.collect::<Vec<_>>(), [500.0, 10.0]);
    let quantiles = attainment.latencies.iter().map(|(percentile, _)| percentile.as_str());
    assert_eq!(
        quantiles.collect::<Vec<_>>(),
        ["p50", "p90", "p95", "p99", "p999"],
        "a minute of 20 requests/s has one beyond p999"
    );
}

#[test]
fn errors_that_no_replica_tells_are_not_said_to_be_kept() {
    let mut world = World::new(app(&json!({ "errorRate": "1%" })), 1);
    world.decide(None);
    for _ in 0..4 {
        world.round(20.0);
    }
    let attainment = world.history.last().unwrap().findings.attainment.clone().unwrap();
    assert_eq!(attainment.targets.iter().map(|target| target.name).collect::<Vec<_>>(), ["p95", "p99"]);
}

#[test]
fn between_two_rounds_nothing_is_counted_again() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    world.round(20.0);
    world.round(20.0);
    assert!(world.history.last().unwrap().findings.attainment.is_some());
    world.decide(None);
    assert_eq!(world.history.last().unwrap().findings.attainment, None);
}
