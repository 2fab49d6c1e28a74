//! How the pods run: under which account, where, with which files, and how they are replaced.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::attach::AttachTo;
use crate::volumes::{Volume, VolumeMount};

/// Keys of labels and of annotations, as Kubernetes has them.
const QUALIFIED_NAME: &str =
    "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

/// Seconds that the bundled API needs from the signal to its end: its own drain, and its limit for requests in flight.
pub const DRAIN_SECONDS: i32 = 25;

/// How the pods run: under which account, where, with which files, and how they are replaced.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes) && self.volumes.exists(v, v.name == m.name))")
    .message("write under volumes each volume that volumeMounts names"))]
#[x_kube(validation = Rule::new("!self.automountServiceAccountToken || has(self.serviceAccountName)")
    .message("name the account in serviceAccountName whose token is to be mounted, or leave automountServiceAccountToken out"))]
pub struct Workload {
    /// An existing Deployment to scale, of any image that exposes a histogram of its request durations. It stays its
    /// owner's: nothing but its replicas is written, and deleting this resource leaves it as it is. Cannot be added, changed
    /// or removed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_to: Option<AttachTo>,

    /// ServiceAccount of the pods. Absent: the namespace's `default`, without a token. Who names one must be allowed to
    /// run pods in the namespace themselves, or to make tokens of that account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("write serviceAccountName as the ServiceAccount has it, such as posts"))]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,

    /// Mounts the token of `serviceAccountName` into the pods, so that the API can talk to the API server as that account.
    #[serde(default)]
    pub automount_service_account_token: bool,

    /// PriorityClass of the pods. Absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("write priorityClassName as the PriorityClass has it, such as business-critical"))]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new(format!("self.all(k, k.matches('{QUALIFIED_NAME}'))"))
        .message("write the keys of nodeSelector as labels have them, such as disktype or example.com/zone"))]
    #[schemars(extend("maxProperties" = 32), transform = values_of_labels)]
    pub node_selector: BTreeMap<String, String>,

    /// Rules by which nodes are required or preferred. As in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Taints that the pods bear. As in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(t, !has(t.operator) || t.operator in ['', 'Exists', 'Equal', 'Lt', 'Gt'])")
        .message("write each toleration's operator as Exists or Equal, or as Lt or Gt where the cluster has them"))]
    #[x_kube(validation = Rule::new("self.all(t, !has(t.effect) || t.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute'])")
        .message("write each toleration's effect as NoSchedule, PreferNoSchedule or NoExecute, or leave it out for all of them"))]
    #[x_kube(validation = Rule::new("self.all(t, has(t.operator) && t.operator == 'Exists' ? !has(t.value) || t.value == '' : has(t.key) && t.key != '')")
        .message("write each toleration's key, or operator: Exists alone for every taint; with Exists leave value out"))]
    #[x_kube(validation = Rule::new("self.all(t, !has(t.tolerationSeconds) || has(t.effect) && t.effect == 'NoExecute')")
        .message("write tolerationSeconds only with effect: NoExecute, of which alone it says how long the pod stays"))]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,

    /// How the pods are spread. Absent: evenly over zones and over nodes, as far as there is room; empty: not at all. A
    /// constraint without `labelSelector` is about the pods of this API, of the newest template alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.all(c, c.maxSkew >= 1 && c.topologyKey != '' && (!has(c.minDomains) || c.minDomains >= 1))")
        .message("write each constraint's topologyKey, such as topology.kubernetes.io/zone, and its maxSkew and minDomains from 1 on"))]
    #[x_kube(validation = Rule::new("self.all(c, c.whenUnsatisfiable == 'DoNotSchedule' || c.whenUnsatisfiable == 'ScheduleAnyway' && !has(c.minDomains))")
        .message("write each constraint's whenUnsatisfiable as ScheduleAnyway, or as DoNotSchedule, with which alone minDomains goes"))]
    #[x_kube(validation = Rule::new("self.all(c, (!has(c.nodeAffinityPolicy) || c.nodeAffinityPolicy in ['Honor', 'Ignore']) && (!has(c.nodeTaintsPolicy) || c.nodeTaintsPolicy in ['Honor', 'Ignore']))")
        .message("write nodeAffinityPolicy and nodeTaintsPolicy as Honor or Ignore"))]
    #[schemars(length(max = 8))]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,

    /// Volumes of the pods, beside the operator's own empty `/data` and `/tmp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub volumes: Vec<Volume>,

    /// Where the volumes appear in the API's container. Everything else of it can only be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["mountPath".into()]))]
    pub volume_mounts: Vec<VolumeMount>,

    /// Labels added to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new(format!("self.all(k, k.matches('{QUALIFIED_NAME}'))"))
        .message("write a label's key in up to 63 letters, digits, dashes, underscores and dots, such as team, after a domain and a slash if need be"))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('plimsoll.dev/') && !k.startsWith('app.kubernetes.io/'))")
        .message("rename the label: those that begin with plimsoll.dev/ or app.kubernetes.io/ are set by the operator"))]
    #[schemars(extend("maxProperties" = 32), transform = values_of_labels)]
    pub labels: BTreeMap<String, String>,

    /// Annotations added to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new(format!("self.all(k, k.lowerAscii().matches('{QUALIFIED_NAME}'))"))
        .message("write an annotation's key in up to 63 letters, digits, dashes, underscores and dots, such as note, after a domain and a slash if need be"))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('plimsoll.dev/'))")
        .message("rename the annotation: those that begin with plimsoll.dev/ are set by the operator"))]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,

    /// How pods are replaced when their template changes.
    #[serde(default)]
    pub strategy: Strategy,

    /// How a pod ends.
    #[serde(default)]
    pub drain: Drain,
}

