//! When to refuse work: once a queue has stood for a while, what waited too long in it. Holds no queue.
//!
//! The rule is that of `CoDel` (RFC 8289), for requests in place of packets. A long wait alone is no overload: a burst, or the pause
//! of a CPU quota that is used up, passes by itself. A queue in which for a whole interval *nobody* waited less than the
//! target does not: more comes in than goes out. From then on what waited longer than the target is refused, which costs
//! little, so that what is served is young enough to be of use. Served and late would be work for nobody.
//!
//! Guarantees: what waited no longer than the target is never refused, and nothing is unless waits were over the target
//! throughout the interval before it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The shortest interval: two periods of a CPU quota (100 ms each). One pause of the quota, up to a period long, must not
/// look like a queue that stands.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// The target where no latency is promised: half of 100 ms, a tenth of a second being what a person takes for at once.
const TARGET_DEFAULT: Duration = Duration::from_millis(50);

/// The least target: below, the rounding of timers and one long poll of another task would count as a queue.
const TARGET_MIN: Duration = Duration::from_millis(5);

/// Why a request was refused; a label of the counter of refused requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedReason {
    /// It had waited too long for the event loop.
    QueueAge,
    /// It had waited too long for a CPU worker.
    CpuQueueAge,
    /// As many jobs as may wait for a CPU worker were waiting.
    CpuQueueFull,
    /// It had waited too long for a connection to the database.
    DatabaseQueueAge,
    /// As many calls as may wait for a connection to the database were waiting.
    DatabaseQueueFull,
    /// Another bound was reached, such as the wait for a lock in the database.
    Limit,
}

impl ShedReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 6] = [
        Self::QueueAge,
        Self::CpuQueueAge,
        Self::CpuQueueFull,
        Self::DatabaseQueueAge,
        Self::DatabaseQueueFull,
        Self::Limit,
    ];

    /// The reason as a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueAge => "queue_age",
            Self::CpuQueueAge => "cpu_queue_age",
            Self::CpuQueueFull => "cpu_queue_full",
            Self::DatabaseQueueAge => "database_queue_age",
            Self::DatabaseQueueFull => "database_queue_full",
            Self::Limit => "limit",
        }
    }
}

/// How long work may wait in a queue that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// What waited no longer is never refused.
    pub target: Duration,
    /// How long waits must have been over the target before anything is refused.
    pub interval: Duration,
}

impl Patience {
    /// Refuses after `target`, or never.
    pub fn new(target: Duration) -> Self {
        Self { target, interval: target.max(INTERVAL_MIN) }
    }

    /// Never refuses.
    pub const fn endless() -> Self {
        Self { target: Duration::MAX, interval: Duration::MAX }
    }

    /// For these promised latencies: half of the shortest, since a request that waited for longer leaves less than that to
    /// serve it in.
    pub fn for_promises(promises: &[Duration]) -> Self {
        Self::new(promises.iter().min().map_or(TARGET_DEFAULT, |promise| (*promise / 2).max(TARGET_MIN)))
    }
}

/// Watches one queue, by how long each thing that leaves it had waited.
#[derive(Debug)]
pub struct Controller {
    patience: Patience,
    /// Since when every wait was over the target, and the last of these.
    over: Option<(Instant, Instant)>,
    /// Waits over the target are refused until then; each of them moves it.
    shedding_until: Option<Instant>,
}

impl Controller {
    /// Watches a queue that has been empty so far.
    pub const fn new(patience: Patience) -> Self {
        Self { patience, over: None, shedding_until: None }
    }

    /// Whether to serve what leaves the queue at `now`, having waited for `age`. `now` never goes back by more than threads
    /// that call at once differ.
    pub fn admit(&mut self, now: Instant, age: Duration) -> bool {
        if age <= self.patience.target {
            // Somebody was served in time: the queue does not stand. Refusing goes on for an interval, though: it is
            // what made this wait short.
            self.over = None;
            return true;
        }
        if self.shedding(now) {
            self.shedding_until = now.checked_add(self.patience.interval);
            return false;
        }
        let since = match self.over {
            Some((since, last)) if now.saturating_duration_since(last) < self.patience.interval => since,
            // Long silence: what waited before it says nothing of what waits now.
            _ => now,
        };
        self.over = Some((since, now));
        if now.saturating_duration_since(since) < self.patience.interval {
            return true;
        }
        self.over = None;
        self.shedding_until = now.checked_add(self.patience.interval);
        false
    }

    /// Serves the last one in the queue, whatever its age: a queue that empties does not stand (RFC 8289, section 4.2), and
    /// refusing its last would leave idle what it waited for.
    pub fn admit_last(&mut self) -> bool {
        self.over = None;
        true
    }

    /// Whether waits over the target are being refused.
    pub fn shedding(&self, now: Instant) -> bool {
        self.shedding_until.is_some_and(|until| now < until)
    }
}

/// A [`Controller`] that threads share.
#[derive(Debug)]
pub struct Gate(Mutex<Controller>);

impl Gate {
    /// Watches a queue that has been empty so far.
    pub const fn new(patience: Patience) -> Self {
        Self(Mutex::new(Controller::new(patience)))
    }

