//! One reconcile: observe -> decide -> apply, and always report. The path, and nothing else.
//!
//! No step relies on an earlier one having run in the same pass; any await may be the last one.

mod apply;
mod attached;
pub mod cache;
mod cache_credentials;
mod configuration;
mod events;
mod observe;
mod rivals;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Client, Resource as _};
use kube_runtime::controller::Action;
use kube_runtime::events::{Recorder, Reporter};
use kube_runtime::reflector::Store;
use plimsoll_core::input::Settings;
use plimsoll_core::plan::ChildKind;
use plimsoll_core::{Plan, decide, in_force, status};
use plimsoll_crds::ApiDeployment;
use tokio::sync::Semaphore;
use tracing::{Instrument as _, debug_span};

use self::apply::CarriedOut;
use crate::controller::Guarded;
use crate::error::Error;
use crate::leader::Fence;
use crate::metrics::Metrics;
use crate::shards::Shards;
use crate::source::servers::Servers;
use crate::state::{Object, Registry, Working};

/// Longest time for a reconcile: thirteen children may each take [`WRITE_TIMEOUT`](crate::leader::WRITE_TIMEOUT) to fail, as
/// behind an admission webhook that hangs, and the scrape and the status come on top.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(75);
/// Pods that are asked at the same time, over all resources. Each that never answers takes a turn for two seconds, and what waits for
/// its turn meanwhile may not get it in time: more than any resources in trouble should need, and fewer than a process may have files.
const SCRAPES_MAX: usize = 512;
/// Pause while a leader's Lease is late: it is renewed in seconds, or the process ends.
const RENEWAL_PERIOD: Duration = Duration::from_secs(1);
/// Pause after a reconcile that is not ours to make; winning the shard triggers all of its objects at once.
const STANDBY_PERIOD: Duration = Duration::from_mins(5);

/// What reconciles share.
#[derive(Clone)]
pub struct Context {
    client: Client,
    stores: Stores,
    /// Of the shard of the object at hand; see [`Context::within`].
    fence: Arc<Fence>,
    /// The fences of all shards.
    pub shards: Shards,
    metrics: Metrics,
    /// State by object.
    pub registry: Arc<Registry>,
    settings: Settings,
    recorder: Recorder,
    scrapes: Arc<Semaphore>,
    servers: Arc<Servers>,
    cache_questions: Arc<Semaphore>,
}

/// Watched objects. They may be behind the API server; what that would hurt is read live.
#[derive(Clone)]
pub struct Stores {
    /// Deployments that Plimsoll has made.
    pub deployments: Store<Deployment>,
    /// StatefulSets that Plimsoll has made.
    pub stateful_sets: Store<StatefulSet>,
    /// Services that Plimsoll has made.
    pub services: Store<Service>,
    /// PodDisruptionBudgets that Plimsoll has made.
    pub disruption_budgets: Store<PodDisruptionBudget>,
    /// NetworkPolicies that Plimsoll has made.
    pub network_policies: Store<NetworkPolicy>,
    /// Pods of the APIs.
    pub pods: Store<Pod>,
    /// All resources: two may be attached to one Deployment.
    pub apps: Store<Guarded>,
    /// All autoscalers of Kubernetes' own, for what they scale.
    pub autoscalers: Store<HorizontalPodAutoscaler>,
}

impl Context {
    /// Puts the parts together.
    pub fn new(
        client: Client,
        stores: Stores,
        shards: impl Into<Shards>,
        metrics: Metrics,
        registry: Arc<Registry>,
        settings: Settings,
        identity: String,
    ) -> Self {
        let reporter = Reporter { controller: "plimsoll-operator".into(), instance: Some(identity) };
        let recorder = Recorder::new(client.clone(), reporter);
        let scrapes = Arc::new(Semaphore::new(SCRAPES_MAX));
        let shards = shards.into();
        let fence = shards.fence(0).clone();
        let servers = Arc::default();
        let cache_questions = Arc::new(Semaphore::new(cache::QUESTIONS_MAX));
        Self {
            client,
            stores,
            fence,
            shards,
            metrics,
            registry,
            settings,
            recorder,
            scrapes,
            servers,
            cache_questions,
        }
    }

    /// With the Prometheus servers that resources may choose among.
    #[must_use]
    pub fn with_servers(self, servers: Arc<Servers>) -> Self {
        Self { servers, ..self }
    }

    /// The same with the fence of the object's shard, which its writes pass.
    fn within(&self, app: &Guarded) -> Self {
        let metadata = app.meta();
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
        let fence = self.shards.of(namespace.unwrap_or_default(), name.unwrap_or_default()).clone();
        Self { fence, ..self.clone() }
    }
}

/// How long after a failure the object's pods are due to be asked. None when that is not known, or is due already: then
/// the failure lies in reading, and only its own pause bounds how often it is tried.
pub fn next_scrape(app: &Guarded, ctx: &Context) -> Option<Duration> {
    let app = app.0.as_ref().ok()?;
    let (namespace, name) = (app.metadata.namespace.as_deref(), app.metadata.name.as_deref());
    let object = ctx.registry.object(namespace.unwrap_or_default(), name.unwrap_or_default());
    let working = object.working.try_lock().ok()?;
    Some(observe::until_next_scrape(app, &working)).filter(|pause| !pause.is_zero())
}

