//! The user's hands on scaling: one rule a test, and what holds whatever the spec and the wish.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{World, app, settings};
use jiff::tz::TimeZoneDatabase;
use jiff::{SignedDuration, Timestamp, ToSpan};
use plimsoll_core::build;
use plimsoll_core::engine::{Answer, Target, VIOLATION_PRICE_DEFAULT};
use plimsoll_core::input::Targets;
use plimsoll_core::policy::{Hand, ReplicaChange, Ruling, ScalingPolicy};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A Tuesday.
fn now() -> Timestamp {
    at("2030-01-01T12:00:00Z")
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn policy(scaling: &Value) -> ScalingPolicy {
    bounded(scaling, &json!({ "min": 2, "max": 20 }))
}

fn bounded(scaling: &Value, replicas: &Value) -> ScalingPolicy {
    ScalingPolicy::of(&app(&json!({ "scaling": scaling, "replicas": replicas })).spec).unwrap()
}

fn refused(scaling: &Value) -> String {
    ScalingPolicy::of(&app(&json!({ "scaling": scaling })).spec).unwrap_err()
}

fn ruled(policy: &ScalingPolicy, current: u32, wish: u32) -> (u32, Option<Hand>) {
    let ruling = policy.rule(now(), current, &[], wish);
    (ruling.replicas, ruling.hand)
}

fn office(more: &Value) -> Value {
    let mut schedule = json!({
        "name": "office", "days": ["Mon", "Tue", "Wed", "Thu", "Fri"], "from": "08:00", "to": "18:00",
        "timeZone": "Europe/Berlin", "replicas": 10,
    });
    for (key, value) in more.as_object().unwrap() {
        schedule[key] = value.clone();
    }
    json!({ "schedules": [schedule] })
}

fn floor(policy: &ScalingPolicy, time: &str) -> u32 {
    policy.floor(at(time), Duration::ZERO).replicas
}

#[test]
fn without_a_hand_the_wish_is_written_within_the_bounds() {
    let free = policy(&json!({}));
    assert_eq!(ruled(&free, 5, 9), (9, None));
    assert_eq!(ruled(&free, 5, 3), (3, None));
    assert_eq!(ruled(&free, 5, 99), (20, None));
    assert_eq!(ruled(&free, 5, 0), (2, None));
    assert!((free.violation_price - VIOLATION_PRICE_DEFAULT).abs() < f64::EPSILON);
}

#[test]
fn recommend_publishes_and_writes_nothing() {
    let ruling = policy(&json!({ "mode": "Recommend" })).rule(now(), 5, &[], 9);
    assert_eq!(ruling, Ruling { replicas: 5, recommended: 9, hand: Some(Hand::Recommend) });
    let agreed = policy(&json!({ "mode": "Recommend" })).rule(now(), 5, &[], 5);
    assert_eq!(agreed.hand, None);
}

#[test]
fn a_pause_holds_its_direction_until_its_end() {
    let until = |until: &str| json!({ "pause": { "down": { "until": until, "reason": "a sale" } } });
    let paused = policy(&until("2030-01-01T12:00:01Z"));
    assert_eq!(ruled(&paused, 5, 3), (5, Some(Hand::PausedDown)));
    assert_eq!(paused.rule(now(), 5, &[], 3).recommended, 3);
    assert_eq!(ruled(&paused, 5, 7), (7, None));
    assert_eq!(ruled(&policy(&until("2030-01-01T13:00:00+01:00")), 5, 3), (3, None), "it ended a moment ago");
    let up = policy(&json!({ "pause": { "up": { "until": "2030-01-02T00:00:00Z" } } }));
    assert_eq!(ruled(&up, 5, 7), (5, Some(Hand::PausedUp)));
    assert_eq!(ruled(&up, 5, 3), (3, None));
}

#[test]
fn a_pause_holds_even_for_a_bound() {
    let up = policy(&json!({ "pause": { "up": { "until": "2030-01-02T00:00:00Z" } } }));
    assert_eq!(ruled(&up, 1, 1), (1, Some(Hand::PausedUp)));
    let down = policy(&json!({ "pause": { "down": { "until": "2030-01-02T00:00:00Z" } } }));
    assert_eq!(ruled(&down, 25, 3), (25, Some(Hand::PausedDown)));
}

#[test]
fn pinned_replicas_win_over_every_hand() {
    let until = "2030-01-02T00:00:00Z";
    let mut scaling = office(&json!({}));
    scaling["mode"] = "Recommend".into();
    scaling["pause"] = json!({ "up": { "until": until }, "down": { "until": until } });
    scaling["up"] = json!({ "replicas": 1 });
    for pinned in [0, 1, 30] {
        let policy = bounded(&scaling, &json!({ "min": 2, "max": 20, "pinned": pinned }));
        assert_eq!(ruled(&policy, 5, 9), (pinned, None));
        assert_eq!(policy.initial(now()), pinned);
    }
}

#[test]
fn the_embedded_database_wins_over_every_hand() {
    let mut scaling = office(&json!({}));
    scaling["mode"] = "Recommend".into();
    scaling["pause"] = json!({ "down": { "until": "2030-01-02T00:00:00Z" } });
    for max in [1, 20] {
        let spec = json!({
            "scaling": scaling, "replicas": { "min": 1, "max": max }, "database": { "embedded": {} },
        });
        let policy = ScalingPolicy::of(&app(&spec).spec).unwrap();
        assert_eq!(ruled(&policy, 3, 5), (1, None));
        assert_eq!(policy.floor(now(), Duration::ZERO).replicas, 1);
    }
}

#[test]
fn of_replicas_and_percent_the_one_that_allows_more_counts_in_both_directions() {
    let up = |up: Value| policy(&json!({ "up": up }));
    assert_eq!(ruled(&up(json!({ "replicas": 4 })), 5, 18), (9, Some(Hand::RateUp)));
    assert_eq!(ruled(&up(json!({ "percent": 50 })), 5, 18), (8, Some(Hand::RateUp)));
    assert_eq!(ruled(&up(json!({ "replicas": 4, "percent": 50 })), 5, 18), (9, Some(Hand::RateUp)));
    assert_eq!(ruled(&up(json!({ "replicas": 1, "percent": 50 })), 5, 18), (8, Some(Hand::RateUp)));
    assert_eq!(ruled(&up(json!({ "replicas": 4 })), 5, 9), (9, None));
    assert_eq!(ruled(&up(json!({ "replicas": 4 })), 5, 2), (2, None));
    let down = |down: Value| policy(&json!({ "down": down }));
    assert_eq!(ruled(&down(json!({ "replicas": 1 })), 15, 3), (14, Some(Hand::RateDown)));
    assert_eq!(ruled(&down(json!({ "percent": 10 })), 15, 3), (13, Some(Hand::RateDown)));
    assert_eq!(ruled(&down(json!({ "replicas": 5, "percent": 10 })), 15, 3), (10, Some(Hand::RateDown)));
    assert_eq!(ruled(&down(json!({ "percent": 100 })), 15, 3), (3, None));
}

#[test]
fn what_changed_within_the_period_counts_and_what_is_older_does_not() {
    let limited = policy(&json!({ "up": { "replicas": 4, "periodSeconds": 60 } }));
    let change =
        |seconds, from, to| ReplicaChange { at: now() - SignedDuration::from_secs(seconds), from, to };
    let rule = |recent: &[ReplicaChange]| limited.rule(now(), 8, recent, 18).replicas;
    assert_eq!(rule(&[change(59, 5, 8)]), 9);
    assert_eq!(rule(&[change(60, 5, 8)]), 12);
    assert_eq!(rule(&[change(59, 4, 8)]), 8);
    assert_eq!(rule(&[change(50, 20, 2), change(20, 2, 8)]), 8, "never down for a rate of the way up");
    assert_eq!(rule(&[change(-60, 5, 8)]), 9, "a clock that was set back hides nothing");
    assert_eq!(rule(&[change(30, 0, 8)]), 12, "waking is no change of scale");
}

#[test]
fn bounds_win_over_rates() {
    let slow = policy(&json!({ "up": { "percent": 10 }, "down": { "replicas": 1 } }));
    assert_eq!(ruled(&slow, 0, 0).0, 2);
    assert_eq!(ruled(&slow, 40, 40).0, 20);
}

#[test]
fn a_floor_holds_in_its_zone_and_on_its_days() {
    let berlin = policy(&office(&json!({})));
    // In January, Berlin is an hour ahead; the 4th is a Friday.
    for (time, expected) in [
        ("2030-01-01T06:59:59Z", 2),
        ("2030-01-01T07:00:00Z", 10),
        ("2030-01-01T17:00:00Z", 10),
        ("2030-01-01T17:00:01Z", 2),
        ("2030-01-04T12:00:00Z", 10),
        ("2030-01-05T12:00:00Z", 2),
        ("2030-01-06T12:00:00Z", 2),
        ("2030-07-01T06:00:00Z", 10),
    ] {
        assert_eq!(floor(&berlin, time), expected, "{time}");
    }
    let ruling = berlin.rule(now(), 3, &[], 4);
    assert_eq!(ruling, Ruling { replicas: 10, recommended: 10, hand: Some(Hand::ScheduleFloor) });
    assert_eq!(ruled(&berlin, 3, 12), (12, None));
    assert_eq!(berlin.initial(now()), 10);
}

#[test]
fn of_several_floors_the_highest_counts_and_max_cuts_it() {
    let mut scaling = office(&json!({ "replicas": 30 }));
    let lower = office(&json!({ "name": "always", "from": "00:00", "to": "24:00", "replicas": 4 }));
    scaling["schedules"].as_array_mut().unwrap().push(lower["schedules"][0].clone());
    let both = policy(&scaling);
    assert_eq!(floor(&both, "2030-01-01T12:00:00Z"), 20);
    assert_eq!(floor(&both, "2030-01-01T22:00:00Z"), 4);
    assert_eq!(both.floor(at("2030-01-01T22:00:00Z"), Duration::ZERO).schedule, Some("always"));
    assert_eq!(both.floor(at("2030-01-05T22:00:00Z"), Duration::ZERO).schedule, None);
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
    let friday = office(&json!({ "days": ["Fri"], "from": "22:00", "to": "02:00", "timeZone": "UTC" }));
    let night = policy(&friday);
    for (time, expected) in [
        ("2030-01-04T01:00:00Z", 2),
        ("2030-01-04T21:59:00Z", 2),
        ("2030-01-04T22:00:00Z", 10),
        ("2030-01-05T01:59:00Z", 10),
        ("2030-01-05T02:01:00Z", 2),
        ("2030-01-05T23:00:00Z", 2),
    ] {
        assert_eq!(floor(&night, time), expected, "{time}");
    }
}

#[test]
fn the_whole_day_has_no_gap_at_midnight() {
    let all = json!(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]);
    let always = policy(&office(&json!({ "days": all, "from": "00:00", "to": "24:00" })));
    for hours in 0..24 * 400 {
        let time = now() + SignedDuration::from_secs(hours * 3600);
        assert_eq!(always.floor(time, Duration::ZERO).replicas, 10, "{time}");
    }
}

