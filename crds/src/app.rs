//! The spec: what a platform team promises for one API.

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::Cache;
use crate::database::Database;
use crate::environment::{EnvFrom, ImagePullSecret};
use crate::metrics::Metrics;
use crate::percentile::Percentile;
use crate::probes::Probes;
use crate::protection::{DisruptionBudget, NetworkPolicy};
use crate::scaling::Scaling;
use crate::status::ApiDeploymentStatus;
use crate::workload::Workload;

/// Describes an HTTP API by its latency promise; the operator scales it to keep that.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "plimsoll.dev",
    version = "v1alpha1",
    kind = "ApiDeployment",
    plural = "apideployments",
    shortname = "apid",
    category = "all",
    namespaced,
    status = "ApiDeploymentStatus",
    derive = "PartialEq",
    doc = "An HTTP API that is scaled by its latency promise.",
    scale(
        spec_replicas_path = ".spec.replicas.pinned",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Min", type_ = "integer", json_path = ".spec.replicas.min"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.replicas.max"),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".status.replicas",
        description = "Replicas the operator wants"
    ),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "P95", type_ = "string", json_path = ".status.latency.p95"),
    printcolumn(name = "P99", type_ = "string", json_path = ".status.latency.p99"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.latency.target"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.lastDecision.reason",
        description = "Why the last decision was taken"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("shorten metadata.name to at most 40 characters: children are named after it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("write metadata.name as a DNS label that begins with a letter, such as posts: a Service is named after it"),
    validation = Rule::new("has(self.spec.image) || self.spec.workload.drain.graceSeconds >= self.spec.workload.drain.sleepSeconds + 25")
        .message("raise workload.drain.graceSeconds to at least sleepSeconds + 25: the bundled API finishes its requests in that time")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = crate::attach::add_rules)]
