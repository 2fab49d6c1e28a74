//! What requests take at low load: the histogram that the queue's model adds waiting to.

use crate::histogram::Delta;

use super::latency_model::Base;
use super::settings::{REQUESTS_PER_BUDGET, Target};

/// Requests that are remembered.
const REQUESTS_MAX: f64 = 20_000.0;
/// What is left of what is remembered when the load was never so low before.
const KEPT_AT_LOWER_LOAD: f64 = 0.2;
/// A load is much lower than those before below this part of them.
const MUCH_LOWER: f64 = 0.7;
/// A load is about as low as those before up to this part of them.
const AS_LOW: f64 = 1.1;

/// Requests at the lowest load that was seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LowLoad {
    counts: Delta,
    /// The load of a pod at which they came, on average.
    per_pod_per_second: f64,
}

impl LowLoad {
    /// Takes requests if their pods had less than `low_per_second`, or no more load than those before.
    pub fn learn(&mut self, counts: &Delta, per_pod_per_second: f64, low_per_second: f64) {
        let first = self.counts.total == 0.0;
        let low = per_pod_per_second < low_per_second;
        if !(first || low || per_pod_per_second < AS_LOW * self.per_pod_per_second) {
            return;
        }
        let kept = if per_pod_per_second < MUCH_LOWER * self.per_pod_per_second && !low {
            KEPT_AT_LOWER_LOAD
        } else {
            (1.0 - counts.total / REQUESTS_MAX)
                .max(KEPT_AT_LOWER_LOAD)
                .min(REQUESTS_MAX / (self.counts.total + counts.total).max(1.0))
        };
        let before = self.counts.total * kept;
        self.counts.scale(kept);
        self.counts.add(counts);
        let all = before + counts.total;
        if all > 0.0 {
            self.per_pod_per_second =
                (self.per_pod_per_second * before + per_pod_per_second * counts.total) / all;
        }
    }

    /// The share of requests that missed a target; none where too few are known for its budget to tell.
    pub fn missed_share(&self, target: Target) -> Option<f64> {
        let told = self.counts.total * target.budget() >= REQUESTS_PER_BUDGET;
        told.then(|| target.missed(&self.counts) / self.counts.total)
    }

    /// As the model takes it. What lies on either side of an edge in `kept_seconds` is not put together.
    pub fn base(&self, kept_seconds: &[f64]) -> Option<Base> {
        Base::of(self.counts.cumulative(), self.counts.total, kept_seconds)
    }
}

#[cfg(test)]
mod tests {
    use crate::histogram::Snapshot;

    use super::*;

    fn requests(fast: f64, slow: f64) -> Delta {
        let buckets = vec![(0.1, fast), (0.2, fast + slow), (f64::INFINITY, fast + slow)];
        Snapshot::new(buckets, None, None).unwrap().since(&Snapshot::default())
    }

    fn slow_share(low: &LowLoad) -> f64 {
        low.base(&[0.1]).unwrap().over(0.1)
    }

    #[test]
    fn a_higher_load_teaches_nothing() {
        let mut low = LowLoad::default();
        low.learn(&requests(90.0, 10.0), 20.0, 0.0);
        low.learn(&requests(10.0, 90.0), 30.0, 0.0);
        assert!((slow_share(&low) - 0.1).abs() < 1e-9);
        low.learn(&requests(10.0, 90.0), 30.0, 40.0);
        assert!(slow_share(&low) > 0.4, "it was low after all");
    }

    #[test]
    fn a_lower_load_soon_counts_most() {
        let mut low = LowLoad::default();
        low.learn(&requests(500.0, 500.0), 20.0, 0.0);
        low.learn(&requests(1000.0, 0.0), 10.0, 0.0);
        assert!(slow_share(&low) < 0.1, "{}", slow_share(&low));
    }

    #[test]
    fn what_missed_a_target_is_told_once_enough_came() {
        let target = Target::latency(0.99, std::time::Duration::from_millis(100));
        let mut low = LowLoad::default();
        low.learn(&requests(180.0, 20.0), 10.0, 0.0);
        assert_eq!(low.missed_share(target), None);
        low.learn(&requests(180.0, 20.0), 10.0, 0.0);
        assert!((low.missed_share(target).unwrap() - 0.1).abs() < 1e-9);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut low = LowLoad::default();
        for _ in 0..100 {
            low.learn(&requests(900.0, 100.0), 10.0, 0.0);
        }
        assert!(low.counts.total <= 1.1 * REQUESTS_MAX, "{}", low.counts.total);
        assert!((slow_share(&low) - 0.1).abs() < 1e-6);
    }
}
