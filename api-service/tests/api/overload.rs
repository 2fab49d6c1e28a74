//! More work than the service can do: it is refused at once, and counted apart.

use std::{thread, time::Duration};

use axum::http::StatusCode;
use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{App, Server, value_of};

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
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.json()["code"], "overloaded");
        assert!(answer.retry_after().is_some_and(|seconds| (1..=3).contains(&seconds)), "{answer:?}");
    }
    assert_eq!(app.count(r#"http_requests_shed_total{reason="cpu_queue_full"}"#).await, shed.len());
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
    for reason in
        ["queue_age", "cpu_queue_age", "cpu_queue_full", "database_queue_age", "database_queue_full", "limit"]
    {
        assert_eq!(
            app.count(&format!(r#"http_requests_shed_total{{reason="{reason}"}}"#)).await,
            0,
            "{reason}"
        );
    }
}

/// Sends a request and keeps the server, which shares the test's thread, from running for `wait`; gives the answer's text.
async fn delayed(stream: &mut TcpStream, path: &str, wait: Duration) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    thread::sleep(wait);
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    String::from_utf8(answer[..count].to_vec()).unwrap()
}

#[tokio::test]
async fn what_waits_too_long_in_a_queue_that_stands_is_refused_and_probes_never() {
    let server = Server::ready(&["--shed-after=5ms"]).await;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let late = Duration::from_millis(20);
    let mut answered = 0;
    let refused = loop {
        let answer = delayed(&mut stream, "/posts", late).await;
        if !answer.starts_with("HTTP/1.1 200") {
            break answer;
        }
        answered += 1;
        assert!(answered < 50, "waits of 20 ms for a second are a queue that stands");
    };
    assert!(answered >= 2, "a short burst is served: {answered}");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: "), "{refused}");
    assert!(refused.contains("x-request-id: ") && refused.contains("\"overloaded\""), "{refused}");
    assert!(refused.contains("connection: close"), "its client had better try another replica: {refused}");
    for path in ["/livez", "/readyz", "/startupz", "/health", "/metrics"] {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        assert!(delayed(&mut stream, path, late).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    let young = server.get("/posts").await;
    assert_eq!(young.status, StatusCode::OK, "who comes in time is served");

    let metrics = server.get("/metrics").await;
    let value = |series: &str| value_of(metrics.text(), series) as usize;
    assert_eq!(value(r#"http_requests_shed_total{reason="queue_age"}"#), 1);
    let measured = r#"http_request_duration_seconds_count{method="GET",route="/posts",status="200"}"#;
    assert_eq!(value(measured), answered + 1, "the refused request is not measured");
    assert_eq!(value("http_requests_in_flight"), 0);

    // An interval in which nobody waited long ends it. Time itself is the condition here.
    tokio::time::sleep(Duration::from_millis(250)).await;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    assert!(delayed(&mut stream, "/posts", late).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_event_loop_turns_while_cpu_work_fills_its_pool() {
    // The test and the service share one thread, so that work done on it would end before anything else begins.
    let app =
        App::ready(&["--cpu-workers=1", "--cpu-queue=2", "--cpu-queue-age=1m", "--shed-after=0s"]).await;
    let lag = tokio::spawn(plimsoll_api::metrics::watch_event_loop(app.state.metrics.event_loop_lag.clone()));
    let mut work = Box::pin(join_all((0..3).map(|_| app.get("/work?cpu=1s"))));
    assert!(futures::poll!(work.as_mut()).is_pending());
    let ticks = async || app.count("event_loop_lag_seconds_count").await;
    let before = ticks().await;
    while ticks().await < before + 5 {
        assert_eq!(app.get("/posts").await.status, StatusCode::OK);
        assert!(
            futures::poll!(work.as_mut()).is_pending(),
            "three seconds of work are done before five ticks"
        );
        tokio::task::yield_now().await;
    }
    lag.abort();
}
