//! Leadership of shards by one Lease each, with the semantics of client-go, and the fences that every write passes.
//!
//! It never trusts another clock: a holder counts as gone when its record has not changed for the lease's duration on
//! *this* process' clock. It never writes a Lease but by compare-and-swap on the resource version. When a shard is lost
//! that was not given up, the process ends; it never tries to go on without it.
//!
//! Processes that divide the objects otherwise, as before and after `--shards` was changed, never work at the same time:
//! a Lease carries its holder's number of shards, and a fence opens only after a look at all Leases that began once its
//! own was written, and found nobody of another number. Of two that write at once, at least one sees the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::balance::{self, Move, Seat};
pub use crate::fence::Fence;
use crate::fleet_metrics::FleetMetrics;
use crate::lease::{self, Layout, Record};
use crate::shards::Shards;

/// A record that has not changed for this long is abandoned.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops writing. Shorter than [`LEASE_DURATION`] by the time that a
/// write in flight may take.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks at the Leases.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// Longest time that a write may take, so that one begun before the deadline has ended when a successor may start.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(LEASE_DURATION.as_secs() - RENEW_DEADLINE.as_secs());

/// The shards that this process leads, with the term of each.
pub type Led = BTreeMap<u16, u64>;

/// Takes part in the election of each shard.
pub struct Elector {
    /// Its calls are bounded here.
    pub api: Api<Lease>,
    /// The shards and the names of their Leases.
    pub layout: Layout,
    /// Name of this process.
    pub identity: String,
    /// Moved with the Leases.
    pub shards: Shards,
    /// Told of what is won and given up.
    pub led: watch::Sender<Led>,
    /// Shows who leads.
    pub metrics: FleetMetrics,
}

/// What one process knows of the Leases, on its own clock.
struct View {
    began: Instant,
    leases: BTreeMap<String, Seen>,
    /// Shards whose fence has been opened, and those that are being given up since when.
    led: BTreeSet<u16>,
    leaving: BTreeMap<u16, Instant>,
}

/// A Lease as last seen, and when its record last changed.
struct Seen {
    lease: Lease,
    changed_at: Instant,
}

/// How a round ended.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    /// Nothing more to do until the next.
    Done,
    /// A shard was taken: whether it may be led shows the next look.
    Again,
    /// Another process has this one, which was not given up.
    Lost(u16),
}

