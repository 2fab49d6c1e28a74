//! The engine on input that is broken, scarce or absurd: it holds, it says why, and it never panics.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use plimsoll_core::engine::{
    Answer, Cpu, Decision, Engine, Learned, LearnedCapacity, Likely, Observation, Pod, Rule, Sample,
    Settings, Target, VIOLATION_PRICE_DEFAULT,
};
use plimsoll_core::histogram::{Rejection, Snapshot};
use proptest::prelude::*;

const PERIOD_SECONDS: i64 = 5;
/// Upper edges of the pods' histograms, in milliseconds; the target is one of them.
const EDGES_MS: [f64; 8] = [10.0, 20.0, 50.0, 100.0, 150.0, 250.0, 500.0, 1000.0];

fn settings() -> Settings {
    Settings {
        targets: vec![Target::latency(0.99, Duration::from_millis(250))],
        min: 2,
        max: 20,
        period: Duration::from_secs(5),
        violation_price: VIOLATION_PRICE_DEFAULT,
    }
}

/// Pods that all do the same, and say so as long as they are not told otherwise.
struct World {
    engine: Engine,
    settings: Settings,
    round: i64,
    replicas: u32,
    /// The template of all pods.
    template: u64,
    /// Requests per bucket that each pod has counted, the overflow last.
    counts: [f64; 9],
    /// Of them, those that ended with an error.
    failed: f64,
    in_flight: f64,
    /// From created to ready.
    start_seconds: i64,
    /// CPU time of a request, where pods tell it.
    cost_seconds: Option<f64>,
    /// CPU time that each pod has used.
    used_seconds: f64,
}

impl World {
    fn new(replicas: u32) -> Self {
        Self {
            engine: Engine::default(),
            settings: settings(),
            round: 0,
            replicas,
            template: 1,
            counts: [0.0; 9],
            failed: 0.0,
            in_flight: 0.0,
            start_seconds: 3,
            cost_seconds: None,
            used_seconds: 0.0,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_900_000_000).unwrap()
            + SignedDuration::from_secs(self.round * PERIOD_SECONDS)
    }

    /// Each pod answers so many requests a second, this share of them late, the others in 30 ms.
    fn serve(&mut self, per_pod_per_second: f64, late_share: f64) {
        self.round += 1;
        let requests = (per_pod_per_second * PERIOD_SECONDS as f64).round();
        let late = (requests * late_share).round();
        self.counts[2] += requests - late;
        self.counts[6] += late;
        self.used_seconds += requests * self.cost_seconds.unwrap_or(0.0);
    }

    fn cpu(&self) -> Option<Cpu> {
        let used_seconds = self.cost_seconds.map(|_| self.used_seconds)?;
        Some(Cpu { used_seconds, limit_cores: None, periods: 0.0, throttled_periods: 0.0 })
    }

    fn snapshot(&self) -> Result<Snapshot, Rejection> {
        let mut up_to = 0.0;
        let edges = EDGES_MS.map(|ms| ms / 1000.0).into_iter().chain([f64::INFINITY]);
        let cumulative = edges
            .zip(self.counts)
            .map(|(edge, count)| {
                up_to += count;
                (edge, up_to)
            })
            .collect();
        Snapshot::new(cumulative, Some(self.in_flight), Some(0.0))?.with_failed(self.failed)
    }

    fn observation(&self) -> Observation {
        let started = Timestamp::from_second(1_800_000_000).unwrap();
        let pods = (0..self.replicas).map(|index| Pod {
            uid: format!("{}-{index}", self.template),
            template: self.template.to_string(),
            created_at: started,
            ready_at: Some(started + SignedDuration::from_secs(self.start_seconds)),
            sample: Some(Sample { at: self.now(), reading: self.snapshot(), cpu: self.cpu() }),
        });
        Observation {
            now: self.now(),
            current: self.replicas,
            template: self.template,
            rolling_out: false,
            pods: pods.collect(),
        }
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        self.engine.decide(observation, &self.settings)
    }

