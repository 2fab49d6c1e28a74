//! What one pod can carry, learned from what pods were seen to do.
//!
//! The share of requests over a target grows with the load of a pod, and steeply where it matters. Near the **capacity** C,
//! the load at which the share equals the budget b, it is taken for `f + (b-f)·(x/C)^β`: f is the share without any load,
//! β the steepness. Both queueing theory (an M/M/k queue at a utilisation of 0.6 to 0.85 has a β of 6 to 10 at its 99th
//! percentile) and throttled pods look so within the range that counts. A grid holds how likely each triple of C, β and f
//! is. Each round multiplies in how well a triple explains the share that was seen; between rounds the grid is blurred a
//! little, for the capacity may wander.

use super::grid::{LogGrid, ROWS, STEP_COARSE};
use super::learned::Likely;

/// Steepness that a service may have.
const STEEPNESS: [f64; 4] = [5.0, 9.0, 18.0, 40.0];
/// Logarithms of how likely each is beforehand.
const STEEPNESS_PRIOR: [f64; 4] = [-1.0, 0.0, -1.0, -1.0];
/// Shares without load that a service may have, relative to the budget. From 1 on the target cannot be met.
const FLOORS: [f64; 6] = [0.0, 0.15, 0.3, 0.5, 0.75, 2.0];
/// Logarithms of how likely each is beforehand: most promises are made with some room. That a target cannot be met has to be
/// shown by a lower load, which shows it at once: at one load it looks like a capacity that is a little lower.
const FLOORS_PRIOR: [f64; 6] = [0.0, 0.0, 0.0, -1.0, -2.0, -6.0];
const COLUMNS: usize = STEEPNESS.len() * FLOORS.len();
/// What load may add at the capacity, at least: a target that is missed without any load is missed no worse than so.
const ADDED_MIN: f64 = 0.25;
/// How far the logarithm of the capacity may wander in a second, by root of time: a tenth in ten minutes.
const WANDERING_PER_ROOT_SECOND: f64 = 0.004;
/// Share of belief in a steepness and a floor that is lost to the others in a second.
const FORGOTTEN_PER_SECOND: f64 = 0.0005;
/// Share of the belief in a steepness and a floor that a doubt leaves.
const KEPT: f64 = 0.8;
/// Late requests come in groups, for they wait in the same queue: so many count as one.
pub const GROUPING: f64 = 6.0;
/// A round counts as at most about this many late requests that are independent: the model is not exact.
const LATE_MAX: f64 = 8.0;
/// A pod that is kept busy completes more than its capacity: the capacity is this part of it.
pub const CAPACITY_OF_SATURATION: f64 = 0.75;
const SATURATION_SPREAD: f64 = 0.15;
/// A capacity that was learned before is known no better than the one, and no worse than the other.
const LEARNED_SPREAD_MIN: f64 = 0.1;
const LEARNED_SPREAD_MAX: f64 = 1.0;
/// Points that stand for the distribution of the capacity.
const POINTS: usize = 8;
/// Weights below this part of the largest are left out of a mean.
const TELLING_WEIGHT: f64 = 3e-4;

/// What is known of the load that one pod can carry for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    budget: f64,
    grid: LogGrid<COLUMNS>,
}

/// What pods did in a round, seen as evidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Load of one pod, in requests per second.
    pub per_pod_per_second: f64,
    /// Requests that ended.
    pub total: f64,
    /// Of them, those over the target.
    pub over: f64,
}

/// One likely capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Requests per second of one pod.
    pub per_second: f64,
    /// How likely.
    pub weight: f64,
}

