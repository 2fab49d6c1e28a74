//! The `ApiDeployment` resource: its types, its schema and the names of its conditions.
//!
//! This crate never talks to a cluster. `crdgen` prints the CustomResourceDefinition; the copy under
//! `generated/` is committed and a test fails when it is stale.

mod app;
mod attach;
mod cache;
mod condition;
mod database;
mod environment;
mod metrics;
mod percentile;
mod probes;
mod protection;
mod quantity;
mod references;
mod scaling;
mod status;
mod volumes;
mod workload;

use kube::CustomResourceExt as _;

pub use app::{ApiDeployment, ApiDeploymentSpec, Disabled, Latency, Replicas, SecretKeySelector, UrlSource};
pub use attach::AttachTo;
pub use cache::{
    CaSource, Cache, CacheExporter, CacheKind, CacheStatus, CacheTls, Eviction, ExternalCache, ManagedCache,
};
pub use condition::{ConditionType, reason};
pub use database::{DEFAULT_CONNECTIONS_PER_REPLICA, Database, DatabaseKind, Embedded, ExternalDatabase};
pub use environment::{EnvFrom, EnvReference, ImagePullSecret};
pub use metrics::{BasicAuth, Metrics, MetricsScheme, MetricsTls, PrometheusSource, SecretSource};
pub use percentile::Percentile;
pub use probes::{ExecProbe, GrpcProbe, HttpHeader, HttpProbe, Probe, Probes, Scheme, TcpProbe};
pub use protection::{DisruptionBudget, NetworkPolicy};
pub use quantity::{
    DurationError, PercentageError, QuantityError, parse_duration, parse_percentage, quantity_bytes,
    quantity_value,
};
pub use references::{ConfigKind, References, Use};
pub use scaling::{Day, Mode, Pause, Pauses, Rate, Scaling, Schedule};
pub use status::{ApiDeploymentStatus, LastDecision, LatencyStatus, LearnedCapacityStatus, LearnedStatus};
pub use volumes::{
    ClaimVolume, ConfigMapVolume, DownwardVolume, KeyToFile, ProjectedDownward, ProjectedKeys,
    ProjectedSource, ProjectedVolume, SecretVolume, Volume, VolumeMount,
};
pub use workload::{DRAIN_SECONDS, Drain, Strategy, Workload};

/// Domain of every label, annotation and field manager that Plimsoll writes.
pub const DOMAIN: &str = "plimsoll.dev";

/// The CustomResourceDefinition of `ApiDeployment` as YAML.
///
/// # Errors
/// When it cannot be serialised, which a test rules out.
pub fn definition() -> Result<String, serde_yaml::Error> {
    let yaml = serde_yaml::to_string(&ApiDeployment::crd())?;
    // Readers of YAML 1.1 take a bare one for a time and not for text.
    Ok(yaml.replace(": 1970-01-01T00:00:00Z\n", ": \"1970-01-01T00:00:00Z\"\n"))
}