    /// Rounds of the same, in which the wanted replicas come at once and share the load; the last decision.
    fn run(&mut self, rounds: usize, per_second: f64, late_share: impl Fn(f64) -> f64) -> Decision {
        let mut last = None;
        for _ in 0..rounds {
            let per_pod = per_second / f64::from(self.replicas);
            self.serve(per_pod, late_share(per_pod));
            let decision = self.decide(&self.observation());
            self.replicas = decision.to;
            last = Some(decision);
        }
        last.unwrap()
    }
}

/// A world with a second promise: one request in a hundred may fail. None is late, and this share of them fails.
fn failing(rounds: usize, per_second: f64, failed_share: impl Fn(f64) -> f64) -> (World, Decision) {
    let mut world = World::new(3);
    world.settings.targets.push(Target { quantile: 0.99, answer: Answer::WithoutError });
    let mut decision = None;
    for _ in 0..rounds {
        let per_pod = per_second / f64::from(world.replicas);
        world.failed += (per_pod * PERIOD_SECONDS as f64 * failed_share(per_pod)).round();
        decision = Some(world.run(1, per_second, |_| 0.0));
    }
    (world, decision.unwrap())
}

#[test]
fn errors_that_come_with_load_are_answered_with_replicas() {
    let (world, decision) = failing(240, 300.0, late);
    // 50 requests a second of each pod would be 6.
    assert!((6..=9).contains(&world.replicas), "{decision:?}");
    assert_eq!(decision.capacity.unwrap().target.within_seconds, None, "{decision:?}");
}

#[test]
fn errors_at_any_load_add_no_replicas() {
    let (world, decision) = failing(240, 300.0, |_| 0.05);
    assert!(world.replicas < 8, "{decision:?}");
    assert!(decision.capacity.unwrap().unmeetable, "{decision:?}");
}

/// Late requests of a pod that carries 50 requests a second.
fn late(per_pod: f64) -> f64 {
    (0.002 + 0.008 * (per_pod / 50.0).powi(8)).min(0.9)
}

#[test]
fn the_right_number_is_found_from_either_side() {
    for start in [3, 15] {
        let mut world = World::new(start);
        let decision = world.run(240, 400.0, late);
        assert!((9..=11).contains(&decision.to), "from {start}: {decision:?}");
        let capacity = decision.capacity.unwrap();
        assert!((35.0..65.0).contains(&capacity.low_per_second), "{capacity:?}");
    }
}

/// What was decided before the requests of a world become so many times as dear, and in each of the two rounds after that.
fn when_cost_changes(factor: f64, cpu_is_told: bool) -> [Decision; 3] {
    let mut world = World::new(50);
    world.settings.max = 200;
    let mut run = |rounds, factor: f64| {
        world.cost_seconds = cpu_is_told.then_some(0.01 * factor);
        world.run(rounds, 2000.0, |per_pod| late(factor * per_pod))
    };
    [run(240, 1.0), run(1, factor), run(1, factor)]
}

#[test]
fn requests_that_take_more_cpu_are_answered_after_two_rounds() {
    let [before, first, second] = when_cost_changes(1.25, true);
    assert_eq!(first.inputs.cost_factor, None, "one round may be chance");
    let found = second.inputs.cost_factor.unwrap();
    assert!((found / 1.25 - 1.0).abs() < 0.03, "{found}");
    let more = f64::from(second.to) / f64::from(before.to);
    assert!((1.2..1.4).contains(&more), "{} then {}", before.to, second.to);
    let [_, _, blind] = when_cost_changes(1.25, false);
    assert!(blind.to + 3 < second.to, "{} without CPU, {} with it", blind.to, second.to);
}

