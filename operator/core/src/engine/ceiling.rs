//! What all pods together can complete, however many there are, because of something that they share.
//!
//! Pods that are kept busy complete what they can: with a quarter more pods it is a quarter more, unless a database, a cache
//! or a lock behind them is the limit. Load beyond that ceiling is no reason for more pods.
//!
//! A ceiling falls when what is shared becomes slower: while it is out of reach, the search goes on. Pods that go take requests
//! along which what is shared still serves; what the others complete meanwhile tells nothing.

/// Pods must be more by this factor for their throughput to be compared.
const MORE_PODS: f64 = 1.2;
/// They complete no more than this many times what the fewer ones did.
const SAME_THROUGHPUT: f64 = 1.08;
/// Rounds in a row that must say so.
const ROUNDS_MIN: u32 = 2;
/// What was seen is forgotten after this long, which is until then no harm: more that is completed disproves it at once.
const AGE_SECONDS_MAX: f64 = 3600.0;
/// Throughput this far above the ceiling disproves it.
const DISPROVED: f64 = 1.05;
/// Pods that go still use what is shared for this long, and what they complete is not seen.
const GOING_SECONDS: f64 = 60.0;
/// No pods are added to those that were enough for so long at most: they may themselves have become the limit, at the same throughput.
const HELD_SECONDS_MAX: f64 = 60.0;
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
    /// For how long, in seconds, all rounds have been at it.
    at_for_seconds: f64,
    now_seconds: f64,
    /// Whether pods were kept busy in the last round, and how many there were.
    busy: bool,
    ready: usize,
    /// When busy pods last became fewer.
    fewer_at_seconds: Option<f64>,
}

/// What pods did in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// All pods that are ready.
    pub ready: usize,
    /// Those of them that the load has reached.
    pub reached: usize,
    /// Those that are past their first seconds, too: new ones are no reason to expect more.
    pub warm: usize,
    /// What they completed together, in requests per second.
    pub per_second: f64,
    /// Whether they were kept busy.
    pub busy: bool,
    /// Whether pods of one template take the place of those of another.
    pub replacing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Busy {
    at_seconds: f64,
    /// Of the ceiling: the fewest that were seen to complete it; infinite when that is not known.
    pods: f64,
    per_second: f64,
}

impl Ceiling {
    /// Takes over the ceiling that was known before a restart.
    pub fn restore(&mut self, per_second: f64) {
        self.known = Some(Busy { at_seconds: 0.0, pods: f64::INFINITY, per_second });
    }

    /// Looks at a round. True when a ceiling has just been found.
    pub fn follow(&mut self, now_seconds: f64, seen: Seen) -> bool {
        let Seen { per_second, busy, replacing, .. } = seen;
        let recent = |seen: &Busy| now_seconds - seen.at_seconds < AGE_SECONDS_MAX;
        self.fewest = self.fewest.filter(recent);
        self.known = self.known.filter(|known| recent(known) && per_second < DISPROVED * known.per_second);
        if self.busy && (replacing || seen.ready < self.ready) {
            self.fewer_at_seconds = Some(now_seconds);
        }
        if replacing {
            self.fewest = None;
        }
        let going = self.fewer_at_seconds.is_some_and(|at| now_seconds - at < GOING_SECONDS);
        let held = self.known.is_some() && going && busy;
        if let Some(known) = self.known.as_mut().filter(|known| per_second >= AT * known.per_second && !going)
        {
            known.pods = known.pods.min(seen.reached as f64);
        }
        self.at = [self.at[1], if held { 1.0 } else { self.nearness(per_second) }];
        let passed = (now_seconds - self.now_seconds).max(0.0);
        self.at_for_seconds = if self.blame() >= 1.0 { self.at_for_seconds + passed } else { 0.0 };
        self.now_seconds = now_seconds;
        (self.busy, self.ready) = (busy, seen.ready);
        busy && !going && !replacing && self.find(now_seconds, seen)
    }

    /// Compares the busy pods of a round with the fewest that were seen.
    fn find(&mut self, now_seconds: f64, seen: Seen) -> bool {
        let Seen { per_second, .. } = seen;
        if let Some(known) = self.known.as_mut().filter(|known| per_second >= NEAR * known.per_second) {
            known.at_seconds = now_seconds;
            (self.fewest, self.same) = (None, 0);
            return false;
        }
        // None is known, or it is out of reach: what is shared may have become slower.
        let now = Busy { at_seconds: now_seconds, pods: seen.reached as f64, per_second };
        let Some(fewest) = self.fewest.filter(|fewest| fewest.pods < now.pods) else {
            let same_pods = self.fewest.filter(|fewest| fewest.pods <= now.pods);
            let per_second = same_pods.map_or(per_second, |fewest| fewest.per_second.max(per_second));
            (self.fewest, self.same) = (Some(Busy { per_second, ..now }), 0);
            return false;
        };
        let more = seen.warm as f64 >= MORE_PODS * fewest.pods;
        let same = more && per_second <= SAME_THROUGHPUT * fewest.per_second;
        self.same = if same { self.same + 1 } else { 0 };
        if self.same < ROUNDS_MIN {
            return false;
        }
        let per_second = per_second.max(fewest.per_second);
        let enough = if fewest.per_second >= AT * per_second { fewest.pods } else { now.pods };
        self.known = Some(Busy { per_second, pods: enough, ..now });
        (self.fewest, self.same) = (None, 0);
        true
    }

    /// The ceiling, in requests per second, if one is known.
    pub fn per_second(&self) -> Option<f64> {
        self.known.map(|known| known.per_second)
    }

