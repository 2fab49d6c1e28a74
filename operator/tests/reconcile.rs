//! Whole reconciles against a scripted API server: which calls are made, in which order, with which owner.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "reconcile/attach.rs"]
mod attach;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::client::Body;
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use kube_runtime::reflector::store::Writer;
use kube_runtime::{reflector, watcher};
use plimsoll_core::input::Settings;
use plimsoll_operator::app::{Context, Stores, next_scrape, reconcile};
use plimsoll_operator::controller::Guarded;
use plimsoll_operator::error::Error;
use plimsoll_operator::leader::Fence;
use plimsoll_operator::metrics::Metrics;
use plimsoll_operator::state::Registry;
use serde_json::{Value, json};

/// Objects by path, and every call that was made.
#[derive(Default)]
struct Server {
    objects: HashMap<String, Value>,
    calls: Vec<String>,
    bodies: Vec<Value>,
    /// Answers instead, by the beginning of the call.
    faults: Vec<(String, u16)>,
    /// Happens just before a call is answered, by its beginning.
    meanwhile: Option<(String, Meanwhile)>,
    versions: u64,
}

type Meanwhile = Box<dyn FnOnce(&mut Server) + Send>;

impl Server {
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (u16, Value) {
        let manager = query.split('&').find_map(|pair| pair.strip_prefix("fieldManager="));
        let force = if query.contains("force=true") { " force" } else { "" };
        let call = match manager {
            Some(manager) => format!("{method} {path} {manager}{force}"),
            None => format!("{method} {path}"),
        };
        self.calls.push(call.clone());
        self.bodies.push(body.clone());
        if let Some((_, happens)) = self.meanwhile.take_if(|(start, _)| call.starts_with(start.as_str())) {
            happens(self);
        }
        if let Some((_, code)) = self.faults.iter().find(|(start, _)| call.starts_with(start.as_str())) {
            return (*code, status(*code));
        }
        let key = path.trim_end_matches("/status").to_owned();
        match *method {
            Method::GET => self.objects.get(&key).map_or((404, status(404)), |object| (200, object.clone())),
            Method::POST => {
                let key = format!("{key}/{}", body["metadata"]["name"].as_str().unwrap_or("event"));
                (201, self.store(&key, body))
            }
            Method::PATCH => (200, self.store(&key, body)),
            _ => (405, status(405)),
        }
    }

    /// Merges as server-side apply would, as far as these tests look.
    fn store(&mut self, key: &str, body: Value) -> Value {
        self.versions += 1;
        let version = self.versions;
        let stored = self.objects.entry(key.to_owned()).or_insert_with(|| json!({ "metadata": {} }));
        let spec_before = stored["spec"].clone();
        merge(stored, body);
        let kind = stored["kind"].as_str().unwrap_or_default().to_owned();
        let metadata = stored["metadata"].as_object_mut().unwrap();
        metadata.entry("uid").or_insert_with(|| json!(format!("uid-{version}")));
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        if kind == "Deployment" {
            let generation = metadata.get("generation").and_then(Value::as_u64).unwrap_or(0);
            let changed = stored["spec"] != spec_before;
            stored["metadata"]["generation"] = json!(generation + u64::from(changed));
        }
        stored.clone()
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn status(code: u16) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": format!("scripted {code}"), "reason": if code == 404 { "NotFound" } else { "Scripted" } })
}

struct World {
    server: Arc<Mutex<Server>>,
    context: Arc<Context>,
    fence: Arc<Fence>,
    deployments: Writer<Deployment>,
    apps: Writer<Guarded>,
    autoscalers: Writer<HorizontalPodAutoscaler>,
}

impl World {
    fn new() -> Self {
        let server = Arc::new(Mutex::new(Server::default()));
        let service = tower::service_fn({
            let server = server.clone();
            move |request: Request<Body>| {
                let server = server.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                    let query = parts.uri.query().unwrap_or_default().to_owned();
                    let (code, answer) =
                        server.lock().unwrap().answer(&parts.method, parts.uri.path(), &query, body);
                    let response = Response::builder()
                        .status(StatusCode::from_u16(code).unwrap())
                        .body(Body::from(serde_json::to_vec(&answer).unwrap()))
                        .unwrap();
                    Ok::<_, Infallible>(response)
                }
            }
        });
        let client = Client::new(service, "default");
        let fence = Arc::new(Fence::default());
        fence.set(Some(Instant::now() + Duration::from_mins(1)));
        let (deployments, writer) = reflector::store();
        let (apps, apps_writer) = reflector::store();
        let (autoscalers, autoscalers_writer) = reflector::store();
        let stores = Stores {
            deployments,
            services: reflector::store().0,
            disruption_budgets: reflector::store().0,
            stateful_sets: reflector::store().0,
            network_policies: reflector::store().0,
            pods: reflector::store().0,
            apps,
            autoscalers,
        };
        let settings = Settings {
            api_image: "api:test".into(),
            redis_image: "redis:test".into(),
            operator_namespace: Some("plimsoll-system".into()),
        };
        let metrics = Metrics::new().unwrap();
        let registry = Arc::new(Registry::default());
        let context = Context::new(client, stores, fence.clone(), metrics, registry, settings, "test".into());
        Self {
            server,
            context: Arc::new(context),
            fence,
            deployments: writer,
            apps: apps_writer,
            autoscalers: autoscalers_writer,
        }
    }

