//! Installs Plimsoll's chart with the real Helm.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::access::Access;
use crate::images::Images;
use crate::{command, paths, tools};

/// Name of the release.
const RELEASE: &str = "plimsoll";
/// Name of the operator's Deployment and Service in this release.
pub const OPERATOR: &str = "plimsoll-operator";
/// Where the operator runs.
pub const NAMESPACE: &str = "plimsoll-system";

/// Where a test may run a Prometheus that the operator on the local cluster is configured to ask: the node, by
/// [`NODE_ADDRESS`](crate::cluster::layout::NODE_ADDRESS).
pub const PROMETHEUS: &str = "198.18.0.1:19090";

const LIMIT: Duration = Duration::from_mins(4);

/// Installs the chart, or upgrades it to these images, and waits until the operator is ready.
///
/// # Errors
/// When Helm refuses the chart or the operator does not become ready.
pub async fn install(access: &Access, images: &Images) -> Result<()> {
    clear_interrupted(access).await?;
    let mut values = values(images);
    if access.kubeconfig == Access::local().kubeconfig {
        values["prometheus"] = json!({ "servers": [{ "name": "default", "url": format!("http://{PROMETHEUS}"), "timeoutSeconds": 2 }] });
    }
    let file = paths::target().join("chart-values.json");
    std::fs::create_dir_all(paths::target()).context("create the target folder")?;
    std::fs::write(&file, serde_json::to_vec_pretty(&values)?)
        .with_context(|| format!("write {}", file.display()))?;
    let chart = paths::project().join("charts/plimsoll");
    let mut helm = helm(access).await?;
    helm.args(["upgrade", RELEASE]).arg(chart).args([
        "--install",
        "--namespace",
        NAMESPACE,
        "--create-namespace",
    ]);
    helm.args(["--wait", "--timeout", "3m", "--values"]).arg(&file);
    command::run(&mut helm, LIMIT).await.map(drop)
}

/// Helm refuses to touch a release whose last operation was killed in the middle. What the user's resources run stays:
/// it does not belong to the release, and neither does the CustomResourceDefinition once it is there.
async fn clear_interrupted(access: &Access) -> Result<()> {
    let mut helm = helm(access).await?;
    helm.args(["status", RELEASE, "--namespace", NAMESPACE, "--output", "json"]);
    // Without a release there is no status, and nothing to clear.
    let Ok(status) = command::run(&mut helm, LIMIT).await else { return Ok(()) };
    let status: Value = serde_json::from_str(&status).context("read Helm's status")?;
    let status = status["info"]["status"].as_str().unwrap_or_default();
    if status.starts_with("pending-") || status == "uninstalling" {
        uninstall(access).await.context("clear an interrupted Helm operation")?;
    }
    Ok(())
}

/// Removes the release. The CustomResourceDefinition stays, as the chart promises.
///
/// # Errors
/// When Helm fails for another reason than that there is no such release.
pub async fn uninstall(access: &Access) -> Result<()> {
    let mut helm = helm(access).await?;
    helm.args([
        "uninstall",
        RELEASE,
        "--namespace",
        NAMESPACE,
        "--ignore-not-found",
        "--wait",
        "--timeout",
        "2m",
    ]);
    command::run(&mut helm, LIMIT).await.map(drop)
}

async fn helm(access: &Access) -> Result<Command> {
    let mut helm = Command::new(tools::helm().await?);
    if let Some(kubeconfig) = &access.kubeconfig {
        helm.arg("--kubeconfig").arg(kubeconfig);
    }
    if let Some(context) = &access.context {
        helm.args(["--kube-context", context]);
    }
    Ok(helm)
}

fn values(images: &Images) -> Value {
    json!({
        "image": image(&images.operator),
        "apiService": { "image": image(&images.api) },
        "redis": { "image": images.redis },
    })
}

fn image(reference: &str) -> Value {
    let (repository, tag) = reference.rsplit_once(':').unwrap_or((reference, "latest"));
    json!({ "repository": repository, "tag": tag })
}
