//! An API server in memory: enough of one for the operator's own calls, with faults. It serves a client of this process
//! or, over HTTP, another process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Collected, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// What happens to a call instead of, or after, its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused with this status.
    Status(u16),
    /// Never answered, and not carried out.
    Hang,
}

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    calls: Vec<String>,
    /// Query of each call.
    queries: Vec<String>,
    /// Body of each call.
    bodies: Vec<Value>,
    faults: Vec<(String, Fault)>,
    /// How many writes pass before none does, nor any answer to the last of them.
    dies_after: Option<usize>,
}

/// Path of the collection, and what happened there.
type Change = (String, Value);

/// The API server.
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<Change>,
}

impl Server {
    pub fn new() -> Self {
        Self { state: Arc::default(), changes: broadcast::channel(4096).0 }
    }

    /// A client of this process.
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_or_else(|_| Bytes::new(), Collected::to_bytes);
                let (code, pieces) = server.answer(&parts.method, &parts.uri, &body).await;
                let body = StreamBody::new(pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece))));
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// Serves over plain HTTP, as long as the runtime lives.
    pub async fn listen(&self) -> SocketAddr {
        let server = self.clone();
        let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_or_else(|_| Bytes::new(), Collected::to_bytes);
                let (code, pieces) = server.answer(&parts.method, &parts.uri, &body).await;
                let body = axum::body::Body::from_stream(pieces.map(Ok::<_, Infallible>));
                Response::builder()
                    .status(code)
                    .header("content-type", "application/json")
                    .body(body)
                    .unwrap()
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    /// Every call from now on that begins with `call` (method and path) meets `fault`.
    pub fn fault(&self, call: &str, fault: Fault) {
        self.state.lock().unwrap().faults.push((call.into(), fault));
    }

    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.faults.clear();
        state.dies_after = None;
    }

    /// The process that writes dies with its write number `writes`: it is carried out, and the process never hears.
    pub fn dies_after(&self, writes: usize) {
        self.state.lock().unwrap().dies_after = Some(writes);
    }

    /// Puts an object there, as somebody else would.
    pub fn put(&self, path: &str, object: Value) -> Value {
        self.state.lock().unwrap().objects.remove(path);
        self.store(path, object)
    }

    /// Deletes an object, as somebody else would.
    pub fn delete(&self, path: &str) {
        self.carry_out(&Method::DELETE, path, Value::Null);
    }

    /// Deletes an object of which no watch ever tells, and has the watches of its collection list anew.
    pub fn vanish(&self, path: &str, watched: &str) {
        self.state.lock().unwrap().objects.remove(path);
        let gone = json!({ "type": "ERROR", "object": { "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old" } });
        let _ = self.changes.send((watched.into(), gone));
    }

    /// Says on the watches of a collection that nothing has changed.
    pub fn bookmark(&self, collection: &str, kind: &str) {
        let version = self.state.lock().unwrap().version.to_string();
        let object = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "resourceVersion": version } });
        let _ = self.changes.send((collection.into(), json!({ "type": "BOOKMARK", "object": object })));
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub fn objects(&self) -> BTreeMap<String, Value> {
        self.state.lock().unwrap().objects.clone()
    }

    /// All calls so far, as method and path.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// Queries of the calls so far that begin with `call`.
    pub fn queries(&self, call: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let calls = state.calls.iter().zip(&state.queries);
        calls.filter(|(made, _)| made.starts_with(call)).map(|(_, query)| query.clone()).collect()
    }

    /// Bodies of the calls so far that begin with `call`.
    pub fn bodies(&self, call: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let calls = state.calls.iter().zip(&state.bodies);
        calls.filter(|(made, _)| made.starts_with(call)).map(|(_, body)| body.clone()).collect()
    }

    /// The calls so far that wrote something other than a Lease.
    pub fn writes(&self) -> Vec<String> {
        let write = |call: &String| !call.starts_with("GET") && !call.contains("/leases");
        self.calls().into_iter().filter(write).collect()
    }

    async fn answer(
        &self,
        method: &Method,
        uri: &http::Uri,
        body: &[u8],
    ) -> (u16, stream::BoxStream<'static, Bytes>) {
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let whole = |(code, value): (u16, Value)| {
            (code, stream::once(async move { Bytes::from(value.to_string()) }).boxed())
        };
        let call = format!("{method} {path}");
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.calls.push(call.clone());
            state.queries.push(query.to_owned());
            state.bodies.push(serde_json::from_slice(body).unwrap_or(Value::Null));
            state.faults.iter().find(|(start, _)| call.starts_with(start.as_str())).map(|(_, fault)| *fault)
        };
        match fault {
            Some(Fault::Status(code)) => return whole((code, status(code))),
            Some(Fault::Hang) => return std::future::pending().await,
            None => {}
        }
        if query.contains("watch=true") {
            return (200, self.watch(path.to_owned()).boxed());
        }
        if *method != Method::GET && self.state.lock().unwrap().dies_after == Some(0) {
            return std::future::pending().await;
        }
        let died = if *method == Method::GET { false } else { self.count_down() };
        let answer = self.carry_out(method, path, serde_json::from_slice(body).unwrap_or(Value::Null));
        if died {
            return std::future::pending().await;
        }
        whole(answer)
    }

    /// Whether this is the write that the process dies at.
    fn count_down(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let Some(left) = &mut state.dies_after else { return false };
        *left = left.saturating_sub(1);
        *left == 0
    }

    fn carry_out(&self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let key = path.trim_end_matches("/status").to_owned();
        match *method {
            Method::GET if is_collection(path) => (200, self.list(path)),
            Method::GET => self.get(&key).map_or((404, status(404)), |object| (200, object)),
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or("event").to_owned();
                let key = format!("{key}/{name}");
                if self.get(&key).is_some() && !key.contains("/events/") {
                    return (409, status(409));
                }
                (201, self.store(&key, body))
            }
            Method::PATCH => {
                // The status has one writer: what it no longer says is gone.
                if let Some(stored) = self.state.lock().unwrap().objects.get_mut(&key)
                    && path.ends_with("/status")
                {
                    stored["status"] = Value::Null;
                }
                (200, self.store(&key, body))
            }
            Method::PUT => {
                let Some(stored) = self.get(&key) else { return (404, status(404)) };
                if stored["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return (409, status(409));
                }
                let uid = stored["metadata"]["uid"].clone();
                self.state.lock().unwrap().objects.insert(key.clone(), json!({ "metadata": { "uid": uid } }));
                (200, self.store(&key, body))
            }
            Method::DELETE => {
                let gone = self.state.lock().unwrap().objects.remove(&key);
                gone.map_or((404, status(404)), |object| {
                    let _ =
                        self.changes.send((collection(&key), json!({ "type": "DELETED", "object": object })));
                    (200, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
                })
            }
            _ => (405, status(405)),
        }
    }

    fn list(&self, path: &str) -> Value {
        let state = self.state.lock().unwrap();
        let below = |key: &&String| covers(path, &collection(key));
        let items: Vec<&Value> =
            state.objects.iter().filter(|(key, _)| below(key)).map(|(_, item)| item).collect();
        let version = state.version.to_string();
        json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": version }, "items": items })
    }

    fn watch(&self, path: String) -> impl Stream<Item = Bytes> + Send + 'static {
        let changes = self.changes.subscribe();
        stream::unfold((changes, path), |(mut changes, path)| async move {
            loop {
                let (collection, event) = changes.recv().await.ok()?;
                if covers(&path, &collection) {
                    return Some((Bytes::from(format!("{event}\n")), (changes, path)));
                }
            }
        })
    }

    /// Merges as server-side apply would, as far as these tests look, and makes every Deployment ready at once.
    fn store(&self, key: &str, body: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = state.version;
        let known = state.objects.contains_key(key);
        let stored = state.objects.entry(key.to_owned()).or_insert_with(|| json!({ "metadata": {} }));
        let spec_before = stored["spec"].clone();
        merge(stored, body);
        let changed = stored["spec"] != spec_before;
        let kind = stored["kind"].as_str().unwrap_or_default().to_owned();
        let replicas = stored["spec"]["replicas"].as_i64().unwrap_or(1);
        let metadata = stored["metadata"].as_object_mut().unwrap();
        metadata.entry("uid").or_insert_with(|| json!(format!("uid-{version}")));
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        let generation = metadata.get("generation").and_then(Value::as_u64).unwrap_or(0) + u64::from(changed);
        metadata.insert("generation".into(), json!(generation));
        if kind == "Deployment" {
            stored["status"] = json!({
                "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
                "readyReplicas": replicas, "availableReplicas": replicas,
            });
        }
        let stored = stored.clone();
        drop(state);
        let event = if known { "MODIFIED" } else { "ADDED" };
        let _ = self.changes.send((collection(key), json!({ "type": event, "object": stored })));
        stored
    }
}

