//! What the engine is shown at one moment: the pods, and the newest reading of each.

use jiff::Timestamp;

use crate::histogram::{Rejection, Snapshot};

/// Everything that is known of the pods at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The moment.
    pub now: Timestamp,
    /// Replicas that are asked for now.
    pub current: u32,
    /// Hash of the pod template that new pods have.
    pub template: u64,
    /// Whether pods of an older template are still to be replaced.
    pub rolling_out: bool,
    /// All pods that are not being deleted, ready or not.
    pub pods: Vec<Pod>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// UID, or any other name that is never used twice.
    pub uid: String,
    /// Names its pod template, as the label `pod-template-hash` does. Empty where that is not known.
    pub template: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Since when it has been Ready; none while it is not.
    pub ready_at: Option<Timestamp>,
    /// What it said in this round. None while it is not asked.
    pub sample: Option<Sample>,
}

/// What one pod said.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When its answer was made.
    pub at: Timestamp,
    /// Its counts, or why they are not used.
    pub reading: Result<Snapshot, Rejection>,
    /// What its cgroup says, if it is exported.
    pub cpu: Option<Cpu>,
}

/// CPU of one pod since it started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpu {
    /// CPU time used, in seconds.
    pub used_seconds: f64,
    /// CPUs that it may use.
    pub limit_cores: Option<f64>,
    /// Enforcement periods in which it had something to run.
    pub periods: f64,
    /// Of these, periods in which it was throttled.
    pub throttled_periods: f64,
}

/// Seconds from `earlier` to `later`; negative when the clock was set back.
pub(crate) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}
