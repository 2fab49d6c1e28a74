//! A node that is not there, as KWOK makes them: it stands in for a kubelet and what it would run, because a machine of two
//! cores holds no thousand pods. Its pods are Ready after a while, and their metrics are answered by this process, each on
//! an address of its own. Everything else of the cluster is real.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::IncomingStream;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube_runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::traffic::Traffic;
use crate::cluster::layout::BRIDGE;
use crate::{command, sample};

/// Its name.
pub const NODE: &str = "plimsoll-absent";
/// Key of the taint that keeps everything else off it. Its pods tolerate it.
pub const TAINT: &str = "plimsoll.dev/absent";
/// Label by which the operator marks pods with their ApiDeployment's name.
const APP_LABEL: &str = "plimsoll.dev/app";
/// What an API's name begins with; its place follows.
pub const API_PREFIX: &str = "api-";
/// Where its pods are asked.
const PORT: u16 = 8080;
/// Addresses of its pods: within the range of the cluster's pods, and apart from those of the real node.
const ADDRESSES: &str = "198.18.128.0/17";
const FIRST_ADDRESS: u32 = u32::from_be_bytes([198, 18, 128, 1]);
/// Time from when a pod is on the node until it is Ready.
const START: Duration = Duration::from_secs(2);
/// Kubernetes takes a node for lost after 40 s without a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// Pods that are looked after at the same time.
const CONCURRENCY: usize = 64;
const LIMIT: Duration = Duration::from_secs(20);

/// The node, for as long as it is kept.
pub struct AbsentNode {
    client: Client,
    world: Arc<World>,
    tasks: JoinSet<()>,
}

struct World {
    traffic: Mutex<Traffic>,
    began: Instant,
    /// Uids of the pods that an address was given to, the next one to each.
    given: Mutex<BTreeSet<String>>,
}

impl World {
    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address for a pod that has none yet.
    fn give_address(&self, pod: String) -> Option<Ipv4Addr> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Ipv4Addr::from(FIRST_ADDRESS + u32::try_from(given.len()).ok()?);
        given.insert(pod).then_some(next)
    }
}

impl AbsentNode {
    /// Makes the node, and answers for its pods from now on.
    ///
    /// # Errors
    /// When the machine gives no addresses, or the API server refuses the node.
    pub async fn make(client: Client, traffic: Traffic) -> Result<Self> {
        let world =
            Arc::new(World { traffic: Mutex::new(traffic), began: Instant::now(), given: Mutex::default() });
        ip(&["route", "replace", "local", ADDRESSES, "dev", "lo"]).await?;
        let listener = listen()?;
        let router = Router::new().route("/metrics", get(metrics)).with_state(Arc::clone(&world));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It ends when the task is aborted.
            let _ = axum::serve(listener, router.into_make_service_with_connect_info::<Asked>()).await;
        });
        sample::apply_all(&client, &[node()]).await?;
        sign_of_life(&client).await?;
        tasks.spawn(live(client.clone()));
        tasks.spawn(look_after_pods(client.clone(), Arc::clone(&world)));
        Ok(Self { client, world, tasks })
    }

    /// From now on each API has another load.
    pub fn set_load(&self, requests_per_second: f64) {
        self.world.traffic().set(requests_per_second, self.world.now());
    }

    /// From now on the pods of so many APIs, the first ones, take a question and never answer it.
    pub fn silence(&self, apis: usize) {
        self.world.traffic().silence(apis);
    }

    /// Removes it. Its pods should be gone.
    ///
    /// # Errors
    /// When the API server or the machine refuses.
    pub async fn remove(mut self) -> Result<()> {
        self.tasks.shutdown().await;
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.delete(NODE, &DeleteParams::default()).await.context("remove the absent node")?;
        ip(&["route", "delete", "local", ADDRESSES, "dev", "lo"]).await.map(drop)
    }
}

/// Reached from the pods' bridge only.
fn listen() -> Result<TcpListener> {
    let socket = TcpSocket::new_v4().context("make a socket")?;
    socket.set_reuseaddr(true).context("prepare the socket")?;
    socket.bind_device(Some(BRIDGE.as_bytes())).context("listen on the pods' bridge only")?;
    socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))).context("listen for scrapes")?;
    socket.listen(4096).context("listen for scrapes")
}

/// The address that was asked.
#[derive(Clone, Copy)]
struct Asked(Option<Ipv4Addr>);

