//! What was found, for the status to tell.

use crate::attainment::Attainment;
use crate::cache::{Effect, SilenceCause};
use crate::conflict::Conflict;
use crate::database::Connections;
use crate::engine;
use crate::input::{Missing, Outage};
use crate::left_out::LeftOut;
use crate::memory::Failure;

use super::Limit;

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
    /// Why the managed cache has said nothing for long.
    pub cache_silent: Option<SilenceCause>,
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
    Alike(LeftOut),
    /// Nothing could be read, for a reason that is none of the pods'.
    Outage(Outage),
    /// From fewer than half of the ready pods; the text says how many, and why not.
    Failed(String),
}
