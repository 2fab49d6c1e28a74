//! Tells on standard error how far a comparison is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::case::Case;

/// Tells how far it is, at most every few seconds, and how long the rest will take.
pub struct Progress {
    what: &'static str,
    cases: usize,
    weight: f64,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    cases: usize,
    weight: f64,
    told: Instant,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(10);

    /// Begins, and says of how much: `what` is done with each case.
    pub fn new(what: &'static str, cases: &[Case]) -> Self {
        let weight = cases.iter().map(Case::weight).sum::<f64>();
        let started = Instant::now();
        eprintln!("  {} cases, {:.0} million simulated requests for each policy", cases.len(), weight / 1e6);
        Self {
            what,
            cases: cases.len(),
            weight,
            started,
            state: Mutex::new(State { cases: 0, weight: 0.0, told: started }),
        }
    }

    /// One more case is done.
    pub fn done(&self, case: &Case) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cases += 1;
        state.weight += case.weight();
        // Before every core has ended a case, the estimate would count the others' as not begun.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let first_or_last = state.cases == cores || state.cases == self.cases;
        if !first_or_last && (state.cases < cores || state.told.elapsed() < Self::EVERY) {
            return;
        }
        state.told = Instant::now();
        let elapsed = self.started.elapsed().as_secs_f64();
        let left = elapsed * (self.weight - state.weight) / state.weight.max(1.0);
        eprintln!(
            "  {} of {} cases {} in {:.1} min, about {:.0} min to go: {}",
            state.cases,
            self.cases,
            self.what,
            elapsed / 60.0,
            left / 60.0,
            case.name()
        );
    }
}
