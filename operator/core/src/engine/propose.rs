//! The number of replicas with the lowest price: replicas cost by the minute, and so does missing the promise.

use super::capacity::Point;
use super::cold::Starts;
use super::forecast::Outlook;
use super::normal::normal;
use super::record::{Bound, Counterfactual};

/// What is not known of the capacity is found out once: the price of being wrong is spread over this many minutes.
const LEARNING_MINUTES: f64 = 10.0;
/// A minute over target costs at least as much as this many minutes of all replicas that the load needs: what it costs
/// the users grows with their number, and no fleet is so large that it pays to give the promise up.
const VIOLATION_PRICE_FLEETS: f64 = 8.0;
/// The capacity that is planned with lies below the middle by this part of the spread.
const PLANNED_BELOW: f64 = 0.4;
/// Numbers that are tried before the neighbourhood of the best is.
const TRIED: u32 = 40;

/// What the price depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stakes<'a> {
    /// The load to come.
    pub outlook: &'a Outlook,
    /// What one pod can carry.
    pub capacity: &'a [Point],
    /// Spread (of the logarithm) of the load at which a minute's percentile crosses the target.
    pub minute_spread: f64,
    /// Price of a minute over target, in replica-minutes.
    pub violation_price: f64,
    /// Requests of a minute that may be late. Below one, a minute is as good as its one unlucky request, and its price is
    /// that part of the whole one.
    pub late_allowed: f64,
    /// What pods that start do to a minute, if it is known.
    pub starts: Option<&'a Starts>,
    /// Load that is to be carried on top, until a backlog is gone.
    pub backlog_per_second: f64,
}

