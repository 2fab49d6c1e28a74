//! A Deployment that is attached to, and others who scale the same one.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{World, app, carry_out, input, live, start};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, OwnerReference};
use plimsoll_core::conflict::Rival;
use plimsoll_core::input::{Child, Observed};
use plimsoll_core::memory::Memory;
use plimsoll_core::plan::{Plan, Reason, Step};
use plimsoll_core::status::{Outcome, next};
use plimsoll_core::{decide, in_force, selector_text, with_resources_of};
use plimsoll_crds::{ApiDeployment, reason};
use serde_json::{Value, json};

fn attached(spec: &Value) -> ApiDeployment {
    let mut whole = json!({ "workload": { "attachTo": { "name": "checkout" } }, "database": null, "cache": { "managed": {} } });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    in_force(app(&whole))
}

fn target(replicas: i32) -> Deployment {
    let mut deployment = live(&app(&json!({})), replicas, replicas);
    deployment.metadata.name = Some("checkout".into());
    deployment.metadata.owner_references = None;
    deployment
}

fn observed(deployment: Deployment) -> Observed {
    Observed { deployment: Child::Attached(Box::new(deployment)), ..Observed::default() }
}

fn decided(app: &ApiDeployment, observed: &Observed) -> Plan {
    decide(&input(app.clone(), observed.clone(), Memory::default(), start()))
}

fn condition(app: &ApiDeployment, plan: &Plan, type_: &str) -> Option<(String, String, String)> {
    let status = next(app, Outcome::Planned { findings: &plan.findings, decision: &plan.decision }, start());
    let found = status.conditions.into_iter().find(|condition| condition.type_ == type_)?;
    Some((found.status, found.reason, found.message))
}

#[test]
fn the_replicas_are_the_one_thing_that_is_written() {
    let app = attached(&json!({ "replicas": { "min": 3, "max": 9 } }));
    let plan = decided(&app, &observed(target(2)));
    let [Step::Scale { name, uid, change, live, after_template }] = &plan.steps[..] else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!((name.as_str(), uid.as_deref()), ("checkout", Some("deployment-uid")));
    assert_eq!((change.from, change.to), (2, 3));
    assert!(*live && !after_template);
}

#[test]
fn what_was_written_and_confirmed_is_followed_by_a_plan_without_steps() {
    let app = attached(&json!({ "replicas": { "min": 1, "max": 9 } }));
    let mut observed = observed(target(2));
    let plan = decided(&app, &observed);
    assert_eq!(plan.steps.len(), 1, "the field has to have its manager");
    assert_eq!(plan.decision.to, 2, "the number that is found is kept");
    let mut memory = plan.memory.clone();
    for step in &plan.steps {
        let Step::Scale { change, .. } = step else { panic!("{step:?}") };
        let Child::Attached(deployment) = &mut observed.deployment else { panic!("attached") };
        deployment.spec.as_mut().unwrap().replicas = Some(change.to);
        memory.record_applied(
            step.kind(),
            plimsoll_core::memory::Applied {
                hash: plimsoll_core::replicas_hash(change.to),
                uid: "deployment-uid".into(),
                version: "1".into(),
            },
        );
    }
    assert!(decide(&input(app, observed, memory, start())).steps.is_empty());
}

#[test]
fn without_its_target_it_waits_and_says_for_what() {
    let app = attached(&json!({}));
    let plan = decided(&app, &Observed::default());
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    assert_eq!(plan.decision.reason, Reason::TargetNotFound);
    for type_ in ["Ready", "Stalled", "ScalingActive"] {
        let (_, reason, _) = condition(&app, &plan, type_).unwrap();
        assert_eq!(reason, reason::TARGET_NOT_FOUND, "{type_}");
    }
    let (_, _, message) = condition(&app, &plan, "Ready").unwrap();
    assert!(message.contains("Deployment checkout"), "{message}");
}

