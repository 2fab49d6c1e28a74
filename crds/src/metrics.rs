//! `spec.metrics`: where the latency of each replica is read.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::SecretKeySelector;

/// Where the operator reads the latency of each replica: of the pods themselves, or of a Prometheus that scrapes them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.port) && has(self.portName))")
        .message("write metrics.port or metrics.portName, not both"),
    validation = Rule::new("has(self.tls) == (self.scheme == 'https')")
        .message("write metrics.tls together with scheme: https: without it nobody knows whose certificate to take"),
    validation = Rule::new("!has(self.prometheus) || !(has(self.port) || has(self.portName) || has(self.tls) || has(self.bearerTokenFrom))")
        .message("leave metrics.port, portName, scheme, tls and bearerTokenFrom out beside metrics.prometheus: the pods are not asked")
)]
pub struct Metrics {
    /// Name of the histogram of request durations, in seconds, without a suffix. Give it a bucket edge at each latency
    /// target, as the bundled API does by itself: requests are judged by the nearest edge below a target that has none.
    #[serde(default = "default_histogram")]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z_:][a-zA-Z0-9_:]*$') && !self.endsWith('_bucket')")
        .message("write the histogram's name without its suffix, such as http_request_duration_seconds"))]
    #[schemars(length(max = 256))]
    pub histogram: String,

    /// Labels that a series of the histogram must have to be counted, such as `handler: /api`: so requests that promise
    /// nothing, such as health checks, are left out. Absent: all series are added up.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new("self.all(k, k.matches('^[a-zA-Z_][a-zA-Z0-9_]*$') && k != 'le')")
        .message("write the names of metrics.labels as Prometheus does, in letters, digits and underscores; le is the edge of a bucket and cannot be chosen"))]
    #[schemars(transform = bound_labels)]
    pub labels: BTreeMap<String, String>,

    /// Path of the Prometheus text exposition.
    #[serde(default = "default_metrics_path")]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("write a path that begins with /, such as /metrics"))]
    #[schemars(length(max = 256))]
    pub path: String,

    /// Port of the exposition. Absent: `spec.port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,

    /// Name of the exposition's port among those of the container, in place of its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub port_name: Option<String>,

    /// Container that serves, by its name: `portName` is one of its ports, and a replica's CPU limit is its limit. Absent:
    /// the pod's first. Whether a replica is ready is told by the whole pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,

    /// How the exposition is served: `http` or `https`.
    #[serde(default)]
    pub scheme: MetricsScheme,

    /// Whose certificate is taken, with `scheme: https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<MetricsTls>,

    /// Token that the pods ask for, as `Authorization: Bearer`. It is sent to the replicas of this resource only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token_from: Option<SecretSource>,

    /// Reads a Prometheus that scrapes the pods, in place of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSource>,

    /// Seconds between two readings, and so between two decisions. With `prometheus`, a decision comes no more often than
    /// it scrapes.
    #[serde(default = "default_scrape_period")]
    #[schemars(range(min = 1, max = 60))]
    pub scrape_period_seconds: i32,
}

/// How an exposition is served.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MetricsScheme {
    /// In the clear.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

/// Whose certificate is taken from a pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.insecureSkipVerify ? !has(self.caFrom) : (has(self.caFrom) && has(self.serverName))")
    .message("write tls.caFrom, the authority that signed the pods' certificates, and tls.serverName, a name that is in them; or insecureSkipVerify: true to take any certificate"))]
pub struct MetricsTls {
    /// PEM of the authorities that may have signed the pods' certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<SecretSource>,

    /// Name that the certificates must have. Pods are asked by their addresses, which certificates seldom name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub server_name: Option<String>,

    /// Takes any certificate: whoever is on the way can read the token and make the answer up.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// Where a credential is read from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// A key of a Secret in the namespace of the resource.
    pub secret_key_ref: SecretKeySelector,
}

