//! What a person sees and does with kubectl.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use plimsoll_tests::sample;
use serde_json::{Value, json};

use crate::world::{self, NAME, SOON, World};

#[test]
fn get_reads_well() {
    world::run("columns", async |world| {
        world.apply_ready(json!({})).await?;
        world.until_ready_replicas(2, SOON).await?;
        let table = world.kubectl(&["get", "apid"]).await?;
        println!("{table}");
        let mut lines = table.lines();
        let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        ensure!(
            header == ["NAME", "MIN", "MAX", "REPLICAS", "READY", "P95", "P99", "TARGET", "REASON", "AGE"],
            "{header:?}"
        );
        let row = lines.next().context("a row")?;
        for part in [NAME, "p95<250ms p99<500ms", " 2 ", " 14 "] {
            ensure!(row.contains(part), "{part:?} is not in {row:?}");
        }
        let explained = world.kubectl(&["explain", "apid.spec.latency.p99"]).await?;
        ensure!(explained.contains("99 of 100 requests"), "{explained}");
        Ok(())
    });
}

#[test]
fn scale_pins_and_zero_hibernates() {
    world::run("pinning", async |world| {
        world.apply_ready(json!({})).await?;
        world.kubectl(&["scale", "apid/posts", "--replicas=3"]).await?;
        world.until_ready_replicas(3, SOON).await?;
        world.until_condition("ScalingActive", "False", "Pinned").await?;
        world.kubectl(&["scale", "apid/posts", "--replicas=0"]).await?;
        world.until_ready_replicas(0, SOON).await?;
        world.until_condition("Ready", "True", "Hibernated").await?;
        world.patch(json!({ "replicas": { "pinned": null } })).await?;
        world.until_ready_replicas(2, SOON).await
    });
}

/// Gives a user one of Kubernetes' own roles in the test's namespace.
fn bound(world: &World, user: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": user, "namespace": world.namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    })
}

#[test]
fn who_may_see_or_edit_a_namespace_may_see_or_edit_its_resources() {
    world::run("roles", async |world| {
        let bindings = [bound(world, "viewer", "view"), bound(world, "editor", "edit")];
        sample::apply_all(&world.client, &bindings).await?;
        for (user, verb, subresource, allowed) in [
            ("viewer", "get", "", true),
            ("viewer", "watch", "status", true),
            ("viewer", "update", "", false),
            ("viewer", "update", "scale", false),
            ("editor", "create", "", true),
            ("editor", "delete", "", true),
            ("editor", "patch", "scale", true),
            ("editor", "update", "status", false),
        ] {
            let (user_flag, subresource_flag) =
                (format!("--as={user}"), format!("--subresource={subresource}"));
            let said = world.kubectl(&["auth", "can-i", verb, "apid", &user_flag, &subresource_flag]).await;
            ensure!(said.is_ok() == allowed, "{user} {verb} apid {subresource}: {said:?}");
        }
        Ok(())
    });
}

/// Evicts a pod, as the drain of its node does.
async fn evict(world: &World, pod: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new().context("make a file")?;
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod, "namespace": world.namespace },
    });
    std::fs::write(file.path(), eviction.to_string()).context("write the eviction")?;
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", world.namespace);
    let file = file.path().to_str().context("a path that is text")?;
    world.kubectl(&["create", "--raw", &path, "--filename", file]).await
}

#[test]
fn evictions_take_one_of_two_replicas_at_a_time() {
    world::run("eviction", async |world| {
        world.apply_ready(json!({ "replicas": { "min": 2, "max": 4, "pinned": 2 } })).await?;
        world.until_ready_replicas(2, SOON).await?;
        let allows_one = |budget: Option<&PodDisruptionBudget>| {
            budget.and_then(|budget| Some(budget.status.as_ref()?.disruptions_allowed == 1)) == Some(true)
        };
        world.until(NAME, SOON, allows_one, "allows one eviction").await?;
        let pods = world.api_pods().await?;
        let [first, second] = pods.as_slice() else { anyhow::bail!("two replicas, and not {}", pods.len()) };
        evict(world, &first.name_any()).await.context("evict one")?;
        let said = evict(world, &second.name_any()).await.err();
        let said = said.map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(said.contains("would violate the pod's disruption budget"), "the other goes too: {said:?}");
        world.until_ready_replicas(2, SOON).await
    });
}
