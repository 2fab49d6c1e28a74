//! The setting of a peer that is best in hindsight: a grid first, and then between its points around the best of it.

use crate::demand::Prepared;
use crate::peers::settings::{GRID_STEP, Setting};
use crate::score::Outcome;
use crate::sweep::compare;

/// A setting, and what became of it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The setting.
    pub setting: Setting,
    /// Its run.
    pub outcome: Outcome,
}

impl Found {
    /// Runs a setting.
    pub fn of(prepared: &Prepared<'_>, setting: Setting) -> Self {
        let outcome = prepared.run(setting.policy(prepared.scenario()).as_mut());
        Self { setting, outcome }
    }
}

/// The best of these, by [`compare`].
pub fn best(found: impl IntoIterator<Item = Found>) -> Option<Found> {
    found.into_iter().min_by(|a, b| compare(&a.outcome, &b.outcome))
}

/// The best of `found` and of the settings around it: a half of [`GRID_STEP`] to either side, then a quarter from whatever
/// was best of these, and so on, `halvings` times. Once the upper side is better, the lower one is not looked at: a
/// higher setting gives every replica more load, so that what it saves the lower one does not.
pub fn refine(prepared: &Prepared<'_>, found: Found, halvings: u32) -> Found {
    let mut best = found;
    let mut step = GRID_STEP;
    for _ in 0..halvings {
        step /= 2.0;
        for by in [step, -step] {
            let setting = best.setting.moved(by);
            if setting == best.setting {
                continue;
            }
            let tried = Found::of(prepared, setting);
            if compare(&tried.outcome, &best.outcome).is_lt() {
                best = tried;
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::distribution::Distribution;
    use crate::service::Service;
    use crate::{Scenario, Target, generate};

    /// At 400 requests a second on pods that serve 80 at most, seven carry the promise of 330 ms and six do not.
    fn scenario() -> Scenario {
        let start_up = Distribution::Constant { seconds: 12.0 };
        let service = Service::workers(4, Distribution::Exponential { mean: 0.05 }, start_up);
        let target = Target { quantile: 0.99, latency: Duration::from_millis(330) };
        let mut scenario = Scenario::new("hindsight", generate::step(600, 0, 400.0, 400.0), service, target);
        scenario.replicas_initial = 7;
        scenario
    }

    fn wanted(found: &Found) -> u32 {
        found.outcome.seconds[599].wanted
    }

    #[test]
    fn the_best_keeps_the_promise_with_the_fewest_replicas() {
        let scenario = scenario();
        let prepared = Prepared::new(&scenario);
        let found = [0.4, 0.5, 0.9].map(|part| Found::of(&prepared, Setting::Fixed { part }));
        let found = best(found).unwrap();
        assert_eq!((found.setting, wanted(&found)), (Setting::Fixed { part: 0.5 }, 10));
        assert_eq!(found.outcome.score().violation_minutes, 0);
        assert!(best([]).is_none());
    }

    #[test]
    fn finds_a_better_setting_between_the_points_of_the_grid_on_either_side() {
        let scenario = scenario();
        let prepared = Prepared::new(&scenario);
        let refined = |part| refine(&prepared, Found::of(&prepared, Setting::Fixed { part }), 2);
        assert_eq!(wanted(&refined(0.7)), 7, "0.7 makes eight, and 0.75 seven");
        assert_eq!(wanted(&refined(0.85)), 7, "0.85 makes six, which are too few, and 0.8 seven");
    }

    #[test]
    fn never_gives_up_what_it_has_for_something_worse() {
        let scenario = scenario();
        let prepared = Prepared::new(&scenario);
        let found = Found::of(&prepared, Setting::Fixed { part: 0.75 });
        let before = found.outcome.replica_seconds;
        assert!(refine(&prepared, found, 2).outcome.replica_seconds <= before);
    }
}
