//! What a person sees and does with kubectl.

use anyhow::{Context, ensure};
use serde_json::json;

use crate::world::{self, SOON};

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
        for part in [world::NAME, "p95<250ms p99<500ms", " 2 ", " 14 "] {
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
