//! Knative's Pod Autoscaler, by <https://knative.dev/docs/serving/autoscaling/> and, where that leaves a choice, by
//! <https://github.com/knative/serving/blob/main/pkg/autoscaler/scaling/autoscaler.go>.
//!
//! It stands before a workload without an activator: nothing is buffered, and replicas do not go below the bounds.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::policy::{PodView, Policy, View};
use crate::random::{Purpose, Random};

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

/// The decision from windowed averages: the `autoscaler` of Knative.
#[derive(Clone, Debug)]
struct Decider {
    config: Config,
    /// Since when it panics.
    panic: Option<Duration>,
    panic_pods_max: u32,
    /// Decisions of the last `scale-down-delay`: the tick, and the replicas.
    delayed: VecDeque<(u64, u32)>,
}

impl Decider {
    /// It begins in panic when there is more than one pod, so that a restart does not scale down blind.
    fn new(config: Config, now: Duration, ready: u32) -> Self {
        Self { config, panic: (ready > 1).then_some(now), panic_pods_max: ready, delayed: VecDeque::new() }
    }

    fn decide(&mut self, now: Duration, ready: u32, stable: f64, panic: f64) -> u32 {
        let config = self.config;
        let target = config.target * config.target_utilization;
        let ready = f64::from(ready.max(1));
        let up_max = (config.scale_up_rate_max * ready).ceil();
        let down_max = (ready / config.scale_down_rate_max).floor();
        let (stable_pods, panic_pods) = ((stable / target).ceil(), (panic / target).ceil());
        let bounded = |pods: f64| pods.max(down_max).min(up_max) as u32;
        let over = panic_pods / ready >= config.panic_threshold;
        match self.panic {
            _ if over => self.panic = Some(now),
            Some(since) if since + config.stable_window < now => {
                self.panic = None;
                self.panic_pods_max = 0;
            }
            _ => {}
        }
        let mut desired = bounded(stable_pods);
        if self.panic.is_some() {
            self.panic_pods_max = self.panic_pods_max.max(desired).max(bounded(panic_pods));
            desired = self.panic_pods_max;
        }
        self.delay(now, desired)
    }

    /// The highest decision of the last `scale-down-delay`.
    fn delay(&mut self, now: Duration, desired: u32) -> u32 {
        if self.config.scale_down_delay.is_zero() {
            return desired;
        }
        let slot = |time: Duration| time.as_millis() as u64 / TICK.as_millis() as u64;
        let (slots, current) = (slot(self.config.scale_down_delay), slot(now));
        self.delayed.push_back((current, desired));
        self.delayed.retain(|&(at, _)| at + slots > current);
        self.delayed.iter().map(|&(_, replicas)| replicas).max().unwrap_or(desired)
    }
}

/// Values of whole seconds, averaged over a window: `TimedFloat64Buckets` of
/// <https://github.com/knative/serving/blob/main/pkg/autoscaler/aggregation/bucketing.go>. Until the window is full the
/// average is over the seconds since the first value; a second without a value counts as 0, unless it lies after the last.
#[derive(Clone, Debug)]
struct Window {
    length: u64,
    values: VecDeque<(u64, f64)>,
    first: u64,
}

impl Window {
    fn new(length: Duration) -> Self {
        Self { length: length.as_secs_f64().ceil() as u64, values: VecDeque::new(), first: 0 }
    }

    fn record(&mut self, second: u64, value: f64) {
        match self.values.back_mut() {
            Some((last, sum)) if *last == second => {
                *sum += value;
                return;
            }
            Some(&mut (last, _)) if second - last <= self.length => {}
            _ => {
                self.values.clear();
                self.first = second;
            }
        }
        self.values.push_back((second, value));
        while self.values.front().is_some_and(|&(at, _)| at + self.length <= second) {
            self.values.pop_front();
        }
    }

