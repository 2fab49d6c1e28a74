//! What a client felt, over windows of seconds: whether the promise was kept in them, and from when on again.

use plimsoll_load::Second;
use serde::{Deserialize, Serialize};

/// Length of a window in seconds.
pub const WINDOW: usize = 10;
/// Seconds for which every window must keep the promise before it counts as kept again.
pub const HELD: usize = 30;

/// What ended in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Requests that were due.
    pub offered: u64,
    /// Requests that ended, in whatever way.
    pub all: u64,
    /// Of them, those without a success within the promise.
    pub over: u64,
    /// Of them, those that were refused, failed or had timed out.
    pub unserved: u64,
}

impl Ended {
    /// Of a second of the generator whose first threshold is the promise.
    pub fn of(second: &Second) -> Self {
        Self {
            offered: second.offered,
            all: second.ends.all(),
            over: second.over.first().copied().unwrap_or(0),
            unserved: second.ends.unserved(),
        }
    }

    /// Sums over seconds.
    pub fn sum<'a>(seconds: impl IntoIterator<Item = &'a Self>) -> Self {
        seconds.into_iter().fold(Self::default(), |sum, second| Self {
            offered: sum.offered + second.offered,
            all: sum.all + second.all,
            over: sum.over + second.over,
            unserved: sum.unserved + second.unserved,
        })
    }

    /// Share of the requests that ended which were over the promise; 0 when none ended.
    pub fn over_share(&self) -> f64 {
        if self.all == 0 { 0.0 } else { self.over as f64 / self.all as f64 }
    }

    /// Whether no more were over than `budget` allows, such as 0.01 for a p99: then that percentile, over all that ended
    /// and with those without an answer as the slowest, was within the promise. A window in which requests were due and
    /// none ended is not kept.
    pub fn kept(&self, budget: f64) -> bool {
        // A tolerance far below one request, for shares such as 1 - 0.99.
        (self.all > 0 || self.offered == 0) && self.over as f64 <= budget * self.all as f64 + 1e-6
    }
}

/// When the promise was kept again after a moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Back {
    /// Every window kept it.
    NeverLeft,
    /// So many seconds after the moment began the first of the windows that kept it for [`HELD`] seconds.
    After(usize),
    /// Not as far as was looked.
    Never,
}

impl Back {
    /// Seconds until then; absent when it was not kept again.
    pub const fn seconds(self) -> Option<usize> {
        match self {
            Self::NeverLeft => Some(0),
            Self::After(seconds) => Some(seconds),
            Self::Never => None,
        }
    }
}

/// The windows of [`WINDOW`] seconds that begin in each second from `from` on.
pub fn windows(seconds: &[Ended], from: usize) -> impl Iterator<Item = Ended> + '_ {
    seconds.get(from..).unwrap_or_default().windows(WINDOW).map(Ended::sum)
}

/// When the promise was kept again from second `from` on, such as that of a step, with `budget` as for [`Ended::kept`].
pub fn back(seconds: &[Ended], from: usize, budget: f64) -> Back {
    let kept: Vec<bool> = windows(seconds, from).map(|window| window.kept(budget)).collect();
    let Some(left) = kept.iter().position(|kept| !kept) else {
        return if kept.is_empty() { Back::Never } else { Back::NeverLeft };
    };
    let held = |at: usize| kept.get(at..at + HELD).is_some_and(|held| held.iter().all(|kept| *kept));
    (left + 1..kept.len()).find(|&at| held(at)).map_or(Back::Never, Back::After)
}

#[cfg(test)]
mod tests {
    use plimsoll_load::Ends;

    use super::*;

    const BUDGET: f64 = 0.01;

    /// A hundred requests each second, of which so many are over.
    fn seconds(over: impl IntoIterator<Item = u64>) -> Vec<Ended> {
        over.into_iter().map(|over| Ended { offered: 100, all: 100, over, unserved: 0 }).collect()
    }

    /// Kept for `before` seconds, broken for `broken`, kept for `after`.
    fn broken_for(before: usize, broken: usize, after: usize) -> Vec<Ended> {
        let part = |over: u64, seconds: usize| std::iter::repeat_n(over, seconds);
        seconds(part(0, before).chain(part(50, broken)).chain(part(0, after)))
    }

    #[test]
    fn a_window_at_the_budget_keeps_and_one_request_more_breaks() {
        let window = |over| Ended { offered: 1000, all: 1000, over, unserved: 0 };
        assert!(window(10).kept(1.0 - 0.99));
        assert!(!window(11).kept(1.0 - 0.99));
        assert!((window(11).over_share() - 0.011).abs() < 1e-12);
    }

    #[test]
    fn silence_is_kept_only_when_nothing_was_asked() {
        assert!(Ended::default().kept(BUDGET));
        assert!(!Ended { offered: 5, ..Ended::default() }.kept(BUDGET));
        assert!(Ended::default().over_share().abs() < 1e-12);
    }

    #[test]
    fn back_is_when_the_last_bad_second_has_left_the_windows() {
        let seconds = broken_for(20, 7, 100);
        assert_eq!(back(&seconds, 20, BUDGET), Back::After(7));
        // The same when it breaks only some seconds after the step.
        assert_eq!(back(&seconds, 12, BUDGET), Back::After(15));
    }

    #[test]
    fn a_promise_that_never_broke_has_not_left() {
        assert_eq!(back(&seconds([1; 60]), 10, BUDGET), Back::NeverLeft);
        assert_eq!(Back::NeverLeft.seconds(), Some(0));
    }

    #[test]
    fn a_short_good_spell_between_bad_ones_is_not_back() {
        let mut twice = broken_for(10, 5, HELD);
        twice.extend(broken_for(0, 5, 100));
        // Of HELD good seconds the windows that lie within are fewer.
        assert_eq!(back(&twice, 10, BUDGET), Back::After(5 + HELD + 5));
        assert_eq!(back(&broken_for(10, 5, HELD + WINDOW - 2), 10, BUDGET), Back::Never);
        assert_eq!(back(&broken_for(10, 5, HELD + WINDOW - 1), 10, BUDGET), Back::After(5));
    }

    #[test]
    fn too_few_seconds_say_nothing_good() {
        assert_eq!(back(&seconds([0; 5]), 0, BUDGET), Back::Never);
        assert_eq!(back(&seconds([0; 5]), 50, BUDGET), Back::Never);
        assert_eq!(Back::Never.seconds(), None);
    }

    #[test]
    fn a_second_of_the_generator_counts_what_had_no_answer() {
        let ends = Ends { completed: 90, refused: 4, failed: 1, timed_out: 5 };
        let second = Second { offered: 120, ends, over: vec![30, 12], ..Second::default() };
        assert_eq!(Ended::of(&second), Ended { offered: 120, all: 100, over: 30, unserved: 10 });
        assert_eq!(Ended::sum(&[Ended::of(&second); 3]).unserved, 30);
    }
}
