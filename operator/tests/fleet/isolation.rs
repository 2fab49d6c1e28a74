//! An object in trouble beside one that is well: the other keeps its rhythm, and the number at work stays bounded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plimsoll_core::input::Settings;
use plimsoll_operator::app::Context;
use plimsoll_operator::config::CONCURRENCY;
use plimsoll_operator::controller;
use plimsoll_operator::leader::Led;
use plimsoll_operator::metrics::Metrics;
use plimsoll_operator::shards::{Shards, shard_of};
use plimsoll_operator::state::Registry;
use plimsoll_operator::watches::Watches;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::server::{Fault, Server, app, app_path, until};

/// A controller that leads what its fences say.
struct Operator {
    registry: Arc<Registry>,
    shards: Shards,
    led: watch::Sender<Led>,
    metrics: Metrics,
    synced: Arc<AtomicBool>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Operator {
    fn start(server: &Server, concurrency: u16, count: u16) -> Self {
        let (client, metrics) = (server.client(), Metrics::new().unwrap());
        let watches = Watches {
            client: client.clone(),
            namespace: None,
            selector: None,
            health: Arc::default(),
            metrics: metrics.clone(),
        };
        let (registry, shards) = (Arc::new(Registry::default()), Shards::new(count));
        let (led, leading) = watch::channel(Led::new());
        let (synced, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let make_context = {
            let (shards, registry, metrics) = (shards.clone(), registry.clone(), metrics.clone());
            let settings =
                Settings { api_image: "api".into(), redis_image: "redis".into(), operator_namespace: None };
            move |stores| Context::new(client, stores, shards, metrics, registry, settings, "test".into())
        };
        let running = tokio::spawn({
            let (synced, stop) = (synced.clone(), stop.clone());
            async move { controller::run(&watches, make_context, concurrency, leading, synced, stop).await }
        });
        Self { registry, shards, led, metrics, synced, stop, running }
    }

    /// Leads these shards and no others.
    fn lead(&self, shards: &[u16]) {
        for shard in 0..self.shards.count() {
            if shards.contains(&shard) {
                self.shards.fence(shard).set(Some(Instant::now() + Duration::from_mins(2)));
            } else {
                self.shards.fence(shard).leave();
            }
        }
        self.led
            .send_replace(shards.iter().map(|shard| (*shard, self.shards.fence(*shard).term())).collect());
    }

    /// How often the pods of an object have been asked.
    fn scrapes(&self, namespace: &str) -> usize {
        self.registry.decisions(namespace, "posts").len()
    }

    /// Reconciles that ended with an error.
    fn failures(&self) -> f64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let failed = text.lines().filter(|line| {
            line.starts_with("plimsoll_operator_reconciliations_total") && !line.contains("outcome=\"ok\"")
        });
        failed.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.running).await.expect("it drains").unwrap();
    }
}

async fn keeps_its_rhythm_beside(fault: Fault) {
    let server = Server::new();
    for namespace in ["broken", "well"] {
        server.put(&app_path(namespace, "posts"), app(namespace, "posts", 2));
    }
    server.fault("PATCH /apis/apps/v1/namespaces/broken/", fault);
    server.fault("PATCH /apis/plimsoll.dev/v1alpha1/namespaces/broken/", fault);
    let operator = Operator::start(&server, 4, 1);
    until(Duration::from_secs(5), "it has synced", || operator.synced.load(Ordering::Relaxed)).await;
    operator.lead(&[0]);
    until(Duration::from_secs(5), "the good one is scraped", || operator.scrapes("well") > 0).await;
    let (began, before) = (Instant::now(), operator.scrapes("well"));
    until(Duration::from_secs(12), "it was scraped eight times", || operator.scrapes("well") >= before + 8)
        .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?} for eight seconds' scrapes", began.elapsed());
    assert!(server.calls().iter().any(|call| call.starts_with("PATCH /apis/apps/v1/namespaces/broken/")));
    server.heal();
    operator.end().await;
}

#[tokio::test]
async fn an_object_whose_writes_hang_slows_no_other() {
    keeps_its_rhythm_beside(Fault::Hang).await;
}

#[tokio::test]
async fn an_object_whose_writes_fail_slows_no_other() {
    keeps_its_rhythm_beside(Fault::Status(500)).await;
}

