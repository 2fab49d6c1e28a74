//! The cases on which policies are compared: traces of many shapes, on services that start fast or slowly, have light or
//! heavy tails, are throttled, or depend on something that saturates; and services that change under the policy.

use std::time::Duration;

use crate::distribution::Distribution;
use crate::generate;
use crate::scenario::{Scenario, Target};
use crate::service::{Change, Changed, Dependency, Service, WarmUp};
use crate::trace::Trace;

/// Pods that a trace's peak needs, about: a trace is scaled by the one factor that makes it so.
pub const PEAK_PODS: f64 = 20.0;
/// The part of what a pod can serve at most, at which a trace's peak gives each of [`PEAK_PODS`] that much.
pub const PEAK_PART: f64 = 0.65;

/// A service with its promise.
#[derive(Clone, Debug)]
pub struct Kind {
    /// What it is called in results.
    pub name: &'static str,
    /// The service.
    pub service: Service,
    /// The promise.
    pub target: Target,
    /// What it depends on: the share of the requests that call, the time of a call, and at which part of the trace's peak
    /// the dependency is saturated.
    pub dependency: Option<(f64, Distribution, f64)>,
}

/// The services. A promise is the unloaded 99th percentile and a third more, or what a throttled pod needs beside it.
pub fn kinds() -> Vec<Kind> {
    let start = |mean| Distribution::Lognormal { mean, cv: 0.2 };
    let light = Distribution::Lognormal { mean: 0.05, cv: 0.3 };
    let exponential = Distribution::Exponential { mean: 0.05 };
    let heavy = Distribution::BoundedPareto { low: 0.02, high: 1.5, shape: 1.7 };
    let cached = Distribution::TwoPoint { hit_share: 0.85, hit: 0.01, miss: 0.12 };
    let call = Distribution::Lognormal { mean: 0.02, cv: 0.5 };
    let warm_up = WarmUp { time: Duration::from_secs(5), requests: 50, factor: 2.0 };
    let kind = |name, service: Service, latency_ms| Kind {
        name,
        service,
        target: Target { quantile: 0.99, latency: Duration::from_millis(latency_ms) },
        dependency: None,
    };
    vec![
        kind("fast start, light tail", Service::workers(4, light, start(3.0)), 140),
        kind("exponential", Service::workers(4, exponential, start(12.0)), 300),
        kind(
            "slow start, cold at first",
            Service { warm_up, ..Service::workers(4, exponential, start(45.0)) },
            300,
        ),
        kind("heavy tail", Service::workers(4, heavy, start(12.0)), 700),
        kind("cache in front", Service::workers(2, cached, start(12.0)), 220),
        kind(
            "throttled event loop",
            Service::event_loop(0.1, Distribution::Lognormal { mean: 0.005, cv: 0.3 }, start(2.0)),
            300,
        ),
        Kind {
            dependency: Some((1.0, call, 0.85)),
            ..kind(
                "dependency-bound",
                Service::event_loop(0.5, Distribution::Lognormal { mean: 0.01, cv: 0.5 }, start(8.0)),
                200,
            )
        },
    ]
}

/// When the load of the trace "step" doubles, in seconds.
pub const STEP_AT: u32 = 1200;

/// Traces made from a seed, an hour each, with a peak of about 1.
pub fn traces(seed: u64) -> Vec<(&'static str, Trace)> {
    const HOUR: u32 = 3600;
    vec![
        ("step", generate::step(HOUR, STEP_AT, 0.4, 0.8)),
        ("ramp", generate::ramp(HOUR, (600, 0.3), (2400, 1.0))),
        ("diurnal", generate::diurnal(seed, HOUR, 1.0, 0.2, 0.9)),
        ("two days", generate::diurnal(seed, HOUR, 2.0, 0.1, 0.9)),
        ("bursts", generate::bursts(seed, HOUR, 0.5, 1.6, 400.0)),
        ("flash crowd", generate::flash_crowd(HOUR, 0.25, 4.0, 1200, 60.0, 300.0)),
        ("on and off", generate::on_off(HOUR, 300, 0.3, 0.7)),
        ("noisy constant", generate::noisy(seed, HOUR, 0.6, 0.1, 20.0)),
    ]
}

