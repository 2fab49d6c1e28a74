//! The limiter of one process, for when there is no Redis to ask. Holds a bounded number of callers, and never waits.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::{
    client::Caller,
    rate::{Quota, Verdict},
};

/// Callers in one generation: two of them with long subjects take about 6 MB.
const CALLERS_MAX: usize = 8 * 1024;

/// Judges callers by what they sent to this process.
///
/// Callers are kept in two generations. When the newer one is full, or so old that nobody in the older one can owe
/// anything, it becomes the older one, and that is dropped: room and work are bounded, and a flood of callers only makes
/// the limiter forget sooner.
#[derive(Debug)]
pub struct Local {
    quota: Quota,
    started: Instant,
    state: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    newer: HashMap<Caller, u64>,
    older: HashMap<Caller, u64>,
    since_us: u64,
}

impl Local {
    /// Knows nobody yet.
    pub fn new(quota: Quota) -> Self {
        Self { quota, started: Instant::now(), state: Mutex::default() }
    }

    /// Judges one request at `now`.
    pub fn judge(&self, caller: Caller, now: Instant) -> Verdict {
        let now_us = now.saturating_duration_since(self.started).as_micros() as u64;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let old = now_us - state.since_us.min(now_us) >= self.quota.tolerance_us();
        if old || state.newer.len() >= CALLERS_MAX {
            state.older = mem::take(&mut state.newer);
            state.since_us = now_us;
        }
        let paid_us = state.newer.get(&caller).or_else(|| state.older.get(&caller)).copied().unwrap_or(0);
        let (paid_us, verdict) = self.quota.judge(paid_us, now_us);
        state.newer.insert(caller, paid_us);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZero, time::Duration};

    use super::*;

    fn limiter(rate: &str, burst: u32) -> Local {
        Local::new(Quota::new(rate.parse().unwrap(), NonZero::new(burst).unwrap()))
    }

    fn caller(name: u32) -> Caller {
        Caller::Subject(name.to_string())
    }

    #[test]
    fn counts_each_caller_apart() {
        let limiter = limiter("1/s", 2);
        let now = limiter.started;
        let passed = |name| limiter.judge(caller(name), now).allowed;
        assert!(passed(1) && passed(1) && !passed(1));
        assert!(passed(2));
    }

    #[test]
    fn remembers_while_something_is_owed() {
        let limiter = limiter("1/s", 10);
        let start = limiter.started;
        let passed = (0..1000)
            .filter(|step| limiter.judge(caller(1), start + Duration::from_millis(100 * step)).allowed);
        // 100 s at one a second after a burst of 10.
        assert_eq!(passed.count(), 109);
    }

    #[test]
    fn holds_a_bounded_number_of_callers() {
        let limiter = limiter("1/h", 1);
        for name in 0..5 * CALLERS_MAX as u32 {
            limiter.judge(caller(name), limiter.started);
        }
        let state = limiter.state.lock().unwrap();
        assert!(state.newer.len() <= CALLERS_MAX && state.older.len() <= CALLERS_MAX);
    }
}
