//! The decisions of the operator, as pure functions: observe -> **decide** -> apply.
//!
//! There is no client, no clock and no randomness in this crate: the same [`Input`] gives the same [`Plan`]. In reading
//! order: [`input`], [`plan`], [`decide`], `scale`, [`policy`], [`histogram`], [`memory`], [`build`], [`status`].

pub mod build;
pub mod engine;
pub mod histogram;
pub mod input;
pub mod memory;
pub mod plan;
pub mod policy;
mod scale;
pub mod status;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use plimsoll_crds::CacheKind;

use build::hash_of;
pub use input::Input;
use input::{Bounds, Child, Observed, Scrape, Targets};
use memory::{Applied, Change, Failure, Memory};
pub use plan::Plan;
use plan::{ChildKind, Decision, Evidence, Findings, Limit, Reason, Rollout, Step};
use scale::{Situation, Verdict};

/// Field manager of everything but the replicas.
pub const MANAGER: &str = "plimsoll-operator";
/// Field manager of `spec.replicas` of the API's Deployment, and of nothing else once the Deployment is made.
pub const REPLICAS_MANAGER: &str = "plimsoll-autoscaler";

/// Decides what to write and how many replicas there shall be.
///
/// Guarantees: a spec that cannot be read gives no steps; without a scrape the replicas change only by the spec; a
/// plan that was carried out and confirmed in the memory is followed by one without steps.
pub fn decide(input: &Input) -> Plan {
    let mut memory = input.memory.clone();
    let deployment = input.observed.deployment.owned();
    let current = deployment.map_or(0, wanted_replicas);
    let targets = match Targets::of(&input.app.spec) {
        Ok(targets) => targets,
        Err(message) => return invalid(input, memory, current, message),
    };
    let bounds = Bounds::of(&input.app.spec);
    let rollout = deployment.map_or(Rollout::Unseen, rollout_of);
    let nothing = Scrape::default();
    let situation = Situation {
        now: input.now,
        bounds,
        targets,
        current,
        ready: deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas).unwrap_or(0),
        rollout,
        scrape: input.scrape.as_ref().unwrap_or(&nothing),
    };

    let blockers = Blockers::of(input);
    // The one that runs: the one that is wanted may have to wait, for a Secret or because it is refused.
    if let Some(template) = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref())
    {
        memory.follow_template(hash_of(template));
    }
    if let Some(scrape) = &input.scrape {
        memory.learn(input.now, scrape, situation.ready, targets);
    }
    let mut verdict = replicas(input, &situation, &mut memory);
    let change = scale::change(&situation, &memory, verdict.to);
    let wanted = steps(input, &memory, Children::of(input), change, &blockers);
    let (steps, mut failures) = without_paused(wanted, &mut memory, input);
    failures.extend(input.observed.secrets_unread.clone());
    // What stands in the way of a change must not be announced as one.
    if !steps.iter().any(|step| matches!(step, Step::Scale { .. } | Step::CreateDeployment { .. })) {
        verdict.to = current;
        if deployment.is_none() {
            verdict.reason = Reason::PodsStarting;
            verdict.message = "the Deployment cannot be made; see the condition Ready".into();
        }
    }
    let findings = Findings {
        wanted: verdict.to,
        ready: situation.ready,
        rollout,
        invalid_spec: None,
        name_conflicts: blockers.name_conflicts,
        missing_secret_keys: input.observed.missing_secret_keys.clone(),
        failures,
        limit: verdict.limit.or_else(|| bounds.embedded_database.then_some(Limit::EmbeddedDatabase)),
        metrics: input.scrape.as_ref().map(|scrape| scale::metrics_state(scrape, situation.ready)),
        cache_ready: matches!(input.app.spec.cache.kind(), CacheKind::Managed(_))
            .then(|| input.observed.cache_deployment.owned().is_some_and(available)),
        latency_seconds: latency(&memory),
        writes: !steps.is_empty(),
    };
    let decision = Decision {
        time: input.now,
        from: current,
        to: verdict.to,
        reason: verdict.reason,
        message: verdict.message,
        evidence: evidence(&situation, &memory),
    };
    Plan { steps, decision, findings, memory }
}

/// How many replicas: by the spec, by the pods, or as they are.
fn replicas(input: &Input, situation: &Situation<'_>, memory: &mut Memory) -> Verdict {
    let current = situation.current;
    let hold = |reason, message| Verdict { to: current, reason, message, limit: None };
    if input.observed.deployment.owned().is_none() {
        let to = situation.bounds.pinned.unwrap_or(situation.bounds.min);
        return Verdict { to, ..hold(Reason::Initial, format!("the Deployment is made with {to} replicas")) };
    }
    if input.scrape.is_some() {
        let verdict = scale::judge(situation, memory);
        memory.last_verdict = Some((verdict.reason, verdict.message.clone()));
        return verdict;
    }
    scale::by_spec(situation.bounds, current).unwrap_or_else(|| {
        let (reason, message) = memory
            .last_verdict
            .clone()
            .unwrap_or((Reason::PodsStarting, "the replicas have not been read yet".into()));
        hold(reason, message)
    })
}

