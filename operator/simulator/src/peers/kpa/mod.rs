//! Knative's Pod Autoscaler, by <https://knative.dev/docs/serving/autoscaling/> and, where that leaves a choice, by
//! <https://github.com/knative/serving/blob/main/pkg/autoscaler/scaling/autoscaler.go>.
//!
//! It stands before a workload without an activator: nothing is buffered, and replicas do not go below the bounds.

mod decider;
mod window;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::policy::{PodView, Policy, View};
use crate::random::{Purpose, Random};
use decider::Decider;
use window::Window;

/// How often it scrapes (`scrapeTickInterval`).
const SCRAPE: Duration = Duration::from_secs(1);
/// How often it decides (`tickInterval`).
const TICK: Duration = Duration::from_secs(2);

/// `config-autoscaler` and a revision's annotations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// What is counted.
    pub metric: Metric,
    /// `autoscaling.knative.dev/target`: for each pod, before the utilisation. By default 100 concurrent requests or 200
    /// requests a second.
    pub target: f64,
    /// `container-concurrency-target-percentage`, as a part: 0.7. The requests a second have the same default.
    pub target_utilization: f64,
    /// `stable-window`.
    pub stable_window: Duration,
    /// `panic-window-percentage`, as a part of the stable window: 0.1.
    pub panic_window_share: f64,
    /// `panic-threshold-percentage`, as a factor: 2.
    pub panic_threshold: f64,
    /// `max-scale-up-rate`.
    pub scale_up_rate_max: f64,
    /// `max-scale-down-rate`.
    pub scale_down_rate_max: f64,
    /// `scale-down-delay`.
    pub scale_down_delay: Duration,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Requests in a pod at once.
    Concurrency,
    /// Requests a second.
    Rps,
}

impl Default for Config {
    /// The documented defaults.
    fn default() -> Self {
        Self {
            metric: Metric::Concurrency,
            target: 100.0,
            target_utilization: 0.7,
            stable_window: Duration::from_mins(1),
            panic_window_share: 0.1,
            panic_threshold: 2.0,
            scale_up_rate_max: 1000.0,
            scale_down_rate_max: 2.0,
            scale_down_delay: Duration::ZERO,
        }
    }
}

/// How many of so many pods it asks (`populationMeanSampleSize`).
fn sample_size(pods: usize) -> usize {
    const X: f64 = 1.96 * 1.96 * 100.0 / 25.0;
    if pods <= 3 { pods } else { (pods as f64 * X / (pods as f64 + X - 1.0)).ceil() as usize }
}

/// Knative's autoscaler with its scrapes.
#[derive(Clone, Debug)]
pub struct Kpa {
    config: Config,
    decider: Option<Decider>,
    stable: Window,
    panic: Window,
    random: Random,
    /// Of each pod, what it had counted a second ago: when, request seconds and requests.
    before: BTreeMap<u64, (Duration, f64, f64)>,
}

impl Kpa {
    /// An autoscaler that draws its samples from a seed.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            decider: None,
            stable: Window::new(config.stable_window),
            panic: Window::new(config.stable_window.mul_f64(config.panic_window_share)),
            random: Random::new(seed, Purpose::Policy),
            before: BTreeMap::new(),
        }
    }

    /// What each Ready pod's queue-proxy would report of the last second; none for one that does not answer.
    fn reports<'a>(&mut self, view: &View<'a>) -> Vec<(&'a PodView, Option<f64>)> {
        let pods: Vec<_> =
            view.pods.iter().filter(|pod| pod.state == crate::policy::PodState::Ready).collect();
        self.before.retain(|id, _| pods.iter().any(|pod| pod.id == *id));
        pods.into_iter()
            .map(|pod| {
                let Some(Ok(reading)) = &pod.reading else { return (pod, None) };
                let counters = &reading.counters;
                let now = (reading.at, counters.request_seconds, counters.arrived as f64);
                let start = (pod.ready.unwrap_or(pod.created), 0.0, 0.0);
                let before = self.before.insert(pod.id, now).unwrap_or(start);
                let seconds = now.0.saturating_sub(before.0).as_secs_f64();
                let counted = match self.config.metric {
                    Metric::Concurrency => now.1 - before.1,
                    Metric::Rps => now.2 - before.2,
                };
                (pod, Some(if seconds > 0.0 { counted.max(0.0) / seconds } else { 0.0 }))
            })
            .collect()
    }

    /// Asks a sample of the pods, first those older than the stable window, and scales what they say up to all.
    fn scrape(&mut self, view: &View<'_>) {
        let reports = self.reports(view);
        let old =
            |pod: &PodView| pod.created.is_zero() || pod.created + self.config.stable_window <= view.now;
        let (mut first, mut then): (Vec<_>, Vec<_>) = reports.iter().partition(|(pod, _)| old(pod));
        let size = sample_size(reports.len());
        shuffle(&mut self.random, if first.len() < size { &mut then } else { &mut first });
        let sample: Vec<f64> =
            first.into_iter().chain(then).filter_map(|(_, value)| value).take(size).collect();
        if size == 0 || sample.len() < size {
            return;
        }
        let value = sample.iter().sum::<f64>() / size as f64 * reports.len() as f64;
        self.stable.record(view.now.as_secs(), value);
        self.panic.record(view.now.as_secs(), value);
    }
}

