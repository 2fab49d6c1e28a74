//! Decisions in a small world of pods with queues: fast enough up, down after it, and little to and fro.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{World, app};
use plimsoll_core::plan::Reason;
use serde_json::json;

/// Replicas after each round of `rounds` rounds.
fn run(world: &mut World, rounds: usize, per_second: impl Fn(usize) -> f64) -> Vec<i32> {
    (0..rounds)
        .map(|round| {
            world.round(per_second(round));
            world.replicas()
        })
        .collect()
}

fn world(seed: u64, min: i32) -> World {
    let mut world = World::new(app(&json!({ "replicas": { "min": min, "max": 20 } })), seed);
    world.decide(None);
    world
}

#[test]
fn a_step_is_answered_within_fifteen_seconds_and_without_a_wild_overshoot() {
    for seed in 1..=20 {
        for min in [1, 2] {
            let mut world = world(seed, min);
            run(&mut world, 24, |_| 15.0);
            let before = world.replicas();
            assert!(before <= 2, "seed {seed}: {before} replicas for 15 requests/s");
            // Four pods carry 100 requests/s of 20 ms at 50 % each; for a while another such step is feared.
            let replicas = run(&mut world, 36, |_| 100.0);
            assert!(replicas[2] >= 3, "seed {seed}, min {min}: {replicas:?}");
            assert!(replicas.iter().all(|&n| n <= 12), "seed {seed}, min {min}: {replicas:?}");
            let (late, served) = (world.late, world.served);
            (world.late, world.served) = (0.0, 0.0);
            run(&mut world, 12, |_| 100.0);
            let share = world.late / world.served;
            assert!(
                share < 0.02,
                "seed {seed}, min {min}: {share} late at the end; {late} of {served} before"
            );
        }
    }
}

#[test]
fn steady_load_is_left_alone_for_the_most_part() {
    for seed in 1..=10 {
        for load in [5.0, 30.0, 60.0, 120.0] {
            let mut world = world(seed, 1);
            run(&mut world, 60, |_| load);
            let replicas = run(&mut world, 240, |_| load);
            let turns = replicas.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(turns <= 16, "seed {seed}, {load} requests/s: {replicas:?}");
        }
    }
}

#[test]
fn replicas_go_down_after_the_load() {
    for seed in 1..=10 {
        let mut world = world(seed, 1);
        run(&mut world, 40, |_| 150.0);
        let high = world.replicas();
        run(&mut world, 150, |_| 10.0);
        let low = world.replicas();
        assert!(
            high >= 4 && low <= 2,
            "seed {seed}: {high} then {low}: {}",
            world.history.last().unwrap().decision.message
        );
    }
}

#[test]
fn no_traffic_at_all_goes_down_to_the_minimum() {
    let mut world = world(1, 1);
    run(&mut world, 40, |_| 150.0);
    run(&mut world, 120, |_| 0.0);
    assert_eq!(world.replicas(), 1, "{:?}", world.history.last().unwrap().decision);
}

#[test]
fn a_maximum_that_is_raised_is_used() {
    let mut world = World::new(app(&json!({ "replicas": { "min": 1, "max": 5 } })), 1);
    world.decide(None);
    run(&mut world, 60, |_| 300.0);
    assert_eq!(world.replicas(), 5);
    let limited = world.history.iter().rev().take(10).all(|plan| plan.decision.reason == Reason::AtMax);
    assert!(
        limited,
        "nothing was tried, so nothing can have failed to help: {:?}",
        world.history.last().unwrap().decision
    );
    world.app.spec.replicas.max = 20;
    let replicas = run(&mut world, 12, |_| 300.0);
    assert!(replicas[11] >= 8, "{replicas:?}");
}

#[test]
fn a_replica_that_never_becomes_ready_does_not_keep_the_others() {
    let mut world = world(1, 1);
    run(&mut world, 40, |_| 150.0);
    world.start_seconds = f64::INFINITY;
    run(&mut world, 20, |_| 300.0);
    let high = world.replicas();
    run(&mut world, 150, |_| 10.0);
    assert!(world.replicas() <= 2, "{high}, then {:?}", world.history.last().unwrap().decision);
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_the_scaling() {
    let mut world = world(1, 1);
    run(&mut world, 24, |_| 15.0);
    world.clock_behind_seconds = 3600.0;
    run(&mut world, 3, |_| 15.0);
    let replicas = run(&mut world, 24, |_| 150.0);
    assert!(replicas[23] >= 4, "{replicas:?}");
}
