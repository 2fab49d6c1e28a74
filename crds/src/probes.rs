//! Probes of each replica: how the kubelet asks whether it has started, lives and serves.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::app::Disabled;

/// Probes of each replica. Each is over HTTP on `port` unless it says otherwise.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Probes {
    /// Holds the other two back until the process has started.
    #[serde(default = "Probe::startup")]
    pub startup: Probe,
    /// Restarts the container when it fails. It must not depend on the database or the cache.
    #[serde(default = "Probe::liveness")]
    pub liveness: Probe,
    /// Takes the replica out of the Service while it fails.
    #[serde(default = "Probe::readiness")]
    pub readiness: Probe,
}

/// One probe. At most one of `httpGet`, `tcpSocket`, `grpc`, `exec` and `disabled`; without one, `path` is asked for over
/// HTTP on `spec.port`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.httpGet), has(self.tcpSocket), has(self.grpc), has(self.exec), has(self.disabled)].filter(x, x).size() <= 1")
    .message("write at most one of httpGet, tcpSocket, grpc, exec and disabled; to choose another than the stored one, set the stored one to null"))]
#[x_kube(validation = Rule::new("has(self.path) || has(self.httpGet) || has(self.tcpSocket) || has(self.grpc) || has(self.exec) || has(self.disabled)")
    .message("write what is asked, such as path: /readyz, or disabled: {} for no probe"))]
pub struct Probe {
    /// Path on `spec.port` that answers 200 to 399 over HTTP while the probe holds. Counts only without `httpGet`,
    /// `tcpSocket`, `grpc`, `exec` and `disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("write a path that begins with /, such as /readyz"))]
    #[schemars(length(max = 256))]
    pub path: Option<String>,

    /// Asks by HTTP, with everything that Kubernetes offers for it but another host than the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpProbe>,

    /// Opens a TCP connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpProbe>,

    /// Asks by the gRPC health protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcProbe>,

    /// Runs a command in the container; it holds while the command ends with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecProbe>,

    /// No probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,

    /// Seconds from the start of the container to the first probe. Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub initial_delay_seconds: Option<i32>,

    /// Seconds between two probes.
    #[serde(default = "default_period")]
    #[schemars(range(min = 1, max = 300))]
    pub period_seconds: i32,

    /// Seconds until an unanswered probe counts as failed.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 1, max = 300))]
    pub timeout_seconds: i32,

    /// Failures in a row that count.
    #[serde(default = "default_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub failure_threshold: i32,
}

/// What is asked by HTTP.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HttpProbe {
    /// Path that answers 200 to 399 while the probe holds.
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("write a path that begins with /, such as /readyz"))]
    #[schemars(length(max = 256))]
    pub path: String,

    /// Port by number or by name: `http` is `spec.port`, `metrics` is `spec.metrics.port` where that is another.
    #[serde(default = "default_port")]
    #[schemars(schema_with = "port_schema")]
    pub port: IntOrString,

    /// `HTTP` or `HTTPS`; the kubelet does not check the certificate.
    #[serde(default)]
    pub scheme: Scheme,

    /// Headers of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub http_headers: Vec<HttpHeader>,
}

/// Scheme of an HTTP probe.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
        }
    }
}

/// A header of a request.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HttpHeader {
    /// Its name.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[-A-Za-z0-9]+$"))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// A TCP connection.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TcpProbe {
    /// Port by number or by name: `http` is `spec.port`, `metrics` is `spec.metrics.port` where that is another.
    #[serde(default = "default_port")]
    #[schemars(schema_with = "port_schema")]
    pub port: IntOrString,
}

/// A call of the gRPC health protocol.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GrpcProbe {
    /// Port by number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Service whose health is asked for. Absent: the server's as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub service: Option<String>,
}

/// A command in the container.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ExecProbe {
    /// The program and its arguments; there is no shell around it.
    #[schemars(length(min = 1, max = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,
}

impl Default for Probes {
    fn default() -> Self {
        Self { startup: Probe::startup(), liveness: Probe::liveness(), readiness: Probe::readiness() }
    }
}

impl Probe {
    /// A minute for the process to start.
    fn startup() -> Self {
        Self { period_seconds: 1, timeout_seconds: 1, failure_threshold: 60, ..Self::of("/livez") }
    }

    /// Half a minute without an answer: a busy pod is not a dead one.
    fn liveness() -> Self {
        Self { period_seconds: 10, timeout_seconds: 5, failure_threshold: 3, ..Self::of("/livez") }
    }

    fn readiness() -> Self {
        Self { period_seconds: 5, timeout_seconds: 3, failure_threshold: 3, ..Self::of("/readyz") }
    }

    fn of(path: &str) -> Self {
        Self {
            path: Some(path.into()),
            http_get: None,
            tcp_socket: None,
            grpc: None,
            exec: None,
            disabled: None,
            initial_delay_seconds: None,
            period_seconds: default_period(),
            timeout_seconds: default_timeout(),
            failure_threshold: default_failures(),
        }
    }
}

fn default_port() -> IntOrString {
    IntOrString::String("http".into())
}

fn default_period() -> i32 {
    10
}

fn default_timeout() -> i32 {
    1
}

fn default_failures() -> i32 {
    3
}

/// A port by number, or by the name of one of the container's.
fn port_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true, "minimum": 1, "maximum": 65535, "pattern": "^(http|metrics)$" })
}
