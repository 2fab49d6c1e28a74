//! The API's PodDisruptionBudget.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use plimsoll_crds::ApiDeployment;

use super::{Component, label_selector, metadata, name_of};
use crate::input::Bounds;

/// Builds the PodDisruptionBudget; none when it is switched off, or when there is never more than one replica: then it would
/// say nothing.
pub fn disruption_budget(app: &ApiDeployment) -> Option<PodDisruptionBudget> {
    let bounds = Bounds::of(&app.spec);
    let budget = &app.spec.disruption_budget;
    if budget.disabled.is_some() || bounds.max.max(bounds.pinned.unwrap_or(0)) <= 1 {
        return None;
    }
    Some(PodDisruptionBudget {
        metadata: metadata(app, name_of(app).into(), Component::Api),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(budget.max_unavailable.clone()),
            selector: Some(label_selector(app, Component::Api)),
            // A replica that is broken anyway must not keep its node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
