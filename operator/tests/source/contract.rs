//! The contract of both sources: of the same pods they read the same counts, and what cannot be read is no number.
// Counts of whole requests are exact.
#![allow(clippy::float_cmp)]

use std::time::Duration;

use plimsoll_core::histogram::{Rejection, Snapshot};
use serde_json::json;

use crate::pod::Says;
use crate::world::{Kind, World, exposition};

/// Holds both sources to each of these.
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod pods {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::world::Kind::Pods).await;
            })*
        }
        mod prometheus {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::world::Kind::Prometheus).await;
            })*
        }
    };
}

contract!(
    counts_gauges_and_cpu_are_the_same,
    only_series_with_the_chosen_labels_count,
    errors_are_told_by_the_status,
    a_restart_is_seen_as_one,
    a_pod_that_is_gone_is_missing_and_not_zero,
    a_pod_that_takes_connections_and_says_nothing_is_missing,
    a_pod_that_fails_is_missing,
    a_pod_without_the_histogram_is_missing,
    a_pod_that_has_served_nothing_is_read_as_that,
    counts_that_make_no_sense_are_left_out,
    a_slow_pod_is_read,
    an_answer_that_is_too_long_is_left_out,
    a_pod_that_wants_a_token_is_read_with_it_alone,
);

fn total(snapshot: &Snapshot) -> f64 {
    snapshot.since(&Snapshot::default()).total
}

fn text(counts: [&str; 3]) -> Says {
    Says::Text(exposition(&[("/api", "200", counts)]))
}

async fn counts_gauges_and_cpu_are_the_same(kind: Kind) {
    let beside = "http_requests_in_flight 3\nhttp_requests_shed_total{reason=\"queue\"} 4\nhttp_requests_shed_total{reason=\"age\"} 1\n\
                  process_cpu_seconds_total 7.5\nanother_metric{le=\"0.1\"} NaN\n";
    let first = exposition(&[("/api", "200", ["70", "80", "90"]), ("/api", "404", ["1", "2", "3"])]) + beside;
    let world = World::new(kind, [Says::Text(first), text(["0", "1000000", "123456789"])], &json!({})).await;
    let [first, second] = &world.all().await[..] else { panic!() };
    let delta = first.since(&Snapshot::default());
    assert_eq!((delta.total, delta.shed), (93.0, 5.0));
    assert_eq!(delta.slower_than(Duration::from_millis(100)), 22.0);
    assert_eq!(delta.slower_than(Duration::from_millis(250)), 11.0);
    assert_eq!((first.in_flight, second.in_flight), (Some(3.0), None));
    assert_eq!(total(second), 123_456_789.0);
    let samples = world.read().await.unwrap();
    let cpu = samples[0].cpu.unwrap();
    assert_eq!((cpu.used_seconds, cpu.limit_cores), (7.5, Some(2.0)));
    assert_eq!(samples[1].cpu, None);
}

async fn only_series_with_the_chosen_labels_count(kind: Kind) {
    let both = exposition(&[("/api", "200", ["7", "8", "9"]), ("/healthz", "200", ["500", "500", "500"])]);
    let probed = exposition(&[("/healthz", "200", ["500", "500", "500"])]);
    let metrics = json!({ "labels": { "handler": "/api" } });
    let world = World::new(kind, [Says::Text(both), Says::Text(probed)], &metrics).await;
    let samples = world.eventually("the first pod is read", |samples| samples[0].reading.is_ok()).await;
    assert_eq!(total(samples[0].reading.as_ref().unwrap()), 9.0);
    world.is_left_out(1, Rejection::LabelsMissing, Rejection::NoSeries).await;
}

async fn errors_are_told_by_the_status(kind: Kind) {
    let told = exposition(&[
        ("/api", "200", ["90", "90", "90"]),
        ("/api", "404", ["5", "5", "5"]),
        ("/api", "500", ["0", "1", "2"]),
        ("/api", "503", ["1", "1", "1"]),
    ]);
    let untold = told.replace("code=", "verdict=");
    let world = World::new(kind, [Says::Text(told), Says::Text(untold)], &json!({})).await;
    let [told, untold] = &world.all().await[..] else { panic!() };
    assert_eq!(told.since(&Snapshot::default()).failed, 3.0);
    assert!(told.tells_errors() && !untold.tells_errors());
}

async fn a_restart_is_seen_as_one(kind: Kind) {
    let world = World::new(kind, [text(["100", "200", "300"])], &json!({})).await;
    let before = world.all().await.remove(0);
    world.pods[0].says(text(["1", "2", "3"]));
    let samples = world
        .eventually("the restarted pod is read", |samples| {
            samples[0].reading.as_ref().is_ok_and(|now| *now != before)
        })
        .await;
    let now = samples[0].reading.as_ref().unwrap();
    assert_eq!(now.since(&before).total, 3.0, "everything that it has counted is new");
}

