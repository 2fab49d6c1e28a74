//! KEDA on the request rate from Prometheus: an HPA with an external metric, and a loop of its own between 0 and 1.
//!
//! By <https://keda.sh/docs/latest/reference/scaledobject-spec/> and <https://keda.sh/docs/latest/scalers/prometheus/>
//! (examples from <https://keda.sh/docs/2.1/scalers/prometheus/>):
//! from one replica on the HPA decides alone; an empty answer counts as 0 unless `ignoreNullValues` is off.

use std::time::Duration;

use crate::peers::hpa::{Hpa, Metric, is_due};
use crate::policy::{Policy, View};

/// A `ScaledObject` with one Prometheus trigger.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trigger {
    /// `threshold`: requests a second for each pod. The documentation's example has 100.
    pub threshold: f64,
    /// The window of `rate` in `query`. The documentation's example has two minutes.
    pub window: Duration,
    /// `activationThreshold`: above it the workload leaves 0 replicas.
    pub activation_threshold: f64,
    /// `ignoreNullValues`: an empty answer counts as 0 and not as a failure.
    pub ignore_null_values: bool,
    /// `pollingInterval`, which matters at 0 replicas only.
    pub polling_interval: Duration,
    /// `cooldownPeriod`, after which an inactive workload goes to 0.
    pub cooldown_period: Duration,
}

impl Trigger {
    /// The documented defaults, with a threshold and a window.
    pub fn new(threshold: f64, window: Duration) -> Self {
        Self {
            threshold,
            window,
            activation_threshold: 0.0,
            ignore_null_values: true,
            polling_interval: Duration::from_secs(30),
            cooldown_period: Duration::from_mins(5),
        }
    }
}

/// KEDA with its HPA.
#[derive(Clone, Debug)]
pub struct Keda {
    trigger: Trigger,
    hpa: Hpa,
    active: Option<Duration>,
}

impl Keda {
    /// A `ScaledObject` on requests a second.
    pub fn new(trigger: Trigger) -> Self {
        let empty_is = trigger.ignore_null_values.then_some(0.0);
        let metric = Metric::Requests { per_pod: trigger.threshold, window: trigger.window, empty_is };
        Self { trigger, hpa: Hpa::new(vec![metric]), active: None }
    }
}

impl Policy for Keda {
    fn name(&self) -> String {
        format!("KEDA {} requests/s a pod over {:?}", self.trigger.threshold, self.trigger.window)
    }

    fn period(&self) -> Duration {
        self.hpa.period()
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        let (min, max) = view.bounds;
        // The HPA that KEDA makes never goes below one.
        let replicas = self.hpa.decide(&View { bounds: (min.max(1), max), ..*view });
        if min > 0 {
            return replicas;
        }
        if !is_due(view.now, self.trigger.polling_interval, Duration::ZERO) {
            return if view.wanted == 0 { 0 } else { replicas };
        }
        let rate = self.hpa.requests_per_second(view.now, self.trigger.window).unwrap_or(0.0);
        if rate > self.trigger.activation_threshold {
            self.active = Some(view.now);
            return replicas.max(1);
        }
        let since = self.active.get_or_insert(view.now);
        if view.now >= *since + self.trigger.cooldown_period { 0 } else { replicas.min(view.wanted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{pod, view};

    /// Decisions on a fleet of 4 at a constant rate, every 5 s for `seconds`; a pod answers a part of it each.
    fn decide(keda: &mut Keda, seconds: u64, per_pod: f64, bounds: (u32, u32)) -> Vec<u32> {
        (5..=seconds)
            .step_by(5)
            .map(|second| {
                let pods: Vec<_> = (0..4)
                    .map(|id| {
                        pod(id, second, |counters| counters.answered = (per_pod * second as f64) as u64)
                    })
                    .collect();
                let mut view = view(second, &pods);
                view.wanted = 4;
                view.bounds = bounds;
                keda.decide(&view)
            })
            .collect()
    }

    /// The documentation's example: `sum(rate(http_requests_total{…}[2m]))` with a threshold of 100.
    #[test]
    fn scales_to_the_rate_over_the_threshold() {
        let keda = || Keda::new(Trigger::new(100.0, Duration::from_mins(2)));
        // 700 requests a second are 7 pods' worth.
        assert_eq!(*decide(&mut keda(), 250, 175.0, (1, 100)).last().unwrap(), 7);
        // 420 on 4 pods are within the tolerance.
        assert_eq!(*decide(&mut keda(), 250, 105.0, (1, 100)).last().unwrap(), 4);
        // 200 are 2 pods' worth, after the five minutes of the HPA's window.
        let all = decide(&mut keda(), 600, 50.0, (1, 100));
        assert!(all[..59].iter().all(|&replicas| replicas == 4));
        assert!(all[62..].contains(&2), "{all:?}");
    }

    /// `ignoreNullValues` is on by default: a blind Prometheus takes the workload to its minimum.
    #[test]
    fn an_empty_answer_is_zero_by_default() {
        let blind = |ignore_null_values| {
            let trigger = Trigger { ignore_null_values, ..Trigger::new(100.0, Duration::from_mins(2)) };
            let mut keda = Keda::new(trigger);
            let mut replicas = Vec::new();
            for second in (5..=400).step_by(5) {
                let mut view = view(second, &[]);
                let pods = [pod(0, 0, |_| ())].map(|mut pod| {
                    pod.reading = Some(Err(plimsoll_core::histogram::Rejection::Timeout));
                    pod
                });
                view.pods = &pods;
                view.wanted = 4;
                replicas.push(keda.decide(&view));
            }
            replicas
        };
        assert!(blind(true).contains(&1));
        assert!(blind(false).iter().all(|&replicas| replicas == 4));
    }

    #[test]
    fn goes_to_zero_after_the_cooldown_only_where_zero_is_allowed() {
        let trigger = Trigger::new(100.0, Duration::from_mins(2));
        assert!(!decide(&mut Keda::new(trigger), 900, 0.0, (1, 100)).contains(&0));
        let all = decide(&mut Keda::new(trigger), 900, 0.0, (0, 100));
        assert!(!all[..60].contains(&0) && all[66..].contains(&0), "{all:?}");
    }
}
