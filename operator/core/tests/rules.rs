//! One rule a test; the rule is the name.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{World, app, carry_out, input, live, start};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use plimsoll_core::engine::{Pod, Sample};
use plimsoll_core::histogram::{Rejection, Snapshot};
use plimsoll_core::input::{Child, Observed, Scrape};
use plimsoll_core::memory::{Failure, Memory};
use plimsoll_core::plan::{ChildKind, Limit, Plan, Reason, Step};
use plimsoll_core::{MANAGER, decide, status};
use plimsoll_crds::ApiDeploymentStatus;
use proptest::prelude::*;
use serde_json::json;

fn with_deployment(replicas: i32, ready: i32, spec: &serde_json::Value) -> plimsoll_core::Input {
    let app = app(spec);
    let deployment = Child::Owned(Box::new(live(&app, replicas, ready)));
    input(app, Observed { deployment, ..Observed::default() }, Memory::default(), start())
}

fn failing(rejection: Rejection, pods: usize) -> Scrape {
    let pods = (0..pods).map(|index| answering(index, Err(rejection))).collect();
    Scrape { pods, ..Scrape::default() }
}

/// A pod that has been ready for a day, and gives this answer.
fn answering(index: usize, reading: Result<Snapshot, Rejection>) -> Pod {
    let created_at = start() - SignedDuration::from_hours(24);
    let sample = Some(Sample { at: start(), reading, cpu: None });
    Pod { uid: index.to_string(), template: String::new(), created_at, ready_at: Some(created_at), sample }
}

#[test]
fn a_new_deployment_starts_at_the_minimum_and_never_at_kubernetes_default() {
    let plan = decide(&input(
        app(&json!({"replicas": {"min": 3, "max": 9}})),
        Observed::default(),
        Memory::default(),
        start(),
    ));
    assert_eq!((plan.decision.to, plan.decision.reason), (3, Reason::Initial));
    let steps = plan.steps.iter().map(|step| match step {
        Step::ApplyService { .. } => "service",
        Step::CreateDeployment { deployment, .. } => {
            assert_eq!(deployment.spec.as_ref().unwrap().replicas, Some(3));
            "create"
        }
        Step::ApplyDeployment { deployment, .. } => {
            assert_eq!(deployment.spec.as_ref().unwrap().replicas, None);
            "template"
        }
        Step::Scale { change, .. } => {
            assert_eq!(change.to, 3);
            "replicas"
        }
        Step::ApplyDisruptionBudget { .. } => "budget",
        Step::CreateSecret(_)
        | Step::ApplyNetworkPolicy { .. }
        | Step::ApplyStatefulSet { .. }
        | Step::Delete { .. } => "other",
    });
    assert_eq!(steps.collect::<Vec<_>>(), ["service", "budget", "create", "template", "replicas"]);
}

#[test]
fn planning_after_carrying_out_writes_nothing() {
    for cache in [json!({"managed": {"memory": "64Mi"}}), json!({"disabled": {}})] {
        let app = app(&json!({ "cache": cache }));
        let mut observed = Observed::default();
        let first = decide(&input(app.clone(), observed.clone(), Memory::default(), start()));
        let memory = carry_out(&first, &mut observed);
        let second = decide(&input(app, observed, memory, start()));
        assert!(second.steps.is_empty(), "{:?}", second.steps);
    }
}

#[test]
fn an_operator_that_restarts_keeps_the_scale_and_takes_the_fields_over_again() {
    let plan = decide(&with_deployment(7, 7, &json!({})));
    assert_eq!(plan.decision.to, 7);
    let kinds = plan.steps.iter().filter_map(|step| match step {
        Step::ApplyDeployment { .. } => Some("template"),
        Step::Scale { change, .. } => {
            assert_eq!((change.from, change.to), (7, 7));
            Some("replicas")
        }
        _ => None,
    });
    assert_eq!(kinds.collect::<Vec<_>>(), ["template", "replicas"]);
}

