//! Some pods, and one of the two sources that reads them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plimsoll_core::engine::Sample;
use plimsoll_core::histogram::{Rejection, Snapshot};
use plimsoll_core::input::Outage;
use plimsoll_crds::ApiDeployment;
use plimsoll_operator::source::credentials::{Credentials, bearer_header};
use plimsoll_operator::source::pods::Pods;
use plimsoll_operator::source::prometheus::Prometheus;
use plimsoll_operator::source::servers::Servers;
use plimsoll_operator::source::target::Target;
use plimsoll_operator::source::{Asked, MetricsSource};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::pod::{Pod, Says};
use crate::server::{Options, Server};

/// Longest wait for what a source must come to: Prometheus scrapes every second.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pods,
    Prometheus,
}

pub struct World {
    pub kind: Kind,
    pub pods: Vec<Pod>,
    pub app: ApiDeployment,
    pub credentials: Credentials,
    _server: Option<Server>,
    servers: std::sync::Arc<Servers>,
}

impl World {
    /// Pods that say this, and `spec.metrics`.
    pub async fn new(kind: Kind, says: impl IntoIterator<Item = Says>, metrics: &Value) -> Self {
        Self::with_token(kind, says, metrics, None).await
    }

    /// Likewise; they are asked with this token.
    pub async fn with_token(
        kind: Kind,
        says: impl IntoIterator<Item = Says>,
        metrics: &Value,
        token: Option<&str>,
    ) -> Self {
        let mut pods = Vec::new();
        for (index, says) in says.into_iter().enumerate() {
            pods.push(Pod::start(&format!("posts-6d4b75cb6d-{index:05}"), says).await);
        }
        let mut credentials = Credentials::default();
        let (server, servers) = match kind {
            Kind::Pods => {
                credentials.authorization = token.map(|token| bearer_header(token).unwrap());
                (None, std::sync::Arc::default())
            }
            Kind::Prometheus => {
                let server = Server::start(&pods, &Options { token, ..Options::default() });
                let servers = json!({ "servers": [{
                    "name": "default", "url": format!("http://{}", server.address), "allowQueries": true,
                }] });
                (Some(server), Servers::parse(&servers.to_string()).unwrap())
            }
        };
        Self { kind, pods, app: app(metrics), credentials, _server: server, servers }
    }

    /// One reading of all pods, in their order.
    pub async fn read(&self) -> Result<Vec<Sample>, Outage> {
        let targets = self.pods.iter().map(target).collect::<Vec<_>>();
        let asked =
            Asked { app: &self.app, deployment: "posts", targets: &targets, credentials: &self.credentials };
        let began = Instant::now();
        let readings = match self.kind {
            Kind::Pods => Pods { turns: &Semaphore::new(64) }.read(asked).await?,
            Kind::Prometheus => Prometheus { servers: &self.servers }.read(asked).await?,
        };
        assert!(began.elapsed() < Duration::from_secs(6), "a round is bounded");
        let mut by_uid =
            readings.into_iter().map(|reading| (reading.uid, reading.sample)).collect::<BTreeMap<_, _>>();
        let samples = targets.iter().map(|target| by_uid.remove(&target.uid).unwrap()).collect();
        assert!(by_uid.is_empty(), "only pods that were asked for are read");
        Ok(samples)
    }

    /// Reads until this holds of what the pods said.
    pub async fn eventually(&self, what: &str, holds: impl Fn(&[Sample]) -> bool) -> Vec<Sample> {
        let began = Instant::now();
        loop {
            let samples = self.read().await.unwrap();
            if holds(&samples) {
                return samples;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {samples:#?}");
            assert!(
                self.kind == Kind::Prometheus || began.elapsed() < Duration::from_secs(3),
                "{what}: {samples:#?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads until every pod was read.
    pub async fn all(&self) -> Vec<Snapshot> {
        let samples =
            self.eventually("all pods are read", |samples| samples.iter().all(|s| s.reading.is_ok())).await;
        samples.into_iter().map(|sample| sample.reading.unwrap()).collect()
    }

    /// Reads until this pod is left out, for the reason that each source has.
    pub async fn is_left_out(&self, pod: usize, of_pods: Rejection, of_prometheus: Rejection) -> Vec<Sample> {
        let reason = match self.kind {
            Kind::Pods => of_pods,
            Kind::Prometheus => of_prometheus,
        };
        self.eventually("the pod is left out", |samples| samples[pod].reading == Err(reason)).await
    }
}

pub fn app(metrics: &Value) -> ApiDeployment {
    let app = json!({
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
        "metadata": { "namespace": "shop", "name": "posts" },
        "spec": { "latency": { "p99": "250ms" }, "metrics": metrics },
    });
    serde_json::from_value(app).unwrap()
}

pub fn target(pod: &Pod) -> Target {
    Target {
        uid: format!("uid of {}", pod.name),
        name: pod.name.clone(),
        template: String::new(),
        created_at: Timestamp::UNIX_EPOCH,
        ready_at: Some(Timestamp::UNIX_EPOCH),
        address: Some(pod.address),
        limit_cores: Some(2.0),
    }
}

/// An exposition with a histogram of these counts up to 0.1 s, 0.25 s and in all, by route and status.
pub fn exposition(series: &[(&str, &str, [&str; 3])]) -> String {
    let mut text = "# TYPE http_request_duration_seconds histogram\n".to_owned();
    for (handler, code, counts) in series {
        for (edge, count) in ["0.1", "0.25", "+Inf"].iter().zip(counts) {
            let labels = format!("handler=\"{handler}\",code=\"{code}\",le=\"{edge}\"");
            writeln!(text, "http_request_duration_seconds_bucket{{{labels}}} {count}").unwrap();
        }
    }
    text
}
