//! The chart's life under each Helm: uninstalled, installed, upgraded from the version before, tested, rolled back. What
//! the user's resources run notices nothing of it.
//!
//! A test takes away the operator that the others use, and puts it back whatever comes of it; no other runs beside it. A
//! second release beside that one would not do: the CustomResourceDefinition belongs to one release of the cluster, and
//! what becomes of it is what matters most.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Resource;
use kube::api::{Api, ListParams};
use plimsoll_crds::ApiDeployment;
use plimsoll_tests::access::Access;
use plimsoll_tests::chart::{self, NAMESPACE, OPERATOR, RELEASE};
use plimsoll_tests::tools::Family;
use plimsoll_tests::{cluster, command, paths, tools};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::world::{self, SOON, World};

const DEFINITION: &str = "apideployments.plimsoll.dev";
/// The version that is upgraded from.
const PREVIOUS: &str = "0.0.9";
const LIMIT: Duration = Duration::from_mins(3);

#[test]
fn helm_4_installs_upgrades_rolls_back_and_uninstalls_and_no_pod_of_the_api_notices() {
    world::run("chart-helm-4", async |world| outlived(world, tools::HELM).await);
}

#[test]
fn helm_3_installs_upgrades_rolls_back_and_uninstalls_and_no_pod_of_the_api_notices() {
    world::run("chart-helm-3", async |world| outlived(world, tools::HELM_3).await);
}

async fn outlived(world: &World, family: Family) -> Result<()> {
    world.apply_ready(json!({ "replicas": { "min": 2, "max": 4 } })).await?;
    world.until_ready_replicas(2, SOON).await?;
    let helm = Helm { program: family.ensure().await?.join("helm"), folder: tempfile::tempdir()? };
    let result = life(world, &helm).await;
    let restored = chart::install_shared(&Access::local(), &world.images, json!({})).await;
    result?;
    restored.context("give the other tests their operator back")
}

async fn life(world: &World, helm: &Helm) -> Result<()> {
    let before = Serving::of(world).await?;
    let chart = paths::project().join("charts/plimsoll");
    let previous = helm.package(&chart).await?;
    let mut values = chart::values(&world.images);
    values["logFormat"] = json!("text");
    values["resources"] = json!({ "requests": { "cpu": "10m" }, "limits": { "memory": "96Mi" } });
    let previous_values = helm.values("previous.json", &values)?;
    let mut values = chart::values(&world.images);
    for object in ["networkPolicy", "dashboard"] {
        values[object] = json!({ "enabled": true });
    }
    values["replicaCount"] = json!(2);
    let values = helm.values("current.json", &values)?;

    helm.run(&["uninstall", RELEASE, "--wait"]).await?;
    ensure!(operators(world).await?.is_empty(), "operators are left behind");
    before.goes_on(world, "uninstall").await?;

    helm.run(&["install", RELEASE, &previous, "--values", &previous_values, "--wait"]).await?;
    ensure!(chart_label(world).await? == format!("plimsoll-{PREVIOUS}"), "the version before is installed");
    operates(world, 5).await.context("after the install")?;

    let chart = chart.to_string_lossy();
    helm.run(&["upgrade", RELEASE, &chart, "--values", &values, "--wait"]).await?;
    ensure!(chart_label(world).await? != format!("plimsoll-{PREVIOUS}"), "the definition is upgraded too");
    ensure!(added(world).await? == [true; 3], "a value that is set adds its objects");
    ensure!(operators(world).await?.len() == 2, "one leads, one stands by");
    operates(world, 6).await.context("after the upgrade")?;
    helm.run(&["test", RELEASE]).await.context("the chart's own test")?;
    before.goes_on(world, "upgrade").await?;

    helm.run(&["rollback", RELEASE, "1", "--wait"]).await?;
    ensure!(added(world).await? == [false; 3], "what the upgrade added is gone");
    operates(world, 7).await.context("after the rollback")?;
    before.goes_on(world, "rollback").await?;

    helm.run(&["uninstall", RELEASE, "--wait"]).await?;
    before.goes_on(world, "uninstall at the end").await
}

