//! Invalidations that could not be sent. Never grows without bound: when there are too many, Redis is left alone.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The most posts kept; each is 16 bytes and the map's overhead.
const POSTS_MAX: usize = 4096;

/// Invalidations that are still to be sent, by post.
#[derive(Debug, Default)]
pub struct Owed(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    debts: HashMap<i64, u64>,
    count: u64,
    bypass_until: Option<Instant>,
}

impl Owed {
    /// Notes an invalidation and gives its number. With too many, forgets them all and lets no post be asked for until
    /// every entry that Redis may hold now has expired, `entry_life` after `now`.
    pub fn add(&self, id: i64, now: Instant, entry_life: Duration) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        let count = state.count;
        state.debts.insert(id, count);
        if state.debts.len() > POSTS_MAX {
            state.debts = HashMap::new();
            state.bypass_until = Some(now + entry_life);
        }
        count
    }

    /// True when the entry for the post may be older than what this replica wrote.
    pub fn forbids(&self, id: i64, now: Instant) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.bypass_until.is_some_and(|until| now < until) || state.debts.contains_key(&id)
    }

    /// Some of what is owed, at most `count`, with its numbers; it stays owed until [`Owed::paid`].
    pub fn some(&self, count: usize) -> Vec<(i64, u64)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.debts.iter().take(count).map(|(id, debt)| (*id, *debt)).collect()
    }

    /// Invalidation `debt` of the post has been sent; a later one stays owed.
    pub fn paid(&self, id: i64, debt: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.debts.get(&id).is_some_and(|owed| *owed <= debt) {
            state.debts.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(66);

    #[test]
    fn forbids_a_post_until_its_latest_invalidation_is_sent() {
        let owed = Owed::default();
        let now = Instant::now();
        let first = owed.add(1, now, LIFE);
        let second = owed.add(1, now, LIFE);
        assert!(owed.forbids(1, now) && !owed.forbids(2, now));
        owed.paid(1, first);
        assert!(owed.forbids(1, now));
        assert_eq!(owed.some(8), [(1, second)]);
        owed.paid(1, second);
        assert!(!owed.forbids(1, now));
    }

    #[test]
    fn too_many_forbid_every_post_for_an_entrys_life() {
        let owed = Owed::default();
        let now = Instant::now();
        for id in (0..).take(POSTS_MAX + 1) {
            owed.add(id, now, LIFE);
        }
        assert!(owed.some(1).is_empty());
        assert!(owed.forbids(-1, now));
        assert!(!owed.forbids(-1, now + LIFE));
    }
}
