//! Reads only: turns the cluster into an `Input`. What the stores hold is taken from them; what they lack, or hold in
//! an older form than we last wrote, is read live.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use kube_runtime::reflector::{ObjectRef, Store};
use plimsoll_core::build::{
    self, CERTIFICATE_KEYS, OPERATOR_PASSWORD_KEY, REVISION_ANNOTATION, cache_name, cache_secret_keys,
    name_of,
};
use plimsoll_core::input::{CacheSecret, Child, Input, Observed, Scrape, child_of};
use plimsoll_core::memory::{Failure, Memory};
use plimsoll_core::plan::ChildKind;
use plimsoll_core::{version_of, with_resources_of};
use plimsoll_crds::{ApiDeployment, CacheKind, DatabaseKind, SecretKeySelector};
use serde::de::DeserializeOwned;

use super::{Context, attached, cache as cache_question, cache_credentials, configuration, rivals};
use crate::error::{Error, Retry};
use crate::source::pods::Pods;
use crate::source::prometheus::Prometheus;
use crate::source::round::round;
use crate::source::target::Target;
use crate::source::{Asked, MetricsSource as _, credentials};
use crate::state::{CacheLogin, Secrets, Working};

/// Secrets that were there are looked at again after this long.
const SECRETS_AGE_MAX: Duration = Duration::from_mins(1);
/// A trigger this part of a period before the next scrape does not wait for it.
const EARLY: f64 = 0.9;

/// Reads everything that a decision may look at.
///
/// # Errors
/// [`Error::Read`] if the API server fails. A pod that cannot be asked is no error, nor is a Secret that cannot be read:
/// the replicas need none.
pub async fn observe(ctx: &Context, app: &ApiDeployment, working: &mut Working) -> Result<Input, Error> {
    let (secrets, secrets_unread) = match secrets(ctx, app, working.secrets.as_ref()).await {
        Ok(secrets) => (Some(secrets), None),
        Err(error) => {
            // What was there a while ago is believed for longer, but not of another spec.
            let last = working.secrets.clone().filter(|last| last.generation == app.metadata.generation);
            let unread =
                last.is_none().then(|| Failure::of_read(error.chain(), error.retry() == Retry::Permanent));
            (last, unread)
        }
    };
    let configuration = configuration::read(ctx, app, &mut working.configuration).await;
    let observed = Observed {
        missing_secret_keys: secrets.as_ref().map_or_else(Vec::new, |secrets| secrets.missing.clone()),
        secrets_unread,
        configuration,
        ..children(ctx, app, &working.memory, secrets.as_ref()).await?
    };
    working.secrets = secrets;
    let app = match &observed.deployment {
        Child::Attached(deployment) => &with_resources_of(app.clone(), deployment),
        _ => app,
    };

    let due = until_next_scrape(app, working) <= period(app).mul_f64(1.0 - EARLY);
    let mut scrape = None;
    if due {
        // Set even if there is nothing to ask yet: it is the rhythm of the object.
        working.scraped_at = Some(Instant::now());
        let targets = match &observed.deployment {
            Child::Owned(_) => Some(pods_of(app, &ctx.stores.pods)),
            Child::Attached(deployment) => Some(attached::pods(ctx, app, deployment).await?),
            Child::Absent | Child::Foreign => None,
        };
        if let Some(targets) = targets {
            scrape = self::scrape(ctx, app, &targets, working).await;
        }
    }
    let cache_managed = matches!(app.spec.cache.kind(), CacheKind::Managed(_));
    let cache = cache_question::last_said(app, working, &ctx.cache_questions);
    let without_secret = cache_managed && matches!(observed.cache_secret, Child::Absent);
    Ok(Input {
        now: Timestamp::now(),
        cache: cache.reading,
        cache_silence: cache.silence,
        app: app.clone(),
        settings: ctx.settings.clone(),
        observed,
        scrape,
        memory: working.memory.clone(),
        fresh_credentials: cache_credentials::fresh(app, without_secret),
    })
}

