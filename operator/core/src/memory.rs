//! What one decision leaves for the next: what the engine has learned, what was read lately, own writes.
//!
//! It is bounded, it is lost without harm when the operator restarts, and it never holds a secret.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use crate::cache::CacheWatch;
use crate::conflict::Overwritten;
use crate::engine::Engine;
use crate::plan::{Change, ChildKind, Reason};
use crate::policy::{PERIOD_MAX, ReplicaChange};
use crate::recent::Recent;

/// Memory of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// What is learned of the pods.
    pub(crate) engine: Engine,
    /// What is known of the managed cache.
    pub(crate) cache: CacheWatch,
    /// Connections that the database server takes, as a replica last told.
    pub(crate) database_connections_max: Option<i32>,
    /// What was read of them lately.
    pub(crate) recent: Recent,
    /// Changes of replicas that were written, oldest first, as long as a rate may look back.
    pub(crate) changes: VecDeque<ReplicaChange>,
    /// Reason and message of the last judged round, for decisions between two scrapes.
    pub(crate) last_verdict: Option<(Reason, String)>,
    /// The last recommendation that was made from a scrape, for decisions between two.
    pub(crate) last_recommended: Option<i32>,
    /// Replicas that somebody has written over ours lately.
    pub(crate) overwritten: Option<Overwritten>,
    /// Own writes, by child.
    pub(crate) applied: BTreeMap<ChildKind, Applied>,
    /// Own writes that failed and are not tried again at every decision, by child.
    pub(crate) failures: BTreeMap<ChildKind, Failure>,
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

    /// Keeps a change of replicas that the API server has confirmed.
    pub fn record_change(&mut self, at: Timestamp, change: Change) {
        // A clock that was set back must not keep changes for ever.
        let counts = |change: &ReplicaChange| {
            (0.0..PERIOD_MAX.as_secs_f64()).contains(&seconds_between(change.at, at))
        };
        self.changes.retain(counts);
        let Change { from, to } = change;
        self.changes.push_back(ReplicaChange { at, from: from.unsigned_abs(), to: to.unsigned_abs() });
    }

    /// The last confirmed write of a child.
    pub fn applied(&self, kind: ChildKind) -> Option<&Applied> {
        self.applied.get(&kind)
    }
}

/// Seconds from `earlier` to `later`; negative when the clock was set back.
pub(crate) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}
