//! The cluster and what is set up on it: the operator, a database, and the same pods once under Plimsoll and once as a plain
//! Deployment.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::core::NamespaceResourceScope;
use plimsoll_crds::ApiDeployment;
use serde_json::{Value, json};

use crate::access::Access;
use crate::progress::step;
use crate::sample::{self, LABEL};
use crate::{chart, cluster, images, tools};

/// Where the benchmark's objects live.
pub const NAMESPACE: &str = "plimsoll-bench";
/// The `ApiDeployment`, and its Deployment and Service.
pub const SCALED: &str = "posts";
/// The plain Deployment of the same pods, and its Service.
pub const PLAIN: &str = "plain";
/// What is promised: 99 of 100 requests within so many milliseconds. A pod that has nothing else to do answers within 100 ms
/// even when a request finds the quota of a period used up.
pub const TARGET_MS: u64 = 250;
/// CPU request and limit of a pod, in thousandths of a core.
pub const LIMIT_MILLICORES: u32 = 100;
/// Replicas at least and at most, whoever scales.
pub const BOUNDS: (u32, u32) = (2, 14);
/// CPU time that every request asks for, besides what its reading and writing cost, in milliseconds.
pub const WORK_MS: u32 = 2;
/// The request that does.
pub const PATH: &str = "/work?cpu=2ms";

const LIMIT: Duration = Duration::from_mins(2);

/// A cluster on which the benchmark runs.
pub struct Stage {
    /// Client with all rights.
    pub client: Client,
    lock: cluster::Lock,
    /// It was up before, so that it stays.
    was_up: bool,
}

impl Stage {
    /// Brings up the local cluster, the operator and the database, or finds them there.
    ///
    /// # Errors
    /// When a part does not come up; the error says which and why.
    pub async fn set() -> Result<Self> {
        tools::HELM.ensure().await?;
        let lock = cluster::lock()?;
        let kubernetes = tools::KUBERNETES.ensure().await?;
        let was_up = cluster::status(&kubernetes).await == cluster::Status::Up;
        cluster::up(&lock).await?;
        match Self::fill().await {
            Ok(client) => Ok(Self { client, lock, was_up }),
            Err(error) => {
                if !was_up {
                    let _ = cluster::down(&lock).await;
                }
                Err(error)
            }
        }
    }

    async fn fill() -> Result<Client> {
        let images = images::ensure().await?;
        let access = Access::local();
        let client = access.client().await?;
        let name = chart::NAMESPACE;
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { LABEL: "true" } } });
        sample::apply_all(&client, &[namespace]).await?;
        step("Install the operator with Helm", chart::install(&access, &images)).await?;
        step("Start a Postgres", sample::apply_database(&client, NAMESPACE, &images.postgres)).await?;
        Ok(client)
    }

    /// Removes what was set up; the cluster too, unless it was there before.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn strike(self) -> Result<()> {
        if !self.was_up {
            return cluster::down(&self.lock).await;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(NAMESPACE, &DeleteParams::default()).await.context("remove the namespace")?;
        Ok(())
    }

    /// Objects of a kind in the benchmark's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Applies the `ApiDeployment` and waits until it is Ready.
    ///
    /// # Errors
    /// When it is refused or does not become Ready in time.
    pub async fn scale_by_plimsoll(&self) -> Result<()> {
        sample::apply_all(&self.client, &[scaled()]).await?;
        sample::wait(self.api::<ApiDeployment>(), SCALED, sample::ready).await
    }

    /// The pods' template as the operator made it, for the plain Deployment.
    ///
    /// # Errors
    /// When there is none.
    pub async fn template(&self) -> Result<Value> {
        let deployment =
            self.api::<Deployment>().get(SCALED).await.context("get the operator's Deployment")?;
        let template = deployment.spec.context("a Deployment without a spec")?.template;
        Ok(plain_template(&serde_json::to_value(template)?))
    }

    /// Removes the `ApiDeployment`, and waits until its pods are gone.
    ///
    /// # Errors
    /// When it cannot be removed, or something of it stays.
    pub async fn remove_scaled(&self) -> Result<()> {
        self.remove(self.api::<ApiDeployment>(), SCALED, &format!("plimsoll.dev/app={SCALED}")).await
    }

    /// Makes the plain Deployment of `replicas`, and its Service, and waits until all are available.
    ///
    /// # Errors
    /// When it is refused or does not become available in time.
    pub async fn apply_plain(&self, template: &Value, replicas: u32) -> Result<()> {
        sample::apply_all(&self.client, &plain(template, replicas)).await?;
        sample::wait(self.api::<Deployment>(), PLAIN, sample::available).await
    }

    /// Sets the plain Deployment's replicas, and waits until they are available.
    ///
    /// # Errors
    /// As [`Stage::apply_plain`].
    pub async fn resize_plain(&self, replicas: u32) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        let deployments = self.api::<Deployment>();
        deployments
            .patch(PLAIN, &PatchParams::default(), &patch)
            .await
            .context("scale the plain Deployment")?;
        sample::wait(deployments, PLAIN, sample::available).await
    }

    /// Removes the plain Deployment and waits until its pods are gone.
    ///
    /// # Errors
    /// As [`Stage::remove_scaled`].
    pub async fn remove_plain(&self) -> Result<()> {
        self.remove(self.api::<Deployment>(), PLAIN, &format!("app.kubernetes.io/name={PLAIN}")).await
    }

    async fn remove<K>(&self, api: Api<K>, name: &str, pods: &str) -> Result<()>
    where
        K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let background = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        api.delete(name, &background).await.with_context(|| format!("remove {name}"))?;
        let pods = ListParams::default().labels(pods);
        until(LIMIT, "the removed pods are still there", async || {
            Ok(self.api::<Pod>().list(&pods).await.context("list the pods")?.items.is_empty())
        })
        .await
    }

    /// The address of a Service.
    ///
    /// # Errors
    /// When there is none.
    pub async fn address(&self, service: &str) -> Result<String> {
        let service = self.api::<Service>().get(service).await.context("get the Service")?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service's address")?;
        Ok(format!("{address}:80"))
    }

    /// The address of the plain Deployment's only pod.
    ///
    /// # Errors
    /// When there is another number of pods that are not going.
    pub async fn only_pod(&self) -> Result<std::net::SocketAddr> {
        let ours = ListParams::default().labels(&format!("app.kubernetes.io/name={PLAIN}"));
        let pods = self.api::<Pod>().list(&ours).await.context("list the pods")?.items;
        let addresses: Vec<String> = pods
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .filter_map(|pod| pod.status?.pod_ip)
            .collect();
        ensure!(addresses.len() == 1, "there are {} pods in place of one", addresses.len());
        format!("{}:8080", addresses[0]).parse().context("a pod's address")
    }
}

