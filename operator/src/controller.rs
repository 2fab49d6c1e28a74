//! What triggers a reconcile, and how many run at a time. It reads and writes nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _, future, stream};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource as _;
use kube::core::DeserializeGuard;
use kube_runtime::controller::{self, Action, Controller};
use kube_runtime::reflector::{ObjectRef, Store};
use kube_runtime::watcher;
use plimsoll_crds::ApiDeployment;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::app::{self, Context, Stores};
use crate::error::{Error, Retry};
use crate::leader::Led;
use crate::retry;
use crate::shards::{Shards, shard_of};
use crate::watches::{Watches, managed, pods, prune_autoscaler, prune_deployment, prune_metadata, prune_pod};

/// The main kind. An object that cannot be read becomes a condition, not a failed list of all the others.
pub type Guarded = DeserializeGuard<ApiDeployment>;

/// The kinds that are watched, as logs and metrics name them.
const KINDS: [&str; 8] = [
    "ApiDeployment",
    "Deployment",
    "Service",
    "Pod",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "StatefulSet",
];

/// Longest wait at the start for the list of autoscalers.
const AUTOSCALERS_WAIT: Duration = Duration::from_secs(5);

/// Pause between two sweeps of the state of objects that are gone, or another process' by now.
const SWEEP_PERIOD: Duration = Duration::from_mins(1);

/// Watches and reconciles until `stop`; running reconciles are finished first.
///
/// The watches run on a standby too, so that it takes over with warm stores; its reconciles do nothing.
pub async fn run(
    watches: &Watches,
    make_context: impl FnOnce(Stores) -> Context,
    concurrency: u16,
    leading: watch::Receiver<Led>,
    synced: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let (apps, apps_stream) = watches.of_generations::<Guarded>(KINDS[0], watches.selected(), prune_metadata);
    let (deployments, deployments_stream) = watches.of::<Deployment>(KINDS[1], managed(), prune_deployment);
    let (services, services_stream) = watches.of::<Service>(KINDS[2], managed(), prune_metadata);
    let (pods, pods_stream) = watches.of::<Pod>(KINDS[3], pods(), prune_pod);
    let (autoscalers, autoscalers_stream) =
        watches.of::<HorizontalPodAutoscaler>(KINDS[4], watcher::Config::default(), prune_autoscaler);
    let (budgets, budgets_stream) = watches.of::<PodDisruptionBudget>(KINDS[5], managed(), prune_metadata);
    let (policies, policies_stream) = watches.of::<NetworkPolicy>(KINDS[6], managed(), prune_metadata);
    let (stateful_sets, stateful_sets_stream) =
        watches.of::<StatefulSet>(KINDS[7], managed(), prune_metadata);
    let context = Arc::new(make_context(Stores {
        deployments: deployments.clone(),
        services: services.clone(),
        disruption_budgets: budgets,
        network_policies: policies,
        stateful_sets,
        pods: pods.clone(),
        apps: apps.clone(),
        autoscalers,
    }));

    let background = stop.child_token();
    let pods_task = tokio::spawn({
        let background = background.clone();
        async move {
            // Pods trigger nothing: the Deployment's status tells of them, and the scrape has a rhythm of its own.
            tokio::select! { () = pods_stream.for_each(|_| future::ready(())) => {} () = background.cancelled() => {} }
        }
    });
    let autoscalers_task = tokio::spawn({
        let background = background.clone();
        async move {
            // They trigger nothing: every reconcile looks for those of its Deployment.
            tokio::select! { () = autoscalers_stream.for_each(|_| future::ready(())) => {} () = background.cancelled() => {} }
        }
    });
    let sweep_task = tokio::spawn({
        let (apps, registry, background) = (apps.clone(), context.registry.clone(), background.clone());
        let shards = context.shards.clone();
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
                registry.retain(|namespace, name| {
                    shards.of(namespace, name).held()
                        && apps.get(&ObjectRef::new(name).within(namespace)).is_some()
                });
            }
        }
    });
    let won = won(leading, apps.clone(), context.shards.clone());

    // Nothing is written before it is known who else scales, but a watch that fails holds nothing up for long.
    tokio::select! {
        _ = tokio::time::timeout(AUTOSCALERS_WAIT, watches.health.listed(&KINDS[4..=4])) => {}
        () = stop.cancelled() => {}
    }

    // The generation leaves out our own writes of the status; deletion needs nothing of us, for there is no finalizer.
    // Nothing is left out of the children's: a filter by generation would drop their deletion.
    let registry = context.registry.clone();
    Controller::for_stream(apps_stream, apps)
        .owns_stream(deployments_stream)
        .owns_stream(services_stream)
        .owns_stream(budgets_stream)
        .owns_stream(policies_stream)
        .owns_stream(stateful_sets_stream)
        .reconcile_on(won)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .with_config(controller::Config::default().concurrency(concurrency.max(1)))
        .run(app::reconcile, |object, error, ctx| on_error(&object, error, &ctx), context)
        .for_each(|result| {
            match result {
                Ok(_) => {}
                // An object that went away is no error; nothing is told of it any longer.
                Err(controller::Error::ObjectNotFound(gone)) => {
                    registry.forget(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
                }
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
    let _ = tokio::join!(pods_task, autoscalers_task, sweep_task);
}

/// The objects of each shard that comes to this process, as it comes.
fn won(
    leading: watch::Receiver<Led>,
    apps: Store<Guarded>,
    shards: Shards,
) -> impl Stream<Item = ObjectRef<Guarded>> {
    stream::unfold((leading, None), move |(mut leading, before)| {
        let (apps, shards) = (apps.clone(), shards.clone());
        async move {
            let Some(before) = before else {
                let led = leading.borrow_and_update().clone();
                return Some((objects_of(&led, &Led::new(), &apps, &shards), (leading, Some(led))));
            };
            leading.changed().await.ok()?;
            let led = leading.borrow_and_update().clone();
            Some((objects_of(&led, &before, &apps, &shards), (leading, Some(led))))
        }
    })
    .flat_map(stream::iter)
}

/// Objects of shards that are led in another term than before.
fn objects_of(led: &Led, before: &Led, apps: &Store<Guarded>, shards: &Shards) -> Vec<ObjectRef<Guarded>> {
    let came = |app: &Guarded| {
        let metadata = app.meta();
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
        let shard = shard_of(namespace.unwrap_or_default(), name.unwrap_or_default(), shards.count());
        led.contains_key(&shard) && led.get(&shard) != before.get(&shard)
    };
    apps.state().iter().filter(|app| came(app)).map(|app| ObjectRef::from_obj(&**app)).collect()
}

fn on_error(object: &Guarded, error: &Error, ctx: &Context) -> Action {
    let metadata = object.meta();
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