#[test]
fn bounds_of_the_spec_hold_at_once() {
    let decided = |replicas, spec| {
        let decision = decide(&with_deployment(replicas, replicas, &spec)).decision;
        (decision.to, decision.reason)
    };
    assert_eq!(decided(1, json!({"replicas": {"min": 2, "max": 5}})), (2, Reason::AtMin));
    assert_eq!(decided(9, json!({"replicas": {"min": 2, "max": 5}})), (5, Reason::AtMax));
    assert_eq!(decided(3, json!({"replicas": {"min": 2, "max": 5, "pinned": 4}})), (4, Reason::Pinned));
    assert_eq!(decided(3, json!({"replicas": {"min": 2, "max": 5, "pinned": 0}})), (0, Reason::Hibernated));
    assert_eq!(decided(0, json!({"replicas": {"min": 2, "max": 5}})), (2, Reason::AtMin));
}

#[test]
fn the_embedded_database_allows_one_replica_and_says_what_to_write() {
    let plan = decide(&with_deployment(
        3,
        3,
        &json!({"database": {"embedded": {}}, "replicas": {"min": 2, "max": 5}}),
    ));
    assert_eq!((plan.decision.to, plan.decision.reason), (1, Reason::EmbeddedDatabase));
    assert_eq!(plan.findings.limit, Some(Limit::EmbeddedDatabase));
    assert!(plan.decision.message.contains("spec.database.external"), "{}", plan.decision.message);
}

#[test]
fn pods_that_cannot_be_read_hold_the_replicas() {
    for (rejection, pods) in
        [(Rejection::Timeout, 4), (Rejection::HistogramMissing, 4), (Rejection::NotMonotone, 1)]
    {
        let mut input = with_deployment(4, 4, &json!({}));
        input.scrape = Some(failing(rejection, pods));
        let decision = decide(&input).decision;
        assert_eq!((decision.to, decision.reason), (4, Reason::MetricsUnavailable), "{rejection:?}");
    }
}

#[test]
fn ready_pods_that_are_not_known_yet_count_as_unread() {
    let mut input = with_deployment(5, 5, &json!({}));
    let reading = Snapshot::new(vec![(0.1, 10.0), (f64::INFINITY, 10.0)], None, None);
    let pod = |index: usize| answering(index, reading.clone());
    input.scrape = Some(Scrape { pods: (0..2).map(pod).collect(), ..Scrape::default() });
    let decision = decide(&input).decision;
    assert_eq!((decision.to, decision.reason), (5, Reason::MetricsUnavailable), "{}", decision.message);
    input.scrape = Some(Scrape { pods: (0..3).map(pod).collect(), ..Scrape::default() });
    assert_ne!(decide(&input).decision.reason, Reason::MetricsUnavailable);
}

#[test]
fn a_foreign_deployment_is_never_touched() {
    let mut input = with_deployment(4, 4, &json!({}));
    input.observed.deployment = Child::Foreign;
    let plan = decide(&input);
    assert_eq!(plan.findings.name_conflicts, ["Deployment posts"]);
    assert_eq!(kinds(&plan.steps), [ChildKind::Service, ChildKind::DisruptionBudget]);
}

#[test]
fn a_missing_secret_keeps_the_running_template_and_still_scales() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    world.observed.missing_secret_keys = vec![("db".into(), "url".into())];
    world.app.spec.image = Some("new".into());
    let plan = world.decide(None).clone();
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    for _ in 0..20 {
        world.round(100.0);
    }
    assert!(world.replicas() > 1);
}

#[test]
fn a_missing_secret_stops_the_first_deployment() {
    let observed = Observed { missing_secret_keys: vec![("db".into(), "url".into())], ..Observed::default() };
    let plan = decide(&input(app(&json!({})), observed, Memory::default(), start()));
    assert_eq!(kinds(&plan.steps), [ChildKind::Service, ChildKind::DisruptionBudget]);
}

