//! What an engine leaves to the one after it, and takes over from the one before: of the same resource, or of a template that
//! comes back.

use super::super::capacity::Capacity;
use super::super::cold;
use super::super::learned::{Learned, LearnedCapacity};
use super::super::settings::{Settings, Target};
use super::Engine;

impl Engine {
    /// Takes over what an engine before this one had learned, if it was about these targets and this template, and if this
    /// one has not begun.
    pub fn restore(&mut self, learned: &Learned, template: u64, settings: &Settings) {
        if self.templates.current().is_some() || learned.template != template {
            return;
        }
        if !self.take_over(learned, settings) {
            return;
        }
        self.targets.clone_from(&settings.targets);
        if let Some(seconds) = learned.startup_seconds.filter(|seconds| seconds.is_finite()) {
            self.startup.restore(seconds);
        }
        if let Some(most) = learned.shared_per_second.filter(|most| most.is_finite() && *most > 0.0) {
            self.ceiling.restore(most);
        }
    }

    /// What an engine after this one may take over. None before anything was learned of these targets.
    pub fn learned(&self, settings: &Settings) -> Option<Learned> {
        if self.targets != settings.targets {
            return None;
        }
        let (capacities, typical_seconds) = self.belief.learned()?;
        let cold = self.cold.learned().iter().map(|capacity| Some(capacity.learned()));
        let capacities =
            settings.targets.iter().zip(capacities).zip(cold.chain(std::iter::repeat(None))).map(
                |((target, warm), cold)| LearnedCapacity { target: *target, warm: warm.learned(), cold },
            );
        Some(Learned {
            template: self.templates.current()?,
            capacities: capacities.collect(),
            startup_seconds: self.startup.known_seconds(),
            typical_seconds,
            shared_per_second: self.ceiling.per_second(),
        })
    }

    /// Takes over what was learned of pods, if it was about these targets.
    pub(super) fn take_over(&mut self, learned: &Learned, settings: &Settings) -> bool {
        let about = |target: &Target| learned.capacities.iter().find(|known| known.target == *target);
        let warm = |target: &Target| {
            let warm = about(target)?.warm;
            warm.is_sane().then(|| Capacity::as_learned(target.budget(), warm))
        };
        let cold = |target: &Target| {
            let cold = about(target)?.cold.filter(|cold| cold.is_sane())?;
            Some(Capacity::as_learned(cold::share(*target), cold))
        };
        let Some(capacities) = settings.targets.iter().map(warm).collect::<Option<Vec<_>>>() else {
            return false;
        };
        if !learned.typical_seconds.is_finite() || learned.typical_seconds <= 0.0 {
            return false;
        }
        self.belief.restore(capacities, learned.typical_seconds);
        self.trust(settings);
        if let Some(cold) = settings.targets.iter().map(cold).collect() {
            self.cold.restore(cold);
        }
        true
    }

    pub(super) fn trust(&mut self, settings: &Settings) {
        if let Some(known) = self.belief.known(settings) {
            self.belief.trust(&known);
        }
    }
}
