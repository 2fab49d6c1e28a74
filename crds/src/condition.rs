//! Names of conditions and their reasons, in one place so that documents and tests can list them.

/// Types of the conditions in `status.conditions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The API serves with the replicas that are wanted. Summary of the others, as kstatus reads it.
    Ready,
    /// The operator is still making the cluster match the spec. Absent or False at rest, as kstatus reads it.
    Reconciling,
    /// The spec cannot be carried out until somebody changes something. Absent or False otherwise.
    Stalled,
    /// The operator decides on replicas. False while metrics are missing, replicas are pinned or only recommended.
    ScalingActive,
    /// The wanted number of replicas was cut by a bound.
    ScalingLimited,
    /// Latency could be read from the replicas.
    MetricsAvailable,
    /// The managed cache answers. Absent for the other kinds.
    CacheReady,
    /// Somebody else sets the replicas of the same Deployment. Absent before anybody did, False once nobody does any more.
    ScalerConflict,
    /// The managed cache holds what is read. Absent for the other kinds, and before there is enough to tell.
    CacheEffective,
    /// The connections of the most replicas fit into the database server. Absent where its limit is not known.
    DatabaseConnectionsSufficient,
}

impl ConditionType {
    /// All types, in the order in which status lists them.
    pub const ALL: [Self; 10] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::ScalingActive,
        Self::ScalingLimited,
        Self::MetricsAvailable,
        Self::CacheReady,
        Self::ScalerConflict,
        Self::CacheEffective,
        Self::DatabaseConnectionsSufficient,
    ];

    /// The `type` field of the condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::ScalingActive => "ScalingActive",
            Self::ScalingLimited => "ScalingLimited",
            Self::MetricsAvailable => "MetricsAvailable",
            Self::CacheReady => "CacheReady",
            Self::CacheEffective => "CacheEffective",
            Self::DatabaseConnectionsSufficient => "DatabaseConnectionsSufficient",
            Self::ScalerConflict => "ScalerConflict",
        }
    }
}