#[test]
fn a_cache_that_is_switched_off_is_deleted_after_the_template_and_keeps_its_secret() {
    let mut observed = Observed::default();
    let managed = app(&json!({ "cache": {"managed": {"memory": "64Mi"}} }));
    let first = decide(&input(managed, observed.clone(), Memory::default(), start()));
    let memory = carry_out(&first, &mut observed);
    let plan = decide(&input(app(&json!({})), observed, memory, start()));
    let kinds = plan.steps.iter().map(|step| match step {
        Step::ApplyDeployment { kind: ChildKind::Deployment, .. } => "template",
        Step::Delete { kind: ChildKind::CacheDeployment, .. } => "delete Deployment",
        Step::Delete { kind: ChildKind::CacheService, .. } => "delete Service",
        _ => "other",
    });
    assert_eq!(kinds.collect::<Vec<_>>(), ["template", "delete Deployment", "delete Service"]);
}

#[test]
fn a_spec_that_cannot_be_read_does_nothing_and_says_why() {
    let plan = decide(&with_deployment(4, 4, &json!({"latency": {"p99": "fast"}})));
    assert!(plan.steps.is_empty());
    assert_eq!((plan.decision.to, plan.decision.reason), (4, Reason::InvalidSpec));
}

#[test]
fn a_rollout_is_never_answered_with_fewer_replicas() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    for _ in 0..40 {
        world.round(150.0);
    }
    let before = world.replicas();
    world.rolling_out = true;
    for _ in 0..40 {
        world.round(5.0);
    }
    let decision = &world.history.last().unwrap().decision;
    assert_eq!((decision.to, decision.reason), (before, Reason::RolloutInProgress), "{}", decision.message);
    world.rolling_out = false;
    for _ in 0..40 {
        world.round(5.0);
    }
    assert!(world.replicas() < before);
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let mut names = Reason::ALL.map(Reason::as_str).to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Reason::ALL.len());
}

#[test]
fn a_decision_is_told_in_camel_case_with_milliseconds() {
    let decision = decide(&with_deployment(4, 4, &json!({}))).decision;
    let record = serde_json::to_value(decision).unwrap();
    assert_eq!(record["time"], "2030-01-01T00:00:00.000Z");
    for field in [
        "from",
        "to",
        "reason",
        "message",
        "requestsPerSecond",
        "p95Ms",
        "p99Ms",
        "badShare",
        "readyReplicas",
        "podsScraped",
    ] {
        assert!(record.get(field).is_some(), "{field}: {record}");
    }
}

#[test]
fn a_decision_carries_what_the_engine_made_of_the_round() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    for _ in 0..20 {
        world.round(30.0);
    }
    let record = serde_json::to_value(&world.history.last().unwrap().decision).unwrap();
    assert_eq!(record["engine"]["version"], "v1");
    assert_eq!(record["engine"]["to"], record["to"]);
    assert_eq!(record["engine"]["counterfactuals"].as_array().unwrap().len(), 3, "{record}");
    assert!(world.decide(None).decision.engine.is_none(), "nothing was read");
}

#[test]
fn an_operator_that_restarts_does_not_start_blind() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    for _ in 0..60 {
        world.round(100.0);
    }
    let plan = world.history.last().unwrap();
    let (findings, decision) = (&plan.findings, &plan.decision);
    let learned = decision.evidence.capacity_per_replica.unwrap();
    let kept = status::next(&world.app, status::Outcome::Planned { findings, decision }, world.timestamp());
    let mut doubt_after = |status: Option<ApiDeploymentStatus>| {
        world.app.status = status;
        world.memory = Memory::default();
        world.round(100.0);
        let capacity = world.round(100.0).decision.engine.as_ref().unwrap().capacity.unwrap();
        (capacity.per_second, capacity.high_per_second / capacity.low_per_second)
    };
    let (per_second, doubt) = doubt_after(Some(kept));
    assert!((0.8..1.25).contains(&(per_second / learned)), "{learned}, then {per_second}");
    let (_, doubt_of_nothing_known) = doubt_after(None);
    assert!(doubt < 0.7 * doubt_of_nothing_known, "{doubt} and {doubt_of_nothing_known}");
}

#[test]
fn a_restart_of_the_operator_moves_no_replica() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    for _ in 0..60 {
        world.round(100.0);
    }
    let before = world.replicas();
    let plan = world.history.last().unwrap();
    let (findings, decision) = (&plan.findings, &plan.decision);
    world.app.status =
        Some(status::next(&world.app, status::Outcome::Planned { findings, decision }, world.timestamp()));
    world.memory = Memory::default();
    for _ in 0..24 {
        world.round(100.0);
        assert!(world.replicas().abs_diff(before) <= 1, "{} after {before}", world.replicas());
    }
}

