//! Settings of the peers: those that people use, and those among which hindsight may choose.
//!
//! Where a setting is a load, it is a part of what a pod of the service can serve at most, so that one list fits every
//! service.

use std::time::Duration;

use serde::Serialize;

use crate::peers::fixed::Fixed;
use crate::peers::hpa::Hpa;
use crate::peers::keda::{Keda, Trigger};
use crate::peers::kpa::{Config, Kpa, Metric};
use crate::policy::Policy;
use crate::scenario::Scenario;
use crate::score::Outcome;
use crate::service::Server;
use crate::sweep::{compare, parallel};
use crate::world::run;

/// One setting of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "peer")]
pub enum Setting {
    /// HPA on CPU utilisation.
    HpaCpu {
        /// `averageUtilization`.
        percent: u32,
    },
    /// HPA on a 99th percentile from Prometheus.
    HpaP99 {
        /// Its target, as a part of the promise.
        part: f64,
        /// The window of `rate`.
        window: Duration,
    },
    /// KEDA on requests a second from Prometheus.
    Keda {
        /// Its threshold, as a part of what a pod can serve at most.
        part: f64,
        /// The window of `rate`.
        window: Duration,
    },
    /// Knative on concurrent requests, at 70 % of the target.
    KnativeConcurrency {
        /// The target, as a part of the pod's workers.
        part: f64,
    },
    /// Knative on requests a second, at 70 % of the target.
    KnativeRps {
        /// The target, as a part of what a pod can serve at most.
        part: f64,
    },
    /// A fixed fleet.
    Fixed {
        /// Load that each replica gets at the trace's peak, as a part of what a pod can serve at most.
        part: f64,
    },
}

impl Setting {
    /// Settings around this one that lie between it and its neighbours in [`grids`].
    fn near(self) -> Vec<Self> {
        const BETWEEN: [f64; 6] = [-0.04, -0.025, -0.0125, 0.0125, 0.025, 0.04];
        let percents = [-4, -3, -2, -1, 1, 2, 3, 4];
        match self {
            Self::HpaCpu { percent } => percents
                .iter()
                .map(|by| Self::HpaCpu { percent: percent.saturating_add_signed(*by).max(1) })
                .collect(),
            Self::HpaP99 { part, window } => {
                BETWEEN.map(|by| Self::HpaP99 { part: part + by, window }).to_vec()
            }
            Self::Keda { part, window } => BETWEEN.map(|by| Self::Keda { part: part + by, window }).to_vec(),
            Self::KnativeConcurrency { part } => {
                BETWEEN.map(|by| Self::KnativeConcurrency { part: part + by / 0.7 }).to_vec()
            }
            Self::KnativeRps { part } => {
                BETWEEN.map(|by| Self::KnativeRps { part: part + by / 0.7 }).to_vec()
            }
            Self::Fixed { part } => BETWEEN.map(|by| Self::Fixed { part: part + by }).to_vec(),
        }
    }

    /// The peer with this setting.
    pub fn policy(&self, scenario: &Scenario) -> Box<dyn Policy> {
        let most = scenario.service.throughput_max();
        let knative = |metric, target| {
            let config = Config { metric, target, ..Config::default() };
            Box::new(Kpa::new(config, scenario.seed))
        };
        match *self {
            Self::HpaCpu { percent } => Box::new(Hpa::on_cpu(percent)),
            Self::HpaP99 { part, window } => {
                let promise = scenario.targets.first().map_or(Duration::ZERO, |target| target.latency);
                Box::new(Hpa::on_p99(promise.mul_f64(part), window))
            }
            Self::Keda { part, window } => Box::new(Keda::new(Trigger::new(part * most, window))),
            Self::KnativeConcurrency { part } => {
                let workers = match scenario.service.server {
                    Server::Workers { count } => f64::from(count),
                    Server::EventLoop { .. } => 1.0,
                };
                knative(Metric::Concurrency, part * workers)
            }
            Self::KnativeRps { part } => knative(Metric::Rps, part * most),
            Self::Fixed { part } => {
                let replicas = (scenario.trace.peak() / (part * most)).ceil().max(1.0) as u32;
                Box::new(Fixed { replicas })
            }
        }
    }
}

/// A peer's setting that is best in hindsight, with its outcome: the best of `settings`, and then of those in between
/// around it. Best is what [`compare`] says.
pub fn hindsight(scenario: &Scenario, settings: &[Setting]) -> Option<(Setting, Outcome)> {
    let mut best: Option<(Setting, Outcome)> = None;
    let mut settings = settings.to_vec();
    for _ in 0..2 {
        let outcomes = parallel(&settings, |setting| run(scenario, setting.policy(scenario).as_mut()));
        best = best.into_iter().chain(settings.into_iter().zip(outcomes)).min_by(|a, b| compare(&a.1, &b.1));
        settings = best.as_ref()?.0.near();
    }
    best
}

