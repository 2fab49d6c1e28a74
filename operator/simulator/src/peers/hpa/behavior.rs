//! How fast the HPA goes: stabilisation windows and scaling policies, as documented in
//! <https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#configurable-scaling-behavior>.

use std::time::Duration;

/// `spec.behavior` of an HPA.
#[derive(Clone, Debug, PartialEq)]
pub struct Behavior {
    /// `scaleUp`.
    pub up: Rules,
    /// `scaleDown`.
    pub down: Rules,
}

/// The rules of one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// `stabilizationWindowSeconds`.
    pub stabilization: Duration,
    /// `selectPolicy`.
    pub select: Select,
    /// `policies`.
    pub policies: Vec<Rate>,
}

/// Which of several policies counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// The one that allows the largest change.
    Max,
    /// The one that allows the smallest change.
    Min,
    /// No change in this direction at all.
    Disabled,
}

/// One policy: how much may change within how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How much.
    pub amount: Amount,
    /// `periodSeconds`.
    pub period: Duration,
}

/// How much may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many pods.
    Pods(u32),
    /// So many percent of the replicas at the beginning of the period.
    Percent(u32),
}

impl Default for Behavior {
    /// The documented defaults.
    fn default() -> Self {
        let rate = |amount| Rate { amount, period: Duration::from_secs(15) };
        Self {
            up: Rules {
                stabilization: Duration::ZERO,
                select: Select::Max,
                policies: vec![rate(Amount::Percent(100)), rate(Amount::Pods(4))],
            },
            down: Rules {
                stabilization: Duration::from_mins(5),
                select: Select::Max,
                policies: vec![rate(Amount::Percent(100))],
            },
        }
    }
}

/// What an HPA remembers to keep its behavior.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was recommended before stabilisation, and when.
    recommendations: Vec<(Duration, u32)>,
    /// Replicas added, and when.
    ups: Vec<(Duration, u32)>,
    /// Replicas removed, and when.
    downs: Vec<(Duration, u32)>,
}

impl History {
    /// The replicas that may be set now, from those that the metrics ask for. The recommendation is remembered.
    pub fn normalize(
        &mut self,
        behavior: &Behavior,
        now: Duration,
        current: u32,
        desired: u32,
        (min, max): (u32, u32),
    ) -> u32 {
        let stabilized = self.stabilize(behavior, now, current, desired);
        self.limit(behavior, now, current, stabilized, (min, max))
    }

    /// Remembers a change that was made.
    pub fn changed(&mut self, behavior: &Behavior, now: Duration, from: u32, to: u32) {
        let longest = |rules: &Rules| rules.policies.iter().map(|rate| rate.period).max().unwrap_or_default();
        let keep = longest(&behavior.up).max(longest(&behavior.down));
        for events in [&mut self.ups, &mut self.downs] {
            events.retain(|&(at, _)| within(at, now, keep));
        }
        if to > from {
            self.ups.push((now, to - from));
        } else if to < from {
            self.downs.push((now, from - to));
        }
    }

    /// Remembers the replicas that are there when the HPA comes to know of them.
    pub fn begin(&mut self, now: Duration, current: u32) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// At least the lowest recommendation of the up window, at most the highest of the down window, and otherwise as
    /// near to the current replicas as that allows.
    fn stabilize(&mut self, behavior: &Behavior, now: Duration, current: u32, desired: u32) -> u32 {
        let (mut lowest, mut highest) = (desired, desired);
        for &(at, recommendation) in &self.recommendations {
            if within(at, now, behavior.up.stabilization) {
                lowest = lowest.min(recommendation);
            }
            if within(at, now, behavior.down.stabilization) {
                highest = highest.max(recommendation);
            }
        }
        let keep = behavior.up.stabilization.max(behavior.down.stabilization);
        self.recommendations.retain(|&(at, _)| within(at, now, keep));
        self.recommendations.push((now, desired));
        current.max(lowest).min(highest)
    }

