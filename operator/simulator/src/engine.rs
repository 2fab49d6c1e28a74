//! The engine that scales in a real cluster, as a policy of the simulated one.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use plimsoll_core::engine::{Cpu, Decision, Engine, Observation, Pod, Sample, Target};
use plimsoll_core::policy::{PERIOD_MAX, ReplicaChange, ScalingPolicy};

use crate::distribution::Distribution;
use crate::policy::{PodState, PodView, Policy, Reading, View};
use crate::scenario::Scenario;

/// The operator's default time between two scrapes.
const PERIOD: Duration = Duration::from_secs(5);

/// Its multiples are spread evenly between whole numbers, however many there are.
const GOLDEN_RATIO: f64 = 1.618_033_988_749_895;

/// Plimsoll, on its defaults unless it is given another policy.
#[derive(Debug)]
pub struct Plimsoll {
    engine: Engine,
    targets: Vec<Target>,
    policy: ScalingPolicy,
    /// The changes that a rate may count.
    changes: Vec<ReplicaChange>,
    /// The time of day at which the run begins.
    began: Timestamp,
    /// Of the pods that were there before it.
    start_up: Distribution,
    /// The last decision.
    pub last: Option<Decision>,
}

impl Plimsoll {
    /// For the promise and the bounds of a scenario.
    pub fn new(scenario: &Scenario) -> Self {
        let target = |target: &crate::scenario::Target| Target::latency(target.quantile, target.latency);
        Self {
            engine: Engine::default(),
            targets: scenario.targets.iter().map(target).collect(),
            policy: ScalingPolicy::within(scenario.replicas_min, scenario.replicas_max),
            changes: Vec::new(),
            began: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_800_000_000),
            start_up: scenario.service.start_up,
            last: None,
        }
    }

    /// With the user's hands on it, in a run that begins at a time of day.
    #[must_use]
    pub fn with(self, policy: ScalingPolicy, began: Timestamp) -> Self {
        Self { policy, began, ..self }
    }

    /// What the policy makes of the engine's wish.
    fn rule(&mut self, now: Timestamp, current: u32, wish: u32) -> u32 {
        let began = now.checked_sub(PERIOD_MAX).unwrap_or(Timestamp::MIN);
        self.changes.retain(|change| change.at > began);
        let to = self.policy.rule(now, current, &self.changes, wish).replicas;
        if to != current {
            self.changes.push(ReplicaChange { at: now, from: current, to });
        }
        to
    }
}

impl Policy for Plimsoll {
    fn name(&self) -> String {
        "Plimsoll".into()
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        let newest = view.pods.last().map_or(0, |pod| pod.template);
        let now = self.began + view.now;
        let pod = |view: &PodView| pod(view, self.began, self.start_up);
        let observation = Observation {
            now,
            current: view.wanted,
            template: newest,
            rolling_out: view
                .pods
                .iter()
                .any(|pod| pod.state != PodState::Draining && pod.template != newest),
            pods: view.pods.iter().filter(|pod| pod.state != PodState::Draining).map(pod).collect(),
        };
        let settings = self.policy.settings(self.targets.clone(), PERIOD, now, &self.engine);
        let decision = self.engine.decide(&observation, &settings);
        let wish = decision.to;
        self.last = Some(decision);
        self.rule(now, view.wanted, wish)
    }
}

fn pod(view: &PodView, began: Timestamp, start_up: Distribution) -> Pod {
    // What became Ready the moment it was created was there before the run, and had started like others.
    let was_there = view.ready == Some(view.created);
    let rank = ((view.id + 1) as f64 * GOLDEN_RATIO).fract();
    let earlier = if was_there { start_up.quantile(rank) } else { 0.0 };
    Pod {
        uid: view.id.to_string(),
        template: view.template.to_string(),
        created_at: began + view.created - SignedDuration::from_millis((1000.0 * earlier) as i64),
        ready_at: view.ready.map(|ready| began + ready),
        sample: view.reading.as_ref().map(|reading| match reading {
            Ok(reading) => sample(reading, view.cpu_limit, began),
            Err(rejection) => Sample { at: began + view.created, reading: Err(*rejection), cpu: None },
        }),
    }
}

fn sample(reading: &Reading, limit_cores: Option<f64>, began: Timestamp) -> Sample {
    Sample {
        at: began + reading.at,
        reading: reading.snapshot(),
        cpu: Some(Cpu {
            used_seconds: reading.counters.cpu_seconds,
            limit_cores,
            periods: reading.counters.periods as f64,
            throttled_periods: reading.counters.throttled_periods as f64,
        }),
    }
}
