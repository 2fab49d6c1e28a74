//! The watches that fill the stores, each with a backoff of its own: one that fails never holds up another.
//!
//! Errors are logged and counted here and never reach the controller, whose one backoff would stop every trigger.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _, future};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use kube_runtime::WatchStreamExt as _;
use kube_runtime::reflector::{self, Store};
use kube_runtime::watcher::{self, watcher};
use plimsoll_core::build::APP_LABEL;
use plimsoll_core::{applied_by_us, sets_replicas};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Notify;
use tracing::warn;

use crate::generations::Generations;
use crate::metrics::Metrics;
use crate::pulse;

/// Ended and begun again before load balancers on the way drop an idle connection (the shortest known: 240 s).
const WATCH_SECONDS: u32 = 200;
/// A watch on which the API server has said nothing for this long is stuck. An idle one is begun again every
/// [`WATCH_SECONDS`], and hears a bookmark about once a minute.
pub const SILENT_MAX: Duration = Duration::from_mins(5);
/// A watch that has failed for this long without one success is stuck.
const FAILING_MAX: Duration = Duration::from_mins(10);

/// Label by which KEDA tells for which `ScaledObject` it made an autoscaler.
pub const SCALED_OBJECT_LABEL: &str = "scaledobject.keda.sh/name";

/// Which watches have listed, when each last heard from the API server, and since when each has been failing.
#[derive(Debug, Default)]
pub struct WatchHealth {
    heard: Mutex<HashMap<&'static str, Instant>>,
    failing: Mutex<HashMap<&'static str, Instant>>,
    listed: Mutex<HashSet<&'static str>>,
    newly_listed: Notify,
}

/// Why a watch is taken for stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Nothing was heard for [`SILENT_MAX`].
    Silent(&'static str),
    /// It has brought only failures for ten minutes.
    Failing(&'static str),
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent(kind) => write!(f, "the watch of {kind} is silent"),
            Self::Failing(kind) => write!(f, "the watch of {kind} keeps failing"),
        }
    }
}

impl WatchHealth {
    /// Waits until every one of `kinds` has been listed into its store.
    ///
    /// Not by `Store::wait_until_ready`: of several tasks that wait for one store, it wakes the last one only
    /// (kube-runtime 5.0, `DelayedInit`), and the controller has to be that one.
    pub async fn listed(&self, kinds: &[&'static str]) {
        loop {
            let newly_listed = self.newly_listed.notified();
            let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if kinds.iter().all(|kind| listed.contains(kind)) {
                return;
            }
            newly_listed.await;
        }
    }

    fn has_listed(&self, kind: &'static str) {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).insert(kind);
        self.newly_listed.notify_waiters();
    }

    /// The API server said something on a watch.
    fn beat(&self, kind: &'static str) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, Instant::now());
    }

    /// A watch brought an event, or a failure.
    fn brought(&self, kind: &'static str, good: bool) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            failing.remove(kind);
        } else {
            failing.entry(kind).or_insert_with(Instant::now);
        }
    }

    /// How long each watch has heard nothing at `now`.
    pub fn ages(&self, now: Instant) -> Vec<(&'static str, Duration)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().map(|(kind, at)| (*kind, now.saturating_duration_since(*at))).collect()
    }

    /// A watch for which at `now` a restart is the best try left.
    pub fn stuck(&self, now: Instant) -> Option<Stuck> {
        let silent = self.ages(now).into_iter().find(|(_, age)| *age >= SILENT_MAX);
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |since: &Instant| now.saturating_duration_since(*since) >= FAILING_MAX;
        silent
            .map(|(kind, _)| Stuck::Silent(kind))
            .or_else(|| failing.iter().find(|(_, since)| failed(since)).map(|(kind, _)| Stuck::Failing(kind)))
    }
}

/// A kind that can be watched.
pub trait Watched:
    Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Watched for K where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

/// Makes watches.
#[derive(Clone)]
pub struct Watches {
    /// Used for watches only: a read timeout would end them.
    pub client: Client,
    /// Absent: all namespaces.
    pub namespace: Option<String>,
    /// Labels of the resources that are operated; absent: all of them.
    pub selector: Option<String>,
    /// Told of every success and failure.
    pub health: Arc<WatchHealth>,
    /// Counts failures.
    pub metrics: Metrics,
}

impl Watches {
    /// Selects the resources that are this operator's to reconcile.
    pub fn selected(&self) -> watcher::Config {
        match &self.selector {
            Some(selector) => watcher::Config::default().labels(selector),
            None => watcher::Config::default(),
        }
    }