/// What people run: HPA at 50 % and 70 % of CPU and at the promise itself, KEDA at half of what a pod can serve over the
/// two minutes of its documentation's example, Knative's 70 % of as many requests as the pod has workers.
pub fn customary() -> Vec<Setting> {
    vec![
        Setting::HpaCpu { percent: 50 },
        Setting::HpaCpu { percent: 70 },
        Setting::HpaP99 { part: 1.0, window: Duration::from_mins(1) },
        Setting::HpaP99 { part: 1.0, window: Duration::from_mins(5) },
        Setting::Keda { part: 0.5, window: Duration::from_mins(2) },
        Setting::KnativeConcurrency { part: 1.0 },
    ]
}

/// The settings with which hindsight begins, by peer: a twentieth of the whole apart.
pub fn grids() -> Vec<(&'static str, Vec<Setting>)> {
    let parts =
        |from: u32, to: u32, step: usize| (from..=to).step_by(step).map(|part| f64::from(part) / 100.0);
    let minutes = [1, 2, 5].map(Duration::from_mins);
    let over = |setting: fn(f64, Duration) -> Setting, from, windows: &[Duration]| {
        parts(from, 100, 5)
            .flat_map(|part| windows.iter().map(move |&window| setting(part, window)).collect::<Vec<_>>())
            .collect()
    };
    vec![
        ("HPA on CPU", (20..=95).step_by(5).map(|percent| Setting::HpaCpu { percent }).collect()),
        ("HPA on p99", over(|part, window| Setting::HpaP99 { part, window }, 40, &minutes)),
        ("KEDA", over(|part, window| Setting::Keda { part, window }, 20, &minutes[..2])),
        (
            "Knative",
            parts(20, 100, 5)
                .map(|part| Setting::KnativeRps { part: part / 0.7 })
                .chain(parts(10, 140, 5).map(|part| Setting::KnativeConcurrency { part: part / 0.7 }))
                .collect(),
        ),
        ("fixed", parts(30, 100, 5).map(|part| Setting::Fixed { part }).collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::Distribution;
    use crate::service::Service;
    use crate::{Target, generate};

    #[test]
    fn every_setting_makes_a_policy_of_its_own() {
        let start_up = Distribution::Constant { seconds: 12.0 };
        let service = Service::workers(4, Distribution::Exponential { mean: 0.05 }, start_up);
        let target = Target { quantile: 0.99, latency: Duration::from_millis(300) };
        let scenario = Scenario::new("settings", generate::step(60, 0, 2000.0, 2000.0), service, target);
        for (peer, settings) in grids() {
            let mut names: Vec<_> = settings.iter().map(|setting| setting.policy(&scenario).name()).collect();
            names.sort();
            names.dedup();
            assert!(names.len() + 8 > settings.len() && names.len() > 9, "{peer}: {names:?}");
        }
        let near = Setting::Keda { part: 0.5, window: Duration::from_mins(1) }.near();
        assert!(
            near.iter()
                .all(|setting| matches!(setting, Setting::Keda { part, .. } if (part - 0.5).abs() < 0.05))
        );
        let name = |setting: Setting| setting.policy(&scenario).name();
        assert_eq!(name(customary()[1]), "HPA CPU 70 %");
        assert_eq!(name(customary()[4]), "KEDA 40 requests/s a pod over 120s");
        assert_eq!(name(customary()[5]), "Knative 4 concurrent at 70 %");
        assert_eq!(name(Setting::Fixed { part: 0.5 }), "fixed 50");
    }

    /// At 400 requests a second on pods that serve 80 at most, seven carry the promise of 330 ms and six do not.
    #[test]
    fn hindsight_finds_the_setting_that_just_keeps_the_promise() {
        let start_up = Distribution::Constant { seconds: 12.0 };
        let service = Service::workers(4, Distribution::Exponential { mean: 0.05 }, start_up);
        let target = Target { quantile: 0.99, latency: Duration::from_millis(330) };
        let mut scenario = Scenario::new("hindsight", generate::step(600, 0, 400.0, 400.0), service, target);
        scenario.replicas_initial = 7;
        let settings: Vec<_> = [0.4, 0.5, 0.9].map(|part| Setting::Fixed { part }).to_vec();
        let (setting, outcome) = hindsight(&scenario, &settings).unwrap();
        assert_eq!(outcome.score().violation_minutes, 0);
        assert_eq!(outcome.seconds[599].wanted, 10, "{setting:?}: 0.5 makes ten, and 0.54 still ten");
        let settings = [Setting::Fixed { part: 0.7 }];
        let (setting, outcome) = hindsight(&scenario, &settings).unwrap();
        assert_eq!(outcome.seconds[599].wanted, 7, "{setting:?}: 0.7 makes eight, and 0.74 seven");
    }
}