/// Waits until a condition is met.
///
/// # Errors
/// Those of `met`, and `otherwise` when it is not met in time.
pub async fn until(
    limit: Duration,
    otherwise: &str,
    mut met: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + limit;
    while !met().await? {
        ensure!(tokio::time::Instant::now() < deadline, "{otherwise} after {} s", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn scaled() -> Value {
    let mut app = sample::api_deployment(NAMESPACE);
    app["metadata"]["name"] = SCALED.into();
    let limit = format!("{LIMIT_MILLICORES}m");
    // What the requests ask for is in no cache.
    for (field, value) in [
        ("latency", json!({ "p99": format!("{TARGET_MS}ms") })),
        ("replicas", json!({ "min": BOUNDS.0, "max": BOUNDS.1 })),
        ("cache", json!({ "disabled": {} })),
        (
            "resources",
            json!({
                "requests": { "cpu": limit, "memory": "32Mi" }, "limits": { "cpu": limit, "memory": "128Mi" },
            }),
        ),
    ] {
        app["spec"][field] = value;
    }
    app
}

fn plain_labels() -> BTreeMap<&'static str, &'static str> {
    [("app.kubernetes.io/name", PLAIN)].into()
}

/// The same pods under labels that are not the operator's. One node needs no spreading.
fn plain_template(template: &Value) -> Value {
    let mut spec = template["spec"].clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("topologySpreadConstraints");
    }
    json!({ "metadata": { "labels": plain_labels() }, "spec": spec })
}

fn plain(template: &Value, replicas: u32) -> Vec<Value> {
    let metadata = json!({ "name": PLAIN, "namespace": NAMESPACE });
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "selector": plain_labels(), "ports": [{ "port": 80, "targetPort": "http" }] },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "replicas": replicas, "selector": { "matchLabels": plain_labels() }, "template": template,
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": 0 } },
            },
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_pods_are_the_operators_but_for_their_labels() {
        let made = json!({
            "metadata": { "labels": { "plimsoll.dev/app": "posts" }, "annotations": { "a": "b" } },
            "spec": { "containers": [{ "name": "api" }], "topologySpreadConstraints": [{ "maxSkew": 1 }] },
        });
        let template = plain_template(&made);
        assert_eq!(template["spec"], json!({ "containers": [{ "name": "api" }] }));
        assert_eq!(template["metadata"]["labels"], json!({ "app.kubernetes.io/name": PLAIN }));
        let deployment = &plain(&template, 3)[1];
        assert_eq!(deployment["spec"]["replicas"], 3);
        assert_eq!(deployment["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
    }

    #[test]
    fn the_request_asks_for_the_work() {
        assert_eq!(PATH, format!("/work?cpu={WORK_MS}ms"));
    }

    #[test]
    fn the_resource_promises_one_percentile_and_has_the_bounds() {
        let app = scaled();
        assert_eq!(app["spec"]["latency"], json!({ "p99": "250ms" }));
        assert_eq!(app["spec"]["replicas"], json!({ "min": 2, "max": 14 }));
        assert_eq!(app["spec"]["resources"]["limits"]["cpu"], "100m");
    }
}
