//! Load that repeats itself: finds the period, and what came one period before.
//!
//! Jobs that start on the hour, caches that expire together and people who get up in the morning all repeat. No period is
//! configured: for every lag up to half of what is remembered, the error of *as one lag ago* is followed round by round.

use std::collections::VecDeque;

/// Rounds remembered: two hours at five seconds.
const ROUNDS_MAX: usize = 1440;
/// Shortest period, in rounds: below it, levels and trends do as well.
const LAG_MIN: usize = 12;
/// Longest period, in rounds.
const LAG_MAX: usize = ROUNDS_MAX / 2;
/// A lag has to be compared this often before it is believed.
const COMPARED_MIN: usize = 36;
/// Part of a period that must have been seen to repeat.
const REPEATED_MIN: f64 = 0.5;
/// How much a period before may be scaled to the level of now.
const SCALE_MIN: f64 = 0.7;
const SCALE_MAX: f64 = 1.4;

/// Recent rounds, and how well each lag explains them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Season {
    /// Loads, newest last.
    loads: VecDeque<f64>,
    /// By lag: the mean relative error, over about one period.
    errors: Vec<f64>,
}

impl Season {
    /// Takes the load of a round.
    pub fn follow(&mut self, load: f64) {
        self.loads.push_back(load);
        if self.loads.len() > ROUNDS_MAX {
            self.loads.pop_front();
        }
        let newest = self.loads.len() - 1;
        self.errors.resize((newest + 1).min(LAG_MAX + 1), 0.0);
        for (lag, error) in self.errors.iter_mut().enumerate().skip(LAG_MIN) {
            if lag > newest {
                break;
            }
            let before = self.loads[newest - lag];
            let off = (load - before).abs() / load.max(before).max(f64::MIN_POSITIVE);
            let compared = (newest - lag + 1).min(lag.max(COMPARED_MIN)) as f64;
            *error += (off - *error) / compared;
        }
    }

    /// The load that `ahead` rounds from now would bring, and each round until then, if the best lag held: `window` rounds
    /// taken together by `mean`. None before any lag can be believed.
    pub fn highest(&self, ahead: usize, window: usize, mean: impl Fn(&[f64]) -> f64) -> Option<f64> {
        let lag = self.lag()?;
        let now = self.loads.len();
        let at = |end: usize| {
            let start = end.saturating_sub(window);
            let rounds = self.loads.range(start..end).copied().collect::<Vec<_>>();
            mean(&rounds)
        };
        // The period, as often as it takes for all of the time ahead to lie behind.
        let back = lag * ahead.div_ceil(lag).max(1);
        let then = now.checked_sub(back)?;
        if then < window {
            return None;
        }
        let scale = (at(now) / at(then).max(f64::MIN_POSITIVE)).clamp(SCALE_MIN, SCALE_MAX);
        let highest = (0..=ahead).map(|round| at((then + round).min(now))).fold(0.0, f64::max);
        Some(scale * highest)
    }

    /// The lag that explains the most, in rounds.
    fn lag(&self) -> Option<usize> {
        let rounds = self.loads.len();
        let believable = |lag: usize| {
            let compared = rounds.saturating_sub(lag);
            compared >= COMPARED_MIN && compared as f64 >= REPEATED_MIN * lag as f64
        };
        self.errors
            .iter()
            .enumerate()
            .skip(LAG_MIN)
            .filter(|(lag, _)| believable(*lag))
            .min_by(|a, b| a.1.total_cmp(b.1))
            .map(|(lag, _)| lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn season(rounds: usize, load: impl Fn(usize) -> f64) -> Season {
        let mut season = Season::default();
        for round in 0..rounds {
            season.follow(load(round));
        }
        season
    }

    fn mean(loads: &[f64]) -> f64 {
        loads.iter().sum::<f64>() / loads.len() as f64
    }

    /// Ten minutes low, then ten minutes high, with noise that does not repeat.
    fn wave(round: usize) -> f64 {
        let noise = (round as f64 * 12.9898).sin() * 5.0;
        if round % 240 < 120 { 200.0 + noise } else { 500.0 + noise }
    }

    #[test]
    fn a_wave_is_seen_before_it_comes() {
        let season = season(240 * 2 + 116, wave);
        let soon = season.highest(8, 4, mean).unwrap();
        assert!(soon > 430.0, "{soon}");
        let season = self::season(240 * 2 + 60, wave);
        let soon = season.highest(8, 4, mean).unwrap();
        assert!(soon < 230.0, "{soon}");
    }

    #[test]
    fn a_fall_is_not_taken_before_it_came() {
        let season = season(240 * 2 + 236, wave);
        let soon = season.highest(8, 4, mean).unwrap();
        assert!(soon > 470.0, "{soon}");
    }

    #[test]
    fn nothing_repeats_in_the_first_minutes() {
        assert_eq!(season(40, wave).highest(8, 4, mean), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let season = season(5000, wave);
        assert_eq!((season.loads.len(), season.errors.len()), (ROUNDS_MAX, LAG_MAX + 1));
    }
}
