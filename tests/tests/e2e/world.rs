//! What each test is given: a namespace of its own with a database, ways to wait, and a dump when it fails.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, Resource};
use kube_runtime::wait::{Condition, await_condition};
use plimsoll_crds::ApiDeployment;
use plimsoll_load::run::Plan;
use plimsoll_load::{Second, Summary, Trace, record::Line};
use plimsoll_tests::access::Access;
use plimsoll_tests::images::{self, Images};
use plimsoll_tests::{chart, sample, tools};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// Name of the resource in each test's namespace.
pub const NAME: &str = sample::NAME;
/// How long anything that is waited for may take, but where a test says otherwise.
pub const SOON: Duration = Duration::from_mins(2);

/// A test's own part of the cluster.
pub struct World {
    pub client: Client,
    pub images: Images,
    pub namespace: String,
}

/// Runs a test in a namespace of its own, prints what there is to know when it fails, and removes the namespace.
pub fn run(name: &str, test: impl AsyncFnOnce(&World) -> Result<()>) {
    let runtime = tokio::runtime::Runtime::new().expect("an asynchronous runtime");
    runtime.block_on(async {
        let world = World::new(name).await.expect("a cluster with Plimsoll on it; run `cargo xtask test`");
        let result = test(&world).await;
        if result.is_err() {
            world.dump().await;
        }
        world.remove().await;
        if let Err(error) = result {
            panic!("{error:?}");
        }
    });
}

/// Runs a test that only looks at what the cluster holds.
pub fn look(test: impl AsyncFnOnce(Client) -> Result<()>) {
    let runtime = tokio::runtime::Runtime::new().expect("an asynchronous runtime");
    runtime.block_on(async {
        let client = Access::local().client().await.expect("a cluster; run `cargo xtask test`");
        if let Err(error) = test(client).await {
            panic!("{error:?}");
        }
    });
}

impl World {
    async fn new(name: &str) -> Result<Self> {
        let images = std::env::var(images::VARIABLE).context("the environment names no images")?;
        let images: Images = serde_json::from_str(&images).context("read the images")?;
        let client = Access::local().client().await?;
        let world = Self { client, images, namespace: format!("e2e-{name}") };
        world.remove().await;
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        let gone = async || Ok(namespaces.get_opt(&world.namespace).await?.is_none());
        world.eventually(SOON, "the namespace of the last run is gone", gone).await?;
        sample::apply_database(&world.client, &world.namespace, &world.images.postgres).await?;
        Ok(world)
    }

    /// The sample, with `changes` merged into its spec.
    pub fn app(&self, changes: Value) -> Value {
        let mut app = sample::api_deployment(&self.namespace);
        merge(&mut app["spec"], changes);
        app
    }

    /// Applies the sample with `changes` merged into its spec, and waits until it is Ready.
    pub async fn apply_ready(&self, changes: Value) -> Result<()> {
        sample::apply_all(&self.client, &[self.app(changes)]).await?;
        self.until(NAME, SOON, sample::ready, "is Ready").await.map(drop)
    }

    /// Merges `spec` into the resource's spec, as `kubectl patch --type merge`.
    pub async fn patch(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.apps().patch(NAME, &PatchParams::default(), &patch).await.context("patch the resource").map(drop)
    }

    pub fn apps(&self) -> Api<ApiDeployment> {
        self.api()
    }

    pub fn deployments(&self) -> Api<Deployment> {
        self.api()
    }

