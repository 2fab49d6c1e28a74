//! What a round says of the capacity of a pod, for one target.

use crate::histogram::{Delta, Share};

use super::capacity::{Capacity, Evidence, GROUPING};
use super::settings::Target;

/// A surprise is a share that is for certain this many times what was expected, and over the budget beside.
const SURPRISING: f64 = 3.0;
/// Above this many times the budget the share over a target no longer tells how far the load is beyond the capacity.
const OVERLOADED: f64 = 8.0;
/// Then the capacity is about this part of the load, or any less.
const CAPACITY_OF_OVERLOAD: f64 = 0.7;
const OVERLOAD_SPREAD_BELOW: f64 = 1.0;
const OVERLOAD_SPREAD_ABOVE: f64 = 0.15;

/// What the pods of a round were seen to do.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Their requests.
    pub counts: &'a Delta,
    /// Load of one pod, in requests per second.
    pub per_pod_per_second: f64,
    /// Whether that load was even for a while.
    pub even: bool,
    /// What a pod that was kept busy completed, in requests per second, if enough of them were.
    pub busy_per_second: Option<f64>,
    /// What the CPU limit lets a pod complete at most, in requests per second, where it alone tells that pods are at their limit.
    pub cpu_per_second: Option<f64>,
    /// How far late requests are due to the pods, 0 to 1.
    pub theirs: f64,
}

/// What that says of the capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lesson {
    /// Nothing.
    Nothing,
    /// The share over the target at a load.
    Share(Evidence),
    /// A pod that is kept busy completes so many requests per second.
    Saturated(f64),
    /// At so many requests per second for each pod, far too many were late.
    Overloaded(f64),
}

impl Shown<'_> {
    /// What is to be learned, and whether it is a surprise after what is known.
    pub fn lesson(&self, known: &Capacity, target: Target) -> (Lesson, bool) {
        let Self { counts, per_pod_per_second, even, busy_per_second, cpu_per_second, theirs } = *self;
        let (total, budget) = (counts.total, target.budget());
        let over = target.missed(counts);
        let seen = Share::wilson(over / GROUPING, total / GROUPING);
        let missed = busy_per_second.is_some() || seen.value > budget;
        if missed && theirs < 1.0 {
            let told = even && busy_per_second.is_none();
            let evidence = Evidence { per_pod_per_second, total: theirs * total, over: theirs * over };
            return (if told { Lesson::Share(evidence) } else { Lesson::Nothing }, false);
        }
        if let Some(per_second) = busy_per_second {
            return (Lesson::Saturated(per_second), known.is_surprised_by_saturation(per_second));
        }
        if let Some(per_second) = cpu_per_second.filter(|_| seen.lower <= budget) {
            return (Lesson::Saturated(per_second), false);
        }
        if !even {
            return (Lesson::Nothing, false);
        }
        if over > OVERLOADED * budget * total {
            return (Lesson::Overloaded(per_pod_per_second), false);
        }
        let surprised = seen.lower > SURPRISING * known.expected_over(per_pod_per_second) + budget;
        (Lesson::Share(Evidence { per_pod_per_second, total, over }), surprised)
    }
}

impl Lesson {
    /// Learns from it.
    pub fn teach(self, capacity: &mut Capacity) {
        match self {
            Self::Nothing => {}
            Self::Share(evidence) => capacity.learn(evidence),
            Self::Saturated(per_second) => capacity.learn_saturated(per_second),
            Self::Overloaded(load_per_second) => capacity.learn_about(
                CAPACITY_OF_OVERLOAD * load_per_second,
                OVERLOAD_SPREAD_BELOW,
                OVERLOAD_SPREAD_ABOVE,
            ),
        }
    }

    /// What is left of it when late requests are due to the pods only as far as they are `theirs`, 0 to 1. That a load was
    /// carried stays true.
    #[must_use]
    pub fn as_far_as(self, theirs: f64, budget: f64) -> Self {
        match self {
            _ if theirs >= 1.0 => self,
            Self::Share(evidence) if evidence.over <= budget * evidence.total => self,
            Self::Share(Evidence { per_pod_per_second, total, over }) => {
                Self::Share(Evidence { per_pod_per_second, total: theirs * total, over: theirs * over })
            }
            Self::Nothing | Self::Saturated(_) | Self::Overloaded(_) => Self::Nothing,
        }
    }
}