#[test]
fn requests_that_take_less_cpu_are_answered_with_fewer_replicas() {
    let [before, _, second] = when_cost_changes(0.5, true);
    assert!(second.cheapest < before.to - 10, "{} then {second:?}", before.to);
    let [_, _, blind] = when_cost_changes(0.5, false);
    assert!(blind.cheapest > before.to - 4, "{} then {blind:?}", before.to);
}

/// Seconds between the first two times that replicas are taken away while little is known.
fn between_steps_down(start_seconds: i64) -> i64 {
    let mut world = World::new(18);
    world.start_seconds = start_seconds;
    let mut rounds = Vec::new();
    while rounds.len() < 2 {
        let before = world.replicas;
        if world.run(1, 200.0, late).to < before {
            rounds.push(world.round);
        }
        assert!(world.round < 240, "it goes down {} times in twenty minutes", rounds.len());
    }
    (rounds[1] - rounds[0]) * PERIOD_SECONDS
}

#[test]
fn what_takes_long_to_come_back_is_taken_away_slowly() {
    assert_eq!([3, 20, 45].map(between_steps_down), [20, 20, 45]);
}

#[test]
fn no_pod_that_can_be_read_is_no_reason_to_move() {
    let mut world = World::new(8);
    world.run(60, 300.0, late);
    let before = world.replicas;
    for rejection in [Rejection::Timeout, Rejection::HistogramMissing, Rejection::InvalidCount] {
        for _ in 0..60 {
            world.serve(0.0, 0.0);
            let mut observation = world.observation();
            for pod in &mut observation.pods {
                pod.sample.as_mut().unwrap().reading = Err(rejection);
            }
            let decision = world.decide(&observation);
            assert_eq!((decision.to, decision.rule), (before, Rule::Blind));
            assert_eq!(decision.inputs.excluded[rejection.as_str()], before as usize);
        }
    }
}

#[test]
fn half_of_the_pods_are_enough_and_stand_for_the_others() {
    let mut world = World::new(10);
    world.run(240, 400.0, late);
    let before = world.replicas;
    let mut last = None;
    for _ in 0..24 {
        world.serve(400.0 / f64::from(before), late(400.0 / f64::from(before)));
        let mut observation = world.observation();
        for pod in observation.pods.iter_mut().take(before as usize / 2) {
            pod.sample.as_mut().unwrap().reading = Err(Rejection::Timeout);
        }
        last = Some(world.decide(&observation));
    }
    let last = last.unwrap();
    assert!((last.inputs.offered_per_second - 400.0).abs() < 20.0, "{:?}", last.inputs);
    assert!(last.to.abs_diff(before) <= 1, "{last:?}");
}

/// A pod that has answered, holds and has refused so many requests.
fn claims(answered: f64, in_flight: f64, shed: f64) -> Result<Snapshot, Rejection> {
    Snapshot::new(vec![(0.25, answered), (f64::INFINITY, answered)], Some(in_flight), Some(shed))
}

#[test]
fn a_pod_that_claims_the_impossible_is_left_out_whatever_it_claims() {
    let lies: [fn(f64) -> Result<Snapshot, Rejection>; 3] = [
        |round| claims(1e9 * round, 0.0, 0.0),
        |round| claims(200.0 * round, 1e9, 0.0),
        |round| claims(200.0 * round, 0.0, 1e9 * round),
    ];
    for (lie, replicas) in lies.into_iter().flat_map(|lie| [(lie, 1), (lie, 2), (lie, 8)]) {
        let load = 40.0 * f64::from(replicas);
        let mut world = World::new(replicas);
        world.settings.min = 1;
        world.run(240, load, late);
        let before = world.replicas;
        let mut decision = None;
        for round in 1..12 {
            world.serve(load / f64::from(before), 0.002);
            let mut observation = world.observation();
            observation.pods[0].sample.as_mut().unwrap().reading = lie(f64::from(round));
            decision = Some(world.decide(&observation));
        }
        let decision = decision.unwrap();
        assert_eq!(decision.inputs.excluded["Implausible"], 1, "{replicas}");
        assert!(decision.to.abs_diff(before) <= 1, "{replicas}: {decision:?}");
    }
}