/// A Prometheus, Thanos or Mimir that scrapes the pods. Its address, its certificate and what it is asked with by default
/// are in the operator's configuration: a resource chooses among the servers there by name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.query) == has(self.timestampQuery)")
        .message("write prometheus.query and timestampQuery together: counts are nothing without the time at which they were scraped"),
    validation = Rule::new("!(has(self.bearerTokenFrom) && has(self.basicAuth))")
        .message("write prometheus.bearerTokenFrom or basicAuth, not both")
)]
pub struct PrometheusSource {
    /// Name of the server in the operator's configuration.
    #[serde(default = "default_server")]
    #[schemars(length(min = 1, max = 63))]
    pub server: String,

    /// Label in which the server has a pod's name.
    #[serde(default = "default_pod_label")]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z_][a-zA-Z0-9_]*$')")
        .message("write the name of a label, such as pod"))]
    #[schemars(length(max = 63))]
    pub pod_label: String,

    /// Label in which the server has a pod's namespace.
    #[serde(default = "default_namespace_label")]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z_][a-zA-Z0-9_]*$')")
        .message("write the name of a label, such as namespace"))]
    #[schemars(length(max = 63))]
    pub namespace_label: String,

    /// PromQL in place of the operator's own: cumulative counts since each pod started, by `podLabel` and `le`, and by the
    /// status if `spec.errorRate` is set. `$(namespace)`, `$(name)`, `$(pods)` (a regular expression of the pods' names) and
    /// `$(histogram)` are replaced. The operator's configuration must allow it for the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub query: Option<String>,

    /// PromQL for the time, in seconds since the epoch, at which the counts of `query` were scraped, by `podLabel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub timestamp_query: Option<String>,

    /// Tenant that is asked, as `X-Scope-OrgID`. Absent: that of the operator's configuration, which must allow another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9!_.*()|-]+$')")
        .message("write a tenant in letters, digits and !-_.*(), several with | between"))]
    #[schemars(length(max = 150))]
    pub tenant: Option<String>,

    /// Token that the server asks for, in place of the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token_from: Option<SecretSource>,

    /// User and password that the server asks for, in place of the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
}

/// A user and where the password is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// Name of the user.
    #[x_kube(validation = Rule::new("!self.contains(':')").message("write a user without a colon: none can be sent"))]
    #[schemars(length(min = 1, max = 256))]
    pub username: String,
    /// Where the password is.
    pub password_from: SecretSource,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            histogram: default_histogram(),
            labels: BTreeMap::new(),
            path: default_metrics_path(),
            port: None,
            port_name: None,
            container: None,
            scheme: MetricsScheme::default(),
            tls: None,
            bearer_token_from: None,
            prometheus: None,
            scrape_period_seconds: default_scrape_period(),
        }
    }
}

impl Default for PrometheusSource {
    fn default() -> Self {
        Self {
            server: default_server(),
            pod_label: default_pod_label(),
            namespace_label: default_namespace_label(),
            query: None,
            timestamp_query: None,
            tenant: None,
            bearer_token_from: None,
            basic_auth: None,
        }
    }
}

/// Labels that may be chosen by. The API server counts a rule once for each.
const LABELS_MAX: u64 = 8;
/// Characters of a label's value.
const LABEL_VALUE_MAX: u64 = 256;

/// Bounds the map, so that its rule costs little.
fn bound_labels(schema: &mut Schema) {
    schema.insert("maxProperties".into(), LABELS_MAX.into());
    if let Some(values) =
        schema.pointer_mut("/additionalProperties").and_then(serde_json::Value::as_object_mut)
    {
        values.insert("maxLength".into(), LABEL_VALUE_MAX.into());
    }
}

fn default_histogram() -> String {
    "http_request_duration_seconds".into()
}

fn default_metrics_path() -> String {
    "/metrics".into()
}

fn default_scrape_period() -> i32 {
    5
}

fn default_server() -> String {
    "default".into()
}

fn default_pod_label() -> String {
    "pod".into()
}

fn default_namespace_label() -> String {
    "namespace".into()
}
