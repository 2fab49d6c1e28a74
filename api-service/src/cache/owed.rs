//! Tombstones that could not be sent. Never grows without bound: when there are too many, the whole cache is left alone.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The most posts kept; each is 16 bytes and the map's overhead.
const POSTS_MAX: usize = 4096;

/// Tombstones that are still to be sent, by post, with the version written.
#[derive(Debug, Default)]
pub struct Owed(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    versions: HashMap<i64, i64>,
    bypass_until: Option<Instant>,
}

impl Owed {
    /// Notes a tombstone. With too many, forgets them all and lets no post be asked for until every entry that the
    /// cache may hold now has expired, `entry_life` after `now`.
    pub fn add(&self, id: i64, version: i64, now: Instant, entry_life: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.versions.entry(id).or_insert(version);
        *known = version.max(*known);
        if state.versions.len() > POSTS_MAX {
            state.versions = HashMap::new();
            state.bypass_until = Some(now + entry_life);
        }
    }

    /// True when the cache's entry for the post may be older than what this replica wrote.
    pub fn forbids(&self, id: i64, now: Instant) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.bypass_until.is_some_and(|until| now < until) || state.versions.contains_key(&id)
    }

    /// Some of what is owed, at most `count`; it stays owed until [`Owed::sent`].
    pub fn some(&self, count: usize) -> Vec<(i64, i64)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.versions.iter().take(count).map(|(id, version)| (*id, *version)).collect()
    }

    /// The tombstone of `version` has been sent; one for a later version stays owed.
    pub fn sent(&self, id: i64, version: i64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.versions.get(&id).is_some_and(|owed| *owed <= version) {
            state.versions.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(66);

    #[test]
    fn forbids_a_post_until_its_latest_tombstone_is_sent() {
        let owed = Owed::default();
        let now = Instant::now();
        owed.add(1, 5, now, LIFE);
        owed.add(1, 4, now, LIFE);
        assert!(owed.forbids(1, now) && !owed.forbids(2, now));
        owed.sent(1, 4);
        assert!(owed.forbids(1, now));
        assert_eq!(owed.some(8), [(1, 5)]);
        owed.sent(1, 5);
        assert!(!owed.forbids(1, now));
    }

    #[test]
    fn too_many_forbid_every_post_for_an_entrys_life() {
        let owed = Owed::default();
        let now = Instant::now();
        for id in (0..).take(POSTS_MAX + 1) {
            owed.add(id, 1, now, LIFE);
        }
        assert!(owed.some(1).is_empty());
        assert!(owed.forbids(-1, now));
        assert!(!owed.forbids(-1, now + LIFE));
    }
}