#[test]
fn a_restart_of_all_pods_is_no_negative_load() {
    let mut world = World::new(8);
    world.run(60, 320.0, late);
    world.counts = [0.0; 9];
    let decision = world.run(1, 320.0, late);
    assert!((decision.inputs.offered_per_second - 320.0).abs() < 20.0, "{:?}", decision.inputs);
}

#[test]
fn no_traffic_at_all_goes_to_the_fewest() {
    let mut world = World::new(10);
    world.run(120, 400.0, late);
    let decision = world.run(240, 0.0, |_| 0.0);
    assert_eq!(decision.to, 2, "{decision:?}");
}

#[test]
fn one_request_a_minute_never_moves_anything_up() {
    let mut world = World::new(2);
    for round in 0..240 {
        world.serve(if round % 12 == 0 { 0.2 } else { 0.0 }, 0.0);
        let decision = world.decide(&world.observation());
        assert_eq!(decision.to, 2, "{decision:?}");
    }
}

#[test]
fn a_few_late_requests_among_few_are_held_and_not_answered() {
    let mut world = World::new(5);
    let decision = world.run(100, 0.4, |_| 0.5);
    assert!(decision.to <= 5, "{decision:?}");
}

#[test]
fn a_target_below_what_a_request_takes_is_said_to_be_unmeetable_and_the_useful_number_is_held() {
    for late_share in [0.02, 0.05, 0.2, 0.6, 1.0] {
        let mut world = World::new(6);
        world.settings.max = 400;
        let mut highest = 0;
        for _ in 0..239 {
            highest = highest.max(world.run(1, 1200.0, |_| late_share).to);
        }
        let decision = world.run(1, 1200.0, |_| late_share);
        assert!(decision.capacity.as_ref().unwrap().unmeetable, "{late_share}: {decision:?}");
        assert!(decision.to <= 7, "{late_share}: {decision:?}");
        assert!(highest <= 24, "{late_share}: {highest} were tried");
    }
}

#[test]
fn more_replicas_that_do_not_help_are_given_back() {
    let mut world = World::new(6);
    world.run(120, 240.0, late);
    let useful = world.replicas;
    let mut highest = useful;
    let mut bound = false;
    // From now on a third of the requests is late, whatever the replicas.
    for _ in 0..120 {
        let per_pod = 240.0 / f64::from(world.replicas);
        world.serve(per_pod, 0.33);
        let decision = world.decide(&world.observation());
        world.replicas = decision.to;
        highest = highest.max(decision.to);
        bound |= decision.rule == Rule::DependencyBound;
    }
    assert!(bound);
    assert!(world.replicas <= useful + 1, "{} of {useful}", world.replicas);
    assert!(highest <= 4 * useful, "{highest} of {useful}");
}

#[test]
fn while_new_pods_start_no_more_than_twice_as_many_are_tried() {
    let mut world = World::new(6);
    world.run(120, 240.0, late);
    let before = world.replicas;
    let (mut wanted, mut rules) = (before, Vec::new());
    // From now on half of the requests wait for ever, the others are late, and the pods that are added do not start.
    for _ in 0..24 {
        let per_pod = 240.0 / f64::from(before);
        world.serve(0.5 * per_pod, 0.9);
        world.in_flight += 0.5 * per_pod * PERIOD_SECONDS as f64;
        let decision = world.decide(&Observation { current: wanted, ..world.observation() });
        wanted = decision.to;
        rules.push(decision.rule);
    }
    assert!(wanted > before && wanted <= 2 * before, "{wanted} after {before}: {rules:?}");
    assert!(rules.contains(&Rule::Trial), "{rules:?}");
}

