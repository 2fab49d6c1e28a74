//! The pod templates that were there lately: by which label their pods are known, and what was learned of them. A rollback brings
//! one of them back.

use std::collections::{BTreeMap, VecDeque};

use super::learned::Learned;
use super::observation::Observation;

/// So many templates are remembered, the one that pods have now included.
const TEMPLATES_MAX: usize = 4;

/// The templates, that of now last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Templates {
    seen: VecDeque<Seen>,
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    template: u64,
    /// What the pods call it; not known before they all are of it.
    label: Option<String>,
    learned: Option<Learned>,
}

impl Templates {
    /// The template that new pods have. None before it was seen.
    pub fn current(&self) -> Option<u64> {
        self.seen.back().map(|seen| seen.template)
    }

    /// Looks at a round. What was learned of its template when pods had it before: told once, when they have it again.
    pub fn follow(&mut self, observation: &Observation) -> Option<Learned> {
        let mut again = None;
        if self.current() != Some(observation.template) {
            let known = self.seen.iter().position(|seen| seen.template == observation.template);
            let seen = known.and_then(|index| self.seen.remove(index));
            let mut seen =
                seen.unwrap_or(Seen { template: observation.template, label: None, learned: None });
            again = seen.learned.take();
            self.seen.push_back(seen);
            if self.seen.len() > TEMPLATES_MAX {
                self.seen.pop_front();
            }
        }
        let mut labels = observation.pods.iter().map(|pod| pod.template.as_str());
        let label = labels.next().filter(|label| !observation.rolling_out && !label.is_empty());
        if let (Some(label), Some(seen)) = (label, self.seen.back_mut())
            && labels.all(|other| other == label)
            && seen.label.as_deref() != Some(label)
        {
            seen.label = Some(label.to_owned());
        }
        again
    }

    /// Keeps what was learned of the template of now, for the case that it comes back.
    pub fn keep(&mut self, learned: Option<Learned>) {
        if let Some(seen) = self.seen.back_mut() {
            seen.learned = learned;
        }
    }

    /// During a rollout, the label of the pods that stay: by what it was called when it was there before, or else that of those
    /// labels which are not known whose first pod came last. None while all pods have the same.
    pub fn staying<'a>(&'a self, observation: &'a Observation) -> Option<&'a str> {
        let mut first_created = BTreeMap::new();
        for pod in observation.pods.iter().filter(|_| observation.rolling_out) {
            let first = first_created.entry(pod.template.as_str()).or_insert(pod.created_at);
            *first = pod.created_at.min(*first);
        }
        if first_created.len() < 2 {
            return None;
        }
        if let Some(label) = self.seen.back().and_then(|seen| seen.label.as_deref()) {
            return Some(label);
        }
        let known = |label: &str| self.seen.iter().any(|seen| seen.label.as_deref() == Some(label));
        let candidates = first_created.into_iter().filter(|(label, _)| !known(label));
        candidates.max_by_key(|(_, created_at)| *created_at).map(|(label, _)| label)
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::super::observation::Pod;
    use super::*;

    /// Pods with these labels, in the order in which they were created.
    fn observation(template: u64, rolling_out: bool, labels: &[&str]) -> Observation {
        let created_at =
            |index: usize| Timestamp::UNIX_EPOCH + SignedDuration::try_from_secs_f64(index as f64).unwrap();
        let pod = |(index, label): (usize, &&str)| Pod {
            uid: index.to_string(),
            template: (*label).to_owned(),
            created_at: created_at(index),
            ready_at: None,
            sample: None,
        };
        let pods = labels.iter().enumerate().map(pod).collect();
        Observation { template, rolling_out, pods, ..Observation::default() }
    }

    fn learned(template: u64) -> Learned {
        Learned {
            template,
            capacities: Vec::new(),
            startup_seconds: None,
            typical_seconds: 0.01,
            shared_per_second: None,
        }
    }

    /// Sees each in turn, keeping what is learned of it; what was told of the last.
    fn seen(templates: &mut Templates, observations: &[Observation]) -> Option<Learned> {
        let mut told = None;
        for observation in observations {
            if let Some(before) = templates.current() {
                templates.keep(Some(learned(before)));
            }
            told = templates.follow(observation);
        }
        told
    }

    #[test]
    fn the_pods_of_a_release_that_is_not_known_are_those_whose_first_came_last() {
        let mut templates = Templates::default();
        let rollout = observation(2, true, &["a", "a", "b", "a", "b"]);
        assert_eq!(seen(&mut templates, &[observation(1, false, &["a", "a"]), rollout.clone()]), None);
        assert_eq!(templates.staying(&rollout), Some("b"));
    }

    #[test]
    fn before_the_first_new_pod_is_there_none_stays() {
        let mut templates = Templates::default();
        let rollout = observation(2, true, &["a", "a"]);
        seen(&mut templates, &[observation(1, false, &["a", "a"]), rollout.clone()]);
        assert_eq!(templates.staying(&rollout), None);
    }

    #[test]
    fn in_a_rollback_the_older_pods_stay_and_what_was_learned_of_them_comes_back() {
        let mut templates = Templates::default();
        let halfway = ["a", "a", "b", "b"];
        let released = observation(2, true, &halfway);
        let back = observation(1, true, &halfway);
        let told = seen(&mut templates, &[observation(1, false, &["a"; 4]), released, back.clone()]);
        assert_eq!((told, templates.staying(&back)), (Some(learned(1)), Some("a")));
        assert_eq!(templates.follow(&back), None, "it is told once");
    }

    #[test]
    fn a_release_after_a_rollback_is_told_from_both() {
        let mut templates = Templates::default();
        let of = |template, label| observation(template, false, &[label; 2]);
        let next = observation(3, true, &["a", "b", "c"]);
        seen(&mut templates, &[of(1, "a"), of(2, "b"), of(1, "a"), next.clone()]);
        assert_eq!(templates.staying(&next), Some("c"));
        let hidden = observation(3, true, &["c", "a", "b"]);
        assert_eq!(templates.staying(&hidden), Some("c"), "pods of others that came later do not matter");
    }

    #[test]
    fn few_are_remembered() {
        let mut templates = Templates::default();
        let releases = (0..9).map(|template| observation(template, false, &["x"])).collect::<Vec<_>>();
        seen(&mut templates, &releases);
        assert_eq!(templates.seen.len(), TEMPLATES_MAX);
        assert_eq!(seen(&mut templates, &[observation(3, false, &["x"])]), None);
        assert_eq!(seen(&mut templates, &[observation(7, false, &["x"])]), Some(learned(7)));
    }

    #[test]
    fn pods_without_a_label_are_not_told_apart() {
        let mut templates = Templates::default();
        let rollout = observation(2, true, &["", ""]);
        seen(&mut templates, &[observation(1, false, &["", ""]), rollout.clone()]);
        assert_eq!(templates.staying(&rollout), None);
    }
}