impl Elector {
    /// Runs until `stop`, or until a shard is lost that was not given up. Once `closing`, it takes no more.
    /// Returns whether all is well.
    pub async fn run(&self, closing: &CancellationToken, stop: &CancellationToken) -> bool {
        let mut view = View {
            began: Instant::now(),
            leases: BTreeMap::new(),
            led: BTreeSet::new(),
            leaving: BTreeMap::new(),
        };
        loop {
            let round = self.round(&mut view, closing.is_cancelled());
            match tokio::time::timeout(RENEW_DEADLINE / 2, round).await {
                Ok(Ok(Round::Done)) => {}
                Ok(Ok(Round::Again)) => continue,
                Ok(Ok(Round::Lost(shard))) => {
                    self.shards.fence(shard).leave();
                    warn!(shard, "leadership was taken by another process");
                    return false;
                }
                Ok(Err(error)) => warn!(%error, "the Leases could not be read or written"),
                Err(_) => warn!("the API server did not answer about the Leases in time"),
            }
            let now = Instant::now();
            let late =
                |shard: &&u16| !view.leaving.contains_key(shard) && !self.shards.fence(**shard).open(now);
            if let Some(shard) = view.led.iter().find(late) {
                warn!(shard, "the Lease could not be renewed in time; leadership is given up");
                return false;
            }
            // Two that get into each other's way do not meet again at the next look.
            let pause = RETRY_PERIOD.mul_f64(0.75 + 0.5 * rand::random::<f64>());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return true,
            }
        }
    }

    /// Looks at all Leases and does what is to be done about each.
    async fn round(&self, view: &mut View, closing: bool) -> Result<Round, kube::Error> {
        let began = Instant::now();
        // Without a resource version the API server answers with what is stored, not with what it remembers.
        let listed = self.api.list(&ListParams::default()).await?.items;
        view.saw(listed.into_iter().filter(|lease| self.shard_of(lease).is_some()), Instant::now());
        if let Some(shard) = view.led.iter().find(|shard| self.taken(view, **shard)) {
            return Ok(Round::Lost(*shard));
        }
        self.forget_what_others_took(view);
        let others = self.others_at_work(view);
        if others {
            debug!("another division into shards is still at work");
        }
        let moves = balance::moves(&self.identity, &self.seats(view), closing || others);
        let moves: Vec<(u16, Move)> = (0..).zip(moves).collect();
        for (shard, _) in moves.iter().filter(|(_, what)| *what == Move::Yield) {
            info!(shard, "shard is given up for another process that holds fewer");
            self.shards.fence(*shard).leave();
            view.leaving.insert(*shard, began);
            self.tell(view);
        }
        let writes = moves.into_iter().filter_map(|(shard, what)| {
            let quiet = self.shards.fence(shard).quiet();
            let seen = view.leases.get(&self.layout.name(shard)).map(|seen| &seen.lease);
            let left =
                view.leaving.get(&shard).is_some_and(|since| quiet || since.elapsed() >= WRITE_TIMEOUT);
            // What was taken while others are at work goes back before it has served.
            let back = others && !view.led.contains(&shard);
            let lease = match (what, seen) {
                (Move::Yield | Move::Leave, Some(seen)) if left => {
                    lease::released(seen.clone(), Timestamp::now())
                }
                (Move::Renew, Some(seen)) if back => lease::released(seen.clone(), Timestamp::now()),
                (Move::Renew | Move::Take, seen) => {
                    let name = self.layout.name(shard);
                    lease::held(&name, &self.layout, &self.identity, seen, Timestamp::now())
                }
                (Move::Ask, Some(seen)) => lease::asked(seen.clone(), &self.identity),
                _ => return None,
            };
            let create = seen.is_none();
            Some(async move { (shard, what, self.write(&lease, create).await) })
        });
        let written = future::join_all(writes.collect::<Vec<_>>()).await;
        let mut again = false;
        let mut failure = None;
        for (shard, what, written) in written {
            match written {
                Ok(Some(lease)) => {
                    view.saw_one(lease, Instant::now());
                    again |= what == Move::Take;
                    self.wrote(view, shard, what, began, others);
                }
                // Another process was faster; the next look shows who.
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error),
            None if again => Ok(Round::Again),
            None => Ok(Round::Done),
        }
    }

    /// What a write that has passed means for the shard's fence.
    fn wrote(&self, view: &mut View, shard: u16, what: Move, began: Instant, others: bool) {
        let fence = self.shards.fence(shard);
        match what {
            Move::Renew if view.led.contains(&shard) => fence.set(Some(began + RENEW_DEADLINE)),
            // Seen as ours by a look that began after it was taken, and nobody of another division beside it.
            Move::Renew if !others => {
                fence.set(Some(began + RENEW_DEADLINE));
                view.led.insert(shard);
                self.tell(view);
                info!(identity = %self.identity, shard, "leadership won");
            }
            Move::Yield | Move::Leave => {
                view.leaving.remove(&shard);
                view.led.remove(&shard);
                self.tell(view);
                info!(shard, "leadership released");
            }
            Move::Renew | Move::Take | Move::Ask => {}
        }
    }

    fn tell(&self, view: &View) {
        let leads = |shard: &u16| !view.leaving.contains_key(shard);
        let led: Led = view
            .led
            .iter()
            .filter(|shard| leads(shard))
            .map(|shard| (*shard, self.shards.fence(*shard).term()))
            .collect();
        for shard in 0..self.layout.count {
            self.metrics.leads(shard, led.contains_key(&shard));
        }
        self.led.send_replace(led);
    }

    /// Creates or replaces; `None` if another process was faster.
    async fn write(&self, lease: &Lease, create: bool) -> Result<Option<Lease>, kube::Error> {
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        let written = if create {
            self.api.create(&PostParams::default(), lease).await
        } else {
            self.api.replace(name, &PostParams::default(), lease).await
        };
        match written {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a shard that was not given up is another's by now.
    fn taken(&self, view: &View, shard: u16) -> bool {
        let seen = view.leases.get(&self.layout.name(shard));
        let holder = seen.map(|seen| Record::of(&seen.lease).holder);
        // A Lease that somebody has deleted is made again.
        holder.is_some_and(|holder| holder.as_deref() != Some(&self.identity))
            && !view.leaving.contains_key(&shard)
    }

    /// A shard that was being given up, and ran out before its release had passed, may be another's: no longer ours to
    /// release.
    fn forget_what_others_took(&self, view: &mut View) {
        let gone = |shard: &u16| {
            let seen = view.leases.get(&self.layout.name(*shard));
            seen.is_none_or(|seen| Record::of(&seen.lease).holder.as_deref() != Some(&self.identity))
        };
        let gone: Vec<u16> = view.leaving.keys().copied().filter(gone).collect();
        for shard in gone {
            view.leaving.remove(&shard);
            view.led.remove(&shard);
        }
    }

    /// Whether somebody holds a shard of another division.
    fn others_at_work(&self, view: &View) -> bool {
        view.leases.values().any(|seen| {
            let record = Record::of(&seen.lease);
            let ours = record.holder.as_deref() == Some(&self.identity);
            record.shards != self.layout.count && !ours && seen.holder().is_some()
        })
    }

    fn seats(&self, view: &View) -> Vec<Seat> {
        let seat = |shard| match view.leases.get(&self.layout.name(shard)) {
            None => Seat { free_for: view.began.elapsed(), ..Seat::default() },
            Some(seen) => Seat {
                holder: seen.holder(),
                leaving: view.leaving.contains_key(&shard),
                wanted_by: Record::of(&seen.lease).wanted_by,
                free_for: seen.free_for(),
            },
        };
        (0..self.layout.count).map(seat).collect()
    }

    fn shard_of(&self, lease: &Lease) -> Option<u16> {
        self.layout.shard(lease.metadata.name.as_deref()?)
    }

    /// Gives all Leases up, so that successors need not wait. Nothing may be written after it.
    ///
    /// # Errors
    /// Those of the API server; the Leases then run out by themselves.
    pub async fn release(&self) -> Result<(), kube::Error> {
        for shard in 0..self.layout.count {
            self.shards.fence(shard).leave();
        }
        let ours = |lease: &Lease| {
            self.shard_of(lease).is_some() && Record::of(lease).holder.as_deref() == Some(&self.identity)
        };
        let leases = self.api.list(&ListParams::default()).await?.items.into_iter().filter(ours);
        let writes = leases.map(|lease| async move {
            self.write(&lease::released(lease, Timestamp::now()), false).await.map(drop)
        });
        let released = future::join_all(writes.collect::<Vec<_>>()).await;
        self.led.send_replace(Led::new());
        info!(leases = released.len(), "leadership released");
        released.into_iter().collect()
    }
}

impl View {
    fn saw(&mut self, listed: impl Iterator<Item = Lease>, now: Instant) {
        let mut before = std::mem::take(&mut self.leases);
        for lease in listed {
            let Some(name) = lease.metadata.name.clone() else { continue };
            // Asking changes the Lease, but tells nothing of its holder.
            let unchanged = before.remove(&name).filter(|seen| seen.lease.spec == lease.spec);
            let changed_at = unchanged.map_or(now, |seen| seen.changed_at);
            self.leases.insert(name, Seen { lease, changed_at });
        }
    }

    fn saw_one(&mut self, lease: Lease, now: Instant) {
        if let Some(name) = lease.metadata.name.clone() {
            self.leases.insert(name, Seen { lease, changed_at: now });
        }
    }
}

impl Seen {
    /// Who holds it and is not gone.
    fn holder(&self) -> Option<String> {
        let record = Record::of(&self.lease);
        record.holder.filter(|_| self.changed_at.elapsed() < record.duration)
    }

    /// How long it has had no holder.
    fn free_for(&self) -> Duration {
        let record = Record::of(&self.lease);
        let since = self.changed_at.elapsed();
        if record.holder.is_some() { since.saturating_sub(record.duration) } else { since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_begun_before_the_deadline_ends_before_a_successor_starts() {
        assert!(RENEW_DEADLINE + WRITE_TIMEOUT <= LEASE_DURATION);
    }

    fn seen(holder: &str, seconds_ago: u64) -> Seen {
        let layout = Layout { base: "operator".into(), count: 1 };
        // Long ago on the holder's clock, which says nothing.
        let lease = lease::held("operator", &layout, holder, None, Timestamp::UNIX_EPOCH);
        Seen { lease, changed_at: Instant::now().checked_sub(Duration::from_secs(seconds_ago)).unwrap() }
    }

    #[test]
    fn a_holder_is_gone_after_the_duration_on_our_own_clock() {
        assert_eq!(seen("b", 14).holder().as_deref(), Some("b"));
        assert_eq!(seen("b", 15).holder(), None);
        assert_eq!(seen("b", 17).free_for().as_secs(), 2);
        assert_eq!(seen("", 3).holder(), None, "a released Lease is free at once");
    }

    #[test]
    fn asking_does_not_keep_a_dead_holder_alive() {
        let mut view = View {
            began: Instant::now(),
            leases: BTreeMap::from([("operator".to_owned(), seen("b", 14))]),
            led: BTreeSet::new(),
            leaving: BTreeMap::new(),
        };
        let asked = lease::asked(view.leases["operator"].lease.clone(), "c");
        view.saw([asked].into_iter(), Instant::now());
        assert!(view.leases["operator"].changed_at.elapsed() >= Duration::from_secs(14));
        assert_eq!(Record::of(&view.leases["operator"].lease).wanted_by.as_deref(), Some("c"));
    }
}
