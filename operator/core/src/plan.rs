//! What a decision says: the steps to take, why, and what the status may report of it.
//!
//! A plan leaves nothing to choose to whoever carries it out.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::{Serialize, Serializer};

use crate::attainment::Attainment;
use crate::cache::Effect;
use crate::conflict::Conflict;
use crate::database::Connections;
use crate::engine;
use crate::histogram::Rejection;
use crate::input::{Missing, Outage};
use crate::memory::{Failure, Memory};

/// The outcome of one decision.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to write, in this order. A step that fails takes with it those that need it, and no others.
    pub steps: Vec<Step>,
    /// How many replicas, and why.
    pub decision: Decision,
    /// What the status may say if the steps succeed.
    pub findings: Findings,
    /// For the next decision. Confirmed writes are added to it by whoever makes them.
    pub memory: Memory,
}

/// One write.
#[derive(Clone, Debug)]
pub enum Step {
    /// Creates the managed cache's Secret; never overwrites one.
    CreateSecret(Box<Secret>),
    /// Applies a Service.
    ApplyService {
        /// Which one.
        kind: ChildKind,
        /// As it should be, with the UID of the existing one if there is one.
        service: Box<Service>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Applies the API's PodDisruptionBudget.
    ApplyDisruptionBudget {
        /// As it should be, with the UID of the existing one if there is one.
        budget: Box<PodDisruptionBudget>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Applies a NetworkPolicy.
    ApplyNetworkPolicy {
        /// Which one.
        kind: ChildKind,
        /// As it should be, with the UID of the existing one if there is one.
        policy: Box<NetworkPolicy>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Creates the API's Deployment with its replicas at once; refuses if the name is taken.
    CreateDeployment {
        /// As it should be, with `spec.replicas`.
        deployment: Box<Deployment>,
        /// Hash of it without them.
        hash: u64,
    },
    /// Applies a Deployment; that of the API goes without `spec.replicas`.
    ApplyDeployment {
        /// Which one.
        kind: ChildKind,
        /// As it should be, with the UID of the existing one if there is one.
        deployment: Box<Deployment>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Applies the StatefulSet of a managed cache with failover.
    ApplyStatefulSet {
        /// As it should be, with the UID of the existing one if there is one.
        stateful_set: Box<StatefulSet>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Sets the replicas of the API's Deployment, and nothing else of it.
    Scale {
        /// Name of the Deployment.
        name: String,
        /// UID of the Deployment, unless this plan creates it.
        uid: Option<String>,
        /// The change.
        change: Change,
        /// Whether it must be looked at live, and refused if it has changed since it was decided.
        live: bool,
        /// Whether the template has to be applied first: until it has its own field manager, the replicas' manager owns
        /// it, and a write of the replicas alone would take it away.
        after_template: bool,
    },
    /// Deletes a child that is no longer wanted, if it still is the one that was seen.
    Delete {
        /// Which one.
        kind: ChildKind,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
}

impl Step {
    /// What it writes.
    pub const fn kind(&self) -> ChildKind {
        match self {
            Self::CreateSecret(_) => ChildKind::CacheSecret,
            Self::ApplyStatefulSet { .. } => ChildKind::CacheStatefulSet,
            Self::CreateDeployment { .. } => ChildKind::Deployment,
            Self::Scale { .. } => ChildKind::Replicas,
            Self::ApplyDisruptionBudget { .. } => ChildKind::DisruptionBudget,
            Self::ApplyService { kind, .. }
            | Self::ApplyNetworkPolicy { kind, .. }
            | Self::ApplyDeployment { kind, .. }
            | Self::Delete { kind, .. } => *kind,
        }
    }

    /// What tells this write from another one of the same child: a write that failed is tried again at once when it has
    /// become another one.
    pub const fn hash(&self) -> u64 {
        match self {
            Self::ApplyService { hash, .. }
            | Self::ApplyDisruptionBudget { hash, .. }
            | Self::ApplyNetworkPolicy { hash, .. }
            | Self::ApplyStatefulSet { hash, .. }
            | Self::CreateDeployment { hash, .. }
            | Self::ApplyDeployment { hash, .. } => *hash,
            Self::CreateSecret(_) | Self::Scale { .. } | Self::Delete { .. } => 0,
        }
    }

    /// The children without which it must not be carried out: if an earlier step for one of them was not, neither is
    /// this one. A refused Service keeps no template back, and no refused template keeps the replicas back.
    pub const fn needs(&self) -> &'static [ChildKind] {
        match self {
            Self::CreateSecret(_)
            | Self::ApplyService { .. }
            | Self::ApplyDisruptionBudget { .. }
            | Self::ApplyNetworkPolicy { .. }
            | Self::Scale { after_template: false, .. }
            | Self::Delete {
                kind: ChildKind::DisruptionBudget | ChildKind::NetworkPolicy | ChildKind::CacheNetworkPolicy,
                ..
            } => &[],
            // Credentials that were not stored must not be rolled out: the next ones would be others.
            Self::CreateDeployment { .. }
            | Self::ApplyStatefulSet { .. }
            | Self::ApplyDeployment { kind: ChildKind::CacheDeployment, .. } => &[ChildKind::CacheSecret],
            Self::ApplyDeployment { .. } => &[ChildKind::CacheSecret, ChildKind::Deployment],
            // What the running template uses is not deleted.
            Self::Scale { after_template: true, .. } | Self::Delete { .. } => &[ChildKind::Deployment],
        }
    }
}

impl Plan {
    /// Takes the change of replicas back, because it was not carried out: it must not be told as if it had been.
    pub fn take_back_scale(&mut self) {
        self.decision.to = self.decision.from;
        self.findings.wanted = self.decision.from;
    }
}

/// A change of replicas, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Replicas before.
    pub from: i32,
    /// Replicas since.
    pub to: i32,
}

/// The children, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    /// Secret of the managed cache.
    CacheSecret,
    /// Service of the managed cache.
    CacheService,
    /// Deployment of the managed cache.
    CacheDeployment,
    /// NetworkPolicy of the managed cache.
    CacheNetworkPolicy,
    /// Service that names each server of a managed cache with failover.
    CacheNodes,
    /// StatefulSet of a managed cache with failover.
    CacheStatefulSet,
    /// Service of the API.
    Service,
    /// PodDisruptionBudget of the API.
    DisruptionBudget,
    /// NetworkPolicy of the API.
    NetworkPolicy,
    /// Deployment of the API: its template.
    Deployment,
    /// Deployment of the API: its replicas, which have a field manager of their own.
    Replicas,
}

impl fmt::Display for ChildKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CacheSecret => "Secret",
            Self::CacheService | Self::CacheNodes | Self::Service => "Service",
            Self::CacheStatefulSet => "StatefulSet",
            Self::CacheDeployment | Self::Deployment => "Deployment",
            Self::DisruptionBudget => "PodDisruptionBudget",
            Self::CacheNetworkPolicy | Self::NetworkPolicy => "NetworkPolicy",
            Self::Replicas => "replicas of Deployment",
        })
    }
}

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
    pub const ALL: [Self; 29] = [
        Self::Initial,
        Self::LatencyOverTarget,
        Self::ErrorsOverTarget,
        Self::LoadNearCapacity,
        Self::LoadBelowCapacity,
        Self::HoldingWithinTarget,
        Self::HoldingTooFewRequests,
        Self::HoldingCapacityUnsure,
        Self::HoldingEnoughReplicas,
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

/// What a status is made from, once the plan is carried out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Replicas wanted.
    pub wanted: i32,
    /// Replicas that the load asks for, within bounds, floors and rates. Absent while there is nothing to ask.
    pub recommended: Option<i32>,
    /// Replicas ready.
    pub ready: i32,
    /// The API's Deployment, as it comes along.
    pub rollout: Rollout,
    /// The spec cannot be read; the text says what to write.
    pub invalid_spec: Option<String>,
    /// Name of the Deployment of `spec.workload.attachTo`, if it is not there.
    pub missing_target: Option<String>,
    /// Label selector of the pods, as text, where they are not the operator's own.
    pub selector: Option<String>,
    /// Who else sets the replicas.
    pub conflict: Option<Conflict>,
    /// Children whose name is taken, as `Service posts`.
    pub name_conflicts: Vec<String>,
    /// `(Secret, key)` pairs that are not there.
    pub missing_secret_keys: Vec<(String, String)>,
    /// ConfigMaps and Secrets that the pods cannot start without and that are not there.
    pub missing_configuration: Vec<Missing>,
    /// Writes that failed and wait to be tried again, and Secrets that could not be read. Writes of this plan are added by
    /// whoever carries it out.
    pub failures: Vec<Failure>,
    /// How the wanted number was cut.
    pub limit: Option<Limit>,
    /// Numbers are only recommended, by `spec.scaling.mode`.
    pub recommends: bool,
    /// Whether latency could be read; absent when it was not tried.
    pub metrics: Option<MetricsState>,
    /// The managed cache is ready; absent for the other kinds.
    pub cache_ready: Option<bool>,
    /// What the managed cache does; absent for the other kinds, and while it says nothing.
    pub cache: Option<Effect>,
    /// What the replicas may open at the database server, and what it takes; absent where that is not known.
    pub connections: Option<Connections>,
    /// Percentiles over the slow window in seconds, p95 and p99, where they can be known.
    pub latency_seconds: [Option<f64>; 2],
    /// What the round did to the promise; absent when no pod was asked.
    pub attainment: Option<Attainment>,
    /// What was learned of the replicas, if anything was.
    pub learned: Option<engine::Learned>,
    /// The plan writes to the cluster.
    pub writes: bool,
}

/// How a Deployment comes along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rollout {
    /// It does not exist, or its controller has not seen it yet.
    #[default]
    Unseen,
    /// New pods replace old ones.
    InProgress,
    /// New pods do not become ready.
    Stuck,
    /// All pods are of the current template.
    Done,
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

/// Whether latency could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsState {
    /// From at least half of the ready pods.
    Scraped,
    /// Likewise, but errors, which are limited, are not told.
    ErrorsMissing,
    /// Likewise, but a target has no bucket edge; the text says where it is judged.
    Approximate(String),
    /// Likewise, but no edge is low enough to judge a target; the text says which.
    NoEdge(String),
    /// There is no ready pod.
    NoReadyPods,
    /// There are ready pods, and nothing can be known of them yet.
    Awaited,
    /// All ready pods are left out for the same reason, which says what to do.
    Alike(Rejection),
    /// Nothing could be read, for a reason that is none of the pods'.
    Outage(Outage),
    /// From fewer than half of the ready pods; the text says how many, and why not.
    Failed(String),
}

fn rfc3339_ms<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}
