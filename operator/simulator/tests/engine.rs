//! How the scaling engine behaves in the simulated cluster where a cluster deceives: connections that are kept alive,
//! stopwatches that hide waits, pods that are cold or about to be replaced, and limits that pods share.

use std::time::Duration;

use plimsoll_core::engine::Rule;
use plimsoll_simulator::distribution::Distribution;
use plimsoll_simulator::engine::Plimsoll;
use plimsoll_simulator::scenario::{Balancing, Fault, Lie};
use plimsoll_simulator::service::Service;
use plimsoll_simulator::suite::{self, CHANGE_AT, Kind};
use plimsoll_simulator::{Outcome, Policy, Scenario, Target, View, generate, run};

/// The engine, and which rules decided.
struct Watched {
    engine: Plimsoll,
    rules: Vec<Rule>,
}

impl Policy for Watched {
    fn name(&self) -> String {
        self.engine.name()
    }

    fn period(&self) -> Duration {
        self.engine.period()
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        let to = self.engine.decide(view);
        self.rules.extend(self.engine.last.as_ref().map(|decision| decision.rule));
        to
    }
}

fn watch(scenario: &Scenario) -> (Outcome, Vec<Rule>) {
    let mut watched = Watched { engine: Plimsoll::new(scenario), rules: Vec::new() };
    let outcome = run(scenario, &mut watched);
    (outcome, watched.rules)
}

fn most_wanted(outcome: &Outcome) -> u32 {
    outcome.seconds.iter().map(|second| second.wanted).max().unwrap_or(0)
}

/// Twice the load after a quarter of an hour, on pods of 80 requests a second at most.
fn step(balancing: Balancing, seed: u64) -> Scenario {
    let start_up = Distribution::Constant { seconds: 5.0 };
    let service = Service::workers(4, Distribution::Exponential { mean: 0.05 }, start_up);
    let target = Target { quantile: 0.99, latency: Duration::from_millis(300) };
    let trace = generate::step(1800, 900, 400.0, 800.0);
    Scenario { balancing, seed, ..Scenario::new("step", trace, service, target) }
}

fn kept_alive(age_max: Option<u64>) -> Balancing {
    Balancing::Connections { count: 400, age_max: age_max.map(Duration::from_secs) }
}

#[test]
fn pods_that_no_connection_has_reached_are_no_reason_for_more() {
    let (mut told, mut mistaken, mut late) = (0, 0, 0);
    let mut more = Vec::new();
    for seed in 1..11 {
        let (by_request, _) = watch(&step(Balancing::Random, seed));
        let (by_connection, rules) = watch(&step(kept_alive(Some(30)), seed));
        let (enough, most) = (most_wanted(&by_request), most_wanted(&by_connection));
        more.push(f64::from(most) / f64::from(enough));
        // Where the step brought enough pods at once, there is nothing to tell.
        told += u32::from(rules.contains(&Rule::LoadUneven));
        mistaken += u32::from(rules.contains(&Rule::DependencyBound));
        late += by_connection.minutes[18..].iter().filter(|minute| minute.violated).count();
    }
    more.sort_by(f64::total_cmp);
    // Chance has connections cluster on some pods for a while, with some seeds more than with others.
    assert!(more[5] <= 1.2 && more[9] <= 1.3, "times as many as are enough, by seed: {more:?}");
    assert!(told > 0, "no seed tells of an uneven load");
    // Chance leaves some connections together for long, and then more pods seem not to have helped.
    assert!(mistaken <= 1, "taken for a saturated dependency with {mistaken} of 10 seeds");
    assert!(late <= 20, "{late} of 120 minutes after the connections have aged");
}

#[test]
fn a_crowd_on_kept_alive_connections_is_not_taken_for_a_saturated_dependency() {
    let start_up = Distribution::Constant { seconds: 12.0 };
    let service = Service::workers(4, Distribution::Exponential { mean: 0.05 }, start_up);
    let target = Target { quantile: 0.99, latency: Duration::from_millis(300) };
    let trace = generate::flash_crowd(2400, 260.0, 4.0, 1200, 60.0, 300.0);
    let mut scenario = Scenario::new("crowd", trace, service, target);
    scenario.balancing = kept_alive(Some(30));
    let (outcome, rules) = watch(&scenario);
    let late = outcome.minutes.iter().filter(|minute| minute.violated).count();
    assert!(late <= 7, "{late} minutes: {:?}", outcome.score());
    assert!(!rules.contains(&Rule::DependencyBound));
}

/// A service whose requests wait where its own stopwatch does not see them: its own latencies are always within the promise.
fn hidden(cpu: f64, start_up_seconds: f64) -> Scenario {
    let work = Distribution::Lognormal { mean: 0.005, cv: 0.3 };
    let start_up = Distribution::Constant { seconds: start_up_seconds };
    let service = Service { stopwatch_hides_wait: true, ..Service::event_loop(cpu, work, start_up) };
    let target = Target { quantile: 0.99, latency: Duration::from_millis(400) };
    let load = 6.0 * service.throughput_max();
    Scenario::new("hidden", generate::step(3600, 1200, load, 2.0 * load), service, target)
}

#[test]
fn pods_that_use_up_their_cpu_limit_are_relieved_though_their_own_latencies_look_well() {
    for scenario in [hidden(0.1, 2.0), hidden(0.5, 8.0)] {
        let (outcome, _) = watch(&scenario);
        let late = outcome.minutes.iter().filter(|minute| minute.violated).count();
        assert!(late <= 12, "{late} of {} minutes: {:?}", outcome.minutes.len(), outcome.score());
        // Twelve pods of it are used up.
        let last = outcome.seconds[3599].wanted;
        assert!((13..=22).contains(&last), "{last}");
    }
}