#[test]
fn a_window_takes_the_longer_reading_where_clocks_change() {
    let window = |from: &str, to: &str| policy(&office(&json!({ "days": ["Sun"], "from": from, "to": to })));
    // On 31 March 2030, 02:00 is followed by 03:00 in Berlin; there is no 02:30.
    let spring = window("02:30", "02:45");
    assert_eq!(floor(&spring, "2030-03-31T00:29:59Z"), 2);
    assert_eq!(floor(&spring, "2030-03-31T01:00:00Z"), 10);
    assert_eq!(floor(&spring, "2030-03-31T01:45:01Z"), 2);
    // On 27 October 2030, 03:00 is followed by 02:00; 02:30 comes twice.
    let autumn = window("02:30", "02:45");
    assert_eq!(floor(&autumn, "2030-10-27T00:29:59Z"), 2);
    assert_eq!(floor(&autumn, "2030-10-27T00:30:00Z"), 10);
    assert_eq!(floor(&autumn, "2030-10-27T01:45:00Z"), 10);
    assert_eq!(floor(&autumn, "2030-10-27T01:45:01Z"), 2);
}

#[test]
fn a_ramp_rises_from_min_to_the_floor_at_from_and_falls_after_to() {
    let ramped = policy(&office(&json!({ "timeZone": "UTC", "rampSeconds": 3600 })));
    for (time, expected) in [
        ("2030-01-01T07:00:00Z", 2),
        ("2030-01-01T07:00:01Z", 3),
        ("2030-01-01T07:30:00Z", 6),
        ("2030-01-01T07:59:00Z", 10),
        ("2030-01-01T18:00:00Z", 10),
        ("2030-01-01T18:30:00Z", 6),
        ("2030-01-01T18:59:59Z", 3),
        ("2030-01-01T19:00:00Z", 2),
    ] {
        assert_eq!(floor(&ramped, time), expected, "{time}");
    }
}