pub struct ApiDeploymentSpec {
    /// Container image of the API. Absent means the bundled API service of this operator's version.
    /// An image of your own has to expose a Prometheus histogram of its request durations (see `metrics`), and to run as user
    /// 10001 with a root file system that cannot be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self != '' && !self.matches('\\\\s')")
        .message("write an image reference such as ghcr.io/acme/posts:1.4.2, or leave image out for the bundled API"))]
    #[schemars(length(max = 512))]
    pub image: Option<String>,

    /// When the kubelet pulls the image: `Always`, `IfNotPresent` or `Never`. Absent: Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self in ['Always', 'IfNotPresent', 'Never']")
        .message("imagePullPolicy is one of Always, IfNotPresent, Never"))]
    pub image_pull_policy: Option<String>,

    /// Secrets with the credentials of the image's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<ImagePullSecret>,

    /// Program of the container, in place of the image's entrypoint. There is no shell around it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,

    /// Arguments, in place of the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 4096)))]
    pub args: Vec<String>,

    /// The promise. At least one target is required.
    pub latency: Latency,

    /// A second promise: the share of requests that may end with an error of the server (a status from 500 on), as a
    /// percentage such as `0.1%`. The histogram must tell the status in a label `status`,
    /// `code`, `status_code` or `http_response_status_code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+([.][0-9]+)?%$') && double(self.replace('%', '')) >= 0.001 && double(self.replace('%', '')) <= 50.0")
        .message("write a percentage from 0.001% to 50%, such as 0.1%"))]
    #[schemars(length(max = 16))]
    pub error_rate: Option<String>,

    /// How many replicas the operator may run.
    #[serde(default)]
    pub replicas: Replicas,

    /// The user's hands on scaling: modes, pauses, floors by the time of day, rates.
    #[serde(default)]
    pub scaling: Scaling,

    /// TCP port on which the API serves HTTP/1.1, inside the pod.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Where hot reads are cached. Exactly one of `managed`, `external` and `disabled`.
    #[serde(default)]
    pub cache: Cache,

    /// Where the bundled API keeps its data. Exactly one of `embedded` and `external`. Absent means `embedded`
    /// for the bundled image and nothing for any other image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,

    /// CPU and memory of each replica. Set a CPU limit or request: a replica's capacity follows from it.
    #[serde(default = "default_resources")]
    #[x_kube(
        validation = Rule::new("!has(self.requests) || self.requests.all(k, type(self.requests[k]) == string ? (isQuantity(self.requests[k]) && !quantity(self.requests[k]).isLessThan(quantity('0'))) : int(self.requests[k]) >= 0)")
            .message("write each of resources.requests as a quantity that is not negative, such as cpu: 100m or memory: 64Mi"),
        validation = Rule::new("!has(self.limits) || self.limits.all(k, type(self.limits[k]) == string ? (isQuantity(self.limits[k]) && quantity(self.limits[k]).isGreaterThan(quantity('0'))) : int(self.limits[k]) > 0)")
            .message("write each of resources.limits as a quantity above zero, such as cpu: 500m or memory: 256Mi, or leave it out for no limit"),
        validation = Rule::new("!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || (type(self.requests[k]) == string && !isQuantity(self.requests[k])) || (type(self.limits[k]) == string && !isQuantity(self.limits[k])) || (type(self.requests[k]) == string ? quantity(self.requests[k]) : quantity('0').add(int(self.requests[k]))).compareTo(type(self.limits[k]) == string ? quantity(self.limits[k]) : quantity('0').add(int(self.limits[k]))) <= 0)")
            .message("lower resources.requests or raise resources.limits: a request is above the limit of the same name"),
        validation = Rule::new("!has(self.claims) || size(self.claims) == 0")
            .message("leave resources.claims out: the pods have no resource claims that it could name")
    )]
    #[schemars(transform = bound_resources)]
    pub resources: ResourceRequirements,

    /// Probes of each replica. The defaults fit the bundled API.
    #[serde(default)]
    pub probes: Probes,

    /// Environment of the API's container, added to what the operator sets. Names that begin with `PLIMSOLL_` are
    /// the operator's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(e, !e.name.startsWith('PLIMSOLL_'))")
        .message("rename the variable: names that begin with PLIMSOLL_ are set by the operator"))]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,

    /// All keys of ConfigMaps and Secrets as environment variables. What the operator and `env` set wins; of two with the
    /// same key the later one does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub env_from: Vec<EnvFrom>,

    /// How the pods run: account, place, files, replacement, end.
    #[serde(default)]
    pub workload: Workload,

    /// How many replicas may be evicted at a time, once `replicas.max` is above 1.
    #[serde(default)]
    pub disruption_budget: DisruptionBudget,

    /// Who may connect to the replicas. Absent: whoever the cluster lets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,

    /// Where the operator reads the latency of each replica.
    #[serde(default)]
    pub metrics: Metrics,
}

/// Latency targets, each a duration with its unit: `100ms`, `1.5s`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.p50) || has(self.p90) || has(self.p95) || has(self.p99) || has(self.p999)")
        .message("write at least one target, such as p99: 250ms"),
    validation = Rule::new("[?self.?p50, ?self.?p90, ?self.?p95, ?self.?p99, ?self.?p999].exists(t, !t.matches('^[0-9]+([.][0-9]+)?(ms|s)$')) || [?self.?p50, ?self.?p90, ?self.?p95, ?self.?p99, ?self.?p999].map(t, duration(t)).isSorted()")
        .message("raise the target of the higher percentile or lower that of the lower one, such as p95: 100ms and p99: 250ms: of the same requests a higher percentile is never faster")
)]
pub struct Latency {
    /// Half of the requests are answered within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+([.][0-9]+)?(ms|s)$') && duration(self) >= duration('1ms') && duration(self) <= duration('60s')")
        .message("write a duration from 1ms to 60s with its unit, such as 50ms or 1.5s"))]
    #[schemars(length(max = 16))]
    pub p50: Option<String>,

    /// 90 of 100 requests are answered within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+([.][0-9]+)?(ms|s)$') && duration(self) >= duration('1ms') && duration(self) <= duration('60s')")
        .message("write a duration from 1ms to 60s with its unit, such as 100ms or 1.5s"))]
    #[schemars(length(max = 16))]
    pub p90: Option<String>,

    /// 95 of 100 requests are answered within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+([.][0-9]+)?(ms|s)$') && duration(self) >= duration('1ms') && duration(self) <= duration('60s')")
        .message("write a duration from 1ms to 60s with its unit, such as 100ms or 1.5s"))]
    #[schemars(length(max = 16))]
    pub p95: Option<String>,

    /// 99 of 100 requests are answered within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+([.][0-9]+)?(ms|s)$') && duration(self) >= duration('1ms') && duration(self) <= duration('60s')")
        .message("write a duration from 1ms to 60s with its unit, such as 250ms or 1.5s"))]
    #[schemars(length(max = 16))]
    pub p99: Option<String>,

    /// 99.9 of 100 requests are answered within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+([.][0-9]+)?(ms|s)$') && duration(self) >= duration('1ms') && duration(self) <= duration('60s')")
        .message("write a duration from 1ms to 60s with its unit, such as 500ms or 1.5s"))]
    #[schemars(length(max = 16))]
    pub p999: Option<String>,
}

