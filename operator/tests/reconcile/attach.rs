//! A Deployment that is attached to: of it the replicas are written, and nothing else is.

use serde_json::{Value, json};

use super::*;

const TARGET: &str = "/apis/apps/v1/namespaces/shop/deployments/checkout";
const PODS: &str = "/api/v1/namespaces/shop/pods";

/// Somebody else's Deployment.
fn target(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "checkout", "namespace": "shop", "uid": "target-uid", "resourceVersion": "7", "generation": 4,
            "managedFields": [{ "manager": "kubectl", "operation": "Update", "fieldsV1": { "f:spec": { "f:replicas": {} } } }],
        },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": "checkout" } },
            "template": { "spec": { "containers": [{ "name": "main" }] } },
        },
        "status": { "observedGeneration": 4, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas },
    })
}

/// A resource that is attached to it, as the API server stores it.
fn attached(min: i32, max: i32) -> Value {
    app(&json!({
        "replicas": { "min": min, "max": max }, "workload": { "attachTo": { "name": "checkout" } },
        "cache": { "managed": { "memory": "64Mi" } },
    }))
}

fn world(replicas: i32, app: &Value) -> World {
    let world = World::new();
    world.put(TARGET, target(replicas));
    world.put(PODS, json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [] }));
    world.put(APP, app.clone());
    world
}

#[tokio::test]
async fn nothing_but_the_replicas_is_written() {
    let app = attached(3, 9);
    let world = world(2, &app);
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert_eq!(
        World::writes(&calls),
        [
            &format!("PATCH {TARGET} plimsoll-autoscaler force"),
            EVENT,
            &format!("PATCH {APP}/status plimsoll-operator force"),
        ]
    );
    assert!(calls.contains(&format!("GET {PODS}")), "its pods are asked for: {calls:?}");
    let body = world.body(&format!("PATCH {TARGET}"));
    assert_eq!(body["spec"], json!({ "replicas": 3 }));
    assert_eq!(body["metadata"]["uid"], "target-uid", "a namesake is not scaled, and none is made");
    let status = &world.server.lock().unwrap().objects[APP]["status"].clone();
    assert_eq!(status["selector"], "app=checkout");
    assert!(status["cache"].is_null(), "{status}");
}

#[tokio::test]
async fn at_rest_nothing_is_written() {
    let app = attached(1, 9);
    let world = world(2, &app);
    world.reconcile(&app).await.0.unwrap();
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert_eq!(World::writes(&calls), [] as [&str; 0], "{calls:?}");
}

#[tokio::test]
async fn a_target_that_is_missing_is_told_and_its_coming_heals() {
    let app = attached(1, 9);
    let world = world(2, &app);
    world.server.lock().unwrap().objects.remove(TARGET);
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert!(!World::writes(&calls).iter().any(|call| call.contains("/deployments/")), "{calls:?}");
    assert!(world.status().contains("TargetNotFound"), "{}", world.status());
    world.put(TARGET, target(2));
    world.reconcile(&app).await.0.unwrap();
    assert!(!world.status().contains("TargetNotFound"), "{}", world.status());
}

#[tokio::test]
async fn a_target_that_is_being_deleted_is_left_alone() {
    let app = attached(3, 9);
    let world = world(2, &app);
    let mut going = target(2);
    going["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    world.put(TARGET, going);
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert!(!calls.iter().any(|call| call.starts_with(&format!("PATCH {TARGET}"))), "{calls:?}");
}

#[tokio::test]
async fn the_resource_that_goes_writes_nothing() {
    let mut app = attached(3, 9);
    app["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    let world = world(2, &app);
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert_eq!(calls, [] as [&str; 0]);
}

fn autoscaler(target: &str) -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": "keda-hpa-checkout", "namespace": "shop", "labels": { "scaledobject.keda.sh/name": "checkout" } },
        "spec": { "maxReplicas": 9, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": target } },
    })
}

