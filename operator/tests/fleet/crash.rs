//! The process dies at each of its writes in turn, and another begins with an empty memory: both end where one ends that
//! never died.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::DeserializeGuard;
use kube_runtime::reflector;
use plimsoll_core::input::Settings;
use plimsoll_operator::app::{Context, Stores, reconcile};
use plimsoll_operator::leader::Fence;
use plimsoll_operator::metrics::Metrics;
use plimsoll_operator::state::Registry;
use serde_json::{Value, json};

use crate::server::{Server, app_path, merge};

/// A process that leads, with stores that hold nothing yet: all that it needs is read live.
fn process(server: &Server) -> Arc<Context> {
    let fence = Arc::new(Fence::default());
    fence.set(Some(Instant::now() + Duration::from_mins(2)));
    let stores = Stores {
        deployments: reflector::store().0,
        services: reflector::store().0,
        disruption_budgets: reflector::store().0,
        network_policies: reflector::store().0,
        stateful_sets: reflector::store().0,
        pods: reflector::store().0,
        apps: reflector::store().0,
        autoscalers: reflector::store().0,
    };
    let settings =
        Settings { api_image: "api".into(), redis_image: "redis".into(), operator_namespace: None };
    let metrics = Metrics::new().unwrap();
    Arc::new(Context::new(
        server.client(),
        stores,
        fence,
        metrics,
        Arc::new(Registry::default()),
        settings,
        "test".into(),
    ))
}

/// The resource as stored, at generation 1, in each of these steps.
fn steps() -> [Value; 3] {
    let spec = json!({ "latency": { "p99": "250ms" }, "replicas": { "min": 2, "max": 2 }, "image": "any" });
    let mut more = spec.clone();
    merge(&mut more, json!({ "replicas": { "min": 4, "max": 4 }, "image": "other" }));
    let mut without_cache = more.clone();
    without_cache["cache"] = json!({ "disabled": {} });
    [spec, more, without_cache]
}

fn put(server: &Server, spec: &Value, generation: usize) {
    let path = app_path("shop", "posts");
    let mut app = server.get(&path).unwrap_or_else(|| {
        json!({
            "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
            "metadata": { "name": "posts", "namespace": "shop", "uid": "app-uid" },
        })
    });
    app["spec"] = Value::Null;
    app["metadata"]["generation"] = json!(generation - 1);
    server.put(&path, app);
    let mut app = server.get(&path).unwrap();
    app["spec"] = spec.clone();
    server.put(&path, app);
}

/// Reconciles once; a process that has died never ends, and is cut off.
async fn run_once(server: &Server, context: &Arc<Context>, limit: Duration) {
    let app: DeserializeGuard<plimsoll_crds::ApiDeployment> =
        serde_json::from_value(server.get(&app_path("shop", "posts")).unwrap()).unwrap();
    let _ = tokio::time::timeout(limit, reconcile(Arc::new(app), context.clone())).await;
}

/// Reconciles until nothing more is written.
async fn settle(server: &Server, context: &Arc<Context>) {
    for _ in 0..10 {
        let before = server.writes().len();
        run_once(server, context, Duration::from_secs(20)).await;
        if server.writes().len() == before {
            return;
        }
    }
    panic!("it does not come to rest: {:?}", server.writes());
}

/// What is there, without what differs between any two runs.
fn outcome(server: &Server) -> BTreeMap<String, Value> {
    let objects = server.objects().into_iter().filter(|(path, _)| !path.contains("/events/"));
    let mut objects: BTreeMap<String, Value> = objects.collect();
    let secret = objects.iter().find(|(path, _)| path.contains("/secrets/"));
    let revision = secret.and_then(|(_, secret)| secret["metadata"]["annotations"].as_object().cloned());
    let revisions: Vec<String> =
        revision.iter().flatten().filter_map(|(_, value)| value.as_str().map(str::to_owned)).collect();
    for (path, object) in &mut objects {
        mask(object);
        if path.contains("/secrets/") {
            object["stringData"] = Value::Null;
            object["data"] = Value::Null;
        }
        let text =
            revisions.iter().fold(object.to_string(), |text, revision| text.replace(revision, "REVISION"));
        *object = serde_json::from_str(&text).unwrap();
    }
    objects
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| {
                !matches!(key.as_str(), "uid" | "resourceVersion" | "generation" | "observedGeneration")
                    // The last decision is told by the process that made it, if it lives to tell.
                    && !matches!(key.as_str(), "time" | "lastDecision")
                    && !key.ends_with("Time")
            });
            fields.values_mut().for_each(mask);
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// Goes through all steps, and dies at write `dies` of step `at`. Returns what is there in the end.
async fn outcome_of(at: usize, dies: Option<usize>) -> (BTreeMap<String, Value>, Vec<usize>) {
    let server = Server::new();
    let mut context = process(&server);
    let mut writes = Vec::new();
    for (number, spec) in steps().iter().enumerate() {
        put(&server, spec, number + 1);
        let before = server.writes().len();
        if let Some(dies) = dies.filter(|_| number == at) {
            server.dies_after(dies);
            run_once(&server, &context, Duration::from_secs(1)).await;
            server.heal();
            context = process(&server);
        }
        settle(&server, &context).await;
        writes.push(server.writes().len() - before);
    }
    // One more process looks at it all, with the pods due to be asked.
    settle(&server, &process(&server)).await;
    (outcome(&server), writes)
}

#[tokio::test]
async fn a_crash_at_any_write_ends_in_the_same_state() {
    let (expected, writes) = outcome_of(0, None).await;
    assert!(writes.iter().all(|writes| *writes >= 2), "{writes:?}");
    for (step, writes) in writes.into_iter().enumerate() {
        // 0: before the first write.
        let runs = (0..=writes).map(|dies| async move { (dies, outcome_of(step, Some(dies)).await.0) });
        for (dies, outcome) in futures::future::join_all(runs).await {
            assert_eq!(outcome, expected, "step {step}, died at write {dies}");
        }
    }
}