#[test]
fn a_floor_below_min_changes_nothing() {
    let low = policy(&office(&json!({ "replicas": 1, "rampSeconds": 3600 })));
    assert_eq!(floor(&low, "2030-01-01T12:00:00Z"), 2);
    assert_eq!(ruled(&low, 3, 2), (2, None));
}

#[test]
fn the_engine_can_be_told_of_a_floor_ahead_of_time() {
    let office = policy(&office(&json!({ "timeZone": "UTC" })));
    let before = at("2030-01-01T07:58:00Z");
    assert_eq!(office.floor(before, Duration::from_secs(119)).replicas, 2);
    assert_eq!(office.floor(before, Duration::from_mins(2)).replicas, 10);
    assert_eq!(office.floor(before, Duration::MAX).replicas, 10);
    assert_eq!(office.floor(at("2030-01-01T17:59:00Z"), Duration::from_mins(2)).replicas, 10);
}

#[test]
fn the_later_hand_is_the_one_that_is_told() {
    let mut scaling = office(&json!({}));
    scaling["up"] = json!({ "replicas": 2 });
    assert_eq!(ruled(&policy(&scaling), 3, 4), (5, Some(Hand::RateUp)));
    scaling["pause"] = json!({ "up": { "until": "2030-01-02T00:00:00Z" } });
    let ruling = policy(&scaling).rule(now(), 3, &[], 4);
    assert_eq!(ruling, Ruling { replicas: 3, recommended: 5, hand: Some(Hand::PausedUp) });
    scaling["pause"] = Value::Null;
    scaling["mode"] = "Recommend".into();
    assert_eq!(ruled(&policy(&scaling), 3, 4), (3, Some(Hand::Recommend)));
}