#[test]
fn stored_defaults_of_what_does_not_apply_say_nothing() {
    let app = attached(&json!({ "replicas": { "min": 5, "max": 9 } }));
    let plan = decided(&app, &observed(target(2)));
    assert_eq!(plan.decision.to, 5, "no database inside the pod keeps it at one replica");
    assert_eq!(plan.findings.cache_ready, None);
    let status = next(&app, Outcome::Planned { findings: &plan.findings, decision: &plan.decision }, start());
    assert_eq!(status.cache, None);
    assert_eq!(status.selector.as_deref(), Some("app.kubernetes.io/component=api,plimsoll.dev/app=posts"));
}

#[test]
fn the_selector_is_the_deployments_own_with_its_expressions() {
    let deployment = serde_json::from_value(json!({
        "metadata": {}, "spec": { "template": {}, "selector": {
            "matchLabels": { "app": "checkout" },
            "matchExpressions": [
                { "key": "tier", "operator": "In", "values": ["web", "api"] },
                { "key": "old", "operator": "DoesNotExist" },
                { "key": "track", "operator": "NotIn", "values": ["canary"] },
                { "key": "team", "operator": "Exists" },
            ],
        } },
    }))
    .unwrap();
    assert_eq!(selector_text(&deployment), "app=checkout,tier in (web,api),!old,track notin (canary),team");
}

#[test]
fn the_limits_are_those_of_the_container_that_is_scraped() {
    let deployment = serde_json::from_value(json!({
        "metadata": {}, "spec": { "selector": {}, "template": { "spec": { "containers": [
            { "name": "sidecar", "resources": { "limits": { "cpu": "50m" } } },
            { "name": "api", "ports": [{ "containerPort": 8080 }], "resources": { "limits": { "cpu": "2" } } },
        ] } } },
    }))
    .unwrap();
    let app = with_resources_of(attached(&json!({})), &deployment);
    assert_eq!(app.spec.resources.limits.unwrap()["cpu"].0, "2");
}

fn rivals(observed: &mut Observed, rivals: &[Rival]) {
    observed.rivals = rivals.to_vec();
}

fn hpa() -> Rival {
    Rival::Autoscaler { name: "checkout-hpa".into(), scaled_object: None }
}

#[test]
fn while_an_autoscaler_is_there_a_number_is_recommended_and_none_written() {
    for pinned in [Value::Null, json!(7)] {
        let app = attached(&json!({ "replicas": { "min": 3, "max": 9, "pinned": pinned } }));
        let mut observed = observed(target(2));
        rivals(&mut observed, &[hpa()]);
        let plan = decided(&app, &observed);
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
        assert_eq!((plan.decision.to, plan.decision.reason), (2, Reason::ScalerConflict));
        assert_eq!(plan.decision.recommended, if pinned.is_null() { 3 } else { 7 });
        let (status, reason, message) = condition(&app, &plan, "ScalerConflict").unwrap();
        assert_eq!((status.as_str(), reason.as_str()), ("True", reason::AUTOSCALER_ON_TARGET));
        assert!(message.contains("HorizontalPodAutoscaler checkout-hpa"), "{message}");
        let (status, reason, _) = condition(&app, &plan, "ScalingActive").unwrap();
        assert_eq!((status.as_str(), reason.as_str()), ("False", reason::SCALER_CONFLICT));
    }
}

#[test]
fn an_autoscaler_of_the_resource_itself_is_named_and_what_it_pins_is_carried_out() {
    let app = attached(&json!({ "replicas": { "min": 3, "max": 9, "pinned": 5 } }));
    let mut observed = observed(target(2));
    rivals(&mut observed, &[Rival::Pinning { name: "checkout-hpa".into(), scaled_object: None }]);
    let plan = decided(&app, &observed);
    assert_eq!((plan.decision.to, plan.decision.reason), (5, Reason::Pinned));
    assert!(!plan.steps.is_empty());
    let (status, reason, message) = condition(&app, &plan, "ScalerConflict").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", reason::AUTOSCALER_PINS));
    assert!(
        message.starts_with("HorizontalPodAutoscaler checkout-hpa scales this ApiDeployment"),
        "{message}"
    );
}

