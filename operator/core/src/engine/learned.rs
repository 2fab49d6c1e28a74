//! What outlives a restart of the operator: what was learned of the pods of one template, in a few numbers.

use super::settings::Target;

/// What was learned of the pods of one template.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// Hash of the template.
    pub template: u64,
    /// What a pod carries, one for each target.
    pub capacities: Vec<LearnedCapacity>,
    /// Time within which 90 % of new pods become ready, in seconds. None before one was seen to.
    pub startup_seconds: Option<f64>,
    /// Median time of a request at its best, in seconds.
    pub typical_seconds: f64,
}

/// What a pod carries within one target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedCapacity {
    /// The target.
    pub target: Target,
    /// Requests per second.
    pub per_second: f64,
    /// Spread of its logarithm: 0.1 is about 10 %.
    pub spread: f64,
}
