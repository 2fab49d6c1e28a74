//! The decisions of the operator, as pure functions: observe -> **decide** -> apply.
//!
//! There is no client, no clock and no randomness in this crate: the same [`Input`] gives the same [`Plan`]. In reading
//! order: [`input`], [`plan`], [`decide`], [`engine`] with [`histogram`], `scale`, [`policy`], [`memory`], [`build`], [`status`].

pub mod build;
pub mod engine;
pub mod histogram;
pub mod input;
mod learned;
pub mod memory;
pub mod plan;
pub mod policy;
mod recent;
mod scale;
pub mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use plimsoll_crds::CacheKind;

use build::hash_of;
use engine::{Engine, Observation};
pub use input::Input;
use input::{Bounds, Child, Observed, Scrape, Targets};
use memory::{Applied, Failure, Memory};
pub use plan::Plan;
use plan::{Change, ChildKind, Decision, Evidence, Findings, Limit, Reason, Rollout, Step};
use policy::{Hand, ScalingPolicy};
use scale::{Situation, Verdict};

/// Field manager of everything but the replicas.
pub const MANAGER: &str = "plimsoll-operator";
/// Seconds over which a decision's latencies are told, and over which the status tells them.
const SHOWN_SECONDS: f64 = 10.0;
const STATUS_SECONDS: f64 = 60.0;

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
    let read =
        Targets::of(&input.app.spec).and_then(|targets| Ok((targets, ScalingPolicy::of(&input.app.spec)?)));
    let (targets, policy) = match read {
        Ok(read) => read,
        Err(message) => return invalid(input, memory, current, message),
    };
    let bounds = Bounds::of(&input.app.spec);
    let rollout = deployment.map_or(Rollout::Unseen, rollout_of);
    let nothing = Scrape::default();
    let situation = Situation {
        bounds,
        current,
        ready: deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas).unwrap_or(0),
        scrape: input.scrape.as_ref().unwrap_or(&nothing),
    };

    let blockers = Blockers::of(input);
    let settings = engine_settings(input, targets, &policy, &memory.engine);
    let decided = input.scrape.as_ref().map(|scrape| {
        let observation = observation(input, current, rollout, scrape);
        let before = input.app.status.as_ref().and_then(|status| status.learned.as_ref());
        if let Some(before) = before.and_then(|before| learned::from_status(before, targets)) {
            memory.engine.restore(&before, observation.template, &settings);
        }
        let decided = memory.engine.decide(&observation, &settings);
        memory.recent.keep(input.now, memory.engine.round());
        decided
    });
    let mut verdict = replicas(input, &situation, decided.as_ref(), &policy, &mut memory);
    let recommended = by_hand(input, &policy, &memory, current, &mut verdict);
    let change = Change { from: current, to: verdict.to };
    let wanted = steps(input, &memory, Children::of(input), &policy, change, &blockers);
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
        recommends: policy.only_recommends(),
        limit: verdict.limit.or_else(|| bounds.embedded_database.then_some(Limit::EmbeddedDatabase)),
        metrics: input.scrape.as_ref().map(|scrape| scale::metrics_state(scrape, situation.ready)),
        cache_ready: matches!(input.app.spec.cache.kind(), CacheKind::Managed(_))
            .then(|| input.observed.cache_deployment.owned().is_some_and(available)),
        latency_seconds: latency(&memory),
        learned: memory.engine.learned(&settings),
        writes: !steps.is_empty(),
    };
    let decision = Decision {
        time: input.now,
        from: current,
        to: verdict.to,
        recommended,
        reason: verdict.reason,
        message: verdict.message,
        evidence: evidence(&situation, targets, decided.as_ref(), &memory),
        engine: decided.map(Box::new),
    };
    Plan { steps, decision, findings, memory }
}

/// What the engine is shown. The template is the one that runs: the one that is wanted may have to wait, for a Secret or
/// because it is refused.
fn observation(input: &Input, current: i32, rollout: Rollout, scrape: &Scrape) -> Observation {
    let deployment = input.observed.deployment.owned();
    let template = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref());
    Observation {
        now: input.now,
        current: current.unsigned_abs(),
        template: template.map_or(0, hash_of),
        rolling_out: matches!(rollout, Rollout::InProgress | Rollout::Stuck),
        pods: scrape.pods.clone(),
    }
}

/// What the engine is asked. A number that is fixed leaves it nothing to choose, and it goes on learning. A schedule's floor
/// is known to it so far ahead that pods are ready when it begins.
fn engine_settings(
    input: &Input,
    targets: Targets,
    policy: &ScalingPolicy,
    engine: &Engine,
) -> engine::Settings {
    let period_seconds = u64::try_from(input.app.spec.metrics.scrape_period_seconds).unwrap_or(1);
    let mut settings = engine::Settings {
        targets: targets.each().map(|target| learned::target_of(&target)).collect(),
        min: policy.exact.unwrap_or(policy.min),
        max: policy.exact.unwrap_or(policy.max),
        period: Duration::from_secs(period_seconds),
        violation_price: policy.violation_price,
    };
    if policy.exact.is_none() {
        settings.min = policy.floor(input.now, engine.horizon(&settings)).replicas;
    }
    settings
}

