//! What all pods together can complete, however many there are, because of something that they share.
//!
//! Pods that are kept busy complete what they can: with a quarter more pods it is a quarter more, unless a database, a cache
//! or a lock behind them is the limit. Load beyond that ceiling is no reason for more pods.

/// Pods must be more by this factor for their throughput to be compared.
const MORE_PODS: f64 = 1.2;
/// They complete no more than this many times what the fewer ones did.
const SAME_THROUGHPUT: f64 = 1.08;
/// Rounds in a row that must say so.
const ROUNDS_MIN: u32 = 2;
/// What was seen is forgotten after this long.
const AGE_SECONDS_MAX: f64 = 900.0;
/// Throughput this far above the ceiling disproves it.
const DISPROVED: f64 = 1.05;
/// From this part of the ceiling on, late requests may be due to what the pods share,
const NEAR: f64 = 0.85;
/// and from this one on they are.
const AT: f64 = 0.97;

/// The ceiling, and what speaks for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ceiling {
    /// The fewest pods that were seen kept busy lately.
    fewest: Option<Busy>,
    same: u32,
    known: Option<Busy>,
    /// How far the last two rounds were at the ceiling, 0 to 1.
    at: [f64; 2],
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Busy {
    at_seconds: f64,
    pods: f64,
    per_second: f64,
}

impl Ceiling {
    /// Looks at a round: `per_second` is what `pods` completed together, `busy` whether they were kept busy. True when a
    /// ceiling has just been found.
    pub fn follow(&mut self, now_seconds: f64, pods: usize, per_second: f64, busy: bool) -> bool {
        let recent = |seen: &Busy| now_seconds - seen.at_seconds < AGE_SECONDS_MAX;
        self.fewest = self.fewest.filter(recent);
        self.known = self.known.filter(|known| recent(known) && per_second < DISPROVED * known.per_second);
        let part = |known: Busy| ((per_second / known.per_second - NEAR) / (AT - NEAR)).clamp(0.0, 1.0);
        self.at = [self.at[1], self.known.map_or(0.0, part)];
        if !busy {
            return false;
        }
        let seen = Busy { at_seconds: now_seconds, pods: pods as f64, per_second };
        if let Some(known) = &mut self.known {
            known.at_seconds = now_seconds;
            return false;
        }
        let Some(fewest) = self.fewest.filter(|fewest| fewest.pods <= seen.pods) else {
            (self.fewest, self.same) = (Some(seen), 0);
            return false;
        };
        let same = seen.pods >= MORE_PODS * fewest.pods && per_second <= SAME_THROUGHPUT * fewest.per_second;
        self.same = if same { self.same + 1 } else { 0 };
        if self.same < ROUNDS_MIN {
            return false;
        }
        let per_second = per_second.max(fewest.per_second);
        (self.known, self.fewest, self.same) = (Some(Busy { per_second, ..seen }), None, 0);
        true
    }

    /// The ceiling, in requests per second, if one is known.
    pub fn per_second(&self) -> Option<f64> {
        self.known.map(|known| known.per_second)
    }

    /// How far late requests of the last round are due to what the pods share, and not to the pods: 0 to 1. Those that ended
    /// in it may have waited since the one before.
    pub fn blame(&self) -> f64 {
        if self.known.is_some() { self.at[0].max(self.at[1]) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ceiling after these rounds of busy pods and what they completed.
    fn after(rounds: &[(usize, f64)]) -> Option<f64> {
        let mut ceiling = Ceiling::default();
        for (index, &(pods, per_second)) in rounds.iter().enumerate() {
            ceiling.follow(5.0 * index as f64, pods, per_second, true);
        }
        ceiling.per_second()
    }

    #[test]
    fn more_pods_that_complete_no_more_have_a_ceiling() {
        assert_eq!(after(&[(20, 600.0), (20, 590.0), (25, 605.0), (27, 602.0)]), Some(602.0));
    }

    #[test]
    fn more_pods_that_complete_more_have_none() {
        assert_eq!(after(&[(20, 600.0), (25, 740.0), (30, 890.0), (40, 1150.0)]), None);
    }

    #[test]
    fn a_few_more_pods_prove_nothing() {
        assert_eq!(after(&[(20, 600.0), (21, 600.0), (22, 600.0), (23, 600.0)]), None);
    }

    #[test]
    fn idle_pods_prove_nothing() {
        let mut ceiling = Ceiling::default();
        for round in 0..20_u32 {
            ceiling.follow(5.0 * f64::from(round), 20 + round as usize, 600.0, false);
        }
        assert_eq!(ceiling.per_second(), None);
    }

    #[test]
    fn it_ends_when_more_is_completed_and_with_time() {
        let mut ceiling = Ceiling::default();
        for (round, pods) in [20, 20, 25, 26].into_iter().enumerate() {
            ceiling.follow(5.0 * round as f64, pods, 600.0, true);
        }
        let mut blame = |per_second| {
            ceiling.follow(20.0, 26, per_second, false);
            ceiling.blame()
        };
        assert!(blame(540.0) > 0.0 && blame(540.0) < 1.0);
        let blamed = [599.0, 400.0, 400.0].map(|per_second| blame(per_second) > 0.99);
        assert_eq!(blamed, [true, true, false], "a queue empties in the round after");
        let mut later = ceiling.clone();
        later.follow(100.0, 26, 700.0, false);
        assert_eq!(later.per_second(), None);
        ceiling.follow(100.0 + AGE_SECONDS_MAX, 26, 500.0, false);
        assert_eq!(ceiling.per_second(), None);
    }
}
