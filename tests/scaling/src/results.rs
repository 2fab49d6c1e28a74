//! What a run of the benchmark found: every run's scores, and their sums over seeds.

use plimsoll_simulator::Score;
use plimsoll_simulator::peers::settings::{Family, Setting, customary};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::causes::Causes;
use crate::traces::Source;

/// As whom a policy ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Plimsoll on its defaults.
    Plimsoll,
    /// Knows everything beforehand.
    Oracle,
    /// A peer as people use it.
    Customary,
    /// A peer with its one setting that is best over the whole suite.
    Suite,
    /// A peer with the setting that is best on this very run.
    Hindsight,
    /// A peer with a setting of the grid; on the first seed only.
    Grid,
}

/// A policy, whatever the case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    /// Plimsoll on its defaults.
    Plimsoll,
    /// The oracle.
    Oracle,
    /// As people use it.
    Customary(Setting),
    /// The setting of the family that is best over the whole suite.
    Suite(Family),
    /// The family's best on each run.
    Hindsight(Family),
    /// The best of all families on each run.
    Best,
    /// A setting of the grid.
    Grid(Setting),
}

impl Who {
    /// The peers that a user could have had: as people use them, and with the suite's best setting.
    pub fn without_hindsight() -> Vec<Self> {
        let customary = customary().into_iter().map(Self::Customary);
        customary.chain(Family::ALL.map(Self::Suite)).collect()
    }

    /// Whether a run is its.
    pub fn did(self, run: &Run) -> bool {
        let setting = |of: Setting| run.setting == Some(of);
        let family = |of: Family| run.setting.is_some_and(|setting| setting.family() == of);
        match self {
            Self::Plimsoll => run.role == Role::Plimsoll,
            Self::Oracle => run.role == Role::Oracle,
            Self::Customary(of) => run.role == Role::Customary && setting(of),
            Self::Suite(of) => run.role == Role::Suite && family(of),
            Self::Hindsight(of) => run.role == Role::Hindsight && family(of),
            Self::Best => run.role == Role::Hindsight,
            Self::Grid(of) => run.role == Role::Grid && setting(of),
        }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The scenario's seed.
    pub seed: u64,
    /// As whom it ran.
    pub role: Role,
    /// What the policy calls itself.
    pub policy: String,
    /// Its setting; absent for Plimsoll and the oracle.
    pub setting: Option<Setting>,
    /// The run in a few numbers.
    pub score: Score,
    /// What came after the service changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
    /// Seconds from the step of the load until more replicas were wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_seconds: Option<f64>,
    /// Scale-ups beyond the most that the oracle wanted, while the load was more than the dependency carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub useless_rises: Option<u32>,
    /// What happened in the minutes that missed the promise; of Plimsoll only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causes: Option<Causes>,
}

/// What came after the service changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct After {
    /// Minutes until the first of five minutes in a row that kept the promise; absent when it was not kept again.
    pub minutes_until_kept: Option<u32>,
    /// From the change to the end.
    pub score: Score,
}

/// A case with its runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseRuns {
    /// What the load is, or what changes.
    pub trace: String,
    /// The service.
    pub service: String,
    /// The service changes in the middle.
    pub changing: bool,
    /// How long a run of it is.
    pub seconds: u64,
    /// The highest load of its trace as it was scaled, by seed.
    pub peak_requests_per_second: Vec<f64>,
    /// The runs.
    pub runs: Vec<Run>,
}

/// How a run went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The case's name.
    pub case: String,
    /// What the best peer in hindsight calls itself.
    pub best_peer: String,
    /// Every ten seconds.
    pub moments: Vec<Moment>,
}

/// A moment of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// Since the start.
    pub second: u64,
    /// Requests a second.
    pub load: f64,
    /// Ready replicas of Plimsoll, the oracle and the best peer in hindsight.
    pub ready: [u32; 3],
}

/// All that is written as JSON: the same options give the same, to the byte.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// Version of the project. `cargo xtask bench scaling` adds the commit.
    pub version: String,
    /// A few cases and settings only.
    pub quick: bool,
    /// Only cases whose name holds this.
    pub only: String,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The files that were replayed.
    pub traces: Vec<Source>,
    /// Each peer's one setting that is best over the whole suite.
    pub suite_settings: Vec<Setting>,
    /// One run over time.
    pub shown: Option<Shown>,
    /// The cases.
    pub cases: Vec<CaseRuns>,
}

/// Sums over a case's seeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Total {
    /// Replica-hours.
    pub replica_hours: f64,
    /// Minutes in which the promise was broken.
    pub violation_minutes: u32,
    /// Changes of direction.
    pub direction_changes: u32,
    /// Simulated hours.
    pub hours: f64,
}

impl Total {
    /// Replica-hours, and `kappa` replica-hours for each hour in violation.
    pub fn cost(&self, kappa: f64) -> f64 {
        self.replica_hours + kappa * f64::from(self.violation_minutes) / 60.0
    }

    /// Violation-minutes of a simulated hour.
    pub fn violations_an_hour(&self) -> f64 {
        f64::from(self.violation_minutes) / self.hours.max(1e-9)
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.replica_hours += other.replica_hours;
        self.violation_minutes += other.violation_minutes;
        self.direction_changes += other.direction_changes;
        self.hours += other.hours;
    }
}