    /// Watches one kind into a store. The stream gives every object that was touched, deletions included, and must be
    /// polled for the store to fill.
    pub fn of<K>(
        &self,
        kind: &'static str,
        config: watcher::Config,
        prune: impl FnMut(&mut K) + Send + 'static,
    ) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
    where
        K: Watched,
        K::DynamicType: Default + Eq + Hash + Clone,
    {
        let (store, events) = self.events(kind, config, prune);
        (store, events.touched_objects())
    }

    /// As [`Watches::of`], but the stream gives an object once for each generation of its spec, and when it is gone.
    pub fn of_generations<K>(
        &self,
        kind: &'static str,
        config: watcher::Config,
        prune: impl FnMut(&mut K) + Send + 'static,
    ) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
    where
        K: Watched,
        K::DynamicType: Default + Eq + Hash + Clone,
    {
        let (store, events) = self.events(kind, config, prune);
        let mut generations = Generations::default();
        let news = events.filter(move |event| {
            future::ready(event.as_ref().map_or(true, |event| generations.passes(event)))
        });
        (store, news.touched_objects())
    }

    fn events<K>(
        &self,
        kind: &'static str,
        config: watcher::Config,
        prune: impl FnMut(&mut K) + Send + 'static,
    ) -> (Store<K>, impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static)
    where
        K: Watched,
        K::DynamicType: Default + Eq + Hash + Clone,
    {
        self.health.beat(kind);
        let heard = self.health.clone();
        let client = pulse::felt(self.client.clone(), move || heard.beat(kind));
        let api: Api<K> = match &self.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let writer = reflector::store::Writer::new(K::DynamicType::default());
        let store = writer.as_reader();
        let (health, errors) = (self.health.clone(), self.metrics.watch_errors.clone());
        let listing = self.health.clone();
        let stream = watcher(api, config.timeout(WATCH_SECONDS).page_size(500))
            .default_backoff()
            .inspect(move |event| {
                health.brought(kind, event.is_ok());
                if let Err(error) = event {
                    errors.with_label_values(&[kind]).inc();
                    warn!(kind, error = error as &dyn std::error::Error, "watch failed; it is begun again");
                }
            })
            .modify(prune)
            .reflect(writer)
            .inspect(move |event| {
                if matches!(event, Ok(watcher::Event::InitDone)) {
                    listing.has_listed(kind);
                }
            })
            .filter(|event| future::ready(event.is_ok()));
        (store, stream)
    }
}

/// Selects the objects that Plimsoll has made.
pub fn managed() -> watcher::Config {
    watcher::Config::default().labels("app.kubernetes.io/managed-by=plimsoll")
}

/// Selects the pods of all resources.
pub fn pods() -> watcher::Config {
    watcher::Config::default().labels(&format!("{APP_LABEL},app.kubernetes.io/component=api"))
}

/// Drops what is never read, which is about half of an object. Of the field managers only whether we are one is read.
pub fn prune_metadata<K: Resource>(object: &mut K) {
    let managed_fields = &mut object.meta_mut().managed_fields;
    for entry in managed_fields.iter_mut().flatten() {
        entry.fields_v1 = None;
    }
    if let Some(entries) = managed_fields {
        entries.retain(applied_by_us);
    }
}

/// As [`prune_metadata`], but keeps who else sets the replicas, and of that nothing else.
pub fn prune_deployment(deployment: &mut Deployment) {
    let entries = deployment.metadata.managed_fields.iter_mut().flatten();
    for entry in entries {
        let replicas = sets_replicas(entry).then(|| FieldsV1(json!({ "f:spec": { "f:replicas": {} } })));
        entry.fields_v1 = replicas;
    }
    if let Some(entries) = &mut deployment.metadata.managed_fields {
        entries.retain(|entry| entry.fields_v1.is_some() || applied_by_us(entry));
    }
}

/// Keeps of an autoscaler what it scales, and whether it was made by KEDA.
pub fn prune_autoscaler(autoscaler: &mut HorizontalPodAutoscaler) {
    autoscaler.metadata.managed_fields = None;
    autoscaler.metadata.annotations = None;
    autoscaler.status = None;
    if let Some(labels) = &mut autoscaler.metadata.labels {
        labels.retain(|label, _| label == SCALED_OBJECT_LABEL);
    }
    if let Some(spec) = &mut autoscaler.spec {
        let scale_target_ref = std::mem::take(&mut spec.scale_target_ref);
        *spec = HorizontalPodAutoscalerSpec { scale_target_ref, ..HorizontalPodAutoscalerSpec::default() };
    }
}

