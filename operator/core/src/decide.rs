//! The decision: what is read of the cluster and of the pods, through the engine and the user's hands, to a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use plimsoll_crds::CacheKind;

use crate::attach;
use crate::attainment::Attainment;
use crate::build::hash_of;
use crate::conflict::{self, Conflict};
use crate::database::{self, Connections};
use crate::engine::{self, Observation};
use crate::hands::by_hand;
use crate::input::{Bounds, Input, Observed, Scrape, Targets};
use crate::learned;
use crate::memory::{Failure, Memory};
use crate::plan::{Change, Decision, Evidence, Findings, Limit, Plan, Reason, Rollout, Step};
use crate::policy::ScalingPolicy;
use crate::scale::{self, Situation, Verdict};
use crate::steps::{Blockers, Children, steps, without_paused};

/// Seconds over which a decision's latencies are told, and over which the status tells them.
const SHOWN_SECONDS: f64 = 10.0;
const STATUS_SECONDS: f64 = 60.0;

/// Decides what to write and how many replicas there shall be.
///
/// Guarantees: a spec that cannot be read gives no steps; without a scrape the replicas change only by the spec; a
/// plan that was carried out and confirmed in the memory is followed by one without steps.
pub fn decide(input: &Input) -> Plan {
    let mut memory = input.memory.clone();
    let deployment = input.observed.deployment.scaled();
    let current = deployment.map_or(0, wanted_replicas);
    let read =
        Targets::of(&input.app.spec).and_then(|targets| Ok((targets, ScalingPolicy::of(&input.app.spec)?)));
    let (targets, mut policy) = match read {
        Ok(read) => read,
        Err(message) => return invalid(input, memory, current, message),
    };
    keep_shared(input, &mut memory);
    let connections = Connections::of(&input.app.spec, memory.database_connections_max);
    let bounds = database::cut(Bounds::of(&input.app.spec), connections, current);
    policy.max = policy.max.min(bounds.max.unsigned_abs());
    let rollout = deployment.map_or(Rollout::Unseen, rollout_of);
    let nothing = Scrape::default();
    let situation = Situation {
        bounds,
        targets,
        current,
        ready: deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas).unwrap_or(0),
        scrape: input.scrape.as_ref().unwrap_or(&nothing),
    };

    let conflict = conflict::find(input, &policy, &mut memory);
    policy.yields = conflict.as_ref().is_some_and(|conflict| conflict.yields);
    let blockers = Blockers::of(input);
    let asked = targets.each().map(|(_, target)| target).collect();
    let settings = policy.settings(asked, period(input), input.now, &memory.engine);
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
    if let Some(conflict) = conflict.as_ref().filter(|conflict| conflict.yields && verdict.to != current) {
        yield_to(conflict, current, &mut verdict);
    }
    let managed = matches!(input.app.spec.cache.kind(), CacheKind::Managed(_));
    let effect = memory.cache.effect(input.now).filter(|_| managed);
    if effect.is_some_and(|effect| effect.too_small) && asks_for_more(current, &verdict) {
        verdict.message.push_str("; the cache is too small, see the condition CacheEffective");
    }
    let change = Change { from: current, to: verdict.to };
    let target = input.app.spec.attached_to();
    let wanted = match target {
        Some(_) => attach::steps(&memory, deployment, &policy, change),
        None => steps(input, &memory, Children::of(input), &policy, change, &blockers),
    };
    let (steps, mut failures) = without_paused(wanted, &mut memory, input);
    failures.extend(unread(input));
    if !steps.iter().any(|step| matches!(step, Step::Scale { .. } | Step::CreateDeployment { .. })) {
        hold(current, deployment.is_none() && target.is_none(), &mut verdict);
    }
    if decided.is_some() {
        memory.last_recommended = Some(recommended);
    }
    let findings = Findings {
        wanted: verdict.to,
        // Between two scrapes nothing new is known of the load; what the spec fixes holds at once.
        recommended: (deployment.is_some() || target.is_none()).then(|| match memory.last_recommended {
            Some(last) if policy.exact.is_none() => last,
            _ => recommended,
        }),
        missing_target: target.filter(|_| deployment.is_none()).map(str::to_owned),
        selector: deployment.filter(|_| target.is_some()).map(attach::selector_text),
        conflict,
        ready: situation.ready,
        rollout,
        invalid_spec: None,
        name_conflicts: blockers.name_conflicts,
        missing_secret_keys: input.observed.missing_secret_keys.clone(),
        missing_configuration: input.observed.configuration.missing.clone(),
        failures,
        recommends: policy.only_recommends(),
        limit: verdict.limit.or_else(|| bounds.embedded_database.then_some(Limit::EmbeddedDatabase)),
        metrics: input.scrape.as_ref().map(|scrape| scale::metrics_state(scrape, situation.ready, targets)),
        cache_ready: managed.then(|| cache_ready(input)),
        cache: effect,
        cache_silent: input.cache_silence.and_then(|silence| silence.lasting(input.now)),
        connections,
        latency_seconds: latency(&memory),
        attainment: input.scrape.as_ref().map(|scrape| attainment(targets, scrape, &memory)),
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

/// Time between two scrapes.
fn period(input: &Input) -> Duration {
    Duration::from_secs(u64::try_from(input.app.spec.metrics.scrape_period_seconds).unwrap_or(1))
}

/// What the round did to the promise.
fn attainment(targets: Targets, scrape: &Scrape, memory: &Memory) -> Attainment {
    let window = memory.recent.over(STATUS_SECONDS);
    Attainment::of(targets, scrape, memory.engine.round(), &window)
}

/// Keeps what was read of what the replicas share.
fn keep_shared(input: &Input, memory: &mut Memory) {
    memory.cache.keep(input.scrape.as_ref(), input.cache.as_ref());
    if let Some(scrape) = &input.scrape {
        memory.database_connections_max = database::server_max(scrape, memory.database_connections_max);
    }
}

/// Leaves the replicas to somebody else, and recommends the number.
fn yield_to(conflict: &Conflict, current: i32, verdict: &mut Verdict) {
    verdict.message =
        format!("{}; {} replicas are recommended: {}", conflict.message, verdict.to, verdict.message);
    (verdict.to, verdict.reason) = (current, Reason::ScalerConflict);
}

/// What stands in the way of a change must not be announced as one.
fn hold(current: i32, unmade: bool, verdict: &mut Verdict) {
    verdict.to = current;
    if unmade {
        verdict.reason = Reason::PodsStarting;
        verdict.message = "the Deployment cannot be made; see the condition Ready".into();
    }
}

/// What the engine is shown. The template is the one that runs: the one that is wanted may have to wait, for a Secret or
/// because it is refused.
fn observation(input: &Input, current: i32, rollout: Rollout, scrape: &Scrape) -> Observation {
    let deployment = input.observed.deployment.scaled();
    let template = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref());
    Observation {
        now: input.now,
        current: current.unsigned_abs(),
        template: template.map_or(0, hash_of),
        rolling_out: matches!(rollout, Rollout::InProgress | Rollout::Stuck),
        pods: scrape.pods.clone(),
    }
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
    if let Some(target) =
        input.app.spec.attached_to().filter(|_| input.observed.deployment.scaled().is_none())
    {
        return attach::not_found(target);
    }
    if input.observed.deployment.scaled().is_none() {
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

/// Whether more replicas are wanted than there are, or would be if they were to be had.
fn asks_for_more(current: i32, verdict: &Verdict) -> bool {
    let bound =
        matches!(verdict.limit, Some(Limit::Max(_) | Limit::DatabaseConnections(_) | Limit::Dependency));
    verdict.to > current || bound
}

/// Replicas that a Deployment asks for.
pub fn wanted_replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How a Deployment comes along, by what its controller has told of it.
pub fn rollout_of(deployment: &Deployment) -> Rollout {
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

/// What could not be read, though the pods need it.
fn unread(input: &Input) -> impl Iterator<Item = Failure> {
    let Observed { secrets_unread, configuration, .. } = &input.observed;
    secrets_unread.iter().chain(&configuration.unread).cloned()
}

/// Whether the managed cache serves: of several servers most have to, for their sentinels to agree.
fn cache_ready(input: &Input) -> bool {
    let observed = &input.observed;
    match input.app.spec.cache.kind() {
        CacheKind::Managed(cache) if cache.fails_over() => {
            let ready =
                observed.cache_stateful_set.owned().and_then(|set| set.status.as_ref()?.ready_replicas);
            ready.unwrap_or(0) * 2 > cache.replicas
        }
        _ => observed.cache_deployment.owned().is_some_and(available),
    }
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
    let strictest = targets.latencies().last();
    Evidence {
        requests_per_second: inputs.map(|inputs| inputs.offered_per_second),
        completed_per_second: inputs.map(|inputs| inputs.completed_per_second),
        shed_per_second: inputs.map(|inputs| inputs.shed_per_second),
        in_flight: inputs.map(|inputs| inputs.in_flight),
        p95_ms: quantile(0.95).map(|quantile| quantile.seconds * 1000.0),
        p99_ms: quantile(0.99).map(|quantile| quantile.seconds * 1000.0),
        saturated: quantile(0.99).is_some_and(|quantile| quantile.saturated),
        bad_share: strictest.and_then(|(_, target)| window.share_over(target)),
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