async fn a_pod_that_is_gone_is_missing_and_not_zero(kind: Kind) {
    let world = World::new(kind, [text(["1", "2", "3"]), text(["4", "5", "6"])], &json!({})).await;
    world.all().await;
    world.pods[0].end();
    let samples = world.is_left_out(0, Rejection::Connection, Rejection::NoSeries).await;
    assert_eq!(samples[1].reading.as_ref().map(total), Ok(6.0), "the other one is read all the same");
}

async fn a_pod_that_takes_connections_and_says_nothing_is_missing(kind: Kind) {
    let world = World::new(kind, [text(["1", "2", "3"]), text(["4", "5", "6"])], &json!({})).await;
    world.all().await;
    world.pods[0].says(Says::Nothing);
    let samples = world.is_left_out(0, Rejection::Timeout, Rejection::NoSeries).await;
    assert_eq!(samples[1].reading.as_ref().map(total), Ok(6.0), "the other one is read all the same");
}

async fn a_pod_that_fails_is_missing(kind: Kind) {
    let world = World::new(kind, [text(["1", "2", "3"])], &json!({})).await;
    world.all().await;
    world.pods[0].says(Says::Failure);
    world.is_left_out(0, Rejection::HttpStatus, Rejection::NoSeries).await;
    world.pods[0].says(text(["2", "3", "4"]));
    assert_eq!(total(&world.all().await[0]), 4.0);
}

async fn a_pod_without_the_histogram_is_missing(kind: Kind) {
    let world = World::new(kind, [Says::Text("up 1\n".into()), text(["1", "2", "3"])], &json!({})).await;
    world.eventually("the other pod is read", |samples| samples[1].reading.is_ok()).await;
    world.is_left_out(0, Rejection::HistogramMissing, Rejection::NoSeries).await;
}

async fn a_pod_that_has_served_nothing_is_read_as_that(kind: Kind) {
    let world = World::new(kind, [Says::Text("http_requests_in_flight 0\n".into())], &json!({})).await;
    let idle = world.all().await.remove(0);
    assert_eq!((total(&idle), idle.in_flight), (0.0, Some(0.0)));
}

async fn counts_that_make_no_sense_are_left_out(kind: Kind) {
    let says = [
        text(["1", "2", "NaN"]),
        text(["-1", "2", "3"]),
        text(["1", "2", "+Inf"]),
        text(["5", "2", "3"]),
        Says::Text("http_request_duration_seconds_bucket{le=\"0.1\"} 1\nhttp_requests_in_flight 1\n".into()),
        text(["1", "2", "3"]),
    ];
    let world = World::new(kind, says, &json!({})).await;
    world.eventually("the last pod is read", |samples| samples[5].reading.is_ok()).await;
    for pod in 0..3 {
        world.is_left_out(pod, Rejection::InvalidCount, Rejection::InvalidCount).await;
    }
    world.is_left_out(3, Rejection::NotMonotone, Rejection::NotMonotone).await;
    world.is_left_out(4, Rejection::NoInfBucket, Rejection::NoInfBucket).await;
}

async fn a_slow_pod_is_read(kind: Kind) {
    let slow = Says::Slowly(exposition(&[("/api", "200", ["1", "2", "3"])]));
    let world = World::new(kind, [slow], &json!({})).await;
    assert_eq!(total(&world.all().await[0]), 3.0);
}

async fn an_answer_that_is_too_long_is_left_out(kind: Kind) {
    let long = Says::AtLength(6 << 20, exposition(&[("/api", "200", ["1", "2", "3"])]));
    let world = World::new(kind, [long, text(["4", "5", "6"])], &json!({})).await;
    world.eventually("the other pod is read", |samples| samples[1].reading.is_ok()).await;
    world.is_left_out(0, Rejection::TooLarge, Rejection::NoSeries).await;
}

async fn a_pod_that_wants_a_token_is_read_with_it_alone(kind: Kind) {
    let says = || Says::ToBearer("s3cret", exposition(&[("/api", "200", ["1", "2", "3"])]));
    let with = World::with_token(kind, [says()], &json!({}), Some("s3cret")).await;
    assert_eq!(total(&with.all().await[0]), 3.0);
    let without = World::with_token(kind, [says(), text(["4", "5", "6"])], &json!({}), Some("other")).await;
    without.eventually("the other pod is read", |samples| samples[1].reading.is_ok()).await;
    without.is_left_out(0, Rejection::Unauthorized, Rejection::NoSeries).await;
}
