//! Probes and metrics: what the kubelet and the autoscaler see.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    middleware,
    routing::get,
};
use plimsoll_api::edge;
use tower::ServiceExt;

use crate::harness::{Answer, App, Client, Server, eventually, value_of};

#[tokio::test]
async fn probes_answer_once_the_schema_is_in_place() {
    let app = App::ready(&[]).await;
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(app.get(path).await.status, StatusCode::OK, "{path}");
    }
    let health = app.get("/health").await.json();
    assert_eq!((&health["status"], &health["cache"]), (&"ok".into(), &"none".into()));
}

#[tokio::test]
async fn without_a_database_the_service_lives_but_is_not_ready() {
    let app = App::start(&["--database-url=sqlite:/nonexistent/posts.db"]);
    assert_eq!(app.get("/livez").await.status, StatusCode::OK);
    assert_eq!(app.get("/health").await.status, StatusCode::OK);
    for path in ["/readyz", "/startupz"] {
        assert_eq!(app.get(path).await.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    let refused = app.get("/posts").await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    assert_eq!(refused.json()["code"], "unavailable");
}

#[tokio::test]
async fn latency_targets_are_exact_edges() {
    let app = App::ready(&["--latency-targets=100ms,120ms,0.35s"]).await;
    app.get("/posts").await;
    let metrics = app.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4"));
    for edge in ["0.0005", "0.1", "0.12", "0.35", "10", "+Inf"] {
        let series = format!(
            r#"http_request_duration_seconds_bucket{{method="GET",route="/posts",status="200",le="{edge}"}}"#
        );
        assert!(metrics.text().contains(&series), "{series}");
    }
}

#[tokio::test]
async fn only_the_api_is_measured_and_by_bounded_labels() {
    let app = App::ready(&[]).await;
    for path in
        ["/livez", "/readyz", "/startupz", "/health", "/metrics", "/posts/1", "/posts/2", "/a", "/b?c=d"]
    {
        app.get(path).await;
    }
    app.json("BREW", "/posts", "").await;
    let metrics = app.get("/metrics").await;
    let mut counts: Vec<_> = metrics
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("http_request_duration_seconds_count"))
        .collect();
    counts.sort_unstable();
    assert_eq!(
        counts,
        [
            r#"{method="GET",route="/posts/{id}",status="404"} 2"#,
            r#"{method="GET",route="unmatched",status="404"} 2"#,
            r#"{method="OTHER",route="/posts",status="405"} 1"#,
        ]
    );
    assert!(metrics.text().contains(r#"plimsoll_api_build_info{version=""#));
    assert!(value_of(metrics.text(), "process_cpu_seconds_total") > 0.0);
    assert!(value_of(metrics.text(), "http_requests_in_flight").abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_client_that_gives_up_is_still_measured() {
    let server = Server::ready(&["--cpu-workers=1"]).await;
    let mut client = Client::connect(server.port).await.unwrap();
    let request = tokio::spawn(async move { client.get("/work?cpu=1s").await });
    let in_flight = async || value_of(server.get("/metrics").await.text(), "http_requests_in_flight");
    eventually("the request is in flight", async || in_flight().await > 0.0).await;
    request.abort();
    let gone = r#"http_request_duration_seconds_count{method="GET",route="/work",status="499"}"#;
    eventually("the request is measured", async || value_of(server.get("/metrics").await.text(), gone) > 0.0)
        .await;
    assert!(in_flight().await.abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_panic_is_a_500_that_tells_nothing() {
    let app = App::ready(&[]).await;
    let guard = middleware::from_fn_with_state(Arc::clone(&app.state), edge::guard);
    let router = Router::new().route("/panic", get(async || -> () { panic!("a secret") })).layer(guard);
    let request = Request::get("/panic").body(Body::empty()).unwrap();
    let answer = Answer::read(router.oneshot(request).await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.header("x-request-id").is_some());
    assert!(!answer.text().contains("secret"), "{answer:?}");
}

#[tokio::test]
async fn without_an_id_of_its_own_a_request_is_known_by_its_trace() {
    let app = App::ready(&[]).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = || Request::get("/posts").header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let answer = app.send(request().body(Body::empty()).unwrap()).await;
    assert_eq!(answer.header("x-request-id"), Some(trace));
    let answer = app.send(request().header("x-request-id", "mine").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.header("x-request-id"), Some("mine"));
}
