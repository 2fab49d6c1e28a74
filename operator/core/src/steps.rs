//! The writes that a plan asks for: which children differ from what they should be, in which order they are written, and
//! what stands in their way.

use std::collections::BTreeSet;

use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use plimsoll_crds::{ApiDeployment, CacheKind};
use serde::Serialize;

use crate::MANAGER;
use crate::build::{self, hash_of};
use crate::input::{Child, Input, Observed};
use crate::memory::{Applied, Failure, Memory};
use crate::plan::{Change, ChildKind, Step};
use crate::policy::ScalingPolicy;
use crate::protection;

/// What stands in the way of children.
pub(crate) struct Blockers {
    pub name_conflicts: Vec<String>,
    /// The API's Deployment cannot be applied now.
    deployment: bool,
    /// The managed cache's Secret is somebody else's, lacks something, or nothing is known of it.
    cache_secret: bool,
}

impl Blockers {
    pub fn of(input: &Input) -> Self {
        let Observed {
            deployment,
            service,
            cache_deployment,
            cache_stateful_set,
            cache_nodes,
            cache_service,
            cache_secret,
            disruption_budget: _,
            network_policy: _,
            cache_network_policy: _,
            cache_disruption_budget: _,
            configuration,
            missing_secret_keys,
            secrets_unread,
            rivals: _,
        } = &input.observed;
        let name = build::name_of(&input.app);
        let cache = build::cache_name(&input.app);
        let nodes = build::cache_nodes_name(&input.app);
        let managed = matches!(input.app.spec.cache.kind(), CacheKind::Managed(_));
        let fails_over = fails_over(&input.app);
        let foreign = [
            (matches!(deployment, Child::Foreign), ChildKind::Deployment, name),
            (matches!(service, Child::Foreign), ChildKind::Service, name),
            (
                managed && !fails_over && matches!(cache_deployment, Child::Foreign),
                ChildKind::CacheDeployment,
                &cache,
            ),
            (fails_over && matches!(cache_stateful_set, Child::Foreign), ChildKind::CacheStatefulSet, &cache),
            (fails_over && matches!(cache_nodes, Child::Foreign), ChildKind::CacheNodes, &nodes),
            (managed && matches!(cache_service, Child::Foreign), ChildKind::CacheService, &cache),
            (managed && matches!(cache_secret, Child::Foreign), ChildKind::CacheSecret, &cache),
        ];
        let name_conflicts = foreign
            .iter()
            .filter(|(taken, ..)| *taken)
            .map(|(_, kind, name)| format!("{kind} {name}"))
            .chain(protection::name_conflicts(input))
            .collect::<Vec<_>>();
        let secret_taken = managed && matches!(cache_secret, Child::Foreign);
        Self {
            deployment: matches!(deployment, Child::Foreign)
                || secret_taken
                || secrets_unread.is_some()
                || configuration.unread.is_some()
                || !configuration.missing.is_empty()
                || !missing_secret_keys.is_empty(),
            cache_secret: secret_taken
                || (managed && secrets_unread.is_some())
                // A server that runs without what is missing would be ended for one that could not start.
                || (managed && missing_secret_keys.iter().any(|(secret, _)| *secret == cache)),
            name_conflicts,
        }
    }
}

/// The children as they should be.
pub(crate) struct Children {
    deployment: Deployment,
    service: Service,
    cache: Option<(CacheServers, Service)>,
}

/// What runs the managed cache.
enum CacheServers {
    One(Box<Deployment>),
    Several(Box<StatefulSet>, Box<Service>),
}

fn fails_over(app: &ApiDeployment) -> bool {
    matches!(app.spec.cache.kind(), CacheKind::Managed(cache) if cache.fails_over())
}

impl Children {
    pub fn of(input: &Input) -> Self {
        let Input { app, settings, .. } = input;
        let revision = match input.observed.cache_secret.owned() {
            Some(secret) => &secret.revision,
            None => &input.fresh_credentials.revision,
        };
        let cache = match app.spec.cache.kind() {
            CacheKind::Managed(cache) => {
                let servers = if cache.fails_over() {
                    let stateful_set = build::cache_stateful_set(app, cache, settings, revision);
                    CacheServers::Several(Box::new(stateful_set), Box::new(build::cache_nodes_service(app)))
                } else {
                    CacheServers::One(Box::new(build::cache_deployment(app, cache, settings, revision)))
                };
                Some((servers, build::cache_service(app)))
            }
            CacheKind::External(_) | CacheKind::Disabled => None,
        };
        let mut deployment = build::deployment(app, settings, revision);
        let Observed { deployment: live, configuration, .. } = &input.observed;
        build::inherit(&mut deployment, app, live.owned(), configuration.digest.as_deref());
        Self { deployment, service: build::service(app), cache }
    }
}

