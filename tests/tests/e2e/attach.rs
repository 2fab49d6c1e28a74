//! A Deployment that somebody else made: scaled, fought over with nobody, and let go without a trace that hurts.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::DeleteParams;
use plimsoll_tests::access::Access;
use plimsoll_tests::{chart, sample};
use serde_json::{Value, json};

use crate::world::{self, NAME, SOON, World, condition};

/// Milliseconds of CPU that a request costs, in pods that have 100 of them a second.
const WORK: &str = "/work?cpu=2ms";

/// A Deployment of the API's image and its Service, as somebody who does not know Plimsoll would write them.
fn foreign(world: &World) -> [Value; 2] {
    let labels = json!({ "app": "theirs" });
    let namespace = &world.namespace;
    let url = json!({ "secretKeyRef": { "name": "postgres", "key": "url" } });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": NAME, "namespace": namespace },
        "spec": {
            "replicas": 1, "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "automountServiceAccountToken": false,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [{
                        "name": "main", "image": world.images.api,
                        "env": [
                            { "name": "PLIMSOLL_DATABASE_URL", "valueFrom": url },
                            { "name": "PLIMSOLL_LATENCY_TARGETS", "value": "250ms,500ms" },
                        ],
                        "ports": [{ "containerPort": 8080 }],
                        "readinessProbe": { "httpGet": { "path": "/readyz", "port": 8080 }, "periodSeconds": 2 },
                        "resources": {
                            "requests": { "cpu": "100m", "memory": "32Mi" }, "limits": { "cpu": "100m", "memory": "128Mi" },
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                            "readOnlyRootFilesystem": true,
                        },
                    }],
                },
            },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": NAME, "namespace": namespace },
        "spec": { "selector": labels, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    [deployment, service]
}

/// A resource that is attached to it.
fn attached(world: &World, changes: &Value) -> Value {
    let mut spec = json!({
        "workload": { "attachTo": { "name": NAME } },
        "latency": { "p95": "250ms", "p99": "500ms" }, "replicas": { "min": 1, "max": 6 },
    });
    for (key, value) in changes.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
        "metadata": { "name": NAME, "namespace": world.namespace }, "spec": spec,
    })
}

/// Everything of a Deployment and of its pods that letting go must leave as it is.
async fn as_it_is(world: &World) -> Result<(Deployment, BTreeSet<String>)> {
    let mut deployment = world.deployments().get(NAME).await?;
    deployment.status = None;
    deployment.metadata.resource_version = None;
    deployment.metadata.managed_fields = None;
    let pods = world.pods().list(&kube::api::ListParams::default().labels("app=theirs")).await?;
    // Those that earlier scaling has told to end go on ending.
    let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok((deployment, staying.filter_map(ResourceExt::uid).collect()))
}

async fn gone(world: &World) -> Result<()> {
    world.apps().delete(NAME, &DeleteParams::default()).await.context("delete the resource")?;
    let gone = async || Ok(world.apps().get_opt(NAME).await?.is_none());
    world.eventually(SOON, "the resource is gone", gone).await
}

