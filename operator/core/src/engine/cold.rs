//! What new pods cost until they are warm: their caches are cold, and at the load of the others some of their requests are
//! late. A pod that is added while the others have much to do can so miss the promise for a minute, however many are added.
//!
//! The share of late requests of cold pods over their load is learned as that of warm ones is ([`capacity`](super::capacity)),
//! around a higher share: a few pods may be late more often than all.

use std::collections::VecDeque;

use super::capacity::{self, Capacity, Evidence, Point};
use super::estimate::{Round, WARM_UP_SECONDS};
use super::normal::normal;
use super::settings::{Settings, Target};

/// The share that is learned about is this many times the budget of the target,
const SHARE_OF_BUDGET: f64 = 20.0;
/// and at most this.
const SHARE_MAX: f64 = 0.25;
/// Before anything was learned, cold pods are taken to carry between these parts of the load that they have.
const FIRST: [f64; 2] = [0.3, 6.0];
/// Cold pods are judged only while no more than this many times the budget of the warm ones' requests are late.
const WARM_MAX: f64 = 1.5;
/// Starts are remembered for this long.
const REMEMBERED_SECONDS: f64 = 1200.0;
/// Before starts were seen for long, they are taken to come in so many of this many minutes.
const PRIOR: (f64, f64) = (1.0, 5.0);
/// Spread of the logarithm of how many of a new pod's requests are late.
const SPREAD: f64 = 0.2;

/// What is known of new pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cold {
    /// One for each target. Empty before a new pod was seen.
    capacities: Vec<Capacity>,
    learned_at_seconds: f64,
    /// When pods became ready, and how many at once.
    starts: VecDeque<(f64, f64)>,
}

/// What new pods do to a minute.
#[derive(Clone, Debug, PartialEq)]
pub struct Starts {
    /// Share of the minutes in which some become ready.
    pub minutes: f64,
    /// How many do.
    pods: f64,
    budget: f64,
    points: Vec<Point>,
    steepness: f64,
    floor: f64,
    share: f64,
}

impl Cold {
    /// Takes a round in which `started` pods were seen to become ready.
    pub fn follow(&mut self, now_seconds: f64, started: usize, round: &Round, settings: &Settings) {
        if started > 0 {
            self.starts.push_back((now_seconds, started as f64));
        }
        while self.starts.front().is_some_and(|start| now_seconds - start.0 > REMEMBERED_SECONDS) {
            self.starts.pop_front();
        }
        let per_pod_per_second = round.offered_per_second / (round.ready as f64).max(1.0);
        if round.cold.total < 1.0 || round.telling.total < 1.0 || per_pod_per_second <= 0.0 {
            return;
        }
        if self.capacities.len() != settings.targets.len() {
            let begin = |target: &Target| {
                Capacity::between(
                    share(*target),
                    FIRST[0] * per_pod_per_second,
                    FIRST[1] * per_pod_per_second,
                )
            };
            self.capacities = settings.targets.iter().map(begin).collect();
        }
        let seconds = now_seconds - self.learned_at_seconds;
        self.learned_at_seconds = now_seconds;
        for (capacity, target) in self.capacities.iter_mut().zip(&settings.targets) {
            capacity.forget(seconds);
            if target.missed(&round.telling) > WARM_MAX * target.budget() * round.telling.total {
                continue;
            }
            let over = target.missed(&round.cold);
            capacity.learn(Evidence { per_pod_per_second, total: round.cold.total, over });
        }
    }

    /// Takes over what was learned before: one for each target, in their order.
    pub fn restore(&mut self, capacities: Vec<Capacity>) {
        self.capacities = capacities;
    }

    /// What is known, one for each target in their order; empty before a new pod was seen.
    pub fn learned(&self) -> &[Capacity] {
        &self.capacities
    }

    /// Something has changed.
    pub fn doubt(&mut self, spread: f64) {
        for capacity in &mut self.capacities {
            capacity.doubt(spread);
        }
    }