#[test]
fn what_the_schema_cannot_refuse_is_told_with_the_fix() {
    assert_eq!(
        refused(&office(&json!({ "timeZone": "Mars/Olympus" }))),
        "spec.scaling.schedules[office].timeZone: \"Mars/Olympus\" is not in the IANA database; write a time zone such as \
         Europe/Berlin"
    );
    assert_eq!(
        refused(&json!({ "pause": { "up": { "until": "2030-02-30T00:00:00Z" } } })),
        "spec.scaling.pause.up.until: \"2030-02-30T00:00:00Z\" is not a time; write one with its zone, such as \
         2026-12-01T18:00:00Z"
    );
    assert!(
        refused(&office(&json!({ "from": "8 o'clock" })))
            .contains("from: \"8 o'clock\" is not a time of day")
    );
    for zone in ["UTC", "Asia/Kathmandu", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "Pacific/Apia"] {
        policy(&office(&json!({ "timeZone": zone })));
    }
}

#[test]
fn a_hand_is_explained_with_its_field_and_what_it_says() {
    let mut scaling = office(&json!({}));
    let until = "2030-01-02T00:00:00Z";
    scaling["pause"] =
        json!({ "up": { "until": until, "reason": "a migration" }, "down": { "until": until } });
    scaling["up"] = json!({ "replicas": 4, "percent": 50 });
    scaling["down"] = json!({ "percent": 10, "periodSeconds": 300 });
    let policy = policy(&scaling);
    let texts = Hand::ALL.map(|hand| policy.explain(hand, now()));
    assert_eq!(
        texts,
        [
            "spec.scaling.mode is Recommend: set it to Auto to have the number written",
            "spec.scaling.pause.up holds until 2030-01-02T00:00:00Z: a migration",
            "spec.scaling.pause.down holds until 2030-01-02T00:00:00Z",
            "spec.scaling.up allows 4 replicas or 50 % in 60 s",
            "spec.scaling.down allows 10 % in 300 s",
            "spec.scaling.schedules[office] asks for at least 10 replicas",
        ]
    );
}

#[test]
fn every_hand_has_one_word_of_its_own() {
    let words = Hand::ALL.map(|hand| serde_json::to_value(hand).unwrap());
    assert_eq!(words.to_vec(), Hand::ALL.map(|hand| json!(hand.as_str())).to_vec());
    assert_eq!(std::collections::BTreeSet::from(Hand::ALL.map(Hand::as_str)).len(), Hand::ALL.len());
}

