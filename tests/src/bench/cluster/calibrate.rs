//! Measures the service on the cluster, before it is simulated: what requests cost a pod, how it answers under a few loads,
//! how finely its histogram tells that, and how long pods take to start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube_runtime::{WatchStreamExt, watcher};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::load::{self, Connections};
use super::stage::{PLAIN, Stage, WORK_MS};
use super::windows::Ended;
use crate::bench_latency::scrape;
use crate::progress::note;

/// Loads under which one pod is looked at, in requests a second: from nearly none to more than it can carry.
const RATES: [f64; 7] = [10.0, 20.0, 30.0, 36.0, 40.0, 44.0, 60.0];
/// Of a load, what does not count.
const SETTLING_SECONDS: u32 = 2;
/// Pods that are started at once, for their start-up times.
const STARTS: u32 = 6;
const START_LIMIT: Duration = Duration::from_mins(2);
/// The bundled API's histogram of request durations.
const HISTOGRAM: &str = "http_request_duration_seconds";

/// One pod under one load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// Requests a second that were asked for.
    pub rate: f64,
    /// Requests that were due, a second.
    pub offered_per_second: f64,
    /// Cores that the pod used.
    pub cores: f64,
    /// What ended.
    pub ended: Ended,
    /// Percentiles as a client felt them, in milliseconds.
    pub p50_ms: f64,
    /// As `p50_ms`.
    pub p99_ms: f64,
}

impl Point {
    /// Cores that the pod would have used, had it done the work of what it refused too: a refused request is read and
    /// answered, but its work is not done.
    fn cores_for_all(&self) -> f64 {
        let refused = self.ended.unserved as f64 / self.ended.all.max(1) as f64;
        self.cores + refused * self.offered_per_second * f64::from(WORK_MS) / 1000.0
    }
}

/// What was measured of the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Calibration {
    /// One pod under each load.
    pub points: Vec<Point>,
    /// CPU seconds of a served request, over all loads: the slope of the line through what the pod would have used, had it
    /// served all. A load that it does not carry counts as well: what a pod can do at most is what replicas are counted by.
    pub cost_seconds: f64,
    /// Cores that a pod uses without any request, such as for probes and scrapes: that line's height at no load.
    pub idle_cores: f64,
    /// From a pod's creation until it was Ready, in seconds.
    pub start_ups: Vec<f64>,
    /// Upper edges of the histogram by which the operator scales, in seconds, rising; without the last one, which has no end.
    pub edges: Vec<f64>,
}

/// Measures the plain Deployment's pods, with `seconds` of each load; the Deployment is left with several.
///
/// # Errors
/// When a pod does not start or answer, or its requests seem to cost nothing.
pub async fn measure(stage: &Stage, template: &Value, seconds: u32) -> Result<Calibration> {
    stage.apply_plain(template, 1).await?;
    let pod = stage.only_pod().await?;
    let address = pod.to_string();
    // Connections are opened, code and data are paged in.
    load::send(&address, load::constant(10.0, SETTLING_SECONDS)?, Connections::OneEach, 1).await?;
    let mut points = Vec::new();
    for rate in RATES {
        let before = scrape::read(pod).await?;
        let trace = load::constant(rate, SETTLING_SECONDS + seconds)?;
        let felt = load::send(&address, trace, Connections::OneEach, 1).await?;
        let length = f64::from(SETTLING_SECONDS + seconds);
        let after = scrape::read(pod).await?;
        let cpu = after.sum("process_cpu_seconds_total") - before.sum("process_cpu_seconds_total");
        let ended = Ended::sum(felt.ended().iter().skip(SETTLING_SECONDS as usize));
        let offered_per_second = felt.summary.offered as f64 / length;
        let point = Point {
            rate,
            offered_per_second,
            cores: cpu / length,
            ended,
            p50_ms: felt.summary.p50_ms,
            p99_ms: felt.summary.p99_ms,
        };
        note(format!(
            "one pod, {rate:.0} requests/s: {:.0} thousandths of a core, p99 {:.0} ms, {:.1} % over the promise",
            point.cores * 1000.0,
            point.p99_ms,
            100.0 * ended.over_share()
        ));
        points.push(point);
    }
    let (idle_cores, cost_seconds) = cost(&points).context("the pod was under less than two loads")?;
    ensure!(cost_seconds > 0.0, "requests seem to cost no CPU");
    let edges = scrape::read(pod).await?.edges(HISTOGRAM);
    ensure!(!edges.is_empty(), "the pod has no histogram {HISTOGRAM}");
    let start_ups = start_ups(stage).await?;
    Ok(Calibration { points, cost_seconds, idle_cores: idle_cores.max(0.0), start_ups, edges })
}

