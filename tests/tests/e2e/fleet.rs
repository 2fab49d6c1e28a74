//! Operators as a fleet: shards over replicas, a selector, one namespace, and the writes that there are not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use plimsoll_crds::ApiDeployment;
use plimsoll_tests::access::Access;
use plimsoll_tests::audit::{self, Call};
use plimsoll_tests::demo::decisions;
use plimsoll_tests::{chart, sample};
use serde_json::{Value, json};

use crate::world::{self, NAME, SOON, World};

/// As the operator has it: what changes all the time is told this often.
const QUIET_SECONDS: usize = 15;

/// A release of the test's own, which is removed at the end.
struct Release<'a> {
    world: &'a World,
    name: &'static str,
}

impl Release<'_> {
    async fn install<'a>(world: &'a World, name: &'static str, values: Value) -> Result<Release<'a>> {
        let mut all = json!({
            "selector": format!("{}={name}", chart::APART),
            "crds": { "install": false },
            "rbac": { "aggregateClusterRoles": false },
        });
        world::merge(&mut all, values);
        chart::install_release(&Access::local(), name, &world.images, all).await?;
        Ok(Release { world, name })
    }

    async fn remove(&self) -> Result<()> {
        chart::uninstall_release(&Access::local(), self.name).await
    }

    /// Name of the release's objects.
    fn operator(&self) -> String {
        format!("{}-plimsoll-operator", self.name)
    }

    fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", chart::NAMESPACE, self.operator())
    }

    /// How many shards each operator leads.
    async fn leaders(&self) -> Result<BTreeMap<String, usize>> {
        let leases: Api<Lease> = Api::namespaced(self.world.client.clone(), chart::NAMESPACE);
        let mut leaders = BTreeMap::new();
        for lease in leases.list(&ListParams::default()).await?.items {
            let ours = lease.metadata.name.is_some_and(|name| name.starts_with(&self.operator()));
            let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            if ours && !holder.is_empty() {
                *leaders.entry(holder).or_default() += 1;
            }
        }
        Ok(leaders)
    }

    /// A resource that this release operates: one replica of an image that never becomes ready.
    fn app(&self, name: &str, replicas: i32) -> Value {
        json!({
            "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
            "metadata": { "name": name, "namespace": self.world.namespace, "labels": { chart::APART: self.name } },
            "spec": {
                "image": plimsoll_tests::images::PAUSE_IMAGE,
                "latency": { "p99": "1s" }, "replicas": { "min": replicas, "max": replicas },
                "cache": { "disabled": {} },
                "resources": { "requests": { "cpu": "1m", "memory": "8Mi" }, "limits": { "memory": "32Mi" } },
            },
        })
    }

    /// Waits until every resource of these names was reconciled as it is now.
    async fn until_reconciled(&self, names: &[String], limit: Duration) -> Result<()> {
        let apps = self.world.apps();
        let all = async || {
            for name in names {
                let app = apps.get(name).await?;
                let observed = app.status.as_ref().and_then(|status| status.observed_generation);
                if observed != app.metadata.generation {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        self.world.eventually(limit, "all resources are reconciled", all).await
    }
}

#[test]
fn shards_are_divided_over_replicas_and_move_when_one_dies() {
    world::run("shards", async |world| {
        let release = Release::install(world, "gold", json!({ "replicaCount": 2, "shards": 4 })).await?;
        let result = shards_move(world, &release).await;
        release.remove().await?;
        result
    });
}

async fn shards_move(world: &World, release: &Release<'_>) -> Result<()> {
    let even = async || Ok(release.leaders().await?.into_values().collect::<Vec<_>>() == [2, 2]);
    world.eventually(Duration::from_mins(1), "each of two operators leads two of four shards", even).await?;
    let names: Vec<String> = (0..8).map(|number| format!("api-{number}")).collect();
    let apps: Vec<Value> = names.iter().map(|name| release.app(name, 1)).collect();
    let since = log_length()?;
    sample::apply_all(&world.client, &apps).await?;
    release.until_reconciled(&names, SOON).await?;

    // Each was written by one operator, and both have written.
    let mut writers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (call, pod) in calls_by_pod(since, &release.user())? {
        if call.namespace == world.namespace && call.right.resource == "apideployments/status" {
            writers.entry(call.name).or_default().insert(pod);
        }
    }
    ensure!(writers.len() == names.len(), "{writers:?}");
    ensure!(writers.values().all(|pods| pods.len() == 1), "an object was reconciled by two: {writers:?}");
    let pods: BTreeSet<&String> = writers.values().flatten().collect();
    ensure!(pods.len() == 2, "all objects are of one operator: {writers:?}");

    // One dies without a word. What it led goes to the other once its Leases have run out.
    let victim = release.leaders().await?.into_keys().next().context("a leader")?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), chart::NAMESPACE);
    pods.delete(&victim, &DeleteParams::default().grace_period(0)).await?;
    for name in &names {
        let patch = Patch::Merge(json!({ "spec": { "replicas": { "max": 2 } } }));
        world.apps().patch(name, &PatchParams::default(), &patch).await?;
    }
    release.until_reconciled(&names, Duration::from_secs(30)).await
}