#[test]
fn each_percentile_may_be_a_target() {
    let latency = json!({ "p50": "20ms", "p90": "80ms", "p95": "100ms", "p99": "250ms", "p999": "1s" });
    let targets = Targets::of(&app(&json!({ "latency": latency })).spec).unwrap();
    let ms = Duration::from_millis;
    assert_eq!(
        targets.each().collect::<Vec<_>>(),
        [
            ("p50", Target::latency(1.0 - 0.5, ms(20))),
            ("p90", Target::latency(1.0 - 0.1, ms(80))),
            ("p95", Target::latency(1.0 - 0.05, ms(100))),
            ("p99", Target::latency(1.0 - 0.01, ms(250))),
            ("p999", Target::latency(1.0 - 0.001, ms(1000)))
        ]
    );
    let median = Targets::of(&app(&json!({ "latency": { "p50": "20ms" } })).spec).unwrap();
    assert_eq!(median.each().collect::<Vec<_>>(), [("p50", Target::latency(0.5, ms(20)))]);
    let wrong = Targets::of(&app(&json!({ "latency": { "p999": "fast" } })).spec).unwrap_err();
    assert!(wrong.starts_with("spec.latency.p999: "), "{wrong}");
}

#[test]
fn errors_may_be_limited_beside_a_latency() {
    let spec = |rate: &str| app(&json!({ "latency": { "p99": "250ms" }, "errorRate": rate })).spec;
    let targets = Targets::of(&spec("0.5%")).unwrap();
    let errors = Target { quantile: 1.0 - 0.005, answer: Answer::WithoutError };
    assert_eq!(targets.each().last(), Some(("errors", errors)));
    let wrong = Targets::of(&spec("few")).unwrap_err();
    assert!(wrong.starts_with("spec.errorRate: "), "{wrong}");
}

#[test]
fn every_target_is_an_edge_of_the_bundled_api() {
    let latency = json!({ "p50": "20ms", "p90": "80ms", "p95": "0.1s", "p99": "250ms", "p999": "1s" });
    let deployment = build::deployment(&app(&json!({ "latency": latency })), &settings(), "r1");
    let container = &deployment.spec.unwrap().template.spec.unwrap().containers[0];
    let variable = container.env.iter().flatten().find(|env| env.name == "PLIMSOLL_LATENCY_TARGETS");
    assert_eq!(variable.unwrap().value.as_deref(), Some("20ms,80ms,0.1s,250ms,1s"));
}

#[test]
fn a_median_does_not_make_the_bundled_api_refuse_early() {
    let shed_after = |latency| {
        let deployment = build::deployment(&app(&json!({ "latency": latency })), &settings(), "r1");
        let container = &deployment.spec.unwrap().template.spec.unwrap().containers[0];
        let mut variables = container.env.clone().unwrap_or_default().into_iter();
        variables.find(|env| env.name == "PLIMSOLL_SHED_AFTER").and_then(|variable| variable.value)
    };
    assert_eq!(shed_after(json!({ "p50": "5ms", "p95": "100ms", "p99": "250ms" })).as_deref(), Some("50ms"));
    assert_eq!(shed_after(json!({ "p50": "5ms" })).as_deref(), Some("5ms"));
    assert_eq!(shed_after(json!({ "p90": "5ms" })), None, "the API's own rule will do");
}

#[test]
fn a_violation_of_any_target_adds_replicas() {
    for latency in [json!({ "p50": "25ms" }), json!({ "p90": "50ms" }), json!({ "p999": "250ms" })] {
        let mut world = World::new(app(&json!({ "latency": latency })), 1);
        world.decide(None);
        for _ in 0..20 {
            world.round(100.0);
        }
        assert!(world.replicas() > 1, "{latency}: {}", world.history.last().unwrap().decision.message);
    }
}

fn rate() -> impl Strategy<Value = Value> {
    (prop::option::of(1..20_u32), 1..300_u32, 1..1800_u32).prop_map(|(replicas, percent, seconds)| {
        json!({ "replicas": replicas, "percent": percent, "periodSeconds": seconds })
    })
}