/// What stands in the way of children.
struct Blockers {
    name_conflicts: Vec<String>,
    /// The API's Deployment cannot be applied now.
    deployment: bool,
    /// The managed cache's Secret is somebody else's, or nothing is known of it.
    cache_secret: bool,
}

impl Blockers {
    fn of(input: &Input) -> Self {
        let Observed {
            deployment,
            service,
            cache_deployment,
            cache_service,
            cache_secret,
            missing_secret_keys,
            secrets_unread,
        } = &input.observed;
        let name = build::name_of(&input.app);
        let cache = build::cache_name(&input.app);
        let managed = matches!(input.app.spec.cache.kind(), CacheKind::Managed(_));
        let foreign = [
            (matches!(deployment, Child::Foreign), ChildKind::Deployment, name),
            (matches!(service, Child::Foreign), ChildKind::Service, name),
            (managed && matches!(cache_deployment, Child::Foreign), ChildKind::CacheDeployment, &cache),
            (managed && matches!(cache_service, Child::Foreign), ChildKind::CacheService, &cache),
            (managed && matches!(cache_secret, Child::Foreign), ChildKind::CacheSecret, &cache),
        ];
        let name_conflicts = foreign
            .iter()
            .filter(|(taken, ..)| *taken)
            .map(|(_, kind, name)| format!("{kind} {name}"))
            .collect::<Vec<_>>();
        let secret_taken = managed && matches!(cache_secret, Child::Foreign);
        Self {
            deployment: matches!(deployment, Child::Foreign)
                || secret_taken
                || secrets_unread.is_some()
                || !missing_secret_keys.is_empty(),
            cache_secret: secret_taken || (managed && secrets_unread.is_some()),
            name_conflicts,
        }
    }
}

/// The children as they should be.
struct Children {
    deployment: Deployment,
    service: Service,
    cache: Option<(Deployment, Service)>,
}

impl Children {
    fn of(input: &Input) -> Self {
        let Input { app, settings, .. } = input;
        let revision = match input.observed.cache_secret.owned() {
            Some(secret) => &secret.revision,
            None => &input.fresh_credentials.revision,
        };
        let cache = match app.spec.cache.kind() {
            CacheKind::Managed(cache) => {
                Some((build::cache_deployment(app, cache, settings, revision), build::cache_service(app)))
            }
            CacheKind::External(_) | CacheKind::Disabled => None,
        };
        Self { deployment: build::deployment(app, settings, revision), service: build::service(app), cache }
    }
}

/// The writes that bring the cluster to the children and the replicas, in order.
fn steps(
    input: &Input,
    memory: &Memory,
    children: Children,
    change: Change,
    blockers: &Blockers,
) -> Vec<Step> {
    let Observed { deployment, service, cache_deployment, cache_service, cache_secret, .. } = &input.observed;
    let cache_wanted = children.cache.is_some();
    let mut steps = Vec::new();
    if let Some((wanted_deployment, wanted_service)) = children.cache {
        if matches!(cache_secret, Child::Absent) && !blockers.cache_secret {
            let secret = build::cache_secret(&input.app, &input.fresh_credentials);
            steps.push(Step::CreateSecret(Box::new(secret)));
        }
        steps.extend(service_step(memory, ChildKind::CacheService, cache_service, wanted_service));
        if !blockers.cache_secret {
            steps.extend(deployment_step(
                memory,
                ChildKind::CacheDeployment,
                cache_deployment,
                wanted_deployment,
            ));
        }
    }
    steps.extend(service_step(memory, ChildKind::Service, service, children.service));
    if !blockers.deployment {
        steps.extend(api_deployment_steps(memory, deployment, children.deployment, change));
    } else if let Child::Owned(existing) = deployment
        && template_is_held(memory, &existing.metadata)
    {
        // The template has to wait; the replicas of the one that runs need not.
        steps.extend(scale_step(memory, &existing.metadata, change));
    }
    // While the template waits, the running one may still use the cache.
    if !cache_wanted && !blockers.deployment {
        // The Secret stays until the resource goes, so that a cache that comes back keeps its password.
        steps.extend(delete_step(
            ChildKind::CacheDeployment,
            cache_deployment.owned().map(|child| &child.metadata),
        ));
        steps
            .extend(delete_step(ChildKind::CacheService, cache_service.owned().map(|child| &child.metadata)));
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
    change: Change,
) -> Vec<Step> {
    let mut steps = Vec::new();
    match observed {
        Child::Foreign => {}
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
            steps.extend(scale_step(memory, &existing.metadata, change));
        }
    }
    steps
}

