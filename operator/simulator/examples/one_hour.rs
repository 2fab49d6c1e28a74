//! How long a simulated hour takes: 50 pods at 1,000 requests a second, on one core.
//!
//! `cargo run --release --package plimsoll-simulator --example one_hour`

use std::time::{Duration, Instant};

use plimsoll_simulator::distribution::Distribution;
use plimsoll_simulator::peers::fixed::Fixed;
use plimsoll_simulator::peers::hpa::Hpa;
use plimsoll_simulator::peers::keda::{Keda, Trigger};
use plimsoll_simulator::peers::kpa::{Config, Kpa};
use plimsoll_simulator::service::Service;
use plimsoll_simulator::{Policy, Scenario, Target, generate, run};

fn main() {
    let trace = generate::step(3600, 0, 1000.0, 1000.0);
    let start_up = Distribution::Constant { seconds: 12.0 };
    let service = Service::workers(4, Distribution::Lognormal { mean: 0.1, cv: 1.0 }, start_up);
    let target = Target { quantile: 0.99, latency: Duration::from_millis(600) };
    let mut scenario = Scenario::new("one hour", trace, service, target);
    (scenario.replicas_initial, scenario.replicas_min, scenario.replicas_max) = (50, 50, 50);
    let policies: [Box<dyn Policy>; 4] = [
        Box::new(Fixed { replicas: 50 }),
        Box::new(Hpa::on_cpu(50)),
        Box::new(Keda::new(Trigger::new(20.0, Duration::from_mins(2)))),
        Box::new(Kpa::new(Config::default(), 1)),
    ];
    for mut policy in policies {
        let begin = Instant::now();
        let outcome = run(&scenario, policy.as_mut());
        println!("{}: {} requests in {:.2?}", outcome.policy, outcome.offered, begin.elapsed());
    }
}
