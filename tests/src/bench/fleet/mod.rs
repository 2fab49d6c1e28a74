//! `cargo xtask bench fleet`: one operator with hundreds of resources on the local cluster: what it uses, and whether it keeps up.
//!
//! It brings the cluster up, unless it is, and removes it. Reading order: [`node`] and [`traffic`] (what stands in for pods),
//! [`operator`], [`watch`] (what is seen), [`results`], [`goals`], [`markdown`].

pub mod goals;
pub mod markdown;
pub mod node;
pub mod operator;
pub mod results;
pub mod traffic;
pub mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};
use plimsoll_crds::ApiDeployment;
use serde_json::{Value, json};

use self::node::{API_PREFIX, AbsentNode, NODE, TAINT};
use self::operator::Operator;
use self::results::{Fleet, Restart, Results, Span, Step};
use self::traffic::{TARGET_MS, Traffic};
use self::watch::Raises;
use super::cluster::stage::{Stage, until};
use super::machine::{self, Machine};
use super::stats::Spread;
use crate::images::PAUSE_IMAGE;
use crate::progress::{note, step};
use crate::{paths, sample};

const NAMESPACE: &str = "plimsoll-bench-fleet";
/// Time between two readings of a resource's pods: the default of `spec.metrics.scrapePeriodSeconds`.
pub const SCRAPE_PERIOD_SECONDS: f64 = 5.0;
/// Load of each resource before and after the step.
const REQUESTS_PER_SECOND: (f64, f64) = (60.0, 120.0);
const BOUNDS: (u32, u32) = (2, 20);
/// Kubernetes' own controllers make twenty pods a second.
const READY_LIMIT: Duration = Duration::from_mins(10);
const REMOVED_LIMIT: Duration = Duration::from_mins(10);
const DECIDED_LIMIT: Duration = Duration::from_mins(5);
/// One of so many resources has pods that answer nothing, for a while.
pub const SILENT_PART: usize = 3;
/// Resources that are made at a time. An API server on two cores that has to find addresses for three hundred Services at once
/// answers none of them for minutes.
const AT_ONCE: usize = 20;

/// How it is measured.
#[derive(Args)]
pub struct Options {
    /// Sizes of the fleet, each measured by itself.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [100, 300], value_parser = clap::value_parser!(u16).range(1..=1000))]
    resources: Vec<u16>,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE", default_value = "out/bench/fleet.json")]
    json: PathBuf,
    /// Everything shortened: shows that it works, and its numbers are worth nothing.
    #[arg(long)]
    quick: bool,
    /// Write the tables into docs/benchmarks.md.
    #[arg(long, conflicts_with = "quick")]
    publish: bool,
}

/// Spans of the measurement.
struct Spans {
    /// Until the engine has seen the load for a while.
    settle: Duration,
    steady: Duration,
    silence: Duration,
    step: Duration,
}

impl Spans {
    const FULL: Self = Self {
        settle: Duration::from_mins(2),
        steady: Duration::from_mins(2),
        silence: Duration::from_mins(1),
        step: Duration::from_mins(1),
    };
    const QUICK: Self = Self {
        settle: Duration::from_secs(20),
        steady: Duration::from_secs(20),
        silence: Duration::from_secs(20),
        step: Duration::from_secs(20),
    };
}

/// Measures, prints the tables and writes the numbers.
///
/// # Errors
/// When this is not root on Linux, the cluster or the operator does not come up, or a size cannot be measured. Missed goals
/// are no error.
pub async fn run(options: Options) -> Result<()> {
    let (machine, version) = (Machine::read()?, machine::plimsoll().await);
    let mut results =
        Results { started: Timestamp::now(), machine, version, quick: options.quick, fleets: Vec::new() };
    let stage = Stage::set().await?;
    let measured = async {
        for &resources in &options.resources {
            results.fleets.push(measure(&stage.client, usize::from(resources), options.quick).await?);
        }
        Ok(())
    };
    let measured: Result<()> = measured.await;
    // Whatever happened, nothing is left running.
    let struck = stage.strike().await;
    measured?;
    struck?;
    let rendered = markdown::render(&results);
    println!("{rendered}");
    super::write(&options.json, &results)?;
    note(format!("the numbers are in {}", options.json.display()));
    if options.publish {
        markdown::publish(&paths::project().join("docs/benchmarks.md"), &rendered)?;
    }
    Ok(())
}

