//! What load to expect until new pods would be ready.
//!
//! Several simple predictors run side by side. Each is judged by how it did: its errors are kept, and the one with the
//! smallest pinball loss is believed, with its own errors as the doubt about it. One that the load has just left behind is
//! not believed, however well it did until then. An error is feared again in proportion or as it was, whichever is less: a
//! load that once grew sevenfold, to a hundred, is not expected to grow to seven hundred. And a jump is feared the less the
//! shorter the load is known: that one came in the first five minutes does not mean that one comes every five.

use std::collections::VecDeque;

use super::season::Season;

/// Rounds of load kept.
const HISTORY: usize = 64;
/// Errors kept of each predictor.
const ERRORS_MAX: usize = 360;
/// Half-life of an error, in seconds.
const ERROR_HALF_LIFE_SECONDS: f64 = 900.0;
/// The loss is judged at this quantile: too little costs more than too much.
const LOSS_QUANTILE: f64 = 0.9;
/// How fast a loss follows, by judgement: it looks back over about a hundred.
const LOSS_RATE: f64 = 0.01;
/// The season is believed only once it was judged this often.
const SEASON_JUDGED_MIN: usize = 36;
/// Ratios that are assumed before any was seen, as if they had come a few times.
const PRIOR: [f64; 5] = [0.97, 1.0, 1.03, 1.08, 1.2];
const PRIOR_WEIGHT: f64 = 0.7;
/// Points that stand for the distribution of the load to come.
const POINTS: usize = 20;
/// A shorter peak does not make a minute miss the promise.
const WINDOW_SECONDS: f64 = 30.0;
/// The share of late requests grows about with this power of load.
const STEEPNESS: f64 = 6.0;
/// A load that is this many deviations above what a trend follows is no noise,
const LEFT_BEHIND: f64 = 4.0;
/// and the season did not know of it if it is this trend that is left behind;
const JUMP_TREND: usize = 2;
/// a deviation is at least this part of the load,
const NOISE_MIN: f64 = 0.03;
/// and is known from about this long.
const NOISE_SECONDS: f64 = 300.0;
/// What came over what was said from which an error is a jump of the load.
const JUMP_RATIO: f64 = 1.3;
/// Before anything was seen, a load is taken to have been without a jump for so long. By measurement over the simulated
/// cases: longer saves replicas for up to an hour, and then adds violations.
const QUIET_SECONDS: f64 = 2400.0;
/// Time constants of the level and of the trend, in seconds; a trend of 0 is none.
const TRENDS: [(f64, f64); 6] =
    [(6.0, 0.0), (20.0, 0.0), (60.0, 0.0), (180.0, 0.0), (6.0, 40.0), (15.0, 180.0)];

/// Expects load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Seconds since the first round, and load; newest last.
    history: VecDeque<(f64, f64)>,
    trends: [Trend; TRENDS.len()],
    season: Season,
    /// How each trend did, and at last the season.
    records: [TrackRecord; TRENDS.len() + 1],
    now_seconds: f64,
}

/// The load to come: likely values with their weights, which add up to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outlook {
    /// `(requests per second, weight)`, lowest first.
    pub points: Vec<(f64, f64)>,
    /// Load expected without doubt.
    pub expected_per_second: f64,
}

impl Outlook {
    /// No load above `per_second`.
    #[must_use]
    pub fn at_most(&self, per_second: f64) -> Self {
        Self {
            points: self.points.iter().map(|&(load, weight)| (load.min(per_second), weight)).collect(),
            expected_per_second: self.expected_per_second.min(per_second),
        }
    }
}

impl Forecast {
    /// Takes a round of `seconds` in which `per_second` was offered, and looks `horizon_seconds` ahead.
    pub fn next(&mut self, seconds: f64, per_second: f64, horizon_seconds: f64) -> Outlook {
        self.now_seconds += seconds;
        self.history.push_back((self.now_seconds, per_second));
        while self.history.len() > HISTORY {
            self.history.pop_front();
        }
        for (trend, constants) in self.trends.iter_mut().zip(TRENDS) {
            trend.follow(seconds, per_second, constants);
        }
        self.season.follow(per_second);
        let rounds = |span: f64| (span / seconds.max(0.1)).ceil().max(1.0) as usize;
        let seasonal = self.season.highest(rounds(horizon_seconds), rounds(WINDOW_SECONDS), as_steady);
        let says = self.trends.iter().map(|trend| Some(trend.says(horizon_seconds))).chain([seasonal]);
        let jumped = self.trends[JUMP_TREND].left_behind;
        let mut best: Option<(f64, f64, &TrackRecord)> = None;
        for (index, (record, says)) in self.records.iter_mut().zip(says).enumerate() {
            record.judge(&self.history, self.now_seconds);
            let Some(says) = says else { continue };
            record.say(self.now_seconds + horizon_seconds, says);
            let believable = match self.trends.get(index) {
                // The first one follows at once.
                Some(trend) => index == 0 || !trend.left_behind,
                None => record.errors.len() >= SEASON_JUDGED_MIN && !(jumped && per_second > says),
            };
            if believable && best.is_none_or(|best| record.loss < best.0) {
                best = Some((record.loss, says, record));
            }
        }
        best.map_or_else(Outlook::default, |(_, says, record)| {
            record.outlook(says, self.now_seconds, QUIET_SECONDS / seconds.max(0.1))
        })
    }
}