/// Reasons of conditions.
pub mod reason {
    /// No operator has seen the resource yet; the API server says so itself.
    pub const PENDING: &str = "Pending";
    /// Everything wanted is there and ready.
    pub const AVAILABLE: &str = "Available";
    /// Some wanted replicas are not ready yet, or no longer.
    pub const REPLICAS_UNAVAILABLE: &str = "ReplicasUnavailable";
    /// A new pod template is being rolled out.
    pub const ROLLOUT_IN_PROGRESS: &str = "RolloutInProgress";
    /// A rollout made no progress within its deadline: the new pods do not become ready.
    pub const ROLLOUT_STUCK: &str = "RolloutStuck";
    /// Replicas are pinned to 0.
    pub const HIBERNATED: &str = "Hibernated";
    /// The stored spec cannot be read; the last good state keeps serving.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The API server could not be read, or did not take a write; it is tried again. With `Stalled`: it refuses the
    /// write until somebody changes something.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// A Secret that the spec names, or its key, is not there.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// A Secret that `spec.metrics` names holds something else than what it is for.
    pub const INVALID_SECRET: &str = "InvalidSecret";
    /// A ConfigMap that the pods cannot start without, or a key of it, is not there.
    pub const CONFIG_MAP_NOT_FOUND: &str = "ConfigMapNotFound";
    /// A child's name is taken by an object of somebody else.
    pub const NAME_CONFLICT: &str = "NameConflict";
    /// The Deployment that `spec.workload.attachTo` names is not there.
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";
    /// Somebody else scales the Deployment; numbers are recommended, and none written.
    pub const SCALER_CONFLICT: &str = "ScalerConflict";
    /// A HorizontalPodAutoscaler scales the Deployment. A `ScaledObject` of KEDA shows itself by the one that it makes.
    pub const AUTOSCALER_ON_TARGET: &str = "AutoscalerOnTarget";
    /// A HorizontalPodAutoscaler scales the resource itself: what it writes pins the replicas.
    pub const AUTOSCALER_PINS: &str = "AutoscalerPins";
    /// Another ApiDeployment scales the Deployment: it is its own, or the other was attached to it earlier.
    pub const ALREADY_SCALED: &str = "AlreadyScaled";
    /// Somebody has written another number of replicas over the operator's.
    pub const REPLICAS_OVERWRITTEN: &str = "ReplicasOverwritten";
    /// Nobody else sets the replicas.
    pub const NO_CONFLICT: &str = "NoConflict";
    /// Nothing is left to do.
    pub const RECONCILED: &str = "Reconciled";
    /// The operator decides on replicas.
    pub const ENABLED: &str = "Enabled";
    /// `spec.replicas.pinned` decides on replicas.
    pub const PINNED: &str = "Pinned";
    /// `spec.scaling.mode` has numbers recommended, and none written.
    pub const RECOMMEND: &str = "Recommend";
    /// The number wanted is within the bounds.
    pub const WITHIN_BOUNDS: &str = "WithinBounds";
    /// More replicas are needed than `spec.replicas.max`.
    pub const TOO_MANY_REPLICAS: &str = "TooManyReplicas";
    /// Fewer replicas would do than `spec.replicas.min`.
    pub const TOO_FEW_REPLICAS: &str = "TooFewReplicas";
    /// More replicas did not help: what they share is the bottleneck.
    pub const DEPENDENCY_BOUND: &str = "DependencyBound";
    /// Requests miss a target without any load, so that no number of replicas meets it.
    pub const TARGET_UNMEETABLE: &str = "TargetUnmeetable";
    /// SQLite inside the pod cannot be shared, so there is one replica only.
    pub const EMBEDDED_DATABASE: &str = "EmbeddedDatabase";
    /// Latency was read from the replicas.
    pub const SCRAPED: &str = "Scraped";
    /// No replica is ready yet, so there is nothing to read.
    pub const NO_READY_PODS: &str = "NoReadyPods";
    /// Too few replicas could be read; the number of replicas is held.
    pub const SCRAPE_FAILED: &str = "ScrapeFailed";
    /// The replicas answer, but not with the histogram that `spec.metrics` names.
    pub const HISTOGRAM_MISSING: &str = "HistogramMissing";
    /// The histogram has no series with the labels of `spec.metrics.labels`.
    pub const LABELS_MISSING: &str = "LabelsMissing";
    /// No bucket edge of the histogram is low enough to judge a target; the number of replicas is held.
    pub const NO_BUCKET_EDGE: &str = "NoBucketEdge";
    /// The replicas refuse to tell the operator their metrics.
    pub const UNAUTHORIZED: &str = "Unauthorized";
    /// The certificates of the replicas, or those of Prometheus, are not to be trusted.
    pub const UNTRUSTED: &str = "Untrusted";
    /// The replicas are ready, and their histogram is not known yet: a Prometheus has to scrape them first, or requests with
    /// the labels that count have to reach them.
    pub const AWAITING_SCRAPE: &str = "AwaitingScrape";
    /// Prometheus has no series of the replicas.
    pub const NO_SERIES: &str = "NoSeries";
    /// Prometheus last scraped the replicas too long ago.
    pub const SERIES_STALE: &str = "SeriesStale";
    /// Prometheus does not answer.
    pub const PROMETHEUS_UNREACHABLE: &str = "PrometheusUnreachable";
    /// Prometheus refuses the query, or its answer cannot be read.
    pub const QUERY_FAILED: &str = "QueryFailed";
    /// The operator's configuration does not have the Prometheus that `spec.metrics` names, or does not allow what is asked.
    pub const PROMETHEUS_NOT_ALLOWED: &str = "PrometheusNotAllowed";
    /// Latency was read, but the histogram does not tell errors, which `spec.errorRate` is about.
    pub const ERRORS_MISSING: &str = "ErrorsMissing";
    /// The managed cache does not answer; reads go to the database.
    pub const CACHE_UNAVAILABLE: &str = "CacheUnavailable";
    /// The managed cache holds what is read.
    pub const CACHE_HOLDS: &str = "CacheHolds";
    /// The managed cache evicts keys that are still read.
    pub const CACHE_TOO_SMALL: &str = "CacheTooSmall";
    /// The managed cache is ready, and does not tell the operator how it fares.
    pub const CACHE_SILENT: &str = "CacheSilent";
    /// The connections of `spec.replicas.max` replicas fit into the database server.
    pub const CONNECTIONS_FIT: &str = "ConnectionsFit";
    /// They do not.
    pub const TOO_MANY_CONNECTIONS: &str = "TooManyConnections";
    /// More replicas are needed than the database server has connections for.
    pub const DATABASE_CONNECTIONS: &str = "DatabaseConnections";
}
