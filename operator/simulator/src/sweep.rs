//! Many runs side by side, and which of them is better.

use std::cmp::Ordering;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering as Order};
use std::thread::available_parallelism;

use crate::score::Outcome;

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
                loop {
                    let index = next.fetch_add(1, Order::Relaxed);
                    let Some(item) = items.get(index) else { return };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_keeps_the_order() {
        let items: Vec<u64> = (0..100).collect();
        let squares = parallel(&items, |item| item * item);
        assert_eq!(squares, items.iter().map(|item| item * item).collect::<Vec<_>>());
        assert_eq!(parallel(&[] as &[u64], |item| *item), Vec::<u64>::new());
    }
}
