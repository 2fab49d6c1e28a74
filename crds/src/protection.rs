//! What protects the replicas: from evictions that come together, and from peers that have no business with them.

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::app::Disabled;

/// How many replicas the drain of nodes and other evictions may take at a time.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudget {
    /// At most this many, as a number or a percentage, which is rounded up. Zero would keep every node from being drained,
    /// and is not offered.
    #[serde(default = "default_max_unavailable")]
    #[schemars(schema_with = "count_or_percent")]
    pub max_unavailable: IntOrString,

    /// No PodDisruptionBudget. It counts before `maxUnavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

/// Who may connect to the replicas. It restricts only what comes in. The operator's namespace may always read the metrics,
/// and a managed cache takes connections from the replicas and the operator's namespace only; its exporter is read by whom
/// `metricsFrom` names, too.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Who may connect to `spec.port`. Absent or empty: anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub from: Vec<NetworkPolicyPeer>,

    /// Who may read the metrics beside the operator, such as a Prometheus: where `spec.metrics.port` is a port of its own, and
    /// those of the managed cache's exporter. Absent or empty: nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub metrics_from: Vec<NetworkPolicyPeer>,
}

impl Default for DisruptionBudget {
    fn default() -> Self {
        Self { max_unavailable: default_max_unavailable(), disabled: None }
    }
}

fn default_max_unavailable() -> IntOrString {
    IntOrString::Int(1)
}

/// A number from 1 on, or a percentage from 1% to 100%.
fn count_or_percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true, "minimum": 1, "pattern": "^(100|[1-9][0-9]?)%$" })
}