    fn limit(
        &self,
        behavior: &Behavior,
        now: Duration,
        current: u32,
        desired: u32,
        (min, max): (u32, u32),
    ) -> u32 {
        let sum = |events: &[(Duration, u32)], period| -> i64 {
            events
                .iter()
                .filter(|&&(at, _)| within(at, now, period))
                .map(|&(_, change)| i64::from(change))
                .sum()
        };
        let before =
            |rate: &Rate| i64::from(current) - sum(&self.ups, rate.period) + sum(&self.downs, rate.period);
        let current = i64::from(current);
        let desired = i64::from(desired);
        let limit = if desired > current {
            let allowed = behavior.up.policies.iter().map(|rate| match rate.amount {
                Amount::Pods(pods) => before(rate) + i64::from(pods),
                // Rounded up, in whole numbers.
                Amount::Percent(percent) => -(-(before(rate) * (100 + i64::from(percent)))).div_euclid(100),
            });
            let allowed = match behavior.up.select {
                Select::Max => allowed.max(),
                Select::Min => allowed.min(),
                Select::Disabled => None,
            };
            desired.min(allowed.unwrap_or(current).max(current)).min(i64::from(max))
        } else {
            let allowed = behavior.down.policies.iter().map(|rate| match rate.amount {
                Amount::Pods(pods) => before(rate) - i64::from(pods),
                Amount::Percent(percent) => before(rate) * (100 - i64::from(percent)) / 100,
            });
            let allowed = match behavior.down.select {
                Select::Max => allowed.min(),
                Select::Min => allowed.max(),
                Select::Disabled => None,
            };
            desired.max(allowed.unwrap_or(current).min(current)).max(i64::from(min))
        };
        limit.clamp(0, i64::from(u32::MAX)) as u32
    }
}

