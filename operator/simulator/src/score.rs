//! What became of a run: how well the promise was kept, what it cost, and how restless the policy was.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything that a run tells. Requests belong to the moment at which they were due.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The scenario's name.
    pub scenario: String,
    /// The policy's name.
    pub policy: String,
    /// The scenario's seed.
    pub seed: u64,
    /// Requests that were due.
    pub offered: u64,
    /// Of them, those that were not answered within the latency of the first target, in whatever way.
    pub over: u64,
    /// Refused by a full queue.
    pub shed: u64,
    /// Not answered before the client gave up.
    pub timed_out: u64,
    /// Due while no pod was Ready.
    pub failed: u64,
    /// From the creation of each pod to the end of its draining, or of the run, summed.
    pub replica_seconds: f64,
    /// Each change of the wanted replicas.
    pub scalings: Vec<Scaling>,
    /// Minute by minute.
    pub minutes: Vec<Minute>,
    /// Second by second.
    pub seconds: Vec<Second>,
}

/// One change of the wanted replicas.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Seconds since the start of the run.
    pub at: f64,
    /// Before.
    pub from: u32,
    /// After.
    pub to: u32,
}

/// One minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Minute {
    /// Requests that were due.
    pub offered: u64,
    /// Requests over the first target, those without an answer among them.
    pub over: u64,
    /// More requests were over a target than its quantile allows.
    pub violated: bool,
    /// 50th percentile in seconds, to 5 %, of all that were due; infinite where more had no answer.
    pub p50: f64,
    /// 99th percentile in seconds, likewise.
    pub p99: f64,
}

/// One second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    /// Requests that were due.
    pub offered: u32,
    /// Requests over the first target, those without an answer among them.
    pub over: u32,
    /// Replicas that the policy wanted at the end of the second.
    pub wanted: u32,
    /// Pods that were Ready then.
    pub ready: u32,
    /// All pods then, starting and draining ones too.
    pub pods: u32,
}

/// A run in a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// Share of requests over the first target, those without an answer among them.
    pub over_share: f64,
    /// Minutes in which more requests were over a target than its quantile allows.
    pub violation_minutes: u32,
    /// What the pods cost.
    pub replica_hours: f64,
    /// Changes of the wanted replicas.
    pub scale_events: u32,
    /// Of them, those that go the other way than the one before.
    pub direction_changes: u32,
}

impl Score {
    /// Replica-hours, and `kappa` replica-hours for each hour in violation.
    pub fn cost(&self, kappa: f64) -> f64 {
        self.replica_hours + kappa * f64::from(self.violation_minutes) / 60.0
    }
}

impl Outcome {
    /// The run in a few numbers.
    pub fn score(&self) -> Score {
        self.score_between(Duration::ZERO, Duration::MAX)
    }

    /// A part of the run in a few numbers, to whole minutes; the cost is that of the pods there at the end of each second.
    pub fn score_between(&self, from: Duration, until: Duration) -> Score {
        let part = |length: usize, unit: u64| {
            let end = until.as_secs().div_ceil(unit).min(length as u64) as usize;
            (from.as_secs() / unit) as usize..end.max((from.as_secs() / unit) as usize).min(length)
        };
        let minutes = self.minutes.get(part(self.minutes.len(), 60)).unwrap_or_default();
        let (offered, over) = minutes
            .iter()
            .fold((0, 0), |(offered, over), minute| (offered + minute.offered, over + minute.over));
        let whole = from.is_zero() && until == Duration::MAX;
        let replica_seconds = if whole {
            self.replica_seconds
        } else {
            let seconds = self.seconds.get(part(self.seconds.len(), 1)).unwrap_or_default();
            seconds.iter().map(|second| f64::from(second.pods)).sum()
        };
        let span = from.as_secs_f64()..until.as_secs_f64();
        let scalings: Vec<_> = self.scalings.iter().filter(|scaling| span.contains(&scaling.at)).collect();
        let turns =
            scalings.windows(2).filter(|pair| (pair[0].to > pair[0].from) != (pair[1].to > pair[1].from));
        Score {
            over_share: if offered == 0 { 0.0 } else { over as f64 / offered as f64 },
            violation_minutes: minutes.iter().filter(|minute| minute.violated).count() as u32,
            replica_hours: replica_seconds / 3600.0,
            scale_events: scalings.len() as u32,
            direction_changes: turns.count() as u32,
        }
    }
}
