//! Lets writes pass while a shard's Lease is certain to be held. It knows of no Lease itself: `leader.rs` moves it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The fence of one shard. Every write of one of its objects passes it.
#[derive(Debug, Default)]
pub struct Fence {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open_until: Option<Instant>,
    held: bool,
    term: u64,
    passing: usize,
}

/// A write under way. While it lives, the shard is not given to another process.
#[derive(Debug)]
pub struct Pass<'a>(&'a Fence);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state().passing -= 1;
    }
}

impl Fence {
    /// Whether a write may begin at `now`.
    pub fn open(&self, now: Instant) -> bool {
        self.state().open(now)
    }

    /// Lets a write begin at `now`, if it may. Keep the pass until the write has ended.
    pub fn pass(&self, now: Instant) -> Option<Pass<'_>> {
        let mut state = self.state();
        state.open(now).then(|| {
            state.passing += 1;
            Pass(self)
        })
    }

    /// Whether the shard is this process' own. While it is, a closed fence opens again or ends the process.
    pub fn held(&self) -> bool {
        self.state().held
    }

    /// How many times the shard has come to this process. What is known of an object holds for one term only.
    pub fn term(&self) -> u64 {
        self.state().term
    }

    /// Opens the fence until `until`; `None` closes it and keeps the shard.
    pub fn set(&self, until: Option<Instant>) {
        let mut state = self.state();
        if until.is_some() && !state.held {
            state.held = true;
            state.term += 1;
        }
        state.open_until = until;
    }

    /// Closes the fence, for the shard is given up.
    pub fn leave(&self) {
        let mut state = self.state();
        state.open_until = None;
        state.held = false;
    }

    /// Whether every write that was let pass has ended.
    pub fn quiet(&self) -> bool {
        self.state().passing == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WHILE: Duration = Duration::from_secs(10);

    #[test]
    fn closes_by_itself() {
        let (fence, now) = (Fence::default(), Instant::now());
        assert!(!fence.open(now) && !fence.held());
        fence.set(Some(now + WHILE));
        assert!(fence.open(now + WHILE / 2));
        assert!(!fence.open(now + WHILE));
        fence.set(None);
        assert!(fence.held(), "a process that leads does not wait as a standby does");
        fence.leave();
        assert!(!fence.held());
    }

    #[test]
    fn a_write_under_way_is_seen_until_it_ends() {
        let (fence, now) = (Fence::default(), Instant::now());
        fence.set(Some(now + WHILE));
        let pass = fence.pass(now).unwrap();
        fence.leave();
        assert!(!fence.quiet() && fence.pass(now).is_none());
        drop(pass);
        assert!(fence.quiet());
    }

    #[test]
    fn a_term_ends_when_the_shard_is_given_up_and_not_when_a_renewal_is_late() {
        let (fence, now) = (Fence::default(), Instant::now());
        fence.set(Some(now + WHILE));
        fence.set(None);
        fence.set(Some(now + WHILE));
        assert_eq!(fence.term(), 1);
        fence.leave();
        fence.set(Some(now + WHILE));
        assert_eq!(fence.term(), 2);
    }
}