#[test]
fn a_target_that_no_number_of_replicas_meets_is_said_to_be_so() {
    let mut world = World::new(app(&json!({})), 1);
    // Requests take 300 ms, one after the other, where 250 are promised: less than two replicas cannot answer them at all.
    world.service_seconds = 0.3;
    world.decide(None);
    let mut most = 0;
    for _ in 0..120 {
        world.round(6.0);
        most = most.max(world.replicas());
    }
    let plan = world.history.last().unwrap();
    assert_eq!(plan.decision.reason, Reason::TargetUnmeetable, "{}", plan.decision.message);
    assert_eq!(plan.findings.limit, Some(Limit::TargetUnmeetable));
    assert!(most <= 4 && world.replicas() == 3, "{most}, at last {}", world.replicas());
}

fn scaling(scaling: &serde_json::Value) -> World {
    let mut world = World::new(app(&json!({ "scaling": scaling })), 1);
    world.decide(None);
    for _ in 0..20 {
        world.round(100.0);
    }
    world
}

#[test]
fn who_only_wants_numbers_gets_numbers_and_nothing_is_written() {
    let world = scaling(&json!({ "mode": "Recommend" }));
    let plan = world.history.last().unwrap();
    assert_eq!((world.replicas(), plan.decision.reason), (1, Reason::Recommended));
    assert!(plan.decision.recommended > 1, "{:?}", plan.decision);
    let kinds = world.history[1..].iter().flat_map(|plan| kinds(&plan.steps)).collect::<Vec<_>>();
    assert!(!kinds.contains(&ChildKind::Replicas), "{kinds:?}");
}

#[test]
fn a_pause_holds_its_direction_until_it_ends() {
    let until = start() + SignedDuration::from_secs(200);
    let mut world = scaling(&json!({ "pause": { "up": { "until": until.to_string() } } }));
    let decision = &world.history.last().unwrap().decision;
    assert_eq!((world.replicas(), decision.reason), (1, Reason::Paused), "{}", decision.message);
    for _ in 0..24 {
        world.round(100.0);
    }
    assert!(world.replicas() > 1);
}

#[test]
fn a_rate_limits_each_minute() {
    let world = scaling(&json!({ "up": { "replicas": 1, "periodSeconds": 60 } }));
    assert!((2..=3).contains(&world.replicas()), "one more a minute, for a minute and a half");
    let limited = world.history.iter().any(|plan| plan.decision.reason == Reason::RateLimited);
    assert!(limited, "{:?}", world.history.last().unwrap().decision);
}

#[test]
fn a_floor_is_there_when_it_begins_and_between_two_scrapes() {
    // The world begins at midnight.
    let schedule = json!([{ "name": "night", "from": "00:00", "to": "06:00", "replicas": 5 }]);
    let mut world = World::new(app(&json!({ "scaling": { "schedules": schedule } })), 1);
    world.decide(None);
    assert_eq!(world.replicas(), 5);
    for _ in 0..30 {
        world.round(5.0);
    }
    let decision = &world.history.last().unwrap().decision;
    assert_eq!((world.replicas(), decision.reason), (5, Reason::ScheduleFloor), "{}", decision.message);
    world.app.spec.scaling.schedules[0].replicas = 8;
    world.decide(None);
    assert_eq!(world.replicas(), 8);
}

