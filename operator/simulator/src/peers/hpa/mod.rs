//! The Horizontal Pod Autoscaler, on CPU from metrics-server and on what Prometheus knows, by
//! <https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/>.

pub mod behavior;
pub mod replicas;

use std::time::Duration;

use crate::peers::metrics_server::{MetricsServer, RESOLUTION};
use crate::peers::prometheus::{Prometheus, SCRAPE_INTERVAL};
use crate::policy::{PodState, Policy, View};
use behavior::{Behavior, History};
use replicas::{CpuPod, NoMetrics, Phase, Settings};

/// `--horizontal-pod-autoscaler-sync-period`.
pub const SYNC_PERIOD: Duration = Duration::from_secs(15);

/// Kubelet, metrics-server, Prometheus and HPA go by clocks of their own: they run on this grid, at different phases.
const STEP: Duration = Duration::from_secs(1);
/// When metrics-server asks the kubelets, within its resolution.
const METRICS_SERVER_PHASE: Duration = Duration::from_secs(5);
/// When the HPA decides, within its sync period.
const SYNC_PHASE: Duration = Duration::from_secs(10);

/// What an HPA scales on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// Resource, CPU, `averageUtilization` in percent of the pods' requests.
    Cpu {
        /// The target.
        percent: u32,
    },
    /// External, `value`: a percentile of latency from Prometheus, over a window of `rate`.
    Latency {
        /// Which, such as 0.99.
        quantile: f64,
        /// The target.
        target: Duration,
        /// The window.
        window: Duration,
    },
    /// External, `averageValue`: requests a second from Prometheus, over a window of `rate`.
    Requests {
        /// The target for each pod.
        per_pod: f64,
        /// The window.
        window: Duration,
        /// What an empty answer is taken for; absent: an error.
        empty_is: Option<f64>,
    },
}

/// An HPA with what it gets its metrics from.
#[derive(Clone, Debug)]
pub struct Hpa {
    metrics: Vec<Metric>,
    behavior: Behavior,
    settings: Settings,
    history: History,
    metrics_server: MetricsServer,
    prometheus: Prometheus,
}

impl Hpa {
    /// An HPA on these metrics, with the documented defaults.
    pub fn new(metrics: Vec<Metric>) -> Self {
        let windows = metrics.iter().filter_map(|metric| match metric {
            Metric::Cpu { .. } => None,
            Metric::Latency { window, .. } | Metric::Requests { window, .. } => Some(*window),
        });
        Self {
            prometheus: Prometheus::new(windows.max().unwrap_or_default()),
            metrics,
            behavior: Behavior::default(),
            settings: Settings::default(),
            history: History::default(),
            metrics_server: MetricsServer::default(),
        }
    }

    /// The same with another `spec.behavior`.
    #[must_use]
    pub fn with_behavior(self, behavior: Behavior) -> Self {
        Self { behavior, ..self }
    }

    /// On CPU utilisation alone.
    pub fn on_cpu(percent: u32) -> Self {
        Self::new(vec![Metric::Cpu { percent }])
    }

    /// On a 99th percentile alone, over a window of `rate`.
    pub fn on_p99(target: Duration, window: Duration) -> Self {
        Self::new(vec![Metric::Latency { quantile: 0.99, target, window }])
    }

    /// What Prometheus says of the requests a second, for KEDA's own loop.
    pub(crate) fn requests_per_second(&self, now: Duration, window: Duration) -> Option<f64> {
        self.prometheus.requests_per_second(now, window)
    }

    /// What one metric asks for.
    fn proposal(&self, view: &View<'_>, metric: Metric) -> Result<u32, NoMetrics> {
        let now = view.now;
        match metric {
            Metric::Cpu { percent } => {
                let pods: Vec<_> = view.pods.iter().map(|pod| self.cpu_pod(pod)).collect();
                replicas::for_cpu(&self.settings, now, view.wanted, i64::from(percent), &pods)
            }
            Metric::Latency { quantile, target, window } => {
                let value = self.prometheus.quantile(now, window, quantile).ok_or(NoMetrics)?;
                // A pod that terminates and is still Ready counts; here no pod is both.
                let ready = view.ready().count() as u32;
                let target = milli(target.as_secs_f64());
                Ok(replicas::for_value(&self.settings, view.wanted, ready, milli(value), target))
            }
            Metric::Requests { per_pod, window, empty_is } => {
                let total = self.prometheus.requests_per_second(now, window).or(empty_is).ok_or(NoMetrics)?;
                let replicas = view.replicas();
                Ok(replicas::for_average_value(&self.settings, replicas, milli(total), milli(per_pod)))
            }
        }
    }

    fn cpu_pod(&self, pod: &crate::policy::PodView) -> CpuPod {
        CpuPod {
            phase: match pod.state {
                PodState::Pending => Phase::Pending,
                PodState::Ready => Phase::Running,
                PodState::Draining => Phase::Ending,
            },
            ready: (pod.state == PodState::Ready, pod.ready.unwrap_or(pod.created)),
            started: pod.created,
            request: milli(pod.cpu_request),
            usage: self.metrics_server.usage(pod.id),
        }
    }