    /// The fewest pods that were seen to complete it, in the first minute in which it is what limits them.
    pub fn enough(&self) -> Option<u32> {
        let limits = self.blame() >= 1.0 && self.at_for_seconds <= HELD_SECONDS_MAX;
        self.known.filter(|known| limits && known.pods.is_finite()).map(|known| known.pods as u32)
    }

    /// How far late requests are due to what the pods share when they complete so much together: 0 to 1.
    pub fn nearness(&self, per_second: f64) -> f64 {
        let near = |known: Busy| ((per_second / known.per_second - NEAR) / (AT - NEAR)).clamp(0.0, 1.0);
        self.known.map_or(0.0, near)
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
            ceiling.follow(5.0 * index as f64, busy(pods, per_second));
        }
        ceiling.per_second()
    }

    fn busy(pods: usize, per_second: f64) -> Seen {
        Seen { ready: pods, reached: pods, warm: pods, per_second, busy: true, replacing: false }
    }

    fn idle(pods: usize, per_second: f64) -> Seen {
        Seen { busy: false, ..busy(pods, per_second) }
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
    fn the_fewest_pods_that_completed_it_are_enough_while_it_limits_them() {
        let mut ceiling = Ceiling::default();
        let mut enough = |pods, per_second| {
            ceiling.follow(0.0, busy(pods, per_second));
            ceiling.enough()
        };
        let found = [(20, 560.0), (25, 600.0), (26, 598.0), (30, 595.0)];
        let told = found.map(|(pods, per_second)| enough(pods, per_second));
        assert_eq!(told, [None, None, None, Some(26)]);
        assert_eq!(enough(24, 590.0), Some(26), "what others complete while some go tells nothing of fewer");
        ceiling.follow(90.0, idle(24, 400.0));
        ceiling.follow(95.0, idle(24, 400.0));
        ceiling.follow(100.0, idle(24, 590.0));
        ceiling.follow(105.0, idle(24, 590.0));
        assert_eq!(ceiling.enough(), Some(24));
        ceiling.follow(170.0, idle(24, 590.0));
        assert_eq!(ceiling.enough(), None, "after a minute they may have become the limit themselves");
        ceiling.follow(175.0, idle(24, 400.0));
        ceiling.follow(180.0, idle(24, 400.0));
        ceiling.follow(185.0, idle(24, 590.0));
        assert_eq!(ceiling.enough(), Some(24));
        ceiling.follow(190.0, idle(24, 400.0));
        ceiling.follow(195.0, idle(24, 400.0));
        assert_eq!(ceiling.enough(), None, "it does not limit them any more");
    }

    #[test]
    fn idle_pods_prove_nothing() {
        let mut ceiling = Ceiling::default();
        for round in 0..20_u32 {
            ceiling.follow(5.0 * f64::from(round), idle(20 + round as usize, 600.0));
        }
        assert_eq!(ceiling.per_second(), None);
    }

    #[test]
    fn the_most_that_a_number_completed_is_compared() {
        // The load came in the middle of the first round.
        assert_eq!(after(&[(20, 500.0), (20, 600.0), (25, 605.0), (26, 602.0)]), Some(602.0));
    }

    #[test]
    fn pods_in_their_first_seconds_prove_nothing() {
        let mut ceiling = Ceiling::default();
        for round in 0..10 {
            let cold = Seen { warm: 20, ..busy(if round < 2 { 20 } else { 30 }, 600.0) };
            assert!(!ceiling.follow(5.0 * f64::from(round), cold));
        }
    }

    #[test]
    fn it_falls_when_what_is_shared_becomes_slower() {
        let mut ceiling = Ceiling::default();
        let rounds = [(20, 600.0), (25, 600.0), (25, 600.0), (25, 450.0), (30, 452.0), (30, 449.0)];
        let told = rounds.map(|(pods, per_second)| {
            ceiling.follow(0.0, busy(pods, per_second));
            ceiling.per_second()
        });
        assert_eq!(told, [None, None, Some(600.0), Some(600.0), Some(600.0), Some(450.0)]);
    }

    #[test]
    fn pods_that_go_take_a_part_of_it_along() {
        let found = |replacing: bool| {
            let mut ceiling = Ceiling::default();
            for (round, pods) in [20, 25, 25].into_iter().enumerate() {
                ceiling.follow(5.0 * round as f64, busy(pods, 600.0));
            }
            for (round, pods) in [20, 25, 25, 25].into_iter().enumerate() {
                ceiling.follow(15.0 + 5.0 * round as f64, Seen { replacing, ..busy(pods, 250.0) });
            }
            (ceiling.per_second(), ceiling.blame() > 0.99)
        };
        assert_eq!((found(false), found(true)), ((Some(600.0), true), (Some(600.0), true)));
    }

    #[test]
    fn it_ends_when_more_is_completed_and_with_time() {
        let mut ceiling = Ceiling::default();
        for (round, pods) in [20, 20, 25, 26].into_iter().enumerate() {
            ceiling.follow(5.0 * round as f64, busy(pods, 600.0));
        }
        let mut blame = |per_second| {
            ceiling.follow(20.0, idle(26, per_second));
            ceiling.blame()
        };
        assert!(blame(540.0) > 0.0 && blame(540.0) < 1.0);
        let blamed = [599.0, 400.0, 400.0].map(|per_second| blame(per_second) > 0.99);
        assert_eq!(blamed, [true, true, false], "a queue empties in the round after");
        let mut later = ceiling.clone();
        later.follow(100.0, idle(26, 700.0));
        assert_eq!(later.per_second(), None);
        ceiling.follow(100.0 + AGE_SECONDS_MAX, idle(26, 500.0));
        assert_eq!(ceiling.per_second(), None);
    }
}