/// One Helm, and a folder for what it is given.
struct Helm {
    program: PathBuf,
    folder: TempDir,
}

impl Helm {
    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut helm = Command::new(&self.program);
        helm.arg("--kubeconfig").arg(cluster::layout::kubeconfig()).args(["--namespace", NAMESPACE]);
        command::run(helm.args(arguments), LIMIT).await
    }

    /// The chart as if it were of the version before.
    async fn package(&self, chart: &Path) -> Result<String> {
        let (chart, folder) = (chart.to_string_lossy(), self.folder.path().to_string_lossy());
        self.run(&["package", &chart, "--version", PREVIOUS, "--destination", &folder]).await?;
        Ok(self.folder.path().join(format!("plimsoll-{PREVIOUS}.tgz")).to_string_lossy().into_owned())
    }

    fn values(&self, name: &str, values: &Value) -> Result<String> {
        let file = self.folder.path().join(name);
        std::fs::write(&file, serde_json::to_vec(values)?)?;
        Ok(file.to_string_lossy().into_owned())
    }
}

/// What the user's resource runs, and whether any of it was touched.
#[derive(Debug, PartialEq)]
struct Serving {
    /// UID of the definition: another one would have taken all resources with it.
    definition: Option<String>,
    resource: Option<String>,
    /// The Deployment's generation, which every write of its spec raises.
    generation: Option<i64>,
    /// Restarts of each pod, by UID.
    pods: BTreeMap<String, i32>,
}

impl Serving {
    async fn of(world: &World) -> Result<Self> {
        let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
        let restarts = |pod: &Pod| {
            let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            containers.map(|container| container.restart_count).sum()
        };
        let pods = world.api_pods().await?;
        Ok(Self {
            definition: definitions.get(DEFINITION).await?.metadata.uid,
            resource: world.apps().get(world::NAME).await?.metadata.uid,
            generation: world.deployments().get(world::NAME).await?.metadata.generation,
            pods: pods
                .iter()
                .map(|pod| (pod.metadata.uid.clone().unwrap_or_default(), restarts(pod)))
                .collect(),
        })
    }

    async fn goes_on(&self, world: &World, step: &str) -> Result<()> {
        let now = Self::of(world).await.with_context(|| format!("look at what is left after the {step}"))?;
        ensure!(now == *self, "the {step} touched what the API runs: it was {self:?} and is {now:?}");
        Ok(())
    }
}

/// Changes the resource, and waits until the operator has seen it.
async fn operates(world: &World, max: i32) -> Result<()> {
    world.patch(json!({ "replicas": { "max": max } })).await?;
    let seen = |app: Option<&ApiDeployment>| {
        let observed = |app: &ApiDeployment| app.status.as_ref()?.observed_generation;
        app.is_some_and(|app| observed(app).is_some() && observed(app) == app.metadata.generation)
    };
    world.until(world::NAME, SOON, seen, "is operated").await.map(drop)
}

/// Pods of the operator that have not been told to end.
async fn operators(world: &World) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), NAMESPACE);
    let labels = format!("app.kubernetes.io/component=operator,app.kubernetes.io/instance={RELEASE}");
    let selector = ListParams::default().labels(&labels);
    let pods = pods.list(&selector).await?.items;
    Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
}

/// The chart that last wrote the definition.
async fn chart_label(world: &World) -> Result<String> {
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let labels = definitions.get(DEFINITION).await?.metadata.labels.unwrap_or_default();
    Ok(labels.get("helm.sh/chart").cloned().unwrap_or_default())
}

/// Whether the objects are there that only the newer values ask for.
async fn added(world: &World) -> Result<[bool; 3]> {
    Ok([
        there::<NetworkPolicy>(world, OPERATOR).await?,
        there::<PodDisruptionBudget>(world, OPERATOR).await?,
        there::<ConfigMap>(world, "plimsoll-dashboard").await?,
    ])
}

async fn there<K>(world: &World, name: &str) -> Result<bool>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(world.client.clone(), NAMESPACE);
    Ok(api.get_opt(name).await?.is_some())
}
