//! Installs Plimsoll's chart with the real Helm.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::access::Access;
use crate::images::Images;
use crate::{command, paths, tools};

/// Name of the release.
pub const RELEASE: &str = "plimsoll";
/// Name of the operator's Deployment and Service in this release.
pub const OPERATOR: &str = "plimsoll-operator";
/// Where the operator runs.
pub const NAMESPACE: &str = "plimsoll-system";

/// Where a test may run a Prometheus that the operator on the local cluster is configured to ask: the node, by
/// [`NODE_ADDRESS`](crate::cluster::layout::NODE_ADDRESS).
pub const PROMETHEUS: &str = "198.18.0.1:19090";

const LIMIT: Duration = Duration::from_mins(4);
/// Rendering takes well under a second; the rest is for a busy machine.
const RENDER_LIMIT: Duration = Duration::from_mins(1);

/// Label of resources that an end-to-end test operates by a release of its own. The shared operator leaves them alone.
pub const APART: &str = "plimsoll.dev/test-operator";

/// Installs the chart, or upgrades it to these images, and waits until the operator is ready.
///
/// # Errors
/// When Helm refuses the chart or the operator does not become ready.
pub async fn install(access: &Access, images: &Images) -> Result<()> {
    install_release(access, RELEASE, images, json!({})).await
}

/// Installs the operator that the end-to-end tests share, with `more` values.
///
/// # Errors
/// As [`install`].
pub async fn install_shared(access: &Access, images: &Images, mut more: Value) -> Result<()> {
    more["selector"] = format!("!{APART}").into();
    let server = json!({ "name": "default", "url": format!("http://{PROMETHEUS}"), "timeoutSeconds": 2 });
    more["prometheus"] = json!({ "servers": [server] });
    install_release(access, RELEASE, images, more).await
}

/// Installs a release of the chart into [`NAMESPACE`] with `more` values, or upgrades it, and waits until it is ready.
///
/// # Errors
/// As [`install`].
pub async fn install_release(access: &Access, release: &str, images: &Images, more: Value) -> Result<()> {
    clear_interrupted(access, release).await?;
    let mut values = values(images);
    if let (Some(values), Value::Object(more)) = (values.as_object_mut(), more) {
        values.extend(more);
    }
    let file = paths::target().join(format!("chart-values-{release}.json"));
    std::fs::create_dir_all(paths::target()).context("create the target folder")?;
    std::fs::write(&file, serde_json::to_vec_pretty(&values)?)
        .with_context(|| format!("write {}", file.display()))?;
    let chart = paths::project().join("charts/plimsoll");
    let mut helm = helm(access).await?;
    helm.args(["upgrade", release]).arg(chart).args([
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
async fn clear_interrupted(access: &Access, release: &str) -> Result<()> {
    let mut helm = helm(access).await?;
    helm.args(["status", release, "--namespace", NAMESPACE, "--output", "json"]);
    // Without a release there is no status, and nothing to clear.
    let Ok(status) = command::run(&mut helm, LIMIT).await else { return Ok(()) };
    let status: Value = serde_json::from_str(&status).context("read Helm's status")?;
    let status = status["info"]["status"].as_str().unwrap_or_default();
    if status.starts_with("pending-") || status == "uninstalling" {
        uninstall_release(access, release).await.context("clear an interrupted Helm operation")?;
    }
    Ok(())
}

/// Removes the release. The CustomResourceDefinition stays, as the chart promises.
///
/// # Errors
/// When Helm fails for another reason than that there is no such release.
pub async fn uninstall(access: &Access) -> Result<()> {
    uninstall_release(access, RELEASE).await
}

/// Removes a release from [`NAMESPACE`].
///
/// # Errors
/// As [`uninstall`].
pub async fn uninstall_release(access: &Access, release: &str) -> Result<()> {
    let mut helm = helm(access).await?;
    helm.args([
        "uninstall",
        release,
        "--namespace",
        NAMESPACE,
        "--ignore-not-found",
        "--wait",
        "--timeout",
        "2m",
    ]);
    command::run(&mut helm, LIMIT).await.map(drop)
}

/// Renders the chart as [`RELEASE`] in [`NAMESPACE`], with these options of `helm template`, and without a cluster.
///
/// # Errors
/// When Helm refuses the values; the error has its words.
pub async fn template(options: &[&str]) -> Result<String> {
    let mut helm = offline_helm().await?;
    helm.args(["template", RELEASE]).arg(paths::project().join("charts/plimsoll"));
    command::run(helm.args(["--namespace", NAMESPACE]).args(options), RENDER_LIMIT).await
}

/// Helm with an empty kubeconfig: it cannot reach a cluster.
///
/// # Errors
/// When it cannot be built.
pub async fn offline_helm() -> Result<Command> {
    // Two tests at once must not both build it.
    static HELM: OnceCell<PathBuf> = OnceCell::const_new();
    let mut helm = Command::new(HELM.get_or_try_init(tools::helm).await?);
    helm.env("KUBECONFIG", "/dev/null");
    Ok(helm)
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

/// The values that make the chart install these images.
pub fn values(images: &Images) -> Value {
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
