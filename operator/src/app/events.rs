//! Tells people, by Events, of changes of scale, of other numbers that are recommended, and of conditions that have turned bad. A lost
//! Event fails nothing.

use std::time::Instant;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource as _;
use kube_runtime::events::{Event, EventType};
use plimsoll_core::Plan;
use plimsoll_crds::{ApiDeployment, ApiDeploymentStatus, ConditionType, reason};
use tracing::debug;

use super::Context;
use crate::leader::WRITE_TIMEOUT;

/// Longest note that the API server takes, in bytes.
const NOTE_BYTES_MAX: usize = 1000;

/// What is worth a warning once it has become so.
const BAD: [(ConditionType, &str); 7] = [
    (ConditionType::Stalled, "True"),
    (ConditionType::ScalingLimited, "True"),
    (ConditionType::MetricsAvailable, "False"),
    (ConditionType::CacheReady, "False"),
    (ConditionType::ScalerConflict, "True"),
    (ConditionType::CacheEffective, "False"),
    (ConditionType::DatabaseConnectionsSufficient, "False"),
];

/// Tells of a change of scale.
pub async fn of_decision(ctx: &Context, app: &ApiDeployment, plan: &Plan) {
    let decision = &plan.decision;
    let reason = match decision.to.cmp(&decision.from) {
        std::cmp::Ordering::Equal => return,
        std::cmp::Ordering::Greater => "ScaledUp",
        std::cmp::Ordering::Less => "ScaledDown",
    };
    let note = format!(
        "from {} to {} replicas: {}: {}",
        decision.from,
        decision.to,
        decision.reason.as_str(),
        decision.message
    );
    // For six minutes the recorder takes Events of the same reason and action for one, and keeps the note of the first.
    let action = format!("Scale{}To{}", decision.from, decision.to);
    publish(ctx, app, EventType::Normal, reason, note, &action).await;
}

/// Tells of what a status says that the one before did not: of conditions that have turned bad, with the reason of the condition,
/// and of another recommended number where none is written.
pub async fn of_status(
    ctx: &Context,
    app: &ApiDeployment,
    before: &ApiDeploymentStatus,
    next: &ApiDeploymentStatus,
) {
    for condition in turned_bad(before, next) {
        let note = condition.message.clone();
        publish(ctx, app, EventType::Warning, &condition.reason, note, "Reconcile").await;
    }
    if let Some((from, to)) = newly_recommended(before, next) {
        let note = format!("{to} replicas are recommended in place of {from}");
        publish(ctx, app, EventType::Normal, "Recommended", note, &format!("Recommend{to}")).await;
    }
}

/// Conditions that are bad for a reason that is new.
fn turned_bad<'a>(
    before: &'a ApiDeploymentStatus,
    next: &'a ApiDeploymentStatus,
) -> impl Iterator<Item = &'a Condition> {
    next.conditions.iter().filter(|condition| {
        let bad = BAD.iter().any(|(type_, status)| condition.type_ == type_.as_str() && condition.status == *status)
            // More replicas than the load needs are what the spec asks for.
            && condition.reason != reason::TOO_FEW_REPLICAS;
        let known = before.conditions.iter().any(|old| {
            old.type_ == condition.type_ && old.status == condition.status && old.reason == condition.reason
        });
        // A cache that is just being made is not one that has failed.
        let first = condition.type_ == ConditionType::CacheReady.as_str()
            && !before.conditions.iter().any(|old| old.type_ == condition.type_);
        bad && !known && !first
    })
}

/// The number before and the one that is recommended now, while it is for others to write it.
fn newly_recommended(before: &ApiDeploymentStatus, next: &ApiDeploymentStatus) -> Option<(i32, i32)> {
    let only_recommends = next.conditions.iter().any(|condition| {
        condition.type_ == ConditionType::ScalingActive.as_str()
            && [reason::RECOMMEND, reason::SCALER_CONFLICT].contains(&condition.reason.as_str())
    });
    let from = before.recommended_replicas.or(next.replicas)?;
    let to = next.recommended_replicas?;
    (only_recommends && from != to).then_some((from, to))
}

async fn publish(
    ctx: &Context,
    app: &ApiDeployment,
    type_: EventType,
    reason: &str,
    mut note: String,
    action: &str,
) {
    let Some(_pass) = ctx.fence.pass(Instant::now()) else { return };
    while note.len() > NOTE_BYTES_MAX {
        note.pop();
    }
    let event =
        Event { type_, reason: reason.into(), note: Some(note), action: action.into(), secondary: None };
    // Without the version, which would make each repetition an Event of its own.
    let reference = ObjectReference { resource_version: None, ..app.object_ref(&()) };
    match tokio::time::timeout(WRITE_TIMEOUT, ctx.recorder.publish(&event, &reference)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, reason, "an Event could not be published"),
        Err(_) => debug!(reason, "an Event could not be published in time"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> ApiDeploymentStatus {
        let conditions = conditions.iter().map(|(type_, status, reason)| {
            json!({ "type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2030-01-01T00:00:00Z" })
        });
        let conditions: Vec<Value> = conditions.collect();
        serde_json::from_value(json!({ "replicas": 2, "conditions": conditions })).unwrap()
    }

    fn told(before: &[(&str, &str, &str)], next: &[(&str, &str, &str)]) -> usize {
        turned_bad(&status(before), &status(next)).count()
    }

    #[test]
    fn each_condition_that_can_be_bad_is_told_once() {
        for (type_, bad) in BAD {
            let good = if bad == "True" { "False" } else { "True" };
            let (good, bad) = ([(type_.as_str(), good, "Well")], [(type_.as_str(), bad, "Broken")]);
            assert_eq!(told(&good, &bad), 1, "{type_:?} turns bad");
            assert_eq!(told(&bad, &bad), 0, "{type_:?} stays as it is");
            assert_eq!(
                told(&[(bad[0].0, bad[0].1, "Other")], &bad),
                1,
                "{type_:?} is bad for another reason"
            );
            assert_eq!(told(&bad, &good), 0, "{type_:?} turns good");
        }
    }

    #[test]
    fn what_is_as_asked_for_or_just_begins_is_not_told() {
        assert_eq!(told(&[], &[("ScalingLimited", "True", reason::TOO_FEW_REPLICAS)]), 0);
        assert_eq!(told(&[], &[("CacheReady", "False", reason::CACHE_UNAVAILABLE)]), 0);
        assert_eq!(told(&[], &[("CacheEffective", "False", reason::CACHE_TOO_SMALL)]), 1);
    }

    #[test]
    fn another_number_is_told_while_it_is_only_recommended() {
        let with = |recommended: Option<i32>, why: &str| {
            let scaling = [("ScalingActive", if why == reason::ENABLED { "True" } else { "False" }, why)];
            ApiDeploymentStatus { recommended_replicas: recommended, ..status(&scaling) }
        };
        for why in [reason::RECOMMEND, reason::SCALER_CONFLICT] {
            assert_eq!(newly_recommended(&with(Some(3), why), &with(Some(5), why)), Some((3, 5)));
            assert_eq!(newly_recommended(&with(Some(5), why), &with(Some(5), why)), None);
            assert_eq!(newly_recommended(&with(None, why), &with(Some(5), why)), Some((2, 5)), "the first");
            assert_eq!(newly_recommended(&with(None, why), &with(Some(2), why)), None, "what there is");
        }
        assert_eq!(newly_recommended(&with(Some(3), reason::ENABLED), &with(Some(5), reason::ENABLED)), None);
    }
}