    /// As [`Controller::admit`].
    pub fn admit(&self, now: Instant, age: Duration) -> bool {
        self.controller().admit(now, age)
    }

    /// As [`Controller::admit_last`].
    pub fn admit_last(&self) -> bool {
        self.controller().admit_last()
    }

    /// As [`Controller::shedding`].
    pub fn shedding(&self, now: Instant) -> bool {
        self.controller().shedding(now)
    }

    fn controller(&self) -> MutexGuard<'_, Controller> {
        // A few assignments, none of which panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Patience =
        Patience { target: Duration::from_millis(50), interval: Duration::from_millis(200) };

    /// What becomes of `(moment, age)` in milliseconds.
    fn admitted(waits: &[(u64, u64)]) -> Vec<bool> {
        let start = Instant::now();
        let mut controller = Controller::new(PATIENCE);
        let ms = Duration::from_millis;
        waits.iter().map(|(at, age)| controller.admit(start + ms(*at), ms(*age))).collect()
    }

    #[test]
    fn a_burst_is_served() {
        assert_eq!(admitted(&[(0, 60), (100, 90), (199, 190)]), [true; 3]);
    }

    #[test]
    fn a_queue_that_stands_is_cut_to_what_is_young() {
        let waits = [(0, 60), (100, 60), (200, 60), (210, 60), (220, 40), (230, 60), (420, 60)];
        assert_eq!(admitted(&waits), [true, true, false, false, true, false, false]);
    }

    #[test]
    fn one_short_wait_shows_that_the_queue_does_not_stand() {
        assert_eq!(admitted(&[(0, 60), (150, 60), (160, 50), (210, 60), (350, 60), (400, 60)]), [true; 6]);
    }

    #[test]
    fn the_last_in_the_queue_is_served_and_shows_that_it_does_not_stand() {
        let start = Instant::now();
        let mut controller = Controller::new(PATIENCE);
        let old = |controller: &mut Controller, at| {
            controller.admit(start + Duration::from_millis(at), Duration::from_millis(60))
        };
        assert!(old(&mut controller, 0) && old(&mut controller, 190));
        assert!(controller.admit_last());
        assert!(old(&mut controller, 210) && old(&mut controller, 400));
        assert!(!old(&mut controller, 410), "the interval began anew");
        assert!(controller.admit_last(), "also while others are refused");
    }

    #[test]
    fn an_interval_without_a_long_wait_ends_it() {
        assert_eq!(admitted(&[(0, 60), (199, 60), (200, 60), (400, 60)]), [true, true, false, true]);
    }

    #[test]
    fn silence_is_not_a_queue() {
        assert_eq!(admitted(&[(0, 60), (1000, 60), (2000, 60)]), [true; 3]);
    }

    #[test]
    fn endless_patience_serves_all() {
        let start = Instant::now();
        let mut controller = Controller::new(Patience::endless());
        assert!((0..100).all(|second| {
            controller.admit(start + Duration::from_secs(second), Duration::from_hours(1))
        }));
    }

    #[test]
    fn patience_is_half_of_the_shortest_promise() {
        let ms = Duration::from_millis;
        assert_eq!(Patience::for_promises(&[ms(250), ms(100)]).target, ms(50));
        assert_eq!(Patience::for_promises(&[ms(2)]).target, TARGET_MIN);
        assert_eq!(Patience::for_promises(&[]).target, TARGET_DEFAULT);
        assert_eq!(Patience::for_promises(&[Duration::from_secs(2)]).interval, Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn the_young_are_always_served_and_nobody_is_refused_without_an_interval_of_long_waits(
            steps in proptest::collection::vec((0_u64..120, 0_u64..120), 1..200),
        ) {
            let mut at = 0;
            let waits: Vec<(u64, u64)> = steps
                .into_iter()
                .map(|(gap, age)| {
                    at += gap;
                    (at, age)
                })
                .collect();
            let admitted = admitted(&waits);
            let target = PATIENCE.target.as_millis() as u64;
            for ((_, age), admitted) in waits.iter().zip(&admitted) {
                prop_assert!(*admitted || *age > target);
            }
            // The first refusal has an interval behind it in which every wait was over the target.
            if let Some(first) = admitted.iter().position(|admitted| !admitted) {
                let interval = PATIENCE.interval.as_millis() as u64;
                let begin = waits[first].0 - interval;
                prop_assert!(waits[..first].iter().all(|(at, age)| *at <= begin || *age > target));
                prop_assert!(waits[..first].iter().any(|(at, age)| *at <= begin && *age > target));
            }
        }

        #[test]
        fn whoever_waits_long_in_a_standing_queue_is_refused(
            gaps in proptest::collection::vec(1_u64..150, 3..100), age in 51_u64..1000,
        ) {
            let mut at = 0;
            let waits: Vec<(u64, u64)> = gaps
                .into_iter()
                .map(|gap| {
                    at += gap;
                    (at, age)
                })
                .collect();
            let begin = waits[0].0;
            for ((at, _), admitted) in waits.iter().zip(admitted(&waits)) {
                prop_assert_eq!(admitted, at - begin < 200);
            }
        }
    }
}
