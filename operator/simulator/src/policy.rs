//! What an autoscaler sees of the simulated cluster, and what it answers: nothing that it could not see of a real one.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::histogram::{Rejection, Snapshot};

/// An autoscaler.
pub trait Policy {
    /// What it is called in results.
    fn name(&self) -> String;

    /// How often it scrapes and decides; the first time at this age of the run.
    fn period(&self) -> Duration;

    /// The replicas it wants now. What the scenario's bounds do not allow is cut.
    fn decide(&mut self, view: &View<'_>) -> u32;
}

/// The cluster at one decision.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Since the start of the run.
    pub now: Duration,
    /// Replicas that the Deployment asks for.
    pub wanted: u32,
    /// The pod template that the Deployment asks for. While some pod has another, a rollout is under way.
    pub template: u64,
    /// Replicas at least, and at most.
    pub bounds: (u32, u32),
    /// Every pod that is not gone, in order of creation.
    pub pods: &'a [PodView],
}

impl View<'_> {
    /// The pods that are Ready and not terminating.
    pub fn ready(&self) -> impl Iterator<Item = &PodView> {
        self.pods.iter().filter(|pod| pod.state == PodState::Ready)
    }

    /// The pods that are not terminating: what `status.replicas` counts.
    pub fn replicas(&self) -> u32 {
        self.pods.iter().filter(|pod| pod.state != PodState::Draining).count() as u32
    }
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Created and not Ready yet.
    Pending,
    /// In the Service's endpoints.
    Ready,
    /// Terminating: it gets nothing new and finishes what it has.
    Draining,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Names the pod, as its UID does.
    pub id: u64,
    /// Names the pod template, as `pod-template-hash` does.
    pub template: u64,
    /// When it was created, since the start of the run; 0 for those that were there.
    pub created: Duration,
    /// When it became Ready.
    pub ready: Option<Duration>,
    /// Where it is in its life.
    pub state: PodState,
    /// `resources.requests.cpu` in cores.
    pub cpu_request: f64,
    /// `resources.limits.cpu` in cores; absent where none binds.
    pub cpu_limit: Option<f64>,
    /// What it said when it was last asked, or why that is of no use; absent for a pod that has not become Ready.
    pub reading: Option<Result<Reading, Rejection>>,
}

/// What a pod has counted since it started.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When it counted, since the start of the run.
    pub at: Duration,
    /// Its counts.
    pub counters: Counters,
    /// Upper edges of the histogram in seconds, ascending, without infinity.
    pub(crate) edges: Arc<[f64]>,
}

/// Counts of a pod since it started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Answers by time, one number for each edge and one for what was slower than the last.
    pub(crate) buckets: Vec<u64>,
    /// Answers in all.
    pub answered: u64,
    /// Requests that arrived, the shed ones among them.
    pub arrived: u64,
    /// Requests that were shed.
    pub shed: u64,
    /// Requests in the pod that its own code knows of.
    pub in_flight: u32,
    /// CPU seconds, as of the last request whose work ended.
    pub cpu_seconds: f64,
    /// Periods of CPU bandwidth control in which it computed.
    pub periods: u64,
    /// Periods in which it used up its budget and had to wait.
    pub throttled_periods: u64,
    /// Requests in the pod, waiting ones too, summed over time in request seconds: what a proxy beside it would count.
    pub request_seconds: f64,
}

impl Reading {
    /// The histogram as the operator reads it.
    ///
    /// # Errors
    /// What a reader of the pod's answer would say of it.
    pub fn snapshot(&self) -> Result<Snapshot, Rejection> {
        let mut up_to = 0;
        let edges = self.edges.iter().copied().chain([f64::INFINITY]);
        let cumulative = edges
            .zip(&self.counters.buckets)
            .map(|(edge, &count)| {
                up_to += count;
                (edge, up_to as f64)
            })
            .collect();
        Snapshot::new(cumulative, Some(f64::from(self.counters.in_flight)), Some(self.counters.shed as f64))
    }

    /// The answers in each bucket: `(upper edge in seconds, answers)`, the last edge infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.edges.iter().copied().chain([f64::INFINITY]).zip(self.counters.buckets.iter().copied())
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Views for tests of policies.

    use super::*;

    /// A pod that was Ready from the start and was read at a second.
    pub(crate) fn pod(id: u64, second: u64, count: impl FnOnce(&mut Counters)) -> PodView {
        let mut counters = Counters { buckets: vec![0; 3], ..Counters::default() };
        count(&mut counters);
        let edges = Arc::from([0.1, 0.25]);
        PodView {
            id,
            template: 0,
            created: Duration::ZERO,
            ready: Some(Duration::ZERO),
            state: PodState::Ready,
            cpu_request: 1.0,
            cpu_limit: None,
            reading: Some(Ok(Reading { at: Duration::from_secs(second), counters, edges })),
        }
    }

    /// The cluster at a second, with as many replicas wanted as there are pods.
    pub(crate) fn view(second: u64, pods: &[PodView]) -> View<'_> {
        View {
            now: Duration::from_secs(second),
            wanted: pods.len() as u32,
            template: 0,
            bounds: (1, 1000),
            pods,
        }
    }
}