async fn measure(client: &Client, resources: usize, quick: bool) -> Result<Fleet> {
    let traffic = Traffic::new(resources, REQUESTS_PER_SECOND.0);
    let node = AbsentNode::make(client.clone(), traffic).await?;
    let measured = on_the_node(client, &node, resources, quick).await;
    let removed = step(format!("Remove the {resources} resources"), remove(client)).await;
    let gone = node.remove().await;
    let fleet = measured?;
    removed?;
    gone?;
    Ok(fleet)
}

async fn on_the_node(client: &Client, node: &AbsentNode, resources: usize, quick: bool) -> Result<Fleet> {
    let spans = if quick { Spans::QUICK } else { Spans::FULL };
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    sample::apply_all(client, &[namespace]).await?;
    // Each size has an operator that has not seen the one before.
    let operator = Operator::find(client).await?.replace(client).await?;
    let began = Instant::now();
    let ready = step(
        format!("Make {resources} resources, and wait until each has been Ready"),
        apply(client, resources),
    );
    ready.await?;
    let all_ready_seconds = began.elapsed().as_secs_f64();
    let rest = async {
        tokio::time::sleep(spans.settle).await;
        span(client, &operator, spans.steady, 0).await
    };
    let steady = step(format!("{resources} resources under a load that stands"), rest).await?;
    let silent = resources / SILENT_PART;
    node.silence(silent);
    let title = format!("The pods of {silent} resources answer nothing");
    let silence = step(title, span(client, &operator, spans.silence, silent)).await?;
    node.silence(0);
    let raises = Raises::watch(Api::namespaced(client.clone(), NAMESPACE)).await?;
    let in_need = raises.below(traffic::pods_for(REQUESTS_PER_SECOND.1));
    node.set_load(REQUESTS_PER_SECOND.1);
    let doubled = Instant::now();
    let stepped = step("The load of all doubles", span(client, &operator, spans.step, 0)).await?;
    let raised_after_seconds = raises.since(doubled, &in_need);
    operator.ensure_unharmed(client).await?;
    let memory_peak_bytes = operator.memory_peak_bytes()?;
    let restart = step("Another operator takes over", restart(client, operator, resources)).await?;
    Ok(Fleet {
        resources,
        all_ready_seconds,
        steady,
        silence,
        step: Step { span: stepped, in_need: in_need.len(), raised_after_seconds },
        restart,
        memory_peak_bytes,
    })
}

async fn apply(client: &Client, resources: usize) -> Result<()> {
    let apps: Api<ApiDeployment> = Api::namespaced(client.clone(), NAMESPACE);
    let mut ready = BTreeSet::new();
    for begin in (0..resources).step_by(AT_ONCE) {
        let end = resources.min(begin + AT_ONCE);
        let manifests: Vec<Value> = (begin..end).map(resource).collect();
        sample::apply_all(client, &manifests).await?;
        // Of so many some are always being scaled: it counts that each has been Ready.
        until(READY_LIMIT, "not all resources have been Ready", async || {
            let list = apps.list(&ListParams::default()).await.context("list the resources")?;
            ready.extend(list.items.iter().filter(|app| sample::ready(Some(app))).map(ResourceExt::name_any));
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(ready.len() == end)
        })
        .await?;
    }
    Ok(())
}