impl Capacity {
    /// Nothing is known but that a pod carries between `low` and `high` requests per second.
    pub fn between(budget: f64, low: f64, high: f64) -> Self {
        let (low, high) = (low.max(1e-6).ln(), high.max(2e-6).ln());
        let first = f64::midpoint(low, high) - STEP_COARSE * (ROWS as f64 - 1.0) / 2.0;
        let log_weights = (0..ROWS)
            .flat_map(|row| {
                let log = first + STEP_COARSE * row as f64;
                let outside = (low - log).max(log - high).max(0.0) / STEP_COARSE;
                (0..COLUMNS).map(move |column| {
                    STEEPNESS_PRIOR[column / FLOORS.len()] + FLOORS_PRIOR[column % FLOORS.len()] - outside
                })
            })
            .collect();
        Self { budget, grid: LogGrid::new(first, STEP_COARSE, log_weights) }
    }

    /// It is as was learned before a restart, or before other pods came: what is not seen again soon may have changed since.
    pub fn as_learned(budget: f64, learned: Likely) -> Self {
        let spread = learned.spread.clamp(LEARNED_SPREAD_MIN, LEARNED_SPREAD_MAX);
        Self::about(budget, learned.per_second.ln(), spread)
    }

    /// What is worth to be kept of it.
    pub fn learned(&self) -> Likely {
        let (log_mean, spread) = self.log_moments();
        Likely { per_second: log_mean.exp(), spread }
    }

    /// About `log_mean` is known, with a spread of the logarithm.
    pub fn about(budget: f64, log_mean: f64, spread: f64) -> Self {
        // As wide as a uniform distribution of that spread is.
        let wide = spread * 12.0_f64.sqrt() / 2.0;
        let mut capacity = Self::between(budget, (log_mean - wide).exp(), (log_mean + wide).exp());
        capacity.grid.settle();
        capacity
    }

    /// Forgets some, for the `seconds` that passed: the capacity may have wandered since.
    pub fn forget(&mut self, seconds: f64) {
        let variance = seconds * WANDERING_PER_ROOT_SECOND.powi(2);
        let moved = (variance / (2.0 * self.grid.step * self.grid.step)).min(0.25);
        let lost = (FORGOTTEN_PER_SECOND * seconds).min(0.5);
        let rows: Vec<&[f64]> = self.grid.weights().collect();
        let mut weights = Vec::with_capacity(ROWS * COLUMNS);
        for (index, here) in rows.iter().enumerate() {
            let (before, after) = (rows[index.saturating_sub(1)], rows[(index + 1).min(ROWS - 1)]);
            let mean = here.iter().sum::<f64>() / COLUMNS as f64;
            weights.extend(here.iter().zip(before).zip(after).map(|((here, before), after)| {
                let blurred = here * (1.0 - 2.0 * moved) + moved * (before + after);
                (1.0 - lost) * blurred + lost * mean
            }));
        }
        self.grid.set(weights);
    }

    /// Learns from the share over the target.
    pub fn learn(&mut self, evidence: Evidence) {
        if evidence.total <= 0.0 || evidence.per_pod_per_second <= 0.0 {
            return;
        }
        let log_load = evidence.per_pod_per_second.ln();
        let weight = 1.0 / (GROUPING + evidence.total * self.budget / LATE_MAX);
        let within = evidence.total - evidence.over;
        let explained = |over: f64| weight * (evidence.over * over.ln() + within * (-over).ln_1p());
        // At many loads the share is as without any, or as high as it can be: a logarithm is dear.
        let ends = FLOORS.map(|floor| [0.0, f64::INFINITY].map(|grown| share(self.budget, floor, grown)));
        let explained_ends = ends.map(|ends| ends.map(explained));
        for row in 0..ROWS {
            let relative = log_load - self.grid.log_at(row);
            let grown = STEEPNESS.map(|steepness| (steepness * relative).exp());
            for (column, weight_here) in
                self.grid.log_weights[row * COLUMNS..(row + 1) * COLUMNS].iter_mut().enumerate()
            {
                let floor = column % FLOORS.len();
                let over = share(self.budget, FLOORS[floor], grown[column / FLOORS.len()]);
                let end = ends[floor].iter().position(|end| over.to_bits() == end.to_bits());
                *weight_here += end.map_or_else(|| explained(over), |end| explained_ends[floor][end]);
            }
        }
        self.grid.settle();
    }