    /// What starts do to a minute, by the target that binds. None before one was seen.
    pub fn starts(&self, now_seconds: f64, target: Target, settings: &Settings) -> Option<Starts> {
        let index = settings.targets.iter().position(|other| *other == target)?;
        let capacity = self.capacities.get(index)?;
        let mut minutes = self.starts.iter().map(|start| (start.0 / 60.0) as u64).collect::<Vec<_>>();
        minutes.dedup();
        let seen = now_seconds.min(REMEMBERED_SECONDS) / 60.0;
        let count = minutes.len() as f64;
        let pods = self.starts.iter().map(|start| start.1).sum::<f64>();
        Some(Starts {
            minutes: ((count + PRIOR.0) / (seen + PRIOR.1)).min(1.0),
            pods: (pods + PRIOR.0) / (count + PRIOR.0),
            budget: target.budget(),
            points: capacity.points(None),
            steepness: capacity.steepness(),
            floor: capacity.floor(),
            share: share(target),
        })
    }
}

impl Starts {
    /// The chance that a minute misses the promise because of pods that start in it, with `replicas` for a load.
    pub fn violated(&self, load_per_second: f64, replicas: u32) -> f64 {
        let per_pod = load_per_second / f64::from(replicas.max(1));
        let late_share = |point: &Point| {
            let grown = (self.steepness * (per_pod / point.per_second).ln()).exp();
            point.weight * capacity::share(self.share, self.floor, grown)
        };
        let late_share = self.points.iter().map(late_share).sum::<f64>();
        let late = self.pods * per_pod * WARM_UP_SECONDS * late_share;
        // The warm ones' part is left out, as are the new ones' seconds beyond the first ten.
        let room = 60.0 * load_per_second * self.budget;
        normal((late / room.max(1e-9)).max(1e-9).ln() / SPREAD)
    }
}

/// The share around which cold pods are learned about.
pub fn share(target: Target) -> f64 {
    (SHARE_OF_BUDGET * target.budget()).min(SHARE_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::histogram::{Delta, Snapshot};

    fn settings() -> Settings {
        Settings {
            targets: vec![Target::latency(0.99, Duration::from_millis(100))],
            min: 1,
            max: 100,
            period: Duration::from_secs(5),
            violation_price: 60.0,
        }
    }

    fn requests(total: f64, late: f64) -> Delta {
        let buckets = vec![(0.1, total - late), (f64::INFINITY, total)];
        Snapshot::new(buckets, None, None).unwrap().since(&Snapshot::default())
    }

    /// What is known after ten starts, a minute apart, into ten pods of this load, whose requests were late so often.
    fn after(per_pod: f64, cold_late: f64, warm_late: f64) -> Starts {
        let mut cold = Cold::default();
        let mut now = 0.0;
        for round in 0..120 {
            now += 5.0;
            let started = round % 12 == 0;
            let new = if round % 12 < 3 {
                requests(5.0 * per_pod, 5.0 * per_pod * cold_late)
            } else {
                Delta::default()
            };
            let warm = 50.0 * per_pod;
            let round = Round {
                offered_per_second: 10.0 * per_pod,
                ready: 10,
                telling: requests(warm, warm * warm_late),
                cold: new,
                ..Round::default()
            };
            cold.follow(now, usize::from(started), &round, &settings());
        }
        cold.starts(now, settings().targets[0], &settings()).unwrap()
    }

    #[test]
    fn pods_that_are_late_at_first_are_feared_at_that_load_and_not_at_half_of_it() {
        let starts = after(50.0, 0.6, 0.003);
        assert!((0.6..=1.0).contains(&starts.minutes), "{starts:?}");
        assert!(starts.violated(300.0, 6) > 0.9, "{}", starts.violated(300.0, 6));
        assert!(starts.violated(300.0, 12) < 0.1, "{}", starts.violated(300.0, 12));
    }

    #[test]
    fn pods_that_are_warm_at_once_are_not_feared() {
        let starts = after(50.0, 0.003, 0.003);
        assert!(starts.violated(500.0, 10) < 0.01, "{}", starts.violated(500.0, 10));
    }

    #[test]
    fn a_large_fleet_hides_a_cold_pod() {
        let starts = after(50.0, 0.3, 0.003);
        assert!(starts.violated(5000.0, 100) < 0.01 && starts.violated(200.0, 4) > 0.5, "{starts:?}");
    }

    #[test]
    fn where_all_are_late_new_pods_are_not_to_blame() {
        let starts = after(50.0, 0.6, 0.2);
        assert!(starts.violated(500.0, 20) < 0.1, "{}", starts.violated(500.0, 20));
    }

    #[test]
    fn without_a_start_nothing_is_known() {
        let cold = Cold::default();
        assert_eq!(cold.starts(60.0, settings().targets[0], &settings()), None);
    }
}