/// Puts the user's hands on a verdict, and returns what would be wanted without pauses and mode.
fn by_hand(
    input: &Input,
    policy: &ScalingPolicy,
    memory: &Memory,
    current: i32,
    verdict: &mut Verdict,
) -> i32 {
    if input.observed.deployment.owned().is_none() {
        return verdict.to;
    }
    let wish = verdict.to.unsigned_abs();
    let recent = memory.changes.iter().copied().collect::<Vec<_>>();
    let ruling = policy.rule(input.now, current.unsigned_abs(), &recent, wish);
    let floor = policy.floor(input.now, Duration::ZERO);
    let hand = ruling.hand.filter(|_| ruling.replicas != wish);
    // The engine knows the floor as its fewest replicas.
    let floored = verdict.reason == Reason::AtMin && floor.schedule.is_some() && wish <= floor.replicas;
    if let Some(hand) = hand.or(floored.then_some(Hand::ScheduleFloor)) {
        verdict.message = format!("{}; {}", policy.explain(hand, input.now), verdict.message);
        if hand == Hand::Recommend {
            verdict.message = format!("{} replicas are recommended: {}", ruling.recommended, verdict.message);
        }
        verdict.reason = scale::reason_of(hand);
    }
    verdict.to = i32::try_from(ruling.replicas).unwrap_or(i32::MAX);
    i32::try_from(ruling.recommended).unwrap_or(i32::MAX)
}

/// How many replicas: by the spec, by the pods, or as they are.
fn replicas(
    input: &Input,
    situation: &Situation<'_>,
    decided: Option<&engine::Decision>,
    policy: &ScalingPolicy,
    memory: &mut Memory,
) -> Verdict {
    let current = situation.current;
    let hold = |reason, message| Verdict { to: current, reason, message, limit: None };
    if input.observed.deployment.owned().is_none() {
        let to = i32::try_from(policy.initial(input.now)).unwrap_or(i32::MAX);
        return Verdict { to, ..hold(Reason::Initial, format!("the Deployment is made with {to} replicas")) };
    }
    if let Some(decided) = decided {
        let verdict = scale::judge(situation, decided);
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
    policy: &ScalingPolicy,
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
        steps.extend(api_deployment_steps(memory, deployment, children.deployment, policy, change));
    } else if let Child::Owned(existing) = deployment
        && template_is_held(memory, &existing.metadata)
        && !policy.only_recommends()
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
    policy: &ScalingPolicy,
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
    let window = memory.recent.over(STATUS_SECONDS);
    [0.95, 0.99].map(|q| window.percentile(q))
}

fn evidence(
    situation: &Situation<'_>,
    targets: Targets,
    decided: Option<&engine::Decision>,
    memory: &Memory,
) -> Evidence {
    let window = memory.recent.over(SHOWN_SECONDS);
    let quantile = |q| window.delta.quantile(q);
    let inputs = decided.map(|decided| &decided.inputs).filter(|inputs| inputs.measured > 0);
    let strictest = targets.each().last();
    Evidence {
        requests_per_second: inputs.map(|inputs| inputs.offered_per_second),
        completed_per_second: inputs.map(|inputs| inputs.completed_per_second),
        shed_per_second: inputs.map(|inputs| inputs.shed_per_second),
        in_flight: inputs.map(|inputs| inputs.in_flight),
        p95_ms: quantile(0.95).map(|quantile| quantile.seconds * 1000.0),
        p99_ms: quantile(0.99).map(|quantile| quantile.seconds * 1000.0),
        saturated: quantile(0.99).is_some_and(|quantile| quantile.saturated),
        bad_share: strictest.and_then(|(_, target, _)| window.share_over(target)),
        requests: window.delta.total,
        window_seconds: window.seconds,
        capacity_per_replica: decided.and_then(|decided| Some(decided.capacity?.per_second)),
        ready_replicas: situation.ready,
        pods_ready: situation.scrape.ready().count(),
        pods_scraped: situation.scrape.ready().count() - situation.scrape.rejections().count(),
        pods_excluded: decided.map_or_else(BTreeMap::new, |decided| decided.inputs.excluded.clone()),
    }
}

fn invalid(input: &Input, memory: Memory, current: i32, message: String) -> Plan {
    let decision = Decision {
        time: input.now,
        from: current,
        to: current,
        recommended: current,
        reason: Reason::InvalidSpec,
        message: message.clone(),
        evidence: Evidence::default(),
        engine: None,
    };
    let findings =
        Findings { wanted: current, ready: current, invalid_spec: Some(message), ..Findings::default() };
    Plan { steps: Vec::new(), decision, findings, memory }
}
