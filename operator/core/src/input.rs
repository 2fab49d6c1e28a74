//! Everything a decision may look at, including what time it is.
//!
//! It holds data only; nothing here reads a clock, a cluster or a random number.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plimsoll_crds::{
    ApiDeployment, ApiDeploymentSpec, ConfigKind, DatabaseKind, Percentile, parse_duration, parse_percentage,
};

use crate::cache::{CacheReading, Silence};
use crate::conflict::Rival;
use crate::database::Connections;
use crate::engine::{Answer, Pod, Target};
use crate::histogram::{Rejection, Snapshot};
use crate::memory::{Failure, Memory};

/// What one decision is made from.
#[derive(Clone, Debug)]
pub struct Input {
    /// The time of the decision.
    pub now: Timestamp,
    /// The resource as read.
    pub app: ApiDeployment,
    /// What the operator was started with.
    pub settings: Settings,
    /// The cluster as read.
    pub observed: Observed,
    /// What the managed cache last said of itself, however long ago; absent before it was first asked.
    pub cache: Option<CacheReading>,
    /// It was asked in vain; absent when it answered the last time, or was not asked.
    pub cache_silence: Option<Silence>,
    /// What the pods said. Absent between two scrapes: then the number of replicas changes only by the spec.
    pub scrape: Option<Scrape>,
    /// What earlier decisions left for this one.
    pub memory: Memory,
    /// Fresh credentials, used only if the managed cache has none yet.
    pub fresh_credentials: Credentials,
}

/// What the operator was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of the bundled API.
    pub api_image: String,
    /// Image of the managed cache.
    pub redis_image: String,
    /// Namespace that the operator runs in, from which it reads the pods' metrics. Absent when it is not known.
    pub operator_namespace: Option<String>,
}

/// The children as they are in the cluster.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The API's Deployment.
    pub deployment: Child<Deployment>,
    /// The API's Service.
    pub service: Child<Service>,
    /// The managed cache's Deployment.
    pub cache_deployment: Child<Deployment>,
    /// The managed cache's servers, where another takes over when the primary dies.
    pub cache_stateful_set: Child<StatefulSet>,
    /// The Service that gives each of them a name.
    pub cache_nodes: Child<Service>,
    /// The managed cache's Service.
    pub cache_service: Child<Service>,
    /// The managed cache's Secret.
    pub cache_secret: Child<CacheSecret>,
    /// The API's PodDisruptionBudget.
    pub disruption_budget: Child<PodDisruptionBudget>,
    /// The API's NetworkPolicy.
    pub network_policy: Child<NetworkPolicy>,
    /// The managed cache's NetworkPolicy.
    pub cache_network_policy: Child<NetworkPolicy>,
    /// PodDisruptionBudget of a managed cache with failover.
    pub cache_disruption_budget: Child<PodDisruptionBudget>,
    /// The ConfigMaps and Secrets whose contents the pods use.
    pub configuration: Configuration,
    /// `(Secret, key)` pairs that the spec names and that are not there.
    pub missing_secret_keys: Vec<(String, String)>,
    /// Who else scales the API's Deployment.
    pub rivals: Vec<Rival>,
    /// The Secrets could not be read, so that nothing is known of them; what is said of them here is empty.
    pub secrets_unread: Option<Failure>,
}

/// The ConfigMaps and Secrets whose contents the pods use, as they are; the contents are not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Names the contents, and changes when they do. Absent when the spec names none.
    pub digest: Option<String>,
    /// What the pods cannot start without and is not there.
    pub missing: Vec<Missing>,
    /// They could not be read, so that nothing is known of them.
    pub unread: Option<Failure>,
}

/// A ConfigMap or Secret that is not there, or one without a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// Which of the two.
    pub kind: ConfigKind,
    /// Its name.
    pub name: String,
    /// The key that it lacks; absent when it is not there itself.
    pub key: Option<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, key } = self;
        write!(f, "{} {name}", kind.as_str())?;
        key.as_ref().map_or(Ok(()), |key| write!(f, " with the key {key}"))
    }
}

/// One child, looked up by its name.
#[derive(Clone, Debug, Default)]
pub enum Child<K> {
    /// Nobody has an object of that name.
    #[default]
    Absent,
    /// Ours.
    Owned(Box<K>),
    /// Somebody else's; it is never touched.
    Foreign,
    /// Somebody else's, that `spec.workload.attachTo` names: its replicas are written, and nothing else.
    Attached(Box<K>),
}

/// What is read of the managed cache's Secret; its values are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSecret {
    /// Changes when the credentials do.
    pub revision: String,
}

/// Credentials of the managed cache.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Of the API. As the others: letters and digits only, so that it needs no escaping in a URL or an ACL file.
    pub password: String,
    /// Of the operator.
    pub operator_password: String,
    /// Of the exporter beside the cache.
    pub exporter_password: String,
    /// Of the servers that have copies of the primary's keys.
    pub replication_password: String,
    /// Of the sentinels.
    pub sentinel_password: String,
    /// For encrypted connections. Absent: none were made, as where there is a Secret already.
    pub certificates: Option<Certificates>,
    /// Names this set of credentials without revealing it.
    pub revision: String,
}

