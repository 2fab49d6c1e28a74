//! What was read of the pods lately: the latencies that people are shown. Nothing is decided from it.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use crate::engine::Round;
use crate::histogram::Delta;
use crate::memory::seconds_between;

/// Seconds for which a round is kept.
const AGE_SECONDS_MAX: f64 = 65.0;

/// Rounds of the last minute, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recent {
    rounds: VecDeque<Kept>,
}

#[derive(Clone, Debug, PartialEq)]
struct Kept {
    at: Timestamp,
    seconds: f64,
    delta: Delta,
}

/// Rounds taken together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// How long they were.
    pub seconds: f64,
    /// Their requests.
    pub delta: Delta,
}

impl Recent {
    /// Keeps a round.
    pub fn keep(&mut self, now: Timestamp, round: &Round) {
        if round.measured > 0 {
            self.rounds.push_back(Kept { at: now, seconds: round.seconds, delta: round.delta.clone() });
        }
        // A clock that was set back must not keep rounds for ever.
        self.rounds.retain(|round| (0.0..=AGE_SECONDS_MAX).contains(&seconds_between(round.at, now)));
    }

    /// The newest rounds that cover `seconds`, or those that there are.
    pub fn over(&self, seconds: f64) -> Window {
        let mut window = Window::default();
        for round in self.rounds.iter().rev() {
            if window.seconds >= seconds {
                break;
            }
            window.seconds += round.seconds;
            window.delta.add(&round.delta);
        }
        window
    }
}

impl Window {
    /// A percentile in seconds. None while so few requests came that none may lie beyond it.
    pub fn percentile(&self, q: f64) -> Option<f64> {
        Some(self.delta.quantile(q)?.seconds).filter(|_| self.delta.total * (1.0 - q) >= 1.0)
    }

    /// Share of requests slower than `target`. None without requests.
    pub fn share_over(&self, target: Duration) -> Option<f64> {
        (self.delta.total > 0.0).then(|| self.delta.slower_than(target) / self.delta.total)
    }
}

#[cfg(test)]
// Counts of whole requests are exact.
#[allow(clippy::float_cmp)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::histogram::Snapshot;

    fn round(requests: f64, late: f64) -> Round {
        let counts = vec![(0.1, requests - late), (f64::INFINITY, requests)];
        let snapshot = Snapshot::new(counts, None, None).unwrap();
        Round { measured: 1, seconds: 5.0, delta: snapshot.since(&Snapshot::default()), ..Round::default() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn a_window_holds_the_newest_rounds_that_cover_it() {
        let mut recent = Recent::default();
        for second in [0, 5, 10] {
            recent.keep(at(second), &round(10.0, if second == 10 { 5.0 } else { 0.0 }));
        }
        let shares =
            [1.0, 5.0, 10.0, 60.0].map(|seconds| recent.over(seconds).share_over(Duration::from_millis(100)));
        assert_eq!(shares, [Some(0.5), Some(0.5), Some(0.25), Some(1.0 / 6.0)]);
        assert_eq!(Recent::default().over(60.0).share_over(Duration::from_millis(100)), None);
    }

    #[test]
    fn a_round_ends_with_its_minute_and_with_a_clock_that_is_set_back() {
        let mut recent = Recent::default();
        recent.keep(at(100), &round(10.0, 0.0));
        recent.keep(at(200), &round(10.0, 0.0));
        assert_eq!(recent.over(600.0).delta.total, 10.0);
        recent.keep(at(50), &round(7.0, 0.0));
        assert_eq!(recent.over(600.0).delta.total, 7.0);
    }

    #[test]
    fn a_percentile_of_too_few_requests_is_unknown() {
        let mut recent = Recent::default();
        recent.keep(at(0), &round(50.0, 0.0));
        let window = recent.over(60.0);
        assert!(window.percentile(0.95).is_some() && window.percentile(0.99).is_none());
    }
}
