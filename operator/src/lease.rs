//! What a shard's Lease says, and what to write into it. Pure: it neither reads nor writes one.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::leader::LEASE_DURATION;

/// How many shards there are by the one who holds this one. Absent means one.
const SHARDS_ANNOTATION: &str = "plimsoll.dev/shards";
/// Who asks for the shard.
const WANTED_BY_ANNOTATION: &str = "plimsoll.dev/wanted-by";

/// The division of the objects into shards, and the names of their Leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name of the first shard's Lease, and begin of the others'.
    pub base: String,
    /// Shards.
    pub count: u16,
}

impl Layout {
    /// Name of a shard's Lease. The first has that of an operator without shards, so that both are never at work.
    pub fn name(&self, shard: u16) -> String {
        if shard == 0 { self.base.clone() } else { format!("{}-shard-{shard}", self.base) }
    }

    /// The shard that a Lease of this name is of, whether or not this division has it.
    pub fn shard(&self, name: &str) -> Option<u16> {
        if name == self.base {
            return Some(0);
        }
        let shard = name.strip_prefix(&self.base)?.strip_prefix("-shard-")?.parse().ok()?;
        (self.name(shard) == name).then_some(shard)
    }
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; absent once it is released.
    pub holder: Option<String>,
    /// After this long without a change, the holder is gone.
    pub duration: Duration,
    /// How many shards there are by its holder.
    pub shards: u16,
    /// Who asks for it.
    pub wanted_by: Option<String>,
}

impl Record {
    /// Reads a Lease.
    pub fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        let duration = spec.and_then(|spec| spec.lease_duration_seconds);
        let annotation = |key| {
            lease.metadata.annotations.as_ref().and_then(|all| all.get(key)).filter(|text| !text.is_empty())
        };
        Self {
            holder: spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty()),
            duration: duration
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(LEASE_DURATION, Duration::from_secs),
            shards: annotation(SHARDS_ANNOTATION).and_then(|count| count.parse().ok()).unwrap_or(1),
            wanted_by: annotation(WANTED_BY_ANNOTATION).cloned(),
        }
    }
}

/// The Lease that says that `identity` holds a shard of `layout`. It drops what was asked of it.
pub fn held(name: &str, layout: &Layout, identity: &str, before: Option<&Lease>, now: Timestamp) -> Lease {
    let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let ours = spec.holder_identity.as_deref() == Some(identity);
    let now = MicroTime(now);
    let mut annotations = before.and_then(|lease| lease.metadata.annotations.clone()).unwrap_or_default();
    annotations.remove(WANTED_BY_ANNOTATION);
    annotations.insert(SHARDS_ANNOTATION.into(), layout.count.to_string());
    Lease {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: before.and_then(|lease| lease.metadata.namespace.clone()),
            // Compare and swap: the API server refuses if anybody has written since.
            resource_version: before.and_then(|lease| lease.metadata.resource_version.clone()),
            uid: before.and_then(|lease| lease.metadata.uid.clone()),
            annotations: Some(annotations),
            labels: before.and_then(|lease| lease.metadata.labels.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            acquire_time: if ours { spec.acquire_time } else { Some(now.clone()) },
            holder_identity: Some(identity.into()),
            lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
            lease_transitions: Some(
                spec.lease_transitions.unwrap_or(0) + i32::from(!ours && before.is_some()),
            ),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

/// The Lease without a holder. Who asks for it still does.
pub fn released(mut lease: Lease, now: Timestamp) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// The Lease with `identity` asking for it.
pub fn asked(mut lease: Lease, identity: &str) -> Lease {
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(WANTED_BY_ANNOTATION.into(), identity.into());
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(count: u16) -> Layout {
        Layout { base: "plimsoll-operator".into(), count }
    }

    #[test]
    fn names_lead_back_to_their_shards() {
        let layout = layout(12);
        for shard in 0..12 {
            assert_eq!(layout.shard(&layout.name(shard)), Some(shard));
        }
        for other in
            ["plimsoll", "plimsoll-operator-shard-", "plimsoll-operator-shard-01", "plimsoll-operator-gold"]
        {
            assert_eq!(layout.shard(other), None, "{other}");
        }
    }

    #[test]
    fn a_lease_of_a_version_without_shards_is_of_one() {
        let spec = LeaseSpec { holder_identity: Some("old".into()), ..LeaseSpec::default() };
        let record = Record::of(&Lease { spec: Some(spec), ..Lease::default() });
        assert_eq!((record.holder.as_deref(), record.shards), (Some("old"), 1));
    }

    #[test]
    fn taking_counts_a_transition_and_renewing_none() {
        let first = held("n", &layout(4), "a", None, Timestamp::UNIX_EPOCH);
        let renewed = held("n", &layout(4), "a", Some(&asked(first.clone(), "b")), Timestamp::UNIX_EPOCH);
        assert_eq!(renewed, first, "a renewal drops what was asked");
        let taken = held(
            "n",
            &layout(4),
            "b",
            Some(&released(renewed, Timestamp::UNIX_EPOCH)),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(taken.spec.unwrap().lease_transitions, Some(1));
    }

    #[test]
    fn a_released_lease_is_free_and_still_asked_for() {
        let lease = asked(held("n", &layout(4), "a", None, Timestamp::UNIX_EPOCH), "b");
        let record = Record::of(&released(lease, Timestamp::UNIX_EPOCH));
        assert_eq!(record.holder, None);
        assert_eq!(record.wanted_by.as_deref(), Some("b"));
        assert_eq!(record.shards, 4);
    }
}
