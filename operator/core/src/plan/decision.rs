//! How many replicas, why, and the numbers behind it.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::database::Connections;
use crate::engine;

/// Why the replicas are what they are. Every decision has one, holding included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The Deployment is made.
    Initial,
    /// Too many requests were slower than a target, or were refused.
    LatencyOverTarget,
    /// Too many requests ended with an error, or were refused.
    ErrorsOverTarget,
    /// The load to come is more than the replicas are expected to carry within the targets.
    LoadNearCapacity,
    /// Fewer replicas would carry the load.
    LoadBelowCapacity,
    /// Targets are met, and fewer replicas might not meet them.
    HoldingWithinTarget,
    /// Too few requests to tell.
    HoldingTooFewRequests,
    /// Fewer replicas would do by what is known of their capacity, which is not enough to remove many at once.
    HoldingCapacityUnsure,
    /// Too many requests were slow, but the replicas that run have carried this load before: a backlog drains, connections
    /// move, or caches warm.
    HoldingEnoughReplicas,
    /// More replicas may be needed, but whether those that were added while too many requests were slow help has to be seen first.
    HoldingTrial,
    /// More replicas are needed by their number, but some that are ready get little of the load yet: clients keep their
    /// connections to others. More would get none.
    LoadUneven,
    /// Adding replicas did not help; the database, the cache or something else they share is the bottleneck.
    DependencyBound,
    /// Requests miss a target without any load, so that no number of replicas meets it.
    TargetUnmeetable,
    /// Too few pods could be read; no data is not low load.
    MetricsUnavailable,
    /// A new pod template is being rolled out.
    RolloutInProgress,
    /// Wanted replicas are not ready yet.
    PodsStarting,
    /// Fewer replicas would do, but have not for long enough.
    CoolingDown,
    /// Another number is recommended, and `spec.scaling.mode` is `Recommend`: nothing is written.
    Recommended,
    /// `spec.scaling.pause` forbids a change in this direction.
    Paused,
    /// `spec.scaling.up` or `down` allows no larger change within its period.
    RateLimited,
    /// A schedule of `spec.scaling` asks for more than the load does.
    ScheduleFloor,
    /// `spec.replicas.pinned` says so.
    Pinned,
    /// `spec.replicas.pinned` is 0.
    Hibernated,
    /// More replicas are needed than `spec.replicas.max`, or there were more than it.
    AtMax,
    /// Fewer replicas would do than `spec.replicas.min`, or there were fewer.
    AtMin,
    /// The database inside the pod allows one replica.
    EmbeddedDatabase,
    /// More replicas are needed than the database server has connections for.
    DatabaseConnections,
    /// Somebody else scales the Deployment: another number is recommended, and nothing is written.
    ScalerConflict,
    /// The Deployment that `spec.workload.attachTo` names is not there.
    TargetNotFound,
    /// The stored spec cannot be read.
    InvalidSpec,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 30] = [
        Self::Initial,
        Self::LatencyOverTarget,
        Self::ErrorsOverTarget,
        Self::LoadNearCapacity,
        Self::LoadBelowCapacity,
        Self::HoldingWithinTarget,
        Self::HoldingTooFewRequests,
        Self::HoldingCapacityUnsure,
        Self::HoldingEnoughReplicas,
        Self::HoldingTrial,
        Self::LoadUneven,
        Self::DependencyBound,
        Self::TargetUnmeetable,
        Self::MetricsUnavailable,
        Self::RolloutInProgress,
        Self::PodsStarting,
        Self::CoolingDown,
        Self::Recommended,
        Self::Paused,
        Self::RateLimited,
        Self::ScheduleFloor,
        Self::Pinned,
        Self::Hibernated,
        Self::AtMax,
        Self::AtMin,
        Self::EmbeddedDatabase,
        Self::DatabaseConnections,
        Self::ScalerConflict,
        Self::TargetNotFound,
        Self::InvalidSpec,
    ];

    /// The reason in one CamelCase word, for conditions, Events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "Initial",
            Self::LatencyOverTarget => "LatencyOverTarget",
            Self::ErrorsOverTarget => "ErrorsOverTarget",
            Self::LoadNearCapacity => "LoadNearCapacity",
            Self::LoadBelowCapacity => "LoadBelowCapacity",
            Self::HoldingWithinTarget => "HoldingWithinTarget",
            Self::HoldingTooFewRequests => "HoldingTooFewRequests",
            Self::HoldingCapacityUnsure => "HoldingCapacityUnsure",
            Self::HoldingEnoughReplicas => "HoldingEnoughReplicas",
            Self::HoldingTrial => "HoldingTrial",
            Self::LoadUneven => "LoadUneven",
            Self::DependencyBound => "DependencyBound",
            Self::TargetUnmeetable => "TargetUnmeetable",
            Self::MetricsUnavailable => "MetricsUnavailable",
            Self::RolloutInProgress => "RolloutInProgress",
            Self::PodsStarting => "PodsStarting",
            Self::CoolingDown => "CoolingDown",
            Self::Recommended => "Recommended",
            Self::Paused => "Paused",
            Self::RateLimited => "RateLimited",
            Self::ScheduleFloor => "ScheduleFloor",
            Self::Pinned => "Pinned",
            Self::Hibernated => "Hibernated",
            Self::AtMax => "AtMax",
            Self::AtMin => "AtMin",
            Self::EmbeddedDatabase => "EmbeddedDatabase",
            Self::DatabaseConnections => "DatabaseConnections",
            Self::ScalerConflict => "ScalerConflict",
            Self::TargetNotFound => "TargetNotFound",
            Self::InvalidSpec => "InvalidSpec",
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A decision about replicas, with the numbers it was made from. Numbers that could not be known are null.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When it was taken.
    #[serde(serialize_with = "rfc3339_ms")]
    pub time: Timestamp,
    /// Replicas wanted before.
    pub from: i32,
    /// Replicas wanted since.
    pub to: i32,
    /// Replicas that would be wanted if `spec.scaling` neither paused nor only recommended.
    pub recommended: i32,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, with the numbers.
    pub message: String,
    /// What the pods said. Absent fields could not be known.
    #[serde(flatten)]
    pub evidence: Evidence,
    /// What the engine made of it, as [`engine::record`] describes. Absent when no pod was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Box<engine::Decision>>,
}