fn shuffle<T>(random: &mut Random, items: &mut [T]) {
    for index in (1..items.len()).rev() {
        items.swap(index, random.below(index + 1));
    }
}

impl Policy for Kpa {
    fn name(&self) -> String {
        let Config { metric, target, target_utilization, .. } = self.config;
        let unit = match metric {
            Metric::Concurrency => "concurrent",
            Metric::Rps => "requests/s",
        };
        format!("Knative {} {unit} at {:.0} %", (target * 1e3).round() / 1e3, target_utilization * 100.0)
    }

    fn period(&self) -> Duration {
        SCRAPE
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        self.scrape(view);
        let ready = view.ready().count() as u32;
        let decider = self.decider.get_or_insert_with(|| Decider::new(self.config, view.now, ready));
        let second = view.now.as_secs();
        if !second.is_multiple_of(TICK.as_secs()) {
            return view.wanted;
        }
        let Some(stable) = self.stable.average(second) else { return view.wanted };
        let panic = self.panic.average(second).unwrap_or(0.0);
        decider.decide(view.now, ready, stable, panic).clamp(view.bounds.0, view.bounds.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{pod, view};

    /// `TestPopulationMeanSampleSize`, `sample_size_test.go` in `pkg/autoscaler/metrics`
    #[test]
    fn samples_as_many_pods_as_its_formula_says() {
        for (pods, size) in [(0, 0), (1, 1), (2, 2), (5, 4), (10, 7), (100, 14), (1000, 16)] {
            assert_eq!(sample_size(pods), size);
        }
    }

    /// Two pods with three requests in each: six at once, over the whole.
    #[test]
    fn counts_concurrency_over_all_pods() {
        let config = Config { target: 1.0, target_utilization: 1.0, ..Config::default() };
        let mut kpa = Kpa::new(config, 1);
        let mut wanted = 0;
        for second in 1..=20_u64 {
            let count = |counters: &mut crate::policy::Counters| {
                counters.request_seconds = 3.0 * second as f64;
                counters.arrived = 5 * second;
            };
            wanted = kpa.decide(&view(second, &[pod(0, second, count), pod(1, second, count)]));
        }
        assert_eq!(wanted, 6);
        let mut rps = Kpa::new(Config { metric: Metric::Rps, target: 2.0, ..config }, 1);
        for second in 1..=20_u64 {
            let count = |counters: &mut crate::policy::Counters| counters.arrived = 5 * second;
            wanted = rps.decide(&view(second, &[pod(0, second, count), pod(1, second, count)]));
        }
        assert_eq!(wanted, 5);
    }

    /// With a pod that does not answer there is no sample of all three, and nothing is recorded.
    #[test]
    fn holds_without_enough_answers() {
        let mut kpa = Kpa::new(Config { target: 0.1, ..Config::default() }, 1);
        for second in 1..=20_u64 {
            let count =
                |counters: &mut crate::policy::Counters| counters.request_seconds = 3.0 * second as f64;
            let mut pods = [0, 1, 2].map(|id| pod(id, second, count));
            pods[1].reading = Some(Err(plimsoll_core::histogram::Rejection::Timeout));
            assert_eq!(kpa.decide(&view(second, &pods)), 3);
        }
    }
}
