//! Lets an object of a watch pass once for each generation of its spec: our own writes of the status are no news.
//!
//! Unlike kube's predicates it forgets an object that is gone. One that leaves the selector and comes back with the spec
//! that it had is news again, though the generation is the same.

use std::collections::{HashMap, HashSet};

use kube::Resource;
use kube_runtime::watcher::Event;

/// What has passed.
#[derive(Debug, Default)]
pub struct Generations {
    /// Generation by UID.
    passed: HashMap<String, Option<i64>>,
    /// UIDs of the list that is being read. A list tells of no deletion.
    listed: HashSet<String>,
}

impl Generations {
    /// Whether an event is news.
    pub fn passes<K: Resource>(&mut self, event: &Event<K>) -> bool {
        match event {
            Event::Init => {
                self.listed.clear();
                true
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.passed.retain(|uid, _| listed.contains(uid));
                true
            }
            Event::InitApply(object) => {
                self.listed.insert(uid_of(object));
                self.applied(object)
            }
            Event::Apply(object) => self.applied(object),
            Event::Delete(object) => {
                self.passed.remove(&uid_of(object));
                true
            }
        }
    }

    fn applied<K: Resource>(&mut self, object: &K) -> bool {
        let generation = object.meta().generation;
        self.passed.insert(uid_of(object), generation) != Some(generation)
    }
}

fn uid_of<K: Resource>(object: &K) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(uid: &str, generation: i64) -> Pod {
        let mut pod = Pod::default();
        (pod.metadata.uid, pod.metadata.generation) = (Some(uid.into()), Some(generation));
        pod
    }

    #[test]
    fn a_status_is_no_news_and_a_spec_is() {
        let mut generations = Generations::default();
        assert!(generations.passes(&Event::Apply(pod("a", 1))));
        assert!(!generations.passes(&Event::Apply(pod("a", 1))));
        assert!(generations.passes(&Event::Apply(pod("a", 2))));
        assert!(generations.passes(&Event::Apply(pod("b", 2))));
    }

    #[test]
    fn what_comes_back_into_the_selector_is_news() {
        let mut generations = Generations::default();
        assert!(generations.passes(&Event::Apply(pod("a", 1))));
        assert!(generations.passes(&Event::Delete(pod("a", 1))));
        assert!(generations.passes(&Event::Apply(pod("a", 1))));
    }

    #[test]
    fn a_list_is_news_only_where_it_differs_and_forgets_what_it_lacks() {
        let mut generations = Generations::default();
        for uid in ["a", "b"] {
            assert!(generations.passes(&Event::Apply(pod(uid, 1))));
        }
        generations.passes(&Event::<Pod>::Init);
        assert!(!generations.passes(&Event::InitApply(pod("a", 1))));
        generations.passes(&Event::<Pod>::InitDone);
        assert!(generations.passes(&Event::Apply(pod("b", 1))), "it was gone");
    }
}
