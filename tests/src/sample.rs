//! The sample: a namespace under the strictest Pod Security profile, a Postgres, an `ApiDeployment`.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube_runtime::wait::{Condition, await_condition};
use plimsoll_crds::ApiDeployment;
use serde_json::{Value, json};

/// Where the demo's sample lives.
pub const NAMESPACE: &str = "plimsoll-demo";
/// On namespaces that the demo made, in somebody's own cluster too: only what carries it is ever removed.
pub const LABEL: &str = "plimsoll.dev/demo";
/// Its name.
pub const NAME: &str = "posts";
/// What it promises: milliseconds for 95 and for 99 of 100 requests.
pub const P95_MS: u64 = 250;
/// As [`P95_MS`].
pub const P99_MS: u64 = 500;

const READY_LIMIT: Duration = Duration::from_mins(3);

/// Starts the database, or finds it there, and waits until it serves.
///
/// # Errors
/// When the objects are refused or the database does not become available.
pub async fn apply_database(client: &Client, namespace: &str, image: &str) -> Result<()> {
    apply_all(client, &namespace_and_database(namespace, image)).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    wait(deployments, "postgres", available).await
}

/// Applies the sample and waits until its Ready condition is True for the spec as it is.
///
/// # Errors
/// When the resource is refused, or does not become ready; the error ends with its conditions.
pub async fn apply(client: &Client, namespace: &str) -> Result<()> {
    apply_all(client, &[api_deployment(namespace)]).await?;
    let apps: Api<ApiDeployment> = Api::namespaced(client.clone(), namespace);
    match wait(apps.clone(), NAME, ready).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let status = apps.get(NAME).await.ok().and_then(|app| app.status).unwrap_or_default();
            let conditions: Vec<String> = status
                .conditions
                .iter()
                .map(|condition| {
                    format!(
                        "{}={} {}: {}",
                        condition.type_, condition.status, condition.reason, condition.message
                    )
                })
                .collect();
            Err(error.context(format!("its conditions are:\n{}", conditions.join("\n"))))
        }
    }
}

/// A namespace with a Postgres and the Secret that holds its URL.
pub fn namespace_and_database(namespace: &str, image: &str) -> Vec<Value> {
    // Not a secret that protects anything: the database is reachable from this cluster's pods only, and holds samples.
    let password = "loaded-to-the-line";
    let labels = json!({ "app.kubernetes.io/name": "postgres" });
    let restricted = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": true,
    });
    vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": namespace, "labels": { LABEL: "true", "pod-security.kubernetes.io/enforce": "restricted" } },
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "postgres", "namespace": namespace },
            "stringData": { "password": password, "url": format!("postgres://postgres:{password}@postgres:5432/posts") },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "postgres", "namespace": namespace },
            "spec": { "selector": labels, "ports": [{ "port": 5432 }] },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "postgres", "namespace": namespace },
            "spec": {
                "replicas": 1, "strategy": { "type": "Recreate" }, "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "automountServiceAccountToken": false,
                        "securityContext": {
                            "runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999,
                            "seccompProfile": { "type": "RuntimeDefault" },
                        },
                        "containers": [{
                            "name": "postgres", "image": image,
                            "env": [
                                { "name": "POSTGRES_PASSWORD", "valueFrom": { "secretKeyRef": { "name": "postgres", "key": "password" } } },
                                { "name": "POSTGRES_DB", "value": "posts" },
                                { "name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata" },
                            ],
                            "ports": [{ "containerPort": 5432 }],
                            "readinessProbe": {
                                "exec": { "command": ["pg_isready", "--host=127.0.0.1", "--username=postgres", "--dbname=posts"] },
                                "periodSeconds": 2, "timeoutSeconds": 2,
                            },
                            "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "512Mi" } },
                            "securityContext": restricted,
                            "volumeMounts": [
                                { "name": "data", "mountPath": "/var/lib/postgresql/data" },
                                { "name": "tmp", "mountPath": "/tmp" },
                                { "name": "run", "mountPath": "/var/run/postgresql" },
                            ],
                        }],
                        "volumes": [
                            { "name": "data", "emptyDir": {} }, { "name": "tmp", "emptyDir": {} }, { "name": "run", "emptyDir": {} },
                        ],
                    },
                },
            },
        }),
    ]
}

/// The sample itself. A replica has a tenth of a CPU, so that a small machine holds a whole fleet.
pub fn api_deployment(namespace: &str) -> Value {
    json!({
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
        "metadata": { "name": NAME, "namespace": namespace },
        "spec": {
            "latency": { "p95": format!("{P95_MS}ms"), "p99": format!("{P99_MS}ms") },
            "replicas": { "min": 2, "max": 14 },
            "cache": { "managed": { "memory": "32Mi" } },
            "database": { "external": { "urlFrom": { "secretKeyRef": { "name": "postgres", "key": "url" } } } },
            "resources": {
                "requests": { "cpu": "100m", "memory": "32Mi" },
                "limits": { "cpu": "100m", "memory": "128Mi" },
            },
        },
    })
}

/// Applies objects by server-side apply, in order.
///
/// # Errors
/// Names the object that the API server refuses.
pub async fn apply_all(client: &Client, objects: &[Value]) -> Result<()> {
    for value in objects {
        let object: DynamicObject =
            serde_json::from_value(value.clone()).context("an object of the sample")?;
        let types = object.types.clone().context("an object with a kind")?;
        let gvk = GroupVersionKind::try_from(&types).context("an object's kind")?;
        let resource = match types.kind.as_str() {
            "ApiDeployment" => kube::core::ApiResource::erase::<ApiDeployment>(&()),
            _ => kube::core::ApiResource::from_gvk(&gvk),
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.patch(&name, &PatchParams::apply("plimsoll-demo").force(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("apply {} {name}", types.kind))?;
    }
    Ok(())
}

/// Waits until an object meets a condition.
///
/// # Errors
/// When it does not in three minutes.
pub async fn wait<K>(api: Api<K>, name: &str, condition: impl Condition<K>) -> Result<()>
where
    K: kube::Resource + Clone + Debug + Send + Sync + serde::de::DeserializeOwned + 'static,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    match tokio::time::timeout(READY_LIMIT, await_condition(api, name, condition)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error).with_context(|| format!("watch {kind} {name}")),
        Err(_) => bail!("{kind} {name} is not ready after {} s", READY_LIMIT.as_secs()),
    }
}

/// Whether a Deployment has all of its replicas available, of its current template.
pub fn available(deployment: Option<&Deployment>) -> bool {
    deployment.is_some_and(|deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas.unwrap_or(0) == wanted
            && status.available_replicas.unwrap_or(0) == wanted
    })
}

/// Whether an ApiDeployment is Ready for its current spec.
pub fn ready(app: Option<&ApiDeployment>) -> bool {
    app.is_some_and(|app| {
        let conditions = app.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|condition| {
            condition.type_ == "Ready"
                && condition.status == "True"
                && condition.observed_generation == app.metadata.generation
        })
    })
}
