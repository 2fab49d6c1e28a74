//! How long a new pod takes until it is ready, learned from pods that became so.

use std::collections::{BTreeSet, VecDeque};

use super::observation::{Observation, seconds_between};

/// Assumed before a pod was seen to start.
const ASSUMED_SECONDS: f64 = 10.0;
/// Starts kept.
const STARTS_MAX: usize = 32;
/// A start beyond this was something else: an image that could not be pulled, a node that was missing.
const SECONDS_MAX: f64 = 600.0;

/// Start-up times of recent pods.
#[derive(Clone, Debug, Default)]
pub struct Startup {
    seconds: VecDeque<f64>,
    known: BTreeSet<String>,
}

impl Startup {
    /// Looks for pods that have become ready.
    pub fn follow(&mut self, observation: &Observation) {
        let first = self.known.is_empty() && self.seconds.is_empty();
        let mut known = BTreeSet::new();
        for pod in &observation.pods {
            let Some(ready_at) = pod.ready_at else { continue };
            if !self.known.contains(&pod.uid) {
                let seconds = seconds_between(pod.created_at, ready_at);
                // Of pods that were there before, readiness may have come and gone.
                if !first && (0.0..=SECONDS_MAX).contains(&seconds) {
                    self.seconds.push_back(seconds);
                    if self.seconds.len() > STARTS_MAX {
                        self.seconds.pop_front();
                    }
                }
            }
            known.insert(pod.uid.clone());
        }
        self.known = known;
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