fn kind(name: &str) -> Kind {
    let mut kinds = suite::kinds();
    kinds.retain(|kind| kind.name == name);
    kinds.swap_remove(0)
}

/// Minutes from the change of a service on that missed the promise.
fn late_after_change(outcome: &Outcome) -> usize {
    let change = (CHANGE_AT.as_secs() / 60) as usize;
    outcome.minutes[change..].iter().filter(|minute| minute.violated).count()
}

#[test]
fn a_release_that_carries_half_as_much_is_carried_within_minutes() {
    for name in ["fast start, light tail", "exponential"] {
        let changing = suite::changing(&kind(name), 1);
        let scenario = changing.iter().find(|scenario| scenario.name.starts_with("other limits")).unwrap();
        let late = late_after_change(&watch(scenario).0);
        assert!(late <= 3, "{late} minutes on {name}");
    }
}

#[test]
fn pods_that_are_cold_at_first_are_added_while_the_others_have_room() {
    let ramp = generate::ramp(3600, (600, 0.3), (2400, 1.0));
    let scenario = suite::scenario("ramp", &ramp, &kind("slow start, cold at first"), 1);
    let (outcome, _) = watch(&scenario);
    let score = outcome.score();
    // A pod that starts among pods that are used up misses the promise for its minute, and some twenty start.
    assert!(score.violation_minutes <= 7, "{score:?}");
    // The oracle needs 16.1.
    assert!(score.replica_hours <= 18.0, "{score:?}");
}

#[test]
fn a_dependency_that_is_saturated_now_and_then_does_not_make_pods_look_weak() {
    const SEEDS: u64 = 8;
    let mut wanted = [0.0; 2];
    for seed in 1..=SEEDS {
        let noisy = suite::traces(seed).into_iter().find(|(name, _)| *name == "noisy constant").unwrap().1;
        let scenario = suite::scenario("noisy constant", &noisy, &kind("dependency-bound"), seed);
        let (outcome, _) = watch(&scenario);
        let (first, second) = outcome.seconds.split_at(1800);
        for (wanted, seconds) in wanted.iter_mut().zip([first, second]) {
            let sum = seconds.iter().map(|second| f64::from(second.wanted)).sum::<f64>();
            *wanted += sum / (seconds.len() as u64 * SEEDS) as f64;
        }
    }
    // Twelve carry what the dependency lets through. What was tried is given back, and not tried again and again: they were 20.7
    // and 16.5 while small steps did not wait for the trial before them.
    let [first, second] = wanted;
    assert!(first < 19.5 && second < 16.0, "{first} then {second}");
}

/// Minutes over the promise after the change of this name, with the first seeds, and the scale-ups after it.
fn after_change(name: &str, service: &str) -> (usize, Vec<usize>) {
    let at = CHANGE_AT.as_secs();
    let mut minutes = 0;
    let ups = (1..5).map(|seed| {
        let mut changing = suite::changing(&kind(service), seed).into_iter();
        let scenario = changing
            .find(|scenario| scenario.name == format!("{name} on {service}"))
            .expect("a change of this name");
        let (outcome, _) = watch(&scenario);
        minutes += outcome.minutes[at as usize / 60..].iter().filter(|minute| minute.violated).count();
        let ups =
            outcome.scalings.iter().filter(|scaling| scaling.at >= at as f64 && scaling.to > scaling.from);
        ups.count()
    });
    let ups = ups.collect();
    (minutes, ups)
}

#[test]
fn a_dependency_that_becomes_slower_is_not_answered_with_ever_more_replicas() {
    let (_, ups) = after_change("slower dependency", "dependency-bound");
    // They were 14 to 47 when what was found before the change stood for ever.
    assert!(ups.iter().all(|ups| *ups <= 12), "{ups:?}");
}

#[test]
fn requests_that_become_dearer_without_a_release_are_answered_at_once() {
    let (minutes, _) = after_change("cold cache", "exponential");
    // They were 11 when pods that were kept busy did not raise a doubt.
    assert!(minutes <= 7, "{minutes} minutes over the promise with four seeds");
}

#[test]
fn requests_that_take_more_cpu_are_answered_before_they_wait() {
    let minutes =
        ["cache in front", "throttled event loop"].map(|service| after_change("heavier mix", service).0);
    // They were 18 and 9 when only latencies told.
    assert!(minutes[0] <= 7 && minutes[1] <= 4, "{minutes:?} minutes over the promise with four seeds each");
}

#[test]
fn one_pod_that_lies_does_not_move_the_others() {
    let honest = step(Balancing::Random, 1);
    let (told, _) = watch(&honest);
    let late = |outcome: &Outcome| outcome.minutes.iter().filter(|minute| minute.violated).count();
    for lie in [Lie::Silent, Lie::NotANumber, Lie::Frozen, Lie::Inflated, Lie::Zero] {
        // From before the load doubles until long after.
        let fault = Fault { pod: 0, from: Duration::from_mins(8), until: Duration::from_mins(28), lie };
        let mut scenario = honest.clone();
        scenario.scraping.faults = vec![fault];
        let (lied, _) = watch(&scenario);
        let (hours, honest_hours) = (lied.replica_seconds, told.replica_seconds);
        assert!((hours / honest_hours - 1.0).abs() < 0.15, "{lie:?}: {hours} beside {honest_hours}");
        assert!(late(&lied) <= late(&told) + 2, "{lie:?}: {} minutes beside {}", late(&lied), late(&told));
        assert!(most_wanted(&lied) <= most_wanted(&told) + 3, "{lie:?}: {} pods", most_wanted(&lied));
    }
}