/// A resource whose pods are asked at this port, and its ready pods.
fn put_with_pods(server: &Server, namespace: &str, port: u16, pods: usize) {
    let mut resource = app(namespace, "posts", 2);
    resource["spec"]["metrics"]["port"] = port.into();
    server.put(&app_path(namespace, "posts"), resource);
    for pod in 0..pods {
        let name = format!("posts-{pod}");
        let labels = serde_json::json!({ "plimsoll.dev/app": "posts", "app.kubernetes.io/component": "api", "app.kubernetes.io/managed-by": "plimsoll" });
        let ready = serde_json::json!([{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
        server.put(
            &format!("/api/v1/namespaces/{namespace}/pods/{name}"),
            serde_json::json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "namespace": namespace, "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z" },
                "spec": { "containers": [{ "name": "api" }] },
                "status": { "phase": "Running", "podIP": "127.0.0.1", "conditions": ready },
            }),
        );
    }
}

#[tokio::test]
async fn objects_whose_pods_never_answer_slow_no_other() {
    let server = Server::new();
    // They take the question, and keep the connection.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answering = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for number in 0..40 {
        put_with_pods(&server, &format!("silent-{number}"), silent.local_addr().unwrap().port(), 4);
    }
    put_with_pods(&server, "well", answering.local_addr().unwrap().port(), 2);
    let kept = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            connections.push(connection);
        }
    });
    let metrics = axum::routing::get(|| async { "# TYPE http_request_duration_seconds histogram\n" });
    let router = axum::Router::new().route("/metrics", metrics);
    let answers = tokio::spawn(async move { axum::serve(answering, router).await });

    let operator = Operator::start(&server, CONCURRENCY, 1);
    until(Duration::from_secs(5), "it has synced", || operator.synced.load(Ordering::Relaxed)).await;
    operator.lead(&[0]);
    until(Duration::from_secs(15), "all are scraped", || {
        (0..40).all(|number| operator.scrapes(&format!("silent-{number}")) > 0)
            && operator.scrapes("well") > 0
    })
    .await;
    let (began, before) = (Instant::now(), operator.scrapes("well"));
    until(Duration::from_secs(12), "it was scraped eight times", || operator.scrapes("well") >= before + 8)
        .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?} for eight seconds' scrapes", began.elapsed());
    let read = |namespace: &str| -> Vec<usize> {
        let decisions = operator.registry.decisions(namespace, "posts");
        decisions.iter().map(|decision| decision.evidence.pods_scraped).collect()
    };
    assert!(read("well")[before..].iter().all(|pods| *pods == 2), "{:?}", read("well"));
    assert!(read("silent-0").iter().all(|pods| *pods == 0), "{:?}", read("silent-0"));
    operator.end().await;
    kept.abort();
    answers.abort();
}

#[tokio::test]
async fn no_more_objects_are_at_work_than_allowed() {
    let server = Server::new();
    for namespace in ["one", "two", "three", "four"] {
        server.put(&app_path(namespace, "posts"), app(namespace, "posts", 2));
    }
    server.fault("PATCH /api/v1/namespaces/", Fault::Hang);
    server.fault("PATCH /apis/apps/", Fault::Hang);
    let operator = Operator::start(&server, 2, 1);
    until(Duration::from_secs(5), "it has synced", || operator.synced.load(Ordering::Relaxed)).await;
    operator.lead(&[0]);
    let at_work = || {
        let written =
            server.writes().into_iter().filter_map(|call| call.split('/').nth(4).map(str::to_owned));
        written.collect::<BTreeSet<_>>().len()
    };
    until(Duration::from_secs(5), "two are at work", || at_work() == 2).await;
    let since = Instant::now();
    until(Duration::from_secs(4), "a while has passed", || {
        assert_eq!(at_work(), 2);
        since.elapsed() > Duration::from_secs(2)
    })
    .await;
    server.heal();
    operator.end().await;
}