/// Certificates of the managed cache, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificates {
    /// Of the authority that the API's pods trust.
    pub authority: String,
    /// Of the cache.
    pub server: String,
    /// The private key to it.
    pub server_key: String,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// What the pods said in one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// All pods of the API that were not being deleted when the round began. Those that were Ready were asked.
    pub pods: Vec<Pod>,
    /// Pods that are Ready and of which nothing can be known yet, as before Prometheus first scrapes them. They stand
    /// among `pods` as if they were not Ready.
    pub awaited: usize,
    /// Why none of the pods could be read, where the reason is none of theirs.
    pub outage: Option<Outage>,
}

/// Why nothing could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Reason of the condition, one of [`plimsoll_crds::reason`].
    pub reason: &'static str,
    /// What happened, and what to do.
    pub message: String,
}

impl Scrape {
    /// The pods that were Ready.
    pub fn ready(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.ready_at.is_some())
    }

    /// What was read of Ready pods and can be used.
    pub fn readings(&self) -> impl Iterator<Item = &Snapshot> {
        self.ready().filter_map(|pod| pod.sample.as_ref()?.reading.as_ref().ok())
    }

    /// Why the answers of Ready pods are not used, one for each.
    pub fn rejections(&self) -> impl Iterator<Item = Rejection> {
        self.ready().filter_map(|pod| match &pod.sample {
            Some(sample) => sample.reading.as_ref().err().copied(),
            None => Some(Rejection::Connection),
        })
    }
}

/// The promise, read into numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Targets {
    /// The time within which a percentile's share of requests is answered, in the order of [`Percentile::ALL`].
    latencies: [Option<Duration>; Percentile::ALL.len()],
    /// Share of requests that may end with an error of the server.
    errors: Option<f64>,
}

impl Targets {
    /// Reads the targets of a spec.
    ///
    /// # Errors
    /// What to write instead, when a target cannot be read or no latency is promised. The schema refuses both; an object
    /// stored under an older schema may still have them.
    pub fn of(spec: &ApiDeploymentSpec) -> Result<Self, String> {
        let mut latencies = [None; Percentile::ALL.len()];
        for (percentile, text) in spec.latency.each() {
            let target = parse_duration(text)
                .map_err(|error| format!("spec.latency.{}: {error}", percentile.as_str()))?;
            latencies[percentile as usize] = Some(target);
        }
        if latencies.iter().all(Option::is_none) {
            return Err("spec.latency: write at least one target, such as p99: 250ms".into());
        }
        let errors = spec.error_rate.as_deref().map(parse_percentage).transpose();
        Ok(Self { latencies, errors: errors.map_err(|error| format!("spec.errorRate: {error}"))? })
    }

    /// The percentiles that have a target, the lowest first, and the time within which their share of requests is answered.
    pub fn latencies(self) -> impl Iterator<Item = (Percentile, Duration)> {
        let all = Percentile::ALL.into_iter().zip(self.latencies);
        all.filter_map(|(percentile, latency)| Some((percentile, latency?)))
    }

    /// Whether errors are limited too.
    pub const fn limits_errors(self) -> bool {
        self.errors.is_some()
    }

    /// All targets as the engine has them, each with its name: the latencies, the lowest percentile first, and the errors.
    pub fn each(self) -> impl Iterator<Item = (&'static str, Target)> {
        let latency = |(percentile, latency): (Percentile, Duration)| {
            (percentile.as_str(), Target::latency(1.0 - percentile.budget(), latency))
        };
        let errors = |share: f64| ("errors", Target { quantile: 1.0 - share, answer: Answer::WithoutError });
        self.latencies().map(latency).chain(self.errors.map(errors))
    }
}

/// How many replicas the spec allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Fewest.
    pub min: i32,
    /// Most.
    pub max: i32,
    /// Exactly this many.
    pub pinned: Option<i32>,
    /// The bounds were cut to one replica because the database lives inside the pod.
    pub embedded_database: bool,
    /// The most were cut to those whose connections the database server takes.
    pub connections: Option<Connections>,
}

impl Bounds {
    /// Reads the bounds of a spec.
    pub fn of(spec: &ApiDeploymentSpec) -> Self {
        let replicas = &spec.replicas;
        let embedded = matches!(spec.database(), DatabaseKind::Embedded);
        let most = if embedded { 1 } else { i32::MAX };
        let asked = replicas.pinned.unwrap_or(replicas.max);
        Self {
            min: replicas.min.min(most),
            max: replicas.max.max(replicas.min).min(most),
            pinned: replicas.pinned.map(|pinned| pinned.min(most)),
            embedded_database: embedded && asked > 1,
            connections: None,
        }
    }
}

impl<K> Child<K> {
    /// The child, if it is ours.
    pub fn owned(&self) -> Option<&K> {
        match self {
            Self::Owned(child) => Some(child),
            Self::Absent | Self::Foreign | Self::Attached(_) => None,
        }
    }

    /// The child, if its replicas are decided on: ours, or the one that is attached to.
    pub fn scaled(&self) -> Option<&K> {
        match self {
            Self::Owned(child) | Self::Attached(child) => Some(child),
            Self::Absent | Self::Foreign => None,
        }
    }
}

/// Sorts an object found under a child's name by its owner's UID: a name alone proves nothing.
pub fn child_of<K>(owner_uid: &str, found: Option<(K, &ObjectMeta)>) -> Child<K> {
    match found {
        None => Child::Absent,
        Some((object, metadata)) => {
            let owned = metadata
                .owner_references
                .iter()
                .flatten()
                .any(|owner| owner.uid == owner_uid && owner.controller == Some(true));
            if owned { Child::Owned(Box::new(object)) } else { Child::Foreign }
        }
    }
}
