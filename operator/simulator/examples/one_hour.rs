//! How long a simulated hour takes: 50 pods at 1,000 requests a second, on one core.
//!
//! `cargo run --release --package plimsoll-simulator --example one_hour`

use std::time::{Duration, Instant};

use plimsoll_simulator::distribution::Distribution;
use plimsoll_simulator::peers::fixed::Fixed;
use plimsoll_simulator::service::Service;
use plimsoll_simulator::{Scenario, Target, generate, run};

fn main() {
    let trace = generate::step(3600, 0, 1000.0, 1000.0);
    let start_up = Distribution::Constant { seconds: 12.0 };
    let service = Service::workers(2, Distribution::Lognormal { mean: 0.05, cv: 1.0 }, start_up);
    let target = Target { quantile: 0.99, latency: Duration::from_millis(300) };
    let mut scenario = Scenario::new("one hour", trace, service, target);
    scenario.replicas_initial = 50;
    let begin = Instant::now();
    let outcome = run(&scenario, &mut Fixed { replicas: 50 });
    println!("{} requests in {:.2?}: {:?}", outcome.offered, begin.elapsed(), outcome.score());
}
