//! The `ApiDeployment` resource: its types, its schema and the names of its conditions.
//!
//! This crate never talks to a cluster. `crdgen` prints the CustomResourceDefinition; the copy under
//! `generated/` is committed and a test fails when it is stale.

mod app;
mod cache;
mod condition;
mod database;
mod percentile;
mod quantity;
mod scaling;
mod status;

pub use app::{
    ApiDeployment, ApiDeploymentSpec, Disabled, Latency, Metrics, Probe, Probes, Replicas, SecretKeySelector,
    UrlSource,
};
pub use cache::{
    CaSource, Cache, CacheExporter, CacheKind, CacheStatus, CacheTls, Eviction, ExternalCache, ManagedCache,
};
pub use condition::{ConditionType, reason};
pub use database::{Database, DatabaseKind, Embedded, ExternalDatabase};
pub use percentile::Percentile;
pub use quantity::{
    DurationError, PercentageError, QuantityError, parse_duration, parse_percentage, quantity_bytes,
    quantity_value,
};
pub use scaling::{Day, Mode, Pause, Pauses, Rate, Scaling, Schedule};
pub use status::{ApiDeploymentStatus, LastDecision, LatencyStatus, LearnedCapacityStatus, LearnedStatus};

/// Domain of every label, annotation and field manager that Plimsoll writes.
pub const DOMAIN: &str = "plimsoll.dev";
