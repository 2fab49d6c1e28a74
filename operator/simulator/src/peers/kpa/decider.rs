//! The decision from windowed averages, by
//! <https://github.com/knative/serving/blob/main/pkg/autoscaler/scaling/autoscaler.go>.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Config, TICK};

/// The decision from windowed averages: the `autoscaler` of Knative.
#[derive(Clone, Debug)]
pub(super) struct Decider {
    config: Config,
    /// Since when it panics.
    panic: Option<Duration>,
    panic_pods_max: u32,
    /// Decisions of the last `scale-down-delay`: the tick, and the replicas.
    delayed: VecDeque<(u64, u32)>,
}

impl Decider {
    /// It begins in panic when there is more than one pod, so that a restart does not scale down blind.
    pub(super) fn new(config: Config, now: Duration, ready: u32) -> Self {
        Self { config, panic: (ready > 1).then_some(now), panic_pods_max: ready, delayed: VecDeque::new() }
    }

    pub(super) fn decide(&mut self, now: Duration, ready: u32, stable: f64, panic: f64) -> u32 {
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

    /// The documentation's examples. With a limit of 10 and a utilisation of 70 % a replica is added when the average
    /// reaches 7 (<https://knative.dev/docs/serving/autoscaling/concurrency/#target-utilization>); with the same target
    /// 100 concurrent requests make 15 pods
    /// (<https://www.alibabacloud.com/help/en/cs/user-guide/automatic-service-scaling-based-on-traffic-requests>).
    #[test]
    fn plans_for_a_part_of_the_target() {
        let decide = |ready, load| {
            let config = Config { target: 10.0, ..Config::default() };
            Decider::new(config, secs(0), 1).decide(secs(0), ready, load, load)
        };
        assert_eq!(decide(1, 7.0), 1);
        assert_eq!(decide(1, 7.1), 2);
        assert_eq!(decide(10, 100.0), 15);
    }
}
