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
    /// What all pods complete together at most, in requests per second, because of something that they share. None while no such
    /// limit is known.
    pub shared_per_second: Option<f64>,
}

/// What a pod carries within one target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedCapacity {
    /// The target.
    pub target: Target,
    /// Of a pod that is warm.
    pub warm: Likely,
    /// Of a pod in its first seconds, for the higher share that cold pods are judged by. None before one was seen.
    pub cold: Option<Likely>,
}

/// A load that is known about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likely {
    /// The middle of what is likely, in requests per second.
    pub per_second: f64,
    /// Spread of its logarithm: 0.1 is about 10 %.
    pub spread: f64,
}

impl Likely {
    /// Whether it is a load at all.
    pub fn is_sane(self) -> bool {
        [self.per_second, self.spread].into_iter().all(|value| value.is_finite() && value > 0.0)
    }
}