/// A smoothed level that goes on as it went, by Holt (1957), with the times in seconds in place of rounds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Trend {
    level: f64,
    per_second: f64,
    started: bool,
    /// Mean square of how far a round was from what was expected of it, as a part of that.
    variance: f64,
    /// Whether the newest round was further above than noise is.
    left_behind: bool,
}

impl Trend {
    fn follow(&mut self, seconds: f64, load: f64, (level_seconds, trend_seconds): (f64, f64)) {
        if !self.started {
            (self.started, self.level) = (true, load);
            return;
        }
        let alpha = 1.0 - (-seconds / level_seconds).exp();
        let ahead = self.level + self.per_second * seconds;
        let off = (load - ahead) / ahead.max(1.0);
        let spread = self.variance.sqrt().max(NOISE_MIN);
        self.left_behind = off > LEFT_BEHIND * spread;
        // A jump is no noise.
        let within = off.clamp(-LEFT_BEHIND * spread, LEFT_BEHIND * spread);
        self.variance += (1.0 - (-seconds / NOISE_SECONDS).exp()) * (within * within - self.variance);
        let level = ahead + alpha * (load - ahead);
        if trend_seconds > 0.0 {
            let beta = 1.0 - (-seconds / trend_seconds).exp();
            let slope = (level - self.level) / seconds;
            self.per_second += beta * (slope - self.per_second);
        }
        self.level = level;
    }

    /// The highest load until then. A fall is not counted on.
    fn says(&self, horizon_seconds: f64) -> f64 {
        (self.level + self.per_second.max(0.0) * horizon_seconds).max(0.0)
    }
}

/// What a predictor said, and what came.
#[derive(Clone, Debug, Default, PartialEq)]
struct TrackRecord {
    /// What was said, and about when: `(until, load)`.
    said: VecDeque<(f64, f64)>,
    errors: VecDeque<Error>,
    /// The pinball loss of recent judgements.
    loss: f64,
}

/// What came of something that was said.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Error {
    /// When it became known, in seconds.
    at: f64,
    /// What came over what was said.
    ratio: f64,
    /// What came beyond what was said, in requests per second.
    beyond: f64,
}

impl Error {
    /// The load that comes if the same happens to what is said now.
    fn again(self, says: f64) -> f64 {
        let in_proportion = says * self.ratio;
        if self.beyond > 0.0 { in_proportion.min(says + self.beyond) } else { in_proportion }
    }
}

impl TrackRecord {
    fn say(&mut self, until: f64, load: f64) {
        self.said.push_back((until, load));
        if self.said.len() > HISTORY {
            self.said.pop_front();
        }
    }

    /// Compares what was said with what has come since.
    fn judge(&mut self, history: &VecDeque<(f64, f64)>, now: f64) {
        while let Some((until, said)) = self.said.pop_front_if(|said| said.0 <= now) {
            let loads = history
                .iter()
                .filter(|(at, _)| *at > until - WINDOW_SECONDS + 1e-9 && *at <= until + 1e-9)
                .map(|round| round.1)
                .collect::<Vec<_>>();
            let came = as_steady(&loads);
            if said > 0.0 && came > 0.0 {
                let ratio = came / said;
                self.errors.push_back(Error { at: now, ratio, beyond: came - said });
                let error = ratio - 1.0;
                let loss = if error > 0.0 { LOSS_QUANTILE * error } else { (LOSS_QUANTILE - 1.0) * error };
                self.loss += LOSS_RATE * (loss - self.loss);
            }
        }
        while self.errors.len() > ERRORS_MAX {
            self.errors.pop_front();
        }
    }

    /// The load that comes when what is said now is as far off as it was before; a jump was then missing for so many
    /// rounds before the first.
    fn outlook(&self, says: f64, now: f64, quiet_rounds: f64) -> Outlook {
        let weight = |error: &Error| 0.5_f64.powf((now - error.at) / ERROR_HALF_LIFE_SECONDS);
        let seen = self.errors.iter().map(weight).sum::<f64>();
        let jumps = seen / (seen + quiet_rounds);
        let mut points = self
            .errors
            .iter()
            .map(|error| {
                let part = if error.ratio > JUMP_RATIO { jumps } else { 1.0 };
                (error.again(says), part * weight(error))
            })
            .chain(PRIOR.map(|ratio| (ratio * says, PRIOR_WEIGHT)))
            .collect::<Vec<_>>();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Outlook { points: thin(&points), expected_per_second: says }
    }
}

