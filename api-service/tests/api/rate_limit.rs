//! The rate limit: over the router, over connections, shared by replicas, and without its Redis.

use std::process::Command;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use nix::sys::signal::Signal;

use crate::{
    auth,
    harness::{Answer, App, Process, Server, eventually, free_port},
};

const ALLOWED: &str = r#"rate_limit_requests_total{by="replica",result="allowed"}"#;
const LIMITED: &str = r#"rate_limit_requests_total{by="replica",result="limited"}"#;
const BY_REDIS: &str = r#"rate_limit_requests_total{by="redis",result="allowed"}"#;

async fn get(app: &App, headers: &[(&str, &str)]) -> Answer {
    let request = Request::get("/posts");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    app.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn without_a_rate_nothing_is_limited_or_told() {
    let app = App::ready(&[]).await;
    assert_eq!(app.get("/posts").await.header("ratelimit"), None);
}

#[tokio::test]
async fn a_caller_beyond_its_rate_is_told_when_to_come_back() {
    let app = App::ready(&["--rate-limit=2/h"]).await;
    let first = app.get("/posts").await;
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!(first.header("ratelimit-policy"), Some(r#""default";q=2;w=3600"#));
    assert_eq!(first.header("ratelimit"), Some(r#""default";r=1;t=1800"#));
    assert_eq!(app.get("/posts/1").await.status, StatusCode::NOT_FOUND, "it counts on every route");
    let refused = app.get("/posts").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{refused:?}");
    assert_eq!(refused.json()["code"], "rate_limited");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&wait), "{wait}");
    assert!(refused.header("ratelimit").unwrap().starts_with(r#""default";r=0;t="#), "{refused:?}");
    for path in ["/livez", "/readyz", "/startupz", "/health", "/metrics"] {
        assert_eq!(app.get(path).await.status, StatusCode::OK, "{path} is never limited");
    }
}

#[tokio::test]
async fn limited_requests_are_neither_latency_nor_load() {
    let app = App::ready(&["--rate-limit=1/h"]).await;
    for _ in 0..3 {
        app.get("/posts").await;
    }
    let metrics = app.get("/metrics").await;
    assert!(!metrics.text().contains(r#"status="429""#), "{}", metrics.text());
    assert_eq!(app.count("http_requests_shed_total").await, 0, "more replicas would not let them through");
    assert_eq!((app.count(ALLOWED).await, app.count(LIMITED).await), (1, 2));
}

#[tokio::test]
async fn the_burst_is_a_setting_of_its_own() {
    let app = App::ready(&["--rate-limit=100/h", "--rate-limit-burst=1"]).await;
    assert_eq!(app.get("/posts").await.header("ratelimit-policy"), Some(r#""default";q=1;w=36"#));
    assert_eq!(app.get("/posts").await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn callers_are_told_apart_by_subject_then_by_trusted_address() {
    let app = App::ready(&["--rate-limit=1/h", "--rate-limit-trusted-hops=1", auth::SECRET_FLAG]).await;
    let bearer = |subject| format!("Bearer {}", auth::token(&auth::claims(subject, "")));
    let (ada, bob) = (bearer("ada"), bearer("bob"));
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[("x-forwarded-for", "1.1.1.1")], 200),
        (&[("x-forwarded-for", "1.1.1.1")], 429),
        (&[("x-forwarded-for", "9.9.9.9, 1.1.1.1")], 429),
        (&[("x-forwarded-for", "2.2.2.2")], 200),
        (&[("authorization", &ada), ("x-forwarded-for", "1.1.1.1")], 200),
        (&[("authorization", &ada), ("x-forwarded-for", "3.3.3.3")], 429),
        (&[("authorization", &bob), ("x-forwarded-for", "1.1.1.1")], 200),
        // Guessing tokens counts for the address.
        (&[("authorization", "Bearer x"), ("x-forwarded-for", "4.4.4.4")], 401),
        (&[("authorization", "Bearer y"), ("x-forwarded-for", "4.4.4.4")], 429),
    ];
    for (headers, status) in cases {
        assert_eq!(get(&app, headers).await.status.as_u16(), *status, "{headers:?}");
    }
}

#[tokio::test]
async fn a_header_that_nobody_trusts_changes_nothing() {
    let server = Server::ready(&["--rate-limit=1/h"]).await;
    assert_eq!(server.get("/posts").await.status, StatusCode::OK);
    assert_eq!(server.get("/posts").await.status, StatusCode::TOO_MANY_REQUESTS, "the peer's address counts");
    let app = App::ready(&["--rate-limit=1/h"]).await;
    assert_eq!(get(&app, &[("x-forwarded-for", "1.1.1.1")]).await.status, StatusCode::OK);
    assert_eq!(get(&app, &[("x-forwarded-for", "2.2.2.2")]).await.status, StatusCode::TOO_MANY_REQUESTS);
}

struct Redis(Process, u16);

impl Redis {
    async fn start() -> Self {
        let port = free_port();
        let text = port.to_string();
        let flags = ["--port", &text, "--bind", "127.0.0.1", "--save", ""];
        let process = Process::spawn(Command::new("redis-server").args(flags));
        let redis = Self(process, port);
        eventually("redis-server answers", async || {
            let client = redis::Client::open(redis.url()).unwrap();
            client.get_multiplexed_async_connection().await.is_ok()
        })
        .await;
        redis
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.1)
    }
}

/// Sends as `name`, an address of its own.
async fn send_as(app: &App, name: &str) -> Answer {
    get(app, &[("x-forwarded-for", name)]).await
}

#[tokio::test]
async fn replicas_share_the_limit_in_redis() {
    let redis = Redis::start().await;
    let cache = format!("--cache-url={}", redis.url());
    let flags = ["--rate-limit=3/h", "--rate-limit-trusted-hops=1", &cache];
    let (one, two) = (App::ready(&flags).await, App::ready(&flags).await);
    for (nth, app) in [&one, &two].into_iter().enumerate() {
        eventually("Redis judges", async || {
            send_as(app, &format!("10.0.0.{nth}")).await;
            app.count(BY_REDIS).await > 0
        })
        .await;
    }
    let mut left = Vec::new();
    for app in [&one, &two, &one, &two, &one] {
        let answer = send_as(app, "1.1.1.1").await;
        left.push((answer.status.as_u16(), answer.header("ratelimit").unwrap().to_owned()));
    }
    let told: Vec<_> = left.iter().map(|(status, limit)| (*status, limit.as_str())).collect();
    // The time of Redis goes on between two requests, by less than the second that is rounded up.
    assert_eq!(told[0], (200, r#""default";r=2;t=1200"#));
    assert_eq!(
        told.iter().map(|(status, _)| *status).collect::<Vec<_>>(),
        [200, 200, 200, 429, 429],
        "{told:?}"
    );
    assert!(
        told[1].1.starts_with(r#""default";r=1;"#) && told[3].1.starts_with(r#""default";r=0;"#),
        "{told:?}"
    );
    let mut connection =
        redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let life: i64 =
        redis::cmd("PTTL").arg("rate:address:1.1.1.1").query_async(&mut connection).await.unwrap();
    assert!((3_500_000..=3_600_000).contains(&life), "an entry goes when nothing is owed: {life} ms");
}

#[tokio::test]
async fn without_its_redis_each_replica_limits_on_its_own() {
    let redis = Redis::start().await;
    let cache = format!("--cache-url={}", redis.url());
    let app = App::ready(&["--rate-limit=2/h", "--rate-limit-trusted-hops=1", &cache]).await;
    eventually("Redis judges", async || {
        send_as(&app, "10.0.0.1").await;
        app.count(BY_REDIS).await > 0
    })
    .await;
    redis.0.signal(Signal::SIGSTOP);
    let statuses = [
        send_as(&app, "1.1.1.1").await.status,
        send_as(&app, "1.1.1.1").await.status,
        send_as(&app, "1.1.1.1").await.status,
    ];
    assert_eq!(statuses, [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS]);
    assert!(app.count(ALLOWED).await >= 2);
    redis.0.signal(Signal::SIGCONT);
    let before = app.count(BY_REDIS).await;
    eventually("Redis judges again", async || {
        send_as(&app, "10.0.0.2").await;
        app.count(BY_REDIS).await > before
    })
    .await;
}
