//! The operator's `/metrics` tell of a resource what it met with, and nothing once it is gone.

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use plimsoll_tests::chart::{NAMESPACE, OPERATOR};
use serde_json::json;

use crate::world::{self, SOON, World};

#[test]
fn a_resource_is_told_in_numbers_for_as_long_as_it_is_there() {
    world::run("metrics", async |world| {
        world.apply_ready(json!({ "replicas": { "min": 2, "max": 4 } })).await?;
        let load = world.load("0,20\n15,20\n", &[("/posts?limit=5", 1)]).await?;
        let counted =
            async || Ok(value(&told(world).await?, "requests_total").is_some_and(|count| count > 100.0));
        world.eventually(SOON, "its requests are counted", counted).await?;
        let (summary, _) = load.finish().await?;
        let told_of = told(world).await?;
        for (metric, expected) in [("replicas_wanted", 2.0), ("replicas_min", 2.0), ("replicas_max", 4.0)] {
            ensure!(value(&told_of, metric) == Some(expected), "{metric} in {told_of:#?}");
        }
        let count = value(&told_of, "requests_total").unwrap_or_default();
        // Probes are requests too.
        ensure!(
            count <= 2.0 * summary.offered as f64,
            "{count} requests are told, {} were sent",
            summary.offered
        );
        for part in
            ["target=\"p95\"", "target=\"p99\"", "type=\"Ready\",status=\"True\"", "quantile=\"0.95\""]
        {
            ensure!(told_of.iter().any(|line| line.contains(part)), "{part} is not in {told_of:#?}");
        }
        world.apps().delete(world::NAME, &DeleteParams::default()).await?;
        world.eventually(SOON, "nothing is told of it", async || Ok(told(world).await?.is_empty())).await
    });
}

/// The series of the test's own resource, without the common part of their names.
async fn told(world: &World) -> Result<Vec<String>> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services/{OPERATOR}:8080/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new())?;
    let text = world.client.request_text(request).await.context("ask the operator for its metrics")?;
    let ours = format!("{{namespace=\"{}\",name=\"{}\"", world.namespace, world::NAME);
    let lines = text.lines().filter(|line| line.contains(&ours));
    Ok(lines.filter_map(|line| line.strip_prefix("plimsoll_apideployment_")).map(str::to_owned).collect())
}

fn value(told: &[String], metric: &str) -> Option<f64> {
    let line = told.iter().find(|line| line.starts_with(&format!("{metric}{{")))?;
    line.rsplit(' ').next()?.parse().ok()
}