/// Bounds on the number of replicas.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.min <= self.max").message("raise replicas.max or lower replicas.min: min is above max"))]
pub struct Replicas {
    /// Fewest replicas while the API is not hibernated.
    #[serde(default = "default_min_replicas")]
    #[schemars(range(min = 1, max = 10000))]
    pub min: i32,

    /// Most replicas.
    #[serde(default = "default_max_replicas")]
    #[schemars(range(min = 1, max = 10000))]
    pub max: i32,

    /// Pins the number of replicas, as `kubectl scale` does; `0` hibernates the API. Absent: the operator decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub pinned: Option<i32>,
}

/// Chosen by being present.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disabled {}

/// Where a URL with credentials is read from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UrlSource {
    /// A key of a Secret in the namespace of the resource.
    pub secret_key_ref: SecretKeySelector,
}

/// A key of a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeySelector {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl Latency {
    /// The targets that are set, the lowest percentile first.
    pub fn each(&self) -> impl Iterator<Item = (Percentile, &str)> {
        Percentile::ALL.into_iter().filter_map(|percentile| {
            let target = match percentile {
                Percentile::P50 => &self.p50,
                Percentile::P90 => &self.p90,
                Percentile::P95 => &self.p95,
                Percentile::P99 => &self.p99,
                Percentile::P999 => &self.p999,
            };
            Some((percentile, target.as_deref()?))
        })
    }
}

impl ApiDeploymentSpec {
    /// Name of the existing Deployment that is scaled; absent where the operator runs one of its own.
    pub fn attached_to(&self) -> Option<&str> {
        Some(self.workload.attach_to.as_ref()?.name.as_str())
    }

    /// Port of the metrics exposition.
    pub fn metrics_port(&self) -> i32 {
        self.metrics.port.unwrap_or(self.port)
    }
}

impl Default for Replicas {
    fn default() -> Self {
        Self { min: default_min_replicas(), max: default_max_replicas(), pinned: None }
    }
}

fn default_port() -> i32 {
    8080
}

fn default_min_replicas() -> i32 {
    1
}

fn default_max_replicas() -> i32 {
    10
}

fn default_resources() -> ResourceRequirements {
    let quantities = |cpu: &str, memory: &str| {
        Some([("cpu".into(), Quantity(cpu.into())), ("memory".into(), Quantity(memory.into()))].into())
    };
    ResourceRequirements {
        requests: quantities("100m", "64Mi"),
        limits: quantities("1", "256Mi"),
        ..ResourceRequirements::default()
    }
}

/// Kinds of resources that a container may name. The API server refuses a rule that might cost too much, and counts a
/// quantity of text at the size of a whole request: eight would be just above its budget.
const RESOURCES_MAX: u64 = 6;

/// Bounds the maps of `resources`, whose type is Kubernetes' own.
fn bound_resources(schema: &mut Schema) {
    for map in ["limits", "requests"] {
        if let Some(map) = schema.pointer_mut(&format!("/properties/{map}")).and_then(Value::as_object_mut) {
            map.insert("maxProperties".into(), RESOURCES_MAX.into());
        }
    }
}