    /// None if the last value is a window or more away.
    fn average(&self, second: u64) -> Option<f64> {
        let last = self.values.back()?.0;
        let silent = second.saturating_sub(last);
        if silent >= self.length {
            return None;
        }
        let fresh = self.values.iter().filter(|&&(at, _)| at + self.length > second);
        let seconds = (last - self.first + 1).min(self.length - silent);
        // Kept to six digits, rounded down.
        Some((fresh.map(|(_, value)| value).sum::<f64>() / seconds as f64 * 1e6).floor() / 1e6)
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

    /// The configuration of Knative's own tests: up and down by 10 at most, panic at 200 %, a window of 60 s.
    fn config(target: f64) -> Config {
        Config {
            target,
            target_utilization: 1.0,
            scale_up_rate_max: 10.0,
            scale_down_rate_max: 10.0,
            ..Config::default()
        }
    }

    fn decider(target: f64) -> Decider {
        Decider::new(config(target), Duration::ZERO, 1)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    // Numbers of the tests named, of
    // <https://github.com/knative/serving/blob/main/pkg/autoscaler/scaling/autoscaler_test.go>.

    /// `TestAutoscalerStableModeIncreaseWithConcurrencyDefault`, `TestAutoscalerStableModeDecrease`
    #[test]
    fn follows_the_stable_window() {
        let mut up = decider(10.0);
        assert_eq!(up.decide(secs(0), 1, 50.0, 10.0), 5);
        assert_eq!(up.decide(secs(0), 1, 100.0, 10.0), 10);
        let mut down = decider(10.0);
        assert_eq!(down.decide(secs(0), 8, 100.0, 100.0), 10);
        assert_eq!(down.decide(secs(0), 8, 50.0, 50.0), 5);
    }

    /// `TestAutoscalerUnpanicAfterSlowIncrease`
    #[test]
    fn leaves_panic_after_a_stable_window_below_the_threshold() {
        let mut decider = decider(1.0);
        assert_eq!(decider.decide(secs(0), 10, 11.0, 25.0), 25);
        assert_eq!(decider.decide(secs(30), 40, 30.0, 41.0), 41);
        assert_eq!(decider.panic, Some(secs(0)));
        assert_eq!(decider.decide(secs(62), 55, 50.0, 56.0), 50);
        assert_eq!(decider.panic, None);
    }

    /// `TestAutoscalerExtendPanicWindow`
    #[test]
    fn extends_panic_while_over_the_threshold() {
        let mut decider = decider(1.0);
        assert_eq!(decider.decide(secs(0), 10, 11.0, 25.0), 25);
        assert_eq!(decider.decide(secs(30), 40, 30.0, 80.0), 80);
        assert_eq!(decider.panic, Some(secs(30)));
    }

    /// `TestAutoscalerPanicModeExponentialTrackAndStabilize`
    #[test]
    fn tracks_an_exponential_rise() {
        let mut decider = decider(1.0);
        for (ready, load) in [(1, 6.0), (6, 36.0), (36, 216.0), (216, 1296.0), (1296, 1296.0)] {
            assert_eq!(decider.decide(secs(1), ready, load, load), load as u32);
        }
    }

    /// `TestAutoscalerPanicThenUnPanicScaleDown`
    #[test]
    fn does_not_go_down_in_panic() {
        let mut decider = decider(10.0);
        assert_eq!(decider.decide(secs(0), 1, 100.0, 100.0), 10);
        assert_eq!(decider.decide(secs(1), 10, 100.0, 1000.0), 100);
        assert_eq!(decider.decide(secs(31), 10, 1.0, 1.0), 100);
        assert_eq!(decider.decide(secs(62), 10, 1.0, 1.0), 1);
    }

    /// `TestAutoscalerRateLimitScaleUp`, `TestAutoscalerRateLimitScaleDown`,
    /// `TestAutoscalerUseOnePodAsMinimumIfEndpointsNotFound`, and two cases of `TestAutoscalerScale`
    #[test]
    fn rates_bound_each_decision() {
        let mut up = decider(10.0);
        assert_eq!(up.decide(secs(0), 1, 1000.0, 1001.0), 10);
        assert_eq!(up.decide(secs(0), 10, 1000.0, 1001.0), 100);
        let mut down = decider(10.0);
        assert_eq!(down.decide(secs(0), 100, 1.0, 1.0), 10);
        assert_eq!(down.decide(secs(0), 10, 1.0, 1.0), 1);
        assert_eq!(decider(10.0).decide(secs(0), 0, 1000.0, 888.0), 10);
        let mut slow = decider(1.0);
        slow.config.scale_up_rate_max = 1.1;
        assert_eq!(slow.decide(secs(0), 2, 3.0, 3.1), 3);
        let mut slow = decider(10.0);
        slow.config.scale_down_rate_max = 1.1;
        assert_eq!(slow.decide(secs(0), 100, 1.0, 1.0), 90);
    }

    /// `TestAutoscalerScale`: in panic the larger of the two windows counts.
    #[test]
    fn takes_the_larger_window_in_panic() {
        for (stable, panic, expected) in [(50.0, 30.0, 50), (20.0, 30.0, 30)] {
            let mut decider = decider(1.0);
            (decider.panic, decider.panic_pods_max) = (Some(secs(0)), 5);
            assert_eq!(decider.decide(secs(5), 5, stable, panic), expected);
        }
    }

    /// `TestAutoscalerScaleDownDelay`
    #[test]
    fn delays_a_scale_down() {
        let mut decider = decider(10.0);
        decider.config.panic_threshold = 100.0;
        decider.config.scale_down_delay = Duration::from_mins(5);
        let at = Duration::from_secs;
        assert_eq!(decider.decide(at(2), 0, 40.0, 40.0), 4);
        assert_eq!(decider.decide(at(300), 0, 0.0, 0.0), 4);
        assert_eq!(decider.decide(at(302), 0, 0.0, 0.0), 0);
        assert_eq!(decider.decide(at(540), 0, 40.0, 40.0), 4);
        assert_eq!(decider.decide(at(600), 0, 30.0, 30.0), 4);
        assert_eq!(decider.decide(at(660), 0, 0.0, 0.0), 4);
        assert_eq!(decider.decide(at(840), 0, 0.0, 0.0), 3);
        assert_eq!(decider.decide(at(900), 0, 0.0, 0.0), 0);
    }

    /// `TestStartInPanicMode`
    #[test]
    fn begins_in_panic_with_more_than_one_pod() {
        for (ready, panics) in [(0, false), (1, false), (2, true)] {
            let decider = Decider::new(config(100.0), secs(0), ready);
            assert_eq!((decider.panic.is_some(), decider.panic_pods_max), (panics, ready));
        }
    }

    /// `TestPopulationMeanSampleSize`, `sample_size_test.go` in `pkg/autoscaler/metrics`
    #[test]
    fn samples_as_many_pods_as_its_formula_says() {
        for (pods, size) in [(0, 0), (1, 1), (2, 2), (5, 4), (10, 7), (100, 14), (1000, 16)] {
            assert_eq!(sample_size(pods), size);
        }
    }

    /// The documentation's calculation of the default: 70 % of a target of 10 are 7 for each pod, and 100 concurrent
    /// requests make 15 pods (<https://www.alibabacloud.com/help/en/cs/user-guide/automatic-service-scaling-based-on-traffic-requests>).
    #[test]
    fn plans_for_a_part_of_the_target() {
        let mut decider = Decider::new(Config { target: 10.0, ..Config::default() }, secs(0), 1);
        assert_eq!(decider.decide(secs(0), 10, 100.0, 100.0), 15);
    }

    /// What the comment of `WindowAverage` says.
    #[test]
    fn windows_know_what_is_missing() {
        let mut window = Window::new(Duration::from_mins(1));
        for second in 100..106 {
            window.record(second, 3.0);
        }
        // Six seconds are there: the average is over them.
        assert_eq!(window.average(105), Some(3.0));
        // The last value was 10 s ago in a full window: the average is over the first 50 s.
        for second in 106..160 {
            window.record(second, 3.0);
        }
        assert_eq!(window.average(169), Some(3.0));
        // A gap within counts as 0.
        window.record(179, 3.0);
        assert_eq!(window.average(179), Some((41.0 * 3.0 / 60.0 * 1e6_f64).floor() / 1e6));
        // A window without a value, and all is forgotten.
        assert_eq!(window.average(239), None);
        window.record(300, 5.0);
        assert_eq!(window.average(300), Some(5.0));
    }
}
