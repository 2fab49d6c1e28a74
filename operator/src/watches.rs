//! The watches that fill the stores, each with a backoff of its own: one that fails never holds up another.
//!
//! Errors are logged and counted here and never reach the controller, whose one backoff would stop every trigger.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _, future};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use kube_runtime::WatchStreamExt as _;
use kube_runtime::reflector::{self, Store};
use kube_runtime::watcher::{self, watcher};
use plimsoll_core::applied_by_us;
use plimsoll_core::build::APP_LABEL;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::warn;

use crate::metrics::Metrics;

/// Ended and begun again before load balancers on the way drop an idle connection (the shortest known: 240 s).
const WATCH_SECONDS: u32 = 200;
/// A watch that has failed for this long without one success is stuck.
const STUCK_AFTER: Duration = Duration::from_mins(10);

/// Which watches have listed, and since when each has been failing.
#[derive(Debug, Default)]
pub struct WatchHealth {
    failing: Mutex<HashMap<&'static str, Instant>>,
    listed: Mutex<HashSet<&'static str>>,
    newly_listed: Notify,
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

    fn heard(&self, kind: &'static str, good: bool) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            failing.remove(kind);
        } else {
            failing.entry(kind).or_insert_with(Instant::now);
        }
    }

    /// A watch that has failed for so long that a restart is the best try left.
    pub fn stuck(&self) -> Option<&'static str> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.iter().find(|(_, since)| since.elapsed() >= STUCK_AFTER).map(|(kind, _)| *kind)
    }
}

/// Makes watches.
#[derive(Clone)]
pub struct Watches {
    /// Used for watches only: a read timeout would end them.
    pub client: Client,
    /// Absent: all namespaces.
    pub namespace: Option<String>,
    /// Told of every success and failure.
    pub health: Arc<WatchHealth>,
    /// Counts failures.
    pub metrics: Metrics,
}

impl Watches {
    /// Watches one kind into a store. The stream gives every object that was touched, deletions included, and must be
    /// polled for the store to fill.
    pub fn of<K>(
        &self,
        kind: &'static str,
        config: watcher::Config,
        prune: impl FnMut(&mut K) + Send + 'static,
    ) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
    where
        K: Resource<Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
        K::DynamicType: Default + Eq + Hash + Clone,
    {
        let api: Api<K> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let writer = reflector::store::Writer::new(K::DynamicType::default());
        let store = writer.as_reader();
        let (health, errors) = (self.health.clone(), self.metrics.watch_errors.clone());
        let listing = self.health.clone();
        let stream = watcher(api, config.timeout(WATCH_SECONDS).page_size(500))
            .default_backoff()
            .inspect(move |event| {
                health.heard(kind, event.is_ok());
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
            .touched_objects()
            .filter(|touched| future::ready(touched.is_ok()));
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
