//! Sees a Deployment's replicas change while a load runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube_runtime::watcher;
use tokio::task::JoinHandle;

use super::replicas::{Change, Replicas};

/// A watch that is going on. It ends when it is dropped.
pub struct Watch {
    seen: Arc<Mutex<Vec<(Timestamp, u32, u32)>>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Begins to watch a Deployment, which must be there.
    ///
    /// # Errors
    /// When the first look fails.
    pub async fn start(deployments: Api<Deployment>, name: &str) -> Result<Self> {
        let seen = Arc::default();
        note(&seen, &deployments.get(name).await.context("look at the Deployment")?);
        let task = tokio::spawn(follow(deployments, name.to_owned(), Arc::clone(&seen)));
        Ok(Self { seen, task })
    }

    /// What has been seen, in seconds since `began`.
    pub fn since(&self, began: Timestamp) -> Replicas {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let change = |&(time, wanted, ready): &(Timestamp, u32, u32)| Change {
            second: time.duration_since(began).as_secs_f64(),
            wanted,
            ready,
        };
        Replicas(seen.iter().map(change).collect())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(deployments: Api<Deployment>, name: String, seen: Arc<Mutex<Vec<(Timestamp, u32, u32)>>>) {
    let mut changes = Box::pin(watcher::watch_object(deployments, &name));
    while let Some(change) = changes.next().await {
        match change {
            Ok(Some(deployment)) => note(&seen, &deployment),
            Ok(None) => {}
            // The watcher tries again by itself.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn note(seen: &Mutex<Vec<(Timestamp, u32, u32)>>, deployment: &Deployment) {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let (wanted, ready) = (wanted.unsigned_abs(), ready.unsigned_abs());
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.last().is_none_or(|&(_, last, last_ready)| (last, last_ready) != (wanted, ready)) {
        seen.push((Timestamp::now(), wanted, ready));
    }
}