    pub fn pods(&self) -> Api<Pod> {
        self.api()
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits until an object meets a condition, and returns it.
    pub async fn until<K>(
        &self,
        name: &str,
        limit: Duration,
        condition: impl Condition<K>,
        what: &str,
    ) -> Result<Option<K>>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + Send
            + Sync
            + serde::de::DeserializeOwned
            + 'static,
        K::DynamicType: Default,
    {
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        tokio::time::timeout(limit, await_condition(self.api::<K>(), name, condition))
            .await
            .with_context(|| format!("{} s have passed, and not: {kind} {name} {what}", limit.as_secs()))?
            .with_context(|| format!("watch {kind} {name}"))
    }

    /// Waits until the API has that many ready replicas, neither more nor fewer.
    pub async fn until_ready_replicas(&self, replicas: i32, limit: Duration) -> Result<()> {
        let met = move |deployment: Option<&Deployment>| {
            deployment.is_some_and(|deployment| {
                let status = deployment.status.clone().unwrap_or_default();
                let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
                wanted == Some(replicas)
                    && status.observed_generation >= deployment.metadata.generation
                    && status.ready_replicas.unwrap_or(0) == replicas
                    && status.replicas.unwrap_or(0) == replicas
            })
        };
        self.until(NAME, limit, met, &format!("has {replicas} ready replicas")).await.map(drop)
    }

    /// Waits until a condition of the resource has this status and reason.
    pub async fn until_condition(&self, type_: &str, status: &str, reason: &str) -> Result<String> {
        let met = |app: Option<&ApiDeployment>| {
            condition(app, type_).is_some_and(|it| it.status == status && it.reason == reason)
        };
        let app = self.until(NAME, SOON, met, &format!("has condition {type_}={status} {reason}")).await?;
        Ok(condition(app.as_ref(), type_).map(|it| it.message.clone()).unwrap_or_default())
    }

    /// Waits until a question about the cluster is answered with yes.
    pub async fn eventually(
        &self,
        limit: Duration,
        what: &str,
        mut met: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = tokio::time::Instant::now() + limit;
        while !met().await? {
            if tokio::time::Instant::now() > deadline {
                bail!("{} s have passed, and not: {what}", limit.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    /// Pods of the API that have not been told to end.
    pub async fn api_pods(&self) -> Result<Vec<Pod>> {
        let selector =
            ListParams::default().labels(&format!("plimsoll.dev/app={NAME},app.kubernetes.io/component=api"));
        let pods = self.pods().list(&selector).await.context("list the API's pods")?;
        Ok(pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// Names of all children that the operator makes, with their kinds.
    pub async fn children(&self) -> Result<BTreeSet<String>> {
        let listed =
            self.kubectl(&["get", "deployments,replicasets,pods,services,secrets", "-o", "json"]).await?;
        let listed: Value = serde_json::from_str(&listed).context("read kubectl's list")?;
        let ours = |object: &&Value| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            name.starts_with(NAME)
        };
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let label = |object: &Value| {
            format!(
                "{}/{}",
                object["kind"].as_str().unwrap_or_default(),
                object["metadata"]["name"].as_str().unwrap_or_default()
            )
        };
        Ok(items.iter().filter(ours).map(label).collect())
    }

    /// Sends load to the API's Service, following `trace`, until it is over.
    pub async fn load(&self, trace: &str, paths: &[(&str, u32)]) -> Result<Running> {
        let services: Api<Service> = self.api();
        let service = services.get(NAME).await.context("get the API's Service")?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service's address")?;
        let plan = Plan {
            base: format!("http://{address}:80").parse()?,
            paths: paths.iter().map(|(path, weight)| ((*path).to_owned(), *weight)).collect(),
            posts: if paths.iter().any(|(path, _)| path.contains("{post}")) { 10 } else { 0 },
            trace: Trace::parse(trace)?,
            seed: 1,
            timeout: Duration::from_secs(10),
            connections_max: 512,
            headers: http::HeaderMap::new(),
            warmup: Duration::ZERO,
            thresholds: vec![Duration::from_millis(sample::P95_MS), Duration::from_millis(sample::P99_MS)],
        };
        Ok(Running(tokio::spawn(async move {
            let mut seconds = Vec::new();
            let summary = plimsoll_load::run::run(plan, |line| {
                if let Line::Second(second) = line {
                    seconds.push(second.clone());
                }
            })
            .await?;
            Ok((summary, seconds))
        })))
    }

    /// Runs kubectl in the test's namespace.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut kubectl = Command::new(tools::KUBERNETES.cached()?.join("kubectl"));
        kubectl.arg("--kubeconfig").arg(plimsoll_tests::cluster::layout::kubeconfig());
        kubectl.args(["--namespace", &self.namespace]).args(args);
        plimsoll_tests::command::run(&mut kubectl, Duration::from_mins(1)).await
    }

    async fn dump(&self) {
        for args in [
            vec!["get", "apid,deployments,replicasets,pods,services", "-o", "wide"],
            vec!["describe", "apid"],
            vec!["get", "events", "--sort-by=.lastTimestamp"],
            vec!["logs", "--all-containers", "--prefix", "--tail=40", "--selector=plimsoll.dev/app"],
            vec![
                "logs",
                "--namespace",
                chart::NAMESPACE,
                "--tail=60",
                "--selector=app.kubernetes.io/name=plimsoll",
            ],
        ] {
            let said = self.kubectl(&args).await.unwrap_or_else(|error| format!("{error:#}"));
            println!("--- kubectl {}\n{said}", args.join(" "));
        }
    }

    async fn remove(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        // The next run waits until it is gone; this one has seen enough.
        let _ = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
    }
}

/// Load that is being sent.
pub struct Running(JoinHandle<Result<(Summary, Vec<Second>)>>);

impl Running {
    /// Waits until the load is over.
    pub async fn finish(self) -> Result<(Summary, Vec<Second>)> {
        self.0.await.context("the load's task")?
    }

    /// Whether it is over.
    pub fn finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Whether a pod passes its readiness probe.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A condition of a resource.
pub fn condition<'a>(
    app: Option<&'a ApiDeployment>,
    type_: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    app?.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
}

/// RFC 7396 without its nulls, which no test needs here: they are left as they are, for the API server.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
