//! What the benchmark found of each size of the fleet.

use jiff::Timestamp;
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
    /// Everything shortened.
    pub quick: bool,
    /// The sizes, in the order in which they were measured.
    pub fleets: Vec<Fleet>,
}

/// One operator with so many resources.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// ApiDeployments.
    pub resources: usize,
    /// Seconds from when the first was applied until each had been Ready.
    pub all_ready_seconds: f64,
    /// While the load stands.
    pub steady: Span,
    /// While the pods of some answer nothing. The age of readings is that of the others.
    pub silence: Span,
    /// From when the load of all resources doubles at once.
    pub step: Step,
    /// When the operator is ended and another takes its place.
    pub restart: Restart,
    /// The most memory that the first operator had, in bytes.
    pub memory_peak_bytes: f64,
}

/// What the operator did in a span of time.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// Its length.
    pub seconds: f64,
    /// Pods that were Ready at its end.
    pub pods: usize,
    /// Cores that the operator used.
    pub cores: f64,
    /// Reconciles a second.
    pub reconciles_per_second: f64,
    /// Of their durations: seconds at the 0.5- and the 0.99-quantile.
    pub reconcile_seconds: [f64; 2],
    /// Of each second, the age in seconds of the oldest reading of any resource.
    pub scrape_age_seconds: Option<Spread>,
    /// Requests a second to the API server that read, and that write, without those for Leases.
    pub reads_per_second: f64,
    /// As `reads_per_second`.
    pub writes_per_second: f64,
}

/// The load of all resources doubled at once.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What the operator did meanwhile.
    pub span: Span,
    /// Resources with fewer replicas than the new load takes.
    pub in_need: usize,
    /// Seconds until the replicas of each of those were raised, ascending. Fewer where some never were.
    pub raised_after_seconds: Vec<f64>,
}

impl Step {
    /// Seconds until this part of those in need had been raised; absent where it never was.
    pub fn raised(&self, part: f64) -> Option<f64> {
        let rank = (part * self.in_need as f64).ceil() as usize;
        self.raised_after_seconds.get(rank.checked_sub(1)?).copied()
    }
}

/// A new operator finds the fleet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// Seconds from the start of its container until it had decided for every resource.
    pub all_decided_seconds: f64,
    /// The most memory that it had until then, in bytes.
    pub memory_peak_bytes: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_those_in_need_is_raised_with_its_last() {
        let span = Span {
            seconds: 60.0,
            pods: 8,
            cores: 0.1,
            reconciles_per_second: 1.0,
            reconcile_seconds: [0.01, 0.02],
            scrape_age_seconds: None,
            reads_per_second: 0.0,
            writes_per_second: 0.0,
        };
        let step = Step { span, in_need: 4, raised_after_seconds: vec![2.0, 4.0, 9.0] };
        assert_eq!((step.raised(0.5), step.raised(0.75), step.raised(0.99)), (Some(4.0), Some(9.0), None));
    }
}
