//! Settings of the peers: those that people use, and those among which hindsight may choose.
//!
//! Where a setting is a load, it is a part of what a pod of the service can serve at most, so that one list fits every
//! service.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peers::fixed::Fixed;
use crate::peers::hpa::Hpa;
use crate::peers::keda::{Keda, Trigger};
use crate::peers::kpa::{Config, Kpa, Metric};
use crate::policy::Policy;
use crate::scenario::Scenario;
use crate::service::Server;

/// Settings of [`grids`] are so much of the whole apart.
pub const GRID_STEP: f64 = 0.1;
/// Knative's autoscaler aims at this part of its target.
const KNATIVE_UTILIZATION: f64 = 0.7;

/// A peer, whatever its setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    /// HPA on CPU utilisation.
    HpaCpu,
    /// HPA on a 99th percentile.
    HpaP99,
    /// KEDA on requests a second.
    Keda,
    /// Knative's autoscaler.
    Knative,
    /// A fixed fleet.
    Fixed,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::HpaCpu, Self::HpaP99, Self::Keda, Self::Knative, Self::Fixed];

    /// What it is called in results.
    pub const fn title(self) -> &'static str {
        match self {
            Self::HpaCpu => "HPA on CPU",
            Self::HpaP99 => "HPA on p99",
            Self::Keda => "KEDA",
            Self::Knative => "Knative",
            Self::Fixed => "fixed fleet",
        }
    }
}

/// One setting of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The peer that it is a setting of.
    pub const fn family(&self) -> Family {
        match self {
            Self::HpaCpu { .. } => Family::HpaCpu,
            Self::HpaP99 { .. } => Family::HpaP99,
            Self::Keda { .. } => Family::Keda,
            Self::KnativeConcurrency { .. } | Self::KnativeRps { .. } => Family::Knative,
            Self::Fixed { .. } => Family::Fixed,
        }
    }

    /// The same with its number moved by a part of the whole: 0.05 makes 55 % of 50 %, and half of a pod's load 0.55 of it.
    #[must_use]
    pub fn moved(self, by: f64) -> Self {
        let above = |part: f64| part.max(0.01);
        match self {
            Self::HpaCpu { percent } => {
                Self::HpaCpu { percent: percent.saturating_add_signed((by * 100.0).round() as i32).max(1) }
            }
            Self::HpaP99 { part, window } => Self::HpaP99 { part: above(part + by), window },
            Self::Keda { part, window } => Self::Keda { part: above(part + by), window },
            Self::KnativeConcurrency { part } => {
                Self::KnativeConcurrency { part: above(part + by / KNATIVE_UTILIZATION) }
            }
            Self::KnativeRps { part } => Self::KnativeRps { part: above(part + by / KNATIVE_UTILIZATION) },
            Self::Fixed { part } => Self::Fixed { part: above(part + by) },
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

/// The settings with which hindsight begins, by peer: [`GRID_STEP`] of the whole apart.
pub fn grids() -> Vec<(Family, Vec<Setting>)> {
    let parts =
        |from: u32, to: u32, step: usize| (from..=to).step_by(step).map(|part| f64::from(part) / 100.0);
    let minutes = [1, 2, 5].map(Duration::from_mins);
    let over = |setting: fn(f64, Duration) -> Setting, from, step, windows: &[Duration]| {
        parts(from, 100, step)
            .flat_map(|part| windows.iter().map(move |&window| setting(part, window)).collect::<Vec<_>>())
            .collect()
    };
    vec![
        (Family::HpaCpu, (20..=95).step_by(10).map(|percent| Setting::HpaCpu { percent }).collect()),
        (Family::HpaP99, over(|part, window| Setting::HpaP99 { part, window }, 40, 20, &minutes)),
        (Family::Keda, over(|part, window| Setting::Keda { part, window }, 20, 10, &minutes[..2])),
        (
            Family::Knative,
            parts(20, 100, 10)
                .map(|part| Setting::KnativeRps { part: part / KNATIVE_UTILIZATION })
                .chain(
                    parts(10, 140, 10)
                        .map(|part| Setting::KnativeConcurrency { part: part / KNATIVE_UTILIZATION }),
                )
                .collect(),
        ),
        (Family::Fixed, parts(30, 100, 10).map(|part| Setting::Fixed { part }).collect()),
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
            assert!(names.len() + 4 > settings.len() && names.len() > 6, "{peer:?}: {names:?}");
        }
        let name = |setting: Setting| setting.policy(&scenario).name();
        assert_eq!(name(customary()[1]), "HPA CPU 70 %");
        assert_eq!(name(customary()[4]), "KEDA 40 requests/s a pod over 120s");
        assert_eq!(name(customary()[5]), "Knative 4 concurrent at 70 %");
        assert_eq!(name(Setting::Fixed { part: 0.5 }), "fixed 50");
    }

    #[test]
    fn a_setting_moves_by_a_part_of_the_whole_and_stays_its_peers() {
        for (family, settings) in grids() {
            assert!(settings.iter().all(|setting| setting.family() == family));
            assert!(settings.iter().all(|setting| setting.moved(0.05).family() == family));
        }
        assert_eq!(Setting::HpaCpu { percent: 50 }.moved(0.05), Setting::HpaCpu { percent: 55 });
        assert_eq!(Setting::HpaCpu { percent: 3 }.moved(-0.5), Setting::HpaCpu { percent: 1 });
        assert!(
            matches!(Setting::Fixed { part: 0.5 }.moved(-0.05), Setting::Fixed { part } if (part - 0.45).abs() < 1e-9)
        );
        assert!(matches!(Setting::Fixed { part: 0.5 }.moved(-0.6), Setting::Fixed { part } if part > 0.0));
    }
}
