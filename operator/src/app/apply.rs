//! Writes only: carries out a plan in its order, and writes the status. It chooses nothing. What it reads live before a
//! write of replicas can only make it refuse the write.
//!
//! Every write passes the fence, is bounded in time, and is confirmed in the memory by what the API server answered.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::NamespaceResourceScope;
use kube::core::error_boundary::InvalidObject;
use plimsoll_core::build::name_of;
use plimsoll_core::input::Input;
use plimsoll_core::memory::{Applied, Failure, Memory};
use plimsoll_core::plan::{Change, ChildKind, Plan, Rollout, Step};
use plimsoll_core::{
    MANAGER, REPLICAS_MANAGER, replicas_hash, rollout_of, status, version_of, wanted_replicas,
};
use plimsoll_crds::{ApiDeployment, ApiDeploymentStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::{Instrument as _, debug, debug_span, info};

use super::{Context, events};
use crate::error::{Error, Retry};
use crate::leader::WRITE_TIMEOUT;
use crate::retry;
use crate::state::Working;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct CarriedOut {
    /// The first failure, if there was one.
    pub failure: Option<Error>,
    /// Children of which a step failed, or was left out because of one that had.
    pub left_out: BTreeSet<ChildKind>,
}

/// Carries out `plan` in order. A step that fails takes with it those that need it; the others go on, so that a child
/// that is refused stops neither the other children nor the replicas. The memory and the findings of the plan learn what
/// came of each step. Only the loss of leadership stops it at once.
///
/// The failure may be [`Error::Fenced`], [`Error::Write`], [`Error::WriteTimeout`], [`Error::Read`], or [`Error::Stale`]
/// when a change of replicas was decided from something that has changed since.
pub async fn carry_out(ctx: &Context, app: &ApiDeployment, input: &Input, plan: &mut Plan) -> CarriedOut {
    let mut carried = CarriedOut::default();
    for step in &plan.steps {
        let kind = step.kind();
        let fenced = matches!(carried.failure, Some(Error::Fenced));
        if fenced || step.needs().iter().any(|needed| carried.left_out.contains(needed)) {
            carried.left_out.insert(kind);
            continue;
        }
        let error = match carry_out_step(ctx, app, input, step, &mut plan.memory).await {
            Ok(None) => continue,
            Ok(Some(rollout)) => {
                // What was observed before is no longer so: pods of a new template are still to come.
                plan.findings.rollout = rollout;
                continue;
            }
            Err(error) => error,
        };
        carried.left_out.insert(kind);
        if matches!(error, Error::Fenced) {
            // Whatever failed before, this process may no longer tell of it.
            carried.failure = Some(error);
            continue;
        }
        let failure = failure_of(&error, step, &plan.memory);
        plan.findings.failures.push(failure.clone());
        plan.memory.record_failed(kind, failure);
        carried.failure.get_or_insert(error);
    }
    carried
}

fn failure_of(error: &Error, step: &Step, memory: &Memory) -> Failure {
    let in_a_row = memory.failed_in_a_row(step.kind(), step.hash()).saturating_add(1);
    Failure {
        hash: step.hash(),
        message: error.chain(),
        permanent: error.retry() == Retry::Permanent,
        in_a_row,
        at: Timestamp::now(),
        pause: retry::pause(error.retry(), in_a_row, rand::random()),
    }
}

/// Makes one write. Tells how the API's Deployment comes along when it was applied.
async fn carry_out_step(
    ctx: &Context,
    app: &ApiDeployment,
    input: &Input,
    step: &Step,
    memory: &mut Memory,
) -> Result<Option<Rollout>, Error> {
    match step {
        Step::CreateSecret(secret) => create_secret(ctx, app, secret).await?,
        Step::ApplyService { kind, service, hash } => {
            let written = apply(ctx, app, *kind, service.as_ref(), MANAGER, true).await?;
            memory.record_applied(*kind, confirmed(*hash, &written.metadata));
        }
        Step::ApplyDisruptionBudget { kind, budget, hash } => {
            let written = apply(ctx, app, *kind, budget.as_ref(), MANAGER, true).await?;
            memory.record_applied(*kind, confirmed(*hash, &written.metadata));
        }
        Step::ApplyNetworkPolicy { kind, policy, hash } => {
            let written = apply(ctx, app, *kind, policy.as_ref(), MANAGER, true).await?;
            memory.record_applied(*kind, confirmed(*hash, &written.metadata));
        }
        Step::CreateDeployment { deployment, .. } => {
            // Not forced: a foreign Deployment of this name has fields of its own, which makes this a conflict.
            let written =
                apply(ctx, app, ChildKind::Deployment, deployment.as_ref(), REPLICAS_MANAGER, false).await?;
            info!(app.name = name_of(app), replicas = wanted_replicas(&written), "Deployment made");
        }
        Step::ApplyDeployment { kind, deployment, hash } => {
            let written = apply(ctx, app, *kind, deployment.as_ref(), MANAGER, true).await?;
            memory.record_applied(*kind, confirmed(*hash, &written.metadata));
            return Ok((*kind == ChildKind::Deployment).then(|| rollout_of(&written)));
        }
        Step::ApplyStatefulSet { stateful_set, hash } => {
            let kind = ChildKind::CacheStatefulSet;
            let written = apply(ctx, app, kind, stateful_set.as_ref(), MANAGER, true).await?;
            memory.record_applied(kind, confirmed(*hash, &written.metadata));
        }
        Step::Scale { name, uid, change, live, .. } => {
            let written = scale(ctx, app, input, name, uid.as_deref(), *change, *live).await?;
            memory
                .record_applied(ChildKind::Replicas, confirmed(replicas_hash(change.to), &written.metadata));
            memory.record_version(ChildKind::Deployment, version_of(&written.metadata));
            if change.from != change.to {
                memory.record_change(Timestamp::now(), *change);
            }
        }
        Step::Delete { kind, name, uid } => delete(ctx, app, *kind, name, uid).await?,
    }
    Ok(None)
}

fn confirmed(hash: u64, metadata: &ObjectMeta) -> Applied {
    Applied { hash, uid: metadata.uid.clone().unwrap_or_default(), version: version_of(metadata) }
}

/// Lets one write pass, if leadership is certain, for a bounded time.
pub(super) async fn fenced<T>(
    ctx: &Context,
    what: impl Fn() -> String,
    write: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    let Some(_pass) = ctx.fence.pass(Instant::now()) else { return Err(Error::Fenced) };
    let write = write.instrument(debug_span!("write", what = what()));
    match tokio::time::timeout(WRITE_TIMEOUT, write).await {
        Ok(written) => written.map_err(|source| Error::Write { what: what(), source }),
        Err(_) => Err(Error::WriteTimeout { what: what(), timeout: WRITE_TIMEOUT }),
    }
}

fn api<K>(ctx: &Context, app: &ApiDeployment) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(ctx.client.clone(), app.metadata.namespace.as_deref().unwrap_or_default())
}