fn deployment_step(
    memory: &Memory,
    kind: ChildKind,
    observed: &Child<Deployment>,
    mut wanted: Deployment,
) -> Option<Step> {
    let hash = hash_of(&wanted);
    let existing = match observed {
        Child::Foreign => return None,
        Child::Absent => None,
        Child::Owned(existing) => Some(&existing.metadata),
    };
    if existing.is_some_and(|existing| up_to_date(memory, kind, hash, existing)) {
        return None;
    }
    wanted.metadata.uid = existing.and_then(|existing| existing.uid.clone());
    Some(Step::ApplyDeployment { kind, deployment: Box::new(wanted), hash })
}

fn service_step(
    memory: &Memory,
    kind: ChildKind,
    observed: &Child<Service>,
    mut wanted: Service,
) -> Option<Step> {
    let hash = hash_of(&wanted);
    let existing = match observed {
        Child::Foreign => return None,
        Child::Absent => None,
        Child::Owned(existing) => Some(&existing.metadata),
    };
    if existing.is_some_and(|existing| up_to_date(memory, kind, hash, existing)) {
        return None;
    }
    wanted.metadata.uid = existing.and_then(|existing| existing.uid.clone());
    Some(Step::ApplyService { kind, service: Box::new(wanted), hash })
}

/// Writes the replicas when they change, and once after a start, so that the field has its manager. What was read may be
/// behind what the operator before this one wrote: the first write looks live, as one that removes replicas always does.
fn scale_step(memory: &Memory, existing: &ObjectMeta, change: Change) -> Option<Step> {
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
fn without_paused(wanted: Vec<Step>, memory: &mut Memory, input: &Input) -> (Vec<Step>, Vec<Failure>) {
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

fn delete_step(kind: ChildKind, existing: Option<&ObjectMeta>) -> Option<Step> {
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

/// Replicas that a Deployment asks for.
pub fn wanted_replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn rollout_of(deployment: &Deployment) -> Rollout {
    let Some(status) = &deployment.status else { return Rollout::Unseen };
    if status.observed_generation < deployment.metadata.generation {
        return Rollout::Unseen;
    }
    let stuck = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Progressing" && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    let (total, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
    if updated >= wanted_replicas(deployment).min(total) && updated >= total {
        Rollout::Done
    } else if stuck {
        Rollout::Stuck
    } else {
        Rollout::InProgress
    }
}

fn available(deployment: &Deployment) -> bool {
    deployment.status.as_ref().is_some_and(|status| status.ready_replicas.unwrap_or(0) >= 1)
}

fn latency(memory: &Memory) -> [Option<f64>; 2] {
    let slow = window::Window::covering(memory.rounds.iter().rev(), scale::SLOW_SECONDS);
    [0.95, 0.99]
        .map(|q| Some(slow.delta.quantile(q)?.seconds).filter(|_| slow.delta.total * (1.0 - q) >= 1.0))
}

fn evidence(situation: &Situation<'_>, memory: &Memory) -> Evidence {
    let fast = scale::fast_window(situation, memory, true);
    let measured = memory.rounds.back().is_some_and(|round| round.measured > 0);
    let rate = |value: f64| measured.then_some(value);
    let newest = memory.rounds.back();
    let quantile = |q| fast.delta.quantile(q);
    let mut pods_excluded = BTreeMap::new();
    for rejection in situation.scrape.pods.iter().filter_map(|pod| pod.reading.as_ref().err()) {
        *pods_excluded.entry(rejection.as_str()).or_default() += 1;
    }
    Evidence {
        requests_per_second: newest.and_then(|round| rate(round.offered_per_second)),
        completed_per_second: newest.and_then(|round| rate(round.completed_per_second)),
        shed_per_second: newest
            .and_then(|round| rate(round.delta.shed / round.seconds.max(f64::MIN_POSITIVE))),
        in_flight: newest.and_then(|round| rate(round.in_flight)),
        p95_ms: quantile(0.95).map(|quantile| quantile.seconds * 1000.0),
        p99_ms: quantile(0.99).map(|quantile| quantile.seconds * 1000.0),
        saturated: quantile(0.99).is_some_and(|quantile| quantile.saturated),
        bad_share: fast
            .shares(situation.targets)
            .last()
            .filter(|_| fast.delta.total > 0.0)
            .map(|(_, share, _)| share.value),
        requests: fast.delta.total,
        window_seconds: fast.seconds,
        capacity_per_replica: memory.capacity.map(|capacity| capacity.per_second),
        ready_replicas: situation.ready,
        pods_ready: situation.scrape.pods.len(),
        pods_scraped: situation.scrape.pods.iter().filter(|pod| pod.reading.is_ok()).count(),
        pods_excluded,
    }
}

fn invalid(input: &Input, memory: Memory, current: i32, message: String) -> Plan {
    let decision = Decision {
        time: input.now,
        from: current,
        to: current,
        reason: Reason::InvalidSpec,
        message: message.clone(),
        evidence: Evidence::default(),
    };
    let findings =
        Findings { wanted: current, ready: current, invalid_spec: Some(message), ..Findings::default() };
    Plan { steps: Vec::new(), decision, findings, memory }
}