fn schedule() -> impl Strategy<Value = Value> {
    let time = || (0..24_u32, 0..60_u32).prop_map(|(hour, minute)| format!("{hour:02}:{minute:02}"));
    let zone = prop::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kolkata",
    ]);
    let days = prop::sample::subsequence(vec!["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], 1..=7);
    (time(), time(), zone, days, 1..40_u32, 0..30_000_u32).prop_map(
        |(from, to, zone, days, replicas, ramp)| {
            json!({
                "name": "any", "from": from, "to": to, "timeZone": zone, "days": days, "replicas": replicas,
                "rampSeconds": ramp,
            })
        },
    )
}

/// Any hands, with a pause that ends at `until` in each direction that is paused.
fn hands() -> impl Strategy<Value = Value> {
    let pause = || prop::option::of(-500..500_i64);
    let mode = prop::sample::select(vec!["Auto", "Recommend"]);
    let schedules = prop::collection::vec(schedule(), 0..4);
    (mode, pause(), pause(), prop::option::of(rate()), prop::option::of(rate()), schedules).prop_map(
        |(mode, up, down, up_rate, down_rate, schedules)| {
            let until = |seconds: Option<i64>| {
                seconds.map(|seconds| json!({ "until": now() + SignedDuration::from_secs(seconds) }))
            };
            json!({
                "mode": mode, "pause": { "up": until(up), "down": until(down) }, "up": up_rate, "down": down_rate,
                "schedules": schedules,
            })
        },
    )
}

fn changes() -> impl Strategy<Value = Vec<ReplicaChange>> {
    let change = (0..4000_i64, 1..50_u32, 1..50_u32).prop_map(|(seconds, from, to)| ReplicaChange {
        at: now() - SignedDuration::from_secs(seconds),
        from,
        to,
    });
    prop::collection::vec(change, 0..20)
}

/// Whether a pause of the hands is in force.
fn paused(hands: &Value, direction: &str) -> bool {
    hands["pause"][direction]["until"].as_str().is_some_and(|until| now() < at(until))
}

/// What a rate allows on top of, or below, so many replicas.
fn allowed(rate: &Value, replicas: u32) -> u32 {
    let part = (f64::from(replicas) * rate["percent"].as_f64().unwrap_or(0.0) / 100.0).ceil();
    rate["replicas"].as_f64().unwrap_or(0.0).max(part) as u32
}

proptest! {
    #[test]
    fn what_moves_moves_into_the_bounds_and_in_no_direction_that_is_held(
        hands in hands(), recent in changes(), current in 0..60_u32, wish in 0..100_u32,
        min in 1..20_u32, more in 0..20_u32,
    ) {
        let policy = bounded(&hands, &json!({ "min": min, "max": min + more }));
        let ruling = policy.rule(now(), current, &recent, wish);
        let within = min..=min + more;
        prop_assert!(within.contains(&ruling.recommended), "{ruling:?}");
        prop_assert!(ruling.replicas == current || within.contains(&ruling.replicas), "{ruling:?}");
        prop_assert!(!paused(&hands, "up") || ruling.replicas <= current, "{ruling:?}");
        prop_assert!(!paused(&hands, "down") || ruling.replicas >= current, "{ruling:?}");
        if hands["mode"] == "Recommend" {
            prop_assert_eq!(ruling.replicas, current);
        } else if !paused(&hands, "up") && !paused(&hands, "down") {
            prop_assert_eq!(ruling.replicas, ruling.recommended);
        }
        let floor = policy.floor(now(), Duration::ZERO).replicas;
        prop_assert!(within.contains(&floor));
        prop_assert!(within.contains(&policy.initial(now())));
        if ruling.hand.is_none() {
            prop_assert_eq!(ruling.replicas, wish.clamp(min, min + more));
        }
    }

    #[test]
    fn the_same_input_gives_the_same_output_in_whatever_order_the_changes_come(
        hands in hands(), recent in changes(), current in 0..60_u32, wish in 0..100_u32,
    ) {
        let policy = policy(&hands);
        let ruling = policy.rule(now(), current, &recent, wish);
        let reversed = recent.iter().rev().copied().collect::<Vec<_>>();
        prop_assert_eq!(bounded(&hands, &json!({ "min": 2, "max": 20 })), policy.clone());
        prop_assert_eq!(policy.rule(now(), current, &reversed, wish), ruling);
    }

    #[test]
    fn a_pause_that_has_ended_is_as_none(
        hands in hands(), recent in changes(), current in 0..60_u32, wish in 0..100_u32, ago in 0..500_i64,
    ) {
        let (mut ended, mut none) = (hands.clone(), hands);
        let pause = json!({ "until": now() - SignedDuration::from_secs(ago) });
        ended["pause"] = json!({ "up": pause, "down": pause });
        none["pause"] = Value::Null;
        prop_assert_eq!(
            policy(&ended).rule(now(), current, &recent, wish),
            policy(&none).rule(now(), current, &recent, wish)
        );
    }

    #[test]
    fn rates_are_kept_over_every_window(
        up in rate(), down in rate(), schedules in prop::collection::vec(schedule(), 0..3),
        steps in prop::collection::vec((1..200_i64, 0..60_u32), 1..60), first in 2..40_u32,
    ) {
        let hands = json!({ "up": up, "down": down, "schedules": schedules });
        let policy = bounded(&hands, &json!({ "min": 2, "max": 40 }));
        let (mut time, mut current, mut recent) = (now(), first, Vec::new());
        // Each number, with the moments since and until which it held.
        let mut held = vec![(time, time, first)];
        for (seconds, wish) in steps {
            time += SignedDuration::from_secs(seconds);
            let to = policy.rule(time, current, &recent, wish).replicas;
            held.last_mut().unwrap().1 = time;
            held.push((time, time, to));
            recent.push(ReplicaChange { at: time, from: current, to });
            current = to;
        }
        for (index, &(since, _, to)) in held.iter().enumerate() {
            let within = |rate: &Value| since - SignedDuration::from_secs(rate["periodSeconds"].as_i64().unwrap());
            for &(_, until, from) in &held[..index] {
                prop_assert!(until <= within(&up) || to <= from + allowed(&up, from), "{from} to {to}");
                prop_assert!(until <= within(&down) || to + allowed(&down, from) >= from, "{from} to {to}");
            }
        }
    }

    #[test]
    fn a_floor_rises_up_to_its_beginning_and_falls_from_its_end(
        schedule in schedule(), day in 0..400_i32, parts in prop::collection::vec(0.0..=1.0_f64, 2..20),
    ) {
        let date = jiff::civil::date(2030, 1, 1) + day.days();
        let mut schedule = schedule;
        // A single day: no other window's ramp comes near.
        schedule["days"] = json!([format!("{:?}", date.weekday())[..3]]);
        let replicas = schedule["replicas"].as_u64().unwrap().clamp(2, 20) as u32;
        let policy = policy(&json!({ "schedules": [schedule] }));
        let ramp = schedule["rampSeconds"].as_f64().unwrap();
        let zone = TimeZoneDatabase::bundled().get(schedule["timeZone"].as_str().unwrap()).unwrap();
        let (from, to) = (schedule["from"].as_str().unwrap(), schedule["to"].as_str().unwrap());
        let time = |text: &str| jiff::civil::Time::strptime("%H:%M", text).unwrap();
        let end = if to <= from { date.tomorrow().unwrap() } else { date };
        let from = zone.to_ambiguous_timestamp(date.to_datetime(time(from))).earlier().unwrap();
        let to = zone.to_ambiguous_timestamp(end.to_datetime(time(to))).later().unwrap();
        let floor = |time: Timestamp| policy.floor(time, Duration::ZERO).replicas;
        prop_assert_eq!(floor(from), replicas);
        prop_assert_eq!(floor(to), replicas);
        let mut parts = parts;
        parts.sort_by(f64::total_cmp);
        let rising = parts.iter().map(|part| floor(from - SignedDuration::from_secs_f64(ramp * (1.0 - part))));
        prop_assert!(rising.collect::<Vec<_>>().is_sorted());
        let falling = parts.iter().map(|part| floor(to + SignedDuration::from_secs_f64(ramp * (1.0 - part))));
        prop_assert!(falling.collect::<Vec<_>>().is_sorted());
    }

    #[test]
    fn a_floor_ahead_is_the_highest_of_its_moments(
        schedules in prop::collection::vec(schedule(), 1..4), minutes in 0..500_000_i64, ahead in 0..200_i64,
    ) {
        let mut schedules = schedules;
        for schedule in &mut schedules {
            // Whole minutes, so that a highest moment is one of those that are asked.
            schedule["rampSeconds"] = json!(schedule["rampSeconds"].as_i64().unwrap() / 60 * 60);
        }
        let policy = policy(&json!({ "schedules": schedules }));
        let minute = |minutes: i64| now() + SignedDuration::from_mins(minutes);
        let highest = (minutes..=minutes + ahead)
            .map(|minutes| policy.floor(minute(minutes), Duration::ZERO).replicas)
            .max();
        let told = policy.floor(minute(minutes), Duration::from_secs(ahead as u64 * 60)).replicas;
        prop_assert_eq!(Some(told), highest);
    }
}
