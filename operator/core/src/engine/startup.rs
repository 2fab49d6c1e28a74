//! How long a new pod takes until it is ready, learned from pods that became so.

use std::collections::VecDeque;

use super::observation::{Observation, seconds_between};
use super::roster::Roster;

/// Assumed before a pod was seen to start.
const ASSUMED_SECONDS: f64 = 10.0;
/// Starts kept.
const STARTS_MAX: usize = 32;
/// A start beyond this was something else: an image that could not be pulled, a node that was missing.
const SECONDS_MAX: f64 = 600.0;

/// Start-up times of recent pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Startup {
    seconds: VecDeque<f64>,
}

impl Startup {
    /// Looks for pods that have become ready. The roster must have seen the round.
    pub fn follow(&mut self, observation: &Observation, roster: &Roster) {
        for pod in observation.pods.iter().filter(|pod| roster.has_just_started(&pod.uid)) {
            let seconds = pod.ready_at.map(|ready_at| seconds_between(pod.created_at, ready_at));
            self.seconds.extend(seconds.filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds)));
        }
        while self.seconds.len() > STARTS_MAX {
            self.seconds.pop_front();
        }
    }

    /// Takes over what was learned before a restart.
    pub fn restore(&mut self, seconds: f64) {
        self.seconds = VecDeque::from([seconds.clamp(0.0, SECONDS_MAX)]);
    }

    /// The time within which 90 % of pods become ready, if one was seen to.
    pub fn known_seconds(&self) -> Option<f64> {
        (!self.seconds.is_empty()).then(|| self.p90_seconds())
    }

    /// The time within which 90 % of pods become ready.
    pub fn p90_seconds(&self) -> f64 {
        if self.seconds.is_empty() {
            return ASSUMED_SECONDS;
        }
        let mut sorted = self.seconds.iter().copied().collect::<Vec<_>>();
        sorted.sort_by(f64::total_cmp);
        sorted[(sorted.len() * 9 / 10).min(sorted.len() - 1)]
    }
}
