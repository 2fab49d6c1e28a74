//! One simulated run: everything that its result depends on, beside the policy.

use std::time::Duration;

use serde::Serialize;

use crate::service::{Change, Dependency, Service};
use crate::trace::Trace;

/// Everything that a run depends on, beside the policy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scenario {
    /// What it is called in results.
    pub name: String,
    /// Offered load; the run is as long as it.
    pub trace: Trace,
    /// The seed of all that is drawn.
    pub seed: u64,
    /// How requests come, at the trace's rate.
    pub arrivals: Arrivals,
    /// The service as it begins.
    pub service: Service,
    /// What every pod calls.
    pub dependency: Option<Dependency>,
    /// Which pod gets a request.
    pub balancing: Balancing,
    /// How long a client waits for an answer. Absent: for ever.
    pub client_timeout: Option<Duration>,
    /// A pod takes no more work from requests whose clients have gone when their turn comes.
    pub drops_abandoned: bool,
    /// What changes during the run, in any order.
    pub changes: Vec<Change>,
    /// How readings come to the policy.
    pub scraping: Scraping,
    /// The promise, by which the run is scored.
    pub targets: Vec<Target>,
    /// Upper edges of the pods' histograms in seconds; an edge at each target is added.
    pub edges: Vec<f64>,
    /// Replicas, Ready and warm, when the run begins.
    pub replicas_initial: u32,
    /// Replicas at least.
    pub replicas_min: u32,
    /// Replicas at most.
    pub replicas_max: u32,
}

/// The share `quantile` of requests is to be answered within `latency`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Such as 0.99.
    pub quantile: f64,
    /// As a client feels it, from the moment a request was due.
    pub latency: Duration,
}

/// How requests come: the load is open, so that no answer holds the next request back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Arrivals {
    /// At random, each independent of the others.
    Poisson,
    /// Evenly spaced.
    Even,
    /// In clusters: gaps between requests have this coefficient of variation, above 1.
    Bursty {
        /// Standard deviation over mean.
        cv: f64,
    },
}

/// Which pod gets a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Balancing {
    /// Any Ready pod, for each request anew, as kube-proxy does for clients that connect for each.
    Random,
    /// The Ready pod with the fewest requests in it, as a proxy does that knows.
    LeastLoaded,
    /// The pod of a connection that is kept alive. A new connection goes to any Ready pod.
    Connections {
        /// Connections of all clients; each request takes any of them.
        count: u32,
        /// Age at which the pod closes a connection, give or take a tenth. Absent: only when it stops.
        age_max: Option<Duration>,
    },
}

/// How readings come to the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scraping {
    /// From a reading to the decision that uses it.
    pub delay: Duration,
    /// Share of readings that never come.
    pub loss: f64,
    /// Pods that lie.
    pub faults: Vec<Fault>,
}

/// One pod that lies for a while.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Id of the pod: the initial ones are 0, 1, 2 and so on.
    pub pod: u64,
    /// From when on.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
    /// How.
    pub lie: Lie,
}

/// How a pod lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Lie {
    /// It does not answer in time.
    Silent,
    /// Its numbers are none.
    NotANumber,
    /// It says again what it said when the fault began.
    Frozen,
    /// All its counts are a billion times too high.
    Inflated,
    /// All its counts are zero.
    Zero,
}

/// Edges as the bundled API has them between 1 ms and 10 s, coarse.
const EDGES: [f64; 17] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 2.0, 4.0, 10.0];

impl Scenario {
    /// A scenario with Poisson arrivals, random balancing, perfect scrapes and no change, that begins with the replicas
    /// which carry the trace's first rate at half of what a pod can serve at most.
    pub fn new(name: &str, trace: Trace, service: Service, target: Target) -> Self {
        let initial = (trace.rate(0.0) / (0.5 * service.throughput_max())).ceil().max(1.0) as u32;
        Self {
            name: name.to_owned(),
            trace,
            seed: 1,
            arrivals: Arrivals::Poisson,
            service,
            dependency: None,
            balancing: Balancing::Random,
            client_timeout: Some(Duration::from_secs(10)),
            drops_abandoned: false,
            changes: Vec::new(),
            scraping: Scraping::default(),
            targets: vec![target],
            edges: EDGES.to_vec(),
            replicas_initial: initial,
            replicas_min: 1,
            replicas_max: 1000,
        }
    }
}