    fn sync(&mut self, view: &View<'_>) -> u32 {
        let current = view.wanted;
        self.history.begin(view.now, current);
        let (min, max) = view.bounds;
        if current > max || current < min {
            return current.clamp(min, max);
        }
        if current == 0 && min != 0 {
            return current;
        }
        let proposals: Vec<_> = self.metrics.iter().map(|&metric| self.proposal(view, metric)).collect();
        let failed = proposals.iter().any(Result::is_err);
        let Some(desired) = proposals.into_iter().flatten().max() else { return current };
        if failed && desired < current {
            return current;
        }
        let replicas = self.history.normalize(&self.behavior, view.now, current, desired, (min, max));
        if replicas != current {
            self.history.changed(&self.behavior, view.now, current, replicas);
        }
        replicas
    }
}

impl Policy for Hpa {
    fn name(&self) -> String {
        let parts: Vec<_> = self
            .metrics
            .iter()
            .map(|metric| match metric {
                Metric::Cpu { percent } => format!("CPU {percent} %"),
                Metric::Latency { quantile, target, window } => {
                    format!("p{} {target:?} over {window:?}", quantile * 100.0)
                }
                Metric::Requests { per_pod, window, .. } => {
                    format!("{per_pod} requests/s a pod over {window:?}")
                }
            })
            .collect();
        format!("HPA {}", parts.join(", "))
    }

    fn period(&self) -> Duration {
        STEP
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        self.metrics_server.measure(view);
        if is_due(view.now, RESOLUTION, METRICS_SERVER_PHASE) {
            self.metrics_server.scrape(view);
        }
        if is_due(view.now, SCRAPE_INTERVAL, Duration::ZERO) {
            self.prometheus.scrape(view);
        }
        if is_due(view.now, SYNC_PERIOD, SYNC_PHASE) { self.sync(view) } else { view.wanted }
    }
}

/// Whether something with a period and a phase is due in the step that `now` lies in.
pub(crate) fn is_due(now: Duration, period: Duration, phase: Duration) -> bool {
    let steps = |time: Duration| time.as_secs() / STEP.as_secs();
    steps(now) % steps(period) == steps(phase)
}

/// A quantity in thousandths, rounded up as `resource.Quantity` is.
fn milli(value: f64) -> i64 {
    (value * 1000.0 - 1e-9).ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::Distribution;
    use crate::policy::testing::{pod, view};
    use crate::service::Service;
    use crate::{Scenario, Target, generate, run};

    #[test]
    fn nothing_is_done_without_metrics_and_nothing_down_when_one_is_missing() {
        let mut hpa = Hpa::new(vec![
            Metric::Requests { per_pod: 10.0, window: Duration::from_mins(1), empty_is: None },
            Metric::Cpu { percent: 50 },
        ]);
        let mut wanted = Vec::new();
        for second in (5..=900_u64).step_by(5) {
            let pods = [pod(0, second, |counters| counters.cpu_seconds = 0.001 * second as f64)];
            // CPU says down, and the requests are known only in the first half.
            let mut view = view(second, &pods);
            view.wanted = 4;
            wanted.push(hpa.decide(&view));
            if second > 450 {
                hpa.prometheus = Prometheus::new(Duration::ZERO);
            }
        }
        assert!(wanted[..50].iter().all(|&replicas| replicas == 4), "the window of five minutes holds");
        assert!(wanted[60..88].contains(&1), "both say down: {wanted:?}");
        assert!(wanted[100..].iter().all(|&replicas| replicas == 4), "one is missing");
    }

    /// A step of the load from 15 to 100 requests a second on pods with a limit of 100m CPU, as it was measured with the
    /// real HPA at 60 %: of 2 replicas it made 4 after 38 s, 7 after 81 s and the 9 that were enough after 128 s. Nine
    /// replicas at 60 % of 100m say that a request took about 5 ms of CPU in all.
    #[test]
    fn a_step_takes_it_two_minutes_as_on_a_cluster() {
        let work = Distribution::Exponential { mean: 0.005 };
        let service = Service::event_loop(0.1, work, Distribution::Constant { seconds: 2.0 });
        let target = Target { quantile: 0.99, latency: Duration::from_millis(250) };
        let trace = generate::step(600, 240, 15.0, 100.0);
        let mut scenario = Scenario::new("step", trace, service, target);
        scenario.replicas_initial = 2;
        let outcome = run(&scenario, &mut Hpa::on_cpu(60));
        let after = |replicas| {
            let up = outcome.scalings.iter().find(|scaling| scaling.at > 240.0 && scaling.to >= replicas);
            up.map(|up| up.at - 240.0).unwrap()
        };
        assert!((15.0..60.0).contains(&after(3)), "{:?}", outcome.scalings);
        assert!((60.0..130.0).contains(&after(7)), "{:?}", outcome.scalings);
        assert!((75.0..170.0).contains(&after(9)), "{:?}", outcome.scalings);
        assert!(outcome.scalings.iter().all(|scaling| scaling.to <= 11), "{:?}", outcome.scalings);
    }

    /// Below the knee a 99th percentile says nothing of the load, so that its ratio walks down to the cliff.
    #[test]
    fn on_a_percentile_it_walks_down_until_it_is_too_late() {
        let service = Service::workers(
            4,
            Distribution::Exponential { mean: 0.05 },
            Distribution::Constant { seconds: 12.0 },
        );
        let target = Target { quantile: 0.99, latency: Duration::from_millis(300) };
        let mut scenario = Scenario::new("cliff", generate::step(7200, 0, 400.0, 400.0), service, target);
        scenario.replicas_initial = 40;
        let outcome = run(&scenario, &mut Hpa::on_p99(target.latency, Duration::from_mins(1)));
        let least = outcome.scalings.iter().map(|scaling| scaling.to).min().unwrap();
        assert!(least <= 8, "{:?}", outcome.scalings);
    }
}