/// The image never runs: the node has no runtime.
fn resource(place: usize) -> Value {
    let tolerations = json!([{ "key": TAINT, "operator": "Exists", "effect": "NoSchedule" }]);
    let there = json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [NODE] }] });
    let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [there] } } });
    json!({
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
        "metadata": { "name": format!("{API_PREFIX}{place}"), "namespace": NAMESPACE },
        "spec": {
            "image": PAUSE_IMAGE,
            "latency": { "p99": format!("{TARGET_MS}ms") },
            "replicas": { "min": BOUNDS.0, "max": BOUNDS.1 },
            "cache": { "disabled": {} },
            "workload": { "tolerations": tolerations, "affinity": affinity },
        },
    })
}

/// What the operator does in so much time. Of the first `left_out` resources the age of readings does not count.
async fn span(client: &Client, operator: &Operator, length: Duration, left_out: usize) -> Result<Span> {
    let (before, metrics_before) = (operator.used().await?, operator.metrics().await?);
    let began = Instant::now();
    let mut ages = Vec::new();
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    while began.elapsed() < length {
        seconds.tick().await;
        let metrics = operator.metrics().await?;
        let ages_now = metrics
            .series("plimsoll_apideployment_scrape_age_seconds")
            .filter(|(series, _)| place(series).is_some_and(|place| place >= left_out))
            .map(|(_, age)| age);
        ages.extend(ages_now.reduce(f64::max));
    }
    let took = began.elapsed().as_secs_f64();
    let (after, metrics_after) = (operator.used().await?, operator.metrics().await?);
    let quantile = |q| {
        metrics_after.quantile(&metrics_before, "plimsoll_operator_reconcile_duration_seconds_bucket{", q)
    };
    Ok(Span {
        seconds: took,
        pods: ready_pods(client).await?,
        cores: (after.cpu_seconds - before.cpu_seconds) / took,
        reconciles_per_second: (after.reconciles - before.reconciles) / took,
        reconcile_seconds: [quantile(0.5), quantile(0.99)],
        scrape_age_seconds: Spread::of(ages),
        reads_per_second: (after.reads - before.reads) / took,
        writes_per_second: (after.writes - before.writes) / took,
    })
}

/// The place of the resource that a series is of.
fn place(series: &str) -> Option<usize> {
    let (_, rest) = series.split_once(&format!("name=\"{API_PREFIX}"))?;
    rest.split_once('"')?.0.parse().ok()
}

async fn ready_pods(client: &Client) -> Result<usize> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let list = pods.list(&ListParams::default()).await.context("list the pods")?;
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    Ok(list.items.iter().filter(is_ready).count())
}

async fn restart(client: &Client, operator: Operator, resources: usize) -> Result<Restart> {
    let operator = operator.replace(client).await?;
    until(DECIDED_LIMIT, "the new operator has not decided for all resources", async || {
        let metrics = operator.metrics().await?;
        Ok(metrics.series("plimsoll_apideployment_scrape_age_seconds").count() == resources)
    })
    .await?;
    let all_decided_seconds = Timestamp::now().duration_since(operator.started).as_secs_f64();
    operator.ensure_unharmed(client).await?;
    Ok(Restart { all_decided_seconds, memory_peak_bytes: operator.memory_peak_bytes()? })
}

async fn remove(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.delete(NAMESPACE, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        other => other.map(drop).context("remove the namespace")?,
    }
    let gone = async || Ok(namespaces.get_opt(NAMESPACE).await.context("look for the namespace")?.is_none());
    until(REMOVED_LIMIT, "the removed resources are still there", gone).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_promises_what_its_pods_are_judged_by_and_runs_on_no_other_node() {
        let app = resource(7);
        serde_json::from_value::<ApiDeployment>(app.clone()).unwrap();
        assert_eq!(app["metadata"]["name"], "api-7");
        assert_eq!(app["spec"]["latency"]["p99"], "250ms");
        assert_eq!(app["spec"]["workload"]["tolerations"][0]["key"], TAINT);
    }
}