/// Server-side apply. `force` takes fields over from whoever set them: the spec of the resource is the one source of
/// truth for its children, and the UID in the object keeps foreign objects of the same name out.
async fn apply<K>(
    ctx: &Context,
    app: &ApiDeployment,
    kind: ChildKind,
    object: &K,
    manager: &str,
    force: bool,
) -> Result<K, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let name = object.meta().name.as_deref().unwrap_or_default();
    let params = PatchParams { field_manager: Some(manager.into()), force, ..PatchParams::default() };
    let api = api::<K>(ctx, app);
    let written =
        fenced(ctx, || format!("{kind} {name}"), api.patch(name, &params, &Patch::Apply(object))).await?;
    debug!(app.name = name_of(app), %kind, name, manager, "applied");
    Ok(written)
}

/// Creates the Secret. One that is there by now is kept: whoever made it, its password may be in use.
async fn create_secret(ctx: &Context, app: &ApiDeployment, secret: &Secret) -> Result<(), Error> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let api = api::<Secret>(ctx, app);
    fenced(ctx, || format!("Secret {name}"), api.create(&params, secret)).await?;
    info!(app.name = name_of(app), "credentials of the managed cache made");
    Ok(())
}

/// Applies `spec.replicas` and nothing else. If the step says so, it looks live first whether the decision still stands,
/// and the API server refuses if anything changes in between.
async fn scale(
    ctx: &Context,
    app: &ApiDeployment,
    input: &Input,
    name: &str,
    uid: Option<&str>,
    change: Change,
    live: bool,
) -> Result<Deployment, Error> {
    let mut resource_version = None;
    if live {
        let live = api::<ApiDeployment>(ctx, app)
            .get_opt(name_of(app))
            .await
            .map_err(|source| Error::Read { what: format!("ApiDeployment {name}"), source })?;
        let same = live.is_some_and(|live| {
            live.metadata.uid == app.metadata.uid
                && live.metadata.generation == app.metadata.generation
                && live.metadata.deletion_timestamp.is_none()
        });
        if !same {
            return Err(Error::Stale { what: format!("ApiDeployment {name}") });
        }
        let live = api::<Deployment>(ctx, app)
            .get_opt(name)
            .await
            .map_err(|source| Error::Read { what: format!("Deployment {name}"), source })?;
        let live =
            live.filter(|live| live.metadata.uid.as_deref() == uid && wanted_replicas(live) == change.from);
        let Some(live) = live else { return Err(Error::Stale { what: format!("Deployment {name}") }) };
        resource_version = live.metadata.resource_version;
    }
    let patch = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "uid": uid, "resourceVersion": resource_version },
        "spec": { "replicas": change.to },
    });
    let params = PatchParams::apply(REPLICAS_MANAGER).force();
    let deployments = api::<Deployment>(ctx, app);
    let what = || format!("{} {name}", ChildKind::Replicas);
    let written =
        fenced(ctx, what, deployments.patch(name, &params, &Patch::Apply(&without_nulls(patch)))).await?;
    if change.from != change.to {
        info!(app.name = name_of(app), from = change.from, to = change.to, generation = ?input.app.metadata.generation, "scaled");
    }
    Ok(written)
}

