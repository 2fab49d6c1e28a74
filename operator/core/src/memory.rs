//! What one decision leaves for the next: readings, recent rounds, learned capacity, own writes.
//!
//! It is bounded, it is lost without harm when the operator restarts, and it never holds a secret.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use plimsoll_crds::Percentile;

use crate::histogram::{Delta, Snapshot};
use crate::input::{Scrape, Targets};
use crate::plan::{ChildKind, Reason};

/// Rounds kept at most: ten minutes at the shortest scrape period, and some.
const ROUNDS_MAX: usize = 620;
/// Seconds for which a round is kept.
const ROUND_AGE_SECONDS_MAX: f64 = 600.0;
/// Seconds for which a round keeps its histogram; after that only its sums.
const EDGES_AGE_SECONDS_MAX: f64 = 65.0;

/// Memory of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Last reading of each ready pod, by UID.
    pub(crate) baselines: BTreeMap<String, Baseline>,
    /// Recent rounds, oldest first.
    pub(crate) rounds: VecDeque<Round>,
    /// Hash of the pod template that the rounds and the capacity speak of.
    pub(crate) template: Option<u64>,
    /// Load at which a replica failed its targets.
    pub(crate) capacity: Option<Capacity>,
    /// The last change of replicas that was written.
    pub(crate) last_change: Option<Change>,
    /// Since when all wanted replicas have been ready. Absent while they are not.
    pub(crate) settled_at: Option<Timestamp>,
    /// Since when fewer replicas than wanted have been ready. Absent while all are.
    pub(crate) unready_since: Option<Timestamp>,
    /// Scale-ups in a row after which latency was no better.
    pub(crate) unhelpful_ups: u32,
    /// Time of the last change that was counted in `unhelpful_ups`: each counts once.
    pub(crate) judged_change: Option<Timestamp>,
    /// Reason and message of the last judged round, for decisions between two scrapes.
    pub(crate) last_verdict: Option<(Reason, String)>,
    /// Own writes, by child.
    pub(crate) applied: BTreeMap<ChildKind, Applied>,
    /// Own writes that failed and are not tried again at every decision, by child.
    pub(crate) failures: BTreeMap<ChildKind, Failure>,
}

/// A reading and its time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Baseline {
    pub at: Timestamp,
    pub snapshot: Snapshot,
}

/// What all pods did between two scrapes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Round {
    pub at: Timestamp,
    /// Mean length of the pods' intervals.
    pub seconds: f64,
    pub delta: Delta,
    /// Requests over each target, in the order of `Percentile::ALL`.
    pub bad: [f64; Percentile::ALL.len()],
    pub completed_per_second: f64,
    /// Completed, refused, and newly waiting.
    pub offered_per_second: f64,
    /// Completed requests per second of the busiest pod.
    pub busiest_per_second: f64,
    pub in_flight: f64,
    /// Pods with two readings.
    pub measured: usize,
    /// Pods whose answer was used.
    pub scraped: usize,
    /// Pods that were ready.
    pub ready: usize,
}

/// Load at which a replica failed its targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Capacity {
    /// Completed requests per second of one replica.
    pub per_second: f64,
    /// When it was last seen.
    pub at: Timestamp,
}

/// A change of replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// When it was decided.
    pub at: Timestamp,
    /// Offered requests per second at that time.
    pub offered_per_second: f64,
    /// Share of requests over a target at that time.
    pub bad_share: f64,
    /// Replicas before.
    pub from: i32,
    /// Replicas since.
    pub to: i32,
}

/// An own write that the API server has confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Hash of what was written.
    pub hash: u64,
    /// UID of the object.
    pub uid: String,
    /// What the API server then called its state: the generation, or the resource version of kinds without one.
    pub version: String,
}

/// An own write that failed. It waits to be tried again while everything else goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// [`Step::hash`](crate::plan::Step::hash) of the write.
    pub hash: u64,
    /// What was tried and what came back.
    pub message: String,
    /// Whether somebody has to change something before it can succeed.
    pub permanent: bool,
    /// How many times in a row this write has failed.
    pub in_a_row: u32,
    /// When it failed.
    pub at: Timestamp,
    /// For how long it is not tried again.
    pub pause: Duration,
}

impl Failure {
    /// A read that failed: it is tried again at the next look, so nothing is kept of it but what to tell.
    pub fn of_read(message: String, permanent: bool) -> Self {
        Self { hash: 0, message, permanent, in_a_row: 1, at: Timestamp::UNIX_EPOCH, pause: Duration::ZERO }
    }

    /// Whether it is too early to try again. A clock that was set back ends the pause.
    fn pauses(&self, now: Timestamp) -> bool {
        (0.0..self.pause.as_secs_f64()).contains(&seconds_between(self.at, now))
    }
}

impl Memory {
    /// Keeps a write that has failed.
    pub fn record_failed(&mut self, kind: ChildKind, failure: Failure) {
        self.failures.insert(kind, failure);
    }

