//! What the Deployment's and the ReplicaSet's controllers do: which pods to create and which to delete.
//!
//! A rolling update adds at most a quarter of the wanted replicas, rounded up, and lets no replica be missing (maxSurge
//! 25 %, maxUnavailable 0), as in
//! <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-update-deployment>. A change of the
//! replicas during an update goes to the new template.

use crate::clock::Nanos;
use crate::pod::Pod;
use crate::policy::PodState;

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) create: u32,
    pub(crate) delete: Vec<u32>,
}

/// The next steps toward `wanted` replicas of `template`; `live` are the indices of the pods that are not terminating.
pub(crate) fn steps(pods: &[Pod], live: &[u32], template: u32, wanted: u32) -> Steps {
    let (new, old): (Vec<u32>, Vec<u32>) =
        live.iter().partition(|&&index| pods[index as usize].template == template);
    let ready = |indices: &[u32]| {
        indices.iter().filter(|&&index| pods[index as usize].state == PodState::Ready).count() as u32
    };
    let (new_count, old_count) = (new.len() as u32, old.len() as u32);
    let mut steps = Steps::default();
    if new_count > wanted {
        steps.delete = victims(pods, new, new_count - wanted);
        return steps;
    }
    if old.is_empty() {
        steps.create = wanted - new_count;
        return steps;
    }
    let surge = wanted.div_ceil(4);
    let room = (wanted + surge).saturating_sub(new_count + old_count);
    steps.create = room.min(wanted - new_count);
    // Old pods may go as far as that many Ready ones stay, and those that are not Ready anyway.
    let spare_all = (new_count + old_count).saturating_sub(wanted + (new_count - ready(&new)));
    let unready_old = (old_count - ready(&old)).min(spare_all);
    let spare_ready = (ready(&new) + ready(&old)).saturating_sub(wanted).min(ready(&old));
    steps.delete = victims(pods, old, unready_old + spare_ready);
    steps
}

/// The pods that a ReplicaSet deletes first: those not Ready, and then those that became so last
/// (<https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset>).
fn victims(pods: &[Pod], mut candidates: Vec<u32>, count: u32) -> Vec<u32> {
    let age = |index: u32| -> (bool, Nanos, Nanos) {
        let pod = &pods[index as usize];
        (pod.state == PodState::Ready, Nanos::MAX - pod.ready.unwrap_or(0), Nanos::MAX - pod.created)
    };
    candidates.sort_by_key(|&index| (age(index), std::cmp::Reverse(index)));
    candidates.truncate(count as usize);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::Distribution;
    use crate::service::Service;

    /// Pods by their template and, if Ready, since when.
    fn pods(of: &[(u32, Option<Nanos>)]) -> (Vec<Pod>, Vec<u32>) {
        let time = Distribution::Constant { seconds: 1.0 };
        let service = Service::workers(1, time, time);
        let pods = of
            .iter()
            .enumerate()
            .map(|(id, &(template, ready))| {
                let mut pod = Pod::new(id as u64, template, &service, 1, 0);
                pod.ready = ready;
                pod.state = if ready.is_some() { PodState::Ready } else { PodState::Pending };
                pod
            })
            .collect();
        (pods, (0..of.len() as u32).collect())
    }

    fn plan(of: &[(u32, Option<Nanos>)], template: u32, wanted: u32) -> Steps {
        let (pods, live) = pods(of);
        steps(&pods, &live, template, wanted)
    }

    #[test]
    fn scales_to_what_is_wanted() {
        assert_eq!(plan(&[(0, Some(0))], 0, 3), Steps { create: 2, delete: vec![] });
        assert_eq!(plan(&[(0, Some(0)); 3], 0, 3), Steps::default());
    }

    #[test]
    fn deletes_the_unready_first_and_then_the_youngest() {
        let of = [(0, Some(5)), (0, None), (0, Some(50)), (0, Some(7))];
        assert_eq!(plan(&of, 0, 3).delete, [1]);
        assert_eq!(plan(&of, 0, 2).delete, [1, 2]);
        assert_eq!(plan(&of, 0, 1).delete, [1, 2, 3]);
    }

    #[test]
    fn an_update_adds_a_quarter_and_keeps_all_ready() {
        let old = [(0, Some(0)); 4];
        assert_eq!(plan(&old, 1, 4), Steps { create: 1, delete: vec![] });
        let starting = [old.as_slice(), &[(1, None)]].concat();
        assert_eq!(plan(&starting, 1, 4), Steps::default());
        let ready = [old.as_slice(), &[(1, Some(9))]].concat();
        assert_eq!(plan(&ready, 1, 4), Steps { create: 0, delete: vec![3] });
        assert_eq!(plan(&[(1, Some(9)); 4], 1, 4), Steps::default());
    }

    #[test]
    fn an_update_deletes_old_pods_that_never_became_ready() {
        let of = [(0, Some(0)), (0, Some(0)), (0, None), (0, None), (1, None)];
        assert_eq!(plan(&of, 1, 4).delete, Vec::<u32>::new());
        let of = [(0, Some(0)), (0, Some(0)), (0, None), (0, None), (1, Some(1))];
        assert_eq!(plan(&of, 1, 4).delete, [3]);
    }
}
