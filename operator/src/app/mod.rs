//! One reconcile: observe -> decide -> apply, and always report. The path, and nothing else.
//!
//! No step relies on an earlier one having run in the same pass; any await may be the last one.

mod apply;
pub mod cache;
mod credentials;
mod events;
mod exposition;
mod observe;
mod scrape;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube_runtime::controller::Action;
use kube_runtime::events::{Recorder, Reporter};
use kube_runtime::reflector::Store;
use plimsoll_core::input::Settings;
use plimsoll_core::plan::ChildKind;
use plimsoll_core::{Plan, decide, status};
use plimsoll_crds::ApiDeployment;
use tokio::sync::Semaphore;

use self::apply::CarriedOut;
use crate::controller::Guarded;
use crate::error::Error;
use crate::leader::Fence;
use crate::metrics::Metrics;
use crate::state::{Object, Registry, Working};

/// Longest time for a reconcile: nine children may each take [`WRITE_TIMEOUT`](crate::leader::WRITE_TIMEOUT) to fail, as
/// behind an admission webhook that hangs, and the scrape and the status come on top.
const RECONCILE_TIMEOUT: Duration = Duration::from_mins(1);
/// Pods that are asked at the same time, over all resources.
const SCRAPES_MAX: usize = 64;
/// Pause while a leader's Lease is late: it is renewed in seconds, or the process ends.
const RENEWAL_PERIOD: Duration = Duration::from_secs(1);
/// Pause after a reconcile that is not ours to make; winning the lease triggers all at once.
const STANDBY_PERIOD: Duration = Duration::from_mins(5);

/// What reconciles share.
pub struct Context {
    client: Client,
    stores: Stores,
    fence: Arc<Fence>,
    metrics: Metrics,
    /// State by object.
    pub registry: Arc<Registry>,
    settings: Settings,
    recorder: Recorder,
    scrapes: Semaphore,
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
    /// Pods of the APIs.
    pub pods: Store<Pod>,
}

impl Context {
    /// Puts the parts together.
    pub fn new(
        client: Client,
        stores: Stores,
        fence: Arc<Fence>,
        metrics: Metrics,
        registry: Arc<Registry>,
        settings: Settings,
        identity: String,
    ) -> Self {
        let reporter = Reporter { controller: "plimsoll-operator".into(), instance: Some(identity) };
        let recorder = Recorder::new(client.clone(), reporter);
        let scrapes = Semaphore::new(SCRAPES_MAX);
        let cache_questions = Arc::new(Semaphore::new(cache::QUESTIONS_MAX));
        Self { client, stores, fence, metrics, registry, settings, recorder, scrapes, cache_questions }
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
    if !ctx.fence.open(Instant::now()) {
        let pause = if ctx.fence.was_open() { RENEWAL_PERIOD } else { STANDBY_PERIOD };
        return Ok(Action::requeue(pause));
    }
    let began = Instant::now();
    let result = tokio::time::timeout(RECONCILE_TIMEOUT, converge_and_report(&app, &ctx)).await;
    let result = result.unwrap_or(Err(Error::Timeout { timeout: RECONCILE_TIMEOUT }));
    let outcome = result.as_ref().map_or_else(Error::outcome, |_| "ok");
    ctx.metrics.reconciled(outcome, began.elapsed());
    result
}

async fn converge_and_report(app: &Guarded, ctx: &Context) -> Result<Action, Error> {
    let app = match &app.0 {
        Ok(app) => app,
        Err(invalid) => {
            apply::unreadable(ctx, invalid).await?;
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
    working.belong_to(app.metadata.uid.as_deref().unwrap_or_default());
    let app = observe::with_last_status(app, &working);

    let converged = converge(&app, ctx, &object, &mut working).await;
    let message = converged.as_ref().err().map(Error::chain).unwrap_or_default();
    let outcome = match &converged {
        Ok((plan, _)) => status::Outcome::Planned { findings: &plan.findings, decision: &plan.decision },
        Err(_) => status::Outcome::Failed { message: &message },
    };
    let next = status::next(&app, outcome, Timestamp::now());
    let reported = apply::status(ctx, &app, &mut working, next).await;
    // The first failure is the one to return.
    if let (_, Some(failure)) = converged? {
        return Err(failure);
    }
    reported?;
    object.succeeded();
    Ok(Action::requeue(observe::until_next_scrape(&app, &working)))
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
    let input = observe::observe(ctx, app, working).await?;
    let mut plan = decide(&input);
    let scraped = input.scrape.is_some();
    let CarriedOut { failure, left_out } = apply::carry_out(ctx, app, &input, &mut plan).await;
    if left_out.contains(&ChildKind::Replicas) {
        plan.take_back_scale();
    }
    // Readings and confirmed writes are kept even when another write failed.
    working.memory = plan.memory.clone();
    if scraped {
        ctx.metrics.decided(&plan.decision);
    }
    if scraped || plan.decision.from != plan.decision.to {
        object.record(plan.decision.clone());
    }
    if matches!(failure, Some(Error::Fenced)) {
        return Err(Error::Fenced);
    }
    events::of_decision(ctx, app, &plan).await;
    Ok((plan, failure))
}