/// How pods are replaced when their template changes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!((self.maxSurge == 0 || self.maxSurge == '0%') && (self.maxUnavailable == 0 || self.maxUnavailable == '0%'))")
    .message("raise maxSurge or maxUnavailable: with both at zero no pod can be replaced"))]
pub struct Strategy {
    /// Pods above the wanted number during a rollout, as a number or a percentage, which is rounded up.
    #[serde(default = "default_max_surge")]
    #[schemars(schema_with = "count_or_percent")]
    pub max_surge: IntOrString,
    /// Pods below the wanted number during a rollout, as a number or a percentage, which is rounded down.
    #[serde(default = "default_max_unavailable")]
    #[schemars(schema_with = "count_or_percent")]
    pub max_unavailable: IntOrString,
}

/// How a pod ends.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.graceSeconds > self.sleepSeconds")
    .message("raise graceSeconds above sleepSeconds: the process would be killed before it is told to end"))]
pub struct Drain {
    /// Seconds between the decision to end a pod and the signal to its process, in which the endpoints hear of it.
    #[serde(default = "default_sleep")]
    #[schemars(range(min = 0, max = 300))]
    pub sleep_seconds: i32,
    /// Seconds from the decision until the process is killed: the sleep, and what the API needs to finish. The bundled API
    /// needs 25.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 1, max = 3600))]
    pub grace_seconds: i32,
}

impl Default for Strategy {
    fn default() -> Self {
        Self { max_surge: default_max_surge(), max_unavailable: default_max_unavailable() }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { sleep_seconds: default_sleep(), grace_seconds: default_grace() }
    }
}

fn default_max_surge() -> IntOrString {
    IntOrString::String("25%".into())
}

fn default_max_unavailable() -> IntOrString {
    IntOrString::Int(0)
}

fn default_sleep() -> i32 {
    5
}

/// The sleep, what the bundled API needs, and room to spare.
fn default_grace() -> i32 {
    45
}

/// What the value of a label is: up to 63 letters, digits, dashes, underscores and dots, or nothing.
fn values_of_labels(schema: &mut Schema) {
    if let Some(values) =
        schema.pointer_mut("/additionalProperties").and_then(serde_json::Value::as_object_mut)
    {
        values.insert("maxLength".into(), 63.into());
        values.insert("pattern".into(), "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$".into());
    }
}

/// A number from 0 on, or a percentage up to 100%.
fn count_or_percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true, "minimum": 0, "pattern": "^(100|[1-9]?[0-9])%$" })
}