/// The children as they are, and who else scales.
async fn children(
    ctx: &Context,
    app: &ApiDeployment,
    memory: &Memory,
    secrets: Option<&Secrets>,
) -> Result<Observed, Error> {
    let (name, cache) = (name_of(app), cache_name(app));
    let cache_managed = matches!(app.spec.cache.kind(), CacheKind::Managed(_));
    let cache_fails_over = matches!(app.spec.cache.kind(), CacheKind::Managed(cache) if cache.fails_over());
    let target = app.spec.attached_to();
    let own = target.is_none();
    let policy_wanted = own && app.spec.network_policy.is_some();
    let stores = &ctx.stores;
    let deployment = match target {
        Some(target) => attached::deployment(ctx, app, target).await?,
        None => child(ctx, app, &stores.deployments, memory, ChildKind::Deployment, name, true).await?,
    };
    Ok(Observed {
        disruption_budget: child(
            ctx,
            app,
            &stores.disruption_budgets,
            memory,
            ChildKind::DisruptionBudget,
            name,
            own && build::disruption_budget(app).is_some(),
        )
        .await?,
        network_policy: child(
            ctx,
            app,
            &stores.network_policies,
            memory,
            ChildKind::NetworkPolicy,
            name,
            policy_wanted,
        )
        .await?,
        cache_disruption_budget: child(
            ctx,
            app,
            &stores.disruption_budgets,
            memory,
            ChildKind::CacheDisruptionBudget,
            &cache,
            cache_fails_over,
        )
        .await?,
        cache_network_policy: child(
            ctx,
            app,
            &stores.network_policies,
            memory,
            ChildKind::CacheNetworkPolicy,
            &cache,
            policy_wanted && cache_managed,
        )
        .await?,
        deployment,
        rivals: rivals::of(app, stores),
        service: child(ctx, app, &stores.services, memory, ChildKind::Service, name, own).await?,
        cache_deployment: child(
            ctx,
            app,
            &stores.deployments,
            memory,
            ChildKind::CacheDeployment,
            &cache,
            cache_managed && !cache_fails_over,
        )
        .await?,
        cache_stateful_set: child(
            ctx,
            app,
            &stores.stateful_sets,
            memory,
            ChildKind::CacheStatefulSet,
            &cache,
            cache_fails_over,
        )
        .await?,
        cache_nodes: child(
            ctx,
            app,
            &stores.services,
            memory,
            ChildKind::CacheNodes,
            &build::cache_nodes_name(app),
            cache_fails_over,
        )
        .await?,
        cache_service: child(
            ctx,
            app,
            &stores.services,
            memory,
            ChildKind::CacheService,
            &cache,
            cache_managed,
        )
        .await?,
        cache_secret: secrets.map_or(Child::Absent, |secrets| secrets.cache.clone()),
        ..Observed::default()
    })
}

/// How long until the pods are asked again.
pub fn until_next_scrape(app: &ApiDeployment, working: &Working) -> Duration {
    working.scraped_at.map_or(Duration::ZERO, |at| period(app).saturating_sub(at.elapsed()))
}

/// The resource with the status that we last wrote, if the watch has not brought it yet.
pub fn with_last_status(app: &ApiDeployment, working: &Working) -> ApiDeployment {
    let mut app = app.clone();
    if let Some((written_version, status)) = &working.status {
        let seen = app.metadata.resource_version.as_deref().and_then(|version| version.parse::<u64>().ok());
        let written = written_version.parse::<u64>().ok();
        if seen < written {
            app.status = Some(status.clone());
        }
    }
    app
}

fn period(app: &ApiDeployment) -> Duration {
    Duration::from_secs(u64::try_from(app.spec.metrics.scrape_period_seconds).unwrap_or(1).max(1))
}

/// One child, from the store if it is there as we last wrote it, otherwise live.
async fn child<K>(
    ctx: &Context,
    app: &ApiDeployment,
    store: &Store<K>,
    memory: &Memory,
    kind: ChildKind,
    name: &str,
    wanted: bool,
) -> Result<Child<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let namespace = app.metadata.namespace.as_deref().unwrap_or_default();
    let owner_uid = app.metadata.uid.as_deref().unwrap_or_default();
    let stored = store.get(&ObjectRef::new(name).within(namespace));
    let written = memory.applied(kind);
    // Until the template is written, as while its Secret is missing, the replicas are what is known of their Deployment.
    let written = written.or_else(|| memory.applied(ChildKind::Replicas).filter(|_| counted(kind)));
    let current = stored.as_ref().is_some_and(|stored| match written {
        Some(written) => {
            Some(&written.uid) == stored.meta().uid.as_ref() && written.version == version_of(stored.meta())
        }
        // A store may be behind what the operator before this one wrote, and replicas are counted on from here.
        None => !counted(kind),
    });
    if let Some(stored) = stored.filter(|_| current || !wanted) {
        return Ok(child_of(owner_uid, Some((K::clone(&stored), stored.meta()))));
    }
    if !wanted {
        return Ok(Child::Absent);
    }
    let live = Api::<K>::namespaced(ctx.client.clone(), namespace)
        .get_opt(name)
        .await
        .map_err(|source| Error::Read { what: format!("{kind} {name}"), source })?;
    Ok(child_of(owner_uid, live.as_ref().map(|live| (live.clone(), live.meta()))))
}

/// Whether the replicas of this child are decided on.
fn counted(kind: ChildKind) -> bool {
    kind == ChildKind::Deployment
}