/// What a minute may bring.
#[derive(Clone, Debug)]
enum Fate {
    Load(f64),
    NoAnswer,
    Spec { min: i32, more: i32 },
    SlowDependency(f64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => (0.0..200.0_f64).prop_map(Fate::Load),
        2 => Just(Fate::NoAnswer),
        1 => (1..5_i32, 0..10_i32).prop_map(|(min, more)| Fate::Spec { min, more }),
        1 => (0.005..0.2_f64).prop_map(Fate::SlowDependency),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens(fates in prop::collection::vec(fate(), 1..12), seed in any::<u64>()) {
        let mut world = World::new(app(&json!({"replicas": {"min": 1, "max": 12}})), seed);
        world.decide(None);
        let mut load = 20.0;
        let mut raised_at = None;
        for fate in fates {
            let mut blind = false;
            match fate {
                Fate::Load(per_second) => load = per_second,
                Fate::NoAnswer => blind = true,
                Fate::Spec { min, more } => {
                    world.app.spec.replicas.min = min;
                    world.app.spec.replicas.max = min + more;
                }
                Fate::SlowDependency(seconds) => world.service_seconds = seconds,
            }
            for _ in 0..12 {
                let before = world.replicas();
                if blind {
                    world.now_seconds += 5.0;
                    let mut scrape = world.scrape();
                    for sample in scrape.pods.iter_mut().filter_map(|pod| pod.sample.as_mut()) {
                        sample.reading = Err(Rejection::Timeout);
                    }
                    world.decide(Some(scrape));
                } else {
                    world.round(load);
                }
                let after = world.replicas();
                let (min, max) = (world.app.spec.replicas.min, world.app.spec.replicas.max);
                prop_assert!((min..=max).contains(&after), "bounds {}..={}: {}", min, max, after);
                if blind && (min..=max).contains(&before) {
                    prop_assert!(after >= before, "went down without data");
                }
                let now = world.now_seconds;
                let reason = world.history.last().unwrap().decision.reason;
                if reason == Reason::LoadBelowCapacity {
                    prop_assert!(raised_at.is_none_or(|at| now - at >= 30.0), "went down within the cooldown");
                }
                if after > before {
                    // What the spec raised, the spec may lower.
                    let by_load = matches!(
                        reason,
                        Reason::LatencyOverTarget | Reason::ErrorsOverTarget | Reason::LoadNearCapacity
                    );
                    raised_at = by_load.then_some(now);
                }
            }
            // Twice on the same input is the same.
            let mut again = input(world.app.clone(), world.observed.clone(), world.memory.clone(), world.timestamp());
            again.scrape = Some(world.scrape());
            let (one, two) = (decide(&again), decide(&again));
            prop_assert_eq!(one.decision, two.decision);
            prop_assert_eq!(one.memory, two.memory);
        }
    }
}

#[test]
fn the_first_reading_is_a_baseline_and_no_load() {
    let mut input = with_deployment(2, 2, &json!({}));
    let snapshot = Snapshot::new(vec![(0.1, 0.0), (f64::INFINITY, 100_000.0)], None, None).unwrap();
    let pods = (0..2).map(|index| answering(index, Ok(snapshot.clone())));
    input.scrape = Some(Scrape { pods: pods.collect(), ..Scrape::default() });
    let decision = decide(&input).decision;
    assert_eq!((decision.to, decision.evidence.requests_per_second), (2, None));
    assert_eq!(decision.reason, Reason::HoldingTooFewRequests, "{}", decision.message);
}

fn failed(step: &Step, at: Timestamp, permanent: bool) -> Failure {
    let message = format!("write {}", step.kind());
    Failure { hash: step.hash(), message, permanent, in_a_row: 1, at, pause: Duration::from_mins(1) }
}

fn kinds(steps: &[Step]) -> Vec<ChildKind> {
    steps.iter().map(Step::kind).collect()
}

#[test]
fn a_refused_template_waits_and_the_replicas_go_on() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    world.app.spec.image = Some("refused".into());
    let now = world.timestamp();
    let tried = decide(&input(world.app.clone(), world.observed.clone(), world.memory.clone(), now));
    assert_eq!(kinds(&tried.steps), [ChildKind::Deployment]);
    world.memory.record_failed(ChildKind::Deployment, failed(&tried.steps[0], now, true));
    for _ in 0..11 {
        let plan = world.round(100.0);
        assert!(!kinds(&plan.steps).contains(&ChildKind::Deployment), "{:?}", plan.steps);
        assert_eq!(plan.findings.failures.len(), 1);
    }
    assert!(world.replicas() > 1, "{:?}", world.history.last().unwrap().decision);
    world.round(100.0);
    let plan = world.round(100.0);
    assert!(plan.findings.failures.is_empty(), "tried again after its pause");
}

