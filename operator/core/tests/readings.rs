//! What the status tells of how latency is read, and what is held while it is not.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{app, input, live, start};
use jiff::SignedDuration;
use plimsoll_core::decide;
use plimsoll_core::engine::{Pod, Sample};
use plimsoll_core::histogram::{Rejection, Snapshot};
use plimsoll_core::input::{Child, Observed, Outage, Scrape};
use plimsoll_core::memory::Memory;
use plimsoll_core::plan::Reason;
use plimsoll_core::status::{Outcome, next};
use serde_json::{Value, json};

/// Pods that have been ready for a day, with these answers.
fn pods(readings: Vec<Result<Snapshot, Rejection>>) -> Vec<Pod> {
    let ready_at = start() - SignedDuration::from_hours(24);
    let pod = |(index, reading): (usize, _)| Pod {
        uid: index.to_string(),
        template: String::new(),
        created_at: ready_at,
        ready_at: Some(ready_at),
        sample: Some(Sample { at: start(), reading, cpu: None }),
    };
    readings.into_iter().enumerate().map(pod).collect()
}

fn with_edges(edges: &[f64]) -> Snapshot {
    let counts = edges.iter().chain([&f64::INFINITY]).map(|edge| (*edge, 10.0)).collect();
    Snapshot::new(counts, None, None).unwrap()
}

/// `MetricsAvailable`, and the reason of the decision, which must hold the replicas.
fn told(spec: &Value, scrape: Scrape) -> (String, Reason) {
    let app = app(spec);
    let deployment = Child::Owned(Box::new(live(&app, 3, 3)));
    let mut input =
        input(app.clone(), Observed { deployment, ..Observed::default() }, Memory::default(), start());
    input.scrape = Some(scrape);
    let plan = decide(&input);
    assert_eq!(plan.decision.to, 3, "{:?}", plan.decision);
    let status = next(&app, Outcome::Planned { findings: &plan.findings, decision: &plan.decision }, start());
    let condition = status.conditions.iter().find(|condition| condition.type_ == "MetricsAvailable").unwrap();
    (format!("{} {}: {}", condition.status, condition.reason, condition.message), plan.decision.reason)
}

#[test]
fn an_outage_of_the_source_holds_the_replicas_in_its_own_words() {
    let outage = Outage {
        reason: "PrometheusUnreachable",
        message: "ask the Prometheus default: no connection".into(),
    };
    let mut pods = pods(vec![Ok(with_edges(&[0.1])); 3]);
    for pod in &mut pods {
        pod.sample = None;
    }
    let (condition, reason) = told(&json!({}), Scrape { pods, outage: Some(outage), ..Scrape::default() });
    assert_eq!(
        condition,
        "False PrometheusUnreachable: ask the Prometheus default: no connection; the replicas are held"
    );
    assert_eq!(reason, Reason::MetricsUnavailable);
}

#[test]
fn pods_that_are_left_out_alike_say_what_to_do() {
    for (rejection, expected) in [
        (
            Rejection::HistogramMissing,
            "HistogramMissing: the replicas answer without the histogram; set spec.metrics.histogram",
        ),
        (
            Rejection::LabelsMissing,
            "LabelsMissing: no series of the histogram has the labels of spec.metrics.labels; correct",
        ),
        (
            Rejection::NoSeries,
            "NoSeries: Prometheus has no series of the replicas; check that it scrapes them",
        ),
        (Rejection::Stale, "SeriesStale: Prometheus last scraped the replicas too long ago; check"),
        (
            Rejection::Unauthorized,
            "Unauthorized: the replicas refuse to tell the operator their metrics; set spec.metrics.bearerTokenFrom",
        ),
        (
            Rejection::Untrusted,
            "Untrusted: the certificates of the replicas are not to be trusted; set spec.metrics.tls",
        ),
        (Rejection::Timeout, "ScrapeFailed: 0 of 3 ready replicas could be read: Timeout"),
    ] {
        let scrape = Scrape { pods: pods(vec![Err(rejection); 3]), ..Scrape::default() };
        let (condition, reason) = told(&json!({}), scrape);
        assert!(condition.starts_with(&format!("False {expected}")), "{condition}");
        assert_eq!(reason, Reason::MetricsUnavailable);
    }
}

#[test]
fn pods_that_have_not_been_scraped_yet_are_waited_for_and_not_counted() {
    let (condition, reason) = told(&json!({}), Scrape { awaited: 3, ..Scrape::default() });
    assert!(condition.starts_with("Unknown AwaitingScrape: "), "{condition}");
    assert_eq!(reason, Reason::PodsStarting);
    // One of three is read, and the other two are new.
    let known = Scrape { pods: pods(vec![Ok(with_edges(&[0.1, 0.25]))]), awaited: 2, ..Scrape::default() };
    let spec = json!({ "latency": { "p95": "100ms", "p99": "250ms" } });
    assert_eq!(told(&spec, known).0, "True Scraped: latency is read from the replicas");
}

#[test]
fn a_target_without_an_edge_is_judged_below_and_told() {
    let spec = json!({ "latency": { "p95": "100ms", "p99": "250ms" } });
    let scrape = Scrape { pods: pods(vec![Ok(with_edges(&[0.1, 0.2, 0.5])); 3]), ..Scrape::default() };
    assert_eq!(
        told(&spec, scrape).0,
        "True Scraped: latency is read from the replicas; p99 is judged at 0.2 s, the nearest bucket edge below its 0.25 s: \
         give the histogram an edge at 0.25"
    );
}

#[test]
fn without_an_edge_below_a_target_the_replicas_are_held_although_all_would_count_as_slow() {
    let spec = json!({ "latency": { "p95": "100ms", "p99": "250ms" } });
    let scrape = Scrape { pods: pods(vec![Ok(with_edges(&[0.5, 1.0])); 3]), ..Scrape::default() };
    let (condition, reason) = told(&spec, scrape);
    assert!(
        condition
            .starts_with("False NoBucketEdge: the histogram has no bucket edge at or below the p95 of 0.1 s"),
        "{condition}"
    );
    assert!(condition.ends_with("; the replicas are held"), "{condition}");
    assert_eq!(reason, Reason::MetricsUnavailable);
}
