//! The peers in the simulated world: each settles where its arithmetic says, and shows the weakness it is known for.

use std::time::Duration;

use plimsoll_simulator::distribution::Distribution;
use plimsoll_simulator::peers::hpa::Hpa;
use plimsoll_simulator::peers::keda::{Keda, Trigger};
use plimsoll_simulator::peers::kpa::{Config, Kpa, Metric};
use plimsoll_simulator::peers::settings::customary;
use plimsoll_simulator::scenario::{Fault, Lie};
use plimsoll_simulator::service::{Change, Changed, Service};
use plimsoll_simulator::{Outcome, Policy, Scenario, Target, generate, run};

/// 4-worker pods of 4 cores that start in 12 s, with 50 ms of work a request, under 400 requests a second: 20 cores' worth.
fn scenario(seconds: u32) -> Scenario {
    let work = Distribution::Exponential { mean: 0.05 };
    let service = Service::workers(4, work, Distribution::Constant { seconds: 12.0 });
    let target = Target { quantile: 0.99, latency: Duration::from_millis(300) };
    let mut scenario = Scenario::new("peers", generate::step(seconds, 0, 400.0, 400.0), service, target);
    scenario.replicas_initial = 20;
    scenario
}

fn last(outcome: &Outcome) -> u32 {
    outcome.seconds.last().map_or(0, |second| second.wanted)
}

fn knative(metric: Metric, target: f64) -> Kpa {
    Kpa::new(Config { metric, target, ..Config::default() }, 1)
}

#[test]
fn each_settles_where_its_arithmetic_says() {
    // 60 % of 4 cores are 2.4 a pod: 8.3 pods, and within a tenth of that nothing is done.
    let mut hpa = Hpa::on_cpu(60);
    let mut keda = Keda::new(Trigger::new(50.0, Duration::from_mins(2)));
    let mut rps = knative(Metric::Rps, 50.0 / 0.7);
    // At 8 pods a request stays 55 ms: 22 requests at once, 2.75 a pod.
    let mut concurrency = knative(Metric::Concurrency, 2.8 / 0.7);
    let policies: [&mut dyn Policy; 4] = [&mut hpa, &mut keda, &mut rps, &mut concurrency];
    for policy in policies {
        let outcome = run(&scenario(1200), policy);
        assert!((7..=10).contains(&last(&outcome)), "{}: {:?}", outcome.policy, outcome.scalings);
    }
}

#[test]
fn the_hpa_goes_down_after_five_minutes_and_knative_within_one() {
    let down = |policy: &mut dyn Policy| run(&scenario(900), policy).scalings.first().unwrap().at;
    assert!((300.0..345.0).contains(&down(&mut Hpa::on_cpu(60))));
    assert!((60.0..70.0).contains(&down(&mut knative(Metric::Rps, 50.0 / 0.7))));
}

#[test]
fn knative_panics_within_seconds_of_a_step_that_keda_sees_much_later() {
    let first_up = |policy: &mut dyn Policy| {
        let mut scenario = scenario(900);
        scenario.trace = generate::step(900, 600, 100.0, 400.0);
        scenario.replicas_initial = 2;
        let outcome = run(&scenario, policy);
        // Enough for the new load.
        let up = outcome.scalings.iter().find(|scaling| scaling.at >= 600.0 && scaling.to >= 7).unwrap();
        up.at - 600.0
    };
    let knative = first_up(&mut knative(Metric::Rps, 50.0 / 0.7));
    let keda = first_up(&mut Keda::new(Trigger::new(50.0, Duration::from_mins(2))));
    assert!(knative < 10.0, "{knative}");
    // It sees answers, of which two pods give 160 a second whatever the load.
    assert!((60.0..300.0).contains(&keda), "{keda}");
}

#[test]
fn each_gives_the_same_run_again() {
    let bytes = |policy: &mut dyn Policy| {
        let mut scenario = scenario(600);
        scenario.trace = generate::bursts(1, 600, 200.0, 3.0, 100.0);
        scenario.scraping.loss = 0.1;
        serde_json::to_vec(&run(&scenario, policy)).unwrap()
    };
    for setting in customary() {
        let twice = [(); 2].map(|()| bytes(setting.policy(&scenario(600)).as_mut()));
        assert_eq!(twice[0], twice[1], "{setting:?}");
    }
}

/// CPU says nothing of a release that waits longer without computing more.
#[test]
fn cpu_does_not_see_a_service_that_waits() {
    let mut scenario = scenario(1200);
    scenario.service.cpu_share = 0.1;
    scenario.service.cpu_request = 0.4;
    scenario.replicas_initial = 9;
    let slow = Service { cpu_share: 0.05, ..scenario.service.release(2.0) };
    let change = Changed::Rollout { service: Box::new(slow) };
    scenario.changes = vec![Change { at: Duration::from_mins(5), what: change }];
    let outcome = run(&scenario, &mut Hpa::on_cpu(60));
    assert!(last(&outcome) <= 10, "{:?}", outcome.scalings);
    assert!(outcome.score().violation_minutes >= 10, "{:?}", outcome.score());
}

/// `ignoreNullValues` takes a blind Prometheus for no load.
#[test]
fn keda_removes_the_fleet_when_it_is_blind() {
    let lowest = |ignore_null_values| {
        let mut scenario = scenario(1200);
        scenario.replicas_initial = 8;
        scenario.scraping.faults = (0..200)
            .map(|pod| Fault {
                pod,
                from: Duration::from_mins(6),
                until: Duration::from_mins(18),
                lie: Lie::Silent,
            })
            .collect();
        let trigger = Trigger { ignore_null_values, ..Trigger::new(50.0, Duration::from_mins(1)) };
        let outcome = run(&scenario, &mut Keda::new(trigger));
        outcome.seconds[360..1080].iter().map(|second| second.wanted).min().unwrap()
    };
    assert_eq!(lowest(true), 1);
    assert!(lowest(false) >= 7);
}