    /// Learns from a pod that was kept busy and completed `per_second`.
    pub fn learn_saturated(&mut self, per_second: f64) {
        self.learn_about(CAPACITY_OF_SATURATION * per_second, SATURATION_SPREAD, SATURATION_SPREAD);
    }

    /// Whether a pod that was kept busy and completed `per_second` can do no more than what was taken for its capacity, at
    /// which pods are not kept busy.
    pub fn is_surprised_by_saturation(&self, per_second: f64) -> bool {
        per_second.ln() < self.log_moments().0
    }

    /// Learns that the capacity is about `per_second`, with different spreads of the logarithm below and above.
    pub fn learn_about(&mut self, per_second: f64, spread_below: f64, spread_above: f64) {
        if per_second <= 0.0 {
            return;
        }
        for row in 0..ROWS {
            let off = self.grid.log_at(row) - per_second.ln();
            let scaled = off / if off < 0.0 { spread_below } else { spread_above };
            // Heavy tails: one wrong witness must not rule out the truth.
            let log_likelihood = -2.0 * (scaled * scaled / 4.0).ln_1p();
            for weight in &mut self.grid.log_weights[row * COLUMNS..(row + 1) * COLUMNS] {
                *weight += log_likelihood;
            }
        }
        self.grid.settle();
    }

    /// Something has changed: keeps the place, widens the spread to at least `spread`. The steepness and the share without
    /// load are kept in part: most releases change neither, and at one load a high one looks like a low capacity.
    pub fn doubt(&mut self, spread: f64) {
        let (mean, now) = self.log_moments();
        if now >= spread {
            return;
        }
        let mut columns = [0.0; COLUMNS];
        for weights in self.grid.weights() {
            for (sum, weight) in columns.iter_mut().zip(weights) {
                *sum += weight;
            }
        }
        let total = columns.iter().sum::<f64>();
        *self = Self::about(self.budget, mean, spread);
        for weights in self.grid.log_weights.chunks_exact_mut(COLUMNS) {
            for (weight, kept) in weights.iter_mut().zip(columns) {
                *weight += (KEPT * kept / total + (1.0 - KEPT) / COLUMNS as f64).ln();
            }
        }
        self.grid.settle();
    }

    /// A request has become so many times as dear: so much less is carried, and for certain only within `spread` (of its
    /// logarithm).
    pub fn cost_changed(&mut self, factor: f64, spread: f64) {
        self.grid.first -= factor.ln();
        self.doubt(spread);
    }

    /// Mean and spread of the logarithm of the capacity.
    pub fn log_moments(&self) -> (f64, f64) {
        self.grid.moments()
    }

    /// The likely capacities with their weights, which add up to 1, lowest first. A `witness` that knows the mean and the
    /// spread of the logarithm is heard.
    pub fn points(&self, witness: Option<(f64, f64)>) -> Vec<Point> {
        let heard = |row: usize| {
            witness.map_or(1.0, |(mean, spread)| {
                let off = (self.grid.log_at(row) - mean) / spread;
                (1.0 + off * off / 4.0).powi(-2)
            })
        };
        let total = self.grid.rows().enumerate().map(|(row, weight)| weight * heard(row)).sum::<f64>();
        let mut points = Vec::with_capacity(POINTS + 1);
        let (mut weight, mut log_sum, mut below) = (0.0, 0.0, 0.0);
        for (row, part) in self.grid.rows().enumerate() {
            let part = part * heard(row) / total;
            weight += part;
            log_sum += part * self.grid.log_at(row);
            below += part;
            if below * POINTS as f64 >= (points.len() + 1) as f64 - 1e-9 {
                points.push(Point { per_second: (log_sum / weight).exp(), weight });
                (weight, log_sum) = (0.0, 0.0);
            }
        }
        if weight > 1e-12 {
            points.push(Point { per_second: (log_sum / weight).exp(), weight });
        }
        points
    }