#[test]
fn another_write_of_a_child_does_not_wait_for_the_refused_one() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    world.app.spec.image = Some("refused".into());
    let now = world.timestamp();
    let tried = decide(&input(world.app.clone(), world.observed.clone(), world.memory.clone(), now));
    world.memory.record_failed(ChildKind::Deployment, failed(&tried.steps[0], now, true));
    world.app.spec.image = Some("corrected".into());
    let plan = world.decide(None).clone();
    assert_eq!(kinds(&plan.steps), [ChildKind::Deployment]);
    assert!(world.decide(None).findings.failures.is_empty());
}

#[test]
fn a_failure_is_forgotten_with_the_wish_for_the_write() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    let good = world.app.clone();
    world.app.spec.image = Some("refused".into());
    let now = world.timestamp();
    let tried = decide(&input(world.app.clone(), world.observed.clone(), world.memory.clone(), now));
    world.memory.record_failed(ChildKind::Deployment, failed(&tried.steps[0], now, true));
    world.app = good;
    let plan = world.decide(None);
    assert!(plan.steps.is_empty() && plan.findings.failures.is_empty(), "{plan:?}");
    assert_eq!(world.memory.failed_in_a_row(ChildKind::Deployment, tried.steps[0].hash()), 0);
}

#[test]
fn credentials_that_could_not_be_stored_are_not_rolled_out() {
    let managed = app(&json!({ "cache": {"managed": {"memory": "64Mi"}} }));
    let observed = Observed {
        deployment: Child::Owned(Box::new(live(&managed, 3, 3))),
        cache_secret: Child::Absent,
        ..Observed::default()
    };
    let tried = decide(&input(managed.clone(), observed.clone(), Memory::default(), start()));
    assert_eq!(tried.steps[0].kind(), ChildKind::CacheSecret);
    let mut memory = tried.memory.clone();
    memory.record_failed(ChildKind::CacheSecret, failed(&tried.steps[0], start(), false));
    let plan = decide(&input(managed, observed, memory, start()));
    assert_eq!(
        kinds(&plan.steps),
        [ChildKind::CacheService, ChildKind::Service, ChildKind::DisruptionBudget]
    );
}

#[test]
fn a_deployment_that_is_refused_is_not_announced() {
    let tried = decide(&input(app(&json!({})), Observed::default(), Memory::default(), start()));
    let create = tried.steps.iter().find(|step| step.kind() == ChildKind::Deployment).unwrap();
    let mut memory = tried.memory.clone();
    memory.record_failed(ChildKind::Deployment, failed(create, start(), true));
    let plan = decide(&input(app(&json!({})), Observed::default(), memory, start()));
    assert_eq!((plan.decision.from, plan.decision.to), (0, 0));
    assert_eq!(plan.decision.reason, Reason::PodsStarting, "{}", plan.decision.message);
}

#[test]
fn a_refused_number_of_replicas_is_told_until_the_next_scrape_and_tried_then() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    let mut refused = None;
    for _ in 0..20 {
        let plan = world.round(100.0).clone();
        refused = plan.steps.into_iter().find(|step| step.kind() == ChildKind::Replicas);
        if refused.is_some() {
            break;
        }
    }
    let now = world.timestamp();
    let failure = failed(&refused.unwrap(), now, true);
    world.memory.record_failed(ChildKind::Replicas, failure.clone());
    assert_eq!(world.decide(None).findings.failures, [failure]);
    world.app.spec.replicas.pinned = Some(9);
    let plan = world.decide(None).clone();
    assert_eq!(kinds(&plan.steps), [ChildKind::Replicas]);
    assert!(world.decide(None).findings.failures.is_empty(), "a write that passed ends it");
}

