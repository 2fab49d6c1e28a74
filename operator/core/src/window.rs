//! Sums over recent rounds: what the fast and the slow window of a decision say.
//!
//! It never fills a gap: a round in which pods could not be read is told apart from a quiet one.

use jiff::Timestamp;
use plimsoll_crds::Percentile;

use crate::histogram::{Delta, Share};
use crate::input::Targets;
use crate::memory::{Round, seconds_between};

/// Below this many requests a share means too little to act on.
const REQUESTS_MIN: f64 = 20.0;
/// Fewer slow requests than this may be one client's bad luck.
const BAD_REQUESTS_MIN: f64 = 3.0;
/// Requests in flight for each replica that are normal; below it no backlog is assumed.
const IN_FLIGHT_NORMAL: f64 = 5.0;

/// Rounds taken together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    pub seconds: f64,
    pub delta: Delta,
    pub bad: [f64; Percentile::ALL.len()],
    /// Mean rates, weighted by time.
    pub offered_per_second: f64,
    pub completed_per_second: f64,
    pub busiest_per_second: f64,
    /// Every ready pod could be read in every round.
    pub complete: bool,
    pub newest_bad: bool,
    pub in_flight: f64,
}

impl Window {
    /// Sums rounds, newest first, until they cover `seconds`.
    pub fn covering<'a>(rounds: impl Iterator<Item = &'a Round>, seconds: f64) -> Self {
        let mut window = Self { complete: true, ..Self::default() };
        for round in rounds {
            if window.seconds >= seconds {
                break;
            }
            window.add(round);
        }
        window
    }

    /// Adds the next older round.
    pub fn add(&mut self, round: &Round) {
        if self.seconds == 0.0 {
            self.newest_bad = round.bad.iter().any(|&bad| bad > 0.0);
            self.in_flight = round.in_flight;
        }
        let seconds = self.seconds + round.seconds;
        if round.seconds > 0.0 {
            let mean = |sum: f64, next: f64| (sum * self.seconds + next * round.seconds) / seconds;
            self.offered_per_second = mean(self.offered_per_second, round.offered_per_second);
            self.completed_per_second = mean(self.completed_per_second, round.completed_per_second);
        }
        self.seconds = seconds;
        self.delta.add(&round.delta);
        self.bad.iter_mut().zip(round.bad).for_each(|(sum, bad)| *sum += bad);
        self.busiest_per_second = self.busiest_per_second.max(round.busiest_per_second);
        self.complete &= round.measured > 0 && round.scraped == round.ready;
    }

    /// The share over each target that is set, with its budget and the target's name.
    pub fn shares(&self, targets: Targets) -> impl Iterator<Item = (&'static str, Share, f64)> {
        let total = self.delta.total;
        let bad =
            self.bad.into_iter().zip(targets.latencies()).filter_map(|(bad, target)| target.map(|_| bad));
        targets.each().zip(bad).map(move |((name, _, budget), bad)| (name, Share::wilson(bad, total), budget))
    }

    /// What is wrong, if chance cannot explain it.
    pub fn violation(&self, targets: Targets, ready: f64) -> Option<String> {
        if self.delta.shed >= 1.0 {
            return Some(format!("{:.0} requests were refused in {:.0} s", self.delta.shed, self.seconds));
        }
        if self.delta.total >= REQUESTS_MIN {
            let over = self.shares(targets).find(|(_, share, budget)| {
                share.lower > *budget && share.value * self.delta.total >= BAD_REQUESTS_MIN
            });
            if let Some((name, share, budget)) = over {
                return Some(format!(
                    "{:.1} % of {:.0} requests in {:.0} s were slower than the {name} target, which allows {} %",
                    share.value * 100.0,
                    self.delta.total,
                    self.seconds,
                    budget * 100.0
                ));
            }
        }
        // Little's law: requests in flight over completed per second is how long each stays. It shows a pile-up before
        // the first of its requests ends and enters the histogram.
        let longest = targets.each().map(|(_, target, _)| target.as_secs_f64()).fold(0.0, f64::max);
        let stay_seconds = self.in_flight / self.completed_per_second.max(0.1);
        (self.seconds > 0.0 && self.in_flight > IN_FLIGHT_NORMAL * ready.max(1.0) && stay_seconds > longest)
            .then(|| {
                format!(
                    "{:.0} requests are in flight and stay {stay_seconds:.1} s on average",
                    self.in_flight
                )
            })
    }

    /// Whether the share over every target lies below `part` of its budget, and chance cannot explain it.
    pub fn within(&self, targets: Targets, part: f64) -> bool {
        self.shares(targets).all(|(_, share, budget)| share.upper <= part * budget)
    }
}

/// Highest offered load of the last `seconds`, smoothed over two rounds.
pub(crate) fn peak_per_second<'a>(
    rounds: impl Iterator<Item = &'a Round>,
    now: Timestamp,
    seconds: f64,
) -> f64 {
    let loads = rounds
        .take_while(|round| seconds_between(round.at, now) <= seconds)
        .map(|round| round.offered_per_second)
        .collect::<Vec<_>>();
    match loads.as_slice() {
        [only] => *only,
        loads => loads.windows(2).map(|pair| f64::midpoint(pair[0], pair[1])).fold(0.0, f64::max),
    }
}
