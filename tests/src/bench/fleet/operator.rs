//! The operator's pod: what it says of itself, and what it has used by its cgroup.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams};

use crate::bench::cluster::stage::until;
use crate::bench_latency::scrape::{self, Scrape};
use crate::chart;

const LABELS: &str = "app.kubernetes.io/name=plimsoll,app.kubernetes.io/component=operator";
const METRICS_PORT: u16 = 8080;
const START_LIMIT: Duration = Duration::from_mins(2);
/// Of requests that write.
const WRITES: [&str; 4] = ["create", "update", "patch", "delete"];

/// The pod.
pub struct Operator {
    address: SocketAddr,
    /// Files of its cgroup.
    cpu: PathBuf,
    memory_peak: PathBuf,
    /// When its container started.
    pub started: Timestamp,
}

/// What the operator has used and done since it started.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// CPU time in seconds.
    pub cpu_seconds: f64,
    /// Requests to the API server, by whether they write, without those for Leases.
    pub reads: f64,
    /// As `reads`.
    pub writes: f64,
    /// Reconciles that ended.
    pub reconciles: f64,
}

impl Operator {
    /// Finds the only pod, Running and Ready.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn find(client: &Client) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), chart::NAMESPACE);
        let mut found = None;
        until(START_LIMIT, "no operator is Ready", async || {
            let list =
                pods.list(&ListParams::default().labels(LABELS)).await.context("list the operator's pods")?;
            found = list
                .items
                .into_iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_none())
                .find_map(ready);
            Ok(found.is_some())
        })
        .await?;
        let (uid, address, started) = found.context("an operator")?;
        let find = |root: &str| find_folder(Path::new(root), &[uid.clone(), uid.replace('-', "_")], 5);
        let cgroup = find("/sys/fs/cgroup/unified").or_else(|| find("/sys/fs/cgroup"));
        let cgroup = cgroup.with_context(|| format!("find the cgroup of pod {uid}"))?;
        // Version 1 has a tree for each controller, and another name for the file.
        let memory_peak =
            find("/sys/fs/cgroup/memory").map(|folder| folder.join("memory.max_usage_in_bytes"));
        let memory_peak = memory_peak.unwrap_or_else(|| cgroup.join("memory.peak"));
        Ok(Self { address, cpu: cgroup.join("cpu.stat"), memory_peak, started })
    }

    /// Ends it, and finds the one that takes its place.
    ///
    /// # Errors
    /// As [`Operator::find`].
    pub async fn replace(self, client: &Client) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), chart::NAMESPACE);
        pods.delete_collection(&DeleteParams::default(), &ListParams::default().labels(LABELS))
            .await
            .context("end the operator")?;
        Self::find(client).await
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn metrics(&self) -> Result<Scrape> {
        scrape::read(self.address).await
    }

    /// What it has used and done so far.
    ///
    /// # Errors
    /// When it does not answer, or its cgroup is gone.
    pub async fn used(&self) -> Result<Used> {
        let metrics = self.metrics().await?;
        let stat = read(&self.cpu)?;
        let microseconds =
            stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<f64>().ok());
        let mut used = Used {
            cpu_seconds: microseconds.context("a cgroup's CPU time")? / 1e6,
            reconciles: metrics.sum("plimsoll_operator_reconcile_duration_seconds_count"),
            ..Used::default()
        };
        for (series, count) in metrics.series("plimsoll_operator_api_requests_total") {
            let writes = WRITES.iter().any(|verb| series.contains(&format!("verb=\"{verb}\"")));
            if series.contains("resource=\"leases\"") {
                continue;
            }
            *if writes { &mut used.writes } else { &mut used.reads } += count;
        }
        Ok(used)
    }

    /// The most memory that the pod has had so far, in bytes, as its limit counts it.
    ///
    /// # Errors
    /// When its cgroup is gone: it was ended, perhaps for too much memory.
    pub fn memory_peak_bytes(&self) -> Result<f64> {
        read(&self.memory_peak)?.trim().parse().context("a cgroup's memory")
    }

    /// That no container of it was restarted.
    ///
    /// # Errors
    /// When one was, with the reason.
    pub async fn ensure_unharmed(&self, client: &Client) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), chart::NAMESPACE);
        let list =
            pods.list(&ListParams::default().labels(LABELS)).await.context("list the operator's pods")?;
        for status in list.items.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten() {
            let why = status.last_state.and_then(|state| state.terminated?.reason).unwrap_or_default();
            ensure!(
                status.restart_count == 0,
                "the operator was restarted {} times: {why}",
                status.restart_count
            );
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("read {}: has the operator been ended?", path.display()))
}

/// Uid, address of the metrics, and when its container started, of a pod that is Ready.
fn ready(pod: Pod) -> Option<(String, SocketAddr, Timestamp)> {
    let status = pod.status?;
    let container = status.container_statuses?.into_iter().find(|container| container.ready)?;
    let address = status.pod_ip?.parse().ok()?;
    let started = container.state?.running?.started_at?.0;
    Some((pod.metadata.uid?, SocketAddr::new(address, METRICS_PORT), started))
}

/// The first folder below `root`, not deeper than `depth`, whose name holds one of `wanted`.
fn find_folder(root: &Path, wanted: &[String], depth: usize) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::fs::read_dir(root)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    let fits = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        wanted.iter().any(|part| name.contains(part.as_str()))
    };
    if let Some(found) = folders.iter().find(fits) {
        return Some(found.clone());
    }
    let depth = depth.checked_sub(1)?;
    folders.iter().find_map(|folder| find_folder(folder, wanted, depth))
}