impl Stakes<'_> {
    /// Price of `replicas` for a minute, in replica-minutes.
    fn price(&self, replicas: u32, planned: f64) -> f64 {
        let known = [Point { per_second: planned, weight: 1.0 }];
        let fleet = (self.outlook.expected_per_second + self.backlog_per_second) / planned;
        f64::from(replicas)
            + self.violation_price.max(VIOLATION_PRICE_FLEETS * fleet)
                * self.late_allowed.min(1.0)
                * (self.violated(replicas, &known)
                    + self.violated(replicas, self.capacity) / LEARNING_MINUTES
                    + self.starts.map_or(0.0, |starts| starts.minutes) * self.violated_by_a_start(replicas))
    }

    /// The chance that a minute misses the promise because new pods start in it, if they do.
    fn violated_by_a_start(&self, replicas: u32) -> f64 {
        self.starts.map_or(0.0, |starts| starts.violated(self.outlook.expected_per_second, replicas))
    }

    /// The capacity that is planned with: a little below the middle.
    fn planned_per_second(&self) -> f64 {
        let mean = self.capacity.iter().map(|point| point.weight * point.per_second.ln()).sum::<f64>();
        let square =
            self.capacity.iter().map(|point| point.weight * point.per_second.ln().powi(2)).sum::<f64>();
        (mean - PLANNED_BELOW * (square - mean * mean).max(0.0).sqrt()).exp()
    }

    /// What a minute with `replicas` would be, as far as the capacity is known.
    pub fn counterfactual(&self, replicas: u32) -> Counterfactual {
        Counterfactual {
            replicas,
            violation_chance: self.violated(replicas, self.capacity).min(1.0),
            start_violation_chance: self.violated_by_a_start(replicas),
        }
    }

    /// The chance that the promise is missed with `replicas`; above 1 where the load is beyond them, and the more so the
    /// further, so that out of two hopeless numbers the larger one is better.
    fn violated(&self, replicas: u32, capacity: &[Point]) -> f64 {
        let log_replicas = f64::from(replicas.max(1)).ln();
        let mut chance = 0.0;
        for &(load, load_weight) in &self.outlook.points {
            let log_load = (load + self.backlog_per_second).max(1e-9).ln() - log_replicas;
            for point in capacity {
                let beyond = log_load - point.per_second.ln();
                let severity = 1.0 + beyond.max(0.0);
                chance += load_weight * point.weight * severity * normal(beyond / self.minute_spread);
            }
        }
        chance
    }

    /// The cheapest number of replicas within `min..=max`.
    pub fn cheapest(&self, min: u32, max: u32) -> u32 {
        let most =
            self.outlook.points.iter().map(|point| point.0).fold(0.0, f64::max) + self.backlog_per_second;
        let least_capacity =
            self.capacity.iter().map(|point| point.per_second).fold(f64::INFINITY, f64::min).max(1e-9);
        // Beyond this number nothing can be gained.
        let high = ((most / least_capacity * (1.0 + 10.0 * self.minute_spread)).ceil().min(f64::from(max))
            as u32)
            .clamp(min, max);
        let stride = ((high - min) / TRIED).max(1);
        let planned = self.planned_per_second();
        let best = |mut numbers: Box<dyn Iterator<Item = u32>>| {
            let first = numbers.next().unwrap_or(min);
            numbers
                .fold((first, self.price(first, planned)), |best, number| {
                    let price = self.price(number, planned);
                    if price < best.1 { (number, price) } else { best }
                })
                .0
        };
        let rough = best(Box::new((min..=high).step_by(stride as usize)));
        if stride == 1 {
            return rough;
        }
        best(Box::new(rough.saturating_sub(stride).max(min)..=(rough + stride).min(high)))
    }

    /// The bound beyond which a number would be cheaper than `cheapest`, which is the cheapest within them.
    pub fn beyond(&self, cheapest: u32, min: u32, max: u32) -> Option<Bound> {
        let planned = self.planned_per_second();
        let cheaper = |replicas| self.price(replicas, planned) < self.price(cheapest, planned);
        if cheapest == max && cheaper(max + 1) {
            return Some(Bound::Max);
        }
        (cheapest == min && min > 1 && cheaper(min - 1)).then_some(Bound::Min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certain(per_second: f64) -> Vec<Point> {
        vec![Point { per_second, weight: 1.0 }]
    }

    fn steady(per_second: f64) -> Outlook {
        Outlook { points: vec![(per_second, 1.0)], expected_per_second: per_second }
    }

    fn stakes<'a>(outlook: &'a Outlook, capacity: &'a [Point]) -> Stakes<'a> {
        Stakes {
            outlook,
            capacity,
            minute_spread: 0.02,
            violation_price: 100.0,
            late_allowed: 10.0,
            starts: None,
            backlog_per_second: 0.0,
        }
    }

    #[test]
    fn what_is_known_leaves_a_margin_of_a_few_percent() {
        for load in [50.0, 400.0, 3000.0, 100_000.0] {
            let (outlook, capacity) = (steady(load), certain(57.0));
            let replicas = f64::from(stakes(&outlook, &capacity).cheapest(1, 10_000));
            let needed = load / 57.0;
            assert!(replicas > needed, "{replicas} for {needed}");
            assert!(replicas < 1.12 * needed + 1.0, "{replicas} for {needed}");
        }
    }

    #[test]
    fn a_cheaper_violation_leaves_less_margin() {
        let (outlook, capacity) = (steady(3000.0), certain(57.0));
        let cheap = stakes(&outlook, &capacity);
        let dear = Stakes { violation_price: 100_000.0, ..cheap };
        assert!(cheap.cheapest(1, 1000) < dear.cheapest(1, 1000));
    }

    #[test]
    fn a_rare_peak_is_carried_when_it_is_cheap_to() {
        let capacity = certain(50.0);
        let peak = |weight| Outlook {
            points: vec![(100.0, 1.0 - weight), (200.0, weight)],
            expected_per_second: 100.0,
        };
        let (often, never) = (peak(0.05), peak(0.001));
        assert!(stakes(&often, &capacity).cheapest(1, 100) >= 5);
        assert!(stakes(&never, &capacity).cheapest(1, 100) <= 3);
    }

    #[test]
    fn the_bounds_hold() {
        let (outlook, capacity) = (steady(1e6), certain(1e-6));
        assert_eq!(stakes(&outlook, &capacity).cheapest(2, 7), 7);
        let (outlook, capacity) = (steady(0.0), certain(50.0));
        assert_eq!(stakes(&outlook, &capacity).cheapest(2, 7), 2);
    }

    #[test]
    fn a_bound_that_binds_is_named() {
        let (outlook, capacity) = (steady(400.0), certain(50.0));
        let stakes = stakes(&outlook, &capacity);
        let beyond = |min, max| stakes.beyond(stakes.cheapest(min, max), min, max);
        assert_eq!(beyond(1, 4), Some(Bound::Max));
        assert_eq!(beyond(20, 40), Some(Bound::Min));
        assert_eq!(beyond(1, 40), None);
        let enough = stakes.cheapest(1, 40);
        assert_eq!(beyond(enough, enough), None);
    }
}
