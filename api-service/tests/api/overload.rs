//! More work than the service can do: it is refused at once, and counted apart.

use axum::http::StatusCode;
use futures::future::join_all;

use crate::harness::App;

const ANSWERED: &str = r#"http_request_duration_seconds_count{method="GET",route="/work",status="200"}"#;
const TIMED_OUT: &str = r#"http_request_duration_seconds_count{method="GET",route="/work",status="503"}"#;

#[tokio::test]
async fn work_costs_the_cpu_time_that_it_says() {
    let app = App::ready(&[]).await;
    let before = app.metric("process_cpu_seconds_total").await;
    let answer = app.get("/work?cpu=50ms").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.json()["cpuMs"].as_f64().unwrap() >= 50.0, "{answer:?}");
    assert!(app.metric("process_cpu_seconds_total").await - before >= 0.05);
}

#[tokio::test]
async fn work_beyond_the_queue_is_shed() {
    let app = App::ready(&["--cpu-workers=1", "--cpu-queue=1"]).await;
    let answers = join_all((0..8).map(|_| app.get("/work?cpu=200ms"))).await;
    let (done, shed): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::OK);
    assert!(!done.is_empty() && !shed.is_empty(), "{answers:?}");
    for answer in &shed {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            (answer.json()["code"].as_str(), answer.header("retry-after")),
            (Some("overloaded"), Some("1"))
        );
    }
    assert_eq!(app.count("http_requests_shed_total").await, shed.len());
    assert_eq!(app.count(ANSWERED).await, done.len());
    assert_eq!(app.count(TIMED_OUT).await, 0, "shed requests are not measured");
    assert_eq!(app.get("/readyz").await.status, StatusCode::OK, "load is no reason to leave the endpoints");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_and_measured() {
    let app = App::ready(&["--request-timeout=50ms"]).await;
    let answer = app.get("/work?cpu=1s").await;
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("timeout"))
    );
    assert_eq!(app.count(TIMED_OUT).await, 1);
    assert_eq!(app.count("http_requests_shed_total").await, 0);
}
