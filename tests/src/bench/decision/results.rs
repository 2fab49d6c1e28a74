//! What the benchmark found: every decision's and simulated hour's numbers, and the medians over them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use plimsoll_decision::{Case, Hours, Measured, State};
use serde::Serialize;

use crate::bench::machine::Machine;
use crate::bench::stats::Spread;

/// All that is written as JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// When it was measured.
    pub started: Timestamp,
    /// On what.
    pub machine: Machine,
    /// Plimsoll's version, with the commit where git can tell it.
    pub version: String,
    /// A few cases only.
    pub quick: bool,
    /// The cases.
    pub cases: Vec<Measured>,
    /// Simulated hours, of each policy.
    pub hours: Vec<Hours>,
}

impl Results {
    /// Numbers of pods that were measured.
    pub fn pods(&self) -> BTreeSet<usize> {
        self.cases.iter().map(|measured| measured.case.pods).collect()
    }

    /// Numbers of edges that were measured.
    pub fn edges(&self) -> BTreeSet<usize> {
        self.cases.iter().map(|measured| measured.case.edges).collect()
    }

    /// What was found of a case.
    pub fn of(&self, state: State, pods: usize, edges: usize) -> Option<&Measured> {
        self.cases.iter().find(|measured| measured.case == Case { state, pods, edges })
    }
}

/// Microseconds of a decision with cold caches.
pub fn cold(measured: &Measured) -> Option<Spread> {
    Spread::of(measured.cold_microseconds.iter().copied())
}

/// Microseconds of a decision with warm caches.
pub fn warm(measured: &Measured) -> Option<Spread> {
    Spread::of(measured.warm_microseconds.iter().copied())
}

/// Allocations of a decision.
pub fn allocations(measured: &Measured) -> Option<Spread> {
    Spread::of(measured.allocations.iter().map(|&count| count as f64))
}

/// Bytes that a decision allocates.
pub fn allocated_bytes(measured: &Measured) -> Option<Spread> {
    Spread::of(measured.allocated_bytes.iter().map(|&bytes| bytes as f64))
}

/// Seconds of one core's CPU that a simulated hour took.
pub fn hour_seconds(hours: &Hours) -> Option<Spread> {
    Spread::of(hours.cpu_seconds.iter().copied())
}
