//! Sees when replicas are raised, of all resources at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube_runtime::{WatchStreamExt, watcher};
use tokio::task::JoinHandle;

/// A watch that is going on. It ends when it is dropped.
pub struct Raises {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// Wanted replicas of each Deployment, as last seen.
    wanted: BTreeMap<String, i32>,
    /// When each was raised.
    raises: BTreeMap<String, Vec<Instant>>,
}

impl Raises {
    /// Begins to watch, from the replicas that there are.
    ///
    /// # Errors
    /// When the first look fails.
    pub async fn watch(deployments: Api<Deployment>) -> Result<Self> {
        let list = deployments.list(&ListParams::default()).await.context("list the Deployments")?;
        let mut first = Seen::default();
        for deployment in &list.items {
            first.see(deployment, Instant::now());
        }
        let seen = Arc::new(Mutex::new(first));
        let task = tokio::spawn(follow(deployments, Arc::clone(&seen)));
        Ok(Self { seen, task })
    }

    /// Those of which fewer replicas than so many are wanted now.
    pub fn below(&self, replicas: i32) -> BTreeSet<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).below(replicas)
    }

    /// Seconds from `began` until each of these was first raised after it, ascending.
    pub fn since(&self, began: Instant, of: &BTreeSet<String>) -> Vec<f64> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).since(began, of)
    }
}

impl Drop for Raises {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn see(&mut self, deployment: &Deployment, now: Instant) {
        let name = deployment.name_any();
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        if self.wanted.insert(name.clone(), wanted).is_some_and(|before| wanted > before) {
            self.raises.entry(name).or_default().push(now);
        }
    }

    fn below(&self, replicas: i32) -> BTreeSet<String> {
        self.wanted.iter().filter(|(_, wanted)| **wanted < replicas).map(|(name, _)| name.clone()).collect()
    }

    fn since(&self, began: Instant, of: &BTreeSet<String>) -> Vec<f64> {
        let first =
            |raises: &Vec<Instant>| raises.iter().find_map(|raised| raised.checked_duration_since(began));
        let raises = of.iter().filter_map(|name| self.raises.get(name));
        let mut after: Vec<f64> = raises.filter_map(first).map(|after| after.as_secs_f64()).collect();
        after.sort_by(f64::total_cmp);
        after
    }
}

async fn follow(deployments: Api<Deployment>, seen: Arc<Mutex<Seen>>) {
    let mut changes =
        Box::pin(watcher(deployments, watcher::Config::default()).default_backoff().applied_objects());
    while let Some(change) = changes.next().await {
        // The watcher tries again by itself.
        let Ok(deployment) = change else { continue };
        seen.lock().unwrap_or_else(PoisonError::into_inner).see(&deployment, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn deployment(name: &str, replicas: i32) -> Deployment {
        let mut deployment = Deployment::default();
        deployment.metadata.name = Some(name.into());
        deployment.spec.get_or_insert_default().replicas = Some(replicas);
        deployment
    }

    #[test]
    fn the_first_raise_after_the_step_counts() {
        let (began, mut seen) = (Instant::now(), Seen::default());
        let at = |seconds| began + Duration::from_secs(seconds);
        for (name, replicas, second) in
            [("a", 2, 0), ("b", 2, 0), ("a", 3, 1), ("a", 4, 12), ("a", 5, 14), ("b", 1, 12), ("b", 2, 19)]
        {
            seen.see(&deployment(name, replicas), at(second));
        }
        let all = seen.below(10);
        assert_eq!(seen.since(at(10), &all), [2.0, 9.0]);
        assert_eq!(seen.since(at(10), &seen.below(5)), [9.0]);
    }
}
