//! Kubernetes' own autoscaler on the plain Deployment, as people set it: CPU at 60 % of the request.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::stage::{BOUNDS, NAMESPACE, PLAIN, Stage, until};
use crate::cluster::metrics_server;
use crate::progress::step;
use crate::sample;

/// `averageUtilization`.
pub const CPU_PERCENT: u32 = 60;
/// It asks every 15 s, and the pods' first numbers come after two answers of the kubelet.
const LIMIT: Duration = Duration::from_mins(3);

/// Puts it onto the plain Deployment, and waits until it has the pods' CPU use.
///
/// # Errors
/// When metrics-server cannot be had, or the autoscaler does not become active.
pub async fn apply(stage: &Stage) -> Result<()> {
    metrics_server::up().await?;
    sample::apply_all(&stage.client, &[object()]).await?;
    step("Wait until the HPA has the pods' CPU use", async {
        let autoscalers = stage.api::<HorizontalPodAutoscaler>();
        until(LIMIT, "the HPA is not active", async || {
            let autoscaler = autoscalers.get(PLAIN).await.context("look at the HPA")?;
            let conditions = autoscaler.status.and_then(|status| status.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|it| it.type_ == "ScalingActive" && it.status == "True"))
        })
        .await
    })
    .await
}

/// Removes it.
///
/// # Errors
/// When it cannot be removed.
pub async fn remove(stage: &Stage) -> Result<()> {
    let autoscalers = stage.api::<HorizontalPodAutoscaler>();
    autoscalers.delete(PLAIN, &DeleteParams::default()).await.context("remove the HPA").map(drop)
}

fn object() -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": PLAIN, "namespace": NAMESPACE },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": PLAIN },
            "minReplicas": BOUNDS.0, "maxReplicas": BOUNDS.1,
            "metrics": [{
                "type": "Resource",
                "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": CPU_PERCENT } },
            }],
        },
    })
}
