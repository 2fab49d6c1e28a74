//! Something dies in the middle: the state comes back, and only what was on the dead pod may fail.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;

use crate::world::{self, SOON, World, is_ready};

/// Steady, light load over a minute, so that a failure has a cause other than too much of it.
const STEADY: &str = "0,20\n60,20\n";
const PATHS: [(&str, u32); 2] = [("/posts/{post}", 3), ("/posts?limit=5", 1)];

#[test]
fn deleting_the_resource_removes_every_child() {
    world::run("deletion", async |world| {
        world.apply_ready(json!({})).await?;
        let children = world.children().await?;
        for child in [
            "Deployment/posts",
            "Service/posts",
            "Deployment/posts-cache",
            "Service/posts-cache",
            "Secret/posts-cache",
        ] {
            ensure!(children.contains(child), "{child} is not among {children:?}");
        }
        world.apps().delete(world::NAME, &DeleteParams::default()).await?;
        world.eventually(SOON, "no child is left", async || Ok(world.children().await?.is_empty())).await
    });
}

#[test]
fn killing_the_operator_changes_nothing() {
    world::run("operator-killed", async |world| {
        world.apply_ready(json!({ "replicas": { "min": 2, "max": 6 } })).await?;
        world.until_ready_replicas(2, SOON).await?;
        let before = template_and_replicas(world).await?;
        let load = world.load("0,20\n30,20\n", &PATHS).await?;
        world.eventually(SOON, "requests are answered", async || Ok(served(world).await)).await?;

        let pods: Api<Pod> = Api::namespaced(world.client.clone(), plimsoll_tests::chart::NAMESPACE);
        let selector = ListParams::default().labels("app.kubernetes.io/name=plimsoll");
        let killed = names(&pods.list(&selector).await?.items);
        ensure!(!killed.is_empty(), "there is no operator to kill");
        for name in &killed {
            pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
        }
        world
            .eventually(SOON, "a new operator is ready", async || {
                let pods = pods.list(&selector).await?.items;
                Ok(pods.iter().any(|pod| is_ready(pod) && !killed.contains(&name(pod))))
            })
            .await?;
        let (summary, _) = load.finish().await?;
        ensure!(
            summary.ends.unserved() == 0,
            "{} of {} requests failed: {:?}",
            summary.ends.unserved(),
            summary.offered,
            summary.failures
        );

        // The new one does the work of the old one.
        world.kubectl(&["delete", "service", world::NAME, "--wait=true"]).await?;
        world
            .eventually(SOON, "a new operator has put the Service back", async || {
                Ok(world.children().await?.contains("Service/posts"))
            })
            .await?;
        ensure!(template_and_replicas(world).await? == before, "the Deployment was changed");
        Ok(())
    });
}

#[test]
fn killing_a_pod_fails_only_what_was_on_it() {
    world::run("pod-killed", async |world| {
        world.apply_ready(json!({ "replicas": { "min": 3, "max": 3 } })).await?;
        world.until_ready_replicas(3, SOON).await?;
        let load = world.load(STEADY, &PATHS).await?;
        world.eventually(SOON, "requests are answered", async || Ok(served(world).await)).await?;
        let pods = world.api_pods().await?;
        let known = names(&pods);
        let victim = name(&pods[0]);
        world.pods().delete(&victim, &DeleteParams::default().grace_period(0)).await?;
        world
            .eventually(SOON, "another pod has taken its place", async || {
                let ready: Vec<Pod> = world.api_pods().await?.into_iter().filter(is_ready).collect();
                Ok(ready.len() == 3 && ready.iter().any(|pod| !known.contains(&name(pod))))
            })
            .await?;
        world.until_ready_replicas(3, SOON).await?;
        let (summary, seconds) = load.finish().await?;
        // A third of a second's load may have been under way on the pod, or been sent to it before the Service knew.
        let failing = seconds.iter().filter(|second| second.ends.unserved() > 0).count();
        ensure!(
            failing <= 3 && summary.ends.unserved() <= 20,
            "{} requests failed over {failing} seconds: {:?}",
            summary.ends.unserved(),
            summary.failures
        );
        Ok(())
    });
}

#[test]
fn killing_redis_fails_no_request() {
    world::run("redis-killed", async |world| {
        world.apply_ready(json!({ "replicas": { "min": 2, "max": 4 } })).await?;
        let load = world.load(STEADY, &PATHS).await?;
        world.eventually(SOON, "requests are answered", async || Ok(served(world).await)).await?;
        let selector = ListParams::default()
            .labels(&format!("plimsoll.dev/app={},app.kubernetes.io/component=cache", world::NAME));
        let redis = world.pods().list(&selector).await?.items;
        ensure!(redis.len() == 1, "there are {} pods of Redis", redis.len());
        let killed = name(&redis[0]);
        world.pods().delete(&killed, &DeleteParams::default().grace_period(0)).await?;
        world
            .eventually(SOON, "another Redis is ready", async || {
                let pods = world.pods().list(&selector).await?.items;
                Ok(pods.iter().any(|pod| name(pod) != killed && is_ready(pod)))
            })
            .await?;
        let (summary, _) = load.finish().await?;
        ensure!(
            summary.ends.unserved() == 0,
            "{} of {} requests failed: {:?}",
            summary.ends.unserved(),
            summary.offered,
            summary.failures
        );
        world.until_condition("CacheReady", "True", "Available").await.map(drop)
    });
}

async fn served(world: &World) -> bool {
    let path =
        format!("/api/v1/namespaces/{}/services/{}:80/proxy/posts?limit=1", world.namespace, world::NAME);
    let Ok(request) = http::Request::get(path).body(Vec::new()) else { return false };
    let answer = tokio::time::timeout(Duration::from_secs(5), world.client.request_text(request)).await;
    matches!(answer, Ok(Ok(_)))
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(name).collect()
}

async fn template_and_replicas(world: &World) -> Result<(Option<i64>, Option<i32>)> {
    let deployment = world.deployments().get(world::NAME).await?;
    Ok((deployment.metadata.generation, deployment.spec.and_then(|spec| spec.replicas)))
}