#[test]
fn who_only_recommends_is_in_nobodys_way() {
    let app = attached(&json!({ "scaling": { "mode": "Recommend" } }));
    let mut observed = observed(target(2));
    rivals(&mut observed, &[hpa()]);
    let plan = decided(&app, &observed);
    assert_eq!(condition(&app, &plan, "ScalerConflict"), None);
}

#[test]
fn an_own_deployment_goes_on_being_applied_beside_an_autoscaler() {
    let app = app(&json!({ "replicas": { "min": 3, "max": 9 } }));
    let mut observed = Observed::default();
    rivals(&mut observed, &[hpa()]);
    let plan = decided(&app, &observed);
    assert!(plan.steps.iter().any(|step| matches!(step, Step::CreateDeployment { .. })), "it has to be made");
    let memory = carry_out(&plan, &mut observed);
    let Child::Owned(deployment) = &mut observed.deployment else { panic!("made") };
    deployment.spec.as_mut().unwrap().replicas = Some(8);
    let plan = decide(&input(app, observed, memory, start()));
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::Scale { .. })), "{:?}", plan.steps);
    assert_eq!(plan.decision.to, 8);
}

#[test]
fn a_resource_that_runs_the_deployment_goes_before_one_that_is_attached_to_it() {
    let app = attached(&json!({ "replicas": { "min": 3, "max": 9 } }));
    let mut deployment = target(2);
    deployment.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "plimsoll.dev/v1alpha1".into(),
        kind: "ApiDeployment".into(),
        name: "owner".into(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    let plan = decided(&app, &observed(deployment));
    assert!(plan.steps.is_empty());
    let (_, reason, message) = condition(&app, &plan, "ScalerConflict").unwrap();
    assert_eq!(reason, reason::ALREADY_SCALED);
    assert!(message.contains("ApiDeployment owner"), "{message}");
}

/// A Deployment whose replicas somebody else has written.
fn written_by(mut deployment: Deployment, manager: &str) -> Deployment {
    deployment.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
        manager: Some(manager.into()),
        operation: Some("Update".into()),
        fields_v1: Some(FieldsV1(json!({ "f:spec": { "f:replicas": {} } }))),
        ..ManagedFieldsEntry::default()
    }]);
    deployment
}

#[test]
fn a_number_that_is_written_over_ours_is_told_for_ten_minutes() {
    let app = app(&json!({}));
    let mut world = World::new(app.clone(), 1);
    world.decide(None);
    let before = world.history.last().unwrap();
    assert_eq!(condition(&app, before, "ScalerConflict"), None);
    let Child::Owned(deployment) = &mut world.observed.deployment else { panic!("made") };
    deployment.spec.as_mut().unwrap().replicas = Some(9);
    **deployment = written_by(deployment.as_ref().clone(), "kubectl-edit");
    let mut memory = world.memory.clone();
    for (minutes, told) in [(0, true), (9, true), (11, false)] {
        let now = start() + SignedDuration::from_mins(minutes);
        let plan = decide(&input(app.clone(), world.observed.clone(), memory.clone(), now));
        let found = condition(&app, &plan, "ScalerConflict");
        assert_eq!(found.is_some(), told, "after {minutes} minutes: {found:?}");
        if let Some((_, reason, message)) = found {
            assert_eq!(reason, reason::REPLICAS_OVERWRITTEN);
            assert!(message.contains("kubectl-edit") && message.contains('9'), "{message}");
        }
        memory = carry_out(&plan, &mut world.observed.clone());
        if let Child::Owned(deployment) = &mut world.observed.deployment {
            deployment.metadata.managed_fields = None;
        }
    }
}

#[test]
fn who_wrote_the_replicas_before_us_is_no_conflict() {
    let app = attached(&json!({}));
    let plan = decided(&app, &observed(written_by(target(4), "argocd-controller")));
    assert_eq!(condition(&app, &plan, "ScalerConflict"), None);
    assert_eq!(plan.decision.to, 4);
}
