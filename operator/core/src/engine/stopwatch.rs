//! Whether a service's own stopwatch hides what its requests wait.
//!
//! Under a CPU limit requests may wait in the socket, before any code sees them; the histogram then looks well however long
//! clients wait. The kernel's own account is the second witness: pods that use up their limit and are throttled in most
//! periods have more to do than they can. Requests of such pods wait, and where the histogram shows no such wait it cannot
//! be believed when it says that all is well.

use super::estimate::PodRound;

/// Pods use up their limit from this part of it on,
const USED_UP: f64 = 0.9;
/// when they are throttled in this share of the periods in which they have something to do.
const THROTTLED: f64 = 0.8;
/// Share of the pods that must.
const PODS: f64 = 0.5;
/// Rounds in a row that must say so.
const ROUNDS_MIN: u32 = 3;
/// At this utilisation requests wait for about this many mean times of service, and for longer beyond it: 0.95 / (2 · 0.05),
/// the mean wait of an M/D/1 queue.
const WAIT_SERVICES: f64 = 9.5;
/// A median below this part of it shows no wait. The median of the wait itself is two thirds of its mean.
const SHOWN: f64 = 0.5;
/// What was found is believed for this long: the service may have changed.
const BELIEVED_SECONDS: f64 = 3600.0;

/// What was found of the stopwatch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stopwatch {
    rounds: u32,
    hides_wait_since_seconds: Option<f64>,
}

impl Stopwatch {
    /// Looks at a round of `pods` whose median latency was `median_seconds` by their own account.
    pub fn follow(&mut self, now_seconds: f64, pods: &[&PodRound], median_seconds: f64) {
        let used_up = pods.iter().filter(|pod| uses_up_its_limit(pod)).count() as f64;
        let completed = pods.iter().map(|pod| pod.completed_per_second).sum::<f64>() / pods.len() as f64;
        let shown = median_seconds * completed > SHOWN * WAIT_SERVICES;
        let hidden = used_up > PODS * pods.len() as f64 && !shown;
        self.rounds = if hidden { self.rounds + 1 } else { 0 };
        if self.rounds >= ROUNDS_MIN {
            self.hides_wait_since_seconds = Some(now_seconds);
        }
    }

    /// Whether it hides what requests wait.
    pub fn hides_wait(&self, now_seconds: f64) -> bool {
        self.hides_wait_since_seconds.is_some_and(|since| now_seconds - since < BELIEVED_SECONDS)
    }
}

/// Whether a pod could have used more CPU than its limit allows.
fn uses_up_its_limit(pod: &PodRound) -> bool {
    pod.cpu.is_some_and(|cpu| {
        cpu.limit_cores.is_some_and(|limit| cpu.cores >= USED_UP * limit) && cpu.throttled_share >= THROTTLED
    })
}

#[cfg(test)]
mod tests {
    use super::super::estimate::CpuRound;
    use super::*;

    /// Pods of half a core that complete 100 requests a second at most.
    fn pod(utilization: f64, throttled_share: f64) -> PodRound {
        PodRound {
            completed_per_second: 100.0 * utilization,
            shed_per_second: 0.0,
            in_flight: 1.0,
            warm: true,
            telling: true,
            cpu: Some(CpuRound { cores: 0.5 * utilization, limit_cores: Some(0.5), throttled_share }),
        }
    }

    fn hides(pods: &[PodRound], median_seconds: f64, rounds: u32) -> bool {
        let mut stopwatch = Stopwatch::default();
        for round in 0..rounds {
            let pods = pods.iter().collect::<Vec<_>>();
            stopwatch.follow(5.0 * f64::from(round), &pods, median_seconds);
        }
        stopwatch.hides_wait(5.0 * f64::from(rounds))
    }

    #[test]
    fn throttled_pods_that_show_no_wait_hide_it() {
        let pods = [pod(1.0, 1.0), pod(0.98, 0.95), pod(0.5, 0.1)];
        assert!(hides(&pods, 0.008, 3));
        assert!(!hides(&pods, 0.008, 2), "two rounds are chance");
    }

    #[test]
    fn throttled_pods_that_show_their_wait_are_believed() {
        assert!(!hides(&[pod(0.97, 0.9)], 0.1, 9));
    }

    #[test]
    fn pods_with_room_are_believed() {
        assert!(!hides(&[pod(0.8, 0.9)], 0.008, 9), "20 % of the limit are left");
        assert!(!hides(&[pod(0.95, 0.4)], 0.008, 9), "throttled now and then");
        assert!(!hides(&[pod(1.0, 1.0), pod(0.5, 0.1), pod(0.5, 0.1)], 0.008, 9), "one pod of three");
        let unlimited = PodRound { cpu: None, ..pod(1.0, 1.0) };
        assert!(!hides(&[unlimited], 0.008, 9));
    }

    #[test]
    fn what_was_found_ends() {
        let mut stopwatch = Stopwatch { hides_wait_since_seconds: Some(10.0), ..Stopwatch::default() };
        assert!(stopwatch.hides_wait(1000.0) && !stopwatch.hides_wait(10.0 + BELIEVED_SECONDS));
        stopwatch.follow(20.0, &[&pod(0.5, 0.1)], 0.008);
        assert!(stopwatch.hides_wait(1000.0));
    }
}