    /// How many times in a row this write has failed.
    pub fn failed_in_a_row(&self, kind: ChildKind, hash: u64) -> u32 {
        self.failures.get(&kind).filter(|failure| failure.hash == hash).map_or(0, |failure| failure.in_a_row)
    }

    /// The failure for which this write is not to be tried now.
    pub(crate) fn paused(&self, kind: ChildKind, hash: u64, now: Timestamp) -> Option<&Failure> {
        self.failures.get(&kind).filter(|failure| failure.hash == hash && failure.pauses(now))
    }

    /// Keeps a write of a child that the API server has confirmed. It ends a row of failures.
    pub fn record_applied(&mut self, kind: ChildKind, applied: Applied) {
        self.failures.remove(&kind);
        self.applied.insert(kind, applied);
    }

    /// Notes that a confirmed write of our own to the same object gave it a new version: that is no foreign write.
    pub fn record_version(&mut self, kind: ChildKind, version: String) {
        if let Some(applied) = self.applied.get_mut(&kind) {
            applied.version = version;
        }
    }

    /// The last confirmed write of a child.
    pub fn applied(&self, kind: ChildKind) -> Option<&Applied> {
        self.applied.get(&kind)
    }

    /// Keeps a change of replicas that the API server has confirmed; the pods are not there yet.
    pub fn record_change(&mut self, change: Change) {
        self.last_change = Some(change);
        self.settled_at = None;
        self.unready_since = None;
    }

    /// A clock that was set back must not make the future decide: what lies there was now.
    pub(crate) fn not_after(&mut self, now: Timestamp) {
        for time in
            [&mut self.settled_at, &mut self.unready_since, &mut self.judged_change].into_iter().flatten()
        {
            *time = (*time).min(now);
        }
        if let Some(change) = &mut self.last_change {
            change.at = change.at.min(now);
        }
        if let Some(capacity) = &mut self.capacity {
            capacity.at = capacity.at.min(now);
        }
    }

    /// Forgets what was learned of another pod template.
    pub(crate) fn follow_template(&mut self, template: u64) {
        if self.template.replace(template).is_some_and(|before| before != template) {
            self.capacity = None;
            self.unhelpful_ups = 0;
            self.rounds.clear();
        }
    }

    /// Turns readings into a round and keeps it. The first reading of a pod is only a baseline.
    /// `ready` is what the Deployment says: a ready pod that is not known yet is one that could not be read.
    pub(crate) fn learn(&mut self, now: Timestamp, scrape: &Scrape, ready: i32, targets: Targets) {
        let ready = scrape.pods.len().max(usize::try_from(ready).unwrap_or(0));
        let mut round = Round { at: now, ready, ..Round::default() };
        let mut baselines = BTreeMap::new();
        let mut seconds_sum = 0.0;
        for pod in &scrape.pods {
            let earlier = self.baselines.remove(&pod.uid);
            let Ok(snapshot) = &pod.reading else {
                // The next good reading then covers the gap too.
                baselines.extend(earlier.map(|earlier| (pod.uid.clone(), earlier)));
                continue;
            };
            round.scraped += 1;
            round.in_flight += snapshot.in_flight.unwrap_or(0.0);
            if let Some(earlier) = earlier {
                let seconds = seconds_between(earlier.at, pod.at);
                if seconds > 0.0 {
                    let delta = snapshot.since(&earlier.snapshot);
                    let newly_waiting =
                        snapshot.in_flight.unwrap_or(0.0) - earlier.snapshot.in_flight.unwrap_or(0.0);
                    let completed = delta.total / seconds;
                    round.completed_per_second += completed;
                    round.offered_per_second +=
                        ((delta.total + delta.shed + newly_waiting) / seconds).max(0.0);
                    round.busiest_per_second = round.busiest_per_second.max(completed);
                    round.delta.add(&delta);
                    round.measured += 1;
                    seconds_sum += seconds;
                }
            }
            baselines.insert(pod.uid.clone(), Baseline { at: pod.at, snapshot: snapshot.clone() });
        }
        self.baselines = baselines;
        if round.measured > 0 {
            round.seconds = seconds_sum / round.measured as f64;
        }
        round.bad =
            targets.latencies().map(|target| target.map_or(0.0, |target| round.delta.slower_than(target)));
        self.rounds.push_back(round);
        self.forget(now);
    }

    fn forget(&mut self, now: Timestamp) {
        let age = |round: &Round| seconds_between(round.at, now);
        // A clock that was set back must not keep rounds for ever.
        self.rounds.retain(|round| (0.0..=ROUND_AGE_SECONDS_MAX).contains(&age(round)));
        while self.rounds.len() > ROUNDS_MAX {
            self.rounds.pop_front();
        }
        for round in self.rounds.iter_mut().filter(|round| age(round) > EDGES_AGE_SECONDS_MAX) {
            round.delta.forget_edges();
        }
    }
}

/// Seconds from `earlier` to `later`; negative when the clock was set back.
pub(crate) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}
