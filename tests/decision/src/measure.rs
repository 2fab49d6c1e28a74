//! Warms an engine up, and measures its next decisions one by one.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use plimsoll_core::engine::{Decision, Engine};
use serde::{Deserialize, Serialize};

use crate::clock::cpu_time;
use crate::counting::Allocated;
use crate::fleet::Fleet;

/// What is written between two decisions: more than the caches of a CPU hold.
const EVICTED_BYTES: usize = 64 << 20;
/// Logarithm of the ratio of the ends of the likely capacities: below this it cannot be unsure,
const UNSURE_FROM: f64 = 0.12;
/// and above this not known. Where it is unsure, the model makes it look surer than it is.
const KNOWN_UP_TO: f64 = 0.22;

/// What the engine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// After three minutes far below the capacity, which therefore is unsure: the model of the queue is heard too.
    Unsure,
    /// After two hours, the longest that anything is remembered, near the capacity, which therefore is known.
    Known,
}

impl State {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Unsure, Self::Known];

    /// Load of a pod, as a part of its capacity.
    const fn utilization(self) -> f64 {
        match self {
            Self::Unsure => 0.3,
            Self::Known => 0.98,
        }
    }

    /// Rounds before the first that is measured.
    const fn warm_up(self, quick: bool) -> usize {
        match (self, quick) {
            (Self::Unsure, _) => 36,
            (Self::Known, false) => 1440,
            (Self::Known, true) => 180,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// What the engine knows.
    pub state: State,
    /// Pods, all of them ready and answering.
    pub pods: usize,
    /// Finite edges of each pod's histogram.
    pub edges: usize,
}

/// What was found. Of each decision there is a number in each list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// Of what.
    pub case: Case,
    /// Microseconds of CPU of the decisions before which the CPU's caches held nothing of the engine, as after five seconds
    /// of other work.
    pub cold_microseconds: Vec<f64>,
    /// Microseconds of the others, which come right after one of those.
    pub warm_microseconds: Vec<f64>,
    /// Allocations of each decision.
    pub allocations: Vec<u64>,
    /// Bytes that each decision allocated.
    pub allocated_bytes: Vec<u64>,
}

/// Measures so many pairs of decisions, one with cold caches and one with warm ones.
///
/// # Errors
/// When the engine does not come to the case's state: something else would be measured.
pub fn measure(case: Case, pairs: usize, quick: bool) -> Result<Measured> {
    let mut fleet = Fleet::new(case.pods, case.edges, case.state.utilization())?;
    let settings = fleet.settings();
    let mut engine = Engine::default();
    for _ in 0..case.state.warm_up(quick) {
        engine.decide(&fleet.scrape()?, &settings);
    }
    let mut measured = Measured {
        case,
        cold_microseconds: Vec::with_capacity(pairs),
        warm_microseconds: Vec::with_capacity(pairs),
        allocations: Vec::with_capacity(2 * pairs),
        allocated_bytes: Vec::with_capacity(2 * pairs),
    };
    let mut evicting = vec![0_u8; EVICTED_BYTES];
    for round in 0..2 * pairs {
        let observation = fleet.scrape()?;
        let cold = round % 2 == 0;
        if cold {
            black_box(&mut evicting).fill(round as u8);
        }
        let before = Allocated::so_far();
        let started = cpu_time()?;
        let decision = black_box(&mut engine).decide(black_box(&observation), &settings);
        let microseconds = cpu_time()?.saturating_sub(started).as_secs_f64() * 1e6;
        let allocated = Allocated::since(before);
        check(case.state, &black_box(decision))?;
        let times = if cold { &mut measured.cold_microseconds } else { &mut measured.warm_microseconds };
        times.push(microseconds);
        measured.allocations.push(allocated.count);
        measured.allocated_bytes.push(allocated.bytes);
    }
    Ok(measured)
}

fn check(state: State, decision: &Decision) -> Result<()> {
    let capacity = decision.capacity.with_context(|| format!("nothing was learned: {decision:?}"))?;
    let spread = (capacity.high_per_second / capacity.low_per_second).ln();
    let reached = match state {
        State::Unsure => spread > UNSURE_FROM,
        State::Known => spread < KNOWN_UP_TO,
    };
    ensure!(
        reached,
        "the engine is not in the state {state:?}: a pod carries {:.1} to {:.1} requests/s",
        capacity.low_per_second,
        capacity.high_per_second
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_comes_to_both_states() {
        for state in State::ALL {
            let measured = measure(Case { state, pods: 3, edges: 20 }, 2, true).unwrap();
            assert_eq!((measured.cold_microseconds.len(), measured.warm_microseconds.len()), (2, 2));
            assert!(measured.cold_microseconds.iter().all(|micros| *micros > 0.0));
        }
    }
}
