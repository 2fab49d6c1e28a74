//! What is simulated: the service in the pods, what it depends on, and how both change while they run.

use std::time::Duration;

use serde::Serialize;

use crate::distribution::Distribution;

/// The service as one pod template runs it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// How a pod works through its requests.
    pub server: Server,
    /// How long a request keeps a worker busy, or how much CPU it takes of an event loop, in seconds.
    pub work: Distribution,
    /// CPU seconds that a busy second of a worker takes; 1 for work that only computes. An event loop's is always 1.
    pub cpu_share: f64,
    /// `resources.requests.cpu` of the pod, in cores: what the HPA's utilisation is a percentage of.
    pub cpu_request: f64,
    /// From the pod's creation until it is Ready, in seconds.
    pub start_up: Distribution,
    /// How a pod that has just become Ready is slower.
    pub warm_up: WarmUp,
    /// Requests that may wait in a pod; one more is shed. Absent: no bound.
    pub queue_limit: Option<u32>,
    /// What waited too long in a queue that stands is refused when its turn comes. Absent: nothing is.
    pub patience: Option<Patience>,
    /// The pod's histogram counts from when a request is taken from the queue, so that it does not show the wait.
    pub stopwatch_hides_wait: bool,
}

/// How a pod works through its requests, in the order in which they arrived.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Server {
    /// So many requests at once, each at full speed. A worker waits with its request for the dependency.
    Workers {
        /// Number of workers.
        count: u32,
    },
    /// One thread that computes for one request at a time, under a CPU limit as the kernel enforces it: at full speed
    /// until the period's budget is used, and then not at all until the next period begins
    /// (<https://docs.kernel.org/scheduler/sched-bwc.html>). It does not wait for the dependency.
    EventLoop {
        /// `resources.limits.cpu` of the pod, in cores. From 1 on it never binds.
        cpu_limit: f64,
    },
}

/// The period of the kernel's CPU bandwidth control, as Kubernetes sets it
/// (<https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/>, `cpuCFSQuotaPeriod`).
pub const QUOTA_PERIOD: Duration = Duration::from_millis(100);

/// How long requests may wait in a queue that stands, as in the bundled API: once every wait has been over the target for a
/// whole interval, such waits are refused until there was none for an interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Patience {
    /// What waited no longer is never refused.
    pub target: Duration,
    /// How long waits must have been over the target before anything is refused.
    pub interval: Duration,
    /// CPU time of a refusal, or the time of a worker, in seconds: the request was read, and is answered.
    pub refusal_seconds: f64,
}

impl Patience {
    /// The bundled API's where `promise` is its shortest promised latency: half of it, over at least 200 ms. A test of this
    /// crate holds it to what the API computes.
    pub fn of_bundled_api(promise: Duration, refusal_seconds: f64) -> Self {
        let target = (promise / 2).max(PATIENCE_MIN);
        Self { target, interval: target.max(PATIENCE_INTERVAL_MIN), refusal_seconds }
    }
}

/// The least [`Patience::target`] of the bundled API.
const PATIENCE_MIN: Duration = Duration::from_millis(5);

/// The least [`Patience::interval`] of the bundled API: two periods of a CPU quota.
const PATIENCE_INTERVAL_MIN: Duration = Duration::from_millis(200);

/// How a pod that has just become Ready is slower: caches are cold and connections are to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WarmUp {
    /// For so long after it became Ready.
    pub time: Duration,
    /// And for its first so many requests.
    pub requests: u64,
    /// By this factor.
    pub factor: f64,
}

/// What every pod calls for a share of its requests, such as a database: so many calls at once, the others wait in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// Calls that are served at once, over all pods.
    pub concurrency: u32,
    /// How long a call is served, in seconds.
    pub work: Distribution,
    /// Share of requests that make a call, 0 to 1.
    pub share: f64,
}

/// Something that changes under the autoscaler.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// When.
    pub at: Duration,
    /// What.
    pub what: Changed,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Changed {
    /// A new pod template, by a rolling update: a release that costs more or less, or other limits.
    Rollout {
        /// The service as the new template runs it.
        service: Box<Service>,
    },
    /// In every pod at once, requests take so many times as long: a heavier mix, or a cache that was emptied.
    Work {
        /// The factor to the service's own time.
        factor: f64,
        /// It fades, in a straight line, back to 1 within this time. Absent: it stays.
        fades_within: Option<Duration>,
    },
    /// Calls of the dependency take so many times as long from now on.
    Dependency {
        /// The factor to the dependency's own time.
        factor: f64,
    },
}

impl Service {
    /// A service of `count` workers that compute: the CPU request is one core a worker. Nothing is shed, pods are warm when
    /// they are Ready.
    pub fn workers(count: u32, work: Distribution, start_up: Distribution) -> Self {
        Self {
            server: Server::Workers { count },
            work,
            cpu_share: 1.0,
            cpu_request: f64::from(count),
            start_up,
            warm_up: WarmUp::default(),
            queue_limit: None,
            patience: None,
            stopwatch_hides_wait: false,
        }
    }

    /// A service of one event loop with a CPU request and limit of `cpu` cores, whose requests take `work` of CPU.
    pub fn event_loop(cpu: f64, work: Distribution, start_up: Distribution) -> Self {
        Self {
            server: Server::EventLoop { cpu_limit: cpu },
            cpu_request: cpu,
            ..Self::workers(1, work, start_up)
        }
    }

    /// The same service, whose requests take `factor` times as long: a release that costs more, or less.
    #[must_use]
    pub fn release(&self, factor: f64) -> Self {
        Self { work: self.work.scaled(factor), ..self.clone() }
    }

    /// `resources.limits.cpu` of the pod, in cores, where one binds.
    pub fn cpu_limit(&self) -> Option<f64> {
        match self.server {
            Server::Workers { .. } => None,
            Server::EventLoop { cpu_limit } => (cpu_limit < 1.0).then_some(cpu_limit),
        }
    }

    /// Requests a second that a pod can serve at most, its dependency aside.
    pub fn throughput_max(&self) -> f64 {
        match self.server {
            Server::Workers { count } => f64::from(count) / self.work.mean(),
            Server::EventLoop { cpu_limit } => cpu_limit.min(1.0) / self.work.mean(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_changes_what_a_pod_can_serve() {
        let start_up = Distribution::Constant { seconds: 2.0 };
        let service = Service::event_loop(0.1, Distribution::Constant { seconds: 0.002 }, start_up);
        assert!((service.throughput_max() - 50.0).abs() < 1e-9);
        assert!((service.release(2.0).throughput_max() - 25.0).abs() < 1e-9);
        let service = Service::workers(4, Distribution::Exponential { mean: 0.05 }, start_up);
        assert!((service.throughput_max() - 80.0).abs() < 1e-9);
    }
}
