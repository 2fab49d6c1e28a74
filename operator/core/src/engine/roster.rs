//! Which pods were seen to become ready for the first time. Readiness comes and goes; a start happens once.

use std::collections::BTreeMap;

use super::observation::Observation;

/// The pods that are there, as far as they have been ready.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roster {
    starts: BTreeMap<String, Start>,
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    /// It was ready when it was first seen, or has lost its readiness since: nothing is known of its last start.
    Unknown,
    /// It became ready in this round.
    Now,
    /// It became ready in an earlier round, and has been since.
    Earlier,
}

impl Roster {
    /// Looks at a round. Of the pods of the very first one, nothing is known but that they are there.
    pub fn follow(&mut self, observation: &Observation) {
        let mut starts = BTreeMap::new();
        for pod in &observation.pods {
            let (uid, before) = match self.starts.remove_entry(&pod.uid) {
                Some((uid, before)) => (uid, Some(before)),
                None => (pod.uid.clone(), None),
            };
            let start = match (pod.ready_at.is_some(), before) {
                (true, None) if self.begun => Start::Now,
                (true, Some(Start::Now | Start::Earlier)) => Start::Earlier,
                (true, None | Some(Start::Unknown)) | (false, Some(_)) => Start::Unknown,
                (false, None) => continue,
            };
            starts.insert(uid, start);
        }
        (self.starts, self.begun) = (starts, true);
    }

    /// Whether the pod has just become ready for the first time.
    pub fn has_just_started(&self, uid: &str) -> bool {
        self.starts.get(uid) == Some(&Start::Now)
    }

    /// How many pods have just become ready for the first time.
    pub fn just_started(&self) -> usize {
        self.starts.values().filter(|start| **start == Start::Now).count()
    }

    /// Whether the pod was seen to become ready for the first time, and has been ready since.
    pub fn start_is_known(&self, uid: &str) -> bool {
        matches!(self.starts.get(uid), Some(Start::Now | Start::Earlier))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::observation::Pod;
    use super::*;

    fn seen(roster: &mut Roster, pods: &[(&str, bool)]) {
        let pod = |&(uid, ready): &(&str, bool)| Pod {
            uid: uid.into(),
            template: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            ready_at: ready.then_some(Timestamp::UNIX_EPOCH),
            sample: None,
        };
        roster.follow(&Observation { pods: pods.iter().map(pod).collect(), ..Observation::default() });
    }

    #[test]
    fn a_start_is_told_from_a_readiness_that_returns() {
        let mut roster = Roster::default();
        seen(&mut roster, &[("old", true), ("flapping", false)]);
        assert!(!roster.start_is_known("old"), "it was there before");
        seen(&mut roster, &[("old", true), ("new", false)]);
        seen(&mut roster, &[("old", true), ("new", true)]);
        assert!(roster.has_just_started("new") && !roster.has_just_started("old"));
        seen(&mut roster, &[("old", true), ("new", true)]);
        assert!(roster.start_is_known("new") && !roster.has_just_started("new"));
        seen(&mut roster, &[("old", false), ("new", false)]);
        seen(&mut roster, &[("old", true), ("new", true)]);
        assert!(!roster.has_just_started("new") && !roster.start_is_known("new"));
        seen(&mut roster, &[]);
        assert_eq!(roster.starts.len(), 0, "pods that are gone are forgotten");
    }
}
