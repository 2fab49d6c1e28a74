//! How long a new pod takes until it is ready, learned from pods that became so. Before one was seen to, those that are there tell.

use std::collections::VecDeque;

use super::observation::{Observation, Pod, seconds_between};
use super::roster::Roster;

/// Assumed while no pod tells.
const ASSUMED_SECONDS: f64 = 10.0;
/// Starts kept.
const STARTS_MAX: usize = 32;
/// A start beyond this was something else: an image that could not be pulled, a node that was missing.
const SECONDS_MAX: f64 = 600.0;

/// Start-up times of recent pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Startup {
    seconds: VecDeque<f64>,
    /// What pods that were there already tell, until one is seen to start.
    told_seconds: Option<f64>,
}

impl Startup {
    /// Looks for pods that have become ready. The roster must have seen the round.
    pub fn follow(&mut self, observation: &Observation, roster: &Roster) {
        let started = observation.pods.iter().filter(|pod| roster.has_just_started(&pod.uid));
        self.seconds.extend(started.filter_map(until_ready));
        self.told_seconds = if self.seconds.is_empty() { told(&observation.pods) } else { None };
        while self.seconds.len() > STARTS_MAX {
            self.seconds.pop_front();
        }
    }

    /// Takes over what was learned before a restart.
    pub fn restore(&mut self, seconds: f64) {
        self.seconds = VecDeque::from([seconds.clamp(0.0, SECONDS_MAX)]);
    }

    /// The time within which 90 % of pods become ready, if one was seen to.
    pub fn known_seconds(&self) -> Option<f64> {
        (!self.seconds.is_empty()).then(|| self.p90_seconds())
    }

    /// The time within which 90 % of pods become ready.
    pub fn p90_seconds(&self) -> f64 {
        quantile(self.seconds.iter().copied().collect(), 0.9).or(self.told_seconds).unwrap_or(ASSUMED_SECONDS)
    }
}

/// Seconds from a pod's creation until it became ready; none that cannot be its start.
fn until_ready(pod: &Pod) -> Option<f64> {
    let seconds = seconds_between(pod.created_at, pod.ready_at?);
    (0.0..=SECONDS_MAX).contains(&seconds).then_some(seconds)
}

/// What pods tell that were not seen to start: half of them took no longer. One that has lost its readiness since seems to have taken
/// longer than it did.
fn told(pods: &[Pod]) -> Option<f64> {
    quantile(pods.iter().filter_map(until_ready).collect(), 0.5)
}

fn quantile(mut values: Vec<f64>, quantile: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * quantile) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied()
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;

    /// Looks at pods that became ready so many seconds after their creation; none for one that is not ready.
    fn follow(startup: &mut Startup, roster: &mut Roster, pods: &[(&str, Option<i64>)]) {
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let pod = |&(uid, ready): &(&str, Option<i64>)| Pod {
            uid: uid.into(),
            template: String::new(),
            created_at: at(0),
            ready_at: ready.map(at),
            sample: None,
        };
        let observation = Observation { pods: pods.iter().map(pod).collect(), ..Observation::default() };
        roster.follow(&observation);
        startup.follow(&observation, roster);
    }

    #[test]
    fn pods_that_are_there_tell_until_one_is_seen_to_start() {
        let (mut startup, mut roster) = (Startup::default(), Roster::default());
        assert!((startup.p90_seconds() - ASSUMED_SECONDS).abs() < 1e-9);
        // One lost its readiness once, and another after an hour.
        let there = [("a", Some(40)), ("b", Some(44)), ("c", Some(300)), ("d", Some(3600))];
        follow(&mut startup, &mut roster, &there);
        assert!((startup.p90_seconds() - 44.0).abs() < 1e-9);
        assert_eq!(startup.known_seconds(), None, "none was seen");
        follow(&mut startup, &mut roster, &[there.as_slice(), &[("e", None)]].concat());
        follow(&mut startup, &mut roster, &[there.as_slice(), &[("e", Some(25))]].concat());
        assert_eq!(startup.known_seconds(), Some(25.0));
        assert!((startup.p90_seconds() - 25.0).abs() < 1e-9);
    }

    #[test]
    fn nine_of_ten_starts_are_within_it_and_odd_ones_do_not_count() {
        let (mut startup, mut roster) = (Startup::default(), Roster::default());
        follow(&mut startup, &mut roster, &[]);
        let uids = (0..11).map(|index| index.to_string()).collect::<Vec<_>>();
        let pods = uids.iter().zip(1..).map(|(uid, seconds)| (uid.as_str(), Some(seconds)));
        let odd = [("pulled for long", Some(601)), ("before its time", Some(-5))];
        follow(&mut startup, &mut roster, &pods.chain(odd).collect::<Vec<_>>());
        assert_eq!(startup.known_seconds(), Some(10.0));
    }
}