#[test]
fn bounds_that_contradict_each_other_are_no_panic() {
    let mut world = World::new(4);
    (world.settings.min, world.settings.max) = (9, 3);
    let decision = world.run(30, 200.0, late);
    assert_eq!(decision.to, 9, "the fewest win: {decision:?}");
}

#[test]
fn a_clock_that_jumps_is_survived() {
    let mut world = World::new(8);
    world.run(60, 320.0, late);
    world.round -= 720;
    world.run(12, 320.0, late);
    world.round += 7200;
    let decision = world.run(120, 320.0, late);
    assert!((6..=10).contains(&decision.to), "{decision:?}");
}

#[test]
fn what_was_learned_of_one_target_is_not_told_of_another() {
    let mut world = World::new(8);
    world.run(60, 320.0, late);
    assert!(world.engine.learned(&world.settings).is_some());
    let other = Settings { targets: vec![Target::latency(0.99, Duration::from_millis(100))], ..settings() };
    assert_eq!(world.engine.learned(&other), None);
}

#[test]
fn a_rollback_brings_back_what_was_known() {
    let mut world = World::new(8);
    let halved = |per_pod: f64| late(2.0 * per_pod);
    let least = |decision: Decision| decision.capacity.unwrap().low_per_second;
    let first = least(world.run(240, 320.0, late));
    world.template = 2;
    let second = least(world.run(240, 320.0, halved));
    world.template = 3;
    let unknown = least(world.run(2, 320.0, late));
    world.template = 1;
    let again = least(world.run(2, 320.0, late));
    assert!(second < 0.5 * first && unknown < 0.5 * first, "{first} {second} {unknown}");
    assert!(again > 0.65 * first, "{first} {again}: a little less sure than it was");
}

/// What an engine had learned of pods that carry 50 requests a second, until they complete 600 together.
fn held_back() -> Learned {
    let likely = |per_second| Likely { per_second, spread: 0.05 };
    let target = settings().targets[0];
    Learned {
        template: 1,
        capacities: vec![LearnedCapacity { target, warm: likely(50.0), cold: Some(likely(20.0)) }],
        startup_seconds: Some(4.0),
        typical_seconds: 0.03,
        shared_per_second: Some(600.0),
    }
}

#[test]
fn what_new_pods_cost_and_what_all_share_outlives_a_restart() {
    let mut world = World::new(12);
    world.engine.restore(&held_back(), 1, &settings());
    world.run(1, 400.0, late);
    let learned = world.engine.learned(&settings()).unwrap();
    assert_eq!(learned.shared_per_second, Some(600.0));
    let cold = learned.capacities[0].cold.unwrap();
    assert!((cold.per_second / 20.0 - 1.0).abs() < 0.02, "{cold:?}");
}

#[test]
fn after_a_restart_load_beyond_what_all_share_is_no_reason_for_more() {
    let wanted = |shared_per_second| {
        let mut world = World::new(12);
        world.settings.max = 100;
        world.engine.restore(&Learned { shared_per_second, ..held_back() }, 1, &world.settings);
        let mut most = 0;
        for _ in 0..12 {
            // Of 1200 requests a second half are answered, all of them late, and half wait.
            let per_pod = 600.0 / f64::from(world.replicas);
            world.serve(per_pod, 1.0);
            world.in_flight += per_pod * PERIOD_SECONDS as f64;
            let decision = world.decide(&world.observation());
            world.replicas = decision.to;
            most = most.max(decision.to);
        }
        most
    };
    let (known, unknown) = (wanted(Some(600.0)), wanted(None));
    assert!(known <= 18 && unknown > 40, "{known} {unknown}");
}

