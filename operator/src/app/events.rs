//! Tells people, by Events, of changes of scale and of conditions that have turned bad. A lost Event fails nothing.

use std::time::Instant;

use k8s_openapi::api::core::v1::ObjectReference;
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

/// Tells of conditions that have turned bad, with the reason of the condition.
pub async fn of_conditions(
    ctx: &Context,
    app: &ApiDeployment,
    before: &ApiDeploymentStatus,
    next: &ApiDeploymentStatus,
) {
    for condition in &next.conditions {
        let bad = BAD.iter().any(|(type_, status)| condition.type_ == type_.as_str() && condition.status == *status)
            // More replicas than the load needs are what the spec asks for.
            && condition.reason != reason::TOO_FEW_REPLICAS;
        let known = before.conditions.iter().any(|old| {
            old.type_ == condition.type_ && old.status == condition.status && old.reason == condition.reason
        });
        // A cache that is just being made is not one that has failed.
        let first = condition.type_ == ConditionType::CacheReady.as_str()
            && !before.conditions.iter().any(|old| old.type_ == condition.type_);
        if bad && !known && !first {
            publish(ctx, app, EventType::Warning, &condition.reason, condition.message.clone(), "Reconcile")
                .await;
        }
    }
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