/// Reconciles one object and says when to look again: at the next scrape.
///
/// # Errors
/// The first failure, after the status has told of it.
pub async fn reconcile(app: Arc<Guarded>, ctx: Arc<Context>) -> Result<Action, Error> {
    let ctx = ctx.within(&app);
    if !ctx.fence.open(Instant::now()) {
        if !ctx.fence.held() {
            // Another process tells of it now.
            let (namespace, name) = (app.meta().namespace.as_deref(), app.meta().name.as_deref());
            ctx.registry.forget(namespace.unwrap_or_default(), name.unwrap_or_default());
        }
        let pause = if ctx.fence.held() { RENEWAL_PERIOD } else { STANDBY_PERIOD };
        return Ok(Action::requeue(pause));
    }
    let began = Instant::now();
    let bounded = async {
        let result = tokio::time::timeout(RECONCILE_TIMEOUT, converge_and_report(&app, &ctx)).await;
        result.unwrap_or(Err(Error::Timeout { timeout: RECONCILE_TIMEOUT }))
    };
    let result = caught(bounded).await;
    let outcome = result.as_ref().map_or_else(Error::outcome, |_| "ok");
    ctx.metrics.reconciled(outcome, began.elapsed());
    result
}

async fn converge_and_report(app: &Guarded, ctx: &Context) -> Result<Action, Error> {
    let app = match &app.0 {
        Ok(app) => app,
        Err(invalid) => {
            if let Some(status) = apply::unreadable(ctx, invalid).await? {
                let (namespace, name) =
                    (invalid.metadata.namespace.as_deref(), invalid.metadata.name.as_deref());
                let object = ctx.registry.object(namespace.unwrap_or_default(), name.unwrap_or_default());
                object.tell(|metrics| metrics.reported(&status));
            }
            return Ok(Action::await_change());
        }
    };
    if app.metadata.deletion_timestamp.is_some() {
        // The garbage collector takes the children; whatever we made now would outlive the resource.
        return Ok(Action::await_change());
    }
    let (namespace, name) = (app.metadata.namespace.as_deref(), app.metadata.name.as_deref());
    let object = ctx.registry.object(namespace.unwrap_or_default(), name.unwrap_or_default());
    let mut working = object.working.lock().await;
    working.belong_to(app.metadata.uid.as_deref().unwrap_or_default(), ctx.fence.term());
    let app = in_force(observe::with_last_status(app, &working));

    // Caught here too, so that the status tells of it.
    let converged = caught(converge(&app, ctx, &object, &mut working)).await;
    if let Err(Error::Panicked { .. }) = &converged {
        // What was remembered may be why; the status has what was learned.
        *working = Working::default();
        working.belong_to(app.metadata.uid.as_deref().unwrap_or_default(), ctx.fence.term());
    }
    let message = converged.as_ref().err().map(Error::chain).unwrap_or_default();
    let outcome = match &converged {
        Ok((plan, _)) => status::Outcome::Planned { findings: &plan.findings, decision: &plan.decision },
        Err(_) => status::Outcome::Failed { message: &message },
    };
    let next = status::next(&app, outcome, Timestamp::now());
    object.tell(|metrics| metrics.reported(&next));
    let reported = apply::status(ctx, &app, &mut working, next).instrument(debug_span!("report")).await;
    // The first failure is the one to return.
    if let (_, Some(failure)) = converged? {
        return Err(failure);
    }
    reported?;
    object.succeeded();
    Ok(Action::requeue(observe::until_next_scrape(&app, &working)))
}

/// Makes a panic an error of the one object: the controller would end the process by it, and whoever takes over would meet the
/// same object.
fn caught<T>(reconcile: impl Future<Output = Result<T, Error>>) -> impl Future<Output = Result<T, Error>> {
    let panicked = |panic: Box<dyn Any + Send>| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Error::Panicked { message: message.unwrap_or_default() })
    };
    AssertUnwindSafe(reconcile).catch_unwind().map(move |result| result.unwrap_or_else(panicked))
}

/// The plan as it was carried out, with the first write that failed.
///
/// # Errors
/// When there is no plan, because reading failed, or none of which anything may be told, because leadership is lost.
async fn converge(
    app: &ApiDeployment,
    ctx: &Context,
    object: &Object,
    working: &mut Working,
) -> Result<(Plan, Option<Error>), Error> {
    let input = observe::observe(ctx, app, working).instrument(debug_span!("observe")).await?;
    let mut plan = debug_span!("decide").in_scope(|| decide(&input));
    let scraped = input.scrape.is_some();
    let CarriedOut { failure, left_out } =
        apply::carry_out(ctx, app, &input, &mut plan).instrument(debug_span!("apply")).await;
    if left_out.contains(&ChildKind::Replicas) {
        plan.take_back_scale();
    }
    // Readings and confirmed writes are kept even when another write failed.
    working.memory = plan.memory.clone();
    if scraped {
        ctx.metrics.decided(&plan.decision);
    }
    object.tell(|metrics| metrics.planned(app, &plan, working.scraped_at.filter(|_| scraped)));
    if scraped || plan.decision.from != plan.decision.to {
        object.record(plan.decision.clone());
    }
    if matches!(failure, Some(Error::Fenced)) {
        return Err(Error::Fenced);
    }
    events::of_decision(ctx, app, &plan).await;
    Ok((plan, failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_one_object() {
        for panics in [true, false] {
            let reconcile = async {
                tokio::task::yield_now().await;
                assert!(!panics, "an edge of {} s", -400);
                Ok(())
            };
            let caught = caught(reconcile).await.map_err(|error| error.to_string());
            let said = "a defect of the operator: an edge of -400 s; report it with the log".to_owned();
            assert_eq!(caught, if panics { Err(said) } else { Ok(()) });
        }
    }
}