#[test]
fn scales_a_foreign_deployment_and_lets_it_go() {
    world::run("attach", async |world| {
        sample::apply_all(&world.client, &[attached(world, &json!({}))]).await?;
        let message = world.until_condition("Ready", "False", "TargetNotFound").await?;
        ensure!(message.contains(NAME), "the message does not name it: {message}");
        sample::apply_all(&world.client, &foreign(world)).await?;
        world.until(NAME, SOON, sample::ready, "is Ready").await?;

        let load = world.load("0,5\n10,80\n60,80\n", &[(WORK, 1)]).await?;
        let more = async || {
            let status = world.deployments().get(NAME).await?.status.unwrap_or_default();
            Ok(status.ready_replicas.unwrap_or(0) >= 2)
        };
        world.eventually(Duration::from_mins(1), "two or more replicas are ready under load", more).await?;
        world.kubectl(&["scale", "apid/posts", "--replicas=2"]).await?;
        world.until_ready_replicas(2, SOON).await?;

        let deployment = world.deployments().get(NAME).await?;
        ensure!(deployment.owner_references().is_empty(), "{:?}", deployment.owner_references());
        let ours = deployment.managed_fields().iter().filter(|it| {
            it.manager
                .as_deref()
                .is_some_and(|manager| manager.starts_with("plimsoll-") && manager != "plimsoll-demo")
        });
        let ours =
            ours.map(|it| (it.manager.clone().unwrap_or_default(), serde_json::to_value(&it.fields_v1)));
        for (manager, fields) in ours {
            ensure!(manager == "plimsoll-autoscaler", "{manager} wrote to it");
            ensure!(
                fields? == json!({ "f:spec": { "f:replicas": {} } }),
                "more than the replicas was written"
            );
        }
        let children = world.children().await?;
        let more = children.iter().filter(|child| {
            !["Deployment/", "ReplicaSet/", "Pod/", "Service/"].iter().any(|kind| child.starts_with(kind))
        });
        let more = more.chain(children.iter().filter(|child| child.contains("cache"))).collect::<Vec<_>>();
        ensure!(more.is_empty(), "these were made: {more:?}");

        let before = as_it_is(world).await?;
        gone(world).await?;
        // What is left of the load is the time in which something could still happen.
        load.finish().await?;
        let after = as_it_is(world).await?;
        ensure!(before == after, "letting go changed {before:?} into {after:?}");
        Ok(())
    });
}

/// A HorizontalPodAutoscaler of somebody else.
fn autoscaler(world: &World, api_version: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": "theirs", "namespace": world.namespace },
        "spec": {
            "scaleTargetRef": { "apiVersion": api_version, "kind": kind, "name": NAME },
            "minReplicas": 1, "maxReplicas": 2,
            "metrics": [{ "type": "Resource", "resource": {
                "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 },
            } }],
        },
    })
}

#[test]
fn a_second_autoscaler_is_named_and_not_fought() {
    world::run("conflict", async |world| {
        sample::apply_all(&world.client, &foreign(world)).await?;
        let of_the_deployment = autoscaler(world, "apps/v1", "Deployment");
        sample::apply_all(&world.client, &[of_the_deployment]).await?;
        sample::apply_all(&world.client, &[attached(world, &json!({ "replicas": { "min": 2, "max": 6 } }))])
            .await?;
        let message = world.until_condition("ScalerConflict", "True", "AutoscalerOnTarget").await?;
        ensure!(message.contains("HorizontalPodAutoscaler theirs"), "it is not named: {message}");
        let app = world.apps().get(NAME).await?;
        let active = condition(Some(&app), "ScalingActive").context("ScalingActive")?;
        ensure!(active.reason == "ScalerConflict", "{active:?}");
        let replicas = world.deployments().get(NAME).await?.spec.and_then(|spec| spec.replicas);
        ensure!(replicas == Some(1), "it was fought: {replicas:?}");

        world.kubectl(&["delete", "hpa", "theirs"]).await?;
        world.until_condition("ScalerConflict", "False", "NoConflict").await?;
        world.until_ready_replicas(2, SOON).await?;

        world.kubectl(&["scale", "deployment/posts", "--replicas=4"]).await?;
        let message = world.until_condition("ScalerConflict", "True", "ReplicasOverwritten").await?;
        ensure!(message.contains("kubectl") && message.contains('4'), "who wrote is not named: {message}");

        let of_the_resource = autoscaler(world, "plimsoll.dev/v1alpha1", "ApiDeployment");
        sample::apply_all(&world.client, &[of_the_resource]).await?;
        let message = world.until_condition("ScalerConflict", "True", "AutoscalerPins").await?;
        ensure!(message.contains("HorizontalPodAutoscaler theirs"), "it is not named: {message}");
        Ok(())
    });
}