/// The writes that bring the cluster to the children and the replicas, in order.
pub(crate) fn steps(
    input: &Input,
    memory: &Memory,
    children: Children,
    policy: &ScalingPolicy,
    change: Change,
    blockers: &Blockers,
) -> Vec<Step> {
    let Observed {
        deployment,
        service,
        cache_deployment,
        cache_stateful_set,
        cache_nodes,
        cache_service,
        cache_secret,
        ..
    } = &input.observed;
    let cache_wanted = children.cache.is_some();
    let several = fails_over(&input.app);
    let mut steps = Vec::new();
    if let Some((servers, wanted_service)) = children.cache {
        if matches!(cache_secret, Child::Absent) && !blockers.cache_secret {
            let secret = build::cache_secret(&input.app, &input.fresh_credentials);
            steps.push(Step::CreateSecret(Box::new(secret)));
        }
        steps.extend(service_step(memory, ChildKind::CacheService, cache_service, wanted_service));
        match servers {
            _ if blockers.cache_secret => {}
            CacheServers::One(wanted) => {
                steps.extend(deployment_step(memory, ChildKind::CacheDeployment, cache_deployment, *wanted));
            }
            CacheServers::Several(wanted, nodes) => {
                steps.extend(service_step(memory, ChildKind::CacheNodes, cache_nodes, *nodes));
                match cache_stateful_set.owned() {
                    // The next reconcile makes it anew.
                    Some(live) if build::speaks_otherwise(live, &wanted) => {
                        steps.extend(delete_step(ChildKind::CacheStatefulSet, Some(&live.metadata)));
                    }
                    _ => steps.extend(stateful_set_step(memory, cache_stateful_set, *wanted)),
                }
            }
        }
    }
    steps.extend(service_step(memory, ChildKind::Service, service, children.service));
    steps.extend(protection::steps(input, memory));
    if !blockers.deployment {
        steps.extend(api_deployment_steps(memory, deployment, children.deployment, policy, change));
    } else if let Child::Owned(existing) = deployment
        && template_is_held(memory, &existing.metadata)
        && !policy.only_recommends()
    {
        // The template has to wait; the replicas of the one that runs need not.
        steps.extend(scale_step(memory, &existing.metadata, change));
    }
    // While the template waits, the running one may still use the cache.
    if !blockers.deployment {
        // The Secret stays until the resource goes, so that a cache that comes back keeps its password.
        let unwanted = [
            (
                !cache_wanted || several,
                ChildKind::CacheDeployment,
                cache_deployment.owned().map(|child| &child.metadata),
            ),
            (!several, ChildKind::CacheStatefulSet, cache_stateful_set.owned().map(|child| &child.metadata)),
            (!several, ChildKind::CacheNodes, cache_nodes.owned().map(|child| &child.metadata)),
            (!cache_wanted, ChildKind::CacheService, cache_service.owned().map(|child| &child.metadata)),
        ];
        let unwanted = unwanted.into_iter().filter(|(unwanted, ..)| *unwanted);
        steps.extend(unwanted.filter_map(|(_, kind, existing)| delete_step(kind, existing)));
    }
    steps
}

/// The template first, then the replicas. A new Deployment is made by the replicas' field manager, with its replicas:
/// it never runs with Kubernetes' default of one. Then the template's manager applies the template, and only after
/// that the replicas' manager gives up everything but the replicas. Whatever step is the last one before a crash,
/// going through the same steps again ends the same.
fn api_deployment_steps(
    memory: &Memory,
    observed: &Child<Deployment>,
    wanted: Deployment,
    policy: &ScalingPolicy,
    change: Change,
) -> Vec<Step> {
    let mut steps = Vec::new();
    match observed {
        Child::Foreign | Child::Attached(_) => {}
        Child::Absent => {
            let mut with_replicas = wanted.clone();
            if let Some(spec) = &mut with_replicas.spec {
                spec.replicas = Some(change.to);
            }
            let name = wanted.metadata.name.clone().unwrap_or_default();
            let hash = hash_of(&wanted);
            steps.push(Step::CreateDeployment { deployment: Box::new(with_replicas), hash });
            steps.push(Step::ApplyDeployment {
                kind: ChildKind::Deployment,
                deployment: Box::new(wanted),
                hash,
            });
            steps.push(Step::Scale { name, uid: None, change, live: false, after_template: true });
        }
        Child::Owned(existing) => {
            steps.extend(deployment_step(memory, ChildKind::Deployment, observed, wanted));
            // Who only recommends does not take the field from whoever sets it.
            if !policy.only_recommends() {
                steps.extend(scale_step(memory, &existing.metadata, change));
            }
        }
    }
    steps
}

fn deployment_step(
    memory: &Memory,
    kind: ChildKind,
    observed: &Child<Deployment>,
    wanted: Deployment,
) -> Option<Step> {
    let (deployment, hash) = unlike(memory, kind, observed, wanted)?;
    Some(Step::ApplyDeployment { kind, deployment, hash })
}

fn stateful_set_step(memory: &Memory, observed: &Child<StatefulSet>, wanted: StatefulSet) -> Option<Step> {
    let (stateful_set, hash) = unlike(memory, ChildKind::CacheStatefulSet, observed, wanted)?;
    Some(Step::ApplyStatefulSet { stateful_set, hash })
}

