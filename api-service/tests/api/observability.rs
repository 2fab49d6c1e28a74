//! Probes and metrics: what the kubelet and the autoscaler see.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    middleware,
    routing::get,
};
use plimsoll_api::{cgroup::CpuFiles, edge};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
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
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.retry_after().is_some_and(|seconds| (1..=3).contains(&seconds)), "{refused:?}");
    assert_eq!(refused.json()["code"], "unavailable");
}

#[tokio::test]
async fn latency_targets_are_exact_edges() {
    let app = App::ready(&["--latency-targets=100ms,120ms,0.35s"]).await;
    app.get("/posts").await;
    let metrics = app.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4"));
    for edge in ["0.0005", "0.0011", "0.1", "0.12", "0.35", "10", "+Inf"] {
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

/// Waits in steps that the test takes on the server's own thread, so that the server cannot run meanwhile.
const WAIT: Duration = Duration::from_millis(300);

/// The requests to `/posts` that took at most so long, and all of them.
async fn measured(server: &Server, edge: &str) -> (f64, f64) {
    let metrics = server.get("/metrics").await;
    let series = r#"{method="GET",route="/posts",status="200""#;
    let up_to = format!(r#"http_request_duration_seconds_bucket{series},le="{edge}"}}"#);
    let all = format!("http_request_duration_seconds_count{series}}}");
    (value_of(metrics.text(), &up_to), value_of(metrics.text(), &all))
}

#[tokio::test]
async fn a_wait_before_the_handler_is_part_of_the_latency() {
    let server = Server::ready(&[]).await;
    // Not even accepted while the thread sleeps.
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /posts HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    std::thread::sleep(WAIT);
    stream.set_nonblocking(true).unwrap();
    let mut stream = TcpStream::from_std(stream).unwrap();
    assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    assert_eq!(measured(&server, "0.27").await, (0.0, 1.0), "it waited for 300 ms");
    let metrics = server.get("/metrics").await;
    assert!(
        value_of(metrics.text(), "http_handler_duration_seconds_sum") < 0.25,
        "a stopwatch in the handler does not see it"
    );
    // Idle time between two requests of one connection is nobody's latency.
    tokio::time::sleep(WAIT).await;
    stream.write_all(b"GET /posts HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    assert_eq!(measured(&server, "0.27").await, (1.0, 2.0));
}

#[tokio::test]
async fn time_that_the_client_takes_to_send_a_head_is_not_the_services() {
    let server = Server::ready(&[]).await;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    stream.write_all(b"GET /posts HTTP/1.1\r\nho").await.unwrap();
    tokio::time::sleep(WAIT).await;
    stream.write_all(b"st: test\r\n\r\n").await.unwrap();
    assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    assert_eq!(measured(&server, "0.27").await, (1.0, 1.0));
}

#[tokio::test]
async fn the_cgroups_cpu_is_told_where_the_kernel_tells_it() {
    let app = App::ready(&[]).await;
    let told = CpuFiles::find().map(|files| files.read()).unwrap_or_default();
    let metrics = app.get("/metrics").await;
    for (value, name) in [
        (told.usage_seconds, "cgroup_cpu_usage_seconds_total"),
        (told.throttled_seconds, "cgroup_cpu_throttled_seconds_total"),
        (told.throttled_periods, "cgroup_cpu_throttled_periods_total"),
        (told.quota_cores, "cgroup_cpu_quota_cores"),
    ] {
        let shown = metrics.text().lines().any(|line| line.starts_with(&format!("{name} ")));
        assert_eq!(shown, value.is_some(), "{name}");
    }
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
