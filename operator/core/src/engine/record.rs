//! The record of a decision: what was seen, what was expected, what decided, and what other numbers would have meant.
//!
//! Its JSON is stable: fields are added, and none changes its meaning without a new [`VERSION`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::belief::Known;
use super::estimate::Round;
use super::forecast;

/// Version of the record's form.
pub const VERSION: &str = "v1";

/// How many replicas, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// [`VERSION`].
    pub version: &'static str,
    /// Replicas before.
    pub from: u32,
    /// Replicas from now on.
    pub to: u32,
    /// What decided.
    pub rule: Rule,
    /// The bound that keeps the replicas from a cheaper number, if one does.
    pub limit: Option<Bound>,
    /// More requests were late than may be, and chance does not explain it.
    pub violated: bool,
    /// What was seen.
    pub inputs: Inputs,
    /// The number with the lowest price, before the brakes.
    pub cheapest: u32,
    /// The load that is expected.
    pub outlook: Outlook,
    /// What a pod is believed to carry. Absent while nothing is known.
    pub capacity: Option<CapacitySummary>,
    /// What one replica less, the chosen number and one more would mean. Empty while nothing is known.
    pub counterfactuals: Vec<Counterfactual>,
}

/// Which consideration decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Rule {
    /// The cheapest number for the load to come, or on the way to it.
    Load,
    /// The fewest replicas allowed, and fewer would do.
    Min,
    /// The most replicas allowed, and more are needed.
    Max,
    /// The number is right.
    Steady,
    /// Fewer would do, but have not for long enough.
    Cooldown,
    /// Fewer would do, but a pod's capacity is not known well: replicas go one part after the other.
    Unsure,
    /// Fewer would do, but a new template is being rolled out.
    Rollout,
    /// Fewer would do, but too few requests came to tell.
    FewRequests,
    /// No ready pod, or too few could be read.
    Blind,
    /// More would be needed, but more did not help: what the replicas depend on is the bottleneck.
    DependencyBound,
    /// More would be needed, but whether those that were added during a violation help has still to be seen.
    Trial,
    /// The promise is missed on some pods while new ones wait for connections to reach them: more would wait too.
    LoadUneven,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Load,
        Self::Min,
        Self::Max,
        Self::Steady,
        Self::Cooldown,
        Self::Unsure,
        Self::Rollout,
        Self::FewRequests,
        Self::Blind,
        Self::DependencyBound,
        Self::Trial,
        Self::LoadUneven,
    ];
}

/// A bound of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Bound {
    /// The fewest replicas allowed.
    Min,
    /// The most replicas allowed.
    Max,
}

/// What was seen in the round.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inputs {
    /// Requests per second that arrived.
    pub offered_per_second: f64,
    /// Requests per second that ended.
    pub completed_per_second: f64,
    /// Requests per second that were refused because of load.
    pub shed_per_second: f64,
    /// Requests that wait or are being served.
    pub in_flight: f64,
    /// Pods that are ready.
    pub ready: usize,
    /// Of them, those with two good readings.
    pub measured: usize,
    /// Ready pods that were left out, by the reason.
    pub excluded: BTreeMap<&'static str, usize>,
    /// A request was just found to take so many times the CPU that it did: what a pod is believed to carry has moved by as much;
    /// during a rollout only where it became dearer. Null in all other rounds.
    pub cost_factor: Option<f64>,
}

/// The load that is expected when new pods would be ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outlook {
    /// Requests per second, in the middle.
    pub expected_per_second: f64,
    /// Requests per second that are exceeded once in twenty times.
    pub p95_per_second: f64,
    /// How far ahead.
    pub horizon_seconds: f64,
}

/// What a pod is believed to carry, in requests per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CapacitySummary {
    /// The middle.
    pub per_second: f64,
    /// Exceeded by nine of ten likely capacities.
    pub low_per_second: f64,
    /// Exceeded by one of ten.
    pub high_per_second: f64,
    /// No number of replicas meets the target: requests miss it without any load.
    pub unmeetable: bool,
    /// The target that binds: the one with the least capacity.
    pub target: TargetSummary,
}

/// A target, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetSummary {
    /// Share of requests that it is about.
    pub quantile: f64,
    /// Time within which they are answered. Absent where they are to be answered without an error.
    pub within_seconds: Option<f64>,
}

/// What a number of replicas would mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counterfactual {
    /// The number.
    pub replicas: u32,
    /// The chance that the minute to come misses the promise.
    pub violation_chance: f64,
    /// The chance that a minute in which new pods start misses the promise because of them, 0 to 1.
    pub start_violation_chance: f64,
}

impl Decision {
    /// Keeps the replicas, for want of anything better to know.
    pub(crate) fn hold(replicas: u32, rule: Rule, inputs: Inputs) -> Self {
        Self {
            version: VERSION,
            from: replicas,
            to: replicas,
            rule,
            limit: None,
            violated: false,
            inputs,
            cheapest: replicas,
            outlook: Outlook::default(),
            capacity: None,
            counterfactuals: Vec::new(),
        }
    }
}

impl Inputs {
    pub(crate) fn of(round: &Round) -> Self {
        Self {
            offered_per_second: round.offered_per_second,
            completed_per_second: round.completed_per_second,
            shed_per_second: round.delta.shed / round.seconds.max(f64::MIN_POSITIVE),
            in_flight: round.in_flight,
            ready: round.ready,
            measured: round.measured,
            excluded: round.excluded.clone(),
            cost_factor: None,
        }
    }
}

impl Known {
    pub(crate) fn summary(&self) -> CapacitySummary {
        let at = |share: f64| {
            let mut below = 0.0;
            self.points
                .iter()
                .find(|point| {
                    below += point.weight;
                    below >= share
                })
                .or(self.points.last())
                .map_or(0.0, |point| point.per_second)
        };
        CapacitySummary {
            per_second: self.middle_per_second(),
            low_per_second: at(0.1),
            high_per_second: at(0.9),
            unmeetable: self.unmeetable,
            target: TargetSummary {
                quantile: self.target.quantile,
                within_seconds: self.target.latency_seconds(),
            },
        }
    }
}

impl forecast::Outlook {
    pub(crate) fn summary(&self) -> Outlook {
        let mut below = 0.0;
        let p95 = self.points.iter().find(|point| {
            below += point.1;
            below >= 0.95 - 1e-9
        });
        Outlook {
            expected_per_second: self.expected_per_second,
            p95_per_second: p95.or(self.points.last()).map_or(0.0, |point| point.0),
            horizon_seconds: 0.0,
        }
    }
}