#[test]
fn pods_that_are_the_limit_themselves_are_not_held_for_long() {
    let mut world = World::new(8);
    world.settings.max = 100;
    world.engine.restore(&held_back(), 1, &world.settings);
    // A pod completes 75 requests a second at most: eight of them what was once all that could be completed.
    for _ in 0..60 {
        let per_pod = 900.0 / f64::from(world.replicas);
        world.serve(per_pod.min(75.0), late(per_pod));
        world.in_flight = if per_pod > 75.0 { world.in_flight + 5.0 * (per_pod - 75.0) } else { 0.0 };
        world.replicas = world.decide(&world.observation()).to;
    }
    assert!(world.replicas >= 16, "{} where 18 carry it", world.replicas);
}

#[test]
fn the_record_is_stable() {
    let mut world = World::new(8);
    let decision = world.run(60, 320.0, late);
    let record = serde_json::to_value(&decision).unwrap();
    let fields = record.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
    let known = [
        "capacity",
        "cheapest",
        "counterfactuals",
        "from",
        "inputs",
        "limit",
        "outlook",
        "rule",
        "to",
        "version",
        "violated",
    ];
    assert_eq!(fields, known);
    assert_eq!(decision.counterfactuals.len(), 3);
    assert!(decision.counterfactuals[0].violation_chance >= decision.counterfactuals[2].violation_chance);
}

/// Edges and counts that no histogram of durations has, beside some that one does.
fn absurd_buckets() -> impl Strategy<Value = Vec<(f64, f64)>> {
    let edge = prop::sample::select(vec![
        f64::NEG_INFINITY,
        -1000.0,
        -400.0,
        -0.0,
        0.0,
        5e-324,
        1e-9,
        0.05,
        0.1,
        0.25,
        1.0,
        1e9,
        1e19,
        1e20,
        1e300,
        f64::MAX,
    ]);
    let count = prop::sample::select(vec![0.0, 1.0, 20.0, 1e5, 1e15, 1e300]);
    prop::collection::vec((edge, count), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn absurd_histograms_end_no_decision(mut buckets in absurd_buckets(), in_flight in any::<f64>()) {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut world = World::new(3);
        for _ in 0..8 {
            world.serve(20.0, 0.1);
            let mut observation = world.observation();
            let times = world.round as f64;
            let mut up_to = 0.0;
            let mut cumulative = buckets
                .iter()
                .map(|&(edge, count)| {
                    up_to += times * count;
                    (edge, up_to)
                })
                .collect::<Vec<_>>();
            cumulative.push((f64::INFINITY, up_to));
            for (place, pod) in observation.pods.iter_mut().enumerate() {
                // One of them is as all should be, in every second case.
                if place > 0 || buckets.len() % 2 == 0 {
                    pod.sample.as_mut().unwrap().reading = Snapshot::new(cumulative.clone(), Some(in_flight), None);
                }
            }
            let decision = world.decide(&observation);
            prop_assert!((2..=20).contains(&decision.to), "{decision:?}");
            world.replicas = decision.to;
        }
    }

    #[test]
    fn anything_gives_a_number_within_the_bounds(
        rounds in prop::collection::vec(
            (0.0..1e6_f64, 0.0..1.0_f64, 0.0..1e9_f64, 0_usize..4, -3_i64..10, 0.0..10.0_f64),
            1..60,
        ),
    ) {
        let mut world = World::new(5);
        for (per_pod, late, in_flight, unread, jump, cost) in rounds {
            world.cost_seconds = Some(cost);
            world.round += jump;
            world.serve(per_pod, late);
            world.in_flight = in_flight;
            let mut observation = world.observation();
            for pod in observation.pods.iter_mut().take(unread) {
                pod.sample.as_mut().unwrap().reading = Err(Rejection::InvalidCount);
            }
            let decision = world.decide(&observation);
            prop_assert!((2..=20).contains(&decision.to), "{decision:?}");
            for counterfactual in &decision.counterfactuals {
                prop_assert!((0.0..=1.0).contains(&counterfactual.violation_chance), "{decision:?}");
            }
            world.replicas = decision.to;
        }
    }
}
