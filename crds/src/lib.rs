//! The `ApiDeployment` resource: its types, its schema and the names of its conditions.
//!
//! This crate never talks to a cluster. `crdgen` prints the CustomResourceDefinition; the copy under
//! `generated/` is committed and a test fails when it is stale.

mod app;
mod attach;
mod condition;
mod metrics;
mod percentile;
mod quantity;
mod scaling;
mod status;
mod workload;

pub use app::{
    ApiDeployment, ApiDeploymentSpec, Cache, CacheKind, Database, DatabaseKind, Disabled, Embedded,
    ExternalCache, ExternalDatabase, Latency, ManagedCache, Probe, Probes, Replicas, SecretKeySelector,
    UrlSource,
};
pub use attach::AttachTo;
pub use condition::{ConditionType, reason};
pub use metrics::{BasicAuth, Metrics, MetricsTls, PrometheusSource, Scheme, SecretSource};
pub use percentile::Percentile;
pub use quantity::{
    DurationError, PercentageError, QuantityError, parse_duration, parse_percentage, quantity_bytes,
    quantity_value,
};
pub use scaling::{Day, Mode, Pause, Pauses, Rate, Scaling, Schedule};
pub use status::{
    ApiDeploymentStatus, CacheStatus, LastDecision, LatencyStatus, LearnedCapacityStatus, LearnedStatus,
};
pub use workload::Workload;

/// Domain of every label, annotation and field manager that Plimsoll writes.
pub const DOMAIN: &str = "plimsoll.dev";
