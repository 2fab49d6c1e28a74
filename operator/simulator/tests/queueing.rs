//! The simulated world against queueing theory: what is known exactly must come out.

use std::time::Duration;

use plimsoll_simulator::distribution::Distribution;
use plimsoll_simulator::peers::fixed::Fixed;
use plimsoll_simulator::policy::{Policy, View};
use plimsoll_simulator::service::{Dependency, Service};
use plimsoll_simulator::{Scenario, Target, generate, run};

const START_UP: Distribution = Distribution::Constant { seconds: 12.0 };

/// Erlang's C formula: the chance that a request has to wait with `servers` and an offered load of `load` erlangs.
fn erlang_c(servers: u32, load: f64) -> f64 {
    let mut blocking = 1.0;
    for server in 1..=servers {
        blocking = load * blocking / (f64::from(server) + load * blocking);
    }
    blocking / (1.0 - load / f64::from(servers) * (1.0 - blocking))
}

/// P(response time > t) of an M/M/k queue.
fn slower_than(t: f64, servers: u32, load: f64, mean: f64) -> f64 {
    let spare = f64::from(servers) - 1.0 - load;
    let gone = (-t / mean).exp();
    gone * (1.0 + erlang_c(servers, load) * (1.0 - (-t / mean * spare).exp()) / spare)
}

fn scenario(rate: f64, seconds: u32, service: Service, latency: f64) -> Scenario {
    let target = Target { quantile: 0.99, latency: Duration::from_secs_f64(latency) };
    Scenario::new("theory", generate::step(seconds, 0, rate, rate), service, target)
}

/// The share of requests slower than the target, with `replicas` pods from the start.
fn over_share(mut scenario: Scenario, replicas: u32) -> f64 {
    scenario.replicas_initial = replicas;
    run(&scenario, &mut Fixed { replicas }).score().over_share
}

/// A fixed fleet that remembers the newest totals: `(request seconds, answers, in flight)`.
struct Probe {
    replicas: u32,
    totals: (f64, f64, f64),
}

impl Policy for Probe {
    fn name(&self) -> String {
        "probe".into()
    }

    fn period(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        self.totals = (0.0, 0.0, 0.0);
        for reading in view.pods.iter().filter_map(|pod| pod.reading.as_ref()?.as_ref().ok()) {
            self.totals.0 += reading.counters.request_seconds;
            self.totals.1 += reading.counters.answered as f64;
            self.totals.2 += f64::from(reading.counters.in_flight);
        }
        self.replicas
    }
}

/// Mean time in the system, by Little's law.
fn mean_seconds(mut scenario: Scenario, replicas: u32) -> f64 {
    scenario.replicas_initial = replicas;
    let mut probe = Probe { replicas, totals: (0.0, 0.0, 0.0) };
    run(&scenario, &mut probe);
    probe.totals.0 / (probe.totals.1 + probe.totals.2)
}

/// 400 requests/s of 50 ms exponential service on 4-worker pods behind a random balancer: each pod is an M/M/4 queue.
/// The table's 99th percentiles are 394, 281, 253, 238 and 230 ms with 6, 7, 8, 10 and 40 pods.
#[test]
fn a_random_split_gives_an_mmk_queue_in_each_pod() {
    for (pods, p99) in [(6, 0.394), (7, 0.281), (8, 0.253), (10, 0.238), (40, 0.230)] {
        let load = 400.0 / f64::from(pods) * 0.05;
        let expected = slower_than(p99, 4, load, 0.05);
        assert!((expected - 0.01).abs() < 0.000_3, "{pods}: theory says {expected}");
        let service = Service::workers(4, Distribution::Exponential { mean: 0.05 }, START_UP);
        let measured = over_share(scenario(400.0, 3600, service, p99), pods);
        assert!((measured / expected - 1.0).abs() < 0.06, "{pods}: {measured} against {expected}");
    }
}

/// The whole distribution of the wait, not only its tail.
#[test]
fn shares_over_any_time_are_those_of_erlang() {
    for latency in [0.02, 0.05, 0.1, 0.2] {
        let service = Service::workers(4, Distribution::Exponential { mean: 0.05 }, START_UP);
        let expected = slower_than(latency, 4, 2.8, 0.05);
        let measured = over_share(scenario(56.0, 10_000, service, latency), 1);
        assert!((measured / expected - 1.0).abs() < 0.03, "{latency}: {measured} against {expected}");
    }
}

/// Pollaczek and Khinchine: the mean wait of an M/G/1 queue is λ E[S²] / 2 (1 − ρ).
#[test]
fn one_worker_waits_as_pollaczek_and_khinchine_say() {
    for work in [
        Distribution::Constant { seconds: 0.01 },
        Distribution::Lognormal { mean: 0.01, cv: 1.5 },
        Distribution::TwoPoint { hit_share: 0.9, hit: 0.005, miss: 0.055 },
        Distribution::BoundedPareto { low: 0.003, high: 0.3, shape: 1.6 },
    ] {
        let rate = 0.7 / work.mean();
        let expected = work.mean() + rate * work.second_moment() / (2.0 * 0.3);
        for service in [Service::workers(1, work, START_UP), Service::event_loop(1.0, work, START_UP)] {
            let measured = mean_seconds(scenario(rate, 20_000, service, 1.0), 1);
            assert!((measured / expected - 1.0).abs() < 0.04, "{work:?}: {measured} against {expected}");
        }
    }
}

/// A pod under a quota stalls, though less than one that would run at a tenth of the speed all the time: a burst within a
/// period's budget runs at full speed.
#[test]
fn a_cpu_quota_lies_between_a_whole_core_and_a_slow_one() {
    let work = Distribution::Constant { seconds: 0.002 };
    let mean = |rate| mean_seconds(scenario(rate, 4000, Service::event_loop(0.1, work, START_UP), 1.0), 1);
    // Five requests use up the 10 ms of a period; at 5 a second nearly no period has so many.
    assert!(mean(5.0) < 0.003, "{}", mean(5.0));
    // At 80 % of what they have, a core with requests of 2 ms needs 6 ms and a slow one with requests of 20 ms needs 60 ms.
    assert!((0.008..0.05).contains(&mean(40.0)), "{}", mean(40.0));
}

/// A dependency with one place is an M/M/1 queue for all pods together, which no number of pods shortens.
#[test]
fn a_saturated_dependency_is_one_queue_for_all_pods() {
    let none = Distribution::Constant { seconds: 0.0 };
    for replicas in [2, 20] {
        let service = Service::event_loop(1.0, none, START_UP);
        let mut scenario = scenario(80.0, 10_000, service, 1.0);
        let work = Distribution::Exponential { mean: 0.01 };
        scenario.dependency = Some(Dependency { concurrency: 1, work, share: 1.0 });
        let measured = mean_seconds(scenario, replicas);
        assert!((measured / 0.05 - 1.0).abs() < 0.06, "{replicas}: {measured}");
    }
}