    /// The share over the target that is expected at a load of one pod.
    pub fn expected_over(&self, per_pod_per_second: f64) -> f64 {
        self.mean(|row, steepness, floor| {
            let grown = (steepness * (per_pod_per_second.ln() - self.grid.log_at(row))).exp();
            share(self.budget, floor, grown)
        })
    }

    /// By which power the share over the target grows at the capacity.
    pub fn steepness(&self) -> f64 {
        self.mean(|_, steepness, floor| {
            let added = (1.0 - floor).max(ADDED_MIN);
            steepness * added / (floor + added)
        })
    }

    /// The share over the target without load, relative to the budget.
    pub fn floor(&self) -> f64 {
        self.mean(|_, _, floor| floor)
    }

    fn mean(&self, value: impl Fn(usize, f64, f64) -> f64) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (row, weights) in self.grid.weights().enumerate() {
            for (weight, (steepness, floor)) in weights.iter().zip(columns()) {
                if *weight > TELLING_WEIGHT {
                    sum += weight * value(row, steepness, floor);
                    total += weight;
                }
            }
        }
        sum / total
    }
}

/// The steepness and the floor of each column.
fn columns() -> impl Iterator<Item = (f64, f64)> {
    STEEPNESS.into_iter().flat_map(|steepness| FLOORS.into_iter().map(move |floor| (steepness, floor)))
}

