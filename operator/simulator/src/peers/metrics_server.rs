//! CPU use as metrics-server gives it to the HPA: the kubelet measures a container every 10 to 20 s, metrics-server asks
//! the kubelet every 15 s, and the use is the rate between the last two measurements
//! (<https://github.com/kubernetes-sigs/metrics-server/blob/master/pkg/storage/pod.go>).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::peers::hpa::replicas::Usage;
use crate::policy::{PodState, View};
use crate::random::{Purpose, Random};

/// `--housekeeping-interval` of the kubelet, which adds up to as much again at random
/// (<https://github.com/google/cadvisor/blob/master/manager/container.go>, `nextHousekeepingInterval`).
pub const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// `--metric-resolution` of metrics-server.
pub const RESOLUTION: Duration = Duration::from_secs(15);
/// A container that is at least so old may be measured from its start, if its first measurement falls within the
/// resolution.
const FRESH_AGE_MIN: Duration = Duration::from_secs(10);

/// A measurement: when, and the CPU seconds up to then.
type Point = (Duration, f64);

#[derive(Clone, Copy, Debug, Default)]
struct Points {
    /// What the kubelet measured last.
    kubelet: Option<Point>,
    /// When it measures next.
    next: Duration,
    last: Option<Point>,
    previous: Option<Point>,
}

/// Kubelet and metrics-server, for the pods of one Deployment.
#[derive(Clone, Debug)]
pub struct MetricsServer {
    pods: BTreeMap<u64, Points>,
    random: Random,
}

impl Default for MetricsServer {
    fn default() -> Self {
        Self { pods: BTreeMap::new(), random: Random::new(0, Purpose::Policy) }
    }
}

impl MetricsServer {
    /// The kubelets measure the containers whose time has come.
    pub fn measure(&mut self, view: &View<'_>) {
        self.pods.retain(|id, _| view.pods.iter().any(|pod| pod.id == *id));
        for pod in view.pods {
            let Some(Ok(reading)) = &pod.reading else { continue };
            let points = self.pods.entry(pod.id).or_default();
            if view.now >= points.next {
                points.kubelet = Some((reading.at, reading.counters.cpu_seconds));
                points.next = view.now + HOUSEKEEPING.mul_f64(1.0 + self.random.unit());
            }
        }
    }

    /// metrics-server asks the kubelets.
    pub fn scrape(&mut self, view: &View<'_>) {
        for pod in view.pods.iter().filter(|pod| pod.state != PodState::Pending) {
            let points = self.pods.entry(pod.id).or_default();
            let Some(new) = points.kubelet else { continue };
            let age = new.0.saturating_sub(pod.created);
            if age < RESOLUTION && age >= FRESH_AGE_MIN {
                points.previous = Some((pod.created, 0.0));
            } else if points.last.is_some_and(|last| last.0 < new.0) {
                points.previous = points.last;
            }
            points.last = Some(new);
        }
    }

    /// What a pod uses, once there are two measurements of it.
    pub fn usage(&self, pod: u64) -> Option<Usage> {
        let points = self.pods.get(&pod)?;
        let (last, previous) = (points.last?, points.previous?);
        let window = last.0.checked_sub(previous.0).filter(|window| !window.is_zero())?;
        let milli = ((last.1 - previous.1).max(0.0) / window.as_secs_f64() * 1000.0).round() as i64;
        Some(Usage { milli, at: last.0, window })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{pod, view};

    #[test]
    fn the_use_is_the_rate_between_the_last_two_measurements() {
        let mut server = MetricsServer::default();
        let mut windows = Vec::new();
        for second in 1..=600_u64 {
            let pods = [pod(0, second, |counters| counters.cpu_seconds = second as f64 / 2.0)];
            let view = view(second, &pods);
            server.measure(&view);
            if second.is_multiple_of(15) {
                server.scrape(&view);
                if let Some(usage) = server.usage(0) {
                    assert_eq!(usage.milli, 500);
                    assert!(usage.at + 2 * HOUSEKEEPING >= view.now);
                    windows.push(usage.window);
                }
            }
        }
        assert!(windows.iter().all(|window| (10..=40).contains(&window.as_secs())), "{windows:?}");
        assert!(windows.len() > 35);
    }

    #[test]
    fn a_pod_with_one_measurement_has_no_metric() {
        let mut server = MetricsServer::default();
        let pods = [pod(0, 40, |counters| counters.cpu_seconds = 5.0)];
        server.measure(&view(40, &pods));
        assert_eq!(server.usage(0), None);
        server.scrape(&view(45, &pods));
        assert_eq!(server.usage(0), None);
        // The same measurement once more is no second one.
        server.scrape(&view(60, &pods));
        assert_eq!(server.usage(0), None);
    }

    #[test]
    fn a_fresh_pod_is_measured_from_its_start() {
        let mut server = MetricsServer::default();
        let mut pods = [pod(0, 40, |counters| counters.cpu_seconds = 3.0)];
        pods[0].created = Duration::from_secs(28);
        server.measure(&view(40, &pods));
        server.scrape(&view(45, &pods));
        assert_eq!(server.usage(0).unwrap().milli, 250);
    }
}
