//! Leaves a failing peer alone for a while. Never blocks: a call is admitted or not.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 5;

/// How long it stays open, before jitter.
const OPEN: Duration = Duration::from_secs(1);

/// How far [`OPEN`] is spread either way, so that replicas do not all try again at once.
const JITTER: f64 = 0.2;

/// Counts failures in a row; after too many, admits one call about every second until one succeeds.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    /// A call was admitted as a trial, and has not ended.
    trial: bool,
}

impl Breaker {
    /// True when a call may be made at `now`. While open, one call per period is admitted as a trial.
    pub fn admit(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = Some(now + jittered());
                state.trial = true;
                true
            }
            None => true,
        }
    }

    /// A call succeeded: the breaker closes.
    pub fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// A call failed at `now`. True when this opened the breaker, or a trial kept it open: of the calls that were under way
    /// when it opened, none says anything new.
    pub fn failed(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        let news = state.failures >= FAILURES_MAX
            && (state.open_until.is_none() || std::mem::take(&mut state.trial));
        if news {
            state.open_until = Some(now + jittered());
        }
        news
    }

    /// True from the failure that opened it to the next success.
    pub fn open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open_until.is_some()
    }
}

fn jittered() -> Duration {
    OPEN.mul_f64(1.0 + JITTER * (2.0 * rand::random::<f64>() - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_tries_once_a_period() {
        let breaker = Breaker::default();
        let start = Instant::now();
        for _ in 1..FAILURES_MAX {
            assert!(!breaker.failed(start));
        }
        assert!(breaker.admit(start) && !breaker.open());
        assert!(breaker.failed(start));
        let later = start + OPEN.mul_f64(0.6);
        assert!(!breaker.failed(later), "it was under way when the breaker opened");
        assert!(!breaker.admit(start + OPEN.mul_f64(0.7)));
        let later = start + OPEN.mul_f64(1.3);
        assert!(breaker.admit(later), "one trial");
        assert!(!breaker.admit(later), "no second one");
        assert!(breaker.failed(later) && breaker.open());
        breaker.succeeded();
        assert!(breaker.admit(later) && !breaker.open());
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let breaker = Breaker::default();
        let now = Instant::now();
        for _ in 0..10 {
            for _ in 1..FAILURES_MAX {
                assert!(!breaker.failed(now));
            }
            breaker.succeeded();
        }
    }
}
