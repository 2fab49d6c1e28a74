//! What tools that wait for a resource see of it: Helm reads its conditions, as Flux does.

use anyhow::{Context, Result, ensure};
use plimsoll_tests::{chart, cluster, command, sample, tools};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::world::{self, NAME, SOON, World, condition};

/// Installs or upgrades a release of a chart that holds `app` alone, and waits for it.
async fn helm_waits(world: &World, release: &str, app: &Value, limit: &str) -> Result<String> {
    let folder = tempfile::tempdir().context("make a folder")?;
    std::fs::create_dir(folder.path().join("templates")).context("make a folder")?;
    let about = "apiVersion: v2\nname: shop\nversion: 1.0.0\n";
    std::fs::write(folder.path().join("Chart.yaml"), about).context("write the chart")?;
    std::fs::write(folder.path().join("templates/app.yaml"), app.to_string()).context("write the chart")?;
    let mut helm = Command::new(tools::HELM.ensure().await?.join("helm"));
    helm.arg("--kubeconfig").arg(cluster::layout::kubeconfig()).args(["--namespace", &world.namespace]);
    helm.args(["upgrade", "--install", release]).arg(folder.path()).args(["--wait", "--timeout", limit]);
    command::run(&mut helm, SOON).await
}

#[test]
fn helm_waits_until_the_api_serves_what_was_applied() {
    world::run("delivery", async |world| {
        let app = world.app(json!({}));
        helm_waits(world, "shop", &app, "100s").await.context("install")?;
        let app = world.apps().get(NAME).await?;
        ensure!(sample::ready(Some(&app)), "Helm has not waited: {:?}", app.status);

        let missing = world.app(json!({ "image": "plimsoll.invalid/none:1" }));
        let said = helm_waits(world, "shop", &missing, "10s").await;
        ensure!(said.is_err(), "Helm takes a rollout that cannot end for one that has: {said:?}");
        Ok(())
    });
}

#[test]
fn what_no_operator_has_seen_is_not_taken_for_ready() {
    world::run("unseen", async |world| {
        let mut app = world.app(json!({}));
        app["metadata"]["labels"] = json!({ chart::APART: "nobody" });
        let said = helm_waits(world, "shop", &app, "5s").await;
        ensure!(said.is_err(), "Helm takes what nobody has seen for ready: {said:?}");
        let app = world.apps().get(NAME).await?;
        let ready = condition(Some(&app), "Ready").context("the condition Ready")?;
        ensure!((ready.status.as_str(), ready.reason.as_str()) == ("Unknown", "Pending"), "{ready:?}");
        Ok(())
    });
}