/// A trace on a service. The trace is scaled by one factor, so that its highest minute is [`PEAK_PART`] of what
/// [`PEAK_PODS`] can serve; the factor is `scenario.trace.peak() / trace.peak()`.
pub fn scenario(name: &str, trace: &Trace, kind: &Kind, seed: u64) -> Scenario {
    let seconds = trace.duration().as_secs();
    let minute = |start: u64| {
        let span = Duration::from_secs(60.min(seconds));
        trace.clipped(Duration::from_secs(start), span).mean()
    };
    let peak = (0..seconds.div_ceil(60)).map(|index| minute(index * 60)).fold(f64::MIN_POSITIVE, f64::max);
    let wanted = PEAK_PODS * PEAK_PART * kind.service.throughput_max();
    let scaled = trace.clone().scaled(wanted / peak);
    let mut scenario =
        Scenario::new(&format!("{name} on {}", kind.name), scaled, kind.service.clone(), kind.target);
    scenario.seed = seed;
    scenario.replicas_max = (PEAK_PODS * 5.0) as u32;
    scenario.dependency = kind.dependency.map(|(share, work, saturated)| Dependency {
        concurrency: (wanted * saturated * share * work.mean()).ceil() as u32,
        work,
        share,
    });
    scenario
}

/// When a service of [`changing`] changes: an hour before the end.
pub const CHANGE_AT: Duration = Duration::from_mins(30);

/// A wavering load on a service that changes, one scenario for each change.
pub fn changing(kind: &Kind, seed: u64) -> Vec<Scenario> {
    let trace = generate::noisy(seed, 5400, 0.6, 0.05, 120.0);
    let limits = match kind.service.server {
        crate::service::Server::Workers { count } => Service {
            server: crate::service::Server::Workers { count: count.div_ceil(2) },
            cpu_request: kind.service.cpu_request / 2.0,
            ..kind.service.clone()
        },
        crate::service::Server::EventLoop { cpu_limit } => Service {
            server: crate::service::Server::EventLoop { cpu_limit: cpu_limit * 2.0 },
            cpu_request: kind.service.cpu_request * 2.0,
            ..kind.service.clone()
        },
    };
    let rollout = |service| Changed::Rollout { service: Box::new(service) };
    let mut changes = vec![
        ("dearer release", rollout(kind.service.release(1.5))),
        ("cheaper release", rollout(kind.service.release(0.7))),
        ("cold cache", Changed::Work { factor: 1.6, fades_within: Some(Duration::from_mins(5)) }),
        ("heavier mix", Changed::Work { factor: 1.25, fades_within: None }),
        ("other limits", rollout(limits)),
    ];
    if kind.dependency.is_some() {
        changes.push(("slower dependency", Changed::Dependency { factor: 1.3 }));
    }
    changes
        .into_iter()
        .map(|(name, what)| {
            let mut scenario = scenario(name, &trace, kind, seed);
            // What costs more needs a longer promise to be possible at all: as much longer as the change makes it.
            let longest = match &what {
                Changed::Rollout { service } => service.work.mean() / kind.service.work.mean(),
                Changed::Work { factor, .. } | Changed::Dependency { factor } => *factor,
            };
            for target in &mut scenario.targets {
                target.latency = target.latency.mul_f64(longest.max(1.0));
            }
            scenario.changes = vec![Change { at: CHANGE_AT, what }];
            scenario
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::fixed::Fixed;
    use crate::run;

    #[test]
    fn every_promise_can_be_kept_with_enough_replicas_and_not_with_one() {
        let trace = generate::step(120, 0, 0.8, 0.8);
        for kind in kinds() {
            let mut scenario = scenario("even", &trace, &kind, 1);
            scenario.replicas_initial = 40;
            if kind.dependency.is_none() {
                let outcome = run(&scenario, &mut Fixed { replicas: 40 });
                assert_eq!(outcome.score().violation_minutes, 0, "{}: {:?}", kind.name, outcome.minutes);
            }
            scenario.replicas_initial = 1;
            assert_eq!(run(&scenario, &mut Fixed { replicas: 1 }).score().violation_minutes, 2);
        }
    }

    #[test]
    fn a_traces_highest_minute_is_the_same_part_of_the_fleet() {
        for (name, trace) in traces(1) {
            let kind = &kinds()[1];
            let scenario = scenario(name, &trace, kind, 1);
            let highest = (0..60)
                .map(|minute| {
                    scenario.trace.clipped(Duration::from_mins(minute), Duration::from_mins(1)).mean()
                })
                .fold(0.0, f64::max);
            assert!((highest / (20.0 * 0.65 * 80.0) - 1.0).abs() < 1e-9, "{name}: {highest}");
            assert_eq!(scenario.trace.duration(), Duration::from_hours(1));
        }
    }

    #[test]
    fn changes_come_in_the_middle_and_can_be_survived() {
        for kind in [&kinds()[1], &kinds()[5]] {
            for mut scenario in changing(kind, 1) {
                scenario.replicas_initial = 60;
                let outcome = run(&scenario, &mut Fixed { replicas: 60 });
                assert!(
                    outcome.score().violation_minutes <= 1,
                    "{}: {:?}",
                    outcome.scenario,
                    outcome.score()
                );
            }
        }
    }
}
