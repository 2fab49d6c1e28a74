//! Which pod gets a request.

use crate::clock::{Nanos, nanos_of};
use crate::pod::Pod;
use crate::policy::PodState;
use crate::random::{Purpose, Random};
use crate::scenario::Balancing;

pub(crate) struct Balancer {
    random: Random,
    kind: Balancing,
    /// Of each connection: its pod, and when the pod closes it. `None` before the first request.
    connections: Vec<Option<(u32, Nanos)>>,
}

impl Balancer {
    pub(crate) fn new(kind: Balancing, seed: u64) -> Self {
        let connections = match kind {
            Balancing::Connections { count, .. } => vec![None; count as usize],
            Balancing::Random | Balancing::LeastLoaded => Vec::new(),
        };
        Self { random: Random::new(seed, Purpose::Balancing), kind, connections }
    }

    /// The index of the pod that gets the next request; `endpoints` are the indices of those that are Ready.
    pub(crate) fn pick(&mut self, now: Nanos, endpoints: &[u32], pods: &[Pod]) -> Option<u32> {
        match self.kind {
            Balancing::Random => self.any(endpoints),
            Balancing::LeastLoaded => {
                // From a random place on, so that pods with as little to do take turns.
                let first = self.random.below(endpoints.len());
                let turned = endpoints[first..].iter().chain(&endpoints[..first]);
                turned.min_by_key(|&&pod| pods[pod as usize].load).copied()
            }
            Balancing::Connections { age_max, .. } => {
                let index = self.random.below(self.connections.len());
                let open = self
                    .connections
                    .get(index)
                    .copied()
                    .flatten()
                    .filter(|&(pod, closes)| now < closes && pods[pod as usize].state == PodState::Ready);
                if let Some((pod, _)) = open {
                    return Some(pod);
                }
                let pod = self.any(endpoints)?;
                let closes = age_max.map_or(Nanos::MAX, |age| {
                    now + (nanos_of(age) as f64 * self.random.between(0.9, 1.1)) as Nanos
                });
                if let Some(connection) = self.connections.get_mut(index) {
                    *connection = Some((pod, closes));
                }
                Some(pod)
            }
        }
    }

    fn any(&mut self, endpoints: &[u32]) -> Option<u32> {
        endpoints.get(self.random.below(endpoints.len())).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::SECOND;
    use crate::distribution::Distribution;
    use crate::service::Service;

    fn pods(count: u32) -> Vec<Pod> {
        let time = Distribution::Constant { seconds: 1.0 };
        let service = Service::workers(1, time, time);
        (0..count)
            .map(|id| {
                let mut pod = Pod::new(u64::from(id), 0, &service, 1, 0);
                pod.state = PodState::Ready;
                pod
            })
            .collect()
    }

    fn counts(balancer: &mut Balancer, now: Nanos, endpoints: &[u32], pods: &[Pod]) -> Vec<usize> {
        let mut counts = vec![0; pods.len()];
        for _ in 0..10_000 {
            counts[balancer.pick(now, endpoints, pods).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn random_spreads_evenly_over_the_endpoints() {
        let pods = pods(4);
        let counts = counts(&mut Balancer::new(Balancing::Random, 1), 0, &[0, 2, 3], &pods);
        assert_eq!(counts[1], 0);
        assert!([0, 2, 3].iter().all(|&pod| (3100..3600).contains(&counts[pod])), "{counts:?}");
    }

    #[test]
    fn least_loaded_takes_the_emptiest_and_turns_among_equals() {
        let mut pods = pods(3);
        pods[0].load = 2;
        let counts = counts(&mut Balancer::new(Balancing::LeastLoaded, 1), 0, &[0, 1, 2], &pods);
        assert_eq!(counts[0], 0);
        assert!(counts[1] > 3000 && counts[2] > 3000, "{counts:?}");
    }

    #[test]
    fn connections_stay_until_they_age_or_their_pod_goes() {
        let mut pods = pods(2);
        let kind = Balancing::Connections { count: 50, age_max: Some(Duration::from_secs(30)) };
        let mut balancer = Balancer::new(kind, 1);
        assert_eq!(counts(&mut balancer, 0, &[0], &pods)[0], 10_000);
        // A pod that is new gets nothing while the connections are young ...
        assert_eq!(counts(&mut balancer, 20 * SECOND, &[0, 1], &pods)[1], 0);
        // ... and its share once they were closed.
        let later = counts(&mut balancer, 40 * SECOND, &[0, 1], &pods)[1];
        assert!((3000..7000).contains(&later), "{later}");
        pods[0].state = PodState::Draining;
        assert_eq!(counts(&mut balancer, 41 * SECOND, &[1], &pods)[0], 0);
    }

    #[test]
    fn nobody_answers_without_endpoints() {
        for kind in
            [Balancing::Random, Balancing::LeastLoaded, Balancing::Connections { count: 3, age_max: None }]
        {
            assert_eq!(Balancer::new(kind, 1).pick(0, &[], &[]), None);
        }
    }
}