#[test]
fn what_says_nothing_about_an_attached_deployment_is_refused() {
    world::run("attach-refusals", async |world| {
        for (changes, part) in [
            (json!({ "image": "any" }), "leave image out"),
            (json!({ "env": [{ "name": "A", "value": "b" }] }), "leave env out"),
            (json!({ "database": { "embedded": {} } }), "leave database out"),
            (json!({ "cache": { "managed": { "memory": "128Mi" } } }), "leave cache out"),
            (json!({ "cache": { "managed": { "image": "redis:8" } } }), "leave cache out"),
            (json!({ "resources": { "limits": { "cpu": "2" } } }), "leave resources out"),
            (json!({ "probes": { "liveness": { "path": "/other" } } }), "leave probes out"),
            (json!({ "workload": { "attachTo": { "name": "Not A Name" } } }), "write attachTo.name"),
        ] {
            let app = attached(world, &changes);
            let error = sample::apply_all(&world.client, std::slice::from_ref(&app)).await.err();
            let said = error.map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(said.contains(part), "{changes} should be refused with {part:?}, but: {said:?}");
        }
        // With every default that is stored, and again over what is stored.
        for _ in 0..2 {
            sample::apply_all(&world.client, &[attached(world, &json!({}))]).await?;
        }
        world.patch(json!({ "cache": { "disabled": {}, "managed": Value::Null } })).await?;
        for name in [json!("other"), Value::Null] {
            let error = world.patch(json!({ "workload": { "attachTo": { "name": name } } })).await.err();
            let said = error.map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(
                said.contains("make another ApiDeployment") || said.contains("attachTo.name"),
                "{said:?}"
            );
        }
        let error =
            world.patch(json!({ "workload": Value::Null })).await.err().map(|error| format!("{error:#}"));
        ensure!(
            error.is_some_and(|said| said.contains("make another ApiDeployment")),
            "attachTo was removed"
        );
        world.patch(json!({ "replicas": { "max": 7 } })).await?;
        Ok(())
    });
}

#[test]
fn an_autoscaler_of_kubernetes_follows_what_was_learned() {
    world::run("external", async |world| {
        let access = Access::local();
        let more = json!({ "externalMetrics": { "enabled": true } });
        chart::install_shared(&access, &world.images, more).await.context("serve external metrics")?;
        let followed = followed(world).await;
        // The other tests are to find the operator as they know it.
        chart::install_shared(&access, &world.images, json!({})).await.context("serve none any more")?;
        followed
    });
}

async fn followed(world: &World) -> Result<()> {
    sample::apply_all(&world.client, &foreign(world)).await?;
    let changes = json!({ "scaling": { "mode": "Recommend" }, "replicas": { "min": 2, "max": 6 } });
    sample::apply_all(&world.client, &[attached(world, &changes)]).await?;
    world.until_condition("MetricsAvailable", "True", "Scraped").await?;
    let path = format!(
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/plimsoll_desired_replicas?labelSelector=name%3D{NAME}",
        world.namespace
    );
    let told = async || {
        let said = world.kubectl(&["get", "--raw", &path]).await.unwrap_or_default();
        Ok(serde_json::from_str::<Value>(&said).is_ok_and(|list| list["items"][0]["value"] == "2"))
    };
    world.eventually(SOON, "the recommendation is told as an external metric", told).await?;
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": NAME, "namespace": world.namespace },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": NAME },
            "minReplicas": 1, "maxReplicas": 6,
            "metrics": [{ "type": "External", "external": {
                "metric": { "name": "plimsoll_desired_replicas", "selector": { "matchLabels": { "name": NAME } } },
                "target": { "type": "AverageValue", "averageValue": "1" },
            } }],
        },
    });
    sample::apply_all(&world.client, &[autoscaler]).await?;
    world.until_ready_replicas(2, SOON).await?;
    let app = world.apps().get(NAME).await?;
    ensure!(condition(Some(&app), "ScalerConflict").is_none(), "who only recommends is in nobody's way");
    Ok(())
}
