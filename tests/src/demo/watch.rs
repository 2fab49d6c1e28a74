//! Sees what the operator does: replicas by a watch, decisions from the operator itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client};
use kube_runtime::watcher;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::stage::Stage;
use crate::{chart, sample};

/// Between two reads of the operator's decisions.
const POLL: Duration = Duration::from_secs(1);

/// A decision of the operator, as it serves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When it was taken.
    pub time: Timestamp,
    /// Replicas wanted before.
    pub from: i32,
    /// Replicas wanted since.
    pub to: i32,
    /// Why, in a word.
    pub reason: String,
    /// Why, with the numbers.
    pub message: String,
    /// Whatever else the operator tells of it.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

/// Replicas from a moment on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replicas {
    /// When it was seen.
    pub time: Timestamp,
    /// Of the Deployment's spec.
    pub wanted: i32,
    /// Of the Deployment's status.
    pub ready: i32,
}

/// What has been seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Changes of the replicas, oldest first; the first is how it was when the watch began.
    pub replicas: Vec<Replicas>,
    /// Decisions since the watch began, oldest first.
    pub decisions: Vec<Decision>,
}

/// A watch that is going on.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
    client: Client,
    since: Timestamp,
}

impl Watch {
    /// Begins to watch the sample.
    ///
    /// # Errors
    /// When the first look fails.
    pub async fn start(stage: &Stage) -> Result<Self> {
        let since = Timestamp::now();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), sample::NAMESPACE);
        note_replicas(&seen, &deployments.get(sample::NAME).await?);
        let tasks = vec![
            tokio::spawn(watch_replicas(deployments, seen.clone())),
            tokio::spawn(poll_decisions(stage.client.clone(), since, seen.clone())),
        ];
        Ok(Self { seen, tasks, client: stage.client.clone(), since })
    }

    /// What has been seen so far.
    pub fn now(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the watch, after a last read of the decisions.
    pub async fn finish(self) -> Seen {
        for task in &self.tasks {
            task.abort();
        }
        read_decisions(&self.client, self.since, &self.seen).await;
        self.now()
    }
}

async fn watch_replicas(deployments: Api<Deployment>, seen: Arc<Mutex<Seen>>) {
    let mut changes = Box::pin(watcher::watch_object(deployments, sample::NAME));
    while let Some(change) = changes.next().await {
        match change {
            Ok(Some(deployment)) => note_replicas(&seen, &deployment),
            Ok(None) => {}
            // The watcher tries again by itself.
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

fn note_replicas(seen: &Mutex<Seen>, deployment: &Deployment) {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.replicas.last().is_none_or(|last| (last.wanted, last.ready) != (wanted, ready)) {
        seen.replicas.push(Replicas { time: Timestamp::now(), wanted, ready });
    }
}

async fn poll_decisions(client: Client, since: Timestamp, seen: Arc<Mutex<Seen>>) {
    loop {
        read_decisions(&client, since, &seen).await;
        tokio::time::sleep(POLL).await;
    }
}

/// Adds the decisions that are not known yet. The operator may be away for a moment; the next read finds them.
async fn read_decisions(client: &Client, since: Timestamp, seen: &Mutex<Seen>) {
    let Ok(decisions) = decisions(client, sample::NAMESPACE, sample::NAME).await else { return };
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let after = seen.decisions.last().map_or(since, |last| last.time);
    seen.decisions.extend(decisions.into_iter().filter(|decision| decision.time > after));
}

/// The operator's last decisions about a resource, oldest first, read through the API server.
///
/// # Errors
/// When the operator does not answer.
pub async fn decisions(client: &Client, namespace: &str, name: &str) -> Result<Vec<Decision>> {
    let path = format!(
        "/api/v1/namespaces/{}/services/{}:8080/proxy/decisions?namespace={namespace}&name={name}",
        chart::NAMESPACE,
        chart::OPERATOR
    );
    let request = http::Request::get(path).body(Vec::new())?;
    Ok(client.request(request).await?)
}
