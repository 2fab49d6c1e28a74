//! How the API's pods are spread over the cluster.

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use plimsoll_crds::ApiDeployment;

use super::{Component, TEMPLATE_HASH_LABEL, label_selector};

/// Label of nodes that names their zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of nodes that names themselves.
const HOST: &str = "kubernetes.io/hostname";

/// The constraints: the user's, or an even spread over zones and over nodes as far as there is room. Each counts the pods of
/// one template only, so that the pods that a rollout replaces do not push the new ones aside.
pub fn spread(app: &ApiDeployment) -> Option<Vec<TopologySpreadConstraint>> {
    let constraints = match &app.spec.workload.topology_spread_constraints {
        Some(written) => written.iter().map(|constraint| completed(app, constraint)).collect(),
        None => vec![evenly(app, ZONE), evenly(app, HOST)],
    };
    (!constraints.is_empty()).then_some(constraints)
}

fn evenly(app: &ApiDeployment, topology_key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        label_selector: Some(label_selector(app, Component::Api)),
        match_label_keys: Some(vec![TEMPLATE_HASH_LABEL.into()]),
        max_skew: 1,
        topology_key: topology_key.into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        ..TopologySpreadConstraint::default()
    }
}

/// The constraint as written; one that does not say which pods it counts counts those of this API.
fn completed(app: &ApiDeployment, constraint: &TopologySpreadConstraint) -> TopologySpreadConstraint {
    let mut constraint = constraint.clone();
    if constraint.label_selector.is_none() {
        constraint.label_selector = Some(label_selector(app, Component::Api));
        constraint.match_label_keys.get_or_insert_with(|| vec![TEMPLATE_HASH_LABEL.into()]);
    }
    constraint
}