fn is_collection(path: &str) -> bool {
    // `/api/v1/KIND` or `/apis/GROUP/VERSION/KIND`, with a namespace or without.
    path.split('/').count() % 2 == usize::from(path.starts_with("/apis/"))
}

fn collection(key: &str) -> String {
    key.rsplit_once('/').map_or_else(String::new, |(collection, _)| collection.to_owned())
}

/// Whether a list of `path`, which may be of all namespaces, holds what is in `collection`.
fn covers(path: &str, collection: &str) -> bool {
    if path == collection {
        return true;
    }
    let Some((before, after)) = collection.split_once("/namespaces/") else { return false };
    let plural = after.split_once('/').map_or("", |(_, plural)| plural);
    path == format!("{before}/{plural}")
}

pub fn merge(into: &mut Value, from: Value) {
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
    let reason = if code == 404 { "NotFound" } else { "Scripted" };
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": format!("scripted {code}"), "reason": reason })
}

/// Path of a resource.
pub fn app_path(namespace: &str, name: &str) -> String {
    format!("/apis/plimsoll.dev/v1alpha1/namespaces/{namespace}/apideployments/{name}")
}

/// A resource of a foreign image, without a cache, that is looked at every second.
pub fn app(namespace: &str, name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "ApiDeployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "image": "any", "latency": { "p99": "250ms" }, "replicas": { "min": replicas, "max": replicas },
            "metrics": { "scrapePeriodSeconds": 1 }, "cache": { "disabled": {} },
        },
    })
}

/// Waits for a fact, for at most `limit`.
pub async fn until(limit: Duration, what: &str, fact: impl Fn() -> bool) {
    let waited = async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(limit, waited)
        .await
        .unwrap_or_else(|_| panic!("{limit:?} have passed, and not: {what}"));
}