    fn put(&self, path: &str, object: Value) {
        self.server.lock().unwrap().objects.insert(path.into(), object);
    }

    fn fault(&self, call: &str, code: u16) {
        self.server.lock().unwrap().faults.push((call.to_owned(), code));
    }

    fn meanwhile(&self, call: &str, happens: impl FnOnce(&mut Server) + Send + 'static) {
        self.server.lock().unwrap().meanwhile = Some((call.to_owned(), Box::new(happens)));
    }

    /// Brings the store of Deployments to this object.
    fn watch_shows(&mut self, deployment: Value) {
        self.deployments
            .apply_watcher_event(&watcher::Event::Apply(serde_json::from_value(deployment).unwrap()));
    }

    fn replicas(&self) -> Value {
        self.server.lock().unwrap().objects[DEPLOYMENT]["spec"]["replicas"].clone()
    }

    fn status(&self) -> String {
        self.server.lock().unwrap().objects[APP]["status"].to_string()
    }

    /// What Events with this reason said in the last reconcile, in the order in which they were published.
    fn notes(&self, reason: &str) -> Vec<String> {
        let server = self.server.lock().unwrap();
        let events = server.calls.iter().zip(&server.bodies).filter(|(call, _)| call.starts_with(EVENT));
        let told = events.filter(|(_, body)| body["reason"] == reason);
        told.map(|(_, body)| body["note"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Body of the last call that begins like this.
    fn body(&self, call: &str) -> Value {
        let server = self.server.lock().unwrap();
        let last = server.calls.iter().rposition(|made| made.starts_with(call)).unwrap();
        server.bodies[last].clone()
    }

    /// Reconciles and returns the calls that were made.
    async fn reconcile(&self, app: &Value) -> (Result<(), Error>, Vec<String>) {
        self.server.lock().unwrap().calls.clear();
        self.server.lock().unwrap().bodies.clear();
        let app: DeserializeGuard<plimsoll_crds::ApiDeployment> =
            serde_json::from_value(app.clone()).unwrap();
        let result = reconcile(Arc::new(app), self.context.clone()).await;
        (result.map(|_| ()), self.server.lock().unwrap().calls.clone())
    }

    fn writes(calls: &[String]) -> Vec<&str> {
        calls.iter().map(String::as_str).filter(|call| !call.starts_with("GET")).collect()
    }
}

const APP: &str = "/apis/plimsoll.dev/v1alpha1/namespaces/shop/apideployments/posts";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/posts";
const EVENT: &str = "POST /apis/events.k8s.io/v1/namespaces/shop/events";

fn app(spec: &Value) -> Value {
    let mut app = json!({
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "ApiDeployment",
        "metadata": { "name": "posts", "namespace": "shop", "uid": "app-uid", "generation": 1, "resourceVersion": "0" },
        "spec": { "latency": { "p99": "250ms" }, "replicas": { "min": 1, "max": 1 } },
    });
    merge(&mut app["spec"], spec.clone());
    app
}

#[tokio::test]
async fn the_first_reconcile_makes_everything_in_order() {
    let world = World::new();
    let (result, calls) = world.reconcile(&app(&json!({}))).await;
    result.unwrap();
    assert_eq!(
        World::writes(&calls),
        [
            "POST /api/v1/namespaces/shop/secrets plimsoll-operator",
            "PATCH /api/v1/namespaces/shop/services/posts-cache plimsoll-operator force",
            "PATCH /apis/apps/v1/namespaces/shop/deployments/posts-cache plimsoll-operator force",
            "PATCH /api/v1/namespaces/shop/services/posts plimsoll-operator force",
            // Made with its replicas by their manager, then each manager keeps its own.
            &format!("PATCH {DEPLOYMENT} plimsoll-autoscaler"),
            &format!("PATCH {DEPLOYMENT} plimsoll-operator force"),
            &format!("PATCH {DEPLOYMENT} plimsoll-autoscaler force"),
            EVENT,
            &format!("PATCH {APP}/status plimsoll-operator force"),
        ]
    );
    let status = &world.server.lock().unwrap().objects[APP]["status"];
    let ready =
        status["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == "Ready");
    assert_eq!(ready.unwrap()["status"], "False");
}

#[tokio::test]
async fn the_second_reconcile_writes_nothing() {
    let world = World::new();
    let app = app(&json!({}));
    world.reconcile(&app).await.0.unwrap();
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert_eq!(World::writes(&calls), [] as [&str; 0], "{calls:?}");
}

#[tokio::test]
async fn the_template_is_never_applied_with_replicas() {
    let world = World::new();
    world.reconcile(&app(&json!({}))).await.0.unwrap();
    let server = world.server.lock().unwrap();
    for (call, body) in server.calls.iter().zip(&server.bodies) {
        if call.contains("deployments/posts plimsoll-operator") {
            assert!(body["spec"].get("replicas").is_none(), "{body}");
        }
        if call.contains("deployments/posts plimsoll-autoscaler force") {
            assert_eq!(body["spec"], json!({ "replicas": 1 }));
        }
    }
}

#[tokio::test]
async fn a_foreign_deployment_is_never_touched_and_the_status_says_so() {
    let world = World::new();
    world.put(
        DEPLOYMENT,
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "posts", "namespace": "shop", "uid": "theirs" } }),
    );
    let (result, calls) = world.reconcile(&app(&json!({}))).await;
    result.unwrap();
    assert!(!World::writes(&calls).iter().any(|call| call.contains("deployments/posts ")), "{calls:?}");
    let status = world.server.lock().unwrap().objects[APP]["status"].to_string();
    assert!(status.contains("NameConflict"), "{status}");
}

/// The API's Deployment as an operator before this one left it.
fn deployment(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "posts", "namespace": "shop", "uid": "deployment-uid", "resourceVersion": "7", "generation": 4,
            "ownerReferences": [{ "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment", "name": "posts", "uid": "app-uid", "controller": true }],
            "managedFields": [{ "manager": "plimsoll-operator", "operation": "Apply" }, { "manager": "plimsoll-autoscaler", "operation": "Apply" }],
        },
        "spec": { "replicas": replicas, "selector": {}, "template": {} },
        "status": { "observedGeneration": 4, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas },
    })
}

