//! Runs the load generator as a Job in the cluster, and reads what it prints.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::AsyncBufReadExt;
use futures::io::Lines;
use futures::{AsyncBufRead, TryStreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, LogParams, PropagationPolicy};
use plimsoll_load::{Trace, record::Line};
use serde_json::json;

use super::stage::Stage;
use crate::sample::{self, NAMESPACE, P95_MS, P99_MS};

const NAME: &str = "load";
/// Between two lines, of which there is one a second.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);
const START_LIMIT: Duration = Duration::from_mins(2);

/// A load that is running.
pub struct Load {
    jobs: Api<Job>,
    lines: Lines<Box<dyn AsyncBufRead + Send + Unpin>>,
}

impl Load {
    /// Starts the Job and waits until its pod runs. One that an interrupted demo left is removed first.
    ///
    /// # Errors
    /// When the Job is refused or its pod does not start.
    pub async fn start(stage: &Stage, trace: &Trace, seed: u64) -> Result<Self> {
        let jobs: Api<Job> = Api::namespaced(stage.client.clone(), NAMESPACE);
        remove(&jobs).await?;
        let pods: Api<Pod> = Api::namespaced(stage.client.clone(), NAMESPACE);
        let of_the_job = ListParams::default().labels("batch.kubernetes.io/job-name=load");
        until(START_LIMIT, "the last load's pod is still there", async || {
            Ok(pods.list(&of_the_job).await.context("list the load's pods")?.items.is_empty())
        })
        .await?;
        sample::apply_all(&stage.client, &objects(&stage.images.load, trace, seed)).await?;
        let mut name = String::new();
        until(START_LIMIT, "the load generator's pod does not start", async || {
            let pod = pods.list(&of_the_job).await.context("list the load's pods")?.items.into_iter().next();
            let phase = pod.as_ref().and_then(|pod| pod.status.as_ref()?.phase.clone()).unwrap_or_default();
            name = pod.and_then(|pod| pod.metadata.name).unwrap_or_default();
            Ok(matches!(phase.as_str(), "Running" | "Succeeded" | "Failed"))
        })
        .await?;
        let follow = LogParams { follow: true, ..LogParams::default() };
        let log = pods.log_stream(&name, &follow).await.context("follow the load generator's log")?;
        let log: Box<dyn AsyncBufRead + Send + Unpin> = Box::new(Box::pin(log));
        Ok(Self { jobs, lines: log.lines() })
    }

    /// The next line of the generator.
    ///
    /// # Errors
    /// When it ends without a summary, falls silent, or says something else than expected, which is then quoted.
    pub async fn next(&mut self) -> Result<Line> {
        let line = tokio::time::timeout(SILENCE_LIMIT, self.lines.try_next())
            .await
            .with_context(|| {
                format!("the load generator has said nothing for {} s", SILENCE_LIMIT.as_secs())
            })?
            .context("read the load generator's log")?;
        let Some(line) = line else { bail!("the load generator has ended without a summary") };
        serde_json::from_str(&line).with_context(|| format!("the load generator says: {line}"))
    }

    /// Removes the Job. It has ended, so that a failure to do so is left to the next run.
    pub async fn remove(self) {
        let _ = remove(&self.jobs).await;
    }
}

fn objects(image: &str, trace: &Trace, seed: u64) -> Vec<serde_json::Value> {
    vec![
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": NAME, "namespace": NAMESPACE },
            "data": { "trace.csv": trace.to_csv() },
        }),
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": NAME, "namespace": NAMESPACE },
            "spec": {
                "backoffLimit": 0, "ttlSecondsAfterFinished": 600,
                "activeDeadlineSeconds": trace.duration().as_secs() + 180,
                "template": { "spec": {
                    "restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
                    "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
                    "containers": [{
                        "name": NAME, "image": image,
                        "args": [
                            format!("http://{}.{NAMESPACE}.svc.cluster.local:80", sample::NAME),
                            "--trace", "/trace/trace.csv", "--seed", seed.to_string(), "--posts", "50",
                            "--get", "16=/work?cpu=5ms", "--get", "3=/posts/{post}", "--get", "1=/posts?limit=10",
                            "--threshold-ms", P95_MS.to_string(), "--threshold-ms", P99_MS.to_string(),
                        ],
                        "resources": { "requests": { "cpu": "50m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } },
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true,
                        },
                        "volumeMounts": [{ "name": "trace", "mountPath": "/trace" }],
                    }],
                    "volumes": [{ "name": "trace", "configMap": { "name": NAME } }],
                } },
            },
        }),
    ]
}

async fn remove(jobs: &Api<Job>) -> Result<()> {
    let background =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    match jobs.delete(NAME, &background).await {
        Err(kube::Error::Api(status)) if !status.is_not_found() => {
            Err(kube::Error::Api(status)).context("remove the last load")
        }
        _ => {
            until(START_LIMIT, "the last load is still there", async || {
                Ok(jobs.get_opt(NAME).await.context("look for the last load")?.is_none())
            })
            .await
        }
    }
}

async fn until(
    limit: Duration,
    otherwise: &'static str,
    mut met: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + limit;
    while !met().await? {
        if tokio::time::Instant::now() > deadline {
            bail!("{otherwise} after {} s", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