/// The share over the target where load has grown the wait by the factor `grown`, 1 at the capacity.
pub fn share(budget: f64, floor: f64, grown: f64) -> f64 {
    (budget * (floor + (1.0 - floor).max(ADDED_MIN) * grown)).clamp(1e-6, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: f64 = 0.01;
    const TRUTH: f64 = 57.0;

    /// A service whose share over the target is a fifth of the budget without load.
    fn over(per_second: f64) -> f64 {
        share(BUDGET, 0.2, (per_second / TRUTH).powf(8.0))
    }

    fn learn(capacity: &mut Capacity, per_second: f64, rounds: usize) {
        for _ in 0..rounds {
            capacity.forget(5.0);
            let total = 10.0 * 5.0 * per_second;
            let evidence = Evidence { per_pod_per_second: per_second, total, over: total * over(per_second) };
            capacity.learn(evidence);
        }
    }

    /// What a day would teach: loads up to a little beyond the capacity.
    fn learned() -> Capacity {
        let mut capacity = Capacity::between(BUDGET, 20.0, 400.0);
        for part in [0.6, 0.75, 0.9, 1.0, 1.05, 0.95] {
            learn(&mut capacity, part * TRUTH, 12);
        }
        capacity
    }

    fn off(capacity: &Capacity) -> f64 {
        (capacity.log_moments().0 - TRUTH.ln()).abs()
    }

    #[test]
    fn near_the_capacity_it_is_known_well() {
        let capacity = learned();
        assert!(off(&capacity) < 0.05, "{:?}", capacity.log_moments());
        assert!(capacity.log_moments().1 < 0.08, "{:?}", capacity.log_moments());
        let points = capacity.points(None);
        assert!((points.iter().map(|point| point.weight).sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(points.windows(2).all(|pair| pair[0].per_second < pair[1].per_second));
    }

    #[test]
    fn a_load_far_below_rules_out_only_what_is_lower() {
        let mut capacity = Capacity::between(BUDGET, 20.0, 400.0);
        learn(&mut capacity, 0.5 * TRUTH, 24);
        let points = capacity.points(None);
        assert!(points[0].per_second > 0.5 * TRUTH, "{points:?}");
        assert!(capacity.log_moments().1 > 0.3, "{points:?}");
    }

    #[test]
    fn a_witness_is_heard() {
        let capacity = Capacity::between(BUDGET, 20.0, 400.0);
        let heard = capacity.points(Some((TRUTH.ln(), 0.15)));
        let mean = heard.iter().map(|point| point.weight * point.per_second.ln()).sum::<f64>();
        assert!((mean - TRUTH.ln()).abs() < 0.15, "{heard:?}");
    }

    #[test]
    fn what_a_busy_pod_completes_bounds_what_it_can() {
        for truth in [0.2, 5.0, 3000.0] {
            let mut capacity = Capacity::between(BUDGET, 40.0, 160.0);
            for _ in 0..40 {
                capacity.forget(5.0);
                capacity.learn_saturated(truth);
            }
            let (mean, _) = capacity.log_moments();
            assert!((mean - (CAPACITY_OF_SATURATION * truth).ln()).abs() < 0.1, "{} of {truth}", mean.exp());
        }
    }

    #[test]
    fn a_busy_pod_that_completes_no_more_than_its_capacity_is_a_surprise() {
        let capacity = learned();
        assert!(capacity.is_surprised_by_saturation(0.8 * TRUTH));
        assert!(!capacity.is_surprised_by_saturation(TRUTH / CAPACITY_OF_SATURATION));
    }

    #[test]
    fn a_doubt_lets_what_is_learned_follow_a_release() {
        let mut capacity = learned();
        let before = capacity.log_moments().1;
        capacity.doubt(0.3);
        assert!(capacity.log_moments().1 > 0.2 && before < 0.1);
        assert!(off(&capacity) < 0.1, "{:?}", capacity.log_moments());
    }

    #[test]
    fn a_doubt_leaves_what_is_known_of_the_share_without_load() {
        let mut capacity = learned();
        let (floor, steepness) = (capacity.floor(), capacity.steepness());
        capacity.doubt(0.3);
        assert!((capacity.floor() - floor).abs() < 0.25, "{} after {floor}", capacity.floor());
        assert!((capacity.steepness() / steepness).ln().abs() < 0.3, "{steepness}");
    }

    #[test]
    fn what_costs_more_is_carried_the_less_of_and_is_known_less_well() {
        let mut capacity = learned();
        let (before, spread) = capacity.log_moments();
        capacity.cost_changed(1.5, 0.15);
        let (after, wider) = capacity.log_moments();
        assert!((before - after - 1.5_f64.ln()).abs() < 0.03, "{} after {}", after.exp(), before.exp());
        assert!(spread < 0.1 && (0.12..0.25).contains(&wider), "{wider} after {spread}");
    }

    #[test]
    fn a_target_is_unmeetable_only_once_a_lower_load_has_shown_it() {
        let mut capacity = Capacity::between(BUDGET, 20.0, 400.0);
        let mut learn_twice_the_budget = |per_second: f64| {
            let total = 50.0 * per_second;
            for _ in 0..24 {
                capacity.forget(5.0);
                let over = 2.0 * BUDGET * total;
                capacity.learn(Evidence { per_pod_per_second: per_second, total, over });
            }
            capacity.floor()
        };
        let floors = [60.0, 20.0].map(&mut learn_twice_the_budget);
        assert!(floors[0] < 0.6 && floors[1] > 1.0, "{floors:?}");
    }

    #[test]
    fn more_load_is_never_expected_to_be_faster() {
        let capacity = learned();
        let expected = (1..200).map(|load| capacity.expected_over(f64::from(load))).collect::<Vec<_>>();
        assert!(expected.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
    }

    #[test]
    fn what_is_known_is_lost_in_time_and_no_more_than_that() {
        let mut capacity = learned();
        let (mean, spread) = capacity.log_moments();
        for _ in 0..120 {
            capacity.forget(5.0);
        }
        let (later, wider) = capacity.log_moments();
        assert!((later - mean).abs() < 0.05, "{later} after {mean}");
        assert!(wider > spread && wider < 0.25, "{wider} after {spread}");
    }
}
