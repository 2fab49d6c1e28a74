//! What triggers a reconcile, and how many run at a time. It reads and writes nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, future};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::core::DeserializeGuard;
use kube_runtime::controller::{self, Action, Controller};
use kube_runtime::reflector::ObjectRef;
use kube_runtime::watcher;
use kube_runtime::{PredicateConfig, WatchStreamExt as _, predicates};
use plimsoll_crds::ApiDeployment;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::app::{self, Context, Stores};
use crate::error::{Error, Retry};
use crate::retry;
use crate::watches::{Watches, managed, pods, prune_metadata, prune_pod};

/// The main kind. An object that cannot be read becomes a condition, not a failed list of all the others.
pub type Guarded = DeserializeGuard<ApiDeployment>;

/// The kinds that are watched, as logs and metrics name them.
const KINDS: [&str; 5] = ["ApiDeployment", "Deployment", "Service", "Pod", "StatefulSet"];

/// Pause between two sweeps of the state of objects that are gone.
const SWEEP_PERIOD: Duration = Duration::from_mins(1);

/// Watches and reconciles until `stop`; running reconciles are finished first.
///
/// The watches run on a standby too, so that it takes over with warm stores; its reconciles do nothing.
pub async fn run(
    watches: &Watches,
    make_context: impl FnOnce(Stores) -> Context,
    concurrency: u16,
    mut leading: watch::Receiver<bool>,
    synced: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let (apps, apps_stream) = watches.of::<Guarded>(KINDS[0], watcher::Config::default(), prune_metadata);
    let (deployments, deployments_stream) = watches.of::<Deployment>(KINDS[1], managed(), prune_metadata);
    let (services, services_stream) = watches.of::<Service>(KINDS[2], managed(), prune_metadata);
    let (stateful_sets, stateful_sets_stream) =
        watches.of::<StatefulSet>(KINDS[4], managed(), prune_metadata);
    let (pods, pods_stream) = watches.of::<Pod>(KINDS[3], pods(), prune_pod);
    let context = Arc::new(make_context(Stores {
        deployments: deployments.clone(),
        services: services.clone(),
        stateful_sets,
        pods: pods.clone(),
    }));

    let background = stop.child_token();
    let pods_task = tokio::spawn({
        let background = background.clone();
        async move {
            // Pods trigger nothing: the Deployment's status tells of them, and the scrape has a rhythm of its own.
            tokio::select! { () = pods_stream.for_each(|_| future::ready(())) => {} () = background.cancelled() => {} }
        }
    });
    let sweep_task = tokio::spawn({
        let (apps, registry, background) = (apps.clone(), context.registry.clone(), background.clone());
        let health = watches.health.clone();
        async move {
            tokio::select! {
                () = background.cancelled() => return,
                () = health.listed(&KINDS) => info!("watches have synced"),
            }
            synced.store(true, Ordering::Relaxed);
            loop {
                tokio::select! {
                    () = background.cancelled() => return,
                    () = tokio::time::sleep(SWEEP_PERIOD) => {}
                }
                registry
                    .retain(|namespace, name| apps.get(&ObjectRef::new(name).within(namespace)).is_some());
            }
        }
    });
    let won = async move {
        // The sender lives as long as the process.
        let _ = leading.wait_for(|leads| *leads).await;
    };

    // The generation leaves out our own writes of the status; deletion needs nothing of us, for there is no finalizer.
    let apps_stream = apps_stream.predicate_filter(predicates::generation, PredicateConfig::default());
    Controller::for_stream(apps_stream, apps)
        .owns_stream(deployments_stream)
        .owns_stream(services_stream)
        .owns_stream(stateful_sets_stream)
        .reconcile_all_on(futures::stream::once(won))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .with_config(controller::Config::default().concurrency(concurrency.max(1)))
        .run(app::reconcile, |object, error, ctx| on_error(&object, error, &ctx), context)
        .for_each(|result| {
            match result {
                // An object that went away between trigger and reconcile is no error.
                Ok(_) | Err(controller::Error::ObjectNotFound(_)) => {}
                Err(controller::Error::ReconcilerFailed(..)) => {
                    debug!("a reconcile failed; it is logged where it did");
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "the controller's queue failed");
                }
            }
            future::ready(())
        })
        .await;
    background.cancel();
    let _ = tokio::join!(pods_task, sweep_task);
}

fn on_error(object: &Guarded, error: &Error, ctx: &Context) -> Action {
    let metadata = kube::Resource::meta(object);
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    let failures = ctx.registry.object(namespace, name).failed();
    let retry = error.retry();
    // A child that is refused has a pause of its own; it must not slow the scaling of what serves.
    let pause = retry::pause(retry, failures, rand::random());
    let pause = app::next_scrape(object, ctx).map_or(pause, |next| pause.min(next));
    if retry == Retry::Waiting {
        debug!(
            app.namespace = namespace,
            app.name = name,
            error = error.chain(),
            pause_ms = pause.as_millis() as u64,
            "reconcile has to wait"
        );
    } else {
        warn!(
            app.namespace = namespace,
            app.name = name,
            error = error.chain(),
            failures,
            pause_ms = pause.as_millis() as u64,
            "reconcile failed"
        );
    }
    Action::requeue(pause)
}