/// A resource without a cache and of a foreign image, between `min` and `max` replicas.
fn scalable(min: i32, max: i32) -> Value {
    app(
        &json!({ "replicas": { "min": min, "max": max }, "image": "any", "cache": { "managed": null, "disabled": {} } }),
    )
}

#[tokio::test]
async fn what_was_just_applied_is_not_told_as_rolled_out() {
    let reconciling = |world: &World| {
        let status: Value = serde_json::from_str(&world.status()).unwrap();
        let conditions = status["conditions"].as_array().unwrap().clone();
        let found = conditions.into_iter().find(|condition| condition["type"] == "Reconciling").unwrap();
        (found["status"].clone(), found["observedGeneration"].clone())
    };
    let mut app = scalable(3, 9);
    let world = World::new();
    world.put(APP, app.clone());
    world.reconcile(&app).await.0.unwrap();
    let rolled_out = |server: &mut Server| {
        let deployment = server.objects.get_mut(DEPLOYMENT).unwrap();
        let generation = deployment["metadata"]["generation"].clone();
        deployment["status"] = json!({ "observedGeneration": generation, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3 });
    };
    rolled_out(&mut world.server.lock().unwrap());
    world.reconcile(&app).await.0.unwrap();
    assert_eq!(reconciling(&world), (json!("False"), json!(1)));

    app["spec"]["image"] = json!("other");
    app["metadata"]["generation"] = json!(2);
    world.reconcile(&app).await.0.unwrap();
    assert_eq!(reconciling(&world), (json!("True"), json!(2)), "its controller has not seen it yet");
    rolled_out(&mut world.server.lock().unwrap());
    world.reconcile(&app).await.0.unwrap();
    assert_eq!(reconciling(&world), (json!("False"), json!(2)));
}

