//! A new image: the scale stays, and no request fails.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use futures::StreamExt;
use kube_runtime::watcher;
use serde_json::{Value, json};

use crate::world::{self, SOON, is_ready};

#[test]
fn a_new_image_rolls_out_without_losing_the_scale_or_a_request() {
    world::run("rollout", async |world| {
        world.apply_ready(json!({ "replicas": { "min": 1, "max": 6, "pinned": 4 } })).await?;
        world.until_ready_replicas(4, SOON).await?;
        // From here on the operator decides again; fewer would do, but not while a rollout goes on.
        world.patch(json!({ "replicas": { "pinned": Value::Null } })).await?;

        let wanted = Arc::new(Mutex::new(Vec::new()));
        let seen = wanted.clone();
        let mut changes = Box::pin(watcher::watch_object(world.deployments(), world::NAME));
        let watch = tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                if let Ok(Some(deployment)) = change {
                    seen.lock().unwrap().push(deployment.spec.and_then(|spec| spec.replicas));
                }
            }
        });
        let load = world.load("0,20\n45,20\n", &[("/posts/{post}", 3), ("/health", 1)]).await?;
        world.patch(json!({ "image": world.images.api_next })).await?;
        let image = world.images.api_next.clone();
        world
            .eventually(Duration::from_mins(1), "all four pods run the new image", async || {
                let pods = world.api_pods().await?;
                let new = pods.iter().filter(|pod| {
                    let containers = pod.spec.as_ref().map(|spec| &spec.containers);
                    is_ready(pod)
                        && containers.is_some_and(|it| it[0].image.as_deref() == Some(image.as_str()))
                });
                Ok(new.count() == 4 && pods.len() == 4)
            })
            .await?;
        // Afterwards it may take them away again.
        watch.abort();
        let wanted = wanted.lock().unwrap().clone();
        ensure!(
            !wanted.is_empty() && wanted.iter().all(|wanted| wanted.is_some_and(|wanted| wanted >= 4)),
            "the scale was lost: {wanted:?}"
        );
        ensure!(!load.finished(), "the rollout outlasted the load, which then shows nothing");
        let (summary, _) = load.finish().await?;
        ensure!(
            summary.ends.unserved() == 0,
            "{} of {} requests failed: {:?}",
            summary.ends.unserved(),
            summary.offered,
            summary.failures
        );
        // A client that meets a connection which was just closed sends again; that must stay the exception.
        ensure!(
            summary.resent <= 5,
            "{} of {} requests had to be sent again",
            summary.resent,
            summary.offered
        );
        Ok(())
    });
}