#[tokio::test]
async fn an_autoscaler_on_the_target_is_named_and_not_fought() {
    let app = attached(3, 9);
    let mut world = world(2, &app);
    let event = watcher::Event::Apply(serde_json::from_value(autoscaler("checkout")).unwrap());
    world.autoscalers.apply_watcher_event(&event);
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert!(!calls.iter().any(|call| call.starts_with(&format!("PATCH {TARGET}"))), "{calls:?}");
    let status = world.status();
    for part in
        ["AutoscalerOnTarget", "ScaledObject checkout", "keda-hpa-checkout", r#""recommendedReplicas":3"#]
    {
        assert!(status.contains(part), "{part}: {status}");
    }
    let event = watcher::Event::Delete(serde_json::from_value(autoscaler("checkout")).unwrap());
    world.autoscalers.apply_watcher_event(&event);
    world.reconcile(&app).await.0.unwrap();
    assert!(world.status().contains("NoConflict"), "{}", world.status());
    assert_eq!(world.server.lock().unwrap().objects[TARGET]["spec"]["replicas"], 3);
}

#[tokio::test]
async fn an_autoscaler_of_another_deployment_is_none_of_ours() {
    let app = attached(3, 9);
    let mut world = world(2, &app);
    let event = watcher::Event::Apply(serde_json::from_value(autoscaler("posts")).unwrap());
    world.autoscalers.apply_watcher_event(&event);
    world.reconcile(&app).await.0.unwrap();
    assert!(!world.status().contains("ScalerConflict"), "{}", world.status());
}

#[tokio::test]
async fn an_autoscaler_of_the_resource_itself_is_named() {
    for (group, named) in [("plimsoll.dev/v1alpha1", true), ("example.com/v1", false)] {
        let app = scalable(3, 9);
        let mut world = World::new();
        world.put(DEPLOYMENT, deployment(3));
        world.put(APP, app.clone());
        let mut autoscaler = autoscaler("posts");
        autoscaler["spec"]["scaleTargetRef"] =
            json!({ "apiVersion": group, "kind": "ApiDeployment", "name": "posts" });
        world
            .autoscalers
            .apply_watcher_event(&watcher::Event::Apply(serde_json::from_value(autoscaler).unwrap()));
        world.reconcile(&app).await.0.unwrap();
        assert_eq!(world.status().contains("AutoscalerPins"), named, "{}", world.status());
    }
}

#[tokio::test]
async fn an_autoscaler_on_an_own_deployment_is_not_fought_either() {
    let app = scalable(5, 9);
    let mut world = World::new();
    world.put(DEPLOYMENT, deployment(3));
    world.put(APP, app.clone());
    let event = watcher::Event::Apply(serde_json::from_value(autoscaler("posts")).unwrap());
    world.autoscalers.apply_watcher_event(&event);
    world.reconcile(&app).await.0.unwrap();
    assert_eq!(world.replicas(), json!(3));
    assert!(world.status().contains("AutoscalerOnTarget"), "{}", world.status());
}

#[tokio::test]
async fn of_two_resources_the_older_one_scales() {
    let mut younger = attached(3, 9);
    younger["metadata"]["creationTimestamp"] = json!("2030-01-02T00:00:00Z");
    let mut older = attached(5, 9);
    older["metadata"]["name"] = json!("older");
    older["metadata"]["uid"] = json!("older-uid");
    older["metadata"]["creationTimestamp"] = json!("2030-01-01T00:00:00Z");
    let mut world = world(2, &younger);
    for app in [&older, &younger] {
        let event = watcher::Event::Apply(serde_json::from_value(app.clone()).unwrap());
        world.apps.apply_watcher_event(&event);
    }
    let (result, calls) = world.reconcile(&younger).await;
    result.unwrap();
    assert!(!calls.iter().any(|call| call.starts_with(&format!("PATCH {TARGET}"))), "{calls:?}");
    let status = world.status();
    assert!(status.contains("AlreadyScaled") && status.contains("ApiDeployment older"), "{status}");

    world.put(&APP.replace("posts", "older"), older.clone());
    world.reconcile(&older).await.0.unwrap();
    assert_eq!(world.server.lock().unwrap().objects[TARGET]["spec"]["replicas"], 5);
}

#[tokio::test]
async fn replicas_that_somebody_writes_over_ours_are_told() {
    let app = attached(3, 9);
    let world = world(2, &app);
    world.reconcile(&app).await.0.unwrap();
    assert!(
        !world.status().contains("ScalerConflict"),
        "what was there before is no conflict: {}",
        world.status()
    );
    let mut theirs = target(8);
    theirs["metadata"]["generation"] = json!(9);
    theirs["metadata"]["managedFields"][0]["manager"] = json!("argocd-controller");
    world.put(TARGET, theirs);
    world.reconcile(&app).await.0.unwrap();
    let status = world.status();
    assert!(status.contains("ReplicasOverwritten") && status.contains("argocd-controller"), "{status}");
}

#[tokio::test]
async fn a_recommended_number_is_told_once() {
    let mut app = attached(3, 9);
    app["spec"]["scaling"] = json!({ "mode": "Recommend" });
    let world = world(2, &app);
    let mut told = Vec::new();
    for _ in 0..4 {
        world.reconcile(&app).await.0.unwrap();
        told.extend(world.notes("Recommended"));
    }
    assert_eq!(told, ["3 replicas are recommended in place of 2"]);
}
