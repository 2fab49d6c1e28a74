//! What the status says, and when it is worth a write.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{app, input, live, start};
use expect_test::{Expect, expect};
use jiff::SignedDuration;
use plimsoll_core::decide;
use plimsoll_core::input::{Child, Observed};
use plimsoll_core::memory::{Failure, Memory};
use plimsoll_core::status::{Outcome, next, two_digits, worth_writing};
use plimsoll_crds::{ApiDeployment, ApiDeploymentStatus};
use serde_json::json;

fn status_of(app: &ApiDeployment, observed: Observed) -> ApiDeploymentStatus {
    let plan = decide(&input(app.clone(), observed, Memory::default(), start()));
    next(app, Outcome::Planned { findings: &plan.findings, decision: &plan.decision }, start())
}

fn check(status: &ApiDeploymentStatus, expected: &Expect) {
    let lines = status.conditions.iter().map(|condition| {
        format!("{}={} {}: {}\n", condition.type_, condition.status, condition.reason, condition.message)
    });
    expected.assert_eq(&lines.collect::<String>());
}

fn running(app: &ApiDeployment, replicas: i32, ready: i32) -> Observed {
    Observed { deployment: Child::Owned(Box::new(live(app, replicas, ready))), ..Observed::default() }
}

#[test]
fn the_first_status_says_not_ready() {
    let app = app(&json!({}));
    check(
        &status_of(&app, Observed::default()),
        &expect![[r"
        Ready=False RolloutInProgress: 0 of 1 replicas are ready
        Reconciling=True RolloutInProgress: 0 of 1 replicas are ready
        Stalled=False Reconciled: nothing stands in the way
        ScalingActive=True Enabled: replicas follow the latency targets
        ScalingLimited=False WithinBounds: the wanted number is within the bounds
    "]],
    );
}

#[test]
fn all_replicas_ready_is_ready() {
    let app = app(&json!({}));
    let status = status_of(&app, running(&app, 3, 3));
    assert_eq!(status.selector.as_deref(), Some("app.kubernetes.io/component=api,plimsoll.dev/app=posts"));
    assert_eq!(status.latency.as_ref().unwrap().target.as_deref(), Some("p95<100ms p99<250ms"));
    check(
        &status,
        &expect![[r"
        Ready=True Available: 3 of 3 replicas are ready
        Reconciling=False Reconciled: nothing is left to do
        Stalled=False Reconciled: nothing stands in the way
        ScalingActive=True Enabled: replicas follow the latency targets
        ScalingLimited=False WithinBounds: the wanted number is within the bounds
    "]],
    );
}

#[test]
fn the_text_of_the_targets_lists_all_that_are_set() {
    let app = app(&json!({ "latency": { "p50": "20ms", "p90": "80ms", "p99": "250ms", "p999": "1s" } }));
    let latency = status_of(&app, running(&app, 3, 3)).latency.unwrap();
    assert_eq!(latency.target.as_deref(), Some("p50<20ms p90<80ms p99<250ms p999<1s"));
}

#[test]
fn a_missing_secret_stalls_and_says_what_to_create() {
    let app = app(&json!({}));
    let observed = Observed { missing_secret_keys: vec![("db".into(), "url".into())], ..Observed::default() };
    check(
        &status_of(&app, observed),
        &expect![[r"
        Ready=False SecretNotFound: Secret db with the key url is not there; create it in the namespace of the resource
        Reconciling=False Reconciled: nothing is left to do
        Stalled=True SecretNotFound: Secret db with the key url is not there; create it in the namespace of the resource
        ScalingActive=True Enabled: replicas follow the latency targets
        ScalingLimited=False WithinBounds: the wanted number is within the bounds
    "]],
    );
}

#[test]
fn a_failure_keeps_what_was_known() {
    let mut app = app(&json!({}));
    app.status = Some(status_of(&app, running(&app, 3, 3)));
    app.metadata.generation = Some(2);
    let status = next(&app, Outcome::Failed { message: "write Service posts: forbidden" }, start());
    assert_eq!((status.observed_generation, status.replicas), (Some(1), Some(3)));
    check(
        &status,
        &expect![[r"
        Ready=True ApplyFailed: write Service posts: forbidden; it is tried again
        Reconciling=True ApplyFailed: write Service posts: forbidden
        Stalled=False Reconciled: nothing stands in the way
        ScalingActive=True Enabled: replicas follow the latency targets
        ScalingLimited=False WithinBounds: the wanted number is within the bounds
    "]],
    );
}

fn failing(app: &ApiDeployment, permanent: bool) -> ApiDeploymentStatus {
    let mut plan = decide(&input(app.clone(), running(app, 3, 3), Memory::default(), start()));
    plan.findings.failures.push(Failure {
        hash: 1,
        message: "write Deployment posts: no".into(),
        permanent,
        in_a_row: 1,
        at: start(),
        pause: Duration::from_mins(1),
    });
    next(app, Outcome::Planned { findings: &plan.findings, decision: &plan.decision }, start())
}

#[test]
fn a_write_that_is_tried_again_is_told_and_what_serves_is_still_ready() {
    let mut app = app(&json!({}));
    app.status = Some(status_of(&app, running(&app, 3, 3)));
    app.metadata.generation = Some(2);
    let status = failing(&app, false);
    assert_eq!((status.observed_generation, status.ready_replicas), (Some(1), Some(3)));
    check(
        &status,
        &expect![[r"
        Ready=True ApplyFailed: write Deployment posts: no; it is tried again
        Reconciling=True ApplyFailed: write Deployment posts: no
        Stalled=False Reconciled: nothing stands in the way
        ScalingActive=True Enabled: replicas follow the latency targets
        ScalingLimited=False WithinBounds: the wanted number is within the bounds
    "]],
    );
}

#[test]
fn a_write_that_is_refused_for_good_stalls_and_scaling_goes_on() {
    let mut app = app(&json!({}));
    app.status = Some(status_of(&app, running(&app, 3, 3)));
    app.metadata.generation = Some(2);
    let status = failing(&app, true);
    assert_eq!(status.observed_generation, Some(2));
    check(
        &status,
        &expect![[r"
        Ready=False ApplyFailed: write Deployment posts: no; correct the spec, or what refuses it: what was there before keeps serving
        Reconciling=False Reconciled: nothing is left to do
        Stalled=True ApplyFailed: write Deployment posts: no; correct the spec, or what refuses it: what was there before keeps serving
        ScalingActive=True Enabled: replicas follow the latency targets
        ScalingLimited=False WithinBounds: the wanted number is within the bounds
    "]],
    );
}

#[test]
fn the_transition_time_moves_only_with_the_status() {
    let mut app = app(&json!({}));
    app.status = Some(status_of(&app, running(&app, 3, 3)));
    let later = start() + SignedDuration::from_secs(60);
    let plan = decide(&input(app.clone(), running(&app, 3, 2), Memory::default(), later));
    let status = next(&app, Outcome::Planned { findings: &plan.findings, decision: &plan.decision }, later);
    for condition in &status.conditions {
        let moved = ["Ready", "Reconciling"].contains(&condition.type_.as_str());
        assert_eq!(condition.last_transition_time.0 == later, moved, "{}", condition.type_);
    }
}

#[test]
fn latency_alone_is_news_only_every_quarter_of_a_minute() {
    let app = app(&json!({}));
    let stored = status_of(&app, running(&app, 3, 3));
    let mut next = stored.clone();
    assert!(!worth_writing(Some(&stored), &next, None, start()));
    next.latency.as_mut().unwrap().p99 = Some("90ms".into());
    assert!(!worth_writing(Some(&stored), &next, Some(start()), start() + SignedDuration::from_secs(14)));
    assert!(worth_writing(Some(&stored), &next, Some(start()), start() + SignedDuration::from_secs(15)));
    next.ready_replicas = Some(2);
    assert!(worth_writing(Some(&stored), &next, Some(start()), start()));
}

#[test]
fn durations_have_two_digits() {
    let texts = [0.0, 0.0004, 0.00123, 0.0874, 0.0999, 0.4349, 0.9951, 1.234, 12.34].map(two_digits);
    assert_eq!(texts, ["1ms", "1ms", "1ms", "87ms", "100ms", "430ms", "1s", "1.2s", "12s"]);
}
