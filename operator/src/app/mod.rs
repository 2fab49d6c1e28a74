//! One reconcile: observe -> decide -> apply, and always report. The path, and nothing else.
//!
//! No step relies on an earlier one having run in the same pass; any await may be the last one.

mod apply;
mod events;
mod exposition;
mod observe;
mod scrape;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube_runtime::controller::Action;
use kube_runtime::events::{Recorder, Reporter};
use kube_runtime::reflector::Store;
use plimsoll_core::input::Settings;
use plimsoll_core::{Plan, decide, status};
use plimsoll_crds::ApiDeployment;
use tokio::sync::Semaphore;

use crate::controller::Guarded;
use crate::error::Error;
use crate::leader::Fence;
use crate::metrics::Metrics;
use crate::state::{Object, Registry, Working};

/// Longest time for a reconcile, scrape included.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);
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
}

/// Watched objects. They may be behind the API server; what that would hurt is read live.
#[derive(Clone)]
pub struct Stores {
    /// Deployments that Plimsoll has made.
    pub deployments: Store<Deployment>,
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
        Self { client, stores, fence, metrics, registry, settings, recorder, scrapes }
    }
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
    let message = converged.as_ref().err().map(Error::chain);
    let outcome = match (&converged, &message) {
        (Ok(plan), _) => status::Outcome::Converged { findings: &plan.findings, decision: &plan.decision },
        (Err(_), message) => status::Outcome::Failed { message: message.as_deref().unwrap_or_default() },
    };
    let next = status::next(&app, outcome, Timestamp::now());
    let reported = apply::status(ctx, &app, &mut working, next).await;
    // The first failure is the one to return.
    converged?;
    reported?;
    object.succeeded();
    Ok(Action::requeue(observe::until_next_scrape(&app, &working)))
}

async fn converge(
    app: &ApiDeployment,
    ctx: &Context,
    object: &Object,
    working: &mut Working,
) -> Result<Plan, Error> {
    let input = observe::observe(ctx, app, working).await?;
    let mut plan = decide(&input);
    let scraped = input.scrape.is_some();
    let applied = apply::carry_out(ctx, app, &input, &mut plan).await;
    // Readings and confirmed writes are kept even when a later write failed.
    working.memory = plan.memory.clone();
    if scraped {
        ctx.metrics.decided(&plan.decision);
    }
    if scraped || plan.decision.from != plan.decision.to {
        object.record(plan.decision.clone());
    }
    applied?;
    events::of_decision(ctx, app, &plan).await;
    Ok(plan)
}
