//! The PodDisruptionBudgets of the API and of a managed cache with failover.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plimsoll_crds::{ApiDeployment, CacheKind};

use super::{Component, cache_name, label_selector, metadata, name_of};
use crate::input::Bounds;

/// Builds the PodDisruptionBudget; none when it is switched off, or when there is never more than one replica: then it would
/// say nothing.
pub fn disruption_budget(app: &ApiDeployment) -> Option<PodDisruptionBudget> {
    let bounds = Bounds::of(&app.spec);
    let budget = &app.spec.disruption_budget;
    if budget.disabled.is_some() || bounds.max.max(bounds.pinned.unwrap_or(0)) <= 1 {
        return None;
    }
    Some(of(app, name_of(app).into(), Component::Api, budget.max_unavailable.clone()))
}

/// Builds the PodDisruptionBudget of the managed cache: of its servers one at a time, so that the others still agree. None
/// for a single server, which would keep its node from being drained.
pub fn cache_disruption_budget(app: &ApiDeployment) -> Option<PodDisruptionBudget> {
    let CacheKind::Managed(cache) = app.spec.cache.kind() else { return None };
    cache.fails_over().then(|| of(app, cache_name(app), Component::Cache, IntOrString::Int(1)))
}

fn of(
    app: &ApiDeployment,
    name: String,
    component: Component,
    max_unavailable: IntOrString,
) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(app, name, component),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(max_unavailable),
            selector: Some(label_selector(app, component)),
            // A replica that is broken anyway must not keep its node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
