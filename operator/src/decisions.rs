//! The decisions on one object that `/decisions` tells. It takes little memory, for there are hundreds of objects: the last ones
//! are all kept, and of older ones those that were not as the one before.

use std::collections::VecDeque;
use std::sync::Arc;

use plimsoll_core::plan::Decision;

/// The last decisions: five minutes at the default scrape period.
pub const RECENT_MAX: usize = 60;
/// Older ones, each with another reason or number of replicas than the one before it.
pub const OLDER_MAX: usize = 68;

/// What is kept.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Oldest first, as `recent`.
    older: VecDeque<Arc<Decision>>,
    recent: VecDeque<Arc<Decision>>,
}

impl Decisions {
    /// Keeps a decision, later than all others.
    pub fn keep(&mut self, decision: Decision) {
        self.recent.push_back(Arc::new(decision));
        if self.recent.len() <= RECENT_MAX {
            return;
        }
        let Some(left) = self.recent.pop_front() else { return };
        if self.older.back().is_none_or(|before| !says_the_same(before, &left)) {
            self.older.push_back(left);
        }
        if self.older.len() > OLDER_MAX {
            self.older.pop_front();
        }
    }

    /// All that are kept, oldest first.
    pub fn all(&self) -> Vec<Arc<Decision>> {
        self.older.iter().chain(&self.recent).cloned().collect()
    }
}

fn says_the_same(one: &Decision, other: &Decision) -> bool {
    (one.reason, one.to) == (other.reason, other.to)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use plimsoll_core::plan::{Evidence, Reason};

    use super::*;

    fn decision(second: i64, reason: Reason, to: i32) -> Decision {
        Decision {
            time: Timestamp::from_second(second).unwrap(),
            from: to,
            to,
            recommended: to,
            reason,
            message: String::new(),
            evidence: Evidence::default(),
            engine: None,
        }
    }

    fn seconds(decisions: &Decisions) -> Vec<i64> {
        decisions.all().iter().map(|decision| decision.time.as_second()).collect()
    }

    #[test]
    fn the_last_are_all_kept_and_of_older_ones_where_they_changed() {
        let mut decisions = Decisions::default();
        for second in 0..100 {
            let (reason, to) = match second {
                0..7 => (Reason::HoldingWithinTarget, 2),
                7..9 => (Reason::LoadNearCapacity, 3),
                _ => (Reason::HoldingWithinTarget, 3),
            };
            decisions.keep(decision(second, reason, to));
        }
        let expected: Vec<i64> = [0, 7, 9].into_iter().chain(40..100).collect();
        assert_eq!(seconds(&decisions), expected);
    }

    #[test]
    fn however_often_they_change_their_number_is_bounded() {
        let mut decisions = Decisions::default();
        for second in 0..1000 {
            decisions.keep(decision(second, Reason::LoadNearCapacity, i32::from(second % 2 == 0)));
        }
        let kept = seconds(&decisions);
        assert_eq!(kept.len(), RECENT_MAX + OLDER_MAX);
        assert!(kept.is_sorted() && kept.last() == Some(&999));
    }

    #[test]
    fn the_page_tells_how_many_are_kept() {
        let page = include_str!("../../docs/scaling.md");
        let told = format!("the last {RECENT_MAX} decisions, and of up to {OLDER_MAX} older ones");
        assert!(page.contains(&told), "docs/scaling.md does not say: {told}");
    }
}