#[test]
fn the_first_write_of_replicas_looks_live_and_so_does_each_that_removes_some() {
    let looks = |plan: &Plan| {
        plan.steps.iter().find_map(|step| match step {
            Step::Scale { live, .. } => Some(*live),
            _ => None,
        })
    };
    let spec = |min: i32, max: i32| app(&json!({"replicas": {"min": min, "max": max}}));
    let mut observed =
        Observed { deployment: Child::Owned(Box::new(live(&spec(1, 9), 3, 3))), ..Observed::default() };
    let first = decide(&input(spec(5, 9), observed.clone(), Memory::default(), start()));
    assert_eq!((looks(&first), first.decision.to), (Some(true), 5));
    let memory = carry_out(&first, &mut observed);
    let up = decide(&input(spec(6, 9), observed.clone(), memory, start()));
    assert_eq!((looks(&up), up.decision.to), (Some(false), 6));
    let memory = carry_out(&up, &mut observed);
    let down = decide(&input(spec(1, 2), observed, memory, start()));
    assert_eq!((looks(&down), down.decision.to), (Some(true), 2));
}

#[test]
fn a_missing_secret_after_a_restart_keeps_the_template_and_still_scales() {
    let app = app(&json!({"replicas": {"min": 5, "max": 9}}));
    let mut deployment = live(&app, 3, 3);
    let missing_secret_keys = vec![("db".into(), "url".into())];
    let plan_for = |deployment: &Deployment| {
        let observed = Observed {
            deployment: Child::Owned(Box::new(deployment.clone())),
            missing_secret_keys: missing_secret_keys.clone(),
            ..Observed::default()
        };
        decide(&input(app.clone(), observed, Memory::default(), start()))
    };
    // Half made: a write of the replicas alone would take the template away.
    assert_eq!(kinds(&plan_for(&deployment).steps), [ChildKind::Service, ChildKind::DisruptionBudget]);
    deployment.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
        manager: Some(MANAGER.into()),
        operation: Some("Apply".into()),
        ..ManagedFieldsEntry::default()
    }]);
    let plan = plan_for(&deployment);
    assert_eq!(kinds(&plan.steps), [ChildKind::Service, ChildKind::DisruptionBudget, ChildKind::Replicas]);
    assert_eq!(plan.decision.to, 5);
    assert!(matches!(&plan.steps[2], Step::Scale { after_template: false, live: true, .. }));
}

#[test]
fn a_cache_that_the_running_template_uses_is_kept_while_the_new_template_waits() {
    let mut observed = Observed::default();
    let managed = app(&json!({ "cache": {"managed": {"memory": "64Mi"}} }));
    let first = decide(&input(managed, observed.clone(), Memory::default(), start()));
    let memory = carry_out(&first, &mut observed);
    observed.missing_secret_keys = vec![("cache".into(), "url".into())];
    let external = json!({ "urlFrom": { "secretKeyRef": { "name": "cache", "key": "url" } } });
    let plan = decide(&input(app(&json!({ "cache": { "external": external } })), observed, memory, start()));
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
}

#[test]
fn a_template_that_waits_does_not_forget_what_was_learned_of_the_one_that_runs() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    for _ in 0..20 {
        world.round(100.0);
    }
    let learned = world.history.last().unwrap().decision.evidence.capacity_per_replica.unwrap();
    world.observed.missing_secret_keys = vec![("db".into(), "url".into())];
    world.app.spec.image = Some("new".into());
    let kept = world.round(100.0).decision.evidence.capacity_per_replica.unwrap();
    assert!((0.9..1.1).contains(&(kept / learned)), "{learned}, then {kept}");
}

#[test]
fn secrets_that_cannot_be_read_hold_the_templates_and_not_the_replicas() {
    let managed = json!({ "cache": {"managed": {"memory": "64Mi"}}, "replicas": {"min": 5, "max": 9} });
    let mut deployment = live(&app(&managed), 3, 3);
    deployment.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
        manager: Some(MANAGER.into()),
        operation: Some("Apply".into()),
        ..ManagedFieldsEntry::default()
    }]);
    let observed = Observed {
        deployment: Child::Owned(Box::new(deployment)),
        secrets_unread: Some(Failure::of_read("read Secret posts-cache: forbidden".into(), true)),
        ..Observed::default()
    };
    let plan = decide(&input(app(&managed), observed, Memory::default(), start()));
    assert_eq!(
        kinds(&plan.steps),
        [ChildKind::CacheService, ChildKind::Service, ChildKind::DisruptionBudget, ChildKind::Replicas]
    );
    assert_eq!(plan.findings.failures.len(), 1);
}