#[test]
fn one_namespace_needs_no_right_in_the_cluster() {
    world::run("namespaced", async |world| {
        let values = json!({ "watchNamespace": world.namespace });
        let since = log_length()?;
        let release = Release::install(world, "namespaced", values).await?;
        let result = stays_in_its_namespace(world, &release, since).await;
        release.remove().await?;
        result
    });
}

async fn stays_in_its_namespace(world: &World, release: &Release<'_>, since: usize) -> Result<()> {
    let ours = ListParams::default().labels("app.kubernetes.io/instance=namespaced");
    let client = || world.client.clone();
    ensure!(Api::<ClusterRole>::all(client()).list(&ours).await?.items.is_empty());
    ensure!(Api::<ClusterRoleBinding>::all(client()).list(&ours).await?.items.is_empty());
    ensure!(!Api::<Role>::all(client()).list(&ours).await?.items.is_empty());
    ensure!(!Api::<RoleBinding>::all(client()).list(&ours).await?.items.is_empty());

    sample::apply_all(&world.client, &[release.app("api", 1)]).await?;
    release.until_reconciled(&["api".into()], SOON).await?;
    world.deployments().get("api").await.context("its Deployment is there")?;
    let calls = audit::calls(&audit::read_log()?[since..], &release.user());
    ensure!(!calls.is_empty(), "the audit log holds nothing of {}", release.user());
    for call in calls {
        let at_home = call.namespace == chart::NAMESPACE && matches!(call.right.resource.as_str(), "leases");
        ensure!(!call.denied, "it was denied: {call:?}");
        ensure!(
            at_home || call.namespace == world.namespace,
            "it asks for more than its namespace: {call:?}"
        );
    }
    Ok(())
}

