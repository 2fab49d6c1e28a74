//! The status: what the operator has seen and done, in words that change only when their meaning does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cache::CacheStatus;
use crate::condition::{ConditionType, reason};

/// What the operator last saw and did.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = unseen()))]
pub struct ApiDeploymentStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Replicas that the operator wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Replicas that the load asks for, within the bounds, floors and rates of the spec: what would be wanted if nothing
    /// were pinned, paused, only recommended or left to another autoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommended_replicas: Option<i32>,

    /// Replicas that pass their readiness probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// Label selector of the pods, as the scale subresource wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Latency over the last window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyStatus>,

    /// The last decision that changed something or whose reason changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<LastDecision>,

    /// What was learned of the replicas, so that it need not be learned again after a restart of the operator. It is
    /// written when it has changed by more than a tenth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<LearnedStatus>,

    /// The cache as it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheStatus>,

    /// Conditions, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Latency over the last window, rounded to two digits so that noise is not news.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LatencyStatus {
    /// 95th percentile, as a duration; absent while there are too few requests to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<String>,
    /// 99th percentile, as a duration; absent while there are too few requests to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<String>,
    /// All targets, as a person reads them: `p95<100ms p99<250ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A decision about replicas.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastDecision {
    /// When it was taken.
    pub time: Time,
    /// Replicas wanted before.
    pub from: i32,
    /// Replicas wanted since.
    pub to: i32,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// Why, with the numbers.
    pub message: String,
}

/// What was learned of the replicas of one pod template.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LearnedStatus {
    /// Hash of the pod template that it is about.
    pub template: String,
    /// What one replica carries, by target.
    pub capacities: Vec<LearnedCapacityStatus>,
    /// Time within which 90 % of new replicas are ready, as a duration; absent before one was seen to become so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<String>,
    /// Median time of a request without load, as a duration.
    pub typical: String,
    /// Requests per second that all replicas complete together at most, as a decimal number, because of something that they share,
    /// such as a database; absent while no such limit is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_requests_per_second: Option<String>,
}

/// What one replica carries within a target.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LearnedCapacityStatus {
    /// The target, as a person reads it: `p99<250ms`.
    pub target: String,
    /// Requests per second of one replica that just keep to it, as a decimal number.
    pub requests_per_second: String,
    /// How far that may be off, in percent.
    pub uncertainty_percent: i32,
    /// Requests per second at which a replica that has just become ready, and is still cold, is late with 20 times as many as the
    /// target allows (at most a quarter of them), as a decimal number; absent before one was seen to become ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_requests_per_second: Option<String>,
    /// How far that may be off, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_uncertainty_percent: Option<i32>,
}

/// What the API server tells of a resource that no operator has seen yet. Helm and Flux take an object without conditions for one
/// that is ready (<https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>).
fn unseen() -> Value {
    json!({ "conditions": [{
        "type": ConditionType::Ready.as_str(), "status": "Unknown", "reason": reason::PENDING,
        "message": "no operator has seen this resource yet", "lastTransitionTime": "1970-01-01T00:00:00Z",
    }] })
}