/// Whether `at` lies in the last `window`, its far end left out.
fn within(at: Duration, now: Duration, window: Duration) -> bool {
    at + window > now
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: (u32, u32) = (1, 1000);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rules(select: Select, stabilization: u64, policies: &[(Amount, u64)]) -> Rules {
        let policies =
            policies.iter().map(|&(amount, period)| Rate { amount, period: secs(period) }).collect();
        Rules { stabilization: secs(stabilization), select, policies }
    }

    /// Changes spread evenly over the last two minutes before 1,000 s.
    fn spread(changes: &[u32]) -> Vec<(Duration, u32)> {
        let segment = 120.0 / changes.len() as f64;
        let at = |index: usize| 880.0 + segment * (index as f64 + 0.5);
        changes
            .iter()
            .enumerate()
            .map(|(index, &change)| (Duration::from_secs_f64(at(index)), change))
            .collect()
    }

    fn up(policies: &[(Amount, u64)], ups: &[u32], current: u32, desired: u32, bounds: (u32, u32)) -> u32 {
        let mut behavior = Behavior::default();
        if !policies.is_empty() {
            behavior.up = rules(Select::Max, 0, policies);
        }
        let history = History { ups: spread(ups), ..History::default() };
        history.limit(&behavior, secs(1000), current, desired, bounds)
    }

    fn down(
        policies: &[(Amount, u64)],
        downs: &[u32],
        current: u32,
        desired: u32,
        bounds: (u32, u32),
    ) -> u32 {
        let mut behavior = Behavior::default();
        if !policies.is_empty() {
            behavior.down = rules(Select::Max, 300, policies);
        }
        let history = History { downs: spread(downs), ..History::default() };
        history.limit(&behavior, secs(1000), current, desired, bounds)
    }

    /// Numbers of `TestScalingWithRules`, <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/horizontal_test.go>.
    #[test]
    fn rates_are_those_of_the_controllers_own_cases() {
        use Amount::{Percent, Pods};
        assert_eq!(up(&[], &[], 5, 7, (3, 8)), 7);
        assert_eq!(down(&[], &[], 3, 1, (2, 8)), 2);
        assert_eq!(up(&[], &[], 100, 1000, (100, 150)), 150);
        assert_eq!(up(&[(Percent(1), 60)], &[], 3, 1000, (1, 2000)), 4);
        assert_eq!(down(&[(Pods(20), 60)], &[], 1000, 3, (3, 2000)), 980);
        assert_eq!(up(&[], &[], 10, 50, LARGE), 20);
        assert_eq!(up(&[(Pods(100), 60), (Percent(100), 60)], &[], 10, 500, LARGE), 110);
        assert_eq!(up(&[(Pods(2), 60), (Percent(100), 60)], &[], 10, 500, LARGE), 20);
        assert_eq!(up(&[(Pods(30), 60)], &[], 10, 50, LARGE), 40);
        assert_eq!(up(&[(Percent(200), 60)], &[], 10, 50, LARGE), 30);
        assert_eq!(down(&[(Pods(20), 60), (Percent(1), 60)], &[], 100, 2, LARGE), 80);
        assert_eq!(down(&[(Pods(2), 60), (Percent(1), 60)], &[], 100, 2, LARGE), 98);
        assert_eq!(down(&[(Percent(100), 60)], &[], 10, 2, (5, 1000)), 5);
        assert_eq!(down(&[(Pods(5), 60)], &[], 10, 2, LARGE), 5);
        assert_eq!(up(&[(Pods(300), 60)], &[1, 5, 9], 100, 500, (1, 200)), 200);
        assert_eq!(up(&[(Pods(5), 120)], &[1, 5, 9], 100, 500, LARGE), 100);
        assert_eq!(up(&[(Pods(150), 120)], &[1, 5, 9], 100, 500, LARGE), 235);
        assert_eq!(up(&[(Percent(200), 120)], &[1, 5, 9], 100, 500, LARGE), 255);
        assert_eq!(down(&[(Pods(5), 120)], &[1, 5, 9], 100, 2, LARGE), 100);
        assert_eq!(down(&[(Percent(50), 120)], &[2, 4, 6], 100, 0, LARGE), 56);
        assert_eq!(down(&[(Percent(10), 120)], &[10, 10, 10], 100, 0, LARGE), 100);
        assert_eq!(down(&[(Percent(1000), 120)], &[10, 10, 10], 10, 5, LARGE), 5);
    }

    /// `TestCalculateScaleUpLimitWithScalingRules` and `TestCalculateScaleDownLimitWithBehaviors`, the same file.
    #[test]
    fn min_selects_the_smallest_change() {
        let policies = [(Amount::Pods(2), 60), (Amount::Percent(50), 60)];
        let behavior =
            Behavior { up: rules(Select::Min, 300, &policies), down: rules(Select::Min, 300, &policies) };
        assert_eq!(History::default().limit(&behavior, secs(1000), 1, 100, (0, 100)), 2);
        assert_eq!(History::default().limit(&behavior, secs(1000), 5, 0, (0, 100)), 3);
    }

    /// The documentation's example: 4 pods or 10 % a minute, from 80 replicas to 10: 8 pods first, 8 of 72 after that, and
    /// 4 at a time below 40 (<https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#scaling-policies>).
    #[test]
    fn goes_down_as_in_the_documentations_example() {
        let policies = [(Amount::Pods(4), 60), (Amount::Percent(10), 60)];
        let behavior = Behavior { down: rules(Select::Max, 0, &policies), ..Behavior::default() };
        let mut history = History::default();
        let mut replicas = vec![80];
        for minute in 0..30 {
            let (now, current) = (secs(60 * minute), *replicas.last().unwrap());
            let next = history.normalize(&behavior, now, current, 10, LARGE);
            history.changed(&behavior, now, current, next);
            replicas.push(next);
        }
        assert_eq!(replicas[..4], [80, 72, 64, 57]);
        assert!(replicas.windows(2).filter(|pair| pair[0] <= 40 && pair[0] > 13).all(|p| p[0] - p[1] == 4));
        assert_eq!(replicas.last(), Some(&10));
    }

    /// `TestNormalizeDesiredReplicas`, the same file: the highest recommendation of five minutes.
    #[test]
    fn stabilizes_by_the_highest_recommendation_of_the_window() {
        for (recommended, desired, expected) in [
            (vec![], 5, 5),
            (vec![(4, 120), (5, 60)], 3, 5),
            (vec![(1, 120), (2, 60)], 3, 3),
            (vec![(10, 600), (9, 540)], 3, 3),
            (vec![(10, 600), (4, 60), (5, 120), (9, 540)], 3, 5),
        ] {
            let ago = |&(replicas, seconds): &(u32, u64)| (secs(1000 - seconds), replicas);
            let mut history =
                History { recommendations: recommended.iter().map(ago).collect(), ..History::default() };
            // From high enough that nothing but the window holds it back.
            let current = if expected > desired { 10 } else { desired };
            assert_eq!(history.stabilize(&Behavior::default(), secs(1000), current, desired), expected);
        }
    }

    #[test]
    fn a_disabled_direction_does_not_move() {
        let mut behavior = Behavior::default();
        behavior.down.select = Select::Disabled;
        behavior.up.select = Select::Disabled;
        let history = History::default();
        assert_eq!(history.limit(&behavior, secs(1000), 10, 2, LARGE), 10);
        assert_eq!(history.limit(&behavior, secs(1000), 10, 20, LARGE), 10);
    }
}