/// Server-side apply reads a null as a field that is set.
fn without_nulls(mut patch: serde_json::Value) -> serde_json::Value {
    if let Some(metadata) = patch.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null());
    }
    patch
}

async fn delete(
    ctx: &Context,
    app: &ApiDeployment,
    kind: ChildKind,
    name: &str,
    uid: &str,
) -> Result<(), Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
        ..DeleteParams::background()
    };
    let what = || format!("{kind} {name}");
    let deleted = match kind {
        ChildKind::CacheStatefulSet => {
            fenced(ctx, what, api::<StatefulSet>(ctx, app).delete(name, &params)).await.map(|_| ())
        }
        ChildKind::CacheService | ChildKind::CacheNodes | ChildKind::Service => {
            fenced(ctx, what, api::<Service>(ctx, app).delete(name, &params)).await.map(|_| ())
        }
        ChildKind::CacheDisruptionBudget | ChildKind::DisruptionBudget => {
            fenced(ctx, what, api::<PodDisruptionBudget>(ctx, app).delete(name, &params)).await.map(|_| ())
        }
        ChildKind::CacheNetworkPolicy | ChildKind::NetworkPolicy => {
            fenced(ctx, what, api::<NetworkPolicy>(ctx, app).delete(name, &params)).await.map(|_| ())
        }
        ChildKind::CacheSecret => {
            fenced(ctx, what, api::<Secret>(ctx, app).delete(name, &params)).await.map(|_| ())
        }
        ChildKind::CacheDeployment | ChildKind::Deployment | ChildKind::Replicas => {
            fenced(ctx, what, api::<Deployment>(ctx, app).delete(name, &params)).await.map(|_| ())
        }
    };
    match deleted {
        // Gone already is as good; a store that is behind shows it once more.
        Err(Error::Write { source: kube::Error::Api(status), .. }) if status.code == 404 => Ok(()),
        deleted => {
            info!(app.name = name_of(app), %kind, name, "deleted a child that is no longer wanted");
            deleted
        }
    }
}

/// Writes the status if it says something new, and tells of what is new.
///
/// # Errors
/// Those of the write.
pub async fn status(
    ctx: &Context,
    app: &ApiDeployment,
    working: &mut Working,
    next: ApiDeploymentStatus,
) -> Result<(), Error> {
    let now = Timestamp::now();
    if !status::worth_writing(app.status.as_ref(), &next, working.status_written_at, now) {
        return Ok(());
    }
    let before = app.status.clone().unwrap_or_default();
    let written = write_status(ctx, &app.metadata, &next).await?;
    let version = written.metadata.resource_version.unwrap_or_default();
    // As the API server stored it: times lose their fractions there.
    let stored = written.data.get("status").cloned().and_then(|status| serde_json::from_value(status).ok());
    working.status = Some((version, stored.unwrap_or_else(|| next.clone())));
    working.status_written_at = Some(now);
    events::of_status(ctx, app, &before, &next).await;
    Ok(())
}

/// Says of an object that cannot be read that it cannot be read, and returns what it said; nothing if the object is gone.
/// Its children are left alone.
///
/// # Errors
/// Those of the write.
pub async fn unreadable(
    ctx: &Context,
    invalid: &InvalidObject,
) -> Result<Option<ApiDeploymentStatus>, Error> {
    let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
    let name = invalid.metadata.name.as_deref().unwrap_or_default();
    let resource = ApiResource::erase::<ApiDeployment>(&());
    let api = Api::<DynamicObject>::namespaced_with(ctx.client.clone(), namespace, &resource);
    let live = api
        .get_opt(name)
        .await
        .map_err(|source| Error::Read { what: format!("ApiDeployment {name}"), source })?;
    let Some(live) = live else { return Ok(None) };
    let before = live.data.get("status").cloned().and_then(|status| serde_json::from_value(status).ok());
    let next =
        status::unreadable(live.metadata.generation, before.as_ref(), &invalid.error, Timestamp::now());
    if before.as_ref() != Some(&next) {
        write_status(ctx, &live.metadata, &next).await?;
    }
    Ok(Some(next))
}

/// Server-side apply of the status, forced: nobody else writes it. The UID keeps it off a namesake.
async fn write_status(
    ctx: &Context,
    metadata: &ObjectMeta,
    next: &ApiDeploymentStatus,
) -> Result<DynamicObject, Error> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let resource = ApiResource::erase::<ApiDeployment>(&());
    let api = Api::<DynamicObject>::namespaced_with(ctx.client.clone(), namespace, &resource);
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": { "name": name, "uid": metadata.uid },
        "status": next,
    });
    let params = PatchParams::apply(MANAGER).force();
    fenced(
        ctx,
        || format!("status of ApiDeployment {name}"),
        api.patch_status(name, &params, &Patch::Apply(&patch)),
    )
    .await
}