/// Keeps of a pod what tells whether and where it can be asked.
pub fn prune_pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    let containers = pod.spec.take().map_or_else(Vec::new, |spec| spec.containers);
    pod.spec =
        Some(PodSpec { containers: containers.into_iter().map(pruned).collect(), ..PodSpec::default() });
    if let Some(status) = &mut pod.status {
        status.container_statuses = None;
        status.init_container_statuses = None;
    }
}

/// Keeps of a container its name, its named ports and its CPU limit.
fn pruned(container: Container) -> Container {
    let Container { name, ports, resources, .. } = container;
    let limit = resources.and_then(|resources| resources.limits?.remove_entry("cpu"));
    let resources = limit.map(|limit| ResourceRequirements {
        limits: Some([limit].into()),
        ..ResourceRequirements::default()
    });
    Container { name, ports, resources, ..Container::default() }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};

    use super::*;

    #[test]
    fn of_the_field_managers_only_ourselves_are_kept_and_without_the_fields() {
        let entry = |manager: &str, operation: &str| ManagedFieldsEntry {
            manager: Some(manager.into()),
            operation: Some(operation.into()),
            fields_v1: Some(FieldsV1(serde_json::json!({ "f:spec": {} }))),
            ..ManagedFieldsEntry::default()
        };
        let mut pod = Pod::default();
        pod.metadata.managed_fields = Some(vec![
            entry("plimsoll-operator", "Apply"),
            entry("plimsoll-operator", "Update"),
            entry("kube-controller-manager", "Update"),
        ]);
        prune_metadata(&mut pod);
        let kept = pod.metadata.managed_fields.unwrap();
        assert_eq!(kept, [ManagedFieldsEntry { fields_v1: None, ..entry("plimsoll-operator", "Apply") }]);
    }

    #[test]
    fn a_watch_is_stuck_once_it_is_silent_for_minutes_or_fails_for_longer() {
        let (health, now) = (WatchHealth::default(), Instant::now());
        health.beat("Pod");
        health.brought("Service", false);
        assert_eq!(health.stuck(now + SILENT_MAX / 2), None);
        assert_eq!(health.stuck(now + SILENT_MAX + Duration::from_secs(1)), Some(Stuck::Silent("Pod")));
        health.heard.lock().unwrap().clear();
        assert_eq!(health.stuck(now + SILENT_MAX + Duration::from_secs(1)), None);
        assert_eq!(health.stuck(now + FAILING_MAX + Duration::from_secs(1)), Some(Stuck::Failing("Service")));
        health.brought("Service", true);
        assert_eq!(health.stuck(now + FAILING_MAX * 2), None);
    }

    #[test]
    fn an_idle_watch_is_begun_again_long_before_it_is_stuck() {
        // What the client adds to the server's own end of a watch: 5 s, and 30 s to connect.
        assert!(Duration::from_secs(u64::from(WATCH_SECONDS) + 35) < SILENT_MAX);
    }

    #[test]
    fn of_a_deployment_it_is_kept_who_else_sets_the_replicas() {
        let entry = |manager: &str, spec: serde_json::Value| ManagedFieldsEntry {
            manager: Some(manager.into()),
            operation: Some("Update".into()),
            fields_v1: Some(FieldsV1(json!({ "f:spec": spec, "f:metadata": {} }))),
            ..ManagedFieldsEntry::default()
        };
        let mut deployment = Deployment::default();
        deployment.metadata.managed_fields = Some(vec![
            entry("kubectl-edit", json!({ "f:replicas": {}, "f:paused": {} })),
            entry("kube-controller-manager", json!({ "f:paused": {} })),
        ]);
        prune_deployment(&mut deployment);
        let kept = deployment.metadata.managed_fields.unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].fields_v1, Some(FieldsV1(json!({ "f:spec": { "f:replicas": {} } }))));
    }

    #[tokio::test]
    async fn everyone_who_waits_for_the_lists_is_woken() {
        let health = Arc::new(WatchHealth::default());
        let waiting = [1, 2].map(|_| {
            let health = health.clone();
            tokio::spawn(async move { health.listed(&["Deployment", "Pod"]).await })
        });
        tokio::task::yield_now().await;
        health.has_listed("Pod");
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|task| !task.is_finished()), "one list is not both");
        health.has_listed("Deployment");
        for task in waiting {
            tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
        }
        health.listed(&["Pod"]).await;
    }
}
