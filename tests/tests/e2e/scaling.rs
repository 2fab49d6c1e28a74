//! The main promise: more replicas under load, fewer after it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use jiff::{SignedDuration, Timestamp};
use plimsoll_tests::demo::decisions;
use serde_json::json;

use crate::world::{self, SOON};

/// Milliseconds of CPU that a request costs, in pods that have 100 of them a second.
const WORK: &str = "/work?cpu=2ms";

#[test]
fn scales_up_under_load_and_down_after_it() {
    world::run("scaling", async |world| {
        world.apply_ready(json!({ "replicas": { "min": 1, "max": 8 } })).await?;
        world.until_ready_replicas(1, SOON).await?;

        // Four times what one pod can do, then next to nothing.
        let load = world.load("0,5\n10,80\n100,2\n340,0\n341,0\n", &[(WORK, 1)]).await?;
        let began = Instant::now();
        let mut peak = 1;
        world
            .eventually(Duration::from_mins(1), "three or more replicas are ready under load", async || {
                let deployment = world.deployments().get(world::NAME).await?;
                let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
                peak = peak.max(ready);
                Ok(ready >= 3)
            })
            .await?;
        let dropped =
            Timestamp::now() + SignedDuration::from_secs(100) - SignedDuration::try_from(began.elapsed())?;
        world
            .eventually(Duration::from_mins(8), "a replica is removed once the load has gone", async || {
                let decisions = decisions(&world.client, &world.namespace, world::NAME).await?;
                peak = peak.max(decisions.iter().map(|decision| decision.to).max().unwrap_or(0));
                Ok(decisions.iter().any(|decision| decision.time > dropped && decision.to < decision.from))
            })
            .await?;
        ensure!(peak <= 8, "{peak} replicas are more than the bound");
        let fewer = async || {
            let wanted = world.deployments().get(world::NAME).await?.spec.and_then(|spec| spec.replicas);
            Ok(wanted.is_some_and(|wanted| wanted < peak))
        };
        world.eventually(SOON, "the Deployment has fewer replicas", fewer).await?;
        drop(load);
        Ok(())
    });
}
