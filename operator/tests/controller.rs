//! The controller as a whole against a scripted API server: it syncs, waits for leadership, reconciles and drains.
#![allow(clippy::unwrap_used, missing_docs)]

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use plimsoll_core::input::Settings;
use plimsoll_operator::app::Context;
use plimsoll_operator::controller;
use plimsoll_operator::leader::{Fence, Led};
use plimsoll_operator::metrics::Metrics;
use plimsoll_operator::state::Registry;
use plimsoll_operator::watches::Watches;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Lists hold one resource and nothing else; watches stay silent; everything else is forbidden.
fn server(calls: Arc<Mutex<Vec<String>>>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let calls = calls.clone();
        async move {
            let path = request.uri().path().to_owned();
            let query = request.uri().query().unwrap_or_default().to_owned();
            if query.contains("watch=true") {
                std::future::pending::<()>().await;
            }
            let list = [
                "/apideployments",
                "/deployments",
                "/services",
                "/pods",
                "/horizontalpodautoscalers",
                "/poddisruptionbudgets",
                "/networkpolicies",
                "/statefulsets",
            ]
            .iter()
            .any(|kind| path.ends_with(kind));
            let answer = if list {
                let items = if path.ends_with("/apideployments") {
                    json!([{
                        "apiVersion": "plimsoll.dev/v1alpha1",
                        "kind": "ApiDeployment",
                        "metadata": { "name": "posts", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "1" },
                        "spec": { "latency": { "p99": "250ms" } },
                    }])
                } else {
                    json!([])
                };
                json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "1" }, "items": items })
            } else {
                calls.lock().unwrap().push(format!("{} {path}", request.method()));
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "message": "no", "reason": "Forbidden" })
            };
            let code = if list { 200 } else { 403 };
            Ok::<_, Infallible>(
                Response::builder()
                    .status(code)
                    .body(Body::from(serde_json::to_vec(&answer).unwrap()))
                    .unwrap(),
            )
        }
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn a_standby_does_nothing_until_it_leads_and_drains_at_once() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let client = server(calls.clone());
    let fence = Arc::new(Fence::default());
    let metrics = Metrics::new().unwrap();
    let watches = Watches {
        client: client.clone(),
        namespace: None,
        selector: None,
        health: Arc::default(),
        metrics: metrics.clone(),
    };
    let (leading, leading_seen) = watch::channel(Led::new());
    let (synced, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let make_context = {
        let fence = fence.clone();
        move |stores| {
            let settings =
                Settings { api_image: "api".into(), redis_image: "redis".into(), operator_namespace: None };
            Context::new(
                client,
                stores,
                fence,
                metrics,
                Arc::new(Registry::default()),
                settings,
                "test".into(),
            )
        }
    };
    let running = tokio::spawn({
        let (synced, stop) = (synced.clone(), stop.clone());
        async move { controller::run(&watches, make_context, 4, leading_seen, synced, stop).await }
    });

    let until = async |fact: &dyn Fn() -> bool| {
        let waited = async {
            while !fact() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waited).await.expect("it did not come true");
    };
    until(&|| synced.load(Ordering::Relaxed)).await;
    assert_eq!(*calls.lock().unwrap(), [] as [String; 0]);

    fence.set(Some(Instant::now() + Duration::from_mins(1)));
    leading.send_replace(Led::from([(0, fence.term())]));
    // The first read fails; the status tells of it all the same.
    let status = "PATCH /apis/plimsoll.dev/v1alpha1/namespaces/shop/apideployments/posts/status";
    until(&|| calls.lock().unwrap().iter().any(|call| call == status)).await;

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("it drains").unwrap();
}