#[test]
fn at_rest_nothing_is_written_over_a_hundred_resyncs() {
    world::run("at-rest", async |world| {
        world
            .apply_ready(
                json!({ "replicas": { "min": 2, "max": 2 }, "metrics": { "scrapePeriodSeconds": 1 } }),
            )
            .await?;
        world.until_ready_replicas(2, SOON).await?;
        // The cache is asked every half minute; its rate needs two answers.
        let told = |app: Option<&ApiDeployment>| {
            let cache = app.and_then(|app| app.status.as_ref()?.cache.as_ref());
            cache.is_some_and(|cache| cache.evictions_per_second.is_some())
        };
        world.until(NAME, Duration::from_mins(2), told, "tells how its cache fares").await?;
        until_quiet(world).await?;
        let (since, versions) = (log_length()?, versions(world).await?);
        resyncs(world, 100).await?;
        let writes = writes(world, since)?;
        ensure!(writes.is_empty(), "it wrote at rest: {writes:?}");
        ensure!(self::versions(world).await? == versions, "something has changed");

        // Under steady load the children rest too. The status tells the latency, and not more often than it says.
        let load = world.load("0,10\n50,10\n51,0\n", &[("/posts/{post}", 1)]).await?;
        resyncs(world, 15).await?;
        let (since, before) = (log_length()?, self::versions(world).await?);
        resyncs(world, 30).await?;
        let writes = self::writes(world, since)?;
        let (status, others): (Vec<_>, Vec<_>) =
            writes.iter().partition(|call| call.right.resource == "apideployments/status");
        ensure!(others.is_empty(), "it wrote under steady load: {others:?}");
        ensure!(status.len() <= 30 / QUIET_SECONDS + 1, "{} writes of the status in 30 s", status.len());
        let without_app = |versions: &BTreeMap<String, String>| {
            versions
                .iter()
                .filter(|(name, _)| !name.starts_with("ApiDeployment/"))
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect::<Vec<_>>()
        };
        ensure!(without_app(&self::versions(world).await?) == without_app(&before), "a child has changed");
        let (summary, _) = load.finish().await?;
        ensure!(summary.ends.unserved() == 0, "{} requests failed", summary.ends.unserved());
        Ok(())
    });
}

/// Waits until nothing was written for ten scrapes.
async fn until_quiet(world: &World) -> Result<()> {
    for _ in 0..12 {
        let since = log_length()?;
        resyncs(world, 10).await?;
        if writes(world, since)?.is_empty() {
            return Ok(());
        }
    }
    anyhow::bail!("the operator does not come to rest in two minutes")
}

/// Waits until the operator has decided so many times more.
async fn resyncs(world: &World, count: usize) -> Result<()> {
    let since = Timestamp::now();
    let limit = Duration::from_secs(30 + 2 * count as u64);
    // More may come than the operator keeps.
    let mut seen = BTreeSet::new();
    let done = async || {
        let decisions = decisions(&world.client, &world.namespace, NAME).await?;
        seen.extend(decisions.iter().map(|decision| decision.time).filter(|time| *time > since));
        Ok(seen.len() >= count)
    };
    world.eventually(limit, &format!("{count} resyncs are over"), done).await
}

/// What the shared operator has written into the test's namespace.
fn writes(world: &World, since: usize) -> Result<Vec<Call>> {
    let user = format!("system:serviceaccount:{}:{}", chart::NAMESPACE, chart::OPERATOR);
    let calls = audit::calls(&audit::read_log()?[since..], &user);
    Ok(calls.into_iter().filter(|call| call.namespace == world.namespace && call.writes()).collect())
}

/// Resource versions of the resource and its children, but those whose status Kubernetes itself keeps.
async fn versions(world: &World) -> Result<BTreeMap<String, String>> {
    let listed = world.kubectl(&["get", "apid,deployments,services,secrets", "-o", "json"]).await?;
    let listed: Value = serde_json::from_str(&listed).context("read kubectl's list")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .map(|item| {
            let name = format!("{}/{}", text(&item["kind"]), text(&item["metadata"]["name"]));
            (name, text(&item["metadata"]["resourceVersion"]))
        })
        .collect())
}

/// Bytes of the audit log so far.
fn log_length() -> Result<usize> {
    Ok(audit::read_log()?.len())
}

/// The calls of a release since then, with the pod that made each.
fn calls_by_pod(since: usize, user: &str) -> Result<Vec<(Call, String)>> {
    let log = audit::read_log()?;
    let pod = |line: &str| {
        let event: Value = serde_json::from_str(line).ok()?;
        event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0].as_str().map(str::to_owned)
    };
    let mut calls = Vec::new();
    for line in log[since..].lines() {
        if let (Some(call), Some(pod)) = (audit::calls(line, user).pop(), pod(line)) {
            calls.push((call, pod));
        }
    }
    Ok(calls)
}
