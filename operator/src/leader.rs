//! Leader election by a Lease, with the semantics of client-go, and a fence that every write passes.
//!
//! It never trusts another clock: a holder counts as gone when its record has not changed for the lease's duration on
//! *this* process' clock. It never writes the Lease but by compare-and-swap on the resource version. When leadership
//! is lost, the process ends; it never tries to go on as a follower.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// A record that has not changed for this long is abandoned.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops writing. Shorter than [`LEASE_DURATION`] by the time that a
/// write in flight may take.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks at the Lease.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// Longest time that a write may take, so that one begun before the deadline has ended when a successor may start.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(LEASE_DURATION.as_secs() - RENEW_DEADLINE.as_secs());

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nobody has made it yet.
    Create,
    /// It is ours; keep it.
    Renew,
    /// It was released, or its holder is gone.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// Decides from the holder's name and how long its record has not changed, seen from here.
pub fn next_move(identity: &str, record: Option<&LeaseSpec>, unchanged_for: Duration) -> Move {
    let Some(record) = record else { return Move::Create };
    let duration = record
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(LEASE_DURATION, Duration::from_secs);
    match record.holder_identity.as_deref() {
        Some(holder) if holder == identity => Move::Renew,
        None | Some("") => Move::Take,
        Some(_) if unchanged_for >= duration => Move::Take,
        Some(_) => Move::Wait,
    }
}

/// Lets writes pass while leadership is certain.
#[derive(Debug, Default)]
pub struct Fence {
    open_until: Mutex<Option<Instant>>,
    was_open: AtomicBool,
}

impl Fence {
    /// Whether a write may begin at `now`.
    pub fn open(&self, now: Instant) -> bool {
        self.open_until.lock().ok().and_then(|until| *until).is_some_and(|until| now < until)
    }

    /// Whether this process has ever led. It then never becomes a standby: a closed fence opens again or ends it.
    pub fn was_open(&self) -> bool {
        self.was_open.load(Ordering::Relaxed)
    }

    /// Opens the fence until `until`; `None` closes it.
    pub fn set(&self, until: Option<Instant>) {
        if until.is_some() {
            self.was_open.store(true, Ordering::Relaxed);
        }
        if let Ok(mut open_until) = self.open_until.lock() {
            *open_until = until;
        }
    }
}

/// Takes part in the election.
pub struct Elector {
    /// Client calls must not outlast [`RETRY_PERIOD`] by much; each is bounded here.
    pub api: Api<Lease>,
    /// Name of the Lease.
    pub name: String,
    /// Name of this process.
    pub identity: String,
}

/// The record as last seen, and when it last changed on this process' clock.
struct Seen {
    lease: Option<Lease>,
    changed_at: Instant,
}

impl Elector {
    /// Runs until `stop`, or until leadership that was held is lost. `leading` becomes true when it is won.
    /// Returns whether leadership is still held.
    pub async fn run(&self, fence: &Fence, leading: &watch::Sender<bool>, stop: &CancellationToken) -> bool {
        let mut seen = Seen { lease: None, changed_at: Instant::now() };
        let mut held = false;
        loop {
            let round_began = Instant::now();
            match tokio::time::timeout(RENEW_DEADLINE / 2, self.round(&mut seen)).await {
                Ok(Ok(true)) => {
                    fence.set(Some(round_began + RENEW_DEADLINE));
                    if !held {
                        info!(identity = %self.identity, "leadership won");
                        held = true;
                        leading.send_replace(true);
                    }
                }
                Ok(Ok(false)) if held => {
                    fence.set(None);
                    warn!("leadership was taken by another process");
                    return false;
                }
                Ok(Ok(false)) => debug!("another process leads"),
                Ok(Err(error)) => warn!(%error, "the Lease could not be read or written"),
                Err(_) => warn!("the API server did not answer about the Lease in time"),
            }
            if held && !fence.open(Instant::now()) {
                warn!("the Lease could not be renewed in time; leadership is given up");
                return false;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_PERIOD) => {}
                () = stop.cancelled() => return held,
            }
        }
    }

    /// Looks at the Lease and does what is to be done. Returns whether it is ours now.
    async fn round(&self, seen: &mut Seen) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let record = |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.spec.clone());
        if record(&lease) != record(&seen.lease) {
            seen.changed_at = Instant::now();
        }
        let spec = record(&lease);
        seen.lease = lease;
        // A Lease without a spec is nobody's.
        let spec = if seen.lease.is_some() { Some(spec.unwrap_or_default()) } else { None };
        let written = match next_move(&self.identity, spec.as_ref(), seen.changed_at.elapsed()) {
            Move::Wait => return Ok(false),
            Move::Create => self.api.create(&PostParams::default(), &self.record(None)).await,
            Move::Renew | Move::Take => {
                self.api.replace(&self.name, &PostParams::default(), &self.record(seen.lease.as_ref())).await
            }
        };
        match written {
            Ok(lease) => {
                seen.lease = Some(lease);
                seen.changed_at = Instant::now();
                Ok(true)
            }
            // Another process was faster; the next look shows who.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The record that says that this process leads.
    fn record(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(&self.identity);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: before.and_then(|lease| lease.metadata.namespace.clone()),
                // Compare and swap: the API server refuses if anybody has written since.
                resource_version: before.and_then(|lease| lease.metadata.resource_version.clone()),
                uid: before.and_then(|lease| lease.metadata.uid.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                acquire_time: if ours { spec.acquire_time } else { Some(now.clone()) },
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
                lease_transitions: Some(
                    spec.lease_transitions.unwrap_or(0) + i32::from(!ours && before.is_some()),
                ),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Gives the Lease up, so that a successor need not wait. Nothing may be written after it.
    ///
    /// # Errors
    /// Those of the API server; the Lease then runs out by itself.
    pub async fn release(&self, fence: &Fence) -> Result<(), kube::Error> {
        fence.set(None);
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        let Some(spec) =
            lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
        else {
            return Ok(());
        };
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        info!("leadership released");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            // Long ago on the holder's clock, which says nothing.
            renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn makes_the_lease_when_there_is_none() {
        assert_eq!(next_move("a", None, Duration::ZERO), Move::Create);
    }

    #[test]
    fn renews_its_own_even_when_late() {
        assert_eq!(next_move("a", Some(&held_by("a")), Duration::from_mins(1)), Move::Renew);
    }

    #[test]
    fn waits_for_a_holder_whose_record_changed_within_the_duration() {
        assert_eq!(next_move("a", Some(&held_by("b")), Duration::from_secs(14)), Move::Wait);
    }

    #[test]
    fn takes_over_after_the_duration_on_its_own_clock() {
        assert_eq!(next_move("a", Some(&held_by("b")), Duration::from_secs(15)), Move::Take);
    }

    #[test]
    fn takes_a_released_lease_at_once() {
        assert_eq!(next_move("a", Some(&held_by("")), Duration::ZERO), Move::Take);
    }

    #[test]
    fn the_fence_closes_by_itself() {
        let fence = Fence::default();
        let now = Instant::now();
        assert!(!fence.open(now) && !fence.was_open());
        fence.set(Some(now + RENEW_DEADLINE));
        assert!(fence.open(now + RENEW_DEADLINE / 2));
        assert!(!fence.open(now + RENEW_DEADLINE));
        fence.set(None);
        assert!(fence.was_open(), "a process that has led does not wait as a standby does");
    }

    #[test]
    fn a_write_begun_before_the_deadline_ends_before_a_successor_starts() {
        assert!(RENEW_DEADLINE + WRITE_TIMEOUT <= LEASE_DURATION);
    }
}
