//! The queue of a pod, fitted to the latencies that were seen: which load saturates a pod, and how many workers it has.
//!
//! A grid holds how likely each pair is. Each round multiplies in how well a pair explains how many requests fell between a
//! few edges ([`latency_model`](super::latency_model)); between rounds it is flattened a little, so that what is old counts
//! less. The shape of all latencies changes with load well before any is late: so the fit tells how far the capacity is
//! before it is reached. It is a model, and only a witness beside what was seen near the capacity itself.

use super::grid::{LogGrid, ROWS, SPREAD_FINE, STEP_COARSE, STEP_FINE};
use super::latency_model::{Base, Tail, UTILIZATION_MAX, wait_exponent};
use super::settings::Target;

/// Workers that a pod may have. Beyond the last there is next to no wait before saturation.
const WORKERS: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0];
const COLUMNS: usize = WORKERS.len();
/// What is left of old evidence after a second: half after eight minutes.
const KEPT_PER_SECOND: f64 = 0.9986;
/// Weights below this part of the largest are left out of a mean.
const TELLING_WEIGHT: f64 = 2.5e-3;
/// A second counts as at most this many independent requests: requests that wait in the same queue are late together.
const REQUESTS_MAX_PER_SECOND: f64 = 15.0;

/// How likely each load that saturates a pod is, with each number of workers.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueFit {
    grid: LogGrid<COLUMNS>,
}

/// What pods did in a round, seen as evidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence<'a> {
    /// Seconds that the round covers.
    pub seconds: f64,
    /// Load of one pod.
    pub per_pod_per_second: f64,
    /// Requests between the edges of the tails: up to the first, up to the second, …, over the last.
    pub counts: &'a [f64],
}

impl QueueFit {
    /// Nothing is known but that a pod carries between `low` and `high`, and anything between is as likely.
    pub fn between(low_per_second: f64, high_per_second: f64) -> Self {
        let (low, high) = (low_per_second.ln(), high_per_second.ln());
        let step = if high - low < SPREAD_FINE { STEP_FINE } else { STEP_COARSE };
        let centre = (low_per_second * high_per_second).sqrt().max(1e-6).ln();
        let first = centre - step * (ROWS as f64 - 1.0) / 2.0;
        let log_weights = (0..ROWS)
            .flat_map(|row| {
                let log = first + step * row as f64;
                let outside = (low - log).max(log - high).max(0.0) / step;
                std::iter::repeat_n(-outside, COLUMNS)
            })
            .collect();
        Self { grid: LogGrid::new(first, step, log_weights) }
    }

    /// Forgets some, for the `seconds` that passed.
    pub fn forget(&mut self, seconds: f64) {
        let kept = KEPT_PER_SECOND.powf(seconds);
        for weight in &mut self.grid.log_weights {
            *weight *= kept;
        }
        self.grid.settle();
    }

    /// A request has become so many times as dear: so much less saturates a pod.
    pub fn cost_changed(&mut self, factor: f64) {
        self.grid.first -= factor.ln();
    }

    /// Learns from latencies: `tails` are the model's edges, ascending.
    pub fn learn(&mut self, tails: &[Tail], evidence: Evidence<'_>) {
        let total = evidence.counts.iter().sum::<f64>();
        if total <= 0.0 || evidence.per_pod_per_second <= 0.0 {
            return;
        }
        let most = REQUESTS_MAX_PER_SECOND * evidence.seconds;
        let weight = most / (most + total);
        for row in 0..ROWS {
            let saturation = self.grid.log_at(row).exp();
            let utilization = evidence.per_pod_per_second / saturation;
            let log_utilization = utilization.min(UTILIZATION_MAX).ln();
            for (column, workers) in WORKERS.into_iter().enumerate() {
                let busy = (wait_exponent(workers) * log_utilization).exp();
                let mut above = 1.0;
                let mut log_likelihood = 0.0;
                for (tail, count) in tails.iter().zip(evidence.counts) {
                    let over = tail.over(saturation, utilization, busy).min(above);
                    log_likelihood += count * (above - over).max(1e-4).ln();
                    above = over;
                }
                let last = evidence.counts.last().copied().unwrap_or(0.0);
                log_likelihood += last * above.max(1e-4).ln();
                self.grid.log_weights[row * COLUMNS + column] += weight * log_likelihood;
            }
        }
        self.grid.settle();
    }

    /// Mean and spread of the logarithm of the saturating load.
    pub fn saturation(&self) -> (f64, f64) {
        self.grid.moments()
    }

    /// Mean and spread of the logarithm of the load at which the share over a target equals its budget.
    pub fn capacity(&self, base: &Base, target: Target, tail: &Tail) -> (f64, f64) {
        let unloaded = target.latency_seconds().map_or(0.0, |seconds| base.over(seconds));
        let (mut sum, mut first, mut second) = (0.0, 0.0, 0.0);
        for (row, weights) in self.grid.weights().enumerate() {
            for (&weight, workers) in
                weights.iter().zip(WORKERS).filter(|(weight, _)| **weight > TELLING_WEIGHT)
            {
                let saturation = self.grid.log_at(row).exp();
                let log = carried(target.budget(), unloaded, tail, saturation, wait_exponent(workers)).ln();
                sum += weight;
                first += weight * log;
                second += weight * log * log;
            }
        }
        let mean = first / sum;
        (mean, (second / sum - mean * mean).max(0.0).sqrt())
    }
}

/// The load of one pod at which a share of `budget` is over the target, of which `unloaded` is without any wait.
fn carried(budget: f64, unloaded: f64, tail: &Tail, saturation: f64, exponent: f64) -> f64 {
    // A target that requests miss without any wait: what waits add must stay small beside it.
    let allowed = budget.max(1.1 * unloaded + 0.1 * budget);
    let (mut low, mut high) = (0.0_f64, UTILIZATION_MAX);
    for _ in 0..14 {
        let middle = f64::midpoint(low, high);
        if tail.over(saturation, middle, middle.powf(exponent)) <= allowed {
            low = middle;
        } else {
            high = middle;
        }
    }
    saturation * f64::midpoint(low, high)
}
