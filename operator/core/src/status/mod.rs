//! The status from what was found and what came of it.
//!
//! Pure: it never decides anything, and it never lets noise become a change.

mod conditions;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use plimsoll_crds::{
    ApiDeployment, ApiDeploymentStatus, CacheStatus, ConditionType, LastDecision, LatencyStatus,
    LearnedStatus, reason,
};

use self::conditions::Conditions;
use crate::build;
use crate::cache_status;
use crate::input::Targets;
use crate::learned;
use crate::memory::seconds_between;
use crate::plan::{Decision, Findings};

/// Changes of latency, load and holding reasons are written at most this often.
const QUIET_SECONDS: f64 = 15.0;

/// What came of a reconcile.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// A plan was carried out, but for the failures that the findings name.
    Planned {
        /// What was found.
        findings: &'a Findings,
        /// What was decided.
        decision: &'a Decision,
    },
    /// There was no plan, because reading failed, or none that could be carried out.
    Failed {
        /// What was tried and what came back.
        message: &'a str,
    },
}

/// The next status of a resource.
pub fn next(app: &ApiDeployment, outcome: Outcome<'_>, now: Timestamp) -> ApiDeploymentStatus {
    let before = app.status.clone().unwrap_or_default();
    let generation = app.metadata.generation;
    let mut conditions = Conditions { before: &before.conditions, generation, now, next: Vec::new() };
    match outcome {
        Outcome::Planned { findings, decision } => {
            let cache =
                cache_status::next(app, before.cache.as_ref(), findings.cache_ready, findings.cache.as_ref());
            conditions.of_findings(app, findings, decision);
            conditions.of_shared(app, findings, &cache);
            // Not observed: the spec of this generation is still to be carried out, and may be by trying again.
            let trying = findings.failures.iter().any(|failure| !failure.permanent);
            let mut status = ApiDeploymentStatus {
                observed_generation: if trying { before.observed_generation } else { generation },
                replicas: Some(findings.wanted),
                ready_replicas: Some(findings.ready),
                recommended_replicas: findings.recommended,
                selector: selector(app, findings.selector.as_ref()),
                latency: Some(latency(app, findings)),
                last_decision: Some(last_decision(before.last_decision.clone(), decision)),
                learned: learned(app, before.learned.clone(), findings),
                cache: app.spec.attached_to().is_none().then_some(cache),
                conditions: conditions.next,
            };
            if findings.invalid_spec.is_some() {
                // The last good state keeps serving; nothing else is known of this spec.
                status = ApiDeploymentStatus {
                    conditions: status.conditions,
                    observed_generation: generation,
                    ..before
                };
            }
            status
        }
        Outcome::Failed { message } => {
            conditions.of_failure(message);
            let kept = conditions
                .before
                .iter()
                .filter(|old| !conditions.next.iter().any(|new| new.type_ == old.type_));
            let kept = kept.cloned().collect::<Vec<_>>();
            conditions.next.extend(kept);
            conditions.next.sort_by_key(|condition| {
                ConditionType::ALL.iter().position(|t| t.as_str() == condition.type_)
            });
            ApiDeploymentStatus {
                // Not observed: the spec of this generation is not carried out yet.
                conditions: conditions.next,
                selector: selector(app, before.selector.as_ref()),
                ..before
            }
        }
    }
}

/// Whether a status says something new. What changes all the time is news only every quarter of a minute.
pub fn worth_writing(
    stored: Option<&ApiDeploymentStatus>,
    next: &ApiDeploymentStatus,
    last_write: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    let Some(stored) = stored else { return true };
    if stored == next {
        return false;
    }
    let quiet = |status: &ApiDeploymentStatus| {
        let mut status = status.clone();
        status.latency = None;
        status.last_decision = None;
        status.learned = None;
        if let Some(cache) = &mut status.cache {
            *cache = CacheStatus { kind: cache.kind.clone(), ready: cache.ready, ..CacheStatus::default() };
        }
        for condition in &mut status.conditions {
            condition.message.clear();
        }
        status
    };
    let scaled = next.last_decision.as_ref().is_some_and(|decision| decision.from != decision.to)
        && next.last_decision != stored.last_decision;
    scaled
        || quiet(stored) != quiet(next)
        || last_write.is_none_or(|last| !(0.0..QUIET_SECONDS).contains(&seconds_between(last, now)))
}

/// A duration in seconds, rounded to two digits: `87ms`, `430ms`, `1.2s`.
pub fn two_digits(seconds: f64) -> String {
    let ms = (seconds * 1000.0).max(0.0);
    if ms < 1.0 {
        return "1ms".into();
    }
    let unit = 10_f64.powf(ms.log10().floor() - 1.0);
    let rounded = ((ms / unit).round() * unit).round();
    if rounded < 1000.0 { format!("{rounded:.0}ms") } else { format!("{}s", rounded / 1000.0) }
}

/// An attached Deployment has a selector of its own, which is known once it was seen.
fn selector(app: &ApiDeployment, seen: Option<&String>) -> Option<String> {
    match app.spec.attached_to() {
        Some(_) => seen.cloned(),
        None => Some(build::selector_text(app)),
    }
}

fn latency(app: &ApiDeployment, findings: &Findings) -> LatencyStatus {
    let [p95, p99] = findings.latency_seconds.map(|seconds| seconds.map(two_digits));
    let targets =
        app.spec.latency.each().map(|(percentile, target)| format!("{}<{target}", percentile.as_str()));
    let errors = app.spec.error_rate.as_ref().map(|rate| format!("errors<{rate}"));
    LatencyStatus { p95, p99, target: Some(targets.chain(errors).collect::<Vec<_>>().join(" ")) }
}

fn learned(app: &ApiDeployment, before: Option<LearnedStatus>, findings: &Findings) -> Option<LearnedStatus> {
    let Some((learned, targets)) = findings.learned.as_ref().zip(Targets::of(&app.spec).ok()) else {
        return before;
    };
    Some(learned::to_status(before.as_ref(), learned, targets))
}

fn last_decision(before: Option<LastDecision>, decision: &Decision) -> LastDecision {
    match before {
        Some(before) if decision.from == decision.to && before.reason == decision.reason.as_str() => before,
        _ => LastDecision {
            time: Time(decision.time),
            from: decision.from,
            to: decision.to,
            reason: decision.reason.as_str().into(),
            message: decision.message.clone(),
        },
    }
}

/// The status of a resource that cannot be read at all, as after a downgrade: what was known stays, and the text says
/// what is wrong.
pub fn unreadable(
    generation: Option<i64>,
    before: Option<&ApiDeploymentStatus>,
    error: &str,
    now: Timestamp,
) -> ApiDeploymentStatus {
    let before = before.cloned().unwrap_or_default();
    let mut conditions = Conditions { before: &before.conditions, generation, now, next: Vec::new() };
    let message = format!("the stored object cannot be read: {error}; correct the spec and apply it again");
    conditions.set(ConditionType::Ready, "False", reason::INVALID_SPEC, message.clone());
    conditions.set(
        ConditionType::Reconciling,
        "False",
        reason::RECONCILED,
        "nothing is done for a spec that cannot be read",
    );
    conditions.set(ConditionType::Stalled, "True", reason::INVALID_SPEC, message);
    ApiDeploymentStatus { conditions: conditions.next, observed_generation: generation, ..before }
}
