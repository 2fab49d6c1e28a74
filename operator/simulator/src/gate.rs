//! Refuses what waited too long in a queue that stands, by the rule of the bundled API (`overload` there): that of `CoDel` (RFC 8289),
//! for requests in place of packets. A test of this crate holds both to the same answers.

use std::time::Duration;

use crate::service::Patience;

/// Watches the queue of one pod, by how long each request had waited when its turn came.
#[derive(Clone, Debug)]
pub struct Gate {
    patience: Patience,
    /// Since when every wait was over the target, and the last of these.
    over: Option<(Duration, Duration)>,
    /// Waits over the target are refused until then; each of them moves it.
    refusing_until: Duration,
}

impl Gate {
    /// Watches a queue that has been empty so far.
    pub fn new(patience: Patience) -> Self {
        Self { patience, over: None, refusing_until: Duration::ZERO }
    }

    /// Whether what has its turn at `now`, since the run began, is served, having waited for `age`. `now` never goes back.
    pub fn admits(&mut self, now: Duration, age: Duration) -> bool {
        let interval = self.patience.interval;
        if age <= self.patience.target {
            self.over = None;
            return true;
        }
        if now >= self.refusing_until {
            // After a long silence, what waited before it says nothing.
            let run = self.over.filter(|(_, last)| now.saturating_sub(*last) < interval);
            let since = run.map_or(now, |(since, _)| since);
            if now.saturating_sub(since) < interval {
                self.over = Some((since, now));
                return true;
            }
            self.over = None;
        }
        self.refusing_until = now.saturating_add(interval);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `(moment, age)` in milliseconds, under a target of 50 ms and an interval of 200 ms.
    fn admitted(waits: &[(u64, u64)]) -> Vec<bool> {
        let ms = Duration::from_millis;
        let patience = Patience { target: ms(50), interval: ms(200), refusal_seconds: 0.0 };
        let mut gate = Gate::new(patience);
        waits.iter().map(|&(at, age)| gate.admits(ms(at), ms(age))).collect()
    }

    #[test]
    fn a_burst_is_served() {
        assert_eq!(admitted(&[(0, 60), (100, 90), (199, 190)]), [true; 3]);
    }

    #[test]
    fn a_queue_that_stands_for_an_interval_refuses_what_waited_over_the_target() {
        let waits = [(0, 60), (150, 90), (200, 51), (210, 50), (220, 51)];
        assert_eq!(admitted(&waits), [true, true, false, true, false]);
    }

    #[test]
    fn one_short_wait_in_between_says_that_it_does_not_stand() {
        assert_eq!(admitted(&[(0, 60), (150, 40), (200, 60), (399, 60)]), [true; 4]);
    }

    #[test]
    fn waits_with_a_long_silence_between_them_are_no_queue() {
        assert_eq!(admitted(&[(0, 60), (200, 60), (400, 60)]), [true; 3]);
    }

    #[test]
    fn refusing_ends_when_none_was_refused_for_an_interval() {
        let standing = [(0, 60), (150, 60), (200, 60)];
        let [.., soon] = admitted(&[standing.as_slice(), &[(399, 60)]].concat())[..] else { panic!() };
        let [.., later] = admitted(&[standing.as_slice(), &[(400, 60)]].concat())[..] else { panic!() };
        assert_eq!((soon, later), (false, true));
    }
}