impl Connected<IncomingStream<'_, TcpListener>> for Asked {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        match stream.io().local_addr() {
            Ok(SocketAddr::V4(address)) => Self(Some(*address.ip())),
            _ => Self(None),
        }
    }
}

async fn metrics(
    ConnectInfo(Asked(pod)): ConnectInfo<Asked>,
    State(world): State<Arc<World>>,
) -> Result<String, StatusCode> {
    let pod = pod.ok_or(StatusCode::NOT_FOUND)?;
    if world.traffic().is_silent(pod) {
        std::future::pending::<()>().await;
    }
    let told = world.traffic().exposition(pod, world.now());
    told.ok_or(StatusCode::NOT_FOUND)
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": NODE, "labels": { "kubernetes.io/hostname": NODE } },
        "spec": { "taints": [{ "key": TAINT, "effect": "NoSchedule" }] },
    })
}

async fn live(client: Client) {
    loop {
        tokio::time::sleep(SIGN_OF_LIFE).await;
        // One that is missed is made up for by the next.
        let _ = sign_of_life(&client).await;
    }
}

async fn sign_of_life(client: &Client) -> Result<()> {
    let now = Timestamp::now();
    let room = json!({ "cpu": "10k", "memory": "100Ti", "pods": "20k" });
    let conditions: Vec<Value> = [("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False")]
        .map(|(kind, status)| json!({ "type": kind, "status": status, "reason": "Absent", "lastHeartbeatTime": now, "lastTransitionTime": now }))
        .into();
    let status = json!({ "status": { "capacity": room, "allocatable": room, "conditions": conditions } });
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .patch_status(NODE, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .context("say that the absent node is well")?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": NODE },
        "spec": { "holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}") },
    });
    leases
        .patch(NODE, &PatchParams::apply("plimsoll-bench").force(), &Patch::Apply(lease))
        .await
        .context("renew the absent node's Lease")?;
    Ok(())
}

/// As a kubelet does: what is put on the node starts, and what is to go goes.
async fn look_after_pods(client: Client, world: Arc<World>) {
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={NODE}"));
    let pods = watcher(Api::<Pod>::all(client.clone()), ours).default_backoff().touched_objects();
    pods.for_each_concurrent(CONCURRENCY, |pod| {
        let (client, world) = (client.clone(), Arc::clone(&world));
        async move {
            // The watch tells the pod again when something failed or it changes.
            if let Ok(pod) = pod {
                let _ = look_after(&client, &world, pod).await;
            }
        }
    })
    .await;
}

async fn look_after(client: &Client, world: &World, pod: Pod) -> Result<()> {
    let (name, namespace) =
        (pod.metadata.name.unwrap_or_default(), pod.metadata.namespace.unwrap_or_default());
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let address = pod.status.and_then(|status| status.pod_ip);
    if pod.metadata.deletion_timestamp.is_some() {
        if let Some(address) = address.and_then(|address| address.parse().ok()) {
            world.traffic().remove(address, world.now());
        }
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        return Ok(());
    }
    if address.is_some() {
        return Ok(());
    }
    let labels = pod.metadata.labels.unwrap_or_default();
    let api = labels
        .get(APP_LABEL)
        .and_then(|app| app.strip_prefix(API_PREFIX)?.parse().ok())
        .context("a pod of no API")?;
    // The watch tells a pod more than once while it starts.
    let Some(address) = world.give_address(pod.metadata.uid.unwrap_or_default()) else { return Ok(()) };
    let container =
        pod.spec.and_then(|spec| spec.containers.into_iter().next()).context("a pod without a container")?;
    tokio::time::sleep(START).await;
    // Requests come once it is Ready.
    world.traffic().add(api, address, world.now());
    let status = running(address, &container.name, container.image.as_deref().unwrap_or_default());
    pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await?;
    Ok(())
}

fn running(address: Ipv4Addr, container: &str, image: &str) -> Value {
    let now = Timestamp::now();
    let conditions: Vec<Value> = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"]
        .map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": now }))
        .into();
    json!({ "status": {
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "startTime": now, "conditions": conditions,
        "containerStatuses": [{
            "name": container, "image": image, "imageID": image, "ready": true, "started": true, "restartCount": 0,
            "state": { "running": { "startedAt": now } },
        }],
    } })
}

async fn ip(args: &[&str]) -> Result<String> {
    command::run(Command::new("ip").args(args), LIMIT).await
}
