//! The engine that scales in a real cluster, as a policy of the simulated one.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use plimsoll_core::engine::{Cpu, Decision, Engine, Observation, Pod, Sample, Settings, Target};

use crate::policy::{PodState, PodView, Policy, Reading, View};
use crate::scenario::Scenario;

/// Plimsoll on its defaults.
#[derive(Debug)]
pub struct Plimsoll {
    engine: Engine,
    settings: Settings,
    /// The last decision.
    pub last: Option<Decision>,
}

impl Plimsoll {
    /// For the promise and the bounds of a scenario.
    pub fn new(scenario: &Scenario) -> Self {
        let target = |target: &crate::scenario::Target| Target::latency(target.quantile, target.latency);
        Self {
            engine: Engine::default(),
            settings: Settings {
                targets: scenario.targets.iter().map(target).collect(),
                min: scenario.replicas_min,
                max: scenario.replicas_max,
                period: Duration::from_secs(5),
                violation_price: plimsoll_core::engine::VIOLATION_PRICE_DEFAULT,
            },
            last: None,
        }
    }
}

impl Policy for Plimsoll {
    fn name(&self) -> String {
        "Plimsoll".into()
    }

    fn period(&self) -> Duration {
        self.settings.period
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        let newest = view.pods.last().map_or(0, |pod| pod.template);
        let observation = Observation {
            now: at(view.now),
            current: view.wanted,
            template: newest,
            rolling_out: view
                .pods
                .iter()
                .any(|pod| pod.state != PodState::Draining && pod.template != newest),
            pods: view.pods.iter().filter(|pod| pod.state != PodState::Draining).map(pod).collect(),
        };
        let decision = self.engine.decide(&observation, &self.settings);
        let to = decision.to;
        self.last = Some(decision);
        to
    }
}

fn at(since_start: Duration) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_800_000_000) + since_start
}

fn pod(view: &PodView) -> Pod {
    Pod {
        uid: view.id.to_string(),
        template: view.template.to_string(),
        created_at: at(view.created),
        ready_at: view.ready.map(at),
        sample: view.reading.as_ref().map(|reading| match reading {
            Ok(reading) => sample(reading, view.cpu_limit),
            Err(rejection) => Sample { at: at(view.created), reading: Err(*rejection), cpu: None },
        }),
    }
}

fn sample(reading: &Reading, limit_cores: Option<f64>) -> Sample {
    Sample {
        at: at(reading.at),
        reading: reading.snapshot(),
        cpu: Some(Cpu {
            used_seconds: reading.counters.cpu_seconds,
            limit_cores,
            periods: reading.counters.periods as f64,
            throttled_periods: reading.counters.throttled_periods as f64,
        }),
    }
}
