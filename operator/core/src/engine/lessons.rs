//! What was learned from lately, kept for a while: when it turns out that late requests were not the pods' doing, the capacity is
//! learned again without them.

use std::collections::VecDeque;

use super::capacity::Capacity;
use super::lesson::Lesson;
use super::settings::Settings;

/// Rounds that are kept at most, and half of them at least: together a quarter of an hour at the default period.
const ROUNDS_MAX: usize = 180;

/// A round's lessons.
#[derive(Clone, Debug, PartialEq)]
pub struct Taught {
    /// When it ended, in seconds.
    pub at_seconds: f64,
    /// How long it was.
    pub seconds: f64,
    /// What all pods completed together, in requests per second.
    pub together_per_second: f64,
    /// One for each target.
    pub lessons: Vec<Lesson>,
    /// The spread to which what was known was widened after it, if it was doubted.
    pub doubted: Option<f64>,
}

/// The rounds that were learned from lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lessons {
    /// What was known before the first of them.
    before: Vec<Capacity>,
    /// What was known before the one in the middle.
    halfway: Vec<Capacity>,
    rounds: VecDeque<Taught>,
}

impl Lessons {
    /// Only this is known.
    pub fn begin(known: &[Capacity]) -> Self {
        Self { before: known.to_vec(), ..Self::default() }
    }

    /// A round comes, before which this is known. Oldest ones are let go.
    pub fn make_room(&mut self, known: &[Capacity]) {
        if self.rounds.len() == ROUNDS_MAX {
            self.before = std::mem::take(&mut self.halfway);
            self.rounds.drain(..ROUNDS_MAX / 2);
        }
        if self.rounds.len() == ROUNDS_MAX / 2 {
            self.halfway = known.to_vec();
        }
    }

    /// Keeps the round.
    pub fn keep(&mut self, taught: Taught) {
        self.rounds.push_back(taught);
    }

    /// What is known was doubted.
    pub fn doubt(&mut self, spread: f64) {
        if let Some(last) = self.rounds.back_mut() {
            last.doubted = Some(spread);
        }
    }

    /// What is known when late requests of each round are due to the pods only as far as `theirs` says, 0 to 1. A doubt is
    /// raised again where they all are.
    pub fn again(&self, settings: &Settings, theirs: impl Fn(&Taught) -> f64) -> Vec<Capacity> {
        let mut known = self.before.clone();
        for taught in &self.rounds {
            let theirs = theirs(taught);
            for ((capacity, lesson), target) in known.iter_mut().zip(&taught.lessons).zip(&settings.targets) {
                capacity.forget(taught.seconds);
                lesson.as_far_as(theirs, target.budget()).teach(capacity);
                if let Some(spread) = taught.doubted.filter(|_| theirs >= 1.0) {
                    capacity.doubt(spread);
                }
            }
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::capacity::Evidence;
    use super::super::settings::Target;
    use super::*;

    const BUDGET: f64 = 0.01;

    fn settings() -> Settings {
        Settings {
            targets: vec![Target::latency(1.0 - BUDGET, Duration::from_millis(100))],
            min: 1,
            max: 100,
            period: Duration::from_secs(5),
            violation_price: 60.0,
        }
    }

    /// A pod of this many has a load, and a part of its requests is late.
    fn round(at_seconds: f64, per_pod_per_second: f64, pods: f64, late: f64) -> Taught {
        let total = 5.0 * pods * per_pod_per_second;
        let evidence = Evidence { per_pod_per_second, total, over: late * total };
        Taught {
            at_seconds,
            seconds: 5.0,
            together_per_second: pods * per_pod_per_second,
            lessons: vec![Lesson::Share(evidence)],
            doubted: None,
        }
    }

    /// What is known, and the lessons, after such rounds from a capacity of which nothing is known.
    fn after(rounds: impl Iterator<Item = Taught>) -> (Vec<Capacity>, Lessons) {
        let mut known = vec![Capacity::between(BUDGET, 5.0, 500.0)];
        let mut lessons = Lessons::begin(&known);
        for taught in rounds {
            lessons.make_room(&known);
            known[0].forget(taught.seconds);
            taught.lessons[0].teach(&mut known[0]);
            lessons.keep(taught);
        }
        (known, lessons)
    }

    fn middle(known: &[Capacity]) -> f64 {
        known[0].log_moments().0.exp()
    }

    #[test]
    fn the_same_rounds_teach_the_same_however_many_they_are() {
        for count in [1_u32, 89, 90, 91, 179, 180, 181, 500] {
            let load = |index: u32| 20.0 + f64::from(index % 17);
            let (known, lessons) =
                after((0..count).map(|index| round(f64::from(index), load(index), 10.0, 0.004)));
            assert_eq!(lessons.again(&settings(), |_| 1.0), known, "{count}");
            assert!(lessons.rounds.len() <= ROUNDS_MAX);
        }
    }

    #[test]
    fn what_was_late_when_all_together_were_at_their_limit_is_unlearned() {
        // Ten pods carry 40 requests a second each; twenty that complete 600 together are late because of what they share.
        let carried = (0..40).map(|index| round(f64::from(index), 40.0, 10.0, 0.005));
        let held_back = (40..60).map(|index| round(f64::from(index), 30.0, 20.0, 0.06));
        let (known, lessons) = after(carried.chain(held_back));
        let again = lessons.again(&settings(), |taught| f64::from(taught.together_per_second < 500.0));
        assert!(middle(&known) < 35.0 && middle(&again) > 40.0, "{} {}", middle(&known), middle(&again));
    }

    #[test]
    fn that_a_load_was_carried_stays_true() {
        let (known, lessons) = after((0..40).map(|index| round(f64::from(index), 60.0, 10.0, 0.002)));
        let again = lessons.again(&settings(), |_| 0.0);
        assert_eq!(again, known);
    }

    #[test]
    fn a_doubt_is_raised_again_unless_it_came_of_what_the_pods_share() {
        let rounds = (0..60).map(|index| round(f64::from(index), 40.0, 10.0, 0.01));
        let (known, mut lessons) = after(rounds);
        lessons.doubt(0.3);
        let spread = |known: Vec<Capacity>| known[0].log_moments().1;
        let sure = spread(known);
        let theirs = |theirs: f64| {
            lessons.again(&settings(), move |taught| if taught.doubted.is_some() { theirs } else { 1.0 })
        };
        assert!(spread(theirs(1.0)) > 0.29 && spread(theirs(0.0)) < 1.1 * sure);
    }
}