fn service_step(
    memory: &Memory,
    kind: ChildKind,
    observed: &Child<Service>,
    wanted: Service,
) -> Option<Step> {
    let (service, hash) = unlike(memory, kind, observed, wanted)?;
    Some(Step::ApplyService { kind, service, hash })
}

/// The child as it should be, with the UID of the existing one, and its hash: if it is not as it was last written, and its
/// name is not taken.
pub(crate) fn unlike<K>(
    memory: &Memory,
    kind: ChildKind,
    observed: &Child<K>,
    mut wanted: K,
) -> Option<(Box<K>, u64)>
where
    K: Metadata<Ty = ObjectMeta> + Serialize,
{
    let hash = hash_of(&wanted);
    let existing = match observed {
        Child::Foreign | Child::Attached(_) => return None,
        Child::Absent => None,
        Child::Owned(existing) => Some(existing.metadata()),
    };
    if existing.is_some_and(|existing| up_to_date(memory, kind, hash, existing)) {
        return None;
    }
    wanted.metadata_mut().uid = existing.and_then(|existing| existing.uid.clone());
    Some((Box::new(wanted), hash))
}

/// Writes the replicas when they change, and once after a start, so that the field has its manager. What was read may be
/// behind what the operator before this one wrote: the first write looks live, as one that removes replicas always does.
pub(crate) fn scale_step(memory: &Memory, existing: &ObjectMeta, change: Change) -> Option<Step> {
    let written = memory.applied(ChildKind::Replicas).filter(|applied| applied.uid == uid(existing));
    let known = written.is_some_and(|applied| applied.hash == replicas_hash(change.to));
    (!known || change.from != change.to).then(|| Step::Scale {
        name: existing.name.clone().unwrap_or_default(),
        uid: existing.uid.clone(),
        change,
        live: written.is_none() || change.to <= change.from,
        after_template: !template_is_held(memory, existing),
    })
}

/// Whether the template has its own field manager, from this process' write or, after a restart, from an earlier one's.
fn template_is_held(memory: &Memory, existing: &ObjectMeta) -> bool {
    memory.applied(ChildKind::Deployment).is_some_and(|applied| applied.uid == uid(existing))
        || existing.managed_fields.iter().flatten().any(applied_by_us)
}

/// Whether an entry of `metadata.managedFields` tells of our own server-side apply of an object. Of the API's Deployment
/// that is its template, for the replicas have another manager.
pub fn applied_by_us(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(MANAGER)
        && entry.operation.as_deref() == Some("Apply")
        && entry.subresource.as_deref().unwrap_or_default().is_empty()
}

/// The steps that may be tried now, and the failures for which the others are not.
pub(crate) fn without_paused(
    wanted: Vec<Step>,
    memory: &mut Memory,
    input: &Input,
) -> (Vec<Step>, Vec<Failure>) {
    memory.failures.retain(|kind, _| {
        // Between two scrapes nothing says whether the replicas would be written again.
        wanted.iter().any(|step| step.kind() == *kind)
            || (*kind == ChildKind::Replicas && input.scrape.is_none())
    });
    let (mut steps, mut left_out, mut failures) = (Vec::new(), BTreeSet::new(), Vec::new());
    for step in wanted {
        let kind = step.kind();
        // Replicas have a pace of their own: each scrape decides on them afresh.
        let paused = memory.paused(kind, step.hash(), input.now).filter(|_| kind != ChildKind::Replicas);
        if paused.is_some() || step.needs().iter().any(|needed| left_out.contains(needed)) {
            failures.extend(paused.filter(|_| !left_out.contains(&kind)).cloned());
            left_out.insert(kind);
        } else {
            steps.push(step);
        }
    }
    if !steps.iter().any(|step| step.kind() == ChildKind::Replicas) {
        failures.extend(memory.failures.get(&ChildKind::Replicas).cloned());
    }
    (steps, failures)
}

pub(crate) fn delete_step(kind: ChildKind, existing: Option<&ObjectMeta>) -> Option<Step> {
    let existing = existing.filter(|existing| existing.deletion_timestamp.is_none())?;
    Some(Step::Delete { kind, name: existing.name.clone()?, uid: existing.uid.clone()? })
}

/// What stands for a number of replicas in the record of own writes.
pub fn replicas_hash(replicas: i32) -> u64 {
    u64::from(replicas.unsigned_abs())
}

/// What stands for the state of an object in the record of own writes: its generation, or where there is none the
/// resource version. The status of a Deployment changes all the time and is not ours.
pub fn version_of(metadata: &ObjectMeta) -> String {
    let generation = metadata.generation.map(|generation| generation.to_string());
    generation.or_else(|| metadata.resource_version.clone()).unwrap_or_default()
}

fn up_to_date(memory: &Memory, kind: ChildKind, hash: u64, existing: &ObjectMeta) -> bool {
    memory.applied(kind)
        == Some(&Applied { hash, uid: uid(existing).to_owned(), version: version_of(existing) })
}

fn uid(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}
