//! Many runs: side by side, and for the setting of a peer that is best in hindsight.

use std::cmp::Ordering;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering as Order};
use std::thread::available_parallelism;

use crate::policy::Policy;
use crate::scenario::Scenario;
use crate::score::Outcome;
use crate::world::run;

/// The better of two outcomes is less: fewer violation-minutes first, and then fewer replica-hours.
pub fn compare(a: &Outcome, b: &Outcome) -> Ordering {
    let key = |outcome: &Outcome| (outcome.score().violation_minutes, outcome.replica_seconds);
    let (a, b) = (key(a), key(b));
    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
}

/// What `work` makes of each item, in the items' order, on as many threads as there are cores.
pub fn parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let threads = available_parallelism().map_or(1, std::num::NonZero::get).min(items.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, item)) =
                    Some(next.fetch_add(1, Order::Relaxed)).and_then(|index| Some((index, items.get(index)?)))
                {
                    let result = work(item);
                    // A thread that panicked held the lock at no time at which the list was half changed.
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|&(index, _)| index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A policy's settings to be tried, and how to make it of one.
pub struct Grid<S> {
    /// The settings.
    pub settings: Vec<S>,
    /// Makes the policy for a scenario.
    pub policy: fn(&S, &Scenario) -> Box<dyn Policy>,
}

/// The setting with the fewest violation-minutes, and of those the one with the fewest replica-hours, with its outcome:
/// what somebody would have set who knew the run beforehand. None for an empty grid.
pub fn tune<'a, S: Sync>(scenario: &Scenario, grid: &'a Grid<S>) -> Option<(&'a S, Outcome)> {
    let outcomes =
        parallel(&grid.settings, |setting| run(scenario, (grid.policy)(setting, scenario).as_mut()));
    grid.settings.iter().zip(outcomes).min_by(|a, b| compare(&a.1, &b.1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::distribution::Distribution;
    use crate::peers::fixed::Fixed;
    use crate::service::Service;
    use crate::{Target, generate};

    #[test]
    fn parallel_keeps_the_order() {
        let items: Vec<u64> = (0..100).collect();
        let squares = parallel(&items, |item| item * item);
        assert_eq!(squares, items.iter().map(|item| item * item).collect::<Vec<_>>());
        assert_eq!(parallel(&[] as &[u64], |item| *item), Vec::<u64>::new());
    }

    #[test]
    fn tuning_finds_the_smallest_fleet_without_violations() {
        let start_up = Distribution::Constant { seconds: 12.0 };
        let service = Service::workers(4, Distribution::Exponential { mean: 0.05 }, start_up);
        let target = Target { quantile: 0.99, latency: Duration::from_millis(300) };
        let mut scenario = Scenario::new("tune", generate::step(600, 0, 200.0, 200.0), service, target);
        scenario.replicas_initial = 6;
        let policy: fn(&u32, &Scenario) -> Box<dyn Policy> = |&replicas, _| Box::new(Fixed { replicas });
        let grid = Grid { settings: (1..10).collect(), policy };
        let (&replicas, outcome) = tune(&scenario, &grid).unwrap();
        assert_eq!(outcome.score().violation_minutes, 0);
        let fewer = run(&scenario, &mut Fixed { replicas: replicas - 1 });
        assert!(fewer.score().violation_minutes > 0);
    }
}