/// The numbers behind a decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Offered load: completed, refused and newly waiting requests per second.
    pub requests_per_second: Option<f64>,
    /// Completed requests per second.
    pub completed_per_second: Option<f64>,
    /// Requests refused because of load, per second.
    pub shed_per_second: Option<f64>,
    /// Requests being served.
    pub in_flight: Option<f64>,
    /// 95th percentile over the fast window, in milliseconds.
    pub p95_ms: Option<f64>,
    /// 99th percentile over the fast window, in milliseconds.
    pub p99_ms: Option<f64>,
    /// The percentiles are at least this, because they lie above the highest bucket edge.
    pub saturated: bool,
    /// Share of requests over the strictest target that is set, which is p99 if it is.
    pub bad_share: Option<f64>,
    /// Requests in the fast window.
    pub requests: f64,
    /// Length of the fast window, in seconds.
    pub window_seconds: f64,
    /// Requests per second that one replica is believed to carry within its targets, as far as known.
    pub capacity_per_replica: Option<f64>,
    /// Replicas that are ready.
    pub ready_replicas: i32,
    /// Ready pods that were asked.
    pub pods_ready: usize,
    /// Ready pods whose answer was used.
    pub pods_scraped: usize,
    /// Ready pods whose answer was not used, by reason.
    pub pods_excluded: std::collections::BTreeMap<&'static str, usize>,
}

/// How the wanted number was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// By `spec.replicas.max`.
    Max(i32),
    /// By `spec.replicas.min`.
    Min(i32),
    /// By the database inside the pod.
    EmbeddedDatabase,
    /// By the connections that the database server takes.
    DatabaseConnections(Connections),
    /// By what the replicas depend on: more of them did not help.
    Dependency,
    /// By the target, which requests miss without any load.
    TargetUnmeetable,
}

fn rfc3339_ms<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}