/// The steady load that would make as many requests late as these rounds of load.
fn as_steady(loads: &[f64]) -> f64 {
    if loads.is_empty() {
        return 0.0;
    }
    let sum = loads.iter().map(|load| load.powf(STEEPNESS)).sum::<f64>();
    (sum / loads.len() as f64).powf(1.0 / STEEPNESS)
}

/// Fewer points of the same distribution: coarse in the middle, each one kept at the upper end, which decides.
fn thin(sorted: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let total = sorted.iter().map(|point| point.1).sum::<f64>();
    let kept = sorted.len().min(POINTS / 2);
    let (body, end) = sorted.split_at(sorted.len() - kept);
    let mut points = Vec::with_capacity(POINTS);
    let size = body.len().div_ceil(POINTS / 2).max(1);
    for chunk in body.chunks(size) {
        let weight = chunk.iter().map(|point| point.1).sum::<f64>();
        let mean = chunk.iter().map(|point| point.0 * point.1).sum::<f64>() / weight;
        points.push((mean, weight / total));
    }
    points.extend(end.iter().map(|&(load, weight)| (load, weight / total)));
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outlook after rounds of five seconds of this load.
    fn after(rounds: usize, load: impl Fn(f64) -> f64) -> Outlook {
        let mut forecast = Forecast::default();
        let mut outlook = Outlook::default();
        for round in 0..rounds {
            outlook = forecast.next(5.0, load(5.0 * round as f64), 15.0);
        }
        outlook
    }

    fn at_least(outlook: &Outlook, chance: f64) -> f64 {
        let mut below = 0.0;
        outlook
            .points
            .iter()
            .find(|point| {
                below += point.1;
                below >= chance - 1e-9
            })
            .map_or(f64::NAN, |point| point.0)
    }

    #[test]
    fn a_steady_load_is_expected_to_stay() {
        let outlook = after(200, |_| 100.0);
        assert!((outlook.expected_per_second - 100.0).abs() < 1.0, "{outlook:?}");
        assert!(at_least(&outlook, 0.95) < 104.0, "{outlook:?}");
        let weights = outlook.points.iter().map(|point| point.1).sum::<f64>();
        assert!((weights - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_ramp_is_followed_ahead() {
        // The middle of the half minute that ends at the horizon.
        let outlook = after(100, |at| 100.0 + 2.0 * at);
        let then = 100.0 + 2.0 * (495.0 + 15.0 - 0.5 * WINDOW_SECONDS);
        assert!((at_least(&outlook, 0.5) / then - 1.0).abs() < 0.03, "{outlook:?}, then {then}");
    }

    #[test]
    fn a_fall_is_not_counted_on() {
        let outlook = after(100, |at| 1000.0 - at);
        assert!(at_least(&outlook, 0.01) > 0.9 * 505.0, "{outlook:?}");
    }

    #[test]
    fn bursts_that_keep_coming_are_feared() {
        // In one of fifteen spans of twenty seconds, and in none that a period would find.
        let chance = |at: f64| ((at / 20.0).floor() * 12.9898).sin() * 43758.5453;
        let burst = |at: f64| if chance(at).rem_euclid(1.0) < 1.0 / 15.0 { 200.0 } else { 100.0 };
        let outlook = after(720, burst);
        assert!(at_least(&outlook, 0.993) > 150.0, "{outlook:?}");
    }

    #[test]
    fn a_step_is_seen_at_once_however_long_the_load_was_even() {
        for even_rounds in [12, 100, 700] {
            let noise = |at: f64| 15.0 + 2.0 * (at * 12.9898).sin();
            let rises = 5.0 * f64::from(even_rounds);
            let outlook = after(even_rounds as usize + 2, |at| if at < rises { noise(at) } else { 100.0 });
            assert!(outlook.expected_per_second > 50.0, "{even_rounds}: {outlook:?}");
        }
    }

    #[test]
    fn a_step_is_not_expected_to_happen_again_on_top_of_itself() {
        let step = |at: f64| if at < 150.0 { 15.0 } else { 100.0 };
        let outlook = after(60, step);
        assert!(at_least(&outlook, 0.99) < 100.0 + 1.2 * 85.0, "{outlook:?}");
        assert!(
            at_least(&outlook, 0.95) < 120.0,
            "one jump in five minutes is not one every five: {outlook:?}"
        );
    }

    #[test]
    fn what_repeats_is_known_before_it_comes() {
        let wave = |at: f64| if at % 600.0 < 300.0 { 200.0 } else { 500.0 };
        // Ten seconds before the fifth rise.
        let outlook = after(4 * 120 + 58, wave);
        assert!(at_least(&outlook, 0.5) > 350.0, "{outlook:?}");
    }

    #[test]
    fn no_load_gives_no_fear() {
        let outlook = after(10, |_| 0.0);
        assert!(outlook.points.iter().all(|point| point.0 == 0.0), "{outlook:?}");
    }
}