/// The Secrets that the spec needs. They are not watched, so that the operator sees only those it is told of; what was
/// there is believed for a minute.
async fn secrets(ctx: &Context, app: &ApiDeployment, last: Option<&Secrets>) -> Result<Secrets, Error> {
    let generation = app.metadata.generation;
    let managed = matches!(app.spec.cache.kind(), CacheKind::Managed(_));
    if let Some(last) = last
        && last.generation == generation
        && last.read_at.elapsed() < SECRETS_AGE_MAX
        && last.missing.is_empty()
        && (!managed || last.cache.owned().is_some())
    {
        return Ok(last.clone());
    }
    let namespace = app.metadata.namespace.as_deref().unwrap_or_default();
    let api = Api::<Secret>::namespaced(ctx.client.clone(), namespace);
    let get = async |name: &str| {
        api.get_opt(name).await.map_err(|source| Error::Read { what: format!("Secret {name}"), source })
    };
    let mut missing = Vec::new();
    for SecretKeySelector { name, key } in referenced(app) {
        let secret = get(&name).await?;
        if !secret.is_some_and(|secret| secret.data.is_some_and(|data| data.contains_key(&key))) {
            missing.push((name, key));
        }
    }
    let (mut cache, mut cache_login) = (Child::Absent, None);
    if managed {
        let name = cache_name(app);
        let found = get(&name).await?;
        if let Some(secret) = &found {
            let has = |key: &&str| secret.data.as_ref().is_some_and(|data| data.contains_key(*key));
            missing.extend(
                cache_secret_keys(app)
                    .iter()
                    .filter(|key| !has(key))
                    .map(|key| (name.clone(), (*key).to_owned())),
            );
            let authority = match own_certificates(app) {
                Some(other) => get(other).await?.and_then(|other| text(&other, CERTIFICATE_KEYS[0])),
                None => text(secret, CERTIFICATE_KEYS[0]),
            };
            cache_login =
                text(secret, OPERATOR_PASSWORD_KEY).map(|password| CacheLogin { password, authority });
        }
        let owner_uid = app.metadata.uid.as_deref().unwrap_or_default();
        let seen = found.as_ref().map(|secret| {
            let annotations = secret.metadata.annotations.as_ref();
            let revision = annotations.and_then(|annotations| annotations.get(REVISION_ANNOTATION));
            (CacheSecret { revision: revision.cloned().unwrap_or_default() }, &secret.metadata)
        });
        cache = child_of(owner_uid, seen);
    }
    Ok(Secrets { read_at: Instant::now(), generation, cache, cache_login, missing })
}

/// Keys of Secrets that are not ours to make.
fn referenced(app: &ApiDeployment) -> Vec<SecretKeySelector> {
    let mut referenced = Vec::new();
    if let DatabaseKind::External(database) = app.spec.database() {
        referenced.push(database.url_from.secret_key_ref.clone());
    }
    if let CacheKind::External(cache) = app.spec.cache.kind() {
        referenced.push(cache.url_from.secret_key_ref.clone());
        referenced.extend(cache.ca_from.iter().map(|from| from.secret_key_ref.clone()));
    }
    if let Some(name) = own_certificates(app) {
        referenced
            .extend(CERTIFICATE_KEYS.map(|key| SecretKeySelector { name: name.into(), key: key.into() }));
    }
    referenced
}

/// The Secret of the user's own certificates for the managed cache.
fn own_certificates(app: &ApiDeployment) -> Option<&str> {
    match app.spec.cache.kind() {
        CacheKind::Managed(cache) => cache.tls.as_ref()?.secret_name.as_deref(),
        CacheKind::External(_) | CacheKind::Disabled => None,
    }
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

/// Reads the counts of the pods where the spec says. None when there is nothing newer than in the last round.
async fn scrape(
    ctx: &Context,
    app: &ApiDeployment,
    targets: &[Target],
    working: &mut Working,
) -> Option<Scrape> {
    let deployment = app.spec.attached_to().unwrap_or_else(|| name_of(app));
    let readings = match credentials::of(&ctx.client, app, &mut working.credentials).await {
        Ok(credentials) => {
            let asked = Asked { app, deployment, targets, credentials: &credentials };
            match &app.spec.metrics.prometheus {
                Some(_) => Prometheus { servers: &ctx.servers }.read(asked).await,
                None => Pods { turns: &ctx.scrapes }.read(asked).await,
            }
        }
        Err(outage) => Err(outage),
    };
    round(targets, readings, &mut working.progress, Timestamp::now())
}

fn pods_of(app: &ApiDeployment, pods: &Store<Pod>) -> Vec<Target> {
    pods.state().iter().filter_map(|pod| Target::of(app, pod)).collect()
}