impl CaseRuns {
    /// A case, and no runs.
    pub fn none(case: &Case) -> Self {
        Self {
            trace: case.trace.clone(),
            service: case.service.to_owned(),
            changing: case.changing,
            seconds: case.scenarios.first().map_or(0, |scenario| scenario.trace.duration().as_secs()),
            peak_requests_per_second: case.scenarios.iter().map(|scenario| scenario.trace.peak()).collect(),
            runs: Vec::new(),
        }
    }

    /// What it is called.
    pub fn name(&self) -> String {
        format!("{} on {}", self.trace, self.service)
    }

    /// Whether both are of the same trace, as it was scaled with the seeds of the other, on the same service; whatever their
    /// runs.
    pub fn begins_as(&self, other: &Self) -> bool {
        (&self.trace, &self.service, self.changing) == (&other.trace, &other.service, other.changing)
            && self.seconds == other.seconds
            && self.peak_requests_per_second.starts_with(&other.peak_requests_per_second)
    }

    /// The runs of a policy, one a seed.
    pub fn runs(&self, who: Who) -> Vec<&Run> {
        let mut runs: Vec<&Run> = Vec::new();
        for run in self.runs.iter().filter(|run| who.did(run)) {
            match runs.iter_mut().find(|other| other.seed == run.seed) {
                Some(other) => {
                    if key(&run.score) < key(&other.score) {
                        *other = run;
                    }
                }
                None => runs.push(run),
            }
        }
        runs
    }

    /// A policy's sums over the seeds; absent when it did not run.
    pub fn total(&self, who: Who) -> Option<Total> {
        self.sum(who, |run| Some(run.score), self.seconds)
    }

    /// The same from the change of the service to the end, for `seconds`.
    pub fn total_after(&self, who: Who, seconds: u64) -> Option<Total> {
        self.sum(who, |run| run.after.map(|after| after.score), seconds)
    }

    fn sum(&self, who: Who, score: impl Fn(&Run) -> Option<Score>, seconds: u64) -> Option<Total> {
        let scores: Vec<Score> = self.runs(who).into_iter().filter_map(score).collect();
        (!scores.is_empty()).then(|| Total {
            replica_hours: scores.iter().map(|score| score.replica_hours).sum(),
            violation_minutes: scores.iter().map(|score| score.violation_minutes).sum(),
            direction_changes: scores.iter().map(|score| score.direction_changes).sum(),
            hours: seconds as f64 * scores.len() as f64 / 3600.0,
        })
    }
}

/// Fewer violation-minutes first, and then fewer replica-hours.
fn key(score: &Score) -> (u32, f64) {
    (score.violation_minutes, score.replica_hours)
}

impl Results {
    /// The cases of traces on services that do not change.
    pub fn steady(&self) -> impl Iterator<Item = &CaseRuns> {
        self.cases.iter().filter(|case| !case.changing)
    }

    /// The cases of services that change.
    pub fn changing(&self) -> impl Iterator<Item = &CaseRuns> {
        self.cases.iter().filter(|case| case.changing)
    }

    /// A policy's sums over all steady cases on which it and the oracle ran, and the oracle's over the same seeds.
    pub fn over_all(&self, who: Who) -> (Total, Total) {
        let (mut own, mut oracle) = (Total::default(), Total::default());
        for case in self.steady() {
            let seeds: Vec<u64> = case.runs(who).iter().map(|run| run.seed).collect();
            let Some(total) = case.total(who) else { continue };
            own.add(&total);
            for run in case.runs(Who::Oracle).iter().filter(|run| seeds.contains(&run.seed)) {
                oracle.replica_hours += run.score.replica_hours;
                oracle.violation_minutes += run.score.violation_minutes;
                oracle.hours += case.seconds as f64 / 3600.0;
            }
        }
        (own, oracle)
    }

    /// What a policy is called in tables.
    pub fn title(&self, who: Who) -> String {
        match who {
            Who::Plimsoll => "Plimsoll, defaults".into(),
            Who::Oracle => "oracle".into(),
            Who::Best => "best peer in hindsight".into(),
            Who::Hindsight(family) => format!("{} in hindsight", family.title()),
            Who::Customary(setting) | Who::Grid(setting) => describe(&setting),
            Who::Suite(family) => {
                let found = self.suite_settings.iter().find(|setting| setting.family() == family);
                found.map_or_else(
                    || format!("{}, the suite's best", family.title()),
                    |setting| format!("{}, the suite's best", describe(setting)),
                )
            }
        }
    }
}

/// A setting in words that hold for any service.
pub fn describe(setting: &Setting) -> String {
    let percent = |part: f64| format!("{:.0} %", part * 100.0);
    match setting {
        Setting::HpaCpu { percent } => format!("HPA on CPU, {percent} %"),
        Setting::HpaP99 { part, window } => {
            format!("HPA on p99 over {} s, {} of the promise", window.as_secs(), percent(*part))
        }
        Setting::Keda { part, window } => {
            format!("KEDA on requests over {} s, {} of a pod's most", window.as_secs(), percent(*part))
        }
        Setting::KnativeConcurrency { part } => {
            format!("Knative on concurrency, {} of a pod's workers", percent(part * 0.7))
        }
        Setting::KnativeRps { part } => {
            format!("Knative on requests, {} of a pod's most", percent(part * 0.7))
        }
        Setting::Fixed { part } => format!("fixed fleet, {} of its most at the peak", percent(*part)),
    }
}