/// Cores of a pod without requests, and CPU seconds of a served one.
fn cost(points: &[Point]) -> Option<(f64, f64)> {
    let used = points.iter().map(|point| (point.offered_per_second, point.cores_for_all()));
    line(&used.collect::<Vec<_>>())
}

/// The line through points, by least squares: its height at 0, and its slope. Absent for fewer than two different `x`.
pub fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let (x, y) = (x / count, y / count);
    let (both, square) = points.iter().fold((0.0, 0.0), |sum, point| {
        (sum.0 + (point.0 - x) * (point.1 - y), sum.1 + (point.0 - x).powi(2))
    });
    (square > 0.0).then(|| {
        let slope = both / square;
        (y - slope * x, slope)
    })
}

/// Starts pods at once and tells how long each took, from when it was first seen until it was seen Ready.
async fn start_ups(stage: &Stage) -> Result<Vec<f64>> {
    let seen: Arc<Mutex<BTreeMap<String, Seen>>> = Arc::default();
    let follow = tokio::spawn(follow(stage.api(), Arc::clone(&seen)));
    let times = async {
        // The pod that is there was not seen to start.
        super::stage::until(START_LIMIT, "no pod is seen", async || Ok(!lock(&seen).is_empty())).await?;
        let there: Vec<String> = lock(&seen).keys().cloned().collect();
        stage.resize_plain(1 + STARTS).await?;
        let new = || {
            let seen = lock(&seen);
            let new = seen.iter().filter(|(uid, _)| !there.contains(uid));
            new.filter_map(|(_, seen)| Some((seen.ready? - seen.first).as_secs_f64())).collect::<Vec<f64>>()
        };
        super::stage::until(START_LIMIT, "the pods are not seen to be Ready", async || {
            Ok(new().len() >= STARTS as usize)
        })
        .await?;
        Ok(new())
    }
    .await;
    follow.abort();
    times
}

#[derive(Clone, Copy)]
struct Seen {
    first: Instant,
    ready: Option<Instant>,
}

fn lock(seen: &Mutex<BTreeMap<String, Seen>>) -> std::sync::MutexGuard<'_, BTreeMap<String, Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(pods: Api<Pod>, seen: Arc<Mutex<BTreeMap<String, Seen>>>) {
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/name={PLAIN}"));
    let mut changes = Box::pin(watcher(pods, ours).applied_objects());
    while let Some(change) = changes.next().await {
        let Ok(pod) = change else { continue };
        let now = Instant::now();
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True");
        let mut seen = lock(&seen);
        let of_pod =
            seen.entry(pod.metadata.uid.unwrap_or_default()).or_insert(Seen { first: now, ready: None });
        if ready && of_pod.ready.is_none() {
            of_pod.ready = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_through_points_that_lie_on_it_and_near_it() {
        let (height, slope) = line(&[(10.0, 0.03), (20.0, 0.05), (40.0, 0.09)]).unwrap();
        assert!((height - 0.01).abs() < 1e-9 && (slope - 0.002).abs() < 1e-9);
        let (height, slope) = line(&[(0.0, 1.0), (1.0, 0.0), (2.0, 3.0), (3.0, 2.0)]).unwrap();
        assert!((height - 0.6).abs() < 1e-9 && (slope - 0.6).abs() < 1e-9);
    }

    #[test]
    fn a_load_that_is_not_carried_costs_what_it_would_have_with_the_work_of_the_refused() {
        let point = |rate: f64, refused: f64| Point {
            rate,
            offered_per_second: rate,
            cores: 0.004 + 0.0022 * rate - refused * rate * 0.002,
            ended: Ended { offered: 1000, all: 1000, over: 0, unserved: (refused * 1000.0) as u64 },
            p50_ms: 3.0,
            p99_ms: 90.0,
        };
        let (idle, cost) = cost(&[point(10.0, 0.0), point(40.0, 0.0), point(60.0, 0.25)]).unwrap();
        assert!((idle - 0.004).abs() < 1e-9 && (cost - 0.0022).abs() < 1e-9, "{idle} {cost}");
    }

    #[test]
    fn one_load_has_no_line() {
        assert_eq!(line(&[(10.0, 0.03), (10.0, 0.04)]), None);
        assert_eq!(line(&[]), None);
    }
}