#[tokio::test]
async fn a_refused_service_keeps_nothing_else_back_and_is_told() {
    let world = World::new();
    world.fault("PATCH /api/v1/namespaces/shop/services/posts ", 403);
    let (result, calls) = world.reconcile(&app(&json!({}))).await;
    assert!(matches!(result, Err(Error::Write { .. })));
    assert!(calls.contains(&format!("PATCH {DEPLOYMENT} plimsoll-operator force")), "{calls:?}");
    let status = world.status();
    assert!(status.contains("ApplyFailed") && status.contains("scripted 403"), "{status}");
}

#[tokio::test]
async fn a_refused_template_keeps_no_replicas_back() {
    let world = World::new();
    world.reconcile(&scalable(2, 9)).await.0.unwrap();
    world.put(APP, scalable(4, 9));
    let template = format!("PATCH {DEPLOYMENT} plimsoll-operator");
    world.fault(&template, 422);
    let mut newer = scalable(4, 9);
    newer["spec"]["image"] = json!("refused");
    let (result, calls) = world.reconcile(&newer).await;
    assert!(matches!(result, Err(Error::Write { .. })), "the failure is returned");
    assert_eq!(world.replicas(), json!(4), "{calls:?}");
    assert!(calls.iter().any(|call| call.starts_with(EVENT)), "the scale is told: {calls:?}");
    let status = world.status();
    assert!(status.contains("ApplyFailed") && status.contains("scripted 422"), "{status}");
    assert!(status.contains(r#""replicas":4"#), "{status}");

    let mut more = newer.clone();
    more["spec"]["replicas"]["min"] = json!(6);
    let (result, calls) = world.reconcile(&more).await;
    result.unwrap();
    assert!(!calls.iter().any(|call| call.starts_with(&template)), "refused a moment ago: {calls:?}");
    assert_eq!(world.replicas(), json!(6));
    assert!(world.status().contains("scripted 422"), "still told");
}

#[tokio::test]
async fn a_refusal_does_not_slow_the_scrapes() {
    let world = World::new();
    world.fault("PATCH /api/v1/namespaces/shop/services/posts ", 403);
    let app = scalable(2, 9);
    world.reconcile(&app).await.0.unwrap_err();
    let app = serde_json::from_value(app).unwrap();
    let pause = next_scrape(&app, &world.context).unwrap();
    assert!(pause <= Duration::from_secs(5), "{pause:?}");
}

#[tokio::test]
async fn refused_replicas_are_not_told_as_wanted() {
    let world = World::new();
    world.reconcile(&scalable(2, 9)).await.0.unwrap();
    world.fault(&format!("PATCH {DEPLOYMENT} plimsoll-autoscaler"), 403);
    let (result, calls) = world.reconcile(&scalable(4, 9)).await;
    assert!(matches!(result, Err(Error::Write { .. })));
    assert!(
        !calls.iter().any(|call| call.starts_with(EVENT) && world.body(EVENT).to_string().contains("Scaled"))
    );
    let status = world.status();
    assert!(status.contains("scripted 403") && status.contains(r#""replicas":2"#), "{status}");
}

#[tokio::test]
async fn credentials_that_are_refused_are_not_rolled_out() {
    let world = World::new();
    world.fault("POST /api/v1/namespaces/shop/secrets", 403);
    let (result, calls) = world.reconcile(&app(&json!({}))).await;
    assert!(matches!(result, Err(Error::Write { .. })));
    assert!(!calls.iter().any(|call| call.starts_with("PATCH /apis/apps")), "{calls:?}");
    assert!(calls.iter().any(|call| call.starts_with("PATCH /api/v1/namespaces/shop/services/posts ")));
}

#[tokio::test]
async fn lost_leadership_stops_the_plan_at_once() {
    let world = World::new();
    let fence = world.fence.clone();
    world.meanwhile("POST /api/v1/namespaces/shop/secrets", move |_| fence.set(None));
    let (result, calls) = world.reconcile(&app(&json!({}))).await;
    assert!(matches!(result, Err(Error::Fenced)));
    assert_eq!(World::writes(&calls).len(), 1, "{calls:?}");
}

#[tokio::test]
async fn a_new_leader_does_not_scale_from_a_stale_watch() {
    let mut world = World::new();
    world.put(DEPLOYMENT, deployment(10));
    world.put(APP, scalable(1, 20));
    world.watch_shows(deployment(3));
    world.reconcile(&scalable(1, 20)).await.0.unwrap();
    assert_eq!(world.replicas(), json!(10));
}

#[tokio::test]
async fn the_first_write_of_replicas_is_refused_if_they_change_in_between() {
    let world = World::new();
    world.put(DEPLOYMENT, deployment(3));
    world.put(APP, scalable(5, 20));
    world.meanwhile(&format!("PATCH {DEPLOYMENT} plimsoll-operator"), |server| {
        server.objects.get_mut(DEPLOYMENT).unwrap()["spec"]["replicas"] = json!(10);
    });
    let (result, calls) = world.reconcile(&scalable(5, 20)).await;
    assert!(matches!(result, Err(Error::Stale { .. })), "{calls:?}");
    assert_eq!(world.replicas(), json!(10));

    world.put(DEPLOYMENT, deployment(3));
    world.reconcile(&scalable(5, 20)).await.0.unwrap();
    assert_eq!(world.replicas(), json!(5));
    let body = world.body(&format!("PATCH {DEPLOYMENT} plimsoll-autoscaler"));
    assert!(body["metadata"]["resourceVersion"].is_string(), "the API server compares it: {body}");
}

#[tokio::test]
async fn a_secret_that_is_missing_after_a_restart_keeps_the_template_and_scales() {
    let world = World::new();
    world.put(DEPLOYMENT, deployment(3));
    let mut app = scalable(5, 20);
    let reference = json!({ "name": "gone", "key": "url" });
    app["spec"]["database"] = json!({ "external": { "urlFrom": { "secretKeyRef": reference } } });
    world.put(APP, app.clone());
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert_eq!(world.replicas(), json!(5));
    assert!(!calls.iter().any(|call| call.starts_with(&format!("PATCH {DEPLOYMENT} plimsoll-operator"))));
    assert!(world.status().contains("SecretNotFound"), "{}", world.status());
}

#[tokio::test]
async fn secrets_that_cannot_be_read_are_told_and_the_replicas_go_on() {
    let world = World::new();
    world.put(DEPLOYMENT, deployment(3));
    world.fault("GET /api/v1/namespaces/shop/secrets/", 403);
    let mut app = app(&json!({ "replicas": { "min": 5, "max": 20 }, "image": "any" }));
    world.put(APP, app.clone());
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert_eq!(world.replicas(), json!(5));
    assert!(!calls.iter().any(|call| call.starts_with("POST /api/v1/namespaces/shop/secrets")), "{calls:?}");
    assert!(world.status().contains("read Secret posts-cache"), "{}", world.status());

    world.server.lock().unwrap().faults.clear();
    app["metadata"]["generation"] = json!(2);
    world.put(APP, app.clone());
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert!(calls.iter().any(|call| call.starts_with("POST /api/v1/namespaces/shop/secrets")), "{calls:?}");
    assert!(!world.status().contains("ApplyFailed"), "{}", world.status());
}

#[tokio::test]
async fn nothing_is_written_without_leadership() {
    let world = World::new();
    world.fence.set(None);
    let (result, calls) = world.reconcile(&app(&json!({}))).await;
    result.unwrap();
    assert_eq!(calls, [] as [&str; 0]);
}

#[tokio::test]
async fn a_lost_event_fails_nothing() {
    let world = World::new();
    world.fault(EVENT, 403);
    world.reconcile(&app(&json!({}))).await.0.unwrap();
}

#[tokio::test]
async fn an_object_that_cannot_be_read_gets_a_condition() {
    let world = World::new();
    let mut app = app(&json!({}));
    app["spec"]["replicas"]["min"] = json!("many");
    world.put(APP, app.clone());
    world.reconcile(&app).await.0.unwrap();
    let server = world.server.lock().unwrap();
    let writes = World::writes(&server.calls);
    assert_eq!(writes, [format!("PATCH {APP}/status plimsoll-operator force")]);
    assert!(server.objects[APP]["status"].to_string().contains("InvalidSpec"));
}

#[tokio::test]
async fn an_object_that_is_being_deleted_is_left_to_the_garbage_collector() {
    let world = World::new();
    let mut app = app(&json!({}));
    app["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert_eq!(calls, [] as [&str; 0]);
}

#[tokio::test]
async fn fewer_replicas_are_refused_when_the_resource_has_changed_since() {
    let world = World::new();
    world.reconcile(&scalable(4, 4)).await.0.unwrap();
    let mut newer = scalable(4, 4);
    newer["metadata"]["generation"] = json!(3);
    world.put(APP, newer);
    let (result, calls) = world.reconcile(&scalable(2, 2)).await;
    assert!(matches!(result, Err(Error::Stale { .. })), "{calls:?}");
    assert!(!calls.iter().any(|call| call.starts_with(&format!("PATCH {DEPLOYMENT} plimsoll-autoscaler"))));
    let api = Api::<Deployment>::namespaced(client_of(&world), "shop");
    assert_eq!(api.get("posts").await.unwrap().spec.unwrap().replicas, Some(4));
}

fn client_of(world: &World) -> Client {
    let server = world.server.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (_, answer) =
            server.lock().unwrap().answer(request.method(), request.uri().path(), "", Value::Null);
        async move { Ok::<_, Infallible>(Response::new(Body::from(serde_json::to_vec(&answer).unwrap()))) }
    });
    Client::new(service, "default")
}

const SETTINGS: &str = "/api/v1/namespaces/shop/configmaps/settings";

fn settings(level: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings", "uid": "s" }, "data": { "LEVEL": level } })
}

#[tokio::test]
async fn a_config_map_that_is_missing_is_told_and_its_coming_heals() {
    let world = World::new();
    let mut app = scalable(1, 1);
    app["spec"]["envFrom"] = json!([{ "configMapRef": { "name": "settings" } }]);
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert!(!calls.iter().any(|call| call.starts_with(&format!("PATCH {DEPLOYMENT}"))), "{calls:?}");
    assert!(world.status().contains("ConfigMapNotFound"), "{}", world.status());

    world.put(SETTINGS, settings("info"));
    world.reconcile(&app).await.0.unwrap();
    let template = world.body(&format!("PATCH {DEPLOYMENT} plimsoll-operator"));
    let hash = &template["spec"]["template"]["metadata"]["annotations"]["plimsoll.dev/config-hash"];
    assert!(hash.as_str().is_some_and(|hash| hash.len() == 32), "{template}");
    assert!(!world.status().contains("ConfigMapNotFound"), "{}", world.status());

    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    assert!(!calls.iter().any(|call| call.contains(SETTINGS)), "it is believed for a while: {calls:?}");
    assert_eq!(World::writes(&calls), [] as [&str; 0]);
}

#[tokio::test]
async fn the_contents_of_a_secret_are_in_no_write() {
    let world = World::new();
    let mut app = scalable(1, 1);
    app["spec"]["envFrom"] = json!([{ "secretRef": { "name": "keys" } }]);
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "keys", "uid": "k" }, "data": { "KEY": "c2VzYW1l" } });
    world.put("/api/v1/namespaces/shop/secrets/keys", secret);
    world.reconcile(&app).await.0.unwrap();
    let server = world.server.lock().unwrap();
    for body in &server.bodies {
        let body = body.to_string();
        assert!(!body.contains("c2VzYW1l") && !body.contains("sesame"), "{body}");
    }
}

#[tokio::test]
async fn a_budget_and_policies_are_written_once_and_owned() {
    let world = World::new();
    let mut app = scalable(2, 9);
    app["spec"]["networkPolicy"] = json!({});
    let (result, calls) = world.reconcile(&app).await;
    result.unwrap();
    let budget = "PATCH /apis/policy/v1/namespaces/shop/poddisruptionbudgets/posts plimsoll-operator force";
    let policy =
        "PATCH /apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/posts plimsoll-operator force";
    for call in [budget, policy] {
        assert!(calls.iter().any(|made| made == call), "{call} is not in {calls:?}");
        let owner = &world.body(call)["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["uid"], &owner["controller"]), (&json!("app-uid"), &json!(true)));
    }
    assert_eq!(World::writes(&world.reconcile(&app).await.1), [] as [&str; 0]);
}
