//! Refuses what waited too long in a queue that stands, by the rule of the bundled API (`overload` there): that of `CoDel` (RFC 8289),
//! for requests in place of packets.

use crate::clock::{Nanos, nanos_of};
use crate::service::Patience;

/// Watches the queue of one pod, by how long each request had waited when its turn came.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    target: Nanos,
    interval: Nanos,
    /// Since when every wait was over the target, and the last of these.
    over: Option<(Nanos, Nanos)>,
    /// Waits over the target are refused until then; each of them moves it.
    refusing_until: Nanos,
}

impl Gate {
    /// Watches a queue that has been empty so far.
    pub(crate) fn new(patience: Patience) -> Self {
        let (target, interval) = (nanos_of(patience.target), nanos_of(patience.interval));
        Self { target, interval, over: None, refusing_until: 0 }
    }

    /// Whether what has its turn at `now`, having waited for `age`, is served.
    pub(crate) fn admits(&mut self, now: Nanos, age: Nanos) -> bool {
        if age <= self.target {
            self.over = None;
            return true;
        }
        if now >= self.refusing_until {
            // After a long silence, what waited before it says nothing.
            let run = self.over.filter(|(_, last)| now - last < self.interval);
            let since = run.map_or(now, |(since, _)| since);
            if now - since < self.interval {
                self.over = Some((since, now));
                return true;
            }
            self.over = None;
        }
        self.refusing_until = now + self.interval;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What becomes of `(moment, age)` in milliseconds, under a target of 50 ms and an interval of 200 ms.
    fn admitted(waits: &[(u64, u64)]) -> Vec<bool> {
        let ms = Duration::from_millis;
        let patience = Patience { target: ms(50), interval: ms(200), refusal_seconds: 0.0 };
        let mut gate = Gate::new(patience);
        waits.iter().map(|&(at, age)| gate.admits(nanos_of(ms(at)), nanos_of(ms(age)))).collect()
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
