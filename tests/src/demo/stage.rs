//! Brings a cluster with the operator and the sample on it, local or somebody's own.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DeleteParams, PropagationPolicy};
use kube_runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};

use crate::access::Access;
use crate::images::{self, Images};
use crate::progress::step;
use crate::sample::{self, LABEL, NAMESPACE};
use crate::{chart, cluster, tools};

/// A cluster on which the demo plays.
pub struct Stage {
    /// Client with the rights of the kubeconfig.
    pub client: Client,
    /// For Helm.
    pub access: Access,
    /// What the pods run.
    pub images: Images,
    /// The local cluster is taken for as long as the demo plays; `None` for somebody's own.
    local: Option<cluster::Lock>,
}

impl Stage {
    /// Brings everything up, or finds it there: cluster, images, operator, database, sample.
    ///
    /// # Errors
    /// When a part does not come up; the error says which and why.
    pub async fn prepare(context: Option<&str>, registry: &str) -> Result<Self> {
        let stage = match context {
            None => Self::local().await?,
            Some(context) => Self::existing(context, registry).await?,
        };
        sample::apply_all(&stage.client, &[namespace(chart::NAMESPACE)]).await?;
        step("Install the operator with Helm", chart::install(&stage.access, &stage.images)).await?;
        step(
            "Start a Postgres for the sample",
            sample::apply_database(&stage.client, NAMESPACE, &stage.images.postgres),
        )
        .await?;
        step(
            "Apply the sample ApiDeployment and wait until it is Ready",
            sample::apply(&stage.client, NAMESPACE),
        )
        .await?;
        Ok(stage)
    }

    async fn local() -> Result<Self> {
        tools::HELM.ensure().await?;
        let lock = cluster::lock()?;
        cluster::up(&lock).await?;
        let images = images::ensure().await?;
        let access = Access::local();
        Ok(Self { client: access.client().await?, access, images, local: Some(lock) })
    }

    async fn existing(context: &str, registry: &str) -> Result<Self> {
        let access = Access::context(context);
        let client = access.client().await?;
        client
            .apiserver_version()
            .await
            .with_context(|| format!("the cluster of context {context:?} does not answer"))?;
        refuse_foreign_installation(&client).await?;
        tools::HELM.ensure().await?;
        Ok(Self { client, access, images: Images::of_registry(registry), local: None })
    }

    /// Whether it plays on the local cluster.
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// Removes what the demo made, in an order that leaves nothing without its keeper.
    ///
    /// # Errors
    /// When an object cannot be deleted or does not go away in time.
    pub async fn remove(&self) -> Result<()> {
        delete_namespace(&self.client, NAMESPACE).await?;
        chart::uninstall(&self.access).await?;
        delete_namespace(&self.client, chart::NAMESPACE).await?;
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        // Somebody may have applied resources of their own while the demo's operator was there.
        let resources: Api<plimsoll_crds::ApiDeployment> = Api::all(self.client.clone());
        match resources.list(&kube::api::ListParams::default().limit(1)).await {
            Ok(list) if list.items.is_empty() => {
                let name = "apideployments.plimsoll.dev";
                ignore_absent(definitions.delete(name, &DeleteParams::default()).await.map(drop))
                    .context("delete the CustomResourceDefinition")
            }
            _ => Ok(()),
        }
    }
}

/// Removes everything of the demo.
///
/// # Errors
/// When something cannot be removed.
pub async fn down(context: Option<&str>) -> Result<()> {
    match context {
        None => cluster::down(&cluster::lock()?).await,
        Some(context) => {
            let access = Access::context(context);
            let client = access.client().await?;
            refuse_foreign_installation(&client).await?;
            let stage = Stage { client, access, images: Images::of_registry(""), local: None };
            step("Remove what the demo made in your cluster", stage.remove()).await
        }
    }
}

/// The demo would upgrade, and then remove, an installation that is not its own.
async fn refuse_foreign_installation(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut ours = false;
    for name in [chart::NAMESPACE, NAMESPACE] {
        let Some(namespace) =
            namespaces.get_opt(name).await.with_context(|| format!("look for namespace {name}"))?
        else {
            continue;
        };
        if !namespace.metadata.labels.is_some_and(|labels| labels.contains_key(LABEL)) {
            bail!("the cluster has a namespace {name} that the demo did not make; use another cluster");
        }
        ours = true;
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = definitions.get_opt("apideployments.plimsoll.dev").await.context("look for Plimsoll")?;
    if definition.is_some() && !ours {
        bail!("the cluster has Plimsoll already, which the demo would take over; use another cluster");
    }
    Ok(())
}

fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { LABEL: "true" } } })
}

async fn delete_namespace(client: &Client, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(namespace) =
        namespaces.get_opt(name).await.with_context(|| format!("look for namespace {name}"))?
    else {
        return Ok(());
    };
    let foreground =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    ignore_absent(namespaces.delete(name, &foreground).await.map(drop))
        .with_context(|| format!("delete namespace {name}"))?;
    let uid = namespace.metadata.uid.unwrap_or_default();
    let gone = await_condition(namespaces, name, conditions::is_deleted(&uid));
    tokio::time::timeout(Duration::from_mins(2), gone)
        .await
        .with_context(|| format!("namespace {name} is not gone after two minutes"))?
        .with_context(|| format!("watch namespace {name}"))?;
    Ok(())
}

fn ignore_absent(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other,
    }
}