#[tokio::test]
async fn only_objects_of_led_shards_are_reconciled_and_at_once_when_a_shard_comes() {
    let server = Server::new();
    let name_in = |shard| {
        let names = (0..).map(|number| format!("team-{number}"));
        names.into_iter().find(|namespace| shard_of(namespace, "posts", 2) == shard).unwrap()
    };
    let (first, second) = (name_in(0), name_in(1));
    for namespace in [&first, &second] {
        server.put(&app_path(namespace, "posts"), app(namespace, "posts", 2));
    }
    let operator = Operator::start(&server, 4, 2);
    until(Duration::from_secs(5), "it has synced", || operator.synced.load(Ordering::Relaxed)).await;
    let written = |namespace: &str| {
        let part = format!("/namespaces/{namespace}/");
        server.writes().iter().filter(|call| call.contains(&part)).count()
    };
    operator.lead(&[0]);
    until(Duration::from_secs(5), "its own is reconciled", || operator.scrapes(&first) >= 2).await;
    assert_eq!(written(&second), 0, "the other shard is another's");
    operator.lead(&[1]);
    until(Duration::from_secs(5), "the shard that came is reconciled", || written(&second) > 0).await;
    let before = written(&first);
    until(Duration::from_secs(5), "the other goes on", || operator.scrapes(&second) >= 3).await;
    assert_eq!(written(&first), before, "what was given up is left alone");
    operator.end().await;
}

#[tokio::test]
async fn at_rest_nothing_is_written_over_many_scrapes() {
    let server = Server::new();
    server.put(&app_path("shop", "posts"), app("shop", "posts", 2));
    let operator = Operator::start(&server, 4, 1);
    until(Duration::from_secs(5), "it has synced", || operator.synced.load(Ordering::Relaxed)).await;
    operator.lead(&[0]);
    until(Duration::from_secs(10), "it is at rest", || operator.scrapes("shop") >= 3).await;
    let before = server.objects();
    let (writes, scrapes) = (server.writes(), operator.scrapes("shop"));
    until(Duration::from_secs(20), "ten more scrapes", || operator.scrapes("shop") >= scrapes + 10).await;
    assert_eq!(server.writes(), writes);
    assert_eq!(server.objects(), before);
    operator.end().await;
}

const SERVICE: &str = "/api/v1/namespaces/shop/services/posts";

/// An operator that leads one resource with all its children made.
async fn with_one_resource(period_seconds: u64) -> (Server, Operator) {
    let server = Server::new();
    let path = app_path("shop", "posts");
    let mut app = app("shop", "posts", 2);
    app["spec"]["metrics"]["scrapePeriodSeconds"] = serde_json::json!(period_seconds);
    server.put(&path, app);
    let operator = Operator::start(&server, 4, 1);
    until(Duration::from_secs(5), "it has synced", || operator.synced.load(Ordering::Relaxed)).await;
    operator.lead(&[0]);
    let ready = || server.get(&path).is_some_and(|app| app["status"]["readyReplicas"] == 2);
    until(Duration::from_secs(10), "its children are made and seen", ready).await;
    (server, operator)
}

#[tokio::test]
async fn a_deleted_child_is_put_back_at_once() {
    let (server, operator) = with_one_resource(60).await;
    server.delete(SERVICE);
    until(Duration::from_secs(10), "it is back", || server.get(SERVICE).is_some()).await;
    operator.end().await;
}

#[tokio::test]
async fn a_deletion_that_nobody_told_of_is_healed() {
    let (server, operator) = with_one_resource(1).await;
    server.vanish(SERVICE, "/api/v1/services");
    until(Duration::from_secs(10), "it is back", || server.get(SERVICE).is_some()).await;
    operator.end().await;
}

#[tokio::test]
async fn a_resource_that_goes_away_is_no_error() {
    let (server, operator) = with_one_resource(1).await;
    server.delete(&app_path("shop", "posts"));
    let writes = server.writes();
    let since = Instant::now();
    until(Duration::from_secs(5), "scrapes would have been due", || since.elapsed() > Duration::from_secs(2))
        .await;
    assert_eq!(server.writes(), writes, "nothing is made for what is gone");
    assert!(operator.failures() < 0.5);
    operator.end().await;
}

#[tokio::test]
async fn each_change_of_scale_has_an_event_of_its_own() {
    let (server, operator) = with_one_resource(1).await;
    let events = || server.bodies("POST /apis/events.k8s.io/v1/namespaces/shop/events");
    for replicas in [4, 6] {
        let path = app_path("shop", "posts");
        let mut app = server.get(&path).unwrap();
        app["spec"]["replicas"] = serde_json::json!({ "min": replicas, "max": replicas });
        server.put(&path, app);
        let told = || {
            events().iter().any(|event| {
                event["note"].as_str().is_some_and(|note| note.contains(&format!("to {replicas} replicas")))
            })
        };
        until(Duration::from_secs(5), "it is told", told).await;
    }
    assert!(events().iter().all(|event| event["regarding"]["resourceVersion"].is_null()));
    operator.end().await;
}
