//! What a decision says: the steps to take, why, and what the status may report of it.
//!
//! A plan leaves nothing to choose to whoever carries it out.

mod decision;
mod findings;
mod step;

pub use decision::{Decision, Evidence, Limit, Reason};
pub use findings::{Findings, MetricsState, Rollout};
pub use step::{Change, ChildKind, Step};

use crate::memory::Memory;

/// The outcome of one decision.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to write, in this order. A step that fails takes with it those that need it, and no others.
    pub steps: Vec<Step>,
    /// How many replicas, and why.
    pub decision: Decision,
    /// What the status may say if the steps succeed.
    pub findings: Findings,
    /// For the next decision. Confirmed writes are added to it by whoever makes them.
    pub memory: Memory,
}

impl Plan {
    /// Takes the change of replicas back, because it was not carried out: it must not be told as if it had been.
    pub fn take_back_scale(&mut self) {
        self.decision.to = self.decision.from;
        self.findings.wanted = self.decision.from;
    }
}
